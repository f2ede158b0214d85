"""SFZ: mapped as promised, read back by a small parser of its own."""

import json
import re

import pytest

from vaejax.export import sfz
from vaejax.export.errors import WriteError
from vaejax.export.folders import MANIFEST


def row(file, pitch=None, *, heard=None, label="bass", loop=None, **more):
    return {
        "file": file,
        "label": label,
        "pitch": pitch,
        "detected_pitch": heard,
        **({} if loop is None else {"loop": {"start": loop[0], "end": loop[1]}}),
        **more,
    }


def parse(text):
    """Regions as dicts: a header begins a region, a value runs up to the next opcode."""
    body = "\n".join(line.split("//")[0] for line in text.splitlines())
    headers = re.split(r"<(\w+)>", body)
    assert headers[0].strip() == ""
    assert set(headers[1::2]) <= {"region"}
    pairs = (re.findall(r"(\w+)=(.*?)(?=\s+\w+=|\s*$)", part, re.S) for part in headers[2::2])
    return [dict(found) for found in pairs]


def regions(rows, name):
    return parse(sfz.to_text(name, sfz.instruments(rows)[name]))


def covered(parsed):
    return [k for r in parsed for k in range(int(r["lokey"]), int(r["hikey"]) + 1)]


def test_pitched_sounds_share_the_whole_keyboard_each_nearest_to_its_root():
    rows = [row("c.wav", heard=60.0), row("a.wav", heard=36.02), row("b.wav", heard=47.7)]
    parsed = regions(rows, "bass")
    assert [r["sample"] for r in parsed] == ["a.wav", "b.wav", "c.wav"]
    assert covered(parsed) == list(range(128))
    centers = [int(r["pitch_keycenter"]) for r in parsed]
    assert centers == [36, 48, 60]
    for r in parsed:
        for key in range(int(r["lokey"]), int(r["hikey"]) + 1):
            nearest = min(abs(key - c) for c in centers)
            assert abs(key - int(r["pitch_keycenter"])) == nearest
    # 36.02 is 2 cents sharp of its key, 47.7 is 30 flat of 48: that much brings them in tune.
    assert [int(r.get("tune", 0)) for r in parsed] == [-2, 30, 0]
    assert {r["loop_mode"] for r in parsed} == {"no_loop"}


def test_one_latent_at_many_pitches_is_one_instrument_with_its_own_key_ranges():
    rows = [
        row(f"{voice}_{pitch}.wav", pitch, label="organ", multisample=13, index=13 * voice + i)
        for voice in (0, 1)
        for i, pitch in enumerate(range(36, 85, 4))
    ]
    made = sfz.instruments(rows)
    assert list(made) == ["organ_00000", "organ_00001"]
    for voice, name in enumerate(made):
        parsed = parse(sfz.to_text(name, made[name]))
        assert covered(parsed) == list(range(128))
        assert [r["sample"] for r in parsed] == [f"{voice}_{p}.wav" for p in range(36, 85, 4)]
        inner = parsed[1:-1]
        assert {int(r["hikey"]) - int(r["lokey"]) + 1 for r in inner} == {4}


def test_a_multisample_stays_whole_whatever_its_keys_resemble_or_are_heard_as():
    # Told 48 to 51, heard a little off; the nearest training sounds are of two labels.
    rows = [
        row(
            f"{48 + i}.wav",
            48 + i,
            heard=heard,
            label=None,
            nearest_label=near,
            multisample=4,
            index=i,
        )
        for i, (heard, near) in enumerate(
            [(48.0, "flute"), (49.56, "strings"), (49.9, "flute"), (51.0, "flute")]
        )
    ]
    made = sfz.instruments(rows)
    assert list(made) == ["flute_00000"]
    parsed = parse(sfz.to_text("flute_00000", made["flute_00000"]))
    assert [int(r["pitch_keycenter"]) for r in parsed] == [48, 49, 50, 51]
    assert [int(r.get("tune", 0)) for r in parsed] == [0, -56, 10, 0]


