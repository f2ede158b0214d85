"""Single-example encoders and decoders (Flax linen)."""

import jax.numpy as jnp

from vaejax.config import Config
from vaejax.models.conv1d import VAE


def create_model(config: Config) -> VAE:
    """The model that a config describes."""
    return VAE(
        num_frames=config.num_frames,
        num_bins=config.features.num_bins,
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
