"""Batches: every epoch a permutation, resampling against a sine and soxr, bounded augmentation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soxr

from vaejax.data import batches

RATE = 44_100


def tone(hz, num_samples, rate=RATE):
    return np.sin(2 * np.pi * hz * np.arange(num_samples) / rate)


def pcm(waveform):
    return np.round(32767 * waveform / np.abs(waveform).max()).astype(np.int16)


read_at = jax.jit(batches.read_at, static_argnames="num_samples")
raw_clip = jax.jit(batches.raw_clip, static_argnames=("num_samples", "fade_samples"))
augmented_clip = jax.jit(
    batches.augmented_clip,
    static_argnames=(
        "num_samples",
        "fade_samples",
        "shift_samples",
        "pitch_semitones",
        "pitch_probability",
        "sample_rate",
        "eq_db",
        "eq_probability",
    ),
)


# Order


@pytest.mark.parametrize("num_clips", [1, 2, 3, 4, 5, 7, 16, 17, 63, 64, 65, 100, 1000])
def test_every_epoch_visits_every_clip_once(key, num_clips):
    positions = jnp.arange(3 * num_clips, dtype=jnp.uint32)
    order = np.asarray(batches.shuffled_indices(key, positions, num_clips=num_clips))
    assert order.dtype == np.int32
    for epoch in order.reshape(3, num_clips):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(num_clips))


def test_epochs_and_keys_differ(key):
    positions = jnp.arange(300, dtype=jnp.uint32)
    order = np.asarray(batches.shuffled_indices(key, positions, num_clips=100)).reshape(3, 100)
    other = np.asarray(batches.shuffled_indices(jax.random.key(1), positions, num_clips=100))
    # 100 clips at random agree in one place on average, and in ten about once in ten million.
    for a, b in ((order[0], order[1]), (order[1], order[2]), (order[0], other[:100])):
        assert (a == b).sum() < 10
    assert (order[0] == np.arange(100)).sum() < 10


def test_neighbours_in_the_set_are_no_neighbours_in_the_order(key):
    positions = jnp.arange(1000, dtype=jnp.uint32)
    order = np.asarray(batches.shuffled_indices(key, positions, num_clips=1000))
    # The mean distance of two draws from 1000 is 333.
    assert 280 < np.abs(np.diff(order)).mean() < 390


def test_order_holds_at_positions_beyond_2_to_the_31(key):
    start = np.uint32(2**32 - 2000)
    first = -(-int(start) // 1000) * 1000  # the first whole epoch
    positions = jnp.arange(first, first + 1000, dtype=jnp.uint32)
    order = batches.shuffled_indices(key, positions, num_clips=1000)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))


def test_positions_of_steps_follow_one_another():
    got = [batches.positions_at(jnp.asarray(step), batch_size=4) for step in range(3)]
    np.testing.assert_array_equal(np.concatenate(got), np.arange(12))
    assert got[0].dtype == jnp.uint32


def test_example_key_depends_on_the_position(key):
    keys = [jax.random.key_data(batches.example_key(key, p)).tolist() for p in (0, 1, 2)]
    assert len({tuple(k) for k in keys}) == 3


# A clip as it is


def test_raw_clip_peaks_at_full_scale_and_keeps_its_shape():
    clip = np.zeros(1000, np.int16)
    clip[100:104] = [5, -10, 7, 2]
    got = raw_clip(clip, 1000, num_samples=1000, fade_samples=0)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got[100:104], [0.5, -1.0, 0.7, 0.2], rtol=1e-6)


def test_a_cut_sound_fades_to_exactly_zero():
    clip = np.full(1200, 20_000, np.int16)
    got = np.asarray(raw_clip(clip, 1200, num_samples=1000, fade_samples=100))
    np.testing.assert_allclose(got[:900], 1.0)
    assert got[-1] == 0.0
    assert (np.diff(got[900:]) < 0).all()
    assert got[949] == pytest.approx(0.5, abs=0.01)


def test_a_sound_that_ends_in_the_clip_is_not_faded():
    clip = np.zeros(1200, np.int16)
    clip[:1000] = 20_000
    got = raw_clip(clip, 1000, num_samples=1000, fade_samples=100)
    np.testing.assert_allclose(got, 1.0)


def test_silence_stays_silence():
    got = raw_clip(np.zeros(1000, np.int16), 1000, num_samples=1000, fade_samples=10)
    np.testing.assert_array_equal(got, 0.0)


# Resampling


@pytest.mark.parametrize("semitones", [-2.0, -0.3, 0.7, 2.0])
@pytest.mark.parametrize("hz", [110.0, 1000.0, 5000.0])
def test_read_at_of_a_sine_is_the_sine_at_the_other_pitch(hz, semitones):
    ratio, num_samples = 2.0 ** (semitones / 12), 44_100
    source = tone(hz, int(num_samples * 1.2)).astype(np.float32)
    got = np.asarray(read_at(source, np.float32(ratio), np.float32(0), num_samples=num_samples))
    expected = np.sin(
        2 * np.pi * hz * np.float64(np.float32(ratio)) * np.arange(num_samples) / RATE
    )
    inside = slice(8, -8)
    error = np.sqrt(np.mean((got - expected)[inside] ** 2) / np.mean(expected**2))
    # -87 dB at 5 kHz, and below that at lower frequencies but for float32's own rounding.
    assert 20 * np.log10(error) < -80


def test_read_at_matches_soxr_on_a_chord():
    source = sum(tone(hz, 30_000) for hz in (220, 660, 3000)) / 3 * np.hanning(30_000)
    # soxr makes num_samples * new / old samples: pitch up by 10 / 9.
    expected = soxr.resample(source, 10, 9, quality="VHQ")
    got = read_at(
        source.astype(np.float32), np.float32(10 / 9), np.float32(0), num_samples=len(expected)
    )
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_shift_delays_by_a_fraction_of_a_sample_after_silence():
    source = np.sin(2 * np.pi * 0.01 * np.arange(2000)).astype(np.float32) * np.hanning(2000)
    got = np.asarray(
        read_at(np.float32(source), np.float32(1), np.float32(100.25), num_samples=2000)
    )
    at = np.arange(2000) - 100.25
    expected = np.where(at >= 0, np.interp(at, np.arange(2000), source), 0.0)
    np.testing.assert_allclose(got, expected, atol=1e-3)
    np.testing.assert_allclose(got[:95], 0.0, atol=1e-6)


def test_nothing_is_read_beyond_the_pack():
    got = np.asarray(
        read_at(np.ones(100, np.float32), np.float32(1.0), np.float32(0), num_samples=150)
    )
    np.testing.assert_allclose(got[:96], 1.0, atol=1e-5)
    np.testing.assert_allclose(got[104:], 0.0, atol=1e-6)


# Augmentation

NO_EQ = {"sample_rate": RATE, "eq_db": 0.0, "eq_probability": 1.0}
OFF = {"gain_db": 0.0, "shift_samples": 0.0, "pitch_semitones": 0, "pitch_probability": 1.0}
OFF |= NO_EQ


def visits(clip, length, num, **kwargs):
    keys = jax.random.split(jax.random.key(2), num)
    one = partial(batches.augmented_clip, num_samples=4096, fade_samples=0, **{**OFF, **kwargs})
    clips, semitones = jax.jit(jax.vmap(lambda key: one(key, clip, length)))(keys)
    return np.asarray(clips), np.asarray(semitones)


def test_without_augmentation_the_clip_is_the_raw_one(key):
    clip = pcm(tone(440, 5000))
    got, semitones = augmented_clip(
        key,
        clip,
        5000,
        num_samples=4096,
        fade_samples=64,
        gain_db=0.0,
        shift_samples=0,
        pitch_semitones=0,
        pitch_probability=1.0,
        **NO_EQ,
    )
    expected = raw_clip(clip, 5000, num_samples=4096, fade_samples=64)
    np.testing.assert_allclose(got, expected, atol=3e-4)
    assert float(semitones) == 0.0


def test_gain_only_lowers_and_by_no_more_than_asked():
    clips, _ = visits(pcm(tone(440, 5000)), 4096, 400, gain_db=6.0)
    level = 20 * np.log10(np.abs(clips).max(1))
    assert level.max() <= 1e-4
    assert level.min() >= -6.0 - 1e-4
    assert level.max() > -0.3
    assert level.min() < -5.7


def test_shift_only_delays_and_by_no_more_than_asked():
    click = np.zeros(5000, np.int16)
    click[0] = 32767
    clips, _ = visits(click, 4096, 400, shift_samples=40.0)
    at = np.abs(clips).argmax(1)
    assert at.min() in (0, 1)
    assert at.max() in (39, 40)
    assert len(np.unique(at)) > 30


def test_pitch_moves_by_the_semitones_it_reports():
    hz = 1000.0
    clips, semitones = visits(pcm(tone(hz, 6000)), 6000, 64, pitch_semitones=2)
    assert set(semitones) == {-2.0, -1.0, 1.0, 2.0}
    spectrum = np.abs(np.fft.rfft(clips * np.hanning(4096), 2**18))
    peak = spectrum.argmax(1) * RATE / 2**18
    np.testing.assert_allclose(12 * np.log2(peak / hz), semitones, atol=0.01)


def test_pitch_moves_at_the_share_of_visits_asked_for_and_every_step_as_often():
    clip = pcm(tone(1000, 6000))
    _, semitones = visits(clip, 6000, 4000, pitch_semitones=2, pitch_probability=0.4)
    counts = [np.mean(semitones == step) for step in (-2, -1, 0, 1, 2)]
    # Four standard errors of a share of 0.6 in 4,000 draws are 0.031.
    np.testing.assert_allclose(counts, [0.1, 0.1, 0.6, 0.1, 0.1], atol=0.031)


def test_a_sound_that_the_pitch_cuts_is_faded_and_one_that_it_ends_is_not(key):
    clip = np.zeros(5000, np.int16)
    clip[:4096] = 20_000
    fade = {"num_samples": 4096, "fade_samples": 100, "gain_db": 0.0, "shift_samples": 0.0}
    fade |= NO_EQ
    for seed in range(20):
        got, semitones = augmented_clip(
            jax.random.key(seed), clip, 4096, pitch_semitones=2, pitch_probability=1.0, **fade
        )
        # Lowered, the sound outlasts the clip; raised, it ends within it.
        end = np.asarray(got)[4090:]
        if semitones < -0.1:
            assert end[-1] == 0.0
            assert end[0] > 1e-4
        elif semitones > 0.1:
            np.testing.assert_allclose(end, 0.0, atol=1e-6)
            ends_at = int(4096 * 2.0 ** (-semitones / 12)) - 10
            np.testing.assert_allclose(got[8:ends_at], got[8], rtol=1e-3)


def test_equaliser_is_in_at_the_share_of_visits_asked_for_and_draws_anew():
    clip = pcm(tone(1000, 6000) * np.exp(-np.arange(6000) / 500))
    plain, _ = visits(clip, 4096, 1)
    clips, _ = visits(clip, 4096, 600, eq_db=6.0, eq_probability=0.4)
    is_in = np.abs(clips - plain).max(1) > 1e-3
    # Four standard errors of a share of 0.4 in 600 draws are 0.08.
    assert is_in.mean() == pytest.approx(0.4, abs=0.08)
    assert len({clip.tobytes() for clip in clips[is_in]}) == is_in.sum()


def test_a_cut_sound_is_equalised_first_and_faded_then(key):
    clip = pcm(np.random.default_rng(0).standard_normal(6000))
    options = {"num_samples": 4096, **OFF, "eq_db": 12.0}
    faded, whole = (
        np.asarray(batches.augmented_clip(key, clip, 6000, fade_samples=n, **options)[0])
        for n in (100, 0)
    )
    assert faded[-1] == 0.0
    np.testing.assert_allclose(faded[-51] / whole[-51], faded[100] / whole[100] / 2, rtol=0.02)


def test_equalised_silence_stays_silence(key):
    clip = np.concatenate([np.zeros(1000, np.int16), pcm(tone(1000, 5000))])
    clips, _ = visits(clip, 6000, 8, eq_db=8.0, shift_samples=40.0)
    # Interpolation reaches four samples ahead.
    np.testing.assert_array_equal(clips[:, :990], 0)
    assert np.abs(clips[:, 1100:]).max() > 0.9


def test_a_traced_equaliser_of_no_gain_is_none(key):
    clip = pcm(tone(1000, 5000))
    clip_of = partial(
        batches.augmented_clip, key, clip, 5000, num_samples=4096, fade_samples=10, **OFF | NO_EQ
    )
    del clip_of.keywords["eq_db"]
    got = jax.jit(lambda eq_db: clip_of(eq_db=eq_db)[0])(0.0)
    np.testing.assert_allclose(got, clip_of(eq_db=0.0)[0], atol=1e-5)


def test_augmented_clips_never_exceed_full_scale():
    noise = np.random.default_rng(0).integers(-32767, 32768, 6000).astype(np.int16)
    clips, _ = visits(noise, 6000, 64, pitch_semitones=2, shift_samples=20.0, eq_db=12.0)
    assert np.isfinite(clips).all()
    np.testing.assert_allclose(np.abs(clips).max(1), 1.0, rtol=1e-5)
