"""One archive of a finished folder."""

import os
import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from vaejax import files
from vaejax.export.errors import WriteError, explain_write_error
from vaejax.export.folders import PARTIAL_PREFIX
from vaejax.names import portable

# Stands at the end of an archive, and marks it as ours to replace.
ZIP_MARK = b"made by vaejax"
# The earliest that a zip can say: the same folder becomes the same archive, whenever.
DATE = (1980, 1, 1, 0, 0, 0)
# Sounds hardly shrink, and a stored file is copied as fast as the disk goes.
STORED = (".wav", ".flac", ".npy")


def archive_path(out: Path) -> Path:
    """Where the archive of a folder goes: beside it."""
    out = Path(os.path.abspath(out))
    return out.with_name(f"{out.name}.zip")


def check_archive(out: Path, *, overwrite: bool) -> None:
    """Raises WriteError where the archive may not be written.

    Raises:
      WriteError: the folder that it goes to cannot be written; the file exists and `overwrite` is
        off, or it is not an archive of this program.
    """
    path = archive_path(out)
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise WriteError(f"no permission to write {path}; choose another --out or leave out --zip")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise WriteError(f"{path} exists already; move it, or pass --overwrite")
    if not _is_ours(path):
        raise WriteError(
            f"{path} is in the way and not from an earlier run, so it is not replaced; move it or "
            "choose another --out"
        )


def drop_archive(out: Path) -> None:
    """Removes the archive of an earlier run of this program, if there is one."""
    path = archive_path(out)
    if path.is_file() and _is_ours(path):
        path.unlink()


def clean(out: Path) -> None:
    """Removes what a process that was killed left of an archive."""
    path = archive_path(out)
    files.clean(path.parent, (path.name,))
    # Earlier versions said in its name which process writes it.
    for left in path.parent.glob(f"{PARTIAL_PREFIX}*.zip"):
        number = left.name.removeprefix(PARTIAL_PREFIX).removesuffix(".zip")
        if number.isdecimal() and not _is_running(int(number)):
            left.unlink()


def _is_running(process: int) -> bool:
    if os.name != "posix":  # where asking would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return True


def _is_ours(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.comment == ZIP_MARK
    except (OSError, zipfile.BadZipFile):
        return False


def pack(out: Path, names: Iterable[str]) -> Path:
    """Writes files of a folder into an archive beside it, whole or not at all.

    One file after the other passes through memory in small pieces; archives and files in them may
    exceed 4 GiB (zip64).

    Args:
      out: the folder.
      names: of the files, relative to it, with "/".
    Returns:
      The archive.
    Raises:
      WriteError: it cannot be written.
    """
    out = Path(os.path.abspath(out))
    path = archive_path(out)

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            archive.comment = ZIP_MARK
            for name in names:
                about = zipfile.ZipInfo(portable(f"{out.name}/{name}"), DATE)
                about.external_attr = 0o644 << 16
                stored = name.lower().endswith(STORED)
                about.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                # With its size known beforehand, a small file needs no zip64 header.
                about.file_size = (out / name).stat().st_size
                with open(out / name, "rb") as source, archive.open(about, "w") as target:
                    shutil.copyfileobj(source, target, 1 << 20)

    try:
        files.replace(path, write)
    except OSError as error:
        raise explain_write_error(path, error) from error
    return path
