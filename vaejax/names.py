"""Names of files that sort, say what is inside, and are safe on every system.

`is_within` decides of every file name that is read out of a file (a manifest, a starred list)
whether it may be used; `portable` and `distinct` make the names of what is written.
"""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vaejax.keys import note_name

# What Windows refuses in names, and what addresses, shells and SFZ read as something else.
_REFUSED = re.compile(r"[\x00-\x1f\x7f<>:\"\\|?*]")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f<>:\"/\\|?*#%$=&;'`]+")
# Devices of Windows, whatever follows after a dot: nul.wav is no file.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])(?=\s*(?:\.|$))", re.I)
_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_LABEL_BYTES = 80
# Of one part of a path: 255 are what file systems take, and a suffix or a number may follow.
MAX_PART_BYTES = 200


def is_within(name: Any) -> bool:
    """Whether a file name that was read out of a file stays in the folder it is of, on any system.

    It must be relative, with "/" between its parts and none of them empty, "." or ".."; drives
    (C:x), shares and backslashes, which lead elsewhere on Windows, are refused on every system.
    """
    if not isinstance(name, str) or "\\" in name or "\0" in name or re.match("[A-Za-z]:", name):
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def within(name: Any, source: str | os.PathLike) -> str:
    """The same name, if `is_within` lets it pass.

    Args:
      source: the file that names it, for the message.

    Raises:
      ValueError: it leads elsewhere.
    """
    if not is_within(name):
        raise ValueError(
            f"{source} names the file {name!r}, which leads out of its folder: names must be "
            "relative, with / and without .. or drives, so none of it was used"
        )
    return name


def stays_in(folder: Path, name: Any) -> bool:
    """Whether a name passes `is_within`, and no link leads it out of the folder that it is of."""
    if not is_within(name):
        return False
    return "/" not in name or (folder / name).parent.resolve().is_relative_to(folder.resolve())


def readable(text: str) -> str:
    """A name as text that can be shown and encoded: bytes that are no UTF-8 become `\\x83`."""
    return _SURROGATE.sub(lambda found: _escape(ord(found[0])), text)


def _escape(code: int) -> str:
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def portable(name: str) -> str:
    """A relative path as Windows, macOS, Linux and zip archives take it; most are left as they are.

    In every part, what is refused becomes `-` (a backslash too), dots and spaces at the end go, a
    device's name (CON, nul, COM1) gets a `_`, and what is longer than MAX_PART_BYTES is cut.
    """
    return "/".join(_portable_part(part) for part in readable(name).split("/"))


def _portable_part(part: str) -> str:
    part = _REFUSED.sub("-", part)
    if len(part) > MAX_PART_BYTES // 4:
        part = part.encode()[:MAX_PART_BYTES].decode("utf-8", "ignore")
    return _no_device(part.rstrip(". ")) or "_"


def _no_device(part: str) -> str:
    return _DEVICE.sub(r"\1_", part, count=1) if _DEVICE.match(part) else part


def distinct(names: Sequence[str], suffixes: Sequence[str] = (".wav", ".flac")) -> list[str]:
    """Portable names without suffix, of which no two are one file.

    The old suffix stays where two would write to one file (a.wav and a.flac), and a number follows
    where even that is not enough. Case and the form of accents do not count: some file systems
    ignore them.

    Args:
      names: of files, relative, with "/".
      suffixes: that may be given to them; a folder's name may be a file's then (a.wav/b.wav).
    """
    names = [portable(name) for name in names]
    stems = [portable(os.path.splitext(name)[0]) for name in names]
    counts = Counter(map(_folded, stems))
    taken = {
        _folded(str(folder)[: -len(suffix)])
        for folder in {above for name in names for above in PurePosixPath(name).parents}
        for suffix in suffixes
        if str(folder).lower().endswith(suffix)
    }
    made = []
    for name, stem in zip(names, stems, strict=True):
        unique = wanted = name if counts[_folded(stem)] > 1 else stem
        number = 2
        while _folded(unique) in taken:
            unique = f"{wanted}-{number}"
            number += 1
        taken.add(_folded(unique))
        made.append(unique)
    return made


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def safe(text: str) -> str:
    """A label as a part of a file name that Windows, macOS, Linux and a web address take.

    Case and letters of any language stay; what is unsafe becomes `-`, and spaces become `_`.
    """
    text = unicodedata.normalize("NFC", readable(text))
    text = re.sub(r"\s+", "_", _UNSAFE.sub("-", text.strip()))
    text = text.encode()[:MAX_LABEL_BYTES].decode("utf-8", "ignore")
    return _no_device(text.strip(".-_ "))


def telling(index: int, *, digits: int, label: str | None, key: int | None) -> str:
    """`bass_C2_00017`: label and note, as far as they are known, and index.

    Args:
      index: of the sound; makes the name the only one of its kind.
      digits: of the index, zeros in front.
      label: any text.
      key: MIDI note.
    """
    parts = [safe(label or ""), "" if key is None else note_name(key), f"{index:0{digits}d}"]
    return "_".join(part for part in parts if part)
