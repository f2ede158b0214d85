"""Random changes to training examples: pure functions of a key, one example at a time."""

import jax
import jax.numpy as jnp


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
