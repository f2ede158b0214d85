"""The scale sigma of a likelihood: learned, fixed, or the best one for each sound."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from vaejax.config import Config
from vaejax.objective.likelihoods import LIKELIHOODS
from vaejax.objective.record import always_works, no_weights


class Scale(NamedTuple):
    """A way to sigma."""

    log_sigma: Callable
    """(x, mean, context) -> natural logarithm of sigma: [], or broadcastable to x."""
    init: Callable = no_weights
    """(key, config) -> what is trained of it, in `params["likelihood"]`."""
    is_density: bool = True
    """Whether p(x|z) stays a density of x."""
    check: Callable[[Config], str | None] = always_works
    """What is wrong with a config that asks for it; None for nothing."""


def learned(x, mean, at):
    """That of the linear path, and a learned offset from it."""
    return 0.5 * jnp.log(at.fitted.linear.noise) + at.params["likelihood"]["log_sigma_offset"]


def optimal(x, mean, at):
    """Where p(x|z) is highest: the per-image variant of Rybkin et al. 2021, in closed form."""
    return at.likelihood.best_log_sigma(x, mean)


def fixed(x, mean, at):
    """objective.fixed_sigma."""
    return jnp.log(jnp.asarray(at.config.objective.fixed_sigma, jnp.float32))


def _check_per_bin(config: Config) -> str | None:
    name = config.objective.likelihood
    if LIKELIHOODS[name].has_bins:
        return None
    return f"objective.likelihood={name} is one distance, without bins; take objective.sigma=shared"


def _check_optimal(config: Config) -> str | None:
    name = config.objective.likelihood
    if LIKELIHOODS[name].best_log_sigma is not None:
        return None
    known = [name for name, each in LIKELIHOODS.items() if each.best_log_sigma is not None]
    return (
        f"objective.sigma=optimal is in closed form for {' and '.join(known)}, not for "
        f"objective.likelihood={name}; take shared"
    )


# By the name that `objective.sigma` has.
SCALES = {
    "shared": Scale(learned, init=lambda key, config: {"log_sigma_offset": jnp.zeros(())}),
    "per_bin": Scale(
        learned,
        init=lambda key, config: {"log_sigma_offset": jnp.zeros((1, *config.shape[1:]))},
        check=_check_per_bin,
    ),
    "optimal": Scale(optimal, is_density=False, check=_check_optimal),
    "fixed": Scale(fixed),
}
