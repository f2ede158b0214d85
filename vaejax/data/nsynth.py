"""NSynth's layout (Engel et al. 2017): `examples.json` beside `audio/`, one entry per note.

    {"bass_synthetic_033-022-050": {"pitch": 22, "velocity": 50, "instrument_family_str": "bass",
      "instrument_source_str": "synthetic", "instrument_str": "bass_synthetic_033", ...}, ...}

The label of a note is then its family, source or instrument rather than its folder, and pitch and
velocity are known factors.
"""

import dataclasses
import hashlib
import json
from pathlib import Path, PurePosixPath

import numpy as np

from vaejax.data.pack import Corpus

LISTING = "examples.json"
FACTORS = ("pitch", "velocity")


def is_nsynth(folder: str | Path) -> bool:
    """Whether a folder has NSynth's listing, beside `audio`."""
    root = Path(folder).expanduser()
    return (root / LISTING).is_file() and (root / "audio").is_dir()


def annotated(corpus: Corpus, folder: str | Path, *, label: str) -> Corpus:
    """A packed folder with labels, pitch and velocity from the listing.

    Args:
      label: "family", "source" or "instrument".

    Returns:
      The corpus; sounds that the listing does not name keep their folder's label and have no
      factors. Its fingerprint covers what was read here.

    Raises:
      ValueError: the listing cannot be read, or names none of the sounds.
    """
    path = Path(folder).expanduser() / LISTING
    try:
        entries = json.loads(path.read_text("utf-8"))
        found = [entries.get(PurePosixPath(name).stem) for name in corpus.names]
        known = [entry if isinstance(entry, dict) else None for entry in found]
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no NSynth listing (a JSON object of notes): {error}") from None
    if not any(known):
        raise ValueError(
            f"{path} names none of the {len(corpus)} sounds, such as {corpus.names[0]!r}; its keys "
            "are file names without suffix"
        )
    field = f"instrument_{label}_str" if label != "instrument" else "instrument_str"
    labels, columns = [], {name: np.full(len(corpus), np.nan, np.float32) for name in FACTORS}
    for i, (entry, old) in enumerate(zip(known, corpus.labels, strict=True)):
        labels.append(str((entry or {}).get(field, old)))
        for name, column in columns.items():
            if entry and isinstance(entry.get(name), int | float):
                column[i] = entry[name]

    def with_facts(fingerprint: str) -> str:
        digest = hashlib.blake2b(fingerprint.encode(), digest_size=16)
        digest.update(json.dumps(labels).encode())
        for column in columns.values():
            digest.update(column.tobytes())
        return digest.hexdigest()

    return dataclasses.replace(
        corpus,
        labels=labels,
        factors=columns,
        fingerprint=with_facts(corpus.fingerprint),
        former=tuple(map(with_facts, corpus.former)),
    )
