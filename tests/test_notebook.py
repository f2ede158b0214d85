"""The workshop's notebook: as it is stored, and run from top to bottom on a shrunk tiny preset.

On the way training is interrupted as a student would, by the same signal, and gone on with.
"""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import nbformat
import numpy as np
import pytest
import soundfile
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from tensorboard import manager

from vaejax import cli, rules
from vaejax import config as configs
from vaejax.run.load import load_run

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "workshop.ipynb"

# Cells that the test adds. The page's own parameters, smaller; but for the number of steps, the
# programs are those that other tests compile too.
SHRUNK = """
RUNS = Path({runs!r})
SOUNDS = {sounds!r}
PRESET = "configs/tiny.py"
SETTINGS = {settings!r}
"""
STEPS = {"num_steps": 100, "log_every_steps": 5, "eval_every_steps": 50, "save_every_steps": 50}
# Somebody presses the square button once training is under way.
INTERRUPT = """
import os, signal, threading, time

def interrupt():
    log = RUN / "metrics.jsonl"
    while not log.exists() or '"split": "train"' not in log.read_text():
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
"""


class Page:
    """The notebook, its cells by their tag."""

    def __init__(self):
        self.notebook = nbformat.read(NOTEBOOK, as_version=4)

    def at(self, tag):
        (at,) = (i for i, c in enumerate(self.notebook.cells) if tag in c.metadata.get("tags", []))
        return at

    def insert(self, at, tag, source):
        self.notebook.cells.insert(at, new_code_cell(source, metadata={"tags": [tag]}))

    def source(self, tag):
        return self.notebook.cells[self.at(tag)].source

    def outputs(self, tag=None):
        cells = [c for c in self.notebook.cells if c.cell_type == "code"]
        if tag is not None:
            cells = [self.notebook.cells[self.at(tag)]]
        return [output for cell in cells for output in cell.outputs]

    def printed(self, tag=None):
        return "".join(o.text for o in self.outputs(tag) if o.output_type == "stream")

    def solution(self):
        (text,) = (c.source for c in self.notebook.cells if "<summary>Solution" in c.source)
        return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("workshop")


@pytest.fixture(scope="module")
def done(runs, folder, tiny):
    """The page after it was run: unsolved exercise, its solution, training interrupted, resumed."""
    options = [word.removeprefix("--") for word in tiny[2:]]
    settings = {k: ast.literal_eval(v) for k, v in zip(options[::2], options[1::2], strict=True)}
    settings |= {f"train.{name}": value for name, value in STEPS.items()}
    shrunk = SHRUNK.format(runs=str(runs), sounds=str(folder), settings=settings)

    page = Page()
    page.insert(page.at("parameters") + 1, "shrunk", shrunk)
    page.insert(page.at("check") + 1, "solved", f"{page.solution()}\n{page.source('check')}")
    page.insert(page.at("train"), "interrupt", INTERRUPT)
    page.insert(page.at("train") + 1, "again", page.source("train"))
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    try:
        NotebookClient(page.notebook, timeout=300, resources=resources).execute()
    finally:
        for board in manager.get_all():
            if str(runs) in board.logdir:
                os.kill(board.pid, signal.SIGTERM)
    return page


@pytest.fixture(scope="module")
def workdir(runs, folder):
    return runs / f"notebook-tiny-{folder.name}"


def test_notebook_is_stored_small_without_outputs_or_paths():
    text = NOTEBOOK.read_text()
    assert len(text) < 2_000_000
    nbformat.validate(json.loads(text))
    notebook = Page().notebook
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
        assert cell.metadata.keys() <= {"tags", "cellView", "jupyter"}
    assert notebook.metadata.kernelspec.name == "python3"
    # A machine's own folders; those of Colab's Drive are no machine's.
    assert not re.search(r"/(home|root|tmp|Users|work)/|[A-Z]:\\\\", text)


def test_first_cell_asks_for_the_address_in_one_line(monkeypatch, tmp_path):
    source = next(c.source for c in Page().notebook.cells if c.cell_type == "code")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for address, expected in (("", "REPOSITORY"), (str(tmp_path / "nowhere"), "nowhere")):
        with pytest.raises(Exception, match=expected) as caught:
            exec(source.replace('REPOSITORY = ""', f"REPOSITORY = {address!r}"), {})
        (line,) = caught.value._render_traceback_()
        assert "\n" not in line


