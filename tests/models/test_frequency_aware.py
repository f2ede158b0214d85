"""The convolution that knows its frequency, against the plain one it extends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from vaejax.models.frequency_aware import FrequencyAwareConv

SPECTROGRAM = np.random.default_rng(0).standard_normal((10, 6, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    conv = FrequencyAwareConv(features=4, kernel_size=(3, 3), strides=(2, 2))
    return conv, conv.init(jax.random.key(0), SPECTROGRAM)


def test_it_is_a_convolution_of_the_spectrogram_and_a_ramp(model):
    conv, variables = model
    got = conv.apply(variables, SPECTROGRAM)
    assert got.shape == (5, 3, 4)
    ramp = np.tile(np.linspace(0, 1, 6, dtype=np.float32)[None, :, None], (10, 1, 1))
    plain = nn.Conv(4, (3, 3), strides=(2, 2))
    weights = {"params": variables["params"]["Conv_0"]}
    expected = plain.apply(weights, np.concatenate([SPECTROGRAM, ramp], axis=-1))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_shift_in_frequency_changes_more_than_the_place():
    conv = FrequencyAwareConv(features=1, kernel_size=(1, 1))
    flat = jnp.ones((2, 8))
    variables = conv.init(jax.random.key(0), flat)
    got = conv.apply(variables, flat)
    assert got.shape == (2, 8, 1)
    # One weight per bin on the ramp: evenly spaced responses to the same level.
    steps = np.diff(np.asarray(got)[0, :, 0])
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    assert abs(steps[0]) > 1e-3


def test_jit_and_vmap_equal_one_by_one(model):
    conv, variables = model
    batch = np.stack([SPECTROGRAM, -SPECTROGRAM])
    fast = jax.jit(jax.vmap(lambda x: conv.apply(variables, x)))(batch)
    for got, one in zip(fast, batch, strict=True):
        np.testing.assert_allclose(got, conv.apply(variables, one), atol=1e-5)


def test_a_batch_is_refused(model):
    conv, variables = model
    with pytest.raises(ValueError, match=r"jax\.vmap over clips"):
        conv.apply(variables, np.zeros((2, 10, 6, 3)))
