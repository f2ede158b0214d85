"""The members of a sweep as one: their states stacked, and one program that steps them all.

What the members share stays single: with one seed and one augmentation, a batch is read, augmented
and analysed once for all of them.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import cli, files
from vaejax import config as configs
from vaejax.codec import Fitted
from vaejax.data import sounds
from vaejax.data.sounds import Sounds
from vaejax.run import checkpoint
from vaejax.run import folder as run_folder
from vaejax.run.checkpoint import Checkpoints
from vaejax.train import evaluation, feed, loop, patience, sweep
from vaejax.train import step as training
from vaejax.train.fit import fit_once
from vaejax.train.journal import Journal, fit_prior, has_prior
from vaejax.train.state import TrainState
from vaejax.train.sweep import Member

# What the linear path depends on, which is fitted to augmented clips before training.
FITTED_FROM = configs.marked(configs.FITTED_FROM)
# Axis of the members in a stacked state; they are all at the same step.
AXES = TrainState(*(None if name == "step" else 0 for name in TrainState._fields))  # type: ignore[arg-type]


def traceable(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The values of a member as a program takes them."""
    # A seed keeps its low 32 bits, as jax.random.key does with a Python integer.
    return {
        name: np.asarray(value).astype(np.int32 if isinstance(value, int) else np.float32)
        for name, value in values.items()
    }


def train(members: Sequence[Member], workdir: Path) -> None:
    """Runs or goes on with the members of a sweep, whose folders were checked.

    Raises:
      ValueError: the sounds do not allow it.
      FloatingPointError: the loss of a member stopped being finite; the others were trained.
      cli.Interrupted: stopped by a signal; everything is saved.
    """
    started, config = time.time(), members[0].config
    others = f", one of {jax.device_count()}" if jax.device_count() > 1 else ""
    print(f"run folder {workdir} · {jax.devices()[0].device_kind}{others}", flush=True)
    dataset = sounds.load(config, sounds.labels_of(members[0].workdir))
    print(sounds.report(dataset), flush=True)
    for member in members:
        run_folder.begin(member.config, member.workdir, dataset)
    fitted = fit(members, lambda m: fit_once(m.config, m.workdir, dataset))
    at, failed = _take_turns(members, dataset, fitted)

    for member in members:
        finish(member, dataset, fitted[member.name])
    rows = sweep.compare(members, workdir)
    if at < config.train.num_steps:
        raise cli.Interrupted(f"interrupted; saved in {workdir}; the same command goes on")
    print(sweep.table(rows))
    for member in members:
        if why := why_over(member):
            print(f"{member.name}: {why}")
    print(
        f"rates and distortions: {workdir / sweep.PLOT}; {time.time() - started:.0f} s in all\n"
        f"next: python sample.py --workdir {members[0].workdir} --out samples --num 64"
    )
    if failed:
        raise FloatingPointError("; ".join(f"{name}: {error}" for name, error in failed.items()))


def _take_turns(
    members: Sequence[Member], dataset: Sounds, fitted: Mapping[str, Fitted]
) -> tuple[int, dict[str, FloatingPointError]]:
    """Trains the members, those that are behind first, to the end or until a signal.

    A kill leaves members at several steps, and so do values that are added later.

    Returns:
      The step that those have reached that are farthest behind, and why members failed, by name.
    """
    num_steps = members[0].config.train.num_steps
    evaluate = evaluation.make_evaluate(members[0].config, dataset, fitted[members[0].name])
    over = {member.name for member in members if why_over(member)}
    failed: dict[str, FloatingPointError] = {}
    interrupted = False
    while True:
        left = [member for member in members if member.name not in failed.keys() | over]
        steps = [checkpoint.last_step(member.workdir) for member in left]
        at = min(steps, default=num_steps)
        if interrupted or at >= num_steps:
            return at, failed
        group = [member for member, step in zip(left, steps, strict=True) if step == at]
        until = min([num_steps, *(step for step in steps if step > at)])
        names = ", ".join(member.name for member in group)
        print(f"{len(group)} of {len(members)} runs go on from step {at}: {names}", flush=True)
        if (opened := open_runs(group, dataset, fitted, evaluate)) is None:
            continue
        state, journals = opened
        run_steps = make_steps(group, dataset, [fitted[member.name] for member in group])
        with contextlib.suppress(FloatingPointError):  # of all of them, which `failed` has
            _, interrupted = loop.run(state, run_steps, journals, group[0].config, until)
        failed |= journals.failed
        over |= journals.over


