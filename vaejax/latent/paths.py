"""Ways through the latent from sound to sound: straight, spherical, and bilinear between four.

A density in many dimensions has its mass on a shell: for N(0, I) at about sqrt(latent_dim) from the
middle. A straight path cuts through the shell and is emptier halfway, a spherical one stays on it
(White 2016). "Spherical" is meant in the metric of the density, in which it is N(0, I).
"""

import numpy as np


def straight(a, b, t):
    """a + t (b - a).

    Args:
      a, b: [latent_dim].
      t: [num], 0 at a and 1 at b.

    Returns:
      [num, latent_dim] float32.
    """
    t = np.asarray(t)[:, None]
    return ((1 - t) * a + t * b).astype(np.float32)


def spherical(a, b, t, *, mean, cholesky):
    """Along the great circle from a to b around `mean`, after whitening by `cholesky`.

    With w = cholesky^-1 (z - mean), the direction of w turns by equal angles for equal t (Shoemake
    1985) and its length goes evenly from that of a to that of b, so that the path is as typical of
    the density as its ends are. Where the ends lie in opposite directions, or one of them at the
    mean, no circle is given and the path is straight.

    Args:
      a, b: [latent_dim].
      t: [num], 0 at a and 1 at b.
      mean: [latent_dim], of the density.
      cholesky: [latent_dim, latent_dim], lower triangular factor of its covariance.

    Returns:
      [num, latent_dim] float32.
    """
    a, b, mean, cholesky = (np.asarray(x, np.float64) for x in (a, b, mean, cholesky))
    white_a, white_b = np.linalg.solve(cholesky, np.stack([a - mean, b - mean], 1)).T
    length_a, length_b = np.linalg.norm(white_a), np.linalg.norm(white_b)
    # Of the angle between the directions.
    cosine = white_a @ white_b / max(length_a * length_b, 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    if min(length_a, length_b) < 1e-6 or np.sin(angle) < 1e-6:
        return straight(a, b, t)
    t = np.asarray(t, np.float64)[:, None]
    direction = (
        np.sin((1 - t) * angle) * white_a / length_a + np.sin(t * angle) * white_b / length_b
    ) / np.sin(angle)
    white = ((1 - t) * length_a + t * length_b) * direction
    return (mean + white @ cholesky.T).astype(np.float32)


def bilinear(corners, u, v):
    """(1-v) ((1-u) A + u B) + v ((1-u) C + u D).

    Args:
      corners: [4, latent_dim]: A left above, B right above, C left below, D right below.
      u, v: [num], from left to right and from top to bottom, in [0, 1].

    Returns:
      [num, latent_dim] float32.
    """
    u, v = np.asarray(u), np.asarray(v)
    weights = np.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u], axis=1)
    return (weights @ np.asarray(corners)).astype(np.float32)


def grid_shape(num: int) -> tuple[int, int]:
    """(rows, columns) of the grid nearest to `num` points: near to square, two of each at least."""
    rows = max(2, round(num**0.5))
    return rows, max(2, round(num / rows))
