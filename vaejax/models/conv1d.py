"""A residual 1-D convolutional VAE over time, with frequency bins as channels.

One clip in, one clip out: [num_frames, num_bins], no batch axis. Where the representation has
channels of its own, [num_frames, num_bins, num_channels], bins and channels are one axis here.
Encoder and decoder add corrections, zero at the start, to a linear path fitted beforehand
(`models.linear`), so that step 0 is probabilistic PCA. There are two kinds of corrections:

- dense: between z and the coordinates along some hundred principal directions, most of which z has
  no dimension for. It bends the plane of PCA into a surface, and learns in a few hundred steps;
- convolutional: between z and the spectrogram itself, for what no principal direction holds.

Corrections are measured in the units of the linear path's own uncertainty: the posterior's standard
deviation for the latent mean, the likelihood's for the spectrogram.
"""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import Config
from vaejax.models import linear as linear_path
from vaejax.models.linear import Linear


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


class Dense(nn.Module):
    """A residual perceptron [..] -> [out], zero at the start."""

    width: int
    depth: int
    out: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """`depth` hidden layers, the later ones around identity."""
        h = nn.Dense(self.width, dtype=self.dtype)(x)
        for _ in range(self.depth - 1):
            h = h + nn.Dense(self.width, dtype=self.dtype)(nn.gelu(h))
        h = nn.gelu(h).astype(jnp.float32)
        return nn.Dense(self.out, kernel_init=nn.initializers.zeros)(h)


class Encoder(nn.Module):
    """Spectrogram [num_frames, num_bins] -> corrections of mean and logvar, [latent_dim] each."""

    latent_dim: int
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """Corrections of the posterior: (mean in standard deviations, logvar)."""
        h = nn.Dense(self.width, dtype=self.dtype)(x)  # [num_frames, width]
        for _ in range(self.num_stages):
            # [frames, width] -> [ceil(frames / 2), width]
            h = nn.Conv(self.width, (self.kernel_size,), strides=2, dtype=self.dtype)(h)
            for _ in range(self.num_blocks):
                h = Block(self.width, self.kernel_size, self.dtype)(h)
        h = nn.gelu(h).reshape(-1).astype(jnp.float32)
        mean = nn.Dense(self.latent_dim, kernel_init=nn.initializers.zeros, name="mean")(h)
        logvar = nn.Dense(self.latent_dim, kernel_init=nn.initializers.zeros, name="logvar")(h)
        return mean, logvar


class Decoder(nn.Module):
    """Latent and condition, [..] -> correction of the spectrogram, [num_frames, num_bins]."""

    num_frames: int
    num_bins: int
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    dtype: Any

    @nn.compact
    def __call__(self, z):
        """Correction of the spectrogram in standard deviations of the likelihood."""
        # Frames at each stage, as the encoder's strides made them: 87 -> 44, 22, 11.
        frames = [self.num_frames]
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
        h = nn.gelu(h)
        out = nn.Dense(self.num_bins, dtype=self.dtype, kernel_init=nn.initializers.zeros)(h)
        return out.astype(jnp.float32)


class VAE(nn.Module):
    """Encoder and decoder around a linear path that is passed in, not trained."""

    shape: tuple[int, ...]
    """Of x, [num_frames, num_bins] or [num_frames, num_bins, num_channels]."""
    latent_dim: int
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    num_directions: int
    dense_width: int
    dense_depth: int
    dtype: Any = jnp.float32

    def setup(self):
        """Builds the halves."""
        sizes = (self.width, self.num_stages, self.num_blocks, self.kernel_size, self.dtype)
        self.encoder = Encoder(self.latent_dim, *sizes)
        self.decoder = Decoder(self.shape[0], math.prod(self.shape[1:]), *sizes)
        dense = (self.dense_width, self.dense_depth)
        self.dense_encoder = Dense(*dense, 2 * self.latent_dim, self.dtype)
        self.dense_decoder = Dense(*dense, self.num_directions, self.dtype)

    def encode(self, x, condition, linear: Linear):
        """x [*shape] and condition [condition_dim] -> posterior mean and logvar, [latent_dim]
        each."""
        coordinates = linear_path.coordinates(linear, x, condition)
        mean, logvar = linear_path.posterior(linear, coordinates, latent_dim=self.latent_dim)
        unit = linear_path.unit(linear, latent_dim=self.latent_dim)
        told = jnp.concatenate([coordinates / unit, condition])
        dense_mean, dense_logvar = jnp.split(self.dense_encoder(told), 2)
        conv_mean, conv_logvar = self.encoder((x - linear.loc).reshape(self.shape[0], -1))
        sigma = jnp.exp(0.5 * logvar)
        return mean + sigma * (dense_mean + conv_mean), logvar + dense_logvar + conv_logvar

    def decode(self, z, condition, linear: Linear):
        """Latent [latent_dim] and condition [condition_dim] -> mean of the likelihood, [*shape]."""
        unit = linear_path.unit(linear, latent_dim=self.latent_dim)
        told = jnp.concatenate([z, condition])
        coordinates = linear_path.likelihood_coordinates(linear, z)
        coordinates += linear_path.offset(linear, condition) + unit * self.dense_decoder(told)
        correction = self.decoder(told).reshape(self.shape)
        return linear_path.at(linear, coordinates) + jnp.sqrt(linear.noise) * correction

    def __call__(self, x, condition, linear: Linear):
        """Touches every parameter, for `init`."""
        mean, _ = self.encode(x, condition, linear)
        return self.decode(mean, condition, linear)


def create(config: Config) -> VAE:
    """The model that a config describes."""
    return VAE(
        shape=config.shape,
        latent_dim=config.model.latent_dim,
        width=config.model.width,
        num_stages=config.model.num_stages,
        num_blocks=config.model.num_blocks,
        kernel_size=config.model.kernel_size,
        num_directions=config.model.num_directions,
        dense_width=config.model.dense_width,
        dense_depth=config.model.dense_depth,
        dtype=jnp.dtype(config.model.compute_dtype),
    )
