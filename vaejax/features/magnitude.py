"""Representations of the magnitude alone; the phase is recovered by `vaejax.signal.phase`.

All of them obey `sound.inversion` and `sound.iterations`.
"""

import jax.numpy as jnp

from vaejax.config import Config
from vaejax.features.representation import Representation, recovered, transform
from vaejax.signal import scales, spectrum
from vaejax.signal.filterbank import apply_filterbank, mel_filterbank
from vaejax.signal.mel_inversion import invert_filterbank
from vaejax.signal.stft import stft


def power(config: Config) -> Representation:
    """Power-compressed magnitude, |STFT| ** exponent: [num_frames, num_bins]."""
    features = config.features

    def expand(values):
        return expanded_magnitude(values, exponent=features.exponent)

    return Representation(
        analyse=lambda waveform: compressed_magnitude(
            waveform,
            n_fft=features.n_fft,
            hop_length=features.hop_length,
            exponent=features.exponent,
        ),
        synthesise=lambda values, num_samples: recovered(expand(values), num_samples, config),
        magnitude=expand,
    )


def log(config: Config) -> Representation:
    """Logarithmic magnitude, log(1 + log_gain |STFT|): [num_frames, num_bins].

    Linear below the level 1 / log_gain and decibels above it.
    """
    gain = config.features.log_gain

    def analyse(waveform):
        return log_magnitude(spectrum.magnitude(transform(waveform, config)), gain=gain)

    def magnitude(values):
        return from_log_magnitude(values, gain=gain)

    return Representation(
        analyse=analyse,
        synthesise=lambda values, num_samples: recovered(magnitude(values), num_samples, config),
        magnitude=magnitude,
    )


def log_mel(config: Config) -> Representation:
    """Logarithmic mel bands of the magnitude, log(1 + log_gain mel(|STFT|)): [num_frames, n_mels].

    The bands have peaks of 1 (librosa's norm None): a partial has its level wherever it lies.
    Back to bins by non-negative least squares, which cannot tell the partials of a band apart.
    """
    return log_bands(mel_bank(config), config)


def log_bands(bank, config: Config) -> Representation:
    """log(1 + log_gain bands) of a filterbank [num_bins, num_bands]: [num_frames, num_bands]."""
    gain = config.features.log_gain

    def analyse(waveform):
        bands = apply_filterbank(spectrum.magnitude(transform(waveform, config)), bank)
        return log_magnitude(bands, gain=gain)

    def magnitude(values):
        return invert_filterbank(from_log_magnitude(values, gain=gain), bank)

    return Representation(
        analyse=analyse,
        synthesise=lambda values, num_samples: recovered(magnitude(values), num_samples, config),
        magnitude=magnitude,
    )


def compressed_magnitude(waveform, *, n_fft: int, hop_length: int, exponent: float):
    """Power-compressed STFT magnitude of a clip.

    Args:
      waveform: [num_samples] float in [-1, 1].

    Returns:
      [num_frames, num_bins] float32 >= 0, where 1.0 is the peak of a full-scale sine.
    """
    transformed = stft(waveform, n_fft=n_fft, hop_length=hop_length)
    squared = spectrum.power(transformed) * (4.0 / n_fft) ** 2
    return scales.compress(squared, exponent=exponent / 2)


def expanded_magnitude(values, *, exponent: float):
    """The inverse of the compression; a decoder may say less than silence, which is silence."""
    return scales.expand(values, exponent=exponent)


def log_magnitude(magnitude, *, gain: float):
    """log(1 + gain magnitude)."""
    return jnp.log1p(gain * magnitude)


def from_log_magnitude(values, *, gain: float):
    """The inverse of `log_magnitude`; a decoder may say less than silence, which is silence."""
    return jnp.expm1(jnp.maximum(values, 0.0)) / gain


def mel_bank(config: Config):
    """Mel filters [num_bins, n_mels] as a config has them, with peaks of 1."""
    features = config.features
    return mel_filterbank(
        sample_rate=config.data.sample_rate,
        n_fft=features.n_fft,
        n_mels=features.n_mels,
        fmin=features.fmin,
        fmax=features.fmax,
        norm=None,
    )
