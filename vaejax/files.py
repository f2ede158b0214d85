"""Files that are written whole or not at all, lines that a kill may have cut, and locks.

A file is written under a name of its own beside the one it is to get (`.NAME-` and eight letters),
and holds a lock until it is renamed. A kill leaves it behind, but not its lock: `clean` tells by
that what nobody is writing any more.
"""

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Of a long name, this end stands in the temporary one, which has to fit as well.
_KEPT = 40
_TEMPORARY = re.compile(r"\.(.+)-[a-z0-9_]{8}", re.DOTALL)

unfinished: set[str] = set()
"""The temporary files of this process, for who ends it without a word to its writers."""


def replace(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file by `write`, which is given it open, whole or not at all.

    Raises:
      OSError: it cannot be written; what stood there stays.
    """
    file, temporary = _temporary(path)
    try:
        with file:
            write(file)
            file.flush()
            # Without it, a power cut may leave the name without the content.
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        unfinished.discard(temporary)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all."""
    replace(path, lambda file: file.write(text.encode()))


def clean(folder: Path, names: Iterable[str]) -> None:
    """Removes what killed writers of files of a folder left, and nothing that is being written.

    Args:
      folder: need not exist.
      names: of the files; one that begins with `*` stands for all with that end.
    """
    for left in os.listdir(folder) if folder.is_dir() else ():
        found = _TEMPORARY.fullmatch(left)
        if not found or not any(_is_of(found[1], name) for name in names):
            continue
        path = folder / left
        with contextlib.suppress(OSError), path.open("rb+") as file:
            if lock(file):
                path.unlink()


def _is_of(kept: str, name: str) -> bool:
    return kept.endswith(name[1:]) if name.startswith("*") else kept == name[-_KEPT:]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; lines that a kill has cut off are passed over.

    Nothing where there is no such file.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row


def lock(file: IO[Any]) -> bool | None:
    """Takes the lock of an open file, which ends with the process that holds it, however it ends.

    Returns:
      False where another process has it; None where there are no locks (Windows, some network file
      systems).
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _temporary(path: Path) -> tuple[BinaryIO, str]:
    """A new temporary file for `path`, locked, and its name."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[-_KEPT:]}-")
        unfinished.add(name)
        file = os.fdopen(handle, "wb")
        # `clean` of another process may have come between the two.
        if lock(file) is not False and os.path.exists(name):
            return file, name
        file.close()
        unfinished.discard(name)
