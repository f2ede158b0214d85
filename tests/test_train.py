"""train.py from outside: end to end, interrupted and resumed, and what it refuses."""

import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import soundfile

from vaejax import interrupts

NUM_STEPS = 30


@pytest.fixture(autouse=True)
def no_signal_handlers_left():
    handlers = [signal.getsignal(number) for number in interrupts.SIGNALS]
    yield
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == handlers


def lines(workdir, split=None):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if split in (None, row["split"])]


def steps_saved(workdir, series):
    folder = workdir / "checkpoints" / series
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def arrays(workdir):
    """Everything learnt: the last state, the best weights, the prior."""
    last, best = steps_saved(workdir, "last")[-1], steps_saved(workdir, "best")[-1]
    parts = {
        "state": workdir / "checkpoints/last" / str(last) / "state",
        "best": workdir / "checkpoints/best" / str(best) / "default",
    }
    trees = {k: ocp.StandardCheckpointer().restore(v.absolute()) for k, v in parts.items()}
    with np.load(workdir / "prior.npz") as prior:
        return {**trees, "steps": (last, best), "prior": dict(prior)}


def assert_same_run(left, right):
    left, right = arrays(left), arrays(right)
    assert left["steps"] == right["steps"]
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def wait_for(process, condition):
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def last_logged(workdir):
    try:
        rows = (workdir / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(r)["step"] for r in rows), default=0)
    except (OSError, ValueError):
        return 0


def assert_one_line(done, code, *words):
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    (line,) = [row for row in done.err.splitlines() if row.startswith("error: ")]
    for word in words:
        assert word in line
    assert done.err.strip().endswith(line)


# End to end


def test_training_stops_when_patience_is_over_and_is_finished_then(call, tiny, tmp_path, folder):
    command = ("train", *tiny, "--data", folder, "--workdir", tmp_path / "run")
    # Weights that do not move never get better.
    command += ("--train.learning_rate", "1e-30", "--train.patience", "1")
    done = call(*command)
    assert done.code == 0, done.err
    assert last_logged(tmp_path / "run") == 10
    assert "stopped at step 10 of 30: held-out audio was best at step 0 (" in done.out
    assert "prior: " in done.out
    assert steps_saved(tmp_path / "run", "best") == [0]
    again = call(*command, "--train.num_steps", 40)
    assert again.code == 0, again.err
    assert "is finished at step 10" in again.out
    assert "go on with more --train.patience than 1" in again.out


def test_run_folder_holds_what_the_layout_promises(trained, folder):
    config = json.loads((trained / "config.json").read_text())
    assert config["data"]["source"] == str(folder)
    assert config["model"]["latent_dim"] == 8
    assert config["data"]["sample_rate"] == 16_000
    data = json.loads((trained / "data.json").read_text())
    assert data["counts"]["used"] == 48
    assert data["labels"] == {"bass": 16, "bell": 16, "soft": 16}
    assert data["rejected"] == []
    assert steps_saved(trained, "last") == [NUM_STEPS - 5, NUM_STEPS]
    assert len(steps_saved(trained, "best")) in (1, 2)
    assert list((trained / "tensorboard").glob("events.*"))
    assert (trained / "fitted.npz").exists()
    assert (trained / "prior.npz").exists()


def test_nothing_in_the_run_folder_is_pickled(trained):
    for path in trained.rglob("*"):
        assert path.suffix not in (".pkl", ".pickle", ".pt"), path
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                assert all(stored[name].dtype.kind in "fiubU" for name in stored)


def test_metrics_have_a_line_for_every_logged_step(trained):
    train, held_out = lines(trained, "train"), lines(trained, "held_out")
    assert [row["step"] for row in train] == list(range(1, NUM_STEPS + 1))
    assert [row["step"] for row in held_out] == [0, 10, 20, 30]
    for name in ("loss", "recon", "kl", "beta", "sigma", "grad_norm", "learning_rate"):
        assert all(np.isfinite(row[name]) for row in train), name
    assert all(row["clips_per_second"] > 0 for row in train)
    for name in ("loss", "recon", "kl", "mel_l1_db", "lsd_db", "active_units"):
        assert all(np.isfinite(row[name]) for row in held_out), name


def test_held_out_loss_falls_on_tiny(trained):
    losses = [row["loss"] for row in lines(trained, "held_out")]
    assert losses[-1] < 0.99 * losses[0]
    assert losses[-1] == min(losses)


