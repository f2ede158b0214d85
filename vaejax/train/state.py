"""What a training step changes, and the keys that all of a run's randomness comes from."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax import codec
from vaejax.config import Config
from vaejax.objective import batch as objective
from vaejax.train import optimizers


class TrainState(NamedTuple):
    """What a step changes."""

    step: jax.Array
    """[] int32, steps done."""
    params: Any
    ema: Any
    """Moving average of params: what is evaluated and sampled from."""
    opt_state: Any
    first_bad_step: jax.Array
    """[] int32, the first step whose loss or gradient was not finite; -1 while there is none."""
    carried: dict[str, Any] = {}  # noqa: RUF012 - never written to
    """What the objective carries from step to step, see `Regularizer.begin`; empty for most."""


def keys_of(config: Config):
    """The keys of a run: (weights, order of the clips, all that is random about a visit)."""
    return jax.random.split(jax.random.key(config.train.seed), 3)


def create_state(config: Config, condition_dim: int = 0, layout: Any = None) -> TrainState:
    """The state before the first step, of a model that is told `condition_dim` numbers.

    Args:
      layout: how it lies on the devices, see `sharding.weights`; None for one.
    """

    @partial(jax.jit, out_shardings=layout)
    def init(key):
        params = codec.init(key, config, condition_dim)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=jax.tree.map(jnp.copy, params),
            opt_state=optimizers.create(config).init(params),
            first_bad_step=jnp.full((), -1, jnp.int32),
            carried=objective.carried_of(config),
        )

    return init(keys_of(config)[0])
