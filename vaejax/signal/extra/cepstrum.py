"""Cepstral coefficients of a mel spectrogram, and slopes over time of any feature."""

import jax
import jax.numpy as jnp
import numpy as np


def mfcc(mel_db, *, n_mfcc: int = 20) -> jax.Array:
    """Mel-frequency cepstral coefficients; matches librosa (orthonormal DCT-II).

    TensorFlow, HTK and so Kapre scale coefficient 0 larger by sqrt(2); librosa does not.

    Args:
      mel_db: `[num_frames, n_mels]`, mel power in dB.
      n_mfcc: coefficients kept, 1 to n_mels.
    Returns:
      `[num_frames, n_mfcc]`.
    Raises:
      ValueError: if n_mfcc is not from 1 to n_mels.
    """
    mel_db = jnp.asarray(mel_db)
    n_mels = mel_db.shape[-1]
    if not 1 <= n_mfcc <= n_mels:
        raise ValueError(f"n_mfcc={n_mfcc} must be from 1 to n_mels={n_mels}")
    mel_db = mel_db.astype(jnp.promote_types(mel_db.dtype, jnp.float32))
    basis = jnp.asarray(dct_basis(n_mels)[:, :n_mfcc], mel_db.dtype)
    return jnp.matmul(mel_db, basis, precision="highest")


def inverse_mfcc(coefficients, *, n_mels: int = 128) -> jax.Array:
    """Returns the smoothed mel dB `[num_frames, n_mels]` that the kept coefficients describe.

    Args:
      coefficients: `[num_frames, n_mfcc]`, n_mfcc <= n_mels.
      n_mels: bands to return.
    """
    coefficients = jnp.asarray(coefficients)
    n_mfcc = coefficients.shape[-1]
    if n_mfcc > n_mels:
        raise ValueError(f"n_mels={n_mels} must be at least the {n_mfcc} coefficients given")
    coefficients = coefficients.astype(jnp.promote_types(coefficients.dtype, jnp.float32))
    basis = jnp.asarray(dct_basis(n_mels)[:, :n_mfcc].T, coefficients.dtype)
    return jnp.matmul(coefficients, basis, precision="highest")


def dct_basis(size: int) -> np.ndarray:
    """Returns the orthonormal DCT-II, `[size, size]`: one column per coefficient."""
    angles = np.pi / size * (np.arange(size)[:, None] + 0.5) * np.arange(size)
    basis = np.sqrt(2.0 / size) * np.cos(angles)
    basis[:, 0] /= np.sqrt(2.0)
    return basis


def delta(features, *, win_length: int = 9, mode: str = "interp") -> jax.Array:
    """Slope of each feature over time, by least squares over a sliding window.

    "interp" matches `librosa.feature.delta` (its default): the first and last windows' slopes
    extend to the edges. "symmetric", "reflect" and "constant" pad as `numpy.pad` names them.

    Args:
      features: `[num_frames, ...]`, time first.
      win_length: frames, odd, >= 3.
      mode: what happens at the edges.
    Returns:
      Same shape, per frame.
    Raises:
      ValueError: on an even or small win_length, an unknown mode, or fewer frames than it needs.
    """
    features = jnp.asarray(features)
    features = features.astype(jnp.promote_types(features.dtype, jnp.float32))
    if win_length < 3 or win_length % 2 == 0:
        raise ValueError(f"win_length={win_length} must be odd and at least 3; try 5 or 9")
    if mode not in ("interp", "symmetric", "reflect", "constant"):
        raise ValueError(f"unknown mode {mode!r}; known: interp, symmetric, reflect, constant")
    frames, half = features.shape[0], win_length // 2
    needed = {"interp": win_length, "symmetric": half, "reflect": half + 1, "constant": 1}[mode]
    if frames < needed:
        raise ValueError(
            f"{frames} frames are too few for win_length={win_length} with mode={mode!r}, which "
            f"needs {needed}; use a shorter window or mode='constant'"
        )
    pads = [(half, half)] + [(0, 0)] * (features.ndim - 1)
    padded = features if mode == "interp" else jnp.pad(features, pads, mode=mode)
    count = padded.shape[0] - 2 * half
    slope = jnp.zeros((), features.dtype) + sum(
        n * (padded[half + n : half + n + count] - padded[half - n : half - n + count])
        for n in range(1, half + 1)
    )
    slope = slope / (2.0 * sum(n * n for n in range(1, half + 1)))
    return jnp.pad(slope, pads, mode="edge") if mode == "interp" else slope
