"""Many devices do what one does: the same examples, the same sounds, one sum over the gradient."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from vaejax.devices import sharding
from vaejax.run import checkpoint
from vaejax.train.training import create_state

EXCHANGES = (
    "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
)


@pytest.fixture(scope="module")
def eight(tmp_path_factory, trained):
    """What eight faked devices computed: the folder, and the results in it."""
    out = tmp_path_factory.mktemp("eight")
    script = Path(__file__).parents[1] / "many_devices.py"
    done = subprocess.run(
        [sys.executable, str(script), str(out), str(trained)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8",
            "PYTHONPATH": str(script.parents[1]),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out, dict(np.load(out / "results.npz"))


def test_loss_curve_of_eight_devices_is_that_of_one(eight):
    _, results = eight
    assert len(results["one"]) == 4
    # Sums over the batch are added up in another order; float32 has seven digits.
    np.testing.assert_allclose(results["eight"], results["one"], rtol=1e-5)


def test_loss_curve_of_eight_devices_that_stream_and_work_in_parts_is_that_of_one(eight):
    _, results = eight
    # Two steps in one call, which returns their mean.
    expected = results["one"].reshape(2, 2).mean(1)
    np.testing.assert_allclose(results["streamed"], expected, rtol=1e-5)


def test_loss_curve_of_divided_weights_is_that_of_one_device(eight):
    _, results = eight
    np.testing.assert_allclose(results["divided"], results["one"], rtol=1e-5)
    assert results["share"] == 1 / 8


def test_a_step_exchanges_nothing_but_sums_of_gradient_and_metrics(eight):
    out, _ = eight
    # The first group is the shape of what is exchanged.
    pattern = rf"^ *(?:ROOT )?%\S+ = (.*?) ({EXCHANGES})(?:-start)?\("
    found = re.findall(pattern, (out / "step.txt").read_text(), re.MULTILINE)
    assert {kind for _, kind in found} == {"all-reduce"}
    exchanged = sum(
        int(np.prod([int(n) for n in shape.split(",") if n]))
        for shapes, _ in found
        for shape in re.findall(r"f32\[([\d,]*)\]", shapes)
    )
    weights = sum(leaf.size for name, leaf in eight[1].items() if re.fullmatch(r"saved\.\d+", name))
    # A state holds the weights four times, and three counters beside: step, first_bad_step and
    # the optimizer's two.
    weights = (weights - 4) // 4
    # The metrics are a few numbers, and a few per latent dimension, of which there are 4; the
    # spectrograms of a batch would be thousands.
    assert weights <= exchanged < weights + 64


def test_a_checkpoint_of_eight_devices_restores_on_two_and_on_one(eight, make_config):
    out, results = eight
    plain = {"augment": {"pitch_semitones": 0}, "model": {"num_stages": 0}}
    config = make_config(**plain, train={"batch_size": 16})
    saved = [results[name] for name in results if name.startswith("saved.")]
    assert results["restored_on"] == 2
    for i, leaf in enumerate(saved):
        np.testing.assert_array_equal(results[f"restored.{i}"], leaf)
    assert jax.device_count() == 1
    state, best = checkpoint.Checkpoints(out, read_only=True).restore_last(
        lambda: create_state(config)
    )
    assert best == {"loss": 1.0}
    for leaf, expected in zip(jax.tree.leaves(state), saved, strict=True):
        np.testing.assert_array_equal(leaf, expected)


def test_sounds_of_eight_devices_are_those_of_one_bit_for_bit(eight):
    _, results = eight
    fields = [name.partition(".")[2] for name in results if name.startswith("by_one.")]
    assert "samples" in fields
    assert len(results["by_one.samples"]) == 96
    for field in fields:
        np.testing.assert_array_equal(results[f"by_eight.{field}"], results[f"by_one.{field}"])


@pytest.mark.parametrize(
    ("batch_size", "tried"),
    [(30, "try --train.batch_size 24 or --train.batch_size 32"), (5, "try --train.batch_size 8")],
)
def test_batch_that_does_not_divide_names_sizes_that_do(monkeypatch, batch_size, tried):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(ValueError, match=rf"={batch_size} must be a multiple of the 8 .* {tried}$"):
        sharding.check_batch_size(batch_size)
    sharding.check_batch_size(48)


def test_batch_in_parts_that_do_not_divide_names_sizes_that_do(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    said = "=40 must be a multiple of the 8 devices times train.grad_accumulation=2; try .* 32 or"
    with pytest.raises(ValueError, match=said):
        sharding.check_batch_size(40, 2)
    sharding.check_batch_size(48, 2)


def test_one_device_needs_no_mesh(config):
    assert sharding.create_mesh() is None
    assert sharding.local_mesh() is None
    assert sharding.local_rows(8) == slice(0, 8)
