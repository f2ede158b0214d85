"""The codec: sound <-> latent, one example at a time, as pure functions of weights and data.

    mean, logvar = encode(params, fitted, waveform, condition, config=config)
    waveform, convergence = decode(params, fitted, z, condition, config=config)

All that is needed to play a trained model; nothing here knows how it was trained.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaejax import features, models
from vaejax.config import Config
from vaejax.features import Statistics, conditions
from vaejax.latent.priors import Prior
from vaejax.metrics import Embedding
from vaejax.models.linear import Linear
from vaejax.objective import context
from vaejax.signal.fade import fade_out


class Fitted(NamedTuple):
    """What is fitted once, before training, and travels with the weights."""

    statistics: Statistics
    linear: Linear


class Instrument(NamedTuple):
    """All arrays that a sound needs."""

    params: Any
    """The averaged weights."""
    fitted: Fitted
    prior: Prior
    embedding: Embedding


def init(key, config: Config, condition_dim: int = 0):
    """The weights before the first step, of a model that is told `condition_dim` numbers."""
    return {
        "vae": models.init(key, config, condition_dim),
        **context.init(jax.random.fold_in(key, 1), config),
    }


def condition_of(facts, fitted: Fitted, config: Config):
    """All that can be told of a sound, [condition_dim], from its facts [num_facts]."""
    return conditions.encode(
        facts, condition=config.condition, condition_dim=fitted.linear.condition_dim
    )


def encode(params, fitted: Fitted, waveform, condition, *, config: Config):
    """Posterior mean and logvar, [latent_dim] each, of a clip [num_samples] of which the model is
    told condition [condition_dim]; zeros for nothing."""
    x = features.x_of(waveform, fitted.statistics, config)
    return context.encode(params, x, condition, fitted.linear, config=config)


def decode(params, fitted: Fitted, z, condition, *, config: Config):
    """The sound that a latent stands for.

    Args:
      z: [latent_dim].
      condition: [condition_dim], what the model is told of the sound; zeros for nothing.

    Returns:
      waveform: [num_samples] float32, ready for a file: peak at sound.peak_db, faded at the end.
      spectral_convergence_db: [], how well the phase recovery met the decoder's magnitudes.
    """
    x = models.decode(params, z, condition, fitted.linear, config=config)
    return waveform_of(x, fitted, config=config)


def waveform_of(x, fitted: Fitted, *, config: Config):
    """What `decode` returns, from the decoder's answer x [*config.shape]."""
    waveform, convergence = features.waveform_of(
        x, fitted.statistics, config, num_samples=config.data.num_samples
    )
    return finish(waveform, config), convergence


def finish(waveform, config: Config):
    """Fades the end of a waveform [num_samples] to zero and scales its peak; silence stays so."""
    return at_peak(fade_out(waveform, fade_samples(config)), config)


def at_peak(waveform, config: Config):
    """Scales a waveform [num_samples] to the peak of sound.peak_db; silence stays silence."""
    peak = jnp.max(jnp.abs(waveform))
    # Below -200 dB there is nothing to bring up but rounding errors.
    gain = jnp.where(peak > 1e-10, 10 ** (config.sound.peak_db / 20) / jnp.maximum(peak, 1e-10), 0)
    return waveform * gain


def fade_samples(config: Config) -> int:
    """Samples of the fade at the end of a sound."""
    return round(config.sound.fade_out_ms * 1e-3 * config.data.sample_rate)
