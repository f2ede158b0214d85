"""What is said of a folder before training: which preset fits it, and how long its sounds are."""

import numpy as np
import pytest

from vaejax import cli
from vaejax import config as configs
from vaejax.config import Config
from vaejax.data import advice, pack
from vaejax.data.sounds import describe

RATE = 16_000
CONFIG = configs.replaced(Config(), {"data.sample_rate": RATE, "data.source": "my sounds"})
RNG = np.random.default_rng(0)
TIME = np.arange(RATE) / RATE


def note(decay=2.0):
    hz = RNG.uniform(100, 800)
    tone = sum(np.sin(2 * np.pi * k * hz * TIME) / k for k in (1, 2, 3))
    return tone * np.exp(-decay * TIME)


def drum():
    hz = 80 + 150 * np.exp(-30 * TIME)
    body = np.sin(2 * np.pi * np.cumsum(hz) / RATE)
    return (body + 0.5 * RNG.standard_normal(RATE)) * np.exp(-25 * TIME)


def breath():
    return RNG.standard_normal(RATE) * np.sin(np.pi * TIME)


def facts_of(makers, seconds=1.0):
    waves = np.stack([make() for make in makers])
    clips = np.zeros((len(waves), CONFIG.pack_samples), np.int16)
    clips[:, :RATE] = np.round(32767 * waves / np.abs(waves).max(1, keepdims=True))
    names = [f"{i:03d}.wav" for i in range(len(waves))]
    corpus = pack.Corpus(
        clips=clips,
        lengths=np.full(len(waves), round(seconds * RATE), np.int32),
        names=names,
        labels=["sounds"] * len(waves),
        hashes=names,
        factors={},
        rejected=[],
        sample_rate=RATE,
        source="memory",
        fingerprint="memory",
    )
    unknown = np.full(len(waves), np.nan)
    sounds = describe(corpus, np.zeros(len(waves), bool), unknown, CONFIG)
    return advice.facts_of(sounds, CONFIG)


@pytest.fixture(scope="module")
def folders():
    return {
        "notes": facts_of([note] * 20),
        "drums": facts_of([drum] * 20),
        "mixed": facts_of([note, drum] * 10),
        "breath": facts_of([breath] * 20),
    }


def test_notes_hits_and_neither_are_told_apart(folders):
    assert (folders["notes"].tonal, folders["notes"].hits) == (1.0, 0.0)
    assert (folders["drums"].tonal, folders["drums"].hits) == (0.0, 1.0)
    assert (folders["mixed"].tonal, folders["mixed"].hits) == (0.5, 0.5)
    assert (folders["breath"].tonal, folders["breath"].hits) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("folder", "preset", "better"),
    [
        ("notes", "default", "notes"),
        ("notes", "drums", "notes"),
        ("drums", "default", "drums"),
        ("drums", "notes", "drums"),
        ("breath", "drums", "default"),
    ],
)
def test_the_preset_that_fits_better_comes_with_its_command(folders, folder, preset, better):
    (line,) = advice.advice(folders[folder], preset=preset, config=CONFIG)
    assert f"the preset {better} fits better than {preset}" in line
    assert line.endswith(f"python train.py --config configs/{better}.py --data 'my sounds'")


@pytest.mark.parametrize(
    ("folder", "preset"),
    [
        ("notes", "notes"),
        ("drums", "drums"),
        ("mixed", "default"),
        ("mixed", "drums"),
        ("breath", "default"),
        ("notes", "canne"),
        ("drums", "pitched"),
    ],
)
def test_nothing_is_said_where_the_choice_fits_or_has_another_reason(folders, folder, preset):
    assert advice.advice(folders[folder], preset=preset, config=CONFIG) == []


def test_sounds_that_are_cut_short_ask_for_longer_clips_and_silent_ends_do_not(folders):
    long = facts_of([lambda: note(1.0)] * 8, seconds=1.8)
    lines = advice.advice(long, preset="notes", config=CONFIG)
    assert lines == [
        "advice: 100% of these sounds are cut short after 1 s: --data.clip_seconds 2 keeps more of "
        "them"
    ]
    assert facts_of([drum] * 8, seconds=1.8).cut == 0
    assert folders["notes"].cut == 0


def test_recordings_are_told_apart_from_sounds(folders):
    facts = folders["mixed"]._replace(recordings=0.9, cut=1.0, seconds=40.0)
    (line,) = advice.advice(facts, preset="default", config=CONFIG)
    assert line.startswith(
        "advice: 90% of these files are longer than 10 s, and only the first 1 s"
    )


def test_a_folder_in_nsynths_layout_is_for_its_preset(folders):
    facts = folders["notes"]._replace(is_nsynth=True)
    (line,) = advice.advice(facts, preset="default", config=CONFIG)
    assert "--config configs/nsynth.py" in line
    assert advice.advice(facts, preset="nsynth", config=CONFIG) == []


def test_there_are_at_most_two_lines(folders):
    facts = folders["drums"]._replace(cut=1.0, seconds=3.2, recordings=1.0, is_nsynth=True)
    assert len(advice.advice(facts, preset="default", config=CONFIG)) == 2


def test_a_folder_of_any_size_costs_as_much(monkeypatch):
    looked = []
    monkeypatch.setattr(
        advice,
        "_look",
        lambda sounds, rows, config: looked.append(len(rows)) or [np.zeros(len(rows))] * 3,
    )
    facts_of([note] * 5)
    facts_of([breath] * 200)
    assert looked == [5, advice.LOOKED_AT]


def test_every_preset_that_is_recommended_exists():
    for name in (*advice.FITTED, "nsynth"):
        assert isinstance(cli.load_preset(f"configs/{name}.py"), Config)
