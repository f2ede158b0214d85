"""What the host does to a sound on its way into a file: rate, end, loop, level, dither.

Pure NumPy on one sound [num_samples], run in threads while the device makes the next batch; only
when something is asked for that the device has not done already. The order is that of the fields
of `Mastering`: what comes later may not be spoilt by what comes before, so the level is set when
the shape is final, and dither is the last thing.
"""

import math
import re
import zlib
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import soxr

from vaejax import metrics
from vaejax.export import loops
from vaejax.export.samples import STEPS, quantize
from vaejax.signal import circular, loudness

MIN_RATE, MAX_RATE = 4000, 384_000
# What is left of a sound at least when its silent end is cut off.
MIN_SECONDS = 0.05
# What the manifest may say of a sound because of what is done here, or heard.
FACTS = (
    *("loop", "no_loop", "held_at", "loudness", "level_limited"),
    *("detected_pitch", "pitch_clarity"),
)


class Level(NamedTuple):
    """How loud a sound becomes."""

    value: float
    """Peak in dB of full scale, or loudness in LUFS."""
    unit: str
    """`dBFS` or `LUFS`."""

    def __str__(self) -> str:
        # All digits, and no exponent: `--redo` reads it back.
        number = f"{self.value:.9f}".rstrip("0").rstrip(".")
        return f"{number}{self.unit}"


class Mastering(NamedTuple):
    """What is done, in this order."""

    source_rate: int
    """Hz, of the sounds that come in."""
    sample_rate: int
    """Hz, of the file."""
    trim_db: float | None
    """Below the peak; the end that stays below is cut off. None keeps it."""
    fade_ms: float
    """Milliseconds of fade at an end that was cut."""
    loop: bool
    """Whether to look for a loop."""
    level: Level
    """Aimed at."""
    ceiling_db: float
    """No peak goes above this to meet a loudness."""
    subtype: str
    """Of the file: `PCM_16`, `PCM_24` or `FLOAT`."""
    dither: bool
    """Of PCM_16; finer samples need none."""
    is_loop: bool = False
    """Whether the whole of every sound is a loop already: it is resampled on the circle, and
    neither cut nor faded."""

    @property
    def reshapes(self) -> bool:
        """Whether more than dither is asked for."""
        return (
            self.sample_rate != self.source_rate
            or self.trim_db is not None
            or self.loop
            or self.is_loop
            or self.level != Level(self.ceiling_db, "dBFS")
        )

    @property
    def dithers(self) -> bool:
        """Whether dither is added."""
        return self.dither and self.subtype == "PCM_16"


class Mastered(NamedTuple):
    """A sound as it goes into a file."""

    samples: np.ndarray
    """[num_samples] int16, int32 (24 bits, high) or float32."""
    loop: tuple[int, int] | None
    """First and last sample, both played."""
    facts: dict[str, Any]
    """For the manifest."""


def parse_level(text: str) -> Level:
    """`-1dBFS` or `-14LUFS`.

    Raises:
      ValueError: anything else, a peak above full scale, or what nobody could hear.
    """
    match = re.fullmatch(r"\s*([+-]?\d+(?:\.\d*)?)\s*(dbfs|lufs)\s*", text, re.IGNORECASE)
    if not match:
        raise ValueError(f"--level {text} must be a peak such as -1dBFS or a loudness as -14LUFS")
    value, is_peak = float(match[1]), match[2].lower() == "dbfs"
    if not -60 <= value <= 0:
        what = "dBFS: 0 is full scale" if is_peak else "LUFS"
        raise ValueError(f"--level {text} must lie from -60 to 0 {what}")
    return Level(value, "dBFS" if is_peak else "LUFS")


