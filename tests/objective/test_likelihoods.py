"""Likelihoods against SciPy and the distances that they are made of."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

from vaejax import codec, features, metrics
from vaejax.config import Config, Objective, Sound
from vaejax.features import Statistics
from vaejax.objective import likelihoods, priors, scales
from vaejax.objective.context import bind

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


def test_gaussian_nll_matches_scipy():
    rng = np.random.default_rng(1)
    x, mean = rng.normal(size=(2, 6, 7)).astype(np.float32)
    got = float(likelihoods.gaussian_nll(x, mean, jnp.float32(-0.7)))
    expected = -stats.norm.logpdf(x.astype(np.float64), mean, np.exp(-0.7)).sum()
    assert got == pytest.approx(expected, rel=1e-5)


def test_gaussian_nll_is_least_at_the_root_mean_square_error():
    x = np.random.default_rng(2).normal(size=(40, 50)).astype(np.float32)
    slope = jax.grad(lambda s: likelihoods.gaussian_nll(x, jnp.zeros_like(x), s))
    best = np.log(np.sqrt(np.mean(x.astype(np.float64) ** 2)))
    assert abs(float(slope(jnp.float32(best)))) < 1e-3 * x.size


def error_of(likelihood, x, mean, sigma):
    """-log p of SciPy, in float64."""
    x, mean = np.asarray(x, np.float64), np.asarray(mean, np.float64)
    if likelihood == "laplace":
        return -stats.laplace.logpdf(x, mean, sigma / np.sqrt(2)).sum()
    if likelihood == "student_t":
        return -stats.t.logpdf(x, 4.0, mean, sigma).sum()
    if likelihood == "von_mises":
        # Of half turns: the density of an angle, times pi.
        angle = stats.vonmises.logpdf(np.pi * (x - mean)[..., 1], 1 / (np.pi * sigma) ** 2)
        others = stats.norm.logpdf(x[..., 0], mean[..., 0], sigma)
        return -angle.sum() - np.log(np.pi) * angle.size - others.sum()
    return -stats.norm.logpdf(x, mean, sigma).sum()


NLLS = {
    "gaussian": likelihoods.gaussian_nll,
    "laplace": likelihoods.laplace_nll,
    "student_t": partial(likelihoods.student_t_nll, degrees_of_freedom=4.0),
    "von_mises": partial(likelihoods.von_mises_nll, angles=(1,)),
}


@pytest.mark.parametrize("likelihood", NLLS)
@pytest.mark.parametrize("sigma", [0.02, 0.5, 2.0])
def test_likelihoods_match_scipy(likelihood, sigma):
    x, mean = np.random.default_rng(1).uniform(-1, 1, (2, 6, 7, 2)).astype(np.float32)
    got = float(NLLS[likelihood](x, mean, jnp.float32(np.log(sigma))))
    assert got == pytest.approx(error_of(likelihood, x, mean, sigma), rel=2e-5)


def test_angles_wrap_and_other_channels_do_not():
    x, mean = jnp.full((4, 2), 0.99), jnp.full((4, 2), -0.99)
    nll = partial(likelihoods.von_mises_nll, angles=(1,), log_sigma=jnp.log(0.1))
    both = nll(x, mean)
    turned = nll(x, mean + jnp.array([[0.0, 2.0]] * 4))
    assert float(both) == pytest.approx(float(turned), rel=1e-3)
    assert float(both - nll(x, x)) == pytest.approx(4 * (0.5 * 19.8**2 + 2e-2), rel=0.02)


def test_von_mises_without_angles_is_refused():
    with pytest.raises(ValueError, match=r"no channel of angles; take one with phase"):
        likelihoods.von_mises_nll(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 0.0, angles=())


def test_multi_resolution_stft_is_a_laplace_density_of_the_distance():
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    mean = 0.5 * x
    nll = partial(likelihoods.multi_resolution_stft_nll, x, mean, sounds=lambda *both: both)
    with jax.numpy_rank_promotion("allow"):
        distance = float(jax.jit(metrics.stft_distance)(x, mean))
        value_and_slope = jax.jit(jax.value_and_grad(nll))
        b = 0.3 / np.sqrt(2)
        expected = 64 * (np.log(2 * b) + distance / b)
        value, _ = value_and_slope(jnp.float32(np.log(0.3)))
        assert float(value) == pytest.approx(expected, rel=1e-5)
        # Least where b is the distance, as that of any learned scale.
        _, slope = value_and_slope(jnp.float32(np.log(np.sqrt(2) * distance)))
    assert abs(float(slope)) < 1e-3 * 64


def test_sound_of_a_decoders_magnitudes_is_compared_under_the_phase_of_x(make_config):
    config = make_config(data={"clip_seconds": 0.128})
    config = replace(config, sound=Sound(inversion="zero", iterations=1))
    one = Statistics(jnp.zeros(config.features.num_bins), jnp.ones(()))
    t = np.arange(config.data.num_samples) / 8000
    waveform = jnp.float32(0.5 * np.sin(2 * np.pi * 700 * t) * np.exp(-9 * t))

    @jax.jit
    def compared(waveform):
        with jax.numpy_rank_promotion("allow"):
            x = features.x_of(waveform, one, config)
            objective = Objective(likelihood="multi_resolution_stft")
            at = bind(replace(config, objective=objective), fitted=codec.Fitted(one, None))
            slope = jax.grad(at.likelihood.nll, argnums=1)
            sound, same = likelihoods.sounds_of(x, x, one, config)
            louder = features.standardise(features.unstandardise(x, one) * 2**0.3, one)
            _, twice = likelihoods.sounds_of(x, louder, one, config)
            return sound, same, twice, slope(x, louder, jnp.float32(0.0), at)

    sound, same, twice, gradient = compared(waveform)
    # As near as two iterations of phase recovery come to magnitudes of its own.
    with jax.numpy_rank_promotion("allow"):
        assert metrics.spectral_convergence_db(sound, same) < -5
    np.testing.assert_allclose(twice, 2 * same, atol=1e-4)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_mel_distance_of_magnitudes_is_the_metric_of_their_sounds(make_config):
    config = make_config(features={"n_fft": metrics.sounds.N_FFT, "hop_length": 512})
    config = replace(config, data=replace(config.data, sample_rate=8000, clip_seconds=0.5))
    one = Statistics(jnp.zeros(config.features.num_bins), jnp.ones(()))
    t = np.arange(config.data.num_samples) / 8000
    first = 0.5 * np.sin(2 * np.pi * 700 * t) * np.exp(-9 * t)
    second = np.sin(2 * np.pi * 900 * t) * np.exp(-5 * t)
    second *= np.linalg.norm(first) / np.linalg.norm(second)  # as the metric has it

    @jax.jit
    def compared(first, second):
        with jax.numpy_rank_promotion("allow"):
            x, answer, silence = (
                features.x_of(sound, one, config) for sound in (first, second, 0 * first)
            )
            slope = jax.grad(likelihoods.mel_db, argnums=1)
            return (
                likelihoods.mel_db(x, answer, one, config),
                metrics.mel_l1_db(first, second, sample_rate=8000),
                slope(x, answer, one, config),
                slope(x, silence, one, config),
            )

    found, expected, gradient, from_silence = compared(jnp.float32(first), jnp.float32(second))
    assert 1 < float(expected) < 40
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert np.abs(gradient).max() > 0
    assert np.isfinite(gradient).all()
    assert np.isfinite(from_silence).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_optimal_sigma_is_where_the_likelihood_is_highest(likelihood):
    x, mean = np.random.default_rng(3).normal(size=(2, 30, 20)).astype(np.float32)
    at = bind(Config(objective=Objective(likelihood=likelihood)))
    best = float(scales.optimal(x, mean, at))
    at = [error_of(likelihood, x, mean, np.exp(best + d)) for d in (-0.01, 0.0, 0.01)]
    assert at[1] < min(at[0], at[2])
    # Rybkin et al. 2021: N/2 log MSE and a constant, for the Gaussian.
    if likelihood == "gaussian":
        mse = np.mean((x.astype(np.float64) - mean) ** 2)
        assert at[1] == pytest.approx(0.5 * x.size * np.log(2 * np.pi * np.e * mse), rel=1e-5)


def test_gradients_of_the_terms_match_finite_differences_in_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        mean, logvar = jnp.asarray(rng.normal(size=(2, 5)))
        check_grads(priors.gaussian_kl, (mean, logvar), order=1, modes=["rev"])
        x, out = jnp.asarray(rng.normal(size=(2, 3, 5)))
        check_grads(likelihoods.gaussian_nll, (x, out, jnp.asarray(-0.3)), order=1, modes=["rev"])
