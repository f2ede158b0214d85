"""Loudness by ITU-R BS.1770-4: K-weighting, gated integration, in LUFS (= LKFS)."""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.framing import slice_frames

BLOCK_SECONDS = 0.4
BLOCK_HOP_SECONDS = 0.1
ABSOLUTE_GATE = -70.0
RELATIVE_GATE = -10.0
# BS.1770's offset: a 997 Hz full-scale sine in one channel reads -3.01 LUFS.
OFFSET = -0.691
# The high-pass at 38 Hz has decayed below -150 dB after this time.
TAIL_SECONDS = 0.15


def k_weighting_coefficients(sample_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two biquads of K-weighting for any sample rate.

    BS.1770 tabulates 48 kHz only; these are the analogue prototypes behind the table, taken
    through the bilinear transform, and agree with it at 48 kHz.

    Returns:
      (numerators, denominators), each `[2, 3]`: high shelf, then high-pass.
    """
    k = np.tan(np.pi * 1681.974450955533 / sample_rate)
    q, high = 0.7071752369554196, 10.0 ** (3.999843853973347 / 20.0)
    middle = high**0.4996667741545416
    a0 = 1 + k / q + k * k
    shelf = np.array(
        [high + middle * k / q + k * k, 2 * (k * k - high), high - middle * k / q + k * k]
    )
    shelf_a = np.array([a0, 2 * (k * k - 1), 1 - k / q + k * k])
    k = np.tan(np.pi * 38.13547087602444 / sample_rate)
    q = 0.5003270373238773
    b0 = 1 + k / q + k * k
    pass_a = np.array([b0, 2 * (k * k - 1), 1 - k / q + k * k])
    # The table leaves the high-pass's numerator at 1, -2, 1 instead of dividing it by b0.
    return np.stack([shelf / a0, [1.0, -2.0, 1.0]]), np.stack([shelf_a / a0, pass_a / b0])


def k_weighting_response(size: int, sample_rate: float) -> np.ndarray:
    """The complex response of K-weighting at the `size // 2 + 1` bins of a real transform."""
    delay = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
    numerators, denominators = k_weighting_coefficients(sample_rate)
    response = np.ones_like(delay)
    for b, a in zip(numerators, denominators, strict=True):
        response *= np.polyval(b[::-1], delay) / np.polyval(a[::-1], delay)
    return response


def k_weight(waveform, *, sample_rate: float) -> jax.Array:
    """Applies K-weighting over the last axis, in the frequency domain with the exact response.

    Args:
      waveform: `[..., num_samples]`.
      sample_rate: Hz, above 3364 (twice the shelf's frequency).
    Returns:
      Same shape.
    """
    if sample_rate <= 2 * 1681.98:
        raise ValueError(
            f"sample_rate={sample_rate} Hz must be above 3364: K-weighting's shelf sits at 1682 Hz"
        )
    waveform = jnp.asarray(waveform)
    waveform = waveform.astype(jnp.promote_types(waveform.dtype, jnp.float32))
    num_samples = waveform.shape[-1]
    size = _fast_size(num_samples + int(np.ceil(TAIL_SECONDS * sample_rate)))
    response = k_weighting_response(size, sample_rate)
    spectrum = jnp.fft.rfft(waveform, n=size)
    weighted = jnp.fft.irfft(spectrum * jnp.asarray(response, spectrum.dtype), n=size)
    return weighted[..., :num_samples]


def integrated_loudness(waveform, *, sample_rate: float, channel_gains=None) -> jax.Array:
    """Integrated loudness in LUFS (ITU-R BS.1770-4), with both gates.

    Blocks of 400 ms every 100 ms; those above -70 LUFS, then those above the mean of these minus
    10 LU, are averaged. A clip shorter than one block is one block of its own length.

    Args:
      waveform: `[num_samples]`, or `[num_channels, num_samples]`, full scale 1.
      sample_rate: Hz.
      channel_gains: `[num_channels]` weights, by default 1 (left, right, centre); BS.1770 gives
        surround channels 1.41.
    Returns:
      Scalar LUFS, at least -70, which also stands for silence.
    Raises:
      ValueError: if the shape does not fit or the sample rate is too low.
    """
    waveform = jnp.asarray(waveform)
    if waveform.ndim not in (1, 2) or waveform.shape[-1] < 1:
        raise ValueError(
            f"waveform has shape {waveform.shape}, expected [num_samples] or "
            "[num_channels, num_samples]; use jax.vmap over clips"
        )
    channels = waveform if waveform.ndim == 2 else waveform[None]
    gains = jnp.ones(channels.shape[0]) if channel_gains is None else jnp.asarray(channel_gains)
    if gains.shape != (channels.shape[0],):
        raise ValueError(
            f"channel_gains has shape {gains.shape}, expected one per channel: "
            f"[{channels.shape[0]}]"
        )
    weighted = k_weight(channels, sample_rate=sample_rate)
    # The channel sum first: blocks of a sum are sums of blocks.
    squared = jnp.sum(gains[:, None] * weighted**2, axis=0)
    block = min(round(BLOCK_SECONDS * sample_rate), squared.shape[0])
    hop = min(round(BLOCK_HOP_SECONDS * sample_rate), block)
    blocks = jnp.mean(slice_frames(squared, frame_length=block, hop_length=hop), axis=-1)

    def gated_mean(above):
        return jnp.sum(jnp.where(above, blocks, 0)) / jnp.maximum(jnp.sum(above), 1)

    absolute = blocks > _mean_square(ABSOLUTE_GATE)
    relative = blocks > gated_mean(absolute) * 10.0 ** (RELATIVE_GATE / 10.0)
    loudness = gated_mean(absolute & relative)
    return OFFSET + 10.0 * jnp.log10(jnp.maximum(loudness, _mean_square(ABSOLUTE_GATE)))


def _mean_square(lufs: float) -> float:
    return 10.0 ** ((lufs - OFFSET) / 10.0)


def _fast_size(at_least: int) -> int:
    """Returns the smallest even product of 2, 3 and 5 that is large enough: cheap to transform."""
    best = 1 << max(at_least - 1, 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            size = 2 * three
            while size < at_least:
                size *= 2
            best = min(best, size)
            three *= 3
        five *= 5
    return best
