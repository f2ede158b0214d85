"""Networks of the latent itself, for the priors and posteriors of `objective`.

They change nothing at the start: the last layer of every perceptron is zero.
"""

import jax.numpy as jnp
from flax import linen as nn

from vaejax.models.vae import Dense


class Flow(nn.Module):
    """Affine coupling layers (Dinh et al. 2017), told what the encoder says.

    Every layer keeps one half of the dimensions, in turns the even and the odd ones, and scales and
    shifts the other by what a perceptron reads off the half kept.
    """

    latent_dim: int
    num_layers: int
    width: int

    def setup(self):
        """Builds the perceptrons."""
        self.layers = [
            Dense(self.width, 1, 2 * self.latent_dim, jnp.float32) for _ in range(self.num_layers)
        ]

    def __call__(self, u, context):
        """u [latent_dim] and context [any] -> the bent u [latent_dim], and the logarithm of how
        much each dimension was stretched [latent_dim], which sums to log|det|."""
        stretched = jnp.zeros(self.latent_dim)
        for i in range(self.num_layers):
            log_scale, shift = self._layer(i, u, context)
            u = u * jnp.exp(log_scale) + shift
            stretched += log_scale
        return u, stretched

    def inverse(self, u, context):
        """The inverse of `__call__`, and the same logarithms."""
        stretched = jnp.zeros(self.latent_dim)
        for i in reversed(range(self.num_layers)):
            log_scale, shift = self._layer(i, u, context)
            u = (u - shift) * jnp.exp(-log_scale)
            stretched += log_scale
        return u, stretched

    def _layer(self, i: int, u, context):
        """Log-scale and shift [latent_dim] of a layer, zeros for what it keeps."""
        kept = jnp.arange(self.latent_dim) % 2 == i % 2
        told = jnp.concatenate([jnp.where(kept, u, 0.0), context])
        log_scale, shift = jnp.split(self.layers[i](told), 2)
        # Bounded, as Dinh et al. do, so that one step cannot make a dimension infinite.
        return jnp.where(kept, 0.0, jnp.tanh(log_scale)), jnp.where(kept, 0.0, shift)


class Hierarchy(nn.Module):
    """The two Gaussians between z and a level above it, p(z|top) and q(top|z).

    At the start the first dimensions of z and those of the level above are standard normal with a
    correlation of `CORRELATION`, and both Gaussians the exact conditionals: p(z) is N(0, I), and
    the level above is alive from the first step on. Independent ones would be a saddle point.
    """

    latent_dim: int
    top_dim: int
    width: int

    CORRELATION = 0.5

    def setup(self):
        """Builds the perceptrons."""
        self.down = Dense(self.width, 1, 2 * self.latent_dim, jnp.float32)
        self.up = Dense(self.width, 1, 2 * self.top_dim, jnp.float32)

    def top(self, z):
        """z [latent_dim] -> mean and logvar [top_dim] of q(top|z)."""
        mean, logvar = jnp.split(self.up(z), 2)
        return (
            self.CORRELATION * z[: self.top_dim] + mean,
            jnp.log(1 - self.CORRELATION**2) + logvar,
        )

    def bottom(self, top):
        """top [top_dim] -> mean and logvar [latent_dim] of p(z|top)."""
        mean, logvar = jnp.split(self.down(top), 2)
        rest = (0, self.latent_dim - self.top_dim)
        start = jnp.full(self.top_dim, jnp.log(1 - self.CORRELATION**2))
        return jnp.pad(self.CORRELATION * top, rest) + mean, jnp.pad(start, rest) + logvar

    def __call__(self, z):
        """Touches every parameter, for `init`."""
        return self.bottom(self.top(z)[0])
