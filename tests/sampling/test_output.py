"""Writing a plan: whole files, a manifest of just those, latents that match, flat in memory."""

import contextlib
import errno
import fcntl
import json
import threading

import jax
import numpy as np
import pytest
import soundfile

from vaejax.cli import Interrupted
from vaejax.export import writing
from vaejax.export.errors import WriteError
from vaejax.export.files import PLAIN
from vaejax.run.load import load_run
from vaejax.sampling import generate, output, plans, stream, unfinished
from vaejax.sampling.curation import Rules


@pytest.fixture(scope="module")
def loaded(trained):
    return load_run(trained)


@pytest.fixture(scope="module")
def write(loaded):
    def write(out, num, **changes):
        plan = plans.from_prior(loaded, num=num, seed=0, temperature=1.0, prior="aggregate")
        if (folder := changes.pop("folder", None)) is not None:  # as --reconstruct has them
            plan = plan._replace(stems=lambda i: f"{folder}/{i:05d}", each=[{}] * num)
        options = {"overwrite": False, "batch_size": 16, "rules": None}
        options |= {k: changes.pop(k) for k in options if k in changes}
        files = PLAIN._replace(**changes)
        return output.write_sounds(loaded, plan, out=out, title="sounds", files=files, **options)

    return write


# Of a folder that the same command goes on with; after Ctrl-C without the latents, which have their
# name by then.
UNDER_WAY = [f".vaejax-partial-{name}" for name in ("latents.npy", "pictures", "run.json")]


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def names(out):
    return sorted(p.name for p in out.iterdir())


def assert_same(out, other):
    assert names(out) == names(other)
    for name in names(out):
        assert (out / name).read_bytes() == (other / name).read_bytes(), name


def wavs(out):
    return sorted(p.name for p in out.glob("*.wav"))


