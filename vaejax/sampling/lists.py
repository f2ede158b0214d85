"""What a folder says of its sounds, as it grows: manifest, latents, pictures, contact sheet."""

import contextlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from vaejax.export.folders import LATENTS, MANIFEST
from vaejax.export.sheet import SheetWriter
from vaejax.export.wav import Tags
from vaejax.files import read_lines, write_text
from vaejax.sampling import generate, unfinished
from vaejax.sampling.order import Order


class Part(NamedTuple):
    """What the lists say of some sounds."""

    rows: list[dict[str, Any]]
    """Lines of the manifest."""
    latents: np.ndarray
    """[n, latent_dim] float32."""
    pictures: np.ndarray
    """[n] `unfinished.PICTURE`."""


class Sound(NamedTuple):
    """What a writer is given."""

    path: Path
    samples: np.ndarray
    """[num_samples], as for `quantize`."""
    tags: Tags


class Lists:
    """The lists of a folder that is ready for them. A context; after Ctrl-C they are complete."""

    def __init__(self, out: Path, order: Order, *, title: str):
        """Opens nothing yet.

        Args:
          title: of the contact sheet.
        """
        self._out, self._latent_dim = out, order.latent_dim
        self._header = npy_header(order.plan.num, order.latent_dim)
        self._sheet = SheetWriter(
            out,
            title=title,
            sample_rate=order.mastering.sample_rate,
            seconds=order.num_samples / order.run.config.data.sample_rate,
            map_text=generate.MAP_TEXT,
        )
        self.looped = self.limited = 0

    def __enter__(self) -> Self:
        out = self._out
        with contextlib.ExitStack() as stack:
            # A stream, not a memory map: a full disk is then an OSError to report, not a SIGBUS.
            latents = stack.enter_context(open(out / unfinished.PARTIAL_LATENTS, "r+b"))
            pictures = stack.enter_context(open(out / unfinished.PICTURES, "ab"))
            manifest = stack.enter_context(open(out / MANIFEST, "a", encoding="utf-8"))
            stack.enter_context(self._sheet)
            latents.write(self._header)
            latents.seek(0, os.SEEK_END)
            for rows, shown in unfinished.listed(out):
                self._show(rows, shown)
            self._latents, self._pictures, self._manifest = latents, pictures, manifest
            self._files = stack.pop_all()
        return self

    def add(self, part: Part) -> None:
        """Sounds, in their order."""
        self._latents.write(part.latents.astype("<f4").tobytes())
        self._pictures.write(part.pictures.tobytes())
        self._manifest.writelines(json.dumps(row) + "\n" for row in part.rows)
        for file in (self._latents, self._pictures, self._manifest):
            file.flush()
        self._show(part.rows, part.pictures)

    def _show(self, rows: list[dict[str, Any]], pictures: np.ndarray) -> None:
        self.looped += sum(row.get("loop") is not None for row in rows)
        self.limited += sum(bool(row.get("level_limited")) for row in rows)
        # `facts` are for --redo; people read label, pitch and `told`.
        shown = [
            {**{k: v for k, v in row.items() if k != "facts"}, "map": place}
            for row, place in zip(rows, pictures["map"].tolist(), strict=True)
        ]
        self._sheet.add(shown, pictures["thumbnail"], pictures["outline"])

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt):
            self._files.__exit__(kind, error, trace)
            return
        # Fewer than asked for: interrupted, or no more were found.
        num_rows = (self._latents.tell() - len(self._header)) // (4 * self._latent_dim)
        self._latents.seek(0)
        self._latents.write(npy_header(num_rows, self._latent_dim))
        self._files.__exit__(None, None, None)
        os.replace(self._out / unfinished.PARTIAL_LATENTS, self._out / LATENTS)


def npy_header(num: int, latent_dim: int) -> bytes:
    """What a .npy file of float32 [num, latent_dim] begins with; as long for every num."""
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (num, latent_dim)}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def all_files(out: Path, instruments: list[str]) -> Iterator[str]:
    """Names of all files of a finished folder, relative to it."""
    yield from (row["file"] for row in read_lines(out / MANIFEST))
    yield from (MANIFEST, LATENTS, *instruments)
    yield from sorted(page.name for page in out.glob("index*.html"))


def keep_complete(out: Path) -> int:
    """After a failure: drops the lines of the manifest whose file was never finished.

    Returns:
      The lines that are left.
    """
    path, whole = out / MANIFEST, []
    with contextlib.suppress(OSError):
        for line in path.read_text("utf-8").splitlines(keepends=True):
            with contextlib.suppress(ValueError):
                if (out / json.loads(line)["file"]).exists():
                    whole.append(line)
        write_text(path, "".join(whole))
    return len(whole)
