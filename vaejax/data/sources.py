"""What libsndfile is given to read: a file, or the part of one that holds the sound."""

import os
from typing import Any, BinaryIO, NamedTuple

import soundfile

# A stream of unknown length claims this many bytes, so that the length guessed from it is too long.
ENDLESS_BYTES = 1 << 38
# Where decoders look for tags: at the end.
TAG_BYTES = 4096


class Source(NamedTuple):
    """A sound in a file."""

    path: str
    file: BinaryIO | None = None
    """The sound itself, where it had to be taken apart first."""
    start: int = 0
    end: int | None = None
    """In bytes, of the part of the file that is given to libsndfile; None: its end."""
    patches: tuple[tuple[int, bytes], ...] = ()
    """Bytes of the header that are replaced: position from `start`, new bytes."""
    is_endless: bool = False
    """Read until there is no more, whatever length the decoder guesses."""
    num_frames: int | None = None
    """The least there is, where the decoder is not told."""
    counts_itself: bool = True
    """Whether fewer frames than libsndfile announces mean that some are missing."""

    def open(self) -> "Sound":
        """Opens it for decoding.

        Raises:
          OSError: it cannot be read. soundfile.LibsndfileError: it cannot be decoded.
        """
        if (self.file, self.start, self.end, self.patches) == (None, 0, None, ()) and (
            not self.is_endless
        ):
            # soundfile encodes a str strictly, which fails for names that are not valid UTF-8.
            return Sound(os.fsencode(self.path) if os.name == "posix" else self.path)
        return Sound(_Window(self))


class Sound(soundfile.SoundFile):
    """Read from its beginning to its end, blocks of frames one after the other.

    soundfile clamps what is read to the announced length, and seeks after each block, unless a file
    is not seekable.
    """

    def __init__(self, file: Any) -> None:
        self._window = file if isinstance(file, _Window) else None
        try:
            super().__init__(file)
        except BaseException:
            self._close_window()
            raise

    def seekable(self) -> bool:
        """Never: see above."""
        return False

    def close(self) -> None:
        """Closes the sound and its file."""
        super().close()
        self._close_window()

    def _close_window(self) -> None:
        if self._window is not None:
            self._window.close()


class _Window:
    """The part of a file that a source is, as soundfile reads it."""

    def __init__(self, source: Source) -> None:
        self._is_own = source.file is None
        self._file = source.file or open(source.path, "rb", buffering=0)  # noqa: SIM115
        end = self._file.seek(0, os.SEEK_END)
        self._start, self._patches = source.start, source.patches
        self._size = (end if source.end is None else min(end, source.end)) - source.start
        self._claimed = ENDLESS_BYTES if source.is_endless else self._size
        self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._claimed}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        at = self._position
        if at + len(buffer) <= self._size and all(at >= p + len(new) for p, new in self._patches):
            self._file.seek(self._start + at)
            num = self._file.readinto(buffer)  # type: ignore[attr-defined]
            self._position += num
            return num
        if at < self._size:
            self._file.seek(self._start + at)
            data = bytearray(self._file.read(min(len(buffer), self._size - at)))
        else:  # a decoder that finds nothing where it looks for tags gives up
            is_tag = at >= self._claimed - TAG_BYTES
            data = bytearray(min(len(buffer), max(0, self._claimed - at)) if is_tag else 0)
        for position, new in self._patches:
            first, last = max(position, at), min(position + len(new), at + len(data))
            if first < last:
                data[first - at : last - at] = new[first - position : last - position]
        buffer[0 : len(data)] = bytes(data)
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if self._is_own:
            self._file.close()
