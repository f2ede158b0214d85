"""Sounds rebuilt by every system, and how far they are from the originals."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vaejax import codec, features, metrics
from vaejax.config import Config
from vaejax.data.clips import raw_clip
from vaejax.data.sounds import Sounds
from vaejax.evaluate.figures import figure, of_mean
from vaejax.evaluate.systems import PCA, PPCA, VAEJAX, System
from vaejax.features import Statistics
from vaejax.metrics import Embedding, intervals
from vaejax.train import evaluation

SILENT_DB = -60.0
# Of int16, from which on a sample is at full scale.
FULL_SCALE = 1 - 2.0**-15

# Of every run; where the phase is modelled, `si_sdr_db` besides.
RECONSTRUCTION = (
    "mel_l1_db",
    "lsd_db",
    "spectral_convergence_db",
    "multi_resolution_stft",
    "attack_error_db",
    "body_db",
    "onset",
    "onset_step",
    "feature_mse",
    "feature_lsd_db",
)


# How a sound begins, of the sounds themselves too; and what is told apart by kind of sound.
STARTS = ("onset", "onset_step")
BY_KIND = ("mel_l1_db", "attack_error_db", "body_db", *STARTS)


def figures_of(config: Config) -> tuple[str, ...]:
    """The figures of a reconstruction that mean something for a representation."""
    return (*RECONSTRUCTION, "si_sdr_db") if features.create(config).has_phase else RECONSTRUCTION


def to_audio(x, statistics: Statistics, config: Config):
    """The sound [num_samples] of what a decoder says, as a file has it."""
    num_samples = config.data.num_samples
    waveform, _ = features.waveform_of(x, statistics, config, num_samples=num_samples)
    return codec.finish(waveform, config)


def compare(waveform, x, rebuilt, statistics: Statistics, config: Config):
    """All figures of one reconstruction.

    Args:
      waveform: [num_samples], the sound.
      x: [num_frames, ...], as the model sees it. rebuilt: the same of the reconstruction.

    Returns:
      The figures of `figures_of`, [] each; and the sound rebuilt [num_samples], at the energy
      of the original.
    """
    sample_rate = config.data.sample_rate

    def magnitude(x):
        return features.magnitude_of(x, statistics, config)

    after = metrics.match_energy(to_audio(rebuilt, statistics, config), waveform)
    values = {
        "mel_l1_db": metrics.mel_l1_db(waveform, after, sample_rate=sample_rate),
        "lsd_db": metrics.lsd_db(waveform, after),
        "spectral_convergence_db": metrics.spectral_convergence_db(waveform, after),
        "multi_resolution_stft": metrics.auraloss_stft(waveform, after),
        "attack_error_db": metrics.attack_error_db(waveform, after, sample_rate=sample_rate),
        "body_db": metrics.body_db(waveform, after, sample_rate=sample_rate),
        "onset": metrics.onset(after),
        "onset_step": metrics.onset_step(after),
        "feature_mse": jnp.mean((rebuilt - x) ** 2),
        "feature_lsd_db": metrics.magnitude_lsd_db(magnitude(x), magnitude(rebuilt)),
        "si_sdr_db": metrics.si_sdr_db(waveform, after),
    }
    return {name: values[name] for name in figures_of(config)}, after


class Reconstructions(NamedTuple):
    """Of the same sounds by every system."""

    figures: dict[str, dict[str, np.ndarray]]
    """System -> figure -> [num]."""
    audio: dict[str, np.ndarray]
    """System -> [num, num_samples] int16, and "original"."""
    points: np.ndarray
    """[num, EMBEDDING_DIM], of the sounds themselves."""
    loudness: dict[str, np.ndarray]
    """`silent`, `clipped`, `onset` and `onset_step` of the sounds themselves, [num]."""
    kinds: np.ndarray
    """[num], places in `metrics.KINDS`, of the sounds themselves."""


def reconstruct(
    systems: Sequence[System],
    sounds: Sounds,
    rows,
    *,
    fitted: codec.Fitted,
    embedding: Embedding,
    config: Config,
) -> Reconstructions:
    """Rebuilds sounds by every system that can, told all that is known of them."""

    @jax.jit
    def read(statistics, embedding, clips, lengths, facts, rows):
        def one(columns):
            pcm, length = columns
            waveform = raw_clip(pcm, length, config)
            point = metrics.embed(waveform, embedding, sample_rate=config.data.sample_rate)
            x = features.x_of(waveform, statistics, config)
            kind = metrics.kind(waveform, sample_rate=config.data.sample_rate)
            return waveform, x, point, loudness(waveform), kind

        return jax.lax.map(one, (clips, lengths), batch_size=8)

    @jax.jit
    def compared(statistics, waveforms, x, rebuilt):
        def one(columns):
            waveform, x, rebuilt = columns
            figures, after = compare(waveform, x, rebuilt, statistics, config)
            return figures, pcm16(after)

        return jax.lax.map(one, (waveforms, x, rebuilt), batch_size=8)

    able = [(system, _mapped(system.rebuild)) for system in systems if system.rebuild is not None]
    bar = tqdm(total=len(rows) * len(able), desc="Rebuilding", unit="sound", mininterval=0.5)

    def batch(clips, lengths, facts, rows):
        waveforms, x, points, loud, kinds = read(
            fitted.statistics, embedding, clips, lengths, facts, rows
        )
        done: dict[str, Any] = {}
        for system, rebuild in able:
            rebuilt = rebuild(system.arrays, x, facts)
            done[system.name] = jax.tree.map(
                np.asarray, compared(fitted.statistics, waveforms, x, rebuilt)
            )
            bar.update(min(len(clips), bar.total - bar.n))
        return {
            "original": pcm16(waveforms),
            "points": points,
            "loudness": loud,
            "kinds": kinds,
            "systems": done,
        }

    result = evaluation.over_rows(batch, sounds, rows)
    bar.close()
    # In the order of the systems: a tree sorts its keys.
    by_system = {system.name: result["systems"][system.name] for system, _ in able}
    return Reconstructions(
        figures={name: figures for name, (figures, _) in by_system.items()},
        audio={
            "original": result["original"],
            **{name: audio for name, (_, audio) in by_system.items()},
        },
        points=result["points"],
        loudness=result["loudness"],
        kinds=result["kinds"],
    )


def _mapped(function: Callable):
    """A function of (arrays, *examples), compiled for batches of examples."""

    @jax.jit
    def batched(arrays, *columns):
        return jax.lax.map(lambda c: function(arrays, *c), columns, batch_size=8)

    return batched


def pcm16(waveform):
    """Waveforms as int16; what exceeds full scale is clipped."""
    return jnp.round(jnp.clip(waveform, -1, 1) * 32767).astype(jnp.int16)


def reconstruction_table(figures: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """System -> figure, of the reconstructions of the same sounds; and the run against the
    baselines, sound by sound: differences of the means, and the ratio of the headline's."""
    table: dict[str, Any] = {
        name: {key: of_mean(column) for key, column in values.items()}
        for name, values in figures.items()
    }
    against: dict[str, Any] = {}
    ours = figures[VAEJAX]
    for name in (PPCA, PCA):
        if name not in figures:
            continue
        theirs = figures[name]
        ratio = np.mean(ours["mel_l1_db"]) / np.mean(theirs["mel_l1_db"])
        against[name] = {
            "difference": {key: of_mean(ours[key] - theirs[key]) for key in ours},
            "mel_l1_db_ratio": figure(
                ratio, intervals.of_ratio(ours["mel_l1_db"], theirs["mel_l1_db"])
            ),
            "better": float(np.mean(ours["mel_l1_db"] < theirs["mel_l1_db"])),
        }
    return {"systems": table, "vaejax_against": against}


