"""What a run writes while it trains: lines of metrics, TensorBoard, checkpoints, and its prior."""

import contextlib
import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from vaejax import files
from vaejax.codec import Fitted
from vaejax.config import Config
from vaejax.data.sounds import Sounds
from vaejax.devices import hosts, sharding
from vaejax.run import arrays
from vaejax.run.checkpoint import Checkpoints
from vaejax.train import diagnostics, evaluation, patience, tensorboard
from vaejax.train.patience import Progress
from vaejax.train.state import TrainState


class Journal:
    """The run folder of a run that is training.

    Of many processes, each has one and calls it alike: the first one measures and writes, and all
    of them take part in what they save together, the checkpoints.
    """

    def __init__(
        self,
        workdir: Path,
        config: Config,
        sounds: Sounds,
        checkpoints: Checkpoints,
        evaluate: Callable,
        progress: Progress,
        step: int,
    ):
        """Opens the logs; what they say beyond `step`, of a run that was killed, is taken back.

        Args:
          evaluate: of `evaluation.make_evaluate`.
          progress: on the held-out sounds so far.
        """
        self.config, self.checkpoints, self.evaluate = config, checkpoints, evaluate
        self.progress = progress
        self.first: dict[str, float] = {}
        """The figures at step 0, if the run began there."""
        self.train: dict[str, float] = {}
        """The figures last logged of the training steps."""
        self.held_out: dict[str, float] = {}
        """The figures of the last evaluation, also of before a resumption."""
        self.board = tensorboard.Board(workdir, config, step, write=hosts.is_first())
        names = [sounds.corpus.names[row] for row in sounds.held_out_rows]
        self.path = workdir / "metrics.jsonl"
        self.board_names = names[: config.train.board_clips]
        self.lines: IO[str] = io.StringIO()
        if hosts.is_first():
            self.lines, self.held_out = _open_lines(self.path, step)

    def measure(self, at: int, state: TrainState) -> str | None:
        """Evaluates, and keeps the weights if they are the best so far.

        Returns:
          A warning in words, if there is something to be warned of.

        Raises:
          FloatingPointError: the loss is not finite.
        """
        # On many devices, by way of the host to the one that measures.
        weights = state.ema if jax.device_count() == 1 else sharding.to_host(state.ema)

        by = self.config.train.best_by

        def evaluated() -> tuple[dict[str, float], list[float]]:
            done = self.evaluate(weights)
            self._record("held_out", at, done.values)
            self.board.latent("held_out", at, done.latent)
            before, after = done.pairs
            self.board.pairs(at, before, after, self.board_names)
            self.board.draws(at, done.draws)
            return done.values, np.asarray(done.per_sound.get(by, [done.values[by]])).tolist()

        values, errors = hosts.on_first(evaluated)
        self.held_out = values
        for name in ("loss", by):
            if not math.isfinite(values[name]):
                raise FloatingPointError(f"the held-out {name} is not finite at step {at}")
        self.progress = patience.after(self.progress, at, values, errors, self.config)
        if self.best["step"] == at:
            self.checkpoints.save_best(at, state.ema)
        self.board.advice(at, diagnostics.advice(at, values, self.best, self.config))
        if at == 0:
            self.first = values
            return None
        return diagnostics.collapse_warning(values, self.config)

    def log(self, at: int, mean: Mapping[str, Any], clips_per_second: float) -> None:
        """Logs the metrics of training steps, averaged since the last call."""
        self.train = tensorboard.scalar_values(mean)
        self.train["clips_per_second"] = clips_per_second
        self.train["active_units"] = diagnostics.active_units(
            mean["mean_variance"], mean["variance"]
        )
        self._record("train", at, self.train)
        self.board.latent("train", at, {"kl_per_dim": mean["kl_per_dim"]})

    def check(self, state: TrainState) -> None:
        """Refuses a state that is not to be saved: the newest checkpoint stays a good one.

        Raises:
          FloatingPointError: a loss or gradient since the last checkpoint was not finite.
        """
        bad = int(state.first_bad_step)
        if bad >= 0:
            raise FloatingPointError(
                f"the loss is not finite at step {bad}; the last good checkpoint is at step "
                f"{self.checkpoints.last.latest_step() or 0}; try another --workdir with a smaller "
                f"--train.learning_rate than {self.config.train.learning_rate:g}"
            )

    def save(self, state: TrainState) -> None:
        """Starts writing all that the run needs to go on."""
        self.checkpoints.save_last(state, patience.to_json(self.progress))

    def status(self) -> str:
        """A few figures for the progress bar."""
        train, by = self.train, self.config.train.best_by
        held_out = patience.figure(self.held_out.get(by, math.nan), by)
        return (
            f"loss {train['loss']:.5g} recon {train['recon']:.5g} kl {train['kl']:.4g} "
            f"held-out {held_out} {train['clips_per_second']:.0f} clips/s"
        )

    @property
    def best(self) -> dict[str, float]:
        """`step` and figures of the best weights so far."""
        return self.progress.best

    def has_waited(self, step: int) -> bool:
        """Whether training stops at a step because nothing has got better for long."""
        return patience.is_over(self.progress, self.config)

    def history(self) -> dict[int, float]:
        """Step -> the held-out figure that the best weights are chosen by, of the whole run."""
        lines, by = files.read_lines(self.path), self.config.train.best_by
        return {line["step"]: line[by] for line in lines if line["split"] == "held_out"}

    def finish(self) -> None:
        """Says in TensorBoard what the whole run came to."""
        self.board.finish(self.best)

    def close(self) -> None:
        """Returns when everything is on disk."""
        with contextlib.ExitStack() as each:  # also after one that fails
            each.callback(self.board.close)
            each.callback(self._close_lines)
            each.callback(self.checkpoints.wait)

    def _close_lines(self) -> None:
        # What is not on disk by now was an error when it was written.
        with contextlib.suppress(OSError):
            self.lines.close()

    def _record(self, split: str, at: int, values: Mapping[str, float]) -> None:
        try:
            self.lines.write(json.dumps({"step": at, "split": split, **values}) + "\n")
            self.lines.flush()
        except OSError as error:
            error.filename = str(self.path)
            raise
        self.board.scalars(split, at, values)


