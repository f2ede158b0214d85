"""What is fitted once, before training: the statistics of x and the linear path."""

import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import features, models
from vaejax.codec import Fitted
from vaejax.config import Config
from vaejax.data import batches
from vaejax.data.clips import raw_clip
from vaejax.data.sounds import Sounds
from vaejax.devices import hosts
from vaejax.run import arrays
from vaejax.train import evaluation
from vaejax.train.state import keys_of
from vaejax.train.step import example_at


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


def fit_once(config: Config, workdir: Path, sounds: Sounds) -> Fitted:
    """What is fitted before training, from the run folder or into it."""

    def fit_and_save() -> None:
        if (workdir / "fitted.npz").exists():
            return
        begun = time.time()
        fitted = fit(sounds, config)
        arrays.save_fitted(workdir, fitted, evaluation.fit_embedding(sounds, config))
        print(f"fitted statistics and linear path in {time.time() - begun:.1f} s", flush=True)

    hosts.on_first(fit_and_save)
    return arrays.load_fitted(workdir)[0]
