"""Longer or shorter at the same pitch: the phase vocoder."""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal import spectrum
from vaejax.signal.framing import as_waveform
from vaejax.signal.stft import as_spectrum, istft, stft
from vaejax.signal.windows import Window


def phase_vocoder(stretched, *, rate: float, n_fft: int, hop_length: int) -> jax.Array:
    """Resamples a spectrum in time, keeping each bin's phase advance (Flanagan & Golden 1966).

    Matches `librosa.phase_vocoder` transposed.

    Args:
      stretched: complex `[num_frames, n_fft // 2 + 1]`.
      rate: frames of the input per frame of the result, above 0; 2 halves the duration.
      n_fft, hop_length: as in `stft`.
    Returns:
      complex64 `[ceil(num_frames / rate), n_fft // 2 + 1]`.
    Raises:
      ValueError: if rate is not above 0 or the shape does not fit.
    """
    transformed = as_spectrum(stretched, n_fft=n_fft)
    _check_rate(rate)
    places = np.arange(0, transformed.shape[0], rate)
    first = np.floor(places).astype(int)
    weight = jnp.asarray(places - first, transformed.real.dtype)[:, None]
    # Silence follows the last frame.
    padded = jnp.pad(transformed, ((0, 2), (0, 0)))
    magnitude, phase = spectrum.magnitude(padded), spectrum.phase(padded)
    level = (1 - weight) * magnitude[first] + weight * magnitude[first + 1]
    bins = np.arange(n_fft // 2 + 1)
    carrier = jnp.asarray(2 * np.pi * hop_length * bins / n_fft, level.dtype)
    advance = carrier + spectrum.wrap(phase[first + 1] - phase[first] - carrier)
    # Wrapped at every step: in float32 a plain sum over a long clip loses the phase's last digits.
    start = phase[0]
    _, phases = jax.lax.scan(
        lambda total, step: (spectrum.wrap(total + step), total), start, advance
    )
    return spectrum.from_polar(level, phases)


def time_stretch(
    waveform,
    *,
    rate: float,
    n_fft: int = 2048,
    hop_length: int = 512,
    window: Window = "hann",
) -> jax.Array:
    """Changes the duration and not the pitch; matches `librosa.effects.time_stretch`.

    Args:
      waveform: `[num_samples]`.
      rate: above 0; 2 is twice as fast.
      n_fft, hop_length, window: as in `stft`.
    Returns:
      float32 `[round(num_samples / rate)]`, at least one sample.
    Raises:
      ValueError: if rate is not above 0, and as `stft`.
    """
    waveform = as_waveform(waveform)
    _check_rate(rate)
    transformed = stft(waveform, n_fft=n_fft, hop_length=hop_length, window=window)
    slower = phase_vocoder(transformed, rate=rate, n_fft=n_fft, hop_length=hop_length)
    length = max(round(waveform.shape[0] / rate), 1)
    # Rounding may leave the last samples without a frame: give them a silent one.
    missing = 1 + length // hop_length - slower.shape[0]
    slower = jnp.pad(slower, ((0, max(missing, 0)), (0, 0)))
    return istft(slower, n_fft=n_fft, hop_length=hop_length, window=window, length=length)


def _check_rate(rate: float) -> None:
    if not rate > 0:
        raise ValueError(f"rate={rate} must be above 0; 0.5 doubles the duration, 2 halves it")
