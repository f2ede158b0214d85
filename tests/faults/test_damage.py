"""A damaged run folder: what is whole is found, what is not is named with its remedy."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vaejax import config as configs
from vaejax.run import checkpoint
from vaejax.run.load import load_run
from vaejax.train.state import create_state


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a finished run, to damage."""
    return shutil.copytree(trained, tmp_path / "run")


def steps(run, series):
    found = (run / "checkpoints" / series).iterdir()
    return sorted(int(path.name) for path in found if path.name.isdigit())


def damage(folder):
    """Cuts the largest file of a checkpoint in two."""
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


def flip(folder):
    """Another bit in the middle of the largest file of a checkpoint."""
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def short(text):
    assert "Traceback" not in text
    assert all(len(line) < 400 for line in text.splitlines())
    return text


# Checkpoints


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_end(
    call, tiny, trained, folder, run
):
    older, newest = steps(run, "last")
    damage(run / f"checkpoints/last/{newest}")
    done = call("train", *tiny, "--data", folder, "--workdir", run)
    assert done.code == 0, done.err
    said = f"warning: the checkpoint {run}/checkpoints/last/{newest} is damaged; going back to"
    assert f"{said} that of step {older}" in short(done.err)
    assert f"resuming at step {older}" in done.out
    assert "held-out nan" not in done.err
    with np.load(run / "prior.npz") as got, np.load(trained / "prior.npz") as expected:
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])
    assert (run / f"checkpoints/damaged/last-{newest}-0").is_dir()


@pytest.mark.parametrize("spoil", [damage, flip])
def test_damaged_best_weights_are_found_and_mended_from_the_last(
    call, tiny, trained, folder, run, spoil
):
    newest = steps(run, "best")[-1]
    assert newest == steps(run, "last")[-1]
    spoil(run / f"checkpoints/best/{newest}")
    done = call("train", *tiny, "--data", folder, "--workdir", run)
    assert done.code == 0, done.err
    assert f"warning: the checkpoint {run}/checkpoints/best/{newest} is damaged" in short(done.err)
    assert load_run(run).fingerprint == load_run(trained).fingerprint


@pytest.mark.parametrize("what", ["weights", "folder"])
def test_best_weights_that_somebody_removed_are_mended_from_the_last(
    call, tiny, trained, folder, run, tmp_path, what
):
    for step in steps(run, "best"):
        shutil.rmtree(run / f"checkpoints/best/{step}")
    if what == "folder":
        (run / "checkpoints/best").rmdir()
    kept = (run / "fitted.npz").stat().st_mtime_ns
    done = call("sample", "--workdir", run, "--out", tmp_path / "out")
    assert done.code == 1
    assert "has no checkpoint yet" in short(done.err)
    done = call("train", *tiny, "--data", folder, "--workdir", run)
    assert done.code == 0, done.err
    said = f"warning: {run}/checkpoints/best holds no checkpoint; those at hand take its place"
    assert said in short(done.err)
    assert load_run(run).fingerprint == load_run(trained).fingerprint
    assert (run / "fitted.npz").stat().st_mtime_ns == kept


def test_sampling_says_which_weights_it_falls_back_to(run, capsys):
    older, newest = steps(run, "best")
    damage(run / f"checkpoints/best/{newest}")
    assert load_run(run).step == older
    said = short(capsys.readouterr().err)
    assert f"best/{newest} is damaged; going back to that of step {older}" in said
    # Who only reads moves nothing.
    assert steps(run, "best") == [older, newest]


def test_no_whole_weights_are_one_line_with_what_helps(call, run, tmp_path):
    for step in steps(run, "best"):
        damage(run / f"checkpoints/best/{step}")
    done = call("sample", "--workdir", run, "--out", tmp_path / "out")
    assert done.code == 1
    (line,) = (text for text in short(done.err).splitlines() if not text.startswith("warning"))
    assert "is damaged, and there is none before it: the train.py command of this run" in line
    assert not (tmp_path / "out").exists()


def test_no_whole_state_is_one_line(run):
    for step in steps(run, "last"):
        damage(run / f"checkpoints/last/{step}")
    config = configs.load(run / "config.json")
    checkpoints = checkpoint.Checkpoints(run)
    with pytest.raises(ValueError, match="none before it: train again in another --workdir"):
        checkpoints.restore_last(lambda: create_state(config))
    checkpoints.close()


def test_weights_that_are_not_finite_are_not_used(run, capsys):
    older, newest = steps(run, "best")
    place = (run / f"checkpoints/best/{newest}/default").absolute()
    tree = ocp.StandardCheckpointer().restore(place)
    shutil.rmtree(run / f"checkpoints/best/{newest}")
    tree = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), tree)
    options = ocp.CheckpointManagerOptions(create=True)
    with ocp.CheckpointManager((run / "checkpoints/best").absolute(), options=options) as manager:
        manager.save(newest, args=ocp.args.StandardSave(tree))
    assert load_run(run).step == older
    assert f"best/{newest} holds weights that are not finite" in capsys.readouterr().err


# Other files


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def not_finite(path):
    with np.load(path) as stored:
        arrays = dict(stored)
    name = next(n for n in arrays if n in ("means", "statistics.mean"))
    np.savez(path, **{**arrays, name: np.full_like(arrays[name], np.nan)})


@pytest.mark.parametrize("name", ["config.json", "data.json", "fitted.npz", "prior.npz"])
@pytest.mark.parametrize("spoil", [cut, empty])
def test_a_damaged_file_is_named_with_its_remedy(run, name, spoil):
    spoil(run / name)
    with pytest.raises(ValueError, match=r"is damaged .*: remove it, and the train\.py") as error:
        load_run(run)
    assert str(run / name) in str(error.value)


@pytest.mark.parametrize("name", ["fitted.npz", "prior.npz"])
def test_what_is_not_finite_is_refused(run, name):
    not_finite(run / name)
    with pytest.raises(ValueError, match=rf"{name} is damaged .*not finite"):
        load_run(run)


def test_sizes_that_do_not_fit_are_refused(run):
    with np.load(run / "prior.npz") as stored:
        arrays = dict(stored)
    np.savez(run / "prior.npz", **{**arrays, "posteriors.means": arrays["posteriors.means"][:, :3]})
    with pytest.raises(ValueError, match="of different sizes"):
        load_run(run)


def test_the_remedy_helps(call, tiny, trained, folder, run):
    """What was removed, the same command writes anew as it was, and a damaged prior by itself."""
    (run / "config.json").unlink()
    cut(run / "prior.npz")
    done = call("train", *tiny, "--data", folder, "--workdir", run)
    assert done.code == 0, done.err
    assert "prior.npz is damaged" in short(done.err)
    (run / "data.json").unlink()
    done = call("train", *tiny, "--data", folder, "--workdir", run)
    assert done.code == 0, done.err
    after, before = load_run(run), load_run(trained)
    assert after.has_fitted_prior
    assert after.fingerprint == before.fingerprint
    assert after.data == before.data


def test_train_names_a_damaged_config_and_data(call, tiny, folder, run):
    for name in ("data.json", "config.json"):
        cut(run / name)
        done = call("train", *tiny, "--data", folder, "--workdir", run)
        assert done.code == 1
        assert f"error: {run / name} is damaged" in short(done.err)


def test_lines_that_a_kill_cut_off_are_passed_over(run):
    figures = checkpoint.best_figures(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "split": "held_out", "lo')
    assert checkpoint.best_figures(run) == figures
    assert json.loads((run / "data.json").read_text())
