"""Sounds to files: WAV and FLAC, one at a time or many in parallel, never half a file.

A WAV is framed here rather than by libsndfile, for two reasons: libsndfile stamps the time of day
into every FLOAT WAV (its PEAK chunk), so the same sound would not give the same bytes twice, and it
turns "disk full" into a bare "System error". FLAC is encoded by libsndfile, in memory. Either way
the finished bytes go to a temporary name in the same folder, which is then renamed.

Samples are [num_samples] or [num_samples, num_channels]: int16, int32 (full scale is 2**31) or
float (full scale is 1).
"""

import contextlib
import errno
import io
import json
import os
import queue
import struct
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import soundfile

from vaejax.names import stays_in

SUBTYPES = ("PCM_16", "PCM_24", "FLOAT")
SOUND_SUFFIXES = (".wav", ".flac")
MANIFEST, LATENTS, SHEET = "manifest.jsonl", "latents.npy", "index.html"

# Names of unfinished files start so; a killed run may leave a few behind.
PARTIAL_PREFIX = ".vaejax-partial-"
# Stands in the head of every page of the contact sheet, and marks it as ours to replace.
SHEET_MARK = '<meta name="generator" content="vaejax">'
# First line of an SFZ instrument; the same for those.
SFZ_MARK = "// made by vaejax"

_BITS = {"PCM_16": 16, "PCM_24": 24, "FLOAT": 32}
_FORMAT_PCM, _FORMAT_FLOAT = 1, 3


class Tags(NamedTuple):
    """What a file says of itself beside its samples. No date: the same sound, the same bytes."""

    comment: str | None = None
    """Where the sound comes from; INFO chunk `ICMT`, in FLAC `COMMENT`."""
    root: float | None = None
    """Pitch of the sound as a MIDI note number, 60.5 a quarter tone above middle C; `smpl` chunk,
    which FLAC lacks."""
    loop: tuple[int, int] | None = None
    """First and last sample of the loop, both played; `smpl` chunk."""


class WriteError(OSError):
    """A file could not be written; the message names the file, the reason and the way out."""


def quantize(samples: np.ndarray, subtype: str) -> np.ndarray:
    """Samples as a file of `subtype` stores them.

    Integers keep their value where the file has the bits (int16 to PCM_16 is the identity) and are
    rounded to nearest where it has not. Floats are scaled by 2**(bits - 1), so that reading the
    file back as float returns the same value; +1.0 becomes the largest integer.

    Args:
      samples: [num_samples] or [num_samples, num_channels]; int16, int32 or float in [-1, 1].
      subtype: "PCM_16", "PCM_24" or "FLOAT".
    Returns:
      The same shape: int16 for PCM_16, int32 with the low 8 bits zero for PCM_24, float32 for
      FLOAT.
    Raises:
      ValueError: unknown subtype, no samples, other dtypes or shapes, NaN or Inf, or floats beyond
        [-1, 1] for an integer subtype.
    """
    samples = np.asarray(samples)
    if subtype not in SUBTYPES:
        raise ValueError(f"unknown subtype {subtype!r}; use one of {', '.join(SUBTYPES)}")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise ValueError(
            f"samples have shape {samples.shape}; expected [num_samples] or [num_samples, "
            "num_channels] with at least one sample"
        )
    if samples.dtype in (np.int16, np.int32):
        return _requantize(samples, subtype)
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples are {samples.dtype}; use int16, int32 or float32")
    if not np.isfinite(samples).all():
        bad = int(np.size(samples) - np.isfinite(samples).sum())
        raise ValueError(f"{bad} of {samples.size} samples are NaN or Inf")
    if subtype == "FLOAT":
        return samples.astype(np.float32)
    peak = float(np.abs(samples).max())
    if peak > 1.0:
        raise ValueError(
            f"samples peak at {peak:.4g}, but {subtype} holds [-1, 1]; scale them down or use FLOAT"
        )
    full = 2 ** (_BITS[subtype] - 1)
    whole = np.clip(np.rint(samples.astype(np.float64) * full), -full, full - 1)
    return whole.astype(np.int16) if subtype == "PCM_16" else whole.astype(np.int32) << 8


