"""Sound files on disk -> mono waveforms -> trimmed, full-scale int16 clips of one length.

Decoding is libsndfile's (through soundfile) and resampling is soxr's; both release the GIL, so a
pool of threads keeps every core busy. libsndfile reads a file that was cut off as if it were
whole, so the headers that state a length are read here as well and compared with what is there.
"""

import errno
import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

# What soundfile opens: a path, or the bytes of a file.
Source = bytes | str | io.BytesIO

# What libsndfile reads without being told the format, by the extensions these formats go by.
# fmt: off
EXTENSIONS = frozenset((
    ".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".aif", ".aiff", ".aifc", ".ogg", ".oga",
    ".opus", ".mp3", ".mp2", ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".svx", ".8svx",
    ".iff", ".paf", ".pvf", ".avr", ".ircam", ".sf", ".xi",
))
# Audio as well, but not libsndfile's: worth a hint rather than "not an audio file".
FOREIGN_EXTENSIONS = frozenset((
    ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".ape", ".wv", ".mpc", ".tta", ".dsf", ".dff", ".ac3",
    ".amr", ".webm", ".mka", ".rx2", ".rex",
))
# fmt: on

# -90 dB of full scale: a 16-bit file that holds nothing but +-1 of dither counts as silence.
SILENCE_PEAK = 10 ** (-90 / 20)
# Channels whose mean keeps less than -30 dB of the loudest channel's energy cancel each other.
CANCELLED_ENERGY = 1e-3
# Kept before the first audible sample, so that the trim never lands inside an attack.
PRE_ROLL_SECONDS = 1e-3
# Samples searched at a time for the first audible one.
ONSET_BLOCK = 4096
# Values decoded at a time (4 MiB as float32): bounds memory for files of many channels.
BLOCK_VALUES = 1 << 20
# Some writers count a header into the data size; that much missing is no loss of sound.
SLACK_BYTES = 64
# Data sizes from here up stand for "unknown": what programs write when the output is a pipe.
STREAMING_SIZE = 0x7FFF0000
# Beyond these a header is damaged, and resampling by it would fill the memory.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 1_000_000


class UnusableSound(ValueError):
    """A file that cannot be trained on; its text is the short reason, without the file's name."""


class UnreadableFile(UnusableSound):
    """The operating system did not hand the file over; it may well do so next time."""


def find_files(folder: str | os.PathLike[str]) -> tuple[list[Path], list[Path]]:
    """Finds the files below a folder, at any depth, through links, each real folder once.

    Hidden files and folders (a leading dot, which includes macOS's `._name.wav`) are passed over.

    Returns:
      (sounds, others), each sorted by the POSIX path relative to `folder`. Sounds are the regular
      files with an extension from EXTENSIONS, in any case; `reason_not_sound` names why each of
      the others (broken links and unreadable folders too) is not one.
    Raises:
      FileNotFoundError: if there is nothing at `folder`.
      ValueError: if `folder` is a file, or holds no files.
    """
    root = Path(folder).expanduser()
    if root.is_file():
        raise ValueError(f"{root} is a file, not a folder of sounds; try its folder: {root.parent}")
    if not root.is_dir():
        raise FileNotFoundError(
            f"no folder {root} (looked in {Path.cwd()}); give one that holds sound files, or synth"
        )
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()
    # Links wait until the real folders are done: a sound that both reach keeps its real name.
    pending: list[Path] = [root]
    links: list[Path] = []
    while pending or links:
        here = pending.pop() if pending else links.pop(0)
        try:
            status = here.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            names = sorted(name for name in os.listdir(here) if not name.startswith("."))
        except OSError:
            found.append(here)
            continue
        for path in (here / name for name in names):
            if not path.is_dir():
                found.append(path)
            else:
                (links if path.is_symlink() else pending).append(path)
    found.sort(key=lambda path: path.relative_to(root).as_posix())
    if not found:
        raise ValueError(f"no files in {root}; put sounds there: .wav, .flac, .aiff, .ogg or .mp3")
    sounds = [path for path in found if path.suffix.lower() in EXTENSIONS and path.is_file()]
    kept = set(sounds)
    return sounds, [path for path in found if path not in kept]


def reason_not_sound(path: Path) -> str:
    """Says why `find_files` did not count a path among the sounds."""
    if path.is_dir():
        return "a folder that cannot be read"
    if not path.exists():
        return "a broken link"
    if not path.is_file():
        return "not a regular file"
    suffix = path.suffix.lower()
    if suffix in FOREIGN_EXTENSIONS:
        return f"a format that cannot be read here ({suffix}); convert it to WAV or FLAC"
    return f"not an audio file ({suffix or 'no extension'})"


