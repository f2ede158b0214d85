"""Scales of amplitude and frequency, each with its inverse.

Amplitude and power decibels are separate functions, as in librosa: 20 log10 of amplitudes,
10 log10 of powers. (Kapre takes 10 log10 of magnitudes; here `power_to_db` of a magnitude gives
that.) Everything is float32 inside, so bfloat16 and float16 inputs lose nothing but their own
precision.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Reference = float | Callable[[jax.Array], jax.Array]

MAX_MU_LAW_CHANNELS = 65536


def amplitude_to_db(
    magnitude, *, ref: Reference = 1.0, amin: float = 1e-5, top_db: float | None = 80.0
) -> jax.Array:
    """Returns `20 log10(magnitude / ref)`; matches `librosa.amplitude_to_db`.

    Args:
      magnitude: one clip, any shape, linear amplitude >= 0.
      ref: amplitude of 0 dB, or a function of the clip such as `jnp.max`.
      amin: amplitudes below this count as this, > 0.
      top_db: floor, this far below the clip's own maximum; None for no floor.
    Returns:
      dB, float32, same shape.
    Raises:
      ValueError: if amin <= 0 or top_db < 0.
    """
    magnitude = _as_float(magnitude)
    reference = ref(magnitude) if callable(ref) else ref
    return _to_db(magnitude, factor=20.0, ref=reference, amin=amin, top_db=top_db)


def power_to_db(
    power, *, ref: Reference = 1.0, amin: float = 1e-10, top_db: float | None = 80.0
) -> jax.Array:
    """Returns `10 log10(power / ref)`; matches `librosa.power_to_db`.

    Args and returns: as `amplitude_to_db`, with powers for amplitudes.
    """
    power = _as_float(power)
    reference = ref(power) if callable(ref) else ref
    return _to_db(power, factor=10.0, ref=reference, amin=amin, top_db=top_db)


def db_to_amplitude(db, *, ref: float = 1.0) -> jax.Array:
    """Returns `ref * 10 ** (db / 20)`, the inverse of `amplitude_to_db` above its floor."""
    return ref * 10.0 ** (_as_float(db) / 20.0)


def db_to_power(db, *, ref: float = 1.0) -> jax.Array:
    """Returns `ref * 10 ** (db / 10)`, the inverse of `power_to_db` above its floor."""
    return ref * 10.0 ** (_as_float(db) / 10.0)


def compress(magnitude, *, exponent: float) -> jax.Array:
    """Returns `magnitude ** exponent` with a gradient of 0 instead of infinity at 0.

    Args:
      magnitude: any shape, >= 0; negative values count as 0.
      exponent: 0 < exponent; below 1 compresses (0.3 is about loudness).
    """
    if exponent <= 0:
        raise ValueError(f"exponent={exponent} must be above 0; 0.3 is usual")
    magnitude = _as_float(magnitude)
    alive = magnitude > 0
    # Through the logarithm: a third of the time of XLA's power on a CPU, off by some 1e-6 of it.
    return jnp.where(alive, jnp.exp(exponent * jnp.log(jnp.where(alive, magnitude, 1))), 0)


def expand(compressed, *, exponent: float) -> jax.Array:
    """Returns `compressed ** (1 / exponent)`, the inverse of `compress`; below 0 counts as 0."""
    if exponent <= 0:
        raise ValueError(f"exponent={exponent} must be above 0; give the one used to compress")
    return compress(compressed, exponent=1.0 / exponent)


def mu_law_encode(waveform, *, quantization_channels: int = 256) -> jax.Array:
    """Quantises to mu-law codes (ITU-T G.711's curve), `mu = quantization_channels - 1`.

    Args:
      waveform: any shape, clipped to [-1, 1].
      quantization_channels: codes, 2 to 65536.
    Returns:
      int32 codes from 0 to quantization_channels - 1, same shape.
    """
    mu = _mu(quantization_channels)
    waveform = jnp.clip(_as_float(waveform), -1, 1)
    companded = jnp.sign(waveform) * jnp.log1p(mu * jnp.abs(waveform)) / np.log1p(mu)
    return jnp.floor((companded + 1) / 2 * mu + 0.5).astype(jnp.int32)


def mu_law_decode(codes, *, quantization_channels: int = 256) -> jax.Array:
    """Returns the waveform of mu-law codes, in [-1, 1]; encoding it again gives the same codes.

    Args:
      codes: integers from 0 to quantization_channels - 1, any shape.
      quantization_channels: codes, 2 to 65536.
    """
    mu = _mu(quantization_channels)
    companded = 2 * (jnp.asarray(codes).astype(jnp.float32) / mu) - 1
    return jnp.sign(companded) * jnp.expm1(jnp.abs(companded) * np.log1p(mu)) / mu


def hz_to_mel(frequency, *, htk: bool = False) -> np.ndarray:
    """Returns mels of Hz on the host; matches `librosa.hz_to_mel` (Slaney's scale or HTK's)."""
    frequency = np.asarray(frequency, np.float64)
    if htk:
        return 2595.0 * np.log10(1.0 + frequency / 700.0)
    # Slaney: 3 mels per 200 Hz up to 1 kHz, then 27 mels per factor 6.4.
    linear = 3.0 * frequency / 200.0
    above = 15.0 + 27.0 * np.log(np.maximum(frequency, 1000.0) / 1000.0) / np.log(6.4)
    return np.where(frequency >= 1000.0, above, linear)


def mel_to_hz(mel, *, htk: bool = False) -> np.ndarray:
    """Returns Hz of mels on the host; matches `librosa.mel_to_hz`, the inverse of `hz_to_mel`."""
    mel = np.asarray(mel, np.float64)
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = 1000.0 * np.exp(np.log(6.4) / 27.0 * (mel - 15.0))
    return np.where(mel >= 15.0, above, 200.0 / 3.0 * mel)


def _as_float(values) -> jax.Array:
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _to_db(values, *, factor: float, ref, amin: float, top_db: float | None):
    if amin <= 0:
        raise ValueError(f"amin={amin} must be above 0; 1e-5 is usual for amplitude")
    if top_db is not None and top_db < 0:
        raise ValueError(f"top_db={top_db} must be 0 or more, or None for no floor")
    db = factor * (jnp.log10(jnp.maximum(values, amin)) - jnp.log10(jnp.maximum(ref, amin)))
    return db if top_db is None else jnp.maximum(db, jnp.max(db) - top_db)


def _mu(quantization_channels: int) -> int:
    if not 2 <= quantization_channels <= MAX_MU_LAW_CHANNELS:
        raise ValueError(
            f"quantization_channels={quantization_channels} must be from 2 to "
            f"{MAX_MU_LAW_CHANNELS}; 256 is usual"
        )
    return quantization_channels - 1
