"""Every option of train.py that is advertised trains.

Advertised are the options with values that the headers of presets, the README and the pages name,
and every name that a field of features, model, objective, condition and sound may have. As many as
go together share one small program, so that all of them take a dozen.
"""

import ast
import re
from functools import partial
from pathlib import Path
from typing import get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import cli, codec, features, models, rules
from vaejax import config as configs
from vaejax.config import Config
from vaejax.data import sounds as sets
from vaejax.train.state import create_state
from vaejax.train.step import make_steps

ROOT = Path(__file__).resolve().parents[1]
# Its options are those of its diffs, which test_docs.py applies.
PAGES = {ROOT / "README.md", *(ROOT / "docs").glob("*.md")} - {ROOT / "docs/change-one-thing.md"}
# What training does not look at, or what decides how long it takes and is small here.
SIZES = {
    "data": None,
    "prior": None,
    "features": {"n_fft": 64, "hop_length": 16, "n_mels": 8, "fmin": 0.0, "fmax": None},
    "model": {
        "latent_dim": 4,
        "width": 4,
        "num_stages": 1,
        "num_blocks": 1,
        "num_directions": 6,
        "dense_width": 4,
        "dense_depth": 1,
        "frame_widths": (4,),
    },
    "objective": {"top_dim": 2, "prior_components": 2, "num_draws": 2, "latent_width": 4},
    "train": {"num_steps": 2000, "batch_size": 4, "warmup_steps": 1},
}
# What a name is refused without.
COMPANY = {
    ("features.kind", "waveform"): {"model.kind": "waveform"},
    ("model.kind", "waveform"): {"features.kind": "waveform"},
    ("model.bottleneck", "relu"): {"model.kind": "frames", "model.ppca_clips": 0},
    ("model.bottleneck", "sigmoid"): {"model.kind": "frames", "model.ppca_clips": 0},
    ("model.variational", False): {"model.kind": "frames", "objective.beta": 0.0},
    ("objective.likelihood", "von_mises"): {"features.kind": "magnitude_if"},
    ("objective.schedule", "cyclical"): {
        "objective.beta_warmup_steps": 2,
        "objective.beta_cycle_steps": 4,
    },
}
# Fields that one kind of model looks at.
OF_KIND = {"model.layers": "conv2d", "model.patch": "conv2d", "model.block": "conv1d"}
KINDS = ("model.kind", "features.kind")


def is_small(name):
    """Whether a field is left out, or has a small value here."""
    section, field = name.split(".")
    sizes = SIZES.get(section, {})
    return sizes is None or field in sizes


def base(make_config):
    """A small config with nothing but sizes."""
    sizes = {section: dict(fields) for section, fields in SIZES.items() if fields}
    sizes["model"]["ppca_clips"] = 8
    return make_config(data={"sample_rate": 8000, "clip_seconds": 0.032}, **sizes)


def value_of(name, words):
    """The value that a field gets from the words after its option, and the field's name."""
    section, field = name.split(".")
    if field.startswith("no_"):
        return f"{section}.{field[3:]}", False
    default = configs.get(Config(), name)
    if isinstance(default, bool):
        return name, True
    values = [word if isinstance(default, str) else _literal(word) for word in words]
    if isinstance(default, tuple):
        return name, tuple(values)
    return name, float(values[0]) if isinstance(default, float) else values[0]


def _literal(word):
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def options_in(code):
    """The options with values in a piece of code: field -> value."""
    found, words = {}, []
    for word in reversed(code.replace("\\\n", " ").split()):
        name = word.removeprefix("--")
        if not word.startswith("--"):
            words.insert(0, word)
            continue
        is_flag = name.partition(".")[2].startswith("no_")
        known = "." in name and (is_flag or name in FIELDS)
        if known and (words or is_flag or isinstance(configs.get(Config(), name), bool)):
            field, value = value_of(name, words)
            if not is_small(field):
                found[field] = value
        words = []
    return found


FIELDS = {
    f"{section}.{name}" for section, fields in configs.to_dict(Config()).items() for name in fields
}


def pieces_of(text):
    """Commands and inline code of a page or of a preset's header."""
    fenced = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    plain = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    commands = [
        line
        for part in (*fenced, plain)
        for line in part.replace("\\\n", " ").splitlines()
        if re.match(r"\s*python train\.py", line)
    ]
    return [*commands, *re.findall(r"`([^`\n]*\n?[^`\n]*)`", plain)]


