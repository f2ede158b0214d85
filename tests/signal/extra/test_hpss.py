"""Harmonic-percussive separation against librosa."""

import jax
import librosa
import numpy as np
import pytest

from vaejax.signal.extra.hpss import harmonic_percussive

CLIP = np.sin(2 * np.pi * 440 * np.arange(6000) / 11025).astype(np.float32)
CLIP[3000] += 20
STFT = librosa.stft(CLIP, n_fft=256, hop_length=64, pad_mode="constant").T


@pytest.mark.parametrize(
    "options", [{}, {"kernel_size": 9, "power": 1.0}, {"kernel_size": 17, "margin": 2.0}]
)
def test_parts_match_librosa(options):
    got = harmonic_percussive(STFT, **options)
    expected = librosa.decompose.hpss(STFT.T, **options)
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.T, atol=1e-4)


def test_parts_sum_to_the_whole_and_tell_a_sine_from_a_click():
    magnitude = np.abs(STFT)
    harmonic, percussive = harmonic_percussive(magnitude)
    np.testing.assert_allclose(harmonic + percussive, magnitude, rtol=1e-5, atol=1e-6)
    assert np.linalg.norm(percussive[:30]) < 0.1 * np.linalg.norm(harmonic[:30])
    assert np.linalg.norm(harmonic[47, 30:]) < 0.1 * np.linalg.norm(percussive[47, 30:])


def test_silence_and_single_frames_are_finite():
    for values in (np.zeros((20, 9), np.float32), np.ones((1, 2), np.float32)):
        for part in jax.jit(harmonic_percussive)(values):
            np.testing.assert_allclose(part, values / 2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kernel_size": 30}, "kernel_size=30 must be odd"),
        ({"power": 0.0}, "power=0.0 must be above 0"),
        ({"margin": 0.5}, "margin=0.5 at least 1"),
    ],
)
def test_options_that_cannot_work_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        harmonic_percussive(STFT, **options)


def test_a_batch_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3, 4\).*jax.vmap"):
        harmonic_percussive(np.zeros((2, 3, 4)))
