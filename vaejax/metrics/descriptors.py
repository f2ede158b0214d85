"""What a sound is like, in numbers that have a name: how bright, noisy, slow and long it is.

Spectra are STFT magnitudes as librosa's (n_fft 2048, hop 512, Hann, centred); the envelope is the
root of the mean power of 10 ms. All functions take one waveform [num_samples] at any level.
"""

import jax
import jax.numpy as jnp

from vaejax.signal.stft import stft

N_FFT, HOP_LENGTH = 2048, 512
# Milliseconds; the envelope's resolution, and the least attack and duration that it can tell.
STEP_MS, WINDOW_MS = 1, 10
# Of the power in a bin: librosa's, below anything audible.
MIN_POWER = 1e-10


def _magnitude(waveform):
    """[num_frames, n_fft // 2 + 1]."""
    missing = max(N_FFT - waveform.shape[0], 0)
    return jnp.abs(stft(jnp.pad(waveform, (0, missing)), n_fft=N_FFT, hop_length=HOP_LENGTH))


def spectral_centroid(waveform, *, sample_rate: int):
    """Mean frequency of a sound, weighted by magnitude over all frames.

    Equals librosa.feature.spectral_centroid averaged over frames with their magnitudes as weights.

    Returns:
      [] Hz in [0, sample_rate / 2]; 0 of silence.
    """
    magnitude = jnp.sum(_magnitude(waveform), axis=0)
    hertz = jnp.linspace(0.0, sample_rate / 2, N_FFT // 2 + 1)
    total = jnp.sum(magnitude)
    return jnp.sum(hertz * magnitude) / jnp.where(total > 0, total, 1.0)


def spectral_flatness_db(waveform):
    """How far from tonal a sound is: geometric over arithmetic mean of the power over frequency.

    Equals librosa.feature.spectral_flatness in dB, averaged over frames with their power as weights
    so that silence has no say.

    Returns:
      [] dB <= 0: near 0 for white noise, below -40 for tones.
    """
    power = jnp.maximum(_magnitude(waveform) ** 2, MIN_POWER)
    arithmetic = jnp.mean(power, axis=1)
    flatness_db = (10 / jnp.log(10.0)) * (jnp.mean(jnp.log(power), axis=1) - jnp.log(arithmetic))
    return jnp.sum(arithmetic * flatness_db) / jnp.sum(arithmetic)


def envelope(waveform, *, sample_rate: int):
    """Level over time: the root of the mean power of the WINDOW_MS that end with each STEP_MS.

    Returns:
      [num_samples // samples of a step], on the waveform's scale.
    """
    step = max(1, round(STEP_MS * 1e-3 * sample_rate))
    steps = jnp.mean(waveform[: len(waveform) // step * step].reshape(-1, step) ** 2, axis=1)
    width = WINDOW_MS // STEP_MS
    # What came before the clip is silence.
    sums = jnp.convolve(steps, jnp.ones(width), precision=jax.lax.Precision.HIGHEST)
    return jnp.sqrt(jnp.maximum(sums[: len(steps)], 0.0) / width)


def attack_time(waveform, *, sample_rate: int):
    """From the first time at 10 % to the first time at 90 % of the envelope's peak.

    The thresholds are those of the log-attack time of Peeters et al. 2011.

    Returns:
      [] seconds, at least STEP_MS.
    """
    level = envelope(waveform, sample_rate=sample_rate)
    peak = jnp.max(level)
    steps = jnp.argmax(level >= 0.9 * peak) - jnp.argmax(level >= 0.1 * peak)
    return jnp.maximum(steps, 1) * (STEP_MS * 1e-3)


def effective_duration(waveform, *, sample_rate: int):
    """How long the envelope is above 40 % of its peak (Peeters et al. 2011).

    Returns:
      [] seconds, at least STEP_MS.
    """
    level = envelope(waveform, sample_rate=sample_rate)
    steps = jnp.sum(level > 0.4 * jnp.max(level))
    return jnp.maximum(steps, 1) * (STEP_MS * 1e-3)