def advertised():
    """What texts name, and every name of every field: dicts of what belongs together."""
    units = []
    for path in sorted(PAGES):
        units += [options_in(piece) for piece in pieces_of(path.read_text())]
    for path in sorted(cli.PRESETS.glob("[!_]*.py")):
        preset = cli.load_preset(str(path))
        of_preset = {name: configs.get(preset, name) for name in KINDS}
        header = ast.get_docstring(ast.parse(path.read_text()), clean=False)
        for piece in pieces_of(header):
            if named := options_in(piece):
                units.append(of_preset | named)
    for section in ("features", "model", "objective", "condition", "train", "sound"):
        values = getattr(Config(), section)
        for name in sorted(vars(values)):
            field = f"{section}.{name}"
            if isinstance(getattr(values, name), bool):
                units.append({field: not getattr(values, name)})
            units += [{field: choice} for choice in choices(values, name)]
    # Only sounds that are synthesised or NSynth's have factors.
    units = [{k: v for k, v in unit.items() if k != "condition.factors"} for unit in units]
    return [unit for unit in units if unit]


def choices(section, name):
    return rules._choices(get_type_hints(type(section), include_extras=True)[name])


def bundles(start):
    """Configs in which everything that is advertised has its turn."""
    made = []
    for unit in advertised():
        for pair in list(unit.items()):
            kind = {"model.kind": OF_KIND[pair[0]]} if pair[0] in OF_KIND else {}
            unit = COMPANY.get(pair, {}) | kind | unit
        for i, bundle in enumerate(made):
            if go_together(bundle, unit, start):
                made[i] = bundle | unit
                break
        else:
            rules.check(configs.replaced(start, unit))
            made.append(unit)
    return made


def go_together(bundle, unit, start):
    """Whether one config may have both, so that both count."""
    both = bundle | unit
    if any(bundle.get(name, value) != value for name, value in unit.items()):
        return False
    if both.get("model.variational") is False:  # without a posterior, most objectives are one
        return not any(name.startswith("objective.") for name in both if name != "objective.beta")
    try:
        rules.check(configs.replaced(start, both))
    except ValueError:
        return False
    return True


def argv_of(values):
    """A config's values as train.py is given them."""
    words = []
    for name, value in values.items():
        section, field = name.split(".")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--{section}.no_{field}")
        else:
            listed = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(str, listed)]
    return words


def test_every_advertised_option_trains_a_step_and_makes_a_sound(make_config, make_sounds):
    start = base(make_config)
    made = bundles(start)
    assert 5 < len(made) < 20
    for values in made:
        config = cli.parse(Config, start, argv_of(values), description="")
        assert config == configs.replaced(start, values)
        sounds = make_sounds(config, 8)
        assert sets.report(sounds)
        told = sounds.told.condition_dim
        statistics = features.Statistics(jnp.zeros(config.shape[1:]), jnp.ones(()))
        fitted = codec.Fitted(statistics, models.flat_path(config, told))
        steps, _ = make_steps(config, sounds, fitted)
        state, metrics = steps(create_state(config, told), 0)
        assert int(state.first_bad_step) == -1, values
        assert np.isfinite(metrics["loss"]).all(), values
        z, condition = jnp.zeros(config.latent_dim), jnp.zeros(told)
        decode = partial(codec.decode, config=config)
        sound, _ = jax.eval_shape(decode, state.ema, fitted, z, condition)
        assert sound.shape == (config.data.num_samples,)


def test_texts_and_tables_are_read():
    """A test of all options that finds none would pass."""
    units = advertised()
    for unit in (
        {"features.kind": "complex", "features.exponent": 0.5},
        {"condition.chroma": True},
        {"objective.likelihood": "student_t"},
        {"train.optimizer": "muon"},
        {"model.variational": False},
    ):
        assert any(unit.items() <= one.items() for one in units), unit


@pytest.mark.parametrize("fact", ["chroma=9", "brightness=2000"])
def test_a_model_told_all_is_told_it_again_when_sounds_are_made(told_all, call, tmp_path, fact):
    done = call(
        *("sample", "--workdir", told_all, "--out", tmp_path / "out", "--num", 2, "--tell", fact)
    )
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "manifest.jsonl").exists()


@pytest.fixture(scope="module")
def told_all(tiny, call, tmp_path_factory):
    """A run whose model is told a label, a pitch, a pitch class and a factor."""
    workdir = tmp_path_factory.mktemp("told") / "run"
    names = ("label", "pitch", "chroma")
    done = call(
        *("train", *tiny, "--workdir", workdir, "--data.synth_count", 48, "--train.num_steps", 1),
        *("--train.eval_every_steps", 1, *(f"--condition.{name}" for name in names)),
        *("--condition.factors", "brightness"),
    )
    assert done.code == 0, done.err
    assert "told of: label (48), pitch (" in done.out
    assert "chroma (" in done.out
    return workdir
