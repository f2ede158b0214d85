"""Single-example encoders and decoders (Flax linen), chosen by `model.kind`.

Every model has two methods: encode(x, condition, linear) -> mean, logvar of the posterior, and
decode(z, condition, linear) -> mean of the likelihood.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import Config
from vaejax.models import conv1d, conv2d, frames, latent, linear, waveform
from vaejax.models.linear import Linear
from vaejax.priors import Mixture

MODELS: dict[str, Callable[[Config], nn.Module]] = {
    "conv1d": conv1d.create,
    "conv2d": conv2d.create,
    "waveform": waveform.create,
    "frames": frames.create,
}


def create_model(config: Config) -> nn.Module:
    """The model that a config describes."""
    return MODELS[config.model.kind](config)


class Rematerialized(NamedTuple):
    """A model whose methods keep nothing for the gradient but their arguments."""

    model: nn.Module

    def apply(self, variables, *args, method: str):
        """As the model's, computed once more when the gradient asks for it."""
        return jax.checkpoint(partial(self.model.apply, method=method))(variables, *args)


def flat_path(config: Config, condition_dim: int = 0) -> Linear:
    """The linear path that adds nothing, in the sizes of a config."""
    if config.model.kind == "frames":
        return linear.flat(config.shape[1:], config.model.num_directions, condition_dim)
    return linear.flat(config.shape, config.num_directions, condition_dim)


def fit_path(x, conditions, config: Config) -> Linear:
    """The linear path fitted to sounds x [num_clips, *config.shape] under their conditions
    [num_clips, condition_dim]."""
    fit = linear.fit_frames if config.model.kind == "frames" else linear.fit
    model = config.model
    return fit(x, conditions, latent_dim=model.latent_dim, num_directions=model.num_directions)


def init(key, config: Config, condition_dim: int = 0) -> Any:
    """Weights of a model that is told `condition_dim` numbers."""
    x, condition = jnp.zeros(config.shape), jnp.zeros(condition_dim)
    path = flat_path(config, condition_dim)
    return create_model(config).init(key, x, condition, path)["params"]


def encode(params, x, condition, linear: Linear, *, config: Config):
    """Posterior mean and logvar, [latent_dim] each, of x [*config.shape] of which the model is
    told condition [condition_dim]; zeros for nothing."""
    variables = {"params": params["vae"]}
    mean, logvar = create_model(config).apply(variables, x, condition, linear, method="encode")
    return latent.moments(params, mean, logvar, config)


def prior_density(params, linear: Linear, *, config: Config) -> Mixture:
    """p(z) of the objective, N(0, I) or what was learned, as what latents are drawn from."""
    return latent.prior_density(params, linear, model=create_model(config), config=config)


def decode(params, z, condition, linear: Linear, *, config: Config) -> Any:
    """Mean of the likelihood [*config.shape] of a latent [latent_dim] under a condition
    [condition_dim]."""
    variables = {"params": params["vae"]}
    return create_model(config).apply(variables, z, condition, linear, method="decode")
