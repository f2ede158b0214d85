"""Cutting a waveform into overlapping frames, adding frames back, and energy per frame.

Frames are made from shifted views of hop-sized blocks, never by gather, scatter or convolution:
each step is a reshape and a slice of static size, which every XLA backend turns into plain copies.
Axes: `[num_frames, frame_length]`, time first.
"""

import jax
import jax.numpy as jnp
import numpy as np


def as_waveform(waveform) -> jax.Array:
    """Returns `waveform` as float32 (float64 stays where x64 is on), or says what is wrong.

    Raises:
      ValueError: if it is not one-dimensional, is empty, or is not real floating point.
    """
    waveform = jnp.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(
            f"waveform has shape {waveform.shape}, expected [num_samples]; use jax.vmap over "
            "clips and channels"
        )
    if waveform.shape[0] < 1:
        raise ValueError("waveform has 0 samples; give at least 1")
    if not jnp.issubdtype(waveform.dtype, jnp.floating):
        raise ValueError(
            f"waveform has dtype {waveform.dtype}, expected floating point in [-1, 1]; "
            "divide 16-bit integers by 32768 first"
        )
    return waveform.astype(jnp.promote_types(waveform.dtype, jnp.float32))


def check_hop(hop_length: int) -> None:
    """Raises ValueError unless `hop_length` is a positive number of samples."""
    if hop_length < 1:
        raise ValueError(f"hop_length={hop_length} must be at least 1 sample")


def num_whole_frames(num_samples: int, *, frame_length: int, hop_length: int) -> int:
    """Returns how many whole frames fit: `1 + (num_samples - frame_length) // hop_length`.

    Raises:
      ValueError: if not even one frame fits.
    """
    check_hop(hop_length)
    if frame_length < 1:
        raise ValueError(f"frame_length={frame_length} must be at least 1 sample")
    if num_samples < frame_length:
        raise ValueError(
            f"num_samples={num_samples} is shorter than one frame of {frame_length}; pad with "
            f"{frame_length - num_samples} zeros, or use center=True or pad_end=True"
        )
    return 1 + (num_samples - frame_length) // hop_length


def slice_frames(samples, *, frame_length: int, hop_length: int):
    """Returns the whole frames of `samples`, NumPy or JAX, over its last axis.

    Args:
      samples: `[..., num_samples]`.
    Returns:
      `[..., num_frames, frame_length]`, with num_frames as `num_whole_frames` says.
    """
    xp = jnp if isinstance(samples, jax.Array) else np
    num_samples, lead = samples.shape[-1], samples.shape[:-1]
    frames = num_whole_frames(num_samples, frame_length=frame_length, hop_length=hop_length)
    # A frame is the head of `overlap` consecutive hop-sized blocks, whether or not hop divides it.
    overlap = -(-frame_length // hop_length)
    num_blocks = frames + overlap - 1
    missing = num_blocks * hop_length - num_samples
    if missing > 0:
        samples = xp.pad(samples, [(0, 0)] * len(lead) + [(0, missing)])
    blocks = samples[..., : num_blocks * hop_length].reshape(*lead, num_blocks, hop_length)
    # Stacked, not concatenated along the last axis: XLA on CPU then copies whole blocks, in half
    # the time.
    views = xp.stack([blocks[..., i : i + frames, :] for i in range(overlap)], axis=-2)
    return views.reshape(*lead, frames, overlap * hop_length)[..., :frame_length]


def overlap_add(frames, *, hop_length: int):
    """Returns the sum of frames laid `hop_length` apart, NumPy or JAX; adjoint of slicing.

    Args:
      frames: `[num_frames, frame_length]`.
    Returns:
      `[(num_frames - 1) * hop_length + frame_length]`.
    """
    check_hop(hop_length)
    xp = jnp if isinstance(frames, jax.Array) else np
    num_frames, frame_length = frames.shape
    overlap = -(-frame_length // hop_length)
    length = (num_frames - 1) * hop_length + frame_length
    frames = xp.pad(frames, [(0, 0), (0, overlap * hop_length - frame_length)])
    blocks = frames.reshape(num_frames, overlap, hop_length)
    # Block i of every frame lands i hops later: `overlap` shifted copies, summed.
    total = sum(xp.pad(blocks[:, i], [(i, overlap - 1 - i), (0, 0)]) for i in range(overlap))
    return total.reshape(-1)[:length]


def frame(
    waveform, *, frame_length: int, hop_length: int, pad_end: bool = False, pad_value: float = 0.0
) -> jax.Array:
    """Cuts a waveform into overlapping frames; matches `librosa.util.frame` transposed.

    Args:
      waveform: `[num_samples]`, floating point.
      frame_length: samples per frame.
      hop_length: samples between the starts of frames.
      pad_end: append `pad_value` so that every hop starts a frame and no sample is lost.
      pad_value: the sample appended.
    Returns:
      `[num_frames, frame_length]`; num_frames is `1 + (num_samples - frame_length) // hop_length`,
      or `ceil(num_samples / hop_length)` with pad_end.
    Raises:
      ValueError: if hop_length < 1, or no whole frame fits and pad_end is False.
    """
    waveform = as_waveform(waveform)
    check_hop(hop_length)
    if pad_end:
        num_frames = -(-waveform.shape[0] // hop_length)
        length = (num_frames - 1) * hop_length + frame_length
        missing = max(length - waveform.shape[0], 0)
        waveform = jnp.pad(waveform, (0, missing), constant_values=pad_value)[:length]
    return slice_frames(waveform, frame_length=frame_length, hop_length=hop_length)


def energy(
    waveform,
    *,
    sample_rate: float,
    frame_length: int,
    hop_length: int,
    ref_duration: float = 0.1,
    pad_end: bool = False,
) -> jax.Array:
    """Returns each frame's energy, as if every frame lasted `ref_duration` seconds.

    `sum(x**2) * ref_duration / (frame_length / sample_rate)`, Kapre's definition.

    Args:
      waveform: `[num_samples]`.
      sample_rate: Hz.
      frame_length: samples per frame.
      hop_length: samples between the starts of frames.
      ref_duration: seconds.
      pad_end: as in `frame`, with zeros.
    Returns:
      `[num_frames]`, >= 0.
    """
    frames = frame(waveform, frame_length=frame_length, hop_length=hop_length, pad_end=pad_end)
    return jnp.sum(frames**2, axis=-1) * (ref_duration * sample_rate / frame_length)
