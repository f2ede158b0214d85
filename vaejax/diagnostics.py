"""What tells a researcher whether the latent is alive."""

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
