"""Distances between two sets of points, each point a sound in `embedding`.

`real` is what should be matched (the training set), `made` what is judged (generated, or held out).
All estimates depend on the sizes of the sets: compare figures of equal sizes only.
"""

from functools import partial

import jax
import jax.numpy as jnp

# Points whose distances to all others are computed at a time.
BATCH = 64
NUM_STARTS, NUM_LLOYD = 8, 50
# Two-sided, of the test for a bin that differs.
Z_CRITICAL = 1.959964


def frechet(real, made):
    """Fréchet distance between Gaussians fitted to two sets (Dowson & Landau 1982, as used by
    Heusel et al. 2017):

        |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))

    Args:
      real, made: [num_points, dim], of any two numbers of points above 1.

    Returns:
      [] >= 0 in squared units of the points. Biased upwards for small sets.
    """

    def factor(points):
        mean = jnp.mean(points, 0)
        # C = R' R, of the size of C: a QR of the points themselves took seconds on a busy CPU.
        scaled = (points - mean) / jnp.sqrt(points.shape[0] - 1.0)
        covariance = jnp.dot(scaled.T, scaled, precision=jax.lax.Precision.HIGHEST)
        values, vectors = jnp.linalg.eigh(covariance)
        return mean, jnp.sqrt(jnp.maximum(values, 0.0))[:, None] * vectors.T

    (m1, r1), (m2, r2) = factor(real), factor(made)
    # tr((C1 C2)^(1/2)) is the sum of the singular values of R1 R2'.
    product = jnp.dot(r1, r2.T, precision=jax.lax.Precision.HIGHEST)
    shared = jnp.sum(jnp.linalg.svd(product, compute_uv=False))
    distance = jnp.sum((m1 - m2) ** 2) + jnp.sum(r1**2) + jnp.sum(r2**2) - 2 * shared
    return jnp.maximum(distance, 0.0)


def distances(point, points):
    """Euclidean distances [num_points] from one point [dim] to points [num_points, dim]."""
    # Not by |a|^2 + |b|^2 - 2 a b, which loses the small distances in float32.
    return jnp.sqrt(jnp.sum((points - point) ** 2, axis=1))


def neighbour_distances(points, *, k: int):
    """The distance [num_points] from each point to the k-th nearest other point.

    Args:
      points: [num_points, dim], more than k of them.
    """

    def one(point):
        # The nearest is the point itself.
        nearest, _ = jax.lax.top_k(-distances(point, points), k + 1)
        return -nearest[k]

    return jax.lax.map(one, points, batch_size=BATCH)


def inside(point, real, radii):
    """Which balls around `real` [num_points, dim] a point [dim] lies in: [num_points] bool."""
    return distances(point, real) <= radii


def precision_recall(real, made, *, k: int = 3):
    """Improved precision and recall (Kynkäänniemi et al. 2019, equations 1 to 3).

    A set's manifold is the union of balls around its points, each out to its k-th nearest
    neighbour. Precision is the share of `made` in the manifold of `real` (do they sound like the
    family?), recall the share of `real` in the manifold of `made` (is all of it covered?).

    Args:
      real, made: [num_points, dim].

    Returns:
      Whether each point of made [num_made], and of real [num_real], lies in the other's manifold,
      as 0.0 or 1.0: the means are precision and recall.
    """

    def share(points, centres):
        radii = neighbour_distances(centres, k=k)
        one = partial(_any_ball, centres=centres, radii=radii)
        return jax.lax.map(one, points, batch_size=BATCH)

    return share(made, real), share(real, made)


def _any_ball(point, centres, radii):
    return jnp.any(inside(point, centres, radii)).astype(jnp.float32)


def density_coverage(real, made, *, k: int = 5):
    """Density and coverage (Naeem et al. 2020, equations 3 and 4), which outliers move less.

    Density counts the balls of `real` that a made point lies in, over k: above 1 where made points
    crowd where real ones do. Coverage is the share of the balls of `real` with a made point.

    Args:
      real, made: [num_points, dim].

    Returns:
      Density of each made point [num_made], and whether each real point is covered [num_real], 0.0
      or 1.0: the means are density and coverage.
    """
    radii = neighbour_distances(real, k=k)

    def balls(point):
        return jnp.sum(inside(point, real, radii)) / k

    def covered(ball):
        centre, radius = ball
        return jnp.any(distances(centre, made) <= radius).astype(jnp.float32)

    return (
        jax.lax.map(balls, made, batch_size=BATCH),
        jax.lax.map(covered, (real, radii), batch_size=BATCH),
    )


