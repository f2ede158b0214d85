"""What is in a sound file, by its content, and whether its header can be true.

libsndfile reads a file that was cut off as if it were whole, believes sizes that disagree with the
data, and takes other formats for MPEG. So the headers that state a length are read here as well and
compared with what is there, and lengths that a writer to a pipe had to leave open are filled in.
"""

import errno
import os
import stat
import struct
import tempfile
from typing import Any, BinaryIO, NamedTuple

from vaejax.data import mpeg
from vaejax.data.files import UnusableSound
from vaejax.data.sources import Source

# Some writers count a header into the data size; that much missing is no loss of sound.
SLACK_BYTES = 64
# Data sizes from here up stand for "unknown": what programs write when the output is a pipe.
STREAMING_SIZE = 0x7F000000
STREAMING_SIZE_64 = 1 << 62
# An Ogg FLAC is taken apart in memory up to here, then on disk.
SPOOL_BYTES = 1 << 22

# Formats that are recognised in order to be refused by their name, by how they begin.
FOREIGN = (
    (b"wvpk", "WavPack"),
    (b"TTA", "True Audio"),
    (b"MAC ", "Monkey's Audio"),
    (b"MPCK", "Musepack"),
    (b"MP+", "Musepack"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media"),
    (b"\x1aE\xdf\xa3", "Matroska or WebM"),
    (b"DSD ", "DSD"),
    (b"FRM8", "DSD"),
    (b"#!AMR", "AMR"),
    (b"\x0b\x77", "AC-3"),
    (b"\x56\xe0", "AAC (LOAS)"),
    (b"\x00\x00\x01\xba", "MPEG video"),
    (b"FLV", "Flash video"),
    (b"MThd", "MIDI"),
    (b"PK\x03\x04", "ZIP"),
)
# Formats that are left to libsndfile, by how they begin. What it does not know it seeks in the
# `._name` that macOS may have left beside the file, and divides by what it finds there: a zero ends
# the process.
LIBSNDFILE = (
    *(b" paf", b"fap ", b"PVF1", b"Extended Instrument: ", b"dns."),
    *(b"\x64\xa3", b"\x00\x00\xa3\x64", b"\x00\x01\xa3\x64", b"\x00\x02\xa3\x64"),
    *(b"\x00\x03\xa3\x64", b"\x00\x04\xa3\x64", b"MATLAB 5.0 MAT-file"),
)
# What a chunk behind the samples may be called even where it is cut off or badly aligned.
TRAILERS = (
    *(b"LIST", b"INFO", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX", b"cue ", b"smpl", b"inst"),
    *(b"acid", b"fact", b"PEAK", b"JUNK", b"junk", b"PAD ", b"FLLR", b"axml", b"chna", b"DISP"),
    *(b"LGWV", b"levl", b"minf", b"elm1", b"regn", b"umid", b"afsp", b"cart", b"MARK", b"INST"),
    *(b"COMT", b"NAME", b"AUTH", b"ANNO", b"APPL", b"MIDI", b"CHAN", b"info", b"uuid"),
    *(b"TAG", b"ID3", b"APETAGEX", b"LYRICSBEGIN"),
)
# Codecs of a WAV: samples that stand one after the other, MPEG, and others that libsndfile knows.
PCM_TAGS, G711_TAGS, MPEG_TAGS = (1, 3), (6, 7), (0x50, 0x55)
OTHER_TAGS = (2, 0x11, 0x14, 0x31, 0x38, 0x40, 0x42, 0x45, 0x59, 0x64, 0x65, 0x70, 0x674F)
# Of those: blocks of samples, and whose length libsndfile takes from what a chunk `fact` says.
MS_ADPCM, IMA_ADPCM, GSM, G721, G723 = 2, 0x11, 0x31, 0x40, 0x14
BY_FACT = (GSM, G721, G723)
# The predictors of every MS ADPCM, which libsndfile takes for granted.
MS_TABLE = (256, 0, 512, -256, 0, 0, 192, 64, 240, 0, 460, -208, 392, -232)
# Kinds of AIFC whose number of samples follows from their bytes.
AIFF_KINDS = (
    *(b"", b"NONE", b"twos", b"sowt", b"raw ", b"fl32", b"FL32", b"fl64", b"FL64", b"in24"),
    *(b"in32", b"42n1", b"23ni", b"ulaw", b"ULAW", b"alaw", b"ALAW", b"GSM "),
)
# Bytes of a sample.
WIDTHS = (1, 2, 3, 4, 8)


class _Data(NamedTuple):
    """Where the samples of a file are."""

    start: int
    length: int
    """Stated, in bytes."""
    size_at: int
    """Where that is stated."""


def examine(path: str) -> Source:
    """Finds the sound in a file, before libsndfile opens it.

    Raises:
      OSError: the file cannot be read.
      UnusableSound: it is empty, of a format that cannot be read here, cut off, or its header
        contradicts itself or the data.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    size = status.st_size
    if not size:
        raise UnusableSound("zero length (0 bytes)")
    with open(path, "rb") as file:
        start = _after_id3(file)
        file.seek(start)
        head = file.read(40)
        source = Source(path, start=start)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64") and head[8:12] == b"WAVE":
            return _wave(source, file, head, size)
        for magic, examine_one in _EXAMINERS:
            if head.startswith(magic):
                return examine_one(source, file, head, size)
        return _bare(source, file, head, size)


def _bare(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    """MPEG, a format that cannot be read here, or one that libsndfile may know."""
    if head[4:8] == b"ftyp":
        raise _foreign("MPEG-4")
    if head[8:12] == b"AVI ":
        raise _foreign("AVI")
    for magic, name in FOREIGN:
        if head.startswith(magic):
            raise _foreign(name)
    if mpeg.is_adts(head):
        raise _foreign("AAC (ADTS)")
    file.seek(source.start)
    if head[:1] == b"G" and file.read(377)[188::188] == b"GG":
        raise _foreign("an MPEG transport stream")
    if mpeg.parse_header(head) or head[:1] == b"\x00" or source.path.lower().endswith(".mp3"):
        found = mpeg.frames(file, source.start, size)
        if found:
            return _mpeg(source, found, size)
        if mpeg.parse_header(head):
            raise UnusableSound("not audio (looks like MPEG at first, and is not)")
    if head.startswith(LIBSNDFILE):
        return source
    raise UnusableSound("not audio (no known format inside)")


def _mpeg(source: Source, found: mpeg.Frames, end: int) -> Source:
    if found.missing_bytes > SLACK_BYTES:
        raise UnusableSound("truncated")
    if os.path.lexists("._"):  # libsndfile takes it for a part of any sound without a name
        raise UnusableSound("not decoded while the working folder has a file `._`; remove it")
    # The frame that states their number may count itself.
    if found.stated is not None and found.stated >= 0 and abs(found.stated - found.num) <= 1:
        # Never by its name: libsndfile would look into a `._name` beside it first, of macOS.
        return source._replace(start=found.start, end=end)
    if found.stated is not None and found.stated > found.num:
        raise UnusableSound("truncated")
    return source._replace(
        start=found.audio_start,
        end=end,
        is_endless=True,
        # The first frame may need bits from before it, and the decoder may start behind it.
        num_frames=max(1, found.num - 2) * found.num_samples,
        counts_itself=False,
    )


def _wave(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    """WAV, and its forms for more than 4 GiB: RF64, and BW64, which is the same by another name."""
    form, order = head[:4], ">" if head[:4] == b"RIFX" else "<"
    chunks = _chunks(file, source.start + 12, size, struct.Struct(order + "4sI"), 2)
    ds64 = None
    if form in (b"RF64", b"BW64") and (wide := chunks.get(b"ds64")) and wide.length >= 24:
        file.seek(wide.start)
        ds64 = wide, struct.unpack("<QQQ", file.read(24))
    data = chunks.get(b"data")
    if data is None or b"fmt " not in chunks:
        return source._replace(start=0)
    codec = _wave_format(file, chunks[b"fmt "], order)
    stated = data.length
    if ds64 is None:
        is_open = stated >= STREAMING_SIZE or (stated == 0 and _goes_on(file, data, size))
    else:
        if stated in (0, 0xFFFFFFFF):
            stated = ds64[1][1]
        is_open = stated >= STREAMING_SIZE_64 or (stated == 0 and _goes_on(file, data, size))
    length = size - data.start if is_open else stated
    _check_extent(file, data.start, length, size, order + "4sI")
    if b"fact" in chunks:
        file.seek(chunks[b"fact"].start)
        _check_fact(codec, length, struct.unpack(order + "I", file.read(4).rjust(4, b"\0"))[0])
    if codec.tag in MPEG_TAGS:
        end = min(size, data.start + length)
        found = mpeg.frames(file, data.start, end)
        if found is None:
            raise UnusableSound("a WAV that says it holds MPEG audio, and does not")
        return _mpeg(source._replace(start=data.start, end=end), found, end)
    if ds64 is None:
        patches = [(data.size_at, struct.pack(order + "I", min(length, 0xFFFFFFFF)))]
        return _patched(source, patches if is_open and stated < 0xFFFFFFFF else [])
    frames = length // max(1, codec.align)
    sizes = (size - 8, length, frames)
    patches = [
        (source.start, b"RF64"),
        (ds64[0].start, struct.pack("<QQQ", *sizes)),
        (data.size_at, b"\xff\xff\xff\xff"),
    ]
    return _patched(source, patches if is_open or form == b"BW64" else [])


class _Codec(NamedTuple):
    tag: int
    align: int
    num_samples: int = 0
    """In a block of `align` bytes; 0 where they stand one by one, or are not counted here."""
    agrees: bool = True
    """Whether the bytes a second are those of such blocks."""


def _wave_format(file: BinaryIO, chunk: _Data, order: str) -> _Codec:
    """The format of a WAV or W64, if its fields agree."""
    file.seek(chunk.start)
    fmt = file.read(min(chunk.length, 50))
    if len(fmt) < 16:
        raise UnusableSound("not audio, or damaged (its format chunk is too short)")
    tag, channels, rate, byte_rate, align, bits = struct.unpack(order + "HHIIHH", fmt[:16])
    if tag == 0xFFFE and len(fmt) >= 26:
        (tag,) = struct.unpack(order + "H", fmt[24:26])
    if tag not in (*PCM_TAGS, *G711_TAGS, *MPEG_TAGS, *OTHER_TAGS):
        raise _foreign(f"codec {tag:#06x} in a WAV")
    if tag in (*PCM_TAGS, *G711_TAGS):
        width = 8 if tag in G711_TAGS else -(-bits // 8) * 8
        expected = channels * width // 8
        # A slip in one field is outvoted; 24 bits may stand in 32.
        agrees = expected in (align, align // 4 * 3 if bits == 24 else align)
        agrees |= byte_rate == rate * expected
        agrees |= align == 0 and byte_rate == 0
        if not agrees:
            raise _contradiction(f"{channels} x {bits} bits in frames of {align} bytes")
        align = expected
        # Two fields that were changed together, if not one that never was right.
        others = [channels * width for width in WIDTHS if channels * width != align]
        if byte_rate in [rate * other for other in others]:
            raise _contradiction(
                f"{channels} x {bits} bits at {rate} Hz, and {byte_rate:,} bytes a second"
            )
    if tag not in (MS_ADPCM, IMA_ADPCM, GSM, G721, G723):
        return _Codec(tag, align)
    if not (channels and align and (bits or tag == GSM)):
        raise _contradiction(f"{channels} x {bits} bits in blocks of {align} bytes")
    if tag in (G721, G723):
        return _Codec(tag, 60, 60 * 8 // bits)
    num = {
        MS_ADPCM: 2 * (align - 7 * channels) // channels + 2,
        IMA_ADPCM: 2 * (align - 4 * channels) // channels + 1,
        GSM: 320 * align // 65,
    }[tag]
    stated = struct.unpack(order + "H", fmt[18:20].ljust(2, b"\0"))[0]
    if stated != num or num < 1:
        raise _contradiction(f"{num} samples to a block in one place, {stated} in another")
    table = struct.unpack(order + "14h", fmt[22:50]) if len(fmt) == 50 else None
    if tag == MS_ADPCM and table != MS_TABLE:
        raise _foreign("an MS ADPCM with a table of its own")
    return _Codec(tag, align, num, abs(byte_rate - rate * align // num) <= 1)


def _check_fact(codec: _Codec, length: int, stated: int) -> None:
    """Compares the number of samples that a chunk states with the blocks that there are.

    Raises:
      UnusableSound: they cannot be so many, and it is not that number alone that is wrong.
    """
    if not codec.num_samples or (codec.agrees and codec.tag not in BY_FACT):
        return
    num = -(-length // codec.align) * codec.num_samples
    if not num - 2 * codec.num_samples <= stated <= num:
        raise _contradiction(f"{stated} samples in one place, {num} in another")


def _contradiction(what: str) -> UnusableSound:
    return UnusableSound(f"its header contradicts itself ({what})")


def _wave64(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    """Sony Wave64: GUIDs for names, 64-bit sizes that count the header."""
    header = struct.Struct("<4s12xQ")
    chunks = _chunks(file, source.start + 40, size, header, 8)
    data = chunks.get(b"data")
    if data is None or b"fmt " not in chunks:
        return source._replace(start=0)
    if _begins_again(file, head, data.start):
        file.seek(data.start)
        return _wave64(source._replace(start=data.start), file, file.read(40), size)
    if _begins_again(file, head, again := size - data.start + source.start):
        source, size = source._replace(end=again), again
    codec = _wave_format(file, chunks[b"fmt "], "<")
    if codec.tag in MPEG_TAGS:
        end = min(size, data.start + data.length)
        found = mpeg.frames(file, data.start, end)
        if found is None:
            raise UnusableSound("a W64 that says it holds MPEG audio, and does not")
        return _mpeg(source._replace(start=data.start, end=end), found, end)
    is_open = data.length >= STREAMING_SIZE_64 or (data.length <= 0 and size > data.start)
    length = size - data.start if is_open else data.length
    _check_extent(file, data.start, length, size, "<4s12xQ")
    patches = [
        (source.start + 16, struct.pack("<Q", size)),
        (data.size_at, struct.pack("<Q", length + header.size)),
    ]
    return _patched(source, patches if is_open else [])


def _aiff(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    if head[8:12] not in (b"AIFF", b"AIFC"):
        return _amiga(source, file, size)
    chunks = _chunks(file, source.start + 12, size, struct.Struct(">4sI"), 2)
    data, common = chunks.get(b"SSND"), chunks.get(b"COMM")
    if data is None or common is None or common.length < 18:
        return source._replace(start=0)
    file.seek(data.start)
    offset = struct.unpack(">I", file.read(4).rjust(4, b"\0"))[0]
    file.seek(common.start)
    fields = file.read(min(common.length, 22))
    channels, frames, bits = struct.unpack(">HIH", fields[:8])
    kind = fields[18:22]
    width, block = channels * -(-bits // 8), 1
    if kind in (b"ulaw", b"ULAW", b"alaw", b"ALAW"):
        width = channels
    elif kind == b"GSM ":
        width, block = channels * 33, 160
    is_plain = kind in AIFF_KINDS
    start, stated = data.start + 8 + offset, data.length - 8 - offset
    is_open = data.length >= STREAMING_SIZE or (data.length <= 8 and _goes_on(file, data, size))
    length = size - start if is_open else stated
    if start > size:
        raise UnusableSound("truncated")
    _check_extent(file, data.start, length + 8 + offset, size, ">4sI")
    if not is_plain or not width or not stated:
        return source._replace(start=0)
    if not is_open:
        if abs(frames * width - length * block) > SLACK_BYTES * block:
            num = length // width * block
            raise _contradiction(f"{frames} samples in one place, {num} in another")
        return source._replace(start=0)
    frames = length // width
    return _patched(
        source,
        [
            (source.start + 4, struct.pack(">I", size - source.start - 8)),
            (common.start + 2, struct.pack(">I", frames)),
            (data.size_at, struct.pack(">I", frames * width + 8 + offset)),
        ],
    )


def _amiga(source: Source, file: BinaryIO, size: int) -> Source:
    """8SVX and 16SV: a header that counts samples, and the samples."""
    chunks = _chunks(file, source.start + 12, size, struct.Struct(">4sI"), 2)
    body, header = chunks.get(b"BODY"), chunks.get(b"VHDR")
    if body is None or header is None:
        return source
    _check_extent(file, body.start, body.length, size, ">4sI")
    file.seek(source.start + 8)
    width = 2 if file.read(4) == b"16SV" else 1
    file.seek(header.start)
    once, repeated, _, _, octaves = struct.unpack(">IIIHB", file.read(15).ljust(15, b"\0"))
    # Some count bytes.
    if octaves <= 1 and not _is_near(once + repeated, body.length, body.length // width):
        num = body.length // width
        raise _contradiction(f"{once + repeated} samples in one place, {num} in another")
    return source


def _avr(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    """Audio Visual Research: a header that counts samples of one or all channels."""
    stereo, bits = struct.unpack(">HH", head[12:16].ljust(4, b"\0"))
    num = struct.unpack(">I", head[26:30].ljust(4, b"\0"))[0]
    width, there = -(-bits // 8) or 1, size - source.start - 128
    frames = there // (width * (2 if stereo else 1))
    if num > frames and not stereo:
        raise UnusableSound("truncated")
    if not _is_near(num, frames, there // width):
        raise _contradiction(f"{num} samples in one place, {frames} in another")
    return source


def _nist(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    """NIST Sphere: a header of lines `name -i value`."""
    file.seek(source.start)
    lines = [line.split() for line in file.read(1024).split(b"\n")]
    said = {line[0]: line[2] for line in lines if len(line) == 3}
    names = (b"sample_count", b"channel_count", b"sample_n_bytes")
    if not head[8:16].strip().isdigit() or not all(said.get(n, b"").isdigit() for n in names):
        return source
    num, channels, width = (int(said[name]) for name in names)
    there = size - source.start - int(head[8:16])
    if said.get(b"sample_coding", b"pcm") in (b"pcm", b"ulaw", b"alaw") and channels and width:
        if num * channels * width - there > SLACK_BYTES:
            raise UnusableSound("truncated")
        if not _is_near(num, there // (channels * width)):
            frames = there // (channels * width)
            raise _contradiction(f"{num} samples in one place, {frames} in another")
    return source


def _psion(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    num, there = struct.unpack(">I", head[18:22].ljust(4, b"\0"))[0], size - source.start - 32
    if num > there + SLACK_BYTES:
        raise UnusableSound("truncated")
    if not _is_near(num, there):
        raise _contradiction(f"{num} samples in one place, {there} in another")
    return source


def _is_near(num: int, *others: int) -> bool:
    return any(abs(num - other) <= SLACK_BYTES for other in others)


def _au(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    if len(head) < 24:
        return source
    start, stated = struct.unpack(">II", head[4:12])
    if stated >= STREAMING_SIZE or (stated == 0 and size > source.start + start):
        stated = size - source.start - start
        return _patched(source, [(source.start + 8, struct.pack(">I", max(0, stated)))])
    _check_extent(file, source.start + start, stated, size, ">4sI")
    return source


def _caf(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    chunks = _chunks(file, source.start + 8, size, struct.Struct(">4sQ"), 1)
    data = chunks.get(b"data")
    if data is None:
        return source
    samples = data.start + 4  # behind the number of edits
    if _begins_again(file, head, samples):
        return _caf(source._replace(start=samples), file, head, size)
    if _begins_again(file, head, again := size - samples + source.start):
        source, size = source._replace(end=again), again
    if data.length >= STREAMING_SIZE_64 or (data.length <= 4 and _goes_on(file, data, size)):
        return _patched(source, [(data.size_at, struct.pack(">Q", size - data.start))])
    _check_extent(file, data.start, data.length, size, ">4sQ")
    _check_caf(file, chunks)
    return source


def _check_caf(file: BinaryIO, chunks: dict[bytes, _Data]) -> None:
    """Compares what a CAF says of its format in several places.

    Raises:
      UnusableSound: they disagree.
    """
    file.seek(chunks[b"desc"].start if b"desc" in chunks else 0)
    fields = struct.unpack(">d4s5I", file.read(32).ljust(32, b"\0"))
    rate, kind, _, packet, per_packet, channels, bits = fields
    widths = {b"lpcm": (-(-bits // 8), 4), b"ulaw": (1,), b"alaw": (1,)}.get(kind)
    if widths is not None:
        if packet not in [per_packet * channels * width for width in widths]:
            raise _contradiction(f"{channels} x {bits} bits in packets of {packet} bytes")
    elif kind == b"alac" and b"kuki" in chunks and b"pakt" in chunks:
        file.seek(chunks[b"kuki"].start)
        cookie = file.read(min(chunks[b"kuki"].length, 48))[-24:].ljust(24, b"\0")
        own = struct.unpack(">I5xB10xI", cookie)
        if own != (per_packet, channels, int(rate)):
            raise _contradiction("another format in one place than in another")
        file.seek(chunks[b"pakt"].start)
        packets, num, before, after = struct.unpack(">QQII", file.read(24).ljust(24, b"\0"))
        if packets * per_packet != num + before + after:
            raise _contradiction(f"{num} samples in one place, others in another")


def _voc(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    """Creative Voice: blocks, of which libsndfile reads one."""
    position, num = source.start + struct.unpack("<H", head[20:22].ljust(2, b"\0"))[0], 0
    while position + 4 <= size - SLACK_BYTES:  # SoX states less than it writes
        file.seek(position)
        kind, *length = file.read(4)
        if kind == 0:
            break
        num += kind in (1, 2, 9)
        position += 4 + int.from_bytes(bytes(length), "little")
    if num > 1:
        raise UnusableSound("a VOC of several blocks; convert it to WAV or FLAC")
    if position - size > SLACK_BYTES:
        raise UnusableSound("truncated")
    return source


def _flac(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    """The decoder is not told how many samples there are, so that it reads to the end."""
    if len(head) < 26 or head[4] & 0x7F:
        return source
    at = 21  # four bits of the sample size, then the number of samples
    stated = (head[at] & 0x0F) << 32 | int.from_bytes(head[at + 1 : at + 5], "big")
    patch = (at, bytes((head[at] & 0xF0, 0, 0, 0, 0)))
    return source._replace(patches=(patch,), num_frames=stated or None, counts_itself=False)


def _ogg(source: Source, file: BinaryIO, head: bytes, size: int) -> Source:
    """Follows the pages to the last one."""
    position, num, streams, has_begun, is_last = source.start, 0, set(), False, True
    while position + 27 <= size:
        file.seek(position)
        page = file.read(27)
        if page[:4] != b"OggS":
            break
        lacing = file.read(page[26])
        if num == 0:
            first = file.read(sum(lacing))
        serial, is_first = page[14:18], page[5] & 2
        if is_first and has_begun:
            raise UnusableSound("several recordings one after the other (chained Ogg)")
        has_begun |= not is_first
        streams.add(serial)
        is_last = bool(page[5] & 4)
        position += 27 + len(lacing) + sum(lacing)
        num += 1
    if not num or not first:
        return source
    for mark, name in ((b"Speex   ", "Speex"), (b"\x80theora", "video"), (b"fishead", "video")):
        if first.startswith(mark):
            raise _foreign(f"Ogg {name}")
    if position > size or (not is_last and len(streams) == 1):
        raise UnusableSound("truncated")
    if first.startswith(b"\x7fFLAC"):
        return _unwrapped(source, file, size)
    return source


def _unwrapped(source: Source, file: BinaryIO, size: int) -> Source:
    """The FLAC stream in an Ogg file, which libsndfile reads by itself only."""
    out: Any = tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115
    position, num = source.start, 0
    while position + 27 <= size:
        file.seek(position)
        page = file.read(27)
        if page[:4] != b"OggS":
            break
        lacing = file.read(page[26])
        body = file.read(sum(lacing))
        # The first packet has nine bytes of its own before "fLaC".
        out.write(body[9:] if num == 0 else body)
        position += 27 + len(lacing) + len(body)
        num += 1
    length = out.tell()
    out.seek(0)
    inner = Source(source.path, out)
    return _flac(inner, out, out.read(40), length)


def _chunks(
    file: BinaryIO, position: int, size: int, header: struct.Struct, align: int
) -> dict[bytes, _Data]:
    """The chunks of a file by their names, the first of each, up to the first one that is cut."""
    found: dict[bytes, _Data] = {}
    while position + header.size <= size:
        file.seek(position)
        name, length = header.unpack(file.read(header.size))
        start = position + header.size
        if align == 8:  # sizes of a W64 count the header
            length -= header.size
        found.setdefault(name, _Data(start, length, start - (4 if header.size == 8 else 8)))
        if length < 0:
            break
        position = start + length + -length % align
    return found


def _check_extent(file: BinaryIO, start: int, length: int, size: int, header: str) -> None:
    """Compares a stated length with what is there.

    Raises:
      UnusableSound: the file ends before that, or goes on behind it with what is no chunk.
    """
    if start + length - size > SLACK_BYTES:
        raise UnusableSound("truncated")
    position, form = start + length, struct.Struct(header)
    while size - position > SLACK_BYTES:
        file.seek(position)
        head = file.read(form.size)
        if len(head) < form.size:
            return
        name, following = form.unpack(head)
        if form.size == 24:
            following -= form.size
        if not (_is_name(name) and 0 <= following <= size - position - form.size):
            break
        position += form.size + following
        if following % 2:  # a byte of padding, which some leave out
            file.seek(position)
            position += file.read(1) == b"\0"
    else:
        return
    file.seek(position)
    head = file.read(1 << 16)
    if head.startswith(TRAILERS) or head[1:].startswith(TRAILERS) or not head.strip(b"\0"):
        return
    raise UnusableSound(
        f"its header states {length:,} bytes of samples, and {size - position:,} more follow them"
    )


def _begins_again(file: BinaryIO, head: bytes, position: int) -> bool:
    """Whether the header is there once more: of a writer to a pipe, which cannot go back to it."""
    file.seek(max(0, position))
    return position > 0 and file.read(16) == head[:16]


def _is_name(name: bytes) -> bool:
    return name.isascii() and name.decode("ascii").isprintable()


def _goes_on(file: BinaryIO, data: _Data, size: int) -> bool:
    """Whether samples follow a header whose stated length is 0, not another chunk."""
    if size - data.start <= SLACK_BYTES:
        return False
    file.seek(data.start)
    name, length = struct.unpack("<4sI", file.read(8))
    return not (_is_name(name) and length <= size - data.start - 8)


def _patched(source: Source, patches: list[tuple[int, bytes]]) -> Source:
    """A source with new bytes, at positions in the file."""
    if not patches:
        return source
    at = source.start
    return source._replace(patches=tuple((place - at, new) for place, new in patches))


def _after_id3(file: BinaryIO) -> int:
    """Where the sound begins behind an ID3 tag; 0 where there is none."""
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + 10 * (head[5] >> 4 & 1)


def _foreign(name: str) -> UnusableSound:
    return UnusableSound(f"a format that cannot be read here ({name}); convert it to WAV or FLAC")


_EXAMINERS = (
    (b"riff", _wave64),
    (b"FORM", _aiff),
    (b".snd", _au),
    (b"caff", _caf),
    (b"fLaC", _flac),
    (b"OggS", _ogg),
    (b"Creative Voice File\x1a", _voc),
    (b"2BIT", _avr),
    (b"NIST_1A", _nist),
    (b"ALawSoundFile**", _psion),
)
