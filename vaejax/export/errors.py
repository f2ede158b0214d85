"""One clear line for a write that failed: the file, the reason, the way out."""

import errno
import os
from pathlib import Path


class WriteError(OSError):
    """A file could not be written; the message names the file, the reason and the way out."""


def explain_write_error(path: str | os.PathLike, error: OSError) -> WriteError:
    """One line for a failed write: the file, the reason, the way out.

    An error that was explained before, nearer to its cause, is returned as it is.
    """
    if isinstance(error, WriteError):
        return error
    folder = Path(path).parent
    advice = {
        errno.ENOSPC: "the disk is full; free some space or choose another output folder",
        errno.EDQUOT: "the disk quota is used up; free some space or choose another output folder",
        errno.EACCES: f"no permission to write in {folder}; choose another output folder",
        errno.EPERM: f"no permission to write in {folder}; choose another output folder",
        errno.EROFS: "the file system is read-only; choose another output folder",
        errno.ENOENT: f"the folder {folder} does not exist",
        errno.ENAMETOOLONG: "the name is too long for this file system",
    }.get(error.errno or 0, error.strerror or str(error))
    explained = WriteError(f"cannot write {path}: {advice}")
    explained.errno = error.errno
    return explained