def encode_sound(
    samples: np.ndarray, sample_rate: int, *, suffix: str, subtype: str, tags: Tags | None = None
) -> bytes:
    """The bytes of a sound file; the same samples and tags always give the same bytes.

    Args:
      samples: as for `quantize`.
      sample_rate: Hz.
      suffix: ".wav" or ".flac".
      subtype: "PCM_16", "PCM_24" or "FLOAT"; FLAC holds integers only.
      tags: None for a file of nothing but samples.
    Returns:
      A complete file.
    Raises:
      ValueError: as `quantize`, or a container that cannot hold the sound.
    """
    suffix = suffix.lower()
    if suffix not in SOUND_SUFFIXES:
        raise ValueError(f"cannot write {suffix!r} files; use one of {', '.join(SOUND_SUFFIXES)}")
    if suffix == ".flac" and subtype == "FLOAT":
        raise ValueError("FLAC holds integers only; use PCM_16 or PCM_24, or write .wav for FLOAT")
    stored = quantize(samples, subtype)
    return (_wav_bytes if suffix == ".wav" else _flac_bytes)(stored, sample_rate, subtype, tags)


def write_sound(
    path: str | os.PathLike,
    samples: np.ndarray,
    sample_rate: int,
    *,
    subtype: str = "PCM_16",
    tags: Tags | None = None,
) -> None:
    """Writes one sound file whole, or not at all.

    Args:
      path: ends in .wav or .flac, which chooses the container; its folder must exist.
      samples: as for `quantize`.
      sample_rate: Hz.
      subtype: "PCM_16", "PCM_24" or "FLOAT".
      tags: as for `encode_sound`.
    Raises:
      ValueError: the samples do not fit the file, see `encode_sound`.
      WriteError: disk full, no permission, no such folder. What stood at `path` stays as it was.
    """
    path = Path(path)
    try:
        encoded = encode_sound(samples, sample_rate, suffix=path.suffix, subtype=subtype, tags=tags)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    # One name per thread: short, so that it fits wherever the real name fits.
    partial = path.parent / f"{PARTIAL_PREFIX}{os.getpid()}-{threading.get_ident()}"
    try:
        with open(partial, "wb", buffering=0) as file:
            view = memoryview(encoded)
            while view:  # An unbuffered write may take only a part.
                view = view[file.write(view) :]
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise explain_write_error(path, error) from error
    except BaseException:  # Ctrl-C between the two: leave nothing behind either.
        partial.unlink(missing_ok=True)
        raise


def is_written(
    path: Path, samples: np.ndarray, sample_rate: int, *, subtype: str, tags: Tags | None
) -> bool:
    """Whether a file is what `write_sound` makes of these."""
    encoded = encode_sound(samples, sample_rate, suffix=path.suffix, subtype=subtype, tags=tags)
    with contextlib.suppress(OSError):
        return path.stat().st_size == len(encoded) and path.read_bytes() == encoded
    return False


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


class SoundWriter:
    """Writes sounds on a few threads while the caller makes the next ones.

    The queue is bounded, so memory stays flat: `submit` waits when the disk is slower than the
    caller. The first error stops the writing; it is raised by the next `submit` or at the end of
    the `with` block, with the number of files that are complete.

        with SoundWriter(44_100, subtype="PCM_16") as writer:
            for path, samples in sounds:
                writer.submit(path, samples)

    When the block ends by another exception (Ctrl-C included), what was submitted is still written.
    """

    def __init__(
        self,
        sample_rate: int,
        *,
        subtype: str = "PCM_16",
        num_threads: int = 2,
        max_pending: int = 64,
    ) -> None:
        """Starts the threads.

        Args:
          sample_rate: Hz, of every sound.
          subtype: "PCM_16", "PCM_24" or "FLOAT".
          num_threads: writers; encoding FLAC gains from more, plain WAV hardly (see benchmarks).
          max_pending: sounds held in the queue at most.
        """
        self.sample_rate = sample_rate
        self.subtype = subtype
        self.num_complete = 0
        self._queue: queue.Queue[tuple[Path, np.ndarray, Tags | None] | None] = queue.Queue(
            max_pending
        )
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"sound-writer-{i}", daemon=True)
            for i in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self, path: str | os.PathLike, samples: np.ndarray, tags: Tags | None = None
    ) -> None:
        """Queues one sound; waits while the queue is full.

        Args:
          path: where to, as for `write_sound`.
          samples: as for `quantize`; must not be changed afterwards.
          tags: as for `encode_sound`.
        Raises:
          WriteError, ValueError: an earlier sound could not be written.
        """
        if self._closed:
            raise RuntimeError("this SoundWriter is closed")
        self._raise_first_error()
        self._queue.put((Path(path), np.asarray(samples), tags))

    def close(self) -> None:
        """Waits until everything is on disk, ends the threads, raises the first error if any."""
        self._stop()
        self._raise_first_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        if kind is None:
            self._raise_first_error()

    def _stop(self) -> None:
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _raise_first_error(self) -> None:
        if self._error is None:
            return
        if not self._closed:
            self._stop()  # The count below is final: files under way are finished first.
        error, done = self._error, self.num_complete
        message = f"{error}; {done:,} other file{' is' if done == 1 else 's are'} complete"
        if isinstance(error, OSError):
            stopped = WriteError(message)
            stopped.errno = error.errno
            raise stopped from error
        raise (ValueError(message) if isinstance(error, ValueError) else error) from error

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is not None:
                continue  # Empties the queue, so that a waiting `submit` wakes up.
            path, samples, tags = item
            try:
                write_sound(path, samples, self.sample_rate, subtype=self.subtype, tags=tags)
            except Exception as error:  # A dead thread would leave `submit` waiting for ever.
                with self._lock:
                    self._error = self._error or error
            else:
                with self._lock:
                    self.num_complete += 1


