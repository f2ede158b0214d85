"""The phase vocoder against librosa."""

from functools import partial

import jax
import librosa
import numpy as np
import pytest

from vaejax.signal.extra.time_stretch import phase_vocoder, time_stretch
from vaejax.signal.stft import stft

RATE = 11025
CLIP = np.sin(2 * np.pi * 440 * np.arange(8000) / RATE) * np.hanning(8000)
CLIP = (CLIP + 0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
SIZES = {"n_fft": 512, "hop_length": 128}


@pytest.mark.parametrize("rate", [0.7, 1.0, 2.3])
def test_phase_vocoder_matches_librosa(rate):
    transformed = np.asarray(stft(CLIP, **SIZES))
    got = jax.jit(partial(phase_vocoder, rate=rate, **SIZES))(transformed)
    expected = librosa.phase_vocoder(transformed.T.astype(np.complex128), rate=rate, **SIZES).T
    assert got.shape == expected.shape
    # Phases are sums over up to 90 frames in float32.
    np.testing.assert_allclose(got, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("rate", [0.5, 1.7])
def test_time_stretch_matches_librosa(rate):
    got = jax.jit(partial(time_stretch, rate=rate, **SIZES))(CLIP)
    expected = librosa.effects.time_stretch(CLIP, rate=rate, **SIZES)
    assert got.shape == (round(8000 / rate),) == expected.shape
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_a_sine_keeps_its_pitch_at_twice_the_length():
    sine = np.sin(2 * np.pi * 440 * np.arange(8000) / RATE).astype(np.float32)
    got = np.asarray(time_stretch(sine, rate=0.5, **SIZES))
    peak = np.abs(np.fft.rfft(got * np.hanning(16000))).argmax() * RATE / 16000
    assert abs(peak - 440) < 1


@pytest.mark.parametrize("num_samples", [1, 130])
def test_short_clips_have_the_right_length(num_samples):
    for rate in (0.3, 9.0):
        got = jax.jit(partial(time_stretch, rate=rate, **SIZES))(CLIP[:num_samples])
        assert got.shape == (max(round(num_samples / rate), 1),)
        assert np.isfinite(got).all()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_rate_that_cannot_work_is_refused(rate):
    with pytest.raises(ValueError, match=r"rate=.* must be above 0; 0.5 doubles"):
        time_stretch(CLIP, rate=rate, **SIZES)
