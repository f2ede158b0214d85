"""Windows against SciPy, and what they promise about overlap."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from vaejax.signal.windows import WINDOWS, get_window


@pytest.mark.parametrize("win_length", [1, 2, 511, 512])
@pytest.mark.parametrize("window", ["hann", "hamming", ("kaiser", 8.6), ("gaussian", 70.0)])
def test_periodic_window_matches_scipy(window, win_length):
    expected = scipy.signal.get_window(window, win_length, fftbins=True)
    np.testing.assert_allclose(get_window(window, win_length), expected, atol=1e-14)


@pytest.mark.parametrize("beta", [2.0, 12.0])
def test_kaiser_bessel_derived_matches_scipy(beta):
    expected = scipy.signal.windows.kaiser_bessel_derived(512, beta, sym=True)
    np.testing.assert_allclose(get_window(("kbd", beta), 512), expected, atol=1e-14)


@pytest.mark.parametrize("window", ["vorbis", "kbd"])
def test_window_is_power_complementary_at_half_overlap(window):
    squared = get_window(window, 512) ** 2
    np.testing.assert_allclose(squared[:256] + squared[256:], 1.0, atol=1e-14)


def test_vorbis_matches_its_formula_at_the_edges_and_middle():
    window = get_window("vorbis", 4)
    expected = np.sin(np.pi / 2 * np.sin(np.pi * np.array([0.5, 1.5, 2.5, 3.5]) / 4) ** 2)
    np.testing.assert_allclose(window, expected, atol=1e-15)


def test_default_gaussian_falls_to_one_hundredth_at_its_first_sample():
    assert get_window("gaussian", 512)[0] == pytest.approx(0.01)


def test_every_named_window_has_the_length_asked_for():
    for name in WINDOWS:
        assert get_window(name, 48).shape == (48,)


def test_array_window_is_returned_as_it_is():
    samples = jnp.ones(16)
    assert get_window(samples, 16) is samples


def test_unknown_window_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown window 'blackhole'; known: gaussian, hamming"):
        get_window("blackhole", 16)


def test_array_window_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"shape \(15,\) but win_length=16"):
        get_window(np.ones(15), 16)


def test_empty_window_is_refused():
    with pytest.raises(ValueError, match="win_length=0 must be at least 1"):
        get_window("hann", 0)


def test_odd_kaiser_bessel_derived_is_refused_with_the_next_length():
    with pytest.raises(ValueError, match="win_length=15 is odd; try 16"):
        get_window("kbd", 15)
