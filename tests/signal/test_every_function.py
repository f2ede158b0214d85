"""What holds for every function of the signal library alike.

Compiled equals eager, a batch equals one by one, gradients are finite on sound and on silence, half
and double precision are taken, and one sample or one frame is enough. What a function computes is
tested in the file of its module.
"""

import importlib
import inspect
import pkgutil
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vaejax.signal
from vaejax.signal import (
    augment,
    fade,
    filterbank,
    framing,
    loudness,
    mel_inversion,
    phase_start,
    scales,
    spectrum,
    stft,
)
from vaejax.signal.cosine import cosine
from vaejax.signal.extra import (
    cepstrum,
    constant_q,
    emphasis,
    hpss,
    resample,
    spectrogram,
    time_stretch,
)

RNG = np.random.default_rng(0)
RATE = 8000
SIZES = {"n_fft": 64, "hop_length": 16}
KEY = jax.random.key(0)
# Too short for the whole frames that these cut without padding.
NEEDS_A_FRAME = ("energy", "frame", "slice_frames")

TONE = np.sin(2 * np.pi * 440 * np.arange(300) / RATE) + 0.1 * RNG.standard_normal(300)
CLIPS = np.stack([0.5 * TONE, np.zeros(300)]).astype(np.float32)
SPECTRA = np.stack([np.asarray(stft.stft(clip, **SIZES)) for clip in CLIPS])
LEVELS = np.abs(SPECTRA)

MELS = filterbank.mel_filterbank(sample_rate=RATE, n_fft=64, n_mels=6)
BLOCKS = {"frame_length": 64, "hop_length": 16}

# Every entry maps one clip [num_samples] to an array.
OF_CLIPS = {
    "stft": partial(stft.stft, **SIZES),
    "frame": partial(framing.frame, **BLOCKS),
    "energy": partial(framing.energy, sample_rate=RATE, **BLOCKS),
    "cqt": partial(constant_q.cqt, sample_rate=RATE, hop_length=64, fmin=500.0, n_bins=12),
    "preemphasis": emphasis.preemphasis,
    "deemphasis": emphasis.deemphasis,
    "fade_out": lambda x: fade.fade_out(x, min(50, x.shape[0])),
    "k_weight": partial(loudness.k_weight, sample_rate=RATE),
    "integrated_loudness": partial(loudness.integrated_loudness, sample_rate=RATE),
    "resample": partial(resample.resample, sample_rate=3, new_sample_rate=2, num_zeros=8),
    "spectrogram": partial(spectrogram.spectrogram, **SIZES),
    "mel_spectrogram": partial(
        spectrogram.mel_spectrogram, sample_rate=RATE, power=1, n_mels=6, **SIZES
    ),
    "log_frequency_spectrogram": partial(
        spectrogram.log_frequency_spectrogram, sample_rate=RATE, n_bins=6, fmin=500.0, **SIZES
    ),
    "magnitude_and_phase": partial(spectrogram.magnitude_and_phase, **SIZES),
    "time_stretch": partial(time_stretch.time_stretch, rate=1.3, **SIZES),
    "mu_law_encode": scales.mu_law_encode,
    "random_polarity": partial(augment.random_polarity, KEY),
    "random_gain": partial(augment.random_gain, KEY, low_db=-6.0, high_db=6.0),
    "add_noise": partial(augment.add_noise, KEY, snr_db=20.0),
    "random_eq": partial(augment.random_eq, KEY, sample_rate=RATE, eq_db=6.0),
    "slice_frames": lambda x: framing.slice_frames(jnp.asarray(x), **BLOCKS),
}

# Of one magnitude [num_frames, num_bins].
OF_LEVELS = {
    "amplitude_to_db": partial(scales.amplitude_to_db, ref=jnp.max),
    "power_to_db": scales.power_to_db,
    "db_to_amplitude": scales.db_to_amplitude,
    "db_to_power": scales.db_to_power,
    "compress": partial(scales.compress, exponent=0.3),
    "expand": partial(scales.expand, exponent=0.3),
    "cosine": cosine,
    "mu_law_decode": lambda x: scales.mu_law_decode((2 * x).astype(jnp.int32)),
    "mfcc": partial(cepstrum.mfcc, n_mfcc=5),
    "inverse_mfcc": partial(cepstrum.inverse_mfcc, n_mels=40),
    "delta": partial(cepstrum.delta, win_length=5, mode="constant"),
    "apply_filterbank": lambda x: filterbank.apply_filterbank(x, MELS),
    "invert_filterbank": lambda x: mel_inversion.invert_filterbank(x, MELS.T, num_iters=3),
    "harmonic_percussive": lambda x: jnp.stack(hpss.harmonic_percussive(x, kernel_size=5)),
    "append_frequency_map": spectrum.append_frequency_map,
    "instantaneous_frequency": spectrum.instantaneous_frequency,
    "phase_from_instantaneous_frequency": spectrum.phase_from_instantaneous_frequency,
    "wrap": spectrum.wrap,
    "from_polar": lambda x: spectrum.from_polar(x, 2 * x),
    "overlap_add": lambda x: framing.overlap_add(jnp.asarray(x), hop_length=10),
    "spec_augment": partial(augment.spec_augment, KEY, freq_mask_param=4, time_mask_param=1),
    "swap_channels": partial(augment.swap_channels, KEY),
    "strongest_path": lambda x: phase_start.strongest_path(x, x, reach=2)[1],
}

