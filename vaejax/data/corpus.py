"""A folder of sounds, or the built-in set -> packed int16 clips, from the cache where they are."""

import ast
import dataclasses
import hashlib
import math
import os
from collections import Counter, deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vaejax.data import conditioning, decoding, files, labels, pack, quiet
from vaejax.data.cache import cached
from vaejax.data.pack import Corpus, Item, blake2b
from vaejax.names import readable

# Clips finished but not yet written, per worker: keeps the workers busy behind a slow file.
IN_FLIGHT = 4


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
    some differ, only those are decoded and the other clips are copied from the earlier pack. A
    build that was killed is gone on with.

    Args:
      folder: see `files.find_files`.
      sample_rate: of the clips, in Hz.
      pack_samples: length of every clip; longer sounds are cropped, shorter ones padded.
      trim_db: see `conditioning.condition`.
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
    sounds, others, passed_over = files.find_files(folder)
    root = Path(folder).expanduser()
    source = os.path.abspath(root)
    settings = {"sample_rate": sample_rate, "pack_samples": pack_samples, "trim_db": trim_db}
    names = [path.relative_to(root).as_posix() for path in sounds]
    stats = dict(zip(names, map(_stat, sounds), strict=True))
    rejects = {path.relative_to(root).as_posix(): files.reason_not_sound(path) for path in others}

    def load(name: str) -> Item:
        item = Item(name)
        try:
            clip = conditioning.condition(
                decoding.read(root / name, sample_rate=sample_rate),
                sample_rate=sample_rate,
                trim_db=trim_db,
                num_samples=pack_samples,
            )
            item.pcm, item.length, item.notes = clip
            with open(root / name, "rb") as file:
                item.digest = hashlib.file_digest(file, blake2b).hexdigest()
        except files.UnusableSound as error:
            item.reason = str(error)
            item.unreadable = isinstance(error, files.UnreadableFile)
        except OSError as error:  # gone since it was decoded
            item.reason = f"cannot be read ({error.strerror or error})"
            item.unreadable = True
        except Exception as error:  # whatever it is, it is of this one file
            item.reason = f"cannot be decoded ({type(error).__name__}: {error})"
        return item

    def items(known: dict[str, Item], start: int) -> Generator[Item]:
        found = _in_order(
            names[start:], known, load, done=start, num_workers=num_workers, progress=progress
        )
        for item in found:
            item.stat = stats[item.name]
            yield item

    packed = cached(
        items,
        cache_dir=cache_dir,
        key={"source": source},
        settings=settings,
        state={"stats": stats, "others": rejects},
        num_rows=len(names),
        others=[Item(name, reason=reason) for name, reason in rejects.items()],
        names=names,
    )
    return _described(packed, settings, passed_over)


def _described(packed: Corpus, settings: dict[str, Any], passed_over: dict[str, int]) -> Corpus:
    """A packed folder with labels, and with names that can be shown and stored anywhere."""
    top = os.path.basename(packed.source) or "sounds"
    parents = [name.rpartition("/")[0].rpartition("/")[2] or top for name in packed.names]
    return dataclasses.replace(
        packed,
        names=[readable(name) for name in packed.names],
        labels=[readable(label) for label in labels.of_folders(packed.names, top)],
        rejected=[{**item, "file": readable(item["file"])} for item in packed.rejected],
        notes=[{**item, "file": readable(item["file"])} for item in packed.notes],
        passed_over=passed_over,
        former=(_former(packed, settings, parents),),
    )


def _former(packed: Corpus, settings: dict[str, Any], parents: list[str]) -> str:
    """The fingerprint that an earlier version gave."""
    parts = (settings, packed.names, parents, packed.hashes)
    return pack.fingerprint(pack.FORMER_FINGERPRINT, *parts)


# Of the built-in sounds: raise it with any change that can be heard.
SYNTH_VERSION = 1


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

    def items(_: dict[str, Item], start: int) -> Generator[Item]:
        from vaejax.data import synth

        batches = synth.render_set(
            seed=seed,
            count=count,
            sample_rate=sample_rate,
            num_samples=pack_samples,
            start=start,
            **chosen,
        )
        about = {"desc": "Rendering sounds", "unit": "sound", "disable": not progress}
        with tqdm(total=count, initial=start, **about) as bar:
            for waveforms, families, factors, indices in batches:
                columns = {key: np.asarray(values) for key, values in factors.items()}
                for row, waveform in enumerate(np.asarray(waveforms)):
                    family = synth.FAMILIES[int(families[row])]
                    item = Item(f"{family}/{int(indices[row]):05d}", label=family)
                    item.factors = {key: float(column[row]) for key, column in columns.items()}
                    try:
                        clip = conditioning.condition(
                            decoding.of_array(waveform, sample_rate=sample_rate),
                            sample_rate=sample_rate,
                            trim_db=trim_db,
                            num_samples=pack_samples,
                        )
                        item.pcm, item.length = clip.pcm, clip.length
                        # Of what it is, not of its samples: they are rounded differently on another
                        # machine, where the same sounds are to be held out and a run to go on.
                        what = f"{SYNTH_VERSION} {seed} {item.name}"
                        item.digest = blake2b(what.encode()).hexdigest()
                    except files.UnusableSound as error:
                        item.reason = str(error)
                    bar.update()
                    yield item

    return cached(
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
        others=[],
        names=None,
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
        "notes": corpus.notes,
        "passed_over": corpus.passed_over,
    }


def _in_order(
    names: list[str],
    known: dict[str, Item],
    load: Callable[[str], Item],
    *,
    done: int,
    num_workers: int | None,
    progress: bool,
) -> Generator[Item]:
    """Yields an item per name, in order; threads load those that are not known.

    `done` others, of a build that was interrupted, count as read.
    """
    if num_workers is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        num_workers = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    missing = sum(name not in known for name in names)
    about = {"desc": "Reading sounds", "unit": "file", "disable": not progress}
    pool = ThreadPoolExecutor(num_workers)
    pending: deque[Item | Future[Item]] = deque()

    def take() -> Item:
        item = pending.popleft()
        if isinstance(item, Future):
            item = item.result()
            bar.update()
        return item

    try:
        # The bar takes over the stderr that is left to Python.
        with quiet.decoders(), tqdm(total=done + missing, initial=done, **about) as bar:
            for name in names:
                pending.append(known[name] if name in known else pool.submit(load, name))
                if len(pending) > num_workers * IN_FLIGHT:
                    yield take()
            while pending:
                yield take()
    finally:
        pool.shutdown(cancel_futures=True)


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
    return blake2b(b"".join(sources[name] for name in sorted(sources))).hexdigest()
