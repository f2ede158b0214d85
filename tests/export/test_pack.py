"""The archive: everything in it, whole or not at all, the same bytes every time."""

import errno
import os
import subprocess
import sys
import time
import zipfile

import pytest

from vaejax.export import pack
from vaejax.export.errors import WriteError

NAMES = ["00000.wav", "sub/ü b.flac", "manifest.jsonl"]


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "sounds"
    (out / "sub").mkdir(parents=True)
    for i, name in enumerate(NAMES):
        (out / name).write_bytes(bytes(range(256)) * (i + 4))
    (out / "private.txt").write_text("not asked for")
    return out


def test_holds_what_was_asked_for_sounds_stored_texts_deflated(folder):
    path = pack.pack(folder, NAMES)
    assert path == folder.parent / "sounds.zip"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"sounds/{name}" for name in NAMES]
        for name in NAMES:
            assert archive.read(f"sounds/{name}") == (folder / name).read_bytes()
        kinds = [about.compress_type for about in archive.infolist()]
    assert kinds == [zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
    assert [p.name for p in folder.parent.iterdir() if p.name.startswith(".")] == []


def test_entries_are_portable_whatever_the_folder_is_called(folder):
    odd = folder.rename(folder.with_name("a\\b: CON."))
    with zipfile.ZipFile(pack.pack(odd, NAMES)) as archive:
        assert archive.namelist() == [f"a-b- CON/{name}" for name in NAMES]


def test_same_folder_same_bytes(folder):
    first = pack.pack(folder, NAMES).read_bytes()
    time.sleep(0.01)
    (folder / NAMES[0]).touch()
    assert pack.pack(folder, NAMES).read_bytes() == first


def test_beyond_the_limit_of_plain_zip_it_is_zip64(folder, monkeypatch):
    # As if 4 GiB were 1000 bytes.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    path = pack.pack(folder, NAMES)
    assert b"PK\x06\x06" in path.read_bytes()  # zip64's end of central directory
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("sounds/00000.wav") == (folder / NAMES[0]).read_bytes()


def test_only_an_archive_of_ours_is_replaced(folder):
    pack.check_archive(folder, overwrite=False)
    path = pack.pack(folder, NAMES)
    with pytest.raises(WriteError, match="exists already"):
        pack.check_archive(folder, overwrite=False)
    pack.check_archive(folder, overwrite=True)
    with zipfile.ZipFile(path, "w") as other:
        other.writestr("a", "b")
    with pytest.raises(WriteError, match="not from an earlier run"):
        pack.check_archive(folder, overwrite=True)
    path.write_text("no zip at all")
    with pytest.raises(WriteError, match="not from an earlier run"):
        pack.check_archive(folder, overwrite=True)


def test_full_disk_leaves_the_old_archive_and_no_half_one(folder, monkeypatch):
    before = pack.pack(folder, NAMES).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pack.shutil, "copyfileobj", full)
    with pytest.raises(WriteError, match=r"sounds\.zip: the disk is full"):
        pack.pack(folder, NAMES)
    left = sorted(p.name for p in folder.parent.iterdir())
    assert left == ["sounds", "sounds.zip"]
    assert (folder.parent / "sounds.zip").read_bytes() == before


def test_what_a_killed_process_left_of_an_archive_is_removed(tmp_path):
    (tmp_path / "out").mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    # The second one is how earlier versions named it.
    left = [".out.zip-a1b2c3d4", f".vaejax-partial-{ended.pid}.zip"]
    kept = [
        f".vaejax-partial-{os.getppid()}.zip",
        ".vaejax-partial-mine.zip",
        ".other.zip-a1b2c3d4",
    ]
    for name in left + kept:
        (tmp_path / name).write_bytes(b"PK")
    pack.clean(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out", *kept}
