"""Waveforms from magnitudes: cheap phase starts, then Griffin-Lim iterations with momentum.

A magnitude spectrogram loses the phase. A start guesses it in one pass from the magnitude's shape;
iterations then alternate between the two things that are known, "has this magnitude" and "is the
STFT of a waveform". Everything here is for one clip, `[num_frames, num_bins]`, with the STFT of
`vaejax.signal.stft` (centred, zero-padded), and runs batched under `jax.vmap`.

Phases are those of `stft`: referred to the first sample of each frame.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.stft import check_bins, istft, num_frames, stft
from vaejax.signal.windows import Window

# A Gaussian exp(-pi t^2 / gamma) closest to a window of n samples has gamma = c n^2 (Prusa et al.
# 2017, table 1). The Gaussian's own c follows from its default value of 0.01 at the ends.
GAMMA = {"hann": 0.25645, "hamming": 0.29794, "gaussian": -np.pi / (4 * np.log(0.01))}

# Bins this far below the clip's peak carry no usable phase derivative; -200 dB also keeps the
# logarithm finite at silence.
RELATIVE_FLOOR = 1e-10
TINY = 1e-30

# griffin_lim asked for by name in `invert` has no key argument: it starts from this seed.
INVERT_SEED = 0


def griffin_lim(
    key,
    magnitude,
    *,
    n_fft: int,
    hop_length: int,
    num_iters: int = 32,
    momentum: float = 0.99,
    length: int | None = None,
    init=None,
    window: Window = "hann",
) -> jax.Array:
    """Estimates a waveform whose STFT magnitude is close to `magnitude`.

    Griffin & Lim 1984 with the momentum of Perraudin et al. 2013 (0 gives the former). The
    momentum is applied to waveforms, which is the same because the STFT is linear. Phase is not
    unique: expect a close spectrogram, not the original waveform.

    Args:
      key: PRNG key of a uniformly random start phase; unused (None is fine) with `init`.
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear amplitude (not power, not dB), >= 0.
      n_fft: samples per frame.
      hop_length: samples between frames.
      num_iters: iterations, >= 0; static. Gradients flow through all of them.
      momentum: weight of the last change, 0 <= momentum; 0.99 is the paper's choice.
      length: samples to return, by default `(num_frames - 1) * hop_length`.
      init: real start phase in radians, or a complex spectrum whose phase is taken; same shape as
        `magnitude`.
      window: as in `stft`.
    Returns:
      float32 `[length]`, not clipped; exactly 0 where the magnitude is.
    Raises:
      ValueError: if the last axis is not n_fft // 2 + 1, `length` does not have num_frames frames,
        num_iters or momentum is negative, or there is neither key nor init.
    """
    magnitude, length = _check(magnitude, n_fft=n_fft, hop_length=hop_length, length=length)
    if num_iters < 0:
        raise ValueError(f"num_iters={num_iters} must be 0 or more")
    if momentum < 0:
        raise ValueError(f"momentum={momentum} must be 0 or more; 0.99 is usual, 0 is plain")
    if init is None:
        if key is None:
            raise ValueError("griffin_lim needs a key for its random start, or init=phase")
        init = jax.random.uniform(key, magnitude.shape, magnitude.dtype, -jnp.pi, jnp.pi)
    else:
        init = jnp.asarray(init)
        if init.shape != magnitude.shape:
            raise ValueError(f"init has shape {init.shape}, magnitude has {magnitude.shape}")
    if jnp.iscomplexobj(init):
        start = _with_magnitude(init, magnitude)
    else:
        start = jax.lax.complex(magnitude * jnp.cos(init), magnitude * jnp.sin(init))
    sizes = {"n_fft": n_fft, "hop_length": hop_length, "window": window}

    def step(waveforms, _):
        current, previous = waveforms
        ahead = current + momentum * (current - previous)
        projected = _with_magnitude(stft(ahead, **sizes), magnitude)
        return (istft(projected, length=length, **sizes), current), None

    waveform = istft(start, length=length, **sizes)
    (waveform, _), _ = jax.lax.scan(step, (waveform, waveform), None, length=num_iters)
    return waveform


def derivative_phase(
    magnitude, *, n_fft: int, hop_length: int, window: Window = "hann"
) -> jax.Array:
    """Phase whose advance per frame follows from the log-magnitude's slope over frequency.

    The zero-look-ahead part of RTPGHI (Prusa & Sondergaard 2016, equation 6), summed over frames
    with the trapezoid rule: around a partial, neighbouring bins are pulled to its frequency. The
    simplification is CANNe's (Colonel et al. 2018), with the paper's sign and n_fft.

    Args:
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear, >= 0.
      n_fft, hop_length, window: as in `stft`; window must have an entry in `GAMMA`.
    Returns:
      `[num_frames, n_fft // 2 + 1]` radians, not wrapped; frame 0 is a sum of cosines centred on
      the frame.
    """
    magnitude, _ = _check(magnitude, n_fft=n_fft, hop_length=hop_length, length=None)
    slope = _frequency_slope(_log_magnitude(magnitude))
    correction = slope * (hop_length * n_fft / _gamma(window, n_fft))
    return _sum_over_frames(correction, n_fft=n_fft, hop_length=hop_length)


def peak_phase(magnitude, *, n_fft: int, hop_length: int, window: Window = "hann") -> jax.Array:
    """Phase that advances in every bin at the frequency of the nearest spectral peak.

    After single pass spectrogram inversion (Beauregard et al. 2015): peaks are local maxima whose
    frequency is interpolated with a parabola through three log-magnitudes; each bin is locked to
    the peak nearest to it.

    Args and returns: as in `derivative_phase`; any window.
    """
    magnitude, _ = _check(magnitude, n_fft=n_fft, hop_length=hop_length, length=None)
    log_magnitude = _log_magnitude(magnitude)
    num_bins = magnitude.shape[1]
    below = jnp.pad(log_magnitude, ((0, 0), (1, 0)), constant_values=-jnp.inf)[:, :-1]
    above = jnp.pad(log_magnitude, ((0, 0), (0, 1)), constant_values=-jnp.inf)[:, 1:]
    interior = (jnp.arange(num_bins) > 0) & (jnp.arange(num_bins) < num_bins - 1)
    is_peak = (log_magnitude > below) & (log_magnitude >= above) & interior
    below, above = jnp.where(interior, below, 0), jnp.where(interior, above, 0)
    curvature = jnp.where(is_peak, 2 * log_magnitude - below - above, 1)
    offset = 0.5 * (above - below) / jnp.where(curvature > 0, curvature, 1)
    # Position of the nearest peak on either side, in bins; a bin without peaks keeps its own.
    bins = jnp.arange(num_bins, dtype=magnitude.dtype)
    position = jnp.where(is_peak, bins + jnp.clip(offset, -0.5, 0.5), jnp.nan)
    fill = jnp.where(is_peak, position, -jnp.inf)
    left = jax.lax.cummax(fill, axis=1)
    right = jax.lax.cummin(jnp.where(is_peak, position, jnp.inf), axis=1, reverse=True)
    nearest = jnp.where(bins - left <= right - bins, left, right)
    nearest = jnp.where(jnp.isfinite(nearest), nearest, bins)
    correction = (2 * jnp.pi * hop_length / n_fft) * (nearest - bins)
    return _sum_over_frames(correction, n_fft=n_fft, hop_length=hop_length)


def zero_phase(magnitude, *, n_fft: int, hop_length: int, window: Window = "hann") -> jax.Array:
    """Phase 0 everywhere: every frame is a pulse at its first sample."""
    magnitude, _ = _check(magnitude, n_fft=n_fft, hop_length=hop_length, length=None)
    return jnp.zeros_like(magnitude)


def random_phase(magnitude, *, n_fft: int, hop_length: int, window: Window = "hann") -> jax.Array:
    """Uniformly random phase from the fixed seed `INVERT_SEED`: the same in every call."""
    magnitude, _ = _check(magnitude, n_fft=n_fft, hop_length=hop_length, length=None)
    key = jax.random.key(INVERT_SEED)
    return jax.random.uniform(key, magnitude.shape, magnitude.dtype, -jnp.pi, jnp.pi)


METHODS: dict[str, Callable[..., jax.Array] | None] = {
    "auto": None,
    "derivative": derivative_phase,
    "peaks": peak_phase,
    "griffin_lim": random_phase,
    "zero": zero_phase,
}


def choose(n_fft: int, hop_length: int, target_db: float = -20.0) -> tuple[str, int]:
    """Returns the cheapest (method, num_iters) expected to reach `target_db`.

    Args:
      n_fft: samples per frame.
      hop_length: samples between frames.
      target_db: spectral convergence wanted on true magnitudes, below 0; see
        `spectral_convergence_db`.
    """
    if target_db >= 0:
        raise ValueError(f"target_db={target_db} must be below 0 dB; -20 is usual, -25 is finer")
    for reached_db, num_iters in ((-7.0, 0), (-21.0, 4), (-24.0, 8), (-25.5, 16), (-27.0, 32)):
        if reached_db <= target_db:
            return "derivative", num_iters
    return "derivative", 64


def invert(
    magnitude,
    *,
    method: str = "auto",
    num_iters: int | None = None,
    n_fft: int,
    hop_length: int,
    length: int | None = None,
    momentum: float = 0.99,
    target_db: float = -20.0,
    window: Window = "hann",
) -> jax.Array:
    """Waveform from magnitude by a start named in `METHODS` and Griffin-Lim iterations.

    Deterministic: no key; "griffin_lim" starts from the fixed seed `INVERT_SEED`.

    Args:
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear, >= 0.
      method: a key of `METHODS`; "auto" asks `choose` with n_fft, hop_length and target_db.
      num_iters: iterations after the start; None asks `choose`.
      n_fft, hop_length, length, momentum, window: as in `griffin_lim`.
      target_db: spectral convergence wanted, used where `choose` is asked.
    Returns:
      float32 `[length]`.
    Raises:
      ValueError: on an unknown method, and as `griffin_lim`.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    chosen, chosen_iters = choose(n_fft, hop_length, target_db)
    start = METHODS[chosen if method == "auto" else method]
    assert start is not None
    phase = start(magnitude, n_fft=n_fft, hop_length=hop_length, window=window)
    return griffin_lim(
        None,
        magnitude,
        n_fft=n_fft,
        hop_length=hop_length,
        num_iters=chosen_iters if num_iters is None else num_iters,
        momentum=momentum,
        length=length,
        init=phase,
        window=window,
    )


