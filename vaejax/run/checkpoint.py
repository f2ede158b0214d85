"""Checkpoints of a run, with orbax: asynchronous, whole or not at all, checked when they are read.

    checkpoints/last/     the whole training state
    checkpoints/best/     the averaged weights that did best on the held-out sounds
    checkpoints/damaged/  what could not be read

The newest two of each are kept, so that one is left where the other gets damaged.
"""

import contextlib
import errno
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from vaejax import codec, files
from vaejax.config import Config
from vaejax.devices import hosts, sharding
from vaejax.run import earlier

T = TypeVar("T")
# A NamedTuple: what the training changes, with fields `step` and `ema` among others.
State = TypeVar("State", bound=Any)


class DamagedError(ValueError):
    """A checkpoint that cannot be read, or holds what no training leaves."""


class Checkpoints:
    """The two series of checkpoints of a run folder."""

    def __init__(self, workdir: Path, *, read_only: bool = False):
        """Opens `workdir`/checkpoints, or creates it."""
        self.workdir, self.read_only = workdir, read_only
        _drop_late_callbacks()
        with _explained(workdir):
            self.last = _manager(workdir / "checkpoints" / "last", read_only)
            self.best = _manager(workdir / "checkpoints" / "best", read_only)

    def best_step(self) -> int:
        """Step of the best weights."""
        step = self.best.latest_step()
        assert step is not None, "a state is only saved after an evaluation"
        return step

    def save_last(self, state: State, best: dict[str, float]) -> None:
        """Starts writing all that training needs to go on; returns before it is on disk.

        Args:
          state: after the last step.
          best: figures of the best weights so far, and how long ago that was (`patience.to_json`).

        Raises:
          OSError: it, or what was written before, cannot be written.
        """
        step = int(state.step)
        if self.last.latest_step() == step:
            return
        tree = _stored(state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(tree), best=ocp.args.JsonSave(best))
        with _explained(self.workdir):
            # It names the best weights: they have to be there when it is.
            self.best.wait_until_finished()
            self.last.save(step, args=args, custom_metadata=_sum_of(tree))

    def save_best(self, step: int, ema) -> None:
        """Starts writing the weights that sounds are made with; raises as `save_last`."""
        # A resumed run walks over steps that it had reached before it was killed, and to the same
        # weights.
        if step in self.best.all_steps():
            return
        tree = {"params": ema}
        with _explained(self.workdir):
            for later in self.best.all_steps():
                if later > step:
                    self.best.delete(later)
            args = ocp.args.StandardSave(tree)
            self.best.save(step, args=args, custom_metadata=_sum_of(tree))

    def restore_last(
        self, create: Callable[[], State], layout: Any = None
    ) -> tuple[State, dict[str, float]] | None:
        """The newest state and the figures of the best weights until then; None in a new folder.

        A damaged one is put aside for the one before it.

        Args:
          create: makes the state before the first step, for its structure and for what an older
            checkpoint lacks.
          layout: how the state is to lie on the devices (see `sharding.weights`), whatever devices
            it was saved from; None for one.

        Raises:
          ValueError: there are only damaged ones, or those of another version.
        """

        def fresh() -> dict[str, Any]:
            return _stored(create())

        shapes, template = jax.eval_shape(create), _on_host(fresh)
        best_args = ocp.args.JsonRestore()
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template), best=best_args)

        def read(step: int) -> tuple[State, dict[str, float]]:
            restored = _restore(self.last, step, args)
            if restored is None or not _fits(restored["state"], template):
                folder = Path(self.last.directory) / str(step) / "state"
                only_best = ocp.args.Composite(best=best_args)
                restored = {
                    **_restore(self.last, step, only_best),
                    "state": earlier.restore(folder, template, fresh),
                }
            else:
                _check(self.last, step, restored["state"])
            return shapes._replace(**restored["state"]), restored["best"]

        try:
            found = self._newest(self.last, read)
        except DamagedError as error:
            raise ValueError(f"{error}: train again in another --workdir") from error
        if found is None:
            return None
        # Copies: the step donates its state, and what orbax returns may be shared. By way of the
        # host: what orbax returns is bound to its device, and a step on such arrays is another
        # program, which every resumed run would compile anew.
        state, best = found
        state = jax.tree.map(jnp.array, state) if layout is None else sharding.put(state, layout)
        return state, best

    def restore_best(self, config: Config, condition_dim: int) -> tuple[int, Any]:
        """Step and averaged weights of the best checkpoint; a damaged one as in `restore_last`."""
        key = jax.random.key(0)
        template = {"params": _on_host(lambda: codec.init(key, config, condition_dim))}

        def read(step: int) -> tuple[int, Any]:
            restored = _restore(self.best, step, ocp.args.StandardRestore(template))
            if restored is None or not _fits(restored, template):
                folder = Path(self.best.directory) / str(step) / "default"
                restored = earlier.restore(folder, template, lambda: template)
            else:
                _check(self.best, step, restored)
            return step, restored["params"]

        found = self._newest(self.best, read)
        if found is None:
            raise DamagedError(f"{self.best.directory} holds no checkpoint")
        return found[0], jax.tree.map(jnp.array, found[1])

    def check_best(
        self, config: Config, condition_dim: int, state: State, best: dict[str, float]
    ) -> dict[str, float]:
        """Reads the best weights before a run goes on, so that damage is found while there is help.

        Args:
          state: that the run goes on from; where the best weights are its own, they are saved anew.
          best: figures of the best weights as the run remembers them.

        Returns:
          The figures of those that are there.
        """
        remembered = int(best.get("step", -1))
        try:
            step, _ = self.restore_best(config, condition_dim)
        except DamagedError as error:
            step = -1
            if hosts.is_first():
                print(f"warning: {error}; those at hand take its place", file=sys.stderr)
            if (damaged := self.best.latest_step()) is not None:
                hosts.on_first(partial(self._put_aside, self.best, damaged))
            self.best.reload()
        if step >= remembered:
            return best
        if step < 0 or remembered == int(state.step):
            self.save_best(int(state.step), state.ema)
            self.wait()
            return best if remembered == int(state.step) else {"loss": math.inf}
        return hosts.on_first(lambda: best_figures(self.workdir)) or {"loss": math.inf}

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          OSError: it cannot be written.
        """
        with _explained(self.workdir):
            self.last.wait_until_finished()
            self.best.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the background threads."""
        with _explained(self.workdir):
            self.last.close()
            self.best.close()

    def _newest(self, manager: ocp.CheckpointManager, read: Callable[[int], T]) -> T | None:
        """What is read of the newest checkpoint that is whole; None where there are none."""
        steps = sorted(manager.all_steps(), reverse=True)
        for step, before in zip(steps, [*steps[1:], None], strict=False):
            damaged = None
            try:
                found = read(step)
            except DamagedError as error:
                damaged = error
            if not hosts.any_of(damaged is not None):
                return found
            said = damaged or f"the checkpoint {manager.directory}/{step} is damaged"
            if before is None:
                raise DamagedError(f"{said}, and there is none before it")
            if hosts.is_first():
                print(f"warning: {said}; going back to that of step {before}", file=sys.stderr)
            if not self.read_only:
                hosts.on_first(partial(self._put_aside, manager, step))
                manager.reload()
        return None

    def _put_aside(self, manager: ocp.CheckpointManager, step: int) -> None:
        series = Path(manager.directory).name
        aside = self.workdir / "checkpoints" / "damaged"
        aside.mkdir(exist_ok=True)
        number = len(list(aside.iterdir()))
        os.replace(Path(manager.directory) / str(step), aside / f"{series}-{step}-{number}")


