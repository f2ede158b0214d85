"""The pitch of each sound of a set, as far as it is known: MIDI numbers, 69 = 440 Hz, 60 = C4."""

import re
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from vaejax.data.pack import Corpus
from vaejax.keys import midi_number, midi_of_hz
from vaejax.signal.pitch import CLEAR, pitch

BATCH = 64


def from_names(names: Sequence[str], pattern: str) -> np.ndarray:
    """Pitches found in paths by a regular expression with a group named `pitch`.

    Returns:
      [len(names)] float32, NaN where the pattern finds nothing.

    Raises:
      ValueError: what the group holds is no pitch, or the pattern finds nothing in any path.
    """
    compiled = re.compile(pattern)
    found = np.full(len(names), np.nan, np.float32)
    for i, name in enumerate(names):
        if (match := compiled.search(name)) and match["pitch"]:
            try:
                found[i] = midi_number(match["pitch"])
            except ValueError as error:
                raise ValueError(f"data.pitch_pattern={pattern!r} in {name}: {error}") from None
    if np.isnan(found).all():
        raise ValueError(
            f"data.pitch_pattern={pattern!r} finds nothing in any of {len(names)} paths, such as "
            f"{names[0]!r}"
        )
    return found


def estimated(corpus: Corpus, rows) -> np.ndarray:
    """Measured pitches of some clips, [len(rows)] float32, NaN where a sound has none."""

    @jax.jit
    def measure(clips):
        one = partial(pitch, sample_rate=corpus.sample_rate)
        return jax.vmap(one)(clips.astype(np.float32) / 32768.0)

    found = np.full(len(rows), np.nan, np.float32)
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        hz, clarity = map(np.asarray, measure(corpus.clips[np.resize(chosen, BATCH)]))
        with np.errstate(divide="ignore", invalid="ignore"):
            number = midi_of_hz(hz)
        is_pitched = np.isfinite(number) & (clarity >= CLEAR)
        found[start : start + BATCH] = np.where(is_pitched, number, np.nan)[: len(chosen)]
    return found


def known(corpus: Corpus, *, pattern: str | None, estimate: bool) -> np.ndarray:
    """The pitch of every clip, [num_clips] float32, NaN where not known.

    From the pattern where one is given, else from what the built-in set or NSynth says; what is
    then missing is measured, if asked for.

    Raises:
      ValueError: see `from_names`.
    """
    if pattern is not None:
        found = from_names(corpus.names, pattern)
    else:
        unknown = np.full(len(corpus), np.nan, np.float32)
        found = np.array(corpus.factors.get("pitch", unknown), np.float32)
    if estimate and (missing := np.flatnonzero(np.isnan(found))).size:
        found[missing] = estimated(corpus, missing)
    return found
