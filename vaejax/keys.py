"""Keys of a keyboard: MIDI numbers and the names of notes; 60 is C4, 69 is A4 at 440 Hz."""

import re
from typing import NamedTuple

import numpy as np

# Sharps are written with an s: a # ends the path in a web address and begins a directive in SFZ.
NOTES = ("C", "Cs", "D", "Ds", "E", "F", "Fs", "G", "Gs", "A", "As", "B")
NOTE = re.compile(r"([A-Ga-g])([#sb]?)(-?\d+)")
SEMITONES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
ACCIDENTALS = {"": 0, "#": 1, "s": 1, "b": -1}


def note_name(key: int) -> str:
    """`C4` for MIDI note 60, `Cs4` for 61, `C-1` for 0."""
    return f"{NOTES[key % 12]}{key // 12 - 1}"


def midi_of_hz(hz):
    """MIDI numbers of frequencies in Hz, a number or an array."""
    return 69 + 12 * np.log2(np.asarray(hz) / 440.0)


def midi_number(text: str) -> float:
    """The MIDI number of a text such as `60`, `C4`, `Cs2`, `Bb3`.

    Raises:
      ValueError: it is neither a number from 0 to 127 nor the name of a note.
    """
    if match := NOTE.fullmatch(text):
        letter, accidental, octave = match.groups()
        number = float(12 * (int(octave) + 1) + SEMITONES[letter.lower()] + ACCIDENTALS[accidental])
    else:
        if not re.fullmatch(r"\d+(\.\d+)?", text):
            raise ValueError(f"{text!r} is no MIDI number and no note such as C#4")
        number = float(text)
    if not 0 <= number <= 127:
        raise ValueError(f"{text!r} lies outside the MIDI numbers 0 to 127")
    return number


class Keys(NamedTuple):
    """A range of keys, both ends included."""

    low: float
    high: float

    @property
    def num(self) -> int:
        """How many."""
        return int(self.high - self.low) + 1


def parse_keys(text: str) -> Keys:
    """`36-84`, `C2-C6` or one key, as MIDI numbers.

    Raises:
      ValueError: it is no range of keys.
    """
    match = re.fullmatch(r"\s*([^\s-]+?-?\d*)(?:\s*-\s*([^\s-]+?-?\d*))?\s*", text)
    try:
        if match is None:
            raise ValueError
        low = midi_number(match[1])
        high = low if match[2] is None else midi_number(match[2])
        if low != int(low) or high != int(high) or low > high:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{text!r} is no range of keys; give MIDI numbers or notes, low to high: 36-84, C2-C6"
        ) from None
    return Keys(int(low), int(high))