def prepare_folder(
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    names: Iterable[str] = (),
    instruments: bool = False,
) -> Path:
    """Makes an output folder ready, and never lets a run write over what is not its own.

    With `overwrite`, the files of an earlier run are removed: those its manifest lists, the
    manifest, the latents, the contact sheet, instruments. Anything else stays.

    Args:
      out: the folder; created, with its parents, when missing.
      overwrite: replace an earlier run's files instead of refusing.
      names: the sounds that will be written, relative to `out` with "/"; the manifest, the latents
        and the sheet are known.
      instruments: SFZ files will be written too, under names that are not known yet: none of
        someone else may be there.
    Returns:
      `out` as a Path.
    Raises:
      WriteError: `out` is a file, cannot be created or written; already holds sounds or an earlier
        run and `overwrite` is off; or holds a file of someone else under a name to be written.
    """
    out = Path(out)
    if os.path.lexists(out) and not out.is_dir():
        raise WriteError(f"{out} is a file, not a folder; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise WriteError(f"cannot create {out}: a part of that path is a file") from error
    except OSError as error:
        raise explain_write_error(out, error) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise WriteError(f"no permission to write in {out}; choose another --out")

    held = _describe_contents(out)
    if held and not overwrite:
        raise WriteError(f"{out} already holds {held}; choose another --out or pass --overwrite")
    ours = set(_files_of_earlier_run(out)) if overwrite else set()
    pages = [path.name for path in out.glob("index-*.html")]
    if instruments:
        pages += [path.name for path in out.glob("*.sfz")]
    for name in (*names, MANIFEST, LATENTS, SHEET, *pages):
        if os.path.lexists(out / name) and out / name not in ours:
            raise WriteError(
                f"{out / name} is in the way and not from an earlier run, so it is not replaced; "
                "move it or choose another --out"
            )
    try:
        # The manifest goes last: interrupted here, the next --overwrite still knows what is ours.
        for path in sorted(ours, key=lambda path: path.name == MANIFEST):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"cannot remove {path} of the earlier run: {error.strerror}") from error
    return out


def _requantize(samples: np.ndarray, subtype: str) -> np.ndarray:
    wide = samples.dtype == np.int32
    if subtype == "FLOAT":
        return (samples / (2.0**31 if wide else 2.0**15)).astype(np.float32)
    if not wide:
        return samples if subtype == "PCM_16" else samples.astype(np.int32) << 16
    dropped = 32 - _BITS[subtype]
    top = 2 ** (_BITS[subtype] - 1) - 1
    whole = np.minimum((samples.astype(np.int64) + (1 << (dropped - 1))) >> dropped, top)
    return whole.astype(np.int16) if subtype == "PCM_16" else whole.astype(np.int32) << 8


def _wav_bytes(
    stored: np.ndarray, sample_rate: int, subtype: str, tags: Tags | None = None
) -> bytes:
    """RIFF/WAVE: `fmt `, for floats the `fact` chunk the standard asks for, `data`, then what
    `tags` say: samples begin where they do in the simplest of files."""
    channels = 1 if stored.ndim == 1 else stored.shape[1]
    width = _BITS[subtype] // 8
    if subtype == "PCM_24":
        little = np.ascontiguousarray(stored, dtype="<i4").view(np.uint8)
        data = little.reshape(-1, 4)[:, 1:].tobytes()
    else:
        data = stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()
    kind = _FORMAT_FLOAT if subtype == "FLOAT" else _FORMAT_PCM
    block = channels * width
    about = struct.pack(
        "<HHIIHH", kind, channels, sample_rate, sample_rate * block, block, 8 * width
    )
    if kind == _FORMAT_FLOAT:  # Whatever is not PCM says how much is to follow: nothing.
        about += struct.pack("<H", 0)
    chunks = [*_chunk(b"fmt ", about)]
    if kind == _FORMAT_FLOAT:
        chunks += _chunk(b"fact", struct.pack("<I", len(stored)))
    chunks += _chunk(b"data", data)
    if tags is not None:
        if tags.root is not None or tags.loop is not None:
            chunks += _chunk(b"smpl", _smpl(tags, sample_rate))
        chunks += _chunk(b"LIST", _info(tags))
    size = 4 + sum(map(len, chunks))
    if size >= 2**32:
        raise ValueError(f"a WAV holds 4 GiB at most, these samples need {size / 2**30:.1f} GiB")
    return b"".join((b"RIFF", struct.pack("<I", size), b"WAVE", *chunks))


