"""What benchmarks compare with, and how they count, is what it is said to be."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import flops
from benchmarks.peers import own


@pytest.fixture(scope="module")
def arrays(config, sounds, fitted):
    pytest.importorskip("torch")
    return own.reference(config, sounds, fitted)


@pytest.mark.parametrize("layout", ["first", "last"])
def test_pytorch_peer_has_vaejax_loss_and_gradients(config, arrays, layout):
    from benchmarks.peers import torch_vae

    found = torch_vae.same_model(own.sizes_of(config), arrays, layout)
    assert max(found[what] for what in ("spectrogram", "loss", "gradients")) < 1e-3, found
    # The noise added to the weights leaves no gradient zero, so that each was compared.
    assert all(abs(arrays[name]).max() > 0 for name in arrays if name.startswith("grads/"))


def test_operations_are_counted_by_hand():
    w, x = jnp.zeros((5, 7)), jnp.zeros((3, 5))
    assert flops.count(jnp.dot, x, w) == 2 * 3 * 5 * 7
    # The gradient of the weights is one more product of that size, and of x another.
    loss = lambda w, x: jnp.sum(jnp.dot(x, w) ** 2)  # noqa: E731
    assert flops.count(jax.grad(loss), w, x) == 2 * 2 * 3 * 5 * 7
    assert flops.count(jax.grad(loss, (0, 1)), w, x) == 3 * 2 * 3 * 5 * 7
    looped = lambda x: jax.lax.scan(lambda c, _: (c @ jnp.zeros((5, 5)), None), x, None, 4)[0]  # noqa: E731
    assert flops.count(looped, x) == 4 * 2 * 3 * 5 * 5


@pytest.mark.parametrize("stride", [1, 2])
def test_operations_of_a_convolution_and_its_gradients(stride):
    x, w = jnp.zeros((2, 16, 3)), jnp.zeros((5, 3, 4))  # [batch, time, in], [taps, in, out]

    def loss(x, w):
        out = jax.lax.conv_general_dilated(
            x, w, (stride,), "SAME", dimension_numbers=("NTC", "TIO", "NTC")
        )
        return jnp.sum(out**2)

    forward = 2 * (2 * (16 // stride) * 4) * (5 * 3)
    assert flops.count(loss, x, w) == forward
    assert flops.count(jax.grad(loss, (0, 1)), x, w) == 3 * forward
