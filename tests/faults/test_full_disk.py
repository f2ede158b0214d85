"""A disk that is full, read-only or gone while training: one line, exit 1, within seconds."""

import os
import resource
import shutil
import subprocess
import sys
import time

import pytest

from vaejax.run.load import load_run
from vaejax.train import tensorboard

# What is left on it, in KiB: the board fails before anything else does, or a checkpoint.
ROOMS = (8, 900)


@pytest.fixture
def small_disk(tmp_path):
    """A file system in memory, and a function that leaves so many KiB free on it."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", place]
        return subprocess.run(command, capture_output=True).returncode == 0

    def leave(kib):
        status = os.statvfs(place)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize // 1024
        assert mount("-o", f"remount,size={used + kib}k")

    if not mount("-o", "size=64m"):
        pytest.skip("file systems can be mounted by root only")
    yield place, leave
    subprocess.run(["umount", "-l", place], check=True)


def train(request, *argv):
    command = [sys.executable, request.config.rootpath / "train.py", *map(str, argv)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("room", ROOMS)
def test_a_disk_that_fills_up_ends_training_in_one_line_with_the_last_checkpoint_whole(
    request, tiny, trained, folder, small_disk, room
):
    disk, leave = small_disk
    run = shutil.copytree(trained, disk / "run")
    leave(room)
    argv = (*tiny, "--data", folder, "--workdir", run, "--train.num_steps", 60)
    process = train(request, *argv)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    (line,) = (text for text in err.splitlines() if text.startswith("error: "))
    assert "the disk is full" in line
    assert len([text for text in err.splitlines() if text.startswith("warning: ")]) <= 1
    loaded = load_run(run)
    assert loaded.step >= 30


def test_a_file_that_may_not_grow_ends_training_in_one_line(
    request, tiny, trained, folder, tmp_path
):
    """Also where nothing can be mounted: no file may be larger than 100 kB."""
    run = shutil.copytree(trained, tmp_path / "run")
    argv = (*tiny, "--data", folder, "--workdir", run, "--train.num_steps", 60)
    process = train(request, *argv)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    (line,) = (text for text in err.splitlines() if text.startswith("error: "))
    assert "File too large" in line
    assert load_run(run).step == 30


def test_a_run_folder_that_vanishes_ends_training_in_one_line(
    request, tiny, trained, folder, tmp_path
):
    run = shutil.copytree(trained, tmp_path / "run")
    argv = (*tiny, "--data", folder, "--workdir", run, "--train.num_steps", 60)
    process = train(request, *argv)
    lines, deadline = (run / "metrics.jsonl").read_text(), time.monotonic() + 300
    while (run / "metrics.jsonl").read_text() == lines and time.monotonic() < deadline:
        time.sleep(0.01)
    run.rename(tmp_path / "elsewhere")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "Traceback" not in err
    assert len([text for text in err.splitlines() if text.startswith("error: ")]) == 1
    assert load_run(tmp_path / "elsewhere").step >= 30


def test_a_read_only_run_folder_is_one_line(call, tiny, trained, folder, small_disk):
    disk, _ = small_disk
    run = shutil.copytree(trained, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = call("train", *tiny, "--data", folder, "--workdir", run, "--train.num_steps", 60)
    assert done.code == 1
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    assert str(run) in line


# A board that fails


class Broken:
    """A file whose disk is full."""

    def write(self, content):
        raise OSError(28, os.strerror(28))

    def close(self):
        pass


def test_training_goes_on_without_a_board_that_fails(
    call, tiny, trained, folder, tmp_path, monkeypatch
):
    real = tensorboard.Board._open

    def broken(board, workdir, step):
        real(board, workdir, step)
        board._file = Broken()

    monkeypatch.setattr(tensorboard.Board, "_open", broken)
    monkeypatch.setattr(tensorboard.embedding, "make_mat", lambda *_: 1 / 0)
    run = shutil.copytree(trained, tmp_path / "run")
    done = call("train", *tiny, "--data", folder, "--workdir", run, "--train.num_steps", 60)
    assert done.code == 0, done.err
    said = [line for line in done.err.splitlines() if "nothing more for TensorBoard" in line]
    assert len(said) == 2  # the events, and the projector
    assert (run / "checkpoints/last/60").is_dir()


def test_a_clock_that_was_set_back_hides_no_events(tmp_path, config, monkeypatch):
    tensorboard.Board(tmp_path, config, 0).close()
    (first,) = (tmp_path / "tensorboard").glob("events.*.[1-9]*")
    ten_years_ago = time.time() - 10 * 365 * 86400
    monkeypatch.setattr(tensorboard.time, "time", lambda: ten_years_ago)
    tensorboard.Board(tmp_path, config, 5).close()
    _, second = sorted((tmp_path / "tensorboard").glob("events.*.[1-9]*"))
    assert first.name < second.name
