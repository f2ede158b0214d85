"""Complex spectra to magnitude, power and phase and back, with gradients that exist at 0.

Also the two channels that models like beside a magnitude: instantaneous frequency (GANSynth) and
the position of each bin on the frequency axis.
"""

import jax
import jax.numpy as jnp

from vaejax.signal.cosine import cosine

# Squares below this are treated as exact zeros. It is far under the square of any 24-bit sample's
# spectrum and keeps 1 / squared finite in float32.
TINY = 1e-30

# The same for a direction alone, whose gradient grows as the cube of 1 / abs: -200 dB.
TINY_DIRECTION = 1e-20


def magnitude(spectrum) -> jax.Array:
    """Returns `abs(spectrum)`, linear amplitude, same shape; its gradient at 0 is 0, not NaN."""
    squared = power(spectrum)
    alive = squared > TINY
    return jnp.where(alive, jnp.sqrt(jnp.where(alive, squared, 1)), 0)


def power(spectrum) -> jax.Array:
    """Returns `abs(spectrum)**2`, same shape."""
    spectrum = jnp.asarray(spectrum)
    return jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2


def phase(spectrum) -> jax.Array:
    """Returns the angle in (-pi, pi], same shape; 0 with gradient 0 where the spectrum is 0."""
    spectrum = jnp.asarray(spectrum)
    alive = power(spectrum) > TINY
    return jnp.arctan2(
        jnp.where(alive, jnp.imag(spectrum), 0), jnp.where(alive, jnp.real(spectrum), 1)
    )


def from_polar(magnitude, phase) -> jax.Array:
    """Returns `magnitude * exp(1j * phase)`, complex64, from two real arrays of one shape."""
    magnitude, phase = jnp.asarray(magnitude), jnp.asarray(phase)
    dtype = jnp.promote_types(jnp.promote_types(magnitude.dtype, phase.dtype), jnp.float32)
    magnitude, phase = magnitude.astype(dtype), phase.astype(dtype)
    cycles = phase * (0.5 / jnp.pi)
    return jax.lax.complex(magnitude * cosine(cycles), magnitude * cosine(cycles - 0.25))


def with_magnitude(spectrum, magnitude) -> jax.Array:
    """Returns `magnitude` with the phase of `spectrum`; 0 where the spectrum is below 1e-10."""
    squared = power(spectrum)
    alive = squared > TINY_DIRECTION
    # Not rsqrt, which takes three times as long as both on a CPU.
    gain = jnp.where(alive, magnitude / jnp.sqrt(jnp.where(alive, squared, 1)), 0)
    return jax.lax.complex(spectrum.real * gain, spectrum.imag * gain)


def wrap(phase) -> jax.Array:
    """Returns radians wrapped to [-pi, pi], with the gradient of the identity."""
    phase = _as_float(phase)
    return phase - 2 * jnp.pi * jnp.round(jax.lax.stop_gradient(phase) / (2 * jnp.pi))


def instantaneous_frequency(phase) -> jax.Array:
    """Phase advance per frame as a fraction of pi; matches GANSynth (Engel et al. 2019).

    The wrapped difference over time of the phase, divided by pi; frame 0 holds the phase itself.

    Args:
      phase: `[num_frames, num_bins]` radians, wrapped or not.
    Returns:
      `[num_frames, num_bins]` in [-1, 1].
    """
    phase = _as_float(phase)
    previous = jnp.pad(phase, ((1, 0), (0, 0)))[:-1]
    return wrap(phase - previous) / jnp.pi


def phase_from_instantaneous_frequency(frequency) -> jax.Array:
    """Inverse of `instantaneous_frequency`, up to whole turns: radians in [-pi, pi].

    Args:
      frequency: `[num_frames, num_bins]`, fractions of pi per frame; frame 0 is the start phase.
    """
    return wrap(jnp.pi * jnp.cumsum(_as_float(frequency), axis=0))


def append_frequency_map(spectrogram) -> jax.Array:
    """Appends a channel that is 0 at the lowest bin and 1 at the highest, linear between.

    Args:
      spectrogram: `[num_frames, num_bins]` or `[num_frames, num_bins, channels]`.
    Returns:
      `[num_frames, num_bins, channels + 1]`; the given channels are unchanged, bit for bit.
    """
    spectrogram = jnp.asarray(spectrogram)
    if spectrogram.ndim == 2:
        spectrogram = spectrogram[..., None]
    if spectrogram.ndim != 3:
        raise ValueError(
            f"spectrogram has shape {spectrogram.shape}, expected [num_frames, num_bins] or "
            "[num_frames, num_bins, channels]; use jax.vmap over clips"
        )
    frames, bins, _ = spectrogram.shape
    ramp = jnp.linspace(0, 1, bins, dtype=jnp.float32).astype(spectrogram.dtype)
    ramp = jnp.broadcast_to(ramp[None, :, None], (frames, bins, 1))
    return jnp.concatenate([spectrogram, ramp], axis=-1)


def _as_float(values) -> jax.Array:
    """Returns values as float32 (float64 stays): half precision has 3 digits per turn, too few."""
    values = jnp.asarray(values)
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))
