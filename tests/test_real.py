"""The benchmark on recorded sounds: what it tests on is never trained on, and is scored rightly."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from benchmarks import divide, real, record, scores
from vaejax import cli, metrics
from vaejax.evaluate.systems import PCA, PPCA, TRUE, VAEJAX


@pytest.fixture
def kits(tmp_path):
    """A function that makes files: name -> content."""

    def write(source, contents):
        for name, content in contents.items():
            path = tmp_path / source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        return tmp_path / source

    return write


def five_kits(kits):
    sizes = {"a": 4, "b": 3, "c": 3, "d": 2, "e": 1}
    names = [f"{kit}/{i}_{36 + i:03d}.wav" for kit, num in sizes.items() for i in range(num)]
    return kits("drums", {name: name for name in names})


def contents(sounds):
    return {sound.digest for sound in sounds}


@pytest.mark.parametrize(("by", "num"), [("folder", 3), ("pitch", 2), ("hash", 5)])
def test_in_turn_every_group_is_tested_on_once_and_never_heard(kits, by, num):
    sounds = divide.listed([five_kits(kits)], by=by, pattern=r"_(?P<pitch>\d+)")
    folds = divide.in_turn(sounds, num, by=by)
    assert len(folds) == num
    assert sorted(s.name for fold in folds for s in fold.test) == sorted(s.name for s in sounds)
    for fold in folds:
        assert not {s.group for s in fold.test} & {s.group for s in fold.train}
        assert {s.name for s in fold.test} | {s.name for s in fold.train} == {
            s.name for s in sounds
        }
    if by == "folder":
        # 13 sounds in whole kits of 4, 3, 3, 2 and 1.
        assert sorted(len(fold.test) for fold in folds) == [4, 4, 5]


def test_a_copy_of_a_test_sound_is_not_trained_on_wherever_it_lies(kits):
    kits("drums", {"a/1.wav": "same", "a/2.wav": "x", "b/1.wav": "same", "b/2.wav": "y"})
    more = kits("more/drums", {"1.wav": "same", "2.wav": "z"})
    sounds = divide.listed([more.parents[1] / "drums", more], by="folder")
    fold = divide.named(sounds, ["a"])
    assert [s.name for s in fold.test] == ["drums/a/1.wav", "drums/a/2.wav"]
    # The second source of one name has a name of its own.
    assert [s.name for s in fold.train] == ["drums/b/2.wav", "drums-2/2.wav"]


def test_one_division_is_that_of_training(kits):
    root = kits("notes", {f"x/{i:02d}_{40 + i % 10:03d}.wav": str(i) for i in range(60)})
    sounds = divide.listed([root], by="pitch", pattern=r"_(?P<pitch>\d+)")
    fold = divide.once(sounds, by="pitch", fraction=0.2)
    assert fold.groups == sorted({s.group for s in fold.test})
    assert len(fold.test) == 12
    assert not contents(fold.test) & contents(fold.train)


def test_groups_that_are_not_there_and_too_many_divisions_are_refused(kits):
    sounds = divide.listed([five_kits(kits)], by="folder")
    with pytest.raises(ValueError, match=r"no group z; there are drums/a, drums/b, drums/c"):
        divide.named(sounds, ["a", "z"])
    with pytest.raises(ValueError, match=r"--folds 6 must be .* at most the 5 groups"):
        divide.in_turn(sounds, 6, by="folder")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give --data FOLDER"),
        (["--data", "x", "--test", "y"], "give --data FOLDER"),
        (["--test", "y"], "--test needs --train"),
        (["--data", "x", "--hold_out", "a", "--folds", "3"], "leave out --folds"),
        (["--data", "synth", "--folds", "3"], "nothing is divided"),
        (["--data", "x", "--overrides", "num_steps"], "must be SECTION.FIELD=VALUE"),
        (["--data", "x", "--presets", "configs/none.py"], "configs/none.py is no file"),
    ],
)
def test_bad_usage_is_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        real.main(argv)
    assert stop.value.code == cli.USAGE
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_scores_are_means_by_kind_and_ratios_of_the_same_sounds():
    rng = np.random.default_rng(0)
    kinds = np.array([0, 0, 0, 2, 2, 2, 2, 2])
    pca = rng.uniform(1, 2, 8)

    def figures(mel, body):
        ones = np.ones(8)
        return {"mel_l1_db": mel, "body_db": body, "onset": ones, "onset_step": 0 * ones}

    systems = {
        scores.ORIGINAL: {"onset": np.zeros(8), "onset_step": np.zeros(8)},
        VAEJAX: figures(0.8 * pca, np.array([-9, -1, 2.9, 0, 0, 0, 0, 3.1])),
        PPCA: figures(2 * pca, np.zeros(8)),
        PCA: figures(pca, np.zeros(8)),
    }
    halves = [
        scores.Scores(
            ["x"] * 4,
            kinds[part],
            {s: {k: c[part] for k, c in f.items()} for s, f in systems.items()},
        )
        for part in (slice(0, 4), slice(4, 8))
    ]
    found = scores.summary(scores.together(halves))
    assert list(found) == [scores.ALL, "tonal", "noise"]
    assert list(found[scores.ALL]) == list(systems)
    ours = found[scores.ALL][VAEJAX]
    # Paired: every sound has this ratio, so no resample has another.
    for end in ("value", "low", "high"):
        assert ours["ratio_to_pca"][end] == pytest.approx(0.8)
        assert ours["ratio_to_ppca"][end] == pytest.approx(0.4)
    assert "ratio_to_pca" not in found[scores.ALL][PCA]
    tonal = found["tonal"][VAEJAX]
    assert tonal["sounds"] == 3
    assert tonal["mel_l1_db"]["value"] == pytest.approx(0.8 * pca[:3].mean())
    assert tonal["body_db"]["value"] == -1
    assert tonal["body_within_3_db"]["value"] == pytest.approx(2 / 3)
    assert found["noise"][VAEJAX]["body_within_3_db"]["value"] == pytest.approx(4 / 5)


@pytest.fixture
def train(monkeypatch, trained):
    """Commands that were started instead of training; each leaves a run that is finished."""
    commands = []

    class Process:
        def __init__(self, command, cwd, start_new_session):
            commands.append(command)
            shutil.copytree(trained, command[command.index("--workdir") + 1])

        def wait(self, seconds):
            return cli.DONE

    monkeypatch.setattr(real.subprocess, "Popen", Process)
    return commands


def test_a_preset_is_trained_once_and_measured_on_folders_it_never_heard(
    train, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    argv = ["--data", folder, "--hold_out", "soft", "--presets", "configs/tiny.py"]
    argv += ["--overrides", "model.latent_dim=8", "--workdir", tmp_path / "runs"]
    argv = [str(word) for word in (*argv, "--name", "soft", "--limit", "8")]
    real.main(argv)
    place = tmp_path / "runs" / "tiny" / "0"
    ((_, script, *command),) = train
    assert script == str(real.ROOT / "train.py")
    assert command[:4] == ["--config", "configs/tiny.py", "--model.latent_dim", "8"]
    heard = Path(command[command.index("--data") + 1])
    files = [path.relative_to(heard).as_posix() for path in heard.rglob("*.wav")]
    assert len(files) == 32
    assert not any("soft" in file for file in files)
    assert len(list((place / "test").rglob("*.wav"))) == 16

    (path,) = (tmp_path / "results").glob("*-real-soft.json")
    figures = json.loads(path.read_text())
    assert str(folder) not in path.read_text()
    assert figures["divisions"] == [
        {"groups": ["tones/bell/soft"], "train": {"tones": 32}, "test": {"tones": 16}}
    ]
    found = figures["presets"]["configs/tiny.py"]
    systems = found["by_kind"][scores.ALL]
    assert list(systems) == [scores.ORIGINAL, TRUE, VAEJAX, PPCA, PCA]
    assert systems[VAEJAX]["sounds"] == found["runs"][0]["test_sounds"] == 8
    # Phase recovery alone is nearer than any model.
    assert 0 < systems[TRUE]["mel_l1_db"]["high"] < systems[VAEJAX]["mel_l1_db"]["low"]
    lines = (tmp_path / "runs" / "tiny" / "sounds.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert {json.loads(line)["kind"] for line in lines} <= set(metrics.KINDS)
    assert f"| {VAEJAX} | 8 |" in capsys.readouterr().out

    found["runs"][0]["new"] = {"systems": {PCA: {key: {"value": 0.25} for key in real.NEW}}}
    assert f"| {PCA} | {' | '.join(['0.25'] * len(real.NEW))} |" in real.table(figures)

    # What is trained is not trained again, and not taken for a run of other settings.
    fold = real.folds(real.Options(data=folder, hold_out=("soft",)))[0]
    options = real.Options(overrides=("model.latent_dim=8",))
    assert real.train("configs/tiny.py", fold, place, options) == {
        key: found["runs"][0][key] for key in ("train_seconds", "stopped")
    }
    with pytest.raises(ValueError, match="has a run of other settings"):
        real.train("configs/tiny.py", fold, place, real.Options())
    assert len(train) == 1


@pytest.fixture
def ends(monkeypatch):
    """A function that makes training end in some ways, one after the other; and its signals."""
    sent = []

    def in_ways(*ways):
        class Process:
            def __init__(self, command, cwd, start_new_session):
                self.ways = iter(ways)

            def wait(self, seconds=None):
                way = next(self.ways)
                if isinstance(way, BaseException):
                    raise way
                return way

            send_signal = sent.append

        monkeypatch.setattr(real.subprocess, "Popen", Process)
        return sent

    return in_ways


def test_training_that_fails_is_said_and_tried_again(ends, tmp_path):
    ends(cli.FAILED)
    with pytest.raises(ValueError, match=r"train\.py ended with exit code 1"):
        real.train("configs/tiny.py", None, tmp_path, real.Options())
    assert not (tmp_path / "trained.json").exists()


def test_training_is_stopped_in_order_after_its_seconds_and_with_the_benchmark(ends, tmp_path):
    options = real.Options(seconds=5)
    sent = ends(subprocess.TimeoutExpired("train.py", 5), cli.INTERRUPTED)
    assert real.train("configs/tiny.py", None, tmp_path / "a", options)["stopped"]
    assert sent == [signal.SIGINT]
    ends(KeyboardInterrupt(), cli.INTERRUPTED)
    with pytest.raises(KeyboardInterrupt):
        real.train("configs/tiny.py", None, tmp_path / "b", options)
    assert sent == [signal.SIGINT] * 2
    assert not (tmp_path / "b" / "trained.json").exists()
