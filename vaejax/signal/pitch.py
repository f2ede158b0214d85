"""The pitch of a note: YIN (de Cheveigné & Kawahara 2002), and one answer for a whole clip."""

from math import ceil

import jax
import jax.numpy as jnp

from vaejax.signal.framing import as_waveform, slice_frames

# A0 to a little above C8, the keys of a piano.
FMIN, FMAX = 27.0, 4400.0
# Of `pitch`'s clarity: in the built-in set no snare, hat or clap reaches it, and every bass, lead,
# pad, pluck, brass, string and flute sound does.
CLEAR = 0.5
# YIN's step 4: the first dip of the normalised difference that is as deep as this is the period.
THRESHOLD = 0.1
# A noisy sound's dips are shallower: then the first that is nearly as deep as the deepest.
MARGIN = 0.1
# Lags are at least this many per second: between two samples a bright sound's dip would be missed.
LAG_RATE = 64_000
# RMS amplitude (-120 dB) below which there is nothing to find a pitch in.
SILENCE = 1e-6
# Frames this near to the clip's pitch, in octaves, speak for it.
NEAR = 0.5 / 12


def pitch(waveform, *, sample_rate: float, fmin: float = FMIN, fmax: float = FMAX):
    """The pitch of a clip of one note, and how clearly it is one.

    YIN in frames, then the median over frames, weighted by amplitude and periodicity, so that
    neither an attack's noise nor a vanishing tail decides.

    Args:
      waveform: `[num_samples]`.
      sample_rate: Hz.
      fmin: lowest pitch looked for, Hz. Raised to what two periods in the clip allow.
      fmax: highest, Hz. Lowered to a quarter of the sample rate.
    Returns:
      hz: [], the pitch; meaningless where clarity is near 0.
      clarity: [] in [0, 1]: the share of the sound's amplitude that repeats at this pitch. Above
        `CLEAR` for notes, 0 for silence.
    Raises:
      ValueError: if fmin and fmax do not fit the sample rate, each other or the clip.
    """
    return pitch_of(*pitch_track(waveform, sample_rate=sample_rate, fmin=fmin, fmax=fmax))


def pitch_of(hz, clarity, level):
    """The one answer of `pitch` for a whole clip, from the frames of `pitch_track`."""
    octave = jnp.log2(hz)
    weight = level * clarity
    order = jnp.argsort(octave)
    below = jnp.cumsum(weight[order])
    middle = octave[order[jnp.argmax(below >= 0.5 * below[-1])]]
    # The mean of what is near is finer than the median, which is one frame's.
    near = weight * (jnp.abs(octave - middle) < NEAR)
    octave = jnp.sum(near * octave) / jnp.maximum(jnp.sum(near), 1e-20)
    return 2.0**octave, jnp.sum(near) / jnp.maximum(jnp.sum(level), 1e-20)


