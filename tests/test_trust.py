"""benchmarks.trust, tried on programs of a few lines: it finds what is wrong, and only that."""

import pytest

from benchmarks.trust import faults, files, program
from benchmarks.trust.cases import Cases

# Makes four files, one after the other, and goes on where it was stopped.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path

def end(*_):
    os.write(2, b"interrupted\\n")
    os._exit(130)

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, {handler})
home = Path(sys.argv[1])
try:
    for i in range(4):
        path = home / f"{{i}}.txt"
        if not path.exists():
            {write}
    {more}
except OSError as error:
    print(f"error: {{error}}", file=sys.stderr)
    sys.exit(1)
"""
WHOLE = 'part = home / "part"; part.write_text("x" * 99 * i); part.replace(path)'
HALF = 'path.write_text("x" * 99 * i)'


# A decoder that dies of WAVs.
CRASHING = """
import os, sys
if any(name.endswith(".wav") for name in os.listdir(sys.argv[1])):
    os.abort()
print('{"used": [], "rejected": [], "peaks": [], "memory_mb": 1}')
"""


@pytest.fixture
def made(tmp_path):
    """Makes the program that writes so, ends so at a signal and does something more."""

    def made(write=WHOLE, handler="end", more="pass"):
        script = tmp_path / "script.py"
        script.write_text(PROGRAM.format(write=write, handler=handler, more=more))
        argv = lambda home: [str(script), str(home)]  # noqa: E731
        return program.Program("toy", argv, program.contents, tmp_path)

    return made


@pytest.fixture
def cases(tmp_path):
    return Cases(tmp_path, seed=0, minutes=1)


def troubles(cases):
    return [line for row in cases.rows for line in row["trouble"]]


def test_kills_are_gone_on_with_and_compared(made, cases, tmp_path):
    known = faults.reference(made(), tmp_path / "reference")
    assert sorted(known.results) == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert known.writes == 4 + 3 + 4  # opened, written (nothing the first time), renamed
    faults.kills(made(), tmp_path / "home", known, cases, 4)
    assert cases.count("toy kills") == 4
    assert troubles(cases) == []


def test_a_half_written_file_after_a_kill_is_found(made, cases, tmp_path):
    known = faults.reference(made(HALF), tmp_path / "reference")
    faults.kills(made(HALF), tmp_path / "home", known, cases, 8)
    assert any("not as without an interruption: " in line for line in troubles(cases))


def test_every_place_that_writes_fails_once(made, cases, tmp_path):
    known = faults.reference(made(), tmp_path / "reference")
    faults.failing_writes(made(), tmp_path / "home", known, cases)
    assert cases.finished("toy writes")
    assert cases.count("toy writes") == 3
    assert troubles(cases) == []


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (HALF, "not as without an interruption: 1.txt"),
        (f"\n            try: {WHOLE}\n            except OSError: pass", "not as without"),
        (f"\n            try: {WHOLE}\n            except OSError: raise KeyError", "Traceback"),
    ],
)
def test_a_failed_write_that_is_hidden_raw_or_half_is_found(made, cases, tmp_path, write, words):
    known = faults.reference(made(write), tmp_path / "reference")
    faults.failing_writes(made(write), tmp_path / "home", known, cases)
    assert words in troubles(cases)[0]


@pytest.mark.parametrize(
    ("handler", "is_wrong"),
    [
        ("end", False),
        ("signal.SIG_IGN", True),
        ("lambda *_: os.abort()", True),
        ("lambda *_: 1 / 0", True),
    ],
)
def test_signals_that_are_swallowed_or_crash_are_found(made, cases, tmp_path, handler, is_wrong):
    slow = made(handler=handler, more="time.sleep(2.5)")
    # Long enough for Python to start.
    faults.signals([slow], tmp_path / "home", cases, 2, within=2.0)
    ends = {row["outcome"] for row in cases.rows} - {"Python's start"}
    assert ends == {"wrong" if is_wrong else "one line"}
    assert bool(troubles(cases)) == is_wrong


def test_damaged_files_are_used_or_rejected_and_a_crash_is_named(cases, tmp_path, monkeypatch):
    files.files(tmp_path / "files", cases, 40)
    assert cases.count("files") == 40
    assert troubles(cases) == []
    assert 0 < cases.rows[0]["used"] < 40
    monkeypatch.setattr(files, "WATCHED", CRASHING)
    names = [f"{i}.{suffix}" for i, suffix in enumerate(("wav", "flac"))]
    (tmp_path / "sounds").mkdir()
    for name in names:
        (tmp_path / "sounds" / name).write_bytes(b"")
    guilty = files._guilty(tmp_path / "sounds", names, tmp_path / "home")
    assert [name for name, _ in guilty] == ["0.wav"]


def test_what_was_tried_is_not_tried_again(made, cases, tmp_path):
    known = faults.reference(made(), tmp_path / "reference")
    faults.kills(made(), tmp_path / "home", known, cases, 3)
    again = Cases(tmp_path, seed=0, minutes=0)
    assert again.count("toy kills") == 3
    faults.kills(made(), tmp_path / "home", known, again, 9)
    assert again.count("toy kills") == 3
    assert faults.reference(made(HALF), tmp_path / "reference") == known
