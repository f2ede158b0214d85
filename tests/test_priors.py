"""Priors against scipy's densities and sampling moments."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaejax import evaluation, priors, training
from vaejax.evaluate import systems
from vaejax.priors import Mixture

WEIGHTS = np.array([0.25, 0.75])
MEANS = np.array([[3.0, 0.0, -1.0], [-2.0, 1.0, 0.5]])


@pytest.fixture(scope="module")
def covariances():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(2, 3, 3))
    return factors @ factors.transpose(0, 2, 1) + 0.3 * np.eye(3)


@pytest.fixture(scope="module")
def mixture(covariances):
    return Mixture(
        jnp.log(jnp.asarray(WEIGHTS, jnp.float32)),
        jnp.asarray(MEANS, jnp.float32),
        jnp.asarray(np.linalg.cholesky(covariances), jnp.float32),
    )


def draws(mixture, num, temperature=1.0, seed=0):
    one = partial(priors.draw, prior=mixture, temperature=temperature)
    keys = jax.random.split(jax.random.key(seed), num)
    z, component = jax.jit(jax.vmap(one))(keys)
    return np.asarray(z, np.float64), np.asarray(component)


def test_log_density_matches_scipy(mixture, covariances):
    z = np.random.default_rng(1).normal(size=(50, 3)) * 3
    densities = [
        w * stats.multivariate_normal(m, c).pdf(z)
        for w, m, c in zip(WEIGHTS, MEANS, covariances, strict=True)
    ]
    got = jax.jit(jax.vmap(partial(priors.log_density, mixture)))(jnp.asarray(z, jnp.float32))
    np.testing.assert_allclose(got, np.log(np.sum(densities, 0)), rtol=1e-3, atol=1e-3)


def test_standard_prior_is_the_unit_gaussian():
    z = np.random.default_rng(1).normal(size=(20, 5))
    got = jax.jit(jax.vmap(partial(priors.log_density, priors.standard(5))))(jnp.float32(z))
    np.testing.assert_allclose(got, stats.norm.logpdf(z).sum(1), rtol=1e-5)


def test_draws_have_the_mixtures_weights_means_and_covariances(mixture, covariances):
    z, component = draws(mixture, 40_000)
    assert np.mean(component) == pytest.approx(0.75, abs=0.01)
    for k in range(2):
        part = z[component == k]
        np.testing.assert_allclose(part.mean(0), MEANS[k], atol=0.08)
        np.testing.assert_allclose(np.cov(part.T), covariances[k], atol=0.25)


def test_temperature_0_gives_the_means(mixture):
    z, component = draws(mixture, 50, temperature=0.0)
    np.testing.assert_array_equal(z, MEANS.astype(np.float32)[component])
    assert set(component) == {0, 1}


def test_temperature_scales_the_deviation_of_the_same_draw(mixture):
    full, component = draws(mixture, 50)
    half, same = draws(mixture, 50, temperature=0.5)
    np.testing.assert_array_equal(component, same)
    centre = MEANS[component]
    np.testing.assert_allclose(half - centre, 0.5 * (full - centre), atol=1e-5)


def test_covariance_is_that_of_the_aggregate_posterior():
    rng = np.random.default_rng(2)
    means = rng.normal(size=(50, 3)) + 5
    variances = rng.uniform(0.1, 1.0, (50, 3))
    got = priors.covariance(jnp.float32(means), jnp.float32(variances))
    expected = np.cov(means.T, bias=True) + np.diag(variances.mean(0))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def two_clusters():
    """Latents from two well separated Gaussians, 300 and 100 of them, and held-out ones."""
    rng = np.random.default_rng(3)
    spread = np.array([[1.0, 0.6, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.2]])

    def some(num):
        first = rng.normal(size=(3 * num, 3)) @ spread + [6, 0, 0]
        second = rng.normal(size=(num, 3)) * 0.5 - [6, 0, 0]
        return np.concatenate([first, second]).astype(np.float32)

    return some(100), some(25), spread.T @ spread


def test_em_recovers_two_separated_gaussians(two_clusters):
    means, held_out, spread = two_clusters
    fitted = priors.fit(means, np.zeros_like(means), held_out, max_components=2, seed=0)
    assert fitted.means.shape == (2, 3)
    order = np.argsort(np.asarray(fitted.means)[:, 0])[::-1]
    np.testing.assert_allclose(np.exp(fitted.log_weights)[order], [0.75, 0.25], atol=0.01)
    np.testing.assert_allclose(fitted.means[order], [[6, 0, 0], [-6, 0, 0]], atol=0.2)
    # Shrunk towards the covariance of all by as much as three clips of 300 weigh: 1 % of 28.
    got = np.asarray(fitted.cholesky[order[0]] @ fitted.cholesky[order[0]].T)
    pooled = np.asarray(priors.covariance(jnp.asarray(means), jnp.zeros_like(means)))
    np.testing.assert_allclose(got, (300 * spread + 3 * pooled) / 303, atol=0.2)


def test_held_out_likelihood_chooses_the_number_of_components(two_clusters):
    means, held_out, _ = two_clusters
    between = held_out * np.float32(0.1)  # where only one wide Gaussian expects anything
    fitted = priors.fit(means, np.zeros_like(means), between, max_components=2, seed=0)
    assert len(fitted.log_weights) == 1
    np.testing.assert_allclose(fitted.means[0], means.mean(0), atol=1e-3)


def test_no_more_components_than_one_per_16_sounds(two_clusters):
    means, held_out, _ = two_clusters
    few = np.concatenate([means[:12], means[-12:]])
    fitted = priors.fit(few, np.zeros_like(few), held_out, max_components=8, seed=0)
    assert len(fitted.log_weights) == 1


def test_one_component_has_the_moments_of_the_aggregate_posterior():
    rng = np.random.default_rng(5)
    means = rng.normal(size=(200, 3)).astype(np.float32) * [1.0, 2.0, 0.5]
    variances = np.tile(np.float32([0.3, 0.1, 1.0]), (200, 1))
    fitted = priors.fit(np.float32(means), variances, np.float32(means), max_components=1, seed=0)
    got = np.asarray(fitted.cholesky[0] @ fitted.cholesky[0].T)
    np.testing.assert_allclose(got, np.cov(means.T, bias=True) + np.diag(variances[0]), atol=1e-3)


def test_fewer_sounds_than_dimensions_still_make_a_density():
    means = np.random.default_rng(6).normal(size=(5, 12)).astype(np.float32)
    variances = np.full_like(means, 0.1)
    fitted = priors.fit(means, variances, means, max_components=4, seed=0)
    assert all(np.isfinite(leaf).all() for leaf in fitted)
    assert np.linalg.cond(fitted.cholesky[0]) < 1e4


def test_pooled_covariance_of_another_set_replaces_the_own():
    rng = np.random.default_rng(7)
    means = rng.normal(size=(2, 3)).astype(np.float32)
    pooled = jnp.diag(jnp.array([9.0, 4.0, 1.0]))
    fitted = priors.fit(means, np.zeros_like(means), means, max_components=1, seed=0, pooled=pooled)
    got = np.asarray(fitted.cholesky[0] @ fitted.cholesky[0].T)
    expected = (2 * np.cov(means.T, bias=True) + 3 * np.asarray(pooled)) / 5
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_fit_is_the_same_for_the_same_seed(two_clusters):
    means, held_out, _ = two_clusters
    a, b = (
        priors.fit(means, np.zeros_like(means), held_out, max_components=2, seed=0)
        for _ in range(2)
    )
    for left, right in zip(a, b, strict=True):
        np.testing.assert_array_equal(left, right)


# Windows


VARIANCES = np.random.default_rng(6).uniform(0.01, 0.1, (60, 3))


@pytest.fixture(scope="module")
def windows():
    means = np.random.default_rng(5).normal(size=(60, 3)) * [3.0, 1.0, 0.3]
    fitted, _ = priors.fit_windows(means, VARIANCES, jnp.float32(means[::6] + 0.1))
    return fitted._replace(local=jnp.float32(0.5))


def window_covariance(windows, n):
    """In NumPy, from the docstring of `Windows`."""
    means, factor = np.asarray(windows.means, np.float64), np.asarray(windows.factor, np.float64)
    ways = means[np.asarray(windows.neighbours)[n]] - means[n]
    return float(windows.local) * ways.T @ ways / len(ways) + factor @ factor.T


def test_neighbours_are_the_nearest_others_in_units_of_the_posterior(windows):
    scaled = np.asarray(windows.means) / np.sqrt(VARIANCES.mean(0))
    for n in range(0, 60, 7):
        distance = np.linalg.norm(scaled - scaled[n], axis=1)
        nearest = np.argsort(distance)[1 : 1 + windows.neighbours.shape[1]]
        assert set(nearest) == set(np.asarray(windows.neighbours[n]))


def test_log_density_of_windows_matches_scipy(windows):
    z = np.random.default_rng(1).normal(size=(20, 3)) * [3.0, 1.0, 0.3]
    got = priors.make_log_density(windows)(jnp.float32(z))
    parts = [
        stats.multivariate_normal(windows.means[n], window_covariance(windows, n)).pdf(z)
        for n in range(60)
    ]
    # The nearest 32 of 60 windows stand for all: a lower bound, and a close one.
    missing = np.log(np.mean(parts, 0)) - np.asarray(got)
    assert missing.min() > -2e-3
    assert missing.max() < 0.05
    some = windows._replace(chosen=jnp.arange(4, 24))
    got = priors.make_log_density(some)(jnp.float32(z))
    np.testing.assert_allclose(got, np.log(np.mean(parts[4:24], 0)), rtol=1e-3, atol=2e-3)


def test_draws_around_a_sound_have_the_covariance_of_its_window(windows):
    one = windows._replace(chosen=jnp.asarray([17]))
    z, component = draws(one, 40_000)
    assert set(component) == {17}
    np.testing.assert_allclose(z.mean(0), windows.means[17], atol=0.03)
    expected = window_covariance(windows, 17)
    np.testing.assert_allclose(np.cov(z.T), expected, rtol=0.05, atol=0.01 * expected.max())


def test_draws_come_from_around_every_chosen_sound_alike(windows):
    _, component = draws(windows._replace(chosen=jnp.asarray([3, 9, 40])), 9_000)
    values, counts = np.unique(component, return_counts=True)
    assert values.tolist() == [3, 9, 40]
    np.testing.assert_allclose(counts, 3000, rtol=0.06)


def ring(rng, num):
    angle = rng.uniform(0, 2 * np.pi, num)
    return np.stack([np.cos(angle), np.sin(angle), np.zeros(num)], 1) * 3


def test_held_out_latents_choose_windows_on_a_ring_and_a_mixture_of_a_gaussian():
    rng = np.random.default_rng(0)
    small = {"max_components": 2, "seed": 0}

    def choice(means, held_out):
        spread = [np.full(np.shape(a), 1e-3) for a in (means, held_out)]
        return priors.choose(means, spread[0], held_out, spread[1], **small)

    bent = choice(ring(rng, 200), ring(rng, 40))
    assert isinstance(bent.prior, priors.Windows)
    scores = bent.log_likelihoods
    assert list(scores)[-1] == "windows"
    assert scores["windows"] > scores["mixture"] + 0.5 > scores["N(0, I)"]

    flat = choice(rng.normal(3.0, 1.0, (200, 8)), rng.normal(3.0, 1.0, (60, 8)))
    assert isinstance(flat.prior, Mixture)
    assert list(flat.log_likelihoods)[-1] == "mixture"


@pytest.mark.parametrize("shape", ["ring", "cloud"])
def test_a_choice_refitted_to_more_sounds_keeps_its_kind_and_sizes(shape):
    rng = np.random.default_rng(0)
    points = ring(rng, 300) if shape == "ring" else rng.normal(3.0, 1.0, (300, 8))
    spread = np.full(points.shape, 1e-3)
    kept = np.arange(300) % 5 > 0
    choice = priors.choose(
        points[kept], spread[kept], points[~kept], spread[~kept], max_components=2, seed=0
    )
    same, more = choice.refit(points[kept], spread[kept]), choice.refit(points, spread)
    jax.tree.map(np.testing.assert_array_equal, same, choice.prior)
    assert type(more) is type(choice.prior)
    if isinstance(more, priors.Windows):
        assert more.means.shape == points.shape
        assert more.neighbours.shape == (300, choice.prior.neighbours.shape[1])
        assert more.local == choice.prior.local
    else:
        assert more.means.shape == choice.prior.means.shape
        np.testing.assert_allclose(np.exp(more.log_weights) @ more.means, points.mean(0), atol=0.05)


def test_few_sounds_get_no_windows():
    means = np.random.default_rng(0).normal(size=(8, 3))
    choice = priors.choose(means, 0.1 + 0 * means, means, 0.1 + 0 * means, max_components=1, seed=0)
    assert set(choice.log_likelihoods) == {"N(0, I)", "mixture"}


def test_windows_are_fitted_in_more_dimensions_than_there_are_sounds():
    means = np.random.default_rng(0).normal(size=(40, 100))
    fitted, _ = priors.fit_windows(means, np.full((40, 100), 1e-3), jnp.float32(means[:5] + 0.01))
    assert np.isfinite(priors.make_log_density(fitted)(jnp.float32(means[:5]))).all()


@pytest.mark.parametrize("by", ["hash", "label"])
def test_sounds_of_other_groups_do_not_choose_the_prior(make_config, make_sounds, fitted, by):
    config = make_config(data={"holdout_by": by})
    sounds = make_sounds(config, 60)
    softened = np.where(sounds.held_out[:, None], -(sounds.corpus.clips // 3), sounds.corpus.clips)
    changed = sounds._replace(corpus=dataclasses.replace(sounds.corpus, clips=softened))
    params = training.create_state(config).ema
    first, second = (
        evaluation.fit_prior(params, fitted, each, config)[0] for each in (sounds, changed)
    )
    assert (first.log_likelihoods == second.log_likelihoods) == (by == "label")
    np.testing.assert_array_equal(first.posteriors.rows, sounds.train_rows)
    assert len(first.posteriors.means) == len(sounds.train_rows)
    if by == "label":
        # Nor the mixture that it is compared with.
        mixtures = (systems.fit_pca(each, fitted, config)[1] for each in (sounds, changed))
        jax.tree.map(np.testing.assert_array_equal, *mixtures)
