"""Short-time Fourier transform and its exact inverse, one clip at a time.

`stft` equals `librosa.stft(..., pad_mode="constant")` transposed: `[num_frames, num_bins]`, time
first. `istft` divides by the sum of squared windows that really covers each sample (Griffin & Lim
1984, equation 6), so the first and the last sample come back as exactly as the middle ones.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.framing import (
    as_waveform,
    check_hop,
    num_whole_frames,
    overlap_add,
    slice_frames,
)
from vaejax.signal.windows import Window, get_window

# A sample seen only through a window gain g comes back with rounding errors 1 / g times larger.
# Gain 0.01 (its square is this number) keeps a float32 round trip at 1e-5; below it is an error.
MIN_COVERAGE = 1e-4


def num_frames(
    num_samples: int,
    *,
    n_fft: int,
    hop_length: int,
    center: bool = True,
    padding: tuple[int, int] = (0, 0),
) -> int:
    """Returns the number of STFT frames of `num_samples` samples, as librosa counts them.

    Centred with even n_fft: `1 + num_samples // hop_length`. Otherwise
    `1 + (sum(padding) + num_samples - n_fft) // hop_length`.

    Raises:
      ValueError: if no frame fits, or a size is not positive.
    """
    begin, end = _padding(n_fft=n_fft, center=center, padding=padding)
    return num_whole_frames(num_samples + begin + end, frame_length=n_fft, hop_length=hop_length)


def perfect_padding(num_samples: int, *, n_fft: int, hop_length: int) -> tuple[int, int]:
    """Returns (begin, end) zeros that let every sample be seen by all its overlapping frames.

    For use as `padding` with `center=False`, in both directions: the pair then reconstructs every
    sample, and the window's sum is the same for the first sample as for the middle ones.
    """
    check_hop(hop_length)
    begin = max(n_fft - hop_length, 0)
    end = begin + (-(num_samples + begin)) % hop_length
    return begin, end


def stft(
    waveform,
    *,
    n_fft: int,
    hop_length: int,
    win_length: int | None = None,
    window: Window = "hann",
    center: bool = True,
    padding: tuple[int, int] = (0, 0),
) -> jax.Array:
    """Short-time Fourier transform, equal to `librosa.stft(pad_mode="constant")` transposed.

    Args:
      waveform: `[num_samples]`, floating point.
      n_fft: samples per frame, any integer >= 2.
      hop_length: samples between frames; need not divide n_fft.
      win_length: window samples, by default n_fft; a shorter window sits in the frame's centre.
      window: name, (name, parameter) or `[win_length]` array, which may be learned.
      center: pad n_fft // 2 zeros on both sides, so that frame t is centred on t * hop_length.
      padding: (begin, end) zeros in samples, only with center=False.
    Returns:
      complex64 `[num_frames, n_fft // 2 + 1]`; see `num_frames`. Not normalised: a full-scale sine
      peaks at half the window's sum.
    Raises:
      ValueError: on sizes that cannot work, an unknown window, or a waveform that is not
        one-dimensional floating point.
    """
    waveform = as_waveform(waveform)
    full_window = _full_window(window, win_length=win_length, n_fft=n_fft)
    begin, end = _padding(n_fft=n_fft, center=center, padding=padding)
    padded = jnp.pad(waveform, (begin, end))
    frames = slice_frames(padded, frame_length=n_fft, hop_length=hop_length)
    return jnp.fft.rfft(frames * jnp.asarray(full_window, frames.dtype))


def istft(
    spectrum,
    *,
    n_fft: int,
    hop_length: int,
    length: int | None = None,
    win_length: int | None = None,
    window: Window = "hann",
    center: bool = True,
    padding: tuple[int, int] = (0, 0),
) -> jax.Array:
    """Inverse STFT by weighted overlap-add, exact at the edges too.

    Least-squares inverse of Griffin & Lim 1984, equation 6: windowed frames are added and divided
    by the sum of the squared windows that covers each sample. `istft(stft(x), length=len(x))`
    returns x within 1e-5.

    Args:
      spectrum: complex `[num_frames, n_fft // 2 + 1]`. The imaginary parts of bin 0 and, with even
        n_fft, of the last bin have no waveform and are ignored.
      n_fft, hop_length, win_length, window, center, padding: as in `stft`.
      length: samples to return; by default all that the frames span, `(num_frames - 1) *
        hop_length` when centred with even n_fft.
    Returns:
      float32 `[length]`.
    Raises:
      ValueError: if the last axis is not n_fft // 2 + 1, or some of the samples asked for are not
        covered by the windows (the nonzero-overlap-add condition). A window traced by JAX cannot
        be checked on the host; uncovered samples are then 0.
    """
    spectrum = as_spectrum(spectrum, n_fft=n_fft)
    full_window = _full_window(window, win_length=win_length, n_fft=n_fft)
    begin, end = _padding(n_fft=n_fft, center=center, padding=padding)
    check_hop(hop_length)
    frames = spectrum.shape[0]
    span = (frames - 1) * hop_length + n_fft
    if length is None:
        length = span - begin - end
    coverage = window_coverage(
        full_window, num_frames=frames, hop_length=hop_length, begin=begin, length=length
    )
    real = jnp.fft.irfft(spectrum, n=n_fft)
    total = overlap_add(real * jnp.asarray(full_window, real.dtype), hop_length=hop_length)
    return total[begin : begin + length] * jnp.asarray(coverage, real.dtype)


def window_coverage(full_window, *, num_frames: int, hop_length: int, begin: int, length: int):
    """Returns 1 / (sum of squared windows over each sample), `[length]`, or says why it cannot.

    Raises:
      ValueError: if a sample lies outside all frames or is seen through too small a gain.
    """
    n_fft = full_window.shape[0]
    span = (num_frames - 1) * hop_length + n_fft
    if length < 1:
        raise ValueError(
            f"length={length} must be at least 1; {num_frames} frames with hop_length={hop_length} "
            f"span {span - begin} samples after the first {begin}: pass length explicitly"
        )
    if begin + length > span:
        raise ValueError(
            f"length={length} reaches past the last of {num_frames} frames (n_fft={n_fft}, "
            f"hop_length={hop_length}); ask for at most {span - begin} samples or give more frames"
        )
    traced = isinstance(full_window, jax.core.Tracer)
    squared = full_window**2 if traced else np.asarray(full_window, np.float64) ** 2
    xp = jnp if traced else np
    summed = overlap_add(xp.broadcast_to(squared, (num_frames, n_fft)), hop_length=hop_length)
    summed = summed[begin : begin + length]
    if traced:
        covered = summed > MIN_COVERAGE * jnp.max(squared)
        return jnp.where(covered, 1 / jnp.where(covered, summed, 1), 0)
    uncovered = np.flatnonzero(summed < MIN_COVERAGE * squared.max())
    if uncovered.size or squared.max() == 0:
        where = f"samples {uncovered[0]} to {uncovered[-1]}" if uncovered.size else "all samples"
        raise ValueError(
            f"the windows do not cover {uncovered.size} of {length} samples ({where}) with "
            f"n_fft={n_fft}, hop_length={hop_length}, {num_frames} frames: nothing can be "
            f"reconstructed there; try hop_length={max(n_fft // 4, 1)}, center=True, or a length "
            "that is a multiple of hop_length"
        )
    return 1 / summed


def as_spectrum(spectrum, *, n_fft: int) -> jax.Array:
    """Returns `spectrum` as a complex array, or raises ValueError if its shape does not fit."""
    spectrum = jnp.asarray(spectrum)
    check_bins(spectrum, n_fft=n_fft, name="spectrum")
    return spectrum.astype(jnp.promote_types(spectrum.dtype, jnp.complex64))


def check_bins(values, *, n_fft: int, name: str) -> None:
    """Raises ValueError unless `values` is `[num_frames >= 1, n_fft // 2 + 1]`."""
    if n_fft < 2:
        raise ValueError(f"n_fft={n_fft} must be at least 2 samples")
    num_bins = n_fft // 2 + 1
    if values.ndim != 2 or values.shape[1] != num_bins or values.shape[0] < 1:
        raise ValueError(
            f"{name} has shape {tuple(values.shape)}, expected [num_frames, {num_bins}] for "
            f"n_fft={n_fft}: time first (transpose librosa's), one clip (jax.vmap over clips)"
        )


def _padding(*, n_fft: int, center: bool, padding: tuple[int, int]) -> tuple[int, int]:
    if n_fft < 2:
        raise ValueError(f"n_fft={n_fft} must be at least 2 samples")
    begin, end = padding
    if begin < 0 or end < 0:
        raise ValueError(f"padding={padding} must not be negative")
    if center and (begin or end):
        raise ValueError(
            f"padding={padding} has no effect with center=True, which pads {n_fft // 2} zeros on "
            "both sides; pass center=False"
        )
    return (n_fft // 2, n_fft // 2) if center else (begin, end)


def _full_window(window: Window, *, win_length: int | None, n_fft: int):
    """Returns the window centred in n_fft samples, as librosa centres it."""
    if win_length is None:
        win_length = n_fft
    if win_length > n_fft:
        raise ValueError(
            f"win_length={win_length} is longer than n_fft={n_fft}; raise n_fft to at least "
            f"{win_length} or shorten the window"
        )
    samples = get_window(window, win_length)
    before = (n_fft - win_length) // 2
    xp = jnp if isinstance(samples, jax.Array) else np
    return xp.pad(samples, (before, n_fft - win_length - before))
