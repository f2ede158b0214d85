"""Configs: what is refused and with which numbers, what survives the way to disk and back."""

import dataclasses
import json
from typing import get_args

import pytest

from vaejax import config as configs
from vaejax import rules
from vaejax.data.families import FAMILIES


def change(config, name, value):
    section, field = name.split(".")
    part = dataclasses.replace(getattr(config, section), **{field: value})
    return dataclasses.replace(config, **{section: part})


def test_default_config_passes_its_own_checks():
    rules.check(configs.Config())


@pytest.mark.parametrize("name", configs.marked(configs.POSITIVE))
def test_zero_is_refused_where_a_field_must_be_positive(config, name):
    with pytest.raises(ValueError, match=rf"^{name}=0 must be greater than 0$"):
        rules.check(change(config, name, 0))


def test_infinity_is_refused(config):
    for name in ("augment.eq_db", "train.learning_rate"):
        with pytest.raises(ValueError, match=rf"{name}=inf must be a finite number"):
            rules.check(change(config, name, float("inf")))


@pytest.mark.parametrize("name", configs.marked(configs.NOT_NEGATIVE))
def test_negative_is_refused_where_a_field_cannot_be(config, name):
    with pytest.raises(ValueError, match=rf"^{name}=-1 must not be negative$"):
        rules.check(change(config, name, -1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.holdout_fraction": 0.6}, r"data\.holdout_fraction=0\.6 must lie in \(0, 0\.5\]"),
        ({"data.holdout_fraction": 0.0}, r"data\.holdout_fraction=0\.0 must lie"),
        ({"data.trim_db": 0.0}, r"data\.trim_db=0\.0 must be negative"),
        ({"train.ema_decay": 1.0}, r"train\.ema_decay=1\.0 must lie in \[0, 1\)"),
        ({"train.final_learning_rate": 1.5}, r"train\.final_learning_rate=1\.5 is a share"),
        (
            {"train.grad_accumulation": 3},
            r"train\.batch_size=8 must be a multiple of train\.grad_accumulation=3; try 9",
        ),
        (
            {"train.grad_accumulation": 2, "objective.regularizer": "mmd"},
            r"train\.grad_accumulation=2 needs a loss that is a mean .*regularizer=mmd is not",
        ),
        (
            {"objective.likelihood": "von_mises"},
            r"von_mises is for angles, and features\.kind=power has none; take gaussian, or one of",
        ),
        ({"sound.peak_db": 1.0}, r"sound\.peak_db=1\.0 must be at most 0"),
        ({"features.n_fft": 255}, r"features\.n_fft=255 must be even"),
        (
            {"features.hop_length": 129},
            r"features\.hop_length=129 is more than half of features\.n_fft=256.*try 64",
        ),
        (
            {"data.clip_seconds": 0.03},
            r"data\.clip_seconds=0\.03 at 8000 Hz has 240 samples, fewer than features\.n_fft=256"
            r".*--data\.clip_seconds 0\.032",
        ),
        (
            {"model.num_stages": 5},
            r"model\.num_stages=5 halves .* a clip has 32 frames; at least 64 .* num_stages 4",
        ),
        (
            {"model.kind": "conv2d", "model.num_stages": 4},
            r"halves the frames, model\.patch=\(2, 4\) at a time, 4 times, but a clip has 32 frames"
            r"; at least 32 x 2 are needed: a clip of 0\.496 s or more, or num_stages 3",
        ),
        (
            {"model.kind": "conv2d", "model.patch": (1, 64)},
            r"halves the bins.* has 129 bins; at least 4 x 64 .*features\.n_fft 512 or more, or "
            r"num_stages 0",
        ),
        (
            {"model.kind": "waveform", "features.kind": "waveform", "model.num_stages": 10},
            r"halves the samples 10 times, but a clip has 2000 samples; at least 2048 are needed: "
            r"a clip of 0\.256 s or more, or num_stages 9",
        ),
        (
            {"model.kind": "waveform"},
            r"cannot read features\.kind=power.*--features\.kind waveform",
        ),
        ({"features.kind": "waveform"}, r"model\.kind=conv1d cannot read .*--model\.kind waveform"),
        ({"model.kind": "conv2d", "model.patch": (0, 4)}, r"model\.patch=\(0, 4\) must be two"),
        ({"data.synth_families": ("kick", "gong")}, r"data\.synth_families: no 'gong'; .*snare"),
        ({"data.synth_families": ("kick", "kick")}, r"data\.synth_families names kick more than"),
        ({"model.kernel_size": 4}, r"model\.kernel_size=4 must be odd"),
        ({"model.latent_dim": 32 * 129}, r"model\.latent_dim=4128 must be smaller than the 4128"),
        (
            {"model.num_directions": 3},
            r"model\.num_directions=3 must be at least model\.latent_dim=4; try 16",
        ),
        (
            {"model.ppca_clips": 8},
            r"model\.ppca_clips=8 must exceed model\.num_directions=8; try 32",
        ),
        (
            {"model.num_refinements": 1, "model.ppca_clips": 0},
            r"model\.num_refinements=1 needs the perceptron .*model\.ppca_clips=0 go without.* 0",
        ),
        (
            {"model.num_refinements": 1, "model.kind": "frames"},
            r"model\.num_refinements=1 needs the perceptron .*model\.kind=frames",
        ),
        (
            {"augment.eq_db": 6.0, "condition.factors": ("brightness",)},
            r"augment\.eq_db=6 changes the brightness that condition\.factors tells; leave one",
        ),
        (
            {"train.steps_per_dispatch": 8, "train.log_every_steps": 10},
            r"train\.log_every_steps=10 must be a multiple of train\.steps_per_dispatch=8; try 16",
        ),
        (
            {"train.num_steps": 2**30, "train.batch_size": 8},
            r"train\.num_steps=1073741824 x train\.batch_size=8 must stay below",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_numbers(config, changes, message):
    for name, value in changes.items():
        config = change(config, name, value)
    with pytest.raises(ValueError, match=message):
        rules.check(config)


@pytest.mark.parametrize(
    "changes",
    [
        {"data.clip_seconds": 0.032, "model.num_stages": 0},
        {"model.num_stages": 4},
        {"features.hop_length": 128},
        {"model.num_directions": 16},
        {"model.ppca_clips": 32},
        {"model.kind": "conv2d", "model.num_stages": 4, "data.clip_seconds": 0.496},
        {"model.kind": "conv2d", "model.patch": (1, 64), "features.n_fft": 512},
        {
            "model.kind": "waveform",
            "features.kind": "waveform",
            "model.num_stages": 10,
            "data.clip_seconds": 0.256,
        },
        {"model.ppca_clips": 0, "model.num_directions": 3},
    ],
)
def test_the_value_that_a_refusal_suggests_is_accepted(config, changes):
    for name, value in changes.items():
        config = change(config, name, value)
    rules.check(config)


def test_families_are_those_of_the_built_in_set():
    # Written out in the config so that --help needs no JAX.
    assert get_args(configs.Family) == FAMILIES


def test_num_frames_is_that_of_centred_frames(config):
    assert config.data.num_samples == 2000
    assert config.num_frames == 1 + 2000 // 64
    assert config.features.num_bins == 129


def test_a_pack_holds_what_raising_the_pitch_reads_beyond_the_clip(make_config):
    config = make_config(augment={"pitch_semitones": 12})
    assert config.pack_samples >= 2 * config.data.num_samples
    assert make_config(augment={"pitch_semitones": 0}).pack_samples == 2000


def test_saved_config_loads_equal(tmp_path, config):
    (tmp_path / "config.json").write_text(configs.to_json(config))
    assert configs.load(tmp_path / "config.json") == config


def test_unknown_settings_in_a_saved_config_are_named(config):
    values = json.loads(json.dumps(configs.to_dict(config)))
    values["model"]["depth"] = 3
    values["extra"] = {}
    with pytest.raises(ValueError, match=r"^unknown settings: extra, model\.depth$"):
        configs.from_dict(values)


def test_differences_name_fields_with_old_and_new(config):
    changed = change(change(config, "model.width", 99), "train.seed", 5)
    assert configs.differences(config, config) == {}
    assert configs.differences(config, changed) == {
        "model.width": (16, 99),
        "train.seed": (0, 5),
    }


def test_get_reads_a_dotted_name(config):
    assert configs.get(config, "model.latent_dim") == 4


@pytest.mark.parametrize("name", configs.marked(configs.RESUMABLE))
def test_every_resumable_name_is_a_field(config, name):
    configs.get(config, name)


def test_a_config_cannot_be_changed_in_place(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.seed = 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("condition.factors", ("pitch",), "pitch has a setting of its own, --condition.pitch"),
        ("condition.dropout", 1.0, "must lie in"),
        ("data.pitch_pattern", "(", "is no regular expression"),
        ("data.pitch_pattern", r"_(\d+)_", "needs a group named pitch"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_way_out(config, name, value, message):
    with pytest.raises(ValueError, match=message):
        rules.check(change(config, name, value))


def test_tuples_come_back_from_a_saved_config(tmp_path, config):
    told = change(config, "condition.factors", ("decay", "noise"))
    (tmp_path / "config.json").write_text(configs.to_json(told))
    assert configs.load(tmp_path / "config.json") == told
