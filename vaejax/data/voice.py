"""A voice, partials and bands of noise with their envelopes, and its waveform.

A sound is a sum of cosine partials and of filtered noise (Serra & Smith 1990). A partial that
nears the Nyquist frequency is faded out, so nothing aliases.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from scipy.fft import next_fast_len

from vaejax.signal.cosine import cosine

Factors = dict[str, Array]

NUM_PARTIALS = 128  # the same for all instruments, so that one compiled program plays them all
BLOCK_SECONDS = 1 / 900  # envelopes are straight lines between instants about this far apart
VIBRATO_HZ = 5.5
FADE_SECONDS = 0.008  # shortest fade at the end
TAPER_START, TAPER_END = 0.40, 0.475  # of the sample rate: partials fade out over this band


class Voice(NamedTuple):
    """One sound before it is sampled. Frames are the instants `times` given to the instrument."""

    frequency: Array  # [] Hz, what `ratio` multiplies
    ratio: Array  # [num_partials] frequency of each partial over `frequency`
    phase: Array  # [num_partials] cycles at time 0 of a cosine
    gain: Array  # [num_frames, num_partials] amplitude, in any unit; may be negative
    sweep_seconds: Array  # [] time constant of the pitch sweep
    noise_band: Array  # [2, 2] low and high corner of two bands of noise, Hz
    noise_gain: Array  # [num_frames, 2] RMS of each band over that of the loudest frame's partials


def create_voice(hz, ratio, phase, gain, *, sweep_seconds=0.05, bands=()) -> Voice:
    """Pads the partials to NUM_PARTIALS with silent ones.

    Args:
      hz: [] or a float.
      ratio: [1, n], frequencies over hz.
      phase: [1, n] or a float, cycles of a cosine at time 0; -0.25 is a sine.
      gain: [num_frames, n].
      sweep_seconds: time constant of the pitch sweep.
      bands: at most two of (low corner in Hz, high corner in Hz, gain [num_frames, 1]).
    """
    spare = NUM_PARTIALS - ratio.shape[1]
    silent = [(100.0, 1000.0, jnp.zeros((gain.shape[0], 1)))] * (2 - len(bands))
    bands = [*bands, *silent]
    return Voice(
        frequency=jnp.asarray(hz, jnp.float32),
        ratio=jnp.pad(ratio[0], (0, spare), constant_values=1.0),
        phase=jnp.pad(jnp.broadcast_to(phase, ratio.shape)[0], (0, spare)),
        gain=jnp.pad(gain, ((0, 0), (0, spare))),
        sweep_seconds=jnp.asarray(sweep_seconds, jnp.float32),
        noise_band=jnp.array([[low, high] for low, high, _ in bands]),
        noise_gain=jnp.concatenate([gain for _, _, gain in bands], axis=1),
    )


def frame_times(sample_rate, num_samples):
    """[num_blocks + 1, 1] seconds, the edges of the blocks that cover the clip."""
    length = _block_length(sample_rate)
    return jnp.arange(-(-num_samples // length) + 1)[:, None] * (length / sample_rate)


def voice_waveform(key, voice: Voice, factors: Factors, *, sample_rate, num_samples):
    """[num_samples] waveform of a voice: partials and noise through attack, release and level.

    Samples are laid out [num_blocks, block_length] until the end.
    """
    num_blocks, length = voice.gain.shape[0] - 1, _block_length(sample_rate)
    n = jnp.arange(num_blocks * length, dtype=jnp.uint32).reshape(num_blocks, length)
    rms = jnp.sqrt(0.5 * jnp.sum(voice.gain**2, axis=1))
    loudest = jnp.maximum(jnp.max(rms), 1e-9)  # 1e-9: a sound may have no partials
    tone = _partials(voice, factors, n, sample_rate=sample_rate) / loudest
    noise = _noise(key, voice.noise_band, n.size, sample_rate=sample_rate).reshape(-1, *n.shape)
    noise = sum(_ramps(voice.noise_gain[:, i], length) * noise[i] for i in range(len(noise)))
    gate = _gate(factors, n, sample_rate=sample_rate, num_samples=num_samples)
    waveform = gate * (tone + noise)
    # A quick attack leaves a mean. It is taken off where it came from, in a curve too slow to be
    # heard, so that the ends stay at 0 and what is sustained has no offset.
    times = n.astype(jnp.float32) / sample_rate
    slow = gate * jnp.exp(-times / (factors["attack"] + 0.05))
    waveform = waveform - slow * (jnp.sum(waveform) / jnp.sum(slow))
    waveform = waveform * (factors["level"] / jnp.max(jnp.abs(waveform)))
    return waveform.ravel()[:num_samples]


def _ramps(frames, length):
    """[num_blocks + 1] values at the edges -> [num_blocks, length] on straight lines."""
    position = jnp.arange(length)[None] / length
    return frames[:-1, None] + (frames[1:] - frames[:-1])[:, None] * position


def _gate(factors, n, *, sample_rate, num_samples):
    """Attack and release at the samples n: raised cosines, 0 at both ends of the clip."""
    n = n.astype(jnp.float32)
    rise = n / (factors["attack"] * sample_rate)
    release = jnp.maximum(factors["release"], FADE_SECONDS) * sample_rate
    fall = (num_samples - 1 - n) / jnp.minimum(release, 0.5 * num_samples)
    return _raised_cosine(rise) * _raised_cosine(fall)


def _raised_cosine(position):
    """Exactly 0 up to position 0, 1 from position 1 on."""
    return cosine(0.25 - 0.25 * jnp.clip(position, 0.0, 1.0)) ** 2


def _partials(voice: Voice, factors: Factors, n, *, sample_rate):
    """Sum of the partials at the samples n: additive synthesis (Risset & Mathews 1969).

    Phase is counted in a 32-bit integer of which the whole range is one cycle, as in a hardware
    oscillator (Tierney et al. 1971): it wraps by itself and is as exact after an hour as at once,
    where a float32 phase is off by -40 dB after a second of a high partial. Only what vibrato and
    sweep add, a few cycles, is a float.
    """
    # Relative excursion of the frequency; its integral is the excursion of the phase.
    sweep = 2.0 ** (factors["sweep"] / 12.0) - 1.0
    depth = 2.0 ** (factors["vibrato"] / 1200.0) - 1.0
    seconds = voice.sweep_seconds
    times = n.astype(jnp.float32) / sample_rate
    grown = jnp.clip(times / 0.4, 0.0, 1.0)  # players let a note settle before its vibrato
    wobble = depth * grown * cosine(VIBRATO_HZ * times) / (2.0 * jnp.pi * VIBRATO_HZ)
    excursion = voice.frequency * (sweep * seconds * (1.0 - jnp.exp(-times / seconds)) + wobble)

    hz = voice.frequency * voice.ratio
    frame_times = jnp.append(times[:, 0], times[-1, -1])[:, None]
    highest = hz[None] * (1.0 + depth + sweep * jnp.exp(-frame_times / seconds))
    gain = voice.gain * _taper(highest / sample_rate)
    increment = (jnp.minimum(hz / sample_rate, 0.5) * 2.0**32).astype(jnp.uint32)

    def add(total, one):
        increment, ratio, phase, gain = one
        counted = (increment * n).astype(jnp.int32).astype(jnp.float32) * 2.0**-32
        partial = cosine(counted + (ratio * excursion + phase))
        return total + _ramps(gain, n.shape[1]) * partial, None

    one_by_one = (increment, voice.ratio, voice.phase, gain.T)
    return lax.scan(add, jnp.zeros(n.shape), one_by_one, unroll=4)[0]


def _taper(frequency):
    """Gain of a partial by its frequency in cycles per sample: 1, then 0 before Nyquist."""
    position = (frequency - TAPER_START) / (TAPER_END - TAPER_START)
    return jnp.cos(0.5 * jnp.pi * jnp.clip(position, 0.0, 1.0)) ** 2


def _noise(key, band, num_samples, *, sample_rate):
    """[num_bands, num_samples] one source of noise through band-passes [num_bands, 2], RMS 1 each.

    Made in the frequency domain, where a filter is a product; second-order slopes.
    """
    n_fft = 2 * next_fast_len((num_samples + 1) // 2, real=True)
    hz = jnp.arange(1, n_fft // 2)[None] * (sample_rate / n_fft)  # neither 0 Hz nor Nyquist
    # A band above what this sample rate can hold moves down into it.
    low, high = jnp.minimum(band, 0.35 * sample_rate).T[..., None]
    power = 1.0 / ((1.0 + (low / hz) ** 4) * (1.0 + (hz / high) ** 4))
    real, imag = jax.random.uniform(key, (2, hz.size), minval=-1.0)
    spectrum = jnp.sqrt(power) * lax.complex(real, imag)[None]
    noise = jnp.fft.irfft(jnp.pad(spectrum, ((0, 0), (1, 1))), n_fft)
    # Parseval: E |spectrum|^2 = 2/3 power, and each bin counts twice.
    rms = jnp.sqrt(4.0 / 3.0 * jnp.sum(power, axis=1, keepdims=True)) / n_fft
    return noise[:, :num_samples] / rms


def _block_length(sample_rate):
    return 16 * max(1, round(BLOCK_SECONDS * sample_rate / 16))  # 16: whole vector registers