def test_installing_leaves_the_jax_of_the_machine_as_it_is(monkeypatch, tmp_path):
    source = next(c.source for c in Page().notebook.cells if c.cell_type == "code")
    monkeypatch.chdir(tmp_path)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "vaejax" else find_spec(name)
    )
    asked = []

    def run(command, **_):
        asked.append(command)
        if command[0] == "git":
            for name in ("train.py", "sample.py", "vaejax/__init__.py"):
                (tmp_path / "vaejax" / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / "vaejax" / name).touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(source.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/vaejax"'), {})
    _, pip = asked
    kept = Path(pip[pip.index("--constraint") + 1]).read_text().splitlines()
    assert {f"jax=={jax.__version__}", f"jaxlib=={importlib.metadata.version('jaxlib')}"} <= set(
        kept
    )
    assert all(line.startswith(("jax", "libtpu")) for line in kept)


def test_machines_are_given_presets_that_work():
    source = next(c.source for c in Page().notebook.cells if "MACHINES = {" in c.source)
    values = {}
    for node in ast.parse(source).body:
        if ast.unparse(node).startswith(("FASTER = ", "MACHINES = ")):
            exec(ast.unparse(node), values)
    assert values["MACHINES"].keys() == {"cpu", "gpu", "tpu"}
    for preset, settings, _ in values["MACHINES"].values():
        chosen = configs.to_dict(cli.load_preset(preset))
        for name, value in settings.items():
            section, key = name.split(".")
            chosen[section][key] = value
        rules.check(configs.from_dict(chosen))


def test_every_cell_runs(done):
    for cell in done.notebook.cells:
        assert cell.cell_type == "markdown" or cell.execution_count is not None
    assert not [o for o in done.outputs() if o.output_type == "error"]
    assert "Traceback" not in done.printed()
    assert "Warning" not in done.printed()


def test_exercise_says_whether_it_is_solved(done):
    assert done.printed("check").count("not yet") == 2
    assert done.printed("solved").count("right!") == 2
    assert "trained with your two functions" in done.printed("solved")


def test_an_interrupt_saves_and_the_same_cell_goes_on(done, workdir):
    (step,) = re.findall(r"interrupted at step (\d+); saved", done.printed("train"))
    assert 0 < int(step) < 100
    assert f"resuming at step {step}" in done.printed("again")
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows if r["split"] == "train"] == list(range(5, 101, 5))


def test_loss_fell(done, workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in rows if r["split"] == "held_out"]
    assert min(losses) < losses[0]
    before, after = re.search(r"held-out loss (-?\d+) -> (-?\d+)", done.printed("curves")).groups()
    assert int(after) < int(before)


def test_figures_and_players_are_there(done):
    images = [o for o in done.outputs() if "image/png" in o.get("data", {})]
    assert len(images) == 8
    pages = [o.data["text/html"] for o in done.outputs() if "audio" in str(o.get("data"))]
    players = "".join(pages).count("<audio")
    assert players > 25 + 3 * 3  # the new sounds, the map
    # TensorBoard, or the line that says it is not there.
    assert any("tensorboard" in str(o.get("data", o.get("text"))).lower() for o in done.outputs())


def test_code_that_is_shown_is_the_projects_own(done):
    shown = "".join(o.data.get("text/markdown", "") for o in done.outputs() if "data" in o)
    for part in ("def gaussian_kl(mean, logvar)", "def example_terms(", "nn.Conv(model.width"):
        assert part in shown
        assert part not in NOTEBOOK.read_text()


def test_sounds_are_in_the_folder_and_in_the_zip_and_not_silent(done, workdir):
    run = load_run(workdir)
    files = sorted((workdir / "new-sounds").glob("*.wav"))
    assert len(files) == 25
    for path in files:
        waveform, rate = soundfile.read(path)
        assert rate == run.config.data.sample_rate
        assert len(waveform) == run.config.data.num_samples
        assert np.abs(waveform).max() > 0.5
    with zipfile.ZipFile(workdir / "new-sounds.zip") as archive:
        assert sorted(archive.namelist()) == [f"new-sounds/{path.name}" for path in files]
        assert archive.testzip() is None
