"""Sounds on their way to the device: streamed against resident, and files into the cache.

    python -m benchmarks.load [--config configs/default.py] [--gigabytes 50]

A set of any size is simulated by repetition: its rows are those of the built-in set, over and over,
so that the disk is not measured, and everything else is. Steps of both kinds take turns in one
process; memory is measured before there is a resident set in it.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import tyro

from benchmarks import record
from vaejax import cli
from vaejax.features.conditions import Vocabulary


@dataclass(frozen=True)
class Options:
    config: str = "configs/default.py"
    gigabytes: float = 50.0
    """Of the simulated set, as int16 clips."""
    sounds: int = 512
    """Of the built-in set that it repeats."""
    rounds: int = 5
    """Times that streamed and resident steps take turns."""
    steps: int = 20
    """In each turn; a multiple of train.steps_per_dispatch."""
    files: int = 400
    """FLAC files that are packed; 0 leaves this part out."""
    file_seconds: float = 1.0


class Repeated(NamedTuple):
    """What training asks of a set of sounds, of which there are as many as one likes."""

    base: Any
    num: int
    told: Vocabulary

    @property
    def train_rows(self) -> np.ndarray:
        return np.arange(self.num)

    def read(self, rows):
        train = self.base.train_rows
        return self.base.read(train[rows % len(train)])


def resident_gb() -> float:
    """Memory of this process, mapped files that were touched included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def streaming(options: Options) -> dict[str, Any]:
    import jax

    from vaejax.data import sounds
    from vaejax.train.fit import fit
    from vaejax.train.state import create_state
    from vaejax.train.step import make_steps

    config = cli.load_preset(options.config)
    train = dataclasses.replace(config.train, num_steps=10**6 // config.train.steps_per_dispatch)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, synth_count=options.sounds),
        # What is fitted beforehand is not what is measured.
        model=dataclasses.replace(config.model, ppca_clips=0),
        train=train,
    )
    base = sounds.load(config)
    fitted = fit(base, config)
    num = int(options.gigabytes * 1e9 / (2 * config.pack_samples))
    condition_dim = base.told.condition_dim

    def make(given, budget_mb: int):
        data = dataclasses.replace(config.data, device_budget_mb=budget_mb)
        changed = dataclasses.replace(config, data=data)
        steps, steps_in = make_steps(changed, given, fitted)
        state = create_state(changed, condition_dim)
        step = 0

        def turn(num_steps: int) -> float:
            """Steps per second."""
            nonlocal state, step
            started = time.perf_counter()
            for _ in range(num_steps // steps_in):
                state, metrics = steps(state, step)
                step += steps_in
            jax.block_until_ready(metrics)
            return num_steps / (time.perf_counter() - started)

        return turn

    streamed = make(Repeated(base, num, base.told), 1)
    streamed(options.steps)  # compiles
    memory = [resident_gb()]
    for _ in range(options.rounds):
        streamed(options.steps)
        memory.append(resident_gb())
    resident = make(base, 10**6)
    resident(options.steps)
    rates: dict[str, list[float]] = {"streamed": [], "resident": []}
    for _ in range(options.rounds):
        rates["streamed"].append(streamed(options.steps))
        rates["resident"].append(resident(options.steps))
    ratios = [a / b for a, b in zip(rates["streamed"], rates["resident"], strict=True)]
    return {
        "simulated_gb": options.gigabytes,
        "simulated_clips": num,
        "clips_per_second": {
            name: round(config.train.batch_size * statistics.median(each), 1)
            for name, each in rates.items()
        },
        "streamed_over_resident": round(statistics.median(ratios), 3),
        "streamed_over_resident_each": [round(ratio, 3) for ratio in ratios],
        "memory_gb_while_streaming": [round(gb, 3) for gb in memory],
    }


def packing(options: Options) -> dict[str, Any]:
    """Seconds of sound that are packed in a second, by one worker and by one for each core."""
    from vaejax.data.corpus import load_folder

    rate = 44_100
    num_samples = round(options.file_seconds * rate)
    rng = np.random.default_rng(0)
    time_axis = np.arange(num_samples) / rate
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "sounds"
        source.mkdir()
        for i in range(options.files):
            hz, decay = rng.uniform(80, 2000), rng.uniform(2, 12)
            tone = np.sin(2 * np.pi * hz * time_axis) + 0.1 * rng.standard_normal(num_samples)
            tone *= 0.7 * np.exp(-decay * time_axis)
            soundfile.write(source / f"{i:05d}.flac", np.clip(tone, -1, 1), rate)
        rates = {}
        for workers in sorted({1, cores}):
            started = time.perf_counter()
            load_folder(
                source,
                sample_rate=rate,
                pack_samples=num_samples,
                trim_db=-60.0,
                cache_dir=Path(folder) / f"cache-{workers}",
                num_workers=workers,
                progress=False,
            )
            seconds = time.perf_counter() - started
            rates[workers] = options.files * options.file_seconds / seconds
    return {
        "files": options.files,
        "seconds_each": options.file_seconds,
        "times_real_time": {f"{workers} workers": round(rate) for workers, rate in rates.items()},
        "times_real_time_per_core": round(rates[cores] / cores),
    }


def main(options: Options) -> None:
    figures: dict[str, Any] = {"config": options.config}
    if options.files:
        figures["packing"] = packing(options)
    figures["streaming"] = streaming(options)
    record.save("load", figures)


if __name__ == "__main__":
    main(tyro.cli(Options))
