"""Pictures of sounds for the contact sheet, drawn on the device: small, and few bytes."""

import jax.numpy as jnp

from vaejax.config import Config
from vaejax.drawing import picture
from vaejax.signal.stft import stft

THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH = 48, 64
THUMBNAIL_FLOOR_DB = -80.0
# Grey levels; 64 are as many as the eye tells apart at this size.
THUMBNAIL_LEVELS = 64
OUTLINE_WIDTH = 64


def thumbnail(waveform, *, config: Config, width: int = THUMBNAIL_WIDTH):
    """A small grey spectrogram of a clip [num_samples], low frequencies in the last row; dB of
    magnitudes that are averaged first, a logarithm for each pixel and not for each bin.

    Returns:
      [THUMBNAIL_HEIGHT, width] uint8.
    """
    n_fft, hop_length = config.features.n_fft, config.features.hop_length
    spectrum = jnp.abs(stft(waveform, n_fft=n_fft, hop_length=hop_length)) * (4.0 / n_fft)
    rows = picture.frequency_weights(
        config.features.num_bins, THUMBNAIL_HEIGHT, sample_rate=config.data.sample_rate
    )
    columns = picture.time_weights(spectrum.shape[0], width)
    small = (jnp.asarray(columns) @ spectrum @ jnp.asarray(rows)).T[::-1]
    level = 20 * jnp.log10(jnp.maximum(small, 10 ** (THUMBNAIL_FLOOR_DB / 20)))
    level = jnp.round(jnp.clip(1 - level / THUMBNAIL_FLOOR_DB, 0, 1) * (THUMBNAIL_LEVELS - 1))
    return (level * (256 // THUMBNAIL_LEVELS)).astype(jnp.uint8)


def outline(waveform):
    """The largest magnitude of a clip [num_samples] in each of OUTLINE_WIDTH equal stretches."""
    length = -(-waveform.shape[0] // OUTLINE_WIDTH)
    padded = jnp.pad(jnp.abs(waveform), (0, length * OUTLINE_WIDTH - waveform.shape[0]))
    level = jnp.max(padded.reshape(OUTLINE_WIDTH, length), axis=1)
    return jnp.round(255 * jnp.minimum(level, 1.0)).astype(jnp.uint8)
