"""Constant-Q transform: bins spaced evenly in octaves, each with its own window length.

The clip is transformed once; each bin then takes its own band of that spectrum. Sampling the bin's
output every hop folds its band modulo the frame rate, exactly, so one short inverse FFT per bin
gives all frames: no long kernels, no recursive downsampling.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.filterbank import C1_HZ
from vaejax.signal.framing import as_waveform, check_hop

# Lobes of the Hann window's spectrum kept on each side of a bin's frequency. What is cut off lies
# below -75 dB.
NUM_LOBES = 10


def cqt(
    waveform,
    *,
    sample_rate: float,
    hop_length: int,
    fmin: float = C1_HZ,
    n_bins: int = 84,
    bins_per_octave: int = 12,
    filter_scale: float = 1.0,
    scale: bool = True,
) -> jax.Array:
    """Constant-Q transform with Hann windows (Brown 1991); close to `librosa.cqt` transposed.

    Frame t is centred on sample t * hop_length, with silence outside the clip. librosa resamples
    octave by octave; this computes every bin at the full rate, so the two agree within about two
    percent of the peak.

    Args:
      waveform: `[num_samples]`.
      sample_rate: Hz.
      hop_length: samples between frames.
      fmin: centre of the lowest bin, Hz; C1 by default.
      n_bins: bins.
      bins_per_octave: bins per octave.
      filter_scale: below 1 shortens the windows: finer in time, coarser in frequency.
      scale: multiply each bin by the square root of its window length, as librosa does; otherwise
        a full-scale sine peaks at one half in every bin.
    Returns:
      complex64 `[1 + num_samples // hop_length, n_bins]`.
    Raises:
      ValueError: if the highest bin's band reaches above sample_rate / 2, or a size is not
        positive.
    """
    waveform = as_waveform(waveform)
    check_hop(hop_length)
    if n_bins < 1 or bins_per_octave < 1 or fmin <= 0 or filter_scale <= 0:
        raise ValueError(
            f"n_bins={n_bins}, bins_per_octave={bins_per_octave}, fmin={fmin} and "
            f"filter_scale={filter_scale} must all be above 0"
        )
    frequencies = cqt_frequencies(n_bins=n_bins, fmin=fmin, bins_per_octave=bins_per_octave)
    lengths = window_lengths(
        frequencies,
        sample_rate=sample_rate,
        bins_per_octave=bins_per_octave,
        filter_scale=filter_scale,
    )
    highest = frequencies[-1] + 2 * sample_rate / lengths[-1]
    if highest > sample_rate / 2:
        raise ValueError(
            f"the highest of n_bins={n_bins} bins spans up to {highest:.0f} Hz, above half the "
            f"sample rate ({sample_rate / 2:g} Hz); use fewer bins, a lower fmin or a higher rate"
        )
    num_samples = waveform.shape[0]
    num_frames = 1 + num_samples // hop_length
    # Circular length: a whole number of hops, with room for half the longest window at either end.
    period = -(-(num_samples + int(np.ceil(lengths[0] / 2))) // hop_length)
    size = period * hop_length
    index, weight = _bands(frequencies, lengths, sample_rate=sample_rate, size=size, period=period)
    if scale:
        weight = weight * np.sqrt(lengths)[:, None, None]
    spectrum = jnp.fft.fft(waveform, n=size)
    bands = spectrum[index] * jnp.asarray(weight, waveform.dtype)
    # The hop divides out of the inverse transform: size = period * hop_length.
    frames = jnp.fft.ifft(jnp.sum(bands, axis=1), axis=-1) / hop_length
    return frames.T[:num_frames]


def cqt_frequencies(
    *, n_bins: int = 84, fmin: float = C1_HZ, bins_per_octave: int = 12
) -> np.ndarray:
    """Returns bin centres in Hz, `[n_bins]`; matches `librosa.cqt_frequencies`."""
    return fmin * 2.0 ** (np.arange(n_bins) / bins_per_octave)


def window_lengths(
    frequencies, *, sample_rate: float, bins_per_octave: int, filter_scale: float = 1.0
) -> np.ndarray:
    """Returns each bin's window length in samples, `[n_bins]`, not rounded; as in librosa."""
    octave = 2.0 ** (2.0 / bins_per_octave)
    bandwidth = (octave - 1) / (octave + 1)
    return filter_scale * sample_rate / (bandwidth * np.asarray(frequencies))


def _bands(frequencies, lengths, *, sample_rate: float, size: int, period: int):
    """Returns what each bin takes from the clip's spectrum: indices and weights.

    Both are `[n_bins, folds, period]`; column j collects the spectrum's entries that are j modulo
    `period`, which is what sampling every hop folds together.
    """
    reach = NUM_LOBES * size / lengths
    centre = frequencies * size / sample_rate
    first = np.floor((centre - reach) / period).astype(int)
    folds = int(np.max(np.floor((centre + reach) / period).astype(int) - first)) + 1
    index = (first[:, None, None] + np.arange(folds)[:, None]) * period + np.arange(period)
    offset = (index - centre[:, None, None]) / size * lengths[:, None, None]
    # Spectrum of a Hann window of unit sum: sinc(x) / (1 - x^2), which is 1/2 at x = +-1.
    pole = np.abs(np.abs(offset) - 1) < 1e-9
    weight = np.where(pole, 0.5, np.sinc(offset) / np.where(pole, 1, 1 - offset**2))
    weight = np.where(np.abs(offset) <= NUM_LOBES, weight, 0)
    return index % size, weight
