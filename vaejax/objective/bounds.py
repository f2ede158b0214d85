"""Bounds on log p(x): the ELBO of one draw of z, and tighter ones of several."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from vaejax.config import Config
from vaejax.objective import elbo
from vaejax.objective.priors import PRIORS
from vaejax.objective.record import always_works
from vaejax.objective.regularizers import REGULARIZERS, Batch


class Bound(NamedTuple):
    """What is made of draws of z."""

    terms: Callable
    """(x, condition, key, context) -> the terms of an example, see `elbo.example_terms`."""
    loss: Callable
    """(mean, Batch) -> [] nats per example. mean: the terms, averaged over the batch."""
    with_gradient: Callable = lambda loss, batch, again: loss
    """(loss, Batch, again) -> the loss with the gradient that it is to have. again: further
    arguments of `terms`, [batch, ...] each, -> the Batch of the terms with them."""
    check: Callable[[Config], str | None] = always_works
    """What is wrong with a config that asks for it; None for nothing."""


def _regularized(mean, batch: Batch):
    return REGULARIZERS[batch.config.objective.regularizer].loss(mean, batch)


def importance_terms(x, condition, key, at, share=None):
    """The terms of objective.num_draws draws of z.

    Args:
      x, condition, key: as in `elbo.example_terms`.
      share: [num_draws], of the gradient that goes back through each z, while log q(z|x) has one
        through z alone (Tucker et al. 2019); None for an ordinary gradient.

    Returns:
      `elbo.example_terms`, means over the draws (z the first of them); and draws, recon and kl of
      each, [num_draws].
    """
    mean, logvar = at.encode(x, condition)

    def one(key, share):
        z = at.posterior.draw(key, mean, logvar, at)
        if share is None:
            return elbo.draw_terms(z, x, condition, key, mean, logvar, at, exact=False)
        z = scale_gradient(z, share)
        flow, still, spread = jax.lax.stop_gradient((at.params["posterior"], mean, logvar))
        held = at._replace(params={**at.params, "posterior": flow})
        return elbo.draw_terms(z, x, condition, key, still, spread, held, exact=False)

    draws = jax.vmap(one)(jax.random.split(key, at.config.objective.num_draws), share)
    terms = jax.tree.map(lambda t: jnp.mean(t, 0), draws)
    each = {"recon": draws["recon"], "kl": draws["kl"]}
    return {**terms, "z": draws["z"][0], "draws": each, "mean": mean, "logvar": logvar}


@jax.custom_vjp
def scale_gradient(z, share):
    """z, whose gradient is multiplied by share []."""
    return z


scale_gradient.defvjp(
    lambda z, share: (z, share), lambda share, grad: (share * grad, jnp.zeros_like(share))
)


def log_weights(batch: Batch):
    """log of p(x|z) (p(z) / q(z|x))^beta, [batch, num_draws]."""
    return -(batch.terms["draws"]["recon"] + batch.beta * batch.terms["draws"]["kl"])


def importance_loss(mean, batch: Batch):
    """-log 1/k sum_i p(x|z_i) (p(z_i) / q(z_i|x))^beta (Burda et al. 2016, equation 8)."""
    bound = logsumexp(log_weights(batch), axis=1)
    return -jnp.mean(bound - jnp.log(batch.config.objective.num_draws))


def doubly_reparameterised(loss, batch: Batch, again: Callable):
    """The gradient of Tucker et al. 2019: with w_i the normalised weights of the draws, the decoder
    is moved by w_i and the encoder by w_i^2, through z alone."""
    shares = jax.lax.stop_gradient(jax.nn.softmax(log_weights(batch)))
    moved = -jnp.mean(jnp.sum(shares * log_weights(again(shares)), 1))
    return jax.lax.stop_gradient(loss - moved) + moved


def importance_bound(x, condition, key, at, *, num_draws: int):
    """The importance-weighted bound on log p(x), IWAE-k (Burda et al. 2016, equation 8).

        log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x),    z_i ~ q(z|x)

    In expectation the ELBO at k = 1, never falling in k, and log p(x) in the limit. It is a bound
    where p(x|z) is a density (`context.is_density`).

    Args:
      x, condition: as in `elbo.example_terms`.
      key: of the draws.
      num_draws: k; one decoding each.

    Returns:
      The bound [] in nats, and the mean of the k ELBOs [] in nats: what k = 1 says on average.
    """
    mean, logvar = at.encode(x, condition)

    def log_weight(key):
        z = at.posterior.draw(key, mean, logvar, at)
        terms = elbo.draw_terms(z, x, condition, key, mean, logvar, at, exact=False)
        return -terms["recon"] - terms["kl"]

    # One draw at a time: k decoded spectrograms would not fit for a large k.
    weights = jax.lax.map(log_weight, jax.random.split(key, num_draws))
    return logsumexp(weights) - jnp.log(num_draws), jnp.mean(weights)


def _check_importance(config: Config) -> str | None:
    objective = config.objective
    for name, plain in (("regularizer", "kl"), ("mel_weight", 0)):
        if (value := getattr(objective, name)) != plain:
            return (
                f"objective.bound={objective.bound} has no room for objective.{name}={value}; "
                f"leave it at {plain}, or take the bound elbo"
            )
    return None


def _check_dreg(config: Config) -> str | None:
    prior = config.objective.prior
    if PRIORS[prior].is_estimated:
        return (
            f"objective.bound=dreg is for one level of latents; with objective.prior={prior}, take "
            "iwae"
        )
    return _check_importance(config)


# By the name that `objective.bound` has.
BOUNDS = {
    "elbo": Bound(elbo.example_terms, _regularized),
    "iwae": Bound(importance_terms, importance_loss, check=_check_importance),
    "dreg": Bound(importance_terms, importance_loss, doubly_reparameterised, check=_check_dreg),
}
