"""What eight faked devices compute, beside what one of them does; run by test_sharding.py.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 PYTHONPATH=. python tests/many_devices.py \
        OUT RUN

OUT gets results.npz, step.txt (the compiled step) and a checkpoint; RUN is a trained run.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from conftest import small_config, small_sounds

from vaejax.devices import sharding
from vaejax.export.files import PLAIN
from vaejax.run import checkpoint
from vaejax.run.load import load_run
from vaejax.sampling import plans, stream
from vaejax.sampling.order import Order
from vaejax.train.fit import fit
from vaejax.train.state import create_state
from vaejax.train.step import make_steps

NUM_STEPS = 4
BATCH = 32


def train(config, sounds, fitted, mesh, *, divide=False):
    """Losses of a few steps, the state after them, and the compiled step."""
    compiled = []

    def capturing(function, **options):
        """`jax.jit`, but with what was compiled at hand."""
        jitted = jit(function, **options)

        def call(*args):
            if not compiled:
                compiled.append(jitted.lower(*args).compile())
            return compiled[0](*args)

        return call

    state = create_state(config)
    layout = sharding.weights(state, mesh, divide=divide)
    if divide:
        state = create_state(config, 0, layout)
    elif mesh is not None:
        state = sharding.put(state, layout)
    jit, jax.jit = jax.jit, capturing
    try:
        placement = sharding.over(mesh, layout)
        steps, steps_in = make_steps(config, sounds, fitted, placement=placement)
    finally:
        jax.jit = jit
    losses = []
    for step in range(0, NUM_STEPS, steps_in):
        state, metrics = steps(state, step)
        losses.append(float(metrics["loss"]))
    return losses, state, compiled[0].as_text()


def sounds_of(run, mesh):
    """What `sample.py` gets from the devices for three batches of different chunks."""
    plan = plans.from_prior(run, num=3 * BATCH, seed=1, temperature=1.0, prior="aggregate")
    order = Order(run, plan, PLAIN._replace(dither="none"))
    size = plan.num if mesh is None else 8 * 16
    made = stream.batches(order, range(0, plan.num, size), batch_size=size, mesh=mesh)
    (_, batch), *_ = made
    return {name: values[: plan.num] for name, values in batch.items()}


def main(out: Path, run: Path) -> None:
    assert jax.device_count() == 8
    results = {}
    mesh = sharding.create_mesh()
    plain = {"augment": {"pitch_semitones": 0}, "model": {"num_stages": 0}}
    config = small_config(**plain, train={"batch_size": 16})
    sounds = small_sounds(config, 40)
    fitted = fit(sounds, config)

    results["one"], _, _ = train(config, sounds, fitted, None)
    results["eight"], state, step = train(config, sounds, fitted, mesh)
    (out / "step.txt").write_text(step)
    in_parts = {"batch_size": 16, "grad_accumulation": 2, "steps_per_dispatch": 2}
    streamed = small_config(**plain, data={"device_budget_mb": 0}, train=in_parts)
    results["streamed"], _, _ = train(streamed, sounds, fitted, mesh)
    # So that even the smallest arrays are divided.
    sharding.LEAST_DIVIDED = 8
    results["divided"], state, _ = train(config, sounds, fitted, mesh, divide=True)
    kernel = state.params["vae"]["encoder"]["Dense_0"]["kernel"]
    results["share"] = kernel.addressable_shards[0].data.size / kernel.size

    checkpoints = checkpoint.Checkpoints(out)
    checkpoints.save_last(state, {"loss": 1.0})
    checkpoints.wait()
    two = jax.sharding.Mesh(np.array(jax.devices()[:2]), (sharding.AXIS,))
    layout = sharding.weights(state, two, divide=True)
    restored, _ = checkpoints.restore_last(lambda: create_state(config), layout)
    results["restored_on"] = len(jax.tree.leaves(restored.params)[0].devices())
    for name, tree in (("saved", state), ("restored", restored)):
        for i, leaf in enumerate(jax.tree.leaves(tree)):
            results[f"{name}.{i}"] = np.asarray(leaf)
    checkpoints.close()

    loaded = load_run(run)
    for name, devices in (("by_one", None), ("by_eight", sharding.local_mesh())):
        for field, values in sounds_of(loaded, devices).items():
            results[f"{name}.{field}"] = values
    np.savez(out / "results.npz", **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
