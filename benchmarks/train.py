"""Clips per second and peak memory of the whole training step, in steady state.

    python -m benchmarks.train [--config configs/default.py] [--steps 40]

Counts features, augmentation, forward, backward and update; compilation is excluded.
"""

import resource
import statistics
import time
from dataclasses import dataclass

import tyro

from benchmarks import record
from vaejax import cli


@dataclass(frozen=True)
class Options:
    config: str = "configs/default.py"
    steps: int = 40
    """Steps timed, one by one."""


def main(options: Options) -> None:
    import jax

    from vaejax import training
    from vaejax.data import sounds

    config = cli.load_preset(options.config)
    dataset = sounds.load(config)
    started = time.perf_counter()
    fitted = training.fit(dataset, config)
    jax.block_until_ready(fitted)
    fit_seconds = time.perf_counter() - started
    state = training.create_state(config, dataset.told.condition_dim)
    run_steps, steps_in = training.make_steps(config, dataset, fitted)
    started = time.perf_counter()
    for step in range(2):
        state, metrics = run_steps(state, step * steps_in)
        jax.block_until_ready(metrics)
        if step == 0:
            compile_seconds = time.perf_counter() - started

    seconds = []
    for step in range(2, options.steps + 2):
        started = time.perf_counter()
        state, metrics = run_steps(state, step * steps_in)
        jax.block_until_ready(metrics)
        seconds.append((time.perf_counter() - started) / steps_in)
    per_second = sorted(config.train.batch_size / s for s in seconds)
    record.save(
        "train",
        {
            "config": options.config,
            "batch_size": config.train.batch_size,
            "weights": sum(x.size for x in jax.tree.leaves(state.params)),
            "clips_per_second": {
                "median": round(statistics.median(per_second), 1),
                "lowest": round(per_second[0], 1),
                "highest": round(per_second[-1], 1),
            },
            "fit_seconds": round(fit_seconds, 1),
            "first_step_seconds": round(compile_seconds, 1),
            "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        },
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