def test_the_same_command_on_a_finished_run_says_so(call, tiny, trained, folder):
    before = (trained / "metrics.jsonl").read_bytes()
    done = call("train", *tiny, "--data", folder, "--workdir", trained)
    assert done.code == 0
    assert f"{trained} is finished at step {NUM_STEPS}" in done.out
    assert f"python sample.py --workdir {trained}" in done.out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_goes_on_with_more_steps(call, tiny, trained, folder, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    argv = [*tiny, "--data", folder, "--workdir", tmp_path / "run"]
    done = call("train", *argv, "--train.num_steps", NUM_STEPS + 2)
    assert done.code == 0, done.err
    assert f"resuming at step {NUM_STEPS}" in done.out
    assert [row["step"] for row in lines(tmp_path / "run", "train")] == list(
        range(1, NUM_STEPS + 3)
    )


def test_unusable_files_are_named_and_the_rest_trains(call, tiny, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "mixed")
    (tmp_path / "mixed/bass/broken.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt ")
    soundfile.write(tmp_path / "mixed/bass/silent.wav", np.zeros(1000), 8000)
    run = tmp_path / "run"
    argv = ["--train.num_steps", 1, "--train.warmup_steps", 0, "--workdir", run]
    done = call("train", *tiny, "--data", tmp_path / "mixed", *argv)
    assert done.code == 0, done.err
    assert "2 files rejected" in done.out
    rejected = json.loads((run / "data.json").read_text())["rejected"]
    assert [row["file"] for row in rejected] == ["bass/broken.wav", "bass/silent.wav"]
    assert all(row["reason"] for row in rejected)


def test_the_built_in_set_trains_with_its_factors_listed_and_told(call, tiny, tmp_path):
    argv = ["--data.synth_count", 32, "--train.num_steps", 1, "--workdir", tmp_path / "run"]
    told = ["--condition.label", "--condition.pitch", "--condition.factors", "decay"]
    done = call("train", *tiny, *argv, *told)
    assert done.code == 0, done.err
    assert "told of: label (32), pitch (26), decay (32)" in done.out
    data = json.loads((tmp_path / "run/data.json").read_text())
    assert data["source"] == "synth"
    assert data["counts"]["used"] == 32
    assert len(data["labels"]) >= 12
    files = data["files"]
    assert all({"pitch", "brightness", "attack", "decay"} <= row["factors"].keys() for row in files)
    pitched = {row["label"] for row in files if row["pitch"] is not None}
    assert "bass" in pitched
    assert "hat" not in pitched
    # What is told stands in the manifest, and the same sounds are made again from there.
    argv = [
        "--workdir",
        tmp_path / "run",
        "--label",
        "bell",
        "--pitch",
        "C5-D5",
        "--tell",
        "decay=2",
    ]
    done = call("sample", *argv, "--num", 2, "--multisample", "--sfz", "--out", tmp_path / "a")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (tmp_path / "a/manifest.jsonl").read_text().splitlines()]
    assert [row["pitch"] for row in rows] == [72, 73, 74] * 2
    assert {row["label"] for row in rows} == {"bell"}
    assert {row["told"]["decay"] for row in rows} == {2.0}
    instruments = sorted(path.name for path in (tmp_path / "a").glob("*.sfz"))
    assert len(instruments) == 2
    manifest = tmp_path / "a/manifest.jsonl"
    done = call("sample", *argv[:2], "--redo", manifest, "--index", 4, "--out", tmp_path / "b")
    assert done.code == 0, done.err
    again = tmp_path / "b" / rows[4]["file"]
    assert again.read_bytes() == (tmp_path / "a" / rows[4]["file"]).read_bytes()
    done = call("sample", *argv[:2], "--tell", "attack=1", "--out", tmp_path / "c")
    assert done.code == 1
    assert "cannot be told attack; it was told label, pitch, decay" in done.err
    assert not (tmp_path / "c").exists()


# Interrupted and resumed


def test_a_run_stopped_by_sigterm_and_by_a_closed_terminal_ends_as_one_that_was_not(
    start, call, tiny, trained, folder, tmp_path
):
    run = tmp_path / "run"
    argv = [*tiny, "--data", folder, "--workdir", run]
    reached = 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        process = start("train", *argv)
        wait_for(process, lambda at=reached: last_logged(run) > at)
        process.send_signal(number)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 130, err
        saved = steps_saved(run, "last")[-1]
        assert reached < saved < NUM_STEPS
        assert f"interrupted at step {saved}; saved" in err
        assert "Traceback" not in err
        reached = saved
    done = call("train", *argv)
    assert done.code == 0, done.err
    assert f"resuming at step {reached}" in done.out
    assert_same_run(run, trained)
    assert [row["step"] for row in lines(run, "train")] == list(range(1, NUM_STEPS + 1))


def test_a_killed_run_ends_as_one_that_was_not(start, call, tiny, trained, folder, tmp_path):
    run = tmp_path / "run"
    argv = [*tiny, "--data", folder, "--workdir", run]
    process = start("train", *argv)
    last = run / "checkpoints/last"
    wait_for(process, lambda: last.is_dir() and steps_saved(run, "last"))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (run / "prior.npz").exists()
    done = call("train", *argv)
    assert done.code == 0, done.err
    assert re.search(r"resuming at step [1-9]", done.out)
    assert_same_run(run, trained)
    assert [row["step"] for row in lines(run, "train")] == list(range(1, NUM_STEPS + 1))


