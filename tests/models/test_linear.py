"""The linear path against scikit-learn's PCA and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from vaejax.models import linear

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


def low_rank(num_clips, num_frames, num_bins, *, rank=3, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(num_clips, rank)) * np.arange(rank, 0, -1)
    directions = rng.normal(size=(rank, num_frames * num_bins))
    rows = 2.0 + latents @ directions + noise * rng.normal(size=(num_clips, num_frames * num_bins))
    return rows.reshape(num_clips, num_frames, num_bins).astype(np.float32)


def ppca(rows, latent_dim):
    """(loc, W, l, sigma^2) of Tipping & Bishop 1999, eq. 7-8, by an eigendecomposition of the
    covariance in float64."""
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    loc = rows.mean(0)
    values, vectors = np.linalg.eigh((rows - loc).T @ (rows - loc) / len(rows))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[latent_dim:].mean()
    top = values[:latent_dim]
    return loc, vectors[:, :latent_dim] * np.sqrt(top - noise), top, noise


def test_fit_is_the_ppca_solution():
    rows = low_rank(60, 4, 5)
    fitted = linear.fit(rows, latent_dim=3)
    loc, basis, values, noise = ppca(rows, 3)
    np.testing.assert_allclose(fitted.loc.reshape(-1), loc, rtol=1e-5)
    np.testing.assert_allclose(fitted.eigenvalues, values, rtol=1e-4)
    np.testing.assert_allclose(fitted.noise, noise, rtol=1e-3)
    # W is unique up to a rotation, W W' is not.
    ours = np.asarray(fitted.basis, np.float64).reshape(3, -1)
    np.testing.assert_allclose(ours.T @ ours, basis @ basis.T, atol=1e-3 * values[0])


def test_noise_is_that_of_scikit_learn_up_to_its_sample_covariance():
    # More clips than values, so that both average over the same eigenvalues; scikit-learn divides
    # the covariance by num_clips - 1, the maximum of the likelihood by num_clips.
    rows = low_rank(200, 3, 4)
    pca = PCA(3, svd_solver="full").fit(rows.reshape(200, -1).astype(np.float64))
    expected = pca.noise_variance_ * 199 / 200
    np.testing.assert_allclose(linear.fit(rows, latent_dim=3).noise, expected, rtol=1e-3)


def test_noise_counts_the_values_without_variance_where_clips_are_few():
    # scikit-learn averages over the num_clips eigenvalues it computes, we over all values, of which
    # all but num_clips - 1 have an eigenvalue of zero.
    rows = low_rank(20, 6, 10)
    pca = PCA(3, svd_solver="full").fit(rows.reshape(20, -1).astype(np.float64))
    expected = pca.noise_variance_ * 19 / 20 * (20 - 3) / (60 - 3)
    np.testing.assert_allclose(linear.fit(rows, latent_dim=3).noise, expected, rtol=1e-3)


def test_likelihood_is_the_highest_that_scikit_learn_finds():
    rows = low_rank(200, 3, 4)
    fitted = linear.fit(rows, latent_dim=3)
    flat = rows.reshape(200, -1).astype(np.float64)
    basis = np.asarray(fitted.basis, np.float64).reshape(3, -1)
    covariance = basis.T @ basis + float(fitted.noise) * np.eye(12)
    density = stats.multivariate_normal(np.asarray(fitted.loc).reshape(-1), covariance)
    best = PCA(3, svd_solver="full").fit(flat).score(flat)
    assert density.logpdf(flat).mean() == pytest.approx(best, abs=0.01)


def test_posterior_is_bayes_rule():
    rows = low_rank(60, 4, 5)
    fitted = linear.fit(rows, latent_dim=3)
    basis = np.asarray(fitted.basis, np.float64).reshape(3, -1).T
    noise, loc = float(fitted.noise), np.asarray(fitted.loc, np.float64).reshape(-1)
    precision = np.eye(3) + basis.T @ basis / noise
    x = low_rank(1, 4, 5, seed=9)[0]
    expected = np.linalg.solve(precision, basis.T @ (x.reshape(-1) - loc) / noise)
    mean, logvar = linear.posterior(fitted, x)
    np.testing.assert_allclose(mean, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.exp(logvar), np.diag(np.linalg.inv(precision)), rtol=1e-3)


def test_posterior_means_of_the_data_have_the_prior_as_aggregate():
    # E[mean mean'] + posterior variance = I: the aggregate posterior of pPCA is N(0, I).
    rows = low_rank(300, 4, 5)
    fitted = linear.fit(rows, latent_dim=3)
    means, logvars = jax.vmap(lambda x: linear.posterior(fitted, x))(rows)
    means = np.asarray(means, np.float64)
    aggregate = means.T @ means / 300 + np.diag(np.exp(logvars[0]))
    np.testing.assert_allclose(aggregate, np.eye(3), atol=1e-3)


def test_rank_below_latent_dim_leaves_the_surplus_latents_at_the_prior():
    rows = low_rank(5, 4, 6, noise=0.0)  # rank at most 4, of 8 latents
    fitted = linear.fit(rows, latent_dim=8)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))
    basis = np.asarray(fitted.basis).reshape(8, -1)
    np.testing.assert_array_equal(basis[4:], 0.0)
    mean, logvar = linear.posterior(fitted, rows[0])
    np.testing.assert_array_equal(mean[4:], 0.0)
    np.testing.assert_allclose(logvar[4:], 0.0, atol=1e-6)
    np.testing.assert_allclose(linear.likelihood_mean(fitted, mean), rows[0], atol=0.02)


def test_copies_of_one_clip_stay_finite():
    rows = np.ones((6, 4, 5), np.float32)
    fitted = linear.fit(rows, latent_dim=3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))
    assert fitted.noise > 0
    np.testing.assert_allclose(linear.likelihood_mean(fitted, jnp.zeros(3)), rows[0])
    assert np.isfinite(linear.posterior(fitted, rows[0])[1]).all()


def test_flat_path_is_the_prior_and_a_mean_of_zero():
    flat = linear.flat(4, 5, 3)
    mean, logvar = linear.posterior(flat, jnp.ones((4, 5)))
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_array_equal(logvar, 0.0)
    np.testing.assert_array_equal(linear.likelihood_mean(flat, jnp.ones(3)), np.zeros((4, 5)))
