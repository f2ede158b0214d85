"""Sounds to files: WAV and FLAC, one at a time or many in parallel, never half a file.

The finished bytes go to a temporary name in the same folder, which is then renamed. FLAC is encoded
by libsndfile, in memory; for WAV see `vaejax.export.wav`.
"""

import contextlib
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile

from vaejax.export.errors import WriteError, explain_write_error
from vaejax.export.folders import PARTIAL_PREFIX, SOUND_SUFFIXES
from vaejax.export.samples import stored
from vaejax.export.wav import Tags, software, wav_bytes


def encode_sound(
    samples: np.ndarray, sample_rate: int, *, suffix: str, subtype: str, tags: Tags | None = None
) -> bytes:
    """The bytes of a sound file; the same samples and tags always give the same bytes.

    Args:
      samples: as for `samples.stored`.
      sample_rate: Hz.
      suffix: ".wav" or ".flac".
      subtype: "PCM_16", "PCM_24" or "FLOAT"; FLAC holds integers only.
      tags: None for a file of nothing but samples.
    Returns:
      A complete file.
    Raises:
      ValueError: as `samples.stored`, or a container that cannot hold the sound.
    """
    suffix = suffix.lower()
    if suffix not in SOUND_SUFFIXES:
        raise ValueError(f"cannot write {suffix!r} files; use one of {', '.join(SOUND_SUFFIXES)}")
    if suffix == ".flac" and subtype == "FLOAT":
        raise ValueError("FLAC holds integers only; use PCM_16 or PCM_24, or write .wav for FLOAT")
    encode = wav_bytes if suffix == ".wav" else _flac_bytes
    return encode(stored(samples, subtype), sample_rate, subtype, tags)


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
      samples: as for `samples.stored`.
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
        """Starts no thread yet.

        Args:
          sample_rate: Hz, of every sound.
          subtype: "PCM_16", "PCM_24" or "FLOAT".
          num_threads: writers; encoding FLAC gains from more, plain WAV hardly (see benchmarks).
          max_pending: sounds that are submitted and not yet written, at most.
        """
        self.sample_rate = sample_rate
        self.subtype = subtype
        self.num_complete = 0
        self._pool = ThreadPoolExecutor(num_threads, "sound-writer")
        self._room = threading.BoundedSemaphore(max_pending)
        self._lock = threading.Lock()
        self._error: Exception | None = None

    def submit(
        self, path: str | os.PathLike, samples: np.ndarray, tags: Tags | None = None
    ) -> None:
        """Queues one sound; waits while the queue is full.

        Args:
          path: where to, as for `write_sound`.
          samples: as for `samples.stored`; must not be changed afterwards.
          tags: as for `encode_sound`.
        Raises:
          WriteError, ValueError: an earlier sound could not be written.
          RuntimeError: the writer is closed.
        """
        self._raise_first_error()
        self._room.acquire()
        self._pool.submit(self._write, Path(path), np.asarray(samples), tags)

    def has_written(self, path: Path, samples: np.ndarray, tags: Tags | None = None) -> bool:
        """Whether a file is, to the byte, what `submit` would make of these."""
        encoded = encode_sound(
            samples, self.sample_rate, suffix=path.suffix, subtype=self.subtype, tags=tags
        )
        with contextlib.suppress(OSError):
            return path.stat().st_size == len(encoded) and path.read_bytes() == encoded
        return False

    def close(self) -> None:
        """Waits until everything is on disk, ends the threads, raises the first error if any."""
        self._pool.shutdown()
        self._raise_first_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown()
        if kind is None:
            self._raise_first_error()

    def _write(self, path: Path, samples: np.ndarray, tags: Tags | None) -> None:
        try:
            if self._error is None:
                write_sound(path, samples, self.sample_rate, subtype=self.subtype, tags=tags)
                with self._lock:
                    self.num_complete += 1
        except Exception as error:
            with self._lock:
                self._error = self._error or error
        finally:
            self._room.release()

    def _raise_first_error(self) -> None:
        if self._error is None:
            return
        self._pool.shutdown()  # The count below is final: files under way are finished first.
        error, done = self._error, self.num_complete
        message = f"{error}; {done:,} other file{' is' if done == 1 else 's are'} complete"
        if isinstance(error, OSError):
            stopped = WriteError(message)
            stopped.errno = error.errno
            raise stopped from error
        raise (ValueError(message) if isinstance(error, ValueError) else error) from error


def _flac_bytes(
    whole: np.ndarray, sample_rate: int, subtype: str, tags: Tags | None = None
) -> bytes:
    file = io.BytesIO()
    channels = 1 if whole.ndim == 1 else whole.shape[1]
    try:
        with soundfile.SoundFile(
            file, "w", sample_rate, channels, format="FLAC", subtype=subtype
        ) as flac:
            if tags is not None:
                flac.software = software()
                if tags.comment:
                    flac.comment = tags.comment
            flac.write(whole)
    except soundfile.LibsndfileError as error:
        raise ValueError(
            f"FLAC cannot hold {channels} channels at {sample_rate} Hz ({error.error_string})"
        ) from error
    return file.getvalue()
