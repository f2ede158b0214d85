"""What the environment asks of JAX: refused in one line, or without a say in the sounds."""

import os
import subprocess
import sys

import pytest


def script(request, name, *argv, **environ):
    return subprocess.run(
        [sys.executable, request.config.rootpath / f"{name}.py", *map(str, argv)],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.parametrize("name", ["train", "sample"])
def test_a_platform_that_is_not_here_is_one_line_with_those_that_are(
    request, name, tiny, trained, folder, tmp_path
):
    command = {
        "train": (*tiny, "--data", folder, "--workdir", tmp_path / "run"),
        "sample": ("--workdir", trained, "--out", tmp_path / "out"),
    }[name]
    done = script(request, name, *command, JAX_PLATFORMS="rocm")
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: JAX_PLATFORMS=rocm: JAX finds no such device here, but ")
    assert "cpu" in line
    assert not (tmp_path / "run").exists()


def test_a_seed_gives_the_same_sounds_whatever_the_environment_says(request, trained, tmp_path):
    made = {}
    settings = {
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_RANDOM_SEED_OFFSET": "7",
    }
    for name, environ in (("plain", {}), ("set", settings)):
        argv = ("--workdir", trained, "--num", 2, "--out", tmp_path / name)
        done = script(request, "sample", *argv, **environ)
        assert done.returncode == 0, done.stderr
        for variable in environ:
            assert f"note: {variable}=" in done.stderr
        made[name] = {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()}
    for name in ("00000.wav", "00001.wav", "manifest.jsonl", "latents.npy"):
        assert made["set"][name] == made["plain"][name], name
