"""Sounds of any length from a model of frames: paths through its latent, and held spectra.

In the `frames` model z is a path, one latent [d] per STFT frame (d is model.latent_dim), and what
the decoder says of a frame depends on that latent alone. So any path [num_steps, d] is a sound of
(num_steps - 1) hops, its phases recovered over the whole; a latent that stays where it is becomes
a spectrum that stays as it is, and on a circle (`vaejax.signal.circular`) a seamless loop of any
number of hops. These are the playing modes of CANNe (Colonel et al. 2018) and MANNe (2020).
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vaejax import features, models
from vaejax.codec import Fitted
from vaejax.config import Config
from vaejax.latent import paths
from vaejax.signal import circular, phase, spectrum
from vaejax.signal.stft import istft, stft

# Of a path or a loop. Cycles in a loop are counted in int32.
MAX_SECONDS = 600.0
# How a loop starts; see `circular.loop`.
LOOP_METHOD = "spsi"


class Form(NamedTuple):
    """What becomes of a latent: a clip, unless something else is said."""

    hops: int | None = None
    """Of a loop from one of its frames."""
    frame: int | None = None
    """The one that the loop holds; None for the loudest."""
    steps: int | None = None
    """Of a path of another length than a clip's."""
    fades_in: bool = False
    """Whether the sound begins with a fade, as it ends with one: where it begins in the middle."""


CLIP = Form()


def require_frames(config: Config, what: str) -> None:
    """Raises ValueError unless the model is one of frames."""
    if config.model.kind != "frames":
        raise ValueError(
            f"{what} needs a model of frames (train.py --config configs/canne.py, or --model.kind "
            f"frames); this run's is {config.model.kind}"
        )


def loop_form(config: Config, seconds: float, at: float | None = None) -> Form:
    """The form of a loop, as near to `seconds` as whole hops come, that holds the frame nearest to
    `at` seconds from the start of a sound; None for the loudest.

    Raises:
      ValueError: no model of frames, or a length or a moment that cannot be.
    """
    require_frames(config, "a held sound")
    return Form(hops=_hops(config, seconds, "a held sound"), frame=frame_at(config, at))


def path_form(config: Config, width: int, *, fades_in: bool = False) -> Form:
    """The form of a flattened path of so many values.

    Raises:
      ValueError: no model of frames, or a width that is no path's.
    """
    if width == config.latent_dim and not fades_in:
        return CLIP
    require_frames(config, f"a path of {width} values")
    steps, rest = divmod(width, config.model.latent_dim)
    if rest:
        raise ValueError(
            f"a path of {width} values is no multiple of the {config.model.latent_dim} that this "
            "run's latent has at a frame"
        )
    hop_seconds = config.features.hop_length / config.data.sample_rate
    _hops(config, (steps - 1) * hop_seconds, "a path")
    return Form(steps=steps, fades_in=fades_in)


def steps_of(config: Config, seconds: float) -> int:
    """Latents in a path as near to `seconds` as whole hops come.

    Raises:
      ValueError: a length that cannot be.
    """
    return 1 + _hops(config, seconds, "a path")


def frame_at(config: Config, seconds: float | None) -> int | None:
    """The frame of a clip nearest to so many seconds from its start; None for None.

    Raises:
      ValueError: it lies outside a clip.
    """
    if seconds is None:
        return None
    if not 0 <= seconds <= config.data.clip_seconds:
        raise ValueError(
            f"{seconds:g} s is no moment of this run's sounds, which last "
            f"{config.data.clip_seconds:g} s"
        )
    frame = round(seconds * config.data.sample_rate / config.features.hop_length)
    return min(frame, config.num_frames - 1)


def num_samples(form: Form, config: Config) -> int:
    """Length of a sound of some form."""
    if form.hops is not None:
        return form.hops * config.features.hop_length
    if form.steps is not None:
        return (form.steps - 1) * config.features.hop_length
    return config.data.num_samples


