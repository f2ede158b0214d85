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
from vaejax.models import conv1d, conv2d, frames, linear, waveform
from vaejax.models.linear import Linear

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

    def apply(self, variables, *args, method: str, rngs=None):
        """As the model's, computed once more when the gradient asks for it."""
        run = jax.checkpoint(partial(self.model.apply, method=method))
        return run(variables, *args, rngs=rngs)


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


def apply(model, params, given, condition, linear: Linear, *, method: str, dropout=None) -> Any:
    """`encode` or `decode` of a model.

    Args:
      dropout: key of what is left out at random in training, where a layer asks for it
        (`nn.Dropout(rate, deterministic=not self.has_rng("dropout"))`); None leaves out nothing.
    """
    rngs = {} if dropout is None else {"rngs": {"dropout": dropout}}
    return model.apply({"params": params["vae"]}, given, condition, linear, method=method, **rngs)


def encode(params, x, condition, linear: Linear, *, config: Config):
    """What the encoder says of x [*config.shape] of which it is told condition [condition_dim],
    zeros for nothing: mean and logvar, [latent_dim] each. See also `objective.context.encode`."""
    return apply(create_model(config), params, x, condition, linear, method="encode")


def decode(params, z, condition, linear: Linear, *, config: Config) -> Any:
    """Mean of the likelihood [*config.shape] of a latent [latent_dim] under a condition
    [condition_dim]."""
    return apply(create_model(config), params, z, condition, linear, method="decode")
