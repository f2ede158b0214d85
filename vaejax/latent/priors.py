"""Where new latents are drawn from: N(0, I), or a density fitted to the aggregate posterior.

The aggregate posterior q(z) = mean_n q(z | x_n) is where the decoder has learnt to decode, and
after training it is not N(0, I). Two densities are fitted to it, and the one is kept that gives the
latents of sounds that were left out of it the higher likelihood, every sound in its turn
(cross-validation):

- a Gaussian mixture with full covariances (expectation-maximisation; Dempster et al. 1977), of 1,
  2, 4, ... components;
- manifold Parzen windows (Vincent & Bengio 2003): a Gaussian around every training sound, long
  along the way to its neighbours and narrow across it. Sounds lie near a surface that bends, which
  few components cannot follow.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

KINDS = ("N(0, I)", "mixture", "windows")
# Of expectation-maximisation.
NUM_ITERS = 30
# Windows: numbers of neighbours, and the two weights of the covariance, of which left-out latents
# choose.
NEIGHBOURS = (8, 16, 32)
LOCAL = (0.25, 0.5, 1.0)
SHARED = (0.0625, 0.125, 0.25, 0.5)
# Windows that a density is summed over, the nearest ones.
NUM_NEAREST = 32
# Parts that sounds are divided into, each of which is left out once; so many sounds are enough.
NUM_FOLDS, ENOUGH = 5, 128
# Draws of the posterior of each left-out sound that a density is judged by.
NUM_JUDGED = 2


class Mixture(NamedTuple):
    """A Gaussian mixture over z, float32."""

    log_weights: jax.Array
    """[num_components], natural log of the weights, which sum to 1."""
    means: jax.Array
    """[num_components, latent_dim]."""
    cholesky: jax.Array
    """[num_components, latent_dim, latent_dim], lower triangular factors of the covariances."""


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


Prior = Mixture | Windows


def standard(latent_dim: int) -> Mixture:
    """N(0, I) as a mixture of one."""
    return Mixture(jnp.zeros(1), jnp.zeros((1, latent_dim)), jnp.eye(latent_dim)[None])


def draw(key, prior: Prior, *, temperature):
    """One latent.

    Args:
      key: of this draw.
      temperature: scale of the deviation from the centre of the component; 1 is the fitted
        density, 0 the centre itself.

    Returns:
      z [latent_dim], and the component [] int32 it came from (of `Windows`, the training sound).
    """
    component_key, eps_key = jax.random.split(key)
    dot = partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    if isinstance(prior, Mixture):
        component = jax.random.categorical(component_key, prior.log_weights)
        eps = jax.random.normal(eps_key, prior.means.shape[1:])
        deviation = dot(prior.cholesky[component], eps)
    else:
        component = jax.random.choice(component_key, prior.chosen)
        ways = _ways(prior, component)
        along_key, shared_key = jax.random.split(eps_key)
        deviation = dot(jax.random.normal(along_key, ways.shape[:1]), ways)
        deviation += dot(prior.factor, jax.random.normal(shared_key, prior.means.shape[1:]))
    return prior.means[component] + temperature * deviation, component


def _ways(windows: Windows, index):
    """[..., num_neighbours, latent_dim], whose Gram matrix is the local part of a covariance."""
    neighbours = windows.neighbours[index]
    ways = windows.means[neighbours] - windows.means[index][..., None, :]
    return ways * jnp.sqrt(windows.local / neighbours.shape[-1])


def log_density(mixture: Mixture, z):
    """log p(z) of one latent [latent_dim] under a mixture, in nats."""

    def one(mean, cholesky):
        white = jax.scipy.linalg.solve_triangular(cholesky, z - mean, lower=True)
        log_det = jnp.sum(jnp.log(jnp.diagonal(cholesky)))
        return -0.5 * jnp.sum(white**2) - log_det - 0.5 * z.shape[0] * jnp.log(2 * jnp.pi)

    densities = jax.vmap(one)(mixture.means, mixture.cholesky)
    return logsumexp(densities + mixture.log_weights)


def make_log_density(prior: Prior):
    """log p(z) as a function of latents [num, latent_dim], in nats: [num].

    Of windows it sums the `NUM_NEAREST` nearest ones: a bound from below, off by a few hundredths
    of a nat. With white coordinates w = factor^-1 z and ways V in them, the covariance is I + V'V,
    and by the matrix inversion lemma

        w' (I + V'V)^-1 w = w'w - (V w)' (I + V V')^-1 (V w),    |I + V'V| = |I + V V'|

    (Hager 1989), a matrix as large as there are neighbours.
    """
    if isinstance(prior, Mixture):
        return jax.jit(jax.vmap(partial(log_density, prior)))
    # Inverted on the host, once: many small factorisations in one program have been seen to hang
    # on a CPU.
    factor = np.asarray(prior.factor, np.float64)
    chosen = np.asarray(prior.chosen)
    whitener = np.linalg.inv(factor)
    centres = np.asarray(prior.means, np.float64) @ whitener.T
    num_neighbours = prior.neighbours.shape[1]
    ways = centres[np.asarray(prior.neighbours)[chosen]] - centres[chosen][:, None]
    ways *= np.sqrt(float(prior.local) / num_neighbours)
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


def covariance(means, variances):
    """Covariance [latent_dim, latent_dim] of a set of posteriors: of the means, plus the mean of
    the variances; both [num_clips, latent_dim]."""
    means, variances = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    deviation = means - means.mean(0)
    return deviation.T @ deviation / len(means) + np.diag(variances.mean(0))


class Choice(NamedTuple):
    """A fitted density, and what it was chosen from."""

    prior: Prior
    log_likelihoods: dict[str, float]
    """Of the best candidate of each kind, in nats per left-out sound, see `judged`; the last one is
    that of the prior."""


class Sizes(NamedTuple):
    """How wide windows are."""

    num_neighbours: int
    local: float
    """Weight of the way to the neighbours."""
    shared: float
    """Weight of the mean of all such ways, which all windows share."""


def choose(
    means,
    variances,
    *,
    max_components: int,
    seed: int,
    hashes: Sequence[str] | None = None,
    kinds: Sequence[str] = KINDS,
) -> Choice:
    """Fits every kind and size of density to parts of the sounds, and to all of them the one under
    which the rest was likeliest.

    Args:
      means, variances: [num_clips, latent_dim], posteriors of sounds.
      max_components: of a mixture, at most; also limited to one per 16 sounds.
      seed: of the parts, the starts, and of the draws that densities are judged by.
      hashes: [num_clips], of the contents: of copies, one takes part in the choice.
      kinds: some of `KINDS`.
    """
    means, variances = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    rng = np.random.default_rng(seed)
    own = range(len(means)) if hashes is None else hashes
    rows = np.sort(np.unique(own, return_index=True)[1])
    scores: dict[Candidate, list[np.ndarray]] = {}
    for kept, left_out in _folds(rng.permutation(rows)):
        eps = rng.standard_normal((NUM_JUDGED, len(left_out), means.shape[1]))
        points = means[left_out] + np.sqrt(variances[left_out]) * eps
        order = None
        if "windows" in kinds:
            order = _neighbours(means[kept], variances[kept], max(NEIGHBOURS))
        for one in _candidates(len(kept), max_components):
            if one.kind not in kinds:
                continue
            prior = _fit_candidate(one, means[kept], variances[kept], seed, order)
            scores.setdefault(one, []).append(judged(prior, points, num=len(kept)))
    mean = {one: float(np.concatenate(parts).mean()) for one, parts in scores.items()}
    best = max(mean, key=lambda one: mean[one])
    by_kind = {
        kind: max(value for one, value in mean.items() if one.kind == kind)
        for kind in KINDS
        if any(one.kind == kind for one in mean)
    }
    by_kind[best.kind] = by_kind.pop(best.kind)
    return Choice(_fit_candidate(best, means, variances, seed), by_kind)


class Candidate(NamedTuple):
    """A kind of density and its size."""

    kind: str
    components: int = 0
    sizes: Sizes | None = None


def _candidates(num_clips: int, max_components: int) -> list[Candidate]:
    """Those that so many sounds can be given."""
    found, components = [Candidate("N(0, I)")], 1
    while components <= max_components and (components == 1 or 16 * components <= num_clips):
        found.append(Candidate("mixture", components))
        components *= 2
    for num in (num for num in NEIGHBOURS if num < num_clips):
        found += [
            Candidate("windows", 0, Sizes(num, local, shared))
            for local in LOCAL
            for shared in SHARED
        ]
    return found


def _fit_candidate(one: Candidate, means, variances, seed: int, order=None) -> Prior:
    if one.sizes is not None:
        return windows_around(means, variances, sizes=one.sizes, order=order)
    if one.components:
        return fit_mixture(means, variances, components=one.components, seed=seed)
    return standard(np.shape(means)[1])


def _folds(rows) -> list[tuple[np.ndarray, np.ndarray]]:
    """(kept, left out) rows, several times, of equal sizes; until enough have been left out."""
    if len(rows) < 2:
        return [(rows, rows)]
    size = max(min(len(rows) // NUM_FOLDS, ENOUGH), 1)
    starts = range(0, min(size * NUM_FOLDS, len(rows) - size + 1, ENOUGH), size)
    return [(np.delete(rows, np.s_[at : at + size]), rows[at : at + size]) for at in starts]


def judged(prior: Prior, points, *, num: int):
    """log p(z) of sounds in nats, [num_sounds], where one in num + 1 may be unlike all others.

    A sound of a kind of its own lies where a density fitted to others expects nothing: ten of them
    in a hundred decided, by thousands of nats each, what the other ninety are drawn from. With
    Laplace's probability of something new it may be from N(0, I).

    Args:
      points: [num_draws, num_sounds, latent_dim].
      num: of the sounds that the density was fitted to.
    """
    flat = np.asarray(points, np.float32).reshape(-1, np.shape(points)[-1])
    if isinstance(prior, Mixture):
        fitted = _logsumexp(_log_joint(prior, flat))
    else:
        fitted = np.asarray(make_log_density(prior)(flat), np.float64)
    new = -0.5 * (np.sum(flat.astype(np.float64) ** 2, 1) + flat.shape[1] * np.log(2 * np.pi))
    either = np.logaddexp(fitted + np.log(num / (num + 1)), new - np.log(num + 1))
    return either.reshape(np.shape(points)[:2]).mean(0)


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


def fit_mixture(means, variances, *, components: int, seed: int = 0, pooled=None) -> Mixture:
    """Fits a mixture of so many components.

    Args:
      means: [num_clips, latent_dim], posterior means.
      variances: [num_clips, latent_dim], posterior variances; added to the covariances, so that
        the mixture has the second moments of the aggregate posterior and not of its means alone.
      seed: of the start.
      pooled: [latent_dim, latent_dim], what covariances are shrunk towards; by default the
        covariance of all.
    """
    means, variances = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    pooled = np.asarray(covariance(means, variances) if pooled is None else pooled, np.float64)
    rng = np.random.default_rng(seed)
    parts = _expectation_maximisation(rng, means, variances, pooled, components)
    return Mixture(*(jnp.asarray(part, jnp.float32) for part in parts))


# Fitting runs on the host, in NumPy: it happens once per run, on a few thousand points, and a
# program per number of components would take longer to compile than all of them to run.


def _expectation_maximisation(rng, means, variances, pooled, components: int):
    """(log_weights, centres, cholesky) of a mixture of so many components."""
    num_clips, latent_dim = means.shape
    jitter = 1e-6 * np.eye(latent_dim)
    # Starts: k-means++ (Arthur & Vassilvitskii 2007) in the metric of the pooled covariance.
    white = np.linalg.solve(np.linalg.cholesky(pooled + jitter), means.T).T
    chosen = [white[rng.integers(num_clips)]]
    distance = np.sum((white - chosen[0]) ** 2, 1)
    for _ in range(components - 1):
        # Where all points coincide, any of them is as good a start.
        weights = distance + 1e-12
        chosen.append(white[rng.choice(num_clips, p=weights / weights.sum())])
        distance = np.minimum(distance, np.sum((white - chosen[-1]) ** 2, 1))
    nearest = np.argmin([np.sum((white - centre) ** 2, 1) for centre in chosen], axis=0)
    responsibilities = np.eye(components)[nearest]  # [num_clips, components]
    for _ in range(NUM_ITERS if components > 1 else 0):
        log_joint = _log_joint(_maximise(responsibilities, means, variances, pooled), means)
        responsibilities = np.exp(log_joint - _logsumexp(log_joint)[:, None])
    return _maximise(responsibilities, means, variances, pooled)


def _maximise(responsibilities, means, variances, pooled):
    latent_dim = means.shape[1]
    counts = responsibilities.sum(0) + 1e-6
    centres = responsibilities.T @ means / counts[:, None]
    covariances = []
    for weights, centre, count in zip(responsibilities.T, centres, counts, strict=True):
        deviation = means - centre
        scatter = (weights[:, None] * deviation).T @ deviation + np.diag(weights @ variances)
        # Shrunk towards the pooled covariance by as much as latent_dim clips weigh: with fewer
        # clips than dimensions a component has no full rank of its own.
        covariances.append((scatter + latent_dim * pooled) / (count + latent_dim))
    cholesky = np.linalg.cholesky(np.stack(covariances) + 1e-6 * np.eye(latent_dim))
    return np.log(counts / counts.sum()), centres, cholesky


def _log_joint(mixture, points):
    """log weight_k + log N(point; centre_k, cov_k): [num_points, components]."""
    columns = []  # mixture: (log_weights, centres, cholesky)
    for log_weight, centre, factor in zip(*mixture, strict=True):
        white = np.linalg.solve(factor, (points - centre).T)
        log_det = np.log(np.diagonal(factor)).sum()
        normaliser = 0.5 * len(centre) * np.log(2 * np.pi)
        columns.append(log_weight - 0.5 * np.sum(white**2, 0) - log_det - normaliser)
    return np.stack(columns, axis=1)


def _logsumexp(values):
    """Over the last axis, [num_points]."""
    top = values.max(1)
    return top + np.log(np.exp(values - top[:, None]).sum(1))
