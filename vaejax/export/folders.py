"""A folder of sounds: names of what is in it, and whose it is."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vaejax.export.errors import WriteError, explain_write_error
from vaejax.files import read_lines
from vaejax.names import stays_in

SOUND_SUFFIXES = (".wav", ".flac")
MANIFEST, LATENTS, SHEET = "manifest.jsonl", "latents.npy", "index.html"

# Names of unfinished files start so; a killed run may leave a few behind.
PARTIAL_PREFIX = ".vaejax-partial-"
# Stands in the head of every page of the contact sheet, and marks it as ours to replace.
SHEET_MARK = '<meta name="generator" content="vaejax">'
# First line of an SFZ instrument; the same for those.
SFZ_MARK = "// made by vaejax"


def prepare_folder(
    out: str | os.PathLike,
    *,
    overwrite: bool = False,
    names: Iterable[str] = (),
    instruments: bool = False,
) -> Path:
    """Makes an output folder ready, and never lets a run write over what is not its own.

    With `overwrite`, the files of an earlier run are removed: those its manifest lists, the
    manifest, the latents, the contact sheet, instruments. Anything else stays.

    Args:
      out: the folder; created, with its parents, when missing.
      overwrite: replace an earlier run's files instead of refusing.
      names: the sounds that will be written, relative to `out` with "/"; the manifest, the latents
        and the sheet are known.
      instruments: SFZ files will be written too, under names that are not known yet: none of
        someone else may be there.
    Returns:
      `out` as a Path.
    Raises:
      WriteError: `out` is a file, cannot be created or written; already holds sounds or an earlier
        run and `overwrite` is off; or holds a file of someone else under a name to be written.
    """
    out = Path(out)
    if os.path.lexists(out) and not out.is_dir():
        raise WriteError(f"{out} is a file, not a folder; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise WriteError(f"cannot create {out}: a part of that path is a file") from error
    except OSError as error:
        raise explain_write_error(out, error) from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise WriteError(f"no permission to write in {out}; choose another --out")

    held = _describe_contents(out)
    if held and not overwrite:
        raise WriteError(f"{out} already holds {held}; choose another --out or pass --overwrite")
    ours = set(_files_of_earlier_run(out)) if overwrite else set()
    pages = [path.name for path in out.glob("index-*.html")]
    if instruments:
        pages += [path.name for path in out.glob("*.sfz")]
    for name in (*names, MANIFEST, LATENTS, SHEET, *pages):
        if os.path.lexists(out / name) and out / name not in ours:
            raise WriteError(
                f"{out / name} is in the way and not from an earlier run, so it is not replaced; "
                "move it or choose another --out"
            )
    try:
        # The manifest goes last: interrupted here, the next --overwrite still knows what is ours.
        for path in sorted(ours, key=lambda path: path.name == MANIFEST):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise WriteError(f"cannot remove {path} of the earlier run: {error.strerror}") from error
    return out


def _describe_contents(out: Path) -> str:
    """What of a run's output the folder holds, in words; empty when nothing."""
    found = [path.name for path in out.iterdir()]
    sounds = sum(Path(name).suffix.lower() in SOUND_SUFFIXES for name in found)
    parts = [f"{sounds:,} sound{'' if sounds == 1 else 's'}"] if sounds else []
    return " and ".join(parts or [f for f in (MANIFEST, LATENTS, SHEET) if f in found][:1])


def _files_of_earlier_run(out: Path) -> Iterator[Path]:
    yield from out.glob(f"{PARTIAL_PREFIX}*")
    for page in out.glob("index*.html"):
        with page.open("rb") as file:
            if SHEET_MARK.encode() in file.read(4096):
                yield page
    yield from instruments_of_ours(out)
    names = _manifest_names(out / MANIFEST)
    if names is None:
        return
    yield out / MANIFEST
    yield out / LATENTS
    for folder in {os.path.dirname(name) for name in names if stays_in(out, name)} - {""}:
        yield from (out / folder).glob(f"{PARTIAL_PREFIX}*")
    for name in names:
        path = out / name
        # A manifest is only text: it must not make us delete outside the folder, or other things.
        if stays_in(out, name) and path.suffix.lower() in SOUND_SUFFIXES and path.is_file():
            yield path


def _manifest_names(path: Path) -> list[str] | None:
    """File names in a manifest, or None when there is no manifest of this program."""
    try:
        return [str(row["file"]) for row in read_lines(path) if "file" in row] or None
    except OSError:
        return None


def instruments_of_ours(out: Path) -> Iterator[Path]:
    """The SFZ instruments of a folder that this program wrote."""
    for instrument in out.glob("*.sfz"):
        with instrument.open("rb") as file:
            if file.readline().strip() == SFZ_MARK.encode():
                yield instrument
