"""What precedes a sound is not the sound: constants, noise, hum, digital silence before them."""

import numpy as np
import pytest
import soundfile

from vaejax.data.corpus import load_folder

RATE = 16_000
BEFORE = RATE  # a second
PACK = RATE // 2


def tone(hz=330.0, decay=6.0, attack=0.0):
    times = np.arange(PACK) / RATE
    rise = np.minimum(times / attack, 1) if attack else 1
    return 0.7 * rise * np.exp(-decay * times) * np.sin(2 * np.pi * hz * times)


def after(before, sound=None, shift=0.0):
    return np.concatenate([before, tone() if sound is None else sound]) + shift


def noise(level_db, num=BEFORE):
    return 0.7 * 10 ** (level_db / 20) / 3 * np.random.default_rng(0).standard_normal(num)


def hum(level_db, hz=50.0):
    return 0.7 * 10 ** (level_db / 20) * np.sin(2 * np.pi * hz * np.arange(BEFORE) / RATE)


@pytest.fixture
def load(tmp_path):
    def load(waveform, subtype="PCM_24", **options):
        (tmp_path / "set").mkdir()
        soundfile.write(tmp_path / "set/x.wav", waveform, RATE, subtype=subtype)
        settings = {"sample_rate": RATE, "pack_samples": PACK, "trim_db": -60.0, **options}
        return load_folder(
            tmp_path / "set", cache_dir=tmp_path / "cache", progress=False, **settings
        )

    return load


SILENCE = np.zeros(BEFORE)
STEPPED = np.where(np.arange(BEFORE) < BEFORE // 2, 0.0, 0.01)  # an offset that begins later
HEADS = {
    "offset 0.001": after(SILENCE, shift=0.001),
    "offset 0.1": after(SILENCE, shift=0.1),
    "offset -0.02": after(SILENCE, shift=-0.02),
    "offset and noise": after(noise(-62), shift=0.01),
    "noise -62 dB": after(noise(-62), tone() + noise(-62, PACK)),
    "noise -50 dB": after(noise(-50), tone() + noise(-50, PACK)),
    "noise -40 dB": after(noise(-40), tone() + noise(-40, PACK)),
    "hum -45 dB": after(hum(-45)),
    "hum of 60 Hz": after(hum(-40, 60.0)),
    "silence, then noise": np.concatenate([SILENCE, after(noise(-50))]),
    "silence, then an offset": np.concatenate([STEPPED, tone() + 0.01]),
    "silence": after(SILENCE),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT"])
def test_a_clip_begins_with_the_sound_not_with_what_precedes_it(load, name, subtype):
    waveform = HEADS[name]
    loaded = load(waveform, subtype)
    assert loaded.rejected == []
    clip = loaded.clips[0] / 32767
    begins = len(waveform) - loaded.lengths[0] - (len(waveform) - PACK)
    assert abs(begins) <= 5e-3 * RATE
    wanted = np.pad(tone(), (RATE, RATE))[RATE + begins :][:PACK]
    # With as much of the noise as there was.
    assert np.corrcoef(clip, wanted)[0, 1] > 0.99
    assert abs(clip[-PACK // 4 :].mean()) < 5e-3


@pytest.mark.parametrize("attack", [0.0, 0.05, 0.2])
@pytest.mark.parametrize("level_db", [-62, -45])
def test_an_attack_out_of_noise_is_kept_from_where_it_is_heard(load, attack, level_db):
    sound = tone(decay=2.0, attack=attack)
    loaded = load(after(noise(level_db), sound))
    begins = PACK - loaded.lengths[0]
    # Where it is as loud as the noise, within 5 ms; never later than that.
    level = 0.7 * 10 ** (level_db / 20) / 3
    heard = int(np.argmax(np.abs(sound) > 2 * level))
    assert begins <= heard + 5e-3 * RATE
    assert begins > -20e-3 * RATE


def test_an_offset_that_was_taken_off_is_said(load):
    (note,) = load(HEADS["offset 0.1"]).notes
    assert note == {"file": "x.wav", "note": "a constant offset was taken off (0.1)"}


def test_a_sound_without_an_offset_keeps_its_low_notes(load):
    low = tone(hz=25.0)
    loaded = load(low)
    assert loaded.notes == []
    np.testing.assert_allclose(loaded.clips[0] / 32767, low / np.abs(low).max(), atol=1e-4)


def test_a_slow_swell_is_no_floor(load):
    times = np.arange(PACK) / RATE
    swell = 10 ** ((times / times[-1] - 1) * 55 / 20) * np.sin(2 * np.pi * 330 * times)
    loaded = load(swell)
    assert loaded.lengths[0] >= PACK - 20
    assert loaded.rejected == loaded.notes == []


@pytest.mark.parametrize(("level_db", "is_kept"), [(-15, True), (-25, True), (-35, False)])
def test_a_clip_far_below_its_file_is_said_or_rejected(load, level_db, is_kept):
    quiet = 10 ** (level_db / 20) * tone(decay=3.0)
    loaded = load(np.concatenate([quiet, np.zeros(PACK), tone(decay=3.0)]))
    assert len(loaded) == is_kept
    said = [*(item["note"] for item in loaded.notes), *(i["reason"] for i in loaded.rejected)]
    expected = {
        -15: [],
        -25: ["what is kept lies far below the file's peak (-25 dB)"],
        -35: [
            "no onset found: what would be kept lies 35 dB below the file's peak; cut off what "
            "precedes the sound"
        ],
    }
    assert said == expected[level_db]