def fit(members: Sequence[Member], fit_one: Callable[[Member], Fitted]) -> dict[str, Fitted]:
    """What is fitted for each member before training, by name; the same object for those that
    share it, whose run folders get copies of the file.

    Args:
      fit_one: fits for one member, and stores it in its run folder, or finds it there.
    """
    first: dict[tuple, Member] = {}
    fitted: dict[str, Fitted] = {}
    for member in members:
        key = tuple(value for name, value in member.values.items() if name in FITTED_FROM)
        if key not in first:
            first[key] = member
            fitted[member.name] = fit_one(member)
            continue
        fitted[member.name] = fitted[first[key].name]
        if not (member.workdir / "fitted.npz").exists():
            with (first[key].workdir / "fitted.npz").open("rb") as stored:
                files.replace(member.workdir / "fitted.npz", partial(shutil.copyfileobj, stored))
    return fitted


def open_runs(
    members: Sequence[Member], dataset: Sounds, fitted: Mapping[str, Fitted], evaluate: Callable
) -> tuple[TrainState, "Journals"] | None:
    """Members that are at the same step, new or stopped, as one; None where the checkpoint of some
    turned out to be damaged, so that they are at different steps now.

    Args:
      fitted: by name.
      evaluate: of `evaluation.make_evaluate`.
    """
    opened = []
    for member in members:
        checkpoints = Checkpoints(member.workdir)
        state, progress = loop.open_state(checkpoints, member.config, dataset.told.condition_dim)
        opened.append((checkpoints, state, progress))
    if len({int(state.step) for _, state, _ in opened}) > 1:
        for checkpoints, *_ in opened:
            checkpoints.close()
        return None
    journals = {}
    for (name, values, config, workdir), (checkpoints, state, progress) in zip(
        members, opened, strict=True
    ):
        own = partial(evaluate, fitted=fitted[name], swept=traceable(values))
        step = int(state.step)
        journals[name] = Journal(workdir, config, dataset, checkpoints, own, progress, step)
    return stack([state for _, state, _ in opened]), Journals(journals)


def why_over(member: Member) -> str | None:
    """Why a member has stopped before its last step, in a sentence; None if it has not."""
    stored = checkpoint.progress(member.workdir)
    if stored is None:
        return None
    step = checkpoint.last_step(member.workdir)
    progress = patience.from_json(stored, step)
    if not patience.is_over(progress, member.config):
        return None
    return patience.explain(progress, step, member.config)


def finish(member: Member, dataset: Sounds, fitted: Fitted) -> None:
    """Fits the prior of a member's best weights, where it has any and that was not done."""
    workdir = member.workdir
    if not checkpoint.has_checkpoint(workdir):
        return
    checkpoints = Checkpoints(workdir)
    if not has_prior(workdir, checkpoints):
        fit_prior(checkpoints, fitted, dataset, member.config, workdir)
    checkpoints.close()


