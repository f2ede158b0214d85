"""Magnitude, phase and instantaneous frequency: values, inverses, gradients at 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.signal import spectrum
from vaejax.signal.stft import istft, stft

RNG = np.random.default_rng(0)
VALUES = (RNG.standard_normal((6, 9)) + 1j * RNG.standard_normal((6, 9))).astype(np.complex64)


def test_magnitude_power_and_phase_match_numpy():
    np.testing.assert_allclose(spectrum.magnitude(VALUES), np.abs(VALUES), rtol=1e-6)
    np.testing.assert_allclose(spectrum.power(VALUES), np.abs(VALUES) ** 2, rtol=1e-6)
    np.testing.assert_allclose(spectrum.phase(VALUES), np.angle(VALUES), atol=1e-6)


def test_polar_form_inverts():
    got = spectrum.from_polar(spectrum.magnitude(VALUES), spectrum.phase(VALUES))
    np.testing.assert_allclose(got, VALUES, atol=1e-6)


def test_with_magnitude_keeps_the_phase_and_sets_the_magnitude():
    wanted = RNG.random((6, 9)).astype(np.float32)
    got = spectrum.with_magnitude(jnp.asarray(VALUES), wanted)
    np.testing.assert_allclose(got, wanted * VALUES / np.abs(VALUES), atol=1e-6)


def test_zero_has_value_zero_and_a_finite_gradient():
    def loss(waveform):
        full = stft(waveform, n_fft=64, hop_length=16)
        values = [spectrum.magnitude(full), spectrum.power(full), spectrum.phase(full)]
        return jnp.sum(jnp.stack(values)), values

    gradient, values = jax.jit(jax.grad(loss, has_aux=True))(jnp.zeros(200))
    assert not np.any(values)
    assert np.isfinite(gradient).all()


def test_a_direction_of_almost_nothing_has_a_finite_gradient():
    # -200 dB and below counts as nothing; just above, the gradient must not overflow.
    for size in (1e-13, 1e-11, 1e-9):
        tiny = jnp.asarray([size + 0.5j * size], jnp.complex64)

        def loss(spectrum_):
            return jnp.sum(spectrum.with_magnitude(spectrum_, 100.0).real)

        assert np.isfinite(jax.grad(loss)(tiny)).all()


def test_instantaneous_frequency_of_a_sine_is_its_advance_per_hop():
    hz, rate, hop = 440.0, 16000, 64
    sine = np.sin(2 * np.pi * hz * np.arange(8000) / rate).astype(np.float32)
    frequency = spectrum.instantaneous_frequency(
        spectrum.phase(stft(sine, n_fft=512, hop_length=hop))
    )
    expected = 2 * hz * hop / rate
    expected -= 2 * np.round(expected / 2)
    peak = round(hz * 512 / rate)
    np.testing.assert_allclose(frequency[10:-10, peak], expected, atol=1e-3)
    assert float(jnp.max(jnp.abs(frequency))) <= 1 + 1e-6


def test_log_magnitude_and_instantaneous_frequency_give_the_waveform_back():
    waveform = (0.3 * RNG.standard_normal(4000)).astype(np.float32)
    full = stft(waveform, n_fft=256, hop_length=64)
    log_magnitude = jnp.log(spectrum.magnitude(full) + 1e-12)
    frequency = spectrum.instantaneous_frequency(spectrum.phase(full))
    phase = spectrum.phase_from_instantaneous_frequency(frequency)
    again = spectrum.from_polar(jnp.exp(log_magnitude), phase)
    got = istft(again, n_fft=256, hop_length=64, length=4000)
    np.testing.assert_allclose(got, waveform, atol=1e-4)


def test_instantaneous_frequency_matches_unwrapped_differences():
    phase = np.cumsum(RNG.uniform(-3, 3, (20, 5)), axis=0).astype(np.float32)
    got = spectrum.instantaneous_frequency(np.angle(np.exp(1j * phase)))
    expected = np.diff(np.unwrap(phase, axis=0), axis=0) / np.pi
    np.testing.assert_allclose(got[1:], expected, atol=1e-5)


def test_wrap_stays_in_one_turn_and_has_gradient_one():
    angles = jnp.linspace(-20, 20, 101)
    wrapped = spectrum.wrap(angles)
    np.testing.assert_allclose(jnp.exp(1j * wrapped), jnp.exp(1j * angles), atol=1e-5)
    assert float(jnp.max(jnp.abs(wrapped))) <= np.pi + 1e-5
    np.testing.assert_array_equal(jax.vmap(jax.grad(spectrum.wrap))(angles), 1.0)


@pytest.mark.parametrize("shape", [(10, 5, 3), (10, 5)])
def test_frequency_map_appends_a_ramp_and_leaves_the_rest_bit_for_bit(shape):
    values = RNG.standard_normal(shape).astype(np.float32)
    got = spectrum.append_frequency_map(values)
    assert got.shape == (10, 5, 4 if len(shape) == 3 else 2)
    np.testing.assert_array_equal(got[..., :-1], values.reshape(10, 5, -1))
    np.testing.assert_allclose(got[..., -1], np.tile(np.linspace(0, 1, 5), (10, 1)), rtol=1e-6)


def test_frequency_map_of_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 10, 5, 3\).*jax.vmap"):
        spectrum.append_frequency_map(np.zeros((2, 10, 5, 3)))
