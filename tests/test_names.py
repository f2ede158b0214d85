"""Names that every system takes, and that tell what is inside."""

import unicodedata

import pytest

from vaejax.keys import note_name
from vaejax.names import (
    MAX_LABEL_BYTES,
    MAX_PART_BYTES,
    distinct,
    is_within,
    portable,
    readable,
    safe,
    stays_in,
    telling,
    within,
)


@pytest.mark.parametrize(
    ("key", "name"), [(0, "C-1"), (21, "A0"), (36, "C2"), (60, "C4"), (61, "Cs4"), (127, "G9")]
)
def test_middle_c_is_c4(key, name):
    assert note_name(key) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bass", "bass"),
        ("Slap Bass", "Slap_Bass"),
        ("drums/kick", "drums-kick"),
        ("a\\b:c*d?e", "a-b-c-d-e"),
        ("100% #1 $x=y", "100-_-1_-x-y"),
        ("...", ""),
        (" .hidden. ", "hidden"),
        ("cafe\u0301", "café"),
        ("\0\n", ""),
        ("CON", "CON_"),
        ("nul.", "nul_"),
        ("COM1 ", "COM1_"),
        ("lpt9.old", "lpt9_.old"),
        ("Contrabass", "Contrabass"),
        (b"\x83L".decode("utf-8", "surrogateescape"), "x83L"),
    ],
)
def test_labels_become_safe(text, expected):
    assert safe(text) == expected


def test_long_labels_are_cut_between_letters():
    cut = safe("ü" * 200)
    assert cut == "ü" * (MAX_LABEL_BYTES // 2)


def test_telling_names_say_what_is_known_and_sort_by_label():
    assert telling(17, digits=5, label="bass", key=36) == "bass_C2_00017"
    assert telling(17, digits=5, label="bass", key=None) == "bass_00017"
    assert telling(17, digits=5, label=None, key=61) == "Cs4_00017"
    assert telling(123456, digits=6, label="", key=None) == "123456"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bass/Kick #1 [C#3] & more.wav", "bass/Kick #1 [C#3] & more.wav"),
        ("a\\b.wav", "a-b.wav"),
        ("12:30?.wav", "12-30-.wav"),
        ("con/PRN.wav", "con_/PRN_.wav"),
        ("COM1 .wav", "COM1_ .wav"),
        ("com\u00b2.tar.wav", "com\u00b2_.tar.wav"),
        ("conin$.wav", "conin$_.wav"),
        ("console/com10.wav", "console/com10.wav"),
        ("folder. /tail .wav", "folder/tail .wav"),
        ("..", "_"),
        ("tab\tnew\nline", "tab-new-line"),
        (b"bad\xff.wav".decode("utf-8", "surrogateescape"), "bad-xff.wav"),
        ("half \ud83d.wav", "half -ud83d.wav"),
    ],
)
def test_portable_names_are_what_every_system_takes(name, expected):
    assert portable(name) == expected
    assert portable(expected) == expected
    expected.encode()


def test_long_parts_are_cut_so_that_suffix_and_number_fit():
    cut = portable("ü" * 300 + "/" + "x" * 300)
    assert [len(part.encode()) for part in cut.split("/")] == [MAX_PART_BYTES, MAX_PART_BYTES]


def test_distinct_names_never_share_a_file_on_any_system():
    given = ["a.wav", "a.flac", "a.wav.mp3", "b/A.wav", "b/a.wav", "b/c.wav"]
    given += ["x:y.wav", "x?y.wav", "e\u0301.wav", "\u00e9.wav", "CON.wav", "con.flac"]
    stems = distinct(given)
    folded = {unicodedata.normalize("NFC", stem).casefold() for stem in stems}
    assert len(folded) == len(given)
    assert stems[5] == "b/c"
    assert stems[:2] == ["a.wav", "a.flac"]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_no_sound_gets_the_name_of_a_folder(suffix):
    stems = distinct(["drum.aiff", "drum.wav/a.aiff", "drum.flac/a.aiff"])
    files = {stem + suffix for stem in stems}
    assert not files & {"drum.wav", "drum.flac"}
    assert len(files) == 3


OUTSIDE = [
    *("../x.wav", "../../x.wav", "a/../../x.wav", "..", ".", "./x.wav", "a//b.wav", "a/", ""),
    *("/x.wav", "//host/share/x.wav", "C:/x.wav", "c:x.wav", "C:\\x.wav", "\\x.wav"),
    *("\\\\host\\share\\x.wav", "\\\\?\\C:\\x.wav", "a\\..\\..\\x.wav", "x\0.wav"),
    *(None, 3, ["x.wav"]),
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_out_of_a_file_that_leads_elsewhere_on_any_system_is_refused(name):
    assert not is_within(name)
    with pytest.raises(ValueError, match=r"m\.jsonl names the file .* leads out of its folder"):
        within(name, "m.jsonl")


@pytest.mark.parametrize("name", ["x.wav", "a/b/c.wav", "..a/b...wav", "ab:c.wav", "~/x.wav"])
def test_a_plain_name_out_of_a_file_is_taken(name):
    assert within(name, "m.jsonl") == name


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/link").symlink_to(tmp_path)
    (tmp_path / "out/sub").mkdir()
    assert stays_in(tmp_path / "out", "sub/x.wav")
    assert not stays_in(tmp_path / "out", "link/x.wav")
    assert not stays_in(tmp_path / "out", "../x.wav")


def test_bytes_that_are_no_utf_8_are_readable():
    assert readable(b"\x83L\x83b.wav".decode("utf-8", "surrogateescape")) == "\\x83L\\x83b.wav"
