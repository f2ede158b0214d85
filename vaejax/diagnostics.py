"""What tells a researcher whether the latent is alive, and what to do where it is not."""

from collections.abc import Mapping

import numpy as np

# Burda et al. 2016: a dimension is active where the variance of its posterior mean exceeds 0.01.
ACTIVE_VARIANCE = 0.01


def active_units(mean_variance) -> int:
    """Number of latent dimensions in use.

    Args:
      mean_variance: [latent_dim], variance over sounds of the posterior mean.
    """
    return int(np.sum(np.asarray(mean_variance) > ACTIVE_VARIANCE))


def collapse_warning(kl: float, units: int, latent_dim: int) -> str | None:
    """A sentence for the screen where the latent is dead or nearly so, else None.

    Args:
      kl: nats per sound. units: active units. latent_dim: dimensions of z.
    """
    if units == 0 or kl < 0.05:
        return (
            f"the latent has collapsed: KL is {kl:.3g} nats and no dimension of {latent_dim} is in "
            "use, so every draw will be the same average sound; lower --objective.beta or raise "
            "--objective.beta_warmup_steps"
        )
    if units < latent_dim / 8:
        return (
            f"only {units} of {latent_dim} latent dimensions are in use; lower --objective.beta, "
            f"or save work with --model.latent_dim {max(2 * units, 2)}"
        )
    return None


def advice(
    step: int, held_out: Mapping[str, float], best: Mapping[str, float], latent_dim: int
) -> str:
    """What an evaluation says about a run, in a sentence or two.

    Args:
      step: of the evaluation. held_out: its figures.
      best: step and loss of the best evaluation so far, this one included.
      latent_dim: dimensions of z.
    """
    units, kl = int(held_out["active_units"]), held_out["kl"]
    text = collapse_warning(kl, units, latent_dim) or (
        f"the latent is alive: {units} of {latent_dim} dimensions are in use, KL is {kl:.4g} nats "
        "per sound"
    )
    if best["step"] < step:
        text += (
            f"; the held-out loss was best at step {int(best['step'])} ({best['loss']:.6g}, now "
            f"{held_out['loss']:.6g}), and the weights of that step are kept: where it goes on "
            "rising, the model is learning the training sounds by heart"
        )
    return text
