import errno
import hashlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import threading
import types

import numpy as np
import pytest
import soundfile

import vaejax.data
from vaejax.data import cache, conditioning, corpus, decoding, files, pack
from vaejax.data.__main__ import main
from vaejax.data.corpus import load_folder, load_synth, summary
from vaejax.data.labels import of_folders
from vaejax.names import readable

RATE = 8_000
SETTINGS = {"sample_rate": RATE, "pack_samples": 1000, "trim_db": -60.0}


def write(path, hz=440.0, seconds=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    times = np.arange(int(RATE * seconds)) / RATE
    soundfile.write(os.fsencode(path), 0.5 * np.cos(2 * np.pi * hz * times), RATE, format="WAV")


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "sounds"
    for index, name in enumerate(("kick/a.wav", "kick/deep/b.wav", "snare/a.wav", "top.wav")):
        write(root / name, hz=100 * (index + 1), seconds=0.05 * (index + 1))
    (root / "kick/notes.txt").write_text("hello")
    soundfile.write(root / "kick/silent.wav", np.zeros(100), RATE)
    (root / "snare/empty.wav").touch()
    return root


@pytest.fixture
def load(tmp_path):
    def load(folder, **changes):
        options = {"cache_dir": tmp_path / "cache", "progress": False, **SETTINGS, **changes}
        return load_folder(folder, **options)

    return load


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files decoded so far."""
    names: list[str] = []
    read = decoding.read

    def record(path, **kwargs):
        names.append(path.name)
        return read(path, **kwargs)

    monkeypatch.setattr(decoding, "read", record)
    return names


def cache_files(tmp_path):
    (directory,) = (tmp_path / "cache").iterdir()
    return sorted(path.name.partition("-")[0] for path in directory.iterdir())


def assert_equal(left, right):
    np.testing.assert_array_equal(left.clips, right.clips)
    np.testing.assert_array_equal(left.lengths, right.lengths)
    for name in ("names", "labels", "hashes", "rejected", "fingerprint", "source"):
        assert getattr(left, name) == getattr(right, name)


# What a folder becomes


def test_every_usable_file_becomes_a_clip_with_its_folder_as_label(folder, load):
    loaded = load(folder)
    assert loaded.names == ["kick/a.wav", "kick/deep/b.wav", "snare/a.wav", "top.wav"]
    assert loaded.labels == ["kick", "deep", "snare", "sounds"]
    assert loaded.label_names == ["deep", "kick", "snare", "sounds"]
    assert loaded.lengths.tolist() == [400, 800, 1200, 1600]
    assert loaded.lengths.dtype == np.int32
    assert loaded.source == str(folder)
    assert loaded.sample_rate == RATE
    assert loaded.factors == {}
    assert len(loaded) == 4


def test_clips_are_the_conditioned_files_and_hashes_are_of_their_bytes(folder, load):
    loaded = load(folder)
    assert isinstance(loaded.clips, np.memmap)
    assert loaded.clips.dtype == np.int16
    assert not loaded.clips.flags.writeable
    for name, clip, digest in zip(loaded.names, loaded.clips, loaded.hashes, strict=True):
        waveform = decoding.read(folder / name, sample_rate=RATE)
        made = conditioning.condition(waveform, sample_rate=RATE, trim_db=-60, num_samples=1000)
        np.testing.assert_array_equal(clip, made.pcm)
        content = (folder / name).read_bytes()
        assert digest == hashlib.blake2b(content, digest_size=16).hexdigest()


def test_every_rejected_file_is_named_with_its_reason(folder, load):
    assert load(folder).rejected == [
        {"file": "kick/notes.txt", "reason": "not an audio file (.txt)"},
        {"file": "kick/silent.wav", "reason": "all silence"},
        {"file": "snare/empty.wav", "reason": "zero length (0 bytes)"},
    ]


def test_the_number_of_workers_changes_nothing(folder, load, tmp_path):
    for index in range(30):
        write(folder / f"more/{index}.wav", hz=50 + index)
    one = load(folder, num_workers=1)
    assert_equal(one, load(folder, num_workers=5, cache_dir=tmp_path / "other"))


def test_same_stems_and_odd_names_are_all_kept(tmp_path, load):
    names = ["a.aif", "a.wav", "line\nbreak.wav", "n" * 200 + ".wav", "ünï🎹 x.wav"]
    try:
        write(tmp_path / "odd" / os.fsdecode(b"\xff.wav"))
        names.append(os.fsdecode(b"\xff.wav"))
    except OSError:  # this file system insists on UTF-8
        pass
    for name in names:
        write(tmp_path / "odd" / name)
    # In the order of the names on disk, and such that they can be shown.
    expected = [readable(name) for name in sorted(names)]
    assert load(tmp_path / "odd").names == expected
    assert load(tmp_path / "odd").names == expected  # through the cache as well


def test_a_folder_without_a_usable_file_loads_as_empty(tmp_path, load):
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk/x.wav").write_bytes(b"not audio")
    for _ in range(2):
        loaded = load(tmp_path / "junk")
        assert len(loaded) == 0
        assert loaded.clips.shape == (0, 1000)
        assert len(loaded.rejected) == 1


def test_a_file_that_disappears_after_the_scan_is_rejected(folder, load, monkeypatch):
    find_files = files.find_files

    def find_then_delete(path):
        found = find_files(path)
        (folder / "top.wav").unlink()
        return found

    monkeypatch.setattr(files, "find_files", find_then_delete)
    loaded = load(folder)
    assert "top.wav" not in loaded.names
    assert loaded.rejected[-1]["file"] == "top.wav"
    assert loaded.rejected[-1]["reason"].startswith("cannot be read (No such file")


def test_a_file_that_fails_between_decoding_and_hashing_is_rejected(folder, load, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(hashlib, "file_digest", fail)
    loaded = load(folder)
    assert len(loaded) == 0
    assert {item["reason"] for item in loaded.rejected} >= {"cannot be read (Input/output error)"}


def test_the_progress_bar_goes_to_stderr_and_only_where_files_are_read(folder, load, capsys):
    load(folder, progress=True)
    first = capsys.readouterr()
    assert first.out == ""
    assert "Reading sounds: 100%" in first.err
    load(folder, progress=True)
    assert capsys.readouterr().err == ""


# The cache


def test_a_second_start_opens_no_sound(folder, load, monkeypatch):
    first = load(folder)

    def fail(*args, **kwargs):
        raise AssertionError("a sound was opened")

    monkeypatch.setattr(decoding, "read", fail)
    monkeypatch.setattr(conditioning, "condition", fail)
    monkeypatch.setattr(hashlib, "file_digest", fail)
    assert_equal(load(folder), first)


def test_only_changed_and_added_files_are_decoded_again(folder, load, decoded, tmp_path):
    load(folder)
    decoded.clear()
    write(folder / "snare/a.wav", hz=999, seconds=0.07)
    write(folder / "snare/new.wav", hz=77)
    (folder / "kick/a.wav").unlink()
    changed = load(folder)
    assert sorted(decoded) == ["a.wav", "new.wav"]
    assert changed.names == ["kick/deep/b.wav", "snare/a.wav", "snare/new.wav", "top.wav"]
    assert_equal(changed, load(folder, cache_dir=tmp_path / "fresh"))
    assert cache_files(tmp_path) == ["clips", "index.json", "lock"]


def test_a_change_of_time_alone_is_noticed(folder, load, decoded):
    load(folder)
    decoded.clear()
    os.utime(folder / "top.wav", ns=(1, 1))
    load(folder)
    assert decoded == ["top.wav"]


def test_a_new_file_that_is_no_sound_is_noticed_without_decoding(folder, load, decoded):
    load(folder)
    decoded.clear()
    (folder / "cover.jpg").touch()
    assert {"file": "cover.jpg", "reason": "not an audio file (.jpg)"} in load(folder).rejected
    assert decoded == []


def test_a_withheld_file_is_tried_again(folder, load, monkeypatch):
    read = decoding.read

    def withhold(path, **kwargs):
        if path.name == "top.wav":
            raise files.UnreadableFile("cannot be read (Permission denied)")
        return read(path, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(decoding, "read", withhold)
        assert len(load(folder)) == 3
    assert len(load(folder)) == 4


def test_each_setting_has_a_pack_of_its_own(folder, load):
    base = load(folder)
    assert load(folder, pack_samples=500).clips.shape == (4, 500)
    assert load(folder, sample_rate=16_000).lengths.tolist() == [800, 1600, 2400, 3200]
    others = [load(folder, **{key: SETTINGS[key] * 2}) for key in SETTINGS]
    assert len({item.fingerprint for item in [base, *others]}) == 4
    assert_equal(load(folder), base)


def test_the_fingerprint_follows_the_content_not_the_place(folder, load, tmp_path):
    first = load(folder).fingerprint
    moved = tmp_path / "elsewhere" / folder.name
    shutil.copytree(folder, moved)
    assert load(moved).fingerprint == first
    write(moved / "top.wav", hz=123)
    assert load(moved).fingerprint != first


def test_a_folder_with_another_name_has_the_same_fingerprint(folder, load, tmp_path):
    first = load(folder)
    renamed = shutil.copytree(folder, tmp_path / "renamed")
    again = load(renamed)
    assert again.fingerprint == first.fingerprint
    assert first.labels[-1], again.labels[-1] == ("sounds", "renamed")


def test_the_fingerprint_of_an_earlier_version_is_known(folder, load):
    loaded = load(folder)
    parents = ["kick", "deep", "snare", "sounds"]
    content = json.dumps([1, SETTINGS, loaded.names, parents, loaded.hashes])
    assert loaded.is_same(hashlib.blake2b(content.encode(), digest_size=16).hexdigest())
    assert loaded.is_same(loaded.fingerprint)
    assert not loaded.is_same("another")


def test_labels_tell_folders_apart(folder, load):
    write(folder / "deep/kick/c.wav", hz=50)
    assert load(folder).labels == ["deep/kick", "kick", "deep", "snare", "sounds"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a.wav", "b.wav"], ["top", "top"]),
        (["k/a.wav", "s/a.wav", "a.wav"], ["k", "s", "top"]),
        (["k/x/a.wav", "s/x/a.wav", "x/a.wav"], ["k/x", "s/x", "x"]),
        (["top/a.wav", "a.wav"], ["top", "top/top"]),
        (["a/m/x/1.wav", "b/m/x/1.wav"], ["a/m/x", "b/m/x"]),
    ],
)
def test_a_label_is_the_shortest_end_of_a_path_that_no_other_folder_has(names, labels):
    assert of_folders(names, "top") == labels


def test_flipped_bytes_among_the_samples_are_noticed(folder, load, tmp_path):
    first = load(folder)
    expected = np.array(first.clips)
    (path,) = (tmp_path / "cache").glob("*/clips-*")
    content = bytearray(path.read_bytes())
    content[-700:-636] = bytes(64)
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(load(folder).clips, expected)


def test_any_fault_of_one_file_is_that_files_rejection(folder, load, monkeypatch):
    read = decoding.read

    def fail(path, **kwargs):
        if path.name == "top.wav":
            raise RuntimeError("out of luck")
        return read(path, **kwargs)

    monkeypatch.setattr(decoding, "read", fail)
    loaded = load(folder)
    assert len(loaded) == 3
    assert loaded.rejected[-1] == {
        "file": "top.wav",
        "reason": "cannot be decoded (RuntimeError: out of luck)",
    }


def truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("pattern", ["clips-*", "index.json"])
@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY\x01\x00garbage"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"pack": "x", "corpus": {"names": 3}}'),
        lambda path: np.save(path.open("wb"), np.zeros((4, 999), np.int16)),
    ],
)
def test_a_damaged_cache_is_rebuilt(folder, load, tmp_path, pattern, damage):
    first = load(folder)
    (path,) = (tmp_path / "cache").glob(f"*/{pattern}")
    damage(path)
    assert_equal(load(folder), load(folder, cache_dir=tmp_path / "fresh"))
    assert load(folder).fingerprint == first.fingerprint
    assert cache_files(tmp_path) == ["clips", "index.json", "lock"]


def test_an_index_that_names_samples_elsewhere_is_not_used(folder, load, tmp_path):
    first = load(folder)
    (index,) = (tmp_path / "cache").glob("*/index.json")
    (pack,) = index.parent.glob("clips-*")
    pack.rename(tmp_path / "cache" / pack.name)
    index.write_text(index.read_text().replace(pack.name, f"../{pack.name}"))
    assert_equal(load(folder), first)
    assert len(list(index.parent.glob("clips-*"))) == 1


def test_an_interrupted_build_leaves_nothing_and_the_next_one_works(folder, load, tmp_path):
    with pytest.MonkeyPatch.context() as patched:

        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        patched.setattr(conditioning, "condition", interrupt)
        with pytest.raises(KeyboardInterrupt):
            load(folder)
    assert cache_files(tmp_path) == ["lock"]
    assert len(load(folder)) == 4


def test_remains_of_a_killed_build_are_removed(folder, load, tmp_path):
    load(folder)
    (directory,) = (tmp_path / "cache").iterdir()
    (directory / "clips-0123.npy.tmp").write_bytes(b"half")
    (directory / "clips-4567.npy").write_bytes(b"whole, but never named")
    write(folder / "new.wav")
    load(folder)
    assert cache_files(tmp_path) == ["clips", "index.json", "lock"]


# Builds that are killed


@pytest.fixture
def killed_after(load, monkeypatch):
    """Builds the pack of a folder until a number of files were decoded; the kill comes then."""

    def build(folder, num):
        left, condition = [num], conditioning.condition

        def die(*args, **kwargs):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return condition(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(conditioning, "condition", die)
            with pytest.raises(KeyboardInterrupt):
                load(folder, num_workers=1)

    return build


def test_a_killed_build_is_gone_on_with(folder, load, killed_after, decoded, tmp_path):
    killed_after(folder, 3)
    assert cache_files(tmp_path) == ["clips", "clips", "lock"]
    decoded.clear()
    resumed = load(folder)
    assert decoded == ["top.wav"]
    assert_equal(resumed, load(folder, cache_dir=tmp_path / "fresh"))
    assert cache_files(tmp_path) == ["clips", "index.json", "lock"]


def test_a_killed_build_is_gone_on_with_when_files_have_changed(
    folder, load, killed_after, decoded, tmp_path
):
    killed_after(folder, 3)
    write(folder / "a-new-one.wav", hz=77)
    write(folder / "kick/a.wav", hz=999, seconds=0.07)
    decoded.clear()
    resumed = load(folder)
    assert "b.wav" not in decoded
    assert {"a-new-one.wav", "a.wav"} <= set(decoded)
    assert_equal(resumed, load(folder, cache_dir=tmp_path / "fresh"))
    assert cache_files(tmp_path) == ["clips", "index.json", "lock"]


@pytest.mark.parametrize("torn", [".journal", ".tmp"])
def test_what_a_power_cut_tore_is_decoded_again(folder, load, killed_after, tmp_path, torn):
    killed_after(folder, 3)
    (path,) = (tmp_path / "cache").glob(f"*/*{torn}")
    path.write_bytes(path.read_bytes()[:-1000] + bytes(990))
    assert_equal(load(folder), load(folder, cache_dir=tmp_path / "fresh"))


# Making room


def test_the_cache_is_listed_and_pruned_by_last_use(folder, load, tmp_path, capsys):
    load(folder)
    load(folder, pack_samples=500)
    for age, entry in enumerate(cache.entries(tmp_path / "cache")):
        os.utime(entry.directory / "index.json", (1e9 + age, 1e9 + age))
        for path in entry.directory.iterdir():
            os.utime(path, (1e9, 1e9))
    load(folder)  # now used last
    (tmp_path / "cache/mine").mkdir()
    (tmp_path / "cache/mine/file").write_text("not of this program")
    old, new = cache.entries(tmp_path / "cache")
    assert (old.num_clips, new.num_clips) == (4, 4)
    assert new.used > old.used
    with pytest.raises(SystemExit):
        main(["--keep", "-1"])
    main(["--keep", str(new.num_bytes / 1e9), "--cache_dir", str(tmp_path / "cache")])
    assert capsys.readouterr().out.count("removed") == 1
    assert [entry.directory for entry in cache.entries(tmp_path / "cache")] == [new.directory]
    assert (tmp_path / "cache/mine/file").exists()


def test_rows_are_read_as_the_map_has_them_also_once_they_are_pruned(folder, load):
    loaded = load(folder)
    rows = np.array([3, 0, 0, 2])
    expected = np.array(loaded.clips[rows])
    np.testing.assert_array_equal(pack.read_rows(loaded.clips, rows), expected)
    part = loaded.clips[1:]  # maps the same file, from elsewhere
    np.testing.assert_array_equal(pack.read_rows(part, rows[:1] - 1), expected[:1])
    os.unlink(loaded.clips.filename)
    np.testing.assert_array_equal(pack.read_rows(loaded.clips, rows), expected)


# Several at once


def test_threads_that_start_together_build_once(folder, load, decoded):
    results = []
    threads = [threading.Thread(target=lambda: results.append(load(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 6
    for result in results[1:]:
        assert_equal(result, results[0])


def test_processes_that_start_together_agree(folder, load, tmp_path):
    for index in range(40):
        write(folder / f"more/{index}.wav", hz=50 + index)
    program = (
        "from vaejax.data.corpus import load_folder\n"
        f"loaded = load_folder({str(folder)!r}, cache_dir={str(tmp_path / 'cache')!r},"
        f" progress=False, **{SETTINGS!r})\n"
        "print(loaded.fingerprint, int(loaded.clips.astype('i8').sum()))\n"
    )
    command = [sys.executable, "-c", program]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in running}
    loaded = load(folder)
    assert outputs == {f"{loaded.fingerprint} {int(loaded.clips.astype('i8').sum())}\n"}
    assert cache_files(tmp_path) == ["clips", "index.json", "lock"]


def test_a_full_disk_is_one_clear_error_and_the_old_cache_survives(
    folder, load, tmp_path, monkeypatch
):
    before = load(folder)
    write(folder / "new.wav")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"^disk full: .* need 14,000 bytes .*data\.cache_dir$"):
            load(folder)
    assert cache_files(tmp_path) == ["clips", "index.json", "lock"]
    (folder / "new.wav").unlink()
    assert_equal(load(folder), before)


def test_too_little_space_is_noticed_before_anything_is_decoded(folder, load, decoded, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=11_999))
    with pytest.raises(OSError, match=r"^disk full: the packed sounds need 12,000 bytes"):
        load(folder)
    assert decoded == []


def test_a_cache_that_cannot_be_written_is_a_clear_error(folder, load, tmp_path):
    (tmp_path / "taken").write_text("a file")
    expected = r"^cannot write the cache in .*taken .*Not a directory.*--data\.cache_dir$"
    with pytest.raises(OSError, match=expected):
        load(folder, cache_dir=tmp_path / "taken")


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VAEJAX_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.default_cache_dir() == tmp_path / ".cache/vaejax"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache.default_cache_dir()) == "/x/vaejax"
    monkeypatch.setenv("VAEJAX_CACHE", "/y")
    assert str(cache.default_cache_dir()) == "/y"


# The built-in set


@pytest.fixture
def synth(monkeypatch):
    """Stands in for the synthesiser; sound 2 is silent. `calls` counts the renderings."""

    def render_set(*, seed, count, sample_rate, num_samples, start=0):
        fake.calls += 1
        fake.first = start
        for start in range(fake.first, count, 3):
            indices = np.arange(start, min(start + 3, count))
            level = np.where(indices == 2, 0, 0.5)[:, None].astype(np.float32)
            phase = (indices[:, None] + 1 + seed) * np.arange(num_samples) / 20
            factors = {"pitch": indices.astype(np.float32) / 3, "noise": np.zeros(len(indices))}
            yield level * np.cos(phase).astype(np.float32), indices % 2, factors, indices

    fake = types.SimpleNamespace(FAMILIES=("kick", "bell"), render_set=render_set, calls=0)
    monkeypatch.setitem(sys.modules, "vaejax.data.synth", fake)
    monkeypatch.setattr(vaejax.data, "synth", fake, raising=False)
    return fake


def test_the_built_in_set_is_packed_with_labels_and_factors(synth, tmp_path):
    options = {"cache_dir": tmp_path, "progress": False, **SETTINGS}
    loaded = load_synth(seed=0, count=5, **options)
    assert loaded.names == ["kick/00000", "bell/00001", "bell/00003", "kick/00004"]
    assert loaded.labels == ["kick", "bell", "bell", "kick"]
    assert loaded.rejected == [{"file": "kick/00002", "reason": "all silence"}]
    assert loaded.source == "synth"
    assert sorted(loaded.factors) == ["noise", "pitch"]
    assert loaded.factors["pitch"].dtype == np.float32
    np.testing.assert_array_equal(
        loaded.factors["pitch"], np.array([0, 1, 3, 4], np.float32) / np.float32(3)
    )
    assert (np.abs(loaded.clips.astype(int)).max(axis=1) == 32767).all()

    again = load_synth(seed=0, count=5, **options)
    assert synth.calls == 1
    assert_equal(again, loaded)
    np.testing.assert_array_equal(again.factors["pitch"], loaded.factors["pitch"])
    assert load_synth(seed=1, count=5, **options).fingerprint != loaded.fingerprint
    assert len(load_synth(seed=0, count=6, **options)) == 5
    assert synth.calls == 3


def test_another_rounding_of_the_built_in_set_is_the_same_set(synth, tmp_path, monkeypatch):
    """Another CPU or version of JAX rounds differently: neither what is held out nor whether a run
    may go on hangs on that."""
    options = {"seed": 0, "count": 5, "progress": False, **SETTINGS}
    here = load_synth(cache_dir=tmp_path / "here", **options)
    render = sys.modules["vaejax.data.synth"].render_set

    def elsewhere(**about):
        for waveforms, *rest in render(**about):
            yield np.asarray(waveforms) * (1 - 2e-4 * np.arange(np.shape(waveforms)[-1])), *rest

    monkeypatch.setattr(sys.modules["vaejax.data.synth"], "render_set", elsewhere)
    there = load_synth(cache_dir=tmp_path / "there", **options)
    assert not np.array_equal(here.clips, there.clips)
    assert there.hashes == here.hashes
    assert there.fingerprint == here.fingerprint


def test_a_killed_rendering_is_gone_on_with(synth, tmp_path, monkeypatch):
    options = {"progress": False, **SETTINGS}
    fsync = os.fsync
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            load_synth(seed=0, count=5, cache_dir=tmp_path / "killed", **options)
    assert os.fsync is fsync
    resumed = load_synth(seed=0, count=5, cache_dir=tmp_path / "killed", **options)
    assert synth.first == 5
    whole = load_synth(seed=0, count=5, cache_dir=tmp_path / "whole", **options)
    assert_equal(resumed, whole)
    np.testing.assert_array_equal(resumed.factors["pitch"], whole.factors["pitch"])


def test_the_version_of_a_source_covers_what_it_imports(tmp_path, monkeypatch):
    data = tmp_path / "vaejax/data"
    data.mkdir(parents=True)
    (data / "synth.py").write_text("from vaejax.data.families import bass\nimport jax\n")
    (data / "families.py").write_text("from vaejax.data import waves\nbass = waves.saw\n")
    (data / "waves.py").write_text("from vaejax.data import families\nsaw = 1\n")  # a circle
    (data / "other.py").write_text("a = 1\n")
    monkeypatch.setattr(corpus, "__file__", str(data / "corpus.py"))
    versions = [corpus._source_hash("vaejax.data.synth")]
    for name in ("synth", "families", "waves", "other"):
        with (data / f"{name}.py").open("a") as file:
            file.write("b = 2\n")
        versions.append(corpus._source_hash("vaejax.data.synth"))
    assert len(set(versions)) == 4
    assert versions[-1] == versions[-2]


def test_the_synthesiser_is_called_as_it_is_written():
    from vaejax.data import synth

    assert all(isinstance(family, str) for family in synth.FAMILIES)
    inspect.signature(synth.render_set).bind(seed=0, count=1, sample_rate=1, num_samples=1)


# Recording


def test_summary_lists_every_file_and_survives_json(folder, load):
    loaded = load(folder)
    held = np.array([False, True, False, False])
    record = json.loads(
        json.dumps(summary(loaded, held_out=held, pitches=np.full(len(loaded), np.nan)))
    )
    assert record["source"] == str(folder)
    assert record["fingerprint"] == loaded.fingerprint
    num_held = int(held.sum())
    assert record["counts"] == {
        "used": 4, "train": 4 - num_held, "held_out": num_held, "rejected": 3
    }  # fmt: skip
    assert record["labels"] == {"deep": 1, "kick": 1, "snare": 1, "sounds": 1}
    assert [row["file"] for row in record["files"]] == loaded.names
    assert record["files"][0]["label"] == "kick"
    assert record["files"][0]["seconds"] == 0.05
    assert [row["split"] == "held_out" for row in record["files"]] == held.tolist()
    assert record["rejected"] == loaded.rejected
