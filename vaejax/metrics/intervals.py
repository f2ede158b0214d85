"""How far a figure can be trusted: bootstrap intervals (Efron 1979), by resampling sounds."""

from collections.abc import Callable

import numpy as np

LEVEL = 0.95
NUM_RESAMPLES = 1000


def resamples(num: int, *, seed: int = 0, count: int = NUM_RESAMPLES) -> np.ndarray:
    """Rows [count, num] drawn with replacement from range(num); equal for equal arguments."""
    return np.random.default_rng(seed).integers(0, num, (count, num))


def percentiles(values) -> tuple[float, float]:
    """The central 95 % of resampled figures [count]."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(np.asarray(values, np.float64), [tail, 100 - tail])
    return float(low), float(high)


def of_mean(values, *, seed: int = 0) -> tuple[float, float]:
    """Interval of the mean of independent values [num]."""
    values = np.asarray(values, np.float64)
    return percentiles(values[resamples(len(values), seed=seed)].mean(1))


def of_ratio(values, others, *, seed: int = 0) -> tuple[float, float]:
    """Interval of mean(values) / mean(others), both [num] and paired: of the same sounds."""
    values, others = np.asarray(values, np.float64), np.asarray(others, np.float64)
    rows = resamples(len(values), seed=seed)
    return percentiles(values[rows].mean(1) / others[rows].mean(1))


def resampled(
    statistic: Callable, num: int, value: float, *, seed: int = 0, count: int = 100
) -> np.ndarray:
    """A figure that is no mean, such as a distance between sets, of resampled sets: [count].

    A resampled set has repeated points, which moves such a figure as a smaller set would; so the
    figures are centred on that of the whole set, and kept at 0 or above.

    Args:
      statistic: rows [num] int -> the figure of the set of those rows, >= 0.
      value: the figure of the whole set.
    """
    drawn = np.array([float(statistic(r)) for r in resamples(num, seed=seed, count=count)])
    return np.maximum(drawn - drawn.mean() + value, 0.0)
