"""Sound on a circle: an STFT without ends, and loops that have a given spectrum all around.

A waveform of a whole number of hops is taken as periodic: frames that reach past its end go on at
its start. There is no first and no last frame, so what is made here to have the same magnitude in
every frame has it across the seam too, and loops without a click because the seam is a place like
any other. Frame t is centred on sample t * hop_length; Hann windows; one clip, `[num_samples]`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal import spectrum
from vaejax.signal.framing import as_waveform, check_hop, overlap_add, slice_frames
from vaejax.signal.phase import accelerate
from vaejax.signal.phase_start import nearest_peak_advance
from vaejax.signal.stft import as_spectrum, check_bins
from vaejax.signal.windows import get_window

# Of the partials' phases at the start of a loop: random, so that they do not meet in one peak.
START_SEED = 0


def stft(waveform, *, n_fft: int, hop_length: int) -> jax.Array:
    """Short-time Fourier transform of a periodic waveform.

    Args:
      waveform: `[num_samples]`, one period, a whole number of hops.
      n_fft: samples per frame; may exceed the period.
      hop_length: samples between frames.
    Returns:
      complex64 `[num_samples // hop_length, n_fft // 2 + 1]`.
    Raises:
      ValueError: if num_samples is no multiple of hop_length.
    """
    waveform = as_waveform(waveform)
    num_frames = _num_frames(waveform.shape[0], hop_length)
    begin = n_fft // 2
    end = (num_frames - 1) * hop_length + n_fft - begin - waveform.shape[0]
    padded = jnp.pad(waveform, (begin, max(end, 0)), mode="wrap")
    frames = slice_frames(padded, frame_length=n_fft, hop_length=hop_length)[:num_frames]
    return jnp.fft.rfft(frames * jnp.asarray(get_window("hann", n_fft), frames.dtype))


def istft(values, *, n_fft: int, hop_length: int) -> jax.Array:
    """The least-squares inverse of `stft` (Griffin & Lim 1984, equation 6, on a circle).

    Args:
      values: complex `[num_frames, n_fft // 2 + 1]`.
    Returns:
      float32 `[num_frames * hop_length]`, one period.
    """
    values = as_spectrum(values, n_fft=n_fft)
    window = get_window("hann", n_fft)
    num_frames = values.shape[0]
    frames = jnp.fft.irfft(values, n=n_fft) * jnp.asarray(window, jnp.float32)
    squared = np.broadcast_to(np.asarray(window, np.float64) ** 2, (num_frames, n_fft))
    coverage = _around(squared, n_fft=n_fft, hop_length=hop_length)
    total = _around(frames, n_fft=n_fft, hop_length=hop_length)
    return total / jnp.asarray(coverage, jnp.float32)


def loop(magnitude, *, num_frames: int, n_fft: int, hop_length: int, num_iters: int) -> jax.Array:
    """A loop whose spectrum is the same all around.

    Single pass spectrogram inversion (Beauregard et al. 2015) on a circle: every bin follows the
    nearest peak, whose frequency is moved to the nearest that has a whole number of periods in the
    loop, at most half a period off (0.5 Hz in a loop of a second). Then accelerated Griffin-Lim
    iterations on the same circle.

    Args:
      magnitude: `[n_fft // 2 + 1]`, linear, >= 0; scaled as `stft` has it.
      num_frames: length of the loop in hops.
      num_iters: iterations after the start.
    Returns:
      float32 `[num_frames * hop_length]`, one period, not clipped.
    """
    everywhere = jnp.broadcast_to(magnitude, (num_frames, magnitude.shape[-1]))
    check_bins(everywhere, n_fft=n_fft, name="the spectrum of a loop")
    check_hop(hop_length)
    peak, advance = nearest_peak_advance(magnitude[None], n_fft=n_fft, hop_length=hop_length)
    # In whole numbers modulo the length, so that no precision is lost over long loops.
    cycles = jnp.round(advance[0][peak[0]] * num_frames).astype(jnp.int32)
    turns = jnp.arange(num_frames, dtype=jnp.int32)[:, None] * cycles % num_frames / num_frames
    starts = jax.random.uniform(jax.random.key(START_SEED), magnitude.shape)
    # Half a turn per bin: phases are referred to the first sample of a frame.
    phase = 2 * jnp.pi * (turns + starts[peak[0]] - 0.5 * (jnp.arange(magnitude.shape[0]) % 2))
    sizes = {"n_fft": n_fft, "hop_length": hop_length}

    def project(waveform):
        return istft(spectrum.with_magnitude(stft(waveform, **sizes), everywhere), **sizes)

    start = istft(spectrum.from_polar(everywhere, phase), **sizes)
    return accelerate(project, start, num_iters=num_iters)


def spectral_convergence_db(waveform, magnitude, *, n_fft: int, hop_length: int) -> jax.Array:
    """`phase.spectral_convergence_db` of a loop against the one spectrum of all its frames, [] dB;
    -200 where both are silent."""
    got = spectrum.magnitude(stft(waveform, n_fft=n_fft, hop_length=hop_length))
    error, total = jnp.sum((got - magnitude) ** 2), got.shape[0] * jnp.sum(magnitude**2)
    ratio = jnp.where(total > 0, error / jnp.where(total > 0, total, 1), (error > 0) * 1e20)
    return 10 * jnp.log10(jnp.clip(ratio, 1e-20, 1e20))


def resample(waveform: np.ndarray, num_samples: int) -> np.ndarray:
    """A period with another number of samples, by its Fourier series; NumPy, float32."""
    values = np.fft.rfft(waveform.astype(np.float64))
    kept = min(len(waveform), num_samples) // 2 + 1
    values = values[:kept]
    if len(waveform) != num_samples and min(len(waveform), num_samples) % 2 == 0:
        # The highest frequency of an even number of samples has no phase of its own.
        values[-1] = 0
    scaled = np.fft.irfft(values, num_samples) * (num_samples / len(waveform))
    return scaled.astype(np.float32)


def _num_frames(num_samples: int, hop_length: int) -> int:
    check_hop(hop_length)
    if num_samples % hop_length or num_samples < hop_length:
        raise ValueError(
            f"a loop of {num_samples} samples is no multiple of hop_length={hop_length}; try "
            f"{max(1, round(num_samples / hop_length)) * hop_length}"
        )
    return num_samples // hop_length


def _around(frames, *, n_fft: int, hop_length: int):
    """Frames [num_frames, n_fft] added on the circle, [num_frames * hop_length]; NumPy or JAX."""
    xp = jnp if isinstance(frames, jax.Array) else np
    length = len(frames) * hop_length
    total = overlap_add(frames, hop_length=hop_length)
    total = xp.pad(total, (0, -len(total) % length)).reshape(-1, length).sum(0)
    return xp.roll(total, -(n_fft // 2))
