"""Frames against librosa, energy against its definition."""

import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from vaejax.signal.framing import energy, frame, overlap_add, slice_frames

RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal(1000).astype(np.float32)


@pytest.mark.parametrize(
    ("frame_length", "hop_length"), [(50, 25), (32, 16), (50, 17), (50, 80), (1000, 1), (1, 1)]
)
def test_frame_matches_librosa_exactly(frame_length, hop_length):
    got = frame(NOISE, frame_length=frame_length, hop_length=hop_length)
    expected = librosa.util.frame(NOISE, frame_length=frame_length, hop_length=hop_length).T
    np.testing.assert_array_equal(got, expected)


def test_frame_with_pad_end_starts_a_frame_at_every_hop():
    got = frame(NOISE[:101], frame_length=40, hop_length=10, pad_end=True, pad_value=7.0)
    assert got.shape == (11, 40)
    padded = np.pad(NOISE[:101], (0, 100), constant_values=7.0)
    for i in range(11):
        np.testing.assert_array_equal(got[i], padded[10 * i : 10 * i + 40])


@pytest.mark.parametrize(("frame_length", "hop_length"), [(40, 10), (40, 7), (7, 40)])
def test_overlap_add_is_the_adjoint_of_slicing(frame_length, hop_length):
    frames = slice_frames(jnp.asarray(NOISE), frame_length=frame_length, hop_length=hop_length)
    other = jnp.asarray(RNG.standard_normal(frames.shape).astype(np.float32))
    summed = overlap_add(other, hop_length=hop_length)
    left = jnp.vdot(frames, other)
    right = jnp.vdot(jnp.asarray(NOISE)[: summed.shape[0]], summed)
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-3)


def test_numpy_and_jax_frames_agree():
    host = overlap_add(slice_frames(NOISE, frame_length=40, hop_length=7), hop_length=7)
    device = slice_frames(jnp.asarray(NOISE), frame_length=40, hop_length=7)
    np.testing.assert_allclose(host, overlap_add(device, hop_length=7), atol=1e-5)


@pytest.mark.parametrize("pad_end", [False, True])
def test_energy_is_the_sum_of_squares_per_reference_duration(pad_end):
    waveform = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], np.float32) / 7
    got = energy(
        waveform, sample_rate=22050, frame_length=4, hop_length=2, ref_duration=0.1, pad_end=pad_end
    )
    padded = np.pad(waveform, (0, 4 if pad_end else 0))
    starts = range(0, 8 if pad_end else 4, 2)
    expected = [np.sum(padded[i : i + 4] ** 2) * 0.1 / (4 / 22050) for i in starts]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_too_short_waveform_says_how_much_is_missing():
    with pytest.raises(
        ValueError, match=r"num_samples=10 is shorter than one frame of 40.* 30 zer"
    ):
        frame(np.zeros(10, np.float32), frame_length=40, hop_length=10)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"frame_length": 4, "hop_length": 0}, "hop_length=0 must be at least 1"),
        ({"frame_length": 0, "hop_length": 2}, "frame_length=0 must be at least 1"),
    ],
)
def test_sizes_below_one_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        frame(NOISE, **arguments)


@pytest.mark.parametrize(
    ("waveform", "match"),
    [
        (np.zeros((2, 8), np.float32), r"shape \(2, 8\), expected \[num_samples\]; use jax.vmap"),
        (np.zeros(0, np.float32), "0 samples"),
        (np.zeros(8, np.int16), "dtype int16.*divide 16-bit integers by 32768"),
        (np.zeros(8, np.complex64), "dtype complex64"),
    ],
)
def test_waveform_of_wrong_kind_is_refused(waveform, match):
    with pytest.raises(ValueError, match=match):
        frame(waveform, frame_length=4, hop_length=2)
