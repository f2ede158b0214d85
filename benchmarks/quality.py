"""Held-out reconstruction as audio: a trained run beside PCA on the same training sounds.

    python -m benchmarks.quality --workdir runs/gm

PCA has the run's number of dimensions, its features and its phase recovery. It is fitted twice: on
the training sounds as they are, and (as the run's linear path is) on augmented copies. A third
column inverts the true magnitudes: the floor that phase recovery sets.
"""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from benchmarks import record


@dataclass(frozen=True)
class Options:
    workdir: Path = Path("runs/gm")
    """A trained run; its sounds must still be where they were."""


def main(options: Options) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    from sklearn.decomposition import PCA

    from vaejax import checkpoint, evaluation, features, generate, metrics, training
    from vaejax.data import sounds
    from vaejax.models import linear
    from vaejax.signal import phase

    run = checkpoint.load_run(options.workdir)
    config, (params, fitted, *_) = run.config, run.instrument
    dataset = sounds.load(config)
    rows = dataset.held_out_rows

    @jax.jit
    def raw(clips, lengths, facts, rows):
        def one(pcm, length):
            waveform = training.raw_clip(pcm, length, config)
            return waveform, training.spectrogram_of(waveform, fitted.statistics, config)

        return jax.lax.map(lambda x: one(*x), (clips, lengths), batch_size=8)

    @jax.jit
    def figures_of(waveforms, spectrograms):
        def one(waveform, x):
            magnitude = features.magnitude(
                x, fitted.statistics, n_fft=config.features.n_fft, exponent=config.features.exponent
            )
            after = phase.invert(
                magnitude,
                method=config.sound.inversion,
                num_iters=config.sound.iterations,
                n_fft=config.features.n_fft,
                hop_length=config.features.hop_length,
                length=config.data.num_samples,
            )
            after = generate.finish(after, config)
            sample_rate = config.data.sample_rate
            return {
                "mel_l1_db": metrics.mel_l1_db(waveform, after, sample_rate=sample_rate),
                "lsd_db": metrics.lsd_db(waveform, after),
            }

        return jax.lax.map(lambda x: one(*x), (waveforms, spectrograms), batch_size=8)

    @jax.jit
    def rebuilt(params, fitted, x, facts):
        def one(x, known):
            model = training.create_model(config)
            told = training.condition_of(known, fitted, config)
            mean, _ = model.apply({"params": params}, x, told, fitted.linear, method="encode")
            return model.apply({"params": params}, mean, told, fitted.linear, method="decode")

        return jax.lax.map(lambda pair: one(*pair), (x, facts), batch_size=8)

    waveforms, x = evaluation.over_rows(raw, dataset, rows)
    _, train_x = evaluation.over_rows(raw, dataset, dataset.train_rows)
    flat = train_x.reshape(len(train_x), -1)
    dims = min(config.model.latent_dim, len(flat) - 1)
    pca = PCA(dims, svd_solver="covariance_eigh" if flat.shape[1] < 4096 else "randomized")
    pca.set_params(random_state=0).fit(flat)
    of_pca = pca.inverse_transform(pca.transform(x.reshape(len(x), -1))).reshape(x.shape)

    augmented = fitted.linear
    nothing = jnp.zeros(augmented.condition_dim)
    coordinates = jax.lax.map(
        lambda x: linear.coordinates(augmented, x, nothing), jnp.asarray(x), batch_size=8
    )
    kept = jnp.arange(coordinates.shape[1]) < config.model.latent_dim
    of_augmented = jax.lax.map(
        partial(linear.at, augmented), jnp.where(kept, coordinates, 0.0), batch_size=8
    )
    systems = {
        "true magnitudes": x,
        f"PCA-{dims}": of_pca,
        f"PCA-{config.model.latent_dim}, augmented": of_augmented,
        "vaejax": rebuilt(params, fitted, x, dataset.facts[rows]),
    }
    table = {}
    for name, spectrograms in systems.items():
        per_clip = figures_of(waveforms, jnp.asarray(spectrograms, jnp.float32))
        table[name] = {k: round(float(np.mean(v)), 3) for k, v in per_clip.items()}
        table[name]["feature_mse"] = round(float(np.mean((spectrograms - x) ** 2)), 4)
    lines = (options.workdir / "metrics.jsonl").read_text().splitlines()
    curve = [m for m in map(json.loads, lines) if m["split"] == "held_out"]
    record.save(
        "quality",
        {
            "source": Path(run.data["source"]).name,
            "held_out": len(rows),
            "latent_dim": config.model.latent_dim,
            "steps": run.step,
            "systems": table,
            "ratio_to_pca": round(
                table["vaejax"]["mel_l1_db"] / table[f"PCA-{dims}"]["mel_l1_db"], 3
            ),
            "curve": [{k: m[k] for k in ("step", "loss", "mel_l1_db")} for m in curve],
        },
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
