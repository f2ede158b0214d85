"""1-D convolutions on the samples themselves.

One clip in, one clip out: [num_samples], no batch axis, any number of samples. As the waveform
model (SampleVAE) of the workshop "Introduction to Audio Synthesis with Machine Learning" (Allan
Pichardo 2021): convolution, ReLU and average pooling by two, of 8, 8, 16, 16, 32, 32 channels, and
the mirror image of that as decoder. Its batch normalisation is left out, since what a clip becomes
would depend on the clips beside it; weights start at the scale that makes up for each ReLU instead.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import Config
from vaejax.models.resize_conv import ResizeConv
from vaejax.models.vae import VAE, Posterior, around, last

# Halved by every ReLU, the signal would fade (He et al. 2015).
HE = nn.initializers.he_normal()


def widths(width: int, num_stages: int) -> list[int]:
    """Channels of each stage; they double every second one: 8, 8, 16, 16, 32, 32."""
    return [width * 2 ** (stage // 2) for stage in range(num_stages)]


class Encoder(nn.Module):
    """A clip [num_samples] and a condition -> mean and logvar."""

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
        h = x[:, None]
        for width in widths(self.width, self.num_stages):
            for _ in range(self.num_blocks):
                h = nn.Conv(width, (self.kernel_size,), dtype=self.dtype, kernel_init=HE)(h)
                h = nn.relu(h)
            # [samples, width] -> [ceil(samples / 2), width]; the last of an odd number is alone.
            h = nn.avg_pool(h, (2,), strides=(2,), padding="SAME", count_include_pad=False)
        return Posterior(self.latent_dim, self.is_correction)(h, condition)


class Decoder(nn.Module):
    """Latent and condition, [..] -> [num_samples]."""

    num_samples: int
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    is_correction: bool
    """Whether the last layer is zero at the start."""
    dtype: Any

    @nn.compact
    def __call__(self, z):
        """What the model says of a clip, [num_samples] float32."""
        # Samples at each stage, as the encoder's pooling made them: 44100 -> 22050, 11025, 5513.
        lengths = [self.num_samples]
        for _ in range(self.num_stages):
            lengths.append(-(-lengths[-1] // 2))
        stages = widths(self.width, self.num_stages)
        first = stages[-1] if stages else self.width
        h = nn.relu(nn.Dense(lengths[-1] * first, dtype=self.dtype)(z)).reshape(lengths[-1], first)
        for width, length in zip(reversed(stages), reversed(lengths[:-1]), strict=True):
            for i in range(self.num_blocks):
                # A strided transposed convolution would leave a tone at its stride.
                factor = (2,) if i == 0 else (1,)
                kernel = (self.kernel_size,)
                h = ResizeConv(width, kernel, factor, (length,), self.dtype, HE)(h)
                h = nn.relu(h)
        out = nn.Conv(
            1, (self.kernel_size,), dtype=self.dtype, kernel_init=last(self.is_correction)
        )(h)
        return out[:, 0].astype(jnp.float32)


def create(config: Config) -> VAE:
    """The model that a config describes."""
    model = config.model
    sizes = (model.width, model.num_stages, model.num_blocks, model.kernel_size)
    rest = (bool(config.num_directions), jnp.dtype(model.compute_dtype))
    return around(
        Encoder(config.latent_dim, *sizes, *rest), Decoder(config.shape[0], *sizes, *rest), config
    )
