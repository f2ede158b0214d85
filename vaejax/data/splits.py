"""Which sounds are held out: by the content of each, by whole pitches, or by whole labels.

What is held out is never trained on. By content, a held-out sound has neighbours of the same pitch
and the same label in the training set; by pitch and by label it has not, which is the harder and
the fairer question of what the model does with sounds unlike any it has seen.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

HoldoutBy = Literal["hash", "pitch", "label"]

# The least that can be divided into a training and a held-out set, and the least to train on.
MIN_CLIPS = 4
MIN_TRAIN = 2


def by_hash(
    hashes: Sequence[str],
    *,
    holdout_fraction: float,
    source: str = "the source",
    rejected: Sequence[dict[str, str]] = (),
) -> np.ndarray:
    """Chooses the held-out clips by the hash of their content.

    A clip's side does not depend on the other clips, so it stays where it is when files are
    added, and copies of one file are always together. Only in a set so small that the hashes
    leave one side too empty does a clip change sides: one is held out then, MIN_TRAIN are not.

    Args:
      hashes: [num_clips], hexadecimal.
      holdout_fraction: expected fraction to hold out, in (0, 0.5].
      source, rejected: for the error's text; as in `corpus.Corpus`.
    Returns:
      [num_clips] bool, True where held out.
    Raises:
      ValueError: if holdout_fraction is out of range, there are fewer than MIN_CLIPS clips, or
        they are copies of so few sounds that no division leaves MIN_TRAIN to train on.
    """
    if not 0 < holdout_fraction <= 0.5:
        raise ValueError(f"holdout_fraction={holdout_fraction} must be above 0 and at most 0.5")
    if len(hashes) < MIN_CLIPS:
        text = f"found {len(hashes)} usable sounds in {source}, need at least {MIN_CLIPS}"
        if rejected:
            # Of the files that should have been sounds.
            ordered = sorted(rejected, key=lambda item: item["reason"].startswith("not an audio f"))
            first = "; ".join(f"{item['file']}: {item['reason']}" for item in ordered[:3])
            text += f"; {len(rejected)} files were rejected ({first}"
            text += "; ...)" if len(rejected) > 3 else ")"
        raise ValueError(text)
    copies = Counter(hashes)
    by_draw = sorted(copies, key=lambda digest: int(digest[:16], 16))
    held = [digest for digest in by_draw if int(digest[:16], 16) < holdout_fraction * 2**64]
    room = len(hashes) - MIN_TRAIN
    while sum(copies[digest] for digest in held) > room:
        held.pop()
    if not held:
        held = [digest for digest in by_draw if copies[digest] <= room][:1]
    if not held:
        raise ValueError(
            f"the {len(hashes)} usable sounds in {source} are copies of {len(copies)}; "
            f"need at least {MIN_TRAIN} to train on and a different one to hold out"
        )
    chosen = set(held)
    return np.array([digest in chosen for digest in hashes])


class Split(NamedTuple):
    """Which sounds are held out, and why."""

    held_out: np.ndarray
    """[num_clips] bool."""
    by: HoldoutBy
    groups: list[str]
    """The pitches or labels that are held out as a whole, sorted; empty by hash."""

    def summary(self) -> dict[str, Any]:
        """For data.json."""
        return {"by": self.by, "groups": self.groups}


def choose(
    by: HoldoutBy,
    *,
    hashes: Sequence[str],
    labels: Sequence[str],
    pitches,
    holdout_fraction: float,
    source: str = "the source",
    rejected: Sequence[dict[str, str]] = (),
) -> Split:
    """Divides the sounds of a set.

    Args:
      by: `hash` see `by_hash`; `pitch` whole MIDI numbers (the nearest; a sound of which no pitch
        is known is trained on); `label` whole labels.
      hashes, labels: of each clip, [num_clips].
      pitches: [num_clips] MIDI numbers, NaN where not known.
      holdout_fraction: of the sounds, about, in (0, 0.5].
      source, rejected: for the errors' text; as in `corpus.Corpus`.
    Raises:
      ValueError: see `by_hash` and `by_group`.
    """
    # Also refuses what no split can divide.
    held_out = by_hash(hashes, holdout_fraction=holdout_fraction, source=source, rejected=rejected)
    if by == "hash":
        return Split(held_out, by, [])
    names: list[str | None]
    if by == "pitch":
        names = [f"{round(float(p)):03d}" if np.isfinite(p) else None for p in pitches]
        if not any(names):
            raise ValueError(
                "data.holdout_by=pitch needs to know pitches, and none is known: give "
                r"--data.pitch_pattern (such as '_(?P<pitch>\d+)_' for 016_060_100.wav), or "
                "--data.estimate_pitch"
            )
    else:
        names = list(labels)
    held_out, groups = by_group(
        names, hashes, holdout_fraction=holdout_fraction, what=by, source=source
    )
    return Split(held_out, by, groups)


def by_group(
    names: Sequence[str | None],
    hashes: Sequence[str],
    *,
    holdout_fraction: float,
    what: str,
    source: str = "the source",
) -> tuple[np.ndarray, list[str]]:
    """Chooses whole groups of sounds, in the order of the hashes of the groups' names.

    A group is held out if that brings the number of held-out sounds nearer to the fraction. So a
    new sound in a group goes where the group is, and sides change only where the sizes of the
    groups have changed by much. A copy of a held-out sound in another group is held out too.

    Args:
      names: [num_clips], the group of each; None for what is to be trained on in any case.
      hashes: [num_clips], of the contents.
      holdout_fraction: of the sounds, in (0, 0.5].
      what: a group is, for the error's text.
    Returns:
      [num_clips] bool, True where held out; and the names of the groups, sorted.
    Raises:
      ValueError: fewer than two groups, or none that may be held out.
    """
    sizes = Counter(name for name in names if name is not None)
    if len(sizes) < 2:
        plural = {"pitch": "pitches"}.get(what, f"{what}s")
        raise ValueError(
            f"data.holdout_by={what} needs sounds of two {plural} at least, and {source} has "
            f"{len(sizes)}; hold out by hash instead"
        )

    def draw(name: str) -> bytes:
        return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()

    def held_by(groups: Sequence[str]) -> np.ndarray:
        inside = {digest for name, digest in zip(names, hashes, strict=True) if name in groups}
        return np.array([digest in inside for digest in hashes])

    target = holdout_fraction * len(names)
    chosen: list[str] = []
    count = 0
    for name in sorted(sizes, key=draw):
        if abs(count + sizes[name] - target) < abs(count - target):
            chosen.append(name)
            count += sizes[name]
    if len(chosen) == len(sizes):
        chosen.pop()
    if not chosen:
        # Every group is larger than twice what is asked for.
        chosen = [min(sizes, key=lambda name: (sizes[name], draw(name)))]
    held_out = held_by(chosen)
    if (~held_out).sum() < MIN_TRAIN:
        raise ValueError(
            f"data.holdout_by={what} would leave {int((~held_out).sum())} sounds of {source} to "
            f"train on, need at least {MIN_TRAIN}; lower --data.holdout_fraction, or hold out by "
            "hash"
        )
    return held_out, sorted(chosen)
