"""Descriptors against librosa, closed forms and sounds whose answer is known."""

import librosa
import numpy as np
import pytest

from vaejax.metrics import descriptors

RATE = 16_000


def noise(num=RATE, seed=0):
    return np.random.default_rng(seed).normal(size=num).astype(np.float32)


def tone(hz, seconds=1.0):
    return np.sin(2 * np.pi * hz * np.arange(round(RATE * seconds)) / RATE).astype(np.float32)


def decay(seconds, rate_per_second):
    return noise(round(RATE * seconds)) * np.exp(
        -rate_per_second * np.arange(RATE * seconds) / RATE
    )


SOUNDS = {"noise": noise(), "tone": tone(440), "decay": decay(1, 6).astype(np.float32)}
FRAMES = {"n_fft": 2048, "hop_length": 512, "pad_mode": "constant"}


@pytest.mark.parametrize("name", SOUNDS)
def test_centroid_is_librosas_weighted_by_magnitude(name):
    y = SOUNDS[name]
    frames = librosa.feature.spectral_centroid(y=y, sr=RATE, **FRAMES)[0]
    weights = np.abs(librosa.stft(y, **FRAMES)).sum(0)
    expected = np.average(frames, weights=weights)
    ours = float(descriptors.spectral_centroid(y, sample_rate=RATE))
    assert ours == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", SOUNDS)
def test_flatness_is_librosas_in_db_weighted_by_power(name):
    y = SOUNDS[name]
    frames = 10 * np.log10(librosa.feature.spectral_flatness(y=y, **FRAMES)[0])
    weights = (np.abs(librosa.stft(y, **FRAMES)) ** 2).sum(0)
    expected = np.average(frames, weights=weights)
    ours = float(descriptors.spectral_flatness_db(y))
    assert ours == pytest.approx(expected, abs=0.02)


def test_a_tone_has_its_frequency_as_centroid_and_noise_the_middle():
    assert float(descriptors.spectral_centroid(tone(3000), sample_rate=RATE)) == pytest.approx(
        3000, rel=0.02
    )
    middle = float(descriptors.spectral_centroid(noise(), sample_rate=RATE))
    assert middle == pytest.approx(RATE / 4, rel=0.02)


@pytest.mark.parametrize("attack", [0.05, 0.2])
def test_attack_of_a_linear_rise_is_four_fifths_of_it(attack):
    t = np.arange(RATE) / RATE
    y = np.minimum(t / attack, 1) * tone(1000)
    ours = float(descriptors.attack_time(y.astype(np.float32), sample_rate=RATE))
    # From 10 to 90 %, give or take the envelope's 10 ms.
    assert ours == pytest.approx(0.8 * attack, abs=0.01)


def test_a_click_has_the_shortest_attack_and_duration():
    y = np.zeros(RATE, np.float32)
    y[100] = 1.0
    assert float(descriptors.attack_time(y, sample_rate=RATE)) == pytest.approx(0.001)
    assert float(descriptors.effective_duration(y, sample_rate=RATE)) <= 0.010001


@pytest.mark.parametrize("per_second", [4.0, 16.0])
def test_duration_of_an_exponential_decay_is_where_it_falls_to_two_fifths(per_second):
    y = np.exp(-per_second * np.arange(RATE) / RATE) * tone(1000)
    ours = float(descriptors.effective_duration(y.astype(np.float32), sample_rate=RATE))
    assert ours == pytest.approx(np.log(1 / 0.4) / per_second, abs=0.012)


def test_descriptors_do_not_hang_on_level_and_are_finite_for_silence():
    y = SOUNDS["decay"]
    for level in (0.1, 1.0):
        values = [
            descriptors.spectral_centroid(level * y, sample_rate=RATE),
            descriptors.spectral_flatness_db(level * y),
            descriptors.attack_time(level * y, sample_rate=RATE),
            descriptors.effective_duration(level * y, sample_rate=RATE),
        ]
        if level == 0.1:
            quiet = values
    np.testing.assert_allclose(quiet, values, rtol=1e-3)
    silence = np.zeros(1000, np.float32)  # shorter than a window
    assert float(descriptors.spectral_centroid(silence, sample_rate=RATE)) == 0.0
    assert np.isfinite(float(descriptors.spectral_flatness_db(silence)))
    assert np.isfinite(float(descriptors.attack_time(silence, sample_rate=RATE)))
    assert np.isfinite(float(descriptors.effective_duration(silence, sample_rate=RATE)))
