"""Optimizers, by name in `OPTIMIZERS`: how a gradient becomes new weights."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from vaejax.config import Config


class Optimizer(NamedTuple):
    """An optimizer, its learning rate, and which weights are evaluated."""

    create: Callable[[optax.Schedule, Config], optax.GradientTransformation]
    """(learning rate, config) -> of a gradient whose norm is clipped."""
    schedule: Callable[[Config], optax.Schedule] = lambda config: warmup_cosine(config)
    """config -> step [] -> learning rate []."""
    averaged: Callable = lambda average, params, opt_state, config: moving_average(
        average, params, config
    )
    """(average, params, optimizer's state, config) -> the next average: what is evaluated and
    sampled from."""


def warmup_cosine(config: Config) -> optax.Schedule:
    """Linear warm-up, then a cosine down to the final share of the peak."""
    train = config.train
    share = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=1.0,
        warmup_steps=min(train.warmup_steps, train.num_steps - 1),
        decay_steps=train.num_steps,
        end_value=train.final_learning_rate,
    )
    return lambda step: train.learning_rate * share(step)


def warmup_constant(config: Config) -> optax.Schedule:
    """Linear warm-up, above 0 from the first step on, then the peak."""
    train = config.train
    return lambda step: (
        train.learning_rate * jnp.minimum(1.0, (step + 1) / (train.warmup_steps + 1))
    )


def moving_average(average, params, config: Config):
    """Of the weights, by train.ema_decay."""
    decay = config.train.ema_decay
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, average, params)


def _adamw(learning_rate: optax.Schedule, config: Config):
    return optax.adamw(learning_rate, b2=0.99, weight_decay=config.train.weight_decay)


def _muon(learning_rate: optax.Schedule, config: Config):
    """Matrices by Muon, with updates as large as AdamW's (Liu et al. 2025); all others by AdamW."""
    return contrib.muon(
        learning_rate,
        weight_decay=config.train.weight_decay,
        adam_b2=0.99,
        consistent_rms=0.2,
    )


def _schedule_free(learning_rate: optax.Schedule, config: Config):
    """AdamW whose own average takes the place of a schedule and of a momentum (Defazio et al.
    2024)."""
    base = optax.adamw(learning_rate, b1=0.0, b2=0.99, weight_decay=config.train.weight_decay)
    return contrib.schedule_free(base, learning_rate)


# By the name that `train.optimizer` has.
OPTIMIZERS = {
    "adamw": Optimizer(_adamw),
    "muon": Optimizer(_muon),
    "schedule_free": Optimizer(
        _schedule_free,
        schedule=warmup_constant,
        averaged=lambda average, params, opt_state, config: contrib.schedule_free_eval_params(
            opt_state[-1], params
        ),
    ),
}


def create(config: Config) -> optax.GradientTransformation:
    """The optimizer that a config names, behind a clip of the gradient's norm."""
    # The loss is in nats per example, a sum over values; the norm is set per value so that it means
    # the same at any resolution.
    largest = config.train.clip_norm * math.prod(config.shape)
    optimizer = OPTIMIZERS[config.train.optimizer].create(learning_rate(config), config)
    return optax.chain(optax.clip_by_global_norm(largest), optimizer)


def learning_rate(config: Config) -> optax.Schedule:
    """step [] -> learning rate []."""
    return OPTIMIZERS[config.train.optimizer].schedule(config)


def update(grads, params, average, opt_state, config: Config) -> tuple[Any, Any, Any]:
    """One step of the weights.

    Returns:
      params, their average, and the optimizer's state.
    """
    updates, opt_state = create(config).update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    averaged = OPTIMIZERS[config.train.optimizer].averaged
    return params, averaged(average, params, opt_state, config), opt_state