def _stored(state: Any) -> dict[str, Any]:
    """What there is to write of a state; what the objective carries is nothing for most."""
    return {name: part for name, part in state._asdict().items() if name != "carried" or part}


def _manager(path: Path, read_only: bool) -> ocp.CheckpointManager:
    if read_only:
        options = ocp.CheckpointManagerOptions(read_only=True, create=False)
    else:
        # Processes wait for one another under names made of this and the step: both series may
        # write the same step at once, and would meet at each other's barriers.
        barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=path.name)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, create=True, multiprocessing_options=barriers
        )
    return ocp.CheckpointManager(path.absolute(), options=options)


def _on_host(create) -> Any:
    """A template of what `create` returns, in NumPy: orbax then restores it to the host, from any
    number of devices, instead of to the devices it was saved from."""
    shapes = jax.eval_shape(create)
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), shapes)


def _restore(manager: ocp.CheckpointManager, step: int, args: Any) -> Any:
    """What orbax reads of a checkpoint; None for one of another structure than is asked for."""
    try:
        return manager.restore(step, args=args)
    except MemoryError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and "mismatch" in str(error):
            return None
        raise DamagedError(f"the checkpoint {manager.directory}/{step} is damaged") from error


def _drop_late_callbacks() -> None:
    """Keeps from the screen what TensorStore's threads report to a caller that has given up."""
    before = sys.unraisablehook
    if getattr(before, "drops_late_callbacks", False):
        return

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    hook.drops_late_callbacks = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


