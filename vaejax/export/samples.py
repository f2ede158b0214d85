"""Waveforms to the samples of a file.

A sample of 1 becomes the largest integer, 2**(bits - 1) - 1, in what this program makes
(`quantize`). What comes from elsewhere is stored as it reads back (`stored`).
"""

import numpy as np

SUBTYPES = ("PCM_16", "PCM_24", "FLOAT")
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
    """Samples as a file of `subtype` stores them.

    Integers keep their value where the file has the bits (int16 to PCM_16 is the identity) and are
    rounded to nearest where it has not. Floats are scaled by 2**(bits - 1), so that reading the
    file back as float returns the same value; +1.0 becomes the largest integer.

    Args:
      samples: [num_samples] or [num_samples, num_channels]; int16, int32 or float in [-1, 1].
      subtype: "PCM_16", "PCM_24" or "FLOAT".
    Returns:
      The same shape: int16 for PCM_16, int32 with the low 8 bits zero for PCM_24, float32 for
      FLOAT.
    Raises:
      ValueError: unknown subtype, no samples, other dtypes or shapes, NaN or Inf, or floats beyond
        [-1, 1] for an integer subtype.
    """
    samples = np.asarray(samples)
    if subtype not in SUBTYPES:
        raise ValueError(f"unknown subtype {subtype!r}; use one of {', '.join(SUBTYPES)}")
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise ValueError(
            f"samples have shape {samples.shape}; expected [num_samples] or [num_samples, "
            "num_channels] with at least one sample"
        )
    if samples.dtype in (np.int16, np.int32):
        return _requantize(samples, subtype)
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples are {samples.dtype}; use int16, int32 or float32")
    if not np.isfinite(samples).all():
        bad = int(np.size(samples) - np.isfinite(samples).sum())
        raise ValueError(f"{bad} of {samples.size} samples are NaN or Inf")
    if subtype == "FLOAT":
        return samples.astype(np.float32)
    peak = float(np.abs(samples).max())
    if peak > 1.0:
        raise ValueError(
            f"samples peak at {peak:.4g}, but {subtype} holds [-1, 1]; scale them down or use FLOAT"
        )
    full = 2 ** (BITS[subtype] - 1)
    whole = np.clip(np.rint(samples.astype(np.float64) * full), -full, full - 1)
    return whole.astype(np.int16) if subtype == "PCM_16" else whole.astype(np.int32) << 8


def _requantize(samples: np.ndarray, subtype: str) -> np.ndarray:
    wide = samples.dtype == np.int32
    if subtype == "FLOAT":
        return (samples / (2.0**31 if wide else 2.0**15)).astype(np.float32)
    if not wide:
        return samples if subtype == "PCM_16" else samples.astype(np.int32) << 16
    dropped = 32 - BITS[subtype]
    top = 2 ** (BITS[subtype] - 1) - 1
    whole = np.minimum((samples.astype(np.int64) + (1 << (dropped - 1))) >> dropped, top)
    return whole.astype(np.int16) if subtype == "PCM_16" else whole.astype(np.int32) << 8
