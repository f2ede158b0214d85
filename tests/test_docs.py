"""README and docs are true: commands parse and run, code runs, diffs apply, links lead somewhere.

A fence in a page must be one of FENCES. A command in a page must be one that `check_command` knows:
those of the project go through their real option parsers, with the real checks behind them, and
sample.py is run as the page says, on the shared tiny run; other people's programs are declared in
TOOLS. Every `--option` named in running text must exist as well.
"""

import ast
import contextlib
import dataclasses
import importlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import scipy.stats
import soundfile
import tyro

from vaejax import cli, rules
from vaejax.config import Config
from vaejax.export import __main__ as export
from vaejax.sampling import requests
from vaejax.train import sweep
from vaejax.train.state import create_state

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
)
FENCES = {"bash", "python", "diff", "text"}
# Options of programs that are not ours, by their first word.
TOOLS = {
    "apt-get": set(),
    "cd": set(),
    "cp": set(),
    "dpkg": {"-x"},
    "export": set(),
    "git": {"-b"},
    "mkdir": {"-p"},
    "mypy": set(),
    "npm": set(),
    "pdoc": {"-d", "-o"},
    "pre-commit": {"--all-files"},
    "pytest": {"-k", "-n", "-x", "--durations"},
    "rm": set(),
    "ruff": {"--check", "--fix"},
    "source": set(),
    "srun": {"--gpus-per-task", "--signal"},
    "tar": {"-C"},
    "tensorboard": {"--logdir"},
}
# What a reader replaces by their own, as it is called in the folder that commands are run in.
SOUND_FILES = ("kick.wav", "snare.wav", "tom.wav", "hat.wav")
SOUND_FOLDER = "path/to/sounds"
RUNS = ("default", "mine", "tiny", "workshop")
# Labels of the built-in set in the pages; the shared run knows other ones.
LABELS = {"kick": "bass", "snare": "bell", "bass": "bass"}
# Too slow for here, and run by tests of their own: --match compiles a gradient search, --attribute
# measures hundreds of sounds.
NOT_RUN = {"attribute", "match", "pitch"}
# These make as many sounds as they are given, and take no --num.
GIVEN = {"latents", "match", "morph", "reconstruct", "redo"}
NUM = 4


class Block(NamedTuple):
    """A fenced block."""

    page: str
    line: int
    language: str
    text: str


def blocks(page):
    """The fenced blocks of a page; a fence that is not closed is an error."""
    found, opened, lines = [], None, []
    for number, line in enumerate((ROOT / page).read_text().splitlines(), 1):
        if not line.lstrip().startswith("```"):
            if opened:
                lines.append(line)
        elif opened:
            found.append(Block(page, *opened, "\n".join(lines) + "\n"))
            opened, lines = None, []
        else:
            opened = (number, line.strip()[3:])
    assert opened is None, f"{page}: the fence of line {opened[0]} is not closed"
    return found


def prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.M | re.S)


