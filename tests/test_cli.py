"""The command line: overrides, help, and one clear line with the right exit code for each error."""

import dataclasses
import sys

import pytest

from vaejax import cli
from vaejax.config import Config


def one_line(text):
    """The only line of an error message."""
    (line,) = text.strip().splitlines()
    assert line.startswith("error: ")
    return line


# Usage


@pytest.mark.parametrize(
    ("script", "option", "suggestion"),
    [
        ("train", "--train.num_step", "--train.num_steps"),
        ("train", "--modle.latent_dim", "--model.latent_dim"),
        ("sample", "--tempreature", "--temperature"),
        ("sample", "--num-sounds", "--num"),
    ],
)
def test_unknown_option_exits_2_and_suggests_a_known_one(call, script, option, suggestion):
    done = call(script, option, "3")
    assert done.code == 2
    line = one_line(done.err)
    assert option in line
    assert suggestion in line


@pytest.mark.parametrize(
    ("script", "argv", "words"),
    [
        ("train", ["--train.num_steps", "many"], ["train.num_steps", "many"]),
        ("train", ["--model.compute_dtype", "float8"], ["compute_dtype", "float8"]),
        ("train", ["--train.learning_rate"], ["learning_rate"]),
        ("sample", ["--num", "1.5"], ["--num", "1.5"]),
        ("sample", ["--format", "mp3"], ["--format", "mp3", "flac"]),
        ("sample", ["--between", "a.wav"], ["--between takes 2 values, not 1: a.wav (", "PATH"]),
        ("sample", ["--grid", *"abc"], ["--grid takes 4 values, not 3: a b c (expected --grid {"]),
        ("sample", ["--between"], ["--between takes 2 values, not 0 (expected"]),
        ("sample", ["--unique", "x"], ["--unique cannot be x (expected --unique FLOAT Keeps"]),
        (
            "sample",
            ["--score", "loudness", "--best_of", "2"],
            ["--score", "loudness", "typicality"],
        ),
        ("sample", ["--redo", "m.jsonl", "--index", "first"], ["--index", "first"]),
    ],
)
def test_ill_typed_value_exits_2_and_is_named(call, script, argv, words):
    done = call(script, *argv)
    assert done.code == 2
    line = one_line(done.err)
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--label", "a", "--latents", "b.npy"], "choose one of --label and --latents"),
        (["--num", "0"], "--num 0 must be at least 1"),
        (["--num", "3", "--latents", "b.npy"], "--num does not go with --latents"),
        (["--num", "3", "--reconstruct", "x"], "--num does not go with --reconstruct"),
        (["--num", "3", "--match", "a.wav"], "--num does not go with --match"),
        (["--num", "1", "--between", "a.wav", "b.wav"], "--num must be at least 2"),
        (["--seed", "-1"], "--seed -1 must lie in [0, 2^32)"),
        (["--seed", str(2**32)], "must lie in [0, 2^32)"),
        (["--temperature", "-1"], "must not be negative"),
        (["--spread", "-1", "--around", "a.wav"], "must not be negative"),
        (["--iterations", "-1"], "--iterations -1 must not be negative"),
        (["--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (["--format", "flac", "--subtype", "FLOAT"], "FLAC holds no FLOAT samples"),
        (["--num", "3", "--redo", "m.jsonl"], "--num does not go with --redo"),
        (["--num", "3", "--grid", *"abcd"], "--num must be at least 4"),
        (["--temperature", "2", "--latents", "b.npy"], "--temperature is a spread of draws"),
        (["--path", "spherical"], "--path goes with --between"),
        (["--index", "3"], "--index goes with --redo MANIFEST"),
        (["--pitch", "84-36"], "'84-36' is no range of keys; give MIDI numbers or notes"),
        (["--pitch", "60", "--match", "a.wav"], "what is made with --match is given: --pitch"),
        (["--multisample"], "--multisample plays every key of --pitch: give a range of keys"),
        (["--tell", "pitch=60"], "--tell pitch=... has an option of its own: --pitch"),
        (["--pitch", "60", "--prior", "standard"], "--prior standard knows nothing of --pitch"),
        (["--pitch", "60-62", "--unique", "0.5"], "give --pitch one key"),
        (["--pitch", "60", "--attribute", "brighter=1"], "leave out --pitch and --tell"),
        (["--temperature", "nan"], "--temperature and --spread must not be negative"),
        (["--tell", "decay"], "--tell 'decay' must be NAME=NUMBER, such as decay=0.5"),
        (["--attribute", "brighter"], "--attribute 'brighter' must be NAME=NUMBER"),
        (["--attribute", "brighter=very"], "must be NAME=NUMBER, such as brighter=+1"),
        (["--attribute", "a=1", "--attribute", "a=2"], "--attribute gives a twice"),
        (["--attribute"], "must be NAME=NUMBER"),
        (["--attribute", "a=1", "--redo", "m.jsonl"], "--attribute does not go with --redo"),
        (["--unique", "1", "--latents", "b.npy"], "what is made with --latents is given"),
        (["--best_of", "2", "--between", "a.wav", "b.wav"], "with --between is given"),
        (["--max_novelty", "-1"], "--max_novelty -1 must be a distance"),
        (["--score", "level"], "it goes with --best_of"),
    ],
)
def test_options_that_contradict_exit_2_with_the_reason(call, argv, message):
    done = call("sample", *argv)
    assert done.code == 2
    assert message in one_line(done.err)


