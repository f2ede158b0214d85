"""The loss of a batch: the one vmap over examples, and the only mean over them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from vaejax.config import Config
from vaejax.objective.bounds import BOUNDS
from vaejax.objective.context import bind
from vaejax.objective.regularizers import REGULARIZERS, Batch

# Folded into the key of an example, or of the first one of a batch.
DROPOUT, WHOLE = 3, 4


def example_terms(
    params, x, condition, fitted, key, *more, model, config: Config, train: bool = False
):
    """The terms of one example, see `elbo.example_terms`, by the bound that a config names.

    Args:
      params, fitted, model: see `context.Context`.
      more: arguments of the bound's own, see `Bound.with_gradient`.
      train: whether what the model leaves out at random is left out.
    """
    dropout = jax.random.fold_in(key, DROPOUT) if train else None
    at = bind(config, params, fitted, model, dropout)
    return at.bound.terms(x, condition, key, at, *more)


def batch_loss(
    params,
    batch,
    conditions,
    fitted,
    keys,
    *,
    model,
    config: Config,
    ramp=1.0,
    num_clips: int,
    carried: Any = None,
    train: bool = False,
    vmap: Callable = jax.vmap,
):
    """The loss of a batch, and the terms of each example.

    Args:
      params, fitted, model: see `context.Context`.
      batch: [batch, num_frames, ...].
      conditions: [batch, condition_dim].
      keys: [batch] of PRNG keys.
      ramp: [] in 0..1, of the schedule, see `schedules.ramp_at`.
      num_clips: sounds that the batch is drawn from.
      carried: what the regularizer carries, see `carried_of`; by default as at step 0.
      train: as in `example_terms`.
      vmap: of the examples; see `sharding.make_vmap`.

    Returns:
      loss [] in nats per example, and the terms with a leading batch axis, see `loss_of`.
    """
    one = partial(example_terms, model=model, config=config, train=train)
    given = params, batch, conditions, fitted, keys
    key = jax.random.fold_in(keys[0], WHOLE)

    def of(*more):
        axes = (None, 0, 0, None, 0, *(0 for _ in more))
        terms = vmap(one, in_axes=axes)(*given, *more)
        return Batch(terms, config, params, ramp, num_clips, key, carried or carried_of(config))

    first = of()
    loss, terms = loss_of(first)
    return BOUNDS[config.objective.bound].with_gradient(loss, first, of), terms


def loss_of(batch: Batch):
    """The loss of the terms of a batch.

    Returns:
      loss [] in nats per example (the negative ELBO, or its tighter bound, where beta is 1, the
      regularizer is kl and mel_weight 0), and the terms, with those of the whole batch.
    """
    objective = batch.config.objective
    more = REGULARIZERS[objective.regularizer].batch_terms(batch)
    batch = batch._replace(terms={**batch.terms, **more})
    mean = averaged(batch)
    loss = BOUNDS[objective.bound].loss(mean, batch)
    if objective.mel_weight:
        loss += objective.mel_weight * mean["mel_db"]
    return loss, batch.terms


def averaged(batch: Batch):
    """The terms, averaged over the examples."""
    return jax.tree.map(lambda term: jnp.mean(term, 0), batch.terms)


def figures(terms) -> dict[str, jax.Array]:
    """Means [] of the terms that are one number per example: what is logged."""
    arrays = {name: term for name, term in terms.items() if isinstance(term, jax.Array)}
    return {name: jnp.mean(term) for name, term in arrays.items() if term.ndim == 1}


def carried_after(batch: Batch) -> dict[str, Any]:
    """What the regularizer carries, after the step of a batch."""
    carry = REGULARIZERS[batch.config.objective.regularizer].carry
    return jax.lax.stop_gradient(carry(averaged(batch), batch))


def carried_of(config: Config) -> dict[str, Any]:
    """What the regularizer carries from step to step, at step 0; empty for most."""
    return REGULARIZERS[config.objective.regularizer].begin(config)
