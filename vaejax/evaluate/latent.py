"""The latent of a run: its rate, what each dimension of it does, and which factors it holds."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import attributes, diagnostics, evaluation, features, models, training
from vaejax.checkpoint import Run
from vaejax.data.families import FAMILIES, LOG_UNIFORM
from vaejax.data.sounds import Sounds
from vaejax.evaluate.figures import of_mean

# Sounds at which the effects of the dimensions are measured.
EFFECT_SOUNDS = 8
EFFECTS = ("size", "level", "centroid", "attack", "pitch", "pitch_share", "hertz", "time")
# Fewer held-out sounds than this say little of a factor.
MIN_SOUNDS = 8
DRUMS = ("kick", "snare", "hat", "tom", "clap")
HARMONIC = tuple(name for name in FAMILIES if name not in DRUMS)


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
        return training.eval_step(params, fitted, clips, lengths, facts, rows, config=config)

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


def known_factors(sounds: Sounds) -> dict[str, np.ndarray]:
    """Factor -> [num_clips], on the axis on which it is drawn evenly; NaN where there is none.

    Pitch in MIDI numbers, also by itself for the families whose partials are those of a note.
    """
    known = {}
    for name, values in sounds.corpus.factors.items():
        values = np.asarray(values, np.float64)
        known[name] = np.log(np.maximum(values, 1e-6)) if name in LOG_UNIFORM else values
    if "pitch" in known:
        harmonic = np.isin(sounds.corpus.labels, HARMONIC)
        known["pitch_harmonic"] = np.where(harmonic, known["pitch"], np.nan)
    return known


def factor_recovery(
    train, train_factors: Mapping[str, Any], held_out, held_out_factors: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """How well factors can be read off z by a linear function of it, fitted to the training sounds.

    Args:
      train, held_out: [num, latent_dim], posterior means.
      train_factors, held_out_factors: factor -> [num]; NaN where a sound has none.

    Returns:
      Factor -> r2, the share of its variance over the held-out sounds that is predicted (1 at best,
      0 for the mean, below for worse), and sounds, how many of them have it. Factors that do not
      vary, or that fewer than MIN_SOUNDS have, are left out.
    """
    found = {}
    for name, values in train_factors.items():
        target = np.asarray(held_out_factors[name], np.float64)
        fit_on, judged = np.isfinite(values), np.isfinite(target)
        if judged.sum() < MIN_SOUNDS or fit_on.sum() < MIN_SOUNDS or target[judged].std() < 1e-9:
            continue
        z, y = np.asarray(train, np.float64)[fit_on], np.asarray(values, np.float64)[fit_on]
        slope, _ = attributes.fit(z, y)
        predicted = (np.asarray(held_out, np.float64)[judged] - z.mean(0)) @ slope + y.mean()
        error = np.mean((predicted - target[judged]) ** 2) / np.var(target[judged])
        found[name] = {"r2": round(float(1 - error), 4), "sounds": int(judged.sum())}
    return found
