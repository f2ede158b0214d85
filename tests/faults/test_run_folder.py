"""The run folder: whose it is, who trains in it, and what a killed training left there."""

import json
import shutil
import subprocess
import sys

import pytest

from vaejax import config as configs
from vaejax import files
from vaejax.run import folder as run_folder


def one_line(done, *words):
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    (line,) = done.err.strip().splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line


# One at a time


def test_a_second_training_in_a_folder_is_refused_and_touches_nothing(
    call, tiny, trained, folder, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with run_folder.hold(run):
        done = call("train", *tiny, "--data", folder, "--workdir", run, "--train.num_steps", 60)
    one_line(done, f"another process is training in {run}", "--workdir")
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before


def test_the_lock_ends_with_its_holder_even_by_kill_9(tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from vaejax.run import folder as run_folder\n"
        "with run_folder.hold(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    run = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", program, run], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(ValueError, match="another process"), run_folder.hold(run):
        pass
    holder.kill()
    holder.wait()
    with run_folder.hold(run):
        pass


def test_a_training_that_never_began_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no sounds"), run_folder.hold(tmp_path / "run"):
        raise ValueError("no sounds")
    assert not (tmp_path / "run").exists()


# What is left by a kill

LEFT = (
    *(".fitted.npz-a1b2c3d4", ".prior.npz-abcdefg_", ".metrics.jsonl-12345678"),
    *(".config.json-1a2b3c4d", ".sweep.json-1a2b3c4d", ".vaejax-shared-1a2b3c4d"),
)
NOT_OURS = (
    ".fitted.npz-ABCDEFGH",
    ".fitted.npz-short",
    ".notes.txt-abcdefgh",
    "fitted.npz-a1b2c3d4",
)


def test_the_next_start_removes_what_a_kill_left_and_nothing_else(
    call, tiny, trained, folder, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    for name in LEFT + NOT_OURS:
        (run / name).write_text("left")
    done = call("train", *tiny, "--data", folder, "--workdir", run)
    assert done.code == 0, done.err
    assert not [name for name in LEFT if (run / name).exists()]
    assert all((run / name).exists() for name in NOT_OURS)


def test_what_another_process_is_writing_stays(tmp_path):
    def clean_meanwhile(file):
        files.clean(tmp_path, ("a.json",))
        file.write(b"whole")

    files.replace(tmp_path / "a.json", clean_meanwhile)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"whole"


@pytest.mark.parametrize("name", ["a.sfz", "x" * 240 + ".sfz", "ä[b]*?.sfz"])
def test_names_of_any_kind_are_written_and_cleaned(tmp_path, name):
    killed = []

    def killed_write(file):
        killed.append(file.name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.replace(tmp_path / name, killed_write)
    assert list(tmp_path.iterdir()) == []
    files.replace(tmp_path / name, lambda file: file.write(b"1"))
    (tmp_path / f".{name[-40:]}-abcd_123").write_text("left")
    files.clean(tmp_path, ("*.sfz",))
    assert [path.name for path in tmp_path.iterdir()] == [name]


# A folder of someone else


@pytest.mark.parametrize(
    "content",
    [
        {"config.json": "{}", "data.json": '{"mine": 1}'},
        {"config.json": "[]"},
        {"config.json": '{"data": 1, "model": 2, "train": 3}'},
        {"data.json": '{"mine": 1}'},
        {"data.json": "no json"},
        {"metrics.jsonl": '{"step": 1}\n'},
        {"fitted.npz": "theirs"},
        {"checkpoints/model.pt": "theirs"},
    ],
    ids=lambda content: "-".join(content),
)
def test_a_folder_of_another_program_is_refused_and_stays(tmp_path, content):
    for name, text in content.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=str(tmp_path)), run_folder.hold(tmp_path):
        run_folder.check(configs.Config(), tmp_path)
    there = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert there == set(content)
    assert all((tmp_path / name).read_text() == text for name, text in content.items())


def test_a_folder_of_another_program_is_one_line_of_train(call, tiny, folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "data.json").write_text('{"mine": 1}')
    done = call("train", *tiny, "--data", folder, "--workdir", tmp_path)
    one_line(done, str(tmp_path / "config.json"), "choose another --workdir")
    assert json.loads((tmp_path / "data.json").read_text()) == {"mine": 1}
