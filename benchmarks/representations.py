"""What every representation costs and allows: through it and back, and through PCA in it.

    python -m benchmarks.representations --data path/to/sounds [--kinds power complex]

`floor` is a held-out sound through values and back, without a model. `PCA` is its projection on the
first principal directions of the training sounds in that representation, as the model's linear path
is at step 0 but without augmentation: the same number of dimensions for every kind. Ways back: no
and two Griffin-Lim iterations; `recovered` throws away the phase of kinds that have one. All
figures are of audio, means over the held-out sounds.
"""

import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from benchmarks import record
from vaejax.config import Config, Features, Model, Sound
from vaejax.data.clips import raw_clip
from vaejax.tables import names_in


@dataclass(frozen=True)
class Options:
    """Options."""

    data: str = "synth"
    """Folder of sounds, or synth."""
    kinds: tuple[str, ...] = names_in("features/__init__.py:REPRESENTATIONS")
    """Of features; all by default."""
    latent_dim: int = 64
    """Dimensions of PCA."""
    pitch_pattern: str = r"_(?P<pitch>\d+)_"
    """As data.pitch_pattern: whole pitches of a folder are held out (of synth, single sounds)."""
    num: int = 64
    """Held-out sounds, at most."""
    features: Features = field(default_factory=Features)
    """Their other settings."""
    save: bool = True
    """Write the results beside the others."""


def main(options: Options) -> None:
    import numpy as np

    from vaejax.data import sounds

    data = replace(Config().data, source=options.data, synth_count=512)
    if options.data != "synth":
        data = replace(data, holdout_by="pitch", pitch_pattern=options.pitch_pattern)
    base = replace(Config(), data=data, model=replace(Model(), latent_dim=options.latent_dim))
    dataset = sounds.load(base)
    rows = dataset.held_out_rows
    if len(rows) > options.num:
        rows = np.sort(np.random.default_rng(0).choice(rows, options.num, replace=False))
    table = {}
    for kind in options.kinds:
        config = replace(base, features=replace(options.features, kind=kind))
        started = time.time()
        table[kind] = measure(dataset, rows, config)
        print(f"{kind}: {table[kind]} in {time.time() - started:.0f} s", flush=True)
    figures: dict[str, Any] = {
        "source": Path(options.data).name,
        "train": len(dataset.train_rows),
        "held_out": len(rows),
        "holdout_by": data.holdout_by,
        "latent_dim": options.latent_dim,
        "kinds": table,
    }
    if options.save:
        record.save(f"representations-{figures['source']}", figures)


def measure(dataset, rows, config: Config) -> dict[str, Any]:
    """Figures of one representation."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vaejax import features, metrics
    from vaejax.models import linear
    from vaejax.train import evaluation

    sample_rate, num_samples = config.data.sample_rate, config.data.num_samples
    statistics = features.fit_statistics(
        [
            read(dataset, dataset.train_rows[i : i + 32], config)
            for i in range(0, len(dataset.train_rows), 32)
        ],
        config,
    )

    @jax.jit
    def values_of(clips, lengths, facts, rows):
        def one(columns):
            pcm, length = columns
            return features.x_of(raw_clip(pcm, length, config), statistics, config)

        return jax.lax.map(one, (clips, lengths), batch_size=8)

    x = evaluation.over_rows(values_of, dataset, dataset.train_rows)
    path = linear.fit(
        x,
        np.zeros((len(x), 0), np.float32),
        latent_dim=config.latent_dim,
        num_directions=config.latent_dim,
    )
    del x

    @partial(jax.jit, static_argnames="way_back")
    def judged(path, clips, lengths, way_back):
        sound = replace(config, sound=way_back)

        def one(columns):
            pcm, length = columns
            before = raw_clip(pcm, length, config)
            x = features.x_of(before, statistics, config)
            projected = linear.at(path, linear.coordinates(path, x, jnp.zeros(0)))

            def figures(x):
                after, _ = features.waveform_of(x, statistics, sound, num_samples=num_samples)
                return {
                    "mel_l1_db": metrics.mel_l1_db(before, after, sample_rate=sample_rate),
                    "lsd_db": metrics.lsd_db(before, after),
                    "attack_error_db": metrics.attack_error_db(
                        before, after, sample_rate=sample_rate
                    ),
                    "si_sdr_db": metrics.si_sdr_db(before, after),
                }

            return {"floor": figures(x), "pca": figures(projected)}

        return jax.lax.map(one, (clips, lengths), batch_size=4)

    result: dict[str, Any] = {"values": int(np.prod(config.shape))}
    has_phase = features.create(config).has_phase
    ways = {"iterations_0": Sound(iterations=0), "iterations_2": Sound(iterations=2)}
    if config.features.kind == "waveform":
        del ways["iterations_2"]
    elif has_phase:
        # Its own phase thrown away.
        ways["recovered"] = Sound(inversion="peaks", iterations=2)
    for name, way_back in ways.items():
        found = evaluation.over_rows(
            lambda clips, lengths, facts, rows, way=way_back: judged(path, clips, lengths, way),
            dataset,
            rows,
        )
        result[name] = {
            system: {
                key: round(float(np.mean(values)), 3)
                for key, values in figures.items()
                if has_phase or key != "si_sdr_db"
            }
            for system, figures in found.items()
        }
    return result


def read(dataset, rows, config: Config):
    """Clips [len(rows), num_samples] as the statistics see them."""
    import jax

    clips, lengths, _ = dataset.read(rows)
    return jax.vmap(partial(raw_clip, config=config))(clips, lengths)


if __name__ == "__main__":
    main(tyro.cli(Options))
