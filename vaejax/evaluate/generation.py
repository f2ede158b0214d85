"""New sounds of every system, as sets, against the training set."""

from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vaejax import metrics
from vaejax.config import Config
from vaejax.evaluate.figures import figure, of_mean
from vaejax.evaluate.reconstruction import loudness, to_audio
from vaejax.evaluate.systems import GMM, PPCA, VAEJAX, System
from vaejax.features import Statistics
from vaejax.metrics import Embedding, intervals, sets

# New sounds made at a time.
CHUNK = 64
# Training sounds among which neighbours are looked for, at most.
MAX_POINTS = 8192
NUM_BINS = 50
# Sets of the size of the held-out one that are drawn from a generated set.
NUM_SUBSETS = 10
COPY_NOVELTY = 0.1
# Sounds that make a set.
MIN_SET = 8

LOUDNESS = ("silent", "clipped", "onset", "onset_step")
GENERATION = (
    "frechet_mel",
    "precision",
    "recall",
    "density",
    "coverage",
    "ndb",
    "jensen_shannon",
    "novelty",
    "copies",
    "diversity",
    *LOUDNESS,
)
# Those that depend on the size of the set.
SIZED = GENERATION[:7]


_mean_distance, _frechet = jax.jit(sets.mean_distance), jax.jit(sets.frechet)


class Generated(NamedTuple):
    """New sounds of one system."""

    points: np.ndarray
    """[num, EMBEDDING_DIM]."""
    loudness: dict[str, np.ndarray]
    """LOUDNESS, [num] each."""


@lru_cache
def make_hearer(config: Config):
    """Compiles what is kept of sounds, given by what a decoder says [batch, num_frames, ...]: their
    points [batch, EMBEDDING_DIM], and `loudness`."""
    # Training sounds are compared at full scale, and so are these; files have their own peak.
    at_full_scale = replace(config, sound=replace(config.sound, peak_db=0.0))

    @jax.jit
    def hear(statistics, embedding, spectrograms):
        def one(x):
            waveform = to_audio(x, statistics, at_full_scale)
            point = metrics.embed(waveform, embedding, sample_rate=config.data.sample_rate)
            return point, loudness(waveform * 10 ** (config.sound.peak_db / 20))

        return jax.lax.map(one, spectrograms, batch_size=8)

    return hear


def make_sounds(
    system: System, num: int, *, seed: int, statistics: Statistics, embedding, config: Config
) -> Generated:
    """Draws sounds, `CHUNK` at a time. Those of the run are the ones that `sample.py` makes."""
    assert system.draw is not None
    draw_one = system.draw
    hear = make_hearer(config)

    @jax.jit
    def draw(arrays, indices):
        keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(indices)
        return jax.lax.map(partial(draw_one, arrays), keys, batch_size=8)

    parts = []
    with tqdm(total=num, desc=f"Making sounds, {system.name}", unit="sound") as bar:
        for start in range(0, num, CHUNK):
            indices = jnp.arange(start, start + CHUNK, dtype=jnp.uint32)
            spectrograms = draw(system.arrays, indices)
            parts.append(jax.tree.map(np.asarray, hear(statistics, embedding, spectrograms)))
            bar.update(min(CHUNK, num - start))
    points, loud = jax.tree.map(lambda *a: np.concatenate(a)[:num], *parts)
    return Generated(points, loud)


class Reference(NamedTuple):
    """The training set as sets are compared to it."""

    embedding: Embedding
    points: np.ndarray
    """[num, EMBEDDING_DIM], at most MAX_POINTS of it."""
    centres: np.ndarray
    """[num_bins, EMBEDDING_DIM], of the bins of NDB."""
    shares: np.ndarray
    """[num_bins], of the training set."""
    spread: float
    """Mean distance between two training sounds."""


