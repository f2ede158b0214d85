"""The loop: step after step, and what is measured, written and saved on the way."""

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from vaejax import interrupts
from vaejax.config import Config, Train
from vaejax.devices import hosts
from vaejax.run.checkpoint import Checkpoints
from vaejax.train import patience
from vaejax.train.patience import Progress
from vaejax.train.state import TrainState, create_state


def open_state(
    checkpoints: Checkpoints, config: Config, condition_dim: int, layout: Any = None
) -> tuple[TrainState, Progress]:
    """The state of a run and its progress on the held-out sounds: new, or where it stopped.

    Args:
      layout: see `create_state`.
    """
    create = partial(create_state, config, condition_dim)
    restored = checkpoints.restore_last(create, layout)
    if restored is None:
        return create(layout), patience.BEGIN
    state, stored = restored
    progress = patience.from_json(stored, int(state.step))
    best = checkpoints.check_best(config, condition_dim, state, progress.best)
    return state, progress._replace(best=best)


class Due(NamedTuple):
    """What is to be done after a step."""

    log: bool
    evaluate: bool
    save: bool


def due_at(step: int, train: Train) -> Due:
    """All of it after the last step."""
    every = train.log_every_steps, train.eval_every_steps, train.save_every_steps
    return Due(*(step == train.num_steps or step % period == 0 for period in every))


class Meter:
    """The metrics of the steps since they were last read, and the time that these took."""

    def __init__(self, clips_per_dispatch: int):
        """Starts the clock."""
        self._clips = clips_per_dispatch
        self._begin()

    def _begin(self) -> None:
        self._metrics: list[dict] = []
        self._begun, self._paused = time.perf_counter(), 0.0

    def add(self, metrics: dict) -> None:
        """Takes the metrics of one more dispatch."""
        self._metrics.append(metrics)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Within it, the clock stands still."""
        begun = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begun

    def read(self) -> tuple[dict[str, np.ndarray], float]:
        """Means of the metrics, and clips per second; begins anew."""
        names = self._metrics[0]
        mean = {k: np.mean([np.asarray(m[k]) for m in self._metrics], 0) for k in names}
        seconds = time.perf_counter() - self._begun - self._paused
        speed = len(self._metrics) * self._clips / seconds
        self._begin()
        return mean, speed


def run(
    state: TrainState,
    steps: tuple[Callable, int],
    journal: Any,
    config: Config,
    until: int,
    call: Callable = lambda steps, state, step: steps(state, step),
) -> tuple[int, bool]:
    """Trains from where a state is to step `until`, and writes what there is to write on the way.

    Args:
      state: of a run, or of the members of a sweep, stacked.
      steps: of `step.make_steps` or `population.make_steps`.
      journal: of the run, or of the members.
      call: of the steps, such as a profiler's.

    Returns:
      The step reached, and whether a signal asked to stop there.
    """
    train, (run_steps, steps_in), begun = config.train, steps, int(state.step)
    step, meter = begun, Meter(steps_in * train.batch_size)
    with contextlib.ExitStack() as ends:  # in reverse, each also after one that fails
        ends.callback(journal.close)
        bar = _bar(begun, train.num_steps)
        ends.callback(bar.close)
        stop = interrupts.Requests()
        ends.callback(stop.restore)
        if step == 0:
            with meter.pause():
                journal.measure(0, state)
        while step < until:
            state, metrics = call(run_steps, state, step)
            if step == begun:
                # The first step is mostly compilation; it says nothing about the time left.
                jax.block_until_ready(metrics)
                bar.unpause()
            meter.add(metrics)
            step += steps_in
            bar.update(steps_in)
            due = due_at(step, train)
            pauses = any(due) or step == until
            # Many processes stop together, so they ask each other, where they pause anyway.
            asked = (pauses or hosts.count() == 1) and hosts.any_of(stop.requested)
            if pauses or asked:
                # Before anything is written: the newest checkpoint stays a good one.
                journal.check(state)
            _write(step, state, due, journal, meter, bar)
            is_last = step == train.num_steps
            if not is_last and (asked or step == until or journal.has_waited(step)):
                with meter.pause():
                    journal.save(state)
                break
        if step == train.num_steps or journal.has_waited(step):
            journal.finish()
    return step, stop.requested


def _bar(step: int, num_steps: int) -> tqdm:
    return tqdm(
        total=num_steps,
        initial=step,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5,
        disable=not hosts.is_first(),
    )


def _write(step: int, state: TrainState, due: Due, journal: Any, meter: Meter, bar: tqdm) -> None:
    """Writes what is due after a step."""
    if due.log:
        journal.log(step, *meter.read())
        bar.set_postfix_str(journal.status())
    with meter.pause():
        if due.evaluate:
            warning = journal.measure(step, state)
            if warning and hosts.is_first():
                tqdm.write(f"warning: {warning}")
        if due.save:
            journal.save(state)
