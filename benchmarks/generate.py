"""Sounds per second to disk, cold and warm starts, and memory for ten thousand sounds.

    python -m benchmarks.generate --workdir runs/default

Runs `sample.py` as its users do, in processes of their own, into a temporary folder. Then writes
the same sounds by threads and by processes, in turn, without a device: what `SoundWriter` could do.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import record
from vaejax.export.wav import SoundWriter, write_sound

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    workdir: Path = Path("runs/default")
    """A trained run."""
    repeats: int = 3
    many: int = 10_000
    """Sounds in the memory measurement; 0 leaves it out."""
    written: int = 2048
    """Sounds written by each pool of writers; 0 leaves this part out."""


def run(workdir: Path, out: Path, num: int, cache: Path) -> tuple[float, float, float]:
    """Wall seconds, the script's own sounds per second after its first batch, peak memory in GB."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "sample.py", "--workdir", workdir, "--out", out, "--num", str(num)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert status == 0, text
    found = re.search(r"\((\d+) per second", text)
    assert found, text
    return seconds, float(found[1]), usage.ru_maxrss / 2**20


def write_part(folder: Path, start: int, sounds: np.ndarray) -> None:
    for i, sound in enumerate(sounds, start):
        write_sound(folder / f"{i}.wav", sound, 44_100)


def writing(folder: Path, num: int, repeats: int) -> dict[str, float]:
    """One-second files per second, by number and kind of writers."""
    rng = np.random.default_rng(0)
    sounds = rng.integers(-20_000, 20_000, (64, 44_100), dtype=np.int16)
    counts = (1, 2, 4, 8)
    rates: dict[str, list[float]] = {}

    def by_threads(count: int) -> None:
        with SoundWriter(44_100, num_threads=count) as writer:
            for i in range(num):
                writer.submit(folder / f"{i}.wav", sounds[i % 64])

    def by_processes(pool: ProcessPoolExecutor) -> None:
        starts = range(0, num, 64)
        list(pool.map(write_part, [folder] * len(starts), starts, [sounds] * len(starts)))

    for count in counts:
        # Started beforehand, as a pool that lives as long as the program would be.
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            list(pool.map(write_part, [folder] * count, range(count), [sounds[:1]] * count))
            for _ in range(repeats):
                for name, work in (
                    (f"{count} threads", lambda count=count: by_threads(count)),
                    (f"{count} processes", lambda pool=pool: by_processes(pool)),
                ):
                    started = time.perf_counter()
                    work()
                    rates.setdefault(name, []).append(num / (time.perf_counter() - started))
    return {name: round(statistics.median(each)) for name, each in rates.items()}


def main(options: Options) -> None:
    workdir = options.workdir.resolve()
    with tempfile.TemporaryDirectory() as folder:
        out, cache = Path(folder) / "out", Path(folder) / "cache"
        cold, warm, rates = [], [], []
        for _ in range(options.repeats):
            shutil.rmtree(cache, ignore_errors=True)
            cold.append(run(workdir, out, 64, cache)[0])
            warm.append(run(workdir, out, 64, cache)[0])
            rates.append(run(workdir, out, 1024, cache)[1])
        figures: dict[str, Any] = {
            "cold_64_seconds": round(statistics.median(cold), 1),
            "warm_64_seconds": round(statistics.median(warm), 1),
            "sounds_per_second": statistics.median(rates),
            "sounds_per_second_each": rates,
        }
        if options.many:
            seconds, rate, memory = run(workdir, out, options.many, cache)
            figures["many"] = {
                "num": options.many,
                "seconds": round(seconds, 1),
                "sounds_per_second": rate,
                "peak_memory_gb": round(memory, 2),
            }
    if options.written:
        with tempfile.TemporaryDirectory() as folder:
            rates_of_writers = writing(Path(folder), options.written, options.repeats)
        figures["files_per_second_by_writers"] = rates_of_writers
    record.save("generate", {"workdir": options.workdir.name, **figures})


if __name__ == "__main__":
    main(tyro.cli(Options))
