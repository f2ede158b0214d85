"""Regularizers against their equations and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaejax.config import Config, Objective
from vaejax.objective import batch, regularizers
from vaejax.objective.regularizers import Batch

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


TERMS = {
    "recon": jnp.array([3.0, 5.0]),
    "kl": jnp.array([1.0, 2.0]),
    "kl_per_dim": jnp.array([[0.1, 0.9], [0.3, 1.7]]),
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"beta": 2.0}, 4 + 2 * 0.5 * 1.5),
        # Kingma et al. 2016: sum_d max(0.4, mean kl_d) = 0.4 + 1.3.
        ({"regularizer": "free_bits", "free_bits": 0.4, "beta": 2.0}, 4 + 2 * 0.5 * 1.7),
        ({"regularizer": "free_bits", "free_bits": 0.0}, 4 + 0.5 * 1.5),
        # Burgess et al. 2018: gamma |KL - C|, C half grown.
        ({"regularizer": "capacity", "capacity": 10.0, "beta": 3.0}, 4 + 3 * abs(1.5 - 5)),
        ({"regularizer": "capacity", "capacity": 1.0, "beta": 3.0}, 4 + 3 * abs(1.5 - 0.5)),
    ],
)
def test_regularizers_are_their_equations(fields, expected):
    config = Config(objective=Objective(**fields))
    loss, _ = batch.loss_of(Batch(TERMS, config, {}, ramp=0.5, num_clips=2))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", ["free_bits", "capacity", "tc", "mmd"])
def test_the_setting_of_a_regularizer_may_be_traced(name):
    field = {"tc": "tc_weight", "mmd": "mmd_weight"}.get(name, name)
    drawn = dict.fromkeys(("z", "mean", "logvar"), jnp.ones((2, 2)))
    terms = {**TERMS, **drawn, "prior_z": jnp.zeros((2, 2))}

    @jax.jit
    def loss(value):
        config = Config(objective=Objective(**{"regularizer": name, field: value}))
        return batch.loss_of(Batch(terms, config, {}, ramp=1.0, num_clips=2))[0]

    assert float(loss(0.5)) != float(loss(7.0))


def test_the_mel_spectrum_counts_by_its_weight_beside_the_bound():
    terms = {**TERMS, "mel_db": jnp.array([0.5, 1.5])}
    config = Config(objective=Objective(mel_weight=100.0))
    loss, _ = batch.loss_of(Batch(terms, config, {}, ramp=0.5, num_clips=2))
    assert float(loss) == pytest.approx(4 + 0.5 * 1.5 + 100 * 1.0, rel=1e-6)


def gaussian_batch(num, correlation, sigma, seed=0):
    rng = np.random.default_rng(seed)
    covariance = np.array([[1, correlation], [correlation, 1]])
    means = rng.multivariate_normal(np.zeros(2), covariance - sigma**2 * np.eye(2), num)
    z = means + sigma * rng.normal(size=(num, 2))
    logvar = np.full((num, 2), 2 * np.log(sigma))
    prior_z = rng.normal(size=(num, 2))
    return tuple(jnp.float32(a) for a in (z, means, logvar, prior_z))


def test_total_correlation_of_a_gaussian_is_the_closed_form():
    *drawn, _ = gaussian_batch(1500, 0.8, 0.3)
    found = np.asarray(regularizers.total_correlation(*drawn, num_clips=1500), np.float64)
    error = found.std() / np.sqrt(len(found))
    expected = -0.5 * np.log(1 - 0.8**2)
    assert found.mean() == pytest.approx(expected, abs=4 * error)
    assert error < 0.03


def test_total_correlation_of_a_batch_weighs_the_sounds_that_are_not_in_it():
    *drawn, _ = gaussian_batch(5, 0.5, 0.4)
    got = regularizers.total_correlation(*drawn, num_clips=40)
    z, means = (np.asarray(part, np.float64) for part in drawn[:2])
    density = stats.norm.pdf(z[:, None], means, 0.4)  # [draws, posteriors, 2]
    weights = np.full((5, 5), (1 - 1 / 40) / 4) + np.eye(5) * (1 / 40 - (1 - 1 / 40) / 4)
    np.testing.assert_allclose(weights.sum(1), 1)
    joint = np.log((weights * density.prod(2)).sum(1))
    each = np.log((weights[:, :, None] * density).sum(1)).sum(1)
    np.testing.assert_allclose(got, joint - each, rtol=1e-4)


def test_maximum_mean_discrepancy_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2500, 2)) * [[[0.5]], [[1.0]]] + [[[0.8]], [[0.0]]]
    a, b = jnp.float32(a), jnp.float32(b)
    found = np.asarray(regularizers.maximum_mean_discrepancy(a, b), np.float64)

    def kernel(variance, offset):
        """E k(a, b) where a - b ~ N(offset, variance) in two dimensions, k's variance being 2."""
        each = np.sqrt(2 / (2 + variance)) * np.exp(-(offset**2) / (2 * (2 + variance)))
        return each**2

    expected = kernel(0.5, 0) + kernel(2.0, 0) - 2 * kernel(1.25, 0.8)
    assert found.mean() == pytest.approx(expected, abs=5 * found.std() / np.sqrt(2500))
    assert expected > 10 * found.std() / np.sqrt(2500)
    nothing = regularizers.maximum_mean_discrepancy(b[:1000], b[1000:2000])
    assert abs(float(jnp.mean(nothing))) < 5e-3
