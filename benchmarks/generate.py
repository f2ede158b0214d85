"""Sounds per second to disk, cold and warm starts, and memory for ten thousand sounds.

    python -m benchmarks.generate --workdir runs/default

Runs `sample.py` as its users do, in processes of their own, into a temporary folder.
"""

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks import record

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    workdir: Path = Path("runs/default")
    """A trained run."""
    repeats: int = 3
    many: int = 10_000
    """Sounds in the memory measurement; 0 leaves it out."""


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
        figures = {
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
    record.save("generate", {"workdir": options.workdir.name, **figures})


if __name__ == "__main__":
    main(tyro.cli(Options))
