"""The linear path: probabilistic PCA (Tipping & Bishop 1999), the optimum of a linear VAE.

    x = loc + W z + noise,  z ~ N(0, I),  noise ~ N(0, sigma^2 I)

With the eigenvalues l_i and eigenvectors u_i of the covariance of x, the maximum of the likelihood
is  W = U (L - sigma^2)^(1/2)  and  sigma^2 = the mean of the eigenvalues left out. Since W' W is
diagonal, so is the posterior of a VAE whose encoder and decoder are linear (Lucas et al. 2019):

    mean_i = w_i' (x - loc) / l_i        var_i = sigma^2 / l_i

A VAE that adds zero-initialised corrections to this starts where PCA ends.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Linear(NamedTuple):
    """A fitted linear path. All float32."""

    loc: jax.Array
    """[num_frames, num_bins], mean of the spectrograms."""
    basis: jax.Array
    """[latent_dim, num_frames, num_bins], the columns of W; a row of zeros is a latent that the
    clips have no variance for."""
    eigenvalues: jax.Array
    """[latent_dim], l_i, never below sigma^2."""
    noise: jax.Array
    """[], sigma^2 per value."""


def posterior(linear: Linear, spectrogram):
    """Mean and log-variance [latent_dim] of z given a spectrogram [num_frames, num_bins]."""
    mean = jnp.tensordot(linear.basis, spectrogram - linear.loc, 2) / linear.eigenvalues
    return mean, jnp.log(linear.noise / linear.eigenvalues)


def likelihood_mean(linear: Linear, z):
    """The spectrogram [num_frames, num_bins] that z [latent_dim] stands for."""
    return linear.loc + jnp.tensordot(z, linear.basis, 1)


def flat(num_frames, num_bins, latent_dim) -> Linear:
    """A linear path that adds nothing: prior as posterior, zero as mean, unit noise."""
    return Linear(
        loc=jnp.zeros((num_frames, num_bins)),
        basis=jnp.zeros((latent_dim, num_frames, num_bins)),
        eigenvalues=jnp.ones(latent_dim),
        noise=jnp.ones(()),
    )


@jax.jit
def _gram(spectrograms):
    rows = spectrograms.reshape(len(spectrograms), -1)
    # HIGHEST: the small eigenvalues are differences of large sums, and TF32 or bfloat16 products
    # (the default on GPU and TPU) would drown them.
    return jnp.dot(rows, rows.T, precision=jax.lax.Precision.HIGHEST), jnp.mean(spectrograms, 0)


def fit(spectrograms, *, latent_dim: int) -> Linear:
    """Fits probabilistic PCA to a set of spectrograms by the Gram matrix.

    The number of clips is far below the number of values, so the eigenvectors of the clips' Gram
    matrix are found first and mapped back: two matrix products over the data in all.

    Args:
      spectrograms: [num_clips, num_frames, num_bins] float32.
      latent_dim: dimensions kept; those beyond the rank of the data come out as zeros.

    Returns:
      The fitted path.
    """
    num_clips, num_frames, num_bins = spectrograms.shape
    gram, loc = _gram(spectrograms)
    # Centre the Gram matrix, not the data: a second copy of the data may not fit.
    row = jnp.mean(gram, 1)
    gram = gram - row[:, None] - row[None, :] + jnp.mean(row)
    values, vectors = jnp.linalg.eigh(gram)
    values = jnp.maximum(values[::-1], 0.0) / num_clips
    vectors = vectors[:, ::-1]

    kept = min(latent_dim, num_clips - 1)
    total = jnp.sum(values)
    left_out = num_frames * num_bins - latent_dim
    # At least a millionth of the variance per value: a set that PCA rebuilds without error would
    # otherwise make the likelihood infinite.
    noise = jnp.maximum(
        (total - jnp.sum(values[:kept])) / left_out, 1e-6 * total / (num_frames * num_bins) + 1e-12
    )
    top = jnp.maximum(values[:kept], noise)
    # u_i = X' v_i / sqrt(num_clips l_i); centred already, because v_i is orthogonal to 1.
    weights = vectors[:, :kept] * jnp.sqrt((top - noise) / (num_clips * top))
    basis = jnp.einsum("nz,ntf->ztf", weights, spectrograms, precision=jax.lax.Precision.HIGHEST)
    missing = latent_dim - kept
    return Linear(
        loc=loc,
        basis=jnp.pad(basis, ((0, missing), (0, 0), (0, 0))),
        eigenvalues=jnp.pad(top, (0, missing), constant_values=0.0)
        + jnp.where(jnp.arange(latent_dim) < kept, 0.0, noise),
        noise=noise,
    )
