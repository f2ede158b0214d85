"""What stands beside the reconstruction: the KL term, in one of several ways.

A loss is a function of the terms of a batch, averaged over its examples; it applies the weights. A
regularizer may have terms of its own: of an example, or of the whole batch. All terms that are one
number per example are logged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from vaejax.config import Config
from vaejax.objective import priors
from vaejax.objective.elbo import negative_elbo
from vaejax.objective.posteriors import POSTERIORS
from vaejax.objective.record import LOG_2PI, always_works, no_weights


class Batch(NamedTuple):
    """The terms of a batch, and what a loss may need beside them."""

    terms: dict[str, Any]
    """`elbo.example_terms` with a leading batch axis."""
    config: Config
    params: Any
    """The weights, those of the regularizer in `params["regularizer"]`."""
    ramp: jax.Array | float
    """[] in 0..1, of the schedule."""
    num_clips: int
    """Sounds that the batch is drawn from."""
    key: Any = None
    """Of what is drawn for the batch as a whole."""
    carried: Any = {}  # noqa: RUF012 - never written to
    """What the regularizer carries from step to step."""

    @property
    def beta(self):
        """Weight of the KL term at this step."""
        return self.config.objective.beta * self.ramp


class Regularizer(NamedTuple):
    """A loss, and what it needs."""

    loss: Callable
    """(mean, Batch) -> [] nats per example. mean: the terms, averaged over the batch."""
    way_out: str
    """What to change where the latent is held down too much: settings, in words."""
    terms: Callable = lambda x, decoded, key, at: {}
    """(x, decoder's answer, key, context) -> further terms of an example."""
    batch_terms: Callable = lambda batch: {}
    """Batch -> terms that need the whole batch, [batch] each."""
    init: Callable = no_weights
    """(key, config) -> what is trained of it: `params["regularizer"]`."""
    begin: Callable[[Config], dict[str, Any]] = lambda config: {}
    """config -> what it carries from step to step, at step 0: arrays, of which numbers are
    logged."""
    carry: Callable = lambda mean, batch: batch.carried
    """(mean, Batch) -> the same after a step."""
    splits: bool = False
    """Whether the loss of a batch is the mean of those of its parts."""
    check: Callable[[Config], str | None] = always_works
    """What is wrong with a config that asks for it; None for nothing."""


def free_bits(mean, batch: Batch):
    """sum_d max(free_bits, kl_d) for the KL term (Kingma et al. 2016, appendix C.8)."""
    missing = jnp.maximum(batch.config.objective.free_bits - mean["kl_per_dim"], 0)
    return mean["recon"] + batch.beta * (mean["kl"] + jnp.sum(missing))


def capacity(mean, batch: Batch):
    """Burgess et al. 2018; what grows is the capacity, not its weight."""
    objective = batch.config.objective
    distance = jnp.abs(mean["kl"] - batch.ramp * objective.capacity)
    return mean["recon"] + objective.beta * distance


def tc_loss(mean, batch: Batch):
    """Chen et al. 2018, equation 4, with alpha = gamma = 1."""
    weight = batch.ramp * batch.config.objective.tc_weight
    return mean["recon"] + (batch.beta * mean["kl"] + weight * mean["tc"])


def total_correlation(z, mean, logvar, *, num_clips):
    """KL(q(z) || prod_d q(z_d)), of which the mean over examples is an estimate: [batch] nats.

    Chen et al. 2018, equation 2, by minibatch stratified sampling (their appendix C.2): of the
    num_clips posteriors that q(z) is the mean of, a sound's own is known, and the others of the
    batch stand for all others. Exact where the batch is the set.

    Args:
      z: [batch, latent_dim], a draw from each posterior. mean, logvar: of these, likewise.
    """
    size = len(z)
    difference = z[:, None] - mean[None]  # [draws, posteriors, latent_dim]
    logvar = logvar[None]
    log_q = -0.5 * (difference**2 * jnp.exp(-logvar) + logvar + LOG_2PI)
    own = jnp.eye(size, dtype=bool)
    others = (1 - 1 / num_clips) / max(size - 1, 1)
    log_weights = jnp.log(jnp.where(own, 1 / num_clips, others))
    joint = logsumexp(log_weights + jnp.sum(log_q, 2), axis=1)
    return joint - jnp.sum(logsumexp(log_weights[:, :, None] + log_q, axis=1), axis=1)


def _tc_terms(batch: Batch):
    z, mean, logvar = (batch.terms[name] for name in ("z", "mean", "logvar"))
    return {"tc": total_correlation(z, mean, logvar, num_clips=batch.num_clips)}


def _check_tc(config: Config) -> str | None:
    if POSTERIORS[config.objective.posterior].is_gaussian:
        return None
    return (
        "objective.regularizer=tc needs the density of one dimension at a time, which "
        f"objective.posterior={config.objective.posterior} does not have; take gaussian"
    )


def mmd_loss(mean, batch: Batch):
    """InfoVAE (Zhao et al. 2019), with beta = 1 - alpha."""
    weight = batch.ramp * batch.config.objective.mmd_weight
    return mean["recon"] + (batch.beta * mean["kl"] + weight * mean["mmd"])


def maximum_mean_discrepancy(z, prior_z):
    """MMD^2 between q(z) and p(z), of which the mean over examples is an estimate: [batch].

        k(a, b) = exp(-|a - b|^2 / (2 latent_dim))                     Zhao et al. 2019

    Unbiased by leaving out each draw's distance to itself (Gretton et al. 2012, lemma 6).

    Args:
      z, prior_z: [batch, latent_dim], draws from the posteriors and from p(z).
    """
    size, latent_dim = z.shape

    def kernel(a, b):
        return jnp.exp(-jnp.sum((a[:, None] - b[None]) ** 2, 2) / (2 * latent_dim))

    def among(a):
        return (jnp.sum(kernel(a, a), 1) - 1) / max(size - 1, 1)

    across = kernel(z, prior_z)
    return among(z) + among(prior_z) - jnp.mean(across, 1) - jnp.mean(across, 0)


def _mmd_terms(batch: Batch):
    return {"mmd": maximum_mean_discrepancy(batch.terms["z"], batch.terms["prior_z"])}


# By the name that `objective.regularizer` has.
REGULARIZERS = {
    "kl": Regularizer(
        negative_elbo,
        way_out="lower --objective.beta or raise --objective.beta_warmup_steps",
        splits=True,
    ),
    "free_bits": Regularizer(
        free_bits, way_out="raise --objective.free_bits or lower --objective.beta"
    ),
    "capacity": Regularizer(capacity, way_out="raise --objective.capacity"),
    "tc": Regularizer(
        tc_loss,
        way_out="lower --objective.tc_weight or --objective.beta",
        batch_terms=_tc_terms,
        check=_check_tc,
    ),
    "mmd": Regularizer(
        mmd_loss,
        way_out="lower --objective.beta",
        terms=lambda x, decoded, key, at: {"prior_z": priors.draw(key, at)},
        batch_terms=_mmd_terms,
    ),
}