# Of one complex spectrum [num_frames, num_bins].
OF_SPECTRA = {
    "istft": lambda x: stft.istft(x, length=max(16 * (x.shape[0] - 1), 1), **SIZES),
    "magnitude": spectrum.magnitude,
    "power": spectrum.power,
    "phase": spectrum.phase,
    "with_magnitude": lambda x: spectrum.with_magnitude(jnp.asarray(x), 1.0),
    "phase_vocoder": partial(time_stretch.phase_vocoder, rate=0.7, **SIZES),
}

BATCHES = {"clips": (OF_CLIPS, CLIPS), "levels": (OF_LEVELS, LEVELS), "spectra": (OF_SPECTRA, SPECTRA)}  # noqa: E501  # fmt: skip
CASES = [
    pytest.param(name, function, batch, id=name)
    for functions, batch in BATCHES.values()
    for name, function in functions.items()
]

# These give back the precision that they were given; all others compute in float32.
KEEPS_ITS_TYPE = {
    "append_frequency_map", "overlap_add", "slice_frames", "spec_augment", "swap_channels",
    "random_polarity", "random_gain", "add_noise", "strongest_path",
}  # fmt: skip

# Public, and not of this kind: they work on the host, check, choose, or are tested like this in
# test_phase.py and test_pitch.py.
ELSEWHERE = {
    "as_waveform", "as_spectrum", "check_hop", "check_bins", "check_magnitude", "num_frames",
    "num_whole_frames", "perfect_padding", "window_coverage", "resampled_length",
    "hann", "hamming", "kaiser", "kaiser_bessel_derived", "vorbis", "gaussian", "get_window",
    "hz_to_mel", "mel_to_hz", "fft_frequencies", "mel_filterbank", "log_filterbank", "dct_basis",
    "cqt_frequencies", "window_lengths", "k_weighting_coefficients",
    "k_weighting_response", "carrier_phase",
    "griffin_lim", "accelerate", "random_phase", "nearest_peak_advance", "loop",
    "choose", "invert", "recover", "spectral_convergence_db",
    "pghi_phase", "derivative_phase", "peak_phase", "spsi_phase", "zero_phase",
    "onset_phase",
    "pitch", "pitch_track", "pitch_of",
}  # fmt: skip


def test_every_public_function_is_here_or_elsewhere():
    found = set()
    for info in pkgutil.walk_packages(vaejax.signal.__path__, "vaejax.signal."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__:
                found.add(name)
    found = {name for name in found if not name.startswith("_")}
    assert found == {*OF_CLIPS, *OF_LEVELS, *OF_SPECTRA, *ELSEWHERE}


def of_all(change, given):
    """Every function's value at one clip or a batch, compiled as one program: seconds, not minutes.

    Args:
      change: what is done to each function, such as `jax.vmap`.
      given: what is done to each input on the host.
    """
    functions = {n: change(f) for group, _ in BATCHES.values() for n, f in group.items()}
    inputs = {n: given(batch, n) for group, batch in BATCHES.values() for n in group}
    program = jax.jit(
        lambda inputs: {n: functions[n](x) for n, x in inputs.items() if x is not None}
    )
    return program(inputs)


def differentiated(function):
    """(value, gradient of its energy) of a batch."""

    def energy(x):
        out = function(x)
        return jnp.sum(jnp.abs(out.astype(jnp.complex64)) ** 2), out

    def one(x):
        (_, out), gradient = jax.value_and_grad(energy, has_aux=True)(x)
        return out, gradient

    return jax.vmap(one)


@pytest.fixture(scope="module")
def batched():
    return of_all(differentiated, lambda batch, name: jnp.asarray(batch))


@pytest.fixture(scope="module")
def shortest():
    return of_all(
        lambda f: f,
        lambda batch, name: None if name in NEEDS_A_FRAME else jnp.asarray(batch[0][:1]),
    )


@pytest.fixture(scope="module")
def half():
    def both(function):
        return lambda x: (function(x), function(x.astype(jnp.float32)))

    def rounded(batch, name):
        return None if np.iscomplexobj(batch) else jnp.asarray(batch[0], jnp.bfloat16)

    return of_all(both, rounded)


def close(got, expected):
    size = max(float(np.abs(expected).max()), 1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5 * size)


@pytest.mark.parametrize(("name", "function", "batch"), CASES)
def test_compiled_batch_equals_eager_one_by_one_with_finite_gradients(
    batched, name, function, batch
):
    fast, gradients = batched[name]
    assert np.isfinite(gradients).all()
    assert np.isfinite(fast).all()
    close(fast, np.stack([function(x) for x in batch]))
    # Double precision is taken; without x64 it is computed in single.
    wide = batch[0].astype(np.complex128 if np.iscomplexobj(batch) else np.float64)
    np.testing.assert_array_equal(function(wide), function(batch[0]))


@pytest.mark.parametrize("name", [case.id for case in CASES if case.id not in NEEDS_A_FRAME])
def test_one_sample_or_frame_is_enough(shortest, name):
    assert shortest[name].size > 0
    assert np.isfinite(shortest[name]).all()


@pytest.mark.parametrize("name", [*OF_CLIPS, *OF_LEVELS])
def test_half_precision_input_is_computed_in_float32(half, name):
    got, expected = half[name]
    assert np.isfinite(np.asarray(got, np.complex64)).all()
    if name in KEEPS_ITS_TYPE:
        assert got.dtype == jnp.bfloat16
    else:
        assert got.dtype == expected.dtype
        close(got, expected)