def commands(text):
    """The commands of a shell text, as lists of words: one per line or between `&&`."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in line.split("&&")]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def commands_of(page):
    """Of its bash blocks, and the inline code that starts with a program's name, in their order.
    Those after a diff are for a copy with that change, see `RECIPES`."""
    plain = [b for b in blocks(page) if b not in {recipe.command for recipe in RECIPES}]
    found = [c for b in plain if b.language == "bash" for c in commands(b.text)]
    inline = re.findall(r"`([^`]+)`", prose(page))
    starts = ("python ", "pip ", *(f"{tool} " for tool in TOOLS))
    return found + [c for text in inline if text.startswith(starts) for c in commands(text)]


def load_script(name):
    """train.py or sample.py as a module."""
    spec = importlib.util.spec_from_file_location(f"documented_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def train_script():
    return load_script("train")


@pytest.fixture(scope="module")
def sample_script():
    return load_script("sample")


def parsed(kind, default, argv):
    """Options through their own parser; a usage error fails with its one line."""
    error = io.StringIO()
    try:
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            return cli.parse(kind, default, argv, description="")
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise AssertionError(f"{' '.join(argv)}: {error.getvalue().strip()}") from None
        return None  # --help


def check_train(script, argv):
    """Parses options of train.py and checks the config that they make."""
    preset = cli.option(argv, "config") or "configs/default.py"
    default = script.Options(config=preset, settings=cli.load_preset(preset))
    sweep.check_names(argv)
    options = parsed(script.Options, default, argv)
    if options is not None:
        rules.check(options.settings)
        sweep.members(options.settings, options.sweep, options.workdir, preset)
        # Shapes of the whole step, at full size, without compiling anything.
        jax.eval_shape(lambda: create_state(options.settings))


def check_sample(script, argv):
    """Parses options of sample.py and checks that they go together."""
    options = parsed(script.Options, script.Options(), argv)
    if options is not None:
        requests.check(options)


def check_module(name, argv):
    """Parses options of `python -m NAME`, a module of this project with Options of its own."""
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):  # a package runs its __main__
        module = importlib.import_module(f"{name}.__main__")
    if not hasattr(module, "Options"):
        assert argv == [], f"{name} takes no options"
        return
    with contextlib.redirect_stderr(io.StringIO()) as error:
        try:
            tyro.cli(module.Options, args=argv)
        except SystemExit as stop:
            if stop.code not in (0, None):
                raise AssertionError(error.getvalue()) from None


def check_pip(argv):
    """The extras of this project that are asked for exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = project["optional-dependencies"]
    assert argv[0] == "install", argv
    for extras in re.findall(r"^\.\[(.+)\]$", "\n".join(argv), re.M):
        assert set(extras.split(",")) <= set(known), f"no extra {extras}; there are {list(known)}"
    unknown = {word for word in argv if word.startswith("-")} - {"-e", "-U"}
    assert not unknown, f"pip install {unknown}"


def check_tool(words):
    """Another program's options are declared, and what looks like a file of ours exists."""
    tool, *argv = words
    unknown = {word.split("=")[0] for word in argv if word.startswith("-")} - TOOLS[tool]
    assert not unknown, f"{tool}: undeclared {unknown}"
    for word in argv:
        if word.split("/")[0] in ("tests", "vaejax", "configs", "docs", "benchmarks"):
            assert (ROOT / word).exists(), f"{tool}: no {word}"


@pytest.fixture(scope="module")
def check_command(train_script, sample_script):
    """The function that fails where a command of a page could not be run as it stands."""

    def check(words):
        program, *argv = words
        if program == "python" and argv[:1] == ["-m"]:
            tool = argv[1]
            if tool.startswith(("benchmarks.", "vaejax.")):
                check_module(tool, argv[2:])
            elif tool != "venv":
                check_tool(argv[1:])
        elif program == "python" and argv[:1] == ["train.py"]:
            check_train(train_script, argv[1:])
        elif program == "python" and argv[:1] == ["sample.py"]:
            check_sample(sample_script, argv[1:])
        elif program == "python" and argv[:1] == ["-c"]:
            ast.parse(argv[1])
        elif program == "pip":
            check_pip(argv)
        else:
            assert program in TOOLS, f"a program that no check knows: {' '.join(words)}"
            check_tool(words)

    return check


@pytest.fixture
def place(tmp_path, trained, trained_frames, folder, monkeypatch):
    """A folder like the reader's: sounds under the pages' names, and the shared run as each run
    (of a model of frames for the preset of one)."""
    rng = np.random.default_rng(5)
    for name in SOUND_FILES:
        t = np.arange(8000) / 16_000
        wave = np.sin(2 * np.pi * rng.uniform(80, 300) * t) * np.exp(-9 * t)
        soundfile.write(tmp_path / name, 0.5 * wave, 16_000)
    (tmp_path / SOUND_FOLDER).parent.mkdir(parents=True)
    (tmp_path / SOUND_FOLDER).symlink_to(folder)
    (tmp_path / "runs").mkdir()
    for name in RUNS:
        (tmp_path / "runs" / name).symlink_to(trained)
    (tmp_path / "runs" / "canne").symlink_to(trained_frames)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Commands


@pytest.mark.parametrize("page", PAGES)
def test_every_fence_is_declared(page):
    for block in blocks(page):
        where = f"{page}:{block.line}"
        assert block.language in FENCES, f"{where}: fence {block.language!r} is none of {FENCES}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_parses(page, check_command):
    for words in commands_of(page):
        check_command(words)


