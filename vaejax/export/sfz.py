"""SFZ instruments: text files that tell a sampler which sound to play on which key.

A pure function of the manifest's rows. Sounds with a pitch are laid over the keyboard, each at its
root and half-way to its neighbours; sounds without are laid out as a kit, one to a key. An
instrument holds one sound per key; further sounds go to further instruments of the same label.

In a multisample one draw is played at many keys: `multisample` of them, one row after the other.
Each draw becomes an instrument of its own.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from vaejax.export.errors import WriteError
from vaejax.export.folders import MANIFEST, SFZ_MARK
from vaejax.export.wav import software
from vaejax.files import read_lines, write_text
from vaejax.names import safe

NUM_KEYS = 128
# A kit starts at C2, as drum machines have it, and ends with the keyboard.
KIT_KEY = 36


class Zone(NamedTuple):
    """A sound, as an instrument needs to know it."""

    file: str
    """Relative to the instrument, with "/"."""
    root: float | None
    """Pitch of the sound as a MIDI note number with fraction; None where it has none."""
    loop: tuple[int, int] | None
    """First and last sample, both played."""
    key: int | None
    """Where it belongs on the keyboard: the key that was told, or the one nearest to the root."""


class Region(NamedTuple):
    """A sound on its keys."""

    zone: Zone
    low: int
    """Lowest MIDI key."""
    high: int
    """Highest MIDI key."""
    center: int
    """Key on which it is played as it is, but for `tune`."""
    tune: int
    """Cents to add, so that the key in the centre is in tune."""


def root_of(row: Mapping[str, Any]) -> float | None:
    """The pitch of a sound as a MIDI note number, from its line of the manifest.

    `pitch` is what the model was told, `detected_pitch` what was heard. What was heard is finer,
    and taken where it is the same note; told alone stands where another octave was heard.
    """
    told, heard = row.get("pitch"), row.get("detected_pitch")
    if told is None or (heard is not None and abs(heard - told) <= 0.6):
        return heard
    return float(told)


def key_of(row: Mapping[str, Any]) -> int | None:
    """The key of a sound: the one that the model was told, else the one nearest to its pitch."""
    told = row.get("pitch")
    pitch = root_of(row) if told is None else told
    return None if pitch is None else min(max(round(pitch), 0), NUM_KEYS - 1)


def label_of(row: Mapping[str, Any]) -> str:
    """The label a sound was made with, or that of the training sound nearest to it."""
    return row.get("label") or row.get("nearest_label") or ""


def instruments(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[Region]]:
    """All instruments of a folder.

    Args:
      rows: of the manifest: `file`, `label` or `nearest_label`, `pitch`, `detected_pitch`, `loop`,
        `multisample`, `draw` or `index`.
    Returns:
      Name without suffix -> regions in the order of their keys. A label with sounds of both kinds
      becomes two: the kit's name ends in `-kit`. From the second of a kind on, a number follows.
    """
    groups: dict[str, list[Zone]] = defaultdict(list)
    of_draw: dict[int, str] = {}
    for row in rows:
        loop = row.get("loop")
        points = (loop["start"], loop["end"]) if loop else None
        zone = Zone(row["file"], root_of(row), points, key_of(row))
        name = safe(label_of(row)) or "sounds"
        keys = row.get("multisample", 1)
        if keys > 1:
            # Its keys may have nearest training sounds of several labels: the first names it.
            draw = row.get("draw", row["index"]) // keys
            name = of_draw.setdefault(draw, f"{name}_{draw:05d}")
        groups[name if zone.root is not None else f"{name}-kit"].append(zone)
    made: dict[str, list[Region]] = {}
    taken: set[str] = set()
    for name, zones in sorted(groups.items()):
        layers = _kits(zones) if zones[0].root is None else _keyboards(zones)
        for number, regions in enumerate(layers, start=1):
            unique = name if number == 1 else f"{name}-{number}"
            # Two labels may be alike once they are safe; some file systems ignore case.
            while unique.casefold() in taken:
                number += 1
                unique = f"{name}-{number}"
            taken.add(unique.casefold())
            made[unique] = regions
    return made


def to_text(name: str, regions: Iterable[Region]) -> str:
    """The instrument as SFZ.

    Raises:
      ValueError: a file name that SFZ cannot hold.
    """
    # The root of a kit's sound is the key it lies on, and it plays to its end.
    lines = [SFZ_MARK, f"// {name}; {software()}; MIDI note 60 is C4", ""]
    for region in regions:
        file, root, loop, _ = region.zone
        if not writable(file):
            raise ValueError(f"SFZ cannot hold the file name {file!r}")
        words = [
            "<region>",
            f"lokey={region.low}",
            f"hikey={region.high}",
            f"pitch_keycenter={region.center}",
        ]
        if region.tune:
            words.append(f"tune={region.tune}")
        if loop is not None:
            words += ["loop_mode=loop_continuous", f"loop_start={loop[0]}", f"loop_end={loop[1]}"]
        else:
            words.append("loop_mode=no_loop" if root is not None else "loop_mode=one_shot")
        # Last on its line: a file's name may hold spaces.
        lines.append(" ".join([*words, f"sample={file}"]))
    return "\n".join(lines) + "\n"


def writable(file: str) -> bool:
    """Whether SFZ, which has no quotes, can name a file: no tags, directives or opcodes in it."""
    return not (set(file) & set("<>=#$\\\n\r\t") or "//" in file or "/*" in file)


def write_instruments(out: Path) -> list[str]:
    """Writes the instruments of a finished folder, from its manifest.

    Sounds that SFZ cannot name are left out, which is said on standard error.

    Args:
      out: the folder.
    Returns:
      Names of the files.
    Raises:
      WriteError, OSError: a file is in the way, or cannot be written.
    """
    unnamed = 0

    def rows() -> Iterator[Mapping[str, Any]]:
        nonlocal unnamed
        for row in read_lines(out / MANIFEST):
            if writable(row["file"]):
                yield row
            else:
                unnamed += 1

    written = []
    for name, regions in instruments(rows()).items():
        path = out / f"{name}.sfz"
        if path.exists():
            raise WriteError(f"{path} is in the way and not from an earlier run; move it")
        write_text(path, to_text(name, regions))
        written.append(path.name)
    if unnamed:
        print(
            f"{unnamed} sounds are in no instrument: SFZ cannot hold their names (one of <>=#$ or "
            "//); --names label avoids it",
            file=sys.stderr,
        )
    return written


def _keyboards(zones: list[Zone]) -> Iterator[list[Region]]:
    """Layers of at most one sound per root key, each over the whole keyboard."""
    at_key: dict[int, list[Zone]] = defaultdict(list)
    for zone in zones:
        assert zone.key is not None
        at_key[zone.key].append(zone)
    for layer in range(max(map(len, at_key.values()))):
        keys = sorted(key for key, there in at_key.items() if len(there) > layer)
        chosen = [at_key[key][layer] for key in keys]
        # Half-way to the neighbours; the key in the middle goes to the lower sound, because raising
        # a sound's pitch harms less than lowering it: nothing is missing at the top.
        highs = [(a + b) // 2 for a, b in pairwise(keys)] + [NUM_KEYS - 1]
        lows = [0] + [high + 1 for high in highs[:-1]]
        yield [
            Region(zone, low, high, key, round(100 * (key - (zone.root or key))))
            for zone, low, high, key in zip(chosen, lows, highs, keys, strict=True)
        ]


def _kits(zones: list[Zone]) -> Iterator[list[Region]]:
    """One sound to a key, from KIT_KEY up, as many times as it takes."""
    room = NUM_KEYS - KIT_KEY
    for start in range(0, len(zones), room):
        part = enumerate(zones[start : start + room], start=KIT_KEY)
        yield [Region(zone, key, key, key, 0) for key, zone in part]
