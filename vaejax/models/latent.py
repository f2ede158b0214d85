"""What can be learned of the latent itself: priors p(z), and a flow for the posterior q(z|x).

All but the VampPrior are N(0, I) and the encoder's Gaussian, or near them, at the start: the last
layer of every perceptron is zero.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.scipy.special import logsumexp

from vaejax import priors
from vaejax.config import Config
from vaejax.models import linear as linear_path
from vaejax.models.vae import Dense
from vaejax.priors import Mixture

LOG_2PI = math.log(2 * math.pi)
# The level above z has no formula for what is below it; so many draws of it stand for all.
TOP_DRAWS = 1024
# Draws, of a key that is always the same, from which a bent posterior has its mean and variance.
MOMENT_DRAWS = 64


class Flow(nn.Module):
    """Affine coupling layers (Dinh et al. 2017), told what the encoder says.

    Every layer keeps one half of the dimensions, in turns the even and the odd ones, and scales and
    shifts the other by what a perceptron reads off the half kept.
    """

    latent_dim: int
    num_layers: int
    width: int

    def setup(self):
        """Builds the perceptrons."""
        self.layers = [
            Dense(self.width, 1, 2 * self.latent_dim, jnp.float32) for _ in range(self.num_layers)
        ]

    def __call__(self, u, context):
        """u [latent_dim] and context [any] -> the bent u [latent_dim], and the logarithm of how
        much each dimension was stretched [latent_dim], which sums to log|det|."""
        stretched = jnp.zeros(self.latent_dim)
        for i in range(self.num_layers):
            log_scale, shift = self._layer(i, u, context)
            u = u * jnp.exp(log_scale) + shift
            stretched += log_scale
        return u, stretched

    def inverse(self, u, context):
        """The inverse of `__call__`, and the same logarithms."""
        stretched = jnp.zeros(self.latent_dim)
        for i in reversed(range(self.num_layers)):
            log_scale, shift = self._layer(i, u, context)
            u = (u - shift) * jnp.exp(-log_scale)
            stretched += log_scale
        return u, stretched

    def _layer(self, i: int, u, context):
        """Log-scale and shift [latent_dim] of a layer, zeros for what it keeps."""
        kept = jnp.arange(self.latent_dim) % 2 == i % 2
        told = jnp.concatenate([jnp.where(kept, u, 0.0), context])
        log_scale, shift = jnp.split(self.layers[i](told), 2)
        # Bounded, as Dinh et al. do, so that one step cannot make a dimension infinite.
        return jnp.where(kept, 0.0, jnp.tanh(log_scale)), jnp.where(kept, 0.0, shift)


class Hierarchy(nn.Module):
    """The two Gaussians between z and a level above it, p(z|top) and q(top|z).

    At the start the first dimensions of z and those of the level above are standard normal with a
    correlation of `CORRELATION`, and both Gaussians the exact conditionals: p(z) is N(0, I), and
    the level above is alive from the first step on. Independent ones would be a saddle point.
    """

    latent_dim: int
    top_dim: int
    width: int

    CORRELATION = 0.5

    def setup(self):
        """Builds the perceptrons."""
        self.down = Dense(self.width, 1, 2 * self.latent_dim, jnp.float32)
        self.up = Dense(self.width, 1, 2 * self.top_dim, jnp.float32)

    def top(self, z):
        """z [latent_dim] -> mean and logvar [top_dim] of q(top|z)."""
        mean, logvar = jnp.split(self.up(z), 2)
        return (
            self.CORRELATION * z[: self.top_dim] + mean,
            jnp.log(1 - self.CORRELATION**2) + logvar,
        )

    def bottom(self, top):
        """top [top_dim] -> mean and logvar [latent_dim] of p(z|top)."""
        mean, logvar = jnp.split(self.down(top), 2)
        rest = (0, self.latent_dim - self.top_dim)
        start = jnp.full(self.top_dim, jnp.log(1 - self.CORRELATION**2))
        return jnp.pad(self.CORRELATION * top, rest) + mean, jnp.pad(start, rest) + logvar

    def __call__(self, z):
        """Touches every parameter, for `init`."""
        return self.bottom(self.top(z)[0])


def flow_of(config: Config) -> Flow:
    """The posterior's flow that a config describes."""
    objective = config.objective
    return Flow(config.latent_dim, objective.flow_layers, objective.latent_width)


def hierarchy_of(config: Config) -> Hierarchy:
    """The level above z that a config describes."""
    return Hierarchy(config.latent_dim, config.objective.top_dim, config.objective.latent_width)


# Priors


def init_prior(key, config: Config):
    """What is trained of the prior; {} of N(0, I)."""
    objective, latent_dim = config.objective, config.latent_dim
    count = objective.prior_components
    if objective.prior == "mixture":
        # Not all in one place: components with one gradient would stay one.
        return {
            "means": 0.1 * jax.random.normal(key, (count, latent_dim)),
            "logvars": jnp.zeros((count, latent_dim)),
            "logits": jnp.zeros(count),
        }
    if objective.prior == "vampprior":
        # Sounds of the linear path, in its coordinates; without one, any x.
        if config.model.ppca_clips and config.latent_frames == 1:
            shape = (count, config.model.num_directions)
            return {"coordinates": jax.random.normal(key, shape)}
        return {"inputs": jax.random.normal(key, (count, *config.shape))}
    if objective.prior == "hierarchical":
        return hierarchy_of(config).init(key, jnp.zeros(latent_dim))["params"]
    return {}


