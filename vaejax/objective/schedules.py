"""How far the weight of the KL term has grown at a step."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vaejax.config import Config, Objective
from vaejax.objective.record import always_works


class Schedule(NamedTuple):
    """How a weight grows."""

    ramp: Callable
    """(step [], objective) -> how far it has come, [] in 0..1."""
    check: Callable[[Config], str | None] = always_works
    """What is wrong with a config that asks for it; None for nothing."""


def linear_ramp(step, objective: Objective):
    """0 -> 1 in a straight line over beta_warmup_steps, then 1."""
    steps = objective.beta_warmup_steps
    return jnp.where(steps > 0, jnp.minimum(1.0, step / jnp.maximum(steps, 1)), 1.0)


def cyclical_ramp(step, objective: Objective):
    """The same again in every cycle of beta_cycle_steps (Fu et al. 2019)."""
    return linear_ramp(step % objective.beta_cycle_steps, objective)


def _check_cyclical(config: Config) -> str | None:
    rise, cycle = config.objective.beta_warmup_steps, config.objective.beta_cycle_steps
    if 0 < rise <= cycle:
        return None
    return (
        f"objective.schedule=cyclical needs a rise within each cycle, but beta_warmup_steps={rise} "
        f"and beta_cycle_steps={cycle}; try {config.train.num_steps // 8} and "
        f"{config.train.num_steps // 4}"
    )


# By the name that `objective.schedule` has.
SCHEDULES = {
    "linear": Schedule(linear_ramp),
    "cyclical": Schedule(cyclical_ramp, check=_check_cyclical),
}


def ramp_at(step, objective: Objective):
    """How far the schedule that a config names has come at a step: [] in 0..1."""
    return SCHEDULES[objective.schedule].ramp(step, objective)
