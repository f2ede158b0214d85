"""Distances between sounds. Audio domain unless a name says otherwise.

Levels: 0 dB is the STFT peak of a full-scale sine (n_fft 2048, hop 512, Hann). Before it is
compared, an estimate is scaled to the energy of the reference.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.filterbank import mel_filterbank
from vaejax.signal.stft import stft

N_FFT, HOP_LENGTH = 2048, 512
FLOOR_DB = -60.0
NUM_MELS = 128

EMBEDDING_MELS, EMBEDDING_FRAMES, EMBEDDING_DIM = 64, 16, 64
EMBEDDING_FLOOR_DB = -80.0


def _levels(waveform):
    """STFT magnitudes [num_frames, num_bins], 1.0 for a full-scale sine."""
    # A clip shorter than a window is padded, so that there is a whole frame to compare.
    missing = max(N_FFT - waveform.shape[0], 0)
    return jnp.abs(stft(jnp.pad(waveform, (0, missing)), n_fft=N_FFT, hop_length=HOP_LENGTH)) * (
        4.0 / N_FFT
    )


def _db(level, floor_db):
    return 20 * jnp.log10(jnp.maximum(level, 10.0 ** (floor_db / 20)))


def match_energy(estimate, reference):
    """The estimate [num_samples] scaled to the energy of the reference; silence stays silence."""
    energy = jnp.sum(estimate**2)
    return estimate * jnp.sqrt(jnp.sum(reference**2) / jnp.where(energy > 0, energy, 1.0))


def mel_l1_db(reference, estimate, *, sample_rate: int):
    """Mean absolute difference of 128-band mel magnitudes in dB, floored at -60 dB.

    Args:
      reference, estimate: [num_samples], of equal length.
      sample_rate: Hz.

    Returns:
      [] dB >= 0; lower is better.
    """
    bank = jnp.asarray(
        mel_filterbank(sample_rate=sample_rate, n_fft=N_FFT, n_mels=NUM_MELS, norm=None)
    )
    a = _db(_levels(reference) @ bank, FLOOR_DB)
    b = _db(_levels(match_energy(estimate, reference)) @ bank, FLOOR_DB)
    return jnp.mean(jnp.abs(a - b))


def lsd_db(reference, estimate):
    """Log-spectral distance: per frame the root mean square over bins, then the mean over frames.

    Args:
      reference, estimate: [num_samples], of equal length.

    Returns:
      [] dB >= 0, floored at -60 dB; lower is better.
    """
    a = _db(_levels(reference), FLOOR_DB)
    b = _db(_levels(match_energy(estimate, reference)), FLOOR_DB)
    return jnp.mean(jnp.sqrt(jnp.mean((a - b) ** 2, axis=1)))


def multi_resolution_stft(reference, estimate):
    """Multi-resolution STFT distance (Yamamoto et al. 2020): differentiable, for searches.

    Per resolution, the spectral convergence plus the mean absolute difference of the natural
    logarithms of the magnitudes; then the mean over n_fft 512, 1024 and 2048 (hop a quarter).

    Args:
      reference, estimate: [num_samples], of equal length.

    Returns:
      [] >= 0; lower is better.
    """
    total = jnp.zeros(())
    for n_fft in (512, 1024, 2048):
        missing = max(n_fft - reference.shape[0], 0)

        def level(waveform, n_fft=n_fft, missing=missing):
            spectrum = stft(jnp.pad(waveform, (0, missing)), n_fft=n_fft, hop_length=n_fft // 4)
            # -100 dB: below hearing, and it keeps root and logarithm smooth at silence.
            power = (jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2) * (4.0 / n_fft) ** 2
            return jnp.sqrt(power + 1e-10)

        a, b = level(reference), level(estimate)
        convergence = jnp.sqrt(jnp.sum((a - b) ** 2) + 1e-20) / jnp.sqrt(jnp.sum(a**2))
        total += convergence + jnp.mean(jnp.abs(jnp.log(a) - jnp.log(b)))
    return total / 3


class Embedding(NamedTuple):
    """A fitted map from sounds to points whose distances follow what is heard, float32."""

    mean: jax.Array
    """[EMBEDDING_FRAMES * EMBEDDING_MELS], of the training set."""
    axes: jax.Array
    """[EMBEDDING_FRAMES * EMBEDDING_MELS, EMBEDDING_DIM], principal axes of the training set."""
    points: jax.Array
    """[num_clips, EMBEDDING_DIM], the training set."""
    median_neighbour: jax.Array
    """[], median distance from a training sound to its nearest other training sound."""


def pooled_log_mel(waveform, *, sample_rate: int):
    """Log-mel spectrum of 64 bands in 16 equal stretches of time.

    Args:
      waveform: [num_samples].

    Returns:
      [EMBEDDING_FRAMES * EMBEDDING_MELS] dB, floored at -80 dB.
    """
    bank = jnp.asarray(
        mel_filterbank(sample_rate=sample_rate, n_fft=N_FFT, n_mels=EMBEDDING_MELS, norm=None)
    )
    mel = _db(_levels(waveform) @ bank, EMBEDDING_FLOOR_DB)
    # Frame t is shared between the stretches that it overlaps: every clip length pools alike.
    frames = mel.shape[0]
    edges = np.linspace(0, frames, EMBEDDING_FRAMES + 1)
    t = np.arange(frames)
    overlap = np.clip(
        np.minimum(edges[1:, None], t + 1) - np.maximum(edges[:-1, None], t), 0.0, None
    )
    pool = jnp.asarray(overlap / overlap.sum(1, keepdims=True), jnp.float32)
    return (pool @ mel).reshape(-1)


def embed(waveform, embedding: Embedding, *, sample_rate: int):
    """The point [EMBEDDING_DIM] of a sound [num_samples]; distances are Euclidean, in dB."""
    return (pooled_log_mel(waveform, sample_rate=sample_rate) - embedding.mean) @ embedding.axes


def nearest(point, embedding: Embedding):
    """The nearest training sound: its row [] int32, and its distance [] over the median distance
    between neighbours in the training set (novelty)."""
    squared = jnp.sum((embedding.points - point) ** 2, axis=1)
    row = jnp.argmin(squared)
    return row, jnp.sqrt(squared[row]) / embedding.median_neighbour


def fit_embedding(pooled) -> Embedding:
    """Fits the map to pooled log-mels [num_clips, EMBEDDING_FRAMES * EMBEDDING_MELS]."""
    pooled = np.asarray(pooled, np.float64)
    mean = pooled.mean(0)
    centred = pooled - mean
    # Eigenvectors of the covariance are the axes that a far slower SVD of the data would give.
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :EMBEDDING_DIM]
    points = (pooled - mean) @ axes
    # Block by block: all pairs at once would not fit for a large set.
    neighbours = []
    norms = (points**2).sum(1)
    for start in range(0, len(points), 1024):
        block = points[start : start + 1024]
        squared = norms[start : start + 1024, None] + norms[None] - 2 * block @ points.T
        squared[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf
        neighbours.append(np.sqrt(np.maximum(squared.min(1), 0.0)))
    distances = np.concatenate(neighbours)
    distances = distances[np.isfinite(distances) & (distances > 0)]
    median = float(np.median(distances)) if len(distances) else 1.0
    return Embedding(*(jnp.asarray(a, jnp.float32) for a in (mean, axes, points, median)))
