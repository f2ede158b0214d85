"""The bytes of a WAV, with what it says of itself: origin, pitch, loop.

It is framed here rather than by libsndfile, for two reasons: libsndfile stamps the time of day into
every FLOAT WAV (its PEAK chunk), so the same sound would not give the same bytes twice, and it
turns "disk full" into a bare "System error".
"""

import struct
from functools import cache
from importlib import metadata
from typing import NamedTuple

import numpy as np

from vaejax.export.samples import BITS

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


def wav_bytes(
    stored: np.ndarray, sample_rate: int, subtype: str, tags: Tags | None = None
) -> bytes:
    """RIFF/WAVE: `fmt `, for floats the `fact` chunk the standard asks for, `data`, then what
    `tags` say: samples begin where they do in the simplest of files.

    Args:
      stored: [num_samples] or [num_samples, num_channels], as `samples.stored` makes them.
    Raises:
      ValueError: more than a WAV can hold.
    """
    channels = 1 if stored.ndim == 1 else stored.shape[1]
    width = BITS[subtype] // 8
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
