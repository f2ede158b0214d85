import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.signal.fade import fade_out


def test_fade_is_half_a_cosine_that_ends_at_exactly_zero():
    faded = np.asarray(fade_out(jnp.ones(100), 40))
    np.testing.assert_array_equal(faded[:60], 1.0)
    expected = 0.5 * (1 + np.cos(np.pi * np.arange(1, 41) / 40))
    np.testing.assert_allclose(faded[60:], expected, atol=1e-6)
    assert faded[-1] == 0.0


def test_no_fade_changes_nothing():
    np.testing.assert_array_equal(fade_out(jnp.ones(5), 0), 1.0)


@pytest.mark.parametrize("num_samples", [-1, 6])
def test_a_fade_that_does_not_fit_is_refused(num_samples):
    with pytest.raises(ValueError, match=f"a fade of {num_samples} samples .* waveform of 5"):
        fade_out(jnp.ones(5), num_samples)
