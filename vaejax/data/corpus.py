"""A folder of sounds, or the built-in set -> packed int16 clips, cached on disk and memory-mapped.

The cache of one source with one group of settings is a folder of its own: a pack (`clips-*.npy`)
and `index.json`, which names the pack and holds everything else. The index is put in place last
and atomically, so that a reader never sees one that does not match its pack; builders take turns
on a lock. The pack is written as a stream, not through a memory map: a full disk is then an
OSError to report, not a SIGBUS to die of.
"""

import ast
import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import sys
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from vaejax.data import files

# Goes up whenever decoding, conditioning or the layout of the cache changes what is stored.
FORMAT = 1
# Clips finished but not yet written, per worker: keeps the workers busy behind a slow file.
IN_FLIGHT = 4
INDEX, LOCK = "index.json", "lock"


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
    """Name of the folder that holds the file."""
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

    def __len__(self) -> int:
        return len(self.names)

    @property
    def label_names(self) -> list[str]:
        """The labels that occur, each once, sorted."""
        return sorted(set(self.labels))


@dataclass
class _Item:
    """One clip on its way into a pack, or one rejected file (`reason` set)."""

    name: str
    label: str = ""
    pcm: np.ndarray | None = None
    length: int = 0
    digest: str = ""
    factors: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    unreadable: bool = False


def default_cache_dir() -> Path:
    """Returns $VAEJAX_CACHE, else $XDG_CACHE_HOME/vaejax, else ~/.cache/vaejax."""
    if path := os.environ.get("VAEJAX_CACHE"):
        return Path(path).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vaejax"


def load_folder(
    folder: str | os.PathLike[str],
    *,
    sample_rate: int,
    pack_samples: int,
    trim_db: float,
    cache_dir: str | os.PathLike[str],
    num_workers: int | None = None,
    progress: bool = True,
) -> Corpus:
    """Packs every usable sound of a folder, or maps the pack of an earlier call.

    When the names, sizes and modification times are those of the cache, no file is opened. When
    some differ, only those are decoded and the other clips are copied from the earlier pack.

    Args:
      folder: see `files.find_files`.
      sample_rate: of the clips, in Hz.
      pack_samples: length of every clip; longer sounds are cropped, shorter ones padded.
      trim_db: see `files.condition`.
      cache_dir: where packs are kept; 2 * pack_samples bytes per sound.
      num_workers: threads that decode; None for one per core this process may use.
      progress: whether to draw a progress bar on stderr.
    Returns:
      The clips, sorted by name; possibly none, if every file was rejected.
    Raises:
      FileNotFoundError: if there is no such folder.
      ValueError: if it is a file or holds no files.
      OSError: if the cache cannot be written, or the disk is full.
    """
    sounds, others = files.find_files(folder)
    root = Path(folder).expanduser()
    source = os.path.abspath(root)
    settings = {"sample_rate": sample_rate, "pack_samples": pack_samples, "trim_db": trim_db}
    names = [path.relative_to(root).as_posix() for path in sounds]
    stats = dict(zip(names, map(_stat, sounds), strict=True))
    rejects = {path.relative_to(root).as_posix(): files.reason_not_sound(path) for path in others}

    def load(name: str) -> _Item:
        parent = name.rpartition("/")[0].rpartition("/")[2]
        item = _Item(name, label=parent or os.path.basename(source) or "sounds")
        try:
            waveform = files.decode(root / name, sample_rate=sample_rate)
            item.pcm, item.length = files.condition(
                waveform, sample_rate=sample_rate, trim_db=trim_db, num_samples=pack_samples
            )
            with open(root / name, "rb") as file:
                item.digest = hashlib.file_digest(file, _blake2b).hexdigest()
        except files.UnusableSound as error:
            item.reason = str(error)
            item.unreadable = isinstance(error, files.UnreadableFile)
        except OSError as error:  # gone since it was decoded
            item.reason = f"cannot be read ({error.strerror or error})"
            item.unreadable = True
        return item

    def items(known: dict[str, _Item]) -> Generator[_Item]:
        yield from (_Item(name, reason=reason) for name, reason in rejects.items())
        yield from _in_order(names, known, load, num_workers=num_workers, progress=progress)

    return _cached(
        items,
        cache_dir=cache_dir,
        key={"source": source},
        settings=settings,
        state={"stats": stats, "others": rejects},
        num_rows=len(names),
    )


