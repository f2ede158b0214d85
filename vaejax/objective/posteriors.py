"""Posteriors q(z|x), of which the encoder says mean and logvar."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vaejax.config import Config
from vaejax.models.latent import Flow
from vaejax.objective.record import LOG_2PI, always_works, no_weights, plain

# Draws, of a key that is always the same, from which a bent posterior has its mean and variance.
MOMENT_DRAWS = 64


class Posterior(NamedTuple):
    """q(z|x). mean and logvar are the encoder's, [latent_dim] each."""

    draw: Callable
    """(key, mean, logvar, context) -> z [latent_dim], with a gradient."""
    log_density: Callable
    """(z, mean, logvar, context) -> log q(z|x) of any z by dimension: [latent_dim] nats, which sum
    to the density."""
    moments: Callable = lambda mean, logvar, at: (mean, logvar)
    """(mean, logvar, context) -> mean and log-variance of q(z|x), [latent_dim] each."""
    init: Callable = no_weights
    """(key, config) -> what is trained of it beside the encoder: `params["posterior"]`."""
    is_gaussian: bool = False
    """Whether it is N(mean, diag exp(logvar)), for what is in closed form."""
    check: Callable[[Config], str | None] = always_works
    """What is wrong with a config that asks for it; None for nothing."""


def reparameterize(key, mean, logvar):
    """z = mean + sigma * eps, eps ~ N(0, I): a draw with a gradient (Kingma & Welling 2014)."""
    eps = jax.random.normal(key, mean.shape)
    return mean + jnp.exp(0.5 * logvar) * eps


def gaussian_log_density(z, mean, logvar):
    """log N(z; mean, diag exp(logvar)) by dimension."""
    u = (z - mean) * jnp.exp(-0.5 * logvar)
    return -0.5 * (u**2 + LOG_2PI) - 0.5 * logvar


# z = mean + sigma * f(eps), eps ~ N(0, I): f is a flow that is told what the encoder said (Rezende
# & Mohamed 2015).


def flow_of(config: Config) -> Flow:
    """The flow that a config describes."""
    objective = config.objective
    return Flow(config.latent_dim, objective.flow_layers, objective.latent_width)


def _init_flow(key, config: Config):
    u, context = jnp.zeros(config.latent_dim), jnp.zeros(2 * config.latent_dim)
    return flow_of(config).init(key, u, context)["params"]


def bend(u, mean, logvar, at, *, method=None):
    """`Flow.__call__`, or its inverse, told what the encoder said."""
    variables = {"params": at.params["posterior"]}
    return flow_of(at.config).apply(variables, u, jnp.concatenate([mean, logvar]), method=method)


def draw_flow(key, mean, logvar, at):
    """A draw from the bent Gaussian."""
    bent, _ = bend(jax.random.normal(key, mean.shape), mean, logvar, at)
    return mean + jnp.exp(0.5 * logvar) * bent


def flow_log_density(z, mean, logvar, at):
    """log N(eps; 0, I) less the logarithm of how much the flow stretches."""
    u, stretched = bend((z - mean) * jnp.exp(-0.5 * logvar), mean, logvar, at, method="inverse")
    return -0.5 * (u**2 + LOG_2PI) - stretched - 0.5 * logvar


def flow_moments(mean, logvar, at):
    """Mean and log-variance of the bent Gaussian, from `MOMENT_DRAWS` draws."""
    eps = jax.random.normal(jax.random.key(0), (MOMENT_DRAWS // 2, at.config.latent_dim))
    # In pairs, so that what is not bent has exactly its mean.
    eps = jnp.concatenate([eps, -eps])
    bent, _ = jax.vmap(lambda u: bend(u, mean, logvar, at))(eps)
    sigma = jnp.exp(0.5 * logvar)
    # Of the unbent draws the variance is known; theirs, with the same noise, corrects for it.
    variance = jnp.var(bent, 0) / jnp.var(eps, 0)
    return mean + sigma * jnp.mean(bent, 0), logvar + jnp.log(variance)


# By the name that `objective.posterior` has.
POSTERIORS = {
    "gaussian": Posterior(plain(reparameterize), plain(gaussian_log_density), is_gaussian=True),
    "flow": Posterior(draw_flow, flow_log_density, flow_moments, init=_init_flow),
}
