"""A pack: the clips of one source in one file on disk, and all that is known of them beside it.

A pack lives in a folder of its own: the samples (`clips-*.npy`, an ordinary NumPy file) and
`index.json`, which names that file and holds everything else. The index is put in place last and
atomically, so that a reader never sees one that does not match its samples. Samples are written as
a stream, not through a memory map: a full disk is then an OSError to report, not a SIGBUS to die
of.

While a pack is written, its samples are in `clips-*.npy.tmp`, and `clips-*.npy.journal` has a line
for each item that is in there whole. A build that was killed goes on from these two.
"""

import contextlib
import hashlib
import json
import mmap
import os
import uuid
import zlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from vaejax.names import within

# Goes up whenever decoding, conditioning or the layout of the cache changes what is stored.
FORMAT = 2
# Begins what a fingerprint is of; an earlier version's began with 1, and it covered labels too.
FINGERPRINT, FORMER_FINGERPRINT = 2, 1
# Samples that are compared with their checksums at a time, and threads that do so.
CHECKED_BYTES, CHECKERS = 1 << 23, 4
INDEX, JOURNAL, UNFINISHED = "index.json", ".journal", ".tmp"


@dataclass(frozen=True)
class Corpus:
    """Clips of one length and what is known of them; all columns are in the order of the clips."""

    clips: np.ndarray
    """[num_clips, pack_samples] int16, memory-mapped and read-only; each peaks at 32767."""
    lengths: np.ndarray
    """[num_clips] int32: samples of the whole sound once trimmed; more than the pack if cropped."""
    names: list[str]
    """POSIX path relative to the source."""
    labels: list[str]
    """See `labels.of_folders`."""
    hashes: list[str]
    """BLAKE2b of the file's bytes (of the clip's samples, for the built-in set), hexadecimal."""
    factors: dict[str, np.ndarray]
    """Known parameters of the built-in sounds, [num_clips] float32 each; empty for folders."""
    rejected: list[dict[str, str]]
    """The files that are not among the clips: {"file": name, "reason": text}, sorted by name."""
    sample_rate: int
    """In Hz."""
    source: str
    """The absolute path of the folder, or "synth"."""
    fingerprint: str
    """Equal for equal names, contents and settings, wherever the folder lies."""
    notes: list[dict[str, str]] = field(default_factory=list)
    """What had to be done to clips that changes what is heard: {"file": name, "note": text}."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """Files that are not even among the rejected, see `files.Found`."""
    former: tuple[str, ...] = ()
    """Fingerprints that the same sounds had in runs of earlier versions."""

    def __len__(self) -> int:
        return len(self.names)

    def is_same(self, fingerprint: str) -> bool:
        """Whether a fingerprint, of this version or an earlier one, is of these sounds."""
        return fingerprint in (self.fingerprint, *self.former)

    @property
    def label_names(self) -> list[str]:
        """The labels that occur, each once, sorted."""
        return sorted(set(self.labels))


@dataclass
class Item:
    """One clip on its way into a pack, or one rejected file (`reason` set)."""

    name: str
    label: str = ""
    pcm: np.ndarray | None = None
    """[pack_samples] int16."""
    length: int = 0
    digest: str = ""
    factors: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    reason: str = ""
    unreadable: bool = False
    stat: list[int] | None = None
    """Size in bytes and modification time in ns of the file; None where there is none."""
    check: int | None = None
    """CRC-32 of the samples."""


@dataclass
class Stored:
    """A finished pack."""

    corpus: Corpus
    state: dict[str, Any]
    """What the source looked like when it was packed."""
    unreadable: list[str]
    """Names of files that are there but could not be opened."""


@dataclass
class Unfinished:
    """What a build that was killed left behind."""

    path: Path
    """Of the samples."""
    items: list[Item]
    """Those that are in there whole, in order; `pcm` is mapped from the file."""
    end: int
    """Bytes of the journal that are about them."""


def read_rows(clips: np.ndarray, rows) -> np.ndarray:
    """Clips [len(rows), pack_samples] int16, in memory.

    Those of a mapped file are read rather than touched through the map, whose pages would count as
    this process's memory from then on: after an epoch, all of the set.
    """
    if not (isinstance(clips.base, mmap.mmap) and hasattr(os, "preadv")):
        return clips[rows]
    assert isinstance(clips, np.memmap)
    out = np.empty((len(rows), clips.shape[1]), clips.dtype)
    try:
        file = os.open(str(clips.filename), os.O_RDONLY)
    except FileNotFoundError:  # removed from the cache since it was mapped, which keeps it alive
        return clips[rows]
    try:
        for clip, row in zip(out, np.asarray(rows).tolist(), strict=True):
            start, view = clips.offset + row * clip.nbytes, memoryview(clip).cast("B")
            while view:
                size = os.preadv(file, [view], start)
                if not size:
                    raise OSError(f"{clips.filename} has been cut short")
                start, view = start + size, view[size:]
    finally:
        os.close(file)
    return out


def load(directory: Path, settings: dict[str, Any], *, check: bool = True) -> Stored | None:
    """Reads an index and maps its samples; None if there is none, or a damaged one.

    Args:
      check: whether to compare the samples with their checksums.
    """
    try:
        index = json.loads((directory / INDEX).read_text("utf-8"))
        columns = index["corpus"]
        columns["lengths"] = np.array(columns["lengths"], np.int32)
        columns["factors"] = {
            key: np.array(values, np.float32) for key, values in columns["factors"].items()
        }
        name = within(index["pack"], directory / INDEX)
        clips = np.load(directory / name, mmap_mode="r", allow_pickle=False)
        rows = len(columns["names"])
        whole = all(len(columns[key]) == rows for key in ("labels", "hashes", "lengths"))
        if clips.shape != (rows, settings["pack_samples"]) or clips.dtype != "<i2" or not whole:
            return None
        if len(index["checks"]) != rows or (check and not _is_sound(clips, index["checks"])):
            return None
        return Stored(Corpus(clips=clips, **columns), index["state"], index["unreadable"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def _is_sound(clips: np.ndarray, checks: list[int]) -> bool:
    """Whether the samples are those that were written."""
    rows_at_a_time = max(1, CHECKED_BYTES // max(1, clips[:1].nbytes))

    def agrees(start: int) -> bool:
        rows = range(start, min(start + rows_at_a_time, len(checks)))
        return all(
            zlib.crc32(clip) == checks[row]
            for clip, row in zip(read_rows(clips, np.asarray(rows)), rows, strict=True)
        )

    with ThreadPoolExecutor(CHECKERS) as pool:
        return all(pool.map(agrees, range(0, len(checks), rows_at_a_time)))


def load_unfinished(directory: Path, settings: dict[str, Any]) -> Unfinished | None:
    """What the killed build that came farthest left behind; None if there is nothing of use."""
    found = []
    for path in directory.glob(f"clips-*{UNFINISHED}"):
        with contextlib.suppress(OSError, ValueError):
            found.append(_unfinished(path, settings["pack_samples"]))
    best = max(found, key=lambda unfinished: len(unfinished.items), default=None)
    return best if best and best.items else None


def write(
    directory: Path,
    items: Generator[Item],
    *,
    others: list[Item],
    source: str,
    settings: dict[str, Any],
    state: dict[str, Any],
    begun: Unfinished | None = None,
) -> str:
    """Streams items into a new pack, then points the index at it.

    When it is interrupted, what is whole stays for `load_unfinished`; after an OSError, such as a
    full disk, nothing does.

    Args:
      others: what is rejected beside `items`.
      begun: go on with this one; its items are not among `items`.
    Returns:
      The name of the file of samples.
    """
    path = begun.path if begun else directory / f"clips-{uuid.uuid4().hex}.npy{UNFINISHED}"
    done = begun.items if begun else []
    for item in done:
        item.pcm = None  # closes the map: the file is about to change
    used = [item for item in done if not item.reason]
    rejected = others + [item for item in done if item.reason]
    try:
        mode = "r+b" if begun else "wb"
        with (
            open(path, mode) as file,
            open(_journal_of(path), mode) as journal,
            contextlib.closing(items),
        ):
            # NumPy leaves room in a header for the first axis to grow, so it can be rewritten.
            start = _write_header(file, 0, settings["pack_samples"])
            file.truncate(start + len(used) * 2 * settings["pack_samples"])
            file.seek(0, os.SEEK_END)
            journal.truncate(begun.end if begun else 0)
            journal.seek(0, os.SEEK_END)
            for item in items:
                if item.reason or item.pcm is None:
                    item.pcm = None
                    rejected.append(item)
                else:
                    samples = np.ascontiguousarray(item.pcm, "<i2")
                    item.pcm, item.check = None, zlib.crc32(samples.data)
                    # Both reach the system before the next item: a kill loses none of them.
                    file.write(samples.data)
                    file.flush()
                    used.append(item)
                journal.write(json.dumps(vars(item)).encode("ascii") + b"\n")
                journal.flush()
                done.append(item)
            file.seek(0)
            assert _write_header(file, len(used), settings["pack_samples"]) == start
            file.flush()
            os.fsync(file.fileno())
        return _finish(path, used, rejected, source=source, settings=settings, state=state)
    except BaseException as error:
        if isinstance(error, OSError) or not done:
            path.unlink(missing_ok=True)
            _journal_of(path).unlink(missing_ok=True)
        raise


def _finish(
    path: Path,
    used: list[Item],
    rejected: list[Item],
    *,
    source: str,
    settings: dict[str, Any],
    state: dict[str, Any],
) -> str:
    """Gives the samples their name and puts the index in place."""
    rejected.sort(key=lambda item: item.name)
    names, labels = [item.name for item in used], [item.label for item in used]
    hashes = [item.digest for item in used]
    corpus = {
        "names": names,
        "labels": labels,
        "hashes": hashes,
        "lengths": [min(item.length, 2**31 - 1) for item in used],
        "factors": {
            key: [item.factors[key] for item in used] for key in (used[0].factors if used else ())
        },
        "rejected": [{"file": item.name, "reason": item.reason} for item in rejected],
        "sample_rate": settings["sample_rate"],
        "source": source,
        "fingerprint": fingerprint(FINGERPRINT, settings, names, hashes),
        "notes": [{"file": item.name, "note": note} for item in used for note in item.notes],
    }
    unreadable = [item.name for item in rejected if item.unreadable]
    pack = path.with_name(path.name.removesuffix(UNFINISHED))
    index = {
        "pack": pack.name,
        "corpus": corpus,
        "checks": [item.check for item in used],
        "state": state,
        "unreadable": unreadable,
    }
    # Under a new name, which `load_unfinished` does not take for samples.
    temporary = path.with_name(f"{INDEX}-{uuid.uuid4().hex}")
    try:
        # ASCII, because a name that is not valid UTF-8 has no other way through JSON.
        temporary.write_text(json.dumps(index), "ascii")
        os.replace(path, pack)
        os.replace(temporary, path.with_name(INDEX))
    except BaseException:
        temporary.unlink(missing_ok=True)
        pack.unlink(missing_ok=True)
        raise
    _journal_of(path).unlink(missing_ok=True)
    return pack.name


def fingerprint(*parts: Any) -> str:
    """A hash of anything that JSON takes."""
    return blake2b(json.dumps(parts).encode()).hexdigest()


def _unfinished(path: Path, num_samples: int) -> Unfinished:
    items: list[Item] = []
    end, row = 0, 0
    with open(path, "rb") as file:
        start = _header_size(file)
    num_rows = max(0, path.stat().st_size - start) // (2 * num_samples)
    rows: Any = np.memmap(path, "<i2", "r", start, (num_rows, num_samples)) if num_rows else []
    with open(_journal_of(path), "rb") as journal:
        for line in journal:
            try:
                item = Item(**json.loads(line))
            except (ValueError, TypeError):
                break  # cut off by the kill
            if not item.reason:
                # After a power cut the journal may be ahead of the samples.
                if row >= num_rows or zlib.crc32(rows[row]) != item.check:
                    break
                item.pcm, row = rows[row], row + 1
            items.append(item)
            end += len(line)
    return Unfinished(path, items, end)


def _journal_of(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(UNFINISHED) + JOURNAL)


def _write_header(file: IO[bytes], num_rows: int, num_samples: int) -> int:
    shape = (num_rows, num_samples)
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<i2", "fortran_order": False, "shape": shape}
    )
    return file.tell()


def _header_size(file: IO[bytes]) -> int:
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return file.tell()


def blake2b(content: bytes = b"") -> Any:
    """The hash of all that is hashed here."""
    return hashlib.blake2b(content, digest_size=16)