def by_kind(rebuilt: Reconstructions) -> dict[str, Any]:
    """Kind -> number of sounds, share of originals that begin loud, and figures of every system,
    of the kinds that there are."""
    table = {}
    for place, name in enumerate(metrics.KINDS):
        chosen = rebuilt.kinds == place
        if not chosen.any():
            continue
        table[name] = {
            "sounds": int(chosen.sum()),
            "originals": {key: of_mean(rebuilt.loudness[key][chosen]) for key in STARTS},
            "systems": {
                system: {key: of_mean(values[key][chosen]) for key in BY_KIND}
                | {
                    "body_db_median": float(np.median(values["body_db"][chosen])),
                    "body_within_3_db": float(np.mean(np.abs(values["body_db"][chosen]) <= 3)),
                }
                for system, values in rebuilt.figures.items()
            },
        }
    return table


def loudness(waveform):
    """Of a sound [num_samples], 1.0 or 0.0 each: whether it is silent (below -60 dB of full scale,
    root mean square), clipped (two samples in a row at full scale), and begins loud."""
    rms_db = 10 * jnp.log10(jnp.maximum(jnp.mean(waveform**2), 1e-20))
    full = jnp.abs(waveform) >= FULL_SCALE
    return {
        "silent": (rms_db < SILENT_DB).astype(jnp.float32),
        "clipped": jnp.any(full[1:] & full[:-1]).astype(jnp.float32),
        "onset": metrics.onset(waveform),
        "onset_step": metrics.onset_step(waveform),
    }
