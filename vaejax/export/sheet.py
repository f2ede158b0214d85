"""The contact sheet: `index.html`, a page that shows, sorts and plays a folder of sounds.

The page is complete in itself: pictures and numbers are inside, sounds are the files beside it,
and nothing comes from a network. `sheet.html` is the page; this module streams the data into it, so
that memory does not grow with the number of sounds.

Data stand in the page in chunks of `CHUNK` sounds, two script elements each, which browsers keep as
text until they are asked for:

- class "rows": the sounds as a JSON list of objects;
- class "pictures": base64 of zlib of all thumbnails, then all outlines, of the chunk. Along each
  row of a thumbnail every pixel but the first is stored as its difference from the one before it,
  modulo 256, which makes the page a fifth smaller than the pixels would.
"""

import base64
import html
import json
import math
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np

from vaejax.drawing.picture import COLORS
from vaejax.export.errors import explain_write_error
from vaejax.export.folders import MANIFEST, PARTIAL_PREFIX, SHEET, SHEET_MARK
from vaejax.names import readable

CHUNK = 256
# Past this, a browser's numbers are no longer exact integers.
_EXACT = 2**53
# The longest list of a row that is shown, number by number.
_LONGEST_LIST = 4


class SheetWriter:
    """Streams sounds into a contact sheet.

    Up to `page_size` sounds go to index.html, the next to index-2.html, and so on, linked with each
    other. The pages get their names in `close`, the first one last; until then, or when the block
    ends by an exception, nothing of them is to be seen.

        with SheetWriter(out, title="64 new sounds", sample_rate=44_100) as sheet:
            for rows, thumbnails in batches:
                sheet.add(rows, thumbnails)
    """

    def __init__(
        self,
        out: str | os.PathLike,
        *,
        title: str,
        sample_rate: int,
        seconds: float | None = None,
        map_text: str = "",
        page_size: int = 10_000,
    ) -> None:
        """Opens nothing yet.

        Args:
          out: folder of the sounds; must exist.
          title: stands on top of the page; any text.
          sample_rate: Hz, shown beside the title.
          seconds: what the pictures span. A row with fewer "seconds" is of a file that ends
            earlier: the rest of its picture is dimmed. None: each picture spans its file.
          map_text: one sentence below the map, on what its places mean.
          page_size: sounds on one page.
        Raises:
          ValueError: page_size < 1.
        """
        if page_size < 1:
            raise ValueError(f"page_size={page_size} must be at least 1")
        self.num_sounds = 0
        self._out = Path(out)
        self._title = title
        self._sample_rate = sample_rate
        self._seconds = seconds
        self._map_text = map_text
        self._page_size = page_size
        self._sizes: tuple[int, int, int] | None = None  # height, width, outline
        self._rows: list[dict[str, Any]] = []
        self._pictures: list[np.ndarray] = []
        self._outlines: list[np.ndarray] = []
        self._file: BinaryIO | None = None
        self._counts: list[int] = []  # sounds on each page
        self._map = np.array([[math.inf, -math.inf], [math.inf, -math.inf]])
        self._first_row: dict[str, Any] = {}
        values = {"TITLE": html.escape(readable(title)), "MARK": SHEET_MARK}
        template = resources.files("vaejax.export").joinpath("sheet.html").read_text("utf-8")
        before, self._after = template.split("{{DATA}}\n")
        self._before = _fill(before, values).encode()

    def add(
        self,
        rows: Sequence[Mapping[str, Any]],
        thumbnails: np.ndarray,
        outlines: np.ndarray | None = None,
    ) -> None:
        """Adds sounds; the bytes of the sheet do not depend on how they are batched.

        Args:
          rows: one mapping per sound. "file" (relative to the folder, with "/") and "index" are
            needed; texts, numbers and booleans are shown, and every number can be sorted by, also
            those inside a mapping or a list of up to four ("loop": {"start": 3} as "loop_start").
            Longer lists are left out. "map" may hold [x, y], the place on the map. NaN and Inf
            become null, integers beyond 2**53 text, which is all that JSON can carry.
          thumbnails: [num, height, width] uint8, row 0 on top; 0 is the darkest colour. Fewer grey
            levels make a smaller page (6 bits instead of 8: about a third).
          outlines: [num, num_points] uint8, the magnitude of the waveform over time; 255 is full
            scale. Either with every batch or with none.
        Raises:
          ValueError: counts or sizes that do not agree, or a row without file or index.
          WriteError: the page cannot be written.
        """
        thumbnails = np.asarray(thumbnails)
        if outlines is None:
            outlines = np.zeros((len(rows), 0), np.uint8)
        outlines = np.asarray(outlines)
        self._check(rows, thumbnails, outlines)
        for row, picture, outline in zip(rows, thumbnails, outlines, strict=True):
            self._rows.append(_plain(row))
            self._first_row = self._first_row or self._rows[-1]
            self._pictures.append(picture)
            self._outlines.append(outline)
            if "map" in self._rows[-1]:
                place = np.array(self._rows[-1]["map"])[:, None]
                least, most = self._map[:, :1], self._map[:, 1:]
                self._map = np.hstack([np.minimum(least, place), np.maximum(most, place)])
            self.num_sounds += 1
            page_full = self.num_sounds % self._page_size == 0
            if page_full or len(self._rows) == CHUNK:
                self._flush()
            if page_full:
                self._end_page()
        # What waits for its chunk must not be changed by the caller, nor keep his batch alive.
        self._pictures = [np.array(picture) for picture in self._pictures]
        self._outlines = [np.array(outline) for outline in self._outlines]

    def close(self) -> list[Path]:
        """Finishes the pages and gives them their names.

        Returns:
          The pages, index.html first.
        Raises:
          WriteError: a page cannot be written; none is left half.
        """
        try:
            if self._rows or not self._counts:
                self._flush()
                self._end_page()
            pages = [self._out / _page_name(i) for i in range(len(self._counts))]
            for i, page in reversed(list(enumerate(pages))):
                with open(self._partial(i), "ab") as file:
                    file.write(self._tail(i).encode())
                os.replace(self._partial(i), page)
        except OSError as error:
            self.abort()
            raise explain_write_error(self._out / SHEET, error) from error
        except BaseException:
            self.abort()
            raise
        return pages

    def abort(self) -> None:
        """Removes what was written so far."""
        if self._file is not None:
            self._file.close()
            self._file = None
        for i in range(len(self._counts) + 1):
            self._partial(i).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _check(
        self, rows: Sequence[Mapping[str, Any]], thumbnails: np.ndarray, outlines: np.ndarray
    ) -> None:
        for name, array, axes in (("thumbnails", thumbnails, 3), ("outlines", outlines, 2)):
            if array.ndim != axes or array.dtype != np.uint8 or len(array) != len(rows):
                raise ValueError(
                    f"{name} have shape {array.shape} and dtype {array.dtype}; expected {axes} "
                    f"axes of uint8, the first of {len(rows)}, the number of rows"
                )
        sizes = (*thumbnails.shape[1:], outlines.shape[1])
        if self._sizes is None:
            self._sizes = sizes
        if sizes != self._sizes:
            raise ValueError(
                f"thumbnails and outlines measure {sizes}, those before {self._sizes}; "
                "all of a sheet must agree"
            )
        for row in rows:
            if "file" not in row or "index" not in row:
                raise ValueError(f"a row needs file and index; it has {', '.join(row)}")

    def _flush(self) -> None:
        """Writes the waiting sounds as one chunk."""
        try:
            if self._file is None:
                self._file = open(self._partial(len(self._counts)), "wb")  # noqa: SIM115
                self._file.write(self._before)
            if not self._rows:
                return
            rows = json.dumps(self._rows, separators=(",", ":"), allow_nan=False)
            pictures = np.stack(self._pictures)
            steps = np.diff(pictures, axis=2, prepend=np.uint8(0))
            # Of steps, runs are all that repeats: no search for other matches is smaller and eight
            # times as fast.
            packer = zlib.compressobj(strategy=zlib.Z_RLE)
            packed = packer.compress(steps.tobytes() + np.stack(self._outlines).tobytes())
            packed += packer.flush()
            self._file.write(b'<script type="application/json" class="rows">')
            self._file.write(_no_markup(rows).encode())
            self._file.write(b'</script>\n<script type="text/plain" class="pictures">')
            self._file.write(base64.b64encode(packed))
            self._file.write(b"</script>\n")
        except OSError as error:
            self.abort()
            raise explain_write_error(self._out / SHEET, error) from error
        self._rows, self._pictures, self._outlines = [], [], []

    def _end_page(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        self._counts.append(self.num_sounds - sum(self._counts))

    def _tail(self, page: int) -> str:
        height, width, outline = self._sizes or (1, 1, 0)
        settings = {
            "id": self._identity(),
            "run": self._first_row.get("run"),
            "manifest": MANIFEST,
            "sampleRate": self._sample_rate,
            "seconds": self._seconds,
            "mapText": self._map_text,
            "total": self.num_sounds,
            "pages": len(self._counts),
            "height": height,
            "width": width,
            "outline": outline,
            "map": self._map.tolist() if np.isfinite(self._map).all() else None,
            "colors": COLORS,
        }
        return _fill(
            self._after,
            {
                "PAGES": self._page_links(page),
                "SETTINGS": _no_markup(json.dumps(settings, separators=(",", ":"))),
            },
        )

    def _identity(self) -> str:
        """What stars are kept under: the same when more of the same sounds are made, or the folder
        is moved. Measured numbers are left out: they may differ in the last digit."""
        first = {k: v for k, v in self._first_row.items() if not isinstance(v, float | list)}
        return f"{zlib.crc32(json.dumps(first, sort_keys=True).encode()):08x}"

    def _page_links(self, page: int) -> str:
        if len(self._counts) == 1:
            return ""
        links = []
        first = 0
        for i, count in enumerate(self._counts):
            current = ' aria-current="page"' if i == page else ""
            links.append(
                f'<a href="{_page_name(i)}"{current}>{first + 1:,} to {first + count:,}</a>'
            )
            first += count
        return f'<nav class="pages" aria-label="Pages">{"".join(links)}</nav>'

    def _partial(self, page: int) -> Path:
        return self._out / f"{PARTIAL_PREFIX}{_page_name(page)}"


def _page_name(page: int) -> str:
    return SHEET if page == 0 else f"{Path(SHEET).stem}-{page + 1}.html"


def _fill(template: str, values: Mapping[str, str]) -> str:
    """Replaces {{NAME}} in one pass, so that a value which looks like one stays as it is."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _no_markup(text: str) -> str:
    """JSON that cannot end its script element or open a comment, whatever the labels are."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a manifest row the sheet can show, as JSON types."""
    plain: dict[str, Any] = {}
    for key, value in row.items():
        if key == "map":
            x, y = (float(part) for part in value)
            if math.isfinite(x) and math.isfinite(y):
                plain[key] = [x, y]
        elif value is None or isinstance(value, str | bool):
            plain[key] = value
        elif isinstance(value, float):
            plain[key] = float(value) if math.isfinite(value) else None
        elif isinstance(value, int):
            plain[key] = value if abs(value) < _EXACT else str(value)
        elif isinstance(value, np.generic | np.ndarray):
            plain |= _plain({key: value.tolist()})
        elif isinstance(value, list | tuple):
            if len(value) <= _LONGEST_LIST:
                plain |= _plain({f"{key}_{i + 1}": part for i, part in enumerate(value)})
        elif isinstance(value, Mapping):
            plain |= _plain({f"{key}_{name}": part for name, part in value.items()})
    return plain
