"""Sound files -> mono waveforms at one sample rate, piece by piece.

Decoding is libsndfile's (through soundfile) and resampling is soxr's; both release the GIL, so a
pool of threads keeps every core busy. A file is gone through once to see whether it is whole and
how loud it is. A short one is in memory then; a long one is decoded again as far as it is needed,
so memory does not grow with the length.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import soundfile
import soxr

from vaejax.data import containers
from vaejax.data.files import UnreadableFile, UnusableSound
from vaejax.data.sources import Sound, Source

# -90 dB of full scale: a 16-bit file that holds nothing but +-1 of dither counts as silence.
SILENCE_PEAK = 10 ** (-90 / 20)
# Channels whose mean keeps less than -30 dB of the loudest channel's energy cancel each other,
CANCELLED_ENERGY = 1e-3
# and so do those of which the mean tells less than half of what the loudest one tells.
CANCELLED_SHARE = 0.5
# Values decoded at a time (1 MiB as float32): bounds memory for files of many channels.
BLOCK_VALUES = 1 << 18
# Samples of a mono file that are kept in memory (8 MiB as float32), before and after resampling.
KEPT_SAMPLES = 1 << 21
# Beyond these a header is damaged, and resampling by it would fill the memory.
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 1_000_000


@dataclass
class Waveform:
    """A mono sound."""

    pieces: Callable[[], Iterator[np.ndarray]]
    """Goes through it from its beginning, as often as it is called: [n] float32 each, at its own
    level, not clipped."""
    low: float
    high: float
    """The lowest and the highest sample; of a long file, those before resampling."""
    num_samples: int
    """In all; about file's frames * sample_rate / file's rate."""
    file_rate: int
    """In Hz, of the file."""
    notes: list[str] = field(default_factory=list)
    """What had to be done to it that changes what is heard."""


def of_array(samples: np.ndarray, *, sample_rate: int) -> Waveform:
    """A waveform that is in memory, [n] float32.

    Raises:
      UnusableSound: it has no samples, NaN or Inf among them, or is silent throughout.
    """
    low, high = _require_sound(*_extent(samples), len(samples))
    return Waveform(lambda: iter((samples,)), low, high, len(samples), sample_rate)


def read(path: str | os.PathLike[str], *, sample_rate: int) -> Waveform:
    """Decodes a file to mono at `sample_rate`.

    Channels are averaged; where they cancel, the loudest one is taken instead.

    Args:
      path: any format, bit depth, channel count and sample rate that libsndfile reads.
      sample_rate: of the result, in Hz.
    Raises:
      UnusableSound: if the file is empty, not audio, truncated, silent throughout, holds NaN or
        Inf, contradicts itself, or (UnreadableFile) cannot be opened. The pieces of a long file
        raise it too, where it has changed meanwhile.
    """
    with _reasons():
        source = containers.examine(os.fspath(path))
        survey = _survey(source, None)
        notes = []
        if survey.instead is not None:
            channel, num = survey.instead, survey.num_channels
            survey = _survey(source, channel)
            notes = [f"its channels cancel; the loudest alone was taken ({channel + 1} of {num})"]
        low, high = _require_sound(survey.low, survey.high, survey.num_frames)
        ratio = sample_rate / survey.rate
        if survey.held is not None and survey.num_frames * ratio <= KEPT_SAMPLES:
            samples = _joined(_resampled(survey.held, survey.rate, sample_rate))
            if not len(samples):  # a few samples, much faster than sample_rate
                longer = [*survey.held, np.zeros(survey.rate, np.float32)]
                samples = _joined(_resampled(longer, survey.rate, sample_rate))[:1]
            # Overflows for samples near float32's limits.
            low, high = _extent(samples) if ratio != 1 else (low, high)
            return Waveform(lambda: iter((samples,)), low, high, len(samples), survey.rate, notes)

    def pieces() -> Iterator[np.ndarray]:
        with _reasons():
            blocks = survey.held or _mono(source, survey.channel)
            yield from _resampled(blocks, survey.rate, sample_rate)

    return Waveform(pieces, low, high, round(survey.num_frames * ratio), survey.rate, notes)


@dataclass
class _Survey:
    """What going through a file has shown."""

    rate: int
    num_channels: int
    channel: int | None
    """The one that is taken alone."""
    num_frames: int
    low: float
    high: float
    instead: int | None
    """The loudest channel, if the mean has lost nearly everything that is in it."""
    held: list[np.ndarray] | None
    """All of it, where that is short."""


def _survey(source: Source, channel: int | None) -> _Survey:
    """Decodes all of a file, to its mean or to one of its channels."""
    held: list[np.ndarray] | None = []
    num_frames, low, high, gram = 0, np.inf, -np.inf, None
    with source.open() as sound:
        rate, num_channels, declared = sound.samplerate, sound.channels, sound.frames
        if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
            raise UnusableSound(f"sample rate of {rate} Hz")
        # Overflows quietly for absurd scales: it is Inf that is looked for.
        with np.errstate(over="ignore", invalid="ignore"):
            for block in _blocks(sound, source):
                mono = _mixed(block, channel)
                if num_channels > 1 and channel is None:
                    # In float64: a float file may hold values of any scale.
                    wide = block.astype(np.float64)
                    gram = wide.T @ wide + (0 if gram is None else gram)
                num_frames += len(mono)
                low, high = min(low, float(mono.min())), max(high, float(mono.max()))
                if not np.isfinite(high - low):
                    raise UnusableSound("NaN or Inf samples")
                if held is not None:
                    held.append(mono)
                    held = held if num_frames <= KEPT_SAMPLES else None
    least = declared if source.counts_itself else source.num_frames or 0
    if num_frames < least:
        raise UnusableSound("truncated")
    if not num_frames:
        raise UnusableSound("zero length")
    instead = None if gram is None else _instead(gram)
    return _Survey(rate, num_channels, channel, num_frames, low, high, instead, held)


def _instead(gram: np.ndarray) -> int | None:
    """The channel that tells more than the mean of all, if it does by far.

    What a signal tells of the channels is how much of their energy can be predicted from it: of a
    sound in opposite phases the mean tells nothing, of two sounds that have nothing in common as
    much as one of them.

    Args:
      gram: [num_channels, num_channels], the sums of products of each two channels.
    """
    energies = np.diag(gram)
    loudest = int(energies.argmax())
    with_mean = gram.mean(axis=1)
    mean_energy = float(with_mean.mean())
    if not energies[loudest] > 0:
        return None
    told_by_loudest = np.square(gram[loudest]).sum() / energies[loudest]
    told_by_mean = np.square(with_mean).sum() / mean_energy if mean_energy > 0 else 0.0
    cancelled = mean_energy < CANCELLED_ENERGY * energies[loudest]
    return loudest if cancelled or told_by_mean < CANCELLED_SHARE * told_by_loudest else None


def _mono(source: Source, channel: int | None) -> Iterator[np.ndarray]:
    with source.open() as sound:
        for block in _blocks(sound, source):
            yield _mixed(block, channel)


def _blocks(sound: Sound, source: Source) -> Iterator[np.ndarray]:
    """[num_frames, num_channels] float32 each."""
    size = max(1, BLOCK_VALUES // sound.channels)
    # What is asked for beyond the end is filled with zeros first, which takes longer than decoding.
    is_known, num = source.counts_itself, 0
    likely = sound.frames if is_known else (source.num_frames or size) + 1
    while num < likely or not is_known:
        wanted = min(size, likely - num) if num < likely else size
        block = sound.read(wanted, dtype="float32", always_2d=True)
        if not len(block):
            return
        yield block
        num += len(block)


def _mixed(block: np.ndarray, channel: int | None) -> np.ndarray:
    if channel is not None:
        return block[:, channel].copy()
    if block.shape[1] == 1:
        return block[:, 0]
    return block.mean(axis=1)


def _resampled(
    blocks: Iterator[np.ndarray] | list[np.ndarray], rate: int, sample_rate: int
) -> Iterator[np.ndarray]:
    if rate == sample_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate, sample_rate, 1, dtype="float32", quality="HQ")
    # Of a low rate, a block becomes many times as long.
    size = max(1, BLOCK_VALUES * rate // max(rate, sample_rate))
    for block in blocks:
        for first in range(0, len(block), size):
            yield stream.resample_chunk(block[first : first + size])
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def _joined(blocks: Iterator[np.ndarray]) -> np.ndarray:
    parts = list(blocks)
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _extent(samples: np.ndarray) -> tuple[float, float]:
    """Returns the lowest and the highest sample, which a NaN or Inf anywhere would show up in."""
    if not len(samples):
        raise UnusableSound("zero length")
    low, high = float(samples.min()), float(samples.max())
    if not np.isfinite(high - low):
        raise UnusableSound("NaN or Inf samples")
    return low, high


def _require_sound(low: float, high: float, num_samples: int) -> tuple[float, float]:
    # A constant is as silent as zeros, unless it is a single sample: that is a click.
    if (high - low if num_samples > 1 else abs(high)) <= SILENCE_PEAK:
        raise UnusableSound("all silence")
    return low, high


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turns what goes wrong with a file into the reason why it is not used."""
    try:
        yield
    except UnusableSound:
        raise
    except OSError as error:
        raise UnreadableFile(f"cannot be read ({error.strerror or error})") from error
    except MemoryError as error:
        raise UnusableSound("too long to decode in memory") from error
    except soundfile.LibsndfileError as error:
        raise UnusableSound(_libsndfile_reason(error)) from error


def _libsndfile_reason(error: soundfile.LibsndfileError) -> str:
    if error.code == 1:
        return "not audio (no known format inside)"
    if error.code == 7:  # its text for an MP3 without frames speaks of pipes
        return "not audio, or damaged"
    return f"not audio, or damaged ({error.error_string.strip(' .')})"
