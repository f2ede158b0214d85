"""Decibels, companding, mu-law and mels against librosa and their definitions."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from vaejax.signal import scales

ROWS = np.array([[1e-20, 1e-5, 1e-3, 5e-2], [0.3, 1.0, 20.5, 9999.0]])


@pytest.mark.parametrize("top_db", [80.0, 120.0, None])
@pytest.mark.parametrize("amin", [1e-5, 1e-3])
@pytest.mark.parametrize("name", ["amplitude_to_db", "power_to_db"])
def test_decibels_match_librosa_clip_by_clip(name, amin, top_db):
    ours, theirs = getattr(scales, name), getattr(librosa, name)
    got = jax.vmap(lambda row: ours(row, amin=amin, top_db=top_db))(ROWS)
    expected = [theirs(row, ref=1.0, amin=amin, top_db=top_db) for row in ROWS]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_reference_may_be_a_function_of_the_clip():
    got = scales.amplitude_to_db(ROWS[1], ref=jnp.max)
    np.testing.assert_allclose(got, librosa.amplitude_to_db(ROWS[1], ref=np.max), atol=1e-5)


def test_decibels_of_float64_stay_float64_where_x64_is_on():
    with jax.enable_x64(True):
        got = scales.power_to_db(ROWS[1])
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, librosa.power_to_db(ROWS[1]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float16, 1e-3), (jnp.bfloat16, 1e-2)])
def test_half_precision_decibels_keep_the_input_precision(dtype, rtol):
    row = jnp.asarray(ROWS[1], dtype)
    got = scales.power_to_db(row)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, librosa.power_to_db(ROWS[1]), rtol=rtol)


def test_decibels_invert():
    values = np.geomspace(1e-4, 1e3, 50).astype(np.float32)
    amplitude = scales.db_to_amplitude(
        scales.amplitude_to_db(values, ref=0.5, top_db=None), ref=0.5
    )
    power = scales.db_to_power(scales.power_to_db(values, ref=0.5, top_db=None), ref=0.5)
    np.testing.assert_allclose(amplitude, values, rtol=1e-5)
    np.testing.assert_allclose(power, values, rtol=1e-5)


@pytest.mark.parametrize(
    "function",
    [
        scales.amplitude_to_db,
        scales.power_to_db,
        lambda x: scales.amplitude_to_db(x, ref=jnp.max),
        lambda x: scales.compress(x, exponent=0.3),
        lambda x: scales.expand(x, exponent=0.3),
    ],
)
def test_gradient_at_silence_is_finite(function):
    gradient = jax.grad(lambda x: jnp.sum(function(x)))(jnp.zeros(8))
    assert np.isfinite(gradient).all()


def test_compression_inverts_and_matches_the_power():
    values = np.array([0.0, 1e-6, 0.5, 1.0, 300.0], np.float32)
    got = scales.compress(values, exponent=0.3)
    np.testing.assert_allclose(got, values**0.3, rtol=1e-5)
    np.testing.assert_allclose(scales.expand(got, exponent=0.3), values, rtol=2e-5)
    np.testing.assert_array_equal(scales.expand(np.array([-1.0, -0.1]), exponent=0.3), 0.0)


@pytest.mark.parametrize("channels", [2, 100, 256, 65536])
def test_every_mu_law_code_survives_decoding_and_encoding(channels):
    codes = np.arange(channels)
    decoded = scales.mu_law_decode(codes, quantization_channels=channels)
    assert float(jnp.max(jnp.abs(decoded))) <= 1 + 1e-6
    again = scales.mu_law_encode(decoded, quantization_channels=channels)
    np.testing.assert_array_equal(again, codes)
    assert again.dtype == jnp.int32


@pytest.mark.parametrize("channels", [100, 256])
def test_mu_law_encoding_matches_the_formula(channels):
    waveform = np.arange(-1, 1, 2.0**-12)
    mu = channels - 1
    companded = np.sign(waveform) * np.log1p(mu * np.abs(waveform)) / np.log1p(mu)
    expected = np.floor((companded + 1) / 2 * mu + 0.5)
    got = scales.mu_law_encode(waveform, quantization_channels=channels)
    assert np.abs(np.asarray(got) - expected).max() <= 1
    assert np.mean(np.asarray(got) != expected) < 1e-3


def test_mu_law_clips_what_lies_outside():
    np.testing.assert_array_equal(scales.mu_law_encode(np.array([-3.0, 3.0])), [0, 255])


@pytest.mark.parametrize("htk", [False, True])
def test_mels_match_librosa_and_invert(htk):
    hz = np.array([0.0, 200.0, 999.9, 1000.0, 1000.1, 8000.0, 22050.0])
    mels = scales.hz_to_mel(hz, htk=htk)
    np.testing.assert_allclose(mels, librosa.hz_to_mel(hz, htk=htk), rtol=1e-12)
    np.testing.assert_allclose(scales.mel_to_hz(mels, htk=htk), hz, rtol=1e-12)
    np.testing.assert_allclose(
        scales.mel_to_hz(mels, htk=htk), librosa.mel_to_hz(mels, htk=htk), rtol=1e-12
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: scales.amplitude_to_db(ROWS, amin=0.0), "amin=0.0 must be above 0"),
        (lambda: scales.power_to_db(ROWS, top_db=-1.0), "top_db=-1.0 must be 0 or more"),
        (lambda: scales.compress(ROWS, exponent=0.0), "exponent=0.0 must be above 0"),
        (lambda: scales.expand(ROWS, exponent=-1.0), "exponent=-1.0 must be above 0"),
        (lambda: scales.mu_law_encode(ROWS, quantization_channels=1), "=1 must be from 2 to 65536"),
        (lambda: scales.mu_law_decode([0], quantization_channels=65537), "=65537 must be from 2"),
    ],
)
def test_values_that_cannot_work_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
