"""A figure is {"value", "low", "high"}, the last two a bootstrap interval of 95 %."""

import numpy as np

from vaejax.metrics import intervals


def figure(value, interval: tuple[float, float]) -> dict[str, float]:
    """A figure for JSON."""
    return {"value": float(value), "low": interval[0], "high": interval[1]}


def of_mean(values) -> dict[str, float]:
    """The mean of a figure over sounds [num]."""
    values = np.asarray(values, np.float64)
    return figure(values.mean(), intervals.of_mean(values))
