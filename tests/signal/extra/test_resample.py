"""Resampling against soxr, and the level it keeps and rejects."""

import numpy as np
import pytest
import soxr

from vaejax.signal.extra.resample import resample, resampled_length

RATIOS = [(44100, 22050), (44100, 48000), (44100, 16000), (16000, 44100), (22050, 44100)]


def tones(rate, seconds, frequencies):
    t = np.arange(int(rate * seconds)) / rate
    total = sum(np.sin(2 * np.pi * f * t + f) for f in frequencies) / len(frequencies)
    return (total * np.hanning(len(t))).astype(np.float32)


@pytest.mark.parametrize(("rate", "new_rate"), RATIOS)
def test_resampling_matches_soxr_below_its_cut_off(rate, new_rate):
    lower = min(rate, new_rate)
    clip = tones(rate, 0.25, [0.01 * lower, 0.1 * lower, 0.3 * lower, 0.4 * lower])
    got = resample(clip, sample_rate=rate, new_sample_rate=new_rate)
    assert got.shape == (resampled_length(len(clip), sample_rate=rate, new_sample_rate=new_rate),)
    expected = soxr.resample(clip, rate, new_rate, quality="VHQ")
    size = min(len(got), len(expected))
    assert abs(len(got) - len(expected)) <= 1
    np.testing.assert_allclose(got[:size], expected[:size], atol=3e-4)


@pytest.mark.parametrize(("fraction", "low_db", "high_db"), [(0.88, -0.001, 0.001), (1.02, -300, -100)])  # noqa: E501  # fmt: skip
def test_pass_band_keeps_its_level_and_stop_band_is_gone(fraction, low_db, high_db):
    t = np.arange(22050) / 44100
    sine = np.sin(2 * np.pi * fraction * 8000 * t).astype(np.float32)
    got = np.asarray(resample(sine, sample_rate=44100, new_sample_rate=16000))[1500:-1500]
    level = 10 * np.log10(2 * np.mean(got**2) + 1e-30)
    assert low_db <= level <= high_db


def test_pitch_ratio_of_whole_numbers_shifts_a_sine():
    sine = np.sin(2 * np.pi * 440 * np.arange(8000) / 44100).astype(np.float32)
    got = np.asarray(resample(sine, sample_rate=196, new_sample_rate=185))
    expected = np.sin(2 * np.pi * 440 * np.arange(len(got)) * 196 / 185 / 44100)
    np.testing.assert_allclose(got[500:-500], expected[500:-500], atol=1e-4)


def test_equal_rates_return_the_clip_and_constants_stay_constant():
    clip = tones(8000, 0.1, [440])
    np.testing.assert_array_equal(resample(clip, sample_rate=8, new_sample_rate=8), clip)
    got = resample(np.ones(4000, np.float32), sample_rate=3, new_sample_rate=2)
    np.testing.assert_allclose(got[300:-300], 1.0, atol=1e-5)


@pytest.mark.parametrize("num_samples", [1, 2, 100])
def test_very_short_clips_have_the_right_length(num_samples):
    got = resample(np.ones(num_samples, np.float32), sample_rate=44100, new_sample_rate=16000)
    assert got.shape == (-(-num_samples * 160 // 441),)
    assert np.isfinite(got).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sample_rate": 0, "new_sample_rate": 1}, "sample_rate=0 must be a whole number"),
        ({"sample_rate": 1, "new_sample_rate": 1.5}, "new_sample_rate=1.5 must be a whole"),
        ({"sample_rate": 44100, "new_sample_rate": 44101}, "ratio 44101/44100.*simpler ratio"),
        ({"sample_rate": 2, "new_sample_rate": 1, "rolloff": 1.5}, "rolloff=1.5"),
    ],
)
def test_rates_that_cannot_work_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        resample(np.ones(100, np.float32), **options)
