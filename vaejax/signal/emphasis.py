"""Pre-emphasis, a first-order high shelf, and its exact inverse."""

import jax
import jax.numpy as jnp

from vaejax.signal.framing import as_waveform


def preemphasis(waveform, *, coef: float = 0.97) -> jax.Array:
    """Returns `x[n] - coef * x[n - 1]`, with silence before the first sample.

    `librosa.effects.preemphasis` with `zi=[0]`; its default instead guesses a sample before the
    first, which changes the attack.

    Args:
      waveform: `[num_samples]`.
      coef: 0 to 1, both excluded for `deemphasis` to be stable.
    Returns:
      `[num_samples]`.
    """
    waveform = as_waveform(waveform)
    _check_coef(coef)
    return waveform - coef * jnp.pad(waveform, (1, 0))[:-1]


def deemphasis(waveform, *, coef: float = 0.97) -> jax.Array:
    """Returns `y[n] = x[n] + coef * y[n - 1]`, the inverse of `preemphasis`; same arguments."""
    waveform = as_waveform(waveform)
    _check_coef(coef)

    # A pair (a, b) stands for y -> a y + b; composing pairs is associative, so the recursion runs
    # in log2(num_samples) parallel steps.
    def compose(first, second):
        return first[0] * second[0], second[0] * first[1] + second[1]

    decay = jnp.full_like(waveform, coef)
    return jax.lax.associative_scan(compose, (decay, waveform))[1]


def _check_coef(coef: float) -> None:
    if not 0 <= coef < 1:
        raise ValueError(f"coef={coef} must be at least 0 and below 1; 0.97 is usual")
