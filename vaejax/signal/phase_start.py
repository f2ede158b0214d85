"""Phase guessed in one pass from the shape of a magnitude spectrogram.

Two slopes of the log-magnitude tell the phase (Portnoff 1979; Prusa et al. 2017): the slope over
frequency gives the phase's advance from frame to frame, the slope over time its change from bin to
bin. The functions here differ in how they sum these: per bin, per spectral peak, or along the path
through the strongest bins.

Every function maps a magnitude `[num_frames, num_bins]` to a phase of the same shape in radians,
as `vaejax.signal.stft` has it: referred to the first sample of each frame. Inside, phases are in
turns (cycles) and referred to the frame's centre, where a symmetric window adds nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal.framing import check_hop
from vaejax.signal.stft import check_bins
from vaejax.signal.windows import Window, get_window

# The Gaussian exp(-pi t^2 / gamma) closest to a window of n samples has gamma = c n^2 (Prusa et al.
# 2017, table 1). The Gaussian's own c follows from its default value of 0.01 at the ends.
GAMMA = {"hann": 0.25645, "hamming": 0.29794, "gaussian": -np.pi / (4 * np.log(0.01))}

# Bins this far below the clip's peak carry no usable slope; -200 dB also keeps the logarithm
# finite at silence.
RELATIVE_FLOOR = 1e-10
TINY = 1e-30

# Of the draws that tell the delays of a noise's bins apart at its onset.
ONSET_SEED = 0

# Bins walked within a frame. On recorded notes (n_fft 2048, hop 512) 12 is as good as all 1025
# within 0.1 dB of spectral convergence, and several times cheaper. At a sharp onset out of silence,
# without `onset_phase`, all bins are worth 2 to 5 dB more.
DEFAULT_REACH = 12


def pghi_phase(
    magnitude,
    *,
    n_fft: int,
    hop_length: int,
    window: Window = "hann",
    look_ahead: int = 1,
    reach: int | None = DEFAULT_REACH,
    tolerance: float = 0.0,
    first=None,
) -> jax.Array:
    """Phase gradient heap integration, frame by frame, in a form without a heap.

    Real-time PGHI (Prusa & Sondergaard 2016). There, a heap spreads the phase from the strongest
    bins outward: into bin m of frame n either from the same bin of frame n - 1, by the slope over
    frequency, or from a neighbour in frame n, by the slope over time. The bin that the heap serves
    first is the one whose weakest link is strongest. Which bin that is depends on magnitudes only,
    so `strongest_path` finds it for all frames at once; what is left to do in order is one gather
    per frame.

    Args:
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear, >= 0.
      n_fft, hop_length: as in `stft`.
      window: a name with an entry in `GAMMA`.
      look_ahead: 1 takes the slope over time between the frames before and after (best); 0 only
        from the frame before, which lets frames be processed as they arrive.
      reach: longest walk within a frame, bins; None for all, which is the heap's own order.
      tolerance: bins below this fraction of the clip's largest keep their own centre frequency and
        are not passed through; 0 uses all.
      first: `[n_fft // 2 + 1]` radians, phase of frame 0 (`onset_phase`); by default 0 at its
        centre.
    Returns:
      `[num_frames, n_fft // 2 + 1]` radians in [-pi, pi] plus a multiple of pi per bin.
    Raises:
      ValueError: if the shape does not fit, or the window has no entry in `GAMMA`.
    """
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
    if look_ahead not in (0, 1):
        raise ValueError(f"look_ahead={look_ahead} must be 0 or 1 frames")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance} must be at least 0 and below 1; try 1e-6")
    gamma = _gamma(window, n_fft)
    log_magnitude = _log_magnitude(magnitude)
    advance = _advance(log_magnitude, n_fft=n_fft, hop_length=hop_length, gamma=gamma)
    # Turns per bin: the group delay over n_fft. More than half a frame is outside the window.
    delay = _time_slope(log_magnitude, look_ahead) * (-gamma / (2 * np.pi * hop_length * n_fft))
    delay = jnp.clip(delay, -0.5, 0.5)
    strength = jnp.where(magnitude > tolerance * jnp.max(magnitude), magnitude, 0)
    # Levels only choose a path; no gradient flows through a choice.
    strength = jax.lax.stop_gradient(strength)
    origin, walk = strongest_path(strength, delay, reach=reach)
    advance = jnp.concatenate([advance[:1], 0.5 * (advance[1:] + advance[:-1])])
    return _spread(advance, origin, walk, first, n_fft=n_fft, hop_length=hop_length)


def derivative_phase(
    magnitude, *, n_fft: int, hop_length: int, window: Window = "hann", first=None
) -> jax.Array:
    """Phase whose advance per frame follows from the log-magnitude's slope over frequency.

    The zero-look-ahead part of RTPGHI (Prusa & Sondergaard 2016), summed over frames with the
    trapezoid rule: around a partial, neighbouring bins are pulled to its frequency. The
    simplification is CANNe's (Colonel et al. 2018), with the published sign and n_fft.

    Args:
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear, >= 0.
      n_fft, hop_length: as in `stft`.
      window: a name with an entry in `GAMMA`.
      first: as in `pghi_phase`; by default frame 0 is a sum of cosines centred on the frame.
    Returns:
      `[num_frames, n_fft // 2 + 1]` radians, but for whole turns.
    """
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
    gamma = _gamma(window, n_fft)
    advance = _advance(_log_magnitude(magnitude), n_fft=n_fft, hop_length=hop_length, gamma=gamma)
    return _sum_over_frames(advance, first, n_fft=n_fft, hop_length=hop_length)


def peak_phase(
    magnitude, *, n_fft: int, hop_length: int, window: Window = "hann", first=None
) -> jax.Array:
    """Phase that advances in every bin at the frequency of the strongest bin nearby.

    Half of single pass spectrogram inversion (Beauregard et al. 2015): the frequency of a peak is
    interpolated with a parabola through three log-magnitudes, and the bins within 2 of it, a Hann
    window's main lobe, follow it. Unlike `spsi_phase`, each bin sums its own phase.

    Args and returns: as in `derivative_phase`; any window.
    """
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
    own = _parabola_offset(_log_magnitude(magnitude))
    strengths, offsets = _Shifted(magnitude, 2), _Shifted(own, 2)
    strength, offset = magnitude, own
    for step in (-2, -1, 1, 2):
        theirs = strengths.at(step)
        # Their peak, seen from here.
        offset = jnp.where(theirs > strength, offsets.at(step) + step, offset)
        strength = jnp.maximum(strength, theirs)
    advance = offset * (hop_length / n_fft)
    return _sum_over_frames(advance, first, n_fft=n_fft, hop_length=hop_length)


def spsi_phase(
    magnitude, *, n_fft: int, hop_length: int, window: Window = "hann", first=None
) -> jax.Array:
    """Single pass spectrogram inversion (Beauregard et al. 2015).

    As `peak_phase`, but all bins nearest to a peak take that peak's phase, which continues from
    the same bin in the frame before.

    Args and returns: as in `derivative_phase`; any window.
    """
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
    origin, advance = _peaks(magnitude, n_fft=n_fft, hop_length=hop_length)
    walk = jnp.zeros_like(magnitude)
    return _spread(advance, origin, walk, first, n_fft=n_fft, hop_length=hop_length)


def nearest_peak_advance(magnitude, *, n_fft: int, hop_length: int) -> tuple[jax.Array, jax.Array]:
    """For each bin, the bin of the peak nearest to it, and how far its own phase advances per hop.

    Args:
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear, >= 0.
    Returns:
      (int32 bin, turns modulo 1), each `[num_frames, n_fft // 2 + 1]`. A bin follows its peak, so
      its turns are those at the bin of the peak. Without a peak, bins are their own.
    """
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
    origin, advance = _peaks(magnitude, n_fft=n_fft, hop_length=hop_length)
    carrier = _carrier_turns(magnitude.shape[1], n_fft=n_fft, hop_length=hop_length)
    return origin, (advance + carrier) % 1.0


def zero_phase(
    magnitude, *, n_fft: int, hop_length: int, window: Window = "hann", first=None
) -> jax.Array:
    """Phase 0 at the first sample of every frame, but for `first`, if it is given."""
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
    zeros = jnp.zeros_like(magnitude)
    return zeros if first is None else zeros.at[0].set(first)


def onset_phase(magnitude, *, n_fft: int, hop_length: int, window: Window = "hann") -> jax.Array:
    """Phase of frame 0 of a sound that nothing precedes.

    Frame 0 of a centred STFT is centred on the first sample: half of it is silence. With one
    phase in all bins, as a start would have it, whatever is broad in frequency becomes an impulse
    at the centre, a click on sample 0. Its energy comes later, and how much later the next frame
    tells: a bin whose energy grows or decays as exp(-2 a t) from t = 0 on has, over frame 0 under
    its window w and frame 1, the ratio of magnitudes

        r(a) = sqrt(sum_t e^(-2at) w(t - hop)^2 / sum_t e^(-2at) w(t)^2)

    and its energy in frame 0 lies around the mean and with the standard deviation of t under
    e^(-2at) w(t)^2. Both are read off r; the group delay of a bin is the mean and a fixed normal
    draw times the deviation, as neighbouring bins of a noise differ. The phase is its sum over
    bins. A click at sample 0 has r = w(hop) / w(0) and delay 0, and stays the click that it is.

    Of 96 recorded drums (true magnitudes, n_fft 2048, hop 512, 2 iterations) 57 to 66 % began with
    a step without this, by start, and 0 to 2 % with it (`docs/phase-recovery.md`).

    Args:
      magnitude: `[num_frames, n_fft // 2 + 1]`, linear, >= 0; only two frames are looked at. Of a
        single one the phase is 0 at its centre.
      n_fft, hop_length: as in `stft`.
      window: as in `stft`; of one that is traced by JAX, Hann's table is taken.
    Returns:
      `[n_fft // 2 + 1]` radians, referred to the first sample of the frame.
    """
    magnitude = check_magnitude(magnitude, n_fft=n_fft, hop_length=hop_length)
    to_start = _to_first_sample(magnitude.shape[1], n_fft)
    if magnitude.shape[0] < 2:
        return -2 * jnp.pi * jnp.asarray(to_start)
    ratio, mean, deviation = _onset_table(n_fft, hop_length, window)
    log_magnitude = _log_magnitude(magnitude)
    log_ratio = log_magnitude[1] - log_magnitude[0]
    draw = jax.random.normal(jax.random.key(ONSET_SEED), log_ratio.shape)
    delay = jnp.interp(log_ratio, np.log(ratio), mean)
    delay += draw * jnp.interp(log_ratio, np.log(ratio), deviation)
    turns = -jnp.cumsum(jnp.pad(0.5 * (delay[1:] + delay[:-1]), (1, 0)))
    return 2 * jnp.pi * (turns - to_start)


def _onset_table(n_fft: int, hop_length: int, window: Window) -> tuple[np.ndarray, ...]:
    """Of exponential envelopes from a click (first) to a sound that only grows: ratio of
    magnitudes of frames 1 and 0, rising; mean and standard deviation of the time of the energy in
    frame 0, in frames."""
    if isinstance(window, jax.core.Tracer):
        window = "hann"
    power = np.pad(np.asarray(get_window(window, n_fft), np.float64) ** 2, (0, n_fft))
    t, centre = np.arange(n_fft), n_fft // 2
    under_0, under_1 = power[centre:][:n_fft], power[max(centre - hop_length, 0) :][:n_fft]
    # From a decay within a sample to a rise within a hundredth of the frame.
    rates = np.concatenate([np.geomspace(1e4, 0.1, 80), [0], -np.geomspace(0.1, 50, 60)]) / n_fft
    # Each curve is scaled by its largest value: only ratios count.
    exponent = -2 * rates[:, None] * t
    energy = np.exp(exponent - exponent.max(axis=1, keepdims=True))
    total = energy @ under_0
    mean = energy @ (under_0 * t) / total
    spread = energy @ (under_0 * t**2) / total - mean**2
    ratio = np.sqrt(energy @ under_1 / total)
    return ratio, mean / n_fft, np.sqrt(np.maximum(spread, 0)) / n_fft


def strongest_path(strength, delay, *, reach: int | None = None) -> tuple[jax.Array, jax.Array]:
    """For each bin, where the phase of the previous frame enters, and the phase walked from there.

    Phase enters frame n at bin m at level strength[n - 1, m], or arrives from a neighbour, at the
    lower of the neighbour's own level and strength[n, neighbour]. The higher level wins: a heap
    would serve it first. Along a line of bins the two directions do not meet, so each is a
    recursion of its own.

    Args:
      strength: `[num_frames, num_bins]`, >= 0.
      delay: `[num_frames, num_bins]`, change of phase per bin, in turns.
      reach: longest walk in bins, >= 0; None for all bins.
    Returns:
      (int32 origin, walked turns), each `[num_frames, num_bins]`. In frame 0, which nothing
      precedes, strength[0] stands for the frame before.
    Raises:
      ValueError: if reach is negative.
    """
    strength, delay = jnp.asarray(strength), jnp.asarray(delay)
    if reach is not None and reach < 0:
        raise ValueError(f"reach={reach} must be 0 or more bins, or None for all")
    entry = jnp.concatenate([strength[:1], strength[:-1]])
    bins = jnp.arange(strength.shape[1], dtype=jnp.int32)
    if reach is None:
        origin = _origin_from_anywhere(strength, entry)
        across = jnp.cumsum(jnp.pad(0.5 * (delay[:, 1:] + delay[:, :-1]), ((0, 0), (1, 0))), axis=1)
        return origin, across - jnp.take_along_axis(across, origin, axis=1)
    # From the farthest bin in reach towards m, for all m at once: every term is a shifted view, and
    # XLA fuses all of it into one vectorised pass.
    gates, entries, turns = (_Shifted(values, reach) for values in (strength, entry, delay))
    level, offset, walk = entry, jnp.zeros_like(bins), jnp.zeros_like(delay)
    for side in (-1, 1):
        far_level = entries.at(side * reach)
        far_offset, far_walk = jnp.full_like(bins, side * reach), jnp.zeros_like(delay)
        for distance in range(reach - 1, -1, -1):
            here, there = side * distance, side * (distance + 1)
            arriving = jnp.minimum(gates.at(there), far_level)
            passes = arriving > entries.at(here)
            step = -0.5 * side * (turns.at(there) + turns.at(here))
            far_walk = jnp.where(passes, far_walk + step, 0)
            far_offset = jnp.where(passes, far_offset, here)
            far_level = jnp.where(passes, arriving, entries.at(here))
        wins = far_level > level
        level = jnp.where(wins, far_level, level)
        offset = jnp.where(wins, far_offset, offset)
        walk = jnp.where(wins, far_walk, walk)
    return bins + offset, walk


def carrier_phase(num_frames: int, *, n_fft: int, hop_length: int) -> np.ndarray:
    """Phase of a cosine at each bin's own frequency, `[num_frames, n_fft // 2 + 1]`, in [0, 2 pi).

    The cosines peak at the centre of frame 0: the term -pi k refers them to its first sample.
    """
    bins = np.arange(n_fft // 2 + 1, dtype=np.int64)
    # In whole samples modulo n_fft, so that no precision is lost over long clips.
    samples = np.arange(num_frames, dtype=np.int64)[:, None] * hop_length - n_fft // 2
    return (2 * np.pi / n_fft * (samples * bins % n_fft)).astype(np.float32)


def check_magnitude(magnitude, *, n_fft: int, hop_length: int) -> jax.Array:
    """Returns `magnitude` as float32 (float64 stays), or raises ValueError saying what is wrong."""
    magnitude = jnp.asarray(magnitude)
    check_bins(magnitude, n_fft=n_fft, name="magnitude")
    check_hop(hop_length)
    if not jnp.issubdtype(magnitude.dtype, jnp.floating):
        raise ValueError(
            f"magnitude has dtype {magnitude.dtype}, expected real floating point; take the "
            "magnitude of a complex spectrum first"
        )
    return magnitude.astype(jnp.promote_types(magnitude.dtype, jnp.float32))


def _gamma(window: Window, n_fft: int) -> float:
    if not isinstance(window, str) or window not in GAMMA:
        name = window[0] if isinstance(window, tuple) else window
        raise ValueError(
            f"no Gaussian equivalent is known for window {name!r}; known: {', '.join(GAMMA)}; "
            'use method "peaks", "spsi" or "griffin_lim" instead'
        )
    return GAMMA[window] * n_fft**2


def _log_magnitude(magnitude):
    floor = jnp.maximum(RELATIVE_FLOOR * jnp.max(magnitude), TINY)
    return jnp.log(jnp.maximum(magnitude, floor))


class _Shifted:
    """Views of `[num_frames, num_bins]` values at each bin's neighbours; 0 outside."""

    def __init__(self, values, reach: int):
        self.reach, self.num_bins = reach, values.shape[1]
        # Without the barrier XLA fuses the padding into every view as a branch per element, which
        # keeps the loop from being vectorised: 7 times slower on CPU.
        padded = jnp.pad(values, ((0, 0), (reach, reach)))
        self.padded = jax.lax.optimization_barrier(padded)

    def at(self, step: int):
        """Returns, at each bin, the value `step` bins above (below, if negative)."""
        return self.padded[:, self.reach + step : self.reach + step + self.num_bins]


