"""Trains a variational autoencoder on a folder of sounds.

    python train.py [--config configs/NAME.py] [--data FOLDER] [--workdir DIR] [--section.field X]

The same command goes on with a run that was interrupted. Ctrl-C saves and stops.
"""

import io
import json
import math
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from vaejax import cli, hosts
from vaejax import config as configs
from vaejax.config import Config

DESCRIPTION = (
    "Trains a variational autoencoder on a folder of sounds. The same command goes on with a run "
    "that was interrupted; Ctrl-C saves and stops. Exit codes: 0 done, 1 failed, 2 wrong usage, "
    "130 interrupted."
)


@dataclass(frozen=True)
class Options:
    """Options of train.py."""

    config: str = "configs/default.py"
    """Preset: a file of `configs/`, whose values are the defaults below."""
    workdir: Path | None = None
    """Run folder; by default runs/ and the name of the preset."""
    distributed: hosts.Distributed = field(default_factory=hosts.Distributed)
    shard_weights: bool = False
    """Divide the weights, their average and the optimizer's moments among the devices, for a model
    that is too wide for one; by default each device holds all of them."""
    debug: bool = False
    """Show where an error arose."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def main(argv: list[str]) -> None:
    """Parses the command line and trains."""
    preset = cli.option(argv, "config") or "configs/default.py"
    try:
        default = Options(config=preset, settings=cli.load_preset(preset))
        options = cli.parse(Options, default, argv, description=DESCRIPTION)
        configs.check(options.settings)
        hosts.arguments(options.distributed, os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(cli.USAGE) from None
    workdir = options.workdir or Path("runs") / Path(preset).stem
    hosts.start(options.distributed)
    train(options.settings, workdir, shard_weights=options.shard_weights)


def train(config: Config, workdir: Path, *, shard_weights: bool = False) -> None:
    """Runs or goes on with a run, from the folder of sounds to a fitted prior.

    On all devices of all processes that `hosts.start` has joined. What goes to files and screen is
    that of the first process.

    Args:
      shard_weights: divides the state among the devices instead of giving each all of it.

    Raises:
      ValueError: the config, the sounds or the run folder do not allow it.
      FloatingPointError: the loss stopped being finite.
      cli.Interrupted: stopped by a signal; everything is saved.
    """
    configs.check(config)
    started = time.time()
    hosts.on_first(lambda: _check_resumable(config, workdir))
    cli.use_compilation_cache(workdir)

    # Imported here: --help and bad usage need none of it.
    import jax
    import numpy as np

    from vaejax import checkpoint, diagnostics, evaluation, sharding, tensorboard, training
    from vaejax.data import sounds

    sharding.check_batch_size(config.train.batch_size)
    print(f"run folder {workdir} · {sharding.describe()}", flush=True)

    # Sounds.
    dataset = hosts.first_then_others(lambda: sounds.load(config))
    print(sounds.report(dataset), flush=True)
    hosts.check_same("the sounds", dataset.corpus.fingerprint, "give each the same --data")

    def begin() -> None:
        _check_same_sounds(dataset.corpus.fingerprint, workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        if (text := configs.to_json(config)) != _read(workdir / "config.json"):
            checkpoint.write_text(workdir / "config.json", text)
        checkpoint.write_text(workdir / "data.json", json.dumps(dataset.listing, indent=1) + "\n")

    hosts.on_first(begin)
    hosts.check_shared(workdir, "--workdir")

    # What is fitted before training.
    def fit() -> None:
        if (workdir / "fitted.npz").exists():
            return
        begun = time.time()
        fitted = training.fit(dataset, config)
        embedding = evaluation.fit_embedding(dataset, config)
        checkpoint.save_fitted(workdir, fitted, embedding)
        print(f"fitted statistics and linear path in {time.time() - begun:.1f} s", flush=True)

    hosts.on_first(fit)
    fitted, _ = checkpoint.load_fitted(workdir)

    # State: new, or where the last run stopped.
    checkpoints = checkpoint.Checkpoints(workdir)
    told = dataset.told.condition_dim
    mesh = sharding.create_mesh()
    shapes = jax.eval_shape(lambda: training.create_state(config, told))
    layout = sharding.weights(shapes, mesh, divide=shard_weights)
    restored = checkpoints.restore_last(config, told, layout)
    state, best = restored or (training.create_state(config, told, layout), {"loss": math.inf})
    step = int(state.step)
    if step >= config.train.num_steps:
        # A run may have been killed between its last checkpoint and its prior.
        best_step = checkpoints.best_step()
        if hosts.on_first(lambda: checkpoint.load_prior(workdir, best_step) is None):
            _fit_prior(checkpoints, fitted, dataset, config, workdir)
        checkpoints.close()
        print(
            f"{workdir} is finished at step {step}; sample from it with `python sample.py "
            f"--workdir {workdir}`, or go on with a larger --train.num_steps"
        )
        return
    if restored:
        print(f"resuming at step {step}", flush=True)
    num_weights = sum(x.size for x in jax.tree.leaves(state.params))
    print(f"{num_weights / 1e6:.2f} M trained weights", flush=True)

    run_steps, steps_in = training.make_steps(config, dataset, fitted, mesh=mesh, layout=layout)
    evaluate = evaluation.make_evaluate(config, dataset, fitted)
    writes = hosts.is_first()
    board = tensorboard.Board(workdir, config, step, write=writes)
    board_names = [dataset.corpus.names[row] for row in dataset.held_out_rows]
    board_names = board_names[: config.train.board_clips]
    log = _open_log(workdir / "metrics.jsonl", step) if writes else io.StringIO()
    stop = _StopSignals()

    def record(split: str, at: int, values: dict[str, float]) -> None:
        log.write(json.dumps({"step": at, "split": split, **values}) + "\n")
        log.flush()
        board.scalars(split, at, values)

    def measure(at: int) -> dict[str, float]:
        """Evaluates, keeps the weights if they are the best so far, returns the best's figures."""
        weights = state.ema if mesh is None else sharding.to_host(state.ema)

        def evaluated() -> dict[str, float]:
            values, latent, (inputs, outputs), draws = evaluate(weights)
            record("held_out", at, values)
            board.latent("held_out", at, latent)
            board.pairs(at, inputs, outputs, board_names)
            board.draws(at, draws)
            return values

        values = hosts.on_first(evaluated)
        held_out.update(values)
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(f"the held-out loss is not finite at step {at}")
        if values["loss"] < best["loss"]:
            checkpoints.save_best(at, state.ema)
            reached = {"step": at, **values}
        else:
            reached = best
        board.advice(at, diagnostics.advice(at, values, reached, config))
        return reached

    held_out: dict[str, float] = {}
    resumed_at = step
    bar = tqdm(
        total=config.train.num_steps,
        initial=step,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5,
        disable=not writes,
    )
    try:
        if step == 0:
            best = first = measure(0)
        pending: list[dict] = []
        clock, pause = time.perf_counter(), 0.0
        while step < config.train.num_steps:
            state, metrics = run_steps(state, step)
            if step == resumed_at:
                # The first step is mostly compilation; it says nothing about the time left.
                jax.block_until_ready(metrics)
                bar.unpause()
            pending.append(metrics)
            step += steps_in
            bar.update(steps_in)
            is_last = step == config.train.num_steps

            every = (
                config.train.log_every_steps,
                config.train.eval_every_steps,
                config.train.save_every_steps,
            )
            due = is_last or any(step % steps == 0 for steps in every)
            # Many processes stop together, so they ask each other, where they pause anyway.
            stopping = hosts.any_of(stop.requested) if due or hosts.count() == 1 else False
            if due or stopping:
                # Before anything is written: the newest checkpoint stays a good one.
                bad = int(state.first_bad_step)
                if bad >= 0:
                    raise FloatingPointError(
                        f"the loss is not finite at step {bad}; the last good checkpoint is at "
                        f"step {checkpoints.last.latest_step() or 0}; try another --workdir with a "
                        f"smaller --train.learning_rate than {config.train.learning_rate:g}"
                    )

            if step % config.train.log_every_steps == 0 or is_last:
                mean = {k: np.mean([np.asarray(m[k]) for m in pending], 0) for k in pending[0]}
                now = time.perf_counter()
                clips = len(pending) * steps_in * config.train.batch_size
                values = tensorboard.scalar_values(mean)
                values["clips_per_second"] = clips / (now - clock - pause)
                values["active_units"] = diagnostics.active_units(
                    mean["mean_variance"], mean["variance"]
                )
                clock, pause, pending = now, 0.0, []
                record("train", step, values)
                board.latent("train", step, {"kl_per_dim": mean["kl_per_dim"]})
                bar.set_postfix_str(_postfix(values, held_out))

            begun = time.perf_counter()
            if step % config.train.eval_every_steps == 0 or is_last:
                best = measure(step)
                warning = diagnostics.collapse_warning(held_out, config)
                if warning and writes:
                    tqdm.write(f"warning: {warning}")
            if step % config.train.save_every_steps == 0 or is_last:
                checkpoints.save_last(state, best)
            pause += time.perf_counter() - begun
            if stopping and not is_last:
                checkpoints.save_last(state, best)
                break
        if step == config.train.num_steps:
            board.finish(best)
    finally:
        stop.restore()
        checkpoints.wait()
        bar.close()
        log.close()
        board.close()

    best_step = _fit_prior(checkpoints, fitted, dataset, config, workdir)
    checkpoints.close()
    if step < config.train.num_steps:
        raise cli.Interrupted(f"interrupted at step {step}; saved; the same command goes on")
    begun_at = (
        f" (at step 0, where it is PCA: {first['loss']:.6g} and {first['mel_l1_db']:.2f})"
        if restored is None
        else ""
    )
    print(
        f"best at step {best_step}: held-out loss {best['loss']:.6g} nats, audio within "
        f"{best['mel_l1_db']:.2f} dB (mel L1){begun_at}; {time.time() - started:.0f} s in all"
    )
    print(f"next: python sample.py --workdir {workdir} --out samples --num 64")


