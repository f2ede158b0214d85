"""Keys and the names of notes."""

import pytest

from vaejax.keys import midi_number, parse_keys


@pytest.mark.parametrize(
    ("text", "number"),
    [("60", 60), ("060", 60), ("C4", 60), ("A4", 69), ("cs2", 37), ("C#2", 37), ("Bb3", 58),
     ("C-1", 0), ("G9", 127), ("60.5", 60.5)],
)  # fmt: skip
def test_midi_numbers_and_names_of_notes(text, number):
    assert midi_number(text) == number


@pytest.mark.parametrize("text", ["", "H4", "128", "C10", "loud", "-1"])
def test_what_is_no_note_is_refused(text):
    with pytest.raises(ValueError, match="MIDI number"):
        midi_number(text)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [("36-84", 36, 84), ("C2-C6", 36, 84), ("60", 60, 60), ("Bb3", 58, 58), (" c2 - e2 ", 36, 40),
     ("C-1-C0", 0, 12)],
)  # fmt: skip
def test_ranges_of_keys(text, low, high):
    assert parse_keys(text) == (low, high)
    assert parse_keys(text).num == high - low + 1


@pytest.mark.parametrize("text", ["", "84-36", "60.5", "36-", "x-y", "1-2-3", "C2-C11"])
def test_what_is_no_range_of_keys_is_refused(text):
    with pytest.raises(ValueError, match="is no range of keys; give MIDI numbers or notes"):
        parse_keys(text)
