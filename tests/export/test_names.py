"""Names that every system takes, and that tell what is inside."""

import pytest

from vaejax.export.names import MAX_LABEL_BYTES, safe, telling
from vaejax.keys import note_name


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