def _fits(tree: Any, template: Any) -> bool:
    """Whether the arrays have the sizes asked for, which orbax does not look at."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(template), strict=True)
    return all(np.shape(leaf) == np.shape(wanted) for leaf, wanted in pairs)


def _check(manager: ocp.CheckpointManager, step: int, tree: Any) -> None:
    """Raises DamagedError for other bits than were saved, and for weights that are not finite."""
    where = f"the checkpoint {manager.directory}/{step}"
    saved = None
    with contextlib.suppress(Exception):  # what it says beside is not needed
        saved = (manager.metadata(step).custom_metadata or {}).get("sum")
    if saved is not None and _sum_of(tree) != {"sum": saved}:
        raise DamagedError(f"{where} is damaged")
    for name in ("params", "ema"):
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree.get(name))):
            raise DamagedError(f"{where} holds weights that are not finite")


def _sum_of(tree: Any) -> dict[str, int] | None:
    """A sum of all arrays' bits, which a flipped one changes; None for arrays of many hosts."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return None
        array = np.ascontiguousarray(leaf)
        bits = array.reshape(-1).view(f"u{array.dtype.itemsize}")
        total += int(np.add.reduce(bits, dtype=np.uint64))
    return {"sum": total}


@contextlib.contextmanager
def _explained(workdir: Path) -> Iterator[None]:
    """Turns what orbax and TensorStore say of a file that cannot be written into one line."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not (isinstance(cause, OSError) and cause.errno):
            cause = cause.__cause__ or cause.__context__
        number = cause.errno if isinstance(cause, OSError) else None
        for known in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
            errno.EIO,
            errno.EFBIG,
        ):
            if os.strerror(known) in str(error):
                number = known
        if number is None:
            raise
        explained = OSError(f"cannot write a checkpoint in {workdir}: {os.strerror(number)}")
        explained.errno = number
        raise explained from error


def has_checkpoint(workdir: Path) -> bool:
    """Whether there is anything to sample from."""
    return _newest(workdir, "best") is not None


def last_step(workdir: Path) -> int:
    """The step that a run would go on from; 0 where there is none."""
    return _newest(workdir, "last") or 0


def progress(workdir: Path) -> dict[str, Any] | None:
    """What the last checkpoint says of the held-out sounds (`patience.Progress`); None before, and
    where it is damaged, which `Checkpoints.restore_last` then says."""
    if (step := _newest(workdir, "last")) is None:
        return None
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        args = ocp.args.Composite(best=ocp.args.JsonRestore())
        return _restore(checkpoints.last, step, args)["best"]
    except DamagedError:
        return None
    finally:
        checkpoints.close()


def best_figures(workdir: Path) -> dict[str, Any] | None:
    """The held-out figures of the best weights, `step` among them; None before there are any."""
    step = _newest(workdir, "best")
    for row in files.read_lines(workdir / "metrics.jsonl"):
        if row.pop("split") == "held_out" and row["step"] == step:
            return row
    return None


def _newest(workdir: Path, series: str) -> int | None:
    folder = workdir / "checkpoints" / series
    steps = [int(p.name) for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
    return max(steps, default=None)