def _fit_prior(checkpoints, fitted, dataset, config: Config, workdir: Path) -> int:
    """Fits and saves the prior of the best weights, which need not be the last; their step."""
    import numpy as np

    from vaejax import checkpoint, evaluation, tensorboard

    step, params = checkpoints.restore_best(config, dataset.told.condition_dim)

    def fit() -> None:
        untold, told = evaluation.fit_prior(params, fitted, dataset, config)
        checkpoint.save_prior(workdir, untold, told, step)
        posteriors = untold.posteriors
        num = len(posteriors.rows)
        shown = np.linspace(0, num - 1, min(num, tensorboard.PROJECTOR_POINTS)).astype(int)
        rows = posteriors.rows[shown]
        files = json.loads((workdir / "data.json").read_text())["files"]
        tensorboard.save_projector(
            workdir,
            posteriors.means[shown],
            [files[row] for row in rows],
            evaluation.thumbnails(dataset, rows, config),
            step,
        )

    hosts.on_first(fit)
    return step


class _StopSignals:
    """SIGINT and SIGTERM ask the loop to stop after the step under way; a second one insists."""

    def __init__(self) -> None:
        self.requested = False
        numbers = (signal.SIGINT, signal.SIGTERM)
        self.before = {number: signal.signal(number, self._handle) for number in numbers}

    def restore(self) -> None:
        """Leaves the signals to whom they belonged before: a notebook lives on after training."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        # Not print: the bar may be writing to the same stream just now.
        os.write(2, b"\nstopping after this step; once more to stop without saving\n")


def _check_resumable(config: Config, workdir: Path) -> None:
    path = workdir / "config.json"
    if not path.exists():
        return
    if not any((workdir / "checkpoints" / "best").glob("[0-9]*")):
        # Nothing was learnt under the settings that are there: they bind nobody.
        for name in ("config.json", "data.json", "fitted.npz"):
            (workdir / name).unlink(missing_ok=True)
        return
    changed = configs.differences(configs.load(path), config)
    fixed = {name: pair for name, pair in changed.items() if name not in configs.RESUMABLE}
    if fixed:
        listed = ", ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in fixed.items())
        raise ValueError(
            f"{workdir} holds a run with other settings ({listed}); "
            "choose another --workdir, or the settings it began with"
        )


def _check_same_sounds(fingerprint: str, workdir: Path) -> None:
    path = workdir / "data.json"
    if path.exists() and (old := json.loads(path.read_text())["fingerprint"]) != fingerprint:
        raise ValueError(
            f"the sounds have changed since the run in {workdir} began (fingerprint was {old}, is "
            f"{fingerprint}); choose another --workdir to train on them as they are now"
        )


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _open_log(path: Path, step: int):
    """Opens metrics.jsonl for appending, without the lines beyond the step resumed at."""
    from vaejax import checkpoint

    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            # A line that was cut off by a kill is beyond the checkpoint anyway.
            try:
                if json.loads(line)["step"] <= step and step > 0:
                    kept.append(line + "\n")
            except ValueError:
                continue
    checkpoint.write_text(path, "".join(kept))
    return path.open("a")


def _postfix(values: dict[str, float], held_out: dict[str, float]) -> str:
    return (
        f"loss {values['loss']:.5g} recon {values['recon']:.5g} kl {values['kl']:.4g} "
        f"held-out {held_out.get('loss', math.nan):.5g} {values['clips_per_second']:.0f} clips/s"
    )


if __name__ == "__main__":
    cli.run(main)
