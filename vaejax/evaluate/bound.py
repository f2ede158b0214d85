"""The importance-weighted bound of every system that is a density."""

import math
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from vaejax import codec, features, models
from vaejax.config import Config
from vaejax.data.clips import raw_clip
from vaejax.data.sounds import Sounds
from vaejax.evaluate.figures import of_mean
from vaejax.evaluate.systems import PCA, PPCA, VAEJAX, System, linear_config
from vaejax.objective.bounds import importance_bound
from vaejax.objective.context import bind
from vaejax.train import evaluation


def bounds(
    system: System, sounds: Sounds, rows, *, num_draws: int, config: Config
) -> tuple[np.ndarray, np.ndarray]:
    """IWAE-k and mean ELBO of sounds under a model, told all that is known: [len(rows)] nats each.

    A model whose posterior is exact needs one draw: every weight is the evidence itself.
    """
    assert system.weights is not None
    params, fitted = system.weights
    batched = (
        make_bound(linear_config(config), 1) if system.is_exact else make_bound(config, num_draws)
    )
    return evaluation.over_rows(partial(batched, params, fitted), sounds, rows)


@lru_cache
def make_bound(config: Config, num_draws: int):
    """Compiles `bounds.importance_bound` for a batch as `evaluation.over_rows` reads it."""

    @jax.jit
    def batched(params, fitted, clips, lengths, facts, rows):
        key = jax.random.key(config.train.seed)

        def one(columns):
            pcm, length, known, row = columns
            x = features.x_of(raw_clip(pcm, length, config), fitted.statistics, config)
            told = codec.condition_of(known, fitted, config)
            at = bind(config, params, fitted, models.create_model(config))
            row_key = jax.random.fold_in(key, row)
            return importance_bound(x, told, row_key, at, num_draws=num_draws)

        return jax.lax.map(one, (clips, lengths, facts, rows), batch_size=8)

    return batched


def bound_table(
    by_system: dict[str, tuple[np.ndarray, np.ndarray]], *, num_draws: int, config: Config
) -> dict[str, Any]:
    """System -> IWAE-k and ELBO in nats per sound, and in bits per spectrogram value."""
    per_bit = np.log(2) * math.prod(config.shape)
    table = {
        name: {
            "iwae": of_mean(iwae),
            "elbo": of_mean(elbo),
            "bits_per_value": of_mean(-iwae / per_bit),
            "sounds": len(iwae),
        }
        for name, (iwae, elbo) in by_system.items()
    }
    ours = by_system[VAEJAX][0]
    return {
        "num_draws": num_draws,
        "systems": table,
        "vaejax_minus": {
            name: of_mean(ours - by_system[name][0]) for name in (PPCA, PCA) if name in by_system
        },
    }
