"""Sound files: exact samples, exact bytes, never half a file, never over someone else's."""

import errno
import json
import os
import struct
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc

import numpy as np
import pytest
import soundfile

from vaejax.export import errors, folders, samples, wav, writing

RATE = 44_100


def noise(num_samples=4001, channels=None, dtype=np.int16, seed=0):
    info = np.iinfo(dtype)
    shape = (num_samples,) if channels is None else (num_samples, channels)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def waveform(num_samples=4001):
    return noise(num_samples).clip(-32767) / np.float32(32767)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# --- one file ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [None, 1, 2])
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_int16_comes_out_bit_identical(tmp_path, suffix, channels):
    samples = noise(channels=channels)
    path = tmp_path / f"a{suffix}"
    writing.write_sound(path, samples, RATE, subtype="PCM_16")
    back, rate = soundfile.read(path, dtype="int16")
    assert rate == RATE
    np.testing.assert_array_equal(back, samples[:, 0] if channels == 1 else samples)
    assert soundfile.info(path).subtype == "PCM_16"
    assert files(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_pcm_24_keeps_24_bits_of_int32(tmp_path, suffix):
    samples = noise(dtype=np.int32, channels=2) & ~0xFF
    path = tmp_path / f"a{suffix}"
    writing.write_sound(path, samples, 48_000, subtype="PCM_24")
    back, _ = soundfile.read(path, dtype="int32")
    np.testing.assert_array_equal(back, samples)
    assert soundfile.info(path).subtype == "PCM_24"


def test_float_wav_keeps_float32_and_levels_above_full_scale(tmp_path):
    samples = np.random.default_rng(0).normal(0, 1, (500, 2)).astype(np.float32)
    writing.write_sound(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    back, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_array_equal(back, samples)
    assert soundfile.info(tmp_path / "a.wav").subtype == "FLOAT"


@pytest.mark.parametrize(("subtype", "bits"), [("PCM_16", 16), ("PCM_24", 24)])
def test_floats_are_rounded_to_nearest(tmp_path, subtype, bits):
    samples = np.random.default_rng(0).uniform(-0.99, 0.99, 5000).astype(np.float32)
    writing.write_sound(tmp_path / "a.wav", samples, RATE, subtype=subtype)
    back, _ = soundfile.read(tmp_path / "a.wav", dtype="float64")
    expected = np.rint(samples * np.float32(2 ** (bits - 1) - 1)) / 2 ** (bits - 1)
    np.testing.assert_array_equal(back, expected)


def test_full_scale_does_not_wrap():
    ends = np.array([-1.0, 1.0], np.float32)
    np.testing.assert_array_equal(samples.stored(ends, "PCM_16"), [-32767, 32767])
    np.testing.assert_array_equal(samples.stored(ends, "PCM_24"), [256 - 2**31, 2**31 - 256])


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("num_samples", [1, 1000, 1001])
def test_riff_chunks_are_whole_even_and_sum_up(subtype, num_samples):
    encoded = writing.encode_sound(waveform(num_samples), RATE, suffix=".WAV", subtype=subtype)
    riff, size, wave = struct.unpack("<4sI4s", encoded[:12])
    assert (riff, wave, size) == (b"RIFF", b"WAVE", len(encoded) - 8)
    at, chunks = 12, {}
    while at < len(encoded):
        name, length = struct.unpack("<4sI", encoded[at : at + 8])
        chunks[name] = encoded[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    assert at == len(encoded)
    kind, channels, rate, speed, block, bits = struct.unpack("<HHIIHH", chunks[b"fmt "][:16])
    # Other formats than PCM state the size of an extension.
    assert chunks[b"fmt "][16:] == (b"\0\0" if subtype == "FLOAT" else b"")
    assert (kind, channels, rate) == (3 if subtype == "FLOAT" else 1, 1, RATE)
    assert block == bits // 8
    assert speed == RATE * block
    assert len(chunks[b"data"]) == num_samples * block


def chunks_of(encoded):
    """Names and bodies of the chunks of a RIFF file, in order."""
    at, found = 12, []
    while at < len(encoded):
        name, length = struct.unpack("<4sI", encoded[at : at + 8])
        found.append((name, encoded[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    assert at == len(encoded)
    return found


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_tags_follow_the_samples_in_chunks_of_their_own(tmp_path, subtype):
    samples = waveform(1001)
    tags = wav.Tags("run 12ab, seed 0, index 7", 47.75, (100, 899))
    encoded = writing.encode_sound(samples, RATE, suffix=".wav", subtype=subtype, tags=tags)
    assert struct.unpack("<I", encoded[4:8])[0] == len(encoded) - 8
    names = [name for name, _ in chunks_of(encoded)]
    expected = [b"fmt ", b"fact", b"data", b"smpl", b"LIST"]
    assert names == [n for n in expected if subtype == "FLOAT" or n != b"fact"]
    chunks = dict(chunks_of(encoded))
    smpl = struct.unpack("<9I6I", chunks[b"smpl"])
    # Period in nanoseconds; key 47 and three quarters of a semitone; one loop without data.
    assert smpl[:9] == (0, 0, round(1e9 / RATE), 47, 3 * 2**30, 0, 0, 1, 0)
    assert smpl[9:] == (0, 0, 100, 899, 0, 0)
    assert chunks[b"LIST"][:4] == b"INFO"
    info = dict(chunks_of(b"RIFF\0\0\0\0" + chunks[b"LIST"]))
    assert info[b"ICMT"] == b"run 12ab, seed 0, index 7\0"
    assert info[b"ISFT"].startswith(b"vaejax")
    # A reader that did not write it finds the same samples and texts.
    (tmp_path / "a.wav").write_bytes(encoded)
    with soundfile.SoundFile(tmp_path / "a.wav") as file:
        assert file.comment == tags.comment
        np.testing.assert_allclose(file.read(), samples, atol=2 / 2**15)
        assert "Midi Note    : 47" in file.extra_info
        assert "Start :   100  End :   899" in file.extra_info


@pytest.mark.parametrize(
    ("root", "key", "fraction"),
    [(60, 60, 0), (-3.0, 0, 0), (140.0, 127, 0), (59.9999999999999, 59, 2**32 - 1), (None, 60, 0)],
)
def test_roots_stay_on_the_keyboard(root, key, fraction):
    tags = wav.Tags(root=root, loop=(0, 9))
    encoded = writing.encode_sound(noise(10), RATE, suffix=".wav", subtype="PCM_16", tags=tags)
    assert struct.unpack("<5I", dict(chunks_of(encoded))[b"smpl"][:20])[3:] == (key, fraction)


def test_without_a_root_there_is_no_sampler_chunk_and_without_tags_none_at_all():
    def names(tags):
        encoded = writing.encode_sound(noise(10), RATE, suffix=".wav", subtype="PCM_16", tags=tags)
        return [name for name, _ in chunks_of(encoded)]

    assert names(wav.Tags("from a run")) == [b"fmt ", b"data", b"LIST"]
    assert names(None) == [b"fmt ", b"data"]


def test_flac_says_where_it_comes_from(tmp_path):
    writing.write_sound(tmp_path / "a.flac", noise(), RATE, tags=wav.Tags("index 7", 60.0, (1, 9)))
    with soundfile.SoundFile(tmp_path / "a.flac") as file:
        assert file.comment == "index 7"
        np.testing.assert_array_equal(file.read(dtype="int16"), noise())


def test_bytes_are_the_same_at_another_second():
    kinds = [(".wav", "PCM_16"), (".wav", "FLOAT"), (".flac", "PCM_24")]
    first = [writing.encode_sound(waveform(), RATE, suffix=s, subtype=t) for s, t in kinds]
    time.sleep(1.1)
    assert [writing.encode_sound(waveform(), RATE, suffix=s, subtype=t) for s, t in kinds] == first


@pytest.mark.parametrize(
    ("name", "samples", "subtype", "message"),
    [
        ("a.flac", noise(), "FLOAT", "FLAC holds integers only; use PCM_16"),
        ("a.mp3", noise(), "PCM_16", r"cannot write '\.mp3' files; use one of \.wav, \.flac"),
        ("a.wav", noise(), "PCM_8", "unknown subtype 'PCM_8'; use one of PCM_16"),
        (
            "a.wav",
            noise().astype(np.int64),
            "PCM_16",
            "PCM_16 takes floats or int16",
        ),
        ("a.wav", np.zeros(0, np.int16), "PCM_16", "at least one sample"),
        ("a.wav", np.zeros((2, 3, 4)), "PCM_16", r"shape \(2, 3, 4\)"),
        ("a.wav", np.array([0.0, np.nan, np.inf]), "FLOAT", "2 of 3 samples are NaN or Inf"),
        ("a.wav", np.array([0.0, -1.5]), "PCM_16", r"peak at 1\.5, but PCM_16 holds \[-1, 1\]"),
        ("a.flac", noise(100, channels=9), "PCM_16", "FLAC cannot hold 9 channels at 44100 Hz"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_by_name(tmp_path, name, samples, subtype, message):
    with pytest.raises(ValueError, match=message) as caught:
        writing.write_sound(tmp_path / name, samples, RATE, subtype=subtype)
    assert str(tmp_path / name) in str(caught.value)
    assert files(tmp_path) == []


# --- nothing half ------------------------------------------------------------------------------


def test_full_disk_leaves_no_half_file_and_keeps_the_old_one(tmp_path):
    # A real short write: the system ends the file at 64 KiB, as a full disk would.
    script = f"""
        import pathlib, resource, signal
        import numpy as np
        from vaejax.export import errors, writing
        folder = pathlib.Path({str(tmp_path)!r})
        writing.write_sound(folder / "a.wav", np.full(100, 7, np.int16), 44100, subtype="PCM_16")
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        for name in ("a.wav", "b.wav", "c.flac"):
            try:
                writing.write_sound(folder / name, np.random.default_rng(0).integers(
                    -9999, 9999, 100_000, np.int16), 44100, subtype="PCM_16")
            except errors.WriteError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert len(done.stdout.splitlines()) == 3
    assert f"cannot write {tmp_path / 'b.wav'}: File too large" in done.stdout
    assert files(tmp_path) == ["a.wav"]
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [7] * 100


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EACCES, "no permission to write in"),
        (errno.EROFS, "read-only"),
    ],
)
def test_a_failed_write_says_the_file_the_reason_and_the_way_out(
    tmp_path, monkeypatch, code, words
):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(writing.os, "replace", fail)
    with pytest.raises(errors.WriteError, match=words) as caught:
        writing.write_sound(tmp_path / "a.wav", noise(), RATE, subtype="PCM_16")
    assert str(tmp_path / "a.wav") in str(caught.value)
    assert caught.value.errno == code
    assert files(tmp_path) == []


def test_ctrl_c_while_writing_leaves_no_temporary_file(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        writing.write_sound(tmp_path / "a.wav", noise(), RATE, subtype="PCM_16")
    assert files(tmp_path) == []


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(errors.WriteError, match=r"the folder .*nowhere does not exist"):
        writing.write_sound(tmp_path / "nowhere" / "a.wav", noise(), RATE, subtype="PCM_16")


# --- many files --------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 3])
def test_writer_writes_what_write_sound_writes(tmp_path, num_threads):
    with writing.SoundWriter(RATE, subtype="PCM_16", num_threads=num_threads) as writer:
        for i in range(40):
            writer.submit(tmp_path / f"{i:05d}.wav", noise(200, seed=i))
    assert writer.num_complete == 40
    assert len(files(tmp_path)) == 40
    for i in range(40):
        expected = writing.encode_sound(noise(200, seed=i), RATE, suffix=".wav", subtype="PCM_16")
        assert (tmp_path / f"{i:05d}.wav").read_bytes() == expected


def test_writer_stops_at_the_first_error_and_counts_what_is_complete(tmp_path):
    def work():
        with writing.SoundWriter(RATE, subtype="PCM_16", num_threads=2, max_pending=4) as writer:
            for i in range(10):
                writer.submit(tmp_path / f"{i:05d}.wav", noise(100, seed=i))
            writer.submit(tmp_path / "gone" / "a.wav", noise(100))
            for i in range(10, 10_000):
                writer.submit(tmp_path / f"{i:05d}.wav", noise(100, seed=i))

    with pytest.raises(
        errors.WriteError, match=r"gone does not exist; .* other files are complete"
    ) as caught:
        work()
    complete = files(tmp_path)
    assert f"; {len(complete)} other files are complete" in str(caught.value)
    assert 10 <= len(complete) < 1000
    assert complete[:10] == [f"{i:05d}.wav" for i in range(10)]


def test_writer_raises_at_the_end_when_the_last_sound_fails(tmp_path):
    def work():
        with writing.SoundWriter(RATE, subtype="FLOAT") as writer:
            writer.submit(tmp_path / "a.wav", waveform())
            writer.submit(tmp_path / "b.flac", waveform())

    with pytest.raises(ValueError, match=r"FLAC holds integers only.*; 1 other file is complete"):
        work()
    assert files(tmp_path) == ["a.wav"]


def test_writer_finishes_what_was_submitted_when_interrupted(tmp_path):
    def work():
        with writing.SoundWriter(RATE, subtype="PCM_16", num_threads=1) as writer:
            for i in range(20):
                writer.submit(tmp_path / f"{i:05d}.wav", noise(100))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert len(files(tmp_path)) == 20


def test_writer_leaves_no_thread_behind_and_refuses_work_after_the_end(tmp_path):
    before = threading.active_count()
    with writing.SoundWriter(RATE, subtype="PCM_16", num_threads=4) as writer:
        writer.submit(tmp_path / "a.wav", noise())
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="shutdown"):
        writer.submit(tmp_path / "b.wav", noise())


def test_writer_memory_stays_flat_when_the_disk_is_slow(tmp_path, monkeypatch):
    replace = os.replace

    def slow(*names):
        time.sleep(0.002)
        replace(*names)

    monkeypatch.setattr(writing.os, "replace", slow)
    tracemalloc.start()
    try:
        with writing.SoundWriter(RATE, subtype="PCM_16", num_threads=2, max_pending=8) as writer:
            for i in range(300):  # 26 MB in all.
                writer.submit(tmp_path / f"{i % 20:05d}.wav", np.full(RATE, i, np.int16))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3e6


# --- the output folder -------------------------------------------------------------------------


def earlier_run(folder, names=("00000.wav", "00001_a b.wav")):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.jsonl").open("w") as manifest:
        for i, name in enumerate(names):
            writing.write_sound(folder / name, noise(50), RATE, subtype="PCM_16")
            manifest.write(json.dumps({"index": i, "file": name}) + "\n")
    np.save(folder / "latents.npy", np.zeros((2, 8)))
    (folder / "index.html").write_text(f"<!doctype html>{folders.SHEET_MARK}")
    (folder / "index-2.html").write_text(f"<!doctype html>{folders.SHEET_MARK}")
    return folder


def test_a_missing_folder_is_created_with_parents(tmp_path):
    out = folders.prepare_folder(tmp_path / "a" / "b")
    assert out.is_dir()
    assert folders.prepare_folder(out) == out  # An empty one is fine too.


def test_a_folder_with_sounds_is_refused_with_the_way_out(tmp_path):
    out = earlier_run(tmp_path / "out")
    before = files(out)
    message = "out already holds 2 sounds; choose another --out or pass --overwrite"
    with pytest.raises(errors.WriteError, match=message):
        folders.prepare_folder(out)
    assert files(out) == before


@pytest.mark.parametrize("name", ["manifest.jsonl", "latents.npy", "index.html", "x.FLAC"])
def test_a_folder_with_any_part_of_a_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("x")
    held = "1 sound" if name == "x.FLAC" else name
    with pytest.raises(errors.WriteError, match=f"already holds {held};"):
        folders.prepare_folder(tmp_path)


def test_a_folder_with_other_files_is_used_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    folders.prepare_folder(tmp_path, names=["00000.wav"])
    assert files(tmp_path) == ["notes.txt"]


def test_overwrite_removes_the_earlier_run_and_nothing_else(tmp_path):
    out = earlier_run(tmp_path / "out")
    for name in ("mine.wav", "notes.txt", "indexed.html"):
        (out / name).write_text("mine")
    (out / ".vaejax-partial-12-34").write_text("killed")
    folders.prepare_folder(out, overwrite=True, names=["00000.wav", "00007.wav"])
    assert files(out) == ["indexed.html", "mine.wav", "notes.txt"]


def test_overwrite_refuses_to_replace_a_foreign_file(tmp_path):
    out = earlier_run(tmp_path / "out")
    (out / "00007.wav").write_text("mine")
    before = files(out)
    with pytest.raises(
        errors.WriteError, match=r"00007\.wav is in the way and not from an earlier"
    ):
        folders.prepare_folder(out, overwrite=True, names=["00000.wav", "00007.wav"])
    assert files(out) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("index.html", "<p>my site"),
        ("index-2.html", "<p>my site"),
        ("manifest.jsonl", '{"name": "other"}\n'),
        ("manifest.jsonl", "not json"),
        ("latents.npy", "mine"),
    ],
)
def test_overwrite_refuses_files_of_these_names_by_others(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(errors.WriteError, match=f"{name} is in the way"):
        folders.prepare_folder(tmp_path, overwrite=True)
    assert (tmp_path / name).read_text() == text


def test_overwrite_never_deletes_outside_the_folder(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (elsewhere / "a.wav").write_text("mine")
    (out / "link").symlink_to(elsewhere, target_is_directory=True)
    names = ["../elsewhere/a.wav", str(elsewhere / "a.wav"), "link/a.wav", "notes.txt"]
    (out / "notes.txt").write_text("mine")
    lines = [json.dumps({"index": i, "file": name}) for i, name in enumerate(names)]
    (out / "manifest.jsonl").write_text("\n".join(lines))
    folders.prepare_folder(out, overwrite=True)
    assert (elsewhere / "a.wav").exists()
    assert files(out) == ["link", "notes.txt"]


def test_overwrite_after_a_killed_run_reads_the_manifest_up_to_its_half_line(tmp_path):
    out = earlier_run(tmp_path / "out")
    with (out / "manifest.jsonl").open("a") as manifest:
        manifest.write('{"index": 2, "fi')
    folders.prepare_folder(out, overwrite=True, names=["00000.wav"])
    assert files(out) == []


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(errors.WriteError, match="out is a file, not a folder"):
        folders.prepare_folder(tmp_path / "out")
    with pytest.raises(errors.WriteError, match="a part of that path is a file"):
        folders.prepare_folder(tmp_path / "out" / "deeper")


def test_a_folder_without_write_permission_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(
        writing.os, "access", lambda *_: False
    )  # The super-user may write anywhere.
    with pytest.raises(errors.WriteError, match="no permission to write in"):
        folders.prepare_folder(tmp_path)