def stack(states: Sequence[TrainState]) -> TrainState:
    """The states of members at the same step as one, members first."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    # A copy: the step consumes the state that it is given.
    return stacked._replace(step=jnp.array(states[0].step))


def state_of(stacked: TrainState, index: int) -> TrainState:
    """The state of one member."""
    single = jax.tree.map(lambda leaf: leaf[index], stacked._replace(step=stacked.first_bad_step))
    return single._replace(step=stacked.step)


def make_steps(members: Sequence[Member], dataset: Sounds, fitted: Sequence[Fitted]):
    """`step.make_steps` of a population: its step, mapped over the members.

    Args:
      fitted: of each member.

    Returns:
      steps(state, step) -> (state, metrics with the members first). And how many steps that is.
    """
    config = members[0].config
    swept = jax.tree.map(lambda *values: np.stack(values), *(traceable(m.values) for m in members))
    are_shared = all(each is fitted[0] for each in fitted)
    together = fitted[0] if are_shared else jax.tree.map(lambda *leaves: jnp.stack(leaves), *fitted)
    has_own_clips = "train.seed" in swept and not feed.fits(config, dataset)

    def wrap(step):
        def member(state, given, resident, batch):
            fitted, swept = given
            return step(state, fitted, resident, batch, config=configs.replaced(config, swept))

        of_fitted, of_batch = None if are_shared else 0, 0 if has_own_clips else None
        axes = (AXES, (of_fitted, 0), None, of_batch)
        return jax.vmap(member, in_axes=axes, out_axes=(AXES, 0))

    # Clips that are streamed in as many orders as there are members arrive side by side.
    reads = [feed.make_read(member.config, dataset) for member in members]

    def read(step: int) -> feed.Visits:
        return jax.tree.map(lambda *columns: np.stack(columns), *(read(step) for read in reads))

    clips = feed.streamed(read, config) if has_own_clips else None
    return training.make_steps(config, dataset, (together, swept), feed=clips, wrap=wrap)


class Journals:
    """The journals of a population, written like one.

    A member whose loss is not finite ends there, and so does one for which nothing has got better
    for long, as it would alone; the others go on.
    """

    def __init__(self, journals: Mapping[str, Journal]):
        """Takes the journal of each member, in the order of the stacked state."""
        self.journals = dict(journals)
        self.failed: dict[str, FloatingPointError] = {}
        """Why a member ended early, by name."""
        self.over: set[str] = set()
        """The members for which nothing has got better for long."""

    def measure(self, at: int, state: TrainState) -> str | None:
        """Evaluates every member; warnings, if any, begin with the member's name."""

        def measured(journal: Journal, i: int) -> str | None:
            warning = journal.measure(at, state_of(state, i))
            if journal.has_waited(at):
                journal.save(state_of(state, i))
                journal.finish()
            return warning

        found = self._each(measured)
        self.over |= {name for name in found if self.journals[name].has_waited(at)}
        return "; ".join(f"{name}: {text}" for name, text in found.items() if text) or None

    def log(self, at: int, mean: Mapping[str, Any], clips_per_second: float) -> None:
        """Logs the metrics of training steps [num_members, ...]."""
        self._each(
            lambda journal, i: journal.log(
                at, {name: value[i] for name, value in mean.items()}, clips_per_second
            )
        )

    def check(self, state: TrainState) -> None:
        """Ends the members whose state is not to be saved.

        Raises:
          FloatingPointError: that is all of them.
        """
        self._each(lambda journal, i: journal.check(state_of(state, i)))

    def save(self, state: TrainState) -> None:
        """Starts writing all that each member needs to go on."""
        self._each(lambda journal, i: journal.save(state_of(state, i)))

    def status(self) -> str:
        """A few figures for the progress bar."""
        going = self._each(lambda journal, i: journal)
        losses = [journal.train["loss"] for journal in going.values()] or [math.nan]
        clips = sum(journal.train["clips_per_second"] for journal in going.values())
        return (
            f"{len(going)} runs, loss {min(losses):.5g} to {max(losses):.5g}, {clips:.0f} clips/s"
        )

    def has_waited(self, step: int) -> bool:
        """Whether nothing has got better for long for any member that has not failed."""
        return bool(self.over) and self.journals.keys() <= self.over | self.failed.keys()

    def finish(self) -> None:
        """Says in TensorBoard what each run came to."""
        self._each(lambda journal, i: journal.finish())

    def close(self) -> None:
        """Returns when everything is on disk."""
        with contextlib.ExitStack() as each:  # in reverse, also after one that fails
            for journal in self.journals.values():
                each.callback(journal.checkpoints.close)
                each.callback(journal.close)

    def _each(self, action: Callable[[Journal, int], Any]) -> dict[str, Any]:
        """What an action returns for each member that has not ended, by name."""
        results = {}
        for index, (name, journal) in enumerate(self.journals.items()):
            if name in self.failed or name in self.over:
                continue
            try:
                results[name] = action(journal, index)
            except FloatingPointError as error:
                self.failed[name] = error
        if not results and not self.over:
            raise FloatingPointError(
                "; ".join(f"{name}: {error}" for name, error in self.failed.items())
            )
        return results