def recover(
    magnitude,
    *,
    n_fft: int,
    hop_length: int,
    target_db: float = -20.0,
    length: int | None = None,
) -> jax.Array:
    """Waveform from magnitude by the automatic choice for a quality target; deterministic.

    Args:
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear, >= 0.
      n_fft: samples per frame.
      hop_length: samples between frames.
      target_db: spectral convergence wanted on true magnitudes, below 0.
      length: samples to return, by default `(num_frames - 1) * hop_length`.
    Returns:
      float32 `[length]`.
    """
    return invert(magnitude, n_fft=n_fft, hop_length=hop_length, target_db=target_db, length=length)


def spectral_convergence_db(
    waveform, magnitude, *, n_fft: int, hop_length: int, window: Window = "hann"
) -> jax.Array:
    """How far a waveform's magnitudes are from those wanted, in dB: lower is better.

    `20 log10(norm(abs(stft(waveform)) - magnitude) / norm(magnitude))`, Frobenius norms.

    Args:
      waveform: `[num_samples]`, with as many frames as `magnitude`.
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear.
      n_fft, hop_length, window: as in `stft`.
    Returns:
      Scalar dB, between -200 and 200; -200 when both are silent.
    """
    check_bins(jnp.asarray(magnitude), n_fft=n_fft, name="magnitude")
    got = stft(waveform, n_fft=n_fft, hop_length=hop_length, window=window)
    magnitude = jnp.asarray(magnitude).astype(got.real.dtype)
    if got.shape != magnitude.shape:
        raise ValueError(
            f"the waveform has {got.shape[0]} frames and the magnitude {magnitude.shape[0]}; "
            f"compare clips of one length"
        )
    error = jnp.sum((_safe_abs(got) - magnitude) ** 2)
    total = jnp.sum(magnitude**2)
    # Clamping the ratio at +-200 dB keeps silence finite: 0 / 0 counts as reached.
    ratio = jnp.where(total > 0, error / jnp.where(total > 0, total, 1), (error > 0) * 1e20)
    return 10 * jnp.log10(jnp.clip(ratio, 1e-20, 1e20))


