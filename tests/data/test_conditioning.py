import numpy as np
import pytest

from vaejax.data import decoding
from vaejax.data.conditioning import condition
from vaejax.data.files import UnusableSound

RATE = 44_100


def sine(*, num_samples=RATE // 10, rate=RATE, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(num_samples) / rate)).astype(np.float32)


def conditioned(waveform, *, trim_db=-60.0, num_samples=2000):
    whole = decoding.of_array(waveform, sample_rate=RATE)
    return condition(whole, sample_rate=RATE, trim_db=trim_db, num_samples=num_samples)


def test_trimming_removes_the_silence_and_keeps_the_attack():
    attack = sine(num_samples=1000) * np.linspace(0, 1, 1000, dtype=np.float32)
    hiss = 1e-5 * np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    pcm, length, _ = conditioned(np.concatenate([hiss, attack]))
    onset = 9000 + int(np.argmax(np.abs(attack) >= 1e-3 * np.abs(attack).max()))
    assert length == 10_000 - (onset - 44)  # one millisecond before the onset
    expected = np.concatenate([hiss, attack])[onset - 44 :]
    expected = expected / np.abs(expected).max() * 32767
    np.testing.assert_allclose(pcm[:length], expected, atol=0.51)
    assert not pcm[length:].any()


def test_a_click_after_silence_lands_one_millisecond_in():
    waveform = np.zeros(30_000, np.float32)
    waveform[20_000] = -0.01
    pcm, length, _ = conditioned(waveform)
    assert length == 10_000 + 44
    assert np.flatnonzero(pcm).tolist() == [44]
    assert pcm[44] == -32767


def test_a_sound_that_starts_at_once_is_not_moved():
    pcm, length, _ = conditioned(np.eye(1, 500, dtype=np.float32)[0])
    assert length == 500
    assert pcm[0] == 32767


def test_nothing_is_trimmed_at_minus_infinity():
    waveform = np.zeros(500, np.float32)
    waveform[400] = 1
    pcm, length, _ = conditioned(waveform, trim_db=-np.inf)
    assert length == 500
    assert pcm[400] == 32767


def test_length_is_counted_before_cropping_and_the_kept_part_is_scaled():
    waveform = sine(num_samples=5000)
    waveform[3000:] *= 2  # the loudest part is cropped away
    pcm, length, _ = conditioned(waveform, num_samples=2000)
    assert length == 5000
    assert pcm.shape == (2000,)
    assert np.abs(pcm.astype(int)).max() == 32767
    assert pcm[-1] != 0  # a hard cut, no fade


def test_the_onset_stays_inside_the_shortest_clip():
    waveform = np.zeros(500, np.float32)
    waveform[400] = 1
    assert conditioned(waveform, num_samples=1).pcm.tolist() == [32767]
    assert conditioned(waveform, num_samples=10).pcm.tolist() == [0] * 9 + [32767]


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e38])
def test_any_scale_comes_out_at_full_scale(scale):
    pcm, _, _ = conditioned(np.float32(scale) * sine(num_samples=1000) / np.float32(0.5))
    assert np.abs(pcm.astype(int)).max() == 32767


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-3, 3e38])
def test_an_offset_is_taken_off_at_any_scale_alike(scale):
    quiet, decaying = np.zeros(RATE // 4), sine(num_samples=RATE) * np.exp(-np.arange(RATE) / 4000)
    shifted = (0.2 + np.concatenate([quiet, decaying])).astype(np.float32)
    one, _, _ = conditioned(shifted)
    other, _, _ = conditioned(shifted * np.float32(scale))
    assert abs(one[-1000:].astype(float).mean()) < 0.05 * 32767  # where 0.2 would be a third of it
    np.testing.assert_allclose(other, one, atol=2)


def test_condition_refuses_bad_settings_and_silence():
    with pytest.raises(ValueError, match=r"trim_db=60 .* must be <= 0; try -60"):
        conditioned(sine(), trim_db=60)
    with pytest.raises(ValueError, match="num_samples=0 must be at least 1"):
        conditioned(sine(), num_samples=0)
    with pytest.raises(UnusableSound, match=r"^all silence$"):
        conditioned(np.zeros(100, np.float32))
