"""NSynth's layout as a source."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from vaejax.config import Condition
from vaejax.data import sounds
from vaejax.data.nsynth import is_nsynth


@pytest.fixture
def nsynth(tmp_path):
    """Six notes of two families as NSynth lays them out, and one that its listing lacks."""
    (tmp_path / "audio").mkdir()
    entries = {}
    for i in range(7):
        family = ("bass", "organ")[i % 2]
        key = f"{family}_electronic_{i:03d}-{40 + i:03d}-{25 * (i % 5 + 1):03d}"
        tone = np.sin(2 * np.pi * 110 * 2 ** (i / 12) * np.arange(1600) / 8000)
        soundfile.write(tmp_path / "audio" / f"{key}.wav", 0.5 * tone, 8000)
        entries[key] = {
            "pitch": 40 + i,
            "velocity": 25 * (i % 5 + 1),
            "instrument_str": f"{family}_electronic_{i:03d}",
            "instrument_family_str": family,
            "instrument_source_str": "electronic",
        }
    entries.pop(key)
    (tmp_path / "examples.json").write_text(json.dumps(entries))
    return tmp_path


@pytest.fixture
def settings(make_config, nsynth):
    config = make_config(data={"source": str(nsynth)})
    return dataclasses.replace(
        config, condition=Condition(label=True, pitch=True, factors=("velocity",))
    )


def test_labels_pitches_and_velocities_come_from_the_listing(settings, nsynth):
    assert is_nsynth(nsynth)
    loaded = sounds.load(settings)
    rows = {row["file"]: row for row in loaded.listing["files"]}
    row = rows["audio/organ_electronic_001-041-050.wav"]
    assert (row["label"], row["pitch"], row["factors"]["velocity"]) == ("organ", 41.0, 50.0)
    missing = rows["audio/bass_electronic_006-046-050.wav"]
    assert (missing["label"], missing["pitch"]) == ("audio", None)
    assert loaded.told.labels == ("audio", "bass", "organ")
    assert loaded.facts.shape == (7, 3)
    assert np.isnan(loaded.facts).sum() == 2
    assert "told of: label (7), pitch (6), velocity (6)" in sounds.report(loaded)


def test_label_may_be_the_instrument_and_is_part_of_the_fingerprint(settings):
    by_instrument = dataclasses.replace(
        settings, data=dataclasses.replace(settings.data, nsynth_label="instrument")
    )
    families, instruments = sounds.load(settings), sounds.load(by_instrument)
    assert "organ_electronic_001" in instruments.told.labels
    assert families.corpus.fingerprint != instruments.corpus.fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "is no NSynth listing"),
        ("[]", "is no NSynth listing"),
        ("{}", "names none of"),
        ('{"bass_electronic_000-040-025": 7}', "names none of"),
    ],
)
def test_a_listing_that_does_not_fit_is_refused(settings, nsynth, text, message):
    (nsynth / "examples.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        sounds.load(settings)
