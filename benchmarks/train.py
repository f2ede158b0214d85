"""Clips per second of the whole training step beside PyTorch, TensorFlow and the matmul rate.

    pip install -e ".[bench]"
    python -m benchmarks.train [--config configs/default.py] [--steps 4] [--rounds 9]
    python -m benchmarks.train --config configs/studio.py --batch_size 8 --compute_dtype float32

Each program is a process of its own, and they take turns (`benchmarks.turns`): vaejax; the same
without augmentation, which is what PyTorch does; PyTorch in two layouts, eager and compiled, having
shown that it has vaejax's loss and gradients; a system of the workshop's shape in TensorFlow and
Kapre; and a large matrix product, which says what the machine can do. Every clip counts through the
whole step: features, forward, backward, clipped gradient, update, averaged weights. Compilation is
left out and reported. A peer that is not installed is left out and named.
"""

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import record, turns

MAX_DIFFERENCE = 1e-3


@dataclass(frozen=True)
class Options:
    config: str = "configs/default.py"
    data: str = "synth"
    """Folder of sounds, or the built-in set."""
    batch_size: int = 0
    """Clips per step; 0 for the preset's."""
    compute_dtype: str = ""
    """float32 or bfloat16; empty for the preset's."""
    ppca_clips: int = 0
    """Clips that the linear path is fitted on; 0 for the preset's. Does not change the speed."""
    steps: int = 4
    """Steps in a turn."""
    rounds: int = 9
    """Turns of each; the figures are medians over them."""
    peers: tuple[str, ...] = ("torch", "tensorflow")
    """Programs to compare with; none with `--peers` alone."""
    compile: bool = True
    """Try PyTorch compiled too; the best of its variants counts."""
    tensorflow_xla: bool = False
    """Let TensorFlow compile its step by XLA."""


def fastest(said: dict[str, list[dict[str, Any]]], start: str) -> str | None:
    """The task whose name starts so that took the least time."""
    names = [name for name in said if name.startswith(start)]
    return min(names, key=lambda name: turns.middle(said[name]), default=None)


def check_same(about: dict[str, Any]) -> None:
    for layout, found in about["relative_differences_from_vaejax"].items():
        for what in ("spectrogram", "loss", "gradients"):
            assert found[what] < MAX_DIFFERENCE, f"PyTorch, channels {layout}: {found}"


def main(options: Options) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = {**asdict(options), "folder": name, "reference": "torch" in options.peers}
        own = turns.Player("benchmarks.peers.own", given)
        shared = {
            "steps": options.steps,
            "compile": options.compile,
            "tensorflow_xla": options.tensorflow_xla,
            "sizes": own.about["sizes"],
            "clips": str(folder / "clips.npy"),
            "lengths": str(folder / "lengths.npy"),
        }
        players = [own]
        if "torch" in options.peers:
            reference = str(folder / "reference.npz")
            players.append(
                turns.Player("benchmarks.peers.torch_vae", {**shared, "reference": reference})
            )
            if "missing" not in players[-1].about:
                check_same(players[-1].about)
        if "tensorflow" in options.peers:
            # A turn of about as many clips: its steps are slower and its batches smaller.
            fewer = {**shared, "part": "train", "steps": max(options.steps // 2, 1)}
            players.append(turns.Player("benchmarks.peers.workshop_tf", fewer))
        first, said = turns.play(players, options.rounds)
        for player in players:
            player.close()

    own_batch = own.about["sizes"]["batch_size"]
    clips = {task: own_batch * options.steps for task in said if not task.startswith("matmul")}
    for player in players:
        if "batch_size" in player.about:
            num = player.about["batch_size"] * max(options.steps // 2, 1)
            clips.update(dict.fromkeys(player.tasks, num))
    figures: dict[str, Any] = {
        "config": options.config,
        "batch_size": own_batch,
        "compute_dtype": own.about["sizes"]["compute_dtype"],
        "weights": own.about["weights"],
        "steps_per_turn": options.steps,
        "rounds": options.rounds,
        "clips_per_second": {task: turns.rates(said[task], num) for task, num in clips.items()},
        "first_turn_seconds": {task: round(seconds, 1) for task, seconds in first.items()},
        "peers": {player.module: player.about for player in players[1:]},
    }
    torch, workshop = fastest(said, "PyTorch"), fastest(said, "workshop")
    ratios = figures["times_faster"] = {}
    if torch:
        ratios[f"same work as {torch}"] = turns.ratio(
            said["vaejax without augmentation"], said[torch]
        )
        ratios[f"augmenting, over {torch} not augmenting"] = turns.ratio(
            said["vaejax"], said[torch]
        )
    if workshop:
        ratios[f"over {workshop}"] = turns.ratio(
            said["vaejax"], said[workshop], clips["vaejax"] / clips[workshop]
        )
    figures["flop"] = utilisation(own.about, said, options.steps)
    record.save(
        "train" if options.config == Options.config else f"train-{Path(options.config).stem}",
        figures,
    )
    print(json.dumps(ratios, indent=2))


def utilisation(about: dict[str, Any], said: dict[str, Any], steps: int) -> dict[str, Any]:
    """The step's matrix products and convolutions against what a large product reaches here."""
    figures: dict[str, Any] = {
        "counted": "products and convolutions in the jaxpr of the step (benchmarks/flops.py)",
        "gflop_per_step": round(about["step_gflop"], 1),
    }
    for task in [task for task in said if task.startswith("matmul")]:
        rate = turns.rates(said[task], about["matmul_gflop"])
        figures[f"{task} gflop_per_second"] = rate
        for name in ("vaejax", "vaejax without augmentation"):
            share = (
                turns.ratio(said[name], said[task], about["step_gflop"] * steps)
                / (about["matmul_gflop"])
            )
            figures[f"{name}, share of {task}"] = round(share, 3)
    return figures


if __name__ == "__main__":
    main(tyro.cli(Options))
