"""Distances between sets on cases with known answers, and against scikit-learn and SciPy."""

from functools import partial

import jax
import numpy as np
import pytest
from scipy import linalg, spatial, stats
from sklearn.cluster import KMeans
from sklearn.neighbors import NearestNeighbors

from vaejax.metrics import sets

frechet = jax.jit(sets.frechet)
precision_recall = jax.jit(sets.precision_recall, static_argnames="k")
density_coverage = jax.jit(sets.density_coverage, static_argnames="k")


def normal(seed, num, dim=4, scale=1.0, shift=0.0):
    points = np.random.default_rng(seed).normal(size=(num, dim))
    return (points * scale + shift).astype(np.float32)


# Fréchet


def closed_form(m1, c1, m2, c2):
    root = linalg.sqrtm(c1 @ c2).real
    return ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * root)


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_frechet_matches_the_square_root_of_matrices(scale):
    rng = np.random.default_rng(0)
    # Variances over four decades, as those of an embedding.
    real = (rng.normal(size=(300, 20)) * np.logspace(0, -2, 20) * scale) @ linalg.qr(
        rng.normal(size=(20, 20))
    )[0]
    made = 0.5 * real[rng.permutation(300)] + rng.normal(size=(300, 20)) * 0.1 * scale + 3
    moments = [m for x in (real, made) for m in (x.mean(0), np.cov(x.T))]
    got = float(frechet(real.astype(np.float32), made.astype(np.float32)))
    assert got == pytest.approx(closed_form(*moments), rel=1e-3)


def test_frechet_of_two_gaussians_approaches_the_closed_form():
    # Diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2.
    s1, s2, shift = np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 1, 0.5]), np.array([1.0, 0, 2, 0])
    got = float(frechet(normal(0, 40_000, scale=s1), normal(1, 40_000, scale=s2, shift=shift)))
    assert got == pytest.approx((shift**2).sum() + ((s1 - s2) ** 2).sum(), rel=0.02)


def test_frechet_of_equal_sets_is_zero_and_of_few_points_finite():
    x = normal(0, 200)
    assert float(frechet(x, x[::-1])) < 1e-4
    assert np.isfinite(frechet(x, normal(1, 3)))


# Neighbours


def by_scikit_learn(real, made, k):
    """Which made points lie within reach of a real one, and how many real balls each lies in."""
    radii = NearestNeighbors(n_neighbors=k + 1).fit(real).kneighbors(real)[0][:, -1]
    return spatial.distance.cdist(made, real) <= radii


def test_precision_recall_density_and_coverage_match_scikit_learn():
    real, made = normal(0, 150), normal(1, 90, scale=1.4, shift=0.5)
    precision, recall = precision_recall(real, made, k=3)
    np.testing.assert_array_equal(precision, by_scikit_learn(real, made, 3).any(1))
    np.testing.assert_array_equal(recall, by_scikit_learn(made, real, 3).any(1))
    assert 0.2 < np.mean(precision) < np.mean(recall)
    density, coverage = density_coverage(real, made, k=5)
    balls = by_scikit_learn(real, made, 5)
    np.testing.assert_allclose(density, balls.sum(1) / 5, rtol=1e-6)
    np.testing.assert_array_equal(coverage, balls.any(0))


def test_equal_sets_are_each_others_manifold():
    x = normal(0, 80)
    for part in precision_recall(x, x):
        np.testing.assert_array_equal(part, 1.0)
    density, coverage = density_coverage(x, x)
    # Each ball holds its centre and its k neighbours.
    assert float(np.mean(density)) == pytest.approx(6 / 5)
    np.testing.assert_array_equal(coverage, 1.0)


def test_disjoint_sets_have_nothing_in_common():
    real, made = normal(0, 80), normal(1, 70, shift=100)
    for part in (*precision_recall(real, made), *density_coverage(real, made)):
        assert not np.any(part)


