"""What is said of a latent that is dead, half dead, alive."""

import numpy as np
import pytest

from vaejax import diagnostics


def test_active_units_counts_dimensions_above_the_threshold():
    assert diagnostics.active_units(np.array([0.0, 0.005, 0.02, 3.0])) == 2
    assert diagnostics.active_units(np.zeros(4)) == 0


def test_threshold_is_that_of_burda_et_al():
    assert diagnostics.active_units(np.array([0.0099, 0.0101])) == 1


@pytest.mark.parametrize(("kl", "units"), [(0.0, 0), (0.01, 5), (10.0, 0)])
def test_collapse_is_reported_with_a_way_out(kl, units):
    warning = diagnostics.collapse_warning(kl, units, 16)
    assert "the latent has collapsed" in warning
    assert "--objective.beta" in warning
    assert "of 16" in warning


def test_mostly_unused_latent_is_reported_with_the_numbers():
    warning = diagnostics.collapse_warning(8.0, 3, 64)
    assert warning.startswith("only 3 of 64 latent dimensions are in use")
    assert "--model.latent_dim 6" in warning


@pytest.mark.parametrize(("kl", "units", "latent_dim"), [(8.0, 8, 64), (3.0, 2, 8), (1.0, 1, 4)])
def test_a_live_latent_is_no_warning(kl, units, latent_dim):
    assert diagnostics.collapse_warning(kl, units, latent_dim) is None


def test_advice_says_what_the_figures_say():
    alive = {"loss": -5.0, "kl": 12.0, "active_units": 8}
    text = diagnostics.advice(20, alive, {"step": 20, "loss": -5.0}, 8)
    assert text == ("the latent is alive: 8 of 8 dimensions are in use, KL is 12 nats per sound")
    dead = {"loss": 3.0, "kl": 0.0, "active_units": 0}
    assert "--objective.beta" in diagnostics.advice(20, dead, {"step": 20, "loss": 3.0}, 8)


def test_advice_names_the_step_whose_weights_are_kept():
    worse = {"loss": 120.0, "kl": 12.0, "active_units": 8}
    text = diagnostics.advice(300, worse, {"step": 200, "loss": 110.0}, 8)
    assert "best at step 200 (110, now 120)" in text