def nearest_centre(points, centres):
    """Index [num_points] int32 of the centre that is nearest to each point."""
    return jax.lax.map(lambda p: jnp.argmin(distances(p, centres)), points, batch_size=BATCH)


def k_means(key, points, *, num_bins: int):
    """Centres [num_bins, dim] of Voronoi cells by Lloyd's algorithm (1982): the best of NUM_STARTS
    starts by k-means++ (Arthur & Vassilvitskii 2007).

    Args:
      key: of the starts.
      points: [num_points, dim], num_bins or more of them.
    """
    points = jnp.asarray(points)

    def once(key):
        centres = _lloyd(points, _plus_plus(key, points, num_bins))
        bins = nearest_centre(points, centres)
        return centres, jnp.sum((points - centres[bins]) ** 2)

    centres, inertia = jax.lax.map(once, jax.random.split(key, NUM_STARTS))
    return centres[jnp.argmin(inertia)]


def _plus_plus(key, points, num_bins: int):
    """Points drawn one by one by their squared distance to those drawn before."""
    keys = jax.random.split(key, num_bins)
    first = points[jax.random.randint(keys[0], (), 0, points.shape[0])]
    centres = jnp.zeros((num_bins, points.shape[1])).at[0].set(first)

    def add(i, state):
        centres, squared = state
        # Where all points have a centre already, any of them is as good a next one.
        chosen = points[jax.random.categorical(keys[i], jnp.log(squared + 1e-12))]
        return centres.at[i].set(chosen), jnp.minimum(squared, distances(chosen, points) ** 2)

    state = centres, distances(first, points) ** 2
    return jax.lax.fori_loop(1, num_bins, add, state)[0]


def _lloyd(points, centres):
    """Moves each centre to the mean of the points nearest to it, NUM_LLOYD times."""

    def improve(_, centres):
        bins = nearest_centre(points, centres)
        counts = jnp.zeros(len(centres)).at[bins].add(1.0)
        sums = jnp.zeros_like(centres).at[bins].add(points)
        # A cell that has lost all its points keeps its centre.
        return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts[:, None], 1.0), centres)

    return jax.lax.fori_loop(0, NUM_LLOYD, improve, centres)


def bin_shares(points, centres):
    """Share of the points [num_points, dim] in the cell of each centre, [num_bins]."""
    bins = nearest_centre(points, centres)
    return jnp.zeros(centres.shape[0]).at[bins].add(1.0 / points.shape[0])


def ndb(real_shares, made_shares, *, num_real, num_made):
    """Number of statistically different bins, over their number (Richardson & Weiss 2018).

    A bin differs if a two-proportion z-test with pooled variance says so at 5 %. Sets from one
    distribution differ in about 0.05 of the bins; in fewer where bins hold few points.

    Args:
      real_shares, made_shares: [num_bins], of `bin_shares`.
      num_real, num_made: points.

    Returns:
      [] in [0, 1]; lower is better.
    """
    pooled = (num_real * real_shares + num_made * made_shares) / (num_real + num_made)
    error = jnp.sqrt(pooled * (1 - pooled) * (1 / num_real + 1 / num_made))
    # A bin empty in both sets does not differ.
    return jnp.mean(jnp.abs(real_shares - made_shares) > Z_CRITICAL * error)


def jensen_shannon(p, q):
    """Jensen-Shannon divergence (Lin 1991) of two distributions [num_bins] over the same bins.

    Returns:
      [] nats, from 0 (equal) to ln 2 = 0.693 (no bin in common).
    """

    def relative_entropy(a, b):
        return jnp.sum(jnp.where(a > 0, a * jnp.log(jnp.where(a > 0, a / b, 1.0)), 0.0))

    middle = jnp.where(p + q > 0, (p + q) / 2, 1.0)
    return 0.5 * (relative_entropy(p, middle) + relative_entropy(q, middle))


def mean_distance(points):
    """Mean distance of each point [num_points, dim] to all others, [num_points]: their mean is the
    diversity of the set, in units of the points."""

    def one(point):
        return jnp.sum(distances(point, points)) / (points.shape[0] - 1)

    return jax.lax.map(one, points, batch_size=BATCH)
