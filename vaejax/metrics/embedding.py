"""A space in which sounds are compared as points: log-mel spectra, reduced by PCA.

All distances between sets, and novelty, are Euclidean distances in it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.metrics.sounds import N_FFT, decibels, levels
from vaejax.signal.filterbank import mel_filterbank

EMBEDDING_MELS, EMBEDDING_FRAMES, EMBEDDING_DIM = 64, 16, 64
EMBEDDING_FLOOR_DB = -80.0


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
    mel = decibels(levels(waveform) @ bank, EMBEDDING_FLOOR_DB)
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
