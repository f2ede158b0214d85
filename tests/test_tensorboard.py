"""What a run leaves in its event files, read back."""

import json

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from vaejax import config as configs


def events(workdir):
    """All events, by the record format: length, its checksum, data, its checksum."""
    for path in sorted((workdir / "tensorboard").glob("events.*")):
        data = path.read_bytes()
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16


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
    assert sorted(values["held_out/0_input_over_output"]) == evaluated
    assert sorted(values["held_out/0_output"]) == evaluated
    assert sorted(values["new/0"])  # a picture
    first = values["held_out/0_input_over_output"][0].image
    assert first.encoded_image_string[:8] == b"\x89PNG\r\n\x1a\n"
    # The input, above, is the same every time: so is the size of the picture.
    assert {values["held_out/0_input_over_output"][s].image.height for s in evaluated} == {258}


def test_audio_is_as_long_as_a_clip(trained, values):
    config = configs.load(trained / "config.json")
    audio = values["held_out/0_output"][0].audio
    assert audio.sample_rate == config.data.sample_rate
    assert audio.encoded_audio_string[:4] == b"RIFF"


def test_latent_is_a_histogram_over_its_dimensions(trained, values):
    config = configs.load(trained / "config.json")
    for split in ("train", "held_out"):
        for value in values[f"{split}/kl_per_dim"].values():
            assert value.histo.num == config.model.latent_dim


def test_config_is_there_to_read(trained, values):
    (text,) = values["config/text_summary"][0].tensor.string_val
    assert json.loads(text.decode().strip("`").removeprefix("json"))["model"]["latent_dim"]