def test_a_set_that_misses_half_is_precise_and_recalls_half():
    real = np.concatenate([normal(0, 100), normal(1, 100, shift=100)])
    precision, recall = precision_recall(real, normal(2, 200))
    assert np.mean(precision) > 0.8
    assert np.mean(recall[:100]) > 0.8
    np.testing.assert_array_equal(recall[100:], 0.0)


def test_coverage_of_sets_from_one_distribution_has_its_expectation():
    # Naeem et al. 2020, lemma 2: 1 - prod (N - i) / (M + N - i), i = 1 .. k.
    num, k = 200, 5
    i = np.arange(1, k + 1)
    expected = 1 - np.prod((num - i) / (2 * num - i))
    got = [np.mean(density_coverage(normal(s, num), normal(100 + s, num))[1]) for s in range(20)]
    assert np.mean(got) == pytest.approx(expected, abs=4 * np.std(got) / np.sqrt(20))
    assert np.std(got) < 0.03


# Bins


def test_k_means_is_as_good_as_scikit_learn():
    centres = 10 * np.random.default_rng(0).normal(size=(12, 6))
    points = np.concatenate([normal(i, 40, 6, shift=c) for i, c in enumerate(centres)])
    found = jax.jit(partial(sets.k_means, num_bins=12))(jax.random.key(0), points)
    inertia = (spatial.distance.cdist(points, found).min(1) ** 2).sum()
    best = KMeans(12, n_init=10, random_state=0).fit(points).inertia_
    once = [KMeans(12, n_init=1, random_state=s, max_iter=50).fit(points).inertia_ for s in (1, 2)]
    assert inertia <= max(1.05 * best, *once)


def test_k_means_of_equal_points_is_finite():
    found = sets.k_means(jax.random.key(0), np.ones((20, 3), np.float32), num_bins=4)
    np.testing.assert_array_equal(found, 1.0)


def test_bin_shares_count_points_by_their_nearest_centre():
    centres = np.array([[0.0], [10.0], [20.0]], np.float32)
    points = np.array([[1.0], [-3.0], [9.0], [14.0]], np.float32)
    np.testing.assert_allclose(sets.bin_shares(points, centres), [0.5, 0.5, 0])


def test_ndb_of_equal_distributions_is_near_the_level_of_its_test():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(50, 20.0))
    real, made = rng.multinomial(3000, p, 400) / 3000, rng.multinomial(2000, p, 400) / 2000
    shares = jax.vmap(partial(sets.ndb, num_real=3000, num_made=2000))(
        real.astype(np.float32), made.astype(np.float32)
    )
    # 20,000 tests: a standard error of 0.0015.
    assert float(np.mean(shares)) == pytest.approx(0.05, abs=0.006)


def test_ndb_matches_the_test_of_two_proportions():
    rng = np.random.default_rng(1)
    real, made = rng.multinomial(400, [0.1] * 10), rng.multinomial(300, np.arange(1, 11) / 55)
    # Pearson's chi-squared of a two-by-two table is the square of that z.
    differs = [
        stats.chi2_contingency([[a, 400 - a], [b, 300 - b]], correction=False).pvalue < 0.05
        for a, b in zip(real, made, strict=True)
    ]
    assert 0 < np.mean(differs) < 1
    got = sets.ndb(real / 400, made / 300, num_real=400, num_made=300)
    assert float(got) == pytest.approx(np.mean(differs))


def test_jensen_shannon_matches_scipy_and_its_bounds():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(30), 2).astype(np.float32)
    p[:5] = 0
    p /= p.sum()
    expected = spatial.distance.jensenshannon(p, q) ** 2
    assert float(sets.jensen_shannon(p, q)) == pytest.approx(expected, rel=1e-4)
    assert float(sets.jensen_shannon(p, p)) == pytest.approx(0.0, abs=1e-7)
    one, other = np.eye(4, dtype=np.float32)[:2]
    assert float(sets.jensen_shannon(one, other)) == pytest.approx(np.log(2))


def test_mean_distance_matches_scipy():
    x = normal(0, 70)
    got = np.asarray(jax.jit(sets.mean_distance)(x))
    assert got.mean() == pytest.approx(spatial.distance.pdist(x).mean(), rel=1e-5)
