"""The original workshop's system, trained here for some minutes, beside a vaejax run.

    pip install -e ".[bench]"
    python -m benchmarks.workshop --workdir runs/workshop --data FOLDER --minutes 4

A system of the workshop's shape in TensorFlow and Kapre (`benchmarks/peers/workshop_tf.py`) trains
on the run's training sounds, unaugmented, for `--minutes`, building its graph not counted. Then
both rebuild the run's held-out sounds from their posterior means, each with its own phase, and are
measured by the same code (`vaejax.metrics`).
"""

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks import record, turns
from vaejax import cli
from vaejax.config import Config


@dataclass(frozen=True)
class Options:
    workdir: Path = Path("runs/workshop")
    """A trained vaejax run of one-second clips at 44.1 kHz."""
    data: str = ""
    """Where the run's sounds are now, if not where they were."""
    minutes: float = 4.0
    """Of the peer's training."""
    save: Path | None = None
    """Folder for the first held-out sounds and both reconstructions as WAV files."""


def trained_seconds(workdir: Path, batch_size: int) -> float | None:
    """Seconds that the run's steps took, by the rates in its metrics; None if they do not say."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = {x["step"]: x["clips_per_second"] for x in lines if "clips_per_second" in x}
    seconds, before = 0.0, 0
    for step, rate in sorted(steps.items()):
        seconds += (step - before) * batch_size / rate
        before = step
    return round(seconds, 1) if steps else None


def peer(clips, held_out, config: Config, *, minutes: float) -> tuple[dict[str, Any], np.ndarray]:
    """Trains a system of the workshop's shape on clips and rebuilds others.

    Args:
      clips, held_out: [num, num_samples or more] int16, of a vaejax run.

    Returns:
      What there is to say of it; and its audio of held_out, [num, num_samples] float32.

    Raises:
      ValueError: its packages are missing, or the clips are not those it knows.
    """
    size = config.data.num_samples
    if (config.data.sample_rate, size) != (44_100, 44_100):
        raise ValueError("the workshop's shape knows clips of one second at 44.1 kHz only")
    with tempfile.TemporaryDirectory() as name:
        paths = {key: str(Path(name, f"{key}.npy")) for key in ("clips", "held_out", "rebuilt")}
        np.save(paths["clips"], clips[:, :size])
        np.save(paths["held_out"], held_out[:, :size])
        options = {"part": "fit", "minutes": minutes, **paths}
        player = turns.Player("benchmarks.peers.workshop_tf", options)
        if "missing" in player.about:
            raise ValueError(player.about["missing"])
        fit = {key: round(value, 4) for key, value in player.turn("fit").items()}
        player.close()
        return {**player.about, **fit}, np.load(paths["rebuilt"])


def measure(references, rebuilt, sample_rate: int) -> dict[str, float]:
    """Mean distances of reconstructions [num, num_samples] from what they should be."""
    import jax

    from vaejax import metrics

    @jax.jit
    def distances(a, b):
        return {
            "mel_l1_db": metrics.mel_l1_db(a, b, sample_rate=sample_rate),
            "lsd_db": metrics.lsd_db(a, b),
            "attack_error_db": metrics.attack_error_db(a, b, sample_rate=sample_rate),
        }

    each = [distances(a, b) for a, b in zip(references, rebuilt, strict=True)]
    return {key: round(float(np.mean([e[key] for e in each])), 2) for key in each[0]}


def main(options: Options) -> None:
    import soundfile

    import vaejax
    from vaejax.data import sounds

    run = vaejax.load(options.workdir)
    config = run.config
    if options.data:
        config = replace(config, data=replace(config.data, source=options.data))
    data = config.data
    dataset = sounds.load(config)
    held_out = dataset.read(dataset.held_out_rows)[0][:, : data.num_samples]
    references = held_out.astype(np.float32)
    references /= np.maximum(np.abs(references).max(1, keepdims=True), 1.0)
    train = dataset.read(dataset.train_rows)[0]
    about, theirs = peer(train, held_out, config, minutes=options.minutes)
    ours = run.decode(run.encode(references)[0])
    figures: dict[str, Any] = {
        "data": Path(data.source).name,
        "sounds": {"train": len(train), "held_out": len(references)},
        "vaejax": {
            "run": options.workdir.name,
            "step": run.step,
            "latent_dim": config.latent_dim,
            "seconds_in_steps": trained_seconds(options.workdir, config.train.batch_size),
            **measure(references, ours, data.sample_rate),
        },
        "workshop's shape in TensorFlow": {
            **about,
            "latent_dim": 8,
            "minutes": options.minutes,
            **measure(references, theirs, data.sample_rate),
        },
    }
    if options.save:
        options.save.mkdir(parents=True, exist_ok=True)
        for i in range(min(8, len(references))):
            for what, waveforms in (("original", references), ("vaejax", ours), ("peer", theirs)):
                waveform = waveforms[i] / max(np.abs(waveforms[i]).max(), 1e-9)
                soundfile.write(options.save / f"{i}-{what}.wav", waveform, data.sample_rate)
    record.save("workshop", figures)


if __name__ == "__main__":
    cli.run(lambda argv: main(tyro.cli(Options, args=argv)))
