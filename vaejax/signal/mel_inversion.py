"""Magnitudes over bins from bands of a filterbank, by non-negative least squares."""

import jax
import jax.numpy as jnp
import numpy as np


def invert_filterbank(bands, filterbank, *, num_iters: int = 32) -> jax.Array:
    """Returns non-negative magnitudes whose bands are close to `bands`.

    Minimises the squared error, relative to each filter's norm, over magnitudes >= 0 with
    accelerated projected gradient steps (FISTA, Beck & Teboulle 2009) from the clipped
    pseudo-inverse. There are fewer bands than bins, so many answers fit equally well.

    Args:
      bands: `[num_frames, num_bands]`, linear (the same power of magnitude as the result), >= 0.
      filterbank: `[num_bins, num_bands]`, a host array as from `mel_filterbank`.
      num_iters: steps, >= 0; static.
    Returns:
      `[num_frames, num_bins]` float32, >= 0; silence stays exactly silent.
    Raises:
      ValueError: if the numbers of bands differ or num_iters is negative.
    """
    bands = jnp.asarray(bands)
    bands = bands.astype(jnp.promote_types(bands.dtype, jnp.float32))
    host = np.asarray(filterbank, np.float64)
    if host.ndim != 2 or bands.ndim != 2 or bands.shape[1] != host.shape[1]:
        raise ValueError(
            f"bands has shape {bands.shape} and filterbank {host.shape}; expected "
            "[num_frames, num_bands] and [num_bins, num_bands]"
        )
    if num_iters < 0:
        raise ValueError(f"num_iters={num_iters} must be 0 or more")
    # Slaney's filters shrink with their width: without equal norms the wide ones converge last.
    norms = np.linalg.norm(host, axis=0)
    norms = np.where(norms > 0, norms, 1)
    scaled = host / norms
    step = 1.0 / np.linalg.norm(scaled, ord=2) ** 2
    forward = jnp.asarray(scaled, bands.dtype)
    target = bands / jnp.asarray(norms, bands.dtype)

    def multiply(a, b):
        return jnp.matmul(a, b, precision="highest")

    start = jnp.maximum(multiply(target, jnp.asarray(np.linalg.pinv(scaled), bands.dtype)), 0)

    def iterate(state, weight):
        current, ahead = state
        residual = multiply(ahead, forward) - target
        following = jnp.maximum(ahead - step * multiply(residual, forward.T), 0)
        return (following, following + weight * (following - current)), None

    order = np.arange(num_iters)
    weights = jnp.asarray(order / (order + 3.0), bands.dtype)
    (magnitude, _), _ = jax.lax.scan(iterate, (start, start), weights)
    return magnitude
