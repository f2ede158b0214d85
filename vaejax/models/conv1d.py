"""Residual 1-D convolutions over time, with frequency bins as channels.

One clip in, one clip out: [num_frames, num_bins], no batch axis. Where the representation has
channels of its own, [num_frames, num_bins, num_channels], bins and channels are one axis here.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import Config
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


class Encoder(nn.Module):
    """What the model sees, [num_frames, ...], and a condition -> mean and logvar."""

    latent_dim: int
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    is_correction: bool
    """Whether the last layer is zero at the start."""
    dtype: Any

    @nn.compact
    def __call__(self, x, condition):
        """(mean, logvar), [latent_dim] each."""
        h = nn.Dense(self.width, dtype=self.dtype)(x.reshape(len(x), -1))  # [num_frames, width]
        for _ in range(self.num_stages):
            # [frames, width] -> [ceil(frames / 2), width]
            h = nn.Conv(self.width, (self.kernel_size,), strides=2, dtype=self.dtype)(h)
            for _ in range(self.num_blocks):
                h = Block(self.width, self.kernel_size, self.dtype)(h)
        return Posterior(self.latent_dim, self.is_correction)(nn.gelu(h), condition)


class Decoder(nn.Module):
    """Latent and condition, [..] -> [*shape]."""

    shape: tuple[int, ...]
    """[num_frames, num_bins] or [num_frames, num_bins, num_channels]."""
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    is_correction: bool
    """Whether the last layer is zero at the start."""
    dtype: Any

    @nn.compact
    def __call__(self, z):
        """What the model says of a clip, [*shape] float32."""
        # Frames at each stage, as the encoder's strides made them: 87 -> 44, 22, 11.
        frames = [self.shape[0]]
        for _ in range(self.num_stages):
            frames.append(-(-frames[-1] // 2))
        h = nn.Dense(frames[-1] * self.width, dtype=self.dtype)(z)
        h = h.reshape(frames[-1], self.width)
        for size in reversed(frames[:-1]):
            for _ in range(self.num_blocks):
                h = Block(self.width, self.kernel_size, self.dtype)(h)
            # Repeat and convolve: a strided transposed convolution leaves a checkerboard.
            h = jnp.repeat(h, 2, axis=0)[:size]
            h = nn.Conv(self.width, (self.kernel_size,), dtype=self.dtype)(h)
        num_values = math.prod(self.shape[1:])
        out = nn.Dense(num_values, dtype=self.dtype, kernel_init=last(self.is_correction))
        return out(nn.gelu(h)).astype(jnp.float32).reshape(self.shape)


def create(config: Config) -> VAE:
    """The model that a config describes."""
    model = config.model
    sizes = (model.width, model.num_stages, model.num_blocks, model.kernel_size)
    rest = (bool(config.num_directions), jnp.dtype(model.compute_dtype))
    return around(
        Encoder(config.latent_dim, *sizes, *rest), Decoder(config.shape, *sizes, *rest), config
    )
