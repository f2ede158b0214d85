"""Random changes to training examples: pure functions of a key, one example at a time."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import next_fast_len


def spec_augment(
    key,
    spectrogram,
    *,
    freq_mask_param: int,
    time_mask_param: int,
    n_freq_masks: int = 1,
    n_time_masks: int = 1,
    mask_value: float = 0.0,
) -> jax.Array:
    """Masks random bands of frequency and time (SpecAugment, Park et al. 2019, sections 2.2-2.3).

    A mask's width is uniform from 0 to its parameter, both included, and its place uniform over
    those that fit.

    Args:
      key: PRNG key.
      spectrogram: `[num_frames, num_bins, ...]`; channels are masked together.
      freq_mask_param: widest frequency mask, bins.
      time_mask_param: widest time mask, frames.
      n_freq_masks: frequency masks, >= 0; static.
      n_time_masks: time masks, >= 0; static.
      mask_value: written where masked.
    Returns:
      Same shape and dtype.
    Raises:
      ValueError: if a parameter is negative or wider than its axis.
    """
    spectrogram = jnp.asarray(spectrogram)
    if spectrogram.ndim < 2:
        raise ValueError(
            f"spectrogram has shape {spectrogram.shape}, expected [num_frames, num_bins, ...]"
        )
    freq_key, time_key = jax.random.split(key)
    frames, bins = spectrogram.shape[:2]
    in_time = _masked(time_key, frames, time_mask_param, n_time_masks, "time_mask_param")
    in_freq = _masked(freq_key, bins, freq_mask_param, n_freq_masks, "freq_mask_param")
    masked = in_time[:, None] | in_freq[None, :]
    masked = masked.reshape(masked.shape + (1,) * (spectrogram.ndim - 2))
    return jnp.where(masked, jnp.asarray(mask_value, spectrogram.dtype), spectrogram)


def swap_channels(key, waveform) -> jax.Array:
    """Returns the channels of `[num_channels, ...]` in a random order, uniform over all orders."""
    return jax.random.permutation(key, jnp.asarray(waveform), axis=0)


def random_polarity(key, waveform) -> jax.Array:
    """Returns the waveform or its negative, each with probability one half."""
    waveform = jnp.asarray(waveform)
    return waveform * jax.random.rademacher(key, (), waveform.dtype)


def random_gain(key, waveform, *, low_db: float, high_db: float) -> jax.Array:
    """Scales the waveform by a gain uniform in dB from `low_db` to `high_db`."""
    if low_db > high_db:
        raise ValueError(f"low_db={low_db} must not exceed high_db={high_db}")
    waveform = jnp.asarray(waveform)
    db = jax.random.uniform(key, (), jnp.float32, low_db, high_db)
    return waveform * (10.0 ** (db / 20.0)).astype(waveform.dtype)


def random_eq(
    key,
    waveform,
    *,
    sample_rate: int,
    eq_db: float,
    octaves: float = 1.5,
    fmin: float = 40.0,
) -> jax.Array:
    """Filters the waveform by a random smooth curve of the spectrum.

    The gains in dB of bands `octaves` apart, from `fmin` up, are normal with mean 0; between them
    they change along straight lines over the logarithm of frequency. The filter has minimum phase
    (its cepstrum is folded onto positive times: Oppenheim & Schafer, Discrete-Time Signal
    Processing, 3rd ed., chapter 13), so nothing sounds before it did and an attack stays one.

    Args:
      key: PRNG key.
      waveform: `[num_samples]`.
      sample_rate: Hz; static.
      eq_db: standard deviation of the gains, dB, >= 0.
      octaves: between bands; static.
      fmin: Hz, the lowest band, whose gain everything below it has; static.
    Returns:
      `[num_samples]`, cut where the filter's ringing outlasts it. What is 120 dB below the peak
      is 0, so that silence stays silence.
    Raises:
      ValueError: if fmin is not between 0 and half the sample rate, or octaves is not positive.
    """
    if not 0 < fmin < sample_rate / 2:
        raise ValueError(f"fmin={fmin} must lie between 0 and {sample_rate / 2}, half the rate")
    if not octaves > 0:
        raise ValueError(f"octaves={octaves} must be positive")
    waveform = jnp.asarray(waveform)
    waveform = waveform.astype(jnp.promote_types(waveform.dtype, jnp.float32))
    num_bands = 1 + math.ceil(math.log2(sample_rate / 2 / fmin) / octaves)
    gains = eq_db * jax.random.normal(key, (num_bands,), jnp.float32)
    # Four points of the spectrum up to the lowest band draw its curve well enough.
    num_taps = 2 ** math.ceil(math.log2(4 * sample_rate / fmin))
    hz = np.arange(num_taps // 2 + 1) * sample_rate / num_taps
    place = np.log2(np.maximum(hz, fmin) / fmin) / octaves
    db = jnp.interp(place, np.arange(num_bands), gains)
    taps = _minimum_phase(db * (math.log(10) / 20)).astype(waveform.dtype)
    n_fft = next_fast_len(len(waveform) + num_taps - 1, real=True)
    spectrum = jnp.fft.rfft(waveform, n_fft) * jnp.fft.rfft(taps, n_fft)
    filtered = jnp.fft.irfft(spectrum, n_fft)[: len(waveform)]
    # What the transforms round would be a sound where there is silence, with phases of its own.
    is_sound = jnp.abs(filtered) > 1e-6 * jnp.max(jnp.abs(filtered))
    return jnp.where(is_sound, filtered, 0.0)


def add_noise(key, waveform, *, snr_db: float) -> jax.Array:
    """Adds white Gaussian noise `snr_db` dB below the waveform's RMS; silence stays silent."""
    waveform = jnp.asarray(waveform)
    mean_square = jnp.mean(waveform**2)
    alive = mean_square > 0
    rms = jnp.where(alive, jnp.sqrt(jnp.where(alive, mean_square, 1)), 0)
    return waveform + rms * 10.0 ** (-snr_db / 20.0) * jax.random.normal(
        key, waveform.shape, waveform.dtype
    )


def _masked(key, size: int, widest: int, count: int, name: str):
    """Returns `[size]` bool, True inside any of `count` random intervals."""
    if widest < 0 or widest > size:
        raise ValueError(f"{name}={widest} must be from 0 to {size}, the length of its axis")
    if count < 0:
        raise ValueError(f"the number of masks must be 0 or more, got {count}")
    width_key, start_key = jax.random.split(key)
    widths = jax.random.randint(width_key, (count, 1), 0, widest + 1)
    starts = jax.random.randint(start_key, (count, 1), 0, size - widths + 1)
    positions = jnp.arange(size)
    return jnp.any((positions >= starts) & (positions < starts + widths), axis=0)


def _minimum_phase(log_gain) -> jax.Array:
    """The impulse response `[2 (n - 1)]` of minimum phase whose spectrum has the natural logarithms
    of its magnitudes `[n]` given, from 0 to half the sample rate."""
    n = len(log_gain) - 1
    cepstrum = jnp.fft.irfft(log_gain, 2 * n)
    fold = np.r_[1.0, np.full(n - 1, 2.0), 1.0, np.zeros(n - 1)]
    return jnp.fft.irfft(jnp.exp(jnp.fft.rfft(cepstrum * fold)), 2 * n)
