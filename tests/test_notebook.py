"""The workshop's notebook: as it is stored, and run from top to bottom on a shrunk tiny preset.

On the way training is interrupted as a student would, by the same signal, and gone on with.
"""

import ast
import base64
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import nbformat
import numpy as np
import pytest
import soundfile
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from PIL import Image
from tensorboard import manager

from vaejax import cli, rules
from vaejax import config as configs
from vaejax.objective import elbo, likelihoods, posteriors, priors
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
            exec(re.sub(r'REPOSITORY = "[^"]*"', f"REPOSITORY = {address!r}", source), {})
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
    exec(source, {})
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
        if ast.unparse(node).startswith(("FASTER = ", "NOT_MEASURED = ", "MACHINES = ")):
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
    before, after = re.search(r"within ([\d.]+) -> ([\d.]+) dB", done.printed("curves")).groups()
    assert float(after) <= float(before)


def test_figures_and_players_are_there(done):
    images = [o.data["image/png"] for o in done.outputs() if "image/png" in o.get("data", {})]
    assert len(images) == 9
    for image in images:
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(image))).convert("L"))
        assert pixels.shape[0] >= 300  # large enough to read
        assert pixels.std() > 5  # and something on it
    drawing = next(o.data["text/html"] for o in done.outputs() if "<svg" in str(o.get("data")))
    assert "encoder" in drawing
    pages = [o.data["text/html"] for o in done.outputs() if "audio" in str(o.get("data"))]
    players = "".join(pages).count("<audio")
    assert players > 25 + 3 * 3  # the new sounds, the map
    # TensorBoard, or the line that says it is not there.
    assert any("tensorboard" in str(o.get("data", o.get("text"))).lower() for o in done.outputs())


def test_code_that_is_shown_is_the_projects_own(done):
    shown = "".join(o.data.get("text/markdown", "") for o in done.outputs() if "data" in o)
    for part in ("def gaussian_kl(mean, logvar)", "def reparameterize(key, mean, logvar)"):
        assert part in shown
        assert part not in NOTEBOOK.read_text()


def test_cells_are_short_and_every_part_asks_first():
    parts = {}
    for cell in Page().notebook.cells:
        if cell.cell_type == "markdown":
            for title in re.findall(r"^# (\d+) ·", cell.source, re.MULTILINE):
                parts[part := int(title)] = ""
            if parts:
                parts[part] += cell.source
        elif not cell.metadata.get("jupyter", {}).get("source_hidden"):
            lines = [line for line in cell.source.splitlines() if line.strip()]
            assert len(lines) <= 15, cell.source
    assert list(parts) == list(range(1, 12))
    for part in range(2, 10):
        assert "Guess first." in parts[part], part
    text = " ".join(parts.values()).lower()
    words = "composition activation relu gradient stft kernel filter epoch batch overfit"
    assert not [word for word in [*words.split(), "sampling rate"] if word not in text]


def test_the_loss_of_the_page_is_the_projects(key):
    """`loss_of`, written to be read, on one draw of a model with weights of its own."""
    page: dict = {"jax": jax, "jnp": jnp}
    exec(Page().source("loss"), page)
    x_key, encoder_key, decoder_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (6, 5))
    wide = 0.3 * jax.random.normal(encoder_key, (30, 8))
    back = 0.3 * jax.random.normal(decoder_key, (4, 30))

    def encode(x):
        return jnp.split(x.reshape(-1) @ wide, 2)

    def decode(z):
        return (z @ back).reshape(6, 5)

    at = SimpleNamespace(
        encode=lambda x, condition: encode(x),
        decode=lambda z, condition: decode(z),
        posterior=posteriors.POSTERIORS["gaussian"],
        prior=priors.PRIORS["standard"],
        likelihood=likelihoods.LIKELIHOODS["gaussian"],
        scale=SimpleNamespace(log_sigma=lambda x, decoded, at: jnp.log(0.7)),
        distances=lambda x, decoded: {},
        regularizer=SimpleNamespace(terms=lambda *_: {}),
    )
    terms = elbo.example_terms(x, None, key, at)
    mine = page["loss_of"](x, key, encode, decode, 0.7, beta=2.0)
    np.testing.assert_allclose(mine, terms["recon"] + 2 * terms["kl"], rtol=1e-5)


def test_only_the_variational_one_invents(done):
    plain, variational = re.findall(r"([\d.]+) times as far", done.printed("invented"))
    assert float(variational) < float(plain)


def test_address_is_that_of_the_metadata():
    (address,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"].values()
    name = address.removeprefix("https://github.com/")
    assert f'REPOSITORY = "{address}"' in NOTEBOOK.read_text().replace('\\"', '"')
    badge = f"colab.research.google.com/github/{name}/blob/main/notebooks/workshop.ipynb"
    assert badge in NOTEBOOK.read_text()
    assert badge in (ROOT / "README.md").read_text()


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
