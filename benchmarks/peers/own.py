"""vaejax's own training step, told when its turn is; and the data and weights it shares."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import flops, turns

MATMUL = 2048


def configured(options: dict[str, Any]):
    """The preset with the benchmark's changes."""
    from vaejax import cli

    config = cli.load_preset(options["config"])
    train, model = config.train, config.model
    # No scan: what a step costs when it is dispatched alone is what the peers are measured by.
    train = dataclasses.replace(train, steps_per_dispatch=1)
    if options.get("batch_size"):
        train = dataclasses.replace(train, batch_size=options["batch_size"])
    if options.get("compute_dtype"):
        model = dataclasses.replace(model, compute_dtype=options["compute_dtype"])
    if options.get("ppca_clips"):
        model = dataclasses.replace(model, ppca_clips=options["ppca_clips"])
    data = dataclasses.replace(config.data, source=options["data"])
    return dataclasses.replace(config, train=train, model=model, data=data)


def plain(config):
    """The same without augmentation."""
    none = dataclasses.replace(
        config.augment,
        gain_db=0.0,
        shift_ms=0.0,
        pitch_semitones=0,
        pitch_probability=0.0,
        eq_db=0.0,
    )
    return dataclasses.replace(config, augment=none)


def sizes_of(config) -> dict[str, Any]:
    """What a peer has to know to build the same model and step.

    Raises:
      SystemExit: the peers do not know the model.
    """
    if config.model.num_refinements:
        raise SystemExit("error: the peers have no refinements; take --config configs/default.py")
    model = dataclasses.asdict(config.model)
    return {
        **model,
        "n_fft": config.features.n_fft,
        "hop_length": config.features.hop_length,
        "exponent": config.features.exponent,
        "num_bins": config.features.num_bins,
        "num_frames": config.num_frames,
        "num_samples": config.data.num_samples,
        "fade_samples": round(config.data.fade_ms * 1e-3 * config.data.sample_rate),
        "batch_size": config.train.batch_size,
        "weight_decay": config.train.weight_decay,
        "clip_norm": config.train.clip_norm * config.num_frames * config.features.num_bins,
        "ema_decay": config.train.ema_decay,
    }


def reference(config, dataset, fitted, *, num: int = 4) -> dict[str, Any]:
    """Inputs, weights, loss and gradients of a small batch, for a peer to repeat.

    The weights are those of step 0 plus noise, so that no gradient is zero because a layer is.

    Returns:
      Arrays: pcm [num, num_samples] int16, lengths, spectrogram, eps [num, latent_dim], loss, and
      params/..., grads/..., linear/..., statistics/... .
    """
    import jax
    import numpy as np

    from vaejax import features
    from vaejax.data.clips import raw_clip
    from vaejax.train.evaluation import eval_step
    from vaejax.train.state import create_state

    params = create_state(config, dataset.told.condition_dim).params
    leaves, tree = jax.tree.flatten(params)
    draws = jax.random.split(jax.random.key(1), len(leaves))
    params = jax.tree.unflatten(
        tree,
        [w + 0.02 * jax.random.normal(k, w.shape) for w, k in zip(leaves, draws, strict=True)],
    )
    rows = np.arange(num, dtype=np.int32)
    pcm, lengths, facts = dataset.read(dataset.train_rows[:num])
    pcm = pcm[:, : config.data.num_samples]

    @jax.jit
    def compute(params, fitted):
        def negative_elbo(params):
            terms = eval_step(params, fitted, pcm, lengths, facts, rows, config=config)
            return (terms["recon"] + terms["kl"]).mean()

        def seen(clip, length):
            waveform = raw_clip(clip, length, config)
            return features.x_of(waveform, fitted.statistics, config)

        def noise(row):
            # As `eval_step` and `posteriors.reparameterize` draw it.
            key = jax.random.fold_in(jax.random.key(config.train.seed), row)
            return jax.random.normal(key, (config.latent_dim,))

        loss, grads = jax.value_and_grad(negative_elbo)(params)
        return jax.vmap(seen)(pcm, lengths), jax.vmap(noise)(rows), loss, grads

    with jax.default_matmul_precision("highest"):
        x, eps, loss, grads = compute(params, fitted)

    def named(prefix: str, values) -> dict[str, Any]:
        paths = jax.tree_util.tree_flatten_with_path(values)[0]
        return {f"{prefix}/{_joined(path)}": np.array(value) for path, value in paths}

    return {
        "pcm": pcm,
        "lengths": np.array(lengths),
        "spectrogram": np.array(x),
        "eps": np.array(eps),
        "loss": np.array(loss),
        **named("params", params),
        **named("grads", grads),
        **{f"linear/{k}": np.array(v) for k, v in fitted.linear._asdict().items()},
        **{f"statistics/{k}": np.array(v) for k, v in fitted.statistics._asdict().items()},
    }


def _joined(path) -> str:
    """A parameter's name, less "vae" or "likelihood"."""
    return "/".join(str(entry.key) for entry in path[1:])


def prepare(options: dict[str, Any]) -> tuple[dict[str, Any], turns.Tasks]:
    """Leaves clips and reference in options["folder"]; the steps and the machine's matmul rate."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vaejax.data import sounds
    from vaejax.train.feed import Visits
    from vaejax.train.fit import fit
    from vaejax.train.state import create_state
    from vaejax.train.step import make_steps, train_step

    config = configured(options)
    dataset = sounds.load(config)
    fitted = fit(dataset, config)
    folder = Path(options["folder"])
    pcm, lengths, _ = dataset.read(dataset.train_rows)
    np.save(folder / "clips.npy", pcm[:, : config.data.num_samples])
    np.save(folder / "lengths.npy", np.asarray(lengths))
    if options["reference"]:
        float32 = dataclasses.replace(
            config, model=dataclasses.replace(config.model, compute_dtype="float32")
        )
        np.savez(folder / "reference.npz", **reference(float32, dataset, fitted))

    def task(config):
        run_steps, _ = make_steps(config, dataset, fitted)
        state = create_state(config, dataset.told.condition_dim)
        step = 0

        def steps():
            nonlocal state, step
            for _ in range(options["steps"]):
                state, metrics = run_steps(state, step)
                step += 1
            return {"loss": float(metrics["loss"])}

        return steps

    rows = dataset.read(dataset.train_rows[: config.train.batch_size])
    state = create_state(config, dataset.told.condition_dim)
    positions = jnp.arange(config.train.batch_size, dtype=jnp.uint32)
    operations = flops.count(
        partial(train_step, config=config, num_clips=len(pcm)),
        state, fitted, Visits(*rows, positions),
    )  # fmt: skip

    def matmul(dtype):
        square = jax.random.normal(jax.random.key(0), (MATMUL, MATMUL), dtype)
        product = jax.jit(jnp.dot)
        return lambda: jax.block_until_ready([product(square, square) for _ in range(4)]) and None

    tasks: turns.Tasks = {
        "vaejax": task(config),
        "vaejax without augmentation": task(plain(config)),
    }
    for dtype in dict.fromkeys(["float32", config.model.compute_dtype]):
        tasks[f"matmul {dtype}"] = matmul(dtype)
    about = {
        "sizes": sizes_of(config),
        "weights": sum(x.size for x in jax.tree.leaves(state.params)),
        "step_gflop": operations / 1e9,
        "matmul_gflop": 4 * 2 * MATMUL**3 / 1e9,
    }
    return about, tasks


if __name__ == "__main__":
    turns.serve(prepare)
