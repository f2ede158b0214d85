"""Waveform <-> what the model sees of it: representations, standardised by fitted statistics.

representation  what each is made of, and the ways to a waveform that several share
magnitude       of the magnitude alone: power, log, log_mel
phase           that carry the phase: magnitude_if, complex, the waveform itself ...

A representation is a pair of functions, waveform -> values and values -> waveform, and the model
sees

    x = (values - mean) / scale

where mean and scale are fitted once, on raw training clips, and travel with the weights: one mean
per bin, and one scale in all (per channel, where there are several), which keeps the relative
weight of loud and quiet bins. Channels that are angles are only divided by pi. `REPRESENTATIONS`
lists them by the name that `features.kind` has.

Axes: time first, [num_frames, num_bins] or [num_frames, num_bins, num_channels]; for `waveform`,
[num_samples]. Magnitudes are in units of a full-scale sine: 1.0 is the peak of its spectrum.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import config as configs
from vaejax.features import magnitude, phase
from vaejax.features.magnitude import compressed_magnitude
from vaejax.features.representation import Representation, recovered, recovery_start

__all__ = [
    "REPRESENTATIONS",
    "Representation",
    "Statistics",
    "compressed_magnitude",
    "create",
    "fit_statistics",
    "inversion",
    "magnitude_of",
    "shape_of",
    "standardise",
    "unstandardise",
    "waveform_of",
    "x_of",
]

# By the name that `features.kind` has.
REPRESENTATIONS: dict[str, Callable[[configs.Config], Representation]] = {
    "power": magnitude.power,
    "log": magnitude.log,
    "log_mel": magnitude.log_mel,
    "magnitude_if": phase.magnitude_if,
    "mel_if": phase.mel_if,
    "magnitude_phase_db": phase.magnitude_phase_db,
    "magnitude_cos_sin": phase.magnitude_cos_sin,
    "complex": phase.complex,
    "waveform": phase.waveform,
}


class Statistics(NamedTuple):
    """What standardises the values of one set of sounds."""

    mean: jax.Array
    """[num_bins] (or [num_bins, num_channels]; [] of samples), mean over clips and frames; 0 for
    angles."""
    scale: jax.Array
    """[] (or [num_channels]), standard deviation of all values after subtracting the mean; pi
    for angles."""


def create(config: configs.Config) -> Representation:
    """The representation that a config describes."""
    return REPRESENTATIONS[config.features.kind](config)


@lru_cache
def shape_of(data: configs.Data, features: configs.Features) -> tuple[int, ...]:
    """Shape of what the model sees of a clip, as the representation makes it."""
    analyse = create(configs.Config(data=data, features=features)).analyse
    waveform = jax.ShapeDtypeStruct((data.num_samples,), jnp.float32)
    # Windows are multiplied with frames, which a caller may have forbidden for its own arrays.
    with jax.numpy_rank_promotion("allow"):
        return jax.eval_shape(analyse, waveform).shape


def x_of(waveform, statistics: Statistics, config: configs.Config):
    """What the model sees of a clip [num_samples]: [*config.shape] float32, about zero mean and
    unit variance over the training set."""
    return standardise(create(config).analyse(waveform), statistics)


def waveform_of(x, statistics: Statistics, config: configs.Config, *, num_samples: int):
    """The sound that a decoder's answer stands for: the inverse of `x_of`.

    Args:
      x: [*config.shape], or with another number of frames.
      num_samples: of the sound.

    Returns:
      waveform [num_samples] float32; and the spectral convergence, [] dB: how well its STFT
      magnitude meets the one asked for. NaN for `waveform`, which asks for none.
    """
    representation, values = create(config), unstandardise(x, statistics)
    if representation.has_phase and _recovers(config):
        return recovered(representation.magnitude(values), num_samples, config)
    return representation.synthesise(values, num_samples)


def magnitude_of(x, statistics: Statistics, config: configs.Config):
    """The STFT magnitude that x stands for, [num_frames, num_bins] in units of a full-scale sine,
    without going through a waveform."""
    return create(config).magnitude(unstandardise(x, statistics))


def inversion(config: configs.Config) -> tuple[str | None, int]:
    """How a decoder's answer becomes a sound: the start of the phase recovery, None where the
    phase is not recovered but part of the answer, and the number of Griffin-Lim iterations."""
    sound = config.sound
    if config.features.kind == "waveform":
        return None, 0
    if create(config).has_phase and not _recovers(config):
        return None, sound.iterations or 0
    return recovery_start(config)


def _recovers(config: configs.Config) -> bool:
    """Whether a phase is recovered even where the values carry one; samples have none."""
    return config.sound.inversion != "auto" and config.features.kind != "waveform"


def standardise(values, statistics: Statistics):
    """Values as the model sees them."""
    return (values - statistics.mean) / statistics.scale


def unstandardise(x, statistics: Statistics):
    """The inverse of `standardise`."""
    return x * statistics.scale + statistics.mean


def fit_statistics(
    waveforms: Iterable[jax.Array], config: configs.Config, *, num_clips: int | None = None
) -> Statistics:
    """Fits mean and scale in one pass over raw training clips.

    Args:
      waveforms: batches [batch, num_samples], all of one shape so that one program serves all.
      num_clips: clips that count, all by default; what fills up the last batch should not.

    Returns:
      Statistics in float32; a scale is at least 1e-6, so that a set of silence stays finite.
    """
    representation = create(config)

    @jax.jit
    def moments(batch):
        def one(waveform):
            values = representation.analyse(waveform)
            return jnp.mean(values, 0), jnp.mean(values**2, 0)

        return jax.vmap(one)(batch)

    # Sums on the host in float64: a hundred thousand values lose digits in float32.
    firsts, seconds = [], []
    for batch in waveforms:
        first, second = moments(batch)
        firsts.append(np.asarray(first, np.float64))
        seconds.append(np.asarray(second, np.float64))
    mean = np.concatenate(firsts)[:num_clips].mean(0)
    variance = np.concatenate(seconds)[:num_clips].mean(0) - mean**2
    # One for all bins, [] or [num_channels]; where there are no bins there is nothing to average.
    scale = np.sqrt(variance.mean(0) if variance.ndim else variance)
    for channel in representation.angles:
        mean[..., channel], scale[channel] = 0.0, np.pi
    return Statistics(
        mean=jnp.asarray(mean, jnp.float32),
        scale=jnp.asarray(np.maximum(scale, 1e-6), jnp.float32),
    )
