"""Loops: found where a sound sustains, inaudible where they close, refused with a reason."""

import numpy as np
import pytest

from vaejax.export import loops

RATE = 16_000


def times(seconds=1.0):
    return np.arange(int(seconds * RATE)) / RATE


def shaped(wave, attack=0.03, release=0.1):
    """With an attack and a release, as a held note has them."""
    t = times(len(wave) / RATE)
    return (wave * np.clip(t / attack, 0, 1) * np.clip((t[-1] - t) / release, 0, 1)).astype("f4")


def tone(hz=220.3, beat=0.2):
    """Harmonics, and one voice beside it: nowhere exactly periodic."""
    t = times()
    voices = (np.sin(2 * np.pi * k * (hz + d) * t + k) / k for k in range(1, 9) for d in (0, beat))
    return shaped(0.1 * sum(voices))


def noise(seed=0):
    return shaped(0.1 * np.random.default_rng(seed).normal(size=RATE))


def played(looped, loop, rounds=6):
    """What a sampler plays while a key is held."""
    return np.concatenate(
        [looped[: loop.start], np.tile(looped[loop.start : loop.end + 1], rounds)]
    )


def test_a_held_tone_closes_without_click_step_in_level_or_drift_in_pitch():
    wave = tone()
    looped, loop = loops.make_loop(wave, sample_rate=RATE)
    assert loop.correlation > 0.9
    assert abs(loop.level_jump_db) < loops.MAX_JUMP_DB
    assert loop.step <= 1.05
    assert loop.end + 1 - loop.start >= 0.1 * RATE
    held = played(looped, loop)
    seams = loop.start + (loop.end + 1 - loop.start) * np.arange(1, 6)
    curvature = np.abs(np.diff(held, 2))
    away = np.ones(len(curvature), bool)
    for seam in seams:
        away[seam - 4 : seam + 4] = False
        assert (
            curvature[seam - 4 : seam + 4].max()
            <= 1.05 * curvature[loop.start :][away[loop.start :]].max()
        )
    # The loop holds the tone: its fundamental does not move (two voices, at 220.3 and 220.5).
    part = held[loop.start :] * np.hanning(len(held) - loop.start)
    low, high = (round(hz * 2**19 / RATE) for hz in (150, 300))
    peak = low + np.abs(np.fft.rfft(part, 2**19))[low:high].argmax()
    assert peak * RATE / 2**19 == pytest.approx(220.4, abs=0.3)
    levels = [np.sqrt(np.mean(held[s - 400 : s + 400] ** 2)) for s in seams]
    usual = np.sqrt(np.mean(looped[loop.start : loop.end] ** 2))
    np.testing.assert_allclose(levels, usual, rtol=0.15)


def test_it_loops_inside_the_sustain_and_leaves_attack_and_end_alone():
    wave = tone()
    looped, loop = loops.make_loop(wave, sample_rate=RATE)
    assert loop.start > 0.02 * RATE
    assert loop.end < 0.95 * RATE
    first, last = loop.end + 1 - loop.fade_samples, loop.end + 1 + loop.fade_samples
    np.testing.assert_array_equal(looped[:first], wave[:first])
    np.testing.assert_array_equal(looped[last:], wave[last:])
    assert not np.array_equal(looped[first:last], wave[first:last])
    # Played through, without looping, it has no step of its own either.
    through = np.abs(np.diff(looped[first - 1 : last + 1]))
    assert through.max() <= 1.05 * np.abs(np.diff(wave)).max()


def test_unrelated_sound_is_faded_at_equal_power():
    # The mean over many noises: the level of one is itself random.
    levels = []
    for seed in range(60):
        looped, loop = loops.make_loop(noise(seed), sample_rate=RATE)
        assert loop.correlation < 0.3
        seam = looped[loop.end - loop.fade_samples : loop.end + loop.fade_samples]
        levels.append(np.mean(seam**2))
    assert 10 * np.log10(np.mean(levels) / 0.01) == pytest.approx(0, abs=0.3)


def test_equal_sound_is_not_changed_by_its_cross_fade():
    # A loop of whole periods: a straight line from a sound to itself.
    wave = np.sin(2 * np.pi * times() * 100)
    period = RATE // 100
    faded = loops.crossfade(wave, 10 * period, 60 * period, 300, correlation=1.0)
    np.testing.assert_allclose(faded, wave, atol=1e-9)
    # An equal-power fade of equal sounds would be 3 dB up in the middle.
    louder = loops.crossfade(wave, 10 * period, 60 * period, 300, correlation=0.0)
    assert np.abs(louder).max() == pytest.approx(np.sqrt(2), rel=0.03)


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (tone() * np.exp(-12 * times()), "not sustained: the level stays within 6 dB"),
        (np.zeros(RATE, np.float32), "silent"),
        (tone()[:1000], "shorter than a loop"),
        (tone() * np.exp(-3.0 * times()), "no two places alike within 1 dB"),
    ],
)
def test_what_cannot_be_held_has_no_loop_and_stays_as_it_is(wave, reason):
    looped, found = loops.make_loop(wave, sample_rate=RATE)
    assert isinstance(found, str)
    assert reason in found
    np.testing.assert_array_equal(looped, wave)


def test_the_quiet_tail_of_a_struck_sound_is_not_what_sustains():
    struck = tone() * np.exp(-40 * times())
    _, found = loops.make_loop((struck + 0.02 * tone()).astype("f4"), sample_rate=RATE)
    assert isinstance(found, str)


def test_the_manifest_gets_plain_numbers():
    _, loop = loops.make_loop(tone(), sample_rate=RATE)
    said = loops.describe(loop, sample_rate=RATE)
    assert said["start"] == loop.start
    assert said["fade_ms"] == pytest.approx(1000 * loop.fade_samples / RATE, abs=0.01)
    assert {type(v) for v in said.values()} <= {int, float}