def test_a_wrong_option_in_a_page_is_found(check_command):
    for text in (
        "python train.py --train.num_step 3",
        "python train.py --config configs/tinny.py",
        "python train.py --model.latent_dim 500",
        "python train.py --sweep.model.width 8 16",
        "python sample.py --tempreature 2",
        "python sample.py --label kick --around kick.wav",
        "python -m benchmarks.generate --workdirr runs/default",
        'pip install -e ".[tests]"',
        "pytest tests/test_nothing.py",
        "make all",
    ):
        (words,) = commands(text)
        with pytest.raises((AssertionError, ValueError)):
            check_command(words)


def with_value(argv, name, value):
    """Options with the value of one of them replaced, or the option appended."""
    argv = list(argv)
    if f"--{name}" in argv:
        argv[argv.index(f"--{name}") + 1] = str(value)
        return argv
    return [*argv, f"--{name}", str(value)]


def way_of_asking(options, default):
    """The options of sample.py that decide which programs it compiles."""
    changed = {
        field.name
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != getattr(default, field.name)
    }
    return frozenset(changed - {"workdir", "out", "num", "seed", "temperature", "spread"})


def test_pages_run_from_top_to_bottom(place, call, sample_script):
    """Python blocks, and one command of sample.py for each way of asking, in the reader's order."""
    default, seen = sample_script.Options(), set()
    for page in PAGES:
        namespace: dict = {"__name__": "page"}
        for block in blocks(page):
            where = f"{page}:{block.line}"
            if block.language == "python":
                # Padded to the line it stands in, which a traceback then names.
                source = "\n" * block.line + block.text
                exec(compile(source, str(ROOT / page), "exec"), namespace)
            for words in commands(block.text) if block.language == "bash" else ():
                if words[:3] == ["python", "-m", "vaejax.export"]:
                    export.main(words[3:])
                if words[:2] != ["python", "sample.py"] or "--help" in words:
                    continue
                argv = words[2:]
                options = parsed(sample_script.Options, default, argv)
                way = way_of_asking(options, default)
                if way in seen or way & NOT_RUN:
                    continue
                seen.add(way)
                # Shrunk, and in a folder of its own: nothing else of the command is changed.
                if not way & GIVEN:
                    argv = with_value(argv, "num", NUM)
                if options.label is not None:
                    argv = with_value(argv, "label", LABELS[options.label])
                if options.out.exists():
                    argv = with_value(argv, "out", f"{options.out}-{len(seen)}")
                out = Path(cli.option(argv, "out") or default.out)
                done = call("sample", *argv)
                assert done.code == 0, f"{where}: {' '.join(words)}: {done.err}"
                assert (place / out / "manifest.jsonl").read_text(), where
    assert {frozenset(), frozenset({"label"}), frozenset({"latents"})} <= seen


def known_options(train_script, sample_script):
    """Every option that the pages may name."""
    names = {"help", "data"} | {f.name for f in dataclasses.fields(train_script.Options)}
    names |= {f"sweep.{name}" for name in (*sweep.SWEEPABLE, "seeds")}
    for field in dataclasses.fields(sample_script.Options):
        value = getattr(sample_script.Options(), field.name)
        names.add(field.name)
        if dataclasses.is_dataclass(value):  # its fields are options of their own
            names |= {f.name for f in dataclasses.fields(value)}
            names |= {f"{field.name}.{f.name}" for f in dataclasses.fields(value)}
    for section in dataclasses.fields(Config):
        kind = type(getattr(Config(), section.name))
        names |= {f"{section.name}.{f.name}" for f in dataclasses.fields(kind)}
    for path in (ROOT / "benchmarks").glob("[!_]*.py"):
        module = importlib.import_module(f"benchmarks.{path.stem}")
        if hasattr(module, "Options"):
            names |= {f.name for f in dataclasses.fields(module.Options)}
    return {f"--{name}" for name in names} | set().union(*TOOLS.values())


# The changelog tells of options that came and of options that went.
@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_options_and_settings_named_in_the_text_exist(page, train_script, sample_script):
    known = known_options(train_script, sample_script)
    settings = {name[2:] for name in known if "." in name}
    sections = {name.split(".")[0] for name in settings}
    for code in re.findall(r"`([^`]+)`", prose(page)):
        for option in re.findall(r"(?<!\S)--[\w.-]+", code):
            assert option in known, f"{page}: no option {option}"
        found = re.fullmatch(r"(\w+)\.(\w+)( [\w.]+)?", code)
        if found and found[1] in sections and found[2] not in ("json", "py"):
            assert f"{found[1]}.{found[2]}" in settings, f"{page}: no setting {code}"


# Changes


