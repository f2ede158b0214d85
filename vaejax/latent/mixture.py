"""Gaussian mixtures with full covariances, fitted by expectation-maximisation."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from vaejax.latent.family import Family

NUM_ITERS = 30


class Mixture(NamedTuple):
    """A Gaussian mixture over z, float32."""

    log_weights: jax.Array
    """[num_components], natural log of the weights, which sum to 1."""
    means: jax.Array
    """[num_components, latent_dim]."""
    cholesky: jax.Array
    """[num_components, latent_dim, latent_dim], lower triangular factors of the covariances."""


def standard(latent_dim: int) -> Mixture:
    """N(0, I) as a mixture of one."""
    return Mixture(jnp.zeros(1), jnp.zeros((1, latent_dim)), jnp.eye(latent_dim)[None])


def draw(key, mixture: Mixture, temperature):
    """One latent [latent_dim], and its component [] int32; see `Family`."""
    component_key, eps_key = jax.random.split(key)
    component = jax.random.categorical(component_key, mixture.log_weights)
    eps = jax.random.normal(eps_key, mixture.means.shape[1:])
    deviation = jnp.dot(mixture.cholesky[component], eps, precision=jax.lax.Precision.HIGHEST)
    return mixture.means[component] + temperature * deviation, component


def log_density(mixture: Mixture, z):
    """log p(z) of one latent [latent_dim] under a mixture, in nats."""

    def one(mean, cholesky):
        white = jax.scipy.linalg.solve_triangular(cholesky, z - mean, lower=True)
        log_det = jnp.sum(jnp.log(jnp.diagonal(cholesky)))
        return -0.5 * jnp.sum(white**2) - log_det - 0.5 * z.shape[0] * jnp.log(2 * jnp.pi)

    densities = jax.vmap(one)(mixture.means, mixture.cholesky)
    return logsumexp(densities + mixture.log_weights)


def covariance(means, variances):
    """Covariance [latent_dim, latent_dim] of a set of posteriors: of the means, plus the mean of
    the variances; both [num_clips, latent_dim]."""
    means, variances = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    deviation = means - means.mean(0)
    return deviation.T @ deviation / len(means) + np.diag(variances.mean(0))


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


def fit_sizes(means, variances, max_components: int, seed: int):
    """Mixtures of 1, 2, 4, ... components, but one per 16 sounds at most."""
    components = 1
    while components <= max_components and (components == 1 or 16 * components <= len(means)):
        yield components, fit_mixture(means, variances, components=components, seed=seed)
        components *= 2


def log_densities(mixture: Mixture, latents):
    """log p(z) of latents [num, latent_dim] in nats, [num]; on the host."""
    return _logsumexp(_log_joint(mixture, np.asarray(latents)))


MIXTURE = Family(
    Mixture,
    fit=lambda means, variances, size, seed: fit_mixture(
        means, variances, components=size, seed=seed
    ),
    fit_sizes=fit_sizes,
    draw=draw,
    make_log_density=lambda mixture: jax.jit(jax.vmap(partial(log_density, mixture))),
    judge=log_densities,
)
NORMAL = MIXTURE._replace(
    fit=lambda means, variances, size, seed: standard(np.shape(means)[1]),
    fit_sizes=lambda means, variances, *_: [(None, standard(np.shape(means)[1]))],
)
