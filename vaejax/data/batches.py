"""Which clips make up step n, and how a packed sound becomes a training clip.

Everything is a function of (seed, position), where position counts the clips visited since the
start of training. So a batch depends neither on what ran before nor on how the clips are stored,
and a resumed run sees what the uninterrupted one would have seen.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from vaejax.signal.augment import random_eq
from vaejax.signal.fade import fade_out

# Taps of the interpolation. At 44.1 kHz its error is -87 dB at 5 kHz, -56 at 8, -31 at 12, where it
# takes off 0.2 dB, and -16 at 16.
NUM_TAPS = 8
_BLOCK = 256
_NUM_ROUNDS = 4
# Folded into the key of a visit for its equaliser, so that its other draws stay what they were.
_EQ = 1


def shuffled_index(key, position, *, num_clips: int):
    """The clip at a position of an endless sequence of shuffled epochs.

    Each epoch visits every clip once, in the order of a pseudo-random permutation: a Feistel
    network over the next power of four, walked until it lands below num_clips (Black & Rogaway
    2002). One index costs the same for ten clips and for ten million, and needs no state.

    Args:
      key: of the run.
      position: [] uint32, clips visited before this one.
      num_clips: clips in the training set.

    Returns:
      [] int32 in [0, num_clips).
    """
    if num_clips == 1:
        return jnp.zeros((), jnp.int32)
    half = math.ceil((num_clips - 1).bit_length() / 2)
    mask = jnp.uint32(2**half - 1)
    position = position.astype(jnp.uint32)
    epoch, within = position // num_clips, position % num_clips
    round_keys = jax.random.bits(jax.random.fold_in(key, epoch), (_NUM_ROUNDS,), jnp.uint32)

    def permute(value):
        left, right = value >> half, value & mask
        for round_key in round_keys:
            # The finaliser of MurmurHash3 as the round function.
            mixed = right ^ round_key
            mixed = (mixed ^ (mixed >> 16)) * jnp.uint32(0x85EBCA6B)
            mixed = (mixed ^ (mixed >> 13)) * jnp.uint32(0xC2B2AE35)
            left, right = right, left ^ ((mixed ^ (mixed >> 16)) & mask)
        return (left << half) | right

    value = jax.lax.while_loop(lambda v: v >= num_clips, permute, permute(within))
    return value.astype(jnp.int32)


@partial(jax.jit, static_argnames="num_clips")
def shuffled_indices(key, positions, *, num_clips: int):
    """`shuffled_index` of each of positions [batch]: [batch] int32."""
    return jax.vmap(partial(shuffled_index, num_clips=num_clips), in_axes=(None, 0))(key, positions)


def positions_at(step, *, batch_size: int):
    """[batch_size] uint32, the positions that make up a step."""
    return step.astype(jnp.uint32) * jnp.uint32(batch_size) + jnp.arange(
        batch_size, dtype=jnp.uint32
    )


def example_key(key, position):
    """The key of all that is random about one visit of one clip."""
    return jax.random.fold_in(key, position)


def raw_clip(pcm, length, *, num_samples: int, fade_samples: int):
    """The clip as it is: cropped with a fade if the sound goes on, peak at full scale.

    Args:
      pcm: [pack_samples] int16, pack_samples >= num_samples.
      length: [] samples of the sound before it was cropped or padded into the pack.

    Returns:
      [num_samples] float32 in [-1, 1].
    """
    waveform = pcm[:num_samples].astype(jnp.float32)
    return _normalise(_fade_if(length > num_samples, waveform, fade_samples))


def augmented_clip(
    key,
    pcm,
    length,
    *,
    num_samples: int,
    fade_samples: int,
    gain_db: float,
    shift_samples: float,
    pitch_semitones: int,
    pitch_probability: float,
    sample_rate: int,
    eq_db: float,
    eq_probability: float,
):
    """The clip under a random pitch, start, equaliser and level.

    Args:
      key: of this visit.
      pcm: [pack_samples] int16.
      length: [] samples of the sound before it was cropped or padded into the pack.
      gain_db: the level is lowered by a draw from [0, gain_db] dB.
      shift_samples: the start is delayed by a draw from [0, shift_samples].
      pitch_semitones: the sound is resampled by a whole number of semitones, each of
        [-this, this] but 0 being as likely.
      pitch_probability: that it is resampled at all.
      sample_rate: Hz, for the equaliser.
      eq_db: standard deviation of its gains, dB, see `random_eq`.
      eq_probability: that it is in.

    Returns:
      waveform: [num_samples] float32 in [-1, 1].
      semitones: [], how far the pitch was raised.
    """
    moves, pitch, shift, gain = jax.random.uniform(key, (4,))
    semitones = jnp.zeros(())
    if pitch_semitones > 0:
        # 0 .. 2 s - 1 -> -s .. -1, 1 .. s
        step = jnp.floor(2 * pitch_semitones * pitch) - pitch_semitones
        semitones = jnp.where(moves < pitch_probability, step + (step >= 0), 0.0)
    ratio = 2.0 ** (semitones / 12.0)
    shift = shift_samples * shift
    # A shift that is traced (a sweep's) may be zero for some: reading at zero gives the same.
    if pitch_semitones == 0 and _is_zero(shift_samples):
        waveform = pcm[:num_samples].astype(jnp.float32)
    else:
        waveform = read_at(pcm, ratio, shift, num_samples=num_samples)
    if not _is_zero(eq_db):
        in_key, eq_key = jax.random.split(jax.random.fold_in(key, _EQ))
        filtered = random_eq(eq_key, waveform, sample_rate=sample_rate, eq_db=eq_db)
        waveform = jnp.where(jax.random.uniform(in_key) < eq_probability, filtered, waveform)
    is_cut = length > ratio * (num_samples - shift)
    waveform = _normalise(_fade_if(is_cut, waveform, fade_samples))
    return waveform * 10.0 ** (-gain_db * gain / 20.0), semitones


def read_at(pcm, ratio, shift, *, num_samples: int):
    """Resamples by reading at ratio * (n - shift), silence outside, with Lagrange's polynomials.

    Args:
      pcm: [pack_samples] int16 or float.
      ratio: [], input samples per output sample; within an octave of 1. Content above 1 / ratio
        times Nyquist folds back: at two semitones that is what lies above 19.6 kHz of 44.1.
      shift: [] output samples of silence before the sound, >= 0.

    Returns:
      [num_samples] float32.
    """
    pad = NUM_TAPS
    source = jnp.pad(pcm, (pad, pad))
    # ratio * n in float32 is off by 1/256 sample after a second. Counting in blocks of 256 keeps
    # whole and fractional samples apart: block * (256 ratio) = block * whole + block * fraction.
    n = jnp.arange(num_samples)
    block, within = n // _BLOCK, (n % _BLOCK).astype(jnp.float32)
    whole = jnp.floor(_BLOCK * ratio)
    offset = block * (_BLOCK * ratio - whole) + ratio * (within - shift)
    floor = jnp.floor(offset)
    start = block * whole.astype(jnp.int32) + floor.astype(jnp.int32)
    fraction = offset - floor

    # Lagrange: weight_k = prod_{j != k} (fraction - j) / (k - j), by products from both sides. No
    # trigonometry and no division per sample: half the time of a windowed sinc of as many taps.
    taps = range(-NUM_TAPS // 2 + 1, NUM_TAPS // 2 + 1)
    below, above = [jnp.ones(num_samples)], [jnp.ones(num_samples)]
    for tap in taps:
        below.append(below[-1] * (fraction - tap))
    for tap in reversed(taps):
        above.append(above[-1] * (fraction - tap))
    start = jnp.clip(start + pad, NUM_TAPS // 2, source.shape[0] - NUM_TAPS // 2 - 1)
    out = jnp.zeros(num_samples)
    for k, tap in enumerate(taps):
        scale = 1.0 / math.prod(tap - other for other in taps if other != tap)
        weight = scale * below[k] * above[NUM_TAPS - 1 - k]
        out += weight * source[start + tap].astype(jnp.float32)
    return out


def _is_zero(value) -> bool:
    """Whether a number is known to be zero; one that is traced (a sweep's) may be for some."""
    return isinstance(value, int | float) and value == 0


def _fade_if(is_cut, waveform, fade_samples):
    return jnp.where(is_cut, fade_out(waveform, fade_samples), waveform)


def _normalise(waveform):
    peak = jnp.max(jnp.abs(waveform))
    return waveform / jnp.maximum(peak, 1.0)