def load_synth(
    *,
    seed: int,
    count: int,
    sample_rate: int,
    pack_samples: int,
    trim_db: float,
    cache_dir: str | os.PathLike[str],
    families: tuple[str, ...] = (),
    progress: bool = True,
) -> Corpus:
    """Renders and packs the built-in set, or maps the pack of an earlier call.

    Args:
      seed, count: sound i of a seed is the same for every count.
      families: those that take turns; none named is all of them.
      sample_rate, pack_samples, trim_db, cache_dir, progress: as for `load_folder`.
    Returns:
      `count` clips named "<family>/<index>", labelled with their family, with their factors.
    Raises:
      OSError: if the cache cannot be written, or the disk is full.
    """
    settings = {"sample_rate": sample_rate, "pack_samples": pack_samples, "trim_db": trim_db}
    chosen: dict[str, Any] = {"families": families} if families else {}

    def items(_: dict[str, _Item]) -> Generator[_Item]:
        from vaejax.data import synth

        batches = synth.render_set(
            seed=seed, count=count, sample_rate=sample_rate, num_samples=pack_samples, **chosen
        )
        with tqdm(total=count, desc="Rendering sounds", unit="sound", disable=not progress) as bar:
            for waveforms, families, factors, indices in batches:
                columns = {key: np.asarray(values) for key, values in factors.items()}
                for row, waveform in enumerate(np.asarray(waveforms)):
                    family = synth.FAMILIES[int(families[row])]
                    item = _Item(f"{family}/{int(indices[row]):05d}", label=family)
                    item.factors = {key: float(column[row]) for key, column in columns.items()}
                    try:
                        item.pcm, item.length = files.condition(
                            waveform,
                            sample_rate=sample_rate,
                            trim_db=trim_db,
                            num_samples=pack_samples,
                        )
                        item.digest = _blake2b(item.pcm.tobytes()).hexdigest()
                    except files.UnusableSound as error:
                        item.reason = str(error)
                    bar.update()
                    yield item

    return _cached(
        items,
        cache_dir=cache_dir,
        key={
            "source": "synth",
            "seed": seed,
            "count": count,
            **({"families": sorted(families)} if families else {}),
            "synth": _source_hash("vaejax.data.synth"),
        },
        settings=settings,
        state={},
        num_rows=count,
    )


def summary(corpus: Corpus, *, held_out: np.ndarray, pitches: np.ndarray) -> dict[str, Any]:
    """Returns what a run records of its data, ready for JSON.

    Args:
      held_out: [num_clips] bool, see `data.splits`.
      pitches: [num_clips] MIDI numbers, NaN where not known.
    """
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(corpus.names):
        row: dict[str, Any] = {
            "file": name,
            "label": corpus.labels[i],
            "seconds": round(float(corpus.lengths[i]) / corpus.sample_rate, 4),
            "split": "held_out" if held_out[i] else "train",
            "pitch": round(float(pitches[i]), 3) if math.isfinite(pitches[i]) else None,
        }
        if corpus.factors:
            # JSON has no NaN; a factor that a family lacks (the pitch of a hat) is null.
            values = {key: float(column[i]) for key, column in corpus.factors.items()}
            row["factors"] = {
                key: round(value, 5) if math.isfinite(value) else None
                for key, value in values.items()
            }
        rows.append(row)
    return {
        "source": corpus.source,
        "sample_rate": corpus.sample_rate,
        "fingerprint": corpus.fingerprint,
        "counts": {
            "used": len(corpus),
            "train": int(len(corpus) - held_out.sum()),
            "held_out": int(held_out.sum()),
            "rejected": len(corpus.rejected),
        },
        "labels": dict(sorted(Counter(corpus.labels).items())),
        "files": rows,
        "rejected": corpus.rejected,
    }


