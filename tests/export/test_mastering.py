"""Rate, end, level and dither of a sound, against closed forms and the JAX library."""

import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.export import mastering
from vaejax.export.mastering import Level, Mastering, dithered, master
from vaejax.export.samples import quantize
from vaejax.signal import loudness

RATE = 16_000


def times(seconds=0.5, rate=RATE):
    return np.arange(int(seconds * rate)) / rate


def note(level=0.9, decay=6.0, seconds=0.5):
    t = times(seconds)
    wave = np.sin(2 * np.pi * 330 * t) * np.exp(-decay * t)
    wave[-80:] *= np.linspace(1, 0, 80)
    return (level * wave / np.abs(wave).max()).astype(np.float32)


def asked(**changes):
    plain = Mastering(
        source_rate=RATE,
        sample_rate=RATE,
        trim_db=None,
        fade_ms=5.0,
        loop=False,
        level=Level(-1.0, "dBFS"),
        ceiling_db=-1.0,
        subtype="PCM_16",
        dither=False,
    )
    return plain._replace(**changes)


# Dither


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_without_dither_the_host_rounds_as_the_device(subtype):
    wave = note()
    np.testing.assert_array_equal(
        quantize(wave, subtype), quantize(jnp.asarray(wave), subtype, jnp)
    )


@pytest.mark.parametrize("steps", [0.0, 0.25, 0.5, 3.3])
def test_dithered_error_has_no_mean_and_one_power_whatever_the_signal(steps):
    # Rounding after TPDF: a twelfth of a step squared of its own, and a sixth of the noise.
    signal = np.full(200_000, steps / 32767, np.float32)
    signal[0] = 0.5  # leaves room below the peak
    error = dithered(signal)[1:] - steps
    if steps == 0:
        assert not error.any()  # silence after the last sample that sounds
        return
    assert error.mean() == pytest.approx(0, abs=4 * 0.5 / np.sqrt(2e5))
    assert error.var() == pytest.approx(0.25, rel=0.02)


def test_a_tone_below_one_step_survives_dithered_and_vanishes_without():
    wave = (0.4 / 32767 * np.sin(2 * np.pi * 440 * times(10.0))).astype(np.float32)
    wave[0] = 0.5
    sine = np.sin(2 * np.pi * 440 * times(10.0))[1:]
    rounded = dithered(wave)[1:]
    assert 2 * np.mean(rounded * sine) == pytest.approx(0.4, abs=0.02)
    assert not quantize(wave, "PCM_16")[1:].any()


def test_noise_is_triangular_and_centred():
    noise = mastering.tpdf(7, 500_001)
    assert len(noise) == 500_001
    assert -1 < noise.min() < -0.99
    assert 0.99 < noise.max() < 1
    assert noise.mean() == pytest.approx(0, abs=3e-3)
    assert noise.var() == pytest.approx(1 / 6, rel=0.01)
    # Triangular: an eighth lies beyond half a step on each side.
    assert np.mean(noise > 0.5) == pytest.approx(1 / 8, abs=3e-3)
    assert np.corrcoef(noise[1:], noise[:-1])[0, 1] == pytest.approx(0, abs=6e-3)


@pytest.mark.parametrize("level", [0.5, 0.891, 1.0])
def test_dither_keeps_peak_ends_and_type(level):
    silence = np.zeros(100, np.float32)
    wave = np.concatenate([silence, note(level), silence])
    samples = dithered(wave)
    assert samples.dtype == np.int16
    assert np.abs(samples.astype(int)).max() <= round(level * 32767)
    assert not samples[:100].any()
    assert not samples[-101:].any()  # the fade's last sample is 0, and so is what follows
    assert np.abs(samples - wave * 32767).max() < 1.5 + 1e-3


def test_the_same_sound_gets_the_same_noise_and_another_sound_another():
    wave, other = note(0.8), note(0.81)
    first = dithered(wave)
    np.testing.assert_array_equal(first, dithered(wave.copy()))
    noises = [dithered(w) - w * 32767 for w in (wave, other)]
    assert abs(np.corrcoef(noises)[0, 1]) < 0.1


def test_finer_samples_and_silence_are_not_dithered():
    wave = note()
    for subtype in ("PCM_24", "FLOAT"):
        np.testing.assert_array_equal(
            master(wave, asked(subtype=subtype, dither=True)).samples, quantize(wave, subtype)
        )
    assert not dithered(np.zeros(50, np.float32)).any()


# Rate and end


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000, 44_099])
def test_resampling_keeps_time_level_and_the_first_sample(rate):
    wave = (0.5 * np.cos(2 * np.pi * 440 * times()) * np.hanning(8000)).astype(np.float32)
    made = mastering.resample(wave, RATE, rate)
    assert len(made) == round(len(wave) * rate / RATE)
    expected = 0.5 * np.cos(2 * np.pi * 440 * np.arange(len(made)) / rate)
    expected *= np.interp(np.arange(len(made)) * RATE / rate, np.arange(8000), np.hanning(8000))
    np.testing.assert_allclose(made, expected, atol=2e-4)
    click = np.zeros(4000, np.float32)
    click[0] = 1.0
    made = mastering.resample(click, RATE, rate)
    assert np.abs(made).argmax() == 0
    assert made[-1] == 0


