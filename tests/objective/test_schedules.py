"""Schedules against their definitions."""

import numpy as np
import pytest

from vaejax.config import Objective
from vaejax.objective.schedules import ramp_at

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


def ramps(steps, **fields):
    return [float(ramp_at(step, Objective(**fields))) for step in steps]


def test_the_weight_grows_in_a_straight_line_and_stays():
    steps = [0, 1, 5, 10, 11, 1000]
    got = ramps(steps, beta_warmup_steps=10)
    np.testing.assert_allclose(got, [0, 0.1, 0.5, 1, 1, 1], rtol=1e-6)


def test_without_warm_up_the_weight_is_constant():
    assert ramps([0, 7]) == [1.0, 1.0]


def test_cyclical_weight_starts_again_in_every_cycle():
    # Fu et al. 2019: four cycles, each half rising and half constant.
    got = ramps(range(16), schedule="cyclical", beta_warmup_steps=2, beta_cycle_steps=4)
    np.testing.assert_allclose(got, [0, 0.5, 1, 1] * 4)
