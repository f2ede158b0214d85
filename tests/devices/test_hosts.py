"""Two processes on one machine are one program: one run folder, one folder of sounds."""

import json
import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from vaejax import config as configs
from vaejax.devices import hosts
from vaejax.devices.hosts import Distributed, arguments, slurm_gpus
from vaejax.run import checkpoint
from vaejax.sampling import lists, processes, stream, unfinished
from vaejax.train.state import create_state


def run_two(root, name, *argv):
    """Runs a script as two processes: (exit code, stdout, stderr) of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, str(root / f"{name}.py"), *map(str, argv)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(index),
            },
        )
        for index in range(2)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    return [(p.returncode, out, err) for p, (out, err) in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def root(request):
    return request.config.rootpath


@pytest.fixture(scope="module")
def together(root, tiny, folder, tmp_path_factory):
    """The run of `trained`, by two processes: its folder and what they said."""
    workdir = tmp_path_factory.mktemp("together") / "run"
    done = run_two(root, "train", *tiny, "--data", folder, "--workdir", workdir)
    assert [code for code, *_ in done] == [0, 0], done
    return workdir, done


def metrics(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {(line["split"], line["step"]): line for line in lines}


def test_training_by_two_processes_is_that_of_one(together, trained):
    workdir, _ = together
    ours, alone = metrics(workdir), metrics(trained)
    assert list(ours) == list(alone)
    for at, line in ours.items():
        # Sums over the batch in another order, grown over 30 steps.
        assert line["loss"] == pytest.approx(alone[at]["loss"], rel=1e-3), at
    assert ours["train", 1]["loss"] == pytest.approx(alone["train", 1]["loss"], rel=1e-5)


def test_only_the_first_process_speaks(together):
    _, ((_, first, _), (_, second, errors)) = together
    assert "2 x cpu in 2 processes" in first
    assert "best at step" in first
    assert [line for line in second.splitlines() if "Gloo" not in line] == []
    assert "step/s" not in errors


def test_a_run_of_two_processes_goes_on_in_one(together):
    workdir, _ = together
    config = configs.load(workdir / "config.json")
    assert jax.process_count() == 1
    state, best = checkpoint.Checkpoints(workdir, read_only=True).restore_last(
        lambda: create_state(config)
    )
    assert int(state.step) == config.train.num_steps
    assert best["mel_l1_db"] == min(
        line["mel_l1_db"] for (split, _), line in metrics(workdir).items() if split == "held_out"
    )


def test_what_one_process_began_and_two_finished_are_the_files_of_one(
    together, root, call, monkeypatch, tmp_path
):
    workdir, _ = together
    asked = ("--workdir", workdir, "--num", 40, "--batch_size", 16, "--loop")
    assert call("sample", *asked, "--out", tmp_path / "one").code == 0
    real = stream.batches

    def one_batch(*args, **kwargs):
        yield next(real(*args, **kwargs))
        raise KeyboardInterrupt

    monkeypatch.setattr(stream, "batches", one_batch)
    assert call("sample", *asked, "--out", tmp_path / "two").code == 130
    assert len(list((tmp_path / "two").glob("*.wav"))) == 16
    done = run_two(root, "sample", *asked, "--out", tmp_path / "two")
    assert [code for code, *_ in done] == [0, 0], done
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 43
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_part_survives_its_way_to_the_first_process():
    rng = np.random.default_rng(0)
    pictures = np.zeros(1, unfinished.PICTURE)
    pictures["thumbnail"] = rng.integers(0, 255, pictures["thumbnail"].shape)
    pictures["map"] = rng.normal(size=(1, 2))
    part = lists.Part(
        [{"index": 3, "novelty": 0.1 + 0.2, "loop": None, "file": "ä.wav"}],
        rng.normal(size=(1, 4)).astype(np.float32),
        pictures,
    )
    again = processes.unpack(processes.pack(part))
    assert again.rows == part.rows
    np.testing.assert_array_equal(again.latents, part.latents)
    np.testing.assert_array_equal(again.pictures, part.pictures)
    assert again.latents.dtype == np.float32


def test_what_fails_in_one_process_fails_in_all_with_its_reason(monkeypatch):
    monkeypatch.setattr(hosts, "gather", lambda content: [content, b"errorthe disk is full"])
    with pytest.raises(OSError, match="process 1: the disk is full"):
        list(processes.exchange(None, None))


# Who the others are


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ({}, {}, None),
        ({}, {"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1"}, None),
        ({}, {"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "2"}, {"local_device_ids": None}),
        ({}, {"SLURM_NTASKS": "2"}, None),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({"num_processes": 1}, {"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "2"}, None),
    ],
)
def test_other_processes_are_found_where_a_scheduler_names_them(given, environ, expected):
    assert arguments(Distributed(**given), environ) == expected


def test_given_processes_go_before_those_of_the_environment():
    environ = {
        "JAX_COORDINATOR_ADDRESS": "a:1",
        "JAX_NUM_PROCESSES": "4",
        "JAX_PROCESS_ID": "3",
        "SLURM_STEP_NODELIST": "a",
        "SLURM_NTASKS": "2",
    }
    found = arguments(Distributed(process_id=2), environ)
    assert found == {
        "coordinator_address": "a:1",
        "num_processes": 4,
        "process_id": 2,
        "cluster_detection_method": "deactivate",
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"coordinator": "a:1"}, "--distributed.num_processes is missing"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "must lie from 0 to 1"),
    ],
)
def test_processes_that_cannot_be_are_refused(given, said):
    with pytest.raises(ValueError, match=said):
        arguments(Distributed(**given), {})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        # One task on a node takes all of its GPUs.
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}, [0, 1, 2, 3]),
        # Several share them.
        (
            {
                "CUDA_VISIBLE_DEVICES": "0,1,2,3",
                "SLURM_STEP_TASKS_PER_NODE": "4(x2),2",
                "SLURM_NODEID": "2",
                "SLURM_LOCALID": "1",
            },
            [2, 3],
        ),
        # With --gpus-per-task each sees its own alone.
        (
            {
                "CUDA_VISIBLE_DEVICES": "0",
                "SLURM_STEP_TASKS_PER_NODE": "4",
                "SLURM_LOCALID": "3",
                "SLURM_GPUS_PER_TASK": "1",
            },
            [0],
        ),
    ],
)
def test_tasks_of_slurm_take_the_gpus_that_are_theirs(environ, expected):
    assert slurm_gpus(environ) == expected
