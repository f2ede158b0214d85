"""Filterbanks over STFT bins: mel and log-frequency, as host matrices `[num_bins, num_bands]`.

Apply one with `apply_filterbank(magnitude, filterbank)`. A learnable filterbank is the same matrix
held as a parameter.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.scales import hz_to_mel, mel_to_hz

C1_HZ = 32.70319566257483


def fft_frequencies(*, sample_rate: float, n_fft: int) -> np.ndarray:
    """Returns the centre of each STFT bin in Hz, `[n_fft // 2 + 1]`."""
    return np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)


def mel_filterbank(
    *,
    sample_rate: float,
    n_fft: int,
    n_mels: int = 128,
    fmin: float = 0.0,
    fmax: float | None = None,
    htk: bool = False,
    norm: str | float | None = "slaney",
) -> np.ndarray:
    """Triangular filters evenly spaced in mels; equal to `librosa.filters.mel` transposed.

    Args:
      sample_rate: Hz.
      n_fft: samples per STFT frame.
      n_mels: bands. Narrow bands can fall between two bins and stay empty, as in librosa.
      fmin: lowest edge, Hz.
      fmax: highest edge, Hz; by default sample_rate / 2.
      htk: HTK's mel scale instead of Slaney's.
      norm: "slaney" gives each filter unit area in Hz; a number gives it that l-norm; None keeps
        peaks of 1.
    Returns:
      float32 `[n_fft // 2 + 1, n_mels]`, >= 0.
    Raises:
      ValueError: if n_mels < 1, the edges are not 0 <= fmin < fmax <= sample_rate / 2, or the norm
        is unknown.
    """
    if n_mels < 1:
        raise ValueError(f"n_mels={n_mels} must be at least 1")
    fmax = sample_rate / 2 if fmax is None else fmax
    if not 0 <= fmin < fmax <= sample_rate / 2:
        raise ValueError(
            f"fmin={fmin} and fmax={fmax} must satisfy 0 <= fmin < fmax <= {sample_rate / 2} Hz, "
            f"half the sample rate of {sample_rate}"
        )
    low, high = hz_to_mel(fmin, htk=htk), hz_to_mel(fmax, htk=htk)
    edges = mel_to_hz(np.linspace(low, high, n_mels + 2), htk=htk)
    bins = fft_frequencies(sample_rate=sample_rate, n_fft=n_fft)
    widths = np.diff(edges)
    ramps = edges[:, None] - bins
    rising = -ramps[:-2] / widths[:-1, None]
    falling = ramps[2:] / widths[1:, None]
    # Rounded to float32 before and after the norm, as librosa does, so that both agree bit for bit.
    filters = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    if norm == "slaney":
        filters = (filters * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)
    elif isinstance(norm, (int, float)) and norm > 0:
        # In float64, as librosa.util.normalize does.
        sizes = np.linalg.norm(filters.astype(np.float64), ord=norm, axis=1, keepdims=True)
        filters = filters / np.where(sizes > np.finfo(np.float32).tiny, sizes, 1)
    elif norm is not None:
        raise ValueError(f'norm={norm!r} must be "slaney", a number above 0, or None')
    return np.ascontiguousarray(filters.T.astype(np.float32))


def log_filterbank(
    *,
    sample_rate: float,
    n_fft: int,
    n_bins: int = 84,
    bins_per_octave: int = 12,
    fmin: float = C1_HZ,
    spread: float = 0.125,
) -> np.ndarray:
    """Log-normal bumps evenly spaced in octaves, each summing to 1 (Kapre's `filterbank_log`).

    Args:
      sample_rate: Hz.
      n_fft: samples per STFT frame.
      n_bins: bands.
      bins_per_octave: bands per octave.
      fmin: centre of the lowest band, Hz; C1 by default.
      spread: standard deviation of a bump in bands.
    Returns:
      float32 `[n_fft // 2 + 1, n_bins]`, >= 0. A bump narrower than the bin spacing becomes its
      nearest bin.
    Raises:
      ValueError: if a size is not positive or the highest centre lies above sample_rate / 2.
    """
    if n_bins < 1 or bins_per_octave < 1 or spread <= 0 or fmin <= 0:
        raise ValueError(
            f"n_bins={n_bins}, bins_per_octave={bins_per_octave}, spread={spread} and fmin={fmin} "
            "must all be above 0"
        )
    octaves = np.log2(fmin) + np.arange(n_bins) / bins_per_octave
    highest, nyquist = 2.0 ** octaves[-1], sample_rate / 2
    if highest > nyquist:
        fitting = int(np.floor(np.log2(nyquist / fmin) * bins_per_octave)) + 1
        raise ValueError(
            f"n_bins={n_bins} with bins_per_octave={bins_per_octave} from fmin={fmin:g} Hz reach "
            f"{highest:.0f} Hz, above half the sample rate ({nyquist:g} Hz); use n_bins <= "
            f"{max(fitting, 0)}"
        )
    bins = np.log2(fft_frequencies(sample_rate=sample_rate, n_fft=n_fft)[1:])
    distance = (bins[:, None] - octaves) * (bins_per_octave / spread)
    exponent = -0.5 * distance**2 - bins[:, None] * np.log(2.0)
    # Shifted so that the largest value is 1 before the sum: no band can underflow to 0 / 0.
    bumps = np.exp(exponent - exponent.max(axis=0))
    return np.pad(bumps / bumps.sum(axis=0), ((1, 0), (0, 0))).astype(np.float32)


def apply_filterbank(spectrogram, filterbank) -> jax.Array:
    """Returns `spectrogram @ filterbank`, `[num_frames, num_bands]`, in full float32 precision.

    Args:
      spectrogram: `[num_frames, num_bins]`, magnitude or power.
      filterbank: `[num_bins, num_bands]`, from this file or learned.
    Raises:
      ValueError: if the bins differ.
    """
    spectrogram, filterbank = jnp.asarray(spectrogram), jnp.asarray(filterbank)
    if spectrogram.ndim != 2 or spectrogram.shape[1] != filterbank.shape[0]:
        raise ValueError(
            f"spectrogram has shape {spectrogram.shape} and filterbank {filterbank.shape}; "
            "expected [num_frames, num_bins] and [num_bins, num_bands]"
        )
    # The default precision is bfloat16 on TPU and TF32 on GPU: 1e-3 errors in quiet bands.
    return jnp.matmul(
        spectrogram, filterbank, precision="highest", preferred_element_type=jnp.float32
    )
