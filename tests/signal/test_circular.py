"""Sound on a circle: the STFT of a tiled waveform, its inverse, and loops without a seam."""

import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from vaejax.signal import circular

SIZES = {"n_fft": 512, "hop_length": 128}
RATE = 16_000


@pytest.mark.parametrize("num_frames", [2, 5, 16])
def test_stft_is_that_of_the_waveform_repeated_and_has_an_inverse(num_frames):
    x = np.random.default_rng(0).standard_normal(num_frames * 128).astype(np.float32)
    values = circular.stft(jnp.asarray(x), **SIZES)
    tiled = librosa.stft(np.tile(x, 12), **SIZES, pad_mode="constant").T
    middle = slice(4 * num_frames, 5 * num_frames)
    np.testing.assert_allclose(values, tiled[middle], atol=1e-4)
    np.testing.assert_allclose(circular.istft(values, **SIZES), x, atol=1e-5)


def test_an_odd_window_has_an_inverse_too():
    x = np.random.default_rng(1).standard_normal(600).astype(np.float32)
    values = circular.stft(jnp.asarray(x), n_fft=301, hop_length=100)
    np.testing.assert_allclose(circular.istft(values, n_fft=301, hop_length=100), x, atol=1e-5)


def harmonics(hz, num_samples):
    t = np.arange(num_samples) / RATE
    return sum(np.sin(2 * np.pi * k * hz * t + k) / k for k in range(1, 12)).astype(np.float32)


@pytest.mark.parametrize("hz", [437.3, 901.7])
def test_loop_has_the_spectrum_the_pitch_and_no_seam(hz):
    sizes = {"n_fft": 1024, "hop_length": 256}
    spectra = librosa.stft(harmonics(hz, 8192), **sizes)
    magnitude = jnp.asarray(np.abs(spectra[:, 16]))
    loop = circular.loop(magnitude, num_frames=62, num_iters=2, **sizes)
    assert loop.shape == (62 * 256,)
    assert circular.spectral_convergence_db(loop, magnitude, **sizes) < -25
    steps = np.abs(np.diff(np.asarray(loop)))
    assert abs(float(loop[0] - loop[-1])) <= steps.max()
    # The same place in the loop sounds the same wherever it is cut.
    frames = np.abs(circular.stft(loop, **sizes))
    assert np.abs(frames - frames.mean(0)).max() < 0.1 * frames.max()
    # Partials stay within half a period of the loop of where they were.
    found = np.abs(np.fft.rfft(np.asarray(loop)))
    strongest = np.argmax(found) * RATE / len(loop)
    assert abs(strongest - hz) < RATE / len(loop) + 0.02 * RATE / 1024


def test_loop_of_silence_is_silent():
    loop = circular.loop(jnp.zeros(257), num_frames=4, num_iters=2, **SIZES)
    np.testing.assert_array_equal(loop, np.zeros(512))
    assert circular.spectral_convergence_db(loop, jnp.zeros(257), **SIZES) == -200


@pytest.mark.parametrize("num_samples", [1500, 1024, 900, 777])
def test_resampling_on_the_circle_keeps_what_both_rates_hold(num_samples):
    t = np.arange(1024) / 1024

    def series(t):
        return np.cos(2 * np.pi * 3 * t + 1) + 0.5 * np.sin(2 * np.pi * 100 * t)

    resampled = circular.resample(series(t).astype(np.float32), num_samples)
    np.testing.assert_allclose(resampled, series(np.arange(num_samples) / num_samples), atol=1e-5)


def test_a_loop_of_no_whole_hops_says_which_would_do():
    with pytest.raises(ValueError, match=r"1000 samples is no multiple of hop_length=128; try 102"):
        circular.stft(jnp.zeros(1000), **SIZES)
