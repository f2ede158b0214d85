"""A folder of sounds under way: what lets the same command go on after an interruption.

While sounds are written, the folder also holds (under names that start with a dot)

    .vaejax-partial-run.json       what is being made, as a hash of all that the sounds depend on
    .vaejax-partial-pictures       what the contact sheet shows of each sound, in records
    .vaejax-partial-latents.npy    the latents

Latent, picture and line of a sound are on their way to the disk before the sound itself; so what of
a sound is there tells how far the folder is whole. Another command, run or version of this program
has another hash, and does not go on with it.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax
import numpy as np

from vaejax import config as configs
from vaejax.drawing.thumbnails import OUTLINE_WIDTH, THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH
from vaejax.export.errors import WriteError, explain_write_error
from vaejax.export.folders import LATENTS, MANIFEST, PARTIAL_PREFIX, instruments_of_ours
from vaejax.files import lock
from vaejax.names import stays_in
from vaejax.sampling.order import Order

MARK, PICTURES = f"{PARTIAL_PREFIX}run.json", f"{PARTIAL_PREFIX}pictures"
PARTIAL_LATENTS = f"{PARTIAL_PREFIX}{LATENTS}"
# What the contact sheet shows of a sound, beside its line.
PICTURE = np.dtype(
    [
        ("thumbnail", "u1", (THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH)),
        ("outline", "u1", (OUTLINE_WIDTH,)),
        ("map", "<f4", (2,)),
    ]
)
# Sounds of which it is compared what they are told, and lines that are read at a time.
_FACTS, _LINES = 4096, 256


class Begun(NamedTuple):
    """How far a folder is whole."""

    num: int
    """Sounds, the first ones, of which everything is there."""
    later: frozenset[str]
    """Names of further ones that are whole, but not all before them are."""


NOTHING = Begun(0, frozenset())


def identity(order: Order, title: str) -> str:
    """A hash of all that the files of a folder depend on: not the batch size."""
    run, plan, files, rules = order
    indices = np.arange(min(plan.num, _FACTS))
    device = jax.devices()[0]
    said = [
        package_hash(),
        importlib.metadata.version("jax"),
        f"{device.platform} {device.device_kind}",
        run.fingerprint,
        run.step,
        configs.to_dict(run.config),
        [plan.stems(0), plan.stems(plan.num - 1)],
        repr(files),
        repr(rules),
        title,
    ]
    told = None if plan.facts is None else plan.facts(indices)
    given = {name: value for name, value in plan._asdict().items() if not callable(value)}
    leaves, structure = jax.tree.flatten([given, told])
    digest = hashlib.blake2b(json.dumps([*said, str(structure)]).encode(), digest_size=16)
    for leaf in leaves:
        is_array = isinstance(leaf, np.ndarray | jax.Array)
        digest.update(np.ascontiguousarray(leaf).tobytes() if is_array else repr(leaf).encode())
    return digest.hexdigest()


class Folder:
    """An output folder from its first file to its last, held by one process at a time."""

    def __init__(self, out: Path, order: Order, *, title: str):
        """Opens nothing yet; `out` need not exist."""
        self.out, self._order, self._title = out, order, title
        self.command = ""
        """`identity` of what is to be made."""
        self._mark: IO[bytes] | None = None
        self.holds_other = False
        """Whether it holds an unfinished run of another command."""
        self.goes_on = False
        """Whether it holds one of this command."""

    def open(self) -> None:
        """Looks for what an interrupted run left.

        Raises:
          WriteError: another process is writing to it.
        """
        self.command = identity(self._order, self._title)
        if not (self.out / MARK).is_file():
            return
        self._lock("rb")
        assert self._mark is not None
        try:
            made = json.load(self._mark)["command"]
        except (ValueError, KeyError, TypeError):
            # Ended while it wrote this, which comes before everything else.
            self.close()
            return
        self.goes_on, self.holds_other = made == self.command, made != self.command
        if self.holds_other:
            self.close()

    def begin(self) -> None:
        """Marks a folder that is ready for a new run as under way.

        Raises:
          WriteError: it cannot be written.
        """
        try:
            self._lock("wb")
            assert self._mark is not None
            self._mark.write(json.dumps({"command": self.command}).encode())
            for name in (MANIFEST, PICTURES, PARTIAL_LATENTS):
                (self.out / name).touch()
        except OSError as error:
            raise explain_write_error(self.out / MARK, error) from error

    def resume(self, latents_start: int, latent_dim: int) -> Begun:
        """Cuts manifest, latents and pictures to the sounds of which everything is there.

        Args:
          latents_start: bytes before the first latent in its file.
        Raises:
          WriteError: it cannot be written.
        """
        out = self.out
        try:
            _remove_partial(out)
            for path in instruments_of_ours(out):
                path.unlink()
            # After Ctrl-C, what was made until then had got its name.
            if not (out / PARTIAL_LATENTS).exists() and (out / LATENTS).exists():
                os.replace(out / LATENTS, out / PARTIAL_LATENTS)
            for name in (MANIFEST, PICTURES, PARTIAL_LATENTS):
                (out / name).touch()  # the end may have come before they were there
            row = 4 * latent_dim
            most = min(
                (_size(out / PARTIAL_LATENTS) - latents_start) // row,
                _size(out / PICTURES) // PICTURE.itemsize,
            )
            num, end, later = 0, 0, []
            subfolders = set()
            with open(out / MANIFEST, "rb") as manifest:
                whole = True
                for line in manifest:
                    try:
                        about = json.loads(line)
                        name, index = about["file"], about["index"]
                        harmless = stays_in(out, name)
                    except (ValueError, KeyError, TypeError):
                        break  # cut off by the kill
                    if not harmless:
                        raise WriteError(
                            f"{out / MANIFEST} names the file {name!r}, which leads out of its "
                            "folder; choose another --out"
                        )
                    subfolders.add((out / name).parent)
                    there = _size(out / name) > 0
                    whole = whole and there and index == num < most
                    if whole:
                        num, end = num + 1, end + len(line)
                    elif there:
                        later.append(name)
                    else:
                        # Where the power went, a file may have got its name but not its samples.
                        (out / name).unlink(missing_ok=True)
            for subfolder in subfolders - {out}:
                _remove_partial(subfolder)
            os.truncate(out / MANIFEST, end)
            os.truncate(out / PICTURES, num * PICTURE.itemsize)
            os.truncate(out / PARTIAL_LATENTS, latents_start + num * row)
        except OSError as error:
            raise explain_write_error(out / MANIFEST, error) from error
        return Begun(num, frozenset(later))

    def finish(self) -> None:
        """Removes what only an unfinished folder holds."""
        self.close()
        for name in (PICTURES, PARTIAL_LATENTS, MARK):
            (self.out / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Lets other processes in."""
        if self._mark is not None:
            self._mark.close()
            self._mark = None

    def _lock(self, mode: str) -> None:
        self._mark = open(self.out / MARK, mode, buffering=0)  # noqa: SIM115
        if lock(self._mark) is False:
            self.close()
            raise WriteError(
                f"another process is writing to {self.out}; wait for it, or choose another --out"
            )


def listed(out: Path) -> Iterator[tuple[list[dict[str, Any]], np.ndarray]]:
    """Lines of a folder's manifest and their pictures [n], some at a time."""
    with (
        open(out / MANIFEST, encoding="utf-8") as manifest,
        open(out / PICTURES, "rb") as pictures,
    ):
        while True:
            lines = [json.loads(line) for _, line in zip(range(_LINES), manifest, strict=False)]
            if not lines:
                return
            yield lines, np.frombuffer(pictures.read(len(lines) * PICTURE.itemsize), PICTURE)


def _remove_partial(folder: Path) -> None:
    """Removes the files of a folder that have not got their names."""
    for path in folder.glob(f"{PARTIAL_PREFIX}*"):
        if path.name not in (MARK, PICTURES, PARTIAL_LATENTS):
            path.unlink()


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def package_hash() -> str:
    """A hash of this package's source: what was changed makes other sounds."""
    digest = hashlib.blake2b(digest_size=16)
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")) + sorted(root.rglob("*.html")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