def master(waveform: np.ndarray, mastering: Mastering) -> Mastered:
    """Does to one sound what is asked for.

    Args:
      waveform: [num_samples] float32 at mastering.source_rate.
    """
    facts: dict[str, Any] = {}
    loop = None
    if mastering.reshapes:
        rate = mastering.sample_rate
        if mastering.is_loop:
            length = round(len(waveform) * rate / mastering.source_rate)
            waveform = circular.resample(waveform, length)
            loop = 0, length - 1
            facts["loop"] = loops.describe_whole(waveform)
        else:
            waveform = resample(waveform, mastering.source_rate, rate)
        if mastering.trim_db is not None:
            fade_samples = round(mastering.fade_ms * 1e-3 * rate)
            waveform = trim_end(
                waveform,
                threshold_db=mastering.trim_db,
                fade_samples=fade_samples,
                min_samples=round(MIN_SECONDS * rate),
            )
        if mastering.loop:
            waveform, found = loops.make_loop(waveform, sample_rate=rate)
            if isinstance(found, str):
                facts |= {"loop": None, "no_loop": found}
            else:
                loop = found.start, found.end
                facts["loop"] = loops.describe(found, sample_rate=rate)
        waveform, levels = set_level(
            waveform, mastering.level, ceiling_db=mastering.ceiling_db, sample_rate=rate
        )
        facts |= levels
        power = float(np.mean(waveform.astype(np.float64) ** 2))
        facts["peak"] = round(float(np.abs(waveform).max()), 6)
        facts["rms_db"] = round(10 * math.log10(max(power, 1e-20)), 3)
        facts["onset"] = bool(metrics.onset(waveform))
        facts["body_db"] = round(float(metrics.body_level_db(waveform, sample_rate=rate)), 2)
        facts["seconds"] = round(len(waveform) / rate, 6)
    subtype = mastering.subtype
    samples = dithered(waveform) if mastering.dithers else quantize(waveform, subtype)
    return Mastered(samples, loop, facts)


def resample(waveform: np.ndarray, source_rate: int, sample_rate: int) -> np.ndarray:
    """Another sample rate, by soxr at its best; sample 0 stays the start of the sound.

    Returns:
      [round(num_samples * sample_rate / source_rate)] float32. The last sample stays 0 if it was.
    """
    if sample_rate == source_rate:
        return waveform
    length = max(1, round(len(waveform) * sample_rate / source_rate))
    resampled = soxr.resample(waveform.astype(np.float32), source_rate, sample_rate, "VHQ")
    resampled = np.pad(resampled[:length], (0, max(0, length - len(resampled))))
    if waveform[-1] == 0:
        resampled[-1] = 0
    return resampled


def trim_end(
    waveform: np.ndarray, *, threshold_db: float, fade_samples: int, min_samples: int
) -> np.ndarray:
    """Cuts off the end that stays below a level.

    Args:
      waveform: [num_samples].
      threshold_db: of the peak.
      fade_samples: kept after the last sample above the level, and faded to zero along half a
        cosine.
      min_samples: that stay at least.
    Returns:
      A shorter sound, or the same.
    """
    magnitude = np.abs(waveform)
    above = np.flatnonzero(magnitude >= max(magnitude.max() * 10 ** (threshold_db / 20), 1e-10))
    last = int(above[-1]) if len(above) else 0
    length = max(last + 1 + fade_samples, min_samples)
    if length >= len(waveform):
        return waveform
    cut = waveform[:length].copy()
    if fade_samples:
        fade = min(fade_samples, length)
        ramp = 0.5 * (1 + np.cos(np.pi * np.arange(1, fade + 1) / fade))
        ramp[-1] = 0.0
        cut[-fade:] *= ramp.astype(cut.dtype)
    return cut


