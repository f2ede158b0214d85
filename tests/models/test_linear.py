"""The linear path against scikit-learn's PCA and NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from vaejax.models import linear

NOTHING = np.zeros(0, np.float32)


def untold(rows):
    return np.zeros((len(rows), 0), np.float32)


def posterior(path, x, latent_dim):
    return linear.posterior(path, linear.coordinates(path, x, NOTHING), latent_dim=latent_dim)


def likelihood_mean(path, z):
    return linear.at(path, linear.likelihood_coordinates(path, z))


def basis_of(path, latent_dim):
    """The columns of W, [num_values, latent_dim] in float64: what each latent adds to the mean."""
    columns = [likelihood_mean(path, z) - path.loc for z in np.eye(latent_dim, dtype=np.float32)]
    return np.asarray(columns, np.float64).reshape(latent_dim, -1).T


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
    fitted = linear.fit(rows, untold(rows), latent_dim=3, num_directions=3)
    loc, basis, values, noise = ppca(rows, 3)
    np.testing.assert_allclose(fitted.loc.reshape(-1), loc, rtol=1e-5)
    np.testing.assert_allclose(fitted.eigenvalues, values, rtol=1e-4)
    np.testing.assert_allclose(fitted.noise, noise, rtol=1e-3)
    # W is unique up to a rotation, W W' is not.
    ours = basis_of(fitted, 3)
    np.testing.assert_allclose(ours @ ours.T, basis @ basis.T, atol=1e-3 * values[0])


def test_noise_is_that_of_scikit_learn_up_to_its_sample_covariance():
    # More clips than values, so that both average over the same eigenvalues; scikit-learn divides
    # the covariance by num_clips - 1, the maximum of the likelihood by num_clips.
    rows = low_rank(200, 3, 4)
    pca = PCA(3, svd_solver="full").fit(rows.reshape(200, -1).astype(np.float64))
    expected = pca.noise_variance_ * 199 / 200
    np.testing.assert_allclose(
        linear.fit(rows, untold(rows), latent_dim=3, num_directions=3).noise, expected, rtol=1e-3
    )


def test_noise_counts_the_values_without_variance_where_clips_are_few():
    # scikit-learn averages over the num_clips eigenvalues it computes, we over all values, of which
    # all but num_clips - 1 have an eigenvalue of zero.
    rows = low_rank(20, 6, 10)
    pca = PCA(3, svd_solver="full").fit(rows.reshape(20, -1).astype(np.float64))
    expected = pca.noise_variance_ * 19 / 20 * (20 - 3) / (60 - 3)
    np.testing.assert_allclose(
        linear.fit(rows, untold(rows), latent_dim=3, num_directions=3).noise, expected, rtol=1e-3
    )


def test_likelihood_is_the_highest_that_scikit_learn_finds():
    rows = low_rank(200, 3, 4)
    fitted = linear.fit(rows, untold(rows), latent_dim=3, num_directions=3)
    flat = rows.reshape(200, -1).astype(np.float64)
    basis = basis_of(fitted, 3)
    covariance = basis @ basis.T + float(fitted.noise) * np.eye(12)
    density = stats.multivariate_normal(np.asarray(fitted.loc).reshape(-1), covariance)
    best = PCA(3, svd_solver="full").fit(flat).score(flat)
    assert density.logpdf(flat).mean() == pytest.approx(best, abs=0.01)


def test_posterior_is_bayes_rule():
    rows = low_rank(60, 4, 5)
    fitted = linear.fit(rows, untold(rows), latent_dim=3, num_directions=3)
    basis = basis_of(fitted, 3)
    noise, loc = float(fitted.noise), np.asarray(fitted.loc, np.float64).reshape(-1)
    precision = np.eye(3) + basis.T @ basis / noise
    x = low_rank(1, 4, 5, seed=9)[0]
    expected = np.linalg.solve(precision, basis.T @ (x.reshape(-1) - loc) / noise)
    mean, logvar = posterior(fitted, x, 3)
    np.testing.assert_allclose(mean, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(np.exp(logvar), np.diag(np.linalg.inv(precision)), rtol=1e-3)


def test_posterior_means_of_the_data_have_the_prior_as_aggregate():
    # E[mean mean'] + posterior variance = I: the aggregate posterior of pPCA is N(0, I).
    rows = low_rank(300, 4, 5)
    fitted = linear.fit(rows, untold(rows), latent_dim=3, num_directions=3)
    means, logvars = jax.vmap(lambda x: posterior(fitted, x, 3))(rows)
    means = np.asarray(means, np.float64)
    aggregate = means.T @ means / 300 + np.diag(np.exp(logvars[0]))
    np.testing.assert_allclose(aggregate, np.eye(3), atol=1e-3)


def test_rank_below_latent_dim_leaves_the_surplus_latents_at_the_prior():
    rows = low_rank(5, 4, 6, noise=0.0)  # rank at most 4, of 8 latents
    fitted = linear.fit(rows, untold(rows), latent_dim=8, num_directions=8)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))
    np.testing.assert_array_equal(basis_of(fitted, 8)[:, 4:], 0.0)
    mean, logvar = posterior(fitted, rows[0], 8)
    np.testing.assert_allclose(mean[4:], 0.0, atol=1e-6)
    np.testing.assert_allclose(logvar[4:], 0.0, atol=1e-6)
    np.testing.assert_allclose(likelihood_mean(fitted, mean), rows[0], atol=0.02)


def test_copies_of_one_clip_stay_finite():
    rows = np.ones((6, 4, 5), np.float32)
    fitted = linear.fit(rows, untold(rows), latent_dim=3, num_directions=3)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))
    assert fitted.noise > 0
    np.testing.assert_allclose(likelihood_mean(fitted, jnp.zeros(3)), rows[0])
    assert np.isfinite(posterior(fitted, rows[0], 3)[1]).all()


def test_flat_path_is_the_prior_and_a_mean_of_zero():
    flat = linear.flat((4, 5), 3)
    mean, logvar = posterior(flat, jnp.ones((4, 5)), 3)
    np.testing.assert_array_equal(mean, 0.0)
    np.testing.assert_array_equal(logvar, 0.0)
    np.testing.assert_array_equal(likelihood_mean(flat, jnp.ones(3)), np.zeros((4, 5)))


def test_further_directions_are_the_next_principal_ones_and_leave_the_solution_as_it_is():
    rows = low_rank(60, 4, 5)
    few = linear.fit(rows, untold(rows), latent_dim=3, num_directions=3)
    more = linear.fit(rows, untold(rows), latent_dim=3, num_directions=7)
    np.testing.assert_allclose(basis_of(more, 3), basis_of(few, 3), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(more.noise, few.noise, rtol=1e-6)
    pca = PCA(7, svd_solver="full").fit(rows.reshape(60, -1).astype(np.float64))
    ours = np.asarray(more.directions).reshape(7, -1)
    np.testing.assert_allclose(ours @ ours.T, np.eye(7), atol=1e-3)
    np.testing.assert_allclose(np.abs(np.sum(ours * pca.components_, 1)), 1.0, atol=1e-2)
    np.testing.assert_allclose(more.eigenvalues, pca.explained_variance_ * 59 / 60, rtol=1e-3)


def test_coordinates_and_the_spectrogram_at_them_are_inverse_within_the_directions():
    rows = low_rank(60, 4, 5, noise=3.0)  # else float32 knows the last directions badly
    fitted = linear.fit(rows, untold(rows), latent_dim=3, num_directions=7)
    along = np.arange(7, dtype=np.float32)
    np.testing.assert_allclose(
        linear.coordinates(fitted, linear.at(fitted, along), NOTHING), along, atol=1e-4
    )


def test_no_directions_at_all_are_a_flat_path_too():
    none = linear.flat((4, 5), 0)
    assert linear.coordinates(none, jnp.ones((4, 5)), NOTHING).shape == (0,)
    np.testing.assert_array_equal(linear.at(none, jnp.zeros(0)), np.zeros((4, 5)))


def test_unit_is_the_spread_along_the_last_direction_of_z():
    fitted = linear.fit(low_rank(60, 4, 5), untold(range(60)), latent_dim=3, num_directions=7)
    expected = np.sqrt(fitted.eigenvalues[2])
    np.testing.assert_allclose(linear.unit(fitted, latent_dim=3), expected)


# Told something of each clip


def test_what_conditions_explain_moves_the_mean_and_leaves_the_rest_to_z():
    # Two groups far apart, one direction of variation shared by both, little noise.
    rng = np.random.default_rng(1)
    group = np.arange(80) % 2
    told = np.eye(2, dtype=np.float32)[group]
    apart, shared = np.linalg.qr(rng.normal(size=(20, 2)))[0].T
    rows = 6.0 * np.outer(2 * group - 1, apart) + np.outer(rng.normal(size=80), shared)
    rows = (rows + 0.1 * rng.normal(size=rows.shape)).reshape(80, 4, 5).astype(np.float32)
    fitted = linear.fit(rows, told, latent_dim=1, num_directions=4)
    # Without being told, the one latent has to say which group it is; told, it says the rest.
    plain = linear.fit(rows, untold(rows), latent_dim=1, num_directions=4)
    assert abs(np.vdot(plain.directions[0], apart)) > 0.99
    assert abs(np.vdot(fitted.directions[0], shared)) > 0.99
    # Ridge with one pseudo-clip against 40 real ones keeps 40/41 of the distance.
    means = [linear.at(fitted, linear.offset(fitted, c)) for c in np.eye(2, dtype=np.float32)]
    moved = np.vdot(np.asarray(means[1] - means[0]), apart)
    assert moved == pytest.approx(12.0 * 40 / 41, rel=0.01)
    directions = np.asarray(fitted.directions).reshape(4, -1)
    np.testing.assert_allclose(directions @ directions.T, np.eye(4), atol=1e-4)
    assert float(fitted.noise) == pytest.approx(0.01, rel=0.25)
    assert float(plain.noise) > 3 * float(fitted.noise)


def test_coordinates_are_counted_from_where_the_condition_puts_them():
    rows = low_rank(60, 4, 5)
    told = np.eye(3, dtype=np.float32)[np.arange(60) % 3]
    fitted = linear.fit(rows, told, latent_dim=3, num_directions=7)
    x = linear.at(fitted, linear.offset(fitted, told[1]))
    np.testing.assert_allclose(linear.coordinates(fitted, x, told[1]), 0.0, atol=1e-3)
    nothing = np.zeros(3, np.float32)
    np.testing.assert_allclose(
        linear.coordinates(fitted, x, nothing), linear.offset(fitted, told[1]), atol=1e-3
    )
