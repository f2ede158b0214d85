"""The contact sheet: complete in itself, true to its rows and pictures, safe, flat in memory."""

import base64
import errno
import html.parser
import json
import os
import re
import shutil
import subprocess
import tracemalloc
import zlib

import numpy as np
import pytest

from vaejax.drawing import picture
from vaejax.export import errors, folders, sheet

HOSTILE = [
    "</script><script>window.broken = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.broken = 1'>",
    "{{SETTINGS}}",
    'quo"ted & amp;',
    "ünï\u2028\u2029日本",
    "javascript:alert(1)",
]


def make_rows(num, first=0, **more):
    labels = ("bass", "bell", "kick")
    return [
        {
            "index": first + i,
            "file": f"{first + i:05d}_{labels[i % 3]}.wav",
            "seed": 3,
            "label": labels[i % 3],
            "temperature": 1.0,
            "peak": 0.1 + (first + i) / 7,
            "novelty": float(np.float32(1 / (1 + first + i))),
            **more,
        }
        for i in range(num)
    ]


def make_pictures(num, seed=0, size=(48, 64)):
    return np.random.default_rng(seed).integers(0, 256, (num, *size), dtype=np.uint8)


def write(out, rows, thumbnails, outlines=None, *, title="New sounds", batch=17, **more):
    with sheet.SheetWriter(out, title=title, sample_rate=44_100, **more) as writer:
        for i in range(0, len(rows), batch):
            part = slice(i, i + batch)
            writer.add(rows[part], thumbnails[part], None if outlines is None else outlines[part])
    return out / "index.html"


