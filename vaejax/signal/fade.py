"""Fades."""

import jax
import jax.numpy as jnp


def fade_out(waveform, num_samples: int) -> jax.Array:
    """Fades the end of a waveform to zero along half a cosine.

    Args:
      waveform: `[length]`.
      num_samples: length of the fade, from 0 (none) to length; the last sample becomes exactly 0.
    Returns:
      `[length]`.
    Raises:
      ValueError: if the fade is longer than the waveform.
    """
    length = waveform.shape[0]
    if not 0 <= num_samples <= length:
        raise ValueError(f"a fade of {num_samples} samples does not fit a waveform of {length}")
    if num_samples == 0:
        return waveform
    ramp = 0.5 * (1 + jnp.cos(jnp.pi * jnp.arange(1, num_samples + 1) / num_samples))
    # cos(pi) is not exactly -1 in float32.
    ramp = ramp.at[-1].set(0.0)
    return waveform * jnp.concatenate([jnp.ones(length - num_samples), ramp])
