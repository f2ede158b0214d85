"""A convolution over a spectrogram that knows which frequency it is at (single example)."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vaejax.signal.spectrum import append_frequency_map


class FrequencyAwareConv(nn.Module):
    """`nn.Conv` over [num_frames, num_bins] with a channel that says where a bin lies.

    A plain convolution treats a low band like a high one; with a channel that rises from 0 at the
    lowest bin to 1 at the highest it need not (Koutini et al. 2019, after CoordConv, Liu et al.
    2018).
    """

    features: int
    """Channels of the result."""
    kernel_size: Sequence[int] = (3, 3)
    """Frames and bins."""
    strides: Sequence[int] = (1, 1)
    padding: Any = "SAME"
    """As in `nn.Conv`."""
    use_bias: bool = True
    dtype: Any = jnp.float32
    """Of the computation; weights are float32."""

    @nn.compact
    def __call__(self, spectrogram):
        """[num_frames, num_bins] or [num_frames, num_bins, channels] to [..., features]."""
        return nn.Conv(
            self.features,
            tuple(self.kernel_size),
            strides=tuple(self.strides),
            padding=self.padding,
            use_bias=self.use_bias,
            dtype=self.dtype,
        )(append_frequency_map(spectrogram))