def pitch_track(waveform, *, sample_rate: float, fmin: float = FMIN, fmax: float = FMAX):
    """YIN, frame by frame.

    Args:
      waveform: `[num_samples]`.
      sample_rate, fmin, fmax: Hz, as for `pitch`.
    Returns:
      hz: `[num_frames]`. clarity: `[num_frames]` in [0, 1], one minus the normalised difference
      (equation 8) at the period. level: `[num_frames]`, RMS amplitude.
    Raises:
      ValueError: as `pitch`.
    """
    waveform = as_waveform(waveform)
    fmax = min(fmax, sample_rate / 4)
    if not 0 < fmin < fmax:
        raise ValueError(
            f"fmin={fmin} must lie above 0 and below fmax={fmax} Hz (which is at most a quarter "
            f"of sample_rate={sample_rate})"
        )
    longest = min(ceil(sample_rate / fmin) + 1, waveform.shape[0] // 2 - 1)
    oversampling = ceil(LAG_RATE / sample_rate)
    shortest = int(sample_rate * oversampling / fmax)
    if longest * oversampling < shortest + 2:
        raise ValueError(
            f"{waveform.shape[0]} samples at {sample_rate} Hz are too few for a pitch below "
            f"fmax={fmax} Hz: give at least {ceil(2 * sample_rate / fmax) + 6}"
        )
    frames = slice_frames(
        waveform, frame_length=2 * longest, hop_length=max(1, min(longest, len(waveform) // 8))
    )

    def one(frame):
        difference = _difference(frame, longest, oversampling)[1:]
        # Equation 8: the difference over its mean up to this lag.
        mean = _running_sum(difference) / jnp.arange(1, 1 + len(difference))
        normalised = jnp.concatenate([jnp.ones(1), difference / jnp.maximum(mean, 1e-12)])
        lag = _first_dip(normalised, shortest)
        period = _refine(normalised, lag, shortest)
        level = jnp.sqrt(jnp.mean(frame**2))
        clarity = jnp.where(level > SILENCE, jnp.clip(1 - normalised[lag], 0, 1), 0)
        return sample_rate * oversampling / period, clarity, level

    return jax.vmap(one)(frames)


def _difference(frame, longest: int, oversampling: int):
    """Equation 6: sum over j < longest of (x[j] - x[j + lag])^2.

    Args:
      frame: [2 * longest]. oversampling: lags per sample.
    Returns:
      [longest * oversampling + 1], for lags from 0 to longest.
    """
    # Lags below zero wrap around to size - longest + 1 and above: out of the way of those wanted.
    size = 1 << (2 * longest - 1).bit_length()
    product = jnp.conj(jnp.fft.rfft(frame[:longest], size)) * jnp.fft.rfft(frame, size)
    # The correlation is band-limited: zeros above its spectrum give it between the samples.
    correlation = oversampling * jnp.fft.irfft(product, size * oversampling)
    energy = jnp.concatenate([jnp.zeros(1), _running_sum(frame**2)])
    shifted = energy[longest:] - energy[: longest + 1]
    lags = jnp.arange(longest * oversampling + 1)
    fraction = (lags % oversampling) / oversampling
    at = lags // oversampling
    after = jnp.minimum(at + 1, longest)
    shifted = (1 - fraction) * shifted[at] + fraction * shifted[after]
    return jnp.maximum(shifted[0] + shifted - 2 * correlation[: len(lags)], 0)


def _running_sum(values):
    """`jnp.cumsum` as two products with triangular matrices, which every backend does at once."""
    block = ceil(len(values) ** 0.5)
    rows = jnp.pad(values, (0, block**2 - len(values))).reshape(block, block)
    within = jnp.matmul(rows, jnp.triu(jnp.ones((block, block))), precision="highest")
    before = jnp.matmul(jnp.tril(jnp.ones((block, block)), -1), within[:, -1], precision="highest")
    return (within + before[:, None]).reshape(-1)[: len(values)]


def _first_dip(normalised, shortest: int):
    """The lag of the first dip that is deep enough, or of the deepest."""
    last = normalised.shape[0] - 1
    inner = normalised[shortest:last]
    is_dip = (inner <= normalised[shortest - 1 : last - 1]) & (inner < normalised[shortest + 1 :])
    deepest = jnp.min(jnp.where(is_dip, inner, jnp.inf))
    deep = is_dip & (inner <= jnp.maximum(THRESHOLD, deepest + MARGIN))
    return shortest + jnp.where(jnp.any(is_dip), jnp.argmax(deep), jnp.argmin(inner))


def _refine(normalised, lag, shortest: int):
    """The period between the samples: a parabola through the dip, then through its multiples.

    A dip at twice the lag is as sharp and off by as much, which counts half for the period.
    """
    longest = normalised.shape[0] - 1

    def dip_near(lag):
        """The dip within two samples of a lag, between the samples, and its depth."""
        start = jnp.clip(jnp.round(lag).astype(int) - 3, 0, longest - 6)
        around = jax.lax.dynamic_slice(normalised, (start,), (7,))
        middle = 1 + jnp.argmin(around[1:6])
        before, at, after = around[middle - 1], around[middle], around[middle + 1]
        curvature = before - 2 * at + after
        shift = jnp.where(curvature > 0, 0.5 * (before - after) / jnp.maximum(curvature, 1e-12), 0)
        return start + middle + jnp.clip(shift, -1, 1), at

    period, depth = dip_near(lag)
    multiple = jnp.ones((), int)
    for _ in range((longest // shortest).bit_length() - 1):
        there, there_depth = dip_near(2 * multiple * period)
        # No further than the sound repeats: vibrato and decay fill the later dips.
        better = (2 * multiple * period < longest - 3) & (there_depth < depth + MARGIN)
        multiple = jnp.where(better, 2 * multiple, multiple)
        period = jnp.where(better, there / multiple, period)
    return period
