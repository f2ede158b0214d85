"""train.py --sweep from outside: what it takes and refuses, its folders, stopped and resumed."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tyro
from PIL import Image

import vaejax
from vaejax import config as configs
from vaejax.run import folder as run_folder
from vaejax.train import sweep


def asked(*argv):
    return tyro.cli(sweep.Sweep, args=list(map(str, argv)), use_underscores=True)


def made(config, *argv, workdir=Path("w")):
    return sweep.members(config, asked(*argv), workdir, "preset")


# The grammar


def test_nothing_is_swept_by_default(config):
    assert made(config) == []


def test_members_are_the_product_of_the_values(config):
    members = made(config, "--objective.beta", 0.25, 1, "--seeds", 2, "--augment.gain_db", 3)
    assert [m.name for m in members] == [
        f"gain_db-3_beta-{beta}_seed-{seed}" for beta in ("0.25", "1") for seed in (0, 1)
    ]
    for member in members:
        assert member.workdir == Path("w") / member.name
        assert set(configs.differences(config, member.config)) <= set(member.values)
        for name, value in member.values.items():
            assert configs.get(member.config, name) == value
    assert members[2].values == {
        "augment.gain_db": 3.0,
        "objective.beta": 1.0,
        "train.seed": 0,
    }


def test_seeds_count_from_the_seed_of_the_settings(config):
    later = configs.replaced(config, {"train.seed": 7})
    seeds = [m.config.train.seed for m in made(later, "--seeds", 3)]
    assert seeds == [7, 8, 9]
    assert [m.config.train.seed for m in made(later, "--train.seed", 3, 1)] == [3, 1]


def test_a_sweep_without_a_folder_is_named_after_preset_and_fields(config):
    (first, _) = made(config, "--objective.beta", 1, 2, "--seeds", 1, workdir=None)
    assert first.workdir == Path("runs/preset-beta-seed/beta-1_seed-0")


def test_names_tell_all_values_apart(config):
    values = [1e-3, 0.001000001, 1e-10, 0.1 + 0.2]
    members = made(config, "--train.learning_rate", *values)
    assert len({m.name for m in members}) == 4
    assert [float(m.name.partition("-")[2]) for m in members] == values
    assert len({name.split(".")[1] for name in sweep.SWEEPABLE}) == len(sweep.SWEEPABLE)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--sweep.model.width", "8", "16"], ["--sweep.model.width cannot be", "objective.beta"]),
        (["--sweep.objective.bta=1"], ["--sweep.objective.bta cannot be", "train.seed"]),
        (["--sweep", "3"], ["--sweep cannot be", "--sweep.seeds N"]),
        (["--sweep.objective.beta"], ["--sweep.objective.beta needs values"]),
        (["--sweep.objective.beta", "--debug"], ["--sweep.objective.beta needs values"]),
        (["--sweep.objective.beta", "low"], ["--sweep.objective.beta cannot be low"]),
        (["--sweep.objective.beta", "1", "1.0"], ["--sweep.objective.beta 1 1", "once"]),
        (["--sweep.objective.beta", "1", "-1"], ["objective.beta=-1.0 must not be negative"]),
        (["--sweep.seeds", "0"], ["sweep.seeds=0 must be greater than 0"]),
        (["--sweep.seeds", "2", "--sweep.train.seed", "5"], ["--sweep.seeds", "give one"]),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(call, tmp_path, argv, words):
    done = call("train", "--config", "configs/tiny.py", "--workdir", tmp_path / "w", *argv)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert all(word in line for word in words), line
    assert not (tmp_path / "w").exists()


# From end to end


def rows_of(workdir, split):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == split]


def state_of(workdir):
    saved = (p for p in (workdir / "checkpoints/last").iterdir() if p.name.isdigit())
    step = max(saved, key=lambda p: int(p.name))
    return int(step.name), ocp.StandardCheckpointer().restore((step / "state").absolute())


def assert_same_up_to_rounding(left, right):
    """Two run folders: every weight, moment and average, the figures, and the settings."""
    (step, left_state), (same_step, right_state) = state_of(left), state_of(right)
    assert step == same_step
    for part in ("params", "ema"):
        leaves = map(jax.tree.leaves, (left_state[part], right_state[part]))
        for a, b in zip(*leaves, strict=True):
            assert np.linalg.norm(a - b) <= 2e-4 * np.linalg.norm(b)
    for split in ("train", "held_out"):
        for a, b in zip(rows_of(left, split), rows_of(right, split), strict=True):
            assert a.keys() == b.keys()
            # Phases are found from peaks, and rounding decides between bins of equal level.
            heard = a.keys() & {"mel_l1_db", "lsd_db"}
            for figures, tolerance in (
                (a.keys() - heard - {"split", "clips_per_second"}, 1e-5),
                (heard, 2e-4),
            ):
                expected = pytest.approx({k: b[k] for k in figures}, rel=tolerance)
                assert {k: a[k] for k in figures} == expected
    assert configs.load(left / "config.json") == configs.load(right / "config.json")


@pytest.fixture(scope="module")
def swept(call, tiny, folder, tmp_path_factory):
    """A sweep that was interrupted, of which a member then lost its last checkpoint; its command,
    and what this said when it went on."""
    workdir = tmp_path_factory.mktemp("sweep") / "run"
    argv = [*tiny, "--data", folder, "--workdir", workdir, "--sweep.objective.beta", 1, 4]
    lines = workdir / "beta-4/metrics.jsonl"

    def interrupt():
        while not (lines.exists() and '"split": "train"' in lines.read_text()):
            if given_up.wait(0.002):
                return
        os.kill(os.getpid(), signal.SIGINT)

    given_up = threading.Event()
    watcher = threading.Thread(target=interrupt)
    watcher.start()
    done = call("train", *argv)
    given_up.set()
    watcher.join()
    assert done.code == 130, done.err
    assert "the same command goes on" in done.err
    reached = {name: state_of(workdir / name)[0] for name in ("beta-1", "beta-4")}
    assert 0 < reached["beta-1"] == reached["beta-4"] < 30
    shutil.rmtree(workdir / "beta-4/checkpoints/last")
    done = call("train", *argv)
    assert done.code == 0, done.err
    assert "1 of 2 runs go on from step 0: beta-4\n" in done.out
    assert f"2 of 2 runs go on from step {reached['beta-1']}: beta-1, beta-4\n" in done.out
    return workdir, argv, done


def test_a_member_is_the_run_alone(swept, trained):
    assert_same_up_to_rounding(swept[0] / "beta-1", trained)


def test_a_member_has_the_folder_of_a_run(swept, trained):
    workdir, _, _ = swept
    for member in ("beta-1", "beta-4"):
        names = {path.name for path in (workdir / member).iterdir()}
        alone = {path.name for path in trained.iterdir()}
        assert names == alone - {"compilation_cache"}
        assert list((workdir / member / "tensorboard").glob("events.*"))
    run = vaejax.load(workdir / "beta-4")
    assert run.config.objective.beta == 4.0
    assert run.has_fitted_prior
    (waveform,) = run.sample(jax.random.key(0), 1)
    assert np.abs(waveform).max() > 0.1


def test_a_larger_beta_takes_a_smaller_rate(swept):
    workdir, _, done = swept
    rows = json.loads((workdir / "sweep.json").read_text())["members"]
    assert [row["name"] for row in rows] == ["beta-1", "beta-4"]
    assert rows[1]["kl"] < rows[0]["kl"]
    for row in rows:
        measured = rows_of(workdir / row["name"], "held_out")
        assert row["mel_l1_db"] == min(m["mel_l1_db"] for m in measured)
        assert f"{row['mel_l1_db']:.2f}" in done.out
    assert Image.open(workdir / "rate-distortion.png").size[0] > 300


def test_the_same_command_on_a_finished_sweep_trains_nothing(swept, call):
    workdir, argv, _ = swept
    before = (workdir / "beta-4/metrics.jsonl").stat().st_mtime_ns
    done = call("train", *argv)
    assert done.code == 0, done.err
    assert "go on" not in done.out
    assert (workdir / "beta-4/metrics.jsonl").stat().st_mtime_ns == before


def test_a_damaged_list_of_members_is_named_with_its_remedy(config, tmp_path):
    (tmp_path / run_folder.SWEEP).write_text('{"members": [{"name"')
    members = made(config, "--objective.beta", 1, 4, workdir=tmp_path)
    with pytest.raises(ValueError, match=r"sweep\.json is damaged .*: remove it"):
        sweep.check_folder(members, tmp_path)


def test_a_damaged_config_of_a_member_is_named_with_its_remedy(config, tmp_path):
    members = made(config, "--objective.beta", 1, 4, workdir=tmp_path)
    listed = [{"name": member.name, "values": member.values} for member in members]
    (tmp_path / run_folder.SWEEP).write_text(json.dumps({"members": listed}))
    path = members[1].workdir / "config.json"
    path.parent.mkdir()
    path.write_text('{"data":')
    with pytest.raises(ValueError, match=f"^{path} is damaged .*: remove it"):
        sweep.check_folder(members, tmp_path)


def test_other_sweeps_do_not_share_a_folder(swept, call, trained, tiny, folder):
    _, argv, _ = swept
    done = call("train", *argv[:-3], "--sweep.seeds", 2)
    assert done.code == 1
    assert "holds a sweep over objective.beta, not train.seed" in done.err
    done = call("train", *argv, "--train.ema_decay", 0.5)
    assert done.code == 1
    assert "train.ema_decay was 0.9, is 0.5" in done.err
    done = call("train", *tiny, "--data", folder, "--workdir", trained, "--sweep.seeds", 2)
    assert done.code == 1
    assert "holds a single run" in done.err
    done = call("train", *argv[:-3])
    assert done.code == 1
    assert "holds a sweep" in done.err
