"""The sounds of a run: packed clips from a folder or the built-in set, split into two."""

from typing import Any, NamedTuple

import numpy as np

from vaejax import conditions
from vaejax.conditions import Vocabulary
from vaejax.config import Config
from vaejax.data import cache, nsynth, pitches, splits
from vaejax.data import corpus as packs
from vaejax.data.pack import Corpus, read_rows


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


def load(config: Config) -> Sounds:
    """Decodes or renders the sounds of a run, or finds them in the cache.

    Raises:
      ValueError, OSError: no folder, no usable sound, too few of them, a cache that cannot be
        written; one clear line each.
    """
    data = config.data
    loaded, known = source_of(config)
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
        facts = ["label"] * bool(sounds.told.labels) + ["pitch"] * sounds.told.pitch
        counts = np.isfinite(sounds.facts).sum(0)
        named = zip([*facts, *sounds.told.factors], counts, strict=True)
        lines.append("told of: " + ", ".join(f"{name} ({count})" for name, count in named))
    if corpus.rejected:
        lines.append(f"{len(corpus.rejected)} files rejected (all are listed in data.json):")
        lines += [f"  {item['file']}: {item['reason']}" for item in corpus.rejected[:5]]
        if len(corpus.rejected) > 5:
            lines.append(f"  and {len(corpus.rejected) - 5} more")
    return "\n".join(lines)