def test_sounds_on_one_root_go_to_further_instruments():
    rows = [row(f"{i}.wav", heard=40 + i % 2) for i in range(5)]
    made = sfz.instruments(rows)
    assert {name: [r.zone.file for r in there] for name, there in made.items()} == {
        "bass": ["0.wav", "1.wav"],
        "bass-2": ["2.wav", "3.wav"],
        "bass-3": ["4.wav"],
    }
    assert all(sorted(covered(regions(rows, name))) == list(range(128)) for name in made)


def test_unpitched_sounds_are_a_kit_from_c2_that_spills():
    rows = [row(f"{i:03d}.wav", label="kick") for i in range(100)]
    made = sfz.instruments(rows)
    assert list(made) == ["kick-kit", "kick-kit-2"]
    first, second = (regions(rows, name) for name in made)
    assert [int(r["lokey"]) for r in first] == list(range(36, 128))
    assert [r["sample"] for r in second] == [f"{i:03d}.wav" for i in range(92, 100)]
    for r in first + second:
        assert r["lokey"] == r["hikey"] == r["pitch_keycenter"]
        assert r["loop_mode"] == "one_shot"
        assert "tune" not in r


def test_every_sound_is_in_exactly_one_region():
    rows = [
        row(f"{i}.wav", heard=None if i % 3 else 30 + i % 50, label=f"l{i % 4}") for i in range(500)
    ]
    files = [r.zone.file for there in sfz.instruments(rows).values() for r in there]
    assert sorted(files) == sorted(r["file"] for r in rows)
    assert all(len(there) <= 128 for there in sfz.instruments(rows).values())


def test_loops_and_names_with_spaces_survive():
    (region,) = regions([row("sub dir/a b.wav", heard=60, loop=(100, 4099))], "bass")
    assert region["sample"] == "sub dir/a b.wav"
    assert region["loop_mode"] == "loop_continuous"
    assert (region["loop_start"], region["loop_end"]) == ("100", "4099")


@pytest.mark.parametrize(("label", "name"), [("CON", "CON_"), ("nul", "nul_"), ("COM1 ", "COM1_")])
def test_instruments_have_names_that_windows_takes(label, name):
    assert list(sfz.instruments([row("a.wav", heard=60.0, label=label)])) == [name]


def test_labels_that_become_alike_keep_instruments_of_their_own():
    rows = [row("a.wav", 60, label="a/b"), row("b.wav", 60, label="A-B"), row("c.wav", label="")]
    made = sfz.instruments(rows)
    assert len({name.casefold() for name in made}) == len(made) == 3
    assert "sounds-kit" in made


@pytest.mark.parametrize(
    ("told", "heard", "root"),
    [
        (None, None, None),
        (None, 40.25, 40.25),
        (40, None, 40.0),
        (40, 40.25, 40.25),  # the same note, heard exactly
        (40, 28.1, 40.0),  # heard an octave below: told is right
    ],
)
def test_root_is_what_was_heard_of_the_note_that_was_told(told, heard, root):
    assert sfz.root_of(row("a.wav", told, heard=heard)) == root


def test_unconditional_sounds_go_by_the_nearest_label():
    assert list(sfz.instruments([row("a.wav", 60, label=None, nearest_label="pad")])) == ["pad"]


def test_written_instruments_name_what_they_leave_out_and_replace_nothing(tmp_path, capsys):
    rows = [row("a.wav", 60), row("a=b.wav", 61)]
    (tmp_path / MANIFEST).write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert sfz.write_instruments(tmp_path) == ["bass.sfz"]
    assert "1 sounds are in no instrument" in capsys.readouterr().err
    assert [r["sample"] for r in parse((tmp_path / "bass.sfz").read_text())] == ["a.wav"]
    with pytest.raises(WriteError, match=r"bass\.sfz is in the way"):
        sfz.write_instruments(tmp_path)
    with pytest.raises(ValueError, match="cannot hold the file name"):
        sfz.to_text("x", sfz.instruments([row("a=b.wav", 60)])["bass"])
