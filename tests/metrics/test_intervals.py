"""Bootstrap intervals: their coverage, pairing, and figures that are no means."""

import numpy as np
import pytest

from vaejax.metrics import intervals


def test_the_interval_of_a_mean_holds_it_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        low, high = intervals.of_mean(rng.normal(3.0, 2.0, 50))
        hits.append(low <= 3.0 <= high)
    # A bootstrap of 50 is a little narrow; four standard errors of 300 trials are 0.05.
    assert 0.88 < np.mean(hits) < 0.99


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error():
    x = np.random.default_rng(1).normal(size=400)
    low, high = intervals.of_mean(x)
    assert high - low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.1)
    assert low < x.mean() < high


def test_the_interval_of_a_ratio_is_paired():
    x = np.random.default_rng(0).uniform(1, 9, 60)
    assert intervals.of_ratio(0.8 * x, x) == pytest.approx((0.8, 0.8))


def test_equal_arguments_give_equal_intervals():
    x = np.random.default_rng(0).normal(size=30)
    assert intervals.of_mean(x) == intervals.of_mean(x)
    assert intervals.of_mean(x, seed=1) != intervals.of_mean(x)


def test_a_figure_that_is_no_mean_is_centred_and_not_negative():
    x = np.random.default_rng(0).normal(size=80)
    # The number of different values falls to 63 % in a resampled set: a figure with a bias.
    drawn = intervals.resampled(lambda rows: len(set(x[rows])), 80, 80.0)
    assert drawn.shape == (100,)
    assert drawn.mean() == pytest.approx(80.0)
    assert intervals.resampled(lambda rows: x[rows].mean(), 80, 0.0).min() == 0.0
