"""Representations that carry the phase, and the waveform itself.

There is no phase to recover, unless `sound.inversion` names a method: then the magnitude alone
counts. `sound.iterations` of Griffin-Lim polish what a decoder says (0 leaves its phase as it is),
except for `waveform`, which has none.
Where the phase has a magnitude of its own beside it, that one is |STFT| ** exponent.

Phases are referred to the centre of each frame.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.config import Config
from vaejax.features.magnitude import mel_bank
from vaejax.features.representation import Representation, resynthesised, transform
from vaejax.signal import scales, spectrum
from vaejax.signal.filterbank import apply_filterbank
from vaejax.signal.mel_inversion import invert_filterbank

# Bins that a partial covers under a Hann window.
MAIN_LOBE = 4.0


def magnitude_if(config: Config) -> Representation:
    """Magnitude and instantaneous frequency (after GANSynth, Engel et al. 2019): [num_frames,
    num_bins, 2].

    The second channel is how much further the phase of a bin advances from frame to frame than that
    of a sinusoid at the bin's centre, wrapped, in radians (Flanagan & Golden 1966); in frame 0 it
    is the phase itself. Constant where a partial is steady, 0 in the tail of a click. Back by
    adding it up over time. (GANSynth takes the advance as it is, which wraps in every fourth bin,
    and logarithmic magnitudes: both sound worse after PCA.)
    """

    def analyse(waveform):
        transformed = transform(waveform, config)
        phase = spectrum.phase(transformed) - expected_phase(config, transformed.shape[0])
        beyond = jnp.pi * spectrum.instantaneous_frequency(phase)
        return jnp.stack([_compressed(transformed, config), beyond], -1)

    def synthesise(values, num_samples):
        transformed = spectrum.from_polar(magnitude(values), added_up(values[..., 1], config))
        return resynthesised(transformed, num_samples, config)

    def magnitude(values):
        return scales.expand(values[..., 0], exponent=config.features.exponent)

    return Representation(analyse, synthesise, magnitude, has_phase=True, angles=(1,))


def mel_if(config: Config) -> Representation:
    """Magnitude and instantaneous frequency of mel bands: [num_frames, n_mels, 2].

    A band's advance is the angle of sum_k w_k X_k(t) conj(X_k(t - 1)): that of its bins together,
    weighted by filter and power. What is expected is subtracted: in a band narrower than the main
    lobe of the window, whose bins all follow one partial, the advance at the band's centre; in a
    wider one that of each bin, before the sum. Back, a bin takes the advance of the bands it lies
    in, weighted by filter and level, and the magnitudes come from non-negative least squares: the
    sound is close, not exact. (GANSynth filters the unwrapped phase instead, which depends on how
    often each bin has turned.)
    """
    bank, exponent = mel_bank(config), config.features.exponent
    centre, is_narrow = _bands(bank)
    narrow, wide = bank * is_narrow, bank * ~is_narrow

    def filtered(bins, matrix):
        # Real matrices: a complex product with a real one would do twice the work.
        return jax.lax.complex(
            apply_filterbank(bins.real, matrix), apply_filterbank(bins.imag, matrix)
        )

    def expected(num_frames):
        # Frame 0 holds the phase itself.
        is_later = (jnp.arange(num_frames) > 0)[:, None]
        turn = 2 * np.pi * config.features.hop_length / config.features.n_fft
        return (
            spectrum.from_polar(jnp.ones(()), turn * is_later * np.arange(len(bank))),
            spectrum.from_polar(jnp.ones(()), turn * is_later * centre),
        )

    def analyse(waveform):
        transformed = transform(waveform, config)
        of_bins, of_bands = expected(transformed.shape[0])
        previous = jnp.pad(transformed, ((1, 0), (0, 0)), constant_values=1.0)[:-1]
        advance = transformed * jnp.conj(previous)
        beyond = filtered(advance, narrow) * jnp.conj(of_bands)
        beyond += filtered(advance * jnp.conj(of_bins), wide)
        level = apply_filterbank(spectrum.magnitude(transformed), bank)
        return jnp.stack([scales.compress(level, exponent=exponent), spectrum.phase(beyond)], -1)

    def synthesise(values, num_samples):
        of_bins, of_bands = expected(values.shape[0])
        level = scales.expand(values[..., 0], exponent=exponent)
        beyond = spectrum.from_polar(level, values[..., 1])
        advance = filtered(beyond * of_bands, narrow.T) + filtered(beyond, wide.T) * of_bins
        phase = spectrum.phase_from_instantaneous_frequency(spectrum.phase(advance) / jnp.pi)
        return resynthesised(spectrum.from_polar(magnitude(values), phase), num_samples, config)

    def magnitude(values):
        return invert_filterbank(scales.expand(values[..., 0], exponent=exponent), bank)

    return Representation(analyse, synthesise, magnitude, has_phase=True, angles=(1,))


def _bands(bank):
    """Centres [n_mels] of filters [num_bins, n_mels] in bins, and whether the sum of a filter is
    no more than MAIN_LOBE bins."""
    total = np.maximum(bank.sum(0), 1e-6)
    return np.arange(len(bank)) @ bank / total, total <= MAIN_LOBE


def expected_phase(config: Config, num_frames: int):
    """Phase of a sinusoid at the centre of each bin, [num_frames, num_bins] radians."""
    n_fft, hop_length = config.features.n_fft, config.features.hop_length
    # Whole turns are taken off as integers: at the last frames there are thousands of them.
    turned = np.outer(np.arange(num_frames) * hop_length, np.arange(n_fft // 2 + 1)) % n_fft
    return jnp.asarray(2 * np.pi / n_fft * turned, jnp.float32)


def added_up(beyond, config: Config):
    """The phase [num_frames, num_bins] of instantaneous frequencies in radians per frame."""
    phase = spectrum.phase_from_instantaneous_frequency(beyond / jnp.pi)
    return phase + expected_phase(config, beyond.shape[0])


def magnitude_phase_db(config: Config) -> Representation:
    """Magnitude, wrapped phase in radians and level in dB: [num_frames, num_bins, 3].

    The three channels of the workshop's system, whose magnitude is linear (exponent 1). The third
    is a target for the model and is not used on the way back.
    """
    floor = 10.0 ** (config.features.floor_db / 20)

    def analyse(waveform):
        transformed = transform(waveform, config)
        db = scales.amplitude_to_db(spectrum.magnitude(transformed), amin=floor, top_db=None)
        phase = spectrum.phase(transformed)
        return jnp.stack([_compressed(transformed, config), phase, db], -1)

    def synthesise(values, num_samples):
        transformed = spectrum.from_polar(magnitude(values), values[..., 1])
        return resynthesised(transformed, num_samples, config)

    def magnitude(values):
        return scales.expand(values[..., 0], exponent=config.features.exponent)

    return Representation(analyse, synthesise, magnitude, has_phase=True, angles=(1,))


def magnitude_cos_sin(config: Config) -> Representation:
    """Magnitude, cosine and sine of the phase: [num_frames, num_bins, 3].

    No jump where an angle wraps, and an answer between two phases is a weaker one, not a third.
    Both are 0 at silence.
    """

    def analyse(waveform):
        transformed = transform(waveform, config)
        direction = spectrum.with_magnitude(transformed, 1.0)
        return jnp.stack([_compressed(transformed, config), direction.real, direction.imag], -1)

    def synthesise(values, num_samples):
        direction = values[..., 1] + 1j * values[..., 2]
        return resynthesised(
            spectrum.with_magnitude(direction, magnitude(values)), num_samples, config
        )

    def magnitude(values):
        return scales.expand(values[..., 0], exponent=config.features.exponent)

    return Representation(analyse, synthesise, magnitude, has_phase=True)


def complex(config: Config) -> Representation:
    """Real and imaginary part of the STFT, its magnitude compressed: [num_frames, num_bins, 2].

    STFT |STFT| ** (exponent - 1): the phase is kept. An average of two phases is a quieter sound.
    """

    def analyse(waveform):
        transformed = transform(waveform, config)
        compressed = spectrum.with_magnitude(transformed, _compressed(transformed, config))
        return jnp.stack([compressed.real, compressed.imag], -1)

    def synthesise(values, num_samples):
        compressed = values[..., 0] + 1j * values[..., 1]
        transformed = spectrum.with_magnitude(compressed, magnitude(values))
        return resynthesised(transformed, num_samples, config)

    def magnitude(values):
        squared = values[..., 0] ** 2 + values[..., 1] ** 2
        return scales.expand(squared, exponent=2 * config.features.exponent)

    return Representation(analyse, synthesise, magnitude, has_phase=True)


def waveform(config: Config) -> Representation:
    """The samples themselves: [num_samples].

    Of the other settings of `features`, n_fft and hop_length remain for pictures and figures; all
    of `sound.inversion` and `sound.iterations` is ignored.
    """

    def synthesise(values, num_samples):
        missing = max(num_samples - values.shape[0], 0)
        return jnp.pad(values, (0, missing))[:num_samples], jnp.full((), np.nan, values.dtype)

    return Representation(
        analyse=jnp.asarray,
        synthesise=synthesise,
        magnitude=lambda values: spectrum.magnitude(transform(values, config)),
        has_phase=True,
    )


def _compressed(transformed, config: Config):
    """|STFT| ** exponent."""
    return scales.compress(spectrum.power(transformed), exponent=config.features.exponent / 2)
