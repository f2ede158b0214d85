"""The sounds of a run: packed clips from a folder or the built-in set, split into two."""

import dataclasses
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.config import Config
from vaejax.data import cache, files, nsynth, pitches, splits
from vaejax.data import corpus as packs
from vaejax.data.pack import Corpus, read_rows
from vaejax.features import conditions
from vaejax.features.conditions import Vocabulary


class Sounds(NamedTuple):
    """Packed clips and which of them are held out."""

    corpus: Corpus
    held_out: np.ndarray
    """[num_clips] bool."""
    listing: dict[str, Any]
    """What data.json says of them."""
    told: Vocabulary
    """What the model is told of a sound."""
    facts: np.ndarray
    """[num_clips, num_facts] float32, that of each, NaN where not known."""

    @property
    def train_rows(self) -> np.ndarray:
        """Rows of the training clips, in the order of their names."""
        return np.flatnonzero(~self.held_out)

    @property
    def held_out_rows(self) -> np.ndarray:
        """Rows of the held-out clips in the order of their hashes: the first few are a fair mix."""
        rows = np.flatnonzero(self.held_out)
        return rows[np.argsort([self.corpus.hashes[row] for row in rows], kind="stable")]

    def read(self, rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Clips [len(rows), pack_samples] int16, lengths [len(rows)] int32 and facts [len(rows),
        num_facts] float32, in memory."""
        return read_rows(self.corpus.clips, rows), self.corpus.lengths[rows], self.facts[rows]


def of_arrays(waveforms: Sequence[Any], config: Config) -> Sounds:
    """Sounds of one's own, in memory; every so many are held out, by data.holdout_fraction.

    Args:
      waveforms: [num_samples] each, at data.sample_rate, of any length and level; they are neither
        trimmed nor resampled.

    Raises:
      ValueError: fewer than two, or one that is silent, not finite or no single channel.
    """
    if len(waveforms) < 2:
        raise ValueError(f"{len(waveforms)} sounds; at least 2 are needed, one of them held out")
    num, size = len(waveforms), config.pack_samples
    clips, lengths = np.zeros((num, size), np.int16), np.zeros(num, np.int32)
    for i, waveform in enumerate(np.asarray(waveform) for waveform in waveforms):
        peak = np.max(np.abs(waveform), initial=0.0)
        if waveform.ndim != 1 or not np.isfinite(peak) or peak == 0:
            raise ValueError(
                f"sound {i} of shape {waveform.shape} with a peak of {peak:g} must be one channel, "
                "[num_samples], finite and not silent"
            )
        cut, lengths[i] = waveform[:size], len(waveform)
        clips[i, : len(cut)] = np.round(32767 * (cut / peak))
    hashes = [hashlib.blake2b(clip.tobytes(), digest_size=16).hexdigest() for clip in clips]
    loaded = Corpus(
        clips=clips,
        lengths=lengths,
        names=[f"{i:05d}" for i in range(num)],
        labels=["array"] * num,
        hashes=hashes,
        factors={},
        rejected=[],
        sample_rate=config.data.sample_rate,
        source="arrays",
        fingerprint=hashlib.blake2b("".join(hashes).encode(), digest_size=16).hexdigest(),
    )
    held_out = np.zeros(num, bool)
    held_out[:: max(2, round(1 / config.data.holdout_fraction))] = True
    return describe(loaded, held_out, np.full(num, np.nan), config)


# Rejected files that are named on the screen: so many reasons, so many of each.
MAX_REASONS, MAX_NAMED = 8, 3
# Of these, there are many beside the sounds of nearly any folder.
OTHER_FILES = "not an audio file"


def load(config: Config, labels: Mapping[str, str] | None = None) -> Sounds:
    """Decodes or renders the sounds of a run, or finds them in the cache.

    Args:
      labels: by name, of sounds that are to keep the labels that they had, see `labels_of`.

    Raises:
      ValueError, OSError: no folder, no usable sound, too few of them, a cache that cannot be
        written; one clear line each.
    """
    data = config.data
    loaded, known = source_of(config)
    kept = labels or {}
    both = zip(loaded.names, loaded.labels, strict=True)
    loaded = dataclasses.replace(loaded, labels=[kept.get(name, label) for name, label in both])
    split = splits.choose(
        data.holdout_by,
        hashes=loaded.hashes,
        labels=loaded.labels,
        pitches=known,
        holdout_fraction=data.holdout_fraction,
        source=loaded.source,
        rejected=loaded.rejected,
    )
    described = describe(loaded, split.held_out, known, config)
    described.listing["split"] = split.summary()
    return described


def labels_of(workdir: Path) -> dict[str, str]:
    """The labels, by name, that a run began with: its folder may have another name by now.

    Those of a new run, or one whose data.json cannot be read, are none.
    """
    try:
        rows = json.loads((workdir / "data.json").read_text("utf-8"))["files"]
        return {row["file"]: row["label"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def source_of(config: Config) -> tuple[Corpus, np.ndarray]:
    """The packed sounds of a config, and the pitch of each, [num_clips], NaN where not known.

    Raises:
      ValueError, OSError: as `load`.
    """
    data = config.data
    shared: dict[str, Any] = {
        "sample_rate": data.sample_rate,
        "pack_samples": config.pack_samples,
        "trim_db": data.trim_db,
        "cache_dir": data.cache_dir or cache.default_cache_dir(),
    }
    if data.source == "synth":
        loaded = packs.load_synth(
            seed=data.synth_seed, count=data.synth_count, families=data.synth_families, **shared
        )
    else:
        loaded = packs.load_folder(data.source, num_workers=data.num_workers, **shared)
        if nsynth.is_nsynth(data.source):
            loaded = nsynth.annotated(loaded, data.source, label=data.nsynth_label)
    return loaded, pitches.known(loaded, pattern=data.pitch_pattern, estimate=data.estimate_pitch)


def describe(corpus: Corpus, held_out, pitches, config: Config) -> Sounds:
    """The sounds of a run, of packed clips, their split and pitches [num_clips] (NaN: not known).

    Raises:
      ValueError: the model is to be told what is not known.
    """
    listing = packs.summary(corpus, held_out=held_out, pitches=pitches)
    told = conditions.vocabulary(config.condition, listing["files"])
    return Sounds(corpus, held_out, listing, told, conditions.facts_of(told, listing["files"]))


def report(sounds: Sounds) -> str:
    """A few lines for the screen: how many sounds, and which files were rejected."""
    corpus, held_out = sounds.corpus, sounds.held_out
    lines = [
        f"{len(corpus)} sounds in {len(corpus.label_names)} folders from {corpus.source}: "
        f"{int((~held_out).sum())} to train on, {int(held_out.sum())} held out"
    ]
    split = sounds.listing.get("split", {})
    if split.get("groups"):
        groups = split["groups"]
        listed = ", ".join(groups[:8]) + (", ..." if len(groups) > 8 else "")
        lines.append(f"held out by {split['by']}: {listed} ({len(groups)} in all)")
    if sounds.told.num_facts:
        counts = np.isfinite(sounds.facts).sum(0)
        named = zip(conditions.fact_names(sounds.told), counts, strict=True)
        lines.append("told of: " + ", ".join(f"{name} ({count})" for name, count in named))
    lines += _rejections(corpus) + _remarks(corpus)
    return "\n".join(lines)


def _rejections(corpus: Corpus) -> list[str]:
    """The rejected files, by reason; those that are no sounds at all come last."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for item in corpus.rejected:
        by_reason[item["reason"]].append(item["file"])
    if not by_reason:
        return []
    reasons = sorted(by_reason, key=lambda reason: reason.startswith(OTHER_FILES))
    lines = [f"{len(corpus.rejected)} files rejected (all are listed in data.json):"]
    for reason in reasons[:MAX_REASONS]:
        lines.append(f"  {_counted(reason, by_reason[reason])}")
    if rest := reasons[MAX_REASONS:]:
        num = sum(len(by_reason[reason]) for reason in rest)
        lines.append(f"  and {num} more, for {len(rest)} other reasons")
    return lines


def _remarks(corpus: Corpus) -> list[str]:
    """What was done to sounds, and what was not even counted among the rejected."""
    by_note: defaultdict[str, list[str]] = defaultdict(list)
    for item in corpus.notes:
        # The number that follows differs from sound to sound.
        by_note[item["note"].partition(" (")[0]].append(item["file"])
    lines = []
    if by_note:
        lines.append("remarks on sounds that are used (all are in data.json):")
        lines += [f"  {_counted(note, named)}" for note, named in by_note.items()]
    return [*lines, *files.about_passed_over(corpus.passed_over)]


def _counted(text: str, names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{len(names)} {text}: {', '.join(names[:MAX_NAMED])}{more}"
