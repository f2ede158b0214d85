"""The run folder: what a run needs to go on and what a sound needs to be made, JSON and arrays.

    config.json     the resolved config
    data.json       sounds used and rejected, labels, split, fingerprint
    fitted.npz      statistics, linear path, embedding of the training set
    prior.npz       the fitted prior (mixture or windows), what it was chosen from, the posteriors
                    it was fitted to, and the step of their weights
    checkpoints/    last/: the whole training state. best/: the averaged weights that did best on
                    the held-out sounds. Both orbax, written asynchronously and renamed when whole
    attributes.npz  how bright, noisy, ... the model's sounds are; made by sample.py at need
    metrics.jsonl, tensorboard/, compilation_cache/

Nothing in it is pickled, and loading it executes nothing.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vaejax import conditions, models, sharding
from vaejax import config as configs
from vaejax.conditions import Vocabulary
from vaejax.config import Config
from vaejax.features import Statistics
from vaejax.generate import Instrument
from vaejax.metrics import Embedding
from vaejax.models.linear import Linear
from vaejax.priors import Mixture, Prior, Windows
from vaejax.training import Fitted, TrainState, create_state

FITTED_PARTS: dict[str, Any] = {"statistics": Statistics, "linear": Linear, "embedding": Embedding}


class Posteriors(NamedTuple):
    """Where the training sounds lie in the latent, under the weights that are sampled from."""

    rows: np.ndarray
    """[num_clips], row of each in data.json's `files`."""
    means: np.ndarray
    """[num_clips, latent_dim]."""
    variances: np.ndarray
    """[num_clips, latent_dim]."""


class Aggregate(NamedTuple):
    """The aggregate posterior."""

    prior: Prior
    """The density fitted to it."""
    posteriors: Posteriors
    log_likelihoods: dict[str, float]
    """Of the densities it was chosen from (`priors.Choice`), nats per left-out sound."""


class Run(NamedTuple):
    """A run as the sampler sees it."""

    config: Config
    instrument: Instrument
    data: dict[str, Any]
    """data.json; its `files` are {"file", "label", "seconds", "split"}."""
    step: int
    """Of the weights."""
    posteriors: Posteriors | None
    """None where the run was killed before they were stored; the prior is then the objective's."""
    fingerprint: str
    """Of what the sounds depend on: weights, what was fitted, and data."""
    vocabulary: Vocabulary
    """What the model can be told of a sound."""
    told: Aggregate | None
    """The aggregate posterior where the model is told all that is known; None where it can be told
    nothing, or was killed before."""

    @property
    def has_fitted_prior(self) -> bool:
        """Whether the prior is that of the aggregate posterior."""
        return self.posteriors is not None


class Checkpoints:
    """The two series of checkpoints of a run folder."""

    def __init__(self, workdir: Path, *, read_only: bool = False):
        """Opens `workdir`/checkpoints, or creates it."""
        self.last = _manager(workdir / "checkpoints" / "last", read_only)
        self.best = _manager(workdir / "checkpoints" / "best", read_only)

    def best_step(self) -> int:
        """Step of the best weights."""
        step = self.best.latest_step()
        assert step is not None, "a state is only saved after an evaluation"
        return step

    def save_last(self, state: TrainState, best: dict[str, float]) -> None:
        """Starts writing all that training needs to go on; returns before it is on disk.

        Args:
          state: after the last step.
          best: figures of the best weights so far, and how long ago that was (`patience.to_json`).
        """
        step = int(state.step)
        if self.last.latest_step() == step:
            return
        self.last.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()),
                best=ocp.args.JsonSave(best),
            ),
        )

    def save_best(self, step: int, ema) -> None:
        """Starts writing the weights that sounds are made with."""
        # A resumed run walks over steps that it had reached before it was killed, and to the same
        # weights.
        existing = self.best.latest_step()
        if existing == step:
            return
        if existing is not None and existing > step:
            self.best.delete(existing)
        self.best.save(step, args=ocp.args.StandardSave({"params": ema}))

    def restore_last(
        self, config: Config, condition_dim: int, layout: Any = None
    ) -> tuple[TrainState, dict[str, float]] | None:
        """The newest state and the figures of the best weights until then; None in a new folder.

        Args:
          layout: how the state is to lie on the devices (see `sharding.weights`), whatever devices
            it was saved from; None for one.
        """
        step = self.last.latest_step()
        if step is None:
            return None
        template = _on_host(lambda: create_state(config, condition_dim))
        restored = _restore(
            self.last,
            step,
            ocp.args.Composite(
                state=ocp.args.StandardRestore(template._asdict()), best=ocp.args.JsonRestore()
            ),
        )
        # Copies: the step donates its state, and what orbax returns may be shared. By way of the
        # host: what orbax returns is bound to its device, and a step on such arrays is another
        # program, which every resumed run would compile anew.
        state = TrainState(**restored["state"])
        state = jax.tree.map(jnp.array, state) if layout is None else sharding.put(state, layout)
        return state, restored["best"]

    def restore_best(self, config: Config, condition_dim: int) -> tuple[int, Any]:
        """Step and averaged weights of the best checkpoint."""
        step = self.best_step()
        template = _on_host(lambda: create_state(config, condition_dim).ema)
        restored = _restore(self.best, step, ocp.args.StandardRestore({"params": template}))
        return step, jax.tree.map(jnp.array, restored["params"])

    def wait(self) -> None:
        """Returns when everything is on disk."""
        self.last.wait_until_finished()
        self.best.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        self.last.close()
        self.best.close()


