"""Priors p(z): N(0, I), or learned with the model.

All but the VampPrior are N(0, I), or near it, at the start. What `sample.py` draws from by default
is another thing: the density that `vaejax.latent.priors` fits to the aggregate posterior after
training.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from vaejax.config import Config
from vaejax.latent import priors
from vaejax.latent.priors import Mixture
from vaejax.models import linear as linear_path
from vaejax.models.latent import Hierarchy
from vaejax.objective.record import LOG_2PI, always_works, no_weights, plain

# The level above z has no formula for what is below it; so many draws of it stand for all.
TOP_DRAWS = 1024


class Prior(NamedTuple):
    """p(z)."""

    log_density: Callable
    """(z, key, context) -> log p(z) by dimension [latent_dim], and what does not go by dimension
    []: nats, which sum to it."""
    density: Callable[[Any], Mixture]
    """context -> the mixture that latents are drawn from."""
    gaussian_kl: Callable | None = None
    """(mean, logvar) -> KL(N(mean, exp(logvar)) || p) by dimension [latent_dim], in closed form;
    None where there is none."""
    init: Callable = no_weights
    """(key, config) -> what is trained of it: `params["prior"]`."""
    is_estimated: bool = False
    """Whether log_density is an estimate, from a draw of its own."""
    check: Callable[[Config], str | None] = always_works
    """What is wrong with a config that asks for it; None for nothing."""


# N(0, I)


def standard_log_density(z, key):
    """log N(z; 0, I)."""
    return -0.5 * (z**2 + LOG_2PI), jnp.zeros(())


def gaussian_kl(mean, logvar):
    """KL(N(mean, exp(logvar)) || N(0, 1)) per dimension (Kingma & Welling 2014, appendix B).

    Args:
      mean: [latent_dim].
      logvar: [latent_dim], natural log of the variance.

    Returns:
      [latent_dim] nats, >= 0; sum them for the KL term.
    """
    # 0.5 (mean^2 + var - 1 - log var); expm1 keeps its digits as logvar -> 0.
    return 0.5 * (mean**2 + jnp.expm1(logvar) - logvar)


# Mixtures of Gaussians with diagonal covariances


def mixture_prior(components: Callable, init: Callable) -> Prior:
    """A prior whose components(context) are log-weights [num], means and logvars
    [num, latent_dim]."""

    def density(at):
        log_weights, means, logvars = components(at)
        return Mixture(log_weights, means, jax.vmap(jnp.diag)(jnp.exp(0.5 * logvars)))

    return Prior(
        lambda z, key, at: mixture_log_density(z, *components(at)), density=density, init=init
    )


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


def _init_mixture(key, config: Config):
    shape = config.objective.prior_components, config.latent_dim
    # Not all in one place: components with one gradient would stay one.
    means = 0.1 * jax.random.normal(key, shape)
    return {"means": means, "logvars": jnp.zeros(shape), "logits": jnp.zeros(shape[0])}


def _mixture_components(at):
    prior = at.params["prior"]
    return jax.nn.log_softmax(prior["logits"]), prior["means"], prior["logvars"]


def _init_vampprior(key, config: Config):
    count = config.objective.prior_components
    # Sounds of the linear path, in its coordinates; without one, any x.
    if config.model.ppca_clips and config.latent_frames == 1:
        return {"coordinates": jax.random.normal(key, (count, config.model.num_directions))}
    return {"inputs": jax.random.normal(key, (count, *config.shape))}


def _vampprior_components(at):
    """The mean of the posteriors of pseudo-inputs (Tomczak & Welling 2018)."""
    prior, linear = at.params["prior"], at.fitted.linear
    nothing = jnp.zeros(linear.condition_dim)

    def posterior(pseudo):
        if "coordinates" in prior:
            pseudo = linear_path.at(linear, jnp.sqrt(linear.eigenvalues) * pseudo)
        return at.encode(pseudo, nothing)

    (inputs,) = prior.values()
    means, logvars = jax.vmap(posterior)(inputs)
    return jnp.full(len(means), -jnp.log(len(means))), means, logvars


# A second level of latents


def hierarchy_of(config: Config) -> Hierarchy:
    """The level above z that a config describes."""
    return Hierarchy(config.latent_dim, config.objective.top_dim, config.objective.latent_width)


def _init_hierarchy(key, config: Config):
    return hierarchy_of(config).init(key, jnp.zeros(config.latent_dim))["params"]


def hierarchical_log_density(z, key, at):
    """log p(z|t) + log p(t) - log q(t|z), t ~ q(t|z): at most log p(z) in expectation, and the
    weight of z and t together in the importance-weighted bound (Burda et al. 2016, two layers).

    Returns:
      log p(z|t) by dimension [latent_dim], and the rest [].
    """
    apply: Any = partial(hierarchy_of(at.config).apply, {"params": at.params["prior"]})
    mean, logvar = apply(z, method="top")
    eps = jax.random.normal(key, mean.shape)
    top = mean + jnp.exp(0.5 * logvar) * eps
    # log p(t) - log q(t|z), in which log 2 pi cancels.
    log_ratio = 0.5 * jnp.sum(eps**2 + logvar - top**2)
    mean, logvar = apply(top, method="bottom")
    return -0.5 * ((z - mean) ** 2 * jnp.exp(-logvar) + logvar + LOG_2PI), log_ratio


def _hierarchical_density(at):
    """An integral over the level above z, for which `TOP_DRAWS` draws of it stand."""
    tops = jax.random.normal(jax.random.key(0), (TOP_DRAWS, at.config.objective.top_dim))
    apply: Any = partial(hierarchy_of(at.config).apply, {"params": at.params["prior"]})
    means, logvars = jax.vmap(partial(apply, method="bottom"))(tops)
    log_weights = jnp.full(TOP_DRAWS, -jnp.log(TOP_DRAWS))
    return Mixture(log_weights, means, jax.vmap(jnp.diag)(jnp.exp(0.5 * logvars)))


def _check_hierarchy(config: Config) -> str | None:
    top_dim, latent_dim = config.objective.top_dim, config.latent_dim
    if top_dim <= latent_dim:
        return None
    return f"objective.top_dim={top_dim} must be at most the {latent_dim} dimensions of z"


# By the name that `objective.prior` has.
PRIORS = {
    "standard": Prior(
        plain(standard_log_density),
        density=lambda at: priors.standard(at.config.latent_dim),
        gaussian_kl=gaussian_kl,
    ),
    "mixture": mixture_prior(_mixture_components, init=_init_mixture),
    "vampprior": mixture_prior(_vampprior_components, init=_init_vampprior),
    "hierarchical": Prior(
        hierarchical_log_density,
        density=_hierarchical_density,
        init=_init_hierarchy,
        is_estimated=True,
        check=_check_hierarchy,
    ),
}


def draw(key, at):
    """One z [latent_dim] of p(z), without a gradient."""
    component_key, eps_key = jax.random.split(jax.random.fold_in(key, 2))
    density = jax.lax.stop_gradient(at.prior.density(at))
    chosen = jax.random.categorical(component_key, density.log_weights)
    eps = jax.random.normal(eps_key, (at.config.latent_dim,))
    return density.means[chosen] + density.cholesky[chosen] @ eps
