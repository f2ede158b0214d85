"""Trains a variational autoencoder on a folder of sounds.

    python train.py [--config configs/NAME.py] [--data FOLDER] [--workdir DIR] [--section.field X]
                    [--sweep.section.field X Y ...] [--sweep.seeds N]

The same command goes on with a run that was interrupted. Ctrl-C saves and stops. --sweep trains
several runs at once.
"""

if __name__ == "__main__":  # ahead of the imports below, which take seconds
    from vaejax import interrupts

    interrupts.end_at_once()

import contextlib
import os
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from vaejax import cli, interrupts, rules
from vaejax.config import Config
from vaejax.devices import hosts
from vaejax.run import folder as run_folder
from vaejax.train import sweep as sweeps
from vaejax.train.sweep import Member

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
    """Run folder; by default runs/ and the name of the preset. Of a sweep: the folder of its run
    folders; by default runs/, the name of the preset and what is swept."""
    profile: bool = False
    """Record a trace of a few steady steps, for TensorBoard's Profile tab (pip install xprof)."""
    distributed: hosts.Distributed = field(default_factory=hosts.Distributed)
    shard_weights: bool = False
    """Divide the weights, their average and the optimizer's moments among the devices, for a model
    that is too wide for one; by default each device holds all of them."""
    debug: bool = False
    """Show where an error arose."""
    sweep: sweeps.Sweep = field(default_factory=sweeps.Sweep)
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)


def main(argv: list[str]) -> None:
    """Parses the command line and trains."""
    preset = cli.option(argv, "config") or "configs/default.py"
    try:
        sweeps.check_names(argv)
        default = Options(config=preset, settings=cli.load_preset(preset))
        options = cli.parse(Options, default, argv, description=DESCRIPTION)
        rules.check(options.settings)
        name = Path(preset).stem
        members = sweeps.members(options.settings, options.sweep, options.workdir, name)
        if members and (options.profile or options.shard_weights):
            raise ValueError("--profile and --shard_weights are for a single run, not for a sweep")
        hosts.arguments(options.distributed, os.environ)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(cli.USAGE) from None
    hosts.start(options.distributed)
    if members:
        train_members(members, members[0].workdir.parent)
    else:
        workdir, shard = options.workdir or Path("runs") / name, options.shard_weights
        profile = options.profile
        train(options.settings, workdir, preset=name, profile=profile, shard_weights=shard)


def train(
    config: Config,
    workdir: Path,
    *,
    preset: str = "",
    profile: bool = False,
    shard_weights: bool = False,
) -> None:
    """Runs or goes on with a run, from the folder of sounds to a fitted prior.

    On all devices of all processes that `hosts.start` has joined. What goes to files and screen is
    that of the first process.

    Args:
      preset: its name; another one is recommended where the sounds are of its kind.
      profile: whether to record a few steps for TensorBoard.
      shard_weights: divides the state among the devices instead of giving each all of it.

    Raises:
      ValueError: the config, the sounds or the run folder do not allow it.
      FloatingPointError: the loss stopped being finite.
      cli.Interrupted: stopped by a signal; everything is saved.
    """
    rules.check(config)
    with run_folder.hold(workdir):
        _train(config, workdir, preset, profile=profile, shard_weights=shard_weights)


