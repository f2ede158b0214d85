"""Residual 1-D convolutions over time, with frequency bins as channels.

One clip in, one clip out: [num_frames, num_bins], no batch axis. Where the representation has
channels of its own, [num_frames, num_bins, num_channels], bins and channels are one axis here.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import Config, Model
from vaejax.models.vae import VAE, Posterior, around, last


class Block(nn.Module):
    """h + conv(gelu(conv(gelu(h)))), the identity at the start."""

    width: int
    kernel_size: int
    dtype: Any

    @nn.compact
    def __call__(self, h):
        """[num_frames, width] -> [num_frames, width]."""
        update = nn.Conv(self.width, (self.kernel_size,), dtype=self.dtype)(nn.gelu(h))
        update = nn.Conv(
            self.width, (self.kernel_size,), dtype=self.dtype, kernel_init=nn.initializers.zeros
        )(nn.gelu(update))
        return h + update


# By the name that `model.block` has: (width, kernel_size, dtype) -> [num_frames, width] to itself.
BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "residual": Block,
}


def block(model: Model) -> nn.Module:
    """The block that a config names."""
    return BLOCKS[model.block](model.width, model.kernel_size, jnp.dtype(model.compute_dtype))


class Encoder(nn.Module):
    """What the model sees, [num_frames, ...], and a condition -> mean and logvar."""

    model: Model
    latent_dim: int
    is_correction: bool
    """Whether the last layer is zero at the start."""

    @nn.compact
    def __call__(self, x, condition):
        """(mean, logvar), [latent_dim] each."""
        model, dtype = self.model, jnp.dtype(self.model.compute_dtype)
        h = nn.Dense(model.width, dtype=dtype)(x.reshape(len(x), -1))  # [num_frames, width]
        for _ in range(model.num_stages):
            # [frames, width] -> [ceil(frames / 2), width]
            h = nn.Conv(model.width, (model.kernel_size,), strides=2, dtype=dtype)(h)
            for _ in range(model.num_blocks):
                h = block(model)(h)
        return Posterior(self.latent_dim, self.is_correction)(nn.gelu(h), condition)


class Decoder(nn.Module):
    """Latent and condition, [..] -> [*shape]."""

    model: Model
    shape: tuple[int, ...]
    """[num_frames, num_bins] or [num_frames, num_bins, num_channels]."""
    is_correction: bool
    """Whether the last layer is zero at the start."""

    @nn.compact
    def __call__(self, z):
        """What the model says of a clip, [*shape] float32."""
        model, dtype = self.model, jnp.dtype(self.model.compute_dtype)
        # Frames at each stage, as the encoder's strides made them: 87 -> 44, 22, 11.
        frames = [self.shape[0]]
        for _ in range(model.num_stages):
            frames.append(-(-frames[-1] // 2))
        h = nn.Dense(frames[-1] * model.width, dtype=dtype)(z)
        h = h.reshape(frames[-1], model.width)
        for size in reversed(frames[:-1]):
            for _ in range(model.num_blocks):
                h = block(model)(h)
            # Repeat and convolve: a strided transposed convolution leaves a checkerboard.
            h = jnp.repeat(h, 2, axis=0)[:size]
            h = nn.Conv(model.width, (model.kernel_size,), dtype=dtype)(h)
        num_values = math.prod(self.shape[1:])
        out = nn.Dense(num_values, dtype=dtype, kernel_init=last(self.is_correction))
        return out(nn.gelu(h)).astype(jnp.float32).reshape(self.shape)


def create(config: Config) -> VAE:
    """The model that a config describes."""
    model, is_correction = config.model, bool(config.num_directions)
    return around(
        Encoder(model, config.latent_dim, is_correction),
        Decoder(model, config.shape, is_correction),
        config,
    )