def _origin_from_anywhere(strength, entry):
    """Origins over all distances: the recursion bin by bin, once from either end."""
    bins = jnp.arange(strength.shape[1], dtype=jnp.int32)

    def walk(reverse: bool):
        def step(state, bin_):
            level, origin, gate = state
            strength, entry, own = bin_
            arriving = jnp.minimum(gate, level)
            passes = arriving > entry
            level, origin = jnp.where(passes, arriving, entry), jnp.where(passes, origin, own)
            return (level, origin, strength), (level, origin)

        nothing = jnp.full_like(entry[:, 0], -1)
        start = (nothing, jnp.zeros(nothing.shape, jnp.int32), nothing)
        _, (level, origin) = jax.lax.scan(step, start, (strength.T, entry.T, bins), reverse=reverse)
        return level.T, origin.T

    (below_level, below), (above_level, above) = walk(False), walk(True)
    return jnp.where(below_level >= above_level, below, above)


def _advance(log_magnitude, *, n_fft: int, hop_length: int, gamma: float):
    """Turns per hop beyond the bin's own frequency, from the slope over bins; 0 at the ends."""
    slope = 0.5 * (log_magnitude[:, 2:] - log_magnitude[:, :-2])
    return jnp.pad(slope, ((0, 0), (1, 1))) * (hop_length * n_fft / (2 * np.pi * gamma))


