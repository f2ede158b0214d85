"""Names of files that sort, say what is inside, and are safe on every system."""

import re
import unicodedata

from vaejax.keys import note_name

# What Windows refuses in names, and what addresses, shells and SFZ read as something else.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f<>:\"/\\|?*#%$=&;'`]+")
MAX_LABEL_BYTES = 80


def safe(text: str) -> str:
    """A label as a part of a file name that Windows, macOS, Linux and a web address take.

    Case and letters of any language stay; what is unsafe becomes `-`, and spaces become `_`.
    """
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"\s+", "_", _UNSAFE.sub("-", text.strip()))
    text = text.encode("utf-8", "replace")[:MAX_LABEL_BYTES].decode("utf-8", "ignore")
    return text.strip(".-_ ")


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
