"""Seamless loops: two alike places in the sustained part of a sound, and a cross-fade between them.

A sampler plays a note to the end of the loop, jumps to its start, and so on while the key is held.
The jump is not heard when what comes before both points is alike and what comes after is too, so
points are compared by the normalised cross-correlation of the sound around them, and the sound
before the end is faded into the sound before the start. After the end it is faded back, so the file
also plays through as it is.

Pure NumPy on one sound [num_samples], for the threads that write files.
"""

import math
from typing import Any, NamedTuple

import numpy as np

# A part is sustained while its level, in frames as long as a period of a deep bass, stays within
# this many dB, and is not this many dB below the loudest frame.
FRAME_SECONDS, HOP_SECONDS = 0.05, 0.01
SUSTAIN_DB, TAIL_DB = 6.0, 12.0
MIN_SUSTAIN_SECONDS = 0.2
# Shorter loops buzz.
MIN_LOOP_SECONDS = 0.1
# Of the cross-fade, before the point and again after it.
MAX_FADE_SECONDS = 0.04
# Ends that are tried, spread over the later part of the sustain.
NUM_ENDS = 12
# What two points may differ in level: a sound that decays faster cannot be held.
MAX_JUMP_DB = 1.0
# What a dB of level between the points costs in correlation, and how much worse a longer loop may
# be: it repeats less often, which is heard less.
JUMP_COST, LENGTH_BONUS = 0.05, 0.05
SPECTRUM_BANDS, SPECTRUM_FLOOR_DB = 24, -60.0


class Loop(NamedTuple):
    """A loop, and how well it closes."""

    start: int
    """First sample of the loop."""
    end: int
    """Last sample of the loop; it is played too."""
    fade_samples: int
    """Length of the cross-fade before the end, and of the one back after it."""
    correlation: float
    """Of the sound around both points, -1 to 1."""
    level_jump_db: float
    """Level of the sound around the start over that around the end, before the cross-fade."""
    spectral_change_db: float
    """Mean difference of the levels in 24 bands between the two."""
    step: float
    """The step from the last sample to the first after the cross-fade, over the largest between
    neighbours inside the loop; no click while it is about 1 or less."""


def make_loop(waveform: np.ndarray, *, sample_rate: int) -> tuple[np.ndarray, Loop | str]:
    """Finds a loop and makes it seamless.

    Args:
      waveform: [num_samples] float.
      sample_rate: Hz.
    Returns:
      The sound with its cross-fade, and the loop; or the sound as it was, and why it has none.
    """
    found = find_loop(waveform, sample_rate=sample_rate)
    if isinstance(found, str):
        return waveform, found
    start, end, fade, correlation = found
    looped = crossfade(waveform, start, end, fade, correlation=correlation)
    return looped, Loop(
        start, end - 1, fade, correlation, **_seam(waveform, looped, start, end, fade)
    )


