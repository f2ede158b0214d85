"""The cosine of cycles against NumPy's."""

import jax
import numpy as np

from vaejax.signal.cosine import cosine

CYCLES = np.concatenate([np.linspace(-2, 2, 1601), [-300.3, 1000.25]])


def test_cosine_is_that_of_numpy():
    exact = np.cos(2 * np.pi * np.float32(CYCLES).astype(np.float64))
    np.testing.assert_allclose(cosine(np.float32(CYCLES)), exact, atol=4e-7)


def test_gradient_is_minus_the_sine():
    got = jax.vmap(jax.grad(cosine))(np.float32(CYCLES))
    exact = -2 * np.pi * np.sin(2 * np.pi * np.float32(CYCLES).astype(np.float64))
    np.testing.assert_allclose(got, exact, atol=5e-5)