class Recipe(NamedTuple):
    """A diff, and the command that goes with it."""

    diff: Block
    command: Block

    @property
    def options(self):
        """Of the command, without those that say where it runs."""
        ((_, script, *argv),) = commands(self.command.text)
        assert (script, *argv[::2][:2]) == ("train.py", "--config", "--workdir"), argv
        return argv[4:]

    def added(self):
        """Lines that it adds, by file, but for empty ones."""
        lines, count = self.diff.text.splitlines(), {}
        for line in lines:
            if line.startswith("+++ b/"):
                path = line[6:]
            elif re.match(r"\+\s*\S", line):
                count[path] = count.get(path, 0) + 1
        return count


def recipes_of(page):
    found = blocks(page)
    pairs = itertools.pairwise(found)
    return [Recipe(*pair) for pair in pairs if pair[0].language == "diff"]


RECIPES = [recipe for page in PAGES for recipe in recipes_of(page)]


def name_of(recipe):
    return commands(recipe.command.text)[0][5].removeprefix("runs/")


def test_there_is_a_diff_for_each_kind_of_change():
    headings = [
        line[3:].lower()
        for line in (ROOT / "docs/change-one-thing.md").read_text().splitlines()
        if line.startswith("## ")
    ]
    kinds = ("likelihood", "schedule", "prior", "bottleneck", "channel", "representation")
    for kind in (*kinds, "optimizer", "carried", "critic", "block", "bands", "drawn from"):
        assert any(kind in heading for heading in headings), f"no recipe for {kind}"


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_change_is_small_and_of_one_file(recipe):
    """But for its settings; and for what is a file of its own and entries."""
    added = recipe.added()
    settings = added.pop("vaejax/config.py", 0)
    assert settings <= 2
    if name_of(recipe) == "critic":
        assert (len(added), sum(added.values()) <= 40) == (3, True)
    elif name_of(recipe) == "flow_matching":
        assert added.pop("vaejax/latent/flow_matching.py") < 100
        assert added == {"vaejax/latent/priors.py": 2}
    else:
        ((_, count),) = added.items()
        assert 0 < count <= 20


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """What the package computes as it is and under each recipe: its name -> figures."""
    copies = {}
    for recipe in (None, *RECIPES):
        diff = recipe and recipe.diff
        copy = tmp_path_factory.mktemp("copy")
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "vaejax", copy / "vaejax", ignore=ignored)
        if diff is not None:
            # Outside a repository, so that git takes the copy for what it is.
            done = subprocess.run(
                ["git", "apply", "-"],
                input=diff.text,
                text=True,
                capture_output=True,
                cwd=copy,
                env={**os.environ, "GIT_CEILING_DIRECTORIES": str(copy.parent)},
            )
            assert done.returncode == 0, f"{diff.page}:{diff.line}: {done.stderr}"
        copies[recipe and name_of(recipe)] = str(copy), recipe.options if recipe else []
    script, given = ROOT / "tests" / "changed_copy.py", json.dumps(list(copies.values()))
    done = subprocess.run(
        [sys.executable, script, given],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(copies, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_recipe_applies_trains_and_makes_a_sound(changed, recipe):
    figures, before = changed[name_of(recipe)], changed[None]
    for name in ("loss", "last_loss", "kl", "grad_norm", "sound", "ramps"):
        assert np.isfinite(np.asarray(figures[name])).all(), name
    assert figures["grad_norm"] > 0
    assert figures["sound"] > 0
    measured = ("loss", "last_loss", "ramps", "spectrogram", "densities")
    assert any(figures[name] != before[name] for name in measured)
    # Whatever the model sees, it stands for the same sound; but for bands, nearly.
    exact = name_of(recipe) != "log_frequency"
    assert figures["magnitude"] == pytest.approx(before["magnitude"], rel=1e-4 if exact else 0.1)


def test_what_a_recipe_adds_is_trained_logged_and_carried(changed):
    assert changed["generalised_gaussian"]["weights"] == changed[None]["weights"] + 1
    assert changed["critic"]["weights"] > changed[None]["weights"]
    assert {"critic", "adversary"} <= set(changed["critic"]["terms"])
    assert "sliced" in changed["swae"]["terms"]
    assert changed["geco"]["carried"]["multiplier"] < 1


def test_a_prior_that_a_recipe_adds_draws_from_where_the_posteriors_are(changed):
    """These lie around (3, 3, 3), half a unit wide."""
    mean, deviation = changed["flow_matching"]["densities"]["flow_matching"]
    assert mean == pytest.approx(3.0, abs=0.2)
    assert deviation == pytest.approx(0.5, abs=0.15)


def recipe(name):
    """A function that a diff adds, with the modules that its file has."""
    (text,) = [r.diff.text for r in RECIPES if f"def {name}(" in r.diff.text]
    added = "\n".join(line[1:] for line in text.splitlines() if re.match(r"\+(?!\+\+)", line))
    start = added.index(f"def {name}(")
    end = added.index("\n", added.index("return", start))
    namespace = {"jnp": jax.numpy, "jax": jax, "LOG_2PI": np.log(2 * np.pi)}
    exec(added[start:end], namespace)
    return namespace[name]


def test_logistic_recipe_is_the_density_of_its_name():
    """The worked recipe against SciPy."""
    x, mean = np.random.default_rng(0).normal(size=(2, 40))
    got = recipe("logistic_nll")(x, mean, np.log(0.7))
    want = -scipy.stats.logistic.logpdf(x, mean, 0.7 * np.sqrt(3) / np.pi).sum()
    assert got == pytest.approx(want, rel=1e-5)


def test_kl_to_the_laplace_prior_is_that_of_the_integral():
    mean, logvar = np.array([0.3, -1.2, 0.0]), np.array([-1.0, 0.4, -4.0])
    got = recipe("laplace_prior_kl")(mean, logvar)
    z, step = np.linspace(-12, 12, 200_001, retstep=True)
    for i in range(3):
        q = scipy.stats.norm(mean[i], np.exp(0.5 * logvar[i]))
        log_ratio = q.logpdf(z) - scipy.stats.laplace.logpdf(z, scale=np.sqrt(0.5))
        assert got[i] == pytest.approx(np.sum(q.pdf(z) * log_ratio) * step, rel=1e-4)


# Links


def headings(path):
    """The anchors of a Markdown file, as GitHub makes them."""
    lines = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def defined(path):
    """Names of the functions and classes of a Python file, methods as Class.method."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = prose(page)
    links = re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", text)
    links += re.findall(r"^\[([^\]]+)\]: (\S+)$", text, re.M)
    for label, target in links:
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: no {target}"
        if anchor:
            assert anchor in headings(path), f"{page}: no heading {target}"
        code = re.fullmatch(r"`([\w.]+)`", label)
        if path.suffix == ".py" and code and "/" not in label and not label.endswith(".py`"):
            assert code[1] in defined(path), f"{page}: no {code[1]} in {name}"


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_the_text_exist(page):
    """Paths in inline code, of the folders that the project has."""
    for code in re.findall(r"`([\w/.-]+)`", prose(page)):
        top = code.split("/")[0]
        if "/" in code and (ROOT / top).is_dir() and top not in ("runs", "samples", "build"):
            assert (ROOT / code).exists(), f"{page}: no {code}"


@pytest.mark.parametrize("page", PAGES)
def test_tests_named_in_the_text_exist(page):
    """`tests/FILE::NAME` in inline code, which a line may break."""
    for file, name in re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", prose(page)):
        tree = ast.parse((ROOT / file).read_text())
        known = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in known, f"{page}: no {name} in {file}"


def test_every_promise_names_a_test_that_holds_it():
    promised, _, rest = (ROOT / "docs/trust.md").read_text().partition("## What is not promised")
    promises = re.findall(r"^- \*\*.*?(?=^- |^#|\Z)", promised, re.M | re.S)
    assert len(promises) > 10
    assert rest
    for promise in promises:
        assert "`tests/" in promise, f"docs/trust.md: nothing holds {promise.splitlines()[0]}"


def test_every_page_is_in_the_index():
    index = (ROOT / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name})" in index, f"README.md does not link {page.name}"


def test_citation_names_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {project['version']}\n" in citation
    assert f"license: {project['license']}\n" in citation


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("README.md", r"^pip install .+ && pytest$"),
        ("README.md", r"^pip install .+ && python train\.py && python sample\.py$"),
        ("CONTRIBUTING.md", r"^pdoc .+$"),
    ],
)
def test_pages_hold_the_lines_that_programs_read_from_them(page, line):
    """.ci/run and benchmarks/first_run.py run what the pages say."""
    assert len(re.findall(line, (ROOT / page).read_text(), re.M)) == 1
