"""Spectrograms straight from the waveform against librosa and against their parts."""

import librosa
import numpy as np
import pytest

from vaejax.signal.extra import spectrogram
from vaejax.signal.filterbank import log_filterbank

CLIP = (0.2 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
SIZES = {"n_fft": 512, "hop_length": 128}
STFT = librosa.stft(CLIP, **SIZES, pad_mode="constant").T


@pytest.mark.parametrize("power", [1, 2])
def test_spectrogram_matches_librosa(power):
    got = spectrogram.spectrogram(CLIP, power=power, **SIZES)
    np.testing.assert_allclose(got, np.abs(STFT) ** power, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"power": 1, "n_mels": 40, "fmax": 8000.0, "htk": True}])
def test_mel_spectrogram_matches_librosa(options):
    got = spectrogram.mel_spectrogram(CLIP, sample_rate=22050, **SIZES, **options)
    expected = librosa.feature.melspectrogram(
        y=CLIP, sr=22050, pad_mode="constant", **SIZES, **options
    ).T
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_log_frequency_spectrogram_is_magnitude_times_filterbank():
    options = {"sample_rate": 22050, "n_bins": 40, "bins_per_octave": 8, "fmin": 60.0}
    got = spectrogram.log_frequency_spectrogram(CLIP, **SIZES, **options)
    bank = log_filterbank(n_fft=512, **options)
    np.testing.assert_allclose(got, np.abs(STFT) @ bank, rtol=1e-4, atol=1e-5)


def test_channels_are_magnitude_and_phase():
    got = np.asarray(spectrogram.magnitude_and_phase(CLIP, **SIZES))
    assert got.shape == (*STFT.shape, 2)
    np.testing.assert_allclose(got[..., 0], np.abs(STFT), atol=2e-4)
    # Angles of bins that are rounding errors differ; those that carry sound agree.
    loud = np.abs(STFT) > 1e-2
    assert loud.mean() > 0.9
    for function in (np.sin, np.cos):
        expected = function(np.angle(STFT))
        np.testing.assert_allclose(function(got[..., 1])[loud], expected[loud], atol=1e-3)


def test_power_that_is_neither_magnitude_nor_power_is_refused():
    with pytest.raises(ValueError, match=r"power=0.5 must be 1 \(magnitude\) or 2"):
        spectrogram.spectrogram(CLIP, power=0.5, **SIZES)