def components(params, linear, *, model, config: Config):
    """Log-weights [num], means and logvars [num, latent_dim] of a prior that is a mixture."""
    prior = params["prior"]
    if config.objective.prior == "mixture":
        return jax.nn.log_softmax(prior["logits"]), prior["means"], prior["logvars"]
    # VampPrior: the mean of the posteriors of pseudo-inputs (Tomczak & Welling 2018).
    nothing = jnp.zeros(linear.condition_dim)

    def posterior(pseudo):
        if "coordinates" in prior:
            pseudo = linear_path.at(linear, jnp.sqrt(linear.eigenvalues) * pseudo)
        return model.apply({"params": params["vae"]}, pseudo, nothing, linear, method="encode")

    (inputs,) = prior.values()
    means, logvars = jax.vmap(posterior)(inputs)
    return jnp.full(len(means), -jnp.log(len(means))), means, logvars


def mixture_log_density(z, log_weights, means, logvars):
    """log sum_k w_k N(z; mean_k, diag var_k).

    Args:
      log_weights: [num_components]. means, logvars: [num_components, latent_dim].

    Returns:
      By dimension, that of each alone, its marginal [latent_dim]; and what is missing to the whole.
    """
    each = -0.5 * ((z[None] - means) ** 2 * jnp.exp(-logvars) + logvars + LOG_2PI)
    marginals = logsumexp(log_weights[:, None] + each, axis=0)
    return marginals, logsumexp(log_weights + jnp.sum(each, 1)) - jnp.sum(marginals)


def hierarchical_log_density(weights, z, key, config: Config):
    """log p(z|t) + log p(t) - log q(t|z), t ~ q(t|z): at most log p(z) in expectation, and the
    weight of z and t together in the importance-weighted bound (Burda et al. 2016, two layers).

    Returns:
      log p(z|t) by dimension [latent_dim], and the rest [].
    """
    apply: Any = partial(hierarchy_of(config).apply, {"params": weights})
    mean, logvar = apply(z, method="top")
    eps = jax.random.normal(key, mean.shape)
    top = mean + jnp.exp(0.5 * logvar) * eps
    # log p(t) - log q(t|z), in which log 2 pi cancels.
    log_ratio = 0.5 * jnp.sum(eps**2 + logvar - top**2)
    mean, logvar = apply(top, method="bottom")
    return -0.5 * ((z - mean) ** 2 * jnp.exp(-logvar) + logvar + LOG_2PI), log_ratio


def prior_density(params, linear, *, model, config: Config) -> Mixture:
    """p(z) as what latents are drawn from. That of `hierarchical` is an integral over the level
    above z, for which TOP_DRAWS draws of it stand."""
    name, latent_dim = config.objective.prior, config.latent_dim
    if name == "standard":
        return priors.standard(latent_dim)
    if name == "hierarchical":
        tops = jax.random.normal(jax.random.key(0), (TOP_DRAWS, config.objective.top_dim))
        apply: Any = partial(hierarchy_of(config).apply, {"params": params["prior"]})
        means, logvars = jax.vmap(partial(apply, method="bottom"))(tops)
        log_weights = jnp.full(TOP_DRAWS, -jnp.log(TOP_DRAWS))
    else:
        log_weights, means, logvars = components(params, linear, model=model, config=config)
    return Mixture(log_weights, means, jax.vmap(jnp.diag)(jnp.exp(0.5 * logvars)))


# Posteriors


def init_posterior(key, config: Config):
    """What is trained of the posterior beside the encoder; {} of a Gaussian."""
    if config.objective.posterior == "gaussian":
        return {}
    u, context = jnp.zeros(config.latent_dim), jnp.zeros(2 * config.latent_dim)
    return flow_of(config).init(key, u, context)["params"]


def bend(weights, u, mean, logvar, config: Config):
    """`Flow.__call__`, told what the encoder said."""
    context = jnp.concatenate([mean, logvar])
    return flow_of(config).apply({"params": weights}, u, context)


def unbend(weights, u, mean, logvar, config: Config):
    """`Flow.inverse`, told what the encoder said."""
    context = jnp.concatenate([mean, logvar])
    return flow_of(config).apply({"params": weights}, u, context, method="inverse")


def moments(params, mean, logvar, config: Config):
    """Mean and log-variance [latent_dim] of q(z|x), of which the encoder said mean and logvar."""
    if config.objective.posterior == "gaussian":
        return mean, logvar
    eps = jax.random.normal(jax.random.key(0), (MOMENT_DRAWS // 2, config.latent_dim))
    # In pairs, so that what is not bent has exactly its mean.
    eps = jnp.concatenate([eps, -eps])
    bent, _ = jax.vmap(lambda u: bend(params["posterior"], u, mean, logvar, config))(eps)
    sigma = jnp.exp(0.5 * logvar)
    # Of the unbent draws the variance is known; theirs, with the same noise, corrects for it.
    variance = jnp.var(bent, 0) / jnp.var(eps, 0)
    return mean + sigma * jnp.mean(bent, 0), logvar + jnp.log(variance)
