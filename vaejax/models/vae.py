"""A VAE as corrections of a linear path, or without one: encoder and decoder are given.

Whatever its layers, a model of `models` is an encoder (x, condition) -> mean, logvar and a decoder
(z and condition) -> x, single example in and out. With a linear path fitted beforehand
(`models.linear`), both add corrections to it that are zero at the start, so that step 0 is
probabilistic PCA. There are three kinds of corrections:

- dense: between z and the coordinates along some hundred principal directions, most of which z has
  no dimension for. It bends the plane of PCA into a surface, and learns in a few hundred steps;
- those of encoder and decoder: between z and x itself, for what no principal direction holds;
- refinements, if model.num_refinements asks for them: the encoder is shown the error of its answer
  along the principal directions, and the gradient of their likelihood, and answers again (iterative
  amortized inference, Marino et al. 2018). It helps most with sounds unlike those trained on.

Corrections are measured in the units of the linear path's own uncertainty: the posterior's standard
deviation for the latent mean, the likelihood's for x. Without a linear path (model.ppca_clips 0)
there is nothing to correct: encoder and decoder are the whole model and start from random weights.
"""

from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vaejax.config import Config
from vaejax.models import linear as linear_path
from vaejax.models.linear import Linear

RANDOM = nn.initializers.lecun_normal()
# A tenth of that.
NEARLY_ZERO = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")


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


class Posterior(nn.Module):
    """The head of an encoder: what it found [..] and a condition -> mean and logvar."""

    latent_dim: int
    is_correction: bool
    """Zero at the start."""

    @nn.compact
    def __call__(self, found, condition):
        """(mean, logvar), [latent_dim] each, float32."""
        h = jnp.concatenate([found.reshape(-1).astype(jnp.float32), condition])
        # Random means tell sounds apart from the first step on.
        random_or_zero = nn.initializers.zeros if self.is_correction else RANDOM
        mean = nn.Dense(self.latent_dim, kernel_init=random_or_zero, name="mean")(h)
        # The same variance for all sounds at first: that of the prior, which costs no nats.
        logvar = nn.Dense(self.latent_dim, kernel_init=nn.initializers.zeros, name="logvar")(h)
        return mean, logvar


def last(is_correction: bool):
    """How the weights of a decoder's last layer start: at zero around a linear path. Without one,
    near it: the mean sound is a better first answer than noise, and from exact silence distances
    of magnitudes have no gradient."""
    return nn.initializers.zeros if is_correction else NEARLY_ZERO


class VAE(nn.Module):
    """Encoder and decoder around a linear path that is passed in, not trained; or alone."""

    encoder: nn.Module
    """(x [*shape], condition [condition_dim]) -> mean, logvar, [latent_dim] each."""
    decoder: nn.Module
    """[latent_dim + condition_dim] -> [*shape]."""
    latent_dim: int
    num_directions: int
    """Of the linear path; 0 leaves it out."""
    dense_width: int
    dense_depth: int
    dtype: Any = jnp.float32
    num_refinements: int = 0

    def setup(self):
        """Builds the dense corrections and the refiner."""
        if self.num_directions:
            sizes = (self.dense_width, self.dense_depth)
            self.dense_encoder = Dense(*sizes, 2 * self.latent_dim, self.dtype)
            self.dense_decoder = Dense(*sizes, self.num_directions, self.dtype)
            if self.num_refinements:
                self.refiner = Dense(*sizes, 2 * self.latent_dim, self.dtype)

    def encode(self, x, condition, linear: Linear):
        """x [*shape] and condition [condition_dim] -> posterior mean and logvar, [latent_dim]
        each."""
        if not self.num_directions:
            return self.encoder(x, condition)
        coordinates = linear_path.coordinates(linear, x, condition)
        mean, logvar = linear_path.posterior(linear, coordinates, latent_dim=self.latent_dim)
        unit = linear_path.unit(linear, latent_dim=self.latent_dim)
        told = jnp.concatenate([coordinates / unit, condition])
        dense_mean, dense_logvar = jnp.split(self.dense_encoder(told), 2)
        conv_mean, conv_logvar = self.encoder(x - linear.loc, condition)
        sigma = jnp.exp(0.5 * logvar)
        mean, logvar = mean + sigma * (dense_mean + conv_mean), logvar + dense_logvar + conv_logvar
        coordinates += linear_path.offset(linear, condition)
        for _ in range(self.num_refinements):
            mean, logvar = self.refine(mean, logvar, sigma, coordinates, condition, linear)
        return mean, logvar

    def refine(self, mean, logvar, sigma, coordinates, condition, linear: Linear):
        """Posterior mean and logvar [latent_dim] once more, after a look at what they get wrong.

        Args:
          sigma: [latent_dim], the linear path's own standard deviation.
          coordinates: [num_directions], the sound's along the principal directions.
        """
        # log p(coordinates | z) = -|error|^2 / (2 noise) + const: its gradient in z, times sigma^2.
        # Were nothing bent, that step would lead from z = 0 to the posterior's mean; from elsewhere
        # it lacks the prior's part, for which the refiner is shown z.
        at = partial(_coordinates, condition=condition, linear=linear)
        found, backward = nn.vjp(at, self.dense_decoder, mean, vjp_variables=False)
        error = coordinates - found
        step = sigma**2 * backward(error / linear.noise)[-1]
        unit = linear_path.unit(linear, latent_dim=self.latent_dim)
        more_mean, more_logvar = jnp.split(
            self.refiner(jnp.concatenate([error / unit, step, mean, condition])), 2
        )
        return mean + sigma * more_mean, logvar + more_logvar

    def decode(self, z, condition, linear: Linear):
        """Latent [latent_dim] and condition [condition_dim] -> mean of the likelihood, [*shape]."""
        told = jnp.concatenate([z, condition])
        if not self.num_directions:
            return self.decoder(told)
        coordinates = _coordinates(self.dense_decoder, z, condition, linear)
        return linear_path.at(linear, coordinates) + jnp.sqrt(linear.noise) * self.decoder(told)

    def __call__(self, x, condition, linear: Linear):
        """Touches every parameter, for `init`."""
        mean, _ = self.encode(x, condition, linear)
        return self.decode(mean, condition, linear)


def _coordinates(dense_decoder, z, condition, linear: Linear):
    """Those of what z [latent_dim] stands for along the principal directions, [num_directions]."""
    unit = linear_path.unit(linear, latent_dim=len(z))
    dense = dense_decoder(jnp.concatenate([z, condition]))
    coordinates = linear_path.likelihood_coordinates(linear, z)
    return coordinates + (linear_path.offset(linear, condition) + unit * dense)


def around(encoder: nn.Module, decoder: nn.Module, config: Config) -> VAE:
    """A VAE of an encoder and a decoder, in the sizes of a config."""
    return VAE(
        encoder=encoder,
        decoder=decoder,
        latent_dim=config.latent_dim,
        num_directions=config.num_directions,
        dense_width=config.model.dense_width,
        dense_depth=config.model.dense_depth,
        dtype=jnp.dtype(config.model.compute_dtype),
        num_refinements=config.model.num_refinements,
    )