def _cached(
    items: Callable[[dict[str, _Item]], Generator[_Item]],
    *,
    cache_dir: str | os.PathLike[str],
    key: dict[str, Any],
    settings: dict[str, Any],
    state: dict[str, Any],
    num_rows: int,
) -> Corpus:
    """Maps the pack for `key` and `settings`, built from `items` first unless it is in `state`.

    Args:
      items: takes the items of the pack that is there, by name, as far as they hold in `state`;
        yields those of the new one.
      key: of the cache's folder, with `settings`; its "source" is the corpus's.
      num_rows: the most clips that `items` yields.
    """
    identity = json.dumps({"format": FORMAT, **key, **settings}, sort_keys=True)
    directory = Path(cache_dir).expanduser() / _blake2b(identity.encode()).hexdigest()
    if (cached := _open(directory, settings)) and _is_current(cached, state):
        return cached.corpus
    needed = num_rows * settings["pack_samples"] * np.dtype(np.int16).itemsize
    with _explained(directory, needed):
        directory.mkdir(parents=True, exist_ok=True)
        with _lock(directory) as locked:
            cached = _open(directory, settings)
            if cached and _is_current(cached, state):  # another process was faster
                return cached.corpus
            if shutil.disk_usage(directory).free < needed:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            pack = _write(directory, items(_known(cached, state)), key["source"], settings, state)
            written = _open(directory, settings)
            assert written is not None, f"{directory} changed while it was written"
            if locked:
                # Left by builders that were killed, and packs that no index names any more.
                for path in directory.iterdir():
                    if path.name not in (pack, INDEX, LOCK):
                        with contextlib.suppress(OSError):  # mapped by a process, on Windows
                            path.unlink()
    return written.corpus


@dataclass
class _Cached:
    corpus: Corpus
    state: dict[str, Any]
    unreadable: list[str]