# A loss that is not finite


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    call, tiny, folder, tmp_path
):
    run = tmp_path / "run"
    argv = [*tiny, "--data", folder, "--workdir", run, "--train.learning_rate", 1e30]
    # A checkpoint at every step, and lines of metrics only after many: it must not be overwritten
    # by a bad state in between.
    argv += ["--train.save_every_steps", 1, "--train.log_every_steps", 10]
    done = call("train", *argv)
    assert_one_line(done, 1, "the loss is not finite at step ", "--train.learning_rate than 1e+30")
    bad = int(re.search(r"not finite at step (\d+)", done.err)[1])
    good = int(re.search(r"last good checkpoint is at step (\d+)", done.err)[1])
    assert good == steps_saved(run, "last")[-1]
    assert good == bad  # the state before the step that failed
    state = ocp.StandardCheckpointer().restore(
        (run / "checkpoints/last" / str(good) / "state").absolute()
    )
    assert int(state["first_bad_step"]) == -1
    assert "NaN" not in (run / "metrics.jsonl").read_text()


# What is refused


def test_a_config_of_another_program_stays(call, tiny, folder, tmp_path):
    (tmp_path / "config.json").write_text('{"theirs": 1}')
    done = call("train", *tiny, "--data", folder, "--workdir", tmp_path)
    assert_one_line(done, 1, str(tmp_path / "config.json"), "choose another --workdir")
    assert (tmp_path / "config.json").read_text() == '{"theirs": 1}'


def test_another_config_is_refused_naming_the_field(call, tiny, trained, folder):
    argv = [*tiny, "--data", folder, "--workdir", trained, "--model.width", "48"]
    done = call("train", *argv)
    assert_one_line(done, 1, str(trained), "model.width was 32, is 48", "choose another --workdir")
    assert json.loads((trained / "config.json").read_text())["model"]["width"] == 32


def test_another_preset_is_refused_naming_its_fields(call, trained, folder):
    done = call("train", "--config", "workshop", "--data", folder, "--workdir", trained)
    assert_one_line(done, 1, "data.sample_rate was 16000, is 44100", "features.n_fft was 512")


def test_changed_sounds_are_noticed(call, tiny, trained, folder, tmp_path):
    changed = tmp_path / "tones"
    shutil.copytree(folder, changed)
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = json.loads((run / "config.json").read_text())
    config["data"]["source"] = str(changed)
    (run / "config.json").write_text(json.dumps(config))
    same = call("train", *tiny, "--data", changed, "--workdir", run)
    assert same.code == 0, same.err
    soundfile.write(changed / "bass/new.wav", np.sin(np.arange(4000)) * 0.3, 8000)
    done = call("train", *tiny, "--data", changed, "--workdir", run)
    assert_one_line(done, 1, "the sounds have changed since the run in", "--workdir")


def no_sounds(tmp_path):
    (tmp_path / "in").mkdir()
    return ["no files in"]


def no_folder(tmp_path):
    return ["no folder"]


def a_file(tmp_path):
    (tmp_path / "in").write_text("x")
    return ["is a file"]


def no_usable_file(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/x.wav").write_bytes(b"no audio")
    (tmp_path / "in/y.txt").write_text("hi")
    return ["found 0 usable sounds", "x.wav: ", "y.txt: "]


def too_few(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(3):
        soundfile.write(tmp_path / f"in/{i}.wav", np.sin(0.1 * (i + 1) * np.arange(999)), 8000)
    return ["found 3 usable sounds", "need at least 4"]


@pytest.mark.parametrize("make", [no_sounds, no_folder, a_file, no_usable_file, too_few])
def test_data_that_cannot_be_trained_on_is_one_line(call, tiny, tmp_path, make):
    words = make(tmp_path)
    done = call("train", *tiny, "--data", tmp_path / "in", "--workdir", tmp_path / "run")
    assert_one_line(done, 1, str(tmp_path / "in"), *words)


def test_missing_folder_is_one_line_from_a_process_too(run, tiny, tmp_path):
    done = run("train", *tiny, "--data", tmp_path / "nowhere", "--workdir", tmp_path / "run")
    assert_one_line(done, 1, str(tmp_path / "nowhere"))


def test_workdir_that_cannot_be_made_is_one_line(call, tiny, folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = call("train", *tiny, "--data", folder, "--workdir", tmp_path / "file/run")
    assert_one_line(done, 1, str(tmp_path / "file"))


def test_a_finished_run_without_its_prior_gets_it_from_the_same_command(
    call, tiny, trained, folder, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "prior.npz").unlink()
    done = call("train", *tiny, "--data", folder, "--workdir", run)
    assert done.code == 0, done.err
    with np.load(run / "prior.npz") as got, np.load(trained / "prior.npz") as expected:
        for name in expected:
            np.testing.assert_array_equal(got[name], expected[name])


def test_settings_that_never_trained_bind_nobody(call, tiny, trained, folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config = json.loads((trained / "config.json").read_text())
    config["model"]["width"] = 48
    (run / "config.json").write_text(json.dumps(config))
    (run / "data.json").write_text('{"fingerprint": "another", "files": []}')
    done = call("train", *tiny, "--data", folder, "--workdir", run, "--train.num_steps", "1")
    assert done.code == 0, done.err
