"""Harmonic-percussive separation: what lasts in time against what spreads over frequency."""

import jax
import jax.numpy as jnp

TINY = 1e-30


def harmonic_percussive(
    spectrogram, *, kernel_size: int = 31, power: float = 2.0, margin: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """Splits a spectrogram by median filters over time and frequency (FitzGerald 2010).

    Matches `librosa.decompose.hpss` transposed: soft masks, and with margin 1 the parts sum to the
    whole (Driedger et al. 2014 for margins above 1, which leave a residual).

    Args:
      spectrogram: `[num_frames, num_bins]`, magnitude or complex.
      kernel_size: frames and bins under the median filters, odd.
      power: exponent of the soft masks, above 0.
      margin: how much stronger a part must be to be taken, at least 1.
    Returns:
      (harmonic, percussive), each of the spectrogram's shape and kind.
    Raises:
      ValueError: on an even kernel_size, a margin below 1 or a power not above 0.
    """
    spectrogram = jnp.asarray(spectrogram)
    if spectrogram.ndim != 2:
        raise ValueError(
            f"spectrogram has shape {spectrogram.shape}, expected [num_frames, num_bins]; use "
            "jax.vmap over clips"
        )
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size} must be odd and at least 1; 31 is usual")
    if not (power > 0 and margin >= 1):
        raise ValueError(f"power={power} must be above 0 and margin={margin} at least 1")
    if not jnp.iscomplexobj(spectrogram):
        wide = jnp.promote_types(spectrogram.dtype, jnp.float32)
        spectrogram = spectrogram.astype(wide)
    # Masks are choices, not values to learn through; the gradient goes through what they choose.
    level = jax.lax.stop_gradient(jnp.abs(spectrogram))
    lasting = _median_filter(level, kernel_size)
    spreading = _median_filter(level.T, kernel_size).T
    harmonic = spectrogram * _soft_mask(lasting, margin * spreading, power, margin)
    percussive = spectrogram * _soft_mask(spreading, margin * lasting, power, margin)
    return harmonic, percussive


def _median_filter(values, kernel_size: int):
    """Running median over axis 0, mirrored at the edges."""
    half = kernel_size // 2
    padded = jnp.pad(values, ((half, half), (0, 0)), mode="symmetric")
    views = [padded[i : i + values.shape[0]] for i in range(kernel_size)]
    return jnp.sort(jnp.stack(views), axis=0)[half]


def _soft_mask(wanted, other, power: float, margin: float):
    """Share of `wanted` in both, after `power`; where both are silent, one half or nothing."""
    largest = jnp.maximum(wanted, other)
    alive = largest > TINY
    largest = jnp.where(alive, largest, 1)
    wanted, other = (wanted / largest) ** power, (other / largest) ** power
    nothing = 0.5 if margin == 1 else 0.0
    return jnp.where(alive, wanted / jnp.where(alive, wanted + other, 1), nothing)