def _open(directory: Path, settings: dict[str, Any]) -> _Cached | None:
    """Reads an index and maps its pack; None if there is none, or a damaged one."""
    try:
        index = json.loads((directory / INDEX).read_text("utf-8"))
        columns = index["corpus"]
        columns["lengths"] = np.array(columns["lengths"], np.int32)
        columns["factors"] = {
            key: np.array(values, np.float32) for key, values in columns["factors"].items()
        }
        clips = np.load(directory / index["pack"], mmap_mode="r", allow_pickle=False)
        rows = len(columns["names"])
        whole = all(len(columns[key]) == rows for key in ("labels", "hashes", "lengths"))
        if clips.shape != (rows, settings["pack_samples"]) or clips.dtype != "<i2" or not whole:
            return None
        return _Cached(Corpus(clips=clips, **columns), index["state"], index["unreadable"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
        return None


def _is_current(cached: _Cached, state: dict[str, Any]) -> bool:
    if cached.state != state:
        return False
    # Permissions can change without a trace in the file's size and time.
    for name in cached.unreadable:
        with (
            contextlib.suppress(OSError),
            open(os.path.join(cached.corpus.source, name), "rb"),
        ):
            return False
    return True


def _known(cached: _Cached | None, state: dict[str, Any]) -> dict[str, _Item]:
    """Returns the items of an earlier pack whose files have kept their size and time."""
    if cached is None or "stats" not in state:
        return {}
    corpus = cached.corpus
    rows = zip(corpus.names, corpus.labels, corpus.clips, corpus.lengths.tolist(), strict=True)
    found = [
        _Item(name, label=label, pcm=clip, length=length, digest=digest)
        for (name, label, clip, length), digest in zip(rows, corpus.hashes, strict=True)
    ]
    found += [_Item(item["file"], reason=item["reason"]) for item in corpus.rejected]
    old, new = cached.state["stats"], state["stats"]
    retry = set(cached.unreadable)
    return {
        item.name: item
        for item in found
        if item.name in new and item.name not in retry and old.get(item.name) == new[item.name]
    }


def _in_order(
    names: list[str],
    known: dict[str, _Item],
    load: Callable[[str], _Item],
    *,
    num_workers: int | None,
    progress: bool,
) -> Generator[_Item]:
    """Yields an item per name, in order; threads load those that are not known."""
    if num_workers is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        num_workers = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    missing = sum(name not in known for name in names)
    bar = tqdm(total=missing, desc="Reading sounds", unit="file", disable=not progress)
    pool = ThreadPoolExecutor(num_workers)
    pending: deque[_Item | Future[_Item]] = deque()

    def take() -> _Item:
        item = pending.popleft()
        if isinstance(item, Future):
            item = item.result()
            bar.update()
        return item

    try:
        with bar:
            for name in names:
                pending.append(known[name] if name in known else pool.submit(load, name))
                if len(pending) > num_workers * IN_FLIGHT:
                    yield take()
            while pending:
                yield take()
    finally:
        pool.shutdown(cancel_futures=True)


def _write(
    directory: Path,
    items: Generator[_Item],
    source: str,
    settings: dict[str, Any],
    state: dict[str, Any],
) -> str:
    """Streams items into a new pack, then points the index at it; returns the pack's name."""
    used: list[_Item] = []
    rejected: list[_Item] = []
    pack = f"clips-{uuid.uuid4().hex}.npy"
    temporary = directory / f"{pack}.tmp"
    try:
        with temporary.open("wb") as file, contextlib.closing(items):
            # NumPy leaves room in a header for the first axis to grow, so it can be rewritten.
            start = _write_header(file, 0, settings)
            for item in items:
                if item.reason or item.pcm is None:
                    rejected.append(item)
                    continue
                file.write(np.ascontiguousarray(item.pcm, "<i2").data)
                item.pcm = None
                used.append(item)
            file.seek(0)
            assert _write_header(file, len(used), settings) == start
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, directory / pack)
        rejected.sort(key=lambda item: item.name)
        names, labels = [item.name for item in used], [item.label for item in used]
        hashes = [item.digest for item in used]
        content = json.dumps([FORMAT, settings, names, labels, hashes])
        corpus = {
            "names": names,
            "labels": labels,
            "hashes": hashes,
            "lengths": [min(item.length, 2**31 - 1) for item in used],
            "factors": {
                key: [item.factors[key] for item in used]
                for key in (used[0].factors if used else ())
            },
            "rejected": [{"file": item.name, "reason": item.reason} for item in rejected],
            "sample_rate": settings["sample_rate"],
            "source": source,
            "fingerprint": _blake2b(content.encode()).hexdigest(),
        }
        unreadable = [item.name for item in rejected if item.unreadable]
        index = {"pack": pack, "corpus": corpus, "state": state, "unreadable": unreadable}
        # ASCII, because a name that is not valid UTF-8 has no other way through JSON.
        temporary.write_text(json.dumps(index), "ascii")
        os.replace(temporary, directory / INDEX)
    except BaseException:
        temporary.unlink(missing_ok=True)
        (directory / pack).unlink(missing_ok=True)
        raise
    return pack


def _write_header(file: BinaryIO, num_rows: int, settings: dict[str, Any]) -> int:
    shape = (num_rows, settings["pack_samples"])
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<i2", "fortran_order": False, "shape": shape}
    )
    return file.tell()


@contextlib.contextmanager
def _lock(directory: Path) -> Iterator[bool]:
    """Makes builders of one cache take turns; yields whether that is sure.

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


def _stat(path: Path) -> list[int]:
    """Returns the size in bytes and the modification time in ns; -1 if the file is gone."""
    try:
        status = path.stat()
    except OSError:
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _source_hash(module: str) -> str:
    """Hashes the source of a module of this package and of all that it imports from the package.

    It stands for the version of the built-in set, and is read rather than imported, so that a
    cached set is served without starting JAX.
    """
    root = Path(__file__).parents[2]
    sources: dict[str, bytes] = {}
    pending = [module]
    while pending:
        name = pending.pop()
        path = root.joinpath(*name.split(".")).with_suffix(".py")
        if name in sources or not path.is_file():  # not a module: a name inside one
            continue
        sources[name] = path.read_bytes()
        for node in ast.walk(ast.parse(sources[name])):
            if (
                isinstance(node, ast.ImportFrom)
                and node.module
                and node.module.startswith("vaejax")
            ):
                pending.append(node.module)
                pending += [f"{node.module}.{alias.name}" for alias in node.names]
    return _blake2b(b"".join(sources[name] for name in sorted(sources))).hexdigest()


def _blake2b(content: bytes = b"") -> Any:
    return hashlib.blake2b(content, digest_size=16)
