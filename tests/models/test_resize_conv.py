"""Repeating and convolving in one, against doing the one after the other."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from vaejax.models.resize_conv import ResizeConv


@pytest.mark.parametrize(
    ("axes", "kernel_size", "factors", "size"),
    [
        ((5,), (3,), (2,), (9,)),
        ((4,), (5,), (3,), (12,)),
        ((3, 4), (3, 3), (2, 2), (6, 7)),
        ((3, 2), (4, 6), (2, 4), (5, 8)),
        ((3, 4), (3, 5), (1, 2), (3, 8)),
    ],
)
def test_it_is_a_convolution_of_the_repeated_values(axes, kernel_size, factors, size):
    h = np.random.default_rng(0).standard_normal((*axes, 3)).astype(np.float32)
    layer = ResizeConv(2, kernel_size, factors, size)
    params = layer.init(jax.random.key(0), h)["params"]
    params = {**params, "bias": np.array([0.5, -0.5], np.float32)}
    repeated = h
    for axis, factor in enumerate(factors):
        repeated = np.repeat(repeated, factor, axis=axis)
    plain = nn.Conv(2, kernel_size).apply({"params": params}, repeated)
    expected = plain[tuple(slice(n) for n in size)]
    got = layer.apply({"params": params}, h)
    assert got.shape == (*size, 2)
    np.testing.assert_allclose(got, expected, atol=1e-5)
