"""A dense VAE on single STFT frames: CANNe's (Colonel et al. 2018) and MANNe's (2020).

One clip in, one clip out, but every frame goes through the same perceptrons by itself, so that z
is a path, one latent per frame: [num_frames * latent_dim], frame after frame. Nothing here knows
how many frames there are: a path of any length decodes to a spectrogram of its length, and a
constant one to a constant spectrum (`vaejax.sampling.sequences`).

The encoder narrows from a frame to z and the decoder mirrors it. What the model is told goes into
both beside the frame and beside z (MANNe's skip to the latent). The bottleneck's activation, if
any, is the first thing that the decoder does, so that z itself is unbounded and has a Gaussian
posterior. With a linear path (probabilistic PCA of frames; a linear bottleneck), both perceptrons
are corrections to it that start at zero, as in `models.vae`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import Config
from vaejax.models import linear as linear_path
from vaejax.models.linear import Linear

# MANNe's, of hidden layers: a unit that no frame switches on still learns.
LEAK = 0.1
# Of the posterior of a plain autoencoder: a standard deviation of 1e-3, a point all but for the
# priors that are fitted to the codes.
POINT_LOGVAR = 2 * math.log(1e-3)
BOTTLENECKS = {"linear": lambda z: z, "relu": nn.relu, "sigmoid": nn.sigmoid}


class Perceptron(nn.Module):
    """Dense layers [.., in] -> [.., widths[-1]], each with a leaky ReLU."""

    widths: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, h):
        """Hidden layers alone; what reads them out differs."""
        for width in self.widths:
            h = nn.Dense(width, dtype=self.dtype, kernel_init=nn.initializers.he_normal())(h)
            h = nn.leaky_relu(h, LEAK)
        return h.astype(jnp.float32)


class VAE(nn.Module):
    """Encoder and decoder of frames around a linear path that is passed in, not trained."""

    shape: tuple[int, ...]
    """Of a frame of x, [num_bins] or [num_bins, num_channels]."""
    latent_dim: int
    """Of a frame."""
    widths: tuple[int, ...]
    bottleneck: str
    variational: bool
    has_path: bool
    """Whether the linear path says anything; without one, nothing starts at zero."""
    dtype: Any = jnp.float32

    def setup(self):
        """Builds the halves."""
        init = nn.initializers
        start = init.zeros if self.has_path else init.lecun_normal()
        self.encoder = Perceptron(self.widths, self.dtype)
        self.mean = nn.Dense(self.latent_dim, kernel_init=start)
        if self.variational:
            self.logvar = nn.Dense(self.latent_dim, kernel_init=init.zeros)
        self.decoder = Perceptron(self.widths[::-1], self.dtype)
        self.out = nn.Dense(math.prod(self.shape), dtype=self.dtype, kernel_init=start)

    def encode(self, x, condition, linear: Linear):
        """x [num_frames, *shape] and condition [condition_dim] -> posterior mean and logvar,
        [num_frames * latent_dim] each."""

        def from_path(frame):
            coordinates = linear_path.coordinates(linear, frame, condition)
            return linear_path.posterior(linear, coordinates, latent_dim=self.latent_dim)

        mean, logvar = jax.vmap(from_path)(x)
        h = self.encoder(_beside((x - linear.loc[None]).reshape(len(x), -1), condition))
        mean = mean + jnp.exp(0.5 * logvar) * self.mean(h)
        if self.variational:
            logvar = logvar + self.logvar(h)
        else:
            logvar = jnp.full_like(logvar, POINT_LOGVAR)
        return mean.reshape(-1), logvar.reshape(-1)

    def decode(self, z, condition, linear: Linear):
        """A path [num_frames * latent_dim], of any number of frames, and condition
        [condition_dim] -> mean of the likelihood, [num_frames, *shape]."""
        path = z.reshape(-1, self.latent_dim)

        def from_path(z):
            coordinates = linear_path.likelihood_coordinates(linear, z)
            return linear_path.at(linear, coordinates + linear_path.offset(linear, condition))

        h = self.decoder(_beside(BOTTLENECKS[self.bottleneck](path), condition))
        correction = self.out(h).astype(jnp.float32).reshape(len(path), *self.shape)
        return jax.vmap(from_path)(path) + jnp.sqrt(linear.noise) * correction

    def __call__(self, x, condition, linear: Linear):
        """Touches every parameter, for `init`."""
        mean, _ = self.encode(x, condition, linear)
        return self.decode(mean, condition, linear)


def _beside(frames, condition):
    """[num_frames, n] and [condition_dim] -> [num_frames, n + condition_dim]."""
    told = jnp.broadcast_to(condition, (len(frames), *condition.shape))
    return jnp.concatenate([frames, told], axis=1)


def create(config: Config) -> VAE:
    """The model that a config describes."""
    model = config.model
    return VAE(
        shape=config.shape[1:],
        latent_dim=model.latent_dim,
        widths=model.frame_widths,
        bottleneck=model.bottleneck,
        variational=model.variational,
        has_path=model.ppca_clips > 0,
        dtype=jnp.dtype(model.compute_dtype),
    )
