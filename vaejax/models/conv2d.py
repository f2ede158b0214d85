"""2-D convolutions over the time-frequency plane.

One clip in, one clip out: [num_frames, num_bins] or [num_frames, num_bins, num_channels], no batch
axis, any number of frames and bins. Layers are of two kinds (`model.layers`):

- residual: blocks around the identity, channels that double as the plane shrinks, and an input that
  says which frequency a bin has;
- plain: groups of 3x3 convolutions and ReLU with max-pooling between the groups, the same number of
  channels throughout. Four stages of three, 16 wide, over patches of one value are the fifteen
  layers each way of the workshop "Introduction to Audio Synthesis with Machine Learning" (Allan
  Pichardo 2021).

Time on a CPU goes to the first and last layers, where the plane is large: the first convolution
reads, and the last writes, patches of several frames and bins (`model.patch`). Either decoder
repeats values and then convolves (`resize_conv`), which leaves no checkerboard.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import Config
from vaejax.models.frequency_aware import FrequencyAwareConv
from vaejax.models.resize_conv import ResizeConv
from vaejax.models.vae import VAE, Posterior, around, last

Size = tuple[int, int]


def plane_sizes(plane: Size, patch: Size, num_stages: int) -> list[Size]:
    """Frames and bins after the patches and after each halving: (87, 1025) in patches of (2, 4) is
    (44, 257), (22, 129), ..."""
    sizes = [(-(-plane[0] // patch[0]), -(-plane[1] // patch[1]))]
    for _ in range(num_stages):
        frames, bins = sizes[-1]
        sizes.append((-(-frames // 2), -(-bins // 2)))
    return sizes


def patch_kernel(kernel_size: int, patch: Size) -> Size:
    """A kernel that sees as far beyond a patch as kernel_size does beyond a value."""
    return kernel_size + patch[0] - 1, kernel_size + patch[1] - 1


class Block(nn.Module):
    """h + conv(gelu(conv(gelu(h)))), the identity at the start."""

    width: int
    kernel_size: int
    dtype: Any

    @nn.compact
    def __call__(self, h):
        """[frames, bins, width] -> [frames, bins, width]."""
        kernel = (self.kernel_size, self.kernel_size)
        update = nn.Conv(self.width, kernel, dtype=self.dtype)(nn.gelu(h))
        update = nn.Conv(self.width, kernel, dtype=self.dtype, kernel_init=nn.initializers.zeros)(
            nn.gelu(update)
        )
        return h + update


class ResidualEncoder(nn.Module):
    """What the model sees, [num_frames, num_bins, ...], and a condition -> mean and logvar."""

    latent_dim: int
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    patch: Size
    is_correction: bool
    """Whether the last layer is zero at the start."""
    dtype: Any

    @nn.compact
    def __call__(self, x, condition):
        """(mean, logvar), [latent_dim] each."""
        kernel = (self.kernel_size, self.kernel_size)
        h = FrequencyAwareConv(
            self.width,
            patch_kernel(self.kernel_size, self.patch),
            strides=self.patch,
            dtype=self.dtype,
        )(x)
        for stage in range(1, self.num_stages + 1):
            width = self.width * 2**stage
            # [frames, bins, width / 2] -> [ceil(frames / 2), ceil(bins / 2), width]
            h = nn.Conv(width, kernel, strides=(2, 2), dtype=self.dtype)(nn.gelu(h))
            for _ in range(self.num_blocks):
                h = Block(width, self.kernel_size, self.dtype)(h)
        return Posterior(self.latent_dim, self.is_correction)(nn.gelu(h), condition)


class ResidualDecoder(nn.Module):
    """Latent and condition, [..] -> [*shape]."""

    shape: tuple[int, ...]
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    patch: Size
    is_correction: bool
    """Whether the last layer is zero at the start."""
    dtype: Any

    @nn.compact
    def __call__(self, z):
        """What the model says of a clip, [*shape] float32."""
        kernel = (self.kernel_size, self.kernel_size)
        sizes = plane_sizes((self.shape[0], self.shape[1]), self.patch, self.num_stages)
        width = self.width * 2**self.num_stages
        frames, bins = sizes[-1]
        h = nn.Dense(frames * bins * width, dtype=self.dtype)(z).reshape(frames, bins, width)
        for stage in range(self.num_stages, 0, -1):
            for _ in range(self.num_blocks):
                h = Block(self.width * 2**stage, self.kernel_size, self.dtype)(h)
            width = self.width * 2 ** (stage - 1)
            # [frames, bins, 2 width] -> [2 frames, 2 bins, width], less where one was odd
            h = ResizeConv(width, kernel, (2, 2), sizes[stage - 1], self.dtype)(nn.gelu(h))
        return Patches(self.shape, self.kernel_size, self.patch, self.is_correction, self.dtype)(
            nn.gelu(h)
        )


class PlainEncoder(nn.Module):
    """What the model sees, [num_frames, num_bins, ...], and a condition -> mean and logvar."""

    latent_dim: int
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    patch: Size
    is_correction: bool
    """Whether the last layer is zero at the start."""
    dtype: Any

    @nn.compact
    def __call__(self, x, condition):
        """(mean, logvar), [latent_dim] each."""
        kernel = (self.kernel_size, self.kernel_size)
        h = x.reshape(*x.shape[:2], -1)
        for group in range(self.num_stages + 1):
            if group:
                h = nn.max_pool(h, (2, 2), strides=(2, 2), padding="SAME")
            for i in range(self.num_blocks):
                is_first = group == 0 and i == 0
                h = nn.Conv(
                    self.width,
                    patch_kernel(self.kernel_size, self.patch) if is_first else kernel,
                    strides=self.patch if is_first else (1, 1),
                    dtype=self.dtype,
                    # Halved by every ReLU, the signal would be gone after fifteen (He et al. 2015).
                    kernel_init=nn.initializers.he_normal(),
                )(h)
                h = nn.relu(h)
        return Posterior(self.latent_dim, self.is_correction)(h, condition)


class PlainDecoder(nn.Module):
    """Latent and condition, [..] -> [*shape]."""

    shape: tuple[int, ...]
    width: int
    num_stages: int
    num_blocks: int
    kernel_size: int
    patch: Size
    is_correction: bool
    """Whether the last layer is zero at the start."""
    dtype: Any

    @nn.compact
    def __call__(self, z):
        """What the model says of a clip, [*shape] float32."""
        kernel = (self.kernel_size, self.kernel_size)
        sizes = plane_sizes((self.shape[0], self.shape[1]), self.patch, self.num_stages)
        frames, bins = sizes[-1]
        h = nn.relu(nn.Dense(frames * bins * self.width, dtype=self.dtype)(z))
        h = h.reshape(frames, bins, self.width)
        for group in range(self.num_stages, -1, -1):
            for i in range(self.num_blocks):
                enlarges = i == 0 and group < self.num_stages
                h = ResizeConv(
                    self.width,
                    kernel,
                    (2, 2) if enlarges else (1, 1),
                    sizes[group],
                    self.dtype,
                    nn.initializers.he_normal(),
                )(h)
                h = nn.relu(h)
        return Patches(self.shape, self.kernel_size, self.patch, self.is_correction, self.dtype)(h)


class Patches(nn.Module):
    """The end of a decoder: [frames, bins, width], a position for each patch, -> [*shape]."""

    shape: tuple[int, ...]
    kernel_size: int
    patch: Size
    is_correction: bool
    dtype: Any

    @nn.compact
    def __call__(self, h):
        """[*shape] float32."""
        num_channels = self.shape[2] if len(self.shape) == 3 else 1
        out = ResizeConv(
            num_channels,
            patch_kernel(self.kernel_size, self.patch),
            self.patch,
            self.shape[:2],
            self.dtype,
            last(self.is_correction),
        )(h)
        return out.astype(jnp.float32).reshape(self.shape)


LAYERS = {
    "residual": (ResidualEncoder, ResidualDecoder),
    "plain": (PlainEncoder, PlainDecoder),
}


def create(config: Config) -> VAE:
    """The model that a config describes."""
    model = config.model
    encoder, decoder = LAYERS[model.layers]
    sizes = (model.width, model.num_stages, model.num_blocks, model.kernel_size, model.patch)
    rest = (bool(config.num_directions), jnp.dtype(model.compute_dtype))
    return around(
        encoder(config.latent_dim, *sizes, *rest), decoder(config.shape, *sizes, *rest), config
    )