def _train(
    config: Config, workdir: Path, preset: str, *, profile: bool, shard_weights: bool
) -> None:
    started = time.time()
    hosts.on_first(lambda: run_folder.check(config, workdir))
    cli.start_jax(workdir)

    # Imported here: --help and bad usage need none of it.
    import jax

    from vaejax.data import sounds
    from vaejax.devices import profiling, sharding
    from vaejax.run import checkpoint
    from vaejax.train import diagnostics, evaluation, patience
    from vaejax.train.journal import Journal, fit_prior, has_prior
    from vaejax.train.state import create_state
    from vaejax.train.step import make_steps

    sharding.check_batch_size(config.train.batch_size, config.train.grad_accumulation)
    print(f"run folder {workdir} · {sharding.describe()}", flush=True)

    # Sounds.
    dataset = hosts.first_then_others(lambda: sounds.load(config, sounds.labels_of(workdir)))
    print(sounds.report(dataset), flush=True)
    hosts.check_same("the sounds", dataset.corpus.fingerprint, "give each the same --data")
    hosts.on_first(lambda: _advise(dataset, preset, config, workdir))
    hosts.on_first(lambda: run_folder.begin(config, workdir, dataset))
    hosts.check_shared(workdir, "--workdir")

    # What is fitted before training.
    fitted = _fitted(config, workdir, dataset)

    # State: new, or where the last run stopped.
    checkpoints = checkpoint.Checkpoints(workdir)
    told = dataset.told.condition_dim
    mesh = sharding.create_mesh()
    shapes = jax.eval_shape(lambda: create_state(config, told))
    layout = sharding.weights(shapes, mesh, divide=shard_weights)
    restored = checkpoints.restore_last(partial(create_state, config, told), layout)
    state = restored[0] if restored else create_state(config, told, layout)
    progress = (
        patience.from_json(restored[1], int(restored[0].step)) if restored else patience.BEGIN
    )
    step = int(state.step)
    if restored:
        best = checkpoints.check_best(config, told, state, progress.best)
        progress = progress._replace(best=best)
    if step >= config.train.num_steps or patience.is_over(progress, step, config):
        # A run may have been killed between its last checkpoint and its prior.
        if not hosts.on_first(lambda: has_prior(workdir, checkpoints)):
            fit_prior(checkpoints, fitted, dataset, config, workdir)
        checkpoints.close()
        print(
            f"{workdir} is finished at step {step}; sample from it with `python sample.py "
            f"--workdir {workdir}`, or go on with {patience.way_on(progress, step, config)}"
        )
        return
    if restored:
        print(f"resuming at step {step}", flush=True)
    num_weights = sum(x.size for x in jax.tree.leaves(state.params))
    print(f"{num_weights / 1e6:.2f} M trained weights", flush=True)

    placement = sharding.over(mesh, layout)
    steps = make_steps(config, dataset, fitted, placement=placement)
    evaluate = evaluation.make_evaluate(config, dataset, fitted)
    journal = Journal(workdir, config, dataset, checkpoints, evaluate, progress, step)
    traces = profile and hosts.is_first()
    profiler = profiling.Profiler(workdir / "tensorboard" if traces else None)
    reached, _ = _loop(state, steps, journal, config, config.train.num_steps, profiler)

    if traces:
        print(profiler.explain())
    best, first = journal.best, journal.first
    best_step = fit_prior(checkpoints, fitted, dataset, config, workdir)
    checkpoints.close()
    if reached < config.train.num_steps and not journal.has_waited(reached):
        raise cli.Interrupted(f"interrupted at step {reached}; saved; the same command goes on")
    is_pca = ", where it is PCA" if config.model.ppca_clips else ""
    begun_at = (
        f" (at step 0{is_pca}: {first['loss']:.6g} and {first['mel_l1_db']:.2f})" if first else ""
    )
    print(
        f"best at step {best_step}: held-out loss {best['loss']:.6g} nats, audio within "
        f"{best['mel_l1_db']:.2f} dB (mel L1){begun_at}; {time.time() - started:.0f} s in all"
    )
    if hosts.is_first():
        print(diagnostics.when_to_stop(journal.history(), journal.progress, config))
    print(f"next: python sample.py --workdir {workdir} --out samples --num 64")


def _loop(state, steps, journal, config: Config, until: int, profiler=None) -> tuple[int, bool]:
    """Trains from where a state is to step `until`, and writes what there is to write on the way.

    Args:
      state: of a run, or of the members of a sweep, stacked.
      steps: of `step.make_steps` or `population.make_steps`.
      journal: of the run, or of the members.
      profiler: that watches the steps, or None.

    Returns:
      The step reached, and whether a signal asked to stop there.
    """
    import jax
    import numpy as np

    train, (run_steps, steps_in), step = config.train, steps, int(state.step)
    every = (train.log_every_steps, train.eval_every_steps, train.save_every_steps)
    resumed_at, speaks = step, hosts.is_first()
    bar = tqdm(
        total=train.num_steps,
        initial=step,
        unit="step",
        dynamic_ncols=True,
        mininterval=0.5,
        disable=not speaks,
    )
    with contextlib.ExitStack() as ends:  # in reverse, each also after one that fails
        ends.callback(journal.close)
        if profiler:
            ends.callback(profiler.close)
        ends.callback(bar.close)
        stop = interrupts.Requests()
        ends.callback(stop.restore)
        if step == 0:
            journal.measure(0, state)
        pending: list[dict] = []
        clock, pause = time.perf_counter(), 0.0
        while step < until:
            state, metrics = (
                profiler.call(run_steps, state, step) if profiler else run_steps(state, step)
            )
            if step == resumed_at:
                # The first step is mostly compilation; it says nothing about the time left.
                jax.block_until_ready(metrics)
                bar.unpause()
            pending.append(metrics)
            step += steps_in
            bar.update(steps_in)
            is_last = step == train.num_steps
            due = is_last or step == until or any(step % period == 0 for period in every)
            # Many processes stop together, so they ask each other, where they pause anyway.
            asked = (due or hosts.count() == 1) and hosts.any_of(stop.requested)
            stopping = asked or step == until
            if due or stopping:
                # Before anything is written: the newest checkpoint stays a good one.
                journal.check(state)

            if step % train.log_every_steps == 0 or is_last:
                mean = {k: np.mean([np.asarray(m[k]) for m in pending], 0) for k in pending[0]}
                now = time.perf_counter()
                clips = len(pending) * steps_in * train.batch_size
                journal.log(step, mean, clips / (now - clock - pause))
                clock, pause, pending = now, 0.0, []
                bar.set_postfix_str(journal.status())

            begun = time.perf_counter()
            if step % train.eval_every_steps == 0 or is_last:
                warning = journal.measure(step, state)
                if warning and speaks:
                    tqdm.write(f"warning: {warning}")
            if step % train.save_every_steps == 0 or is_last:
                journal.save(state)
            pause += time.perf_counter() - begun
            stopping_early = not is_last and journal.has_waited(step)
            if (stopping or stopping_early) and not is_last:
                journal.save(state)
                break
        if step == train.num_steps or journal.has_waited(step):
            journal.finish()
    return step, stop.requested


