"""Features against NumPy and librosa, and the way back to a waveform."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from vaejax import features
from vaejax.config import Config, Features, Sound
from vaejax.signal.stft import istft, stft

SIZES = {"n_fft": 512, "hop_length": 128}


def config_of(exponent=0.3, n_fft=512, hop_length=128):
    return Config(features=Features(n_fft=n_fft, hop_length=hop_length, exponent=exponent))


def noise(num_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, num_samples).astype(np.float32)


@pytest.fixture(scope="module")
def statistics():
    clips = np.stack([noise(4000, seed) * np.float32(0.1 + seed) for seed in range(5)])
    return features.fit_statistics([clips], config_of())


def reference(waveform, exponent=0.3):
    """|X| ** exponent in float64, 1.0 for a full-scale sine."""
    spectrum = librosa.stft(
        np.asarray(waveform, np.float64), n_fft=512, hop_length=128, pad_mode="constant"
    )
    return (np.abs(spectrum.T) / (512 / 4)) ** exponent


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_compressed_magnitude_matches_librosa(exponent):
    x = noise(4000)
    got = features.compressed_magnitude(x, exponent=exponent, **SIZES)
    assert got.shape == (1 + 4000 // 128, 257)
    np.testing.assert_allclose(got, reference(x, exponent), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("exponent", [0.2, 1.0])
def test_full_scale_sine_peaks_at_one(exponent):
    x = np.sin(2 * np.pi * 40 / 512 * np.arange(4000)).astype(np.float32)
    got = features.compressed_magnitude(x, exponent=exponent, **SIZES)
    np.testing.assert_allclose(got[4:-4].max(axis=1), 1.0, rtol=1e-4)
    assert (got[4:-4].argmax(axis=1) == 40).all()


def test_fit_statistics_matches_numpy_over_all_batches():
    clips = np.stack([noise(4000, seed) * np.float32(0.1 + seed) for seed in range(6)])
    fitted = features.fit_statistics([clips[:3], clips[3:]], config_of())
    compressed = np.stack([reference(clip) for clip in clips])
    mean = compressed.mean((0, 1))
    np.testing.assert_allclose(fitted.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(fitted.scale, (compressed - mean).std(), rtol=1e-4)


def test_fit_statistics_reads_a_generator_once():
    clips = [noise(4000, seed)[None] for seed in range(3)]
    once = features.fit_statistics((clip for clip in clips), config_of())
    again = features.fit_statistics(clips, config_of())
    np.testing.assert_array_equal(once.mean, again.mean)
    assert once.mean.dtype == once.scale.dtype == jnp.float32


def test_statistics_standardise_the_set_they_were_fitted_on(statistics):
    clips = np.stack([noise(4000, seed) * np.float32(0.1 + seed) for seed in range(5)])
    seen = jax.vmap(lambda x: features.x_of(x, statistics, config_of()))(clips)
    np.testing.assert_allclose(np.mean(seen, (0, 1)), 0.0, atol=1e-3)
    assert float(jnp.std(seen)) == pytest.approx(1.0, abs=1e-3)


def test_statistics_of_silence_stay_finite():
    fitted = features.fit_statistics([np.zeros((2, 4000), np.float32)], config_of())
    assert fitted.scale > 0
    seen = features.x_of(np.zeros(4000, np.float32), fitted, config_of())
    np.testing.assert_array_equal(seen, 0.0)


@pytest.mark.parametrize("exponent", [0.3, 0.5, 1.0])
def test_magnitude_is_the_inverse_of_spectrogram(exponent):
    x = noise(4000)
    fitted = features.fit_statistics([x[None]], config_of(exponent))
    seen = features.x_of(x, fitted, config_of(exponent))
    got = features.magnitude_of(seen, fitted, config_of(exponent))
    expected = np.abs(librosa.stft(x, n_fft=512, hop_length=128, pad_mode="constant").T)
    expected /= 512 / 4
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_less_than_silence_is_silence(statistics):
    below = jnp.full((32, 257), -1e3)
    got = features.magnitude_of(below, statistics, config_of())
    np.testing.assert_array_equal(got, 0.0)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(512, 128), (2048, 512), (1024, 512)])
def test_click_at_sample_0_survives_with_gain_1(n_fft, hop_length):
    num_samples = 4 * n_fft + 13
    x = np.zeros(num_samples, np.float32)
    x[0] = 1.0
    sizes = {"n_fft": n_fft, "hop_length": hop_length}
    config = config_of(**sizes)
    fitted = features.fit_statistics([noise(num_samples)[None]], config)
    seen = features.x_of(x, fitted, config)
    level = features.magnitude_of(seen, fitted, config) * (n_fft / 4)
    phase = jnp.exp(1j * jnp.angle(stft(x, **sizes)))
    y = istft(level * phase, length=num_samples, **sizes)
    assert y.shape == x.shape
    assert float(y[0]) == pytest.approx(1.0, abs=1e-3)
    assert np.abs(y[1:]).max() < 1e-3


def test_gradient_is_finite_at_silence_and_zero_there(statistics):
    gradient = jax.grad(lambda x: jnp.sum(features.x_of(x, statistics, config_of())))(
        jnp.zeros(4000)
    )
    np.testing.assert_array_equal(gradient, 0.0)


def test_gradient_is_finite_where_sound_follows_silence(statistics):
    x = jnp.concatenate([jnp.zeros(2000), jnp.asarray(noise(2000))])
    gradient = jax.grad(lambda x: jnp.sum(features.x_of(x, statistics, config_of()) ** 2))(x)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[2200:]).max() > 0


def test_gradient_of_the_inverse_is_finite_below_silence(statistics):
    gradient = jax.grad(lambda s: jnp.sum(features.magnitude_of(s, statistics, config_of())))(
        jnp.full((4, 257), -100.0)
    )
    np.testing.assert_array_equal(gradient, 0.0)


def test_a_named_inversion_takes_the_magnitude_and_leaves_the_phase_that_was_said():
    kind = Features(kind="magnitude_phase_db", n_fft=256, hop_length=64)
    own, named = Config(features=kind), Config(features=kind, sound=Sound(inversion="pghi"))
    fitted = features.Statistics(jnp.zeros((129, 3)), jnp.ones(3))
    x = features.x_of(jnp.asarray(noise(2000)), fitted, own)
    other = x.at[..., 1].multiply(-0.5)
    pair = [features.waveform_of(s, fitted, named, num_samples=2000)[0] for s in (x, other)]
    np.testing.assert_array_equal(*pair)
    own_phase = [features.waveform_of(s, fitted, own, num_samples=2000)[0] for s in (x, other)]
    np.testing.assert_allclose(own_phase[0], noise(2000), atol=1e-3)
    assert np.abs(own_phase[0] - own_phase[1]).max() > 0.1
    assert features.inversion(own) == (None, 2)
    assert features.inversion(named) == ("pghi", 2)