@pytest.fixture
def full_disk(monkeypatch):
    """Lets a number of sounds be written whole, and half of the next."""

    def fill(after):
        left, lock = [after], threading.Lock()
        real_open = open

        class Full:
            def __init__(self, *args, **kwargs):
                self.file = real_open(*args, **kwargs)
                with lock:
                    left[0] -= 1
                    self.full = left[0] < 0

            def __enter__(self):
                return self

            def __exit__(self, *_):
                self.file.close()

            def write(self, data):
                if self.full:
                    self.file.write(bytes(data[: len(data) // 2]))
                    raise OSError(errno.ENOSPC, "No space left on device")
                return self.file.write(data)

        monkeypatch.setattr(writing, "open", Full, raising=False)

    return fill


def test_made_says_how_many_and_how_fast(write, tmp_path):
    made = write(tmp_path / "out", 20)
    assert made.num == 20
    assert made.sounds_per_second > 0
    assert len(wavs(tmp_path / "out")) == len(manifest(tmp_path / "out")) == 20


@pytest.mark.parametrize("num", [1, 16, 17])
def test_last_batch_holds_only_what_is_left(write, tmp_path, num):
    write(tmp_path / "out", num)
    assert wavs(tmp_path / "out") == [f"{i:05d}.wav" for i in range(num)]
    assert np.load(tmp_path / "out/latents.npy").shape == (num, 8)
    assert names(tmp_path / "out") == sorted(
        [*wavs(tmp_path / "out"), "index.html", "latents.npy", "manifest.jsonl"]
    )


def test_latents_file_has_the_header_that_numpy_writes(write, tmp_path):
    write(tmp_path / "out", 17)
    stored = np.load(tmp_path / "out/latents.npy", mmap_mode="r", allow_pickle=False)
    assert stored.dtype == np.dtype("<f4")
    assert np.isfinite(stored).all()
    np.save(tmp_path / "again.npy", stored)
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "out/latents.npy").read_bytes()


@pytest.mark.parametrize("after", [0, 5, 20])
def test_full_disk_keeps_what_is_complete_and_says_so(write, full_disk, tmp_path, after):
    full_disk(after)
    out = tmp_path / "out"
    with pytest.raises(WriteError, match="the disk is full") as caught:
        write(out, 40)
    assert "cannot write " in str(caught.value)
    assert len(wavs(out)) == after
    assert f"{after} other files are complete" in str(caught.value)
    for name in wavs(out):
        assert soundfile.info(out / name).frames == 8000
    assert [row["file"] for row in manifest(out)] == wavs(out)
    assert names(out) == sorted([*wavs(out), *UNDER_WAY, "manifest.jsonl"])


def test_after_a_full_disk_the_same_folder_can_be_overwritten(
    write, full_disk, tmp_path, monkeypatch
):
    full_disk(5)
    with pytest.raises(WriteError):
        write(tmp_path / "out", 40)
    monkeypatch.undo()
    with pytest.raises(WriteError, match="--overwrite"):
        write(tmp_path / "out", 2)
    write(tmp_path / "out", 2, overwrite=True)
    assert wavs(tmp_path / "out") == ["00000.wav", "00001.wav"]


def test_interruption_between_batches_leaves_a_folder_that_agrees_with_itself(
    write, tmp_path, monkeypatch
):
    real = stream.batches

    def two_batches(*args, **kwargs):
        for start, batch in real(*args, **kwargs):
            if start == 32:
                raise KeyboardInterrupt
            yield start, batch

    monkeypatch.setattr(stream, "batches", two_batches)
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="holds the 32 sounds made until then"):
        write(out, 80)
    assert len(wavs(out)) == len(manifest(out)) == 32
    assert np.load(out / "latents.npy").shape == (32, 8)
    assert "00031.wav" in (out / "index.html").read_text()
    assert [name for name in names(out) if name.startswith(".")] == UNDER_WAY[1:]
    monkeypatch.undo()
    write(out, 80)
    write(tmp_path / "whole", 80)
    assert_same(out, tmp_path / "whole")


def test_interruption_within_a_batch_leaves_no_sound_without_its_line(write, tmp_path, monkeypatch):
    real, submitted = writing.SoundWriter.submit, []

    def submit(self, path, *args):
        if len(submitted) == 20:
            raise KeyboardInterrupt
        submitted.append(path.name)
        real(self, path, *args)

    monkeypatch.setattr(output.SoundWriter, "submit", submit)
    out = tmp_path / "out"
    with pytest.raises(Interrupted, match="holds the 20 sounds"):
        write(out, 80)
    assert wavs(out) == submitted
    rows = manifest(out)
    assert [row["file"] for row in rows] == submitted
    # Every line's latent is there, and is the one that its sound was made from.
    stored = np.load(out / "latents.npy")
    assert len(stored) == 32
    monkeypatch.undo()
    write(tmp_path / "whole", 80)
    np.testing.assert_array_equal(stored, np.load(tmp_path / "whole/latents.npy")[:32])


# Several calls of the program at once


def test_as_many_calls_at_once_as_there_are_cores_change_no_byte(write, tmp_path, monkeypatch):
    real, at_work, most = generate.make_decoder, set(), []

    def make_decoder(*args):
        decoder = real(*args)

        def watched(*columns):
            at_work.add(threading.get_ident())
            most.append(len(at_work))
            made = jax.block_until_ready(decoder(*columns))
            at_work.remove(threading.get_ident())
            return made

        return watched

    monkeypatch.setattr(generate, "make_decoder", make_decoder)
    for calls in (1, 3):
        monkeypatch.setattr(stream, "MAX_PROGRAMS", calls)
        monkeypatch.setattr(stream.os, "cpu_count", lambda calls=calls: calls)
        most.clear()
        write(tmp_path / str(calls), 128, batch_size=64)
        # The first one is alone: it compiles.
        assert most[0] == 1
        assert (max(most) > 1) == (calls > 1)
    assert_same(tmp_path / "1", tmp_path / "3")


def test_a_call_that_fails_ends_the_command_and_the_folder_can_be_gone_on_with(
    write, tmp_path, monkeypatch
):
    real, calls = generate.make_decoder, []

    def make_decoder(*args):
        def failing(*columns):
            calls.append(columns)
            if len(calls) == 6:
                raise MemoryError("out of memory")
            return real(*args)(*columns)

        return failing

    monkeypatch.setattr(generate, "make_decoder", make_decoder)
    with pytest.raises(MemoryError, match="out of memory"):
        write(tmp_path / "out", 480, batch_size=64)
    # What was waiting is not worked through first.
    assert len(calls) < 20
    monkeypatch.undo()
    write(tmp_path / "out", 480, batch_size=64)
    write(tmp_path / "whole", 480, batch_size=64)
    assert_same(tmp_path / "out", tmp_path / "whole")


# Going on


@pytest.fixture
def killed(write, full_disk, monkeypatch):
    """A folder as a kill leaves it: a full disk does it, and is free again."""

    def kill(out, num, after, **changes):
        full_disk(after)
        monkeypatch.setattr(output, "keep_complete", lambda out: 0)
        with pytest.raises(WriteError, match="then the same command goes on"):
            write(out, num, **changes)
        monkeypatch.undo()
        assert len(wavs(out)) == after

    return kill


def test_what_is_missing_or_torn_is_made_again(write, killed, tmp_path):
    out = tmp_path / "out"
    killed(out, 40, 20)
    (out / "00007.wav").unlink()
    (out / "00011.wav").write_bytes(b"")
    with (out / "manifest.jsonl").open("a") as file:
        file.write('{"index": 32, "fi')
    with (out / UNDER_WAY[0]).open("ab") as file:
        file.write(b"half a latent")
    (out / ".vaejax-partial-17-4").write_bytes(b"half a sound")
    kept = {name: (out / name).stat().st_mtime_ns for name in wavs(out) if name != "00011.wav"}
    write(out, 40)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    write(tmp_path / "whole", 40)
    assert_same(out, tmp_path / "whole")


def test_a_run_that_is_killed_again_before_it_has_made_a_sound_goes_on_too(
    write, killed, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    killed(out, 40, 20)
    (out / "00007.wav").unlink()
    command = json.loads((out / UNDER_WAY[2]).read_text())["command"]
    with monkeypatch.context() as patched:
        patched.setattr(unfinished, "identity", lambda *_: command)
        with contextlib.closing(unfinished.Folder(out, None, title="")) as folder:
            folder.open()
            begun = folder.resume(128, 8)  # as its header is
    assert begun.num == 7
    assert "00008.wav" in begun.later
    kept = {name: (out / name).stat().st_mtime_ns for name in wavs(out)}
    write(out, 40)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    write(tmp_path / "whole", 40)
    assert_same(out, tmp_path / "whole")


@pytest.mark.parametrize("torn", [b"", b'{"comm'])
def test_what_ended_before_it_had_said_what_it_makes_is_begun_anew(write, tmp_path, torn):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / UNDER_WAY[2]).write_bytes(torn)
    write(tmp_path / "out", 4)
    write(tmp_path / "whole", 4)
    assert_same(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize(
    "lost", [("manifest.jsonl", *UNDER_WAY[:2]), UNDER_WAY[:1], UNDER_WAY[1:2]]
)
def test_lists_that_were_not_there_yet_are_made(write, killed, tmp_path, lost):
    out = tmp_path / "out"
    killed(out, 20, 0)
    for name in lost:
        (out / name).unlink()
    write(out, 20)
    write(tmp_path / "whole", 20)
    assert_same(out, tmp_path / "whole")


@pytest.mark.parametrize("overwrite", [False, True])
def test_half_a_sound_in_a_subfolder_is_removed_too(write, full_disk, tmp_path, overwrite):
    out = tmp_path / "out"
    full_disk(7)
    with pytest.raises(WriteError):
        write(out, 20, folder="sub")
    full_disk(1000)
    (out / "sub/.vaejax-partial-17-4").write_bytes(b"half a sound")
    write(out, 20, folder="sub", overwrite=overwrite, **({"dither": "none"} if overwrite else {}))
    assert names(out / "sub") == [f"{i:05d}.wav" for i in range(20)]


@pytest.mark.parametrize("file", ["../mine.txt", "link/mine.txt"])
def test_a_manifest_that_names_a_file_elsewhere_is_not_gone_on_with(write, killed, tmp_path, file):
    out = tmp_path / "out"
    killed(out, 40, 20)
    (tmp_path / "mine.txt").touch()  # a file without content is made again, as after a power cut
    (out / "link").symlink_to(tmp_path)
    with (out / "manifest.jsonl").open("a") as manifest:
        manifest.write(json.dumps({"index": 32, "file": file}) + "\n")
    with pytest.raises(WriteError, match=rf"manifest\.jsonl names the file '{file}'"):
        write(out, 40)
    assert (tmp_path / "mine.txt").exists()


def test_chosen_sounds_go_on_with_the_same_choice(write, killed, tmp_path):
    rules = Rules(unique=0.3, best_of=2)
    killed(tmp_path / "out", 20, 7, rules=rules)
    resumed = write(tmp_path / "out", 20, rules=rules)
    whole = write(tmp_path / "whole", 20, rules=rules)
    assert_same(tmp_path / "out", tmp_path / "whole")
    assert resumed.curation.explain() == whole.curation.explain()
    assert resumed.num == 20


def test_everything_but_the_end_is_there(write, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def fail(*_):
        raise WriteError("no room for the archive")

    with monkeypatch.context() as patched:
        patched.setattr(output.pack, "pack", fail)
        with pytest.raises(WriteError, match="no room"):
            write(out, 20, names="label", sfz=True, archive=True)
    write(out, 20, names="label", sfz=True, archive=True)
    (tmp_path / "other").mkdir()
    write(tmp_path / "other/out", 20, names="label", sfz=True, archive=True)
    assert_same(out, tmp_path / "other/out")
    assert (tmp_path / "out.zip").read_bytes() == (tmp_path / "other/out.zip").read_bytes()


def test_another_command_does_not_go_on_unless_it_overwrites(write, killed, tmp_path):
    out = tmp_path / "out"
    killed(out, 40, 20)
    before = names(out)
    for other in ({"dither": "none"}, {"rules": Rules(best_of=2)}):
        with pytest.raises(WriteError, match="holds an unfinished run of another command"):
            write(out, 40, **other)
    assert names(out) == before
    write(out, 2, overwrite=True)
    assert wavs(out) == ["00000.wav", "00001.wav"]
    assert not [name for name in names(out) if name.startswith(".")]


def test_a_file_of_someone_else_is_not_written_over_when_a_run_goes_on(write, killed, tmp_path):
    out = tmp_path / "out"
    killed(out, 80, 20)
    (out / "00070.wav").write_bytes(b"mine")
    with pytest.raises(WriteError, match=r"00070\.wav is in the way"):
        write(out, 80)
    assert (out / "00070.wav").read_bytes() == b"mine"


def test_two_processes_do_not_write_to_one_folder(write, killed, tmp_path):
    out = tmp_path / "out"
    killed(out, 40, 20)
    with (out / UNDER_WAY[2]).open() as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        with pytest.raises(WriteError, match="another process is writing"):
            write(out, 40)


# Batches


@pytest.mark.parametrize(
    ("memory", "expected"),
    [
        (None, 32),
        ({}, 32),
        ({"bytes_limit": 80 * 2**30, "bytes_in_use": 2**30}, 2**28 // 100_000 // 16 * 16),
        (
            {"bytes_limit": 300 * 2**20, "bytes_in_use": 100 * 2**20},
            25 * 2**20 // 100_000 // 16 * 16,
        ),
        ({"bytes_limit": 2**20, "bytes_in_use": 2**20}, 16),
    ],
)
def test_batches_fit_the_devices_memory(memory, expected):
    assert stream.automatic_batch(100_000, memory, chunk=16) == expected


def test_foreign_page_is_refused_before_anything_is_made(write, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/index.html").write_text("mine")
    with pytest.raises(WriteError, match=r"index\.html is in the way"):
        write(tmp_path / "out", 16, overwrite=True)
    assert names(tmp_path / "out") == ["index.html"]