def decode(path: str | os.PathLike[str], *, sample_rate: int) -> np.ndarray:
    """Decodes a whole file to mono at `sample_rate`.

    Channels are averaged; where they cancel, the loudest one is taken instead.

    Args:
      path: any format, bit depth, channel count and sample rate that libsndfile reads.
      sample_rate: of the result, in Hz.
    Returns:
      [about file's frames * sample_rate / file's rate, at least 1] float32, at the file's own
      level, not clipped.
    Raises:
      UnusableSound: if the file is empty, not audio, truncated, silent throughout, holds NaN or
        Inf, or (UnreadableFile) cannot be opened.
    """
    path = Path(path)
    try:
        source = _checked_source(path)
        mono, rate, instead = _read_mono(source)
        if instead is not None:
            mono, rate, _ = _read_mono(source, channel=instead)
    except OSError as error:
        raise UnreadableFile(f"cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise UnusableSound("too long to decode in memory") from error
    except soundfile.LibsndfileError as error:
        raise UnusableSound(_libsndfile_reason(error)) from error
    _require_sound(mono)
    if rate == sample_rate:
        return mono
    resampled = soxr.resample(mono, rate, sample_rate, quality="HQ")
    if not len(resampled):  # a few samples, much faster than sample_rate
        resampled = soxr.resample(np.pad(mono, (0, rate)), rate, sample_rate, quality="HQ")[:1]
    _extent(resampled)  # overflows for samples near float32's limits
    return resampled


def condition(
    waveform: np.ndarray, *, sample_rate: int, trim_db: float, num_samples: int
) -> tuple[np.ndarray, int]:
    """Trims the silence before a sound, crops or zero-pads it, and scales it to full scale.

    A crop is a hard cut: the fade belongs to whoever makes the final crop.

    Args:
      waveform: [n] mono, any scale, finite.
      sample_rate: in Hz.
      trim_db: what precedes the first sample above this level, in dB relative to the whole
        waveform's peak (so <= 0), is silence; all but the last millisecond of it is cut off.
        -inf keeps everything.
      num_samples: length of the result.
    Returns:
      (pcm, length): [num_samples] int16 whose largest magnitude is exactly 32767 within the part
      that was kept, and the number of samples after trimming, before cropping or padding.
    Raises:
      ValueError: if trim_db is above 0 or num_samples below 1.
      UnusableSound: if there is nothing but silence.
    """
    if not trim_db <= 0:
        raise ValueError(f"trim_db={trim_db} is relative to the peak and must be <= 0; try -60")
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1")
    low, high = _require_sound(waveform)
    threshold = max(-low, high) * 10 ** (trim_db / 20)
    onset = 0
    for first in range(0, len(waveform), ONSET_BLOCK):
        audible = np.abs(waveform[first : first + ONSET_BLOCK]) >= threshold
        if audible.any():
            onset = first + int(audible.argmax())
            break
    # The onset itself has to stay inside the clip, however short the clip.
    start = max(0, onset - min(round(PRE_ROLL_SECONDS * sample_rate), num_samples - 1))
    clip = waveform[start : start + num_samples]
    scaled = clip * np.float32(32767 / max(-clip.min(), clip.max()))
    pcm = np.zeros(num_samples, np.int16)
    pcm[: len(clip)] = np.rint(scaled, out=scaled)
    return pcm, len(waveform) - start


def _extent(waveform: np.ndarray) -> tuple[float, float]:
    """Returns the lowest and the highest sample, which a NaN or Inf anywhere would show up in."""
    if not len(waveform):
        raise UnusableSound("zero length")
    low, high = float(waveform.min()), float(waveform.max())
    if not np.isfinite(high - low):
        raise UnusableSound("NaN or Inf samples")
    return low, high


def _require_sound(waveform: np.ndarray) -> tuple[float, float]:
    low, high = _extent(waveform)
    # A constant is as silent as zeros, unless it is a single sample: that is a click.
    if (high - low if len(waveform) > 1 else abs(high)) <= SILENCE_PEAK:
        raise UnusableSound("all silence")
    return low, high


def _read_mono(source: Source, *, channel: int | None = None) -> tuple[np.ndarray, int, int | None]:
    """Returns the mean of the channels (or one of them) and the sample rate in Hz.

    Last comes the loudest channel, if the mean has lost nearly everything that is in it.
    """
    if isinstance(source, io.BytesIO):
        source.seek(0)
    with soundfile.SoundFile(source) as sound:
        rate, declared = sound.samplerate, sound.frames
        if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            raise UnusableSound(f"sample rate of {rate} Hz")
        if declared > 1 << 48:  # libsndfile's "unknown": a FLAC written to a pipe, for one
            raise UnusableSound("length not stated in its header; encode it again")
        parts = []
        # In float64: a float file may hold values of any scale.
        energies, mean_energy = np.zeros(sound.channels), 0.0
        block_frames = max(1, BLOCK_VALUES // sound.channels)
        # Overflows quietly for absurd scales: the caller looks for Inf.
        with np.errstate(over="ignore", invalid="ignore"):
            while len(block := sound.read(block_frames, dtype="float32", always_2d=True)):
                if channel is not None:
                    part = block[:, channel].copy()
                elif sound.channels == 1:
                    part = block[:, 0]
                else:
                    part = block.mean(axis=1)
                    energies += [np.dot(values, values) for values in block.T.astype(np.float64)]
                    mean_energy += np.square(part, dtype=np.float64).sum()
                parts.append(part)
        num_frames = sum(map(len, parts))
        # An MP3's length is a guess of libsndfile's unless its first frame states it.
        if num_frames < declared and (sound.format != "MP3" or _states_length(source)):
            raise UnusableSound("truncated")
    if not num_frames:
        raise UnusableSound("zero length")
    cancelled = mean_energy < CANCELLED_ENERGY * energies.max()
    instead = int(energies.argmax()) if cancelled else None
    return parts[0] if len(parts) == 1 else np.concatenate(parts), rate, instead


def _states_length(source: Source) -> bool:
    """Whether the first frame of an MP3 is a Xing, Info or VBRI header."""
    assert not isinstance(source, io.BytesIO)
    with open(source, "rb") as file:
        head = file.read(10)
        tag = 0
        if head[:3] == b"ID3" and len(head) == 10:
            tag = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        file.seek(tag)
        frame = file.read(2048)
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


def _libsndfile_reason(error: soundfile.LibsndfileError) -> str:
    if error.code == 1:
        return "not audio (no known format inside)"
    if error.code == 7:  # its text for an MP3 without frames speaks of pipes
        return "not audio, or damaged"
    return f"not audio, or damaged ({error.error_string.strip(' .')})"


def _checked_source(path: Path) -> Source:
    """Compares the length that a header states with the file's, before libsndfile opens it.

    Returns:
      What soundfile is to open: the path, or a repaired copy of a WAV that was written to a pipe.
    """
    if not path.is_file():  # opening a named pipe would wait for ever
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            raise UnusableSound("zero length (0 bytes)")
        data = _find_data(file, size)
        if data is not None:
            start, declared = data
            if declared - (size - start) > SLACK_BYTES:
                raise UnusableSound("truncated")
            if declared == 0 and _is_streamed(file, start, size):
                # libsndfile takes this for an empty file, but knows the other sign for "unknown".
                file.seek(0)
                content = bytearray(file.read())
                content[start - 4 : start] = b"\xff\xff\xff\xff"
                return io.BytesIO(content)
    # soundfile encodes a str strictly, which fails for names that are not valid UTF-8.
    return os.fsencode(path) if os.name == "posix" else str(path)


def _find_data(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """Finds the samples of a WAV, RF64, W64, AIFF or AU file.

    Returns:
      (offset, stated length), in bytes; None for other formats, for a length that stands for
      "unknown", and where there is no such chunk.
    """
    head = file.read(40)
    form = head[:4]
    if form == b".snd" and len(head) >= 12:
        start, declared = struct.unpack(">II", head[4:12])
        return (start, declared) if declared < STREAMING_SIZE else None
    if form == b"riff":  # Sony Wave64: GUIDs for names, 64-bit sizes that count the header
        position, wanted, header, align = 40, b"data", struct.Struct("<4s12xQ"), 8
    elif form in (b"RIFF", b"RF64", b"BW64", b"RIFX") and head[8:12] == b"WAVE":
        order = ">" if form == b"RIFX" else "<"
        position, wanted, header, align = 12, b"data", struct.Struct(order + "4sI"), 2
    elif form == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        position, wanted, header, align = 12, b"SSND", struct.Struct(">4sI"), 2
    else:
        return None
    declared_in_ds64 = None
    while position + header.size <= size:
        file.seek(position)
        name, length = header.unpack(file.read(header.size))
        if form == b"riff":
            if length < header.size:
                return None
            length -= header.size
        start = position + header.size
        if name == b"ds64" and length >= 16:
            (declared_in_ds64,) = struct.unpack("<8xQ", file.read(16))
        if name == wanted:
            if declared_in_ds64 and length == 0xFFFFFFFF:
                return start, declared_in_ds64
            unknown = form != b"riff" and length >= STREAMING_SIZE
            return None if unknown else (start, length)
        position = start + length + -length % align
    return None


def _is_streamed(file: BinaryIO, start: int, size: int) -> bool:
    """Whether samples follow the header of a WAV whose stated length is 0, not another chunk."""
    file.seek(0)
    form = file.read(4)
    file.seek(start)
    following = file.read(8)
    if form != b"RIFF" or size - start <= SLACK_BYTES:
        return False
    name, length = struct.unpack("<4sI", following)
    is_chunk = name.isascii() and name.decode("ascii").isprintable() and length <= size - start - 8
    return not is_chunk