def _time_slope(log_magnitude, look_ahead: int):
    """Change of the log-magnitude per frame; one-sided where a neighbour frame is missing."""
    steps = jnp.diff(log_magnitude, axis=0)
    backward = jnp.pad(steps, ((1, 0), (0, 0)))
    if look_ahead == 0 or log_magnitude.shape[0] < 2:
        return backward
    forward = jnp.concatenate([steps, steps[-1:]])
    return 0.5 * (forward + jnp.concatenate([steps[:1], steps]))


def _parabola_offset(log_magnitude):
    """Offset in bins, at most 1/2, of the top of the parabola through a bin and its neighbours."""
    below, here, above = log_magnitude[:, :-2], log_magnitude[:, 1:-1], log_magnitude[:, 2:]
    curvature = 2 * here - below - above
    is_peak = (here > below) & (here >= above)
    offset = jnp.where(is_peak, 0.5 * (above - below) / jnp.where(is_peak, curvature, 1), 0)
    return jnp.pad(jnp.clip(offset, -0.5, 0.5), ((0, 0), (1, 1)))


def _peaks(magnitude, *, n_fft: int, hop_length: int):
    """The bin of the nearest peak, and the turns per hop beyond each bin's own frequency."""
    num_bins = magnitude.shape[1]
    around = _Shifted(magnitude, 1)
    is_peak = (magnitude > around.at(-1)) & (magnitude >= around.at(1))
    bins = jnp.arange(num_bins)
    left = jax.lax.cummax(jnp.where(is_peak, bins, -num_bins), axis=1)
    right = jax.lax.cummin(jnp.where(is_peak, bins, 2 * num_bins), axis=1, reverse=True)
    nearest = jnp.where(bins - left <= right - bins, left, right)
    origin = jnp.where((nearest >= 0) & (nearest < num_bins), nearest, bins)
    return origin, _parabola_offset(_log_magnitude(magnitude)) * (hop_length / n_fft)


