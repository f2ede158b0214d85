"""Constant-Q transform against librosa and against its defining sum."""

import librosa
import numpy as np
import pytest

from vaejax.signal.extra.constant_q import cqt, cqt_frequencies, window_lengths

CLIP = librosa.chirp(fmin=120, fmax=3000, sr=22050, length=11025).astype(np.float32) * 0.5
OPTIONS = {"sample_rate": 22050, "hop_length": 512, "fmin": 110.0, "n_bins": 48}


def test_cqt_matches_its_definition():
    got = np.asarray(cqt(CLIP, scale=False, **OPTIONS))
    frequencies = cqt_frequencies(n_bins=48, fmin=110.0)
    lengths = window_lengths(frequencies, sample_rate=22050, bins_per_octave=12)
    assert got.shape == (22, 48)
    for frame in (0, 7, 21):
        for k in (0, 20, 47):
            # Hann window of fractional length around the frame's centre, unit sum.
            offset = np.arange(11025) - frame * 512
            window = np.where(
                np.abs(offset) < lengths[k] / 2,
                (1 + np.cos(2 * np.pi * offset / lengths[k])) / lengths[k],
                0,
            )
            kernel = window * np.exp(-2j * np.pi * frequencies[k] * offset / 22050)
            assert abs(np.sum(CLIP * kernel) - got[frame, k]) < 2e-4


def test_cqt_is_close_to_librosa():
    got = cqt(CLIP, **OPTIONS)
    expected = librosa.cqt(
        CLIP, sr=22050, hop_length=512, fmin=110.0, n_bins=48, pad_mode="constant"
    ).T
    assert got.shape == expected.shape
    assert np.abs(np.asarray(got) - expected).max() < 0.03 * np.abs(expected).max()


def test_sine_peaks_at_one_half_in_its_bin():
    sine = np.cos(2 * np.pi * 440 * np.arange(22050) / 22050).astype(np.float32)
    got = np.abs(np.asarray(cqt(sine, scale=False, **OPTIONS)))[20]
    assert got.argmax() == 24
    np.testing.assert_allclose(got[24], 0.5, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_bins": 120}, "highest of n_bins=120 bins spans up to .*11025 Hz"),
        ({"n_bins": 0}, "n_bins=0"),
        ({"hop_length": 0}, "hop_length=0"),
    ],
)
def test_sizes_that_cannot_work_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        cqt(CLIP, **{**OPTIONS, **options})
