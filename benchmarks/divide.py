"""Folders of sounds, divided into training and test sounds that have no content in common."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

By = Literal["folder", "pitch", "hash"]


class Sound(NamedTuple):
    """A file that may be trained or tested on."""

    path: Path
    name: str
    """Its source and its place there: POSIX path."""
    group: str | None
    """What stays together: folder, pitch or content; None for what is trained on in any case."""
    digest: str
    """BLAKE2b of the content, as in a pack."""


class Fold(NamedTuple):
    """One division."""

    groups: list[str]
    """Those that are tested on; empty where sounds are divided by their content."""
    train: list[Sound]
    test: list[Sound]


def listed(folders: Sequence[Path], *, by: By = "hash", pattern: str = "") -> list[Sound]:
    """The sound files of some folders, sorted by source and name.

    Args:
      by: what a group is: `folder` the folder that holds the file (a kit, an instrument), `pitch`
        the MIDI number in its name, `hash` the file itself and its copies.
      pattern: of the pitch, as data.pitch_pattern.

    Raises:
      ValueError, FileNotFoundError: no folder, no files, or no pitch in any name.
    """
    from vaejax.data import files, pack, pitches

    found = []
    used: Counter[str] = Counter()
    for folder in folders:
        paths = files.find_files(folder).sounds
        root = Path(folder).expanduser()
        # Two sources of one name are told apart.
        source = root.resolve().name
        used[source] += 1
        source += f"-{used[source]}" if used[source] > 1 else ""
        names = [path.relative_to(root).as_posix() for path in paths]
        keys = pitches.from_names(names, pattern) if by == "pitch" else [np.nan] * len(names)
        for path, name, key in zip(paths, names, keys, strict=True):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, pack.blake2b).hexdigest()
            group = {
                "folder": Path(source, name).parent.as_posix(),
                "pitch": f"{round(float(key)):03d}" if np.isfinite(key) else None,
                "hash": digest,
            }[by]
            found.append(Sound(path.resolve(), f"{source}/{name}", group, digest))
    return found


def once(sounds: list[Sound], *, by: By, fraction: float) -> Fold:
    """A division of about this fraction, as `train.py --data.holdout_by` makes it."""
    from vaejax.data import splits

    hashes = [sound.digest for sound in sounds]
    if by == "hash":
        groups: list[str] = []
        held_out = splits.by_hash(hashes, holdout_fraction=fraction)
    else:
        names = [sound.group for sound in sounds]
        held_out, groups = splits.by_group(names, hashes, holdout_fraction=fraction, what=by)
    test = [sound for sound, held in zip(sounds, held_out, strict=True) if held]
    return Fold(groups, without(sounds, test), test)


def named(sounds: list[Sound], groups: Sequence[str]) -> Fold:
    """The division that tests on some groups; a folder goes by its last name too.

    Raises:
      ValueError: a group that is not there.
    """
    there = {sound.group for sound in sounds if sound.group is not None}
    chosen = {name for name in there if {name, Path(name).name} & set(groups)}
    missing = set(groups) - chosen - {Path(name).name for name in chosen}
    if missing:
        raise ValueError(f"no group {sorted(missing)[0]}; there are {', '.join(sorted(there))}")
    test = [sound for sound in sounds if sound.group in chosen]
    return Fold(sorted(chosen), without(sounds, test), test)


def in_turn(sounds: list[Sound], num: int, *, by: By) -> list[Fold]:
    """`num` divisions of about one size, in which every group is tested on once.

    Raises:
      ValueError: fewer groups than divisions.
    """
    sizes = Counter(sound.group for sound in sounds if sound.group is not None)
    if not 2 <= num <= len(sizes):
        raise ValueError(f"--folds {num} must be at least 2 and at most the {len(sizes)} groups")

    def draw(group: str) -> bytes:
        return hashlib.blake2b(group.encode("utf-8", "surrogateescape"), digest_size=8).digest()

    parts: list[list[str]] = [[] for _ in range(num)]
    counts = [0] * num
    # The largest first, each to the smallest part: the parts come out alike.
    for group in sorted(sizes, key=lambda group: (-sizes[group], draw(group))):
        smallest = counts.index(min(counts))
        parts[smallest].append(group)
        counts[smallest] += sizes[group]
    folds = []
    for part in parts:
        test = [sound for sound in sounds if sound.group in part]
        folds.append(Fold([] if by == "hash" else sorted(part), without(sounds, test), test))
    return folds


def without(sounds: Iterable[Sound], test: Sequence[Sound]) -> list[Sound]:
    """The sounds whose content is not that of any test sound."""
    heard = {sound.digest for sound in test}
    return [sound for sound in sounds if sound.digest not in heard]


def place(sounds: Sequence[Sound], folder: Path) -> Path:
    """A folder with nothing but links to these sounds, under their names."""
    shutil.rmtree(folder, ignore_errors=True)
    for sound in sounds:
        link = folder / sound.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(sound.path)
    return folder