def _carrier_turns(num_bins: int, *, n_fft: int, hop_length: int) -> np.ndarray:
    """Fraction of a turn that each bin's own frequency advances per hop, exact."""
    return (np.arange(num_bins, dtype=np.int64) * hop_length % n_fft / n_fft).astype(np.float32)


def _to_first_sample(num_bins: int, n_fft: int) -> np.ndarray:
    """Turns between the centre of a frame and its first sample, half a one per bin; modulo a turn,
    for odd n_fft too."""
    bins = np.arange(num_bins, dtype=np.int64)
    return (bins * (n_fft // 2) % n_fft / n_fft).astype(np.float32)


def _spread(advance, origin, walk, first, *, n_fft: int, hop_length: int):
    """Carries phase from frame to frame at each bin's origin, then along the walk to the bin."""
    num_bins = advance.shape[1]
    carrier = _carrier_turns(num_bins, n_fft=n_fft, hop_length=hop_length)
    to_start = _to_first_sample(num_bins, n_fft)
    start = walk[0] if first is None else first / (2 * jnp.pi) + to_start

    def step(turns, frame):
        entering, origin, walk = frame
        turns = jnp.take(turns + entering, origin, mode="clip") + walk
        turns = turns - jnp.round(turns)
        return turns, turns

    # Frame 0 has no frame before it: its phase is the start.
    later = (advance + carrier)[1:], origin[1:], walk[1:]
    _, turns = jax.lax.scan(step, start, later)
    return 2 * jnp.pi * (jnp.concatenate([start[None], turns]) - to_start)


def _sum_over_frames(advance, first, *, n_fft: int, hop_length: int):
    """Integrates bin frequency plus `advance` (turns per hop) from frame 0 by trapezoids."""
    trapezoid = 0.5 * (advance[1:] + advance[:-1])

    # A scan over frames is 4x cheaper than a parallel prefix sum on CPU: it stays in the cache.
    def step(total, change):
        # Whole turns are dropped, or float32 would lose the others after some minutes.
        total = total + change
        total = total - jnp.round(jax.lax.stop_gradient(total))
        return total, total

    _, summed = jax.lax.scan(step, jnp.zeros_like(advance[0]), trapezoid)
    summed = 2 * jnp.pi * jnp.pad(summed, ((1, 0), (0, 0)))
    phase = summed + carrier_phase(advance.shape[0], n_fft=n_fft, hop_length=hop_length)
    return phase if first is None else phase + (first - phase[0])
