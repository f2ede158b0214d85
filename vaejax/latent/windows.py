"""Manifold Parzen windows: a Gaussian around every training sound (Vincent & Bengio 2003)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from vaejax.latent.family import Family

# Numbers of neighbours, and the two weights of the covariance, of which left-out latents choose.
NEIGHBOURS = (8, 16, 32)
LOCAL = (0.25, 0.5, 1.0)
SHARED = (0.0625, 0.125, 0.25, 0.5)
# Windows that a density is summed over, the nearest ones.
NUM_NEAREST = 32


class Windows(NamedTuple):
    """Manifold Parzen windows over z. The covariance around sound n, whose neighbours are n_j, is

    local mean_j (mean[n_j] - mean[n]) (mean[n_j] - mean[n])' + factor factor'
    """

    means: jax.Array
    """[num_clips, latent_dim], posterior means of the training sounds."""
    neighbours: jax.Array
    """[num_clips, num_neighbours] int32, the sounds nearest to each."""
    local: jax.Array
    """[], weight of the way to the neighbours."""
    factor: jax.Array
    """[latent_dim, latent_dim], lower triangular, of the covariance that all windows share."""
    chosen: jax.Array
    """[num_chosen] int32, the sounds around which is drawn: all, or those of one label."""


class Sizes(NamedTuple):
    """How wide windows are."""

    num_neighbours: int
    local: float
    """Weight of the way to the neighbours."""
    shared: float
    """Weight of the mean of all such ways, which all windows share."""


def draw(key, windows: Windows, temperature):
    """One latent [latent_dim], and the training sound [] int32 it came from; see `Family`."""
    component_key, eps_key = jax.random.split(key)
    dot = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    component = jax.random.choice(component_key, windows.chosen)
    ways = _ways(windows, component)
    along_key, shared_key = jax.random.split(eps_key)
    deviation = dot(jax.random.normal(along_key, ways.shape[:1]), ways)
    deviation += dot(windows.factor, jax.random.normal(shared_key, windows.means.shape[1:]))
    return windows.means[component] + temperature * deviation, component


def _ways(windows: Windows, index):
    """[..., num_neighbours, latent_dim], whose Gram matrix is the local part of a covariance."""
    neighbours = windows.neighbours[index]
    ways = windows.means[neighbours] - windows.means[index][..., None, :]
    return ways * jnp.sqrt(windows.local / neighbours.shape[-1])


def make_log_density(windows: Windows):
    """log p(z) as a function of latents [num, latent_dim], in nats: [num].

    It sums the `NUM_NEAREST` nearest ones: a bound from below, off by a few hundredths
    of a nat. With white coordinates w = factor^-1 z and ways V in them, the covariance is I + V'V,
    and by the matrix inversion lemma

        w' (I + V'V)^-1 w = w'w - (V w)' (I + V V')^-1 (V w),    |I + V'V| = |I + V V'|

    (Hager 1989), a matrix as large as there are neighbours.
    """
    # Inverted on the host, once: many small factorisations in one program have been seen to hang
    # on a CPU.
    factor = np.asarray(windows.factor, np.float64)
    chosen = np.asarray(windows.chosen)
    whitener = np.linalg.inv(factor)
    centres = np.asarray(windows.means, np.float64) @ whitener.T
    num_neighbours = windows.neighbours.shape[1]
    ways = centres[np.asarray(windows.neighbours)[chosen]] - centres[chosen][:, None]
    ways *= np.sqrt(float(windows.local) / num_neighbours)
    inner = np.eye(num_neighbours) + ways @ ways.transpose(0, 2, 1)
    log_dets = np.log(np.diagonal(factor)).sum() + 0.5 * np.linalg.slogdet(inner)[1]
    constant = log_dets + 0.5 * len(factor) * np.log(2 * np.pi) + np.log(len(chosen))
    tables = [centres[chosen], ways, np.linalg.inv(inner), constant, whitener]
    return partial(_window_densities, *(jnp.asarray(table, jnp.float32) for table in tables))


@jax.jit
def _window_densities(centres, ways, inverses, constants, whitener, latents):
    dot = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

    def one(z):
        difference = dot("ij,j->i", whitener, z) - centres  # [num_windows, latent_dim]
        squares = jnp.sum(difference**2, 1)
        nearest = jax.lax.top_k(-squares, min(NUM_NEAREST, len(centres)))[1]
        along = dot("nki,ni->nk", ways[nearest], difference[nearest])
        explained = dot("nk,nkl,nl->n", along, inverses[nearest], along)
        return logsumexp(-0.5 * (squares[nearest] - explained) - constants[nearest])

    return jax.lax.map(one, latents)


def windows_around(means, variances, *, sizes: Sizes, order=None) -> Windows:
    """Windows of such sizes around sounds [num_clips, latent_dim].

    Args:
      order: `_neighbours` of them, where there are at least as many as sizes ask for.
    """
    if order is None:
        order = _neighbours(means, variances, sizes.num_neighbours)
    means, variances = np.asarray(means, np.float32), np.asarray(variances, np.float32)
    neighbours = order[:, : sizes.num_neighbours]
    ways = (means[neighbours] - means[:, None]).reshape(-1, means.shape[1]).astype(np.float64)
    common = ways.T @ ways / len(ways)
    # In more dimensions than there are ways, some have no spread of their own.
    own = np.diag(variances.mean(0) + 1e-6 + 1e-4 * np.trace(common) / len(common))
    return Windows(
        means=jnp.asarray(means),
        neighbours=jnp.asarray(neighbours),
        local=jnp.asarray(sizes.local, jnp.float32),
        factor=jnp.asarray(np.linalg.cholesky(sizes.shared * common + own), jnp.float32),
        chosen=jnp.arange(len(means), dtype=jnp.int32),
    )


def _neighbours(means, variances, num: int):
    """`_nearest` of sounds in the metric of their mean variance, as many as there are."""
    means, variances = np.asarray(means, np.float32), np.asarray(variances, np.float32)
    return _nearest(means / np.sqrt(variances.mean(0)), min(num, len(means) - 1))


def _nearest(points, num: int):
    """[len(points), num] int32, the nearest others of each point, nearest first."""
    squares = np.sum(points**2, 1)
    distance = squares[:, None] + squares[None] - 2 * points @ points.T
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :num].astype(np.int32)


def fit_sizes(means, variances, max_components: int, seed: int):
    """Windows of every size that so many sounds can be given."""
    order = _neighbours(means, variances, max(NEIGHBOURS))
    for num in (num for num in NEIGHBOURS if num < len(means)):
        for local in LOCAL:
            for shared in SHARED:
                sizes = Sizes(num, local, shared)
                yield sizes, windows_around(means, variances, sizes=sizes, order=order)


WINDOWS = Family(
    Windows,
    fit=lambda means, variances, size, seed: windows_around(means, variances, sizes=size),
    fit_sizes=fit_sizes,
    draw=draw,
    make_log_density=make_log_density,
    among=lambda windows, rows: windows._replace(chosen=jnp.asarray(rows, jnp.int32)),
)