def set_level(
    waveform: np.ndarray, level: Level, *, ceiling_db: float, sample_rate: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Scales a sound to a peak or a loudness; silence stays silence.

    Returns:
      The sound, and for the manifest: with a loudness, `loudness` as it is now (LUFS) and
      `level_limited`, whether the ceiling kept it below what was aimed at.
    """
    peak = float(np.abs(waveform).max())
    if peak <= 1e-10:
        silent = {"loudness": None, "level_limited": True} if level.unit == "LUFS" else {}
        return np.zeros_like(waveform), silent
    if level.unit == "dBFS":
        top = np.float32(10 ** (level.value / 20))
        return np.clip(waveform * (top / np.float32(peak)), -top, top), {}
    before = integrated_loudness(waveform, sample_rate=sample_rate)
    wanted = level.value - before
    most = ceiling_db - 20 * np.log10(peak)
    gain_db = min(wanted, most)
    facts = {"loudness": round(before + gain_db, 2), "level_limited": bool(wanted > most + 0.005)}
    return waveform * np.float32(10 ** (gain_db / 20)), facts


def integrated_loudness(waveform: np.ndarray, *, sample_rate: int) -> float:
    """`loudness.integrated_loudness` in NumPy: sounds that are cut differ in length, and JAX would
    compile for each."""
    tail = int(np.ceil(loudness.TAIL_SECONDS * sample_rate))
    # Few different sizes, so that the filter's response is made once.
    size = -(-(len(waveform) + tail) // 4096) * 4096
    spectrum = np.fft.rfft(waveform.astype(np.float64), size) * _response(size, sample_rate)
    squared = np.fft.irfft(spectrum, size)[: len(waveform)] ** 2
    block = min(round(loudness.BLOCK_SECONDS * sample_rate), len(squared))
    hop = min(round(loudness.BLOCK_HOP_SECONDS * sample_rate), block)
    total = np.concatenate([[0.0], np.cumsum(squared)])
    starts = np.arange(0, len(squared) - block + 1, hop)
    blocks = (total[starts + block] - total[starts]) / block
    lufs = loudness.OFFSET + 10 * np.log10(np.maximum(blocks, 1e-20))
    above = lufs > loudness.ABSOLUTE_GATE
    if not above.any():
        return loudness.ABSOLUTE_GATE
    gate = loudness.OFFSET + 10 * np.log10(blocks[above].mean()) + loudness.RELATIVE_GATE
    return float(loudness.OFFSET + 10 * np.log10(blocks[above & (lufs > gate)].mean()))


_response = lru_cache(maxsize=8)(loudness.k_weighting_response)


def dithered(waveform: np.ndarray) -> np.ndarray:
    """The samples [num_samples] int16 of a waveform in [-1, 1], rounded with dither.

    Dither is the sum of two uniform variables, one step wide each (TPDF), which makes the error of
    rounding noise of constant level instead of distortion (Lipshitz, Wannamaker & Vanderkooy 1992).
    It is drawn from the sound itself, so the same sound always becomes the same file, whatever else
    is made with it. It never raises the peak, and keeps out of the silence before the first and
    after the last sample that is not 0: a faded end stays silent instead of beginning to hiss.
    """
    scaled = waveform * np.float32(STEPS["PCM_16"])
    top = np.rint(max(scaled.max(), -scaled.min()))
    if top:
        sounding = waveform != 0
        part = slice(int(np.argmax(sounding)), len(waveform) - int(np.argmax(sounding[::-1])))
        scaled[part] += tpdf(zlib.crc32(waveform.tobytes()), part.stop - part.start)
        np.clip(scaled, -top, top, out=scaled)
    return np.rint(scaled, out=scaled).astype(np.int16)


def tpdf(seed: int, num_samples: int) -> np.ndarray:
    """Triangular noise [num_samples] float32 in (-1, 1): the difference of two uniform numbers."""
    bits = np.random.SFC64(seed).random_raw(-(-num_samples // 2)).astype("<u8")
    halves = bits.view("<u2").reshape(2, -1)[:, :num_samples]
    noise = np.subtract(halves[0], halves[1], dtype=np.float32)
    noise *= np.float32(2.0**-16)
    return noise
