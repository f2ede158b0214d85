"""MPEG audio (MP1, MP2, MP3): its frames counted one by one.

The decoder guesses the length of a file that does not state it from the bit rate of the first
frame, and takes nearly any bytes for MPEG. Here the frames are followed from header to header.
"""

import struct
from typing import BinaryIO, NamedTuple

# Kilobits per second by the index in a header: MPEG 1 layers I, II and III; MPEG 2 layer I, others.
# fmt: off
_RATES_1 = {
    1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_RATES_2 = {
    1: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# fmt: on
_SAMPLE_RATES = (44_100, 48_000, 32_000)
# What may follow the last frame.
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN")
# Frames are searched for this far, in bytes, where there is none.
SEARCH_BYTES = 1 << 16
# A file of which more than this is no frame is something else, or too damaged.
MAX_FOREIGN, FOREIGN_BYTES = 0.1, 4096


class Header(NamedTuple):
    """The first four bytes of a frame."""

    layer: int
    kind: bytes
    """Equal for the frames of one stream."""
    num_samples: int
    num_bytes: int
    """0 in free format, where it is the way to the next frame."""


class Frames(NamedTuple):
    """The frames of a stream."""

    start: int
    """Of the first one, in bytes from the beginning of the file."""
    audio_start: int
    """Of the first one that holds sound."""
    num: int
    """That hold sound."""
    num_samples: int
    """In each of them."""
    stated: int | None
    """How many the first frame says there are; None if it does not."""
    missing_bytes: int
    """That the last one lacks."""


def parse_header(head: bytes) -> Header | None:
    """A frame's header; None if it is none (the layer bits 00 are AAC's)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    index, rate_index = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or index == 15 or rate_index == 3:
        return None
    is_1 = version == 3
    rate = _SAMPLE_RATES[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    kilobits = (_RATES_1[layer] if is_1 else _RATES_2[min(layer, 2)])[index]
    num_samples = {1: 384, 2: 1152, 3: 1152 if is_1 else 576}[layer]
    padding = head[2] >> 1 & 1
    if layer == 1:
        num_bytes = (12_000 * kilobits // rate + padding) * 4
    else:
        num_bytes = num_samples * 125 * kilobits // rate + padding
    kind = bytes((head[1] & 0xFE, head[2] & 0x0C))
    return Header(layer, kind, num_samples, num_bytes if kilobits else 0)


def is_adts(head: bytes) -> bool:
    """Whether AAC begins here: a frame's sync word with the layer bits 00."""
    return len(head) >= 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def frames(file: BinaryIO, start: int, end: int) -> Frames | None:
    """Follows the frames from `start` to `end`, in bytes.

    Returns:
      None where too much of it is no frame: it is not MPEG audio.
    """
    first = _find(file, start, end, None)
    if first is None:
        return None
    position, kind = first
    num, num_samples, foreign, missing, stated = 0, 0, position - start, 0, None
    begin = audio_start = position
    while position + 4 <= end:
        file.seek(position)
        head = file.read(11)
        header = parse_header(head)
        if header is None or header.kind != kind:
            if head.startswith(_TAGS):
                break
            found = _find(file, position + 1, end, kind)
            foreign += (found[0] if found else end) - position
            if found is None:
                break
            position = found[0]
            continue
        num_bytes = header.num_bytes or _free_length(file, position, end, kind)
        if num == 0 and position == begin and header.layer == 3:
            file.seek(position)
            stated = _stated_frames(file.read(num_bytes))
            if stated is not None:
                position += num_bytes
                audio_start = position
                num_samples = header.num_samples
                continue
        num, num_samples = num + 1, header.num_samples
        position += num_bytes
        missing = max(0, position - end)
    is_foreign = foreign > MAX_FOREIGN * (end - start) + FOREIGN_BYTES or num == 0
    return None if is_foreign else Frames(begin, audio_start, num, num_samples, stated, missing)


def _find(file: BinaryIO, start: int, end: int, kind: bytes | None) -> tuple[int, bytes] | None:
    """The next frame that another of its kind follows, or the end."""
    file.seek(start)
    content = file.read(min(SEARCH_BYTES, end - start))
    at = content.find(b"\xff")
    while at >= 0:
        header = parse_header(content[at : at + 4])
        if header is not None and kind in (None, header.kind):
            position = start + at
            following = position + (
                header.num_bytes or _free_length(file, position, end, header.kind)
            )
            file.seek(following)
            head = file.read(4)
            after = parse_header(head)
            is_last = following >= end - 4 or head.startswith(_TAGS[:2])
            if is_last and (kind is not None or at == 0):
                return position, header.kind
            if after is not None and after.kind == header.kind:
                return position, header.kind
        at = content.find(b"\xff", at + 1)
    return None


def _free_length(file: BinaryIO, position: int, end: int, kind: bytes) -> int:
    """The bytes of a frame of free format: up to the next header."""
    file.seek(position)
    content = file.read(min(8192, end - position))
    at = content.find(b"\xff", 4)
    while at >= 0:
        header = parse_header(content[at : at + 4])
        if header is not None and header.kind == kind and not header.num_bytes:
            return at
        at = content.find(b"\xff", at + 1)
    return len(content)


def _stated_frames(frame: bytes) -> int | None:
    """The number of frames that a Xing, Info or VBRI frame states; -1: it leaves that open."""
    for mark in (b"Xing", b"Info"):
        if (at := frame.find(mark, 4, 64)) >= 0 and len(frame) >= at + 12:
            flags, num = struct.unpack(">II", frame[at + 4 : at + 12])
            return num if flags & 1 else -1
    if frame[36:40] == b"VBRI" and len(frame) >= 54:
        return struct.unpack(">I", frame[50:54])[0]
    return None
