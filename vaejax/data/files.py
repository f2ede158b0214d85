"""Finding the sound files of a folder, and saying why each of the others is not one."""

import os
import stat
from collections import Counter
from pathlib import Path
from typing import NamedTuple

# What libsndfile reads without being told the format, by the extensions these formats go by.
# fmt: off
EXTENSIONS = frozenset((
    ".wav", ".wave", ".bwf", ".bw64", ".rf64", ".w64", ".flac", ".aif", ".aiff", ".aifc", ".ogg",
    ".oga", ".opus", ".mp3", ".mp2", ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".svx",
    ".8svx", ".iff", ".paf", ".pvf", ".avr", ".ircam", ".sf", ".xi",
))
# Audio as well, but not libsndfile's: worth a hint rather than "not an audio file".
FOREIGN_EXTENSIONS = frozenset((
    ".m4a", ".m4b", ".mp4", ".aac", ".wma", ".ape", ".wv", ".mpc", ".tta", ".dsf", ".dff", ".ac3",
    ".amr", ".webm", ".mka", ".rx2", ".rex",
))
# What other programs leave beside sounds: pictures of waveforms, settings of folders.
COMPANIONS = frozenset((
    ".asd", ".reapeaks", ".reapindex", ".pkf", ".sfk", ".sfl", ".ovw", ".wfm", ".gpk", ".pek",
    ".cfa", ".peak", ".ds_store", "thumbs.db", "desktop.ini",
))
# fmt: on
# The beginning of what macOS writes beside each file on a foreign disk.
APPLE_DOUBLE = "._"
# What iCloud leaves of a file that it has taken away: `.name.wav.icloud`.
STUB = ".icloud"
HIDDEN, SEEN = "hidden", "links to folders that are read anyway"


class UnusableSound(ValueError):
    """A file that cannot be trained on; its text is the short reason, without the file's name."""


class UnreadableFile(UnusableSound):
    """The operating system did not hand the file over; it may well do so next time."""


class Found(NamedTuple):
    """The files below a folder, each list sorted by the POSIX path relative to it."""

    sounds: list[Path]
    """Regular files with an extension from EXTENSIONS, in any case."""
    others: list[Path]
    """`reason_not_sound` names why each of them (broken links and unreadable folders too) is not
    one."""
    passed_over: dict[str, int]
    """How many others there are that nobody would miss, by their kind: what other programs leave
    beside sounds, by its name (`.asd`, `._*`), HIDDEN and SEEN."""


def find_files(folder: str | os.PathLike[str]) -> Found:
    """Finds the files below a folder, at any depth, through links, each real folder once.

    Hidden files and folders (a leading dot) are passed over, but for files that iCloud holds.

    Raises:
      FileNotFoundError: if there is nothing at `folder`.
      ValueError: if `folder` is a file, or holds no files.
    """
    root = Path(folder).expanduser()
    mode = _mode(root)
    if stat.S_ISREG(mode):
        raise ValueError(f"{root} is a file, not a folder of sounds; try its folder: {root.parent}")
    if not stat.S_ISDIR(mode):
        raise FileNotFoundError(
            f"no folder {root} (looked in {Path.cwd()}); give one that holds sound files, or synth"
        )
    found: dict[str, int] = {}
    passed_over: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    # Links wait until the real folders are done: a sound that both reach keeps its real name.
    pending: list[str] = [os.fspath(root)]
    links: list[str] = []
    while pending or links:
        here = pending.pop() if pending else links.pop(0)
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                passed_over[SEEN] += 1
                continue
            seen.add((status.st_dev, status.st_ino))
            names = sorted(os.listdir(here))
        except OSError:
            found[here] = stat.S_IFDIR
            continue
        for name in names:
            if kind := _passed_over(name):
                passed_over[kind] += 1
                continue
            path = os.path.join(here, name)
            mode = _mode(path)
            if stat.S_ISDIR(mode):
                (links if os.path.islink(path) else pending).append(path)
            else:
                found[path] = mode
    if not found:
        raise ValueError(f"no files in {root}; put sounds there: .wav, .flac, .aiff, .ogg or .mp3")
    sounds: list[Path] = []
    others: list[Path] = []
    for path in sorted(found, key=lambda path: path[len(os.path.join(root, "")) :]):
        is_sound = stat.S_ISREG(found[path]) and _suffix(path) in EXTENSIONS
        (sounds if is_sound else others).append(Path(path))
    return Found(sounds, others, dict(sorted(passed_over.items())))


def reason_not_sound(path: Path) -> str:
    """Says why `find_files` did not count a path among the sounds."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if path.is_symlink():
            return "a broken link"
        return f"cannot be read ({error.strerror or error})"
    if stat.S_ISDIR(mode):
        return "a folder that cannot be read"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    suffix = path.suffix.lower()
    if suffix == STUB:
        return "in iCloud only; download it"
    if suffix in FOREIGN_EXTENSIONS:
        return f"a format that cannot be read here ({suffix}); convert it to WAV or FLAC"
    return f"not an audio file ({suffix or 'no extension'})"


def about_passed_over(passed_over: dict[str, int]) -> list[str]:
    """A line that counts what `find_files` has passed over; none where there is nothing."""
    own = (HIDDEN, SEEN)
    beside = {kind: num for kind, num in passed_over.items() if kind not in own}
    parts = [f"{passed_over[kind]} {kind}" for kind in own if kind in passed_over]
    if beside:
        kinds = ", ".join(f"{num} {kind}" for kind, num in beside.items())
        parts.insert(0, f"{sum(beside.values())} companions of other programs ({kinds})")
    return [f"passed over: {', '.join(parts)}"] if parts else []


def _mode(path: str | Path) -> int:
    """What is at a path, through links; 0 if the system does not say."""
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _passed_over(name: str) -> str | None:
    """The kind of a name that is passed over; None for all others."""
    lower = name.lower()
    if name.startswith(APPLE_DOUBLE):
        return f"{APPLE_DOUBLE}*"
    if lower in COMPANIONS or _suffix(lower) in COMPANIONS:
        return name if lower in COMPANIONS else _suffix(lower)
    if not name.startswith("."):
        return None
    is_stub = lower.endswith(STUB)
    of_sound = _suffix(lower.removesuffix(STUB)) in EXTENSIONS | FOREIGN_EXTENSIONS
    return None if is_stub and of_sound else HIDDEN
