"""The linear path: probabilistic PCA (Tipping & Bishop 1999), the optimum of a linear VAE.

    x = loc + W z + noise,  z ~ N(0, I),  noise ~ N(0, sigma^2 I)

With the eigenvalues l_i and eigenvectors u_i of the covariance of x, the maximum of the likelihood
is  W = U (L - sigma^2)^(1/2)  and  sigma^2 = the mean of the eigenvalues left out. Since W' W is
diagonal, so is the posterior of a VAE whose encoder and decoder are linear (Lucas et al. 2019):

    mean_i = w_i' (x - loc) / l_i        var_i = sigma^2 / l_i

What the model is told of a sound (`conditions`) moves its mean by M c, M fitted by ridge
regression, and the directions are then those of what is left.

A VAE that adds zero-initialised corrections to this starts where PCA ends. Beyond the directions
that z has for itself, some more principal directions are kept: a nonlinear decoder predicts a
sound's coordinates along them from z, and an encoder reads them.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

# Products with the directions are in full float32: TF32 or bfloat16, the default on GPU and TPU,
# would make step 0 worse than PCA.


class Linear(NamedTuple):
    """A fitted linear path. All float32."""

    loc: jax.Array
    """[num_frames, ...], mean of what the model sees; of the `frames` model, here and in
    directions, of one frame of it, [...]."""
    basis: jax.Array
    """[num_frames, ..., num_directions], orthonormal u_i along the last axis, the latent_dim first
    ones being the columns of U; zeros where the clips have no further direction."""
    eigenvalues: jax.Array
    """[num_directions], l_i, falling; the latent_dim first ones are never below sigma^2."""
    noise: jax.Array
    """[], sigma^2 per value."""
    offsets: jax.Array
    """[num_directions, condition_dim], M: where a condition moves the coordinates."""

    @property
    def directions(self) -> jax.Array:
        """[num_directions, num_frames, ...], the u_i one by one."""
        return jnp.moveaxis(self.basis, -1, 0)

    @property
    def condition_dim(self) -> int:
        """Width of the condition; 0 where the model is told nothing."""
        return self.offsets.shape[1]


def coordinates(linear: Linear, x, condition):
    """Coordinates [num_directions] of x [num_frames, ...], from where its condition
    [condition_dim] puts it."""
    away = (x - linear.loc).reshape(-1)
    found = jnp.dot(away, _columns(linear), precision=jax.lax.Precision.HIGHEST)
    return found - offset(linear, condition)


def offset(linear: Linear, condition):
    """Where a condition [condition_dim] moves the coordinates, [num_directions]."""
    return jnp.dot(linear.offsets, condition, precision=jax.lax.Precision.HIGHEST)


def at(linear: Linear, coordinates):
    """The x [num_frames, ...] at some coordinates [num_directions]."""
    along = jnp.dot(coordinates, _columns(linear).T, precision=jax.lax.Precision.HIGHEST)
    return linear.loc + along.reshape(linear.loc.shape)


def _columns(linear: Linear):
    """U, [num_values, num_directions]."""
    # In this order, and flat, the three products of a step (coordinates, sum, gradient of the sum)
    # read 90 MB as they lie: in any other, XLA on a CPU takes twice as long for them.
    return linear.basis.reshape(linear.loc.size, linear.basis.shape[-1])


def posterior(linear: Linear, coordinates, *, latent_dim: int):
    """Mean and log-variance [latent_dim] of z, given coordinates [num_directions]."""
    eigenvalues = linear.eigenvalues[:latent_dim]
    # w_i' (x - loc) / l_i  with  w_i = u_i sqrt(l_i - sigma^2)
    mean = jnp.sqrt(eigenvalues - linear.noise) / eigenvalues * coordinates[:latent_dim]
    return mean, jnp.log(linear.noise / eigenvalues)


def likelihood_coordinates(linear: Linear, z):
    """Coordinates [num_directions] of the x that z [latent_dim] stands for, from where
    its condition puts it."""
    scale = jnp.sqrt(linear.eigenvalues[: z.shape[0]] - linear.noise)
    return jnp.pad(scale * z, (0, linear.eigenvalues.shape[0] - z.shape[0]))


def unit(linear: Linear, *, latent_dim: int):
    """What coordinates are measured in by a network: the spread along the last direction of z."""
    return jnp.sqrt(linear.eigenvalues[latent_dim - 1])


def flat(shape: tuple[int, ...], num_directions: int, condition_dim: int = 0) -> Linear:
    """A linear path that adds nothing: prior as posterior, zero as mean, unit noise."""
    return Linear(
        loc=jnp.zeros(shape),
        basis=jnp.zeros((*shape, num_directions)),
        eigenvalues=jnp.ones(num_directions),
        noise=jnp.ones(()),
        offsets=jnp.zeros((num_directions, condition_dim)),
    )


@jax.jit
def _gram(x):
    rows = x.reshape(len(x), -1)
    # HIGHEST: the small eigenvalues are differences of large sums, and TF32 or bfloat16 products
    # (the default on GPU and TPU) would drown them.
    return jnp.dot(rows, rows.T, precision=jax.lax.Precision.HIGHEST), jnp.mean(x, 0)


def fit(x, conditions, *, latent_dim: int, num_directions: int) -> Linear:
    """Fits probabilistic PCA to a set of sounds by the Gram matrix.

    The number of clips is far below the number of values, so the eigenvectors of the clips' Gram
    matrix are found first and mapped back: two matrix products over the data in all.

    Args:
      x: [num_clips, num_frames, ...] float32, as the model sees them.
      conditions: [num_clips, condition_dim].
      latent_dim: dimensions of z.
      num_directions: principal directions kept, latent_dim or more; those beyond the rank of the
        data come out as zeros.

    Returns:
      The fitted path.
    """
    num_clips, num_values = len(x), math.prod(x.shape[1:])
    gram, loc = _gram(x)
    # Centre the Gram matrix, not the data: a second copy of the data may not fit.
    row = jnp.mean(gram, 1)
    gram = gram - row[:, None] - row[None, :] + jnp.mean(row)
    values, vectors = jnp.linalg.eigh(gram)
    values = jnp.maximum(values[::-1], 0.0) / num_clips
    vectors = vectors[:, ::-1]

    # u_i = X' v_i / sqrt(num_clips l_i); centred already, because v_i is orthogonal to 1.
    found = min(num_directions, num_clips - 1)
    top, is_real = _real(values, found)
    roots = jnp.sqrt(num_clips * top)
    basis = jnp.einsum(
        "n...,nz->...z",
        x,
        vectors[:, :found] * jnp.where(is_real, 1.0 / jnp.where(is_real, roots, 1.0), 0.0),
        precision=jax.lax.Precision.HIGHEST,
    )
    return _path(
        loc,
        basis,
        top,
        # Coordinates of the clips along the directions, as the Gram matrix has them already.
        lambda: vectors[:, :found] * roots,
        conditions,
        total=jnp.sum(values),
        latent_dim=latent_dim,
        num_directions=num_directions,
        num_values=num_values,
    )


@jax.jit
def _covariance(x):
    rows = x.reshape(-1, math.prod(x.shape[2:]))
    loc = jnp.mean(rows, 0)
    square = jnp.dot(rows.T, rows, precision=jax.lax.Precision.HIGHEST) / len(rows)
    return square - jnp.outer(loc, loc), jnp.mean(x, (0, 1))


def fit_frames(x, conditions, *, latent_dim: int, num_directions: int) -> Linear:
    """Fits probabilistic PCA to the frames of a set of sounds, each frame a point by itself.

    There are more frames than values in one, so their covariance is the smaller matrix.

    Args:
      x: [num_clips, num_frames, ...] float32, as the model sees them.
      conditions: [num_clips, condition_dim], of all frames of a clip.
      latent_dim: dimensions of z at a frame.
      num_directions: principal directions kept, latent_dim or more.

    Returns:
      The fitted path, of a frame: without the axis of frames.
    """
    num_frames, shape = x.shape[1], x.shape[2:]
    num_values = math.prod(shape)
    covariance, loc = _covariance(x)
    values, vectors = jnp.linalg.eigh(covariance)
    values, vectors = jnp.maximum(values[::-1], 0.0), vectors[:, ::-1]
    found = min(num_directions, num_values, len(x) * num_frames - 1)
    top, is_real = _real(values, found)
    basis = jnp.where(is_real, vectors[:, :found], 0.0)

    def coordinates():
        rows = x.reshape(-1, num_values) - loc.reshape(1, -1)
        return jnp.dot(rows, basis, precision=jax.lax.Precision.HIGHEST)

    return _path(
        loc,
        basis.reshape(*shape, found),
        top,
        coordinates,
        jnp.repeat(conditions, num_frames, axis=0),
        total=jnp.sum(values),
        latent_dim=latent_dim,
        num_directions=num_directions,
        num_values=num_values,
    )


def _real(values, found: int):
    """The largest eigenvalues [found], and which of them are real: what is a rounding error beside
    the largest has no direction of its own, and becomes 0."""
    top = values[:found]
    is_real = top > 1e-6 * values[0]
    return jnp.where(is_real, top, 0.0), is_real


def _path(
    loc,
    basis,
    eigenvalues,
    coordinates,
    conditions,
    *,
    total,
    latent_dim: int,
    num_directions: int,
    num_values: int,
) -> Linear:
    """The path along some directions [..., found] with eigenvalues [found] of a total variance.

    Args:
      coordinates: returns those of the points, [num_points, found]; called if they are told of.
      conditions: [num_points, condition_dim].
    """
    found = len(eigenvalues)
    missing = num_directions - found
    kept = min(latent_dim, found)
    # At least a millionth of the variance per value: a set that PCA rebuilds without error would
    # otherwise make the likelihood infinite.
    least = 1e-6 * total / num_values + 1e-12
    explained = jnp.zeros(())
    eigenvalues = jnp.pad(eigenvalues, (0, missing))
    basis = jnp.pad(basis, [(0, 0)] * (basis.ndim - 1) + [(0, missing)])
    offsets = jnp.zeros((num_directions, conditions.shape[1]))
    if conditions.shape[1]:
        top = jnp.sum(eigenvalues)
        points = jnp.pad(coordinates(), ((0, 0), (0, missing)))
        rotation, eigenvalues, offsets = _explain(points, conditions)
        basis = jnp.tensordot(basis, rotation, 1, precision=jax.lax.Precision.HIGHEST)
        explained = top - jnp.sum(eigenvalues)
    left_out = total - explained - jnp.sum(eigenvalues[:kept])
    noise = jnp.maximum(left_out / (num_values - latent_dim), least)
    is_latent = jnp.arange(num_directions) < latent_dim
    return Linear(
        loc=loc,
        basis=basis,
        eigenvalues=jnp.where(is_latent, jnp.maximum(eigenvalues, noise), eigenvalues),
        noise=noise,
        offsets=offsets,
    )


def _explain(coordinates, conditions):
    """Splits coordinates [num_clips, num_directions] into what conditions explain and the rest.

    Returns:
      rotation: [num_directions, num_directions], columns the principal axes of the rest.
      eigenvalues: [num_directions], falling, its variances along them.
      offsets: [num_directions, condition_dim], M along them.
    """
    dot = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    # Ridge regression, as if each entry had been seen once more with no effect: entries that occur
    # together in every clip, or never, leave the normal equations singular otherwise.
    normal = dot(conditions.T, conditions) + jnp.eye(conditions.shape[1])
    weights = jnp.linalg.solve(normal, dot(conditions.T, coordinates))
    rest = coordinates - dot(conditions, weights)
    values, vectors = jnp.linalg.eigh(dot(rest.T, rest) / len(rest))
    rotation = vectors[:, ::-1]
    return rotation, jnp.maximum(values[::-1], 0.0), dot(rotation.T, weights.T)
