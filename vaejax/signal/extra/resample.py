"""Changing the sample rate by a rational factor: windowed sinc, polyphase, one matrix product."""

from math import ceil, gcd

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.framing import as_waveform, slice_frames

# Largest polyphase matrix built (elements): above it the ratio is not one for a polyphase filter.
MAX_FILTER_SIZE = 1 << 22
# Inputs per block at least, so that neighbouring blocks share little of their filter's reach.
MIN_BLOCK = 128


def resampled_length(num_samples: int, *, sample_rate: int, new_sample_rate: int) -> int:
    """Returns `ceil(num_samples * new_sample_rate / sample_rate)`, as librosa and soxr do."""
    return -(-num_samples * new_sample_rate // sample_rate)


def resample(
    waveform,
    *,
    sample_rate: int,
    new_sample_rate: int,
    num_zeros: int = 64,
    rolloff: float = 0.945,
    beta: float = 14.0,
) -> jax.Array:
    """Resamples by band-limited interpolation (Smith, "Digital Audio Resampling").

    Each output is a Kaiser-windowed sinc sum over the inputs around it, with silence outside the
    clip. With the defaults, tones below 0.89 of the lower Nyquist frequency keep their level
    within 0.001 dB and those above the lower Nyquist frequency fall by more than 100 dB.

    Args:
      waveform: `[num_samples]`.
      sample_rate: of the waveform, whole Hz. Only the ratio matters, so 2 and 1 halve the rate.
      new_sample_rate: of the result, whole Hz.
      num_zeros: zero crossings of the sinc kept on each side.
      rolloff: cut-off as a fraction of the lower of both Nyquist frequencies, 0 to 1.
      beta: of the Kaiser window.
    Returns:
      `[ceil(num_samples * new_sample_rate / sample_rate)]`.
    Raises:
      ValueError: if a rate is not a positive integer, or their ratio has terms too large.
    """
    waveform = as_waveform(waveform)
    for name, rate in (("sample_rate", sample_rate), ("new_sample_rate", new_sample_rate)):
        if rate != int(rate) or rate < 1:
            raise ValueError(f"{name}={rate} must be a whole number of Hz, at least 1")
    if num_zeros < 1 or not 0 < rolloff <= 1:
        raise ValueError(f"num_zeros={num_zeros} must be >= 1 and rolloff={rolloff} in (0, 1]")
    sample_rate, new_sample_rate = int(sample_rate), int(new_sample_rate)
    divisor = gcd(sample_rate, new_sample_rate)
    up, down = new_sample_rate // divisor, sample_rate // divisor
    if up == down:
        return waveform
    # Cut-off in cycles per input sample, times two: 1 is the input's own Nyquist frequency.
    cutoff = rolloff * min(1.0, up / down)
    reach = ceil(num_zeros / cutoff)
    repeats = ceil(max(MIN_BLOCK, reach) / down)
    if (down * repeats + 2 * reach) * up * repeats > MAX_FILTER_SIZE:
        repeats = ceil(MIN_BLOCK / down)
    block_in, block_out = down * repeats, up * repeats
    width = block_in + 2 * reach
    if width * block_out > MAX_FILTER_SIZE:
        raise ValueError(
            f"{sample_rate} to {new_sample_rate} Hz is the ratio {up}/{down}, whose filter has "
            f"{width * block_out} elements (at most {MAX_FILTER_SIZE}); use a simpler ratio nearby"
        )
    # Output j of a block sits at input position j * down / up; frame position 0 is input -reach.
    distance = np.arange(width)[:, None] - reach - np.arange(block_out) * down / up
    inside = np.abs(distance) <= reach
    taper = np.i0(beta * np.sqrt(np.where(inside, 1 - (distance / reach) ** 2, 0))) / np.i0(beta)
    kernel = np.where(inside, cutoff * np.sinc(cutoff * distance) * taper, 0)
    # Unit gain at DC for every output phase; otherwise the phases' small differences are audible
    # as a tone at the block rate.
    kernel = kernel / kernel.sum(axis=0)

    num_samples = waveform.shape[0]
    length = resampled_length(num_samples, sample_rate=down, new_sample_rate=up)
    num_blocks = ceil(length / block_out)
    end = (num_blocks - 1) * block_in + width - reach - num_samples
    padded = jnp.pad(waveform, (reach, max(end, 0)))
    frames = slice_frames(padded, frame_length=width, hop_length=block_in)[:num_blocks]
    blocks = jnp.matmul(frames, jnp.asarray(kernel, waveform.dtype), precision="highest")
    return blocks.reshape(-1)[:length]
