"""The map in parts against jax.vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.devices import partwise


@pytest.mark.parametrize("num", [1, 4, 6, 7, 12])
def test_parts_are_the_whole_for_any_number_of_rows(num):
    x = np.random.default_rng(num).standard_normal((num, 5)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), num)

    def one(row, key, nothing):
        return {"sum": jnp.cumsum(row), "key": jax.random.fold_in(key, 1), "nothing": nothing}

    columns = x, keys, np.zeros((num, 0), np.float32)
    got, expected = partwise.vmap(one)(*columns), jax.vmap(one)(*columns)
    np.testing.assert_array_equal(got["sum"], expected["sum"])
    np.testing.assert_array_equal(
        jax.random.key_data(got["key"]), jax.random.key_data(expected["key"])
    )
    assert got["nothing"].shape == (num, 0)


def test_a_gradient_goes_through():
    x = jnp.arange(8.0)
    gradient = jax.grad(lambda x: jnp.sum(partwise.vmap(jnp.sin)(x)))(x)
    np.testing.assert_allclose(gradient, jnp.cos(x), rtol=1e-6)