def find_loop(waveform: np.ndarray, *, sample_rate: int) -> tuple[int, int, int, float] | str:
    """The best two places to jump between.

    Returns:
      Start, end (the sample after the last), samples of fade on each side of both, and the
      correlation around them; or why there is no loop.
    """
    sustained = _sustained(waveform, sample_rate)
    if sustained is None:
        return "silent, or shorter than a loop"
    first, last = sustained
    seconds = (last - first) / sample_rate
    if seconds < MIN_SUSTAIN_SECONDS:
        return (
            f"not sustained: the level stays within {SUSTAIN_DB:g} dB for {seconds:.2f} s, and "
            f"{MIN_SUSTAIN_SECONDS:g} s are needed"
        )
    fade = min(round(MAX_FADE_SECONDS * sample_rate), (last - first) // 8)
    shortest = max(round(MIN_LOOP_SECONDS * sample_rate), 2 * fade)
    # Where the loop can start: with its fades inside the sustained part, and before the end's.
    part = waveform[first:last].astype(np.float64)
    energy = np.concatenate([[0.0], np.cumsum(part**2)])
    energy = energy[2 * fade :] - energy[: -2 * fade]  # of [i, i + 2 fade)
    size = 1 << (len(part) - 1).bit_length()
    spectrum = np.fft.rfft(part, size)
    best: list[tuple[float, int, int, float]] = []
    ends = np.linspace((len(part) + shortest) // 2, len(part) - fade, NUM_ENDS).astype(int)
    for end in np.unique(ends):
        around_end = part[end - fade : end + fade]
        # Entry i: the product of what is around the end with what begins at i.
        product = np.fft.irfft(spectrum * np.conj(np.fft.rfft(around_end, size)), size)
        count = end - shortest - fade + 1
        if count < 1:
            continue
        scale = np.sqrt(np.maximum(energy[:count] * energy[end - fade], 1e-20))
        correlation = product[:count] / scale
        jump = 10 * np.abs(
            np.log10(np.maximum(energy[:count], 1e-20) / max(energy[end - fade], 1e-20))
        )
        score = np.where(jump <= MAX_JUMP_DB, correlation - JUMP_COST * jump, -np.inf)
        at = int(np.argmax(score))
        if np.isfinite(score[at]):
            best.append((float(score[at]), at + fade, int(end), float(correlation[at])))
    if not best or max(best)[0] <= 0:
        return f"no two places alike within {MAX_JUMP_DB:g} dB: the sound decays or changes"
    limit = max(best)[0] - LENGTH_BONUS
    _, start, end, correlation = max(
        (b for b in best if b[0] >= limit), key=lambda b: (b[2] - b[1], b)
    )
    return first + start, first + end, fade, min(max(correlation, -1.0), 1.0)


def crossfade(
    waveform: np.ndarray, start: int, end: int, fade: int, *, correlation: float
) -> np.ndarray:
    """Fades into what comes before the loop's start until its end, and back after it.

    The gains keep the power for sounds that are correlated as these are: a straight line for equal
    ones (correlation 1), a quarter of a circle's shape for unrelated ones (0), and what lies
    between for others (Fink, Holters & Zölzer 2016, "Signal-matched power-complementary
    cross-fading and dry-wet mixing").

    Args:
      waveform: [num_samples].
      start, end: first sample of the loop and the one after its last.
      fade: samples on each side of the end.
      correlation: of the two sounds around the points; negative counts as 0.
    Returns:
      [num_samples], the same outside of `fade` samples around the end.
    """
    incoming = (np.arange(2 * fade) + 1) / (fade + 1)
    incoming = np.minimum(incoming, incoming[::-1])  # up until the end, down after it
    outgoing = 1 - incoming
    power = incoming**2 + outgoing**2 + 2 * max(correlation, 0.0) * incoming * outgoing
    there = waveform[start - fade : start + fade]
    here = waveform[end - fade : end + fade]
    looped = waveform.copy()
    looped[end - fade : end + fade] = (incoming * there + outgoing * here) / np.sqrt(power)
    return looped


def describe(loop: Loop, *, sample_rate: int) -> dict[str, Any]:
    """What the manifest says of a loop."""
    return {
        "start": loop.start,
        "end": loop.end,
        "fade_ms": round(1000 * loop.fade_samples / sample_rate, 2),
        "correlation": round(loop.correlation, 4),
        "level_jump_db": round(loop.level_jump_db, 3),
        "spectral_change_db": round(loop.spectral_change_db, 3),
        "step": round(loop.step, 4),
    }


def describe_whole(waveform: np.ndarray) -> dict[str, Any]:
    """What the manifest says of a sound [num_samples] that is a loop from end to end."""
    inside = float(np.abs(np.diff(waveform)).max(initial=0.0))
    step = abs(float(waveform[0]) - float(waveform[-1]))
    return {"start": 0, "end": len(waveform) - 1, "step": round(step / max(inside, 1e-20), 4)}


def _sustained(waveform: np.ndarray, sample_rate: int) -> tuple[int, int] | None:
    """First sample of the longest part of even level, and the one after its last."""
    frame, hop = (round(s * sample_rate) for s in (FRAME_SECONDS, HOP_SECONDS))
    if len(waveform) < 2 * frame:
        return None
    energy = np.concatenate([[0.0], np.cumsum(waveform.astype(np.float64) ** 2)])
    starts = np.arange(0, len(waveform) - frame + 1, hop)
    power = (energy[starts + frame] - energy[starts]) / frame
    if power.max() <= 1e-12:
        return None
    level = 10 * np.log10(np.maximum(power / power.max(), 1e-12))
    level = np.where(level < -TAIL_DB, -np.inf, level)
    longest, at = 0, 0
    for i in np.flatnonzero(np.isfinite(level)):
        rest = level[i:]
        spread = np.maximum.accumulate(rest) - np.minimum.accumulate(rest)
        length = int(np.argmax(spread > SUSTAIN_DB)) if (spread > SUSTAIN_DB).any() else len(rest)
        if length > longest:
            longest, at = length, int(i)
    return int(starts[at]), int(starts[at + longest - 1]) + frame


def _seam(
    waveform: np.ndarray, looped: np.ndarray, start: int, end: int, fade: int
) -> dict[str, float]:
    """How alike the two places are, and whether the jump between them clicks."""
    around = [waveform[at - fade : at + fade] for at in (start, end)]
    powers = [max(float(np.mean(part.astype(np.float64) ** 2)), 1e-20) for part in around]
    inside = float(np.abs(np.diff(looped[start:end])).max())
    step = abs(float(looped[start]) - float(looped[end - 1]))
    return {
        "level_jump_db": 10 * math.log10(powers[0] / powers[1]),
        "spectral_change_db": float(np.mean(np.abs(_bands(around[0]) - _bands(around[1])))),
        "step": step / max(inside, 1e-20),
    }


def _bands(part: np.ndarray) -> np.ndarray:
    """Level in dB of bands as wide as a share of their frequency, floored below the loudest."""
    power = np.abs(np.fft.rfft(part * np.hanning(len(part)))) ** 2
    edges = np.unique(np.geomspace(1, len(power), SPECTRUM_BANDS + 1).astype(int))
    level = 10 * np.log10(np.maximum(np.add.reduceat(power, edges[:-1]), 1e-20))
    return np.maximum(level, level.max() + SPECTRUM_FLOOR_DB)