def has_prior(workdir: Path, checkpoints: Checkpoints) -> bool:
    """Whether the prior of the best weights is there and whole; says so where it is damaged."""
    try:
        return arrays.load_prior(workdir, checkpoints.best_step()) is not None
    except ValueError as error:
        print(f"warning: {str(error).partition(':')[0]}; it is fitted anew", file=sys.stderr)
        return False


def fit_prior(
    checkpoints: Checkpoints, fitted: Fitted, sounds: Sounds, config: Config, workdir: Path
) -> int:
    """Fits and saves the prior of the best weights, which need not be the last; their step."""
    step, params = checkpoints.restore_best(config, sounds.told.condition_dim)

    def fit() -> None:
        untold, told = evaluation.fit_prior(params, fitted, sounds, config)
        arrays.save_prior(workdir, untold, told, step)
        scores = ", ".join(f"{name} {value:.1f}" for name, value in untold.log_likelihoods.items())
        print(f"prior: {list(untold.log_likelihoods)[-1]} (nats per left-out latent: {scores})")
        posteriors = untold.posteriors
        num = len(posteriors.rows)
        shown = np.linspace(0, num - 1, min(num, tensorboard.PROJECTOR_POINTS)).astype(int)
        rows = posteriors.rows[shown]
        listed = json.loads((workdir / "data.json").read_text())["files"]
        tensorboard.save_projector(
            workdir,
            posteriors.means[shown],
            [listed[row] for row in rows],
            evaluation.thumbnails(sounds, rows, config),
            step,
        )

    hosts.on_first(fit)
    return step


def _open_lines(path: Path, step: int) -> tuple[IO[str], dict[str, float]]:
    """Opens metrics.jsonl for appending, without the lines beyond the step resumed at.

    Returns:
      The file, and the figures of the last evaluation that stays in it.
    """
    kept = [row for row in files.read_lines(path) if step > 0 and row.get("step", step) <= step]
    files.write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    held_out = [row for row in kept if row.get("split") == "held_out"]
    last = {k: v for k, v in held_out[-1].items() if k not in ("step", "split")} if held_out else {}
    return path.open("a"), last