def rows_per_call(form: Form, config: Config, chunk: int) -> int:
    """Sounds that are made at a time: a power of two that divides the generator's `chunk`, less
    for long sounds, so that memory stays the same. Depends on nothing else: products of another
    shape may round differently."""
    if form == CLIP:
        return chunk
    if form.steps is not None:
        return 1
    fits = max(1, chunk * config.data.num_samples // num_samples(form, config))
    return min(chunk, 1 << (fits.bit_length() - 1))


def decode(params, fitted: Fitted, path, condition, *, config: Config, length: int | None = None):
    """The sound of a path, at the level that the decoder says.

    Args:
      path: [num_steps, d], or flat.
      condition: [condition_dim], what the model is told of all of it.
      length: samples, by default num_steps - 1 hops.

    Returns:
      waveform [length] float32; and the spectral convergence of the phase recovery, [] dB.
    """
    x = models.decode(params, path.reshape(-1), condition, fitted.linear, config=config)
    if length is None:
        length = (len(x) - 1) * config.features.hop_length
    return features.waveform_of(x, fitted.statistics, config, num_samples=length)


def hold(params, fitted: Fitted, path, condition, *, hops: int, frame: int | None, config: Config):
    """A seamless loop of one frame of a path, at the level that the decoder says.

    Args:
      path: [num_steps, d], or flat; of one step, [d], that step is held.
      hops: length of the loop.
      frame: index of the one to hold, at most the last; None for the loudest.

    Returns:
      waveform [hops * hop_length] float32, one period; the spectral convergence of the phase
      recovery, [] dB; and the index of the frame, [] int32.
    """
    magnitude, frame = _moment(params, fitted, path, condition, frame, config)
    sizes = {"n_fft": config.features.n_fft, "hop_length": config.features.hop_length}
    magnitude = magnitude * (config.features.n_fft / 4.0)
    waveform = circular.loop(magnitude, num_frames=hops, num_iters=loop_iterations(config), **sizes)
    return waveform, circular.spectral_convergence_db(waveform, magnitude, **sizes), frame


def loop_iterations(config: Config) -> int:
    """Griffin-Lim iterations of a loop."""
    iterations = config.sound.iterations
    return phase.DEFAULT_ITERS if iterations is None else iterations


def moment(params, fitted: Fitted, path, condition, *, frame: int | None, config: Config):
    """The latent [d] of one frame of a path: the one asked for, or the loudest as decoded."""
    frame = _moment(params, fitted, path, condition, frame, config)[1]
    return path.reshape(-1, config.model.latent_dim)[frame]


def with_phases_of(params, fitted: Fitted, path, condition, track, *, config: Config):
    """The sound of a path with the phases of a recording in place of recovered ones, as MANNe
    plays: what is left alone comes back as it was.

    Args:
      path: [num_steps, d].
      track: [num_samples] of num_steps frames.

    Returns:
      [num_samples] float32, at the level that the decoder says.
    """
    x = models.decode(params, path.reshape(-1), condition, fitted.linear, config=config)
    sizes: dict[str, Any] = {
        "n_fft": config.features.n_fft,
        "hop_length": config.features.hop_length,
    }
    magnitude = features.magnitude_of(x, fitted.statistics, config) * (config.features.n_fft / 4.0)
    return istft(
        spectrum.with_magnitude(stft(track, **sizes), magnitude), length=len(track), **sizes
    )


def between(start, end, steps: int, *, mean, cholesky, path: str = "straight") -> np.ndarray:
    """A path that moves evenly from one latent to another, both included.

    Args:
      start, end: [d].
      steps: of the path.
      mean, cholesky: [d] and [d, d], of the latents of frames; what `spherical` turns around.

    Returns:
      [steps, d] float32.
    """
    t = np.linspace(0.0, 1.0, steps)
    if path == "spherical":
        return paths.spherical(start, end, t, mean=mean, cholesky=cholesky)
    return paths.straight(start, end, t)


def stretched(blends: np.ndarray) -> np.ndarray:
    """A path through paths: at each step the frame that is as far along in its own.

    Args:
      blends: [num_steps, num_frames, d], the path that is followed at each step.

    Returns:
      [num_steps, d] float32: frame 0 of the first to the last frame of the last, with straight
      lines between neighbouring frames.
    """
    steps, num_frames, _ = blends.shape
    at = np.linspace(0.0, num_frames - 1.0, steps)
    low = np.minimum(at.astype(int), max(num_frames - 2, 0))
    share = (at - low)[:, None]
    rows = np.arange(steps)
    high = np.minimum(low + 1, num_frames - 1)
    return ((1 - share) * blends[rows, low] + share * blends[rows, high]).astype(np.float32)


def _moment(params, fitted: Fitted, path, condition, frame: int | None, config: Config):
    """Magnitude [num_bins] at one frame of a path, and the index of that frame."""
    x = models.decode(params, path.reshape(-1), condition, fitted.linear, config=config)
    magnitude = features.magnitude_of(x, fitted.statistics, config)
    if frame is None:
        index = jnp.argmax(jnp.sum(magnitude**2, axis=-1))
    else:
        index = jnp.asarray(min(frame, len(x) - 1))
    return magnitude[index], index.astype(jnp.int32)


def _hops(config: Config, seconds: float, what: str) -> int:
    hop_seconds = config.features.hop_length / config.data.sample_rate
    least = math.ceil(config.features.n_fft / config.features.hop_length)
    hops = round(seconds / hop_seconds) if math.isfinite(seconds) else 0
    if hops < least or seconds > MAX_SECONDS:
        raise ValueError(
            f"{what} of {seconds:g} s cannot be made: this run's take {least * hop_seconds:.3g} to "
            f"{MAX_SECONDS:g} s"
        )
    return hops
