"""The training step: clips in, updated state and metrics out.

    state, metrics = train_step(state, fitted, visits, config=config, num_clips=num_clips)

Step n draws its clips, augmentation and noise from (seed, n), so that resuming changes nothing and
the number of steps per dispatch nothing but rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vaejax import features, models
from vaejax.codec import Fitted
from vaejax.config import Config
from vaejax.data import batches
from vaejax.data.clips import augmented_clip
from vaejax.data.sounds import Sounds
from vaejax.devices import partwise
from vaejax.devices.sharding import ONE, Placement
from vaejax.features import conditions
from vaejax.objective import batch as objective
from vaejax.objective.regularizers import Batch
from vaejax.objective.schedules import ramp_at
from vaejax.train import diagnostics, optimizers
from vaejax.train.feed import Feed, Visits, make_feed
from vaejax.train.state import TrainState, keys_of

# Folded into the key of a visit for what is kept back of its facts. 0 and 1 are the keys that it is
# split into: with one of these, what is kept back would follow the noise of z.
DROP = 2


def example_at(key, pcm, length, facts, position, statistics, config: Config, condition_dim: int):
    """One visit of one clip: what the model sees, its condition and the key of its draw of z."""
    key = batches.example_key(key, position)
    augment_key, latent_key = jax.random.split(key)
    waveform, semitones = augmented_clip(augment_key, pcm, length, config)
    told = conditions.transpose(facts, semitones, condition=config.condition)
    told = conditions.drop(
        jax.random.fold_in(key, DROP), told, probability=config.condition.dropout
    )
    condition = conditions.encode(told, condition=config.condition, condition_dim=condition_dim)
    return features.x_of(waveform, statistics, config), condition, latent_key


def train_step(
    state: TrainState,
    fitted: Fitted,
    visits: Visits,
    *,
    config: Config,
    num_clips: int,
    vmap: Callable = jax.vmap,
):
    """One update.

    Args:
      visits: the clips of the step.
      num_clips: training clips that they are drawn from.
      vmap: of the examples; see `sharding.make_vmap`.

    Returns:
      The next state, and its metrics, see `metrics_of`.
    """
    model: Any = models.create_model(config)
    if config.train.remat:
        model = models.Rematerialized(model)
    ramp = ramp_at(state.step, config.objective)
    loss_of = partial(
        objective.batch_loss,
        model=model,
        config=config,
        ramp=ramp,
        num_clips=num_clips,
        carried=state.carried,
        train=True,
        vmap=vmap,
    )

    def gradient(visits: Visits):
        x, condition, keys = examples_of(visits, fitted, config, vmap)
        return jax.value_and_grad(loss_of, has_aux=True)(state.params, x, condition, fitted, keys)

    (loss, terms), grads = in_parts(gradient, config.train.grad_accumulation)(visits)
    params, ema, opt_state = optimizers.update(
        grads, state.params, state.ema, state.opt_state, config
    )
    whole = Batch(terms, config, state.params, ramp, num_clips, carried=state.carried)
    carried = objective.carried_after(whole)
    metrics = metrics_of(loss, grads, whole._replace(carried=carried), state.step)
    bad_step = first_bad_step(state, metrics)
    return TrainState(state.step + 1, params, ema, opt_state, bad_step, carried), metrics


def examples_of(visits: Visits, fitted: Fitted, config: Config, vmap: Callable = jax.vmap):
    """x [batch, ...], conditions [batch, condition_dim] and keys [batch] of the clips of a step."""
    example = partial(
        example_at,
        keys_of(config)[2],
        statistics=fitted.statistics,
        config=config,
        condition_dim=fitted.linear.condition_dim,
    )
    # What turns clips into examples takes more room than they do.
    prepare = partwise.vmap if vmap is jax.vmap else vmap
    return prepare(example)(*visits)


def first_bad_step(state: TrainState, metrics):
    """[] int32, of the state after a step with these metrics."""
    is_bad = ~(jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"]))
    # No sync with the host here: the loop reads the flag when it reads the metrics.
    return jnp.where(is_bad & (state.first_bad_step < 0), state.step, state.first_bad_step)


def metrics_of(loss, grads, batch: Batch, step) -> dict[str, jax.Array]:
    """What a step reports, all float32.

    Args:
      batch: the terms of the step's examples, with what is carried after it.

    Returns:
      loss, recon and kl in nats per example, sigma (of the likelihood, in units of x) and all other
      terms that are one number per example; what is carried, where that is a number; beta (as grown
      so far), grad_norm, learning_rate; kl_per_dim, mean_variance and variance (of the posterior
      means over the batch, and with their variances), see `diagnostics.per_dim`.
    """
    config, terms = batch.config, batch.terms
    kl_per_dim, mean_variance, variance = diagnostics.per_dim(
        terms["kl_per_dim"],
        terms["mean"],
        jnp.exp(terms["logvar"]),
        num_dims=config.model.latent_dim,
    )
    return {
        "loss": loss,
        **objective.figures(terms),
        **{name: value for name, value in batch.carried.items() if value.ndim == 0},
        "beta": config.objective.beta * batch.ramp,
        "grad_norm": optax.global_norm(grads),
        "learning_rate": optimizers.learning_rate(config)(step),
        "kl_per_dim": kl_per_dim,
        "mean_variance": mean_variance,
        "variance": variance,
    }


def in_parts(gradient, num_parts: int):
    """A gradient of a batch, computed for parts of it one after the other.

    Args:
      gradient: of a tree of rows [batch, ...]: (loss [], terms [batch, ...]), grads; loss and grads
        are means over the batch.
      num_parts: divides the batch. Part i has the rows i, i + num_parts, ..., so that each takes
        as much of what every device holds.

    Returns:
      A function with the same argument and results, within rounding.
    """
    if num_parts == 1:
        return gradient

    def accumulated(rows):
        parts = jax.tree.map(
            lambda x: x.reshape(len(x) // num_parts, num_parts, *x.shape[1:]).swapaxes(0, 1), rows
        )

        def add(total, part):
            (loss, terms), grads = gradient(part)
            return jax.tree.map(jnp.add, total, (loss, grads)), terms

        (loss, _), grads = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, grads))
        total, terms = jax.lax.scan(add, zeros, parts)
        loss, grads = jax.tree.map(lambda x: x / num_parts, total)
        terms = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), terms)
        return (loss, terms), grads

    return accumulated


def make_steps(
    config: Config,
    sounds: Sounds,
    fitted: Any,
    *,
    placement: Placement = ONE,
    feed: Feed | None = None,
    wrap: Callable[[Callable], Callable] = lambda step: step,
):
    """Compiles the loop's body over a training set.

    Args:
      fitted: what was fitted before training.
      placement: of the work on the devices.
      feed: of the clips; by default that of the config.
      wrap: from a step of one run, (state, fitted, resident, batch, config) -> (state, metrics), to
        a step of several without `config`, of which `fitted` may hold more than one run's.

    Returns:
      steps(state, step) -> (state, metrics averaged over the steps), which consumes the state and
      does the work of steps `step`, `step` + 1, ... And how many steps that is.
    """
    clips = feed or make_feed(config, sounds, placement)
    num_clips, steps_in = len(sounds.train_rows), config.train.steps_per_dispatch

    def one(state, fitted, resident, batch, config=config):
        visits = clips.take(resident, batch, state.step, config)
        options = {"config": config, "num_clips": num_clips, "vmap": placement.vmap}
        return train_step(state, fitted, visits, **options)

    step_on = wrap(one)

    def dispatch(state, fitted, resident, ahead):
        # A loop of one is no loop: on a CPU a scan costs the convolutions their threads.
        if steps_in == 1:
            return step_on(state, fitted, resident, ahead[0])
        stacked = jax.tree.map(lambda *columns: jnp.stack(columns), *ahead)
        state, metrics = jax.lax.scan(
            lambda state, batch: step_on(state, fitted, resident, batch), state, stacked, steps_in
        )
        return state, jax.tree.map(lambda m: jnp.mean(m, 0), metrics)

    compiled = jax.jit(dispatch, donate_argnums=0, out_shardings=placement.results)
    fitted = placement.put(fitted)

    def run(state, step: int):
        ahead = [clips.batch_at(at) for at in range(step, step + steps_in)]
        return compiled(state, fitted, clips.resident, ahead)

    return run, steps_in
