"""Priors against scipy's densities and sampling moments."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaejax.evaluate import systems
from vaejax.latent import priors
from vaejax.latent import windows as windows_of
from vaejax.latent.priors import Mixture
from vaejax.train import evaluation
from vaejax.train.state import create_state

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
    means, _, spread = two_clusters
    fitted = priors.fit_mixture(means, np.zeros_like(means), components=2)
    assert fitted.means.shape == (2, 3)
    order = np.argsort(np.asarray(fitted.means)[:, 0])[::-1]
    np.testing.assert_allclose(np.exp(fitted.log_weights)[order], [0.75, 0.25], atol=0.01)
    np.testing.assert_allclose(fitted.means[order], [[6, 0, 0], [-6, 0, 0]], atol=0.2)
    # Shrunk towards the covariance of all by as much as three clips of 300 weigh: 1 % of 28.
    got = np.asarray(fitted.cholesky[order[0]] @ fitted.cholesky[order[0]].T)
    pooled = np.asarray(priors.covariance(jnp.asarray(means), jnp.zeros_like(means)))
    np.testing.assert_allclose(got, (300 * spread + 3 * pooled) / 303, atol=0.2)


@pytest.fixture(autouse=True)
def few_sizes(monkeypatch):
    """Each size of windows is a program: two of them show what a choice does."""
    monkeypatch.setattr(windows_of, "NEIGHBOURS", (8,))
    monkeypatch.setattr(windows_of, "LOCAL", (0.5,))
    monkeypatch.setattr(windows_of, "SHARED", (0.0625, 0.25))


def chosen(points, spread=0.0, **options):
    options = {"max_components": 2, "seed": 0, **options}
    return priors.choose(points, np.full(np.shape(points), spread), **options)


def test_left_out_sounds_choose_the_number_of_components(two_clusters):
    means, _, _ = two_clusters
    assert len(chosen(means, names=("mixture",)).prior.log_weights) == 2
    one = np.random.default_rng(0).normal(size=(100, 3))
    assert len(chosen(one, names=("mixture",)).prior.log_weights) == 1


def test_no_more_components_than_one_per_16_sounds(two_clusters):
    means, _, _ = two_clusters
    few = np.concatenate([means[:12], means[-12:]])
    fitted = chosen(few, names=("mixture",), max_components=8).prior
    assert len(fitted.log_weights) == 1


def test_one_component_has_the_moments_of_the_aggregate_posterior():
    rng = np.random.default_rng(5)
    means = rng.normal(size=(200, 3)).astype(np.float32) * [1.0, 2.0, 0.5]
    variances = np.tile(np.float32([0.3, 0.1, 1.0]), (200, 1))
    fitted = priors.fit_mixture(np.float32(means), variances, components=1)
    got = np.asarray(fitted.cholesky[0] @ fitted.cholesky[0].T)
    np.testing.assert_allclose(got, np.cov(means.T, bias=True) + np.diag(variances[0]), atol=1e-3)


def test_fewer_sounds_than_dimensions_still_make_a_density():
    means = np.random.default_rng(6).normal(size=(5, 12)).astype(np.float32)
    variances = np.full_like(means, 0.1)
    fitted = priors.fit_mixture(means, variances, components=4)
    assert all(np.isfinite(leaf).all() for leaf in fitted)
    assert np.linalg.cond(fitted.cholesky[0]) < 1e4


def test_pooled_covariance_of_another_set_replaces_the_own():
    rng = np.random.default_rng(7)
    means = rng.normal(size=(2, 3)).astype(np.float32)
    pooled = jnp.diag(jnp.array([9.0, 4.0, 1.0]))
    fitted = priors.fit_mixture(means, np.zeros_like(means), components=1, pooled=pooled)
    got = np.asarray(fitted.cholesky[0] @ fitted.cholesky[0].T)
    expected = (2 * np.cov(means.T, bias=True) + 3 * np.asarray(pooled)) / 5
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_the_choice_is_the_same_for_the_same_seed(two_clusters):
    a, b = (chosen(two_clusters[0], 0.1) for _ in range(2))
    assert a.log_likelihoods == b.log_likelihoods
    jax.tree.map(np.testing.assert_array_equal, a.prior, b.prior)


# Windows


VARIANCES = np.random.default_rng(6).uniform(0.01, 0.1, (60, 3))


@pytest.fixture(scope="module")
def windows():
    means = np.random.default_rng(5).normal(size=(60, 3)) * [3.0, 1.0, 0.3]
    return priors.windows_around(means, VARIANCES, sizes=priors.Sizes(8, 0.5, 0.25))


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


def test_left_out_latents_choose_windows_on_a_ring_and_a_mixture_of_a_gaussian():
    rng = np.random.default_rng(0)
    bent = chosen(ring(rng, 200), 1e-3)
    assert isinstance(bent.prior, priors.Windows)
    scores = bent.log_likelihoods
    assert list(scores)[-1] == "windows"
    assert scores["windows"] > scores["mixture"] + 0.5 > scores["normal"]
    # Fitted to all of them, also to those that were left out once.
    assert bent.prior.means.shape == (200, 3)

    flat = chosen(rng.normal(3.0, 1.0, (200, 8)), 1e-3)
    assert isinstance(flat.prior, Mixture)
    assert list(flat.log_likelihoods)[-1] == "mixture"


def test_sounds_of_a_kind_of_their_own_do_not_decide_for_all_others():
    rng = np.random.default_rng(0)
    points = np.concatenate([ring(rng, 95), 0.0 * ring(rng, 5)])
    points = np.pad(points, ((0, 0), (0, 5)))
    # Five of a hundred lie where neither windows nor a mixture of the others expect anything.
    points[95:, 3:] = 4 * np.eye(5)
    assert isinstance(chosen(points, 1e-4).prior, priors.Windows)


def test_one_in_so_many_may_be_from_the_unit_gaussian():
    far = np.full((1, 1, 2), 3.0)
    narrow = Mixture(jnp.zeros(1), jnp.zeros((1, 2)), 1e-3 * jnp.eye(2)[None])
    new = stats.norm.logpdf(3.0) * 2
    np.testing.assert_allclose(priors.judged(narrow, far, num=9), [new - np.log(10)], rtol=1e-6)
    near = priors.judged(narrow, np.zeros((1, 1, 2)), num=9)
    both = 0.9 * stats.norm.pdf(0, scale=1e-3) ** 2 + 0.1 * stats.norm.pdf(0) ** 2
    np.testing.assert_allclose(near, [np.log(both)], rtol=1e-6)


def test_copies_of_a_sound_do_not_vouch_for_one_another():
    points = np.repeat(np.random.default_rng(0).normal(size=(40, 3)), 4, axis=0)
    hashes = [f"{i // 4}" for i in range(160)]
    apart, together = chosen(points, 1e-6), chosen(points, 1e-6, hashes=hashes)
    assert apart.log_likelihoods["windows"] > together.log_likelihoods["windows"] + 2
    once = chosen(points[::4], 1e-6)
    assert together.log_likelihoods == once.log_likelihoods


@pytest.mark.parametrize("num", [2, 3, 9, 41, 2000])
def test_every_sound_is_left_out_once_until_enough_have_been(num):
    folds = priors._folds(np.arange(num))
    left_out = np.concatenate([out for _, out in folds])
    assert len(set(left_out)) == len(left_out)
    assert min(num - num % len(folds), priors.ENOUGH) <= len(left_out) <= num
    for kept, out in folds:
        assert set(kept) | set(out) == set(range(num))
        assert not set(kept) & set(out)
        assert len(kept) == len(folds[0][0])


def test_few_sounds_get_no_windows():
    means = np.random.default_rng(0).normal(size=(8, 3))
    choice = chosen(means, 0.1, max_components=1)
    assert set(choice.log_likelihoods) == {"normal", "mixture"}


def test_windows_are_fitted_in_more_dimensions_than_there_are_sounds():
    means = np.random.default_rng(0).normal(size=(40, 100))
    sizes = priors.Sizes(16, 0.5, 0.25)
    fitted = priors.windows_around(means, np.full((40, 100), 1e-3), sizes=sizes)
    assert np.isfinite(priors.make_log_density(fitted)(jnp.float32(means[:5]))).all()


def test_held_out_sounds_do_not_choose_the_prior(config, sounds, fitted):
    softened = np.where(sounds.held_out[:, None], -(sounds.corpus.clips // 3), sounds.corpus.clips)
    changed = sounds._replace(corpus=dataclasses.replace(sounds.corpus, clips=softened))
    params = create_state(config).ema
    first, second = (
        evaluation.fit_prior(params, fitted, each, config)[0] for each in (sounds, changed)
    )
    assert first.log_likelihoods == second.log_likelihoods
    np.testing.assert_array_equal(first.posteriors.rows, sounds.train_rows)
    assert len(first.posteriors.means) == len(sounds.train_rows)
    # Nor the mixture that it is compared with.
    mixtures = (systems.fit_pca(each, fitted, config)[1] for each in (sounds, changed))
    jax.tree.map(np.testing.assert_array_equal, *mixtures)