def test_a_silent_end_is_cut_after_the_last_audible_sample_and_faded():
    wave = np.zeros(RATE, np.float32)
    wave[:4000] = note(seconds=0.25, decay=0)
    wave[5000:] = 1e-5
    cut = mastering.trim_end(wave, threshold_db=-60, fade_samples=160, min_samples=100)
    audible = np.flatnonzero(np.abs(wave) >= 0.9e-3)[-1]
    assert len(cut) == audible + 1 + 160
    np.testing.assert_array_equal(cut[: audible + 1], wave[: audible + 1])
    assert cut[-1] == 0
    kept = mastering.trim_end(wave, threshold_db=-110, fade_samples=160, min_samples=100)
    assert kept is wave


def test_a_click_keeps_the_least_length():
    wave = np.zeros(RATE, np.float32)
    wave[0] = 0.9
    cut = mastering.trim_end(wave, threshold_db=-60, fade_samples=0, min_samples=800)
    assert len(cut) == 800
    assert cut[0] == np.float32(0.9)


# Level


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("-1dBFS", Level(-1, "dBFS")),
        (" 0 dbfs", Level(0, "dBFS")),
        ("-14LUFS", Level(-14, "LUFS")),
        ("-23.5 lufs", Level(-23.5, "LUFS")),
    ],
)
def test_levels_are_read(text, level):
    assert mastering.parse_level(text) == level


@pytest.mark.parametrize(
    "text", ["", "-1", "loud", "-1dB", "1dBFS", "3LUFS", "-200LUFS", "-inf dBFS"]
)
def test_other_levels_are_refused_by_name(text):
    with pytest.raises(ValueError, match="--level"):
        mastering.parse_level(text)


@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_loudness_is_that_of_the_signal_library(seconds):
    wave = note(seconds=seconds)
    expected = loudness.integrated_loudness(wave, sample_rate=RATE)
    assert mastering.integrated_loudness(wave, sample_rate=RATE) == pytest.approx(
        float(expected), abs=0.01
    )


def test_a_loudness_is_met_where_the_ceiling_allows_and_limited_where_not():
    wave = note()
    for target in (-30.0, -20.0):
        made, facts = mastering.set_level(
            wave, Level(target, "LUFS"), ceiling_db=-1.0, sample_rate=RATE
        )
        now = mastering.integrated_loudness(made, sample_rate=RATE)
        assert now == pytest.approx(target, abs=0.02)
        assert facts == {"loudness": pytest.approx(target), "level_limited": False}
    made, facts = mastering.set_level(wave, Level(-3, "LUFS"), ceiling_db=-1.0, sample_rate=RATE)
    assert np.abs(made).max() == pytest.approx(10 ** (-1 / 20), rel=1e-6)
    assert facts["level_limited"] is True
    assert facts["loudness"] == pytest.approx(
        mastering.integrated_loudness(made, sample_rate=RATE), abs=0.02
    )


def test_a_peak_of_full_scale_does_not_clip():
    made = master(note(0.7), asked(level=Level(0, "dBFS"), dither=True))
    assert made.samples.max() == 32767
    assert np.sum(np.abs(made.samples.astype(int)) == 32767) < 4
    made = master(note(0.7), asked(level=Level(0, "dBFS"), subtype="FLOAT"))
    assert np.abs(made.samples).max() == pytest.approx(1.0, rel=1e-6)
    assert np.abs(made.samples).max() <= 1.0


def test_silence_stays_silence():
    silence = np.zeros(8000, np.float32)
    for level in (Level(-1, "dBFS"), Level(-14, "LUFS")):
        made = master(silence, asked(level=level, trim_db=-60.0, loop=True, sample_rate=8000))
        assert not made.samples.any()
        assert made.facts["rms_db"] == -200
        assert made.facts["seconds"] == 0.05
        assert "silent" in made.facts["no_loop"]


# All of it


def test_only_dither_leaves_shape_and_level_to_the_device():
    wave = note(0.5)
    made = master(wave, asked(dither=True))
    np.testing.assert_array_equal(made.samples, dithered(wave))
    assert made.facts == {}


def test_all_at_once_ends_with_the_level_and_describes_the_file():
    t = times(1.0)
    held = np.sin(2 * np.pi * 220.5 * t) * np.clip(t * 50, 0, 1)
    held[12_000:] *= np.exp(-60 * t[:4000])
    options = asked(
        sample_rate=22_050, trim_db=-50.0, loop=True, level=Level(-3, "dBFS"), subtype="FLOAT"
    )
    made = master(held.astype(np.float32), options)
    peak = 10 ** (-3 / 20)
    assert np.abs(made.samples).max() == pytest.approx(peak, rel=1e-5)
    assert made.facts["peak"] == pytest.approx(peak, abs=1e-6)
    assert made.facts["seconds"] == pytest.approx(len(made.samples) / 22_050, abs=1e-6)
    assert len(made.samples) < 22_050
    power = np.mean(made.samples.astype(float) ** 2)
    assert made.facts["rms_db"] == pytest.approx(10 * np.log10(power), abs=1e-3)
    start, end = made.loop
    assert 0 < start < end < len(made.samples)
    assert (made.facts["loop"]["start"], made.facts["loop"]["end"]) == made.loop
    assert made.samples[-1] == 0
