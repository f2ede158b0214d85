"""What a run leaves in its event files, read back."""

import dataclasses
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from vaejax import config as configs
from vaejax.data import sounds
from vaejax.drawing import figures, picture
from vaejax.run.load import load_run
from vaejax.train import evaluation, tensorboard


def events(workdir):
    """All events, by the record format: length, its checksum, data, its checksum."""
    for path in sorted((workdir / "tensorboard").glob("events.*")):
        data = path.read_bytes()
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16


def pixels(value):
    return np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))


@pytest.fixture(scope="module")
def values(trained):
    found = {}
    for event in events(trained):
        for value in event.summary.value:
            found.setdefault(value.tag, {})[event.step] = value
    return found


def test_scalars_are_those_of_the_metrics_file(trained, values):
    for line in (trained / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in row.keys() - {"step", "split"}:
            logged = values[f"{row['split']}/{name}"][row["step"]].simple_value
            assert np.isclose(logged, row[name], rtol=1e-6), (name, row)


def test_the_same_sounds_are_drawn_and_played_at_every_evaluation(trained, values):
    evaluated = sorted(values["held_out/loss"])
    pictures = values["held_out/original_over_reconstruction"]
    assert sorted(pictures) == evaluated
    assert sorted(values["held_out/0_reconstruction"]) == evaluated
    assert sorted(values["held_out/0_original"]) == [0]
    images = {step: pixels(pictures[step]) for step in evaluated}
    first, last = images[evaluated[0]], images[evaluated[-1]]
    # The upper half shows the original, the same every time; the lower half what was learnt.
    top, height, left, width = figures.TOP, 112, figures.LEFT, 176
    assert np.array_equal(
        first[top : top + height, left : left + width],
        last[top : top + height, left : left + width],
    )
    below = slice(top + height + figures.GAP, top + 2 * height + figures.GAP)
    assert not np.array_equal(first[below, left : left + width], last[below, left : left + width])


def test_new_sounds_say_which_density_they_are_drawn_from(values):
    drawn = {tag: steps for tag, steps in values.items() if tag.startswith("new_")}
    assert len(drawn) == 5  # a picture and four sounds
    for tag, steps in drawn.items():
        assert "gaussian" in tag
        assert "held-out" in steps[0].metadata.summary_description


def test_audio_is_as_long_as_a_clip(trained, values):
    config = configs.load(trained / "config.json")
    audio = values["held_out/0_reconstruction"][0].audio
    assert audio.sample_rate == config.data.sample_rate
    assert audio.encoded_audio_string[:4] == b"RIFF"
    assert audio.length_frames == config.data.num_samples


def test_latent_is_a_histogram_over_its_dimensions_and_over_the_posteriors(trained, values):
    config = configs.load(trained / "config.json")
    for split in ("train", "held_out"):
        for value in values[f"{split}/kl_per_dim"].values():
            assert value.histo.num == config.model.latent_dim
    held_out = json.loads((trained / "data.json").read_text())["counts"]["held_out"]
    for name in ("mean", "std"):
        for value in values[f"held_out/{name}"].values():
            assert value.histo.num == held_out * config.model.latent_dim
    assert values["held_out/std"][0].histo.min > 0


def test_kl_per_dimension_is_a_bar_each(trained, values):
    config = configs.load(trained / "config.json")
    image = pixels(values["held_out/kl_per_dim_bars"][0])
    row = (image[figures.TOP + 119] == figures.BAR).all(-1)
    assert np.sum(np.diff(row.astype(int)) == 1) == config.model.latent_dim


def text_of(values, tag):
    return {
        step: value.tensor.string_val[0].decode()
        for step, value in values[f"{tag}/text_summary"].items()
    }


def test_config_is_a_table_with_what_differs_in_bold(values):
    text = text_of(values, "config")[0]
    assert "| model.latent_dim | **8** | 64 |" in text
    assert "| objective.beta | 1.0 | 1.0 |" in text


def test_advice_is_given_when_it_changes(values):
    advice = text_of(values, "advice")
    assert "of 8 dimensions are in use" in advice[0]
    said = [re.sub(r"[-+]?[\d.,]+", "", advice[step]) for step in sorted(advice)]
    assert all(now != before for before, now in itertools.pairwise(said))


def test_audio_error_is_the_first_scalar(values):
    scalars = sorted(
        name for name in values if name.startswith(("audio_error", "best", "held_out"))
    )
    assert scalars[0] == "audio_error/mel_l1_db"
    first, same = values["audio_error/mel_l1_db"], values["held_out/mel_l1_db"]
    assert {k: v.simple_value for k, v in first.items()} == {
        k: v.simple_value for k, v in same.items()
    }
    assert "Collapse" in text_of(values, "how_to_read_this")[0]


def test_settings_and_final_figures_are_in_the_run_itself(trained, values):
    data = values["_hparams_/session_start_info"][0].metadata.plugin_data
    assert data.plugin_name == "hparams"
    hparams = HParamsPluginData.FromString(data.content).session_start_info.hparams
    config = configs.load(trained / "config.json")
    assert hparams["model.latent_dim"].number_value == config.model.latent_dim
    assert hparams["train.num_steps"].number_value == config.train.num_steps
    assert hparams["data.source"].string_value == Path(config.data.source).name
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    best = min((r for r in rows if r["split"] == "held_out"), key=lambda r: r["mel_l1_db"])
    for name in ("loss", "recon", "kl", "mel_l1_db", "lsd_db", "active_units"):
        assert np.isclose(values[f"best/{name}"][best["step"]].simple_value, best[name], rtol=1e-6)
    # A folder with events of its own would be a second run.
    assert {path.parent for path in trained.rglob("*tfevents*")} == {trained / "tensorboard"}


def test_settings_of_a_run_that_goes_on_replace_the_old_ones(tmp_path, config):
    def num_steps():
        (value,) = (
            value
            for event in events(tmp_path)
            for value in event.summary.value
            if value.tag == "_hparams_/session_start_info"
        )
        start = HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info
        return start.hparams["train.num_steps"].number_value

    tensorboard.Board(tmp_path, config, 0).close()
    assert num_steps() == 16
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=32))
    tensorboard.Board(tmp_path, longer, 16).close()
    assert num_steps() == 32


