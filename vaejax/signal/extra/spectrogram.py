"""Spectrograms straight from a waveform: the usual chains of this library, one function each.

All take the arguments of `stft` and return linear values; `scales.amplitude_to_db` or
`scales.power_to_db` makes decibels of them.
"""

import jax
import jax.numpy as jnp

from vaejax.signal import spectrum
from vaejax.signal.filterbank import C1_HZ, apply_filterbank, log_filterbank, mel_filterbank
from vaejax.signal.stft import stft


def spectrogram(waveform, *, n_fft: int, hop_length: int, power: float = 1.0, **options):
    """Returns `abs(stft(waveform)) ** power`, with a gradient of 0 at silence.

    Args:
      waveform: `[num_samples]`.
      n_fft, hop_length, options: as in `stft`.
      power: 1 for magnitude, 2 for power.
    Returns:
      float32 `[num_frames, n_fft // 2 + 1]`.
    Raises:
      ValueError: if power is neither 1 nor 2, and as `stft`.
    """
    if power not in (1, 2):
        raise ValueError(f"power={power} must be 1 (magnitude) or 2 (power)")
    transformed = stft(waveform, n_fft=n_fft, hop_length=hop_length, **options)
    return spectrum.magnitude(transformed) if power == 1 else spectrum.power(transformed)


def mel_spectrogram(
    waveform,
    *,
    sample_rate: float,
    n_fft: int,
    hop_length: int,
    power: float = 2.0,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str | float | None = "slaney",
    **options,
) -> jax.Array:
    """Mel spectrogram; matches `librosa.feature.melspectrogram(pad_mode="constant")` transposed.

    librosa filters powers by default, and so does this; Kapre's layer filters magnitudes, which is
    `power=1`.

    Args:
      waveform: `[num_samples]`.
      sample_rate, n_mels, fmin, fmax, htk, norm: as in `mel_filterbank`.
      n_fft, hop_length, power, options: as in `spectrogram`.
    Returns:
      float32 `[num_frames, n_mels]`, linear.
    """
    linear = spectrogram(waveform, n_fft=n_fft, hop_length=hop_length, power=power, **options)
    bank = mel_filterbank(
        sample_rate=sample_rate,
        n_fft=n_fft,
        n_mels=n_mels,
        fmin=fmin,
        fmax=fmax,
        htk=htk,
        norm=norm,
    )
    return apply_filterbank(linear, bank)


def log_frequency_spectrogram(
    waveform,
    *,
    sample_rate: float,
    n_fft: int,
    hop_length: int,
    power: float = 1.0,
    n_bins: int = 84,
    bins_per_octave: int = 12,
    fmin: float = C1_HZ,
    spread: float = 0.125,
    **options,
) -> jax.Array:
    """Spectrogram on an axis of octaves: bands of `log_filterbank`.

    Args:
      waveform: `[num_samples]`.
      sample_rate, n_bins, bins_per_octave, fmin, spread: as in `log_filterbank`.
      n_fft, hop_length, power, options: as in `spectrogram`.
    Returns:
      float32 `[num_frames, n_bins]`, linear.
    """
    linear = spectrogram(waveform, n_fft=n_fft, hop_length=hop_length, power=power, **options)
    bank = log_filterbank(
        sample_rate=sample_rate,
        n_fft=n_fft,
        n_bins=n_bins,
        bins_per_octave=bins_per_octave,
        fmin=fmin,
        spread=spread,
    )
    return apply_filterbank(linear, bank)


def magnitude_and_phase(waveform, *, n_fft: int, hop_length: int, **options) -> jax.Array:
    """Magnitude and phase of the STFT as two channels, an example for a convolutional model.

    Args:
      waveform: `[num_samples]`.
      n_fft, hop_length, options: as in `stft`.
    Returns:
      float32 `[num_frames, n_fft // 2 + 1, 2]`: linear magnitude, then radians in (-pi, pi].
    """
    transformed = stft(waveform, n_fft=n_fft, hop_length=hop_length, **options)
    return jnp.stack([spectrum.magnitude(transformed), spectrum.phase(transformed)], axis=-1)
