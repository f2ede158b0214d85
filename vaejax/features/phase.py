"""Representations that carry the phase, and the waveform itself.

There is no phase to recover, unless `sound.inversion` names a method: then the magnitude alone
counts. `sound.iterations` of Griffin-Lim polish what a decoder says (0 leaves its phase as it is),
except for `waveform`, which has none.
Where the phase has a magnitude of its own beside it, that one is |STFT| ** exponent.

Phases are referred to the centre of each frame.
"""

import jax.numpy as jnp
import numpy as np

from vaejax.config import Config
from vaejax.features.magnitude import mel_bank
from vaejax.features.representation import Representation, resynthesised, transform
from vaejax.signal import scales, spectrum
from vaejax.signal.filterbank import apply_filterbank
from vaejax.signal.mel_inversion import invert_filterbank


def magnitude_if(config: Config) -> Representation:
    """Magnitude and instantaneous frequency (GANSynth, Engel et al. 2019): [num_frames, num_bins,
    2].

    The second channel is how far the phase of a bin advances from frame to frame, wrapped, in
    radians; in frame 0 it is the phase itself. It is the same in all frames and bins of a steady
    partial. Back by adding it up over time. (GANSynth's magnitude is logarithmic.)
    """

    def analyse(waveform):
        transformed = transform(waveform, config)
        advance = spectrum.instantaneous_frequency(spectrum.phase(transformed))
        return jnp.stack([_compressed(transformed, config), jnp.pi * advance], -1)

    def synthesise(values, num_samples):
        phase = spectrum.phase_from_instantaneous_frequency(values[..., 1] / jnp.pi)
        return resynthesised(spectrum.from_polar(magnitude(values), phase), num_samples, config)

    def magnitude(values):
        return scales.expand(values[..., 0], exponent=config.features.exponent)

    return Representation(analyse, synthesise, magnitude, has_phase=True, angles=(1,))


def mel_if(config: Config) -> Representation:
    """Magnitude and instantaneous frequency of mel bands: [num_frames, n_mels, 2].

    A band's advance is that of its bins together, each weighted by filter and power: the angle of
    sum_k w_k X_k(t) conj(X_k(t - 1)), so that the loudest partial decides. Back, a bin takes the
    advance of the bands it lies in, weighted by filter and level, and the magnitudes come from
    non-negative least squares. (GANSynth filters the unwrapped phase instead, which depends on how
    often each bin has turned.)
    """
    bank = mel_bank(config)
    exponent = config.features.exponent

    def pooled(product):
        # Real matrices: a complex product with a real one would do four times the work.
        real, imag = apply_filterbank(product.real, bank), apply_filterbank(product.imag, bank)
        return spectrum.phase(real + 1j * imag)

    def analyse(waveform):
        transformed = transform(waveform, config)
        previous = jnp.pad(transformed, ((1, 0), (0, 0)), constant_values=1.0)[:-1]
        level = scales.compress(
            apply_filterbank(spectrum.magnitude(transformed), bank), exponent=exponent
        )
        return jnp.stack([level, pooled(transformed * jnp.conj(previous))], -1)

    def synthesise(values, num_samples):
        level = scales.expand(values[..., 0], exponent=exponent)
        direction = spectrum.from_polar(level, values[..., 1])
        back = bank.T
        advance = spectrum.phase(
            apply_filterbank(direction.real, back) + 1j * apply_filterbank(direction.imag, back)
        )
        phase = spectrum.phase_from_instantaneous_frequency(advance / jnp.pi)
        return resynthesised(spectrum.from_polar(magnitude(values), phase), num_samples, config)

    def magnitude(values):
        return invert_filterbank(scales.expand(values[..., 0], exponent=exponent), bank)

    return Representation(analyse, synthesise, magnitude, has_phase=True, angles=(1,))


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
