"""The sounds that a run is measured on: those it held out, or any others."""

from dataclasses import replace

import numpy as np

from vaejax.config import Data
from vaejax.data import corpus as packs
from vaejax.data import sounds
from vaejax.data.sounds import Sounds
from vaejax.features import conditions
from vaejax.run.load import Run


def own_sounds(run: Run) -> tuple[Sounds | None, str | None]:
    """The run's sounds; or None and why they cannot be had as they were."""
    try:
        own = sounds.load(run.config, {row["file"]: row["label"] for row in run.data["files"]})
    except (ValueError, OSError) as error:
        return None, f"the run's sounds are gone ({error})"
    if not own.corpus.is_same(run.data["fingerprint"]):
        return None, f"the sounds in {own.corpus.source} have changed since the run was trained"
    return own, None


def given_sounds(run: Run, data: Data) -> Sounds:
    """All sounds of a source, told of what the run's model can be told of them.

    Args:
      data: the run's own, but for where the sounds are.

    Raises:
      ValueError, OSError: there are none that can be used.
    """
    config = run.config
    try:
        loaded, pitches = sounds.source_of(replace(config, data=data))
    except ValueError:
        # The run's pattern may find no pitch in these names; then none is told.
        data = replace(data, pitch_pattern=None)
        loaded, pitches = sounds.source_of(replace(config, data=data))
    if not len(loaded):
        first = loaded.rejected[0] if loaded.rejected else {"file": "?", "reason": "?"}
        raise ValueError(
            f"no usable sound in {data.source} ({first['file']}: {first['reason']}, and "
            f"{len(loaded.rejected) - 1} more)"
        )
    held_out = np.ones(len(loaded), bool)
    listing = packs.summary(loaded, held_out=held_out, pitches=pitches)
    facts = conditions.facts_of(run.vocabulary, listing["files"])
    return Sounds(loaded, held_out, listing, run.vocabulary, facts)
