"""Waveforms -> trimmed, full-scale int16 clips of one length.

A sound begins where it rises above -60 dB of its peak. Two things can hide that: a constant offset,
which is taken away, and a floor of noise or hum, above which it has to rise instead. A floor is
told from the quiet beginning of a sound by its being level: it lies far below the peak, does not
grow, and the sound leaves it for good.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vaejax.data.decoding import Waveform
from vaejax.data.files import UnusableSound

# Kept before the first audible sample, so that the trim never lands inside an attack.
PRE_ROLL_SECONDS = 1e-3
# A constant of at least this much of the peak is an offset where a sound begins with nothing else,
# which hides the onset; of this much anywhere.
OFFSET_DB, OFFSET_ANYWHERE_DB = -60.0, -40.0
# It is sought in the quietest of blocks so long, in so much of the beginning,
OFFSET_BLOCK_SECONDS, OFFSET_SECONDS = 0.04, 5.0
# whose means differ by no more than this part of it.
OFFSET_SPREAD = 0.25
# It is taken off by degrees where the sound fades in from zero or out to it.
OFFSET_RAMP_SECONDS = 5e-3
# A floor is followed in blocks so long (a whole number of periods of mains hum),
FLOOR_BLOCK_SECONDS = 0.02
# has this many of them at least,
FLOOR_BLOCKS = 10
# lies this far below the peak,
FLOOR_DB = -20.0
# its later half is as loud as its earlier one, within this many dB, and so are most of its blocks.
FLOOR_DRIFT_DB, FLOOR_SPREAD_DB = 2.0, 6.0
# A block belongs to a floor no more where its peak exceeds those before by this factor, or its RMS
# the median of theirs by twice.
RISE, RISE_RMS = 1.6, 2.0
# From there the sound is followed back while short stretches stay above the floor by this factor.
ONSET_SECONDS, ONSET_RMS = 2.5e-3, 1.6
# A clip whose peak lies this far below the file's is worth a note, and so far below no sound of it.
QUIET_DB, TOO_QUIET_DB = -20.0, -30.0


class Clip(NamedTuple):
    """What is kept of a sound."""

    pcm: np.ndarray
    """[num_samples] int16 whose largest magnitude is exactly 32767 within the part that was
    kept."""
    length: int
    """Samples of the whole sound after trimming, before cropping or padding."""
    notes: list[str]
    """What had to be done to it that changes what is heard, and what is odd about it."""


def condition(waveform: Waveform, *, sample_rate: int, trim_db: float, num_samples: int) -> Clip:
    """Trims what precedes a sound, crops or zero-pads it, and scales it to full scale.

    A crop is a hard cut: the fade belongs to whoever makes the final crop.

    Args:
      waveform: at any scale.
      sample_rate: in Hz.
      trim_db: what precedes the first sample above this level, in dB relative to the whole
        waveform's peak (so <= 0), is silence; all but the last millisecond of it is cut off.
        -inf keeps everything.
      num_samples: length of the result.
    Raises:
      ValueError: if trim_db is above 0 or num_samples below 1.
      UnusableSound: if what would be kept lies so far below the file's level that it can only be
        what precedes the sound.
    """
    if not trim_db <= 0:
        raise ValueError(f"trim_db={trim_db} is relative to the peak and must be <= 0; try -60")
    if num_samples < 1:
        raise ValueError(f"num_samples={num_samples} must be at least 1")
    gain = 10 ** (trim_db / 20)
    peak = max(-waveform.low, waveform.high)
    first = onset = _first_audible(_blocks_of(waveform, 0), peak * gain) or 0
    offset = _offset(_part(waveform, first, round(OFFSET_SECONDS * sample_rate)), sample_rate, peak)
    if offset:
        peak = max(offset - waveform.low, waveform.high - offset)
        audible = _first_audible(_blocks_of(waveform, first, offset), peak * gain)
        onset = first + (audible or 0)
    if gain:
        loud = peak * 10 ** (FLOOR_DB / 20)
        # Most sounds are loud before a floor could be told.
        shortest = round(FLOOR_BLOCKS * FLOOR_BLOCK_SECONDS * sample_rate)
        beginning = _part(waveform, onset, shortest)
        if max(offset - beginning.min(), beginning.max() - offset) < loud:
            onset += _after_floor(_blocks_of(waveform, onset, offset), loud, sample_rate)
    # The onset itself has to stay inside the clip, however short the clip.
    start = max(0, onset - min(round(PRE_ROLL_SECONDS * sample_rate), num_samples - 1))
    clip = _part(waveform, start, num_samples)
    notes = list(waveform.notes)
    if offset:
        ramp = round(OFFSET_RAMP_SECONDS * sample_rate)
        clip = _without_offset(clip, offset, max(0, first - start), ramp)
        notes.append(f"a constant offset was taken off ({offset:.2g})")
    top = max(-float(clip.min()), float(clip.max())) if len(clip) else 0.0
    level_db = 20 * math.log10(max(top, 1e-38) / peak)
    if level_db < TOO_QUIET_DB:
        raise UnusableSound(
            f"no onset found: what would be kept lies {-level_db:.0f} dB below the file's peak; "
            "cut off what precedes the sound"
        )
    if level_db < QUIET_DB:
        notes.append(f"what is kept lies far below the file's peak ({level_db:.0f} dB)")
    scaled = clip * np.float32(32767 / top)
    pcm = np.zeros(num_samples, np.int16)
    pcm[: len(clip)] = np.rint(scaled, out=scaled)
    return Clip(pcm, max(len(clip), waveform.num_samples - start), notes)


def _blocks_of(waveform: Waveform, start: int, offset: float = 0.0) -> Iterator[np.ndarray]:
    """The samples from `start` on, less an offset."""
    for piece in waveform.pieces():
        if start < len(piece):
            rest = piece[start:] if start else piece
            yield rest - np.float32(offset) if offset else rest
        start = max(0, start - len(piece))


def _part(waveform: Waveform, start: int, num: int) -> np.ndarray:
    """The samples from `start` on, at most `num`."""
    parts: list[np.ndarray] = []
    for block in _blocks_of(waveform, start):
        if len(block) >= num and not parts:
            return block[:num]
        parts.append(block[:num])
        num -= len(parts[-1])
        if not num:
            break
    return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.zeros(0, np.float32)])


# Samples searched at a time for the first audible one.
_SEARCHED = 4096


def _first_audible(blocks: Iterator[np.ndarray], threshold: float) -> int | None:
    """The first sample whose magnitude is at least `threshold`."""
    begin = 0
    for block in blocks:
        for first in range(0, len(block), _SEARCHED):
            audible = np.abs(block[first : first + _SEARCHED]) >= threshold
            if audible.any():
                return begin + first + int(audible.argmax())
        begin += len(block)
    return None


def _offset(samples: np.ndarray, sample_rate: int, peak: float) -> float:
    """The constant that samples [n] are shifted by; 0 where there is none worth the name."""
    size = round(OFFSET_BLOCK_SECONDS * sample_rate)
    num = len(samples) // size
    least = peak * 10 ** (OFFSET_DB / 20)
    if num < 3:
        return 0.0
    blocks = samples[: num * size].reshape(num, size)
    # A float file may hold values of any scale.
    means = blocks.sum(axis=1, dtype=np.float64) / size
    # Most sounds end here, before it gets any longer.
    shifted = means[np.abs(means) >= (1 - OFFSET_SPREAD) * least]
    num_up = np.count_nonzero(shifted > 0)
    if max(num_up, len(shifted) - num_up) < max(3, 3 * len(shifted) // 4):
        return 0.0
    blocks = blocks / np.float32(peak)
    power = np.einsum("ij,ij->i", blocks, blocks) / size
    spread = peak * np.sqrt(np.maximum(power - (means / peak) ** 2, 0))
    # Blocks of silence say nothing: a silent end may have been put there later.
    sounding = np.flatnonzero(np.abs(means) + spread >= least / 2)
    if len(sounding) < 3:
        return 0.0
    some = max(3, len(sounding) // 4)
    quietest = sounding[np.argsort(spread[sounding])[:some]]
    middle = float(np.sort(means[quietest])[some // 2])
    differ = float(np.abs(means[quietest] - middle).max())
    begins_so = max(abs(means[0] - middle), spread[0]) <= abs(middle)
    if not begins_so:  # with sound; then it has to be there from the beginning as well
        differ = max(differ, abs(float(np.sort(means[sounding[:some]])[some // 2]) - middle))
    needed = least if begins_so else peak * 10 ** (OFFSET_ANYWHERE_DB / 20)
    return middle if abs(middle) >= needed and differ <= OFFSET_SPREAD * abs(middle) else 0.0


def _without_offset(clip: np.ndarray, offset: float, first: int, ramp: int) -> np.ndarray:
    """Takes an offset off from `first` to where digital silence follows.

    Args:
      clip: [n].
      ramp: samples over which an end that is at zero anyway is left there.
    """
    sounding = np.flatnonzero(clip[first:])
    last = first + int(sounding[-1]) + 1 if len(sounding) else first
    taken = np.zeros_like(clip)
    taken[first:last] = offset
    ramp = min(ramp, (last - first) // 2)
    slope = np.arange(ramp, dtype=np.float32) / max(1, ramp)
    for end, inner in ((first, slice(first, first + ramp)), (last - 1, slice(last - ramp, last))):
        if ramp and abs(clip[end]) < abs(offset) / 4:
            taken[inner] *= slope if end == first else slope[::-1]
    return clip - taken


def _after_floor(blocks: Iterator[np.ndarray], loud: float, sample_rate: int) -> int:
    """The sample at which a sound leaves the floor that it begins with; 0 where it has none."""
    size = max(1, round(FLOOR_BLOCK_SECONDS * sample_rate))
    levels: list[float] = []
    recent: list[np.ndarray] = []
    top, position, risen = 0.0, 0, 0
    for block in _of_length(blocks, size):
        peak = float(max(-block.min(), block.max()))
        level = float(np.sqrt(np.dot(block, block) / len(block)))
        recent = [*recent[-FLOOR_BLOCKS - 1 :], block]
        position += len(block)
        above = len(levels) >= FLOOR_BLOCKS and (
            peak > RISE * top or level > RISE_RMS * np.median(levels)
        )
        risen = risen + 1 if above else 0
        if peak >= loud or risen == 2:
            break
        if not above:
            levels.append(level)
            top = max(top, peak)
    else:
        return 0
    if not risen or not _is_level(levels):
        return 0
    near = np.concatenate(recent)
    rise = len(near) - sum(map(len, recent[-risen:]))
    level = float(np.median(levels))
    return position - len(near) + _onset_near(near, rise, top * RISE, level, sample_rate)


def _is_level(levels: list[float]) -> bool:
    """Whether the RMS of a floor's blocks does not grow, fade or go up and down."""
    levels_db = 20 * np.log10(np.maximum(levels, 1e-30))
    half = len(levels) // 2
    drift = np.median(levels_db[-half:]) - np.median(levels_db[:half])
    low, high = np.quantile(levels_db, (0.1, 0.9))
    return bool(abs(drift) <= FLOOR_DRIFT_DB and high - low <= FLOOR_SPREAD_DB)


def _onset_near(
    samples: np.ndarray, rise: int, threshold: float, level: float, sample_rate: int
) -> int:
    """Follows a sound back from where it has risen above its floor.

    Args:
      samples: [n]; the block from `rise` on is above the floor.
      threshold: a magnitude that the floor does not have.
      level: the RMS of the floor.
    """
    above = np.abs(samples[rise:]) > threshold
    at = rise + (int(above.argmax()) if above.any() else 0)
    size = max(1, round(ONSET_SECONDS * sample_rate))
    while at >= size:
        stretch = samples[at - size : at]
        if np.dot(stretch, stretch) <= size * (ONSET_RMS * level) ** 2:
            break
        at -= size
    return at


def _of_length(blocks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in blocks of `size`; the last one may be shorter."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        joined = np.concatenate([rest, block]) if len(rest) else block
        whole = len(joined) // size * size
        for first in range(0, whole, size):
            yield joined[first : first + size]
        rest = joined[whole:]
    if len(rest):
        yield rest