def _manager(path: Path, read_only: bool) -> ocp.CheckpointManager:
    if read_only:
        options = ocp.CheckpointManagerOptions(read_only=True, create=False)
    else:
        # Processes wait for one another under names made of this and the step: both series may
        # write the same step at once, and would meet at each other's barriers.
        barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=path.name)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=1, create=True, multiprocessing_options=barriers
        )
    return ocp.CheckpointManager(path.absolute(), options=options)


def _on_host(create) -> Any:
    """A template of what `create` returns, in NumPy: orbax then restores it to the host, from any
    number of devices, instead of to the devices it was saved from."""
    shapes = jax.eval_shape(create)
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)


def _restore(manager: ocp.CheckpointManager, step: int, args: Any) -> Any:
    try:
        return manager.restore(step, args=args)
    except ValueError as error:
        if "mismatch" not in str(error):
            raise
        # Orbax lists every array there is.
        raise ValueError(
            f"the weights in {manager.directory} are of another version of vaejax, which named or "
            "shaped them differently; train again in another --workdir"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    replace_file(path, lambda f: f.write(text.encode()))


def replace_file(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file by `write`, which is given it open, whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as f:
            write(f)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Writes an .npz file whole or not at all."""
    on_host: dict[str, Any] = {k: np.asarray(v) for k, v in arrays.items()}
    replace_file(path, lambda f: np.savez(f, **on_host))


def save_fitted(workdir: Path, fitted: Fitted, embedding: Embedding) -> None:
    """Writes what was fitted before training."""
    parts = {**fitted._asdict(), "embedding": embedding}
    save_arrays(
        workdir / "fitted.npz",
        {f"{part}.{k}": v for part, t in parts.items() for k, v in t._asdict().items()},
    )


def load_fitted(workdir: Path) -> tuple[Fitted, Embedding]:
    """Reads what `save_fitted` wrote."""
    with np.load(workdir / "fitted.npz", allow_pickle=False) as arrays:

        def array(name: str):
            if name == "linear.offsets" and name not in arrays:
                # Written before models could be told anything.
                return jnp.zeros((len(arrays["linear.eigenvalues"]), 0))
            if name == "linear.basis" and name not in arrays:
                # Written when directions came first.
                return jnp.moveaxis(jnp.asarray(arrays["linear.directions"]), 0, -1)
            return jnp.asarray(arrays[name])

        parts = {
            part: kind(**{k: array(f"{part}.{k}") for k in kind._fields})
            for part, kind in FITTED_PARTS.items()
        }
    return Fitted(parts["statistics"], parts["linear"]), parts["embedding"]


def save_prior(workdir: Path, untold: Aggregate, told: Aggregate | None, step: int) -> None:
    """Writes the priors fitted for the best weights, of that step, and what they were fitted to."""
    arrays: dict[str, Any] = {"step": step}
    for prefix, aggregate in (("", untold), ("told.", told)):
        if aggregate is not None:
            arrays |= {f"{prefix}{k}": v for k, v in aggregate.prior._asdict().items()}
            parts = aggregate.posteriors._asdict()
            arrays |= {f"{prefix}posteriors.{k}": v for k, v in parts.items()}
            arrays[f"{prefix}candidates"] = list(aggregate.log_likelihoods)
            arrays[f"{prefix}log_likelihoods"] = list(aggregate.log_likelihoods.values())
    save_arrays(workdir / "prior.npz", arrays)


def load_prior(workdir: Path, step: int) -> tuple[Aggregate, Aggregate | None] | None:
    """What was fitted for the weights of a step, told nothing and told all; or None."""
    path = workdir / "prior.npz"
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        if int(arrays["step"]) != step:
            return None

        def read(prefix: str) -> Aggregate:
            kind = Windows if f"{prefix}neighbours" in arrays else Mixture
            return Aggregate(
                kind(*(jnp.asarray(arrays[prefix + k]) for k in kind._fields)),
                Posteriors(*(arrays[f"{prefix}posteriors.{k}"] for k in Posteriors._fields)),
                {
                    str(name): float(value)
                    for name, value in zip(
                        arrays[f"{prefix}candidates"],
                        arrays[f"{prefix}log_likelihoods"],
                        strict=True,
                    )
                },
            )

        return read(""), read("told.") if "told.posteriors.rows" in arrays else None


def has_checkpoint(workdir: Path) -> bool:
    """Whether there is anything to sample from."""
    return _newest(workdir, "best") is not None


def last_step(workdir: Path) -> int:
    """The step that a run would go on from; 0 where there is none."""
    return _newest(workdir, "last") or 0


def progress(workdir: Path) -> dict[str, Any] | None:
    """What the last checkpoint says of the held-out sounds (`patience.Progress`); None before."""
    if (step := _newest(workdir, "last")) is None:
        return None
    series = Checkpoints(workdir, read_only=True).last
    stored = series.restore(step, args=ocp.args.Composite(best=ocp.args.JsonRestore()))["best"]
    series.close()
    return stored


def best_figures(workdir: Path) -> dict[str, Any] | None:
    """The held-out figures of the best weights, `step` among them; None before there are any."""
    step, path = _newest(workdir, "best"), workdir / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError):  # a line that was cut off by a kill
            row = json.loads(line)
            if row.pop("split") == "held_out" and row["step"] == step:
                return row
    return None


def _newest(workdir: Path, series: str) -> int | None:
    folder = workdir / "checkpoints" / series
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return max(steps, default=None)


def load_run(workdir: str | os.PathLike) -> Run:
    """Loads a run folder for sampling.

    Raises:
      FileNotFoundError: there is no run in it; names the command that makes one.
      ValueError: it is of another version.
    """
    workdir = Path(workdir)
    command = f"python train.py --workdir {workdir}"
    if not (workdir / "config.json").exists():
        raise FileNotFoundError(f"no run in {workdir}: train one first with `{command}`")
    try:
        config = configs.load(workdir / "config.json")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{workdir / 'config.json'} is of another version: {error}") from None
    if not has_checkpoint(workdir):
        raise FileNotFoundError(
            f"the run in {workdir} has no checkpoint yet: let `{command}` reach its first "
            "evaluation"
        )
    data = json.loads((workdir / "data.json").read_text())
    fitted, embedding = load_fitted(workdir)
    checkpoints = Checkpoints(workdir, read_only=True)
    step, params = checkpoints.restore_best(config, fitted.linear.condition_dim)
    checkpoints.close()
    loaded = load_prior(workdir, step)
    untold, told = loaded or (None, None)
    return Run(
        config=config,
        instrument=Instrument(
            params=params,
            fitted=fitted,
            prior=untold.prior
            if untold
            else models.prior_density(params, fitted.linear, config=config),
            embedding=embedding,
        ),
        data=data,
        step=step,
        posteriors=untold.posteriors if untold else None,
        fingerprint=_fingerprint(params, fitted, data["fingerprint"]),
        vocabulary=conditions.vocabulary(config.condition, data["files"]),
        told=told,
    )


def _fingerprint(params, fitted: Fitted, data: str) -> str:
    """Stays as it is while the best weights do, whatever else of the run goes on or is set anew."""
    digest = hashlib.blake2b(data.encode(), digest_size=8)
    # The eigenvalues stand for the directions, which take a hundred times the room.
    for leaf in jax.tree.leaves((params, fitted.statistics, fitted.linear.eigenvalues)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
