"""What every representation is made of, and the settings that several share."""

from collections.abc import Callable
from typing import Any, NamedTuple

from vaejax.config import Config
from vaejax.signal import phase, spectrum
from vaejax.signal.stft import stft


class Representation(NamedTuple):
    """A pair of functions between a waveform and values, before these are standardised."""

    analyse: Callable
    """waveform [num_samples] in [-1, 1] -> values [num_frames, ...]."""
    synthesise: Callable
    """(values [num_frames, ...] for any number of frames, num_samples) -> waveform [num_samples],
    and how far its STFT magnitude is from the one that was asked for, [] dB; NaN where the values
    ask for none."""
    magnitude: Callable
    """values -> STFT magnitude [num_frames, num_bins] >= 0, in units of a full-scale sine."""
    has_phase: bool = False
    """Whether the values carry the phase, so that nothing needs to be recovered."""
    angles: tuple[int, ...] = ()
    """Channels (of the last axis) that are angles in radians, in [-pi, pi]. They are standardised
    by mean 0 and scale pi, whatever the sounds, so that an angle stays an angle; what a decoder
    says beyond is wrapped."""


def transform(waveform, config: Config):
    """STFT of a clip [num_samples], complex [num_frames, num_bins] in units of a full-scale sine.

    Phases are referred to the centre of each frame, so that the bins of one partial agree.
    """
    n_fft, hop_length = config.features.n_fft, config.features.hop_length
    # The periodic Hann window sums to n_fft / 2, and half of it reaches the positive frequency.
    return centred(stft(waveform, n_fft=n_fft, hop_length=hop_length)) * (4.0 / n_fft)


def centred(transformed):
    """Moves the reference of the phase [num_frames, num_bins] between the first sample of a frame
    and its centre, which are n_fft / 2 apart: half a turn per bin. Its own inverse."""
    return transformed.at[:, 1::2].multiply(-1)


def recovery_start(config: Config) -> tuple[str, int]:
    """The start of the phase recovery, and the iterations after it. `auto` is `peaks`: after two
    iterations on a model's magnitudes no other start is measurably nearer, and the long walks of
    `pghi` make clicks of what is smooth in a model's attack (docs/phase-recovery.md)."""
    method, iterations = config.sound.inversion, config.sound.iterations
    if method == "auto":
        return "peaks", 2 if iterations is None else iterations
    if iterations is None:
        sizes = config.features.n_fft, config.features.hop_length
        return phase.choose(*sizes, method=method)
    return method, iterations


def recovered(magnitude, num_samples: int, config: Config):
    """A waveform [num_samples] of an STFT magnitude in units of a full-scale sine, its phase
    recovered as `config.sound` says; and the spectral convergence, [] dB."""
    sizes = _sizes(config)
    method, iterations = recovery_start(config)
    magnitude = magnitude * (config.features.n_fft / 4.0)
    waveform = phase.invert(
        magnitude, method=method, num_iters=iterations, length=num_samples, **sizes
    )
    return waveform, phase.spectral_convergence_db(waveform, magnitude, **sizes)


def resynthesised(transformed, num_samples: int, config: Config):
    """The inverse of `transform`, polished by `config.sound.iterations` of Griffin-Lim.

    The spectrum that a decoder says is that of no waveform; the iterations keep its magnitude and
    change its phase until the frames agree. They change nothing of a true spectrum. None is 0.

    Returns:
      waveform [num_samples]; and the spectral convergence, [] dB.
    """
    sizes = _sizes(config)
    transformed = centred(transformed) * (config.features.n_fft / 4.0)
    magnitude = spectrum.magnitude(transformed)
    waveform = phase.griffin_lim(
        None,
        magnitude,
        num_iters=config.sound.iterations or 0,
        length=num_samples,
        init=transformed,
        **sizes,
    )
    return waveform, phase.spectral_convergence_db(waveform, magnitude, **sizes)


def _sizes(config: Config) -> dict[str, Any]:
    return {"n_fft": config.features.n_fft, "hop_length": config.features.hop_length}
