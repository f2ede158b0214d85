"""Waveforms from magnitudes: cheap phase starts, then accelerated Griffin-Lim iterations.

A magnitude spectrogram loses the phase. A start guesses it in one pass from the magnitude's shape;
iterations then alternate between the two things that are known, "has this magnitude" and "is the
STFT of a waveform". Everything here is for one clip, `[num_frames, num_bins]`, with the STFT of
`vaejax.signal.stft` (centred, zero-padded), and runs batched under `jax.vmap`.

Phases are those of `stft`: referred to the first sample of each frame.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal import spectrum
from vaejax.signal.phase_start import (
    check_magnitude,
    derivative_phase,
    onset_phase,
    peak_phase,
    pghi_phase,
    spsi_phase,
    zero_phase,
)
from vaejax.signal.stft import check_bins, istft, num_frames, stft
from vaejax.signal.windows import Window

# Spectral convergence in dB of `pghi_phase` out of `onset_phase` and as many iterations, by
# (n_fft, overlap), overlap = n_fft // hop_length: the worse of two sets of recorded notes at
# 44.1 kHz (40 instruments; bass, guitar, marimba and organ), each a mean, rounded up to half a dB.
# Frames too short to resolve the lowest partials are what makes 512 worse.
MEASURED_ITERS = (0, 1, 2, 4, 8, 16)
EXPECTED_DB = {
    (512, 2): (-16.5, -19.5, -22.0, -24.0, -26.5, -28.0),
    (1024, 2): (-19.0, -22.0, -24.5, -27.0, -29.0, -30.5),
    (2048, 2): (-22.5, -25.0, -27.5, -30.0, -33.0, -35.0),
    (4096, 2): (-22.5, -26.0, -28.5, -31.5, -34.0, -36.5),
    (512, 4): (-17.5, -20.0, -21.5, -23.0, -24.0, -25.0),
    (1024, 4): (-21.0, -23.5, -25.0, -26.5, -28.0, -29.0),
    (2048, 4): (-25.5, -28.0, -30.0, -32.0, -34.0, -36.0),
    (4096, 4): (-25.5, -29.0, -31.5, -33.5, -35.5, -38.0),
    (512, 8): (-19.5, -22.0, -23.5, -25.0, -26.0, -27.5),
    (1024, 8): (-23.5, -26.0, -26.5, -27.5, -28.5, -30.5),
    (2048, 8): (-29.0, -32.0, -33.5, -34.5, -35.5, -37.5),
    (4096, 8): (-29.0, -32.5, -34.5, -36.0, -38.0, -40.0),
}
# For targets beyond the table, and for starts that it does not list.
DEFAULT_ITERS = 32

# Measured on recorded notes: from about 6 iterations 0.5 dB better than relaxation 1 from a good
# start, 1 dB from random phase, at every overlap; momentum 1.1 or relaxation 1.5 diverge.
DEFAULT_MOMENTUM = 0.99
DEFAULT_RELAXATION = 1.25

# griffin_lim asked for by name in `invert` has no key argument: it starts from this seed.
INVERT_SEED = 0


def griffin_lim(
    key,
    magnitude,
    *,
    n_fft: int,
    hop_length: int,
    num_iters: int = 32,
    momentum: float = DEFAULT_MOMENTUM,
    relaxation: float = DEFAULT_RELAXATION,
    length: int | None = None,
    init=None,
    window: Window = "hann",
) -> jax.Array:
    """Estimates a waveform whose STFT magnitude is close to `magnitude`.

    Accelerated Griffin-Lim (Nenov et al. 2023) with its two momenta equal, so that one sequence
    carries both: `t = (1 - relaxation) * y + relaxation * P(y)`, then `y = t + momentum * change
    of t`, where P imposes the magnitude and returns to a waveform. `relaxation=1` is the fast
    Griffin-Lim of Perraudin et al. 2013, `momentum=0` besides is Griffin & Lim 1984. All of it is
    done on waveforms, which is the same because the STFT is linear. Phase is not unique: expect a
    close spectrogram, not the original waveform.

    Args:
      key: PRNG key of a uniformly random start phase; unused (None is fine) with `init`.
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear amplitude (not power, not dB), >= 0.
      n_fft: samples per frame.
      hop_length: samples between frames.
      num_iters: iterations, >= 0; static. Gradients flow through all of them.
      momentum: weight of the last change, 0 <= momentum; diverges slowly from about 1.1.
      relaxation: how far towards the projection a step goes, above 0 and below 2; 1 goes to it.
      length: samples to return, by default `(num_frames - 1) * hop_length`.
      init: real start phase in radians, as from the functions in `METHODS`, or a complex spectrum
        whose phase is taken; same shape as `magnitude`.
      window: as in `stft`.
    Returns:
      float32 `[length]`, not clipped; exactly 0 where the magnitude is.
    Raises:
      ValueError: if the last axis is not n_fft // 2 + 1, `length` does not have num_frames frames,
        num_iters or momentum is negative, relaxation is not in (0, 2), or there is neither key
        nor init.
    """
    magnitude, length = _check(magnitude, n_fft=n_fft, hop_length=hop_length, length=length)
    if num_iters < 0:
        raise ValueError(f"num_iters={num_iters} must be 0 or more")
    if momentum < 0:
        raise ValueError(f"momentum={momentum} must be 0 or more; 0.99 is usual, 0 is plain")
    if not 0 < relaxation < 2:
        raise ValueError(f"relaxation={relaxation} must be between 0 and 2; 1 is plain")
    if init is None:
        if key is None:
            raise ValueError("griffin_lim needs a key for its random start, or init=phase")
        init = jax.random.uniform(key, magnitude.shape, magnitude.dtype, -jnp.pi, jnp.pi)
    else:
        init = jnp.asarray(init)
        if init.shape != magnitude.shape:
            raise ValueError(f"init has shape {init.shape}, magnitude has {magnitude.shape}")
    if jnp.iscomplexobj(init):
        start = spectrum.with_magnitude(init, magnitude)
    else:
        start = spectrum.from_polar(magnitude, init)
    sizes: dict[str, Any] = {"n_fft": n_fft, "hop_length": hop_length, "window": window}

    def project(waveform):
        found = spectrum.with_magnitude(stft(waveform, **sizes), magnitude)
        return istft(found, length=length, **sizes)

    waveform = istft(start, length=length, **sizes)
    return accelerate(
        project, waveform, num_iters=num_iters, momentum=momentum, relaxation=relaxation
    )


def accelerate(
    project: Callable,
    waveform,
    *,
    num_iters: int,
    momentum: float = DEFAULT_MOMENTUM,
    relaxation: float = DEFAULT_RELAXATION,
):
    """The iterations of `griffin_lim` with any projection.

    Args:
      project: imposes the magnitude on a waveform and returns to a waveform.
      waveform: `[num_samples]`, the start.
      num_iters, momentum, relaxation: as in `griffin_lim`.
    Returns:
      `[num_samples]`.
    """

    def step(waveforms, _):
        _, ahead, previous = waveforms
        projected = project(ahead)
        relaxed = ahead + relaxation * (projected - ahead)
        return (projected, relaxed + momentum * (relaxed - previous), relaxed), None

    # What is returned is the last projection: what lies ahead of it is only where to look next.
    (waveform, _, _), _ = jax.lax.scan(step, (waveform,) * 3, None, length=num_iters)
    return waveform


def random_phase(
    magnitude, *, n_fft: int, hop_length: int, window: Window = "hann", first=None
) -> jax.Array:
    """Uniformly random phase from the fixed seed `INVERT_SEED`: the same in every call; but for
    that of frame 0, `first`, if it is given."""
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
    key = jax.random.key(INVERT_SEED)
    phase = jax.random.uniform(key, magnitude.shape, magnitude.dtype, -jnp.pi, jnp.pi)
    return phase if first is None else phase.at[0].set(first)


METHODS: dict[str, Callable[..., jax.Array] | None] = {
    "auto": None,
    "pghi": pghi_phase,
    "spsi": spsi_phase,
    "derivative": derivative_phase,
    "peaks": peak_phase,
    "griffin_lim": random_phase,
    "zero": zero_phase,
}


def choose(
    n_fft: int, hop_length: int, target_db: float = -20.0, method: str = "auto"
) -> tuple[str, int]:
    """Returns the cheapest (method, num_iters) expected to reach `target_db`.

    Read from `EXPECTED_DB`, measured on true magnitudes of recorded notes, at the nearest n_fft and
    overlap in it. The magnitudes of a model are consistent with no waveform; for them no number of
    iterations may reach the target, and the start alone is the sensible choice.

    Args:
      n_fft: samples per frame.
      hop_length: samples between frames.
      target_db: spectral convergence wanted on true magnitudes, below 0; see
        `spectral_convergence_db`.
      method: a key of `METHODS` that is already decided, or "auto". Those other than "auto" and
        "pghi" get `DEFAULT_ITERS` iterations.
    Raises:
      ValueError: if target_db is not below 0, frames overlap by less than half, or the method is
        unknown.
    """
    if not target_db < 0:
        raise ValueError(f"target_db={target_db} must be below 0 dB; -20 is usual, -25 is finer")
    _check_method(method)
    if method not in ("auto", "pghi"):
        return method, DEFAULT_ITERS
    overlaps = [overlap for _, overlap in EXPECTED_DB if 0 < overlap * hop_length <= n_fft]
    if not overlaps:
        raise ValueError(
            f"hop_length={hop_length} must be from 1 to half of n_fft={n_fft} for phase recovery; "
            f"try hop_length={max(n_fft // 4, 1)}"
        )
    size = min((size for size, _ in EXPECTED_DB), key=lambda size: abs(np.log2(size / n_fft)))
    expected = EXPECTED_DB[size, max(overlaps)]
    for num_iters, expected_db in zip(MEASURED_ITERS, expected, strict=True):
        if expected_db <= target_db:
            return "pghi", num_iters
    return "pghi", DEFAULT_ITERS


def invert(
    magnitude,
    *,
    method: str = "auto",
    num_iters: int | None = None,
    n_fft: int,
    hop_length: int,
    length: int | None = None,
    momentum: float = DEFAULT_MOMENTUM,
    relaxation: float = DEFAULT_RELAXATION,
    target_db: float = -20.0,
    window: Window = "hann",
) -> jax.Array:
    """Waveform from magnitude by a start named in `METHODS` and `griffin_lim` iterations.

    Deterministic: no key; "griffin_lim" starts from the fixed seed `INVERT_SEED`.

    Args:
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear, >= 0.
      method: a key of `METHODS`; "auto" asks `choose` with n_fft, hop_length and target_db.
      num_iters: iterations after the start; None asks `choose`.
      n_fft, hop_length, length, momentum, relaxation, window: as in `griffin_lim`.
      target_db: spectral convergence wanted, used where `choose` is asked.
    Returns:
      float32 `[length]`.
    Raises:
      ValueError: on an unknown method, and as `griffin_lim`.
    """
    _check_method(method)
    if num_iters is None or method == "auto":
        method, chosen_iters = choose(n_fft, hop_length, target_db, method)
        num_iters = chosen_iters if num_iters is None else num_iters
    start = METHODS[method]
    assert start is not None
    sizes: dict[str, Any] = {"n_fft": n_fft, "hop_length": hop_length, "window": window}
    phase = start(magnitude, first=onset_phase(magnitude, **sizes), **sizes)
    return griffin_lim(
        None,
        magnitude,
        num_iters=num_iters,
        momentum=momentum,
        relaxation=relaxation,
        length=length,
        init=phase,
        **sizes,
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
    error = jnp.sum((spectrum.magnitude(got) - magnitude) ** 2)
    total = jnp.sum(magnitude**2)
    # Clamping the ratio at +-200 dB keeps silence finite: 0 / 0 counts as reached.
    ratio = jnp.where(total > 0, error / jnp.where(total > 0, total, 1), (error > 0) * 1e20)
    return 10 * jnp.log10(jnp.clip(ratio, 1e-20, 1e20))


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; known: {', '.join(METHODS)}")


def _check(magnitude, *, n_fft: int, hop_length: int, length: int | None):
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
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
    return magnitude, length
