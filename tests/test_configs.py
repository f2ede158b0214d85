"""Every preset in configs/: passes the checks, builds at full size, takes a step when shrunk."""

import ast
import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import cli, codec, features, models
from vaejax import config as configs
from vaejax.train import training

PRESETS = sorted(path.stem for path in cli.PRESETS.glob("*.py") if path.stem != "__init__")


def shrunk(config):
    """The preset with small sizes, and nothing else of it changed."""

    def change(section, **fields):
        return dataclasses.replace(getattr(config, section), **fields)

    stages = min(config.model.num_stages, 1)
    # Frames enough for the stages, and samples enough for a window.
    num_samples = max(2 * config.features.n_fft, 2 ** (stages + 1) * config.features.hop_length)
    return dataclasses.replace(
        config,
        data=change("data", clip_seconds=num_samples / config.data.sample_rate),
        model=change(
            "model",
            latent_dim=4,
            width=8,
            num_stages=stages,
            num_blocks=1,
            num_directions=6,
            dense_width=8,
            dense_depth=1,
            frame_widths=(8,),
            ppca_clips=min(config.model.ppca_clips, 8),
        ),
        train=change("train", batch_size=4),
    )


def test_the_presets_are_those_that_the_project_promises():
    promised = {"default", "tiny", "workshop", "workshop_waveform", "canne", "gansynth_if"}
    assert promised | {"studio", "pitched", "drums", "nsynth", "notes"} <= set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_preset_passes_the_checks_and_says_what_it_is_for(name):
    configs.check(cli.load_preset(name))
    assert ast.get_docstring(ast.parse((cli.PRESETS / f"{name}.py").read_text()))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds_at_full_size(name):
    config = cli.load_preset(name)
    state = jax.eval_shape(lambda: training.create_state(config))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) > 0

    def rebuild(params):
        path, nothing = models.flat_path(config), jnp.zeros(0)
        x = jnp.zeros(config.shape)
        mean, _ = models.encode(params, x, nothing, path, config=config)
        return mean, models.decode(params, mean, nothing, path, config=config)

    mean, out = jax.eval_shape(rebuild, state.params)
    assert mean.shape == (config.latent_dim,)
    assert out.shape == config.shape


@pytest.mark.parametrize("name", PRESETS)
def test_shrunk_preset_takes_a_step_and_can_be_measured(name, make_sounds):
    config = shrunk(cli.load_preset(name))
    configs.check(config)
    sounds = make_sounds(config, 12)
    # What is fitted has tests of its own; here it only has the right shapes.
    fitted = codec.Fitted(
        features.Statistics(jnp.zeros(config.shape[1:]), jnp.ones(())),
        models.flat_path(config, sounds.told.condition_dim),
    )
    steps, steps_in = training.make_steps(config, sounds, fitted)
    state, metrics = steps(training.create_state(config, sounds.told.condition_dim), 0)
    assert int(state.step) == steps_in == config.train.steps_per_dispatch
    assert int(state.first_bad_step) == -1
    assert np.isfinite(metrics["loss"])
    measure = partial(training.eval_step, config=config)
    rows = np.arange(3)
    terms = jax.eval_shape(measure, state.ema, fitted, *sounds.read(rows), rows)
    assert terms["recon"].shape == (3,)


def test_workshop_has_the_originals_settings():
    config = cli.load_preset("workshop")
    assert (config.data.sample_rate, config.data.clip_seconds) == (44_100, 1.0)
    assert (config.features.n_fft, config.features.hop_length) == (2048, 512)
    assert config.model.latent_dim == 8
    assert config.model.kind == "conv2d"
    assert config.shape == (87, 1025, 3)


def test_layers_named_in_the_workshops_header_are_the_originals():
    about = ast.get_docstring(ast.parse((cli.PRESETS / "workshop.py").read_text()))
    assert re.search(r"layers plain .*num_stages 4 .*num_blocks 3 .*patch 1 1`", about)
    config = cli.load_preset("workshop")
    changes = {"layers": "plain", "num_stages": 4, "num_blocks": 3, "patch": (1, 1)}
    configs.check(dataclasses.replace(config, model=dataclasses.replace(config.model, **changes)))


def test_drums_are_drums():
    config = cli.load_preset("drums")
    assert set(config.data.synth_families) == {"kick", "snare", "hat", "tom", "clap"}
    assert config.features.hop_length < cli.load_preset("default").features.hop_length


def test_canne_has_the_originals_frames_and_widths():
    config = cli.load_preset("canne")
    assert (config.data.sample_rate, config.features.num_bins) == (44_100, 2049)
    assert (config.features.n_fft, config.features.hop_length) == (4096, 1024)
    assert (*config.model.frame_widths, config.model.latent_dim) == (
        *(1000, 512, 256, 128, 64, 32, 16),
        8,
    )


def test_studio_is_wider_and_longer_than_default_and_computes_in_bfloat16():
    studio, default = cli.load_preset("studio"), cli.load_preset("default")
    assert studio.model.width > default.model.width
    assert studio.data.clip_seconds > default.data.clip_seconds
    assert studio.model.compute_dtype == "bfloat16"
    assert studio.data.sample_rate == 44_100
