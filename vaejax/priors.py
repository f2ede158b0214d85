"""Where new latents are drawn from: N(0, I), or a mixture fitted to the aggregate posterior.

The aggregate posterior q(z) = mean_n q(z | x_n) is where the decoder has learnt to decode, and
after training it is not N(0, I). It is summarised by a Gaussian mixture with full covariances
(expectation-maximisation; Dempster et al. 1977), whose number of components is chosen by the
likelihood of posterior means of held-out sounds.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp


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


def draw(key, mixture: Mixture, *, temperature):
    """One latent.

    Args:
      key: of this draw.
      temperature: scale of the deviation from the component's mean; 1 is the fitted density, 0 the
        mean itself.

    Returns:
      z [latent_dim], and the component [] int32 it came from.
    """
    component_key, eps_key = jax.random.split(key)
    component = jax.random.categorical(component_key, mixture.log_weights)
    eps = jax.random.normal(eps_key, mixture.means.shape[1:])
    deviation = jnp.dot(mixture.cholesky[component], eps, precision=jax.lax.Precision.HIGHEST)
    return mixture.means[component] + temperature * deviation, component


def log_density(mixture: Mixture, z):
    """log p(z) of one latent [latent_dim], in nats."""
    return logsumexp(_component_log_densities(mixture, z) + mixture.log_weights)


def covariance(means, variances):
    """Covariance [latent_dim, latent_dim] of a set of posteriors: of the means, plus the mean of
    the variances; both [num_clips, latent_dim]."""
    deviation = means - jnp.mean(means, 0)
    return deviation.T @ deviation / len(means) + jnp.diag(jnp.mean(variances, 0))


def fit(
    means, variances, held_out_means, *, max_components: int, seed: int, pooled=None
) -> Mixture:
    """Fits mixtures of 1, 2, 4, ... components and keeps the one that held-out latents prefer.

    Args:
      means: [num_clips, latent_dim], posterior means of training sounds.
      variances: [num_clips, latent_dim], posterior variances; added to the covariances, so that
        the mixture has the second moments of the aggregate posterior and not of its means alone.
      held_out_means: [num_held_out, latent_dim].
      max_components: the largest number tried; also limited to one per 16 training sounds.
      seed: of the starts.
      pooled: [latent_dim, latent_dim], what covariances are shrunk towards; by default the
        covariance of all.
    """
    means, variances = jnp.asarray(means), jnp.asarray(variances)
    pooled = covariance(means, variances) if pooled is None else pooled
    best, best_score = standard(means.shape[1]), -np.inf
    components = 1
    while components <= max_components and (components == 1 or 16 * components <= len(means)):
        mixture = _expectation_maximisation(
            jax.random.key(seed), means, variances, pooled, components=components
        )
        score = float(_mean_log_density(mixture, held_out_means))
        if score > best_score:
            best, best_score = mixture, score
        components *= 2
    return best


@jax.jit
def _mean_log_density(mixture: Mixture, latents):
    return jnp.mean(jax.vmap(partial(log_density, mixture))(latents))


def _component_log_densities(mixture: Mixture, z):
    """log N(z; mean_k, cov_k) for each component, [num_components]."""

    def one(mean, cholesky):
        white = jax.scipy.linalg.solve_triangular(cholesky, z - mean, lower=True)
        log_det = jnp.sum(jnp.log(jnp.diagonal(cholesky)))
        return -0.5 * jnp.sum(white**2) - log_det - 0.5 * z.shape[0] * jnp.log(2 * jnp.pi)

    return jax.vmap(one)(mixture.means, mixture.cholesky)


@partial(jax.jit, static_argnames=("components", "num_iters"))
def _expectation_maximisation(
    key, means, variances, pooled, *, components: int, num_iters: int = 30
):
    num_clips, latent_dim = means.shape
    jitter = 1e-6 * jnp.eye(latent_dim)

    def maximise(responsibilities):  # [num_clips, components]
        counts = jnp.sum(responsibilities, 0) + 1e-6
        centres = (responsibilities.T @ means) / counts[:, None]

        # Shrunk towards the pooled covariance by as much as latent_dim clips weigh: with fewer
        # clips than dimensions a component has no full rank of its own.
        def shrunk(weights, centre, count):
            deviation = means - centre
            scatter = (weights[:, None] * deviation).T @ deviation
            spread = jnp.diag(weights @ variances)
            return (scatter + spread + latent_dim * pooled) / (count + latent_dim)

        covariances = jax.vmap(shrunk, in_axes=(1, 0, 0))(responsibilities, centres, counts)
        log_weights = jnp.log(counts / jnp.sum(counts))
        return Mixture(log_weights, centres, jnp.linalg.cholesky(covariances + jitter))

    def expect(mixture):
        log_joint = jax.vmap(partial(_component_log_densities, mixture))(means)
        return jax.nn.softmax(log_joint + mixture.log_weights, axis=1)

    def step(responsibilities, _):
        return expect(maximise(responsibilities)), None

    # Starts: k-means++ (Arthur & Vassilvitskii 2007) in the metric of the pooled covariance.
    white = jax.scipy.linalg.solve_triangular(
        jnp.linalg.cholesky(pooled + jitter), means.T, lower=True
    ).T
    centres = jnp.zeros((components, latent_dim))
    distance = jnp.full(num_clips, jnp.inf)
    for k, centre_key in enumerate(jax.random.split(key, components)):
        logits = jnp.zeros(num_clips) if k == 0 else jnp.log(distance + 1e-12)
        chosen = white[jax.random.categorical(centre_key, logits)]
        centres = centres.at[k].set(chosen)
        distance = jnp.minimum(distance, jnp.sum((white - chosen) ** 2, 1))
    nearest = jnp.argmin(jnp.sum((white[:, None] - centres) ** 2, 2), 1)
    responsibilities = jax.nn.one_hot(nearest, components)
    responsibilities, _ = jax.lax.scan(step, responsibilities, None, length=num_iters)
    return maximise(responsibilities)
