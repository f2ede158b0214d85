"""Exports: what other programs read of a run is what vaejax plays, and no file is lost or half."""

import contextlib
import io
import json
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import vaejax
from vaejax import cli
from vaejax.export import __main__ as export
from vaejax.export import weights

# Run as docs/export.md has it, where nothing of vaejax can be imported.
PAGE = Path(__file__).resolve().parents[2] / "docs/export.md"


def call(*argv):
    """Runs the command in this process -> exit code and what it said on stderr."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["export", *map(str, argv)])
        with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as stop:
            cli.run(export.main)
    return stop.value.code, err.getvalue()


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """A folder with sounds.zip (stablehlo) and sounds.npz of the shared run."""
    folder = tmp_path_factory.mktemp("exported")
    for kind, name in (("stablehlo", "sounds.zip"), ("npz", "sounds.npz")):
        code, err = call("--workdir", trained, "--to", kind, "--out", folder / name)
        assert code == 0, err
    return folder


def test_the_page_s_script_plays_the_run_s_own_sounds_without_vaejax(exported, trained):
    fence = "```python\n"
    script = PAGE.read_text().split(fence)[1].split("```")[0]
    assert sum(map(bool, script.split("\n"))) <= 10
    code = "import sys; sys.modules['vaejax'] = None\n" + script + "\nnp.save('heard.npy', sounds)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=exported, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    heard = np.load(exported / "heard.npy")
    run = vaejax.load(trained)
    expected = run.sample(jax.random.key(0), len(heard))
    # Products of another batch size round differently, and phases turn that into a little more.
    assert np.sqrt(np.mean((heard - expected) ** 2) / np.mean(expected**2)) < 1e-2


def test_the_encoder_finds_the_latents_that_vaejax_finds(exported, trained):
    run = vaejax.load(trained)
    clips = np.random.default_rng(0).uniform(-1, 1, (3, run.config.data.num_samples))
    clips = (clips / np.abs(clips).max(1, keepdims=True)).astype(np.float32)
    with zipfile.ZipFile(exported / "sounds.zip") as archive:
        given = dict(np.load(io.BytesIO(archive.read("weights.npz"))))
        encode = jax.export.deserialize(bytearray(archive.read("encode.bin")))
    assert encode.platforms == ("cpu", "cuda", "tpu")
    facts = np.zeros((3, run.vocabulary.num_facts), np.float32)
    for ours, theirs in zip(run.encode(clips), encode.call(given, clips, facts), strict=True):
        np.testing.assert_allclose(theirs, ours, atol=1e-3)


def test_npz_has_every_array_of_the_run_and_says_what_it_is(exported, trained):
    run = vaejax.load(trained)
    with np.load(exported / "sounds.npz") as stored:
        about = json.loads(str(stored["manifest"]))
        arrays = {name: stored[name] for name in stored.files if name != "manifest"}
    expected = weights.named(weights.parts_of(run))
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[name], expected[name]) for name in expected)
    assert about["sample_rate"] == run.config.data.sample_rate
    assert about["fingerprint"] == run.fingerprint
    assert about["versions"]["jax"] == jax.__version__


def test_the_same_run_gives_the_same_bytes(exported, trained, tmp_path):
    assert call("--workdir", trained, "--out", tmp_path / "again.npz")[0] == 0
    assert (tmp_path / "again.npz").read_bytes() == (exported / "sounds.npz").read_bytes()


def test_a_file_that_exists_stays_as_it_is(trained, tmp_path):
    (tmp_path / "mine").write_text("kept")
    code, err = call("--workdir", trained, "--out", tmp_path / "mine")
    assert (code, err.count("\n")) == (1, 1)
    assert "exists; choose another --out" in err
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        ((), 2, "--out FILE is missing"),
        (("--out", "x", "--to", "wav"), 2, "invalid choice 'wav' for argument '--to'"),
        (("--out", "no/such/x"), 1, "no folder no/such to write x to"),
        (("--out", "x", "--workdir", "nowhere"), 1, "no run in nowhere: train one first"),
    ],
)
def test_bad_input_is_one_line(argv, code, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, err = call(*argv)
    assert (found, err.count("\n")) == (code, 1)
    assert said in err
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_is_one_line_and_leaves_no_file(trained, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    for entry in trained.iterdir():
        if entry.name != "prior.npz":
            (workdir / entry.name).symlink_to(entry)
    code, err = call("--workdir", workdir, "--out", tmp_path / "x.npz")
    assert (code, err.count("\n")) == (1, 1)
    assert "is not finished: let its train.py command end" in err
    assert not (tmp_path / "x.npz").exists()


def test_a_failed_write_leaves_nothing(trained, tmp_path, monkeypatch):
    def broken(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights, "np", types.SimpleNamespace(**{**vars(np), "savez": broken}))
    code, err = call("--workdir", trained, "--out", tmp_path / "x.npz")
    assert code == 1
    assert "the disk is full" in err
    assert not list(tmp_path.iterdir())
