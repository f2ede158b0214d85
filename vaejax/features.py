"""Waveform <-> what the model sees of it: representations, standardised by fitted statistics.

A representation is a pair of functions, waveform -> values and values -> waveform, and the model
sees

    x = (values - mean) / scale

where mean and scale are fitted once, on raw training clips, and travel with the weights: one mean
per bin, and one scale in all (per channel, where there are several), which keeps the relative
weight of loud and quiet bins. `REPRESENTATIONS` lists them by the name that `features.kind` has.

Axes: time first, [num_frames, num_bins] or [num_frames, num_bins, num_channels]. Magnitudes are in
units of a full-scale sine: 1.0 is the peak of its spectrum.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import config as configs
from vaejax.signal import phase
from vaejax.signal.stft import stft


class Statistics(NamedTuple):
    """What standardises the values of one set of sounds."""

    mean: jax.Array
    """[num_bins] (or [num_bins, num_channels]), mean of the values over clips and frames."""
    scale: jax.Array
    """[] (or [num_channels]), standard deviation of all values after subtracting the mean."""


class Representation(NamedTuple):
    """A pair of functions between a waveform and values, before these are standardised."""

    analyse: Callable
    """waveform [num_samples] in [-1, 1] -> values [num_frames, ...]."""
    synthesise: Callable
    """(values [num_frames, ...] for any number of frames, num_samples) -> waveform [num_samples],
    and how far its STFT magnitude is from the one that was asked for, [] dB."""
    magnitude: Callable
    """values -> STFT magnitude [num_frames, num_bins] >= 0, in units of a full-scale sine."""
    angles: tuple[int, ...] = ()
    """Channels (of the last axis) that are angles in half turns, radians / pi, not standardised."""
    has_phase: bool = False
    """Whether the values carry the phase, so that `synthesise` needs no phase recovery."""


def create(config: configs.Config) -> Representation:
    """The representation that a config describes."""
    return REPRESENTATIONS[config.features.kind](config.features, config.sound)


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
      magnitude meets the one asked for.
    """
    return create(config).synthesise(unstandardise(x, statistics), num_samples)


def magnitude_of(x, statistics: Statistics, config: configs.Config):
    """The STFT magnitude that x stands for, [num_frames, num_bins] in units of a full-scale sine,
    without going through a waveform."""
    return create(config).magnitude(unstandardise(x, statistics))


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
    analyse = create(config).analyse

    @jax.jit
    def moments(batch):
        def one(waveform):
            values = analyse(waveform)
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
    return Statistics(
        mean=jnp.asarray(mean, jnp.float32),
        scale=jnp.asarray(np.maximum(scale, 1e-6), jnp.float32),
    )


# Magnitude ** exponent.


def compress(magnitude, *, exponent):
    """magnitude ** exponent with a gradient of zero, rather than infinity, at silence."""
    audible = magnitude > 0
    # Through the logarithm: a third of the time of XLA's power on a CPU, off by some 1e-6 of it.
    return jnp.where(audible, jnp.exp(exponent * jnp.log(jnp.where(audible, magnitude, 1.0))), 0.0)


def compressed_magnitude(waveform, *, n_fft, hop_length, exponent):
    """Power-compressed STFT magnitude of a clip.

    Args:
      waveform: [num_samples] float in [-1, 1].

    Returns:
      [num_frames, num_bins] float32 >= 0, where 1.0 is the peak of a full-scale sine.
    """
    spectrum = stft(waveform, n_fft=n_fft, hop_length=hop_length)
    # The periodic Hann window sums to n_fft / 2, and half of it reaches the positive frequency.
    power = (jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2) * (4.0 / n_fft) ** 2
    return compress(power, exponent=exponent / 2)


def expanded_magnitude(values, *, exponent):
    """The inverse of the compression; a decoder may say less than silence, which is silence."""
    return compress(jnp.maximum(values, 0.0), exponent=1.0 / exponent)


def recovered(magnitude, num_samples, features: configs.Features, sound: configs.Sound):
    """A waveform [num_samples] of an STFT magnitude in units of a full-scale sine, its phase
    recovered as `sound` says; and the spectral convergence, [] dB."""
    sizes = {"n_fft": features.n_fft, "hop_length": features.hop_length}
    magnitude = magnitude * (features.n_fft / 4.0)
    waveform = phase.invert(
        magnitude, method=sound.inversion, num_iters=sound.iterations, length=num_samples, **sizes
    )
    return waveform, phase.spectral_convergence_db(waveform, magnitude, **sizes)


def power(features: configs.Features, sound: configs.Sound) -> Representation:
    """Power-compressed magnitude, |STFT| ** exponent."""
    expand = lambda values: expanded_magnitude(values, exponent=features.exponent)  # noqa: E731
    return Representation(
        analyse=lambda waveform: compressed_magnitude(
            waveform,
            n_fft=features.n_fft,
            hop_length=features.hop_length,
            exponent=features.exponent,
        ),
        synthesise=lambda values, num_samples: recovered(
            expand(values), num_samples, features, sound
        ),
        magnitude=expand,
    )


REPRESENTATIONS: dict[str, Callable[[configs.Features, configs.Sound], Representation]] = {
    "power": power,
}
