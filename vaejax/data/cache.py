"""The cache of decoded sounds: a folder of packs, one for each source and group of settings.

    python -m vaejax.data [--keep GIGABYTES] [--cache_dir DIR]

lists them, and removes the longest unused. Builders of one pack take turns on a lock.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vaejax.data import pack
from vaejax.data.pack import Corpus, Item, Stored, Unfinished

LOCK = "lock"


class Entry(NamedTuple):
    """A pack of the cache."""

    directory: Path
    source: str
    """Folder of the sounds, or `synth`; `unfinished` where there is no index."""
    num_clips: int
    num_bytes: int
    used: float
    """Time of the last use, in seconds since 1970."""


def default_cache_dir() -> Path:
    """Returns $VAEJAX_CACHE, else $XDG_CACHE_HOME/vaejax, else ~/.cache/vaejax."""
    if path := os.environ.get("VAEJAX_CACHE"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaejax"


def cached(
    items: Callable[[dict[str, Item], int], Generator[Item]],
    *,
    cache_dir: str | os.PathLike[str],
    key: dict[str, Any],
    settings: dict[str, Any],
    state: dict[str, Any],
    num_rows: int,
    others: list[Item],
    names: list[str] | None,
) -> Corpus:
    """Maps the pack for `key` and `settings`, built from `items` first unless it is in `state`.

    Args:
      items: takes what is known already, by name, as far as it holds in `state`, and how many items
        to leave out; yields the rest of the new pack.
      key: of the cache's folder, with `settings`; its "source" is the corpus's.
      num_rows: the most clips that `items` yields.
      others: rejected beside `items`.
      names: of the items in order; None where they follow from `key`.
    """
    identity = json.dumps({"format": pack.FORMAT, **key, **settings}, sort_keys=True)
    directory = Path(cache_dir).expanduser() / pack.blake2b(identity.encode()).hexdigest()
    if (stored := pack.load(directory, settings)) and _is_current(stored, state):
        _mark_used(directory)
        return stored.corpus
    row_bytes = settings["pack_samples"] * np.dtype(np.int16).itemsize
    with _explained(directory, num_rows * row_bytes):
        directory.mkdir(parents=True, exist_ok=True)
        with _lock(directory) as locked:
            stored = pack.load(directory, settings)
            if stored and _is_current(stored, state):  # another process was faster
                return stored.corpus
            # Without a lock, it may be another process that is at it.
            begun = pack.load_unfinished(directory, settings) if locked else None
            known = _known(stored, state)
            goes_on = begun is not None and _is_beginning(begun, names, state)
            if begun is not None and not goes_on:
                known |= _still_valid(begun, state)
            done = len(begun.items) if begun is not None and goes_on else 0
            if shutil.disk_usage(directory).free < (num_rows - done) * row_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            name = pack.write(
                directory,
                items(known, done),
                others=others,
                source=key["source"],
                settings=settings,
                state=state,
                begun=begun if goes_on else None,
            )
            written = pack.load(directory, settings, check=False)
            assert written is not None, f"{directory} changed while it was written"
            if locked:
                # Left by builders that were killed, and packs that no index names any more.
                for path in directory.iterdir():
                    if path.name not in (name, pack.INDEX, LOCK):
                        with contextlib.suppress(OSError):  # mapped by a process, on Windows
                            path.unlink()
    return written.corpus


def entries(cache_dir: Path) -> list[Entry]:
    """All packs of a cache, the longest unused first."""
    found = []
    for directory in cache_dir.iterdir() if cache_dir.is_dir() else ():
        # Nothing is listed, nor removed, that is not ours.
        if not (directory / LOCK).is_file() and not (directory / pack.INDEX).is_file():
            continue
        source, num_clips, used = "unfinished", 0, 0.0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            index = json.loads((directory / pack.INDEX).read_text("utf-8"))
            source, num_clips = index["corpus"]["source"], len(index["corpus"]["names"])
        stats = [path.stat() for path in directory.iterdir()]
        used = max(status.st_mtime for status in stats)
        found.append(
            Entry(directory, source, num_clips, sum(status.st_size for status in stats), used)
        )
    return sorted(found, key=lambda entry: entry.used)


def remove(entry: Entry) -> bool:
    """Removes a pack, unless a process is building it just now; whether it is gone."""
    with _lock(entry.directory, wait=False) as locked:
        if not locked:
            return False
        shutil.rmtree(entry.directory, ignore_errors=True)
    return not entry.directory.exists()


def _mark_used(directory: Path) -> None:
    with contextlib.suppress(OSError):  # a cache that may only be read
        os.utime(directory / pack.INDEX)


def _is_current(stored: Stored, state: dict[str, Any]) -> bool:
    if stored.state != state:
        return False
    # Permissions can change without a trace in the file's size and time.
    for name in stored.unreadable:
        with (
            contextlib.suppress(OSError),
            open(os.path.join(stored.corpus.source, name), "rb"),
        ):
            return False
    return True


def _known(stored: Stored | None, state: dict[str, Any]) -> dict[str, Item]:
    """Returns the items of an earlier pack whose files have kept their size and time."""
    if stored is None or "stats" not in state:
        return {}
    corpus = stored.corpus
    rows = zip(corpus.names, corpus.clips, corpus.lengths.tolist(), corpus.hashes, strict=True)
    found = [
        Item(name, pcm=clip, length=length, digest=digest) for name, clip, length, digest in rows
    ]
    items = {item.name: item for item in found}
    for noted in corpus.notes:
        items[noted["file"]].notes.append(noted["note"])
    found += [Item(item["file"], reason=item["reason"]) for item in corpus.rejected]
    old, new = stored.state["stats"], state["stats"]
    retry = set(stored.unreadable)
    return {
        item.name: item
        for item in found
        if item.name in new and item.name not in retry and old.get(item.name) == new[item.name]
    }


def _is_beginning(begun: Unfinished, names: list[str] | None, state: dict[str, Any]) -> bool:
    """Whether an unfinished pack is how the new one begins."""
    if names is None:
        return True
    there = [item.name for item in begun.items]
    return there == names[: len(there)] and len(_still_valid(begun, state)) == len(there)


def _still_valid(begun: Unfinished, state: dict[str, Any]) -> dict[str, Item]:
    """The items of an unfinished pack whose files have kept their size and time."""
    stats = state.get("stats", {})
    return {
        item.name: item
        for item in begun.items
        if not item.unreadable and item.name in stats and item.stat == stats[item.name]
    }


@contextlib.contextmanager
def _lock(directory: Path, *, wait: bool = True) -> Iterator[bool]:
    """Makes builders of one pack take turns; yields whether that is sure.

    Where there are no locks (Windows, some network file systems), two builders each write a
    whole pack of their own, the later index wins, and nothing is cleaned up.
    """
    try:
        import fcntl
    except ImportError:
        yield False
        return
    with (directory / LOCK).open("w") as file:
        locked = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            print("waiting for another process to pack the same sounds", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            locked = False
        yield locked


@contextlib.contextmanager
def _explained(directory: Path, needed: int) -> Iterator[None]:
    """Turns an OSError of the cache into one line that says what to do."""
    try:
        yield
    except OSError as error:
        choose = "choose another folder with --data.cache_dir"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"disk full: the packed sounds need {needed:,} bytes in {directory.parent}"
        else:
            text = f"cannot write the cache in {directory.parent} ({error.strerror or error})"
        explained = OSError(f"{text}; {choose}")
        explained.errno = error.errno
        raise explained from error
