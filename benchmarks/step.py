"""Where the time of a training step goes: its parts, measured apart and in turns.

    python -m benchmarks.step [--config configs/default.py] [--trace /tmp/trace]

Each part is a compiled program of its own on the arrays that it sees in a step, forward and
backward where both are needed. Parts overlap a little (what XLA fuses across their borders is done
twice here), so that their sum is no less than the step. `--trace` also records some whole steps
with `jax.profiler`, for TensorBoard or xprof.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from benchmarks import flops, record
from benchmarks.peers import own
from benchmarks.signal import shortened, take_turns, waiting


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
    repeats: int = 15
    trace: Path | None = None
    """Folder for a trace of five whole steps."""


def parts(config, dataset, fitted) -> dict[str, tuple[Any, tuple]]:
    """Name -> (function, arguments)."""
    import jax
    import jax.numpy as jnp

    from vaejax import features, models
    from vaejax.data.clips import augmented_clip
    from vaejax.devices import partwise
    from vaejax.models import linear as path
    from vaejax.objective.batch import batch_loss
    from vaejax.train import optimizers
    from vaejax.train.feed import Visits
    from vaejax.train.state import create_state
    from vaejax.train.step import train_step

    size = config.train.batch_size
    state = create_state(config, dataset.told.condition_dim)
    pcm, lengths, facts = (jnp.asarray(a) for a in dataset.read(dataset.train_rows[:size]))
    keys = jax.random.split(jax.random.key(0), size)
    variables = {"params": state.params["vae"]}
    model: Any = models.create_model(config)
    linear = fitted.linear
    told = jnp.zeros((size, linear.condition_dim))

    @jax.jit
    def waveforms(keys, pcm, lengths):
        return partwise.vmap(lambda k, p, n: augmented_clip(k, p, n, config)[0])(keys, pcm, lengths)

    @jax.jit
    def spectrograms(clips):
        return partwise.vmap(lambda clip: features.x_of(clip, fitted.statistics, config))(clips)

    clips = waveforms(keys, pcm, lengths)
    x = spectrograms(clips)
    z = jax.random.normal(jax.random.key(1), (size, config.latent_dim))
    coordinates = jax.random.normal(jax.random.key(2), (size, config.model.num_directions))
    nothing = told[0]

    def perceptrons(m, a):
        latents = a[: config.latent_dim]
        return (
            m.dense_encoder(jnp.concatenate([a, nothing])),
            m.dense_decoder(jnp.concatenate([latents, nothing])),
        )

    def both(method):
        """Outputs and gradients of the weights of a part of the model."""

        def run(variables, given, out):
            batched = jax.vmap(lambda v, a: model.apply(v, a, method=method), (None, 0))
            got, pull = jax.vjp(lambda v: batched(v, given), variables)
            return pull(jax.tree.map(lambda g: jnp.resize(out, g.shape).astype(g.dtype), got))

        return run

    def refine(m, a):
        mean = a[: config.latent_dim]
        answer, sigma = (mean, mean), jnp.ones_like(mean)
        for _ in range(config.model.num_refinements):
            answer = m.refine(*answer, sigma, a, nothing, linear)
        return answer

    refinements = (both(refine), (variables, coordinates, z))

    def linear_path(linear, x, coordinates, out):
        found = jax.vmap(partial(path.coordinates, linear))(x, told)
        rebuilt, pull = jax.vjp(lambda c: jax.vmap(partial(path.at, linear))(c), coordinates)
        return found, rebuilt, pull(out)

    num_clips = len(dataset.train_rows)
    loss_of = partial(batch_loss, model=model, config=config, num_clips=num_clips)

    def loss(params, fitted, x):
        return jax.value_and_grad(loss_of, has_aux=True)(params, x, told, fitted, keys)

    def update(state, grads):
        return optimizers.update(grads, state.params, state.ema, state.opt_state, config)

    positions = jnp.arange(size, dtype=jnp.uint32)
    step = partial(train_step, config=config, num_clips=num_clips)
    flat = x.reshape(size, x.shape[1], -1)
    return {
        "whole step": (step, (state, fitted, Visits(pcm, lengths, facts, positions))),
        "cut, pitch, equaliser and level of the clips": (waveforms, (keys, pcm, lengths)),
        "spectrograms": (spectrograms, (clips,)),
        "loss and gradient": (loss, (state.params, fitted, x)),
        "of that, linear path": (linear_path, (linear, x, coordinates, x)),
        "of that, convolutional encoder": (
            both(lambda m, a: m.encoder(a, nothing)),
            (variables, flat, z),
        ),
        "of that, convolutional decoder": (
            both(lambda m, a: m.decoder(jnp.concatenate([a, nothing]))),
            (variables, z, flat),
        ),
        "of that, perceptrons": (both(perceptrons), (variables, coordinates, coordinates)),
        **({"of that, refinements": refinements} if config.model.num_refinements else {}),
        "clip, AdamW and averaged weights": (update, (state, state.params)),
    }


def main(options: Options) -> None:
    import jax

    from vaejax.data import sounds
    from vaejax.train.fit import fit

    config = own.configured(dataclasses.asdict(options))
    dataset = sounds.load(config)
    fitted = fit(dataset, config)
    named = parts(config, dataset, fitted)
    programs = {name: jax.jit(function) for name, (function, _) in named.items()}
    tasks = {name: waiting(programs[name], *given) for name, (_, given) in named.items()}
    times = take_turns(tasks, options.repeats)
    figures: dict[str, Any] = {}
    for name, (function, given) in named.items():
        cost = programs[name].lower(*given).compile().cost_analysis() or {}
        gflop = flops.count(function, *given) / 1e9
        figures[name] = {
            **times[name],
            "share": times[name]["cpu_ms"] / times["whole step"]["cpu_ms"],
            "gflop": gflop,
            "gflop_per_second": gflop / times[name]["ms"] * 1e3,
            "gflop_per_cpu_second": gflop / times[name]["cpu_ms"] * 1e3,
            "megabytes_by_xla": cost.get("bytes accessed", 0.0) / 1e6,
        }
    if options.trace:
        with jax.profiler.trace(str(options.trace)):
            for _ in range(5):
                tasks["whole step"]()
    record.save(
        "step" if options.config == Options.config else f"step-{Path(options.config).stem}",
        {
            "config": options.config,
            "batch_size": config.train.batch_size,
            "compute_dtype": config.model.compute_dtype,
            "parts": shortened(figures),
        },
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
