"""Waveform <-> what the model sees: the power-compressed STFT magnitude, standardised.

    magnitude = |STFT(waveform)| / (sum(window) / 2)     1.0 is the peak of a full-scale sine
    spectrogram = (magnitude ** exponent - mean) / scale

`mean` (one value per bin) and `scale` (one value in all) are fitted once, on raw training clips,
and travel with the weights. One scale for all bins keeps the relative weight of loud and quiet
bins that the exponent gave them. The phase is left out here and recovered by `signal.phase`.

Axes: [num_frames, num_bins], time first.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.stft import stft


class Statistics(NamedTuple):
    """What standardises the spectrogram of one set of sounds."""

    mean: jax.Array
    """[num_bins], mean of the compressed magnitude over clips and frames."""
    scale: jax.Array
    """[], standard deviation of all values after subtracting the mean."""


def compress(magnitude, *, exponent):
    """magnitude ** exponent with a gradient of zero, rather than infinity, at silence."""
    audible = magnitude > 0
    return jnp.where(audible, jnp.where(audible, magnitude, 1.0) ** exponent, 0.0)


def compressed_magnitude(waveform, *, n_fft, hop_length, exponent):
    """Compressed magnitude of a clip.

    Args:
      waveform: [num_samples] float in [-1, 1].

    Returns:
      [num_frames, num_bins] float32 >= 0, where 1.0 is the peak of a full-scale sine.
    """
    spectrum = stft(waveform, n_fft=n_fft, hop_length=hop_length)
    # The periodic Hann window sums to n_fft / 2, and half of it reaches the positive frequency.
    power = (jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2) * (4.0 / n_fft) ** 2
    return compress(power, exponent=exponent / 2)


def spectrogram(waveform, statistics, *, n_fft, hop_length, exponent):
    """What the model sees of a clip.

    Args:
      waveform: [num_samples] float in [-1, 1].
      statistics: of the training set.

    Returns:
      [num_frames, num_bins] float32, about zero mean and unit variance over the training set.
    """
    compressed = compressed_magnitude(
        waveform, n_fft=n_fft, hop_length=hop_length, exponent=exponent
    )
    return (compressed - statistics.mean) / statistics.scale


def magnitude(spectrogram, statistics, *, n_fft, exponent):
    """The STFT magnitude that a spectrogram stands for: the inverse of `spectrogram`, less phase.

    Args:
      spectrogram: [num_frames, num_bins], of a clip or from a decoder.

    Returns:
      [num_frames, num_bins] float32 >= 0, in the units of |stft(waveform)|. A decoder may say less
      than silence; that is silence.
    """
    compressed = jnp.maximum(spectrogram * statistics.scale + statistics.mean, 0.0)
    return compress(compressed, exponent=1.0 / exponent) * (n_fft / 4.0)


def fit_statistics(
    waveforms: Iterable[jax.Array], *, num_clips: int | None = None, n_fft, hop_length, exponent
) -> Statistics:
    """Fits mean and scale in one pass over raw training clips.

    Args:
      waveforms: batches [batch, num_samples], all of one shape so that one program serves all.
      num_clips: clips that count, all by default; what fills up the last batch should not.

    Returns:
      Statistics in float32; the scale is at least 1e-6, so that a set of silence stays finite.
    """

    @jax.jit
    def moments(batch):
        def one(waveform):
            compressed = compressed_magnitude(
                waveform, n_fft=n_fft, hop_length=hop_length, exponent=exponent
            )
            return jnp.mean(compressed, 0), jnp.mean(compressed**2, 0)

        return jax.vmap(one)(batch)

    # Sums on the host in float64: a hundred thousand values lose digits in float32.
    firsts, seconds = [], []
    for batch in waveforms:
        first, second = moments(batch)
        firsts.append(np.asarray(first, np.float64))
        seconds.append(np.asarray(second, np.float64))
    mean = np.concatenate(firsts)[:num_clips].mean(0)
    variance = np.concatenate(seconds)[:num_clips].mean(0) - mean**2
    return Statistics(
        mean=jnp.asarray(mean, jnp.float32),
        scale=jnp.asarray(max(float(np.sqrt(variance.mean())), 1e-6), jnp.float32),
    )
