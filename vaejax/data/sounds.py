"""The sounds of a run: packed clips from a folder or the built-in set, split into two."""

from typing import Any, NamedTuple

import numpy as np

from vaejax.config import Config
from vaejax.data import corpus as packs
from vaejax.data.corpus import Corpus


class Sounds(NamedTuple):
    """Packed clips and which of them are held out."""

    corpus: Corpus
    held_out: np.ndarray
    """[num_clips] bool."""

    @property
    def train_rows(self) -> np.ndarray:
        """Rows of the training clips, in the order of their names."""
        return np.flatnonzero(~self.held_out)

    @property
    def held_out_rows(self) -> np.ndarray:
        """Rows of the held-out clips in the order of their hashes: the first few are a fair mix."""
        rows = np.flatnonzero(self.held_out)
        return rows[np.argsort([self.corpus.hashes[row] for row in rows], kind="stable")]

    def read(self, rows) -> tuple[np.ndarray, np.ndarray]:
        """Clips [len(rows), pack_samples] int16 and lengths [len(rows)] int32, in memory."""
        return self.corpus.clips[rows], self.corpus.lengths[rows]


def load(config: Config) -> Sounds:
    """Decodes or renders the sounds of a run, or finds them in the cache.

    Raises:
      ValueError, OSError: no folder, no usable sound, too few of them, a cache that cannot be
        written; one clear line each.
    """
    data = config.data
    shared: dict[str, Any] = {
        "sample_rate": data.sample_rate,
        "pack_samples": config.pack_samples,
        "trim_db": data.trim_db,
        "cache_dir": data.cache_dir or packs.default_cache_dir(),
    }
    if data.source == "synth":
        loaded = packs.load_synth(seed=data.synth_seed, count=data.synth_count, **shared)
    else:
        loaded = packs.load_folder(data.source, num_workers=data.num_workers, **shared)
    held_out = packs.split(
        loaded.hashes,
        holdout_fraction=data.holdout_fraction,
        source=loaded.source,
        rejected=loaded.rejected,
    )
    return Sounds(loaded, held_out)


def report(sounds: Sounds) -> str:
    """A few lines for the screen: how many sounds, and which files were rejected."""
    corpus, held_out = sounds
    lines = [
        f"{len(corpus)} sounds in {len(corpus.label_names)} folders from {corpus.source}: "
        f"{int((~held_out).sum())} to train on, {int(held_out.sum())} held out"
    ]
    if corpus.rejected:
        lines.append(f"{len(corpus.rejected)} files rejected (all are listed in data.json):")
        lines += [f"  {item['file']}: {item['reason']}" for item in corpus.rejected[:5]]
        if len(corpus.rejected) > 5:
            lines.append(f"  and {len(corpus.rejected) - 5} more")
    return "\n".join(lines)
