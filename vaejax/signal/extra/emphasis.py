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
    # 1 / (1 - c/z) = (1 + c/z) (1 + c^2/z^2) (1 + c^4/z^4) ...: the recursion in log2(num_samples)
    # shifted sums, and fewer where the power of c is beyond the precision of the samples.
    shift, gain, num_samples = 1, coef, waveform.shape[0]
    negligible = float(jnp.finfo(waveform.dtype).eps) ** 2
    while shift < num_samples and gain > negligible:
        waveform = waveform + gain * jnp.pad(waveform, (shift, 0))[:num_samples]
        shift, gain = 2 * shift, gain * gain
    return waveform


def _check_coef(coef: float) -> None:
    if not 0 <= coef < 1:
        raise ValueError(f"coef={coef} must be at least 0 and below 1; 0.97 is usual")
