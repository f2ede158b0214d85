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

import tyro

from benchmarks import record, turns


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


def measure(references, rebuilt, sample_rate: int) -> dict[str, float]:
    """Mean distances of reconstructions [num, num_samples] from what they should be."""
    import jax
    import numpy as np

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
    import numpy as np
    import soundfile

    import vaejax
    from vaejax.data import sounds

    run = vaejax.load(options.workdir)
    config = run.config
    if options.data:
        config = replace(config, data=replace(config.data, source=options.data))
    data = config.data
    if (data.sample_rate, data.num_samples) != (44_100, 44_100):
        raise SystemExit("error: the peer knows clips of one second at 44.1 kHz only")
    dataset = sounds.load(config)
    held_out = dataset.read(dataset.held_out_rows)[0][:, : data.num_samples]
    references = held_out.astype(np.float32)
    references /= np.maximum(np.abs(references).max(1, keepdims=True), 1.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = dataset.read(dataset.train_rows)[0][:, : data.num_samples]
        np.save(folder / "clips.npy", train)
        np.save(folder / "held_out.npy", held_out)
        peer = turns.Player(
            "benchmarks.peers.workshop_tf",
            {
                "part": "fit",
                "minutes": options.minutes,
                **{key: str(folder / f"{key}.npy") for key in ("clips", "held_out", "rebuilt")},
            },
        )
        if "missing" in peer.about:
            raise SystemExit(f"error: {peer.about['missing']}")
        fit = peer.turn("fit")
        peer.close()
        theirs = np.load(folder / "rebuilt.npy")
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
            **peer.about,
            "latent_dim": 8,
            "minutes": options.minutes,
            **{key: round(value, 4) for key, value in fit.items()},
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
    main(tyro.cli(Options))