def train_members(members: list[Member], workdir: Path) -> None:
    """Runs or goes on with the members of a sweep, all of them at once.

    Raises:
      ValueError: the sounds or a folder do not allow it.
      FloatingPointError: the loss of a member stopped being finite; the others were trained.
      cli.Interrupted: stopped by a signal; everything is saved.
    """
    if hosts.count() > 1:
        raise ValueError(
            f"a sweep trains on one device of one process, and this is one of {hosts.count()}; "
            "start it once"
        )
    with run_folder.hold(workdir, *(member.workdir for member in members)):
        _train_members(members, workdir)


def _train_members(members: list[Member], workdir: Path) -> None:
    started = time.time()
    config = members[0].config
    num_steps = config.train.num_steps
    sweeps.check_folder(members, workdir)
    for member in members:
        run_folder.check(member.config, member.workdir)
    cli.start_jax(workdir)

    from vaejax.data import sounds
    from vaejax.run import checkpoint
    from vaejax.train import evaluation, population

    _print_device(workdir)
    dataset = sounds.load(config, sounds.labels_of(members[0].workdir))
    print(sounds.report(dataset), flush=True)
    for member in members:
        run_folder.begin(member.config, member.workdir, dataset)
    over = {member.name for member in members if population.why_over(member)}
    fitted = population.fit(members, lambda m: _fitted(m.config, m.workdir, dataset))
    evaluate = evaluation.make_evaluate(config, dataset, fitted[members[0].name])

    # A kill leaves members at several steps, and so do values that are added later: those that are
    # behind catch up first.
    failed: dict[str, FloatingPointError] = {}
    interrupted = False
    while True:
        left = [member for member in members if member.name not in failed.keys() | over]
        steps = [checkpoint.last_step(member.workdir) for member in left]
        at = min(steps, default=num_steps)
        if interrupted or at >= num_steps:
            break
        group = [member for member, step in zip(left, steps, strict=True) if step == at]
        until = min([num_steps, *(step for step in steps if step > at)])
        names = ", ".join(member.name for member in group)
        print(f"{len(group)} of {len(members)} runs go on from step {at}: {names}", flush=True)
        if (opened := population.open_runs(group, dataset, fitted, evaluate)) is None:
            continue
        state, journals = opened
        run_steps = population.make_steps(group, dataset, [fitted[m.name] for m in group])
        with contextlib.suppress(FloatingPointError):  # of all of them, which `failed` has
            _, interrupted = _loop(state, run_steps, journals, config, until)
        failed |= journals.failed
        over |= journals.over

    for member in members:
        population.finish(member, dataset, fitted[member.name])
    rows = sweeps.compare(members, workdir)
    if at < num_steps:
        raise cli.Interrupted(f"interrupted; saved in {workdir}; the same command goes on")
    print(sweeps.table(rows))
    for member in members:
        if why := population.why_over(member):
            print(f"{member.name}: {why}")
    print(
        f"rates and distortions: {workdir / sweeps.PLOT}; {time.time() - started:.0f} s in all\n"
        f"next: python sample.py --workdir {members[0].workdir} --out samples --num 64"
    )
    if failed:
        raise FloatingPointError("; ".join(f"{name}: {error}" for name, error in failed.items()))


def _print_device(workdir: Path) -> None:
    import jax

    device = jax.devices()[0]
    others = f", one of {jax.device_count()}" if jax.device_count() > 1 else ""
    print(f"run folder {workdir} · {device.device_kind}{others}", flush=True)


def _advise(dataset, preset: str, config: Config, workdir: Path) -> None:
    """Says which preset fits the sounds of a new run better, if any does."""
    from vaejax.data import advice

    if config.data.source == "synth" or (workdir / "fitted.npz").exists():
        return
    facts = advice.facts_of(dataset, config)
    for line in advice.advice(facts, preset=preset, config=config):
        print(line, flush=True)


def _fitted(config: Config, workdir: Path, dataset):
    """What is fitted before training, from the run folder or into it."""
    from vaejax.run import arrays
    from vaejax.train import evaluation
    from vaejax.train.fit import fit

    def fit_once() -> None:
        if (workdir / "fitted.npz").exists():
            return
        begun = time.time()
        fitted = fit(dataset, config)
        arrays.save_fitted(workdir, fitted, evaluation.fit_embedding(dataset, config))
        print(f"fitted statistics and linear path in {time.time() - begun:.1f} s", flush=True)

    hosts.on_first(fit_once)
    return arrays.load_fitted(workdir)[0]


if __name__ == "__main__":
    cli.run(main)
