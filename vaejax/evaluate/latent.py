"""The latent of a run: its rate, and what each dimension of it does."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import features, models
from vaejax.data.sounds import Sounds
from vaejax.evaluate.factors import factor_recovery, known_factors
from vaejax.evaluate.figures import of_mean
from vaejax.run.load import Run
from vaejax.train import diagnostics, evaluation
from vaejax.train.evaluation import eval_step

# Sounds at which the effects of the dimensions are measured.
EFFECT_SOUNDS = 8
EFFECTS = ("size", "level", "centroid", "attack", "pitch", "pitch_share", "hertz", "time")


def latent_table(run: Run, sounds: Sounds, rows, *, is_own: bool) -> dict[str, Any]:
    """All figures of the latent, ready for JSON.

    Args:
      sounds: those that are judged, at `rows`; whether they are the run's own.

    Returns:
      distortion (recon) and rate (kl) in nats per sound and in bits per value, with intervals; the
      figures of `diagnostics.latent_figures` and `explained`; effects, the dimensions in the order
      of their size; and where the sounds are the run's own and have known factors, factors: the R2
      of each, see `factor_recovery`.
    """
    config, (params, fitted, *_) = run.config, run.instrument

    @jax.jit
    def terms(params, fitted, clips, lengths, facts, rows):
        return eval_step(params, fitted, clips, lengths, facts, rows, config=config)

    measured = evaluation.over_rows(partial(terms, params, fitted), sounds, rows)
    per_bit = math.log(2) * math.prod(config.shape)
    means, variances = measured["moments"]
    figures = {
        "distortion": of_mean(measured["recon"]),
        "rate": of_mean(measured["kl"]),
        "distortion_bits_per_value": of_mean(measured["recon"] / per_bit),
        "rate_bits_per_value": of_mean(measured["kl"] / per_bit),
        **diagnostics.latent_figures(params, measured, config),
        **diagnostics.explained(measured["errors"], config),
        "kl_per_dim": [round(float(kl), 4) for kl in measured["kl_per_dim"].mean(0)],
        "effects": effects(run, means, np.sqrt(means.var(0) + variances.mean(0))),
    }
    if is_own and run.posteriors is not None and sounds.corpus.factors:
        known = known_factors(sounds)
        # Told the same of the training sounds as of the judged ones: z then says less.
        posteriors = run.told.posteriors if run.told is not None else run.posteriors
        figures["factors"] = factor_recovery(
            posteriors.means,
            {name: values[posteriors.rows] for name, values in known.items()},
            means,
            {name: values[rows] for name, values in known.items()},
        )
    return figures


def effects(run: Run, means, scale) -> list[dict[str, float]]:
    """What a step of one standard deviation along each dimension does to a sound, to first order.

    Args:
      means: [num, latent_dim], where sounds lie. scale: [latent_dim], the standard deviation of the
        aggregate posterior.

    Returns:
      The figures of `diagnostics.effects`, the median of some of the sounds, and kept apart by
      dimension, the largest first.
    """
    config, (params, fitted, *_) = run.config, run.instrument
    nothing = jnp.zeros(fitted.linear.condition_dim)

    @jax.jit
    def measure(params, fitted, some, scale):
        def magnitude_of(z):
            x = models.decode(params, z, nothing, fitted.linear, config=config)
            return features.magnitude_of(x, fitted.statistics, config)

        return jax.lax.map(
            lambda z: diagnostics.effects(
                magnitude_of,
                z,
                scale,
                sample_rate=config.data.sample_rate,
                seconds=config.features.hop_length / config.data.sample_rate,
            ),
            some,
        )

    chosen = np.linspace(0, len(means) - 1, min(EFFECT_SOUNDS, len(means))).round().astype(int)
    found = measure(params, fitted, means[chosen], scale.astype(np.float32))
    # The median: next to silence a step is many times the sound, and one such sound is a mean.
    typical = {name: np.median(np.asarray(found[name], np.float64), 0) for name in EFFECTS}
    order = np.argsort(-typical["size"], kind="stable")
    return [
        {"dimension": int(i), **{name: round(float(typical[name][i]), 4) for name in EFFECTS}}
        for i in order
    ]
