"""Pitch against tones of known frequency, real notes, librosa's YIN and sounds without pitch."""

from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile

from vaejax.signal.pitch import CLEAR, pitch, pitch_track

RATE = 16_000
NOTES = Path(__file__).parents[1] / "notes"

NUM = 25
program = jax.jit(jax.vmap(lambda waveform: pitch(waveform, sample_rate=RATE)))


def detect_each(waveforms):
    """All through one compiled program, filled up with silence."""
    waveforms = np.asarray(waveforms, np.float32)
    filled = np.pad(waveforms, ((0, NUM - len(waveforms)), (0, 0)))
    return [np.asarray(answer)[: len(waveforms)] for answer in program(filled)]


def detect(waveform):
    hz, clarity = detect_each([waveform])
    return hz[0], clarity[0]


def times(seconds=0.5, rate=RATE):
    return np.arange(int(seconds * rate)) / rate


def saw(hz, rate=RATE):
    partials = np.arange(1, int(0.45 * rate / hz) + 1)
    return np.sum(np.sin(2 * np.pi * hz * partials[:, None] * times(rate=rate)), 0) * 0.3


def cents(hz, expected):
    return 1200 * np.log2(np.asarray(hz) / expected)


def test_sines_and_saws_are_within_half_a_cent_over_the_keyboard():
    # 37 cents beside the keys from C1 to C7: between the samples, not on them.
    hz = 440 * 2 ** ((np.arange(24, 97, 3) - 69 + 0.37) / 12)
    for wave in (lambda f: 0.5 * np.sin(2 * np.pi * f * times() + 1), saw):
        found, clarity = detect_each([wave(f) for f in hz])
        assert np.abs(cents(found, hz)).max() < 0.5
        assert np.min(clarity) > 0.85


def test_a_low_sample_rate_is_as_exact():
    low = jax.jit(lambda waveform: pitch(waveform, sample_rate=8000))
    found, _ = low(saw(311.13, 8000).astype(np.float32))
    assert abs(cents(found, 311.13)) < 0.5


def test_a_missing_fundamental_is_heard():
    harmonics = sum(np.sin(2 * np.pi * 110 * k * times()) for k in (3, 4, 5, 6)) / 4
    found, clarity = detect(harmonics)
    assert abs(cents(found, 110)) < 0.5
    assert clarity > 0.9


def test_level_and_offset_do_not_matter():
    wave = saw(196.0)
    variants = np.stack([wave, 1e-3 * wave, wave + 0.5])
    found, clarity = detect_each(variants)
    np.testing.assert_allclose(cents(found, 196.0), 0, atol=0.5)
    assert np.min(clarity) > 0.9


def test_vibrato_gives_its_centre():
    sway = 20 / 1200 * np.log(2) * 196 * np.cos(2 * np.pi * 5 * times()) / (2 * np.pi * 5)
    wave = np.sin(2 * np.pi * (196 * times() + sway))
    found, clarity = detect(wave)
    assert abs(cents(found, 196)) < 5
    assert clarity > CLEAR


def test_noise_clicks_and_silence_have_no_pitch():
    rng = np.random.default_rng(0)
    click = np.zeros(len(times()))
    click[0] = 1.0
    burst = rng.normal(size=len(times())) * np.exp(-times() * 40)
    sounds = [rng.normal(size=len(times())), burst, click, np.zeros(len(times()))]
    found, clarity = detect_each(sounds)
    assert np.isfinite(np.asarray(found)).all()
    assert np.max(clarity) < CLEAR
    assert clarity[-1] == 0


def test_a_noisy_attack_and_a_silent_end_do_not_decide():
    rng = np.random.default_rng(1)
    wave = saw(147.0) * np.exp(-times() * 8)
    wave[:400] += rng.normal(size=400) * np.linspace(1, 0, 400)
    wave[6000:] = 1e-4 * rng.normal(size=len(wave) - 6000)
    found, clarity = detect(wave)
    assert abs(cents(found, 147.0)) < 3
    assert clarity > CLEAR


def test_real_notes_have_the_pitch_of_their_names():
    paths = sorted(NOTES.glob("*/*.flac"))
    waves = [soundfile.read(path, dtype="float32")[0] for path in paths]
    shortest = min(len(wave) for wave in waves)
    rate = soundfile.info(paths[0]).samplerate
    listen = jax.jit(jax.vmap(lambda wave: pitch(wave, sample_rate=rate)))
    found, clarity = map(np.asarray, listen(np.stack([wave[:shortest] for wave in waves])))
    named = np.array([int(path.stem.split("_")[1]) for path in paths])
    error = 69 + 12 * np.log2(found / 440) - named
    assert len(error) == 24
    assert np.mean(clarity > CLEAR) > 0.8
    # The organ's deepest drawbar sounds an octave or two below its key: that is its period.
    organ = np.array([path.parent.name == "organ" for path in paths])
    assert np.abs(error[~organ]).max() < 0.2
    assert np.abs((error[organ] + 6) % 12 - 6).max() < 0.2


def test_agrees_with_librosa_frame_by_frame_where_there_is_a_pitch():
    wave = (saw(220.0) * np.exp(-times() * 3)).astype(np.float32)
    track = jax.jit(lambda w: pitch_track(w, sample_rate=RATE, fmin=60, fmax=1000))
    hz, clarity, level = track(wave)
    theirs = librosa.yin(wave, fmin=60, fmax=1000, sr=RATE, frame_length=1024, center=False)
    # Their parabola goes through one dip only.
    assert np.abs(cents(hz, np.median(theirs))).max() < 5
    assert np.min(clarity) > 0.9
    np.testing.assert_allclose(level[-1] / level[0], np.exp(-3 * 0.42), rtol=0.15)


def test_bad_ranges_and_short_clips_say_what_is_wrong():
    wave = jnp.zeros(4000)
    with pytest.raises(ValueError, match="fmin=500 must lie above 0 and below fmax=400"):
        pitch(wave, sample_rate=RATE, fmin=500, fmax=400)
    with pytest.raises(ValueError, match="too few for a pitch below"):
        pitch(wave[:8], sample_rate=RATE)
    with pytest.raises(ValueError, match=r"expected \[num_samples\]"):
        pitch(jnp.zeros((2, 4000)), sample_rate=RATE)
