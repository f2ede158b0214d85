"""Loudness against the values that ITU-R BS.1770 and EBU Tech 3341 state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from vaejax.signal.loudness import integrated_loudness, k_weight, k_weighting_coefficients


def sine(hz, seconds, rate, db=0.0):
    t = np.arange(int(seconds * rate)) / rate
    return (10 ** (db / 20) * np.sin(2 * np.pi * hz * t)).astype(np.float32)


def test_coefficients_at_48_khz_are_the_tabulated_ones():
    numerators, denominators = k_weighting_coefficients(48000)
    # ITU-R BS.1770-4, tables 1 and 2.
    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285]
    np.testing.assert_allclose(numerators, [shelf, [1.0, -2.0, 1.0]], atol=1e-9)
    np.testing.assert_allclose(denominators[0], [1.0, -1.69065929318241, 0.73248077421585], atol=1e-9)  # noqa: E501  # fmt: skip
    np.testing.assert_allclose(denominators[1], [1.0, -1.99004745483398, 0.99007225036621], atol=1e-9)  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("rate", [44100, 48000, 16000])
def test_weighting_matches_the_recursive_filter(rate):
    noise = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    expected = noise
    for b, a in zip(*k_weighting_coefficients(rate), strict=True):
        expected = scipy.signal.lfilter(b, a, expected)
    np.testing.assert_allclose(k_weight(noise, sample_rate=rate), expected, atol=2e-5)


@pytest.mark.parametrize("rate", [48000, 44100])
def test_full_scale_sine_at_997_hz_reads_minus_3_01(rate):
    got = integrated_loudness(sine(997, 2, rate), sample_rate=rate)
    np.testing.assert_allclose(got, -3.01, atol=0.02)


def test_stereo_sine_at_minus_23_dbfs_reads_minus_23():
    clip = np.stack([sine(1000, 2, 48000, -23.0)] * 2)
    np.testing.assert_allclose(integrated_loudness(clip, sample_rate=48000), -23.0, atol=0.1)
    weighted = integrated_loudness(clip, sample_rate=48000, channel_gains=[1.0, 0.0])
    np.testing.assert_allclose(weighted, -26.0, atol=0.1)


def test_quiet_passages_are_gated_out():
    # EBU Tech 3341, case 3, shortened: -36, -23, -36 dBFS reads -23.
    clip = np.concatenate([sine(1000, s, 48000, db) for s, db in ((1, -36), (6, -23), (1, -36))])
    got = integrated_loudness(np.stack([clip, clip]), sample_rate=48000)
    np.testing.assert_allclose(got, -23.0, atol=0.3)
    ungated = -0.691 + 10 * np.log10(2 * np.mean(k_weight(clip, sample_rate=48000) ** 2))
    assert got > ungated + 0.5


@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.399])
def test_clip_shorter_than_a_block_is_measured_over_its_own_length(seconds):
    measure = jax.jit(lambda x: integrated_loudness(x, sample_rate=48000))
    np.testing.assert_allclose(measure(sine(997, seconds, 48000)), -3.01, atol=0.5)


def test_silence_and_single_samples_are_finite_with_finite_gradients():
    for clip in (jnp.zeros(30000), jnp.zeros(1), jnp.full(100, 1e-6)):
        measure = jax.value_and_grad(lambda x: integrated_loudness(x, sample_rate=44100))
        loudness, gradient = jax.jit(measure)(clip)
        # The gate's level through a logarithm and back, in float32.
        np.testing.assert_allclose(loudness, -70, atol=1e-4)
        assert np.isfinite(gradient).all()


def test_loudness_falls_by_as_many_decibels_as_the_level():
    batch = jnp.stack([jnp.asarray(sine(500, 0.6, 16000, db)) for db in (-10, -30)])
    got = jax.jit(jax.vmap(lambda clip: integrated_loudness(clip, sample_rate=16000)))(batch)
    np.testing.assert_allclose(got[0] - got[1], 20.0, atol=1e-2)


@pytest.mark.parametrize(
    ("waveform", "options", "match"),
    [
        (np.zeros((2, 3, 4)), {"sample_rate": 48000}, r"shape \(2, 3, 4\)"),
        (np.zeros(0), {"sample_rate": 48000}, r"shape \(0,\)"),
        (np.zeros(100), {"sample_rate": 3000}, "sample_rate=3000 Hz must be above 3364"),
        (np.zeros(9), {"sample_rate": 48000, "channel_gains": [1.0, 1.0]}, "one per channel"),
    ],
)
def test_waveforms_that_cannot_work_are_refused(waveform, options, match):
    with pytest.raises(ValueError, match=match):
        integrated_loudness(waveform, **options)