def _check(magnitude, *, n_fft: int, hop_length: int, length: int | None):
    magnitude = jnp.asarray(magnitude)
    check_bins(magnitude, n_fft=n_fft, name="magnitude")
    if not jnp.issubdtype(magnitude.dtype, jnp.floating):
        raise ValueError(
            f"magnitude has dtype {magnitude.dtype}, expected real floating point; take jnp.abs "
            "of a complex spectrum"
        )
    frames = magnitude.shape[0]
    if length is None:
        length = max((frames - 1) * hop_length, 1)
    wanted = num_frames(max(length, 1), n_fft=n_fft, hop_length=hop_length)
    if length < 1 or wanted != frames:
        raise ValueError(
            f"length={length} samples have {wanted} frames with hop_length={hop_length}, but "
            f"magnitude has {frames}; lengths from {(frames - 1) * hop_length} to "
            f"{frames * hop_length - 1} fit"
        )
    return magnitude.astype(jnp.promote_types(magnitude.dtype, jnp.float32)), length


def _gamma(window: Window, n_fft: int) -> float:
    name = window[0] if isinstance(window, tuple) else window
    if not isinstance(name, str) or name not in GAMMA:
        raise ValueError(
            f"no Gaussian equivalent is known for window {name!r}; known: {', '.join(GAMMA)}; "
            'use method="peaks" or "griffin_lim"'
        )
    return GAMMA[name] * n_fft**2