def test_projector_has_a_row_a_label_and_a_picture_for_each_training_sound(trained):
    run = load_run(trained)
    config_text = (trained / "tensorboard" / "projector_config.pbtxt").read_text()
    projector = text_format.Parse(config_text, ProjectorConfig())
    (entry,) = projector.embeddings
    assert entry.tensor_name.endswith(f":{run.step:05d}")
    folder = trained / "tensorboard"
    tensors = np.loadtxt(folder / entry.tensor_path, delimiter="\t")
    assert np.allclose(tensors, run.posteriors.means, atol=1e-6)
    header, *rows = (folder / entry.metadata_path).read_text().splitlines()
    assert header.split("\t") == ["label", "file", "seconds"]
    files = [run.data["files"][row] for row in run.posteriors.rows]
    assert [row.split("\t")[:2] for row in rows] == [[f["label"], f["file"]] for f in files]
    assert {row["split"] for row in files} == {"train"}
    # A square of square pictures, in rows of as many as the browser computes from its width.
    width, height = entry.sprite.single_image_dim
    sheet = np.asarray(Image.open(folder / entry.sprite.image_path))
    assert width == height
    across = sheet.shape[1] // width
    assert sheet.shape[0] == sheet.shape[1] == across * width
    assert across**2 >= len(files) > (across - 1) ** 2
    last = len(files) - 1
    y, x = last // across * height, last % across * width
    dataset = sounds.load(run.config)
    small = evaluation.thumbnails(dataset, run.posteriors.rows[-1:], run.config)[0]
    assert (
        np.abs(sheet[y : y + height, x : x + width].astype(int) - picture.colorize(small)).max()
        <= 1
    )


def test_pytorch_is_not_imported_where_it_is_installed(tmp_path):
    (tmp_path / "torch.py").write_text("print('imported'); Tensor = int\n")
    # Afterwards it is there for whoever wants it.
    program = "import vaejax.train.tensorboard; print('before'); import torch"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["before", "imported"]
