"""Sounds from a decoder's magnitudes by librosa's Griffin-Lim and soundfile, one process per core.

Its magnitudes are given, so that the decoder costs nothing here.
"""

import multiprocessing
import os
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import turns

ITERATIONS = (32, 100)


def invert(index: int, magnitude: np.ndarray, iterations: int, options: dict[str, Any]) -> None:
    """One sound, from random phase, as a file."""
    import librosa
    import soundfile

    waveform = librosa.griffinlim(
        magnitude.T, n_iter=iterations, hop_length=options["hop_length"],
        length=options["num_samples"], pad_mode="constant", random_state=index,
    )  # fmt: skip
    waveform /= max(float(np.abs(waveform).max()), 1e-9)
    path = Path(options["folder"]) / "librosa" / f"{index:05d}.wav"
    soundfile.write(path, waveform, options["sample_rate"], "PCM_16")


def prepare(options: dict[str, Any]) -> tuple[dict[str, Any], turns.Tasks]:
    version = metadata.version("librosa")
    magnitudes = np.load(options["magnitudes"])
    (Path(options["folder"]) / "librosa").mkdir()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = multiprocessing.get_context("spawn").Pool(cores)

    def sounds(iterations: int) -> None:
        given = [(i, m, iterations, options) for i, m in enumerate(magnitudes)]
        pool.starmap(invert, given, chunksize=1)

    about = {"version": version, "processes": cores, "sounds": len(magnitudes)}
    return about, {f"librosa, {n} iterations": partial(sounds, n) for n in ITERATIONS}


if __name__ == "__main__":
    turns.serve(prepare)