def _chunk(name: bytes, body: bytes) -> tuple[bytes, bytes, bytes]:
    """A RIFF chunk in parts. It takes an even number of bytes; its stated size is not padded."""
    return name + struct.pack("<I", len(body) % 2**32), body, b"\0" * (len(body) % 2)


def _smpl(tags: Tags, sample_rate: int) -> bytes:
    """Body of a `smpl` chunk: no maker, period of a sample in nanoseconds, key and how far above
    it the sound is (in 2**-32 semitones), no SMPTE, loops. Middle C without a root."""
    pitch = 60.0 if tags.root is None else min(max(tags.root, 0.0), 127.0)
    key = int(pitch)
    fraction = min(round((pitch - key) * 2**32), 2**32 - 1)
    loops = [] if tags.loop is None else [tags.loop]
    head = struct.pack("<9I", 0, 0, round(1e9 / sample_rate), key, fraction, 0, 0, len(loops), 0)
    # Name, forward, first and last sample, no fraction, for ever.
    bodies = (struct.pack("<6I", 0, 0, first, last, 0, 0) for first, last in loops)
    return head + b"".join(bodies)


def _info(tags: Tags) -> bytes:
    """Body of a LIST chunk of type INFO: software and comment, texts that end in a zero byte."""
    fields = {b"ISFT": software(), b"ICMT": tags.comment}
    texts = ((name, text.encode() + b"\0") for name, text in fields.items() if text)
    return b"INFO" + b"".join(part for name, text in texts for part in _chunk(name, text))


@cache
def software() -> str:
    """`vaejax` and its version, as far as it is installed."""
    try:
        return f"vaejax {metadata.version('vaejax')}"
    except metadata.PackageNotFoundError:
        return "vaejax"


def _flac_bytes(
    stored: np.ndarray, sample_rate: int, subtype: str, tags: Tags | None = None
) -> bytes:
    file = io.BytesIO()
    channels = 1 if stored.ndim == 1 else stored.shape[1]
    try:
        with soundfile.SoundFile(
            file, "w", sample_rate, channels, format="FLAC", subtype=subtype
        ) as flac:
            if tags is not None:
                flac.software = software()
                if tags.comment:
                    flac.comment = tags.comment
            flac.write(stored)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"FLAC cannot hold {channels} channels at {sample_rate} Hz ({error.error_string})"
        ) from error
    return file.getvalue()


def _describe_contents(out: Path) -> str:
    """What of a run's output the folder holds, in words; empty when nothing."""
    found = [path.name for path in out.iterdir()]
    sounds = sum(Path(name).suffix.lower() in SOUND_SUFFIXES for name in found)
    parts = [f"{sounds:,} sound{'' if sounds == 1 else 's'}"] if sounds else []
    return " and ".join(parts or [f for f in (MANIFEST, LATENTS, SHEET) if f in found][:1])


def _files_of_earlier_run(out: Path) -> Iterator[Path]:
    yield from out.glob(f"{PARTIAL_PREFIX}*")
    for page in out.glob("index*.html"):
        with page.open("rb") as file:
            if SHEET_MARK.encode() in file.read(4096):
                yield page
    for instrument in out.glob("*.sfz"):
        with instrument.open("rb") as file:
            if file.readline().strip() == SFZ_MARK.encode():
                yield instrument
    names = _manifest_names(out / MANIFEST)
    if names is None:
        return
    yield out / MANIFEST
    yield out / LATENTS
    for folder in {os.path.dirname(name) for name in names if stays_in(out, name)} - {""}:
        yield from (out / folder).glob(f"{PARTIAL_PREFIX}*")
    for name in names:
        path = out / name
        # A manifest is only text: it must not make us delete outside the folder, or other things.
        if stays_in(out, name) and path.suffix.lower() in SOUND_SUFFIXES and path.is_file():
            yield path


def _manifest_names(path: Path) -> list[str] | None:
    """File names in a manifest, or None when there is no manifest of this program."""
    names = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file):
                try:
                    row = json.loads(line)
                    names.append(str(row["file"]))
                except (ValueError, KeyError, TypeError):
                    if number == 0:
                        return None
                    continue  # A run killed while it wrote leaves half a last line.
    except (OSError, UnicodeDecodeError):
        return None
    return names if names else None
