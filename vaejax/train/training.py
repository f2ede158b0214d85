"""The training step: clips in, updated state and metrics out. The vmap and the jit.

    state, metrics = train_step(state, fitted, clips, lengths, positions)

Step n draws its clips, augmentation and noise from (seed, n), so that resuming changes nothing and
the number of steps per dispatch nothing but rounding.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vaejax import codec, features, models
from vaejax.codec import Fitted, condition_of
from vaejax.config import Config
from vaejax.data import batches
from vaejax.data.clips import augmented_clip, raw_clip
from vaejax.data.sounds import Sounds
from vaejax.data.stream import NUM_AHEAD, Reader, make_order
from vaejax.devices import partwise, sharding
from vaejax.features import conditions
from vaejax.objective import batch as objective
from vaejax.objective import context
from vaejax.objective.regularizers import Batch
from vaejax.objective.schedules import ramp_at
from vaejax.train import diagnostics, optimizers

# Folded into the key of a visit for what is kept back of its facts. 0 and 1 are the keys that it is
# split into: with one of these, what is kept back would follow the noise of z.
DROP = 2


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


def keys_of(config: Config):
    """The keys of a run: (weights, order of the clips, all that is random about a visit)."""
    return jax.random.split(jax.random.key(config.train.seed), 3)


def fit(sounds: Sounds, config: Config) -> Fitted:
    """Fits the statistics on raw training clips and the linear path on augmented ones."""
    size = config.train.batch_size
    train_rows = sounds.train_rows
    num_clips = len(train_rows)

    @jax.jit
    def raw(pcm, length, facts):
        return jax.vmap(partial(raw_clip, config=config))(pcm, length)

    def raw_batches():
        # Every clip is seen; the last batch is filled up from the start so that all have one shape.
        for start in range(0, num_clips, size):
            yield raw(*sounds.read(train_rows[np.arange(start, start + size) % num_clips]))

    statistics = features.fit_statistics(raw_batches(), config, num_clips=num_clips)
    if config.model.ppca_clips == 0:
        return Fitted(statistics, models.flat_path(config, sounds.told.condition_dim))

    _, order_key, visit_key = keys_of(config)
    example = partial(
        example_at, statistics=statistics, config=config, condition_dim=sounds.told.condition_dim
    )

    @partial(jax.jit, donate_argnums=0)
    def add(rows, key, start, pcm, length, facts, positions):
        new, told, _ = jax.vmap(partial(example, key))(pcm, length, facts, positions)
        return jax.lax.dynamic_update_slice_in_dim(rows, new, start, 0), told

    # The first visits of the training run itself, whole batches of them.
    count = -(-config.model.ppca_clips // size) * size
    rows, told = jnp.zeros((count, *config.shape)), []
    for start in range(0, count, size):
        positions = jnp.arange(start, start + size, dtype=jnp.uint32)
        index = np.asarray(batches.shuffled_indices(order_key, positions, num_clips=num_clips))
        rows, batch_told = add(rows, visit_key, start, *sounds.read(train_rows[index]), positions)
        told.append(batch_told)
    return Fitted(statistics, models.fit_path(rows, jnp.concatenate(told), config))


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


def train_step(
    state: TrainState,
    fitted: Fitted,
    clips,
    lengths,
    facts,
    positions,
    *,
    config: Config,
    num_clips: int,
    vmap: Callable = jax.vmap,
    prepare: Callable = partwise.vmap,
):
    """One update.

    Args:
      clips: [batch, pack_samples] int16.
      lengths: [batch] int32.
      facts: [batch, num_facts], what is known of them.
      positions: [batch] uint32, `batches.positions_at(state.step)`.
      num_clips: training clips that the batch is drawn from.
      vmap: of the examples; see `sharding.make_vmap`.
      prepare: the same for what turns clips into examples, which takes more room than they do.

    Returns:
      The next state, and metrics, all float32: loss, recon and kl in nats per example, sigma (of
      the likelihood, in units of x) and all other terms that are one number per example; what is
      carried, where that is a number; beta (as grown so far), grad_norm, learning_rate; kl_per_dim,
      mean_variance and variance (of the posterior means over the batch, and with their variances),
      see `diagnostics.per_dim`.
    """
    model: Any = models.create_model(config)
    if config.train.remat:
        model = models.Rematerialized(model)
    visit_key = keys_of(config)[2]
    example = partial(
        example_at,
        visit_key,
        statistics=fitted.statistics,
        config=config,
        condition_dim=fitted.linear.condition_dim,
    )
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

    def gradient(clips, lengths, facts, positions):
        batch, told, keys = prepare(example)(clips, lengths, facts, positions)
        return jax.value_and_grad(loss_of, has_aux=True)(state.params, batch, told, fitted, keys)

    gradient = in_parts(gradient, config.train.grad_accumulation)
    (loss, terms), grads = gradient(clips, lengths, facts, positions)
    grad_norm = optax.global_norm(grads)
    params, ema, opt_state = optimizers.update(
        grads, state.params, state.ema, state.opt_state, config
    )
    whole = Batch(terms, config, state.params, ramp, num_clips, carried=state.carried)
    carried = objective.carried_after(whole)
    # No sync with the host here: the loop reads the flag when it reads the metrics.
    is_bad = ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
    first_bad_step = jnp.where(
        is_bad & (state.first_bad_step < 0), state.step, state.first_bad_step
    )
    kl_per_dim, mean_variance, variance = diagnostics.per_dim(
        terms["kl_per_dim"],
        terms["mean"],
        jnp.exp(terms["logvar"]),
        num_dims=config.model.latent_dim,
    )
    metrics = {
        "loss": loss,
        **objective.figures(terms),
        **{name: value for name, value in carried.items() if value.ndim == 0},
        "beta": config.objective.beta * ramp,
        "grad_norm": grad_norm,
        "learning_rate": optimizers.learning_rate(config)(state.step),
        "kl_per_dim": kl_per_dim,
        "mean_variance": mean_variance,
        "variance": variance,
    }
    return TrainState(state.step + 1, params, ema, opt_state, first_bad_step, carried), metrics


def in_parts(gradient, num_parts: int):
    """A gradient of a batch, computed for parts of it one after the other.

    Args:
      gradient: of columns [batch, ...]: (loss [], terms [batch, ...]), grads; loss and grads are
        means over the batch.
      num_parts: divides the batch. Part i has the rows i, i + num_parts, ..., so that each takes
        as much of what every device holds.

    Returns:
      A function with the same arguments and results, within rounding.
    """
    if num_parts == 1:
        return gradient

    def accumulated(*columns):
        parts = jax.tree.map(
            lambda x: x.reshape(len(x) // num_parts, num_parts, *x.shape[1:]).swapaxes(0, 1),
            columns,
        )

        def add(total, part):
            (loss, terms), grads = gradient(*part)
            return jax.tree.map(jnp.add, total, (loss, grads)), terms

        (loss, _), grads = jax.eval_shape(gradient, *jax.tree.map(lambda x: x[0], parts))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (loss, grads))
        total, terms = jax.lax.scan(add, zeros, parts)
        loss, grads = jax.tree.map(lambda x: x / num_parts, total)
        terms = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), terms)
        return (loss, terms), grads

    return accumulated


def make_steps(
    config: Config,
    sounds: Sounds,
    fitted: Fitted,
    *,
    mesh: jax.sharding.Mesh | None = None,
    layout: Any = None,
):
    """Compiles the loop's body over a training set, on the devices if it fits, else streamed.

    Args:
      mesh: of the devices that share every batch; None for one.
      layout: of the state on them, see `sharding.weights`.

    Returns:
      steps(state, step) -> (state, metrics averaged over the steps), which consumes the state and
      does the work of steps `step`, `step` + 1, ... And how many steps that is.
    """
    rows = sounds.train_rows
    num_clips, batch_size = len(rows), config.train.batch_size
    order_key = keys_of(config)[1]
    vmap = sharding.make_vmap(mesh)
    prepare = partwise.vmap if mesh is None else vmap
    compiled = partial(train_step, config=config, num_clips=num_clips, vmap=vmap, prepare=prepare)
    everywhere = sharding.replicated(mesh)
    fitted = fitted if mesh is None else sharding.put(fitted, everywhere)
    jit = partial(
        jax.jit,
        donate_argnums=0,
        out_shardings=None if mesh is None else (layout, everywhere),
    )
    fits = num_clips * config.pack_samples * 2 <= config.data.device_budget_mb * 2**20
    # A loop of one is no loop: on a CPU a scan costs the convolutions their threads.
    steps_in = config.train.steps_per_dispatch

    def scanned(one_step, state, columns):
        state, metrics = jax.lax.scan(one_step, state, columns, length=steps_in)
        return state, jax.tree.map(lambda m: jnp.mean(m, 0), metrics)

    if not fits:
        order = make_order(order_key, num_clips=num_clips)
        own = sharding.local_rows(batch_size) if mesh is not None else slice(None)

        def read(step: int):
            positions = np.uint32(step * batch_size) + np.arange(batch_size, dtype=np.uint32)[own]
            return *sounds.read(rows[order(positions)]), positions

        def streamed(state, fitted, steps):
            if steps_in == 1:
                return compiled(state, fitted, *steps[0])
            steps = jax.tree.map(lambda *columns: jnp.stack(columns), *steps)
            return scanned(lambda s, columns: compiled(s, fitted, *columns), state, steps)

        put = partial(sharding.put_rows, mesh=mesh)
        num_ahead = max(NUM_AHEAD, 2 * steps_in)
        reader = Reader(read, config.train.num_steps, put, num_ahead)
        steps_on = jit(streamed)

        def run(state, step: int):
            ahead = [reader.batch_at(at) for at in range(step, step + steps_in)]
            return steps_on(state, fitted, ahead)

        return run, steps_in

    # All of it on every device: an epoch's order asks each of them for any clip.
    resident = sharding.put(sounds.read(rows), everywhere)

    def clip_at(position, resident):
        index = batches.shuffled_index(order_key, position, num_clips=num_clips)
        return tuple(column[index] for column in resident)

    def one(state, fitted, resident):
        positions = batches.positions_at(state.step, batch_size=batch_size)
        clips, lengths, facts = vmap(clip_at, in_axes=(0, None))(positions, resident)
        return compiled(state, fitted, clips, lengths, facts, positions)

    def many(state, fitted, resident):
        return scanned(lambda s, _: one(s, fitted, resident), state, None)

    steps_on = jit(one if steps_in == 1 else many)
    return lambda state, step: steps_on(state, fitted, resident), steps_in


def eval_step(params, fitted: Fitted, clips, lengths, facts, rows, *, config: Config):
    """The terms of raw clips under noise that is the same at every evaluation.

    Args:
      clips: [batch, pack_samples] int16. lengths: [batch] int32. facts: [batch, num_facts], all
        of which the model is told.
      rows: [batch] int32, row of each clip in the set: its noise is drawn from (seed, row).

    Returns:
      `elbo.example_terms` and `diagnostics.errors` with a leading batch axis, and `moments`,
      mean and variance of the posteriors, [batch, latent_dim] each.
    """
    model = models.create_model(config)
    key = jax.random.key(config.train.seed)

    def seen(pcm, length):
        return features.x_of(raw_clip(pcm, length, config), fitted.statistics, config)

    def one(x, known, row):
        told = condition_of(known, fitted, config)
        row_key = jax.random.fold_in(key, row)
        terms = objective.example_terms(
            params, x, told, fitted, row_key, model=model, config=config
        )
        said = terms["mean"], terms["logvar"]
        mean, logvar = context.posterior_moments(params, *said, config=config)
        rebuilt = models.decode(params, mean, told, fitted.linear, config=config)
        errors = diagnostics.errors(
            x, rebuilt, told, fitted.linear, latent_dim=config.model.latent_dim
        )
        return {**terms, "errors": errors, "moments": (mean, jnp.exp(logvar))}

    return jax.vmap(one)(partwise.vmap(seen)(clips, lengths), facts, rows)