def test_help_of_train_lists_every_field_with_its_default(call):
    done = call("train", "--config", "tiny", "--help")
    assert done.code == 0
    for section in dataclasses.fields(Config):
        for field in dataclasses.fields(getattr(Config(), section.name)):
            # A switch that is on is told by what turns it off.
            off = "no_" * (field.default is True)
            assert f"--{section.name}.{off}{field.name}" in done.out
    latent_dim = cli.load_preset("tiny").model.latent_dim
    text = " ".join(done.out.split())
    assert f"default: {latent_dim}" in text[text.index("--model.latent_dim") :][:200]


def test_help_of_sample_lists_every_option(call):
    done = call("sample", "--help")
    assert done.code == 0
    for name in ("num", "seed", "temperature", "prior", "label", "around", "spread", "between"):
        assert f"--{name} " in done.out
    for name in ("reconstruct", "match", "latents", "inversion", "iterations", "format", "subtype"):
        assert f"--{name} " in done.out


def test_scripts_refuse_bad_usage_as_processes_too(run):
    done = run("train", "--train.num_step", "3")
    assert done.code == 2
    assert "--train.num_steps" in one_line(done.err)
    assert done.out == ""


def test_a_config_that_cannot_work_is_wrong_usage_before_anything_is_made(call, tmp_path):
    workdir = tmp_path / "run"
    done = call("train", "--config", "tiny", "--features.n_fft", "511", "--workdir", workdir)
    assert done.code == 2
    assert one_line(done.err) == "error: features.n_fft=511 must be even"
    assert not workdir.exists()


# Presets


@pytest.mark.parametrize("name", ["configs/tiny.py", "tiny", "tiny.py"])
def test_preset_is_found_by_path_and_by_name(name):
    assert cli.load_preset(name) == cli.load_preset(cli.PRESETS / "tiny.py")


def test_unknown_preset_lists_the_known_and_suggests(call):
    done = call("train", "--config", "configs/tinny.py")
    assert done.code == 2
    line = one_line(done.err)
    assert "no preset configs/tinny.py; did you mean configs/tiny.py?" in line
    assert "configs/default.py" in line


def test_preset_without_get_config_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match=r"empty\.py has no function get_config\(\)"):
        cli.load_preset(tmp_path / "empty.py")


def test_users_own_preset_is_run(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from vaejax.config import Config, Train\n"
        "def get_config():\n"
        "    return Config(train=Train(num_steps=7))\n"
    )
    assert cli.load_preset(tmp_path / "mine.py").train.num_steps == 7


@pytest.mark.parametrize("argv", [["--config", "x"], ["--config=x"], ["--a", "b", "--config", "x"]])
def test_option_is_read_in_both_forms(argv):
    assert cli.option(argv, "config") == "x"
    assert cli.option(argv, "workdir") is None


def test_options_override_the_preset_and_data_is_short_for_source(call, tmp_path):
    argv = ["--config", "tiny", "--workdir", tmp_path / "run", "--model.width", "17"]
    # The folder is missing, so the run ends once its options were read.
    done = call("train", *argv, "--data", tmp_path / "nowhere")
    assert done.code == 1
    assert str(tmp_path / "nowhere") in done.err


# Exit codes


def run_main(monkeypatch, capsys, main, *argv):
    monkeypatch.setattr(sys, "argv", ["x.py", *argv])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    return stop.value.code, capsys.readouterr()


def raising(error):
    def main(argv):
        raise error

    return main


def test_success_exits_0_with_the_arguments_passed_on(monkeypatch, capsys):
    seen = []
    code, text = run_main(monkeypatch, capsys, seen.append, "--a", "b")
    assert (code, seen, text.err) == (0, [["--a", "b"]], "")


@pytest.mark.parametrize("kind", [ValueError, OSError, FloatingPointError])
def test_expected_failure_exits_1_with_one_line_and_no_traceback(monkeypatch, capsys, kind):
    code, text = run_main(monkeypatch, capsys, raising(kind("what\n  went wrong")))
    assert code == 1
    assert text.err == "error: what went wrong\n"


def test_unexpected_failure_names_its_kind_and_the_way_to_more(monkeypatch, capsys):
    code, text = run_main(monkeypatch, capsys, raising(KeyError("mean")))
    assert code == 1
    assert text.err == "error: KeyError: 'mean' (--debug shows where)\n"


def test_failure_without_a_message_still_says_what_it_was(monkeypatch, capsys):
    code, text = run_main(monkeypatch, capsys, raising(MemoryError()))
    assert code == 1
    assert "MemoryError" in text.err


def test_debug_shows_where(monkeypatch, capsys):
    code, text = run_main(monkeypatch, capsys, raising(ValueError("here")), "--debug")
    assert code == 1
    assert "Traceback" in text.err
    assert text.err.endswith("error: here\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), cli.Interrupted("saved at step 3")])
def test_interruption_exits_130(monkeypatch, capsys, error):
    code, text = run_main(monkeypatch, capsys, raising(error))
    assert code == 130
    assert (str(error) or "interrupted") in text.err
