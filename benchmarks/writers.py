"""One-second files per second, by threads and by processes, without a device.

    python -m benchmarks.writers

What `vaejax.export.writing.SoundWriter` could do, against as many processes.
"""

import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import tyro

from benchmarks import record
from vaejax.export.writing import SoundWriter, write_sound


@dataclass(frozen=True)
class Options:
    num: int = 2048
    """Files that each pool of writers writes."""
    repeats: int = 3


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
    with tempfile.TemporaryDirectory() as folder:
        record.save(
            "writers", {"files_per_second": writing(Path(folder), options.num, options.repeats)}
        )


if __name__ == "__main__":
    main(tyro.cli(Options))
