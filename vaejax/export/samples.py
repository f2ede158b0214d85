"""Waveforms to the samples of a file: a sample of 1 becomes the largest integer."""

import numpy as np

DTYPES = {"PCM_16": np.int16, "PCM_24": np.int32, "FLOAT": np.float32}
BITS = {"PCM_16": 16, "PCM_24": 24, "FLOAT": 32}
# Of an integer that stands for a sample of 1.
STEPS = {"PCM_16": 2**15 - 1, "PCM_24": 2**23 - 1}


def quantize(waveform, subtype: str, xp=np):
    """A waveform in [-1, 1] as int16, int32 (24 bits, high) or float32.

    Args:
      waveform: [num_samples] float32.
      xp: `numpy`, or `jax.numpy` on the device.
    """
    if subtype == "FLOAT":
        return waveform
    # 24 bits are all that float32 has.
    whole = xp.round(waveform * xp.float32(STEPS[subtype]))
    return whole.astype(xp.int16) if subtype == "PCM_16" else whole.astype(xp.int32) << 8


def stored(samples: np.ndarray, subtype: str) -> np.ndarray:
    """Samples as a file of `subtype` holds them: floats by `quantize`, integers as they are.

    Args:
      samples: [num_samples] or [num_samples, num_channels]; float, int16 for PCM_16, or int32 (24
        bits, high) for PCM_24.
    Raises:
      ValueError: unknown subtype, no samples, other types or shapes, NaN or Inf, or floats beyond
        [-1, 1] for an integer subtype.
    """
    samples = np.asarray(samples)
    if subtype not in DTYPES:
        raise ValueError(f"unknown subtype {subtype!r}; use one of {', '.join(DTYPES)}")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise ValueError(
            f"samples have shape {samples.shape}; expected [num_samples] or [num_samples, "
            "num_channels] with at least one sample"
        )
    if samples.dtype == DTYPES[subtype] and subtype != "FLOAT":
        return samples
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(
            f"samples are {samples.dtype}; {subtype} takes floats or {np.dtype(DTYPES[subtype])}"
        )
    if bad := np.size(samples) - int(np.isfinite(samples).sum()):
        raise ValueError(f"{bad} of {samples.size} samples are NaN or Inf")
    peak = float(np.abs(samples).max())
    if peak > 1.0 and subtype != "FLOAT":
        raise ValueError(
            f"samples peak at {peak:.4g}, but {subtype} holds [-1, 1]; scale them down or use FLOAT"
        )
    return quantize(samples.astype(np.float32), subtype)