def _log_magnitude(magnitude):
    floor = jnp.maximum(RELATIVE_FLOOR * jnp.max(magnitude), TINY)
    return jnp.log(jnp.maximum(magnitude, floor))


def _frequency_slope(log_magnitude):
    """Central difference over bins, per bin; 0 in the first and the last."""
    inner = 0.5 * (log_magnitude[:, 2:] - log_magnitude[:, :-2])
    return jnp.pad(inner, ((0, 0), (1, 1)))


def _sum_over_frames(correction, *, n_fft: int, hop_length: int):
    """Integrates bin frequency plus `correction` (radians per hop) from frame 0 by trapezoids."""
    frames = correction.shape[0]
    trapezoid = 0.5 * (correction[1:] + correction[:-1])
    summed = jnp.pad(jnp.cumsum(trapezoid, axis=0), ((1, 0), (0, 0)))
    return summed + carrier_phase(frames, n_fft=n_fft, hop_length=hop_length)


def carrier_phase(frames: int, *, n_fft: int, hop_length: int) -> np.ndarray:
    """Phase of a cosine at each bin's own frequency, `[frames, n_fft // 2 + 1]`, in [0, 2 pi).

    The cosines peak at the centre of frame 0: the term -pi k refers them to its first sample.
    """
    bins = np.arange(n_fft // 2 + 1, dtype=np.int64)
    # In whole samples modulo n_fft, so that no precision is lost over long clips.
    samples = np.arange(frames, dtype=np.int64)[:, None] * hop_length - n_fft // 2
    return (2 * np.pi / n_fft * (samples * bins % n_fft)).astype(np.float32)


def _with_magnitude(spectrum, magnitude):
    """Returns `magnitude` with the phase of `spectrum`; 0 where the spectrum is exactly 0."""
    squared = spectrum.real**2 + spectrum.imag**2
    alive = squared > TINY
    gain = jnp.where(alive, magnitude * jax.lax.rsqrt(jnp.where(alive, squared, 1)), 0)
    return jax.lax.complex(spectrum.real * gain, spectrum.imag * gain)


def _safe_abs(spectrum):
    """Magnitude whose gradient at 0 is 0 instead of NaN."""
    squared = spectrum.real**2 + spectrum.imag**2
    alive = squared > TINY
    return jnp.where(alive, jnp.sqrt(jnp.where(alive, squared, 1)), 0)