def reference_of(embedding: Embedding, *, seed: int) -> Reference:
    """Bins, and what neighbours are looked for among."""
    points = np.asarray(embedding.points)
    if len(points) > MAX_POINTS:
        chosen = np.random.default_rng(seed).choice(len(points), MAX_POINTS, replace=False)
        points = points[np.sort(chosen)]
    num_bins = min(NUM_BINS, max(len(points) // 4, 1))
    centres = jax.jit(partial(sets.k_means, num_bins=num_bins))(jax.random.key(seed), points)
    return Reference(
        embedding,
        points,
        np.asarray(centres),
        np.asarray(jax.jit(sets.bin_shares)(points, centres)),
        float(np.mean(_mean_distance(points))),
    )


@jax.jit
def _sized(points, centres, shares, made):
    """The figures of `SIZED` of one set [num, dim] against the training set; per-sound parts of
    those that are means."""
    num_real, num_made = points.shape[0], made.shape[0]
    in_real, in_made = sets.precision_recall(points, made, k=min(3, num_made - 1, num_real - 1))
    density, covered = sets.density_coverage(points, made, k=min(5, num_real - 1))
    bins = sets.nearest_centre(made, centres)
    made_shares = jnp.zeros(centres.shape[0]).at[bins].add(1.0 / num_made)
    return {
        "frechet_mel": sets.frechet(points, made),
        "precision": in_real,
        "recall": in_made,
        "density": density,
        "coverage": covered,
        "ndb": sets.ndb(shares, made_shares, num_real=num_real, num_made=num_made),
        "jensen_shannon": sets.jensen_shannon(shares, made_shares),
        "bins": bins,
    }


def set_figures(made: Generated, reference: Reference) -> tuple[dict[str, Any], np.ndarray]:
    """All figures of a set of sounds against the training set.

    Returns:
      Figure by name; and resampled `frechet_mel`, for comparisons.
    """
    points = made.points
    num, num_real, num_bins = len(points), len(reference.points), len(reference.shares)
    measured = jax.tree.map(
        np.asarray, _sized(reference.points, reference.centres, reference.shares, points)
    )
    resampled = intervals.resampled(
        lambda rows: _frechet(reference.points, points[rows]), num, float(measured["frechet_mel"])
    )
    result = {
        "frechet_mel": figure(measured["frechet_mel"], intervals.percentiles(resampled)),
        **{key: of_mean(measured[key]) for key in ("precision", "recall", "density", "coverage")},
    }

    def shares_of(rows):
        return np.bincount(measured["bins"][rows], minlength=num_bins) / num

    for key, statistic in (
        ("ndb", partial(sets.ndb, num_real=num_real, num_made=num)),
        ("jensen_shannon", sets.jensen_shannon),
    ):
        compiled = jax.jit(statistic)
        drawn = intervals.resampled(
            lambda rows, compiled=compiled: compiled(reference.shares, shares_of(rows)),
            num,
            float(measured[key]),
        )
        result[key] = figure(measured[key], intervals.percentiles(drawn))

    novelty = np.asarray(_novelties(points, reference.embedding))
    medians = intervals.resampled(
        lambda rows: np.median(novelty[rows]), num, float(np.median(novelty))
    )
    result["novelty"] = figure(np.median(novelty), intervals.percentiles(medians))
    result["copies"] = of_mean(novelty < COPY_NOVELTY)
    result["diversity"] = of_mean(_mean_distance(points) / reference.spread)
    result |= {key: of_mean(made.loudness[key]) for key in LOUDNESS}
    return result, resampled


@jax.jit
def _novelties(points, embedding):
    return jax.lax.map(
        lambda point: metrics.nearest(point, embedding)[1], points, batch_size=sets.BATCH
    )


def subset_figures(made: Generated, reference: Reference, size: int, *, seed: int):
    """The figures that depend on the number of sounds, for a smaller number: means over
    `NUM_SUBSETS` random subsets of a size, and the range of 95 % of these."""
    rng = np.random.default_rng(seed)
    values: dict[str, list[float]] = {key: [] for key in SIZED}
    for _ in range(NUM_SUBSETS):
        points = made.points[rng.choice(len(made.points), size, replace=False)]
        measured = _sized(reference.points, reference.centres, reference.shares, points)
        for key in SIZED:
            values[key].append(float(np.mean(measured[key])))
    return {key: figure(np.mean(v), intervals.percentiles(v)) for key, v in values.items()}


def generation_table(
    sets_made: dict[str, Generated], reference: Reference, size: int, *, seed: int
) -> dict[str, Any]:
    """System -> figures of its sounds; the same for sets of the size of the held-out one, where
    that is smaller; and the run against pPCA (or against the mixture)."""
    table, at_size, resampled = {}, {}, {}
    for name, made in sets_made.items():
        if len(made.points) < MIN_SET:
            continue
        table[name], resampled[name] = set_figures(made, reference)
        if len(made.points) == size:
            at_size[name] = {key: table[name][key] for key in SIZED}
        elif MIN_SET <= size < len(made.points):
            at_size[name] = subset_figures(made, reference, size, seed=seed)
    against = {
        name: figure(
            table[VAEJAX]["frechet_mel"]["value"] / table[name]["frechet_mel"]["value"],
            intervals.percentiles(resampled[VAEJAX] / np.maximum(resampled[name], 1e-9)),
        )
        for name in (PPCA, GMM)
        if name in table and VAEJAX in table
    }
    return {
        "num": {name: len(made.points) for name, made in sets_made.items()},
        "training_sounds": len(reference.points),
        "bins": len(reference.shares),
        "systems": table,
        "subset_size": size,
        "subsets": at_size,
        "frechet_mel_ratio_to": against,
    }
