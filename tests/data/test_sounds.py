"""From a config to the two parts of a set, and what the screen says of it."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from vaejax.config import Condition, Config, Data
from vaejax.data import sounds
from vaejax.data.sounds import Sounds
from vaejax.features.conditions import Vocabulary


@pytest.fixture
def settings(tmp_path, make_config):
    """A config whose source is a folder of its own."""
    rng = np.random.default_rng(0)
    root = tmp_path / "set"
    for i in range(20):
        (root / f"k{i % 2}").mkdir(parents=True, exist_ok=True)
        wave = np.sin(0.05 * (i + 1) * np.arange(rng.integers(800, 4000))) * 0.3
        soundfile.write(root / f"k{i % 2}" / f"{i:02d}.wav", wave, 8000)
    return make_config(data={"source": str(root)})


def with_data(config: Config, **changes) -> Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **changes))


def test_every_sound_is_on_exactly_one_side(settings):
    loaded = sounds.load(settings)
    rows = np.concatenate([loaded.train_rows, loaded.held_out_rows])
    np.testing.assert_array_equal(np.sort(rows), np.arange(20))
    assert len(loaded.held_out_rows) >= 1


def test_packs_have_the_length_that_the_config_asks_for(settings):
    loaded = sounds.load(settings)
    clips, lengths, facts = loaded.read(loaded.train_rows[:3])
    assert clips.shape == (3, settings.pack_samples)
    assert clips.dtype == np.int16
    assert lengths.shape == (3,)
    assert facts.shape == (3, 0)
    np.testing.assert_array_equal(clips, loaded.corpus.clips[loaded.train_rows[:3]])


def test_held_out_rows_are_in_the_order_of_their_hashes(settings):
    loaded = sounds.load(with_data(settings, holdout_fraction=0.5))
    hashes = [loaded.corpus.hashes[row] for row in loaded.held_out_rows]
    assert len(hashes) > 3
    assert hashes == sorted(hashes)


def test_a_whole_label_is_held_out_recorded_and_reported(settings):
    loaded = sounds.load(with_data(settings, holdout_by="label"))
    held = {row["label"] for row in loaded.listing["files"] if row["split"] == "held_out"}
    kept = {row["label"] for row in loaded.listing["files"] if row["split"] == "train"}
    assert len(held) == len(kept) == 1
    assert not held & kept
    assert loaded.listing["split"] == {"by": "label", "groups": sorted(held)}
    assert f"held out by label: {held.pop()} (1 in all)" in sounds.report(loaded)
    with pytest.raises(ValueError, match="holdout_by=pitch needs to know pitches"):
        sounds.load(with_data(settings, holdout_by="pitch"))


def test_held_out_sounds_stay_held_out_when_files_are_added(settings, tmp_path):
    half = with_data(settings, holdout_fraction=0.5)
    before = sounds.load(half)
    soundfile.write(tmp_path / "set/k0/new.wav", np.sin(np.arange(3000)) * 0.5, 8000)
    after = sounds.load(half)
    names = [{s.corpus.names[row] for row in s.held_out_rows} for s in (before, after)]
    assert names[1] - names[0] <= {"k0/new.wav"}
    assert names[0] <= names[1]


def test_cache_goes_where_the_config_says(settings, tmp_path):
    sounds.load(with_data(settings, cache_dir=str(tmp_path / "here")))
    assert any((tmp_path / "here").iterdir())


def test_report_counts_sounds_folders_and_rejected_files(settings, tmp_path):
    for i in range(7):
        (tmp_path / f"set/bad{i}.wav").write_bytes(b"no sound")
    loaded = sounds.load(settings)
    report = sounds.report(loaded)
    held_out = int(loaded.held_out.sum())
    assert f"20 sounds in 2 folders from {tmp_path / 'set'}" in report
    assert f"{20 - held_out} to train on, {held_out} held out" in report
    assert "7 files rejected" in report
    assert report.endswith(
        "7 not audio (no known format inside): bad0.wav, bad1.wav, bad2.wav and 4 more"
    )


def test_report_counts_all_that_is_left_out_by_reason(settings, tmp_path):
    root = tmp_path / "set"
    for i in range(20):
        (root / f"{i}.wav.asd").touch()
        (root / f"{i}.txt").touch()
    (root / "._x.wav").touch()
    (root / ".x.wav.icloud").touch()
    soundfile.write(root / "silent.wav", np.zeros(100), 8000)
    times = np.arange(4000) / 8000
    soundfile.write(
        root / "shifted.wav", 0.5 * np.exp(-8 * times) * np.sin(999 * times) + 0.2, 8000
    )
    loaded = sounds.load(settings)
    lines = sounds.report(loaded).splitlines()[1:]
    assert lines == [
        "22 files rejected (all are listed in data.json):",
        "  1 in iCloud only; download it: .x.wav.icloud",
        "  1 all silence: silent.wav",
        "  20 not an audio file (.txt): 0.txt, 1.txt, 10.txt and 17 more",
        "remarks on sounds that are used (all are in data.json):",
        "  1 a constant offset was taken off: shifted.wav",
        "passed over: 21 companions of other programs (1 ._*, 20 .asd)",
    ]
    assert loaded.listing["notes"] == [
        {"file": "shifted.wav", "note": "a constant offset was taken off (0.2)"}
    ]
    assert loaded.listing["passed_over"] == {"._*": 1, ".asd": 20}


def test_sounds_keep_the_labels_that_a_run_began_with(settings, tmp_path):
    first = sounds.load(settings)
    both = zip(first.corpus.names, first.corpus.labels, strict=True)
    labels = {name: f"old {label}" for name, label in both}
    (tmp_path / "run").mkdir()
    rows = [{"file": name, "label": label} for name, label in labels.items()]
    (tmp_path / "run/data.json").write_text(json.dumps({"files": rows}))
    assert sounds.labels_of(tmp_path / "run") == labels
    again = sounds.load(settings, sounds.labels_of(tmp_path / "run"))
    assert again.corpus.labels == list(labels.values())
    assert {row["label"] for row in again.listing["files"]} == set(labels.values())
    assert sounds.labels_of(tmp_path / "nowhere") == {}


def test_report_of_a_clean_set_is_one_line(settings):
    assert "\n" not in sounds.report(sounds.load(settings))


def test_too_few_sounds_are_refused_with_the_numbers(settings, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for i in range(3):
        soundfile.write(few / f"{i}.wav", np.sin(0.1 * (i + 1) * np.arange(900)) * 0.5, 8000)
    with pytest.raises(ValueError, match=r"found 3 usable sounds in .*few, need at least 4"):
        sounds.load(with_data(settings, source=str(few)))


def test_missing_folder_is_named(settings):
    with pytest.raises(FileNotFoundError, match="/no/such/folder"):
        sounds.load(with_data(settings, source="/no/such/folder"))


def test_train_rows_are_those_not_held_out():
    held_out = np.array([True, False, False, True])
    split = Sounds(corpus=None, held_out=held_out, listing={}, told=Vocabulary(), facts=None)
    np.testing.assert_array_equal(split.train_rows, [1, 2])


def test_source_is_the_built_in_set_by_default():
    assert Data().source == "synth"


@pytest.mark.parametrize("fact", ["label", "pitch", "chroma"])
def test_report_counts_what_is_known_of_each_fact(make_config, make_sounds, fact):
    config = dataclasses.replace(make_config(), condition=Condition(**{fact: True}))
    described = make_sounds(config, 10)
    assert f"told of: {fact} (10)" in sounds.report(described)


def test_arrays_become_sounds_of_one_level_with_some_held_out(make_config):
    config = make_config()
    waves = [(i + 1) * np.sin(0.05 * (i + 1) * np.arange(1000 + 400 * i)) for i in range(10)]
    packed = sounds.of_arrays(waves, config)
    clips, lengths, _ = packed.read(np.arange(10))
    assert clips.shape == (10, config.pack_samples)
    assert lengths.tolist() == [len(wave) for wave in waves]
    np.testing.assert_array_equal(np.abs(clips.astype(int)).max(1), 32767)
    assert 0 < packed.held_out.sum() < 10


@pytest.mark.parametrize(
    ("waves", "said"),
    [
        ([np.ones(9)], "1 sounds; at least 2"),
        ([np.ones(9), np.zeros(9)], "sound 1 .* not silent"),
        ([np.ones((9, 2)), np.ones(9)], "sound 0 of shape .*one channel"),
        ([np.ones(9), np.full(9, np.nan)], "sound 1 .* finite"),
    ],
)
def test_arrays_that_are_no_sounds_are_refused(config, waves, said):
    with pytest.raises(ValueError, match=said):
        sounds.of_arrays(waves, config)
