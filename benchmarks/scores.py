"""Sounds rebuilt by several systems, scored as audio, by kind of sound and with intervals."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax import features, metrics
from vaejax.config import Config
from vaejax.data.clips import raw_clip
from vaejax.data.sounds import Sounds
from vaejax.evaluate import generation, reconstruction
from vaejax.evaluate.figures import figure, of_mean
from vaejax.evaluate.systems import PCA, PPCA, System
from vaejax.metrics import KINDS, intervals
from vaejax.train import evaluation

ORIGINAL, WORKSHOP = "original", "workshop's shape in TensorFlow"
ALL = "all sounds"
RATIOS = {"ratio_to_pca": PCA, "ratio_to_ppca": PPCA}
# A body that is off by more is heard as another balance.
BODY_DB = 3.0


class Scores(NamedTuple):
    """Figures of single sounds."""

    names: list[str]
    kinds: np.ndarray
    """[num], places in `metrics.KINDS`."""
    systems: dict[str, dict[str, np.ndarray]]
    """System -> figure -> [num]; of the originals themselves, how they begin."""


def rebuilt(system: System, sounds: Sounds, rows, *, fitted, config: Config) -> np.ndarray:
    """Sounds as a system gives them back, [len(rows), num_samples], as files have them."""
    rebuild = system.rebuild
    assert rebuild is not None

    @jax.jit
    def batched(arrays, statistics, clips, lengths, facts, rows):
        def one(columns):
            pcm, length, known = columns
            x = features.x_of(raw_clip(pcm, length, config), statistics, config)
            return reconstruction.to_audio(rebuild(arrays, x, known), statistics, config)

        return jax.lax.map(one, (clips, lengths, facts), batch_size=8)

    return evaluation.over_rows(partial(batched, system.arrays, fitted.statistics), sounds, rows)


def scored(sounds: Sounds, rows, audio: dict[str, np.ndarray], *, config: Config) -> Scores:
    """Figures of sounds by every system, from its audio [len(rows), num_samples]."""
    sample_rate = config.data.sample_rate

    def start(waveform):
        return {"onset": metrics.onset(waveform), "onset_step": metrics.onset_step(waveform)}

    @jax.jit
    def compared(clips, lengths, audio):
        def one(columns):
            pcm, length, rebuilt = columns
            before = raw_clip(pcm, length, config)
            found = {
                name: {
                    "mel_l1_db": metrics.mel_l1_db(before, after, sample_rate=sample_rate),
                    "lsd_db": metrics.lsd_db(before, after),
                    "attack_error_db": metrics.attack_error_db(
                        before, after, sample_rate=sample_rate
                    ),
                    "body_db": metrics.body_db(before, after, sample_rate=sample_rate),
                    **start(after),
                }
                for name, after in rebuilt.items()
            }
            return metrics.kind(before, sample_rate=sample_rate), start(before), found

        return jax.lax.map(one, (clips, lengths, audio), batch_size=8)

    place = {int(row): i for i, row in enumerate(rows)}

    def batch(clips, lengths, facts, rows):
        places = [place[int(row)] for row in rows]
        return compared(clips, lengths, {name: audio[name][places] for name in audio})

    kinds, begun, found = evaluation.over_rows(batch, sounds, rows)
    # In the order of the systems: a tree sorts its keys.
    systems = {ORIGINAL: begun, **{name: found[name] for name in audio}}
    return Scores([sounds.corpus.names[row] for row in rows], kinds, systems)


def together(parts: Sequence[Scores]) -> Scores:
    """The figures of several divisions as those of one set."""
    return Scores(
        [name for part in parts for name in part.names],
        np.concatenate([part.kinds for part in parts]),
        {
            name: {
                key: np.concatenate([part.systems[name][key] for part in parts]) for key in figures
            }
            for name, figures in parts[0].systems.items()
        },
    )


def summary(scores: Scores) -> dict[str, Any]:
    """Kind of sound -> system -> figures with intervals; all sounds come first."""
    every = np.ones(len(scores.kinds), bool)
    chosen = {ALL: every, **{kind: scores.kinds == i for i, kind in enumerate(KINDS)}}
    return {
        kind: {name: _figures(name, scores.systems, rows) for name in scores.systems}
        for kind, rows in chosen.items()
        if rows.any()
    }


def lines(scores: Scores) -> list[dict[str, Any]]:
    """The figures sound by sound, ready for JSON."""
    return [
        {
            "file": name,
            "kind": KINDS[scores.kinds[i]],
            **{
                system: {key: round(float(column[i]), 4) for key, column in figures.items()}
                for system, figures in scores.systems.items()
            },
        }
        for i, name in enumerate(scores.names)
    ]


def _figures(name: str, systems: dict[str, dict[str, np.ndarray]], rows) -> dict[str, Any]:
    own = {key: np.asarray(column, np.float64)[rows] for key, column in systems[name].items()}
    found: dict[str, Any] = {"sounds": int(rows.sum())}
    found |= {key: of_mean(column) for key, column in own.items() if key != "body_db"}
    if "body_db" not in own:
        return found
    body = own["body_db"]
    medians = np.median(body[intervals.resamples(len(body))], axis=1)
    found["body_db"] = figure(np.median(body), intervals.percentiles(medians))
    found["body_within_3_db"] = of_mean(np.abs(body) <= BODY_DB)
    for key, other in RATIOS.items():
        if other in systems and other != name:
            theirs = np.asarray(systems[other]["mel_l1_db"], np.float64)[rows]
            mine = own["mel_l1_db"]
            found[key] = figure(mine.mean() / theirs.mean(), intervals.of_ratio(mine, theirs))
    return found


def new_sounds(run, compared: Sequence[System], num: int, size: int) -> dict[str, Any]:
    """New sounds of every system against the run's training sounds, as sets."""
    embedding = run.instrument.embedding
    made = {
        system.name: generation.make_sounds(
            system,
            num,
            seed=0,
            statistics=run.instrument.fitted.statistics,
            embedding=embedding,
            config=run.config,
        )
        for system in compared
        if system.draw is not None
    }
    reference = generation.reference_of(embedding, seed=0)
    return generation.generation_table(made, reference, size, seed=0)