class Scripts(html.parser.HTMLParser):
    """Script elements (attributes, text) and all tags, as a browser's parser would see them."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.tags, self._text = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self._text = []

    def handle_data(self, data):
        if self._text is not None:
            self._text.append(data)

    def handle_endtag(self, tag):
        if tag == "script":
            self.scripts.append((self.tags[-1][1], "".join(self._text)))
            self._text = None


def read(page):
    """(rows, thumbnails, outlines, settings) of one page."""
    scripts = Scripts(page.read_text("utf-8")).scripts
    (settings,) = [json.loads(text) for at, text in scripts if at.get("id") == "settings"]
    height, width, outline = (settings[key] for key in ("height", "width", "outline"))
    rows, thumbnails, outlines = [], [np.zeros((0, height, width))], [np.zeros((0, outline))]
    chunks = [json.loads(text) for at, text in scripts if at.get("class") == "rows"]
    packed = [text for at, text in scripts if at.get("class") == "pictures"]
    for chunk, text in zip(chunks, packed, strict=True):
        data = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
        num, area = len(chunk), height * width
        steps = data[: num * area].reshape(num, height, width)
        thumbnails.append(np.cumsum(steps, axis=2, dtype=np.uint8))
        outlines.append(data[num * area :].reshape(num, outline))
        rows += chunk
    return rows, np.concatenate(thumbnails), np.concatenate(outlines), settings


# --- what the page holds -----------------------------------------------------------------------


def test_rows_and_thumbnails_come_back_bit_equal(tmp_path):
    num = 2 * sheet.CHUNK + 5
    rows, pictures = make_rows(num), make_pictures(num)
    outlines = make_pictures(num, 1, (60,))
    back, thumbnails, waves, settings = read(write(tmp_path, rows, pictures, outlines))
    assert back == rows
    np.testing.assert_array_equal(thumbnails, pictures)
    np.testing.assert_array_equal(waves, outlines)
    assert settings["total"] == num
    assert settings["colors"] == [list(color) for color in picture.COLORS]


def test_bytes_do_not_depend_on_batches(tmp_path):
    pages = []
    for batch in (1, 7, 300, 1000):
        out = tmp_path / str(batch)
        out.mkdir()
        num = 600
        write(out, make_rows(num), make_pictures(num), batch=batch, page_size=500)
        pages.append([(out / name).read_bytes() for name in ("index.html", "index-2.html")])
    assert all(page == pages[0] for page in pages)


def test_a_reused_batch_buffer_does_not_change_what_was_added(tmp_path):
    buffer, expected = np.zeros((4, 8, 8), np.uint8), []
    with sheet.SheetWriter(tmp_path, title="t", sample_rate=44_100) as writer:
        for i in range(3):
            buffer[:] = make_pictures(4, i, (8, 8))
            expected.append(buffer.copy())
            writer.add(make_rows(4, 4 * i), buffer)
    np.testing.assert_array_equal(read(tmp_path / "index.html")[1], np.concatenate(expected))


def test_numbers_become_what_json_can_carry(tmp_path):
    row = {
        "index": np.int64(0),
        "file": "a.wav",
        "peak": np.float32(0.5),
        "bad": float("nan"),
        "worse": float("-inf"),
        "ok": np.bool_(True),
        "key": 2**63,
        "z": [0.0] * 64,
        "nothing": None,
        "grid": (np.float64(0.25), 0),
        "loop": {"start": 3, "found": True, "ends": [5, 7]},
        "map": np.array([0.25, -1.5]),
    }
    ((back,), _, _, settings) = read(write(tmp_path, [row], make_pictures(1)))
    assert back == {
        "index": 0,
        "file": "a.wav",
        "peak": 0.5,
        "bad": None,
        "worse": None,
        "ok": True,
        "key": "9223372036854775808",
        "nothing": None,
        "grid_1": 0.25,
        "grid_2": 0,
        "loop_start": 3,
        "loop_found": True,
        "loop_ends_1": 5,
        "loop_ends_2": 7,
        "map": [0.25, -1.5],
    }
    assert settings["map"] == [[0.25, 0.25], [-1.5, -1.5]]


def test_map_spans_all_pages(tmp_path):
    rows = [{**row, "map": [i, -2 * i]} for i, row in enumerate(make_rows(10))]
    write(tmp_path, rows, make_pictures(10), page_size=4)
    for name in ("index.html", "index-3.html"):
        assert read(tmp_path / name)[3]["map"] == [[0, 9], [-18, 0]]


def test_a_sheet_without_sounds_is_still_a_page(tmp_path):
    with sheet.SheetWriter(tmp_path, title="None", sample_rate=44_100):
        pass
    assert read(tmp_path / "index.html")[3]["total"] == 0


# --- complete in itself, and safe --------------------------------------------------------------


def test_page_needs_nothing_from_a_network(tmp_path):
    text = write(tmp_path, make_rows(3), make_pictures(3)).read_text("utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "//www." not in text
    tags = Scripts(text).tags
    assert all("src" not in attributes for _, attributes in tags)
    hrefs = [attributes["href"] for _, attributes in tags if "href" in attributes]
    assert hrefs == ["data:,"]
    assert "default-src 'none'" in text


def test_page_has_one_audio_element_and_names_its_controls(tmp_path):
    text = write(tmp_path, make_rows(300), make_pictures(300)).read_text("utf-8")
    tags = Scripts(text).tags
    assert [tag for tag, _ in tags].count("audio") == 1
    body = text[text.index("<body") :]
    for tag, attributes in tags:
        if tag == "select":
            named = "aria-label" in attributes or re.search(
                rf'<label>[^<]*<select[^>]*id="{attributes["id"]}"', body
            )
            assert named, attributes
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_breaks_out_of_the_page(tmp_path, text):
    rows = make_rows(2)
    rows[1] |= {"label": text, "file": f"{text}.wav", "note": text, f"key {text}": 1}
    plain, hostile = tmp_path / "plain", tmp_path / "hostile"
    plain.mkdir()
    hostile.mkdir()
    expected = Scripts(write(plain, make_rows(2), make_pictures(2)).read_text("utf-8"))
    page = write(hostile, rows, make_pictures(2), title=text)
    found = Scripts(page.read_text("utf-8"))
    assert [tag for tag, _ in found.tags] == [tag for tag, _ in expected.tags]
    assert len(found.scripts) == len(expected.scripts)
    assert found.scripts[-1] == expected.scripts[-1]
    assert read(page)[0] == rows
    assert f"<title>{html.escape(text)}</title>" in page.read_text("utf-8")


def test_page_is_known_as_ours(tmp_path):
    page = write(tmp_path, make_rows(3), make_pictures(3))
    assert folders.SHEET_MARK in page.read_text("utf-8")[:4096]
    with pytest.raises(errors.WriteError, match=r"already holds index\.html"):
        folders.prepare_folder(tmp_path)
    folders.prepare_folder(tmp_path, overwrite=True)
    assert not page.exists()


# --- pages and streaming -----------------------------------------------------------------------


def test_more_sounds_than_a_page_go_to_linked_pages(tmp_path):
    rows, pictures = make_rows(25), make_pictures(25)
    write(tmp_path, rows, pictures, page_size=10)
    names = ["index.html", "index-2.html", "index-3.html"]
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    found = []
    for i, name in enumerate(names):
        back, _, _, settings = read(tmp_path / name)
        found += back
        assert (settings["total"], settings["pages"]) == (25, 3)
        links = [
            (at["href"], "aria-current" in at)
            for tag, at in Scripts((tmp_path / name).read_text("utf-8")).tags
            if tag == "a" and "href" in at
        ]
        assert links == [(other, i == j) for j, other in enumerate(names)]
    assert found == rows
    ids = {read(tmp_path / name)[3]["id"] for name in names}
    assert len(ids) == 1  # Stars are kept under it, for all pages together.


def test_stars_are_kept_when_more_of_the_same_sounds_are_made_and_not_of_others(tmp_path):
    def identity(rows):
        return read(write(tmp_path, rows, make_pictures(len(rows))))[3]["id"]

    same = identity(make_rows(3))
    assert identity(make_rows(30)) == same
    assert identity(make_rows(3, novelty=0.1)) == same  # measured, on another machine
    assert identity(make_rows(3, seed=4)) != same
    assert identity(make_rows(3, run="another")) != same


def test_settings_name_the_run_the_manifest_and_what_the_pictures_span(tmp_path):
    rows = make_rows(3, run="0123456789abcdef")
    page = write(tmp_path, rows, make_pictures(3), seconds=1.5, map_text="Alike <is> near.")
    settings = read(page)[3]
    assert settings["run"] == "0123456789abcdef"
    assert settings["manifest"] == folders.MANIFEST
    assert (settings["seconds"], settings["mapText"]) == (1.5, "Alike <is> near.")


def test_a_full_last_page_is_not_followed_by_an_empty_one(tmp_path):
    write(tmp_path, make_rows(20), make_pictures(20), page_size=10)
    assert sorted(os.listdir(tmp_path)) == ["index-2.html", "index.html"]


def test_memory_stays_flat(tmp_path):
    def peak(num):
        pictures, rows = make_pictures(64, size=(24, 32)), make_rows(64)
        tracemalloc.start()
        try:
            with sheet.SheetWriter(
                tmp_path, title="t", sample_rate=44_100, page_size=2000
            ) as writer:
                for _ in range(num // 64):
                    writer.add(rows, pictures)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small = peak(1024)
    assert peak(6400) < small + 1e5


def test_nothing_is_to_be_seen_before_close_or_after_an_exception(tmp_path):
    def work():
        with sheet.SheetWriter(tmp_path, title="t", sample_rate=44_100, page_size=300) as writer:
            writer.add(make_rows(700), make_pictures(700, size=(4, 4)))
            assert not [name for name in os.listdir(tmp_path) if not name.startswith(".")]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sheet.os, "replace", fail)
    with pytest.raises(errors.WriteError, match=r"cannot write .*index\.html: the disk is full"):
        write(tmp_path, make_rows(3), make_pictures(3))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("rows", "pictures", "message"),
    [
        (
            make_rows(2),
            make_pictures(3),
            r"shape \(3, 48, 64\).*the first of 2, the number of rows",
        ),
        (make_rows(2), make_pictures(2).astype(float), "expected 3 axes of uint8"),
        ([{"file": "a.wav"}], make_pictures(1), "a row needs file and index; it has file"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(tmp_path, rows, pictures, message):
    writer = sheet.SheetWriter(tmp_path, title="t", sample_rate=44_100)
    with pytest.raises(ValueError, match=message):
        writer.add(rows, pictures)


def test_all_thumbnails_of_a_sheet_measure_the_same(tmp_path):
    writer = sheet.SheetWriter(tmp_path, title="t", sample_rate=44_100)
    writer.add(make_rows(2), make_pictures(2))
    with pytest.raises(ValueError, match=r"measure \(8, 8, 0\), those before \(48, 64, 0\)"):
        writer.add(make_rows(2), make_pictures(2, size=(8, 8)))
    with pytest.raises(ValueError, match="page_size=0"):
        sheet.SheetWriter(tmp_path, title="t", sample_rate=44_100, page_size=0)


def test_script_parses(tmp_path):
    if not (node := shutil.which("node")):
        pytest.skip("needs node")
    page = write(tmp_path, make_rows(1), make_pictures(1))
    (tmp_path / "page.js").write_text(Scripts(page.read_text("utf-8")).scripts[-1][1])
    subprocess.run([node, "--check", tmp_path / "page.js"], check=True)
