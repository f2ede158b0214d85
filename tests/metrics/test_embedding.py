"""The space in which sounds are compared: pooling, distances, neighbours."""

import jax
import numpy as np
import pytest

from vaejax import metrics

RATE = 44_100

pooled_log_mel = jax.jit(metrics.pooled_log_mel, static_argnames="sample_rate")


def noise(seed=0, num_samples=RATE, level=0.3):
    return (level * np.random.default_rng(seed).normal(size=num_samples)).astype(np.float32)


def test_a_clip_shorter_than_a_window_can_be_pooled():
    assert np.isfinite(pooled_log_mel(noise(0, 300), sample_rate=RATE)).all()


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
