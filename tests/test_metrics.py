"""Distances between sounds on cases with known answers, and against librosa."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from vaejax import metrics

RATE = 44_100

lsd_db = jax.jit(metrics.lsd_db)
mel_l1_db = jax.jit(metrics.mel_l1_db, static_argnames="sample_rate")
pooled_log_mel = jax.jit(metrics.pooled_log_mel, static_argnames="sample_rate")


def noise(seed=0, num_samples=RATE, level=0.3):
    return (level * np.random.default_rng(seed).normal(size=num_samples)).astype(np.float32)


def two_bands(low_gain, high_gain):
    """Noise with a gain below 11 kHz and another above, exactly, and of equal energy there."""
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(size=RATE))
    hz = np.fft.rfftfreq(RATE, 1 / RATE)
    low = hz < RATE / 4
    spectrum[low] /= np.linalg.norm(spectrum[low])
    spectrum[~low] /= np.linalg.norm(spectrum[~low])
    x = np.fft.irfft(spectrum * np.where(low, low_gain, high_gain), RATE)
    return (1e4 * x).astype(np.float32)


def reference_levels(waveform):
    spectrum = librosa.stft(waveform.astype(np.float64), n_fft=2048, hop_length=512)
    return np.abs(spectrum) / 512


def test_equal_sounds_have_distance_zero():
    x = noise()
    assert float(lsd_db(x, x)) == pytest.approx(0.0, abs=1e-4)
    assert float(mel_l1_db(x, x, sample_rate=RATE)) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("gain", [0.01, 0.5, 3.0])
def test_a_change_of_gain_is_no_distance(gain):
    x = noise()
    assert float(lsd_db(x, gain * x)) == pytest.approx(0.0, abs=1e-3)
    assert float(mel_l1_db(x, gain * x, sample_rate=RATE)) == pytest.approx(0.0, abs=1e-3)


def test_match_energy_scales_to_the_reference_and_leaves_silence():
    x = noise()
    np.testing.assert_allclose(metrics.match_energy(0.2 * x, x), x, rtol=1e-4)
    np.testing.assert_array_equal(metrics.match_energy(jnp.zeros(100), jnp.ones(100)), 0.0)


def test_lsd_of_two_bands_at_other_levels_is_their_root_mean_square():
    # 1.2 in one half and sqrt(2 - 1.2^2) in the other keep the energy: 1.58 and -2.52 dB.
    low, high = 1.2, np.sqrt(2 - 1.2**2)
    steps = 20 * np.log10([low, high])
    expected = np.sqrt(np.mean(steps**2))
    got = float(lsd_db(two_bands(1, 1), two_bands(low, high)))
    assert got == pytest.approx(expected, rel=0.01)


def test_lsd_matches_its_definition_by_librosa():
    x, y = noise(0), noise(1)
    y *= np.sqrt((x.astype(np.float64) ** 2).sum() / (y.astype(np.float64) ** 2).sum())
    a, b = (20 * np.log10(np.maximum(reference_levels(w), 1e-3)) for w in (x, y))
    expected = np.sqrt(((a - b) ** 2).mean(0)).mean()
    assert float(lsd_db(x, y)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mel_l1_matches_its_definition_by_librosa(rate):
    x, y = noise(0), np.cumsum(noise(1)).astype(np.float32)
    scaled = y * np.sqrt((x.astype(np.float64) ** 2).sum() / (y.astype(np.float64) ** 2).sum())
    bank = librosa.filters.mel(sr=rate, n_fft=2048, n_mels=128, norm=None)
    a, b = (20 * np.log10(np.maximum(bank @ reference_levels(w), 1e-3)) for w in (x, scaled))
    expected = np.abs(a - b).mean()
    assert expected > 5
    assert float(mel_l1_db(x, y, sample_rate=rate)) == pytest.approx(expected, rel=1e-3)


def test_levels_below_the_floor_are_the_floor():
    loud = np.zeros(RATE, np.float32)
    loud[::2048] = 1e-6  # far below -60 dB everywhere
    other = np.zeros(RATE, np.float32)
    other[::1024] = 1e-6
    assert float(lsd_db(loud, other)) == pytest.approx(0.0, abs=1e-5)


def test_silence_against_sound_is_finite():
    silence = np.zeros(RATE, np.float32)
    for pair in ((silence, noise()), (noise(), silence), (silence, silence)):
        assert np.isfinite(lsd_db(*pair))
        assert np.isfinite(mel_l1_db(*pair, sample_rate=RATE))


@pytest.mark.parametrize("num_samples", [300, 1500, 2049])
def test_clips_shorter_than_a_window_can_be_compared(num_samples):
    x, y = noise(0, num_samples), noise(1, num_samples)
    assert float(mel_l1_db(x, x, sample_rate=RATE)) == pytest.approx(0.0, abs=1e-4)
    assert float(mel_l1_db(x, y, sample_rate=RATE)) > 1
    assert np.isfinite(pooled_log_mel(x, sample_rate=RATE)).all()


# Embedding


def test_pooled_log_mel_of_a_steady_sound_is_the_same_in_every_stretch():
    x = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    pooled = np.asarray(pooled_log_mel(x, sample_rate=RATE)).reshape(16, 64)
    # Away from the first and last stretch, whose frames reach beyond the clip.
    np.testing.assert_allclose(pooled[2:14, 20:30], pooled[7, 20:30][None].repeat(12, 0), atol=0.1)
    assert pooled[7].max() == pytest.approx(0.0, abs=6.1)


def test_pooling_weighs_every_frame_alike():
    # A ramp in time pools to the mean of equal stretches: 16 levels with equal steps.
    x = noise(0, 2048 * 16)
    x[: 2048 * 8] = 0
    pooled = np.asarray(pooled_log_mel(x, sample_rate=RATE)).reshape(16, 64)
    np.testing.assert_allclose(pooled[:7], -80.0, atol=1e-3)
    assert (pooled[9:] > -40).all()


@pytest.fixture(scope="module")
def embedded():
    rng = np.random.default_rng(0)
    clips = [
        (np.sin(2 * np.pi * f * np.arange(8000) / 16_000) * np.exp(-np.arange(8000) / d))
        for f, d in zip(rng.uniform(100, 4000, 20), rng.uniform(500, 5000, 20), strict=True)
    ]
    clips = np.stack(clips).astype(np.float32)
    pooled = np.stack([pooled_log_mel(clip, sample_rate=16_000) for clip in clips])
    return clips, pooled, metrics.fit_embedding(pooled)


def test_distances_in_the_embedding_are_those_of_the_pooled_spectra(embedded):
    # 20 sounds span 19 dimensions: an embedding in 64 loses nothing.
    _, pooled, embedding = embedded
    points = np.asarray(embedding.points)
    assert points.shape == (20, 64)
    expected = np.linalg.norm(pooled[:, None] - pooled[None], axis=2)
    got = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-2)


def test_a_training_sound_is_its_own_nearest_at_distance_zero(embedded):
    clips, _, embedding = embedded
    point = metrics.embed(clips[7], embedding, sample_rate=16_000)
    row, novelty = metrics.nearest(point, embedding)
    assert int(row) == 7
    assert float(novelty) < 1e-3


def test_novelty_of_half_the_sounds_without_themselves_is_above_one(embedded):
    _, _, embedding = embedded
    novelties = []
    for i in range(20):
        rest = embedding._replace(points=np.delete(np.asarray(embedding.points), i, axis=0))
        novelties.append(float(metrics.nearest(embedding.points[i], rest)[1]))
    assert np.median(novelties) == pytest.approx(1.0, rel=1e-3)


def test_embedding_of_copies_of_one_sound_stays_finite():
    embedding = metrics.fit_embedding(np.ones((4, 1024)))
    assert all(np.isfinite(leaf).all() for leaf in embedding)
    assert float(embedding.median_neighbour) > 0


def test_neighbours_are_found_across_blocks():
    # 1,500 points on a line, one apart: more than a block of 1,024.
    pooled = np.zeros((1500, 4))
    pooled[:, 3] = np.arange(1500)
    assert float(metrics.fit_embedding(pooled).median_neighbour) == pytest.approx(1.0, rel=1e-3)


# Multi-resolution STFT


def test_multi_resolution_stft_is_zero_for_equal_sounds_and_grows_with_distance():
    t = np.arange(8000) / 8000
    sine = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    near = np.sin(2 * np.pi * 442 * t).astype(np.float32)
    far = np.sin(2 * np.pi * 880 * t).astype(np.float32)
    assert float(metrics.multi_resolution_stft(sine, sine)) < 1e-6
    distances = [float(metrics.multi_resolution_stft(sine, other)) for other in (near, far)]
    assert 0.01 < distances[0] < distances[1]


def test_multi_resolution_stft_matches_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.1, (2, 6000)).astype(np.float32)
    expected = 0.0
    for n_fft in (512, 1024, 2048):
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)

        def level(x, n_fft=n_fft, window=window):
            padded = np.pad(x.astype(np.float64), n_fft // 2)
            frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[:: n_fft // 4]
            power = np.abs(np.fft.rfft(frames * window)) ** 2 * (4 / n_fft) ** 2
            return np.sqrt(power + 1e-10)

        x, y = level(a), level(b)
        expected += np.linalg.norm(x - y) / np.linalg.norm(x)
        expected += np.abs(np.log(x) - np.log(y)).mean()
    np.testing.assert_allclose(metrics.multi_resolution_stft(a, b), expected / 3, rtol=1e-4)


def test_multi_resolution_stft_has_finite_gradients_at_silence():
    t = np.arange(4000) / 8000
    sine = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    grad = jax.grad(lambda x: metrics.multi_resolution_stft(sine, x))(jnp.zeros(4000))
    assert np.isfinite(grad).all()
