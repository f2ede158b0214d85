"""Sounds per second to finished files beside TensorFlow and librosa; starts; cost against number.

    pip install -e ".[bench]"
    python -m benchmarks.generate --workdir runs/default

Programs take turns (`benchmarks.turns`): `sample.py` as its users run it, from drawing z to the
last byte of files, manifest and contact sheet, counted after the first batch; vaejax's compiled
program alone, results left on the device; a decoder of the workshop's shape in TensorFlow with
kapre's inverse STFT and a loop that writes WAV files; and librosa's Griffin-Lim from random phase
on vaejax's own magnitudes, WAV files included, the decoder not. Then `sample.py` alone: cold and
warm starts, and the cost of a sound as more are asked for.
"""

import json
import shutil
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import record, turns
from benchmarks.peers.own_sounds import sample


@dataclass(frozen=True)
class Options:
    workdir: Path = Path("runs/default")
    """A trained run."""
    rounds: int = 3
    """Turns of each program, and cold and warm starts; figures are medians."""
    num: int = 1024
    """Sounds of `sample.py` in a turn."""
    num_tensorflow: int = 128
    num_librosa: int = 16
    peers: tuple[str, ...] = ("tensorflow", "librosa")
    """Programs to compare with; none with `--peers` alone."""
    counts: tuple[int, ...] = (100, 1000, 10_000)
    """Numbers of sounds of which the cost and memory are measured; none with `--counts` alone."""


def compare(options: Options, folder: Path) -> dict[str, Any]:
    """Sounds per second of vaejax and its peers, in turns."""
    shared = {"workdir": str(options.workdir.resolve()), "folder": str(folder)}
    own = turns.Player(
        "benchmarks.peers.own_sounds",
        {**shared, "num": options.num, "shared": max(options.num_librosa, 16)},
    )
    players = [own]
    amounts: dict[str, float] = {
        "vaejax, to files": options.num,
        "vaejax, on the device": own.about["device_sounds"],
    }
    if "tensorflow" in options.peers:
        given = {
            "part": "generate",
            "num": options.num_tensorflow,
            "batch_size": 64,
            "clips": str(folder / "clips.npy"),
            "folder": str(folder),
        }
        players.append(turns.Player("benchmarks.peers.workshop_tf", given))
        amounts.update(dict.fromkeys(players[-1].tasks, options.num_tensorflow))
    if "librosa" in options.peers:
        given = {**own.about, "magnitudes": str(folder / "magnitudes.npy"), "folder": str(folder)}
        players.append(turns.Player("benchmarks.peers.librosa_sounds", given))
        amounts.update(dict.fromkeys(players[-1].tasks, players[-1].about.get("sounds", 0)))
    _, said = turns.play(players, options.rounds)
    for player in players:
        player.close()
    rates = {task: turns.rates(said[task], amounts[task]) for task in said}
    ours = "vaejax, to files"
    device = said["vaejax, on the device"]
    return {
        "sounds_per_second": rates,
        "times_faster_to_files": {
            task: turns.ratio(said[ours], said[task], amounts[ours] / amounts[task])
            for task in said
            if not task.startswith("vaejax")
        },
        "audio_seconds_per_second_on_the_device": turns.rates(
            device, own.about["device_sounds"] * own.about["clip_seconds"]
        ),
        "vaejax": own.about,
        "peers": {player.module: player.about for player in players[1:]},
    }


def starts(options: Options, folder: Path) -> dict[str, float]:
    """Seconds from the command to 64 files, with nothing and with everything compiled."""
    workdir, cache = str(options.workdir.resolve()), folder / "compiled"
    cold, warm = [], []
    for _ in range(options.rounds):
        shutil.rmtree(cache, ignore_errors=True)
        cold.append(sample(workdir, folder / "files", 64, str(cache))["wall_seconds"])
        warm.append(sample(workdir, folder / "files", 64, str(cache))["wall_seconds"])
    return {
        "cold_64_seconds": round(statistics.median(cold), 1),
        "warm_64_seconds": round(statistics.median(warm), 1),
    }


def cost(options: Options, folder: Path) -> list[dict[str, Any]]:
    """Milliseconds per sound once compiled, and peak memory, for each number of sounds."""
    workdir, cache = str(options.workdir.resolve()), str(folder / "compiled")
    figures = []
    for num in options.counts:
        # Small batches where there are few sounds, so that there is more than one to time.
        more = ("--batch_size", "16") if num <= 512 else ()
        made = sample(workdir, folder / "files", num, cache, *more)
        assert made["rate"], f"{num} sounds are one batch"
        figures.append(
            {
                "num": num,
                "ms_per_sound": round(1e3 / made["rate"], 2),
                "wall_seconds": round(made["wall_seconds"], 1),
                "peak_memory_gb": round(made["memory_gb"], 2),
            }
        )
    return figures


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = compare(options, folder)
        figures.update(starts(options, folder))
        figures["cost"] = cost(options, folder)
    run = options.workdir.name
    name = "generate" if run == "default" else f"generate-{run}"
    record.save(name, {"workdir": run, **figures})
    print(json.dumps(figures["times_faster_to_files"], indent=2))


if __name__ == "__main__":
    main(tyro.cli(Options))
