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
from pathlib import Path
from typing import Annotated

import tyro

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
    from vaejax.train import evaluation, fit, loop, patience
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
    fitted = fit.fit_once(config, workdir, dataset)

    # State: new, or where the last run stopped.
    checkpoints = checkpoint.Checkpoints(workdir)
    told = dataset.told.condition_dim
    mesh = sharding.create_mesh()
    shapes = jax.eval_shape(lambda: create_state(config, told))
    layout = sharding.weights(shapes, mesh, divide=shard_weights)
    state, progress = loop.open_state(checkpoints, config, told, layout)
    step = int(state.step)
    if step >= config.train.num_steps or patience.is_over(progress, config):
        # A run may have been killed between its last checkpoint and its prior.
        if not hosts.on_first(lambda: has_prior(workdir, checkpoints)):
            fit_prior(checkpoints, fitted, dataset, config, workdir)
        checkpoints.close()
        print(
            f"{workdir} is finished at step {step}; sample from it with `python sample.py "
            f"--workdir {workdir}`, or go on with {patience.way_on(progress, step, config)}"
        )
        return
    if step:
        print(f"resuming at step {step}", flush=True)
    num_weights = sum(x.size for x in jax.tree.leaves(state.params))
    print(f"{num_weights / 1e6:.2f} M trained weights", flush=True)

    steps = make_steps(config, dataset, fitted, placement=sharding.over(mesh, layout))
    evaluate = evaluation.make_evaluate(config, dataset, fitted)
    journal = Journal(workdir, config, dataset, checkpoints, evaluate, progress, step)
    traces = profile and hosts.is_first()
    profiler = profiling.Profiler(workdir / "tensorboard" if traces else None)
    with contextlib.closing(profiler):
        reached, _ = loop.run(state, steps, journal, config, config.train.num_steps, profiler.call)

    if traces:
        print(profiler.explain())
    best_step = fit_prior(checkpoints, fitted, dataset, config, workdir)
    checkpoints.close()
    if reached < config.train.num_steps and not journal.has_waited(reached):
        raise cli.Interrupted(f"interrupted at step {reached}; saved; the same command goes on")
    _sum_up(journal, best_step, config, time.time() - started)
    print(f"next: python sample.py --workdir {workdir} --out samples --num 64")


def _sum_up(journal, best_step: int, config: Config, seconds: float) -> None:
    """Says what a run came to, and whether it was long enough."""
    from vaejax.train import diagnostics

    best, first = journal.best, journal.first
    is_pca = ", where it is PCA" if config.model.ppca_clips else ""
    begun_at = (
        f" (at step 0{is_pca}: {first['loss']:.6g} and {first['mel_l1_db']:.2f})" if first else ""
    )
    print(
        f"best at step {best_step}: held-out loss {best['loss']:.6g} nats, audio within "
        f"{best['mel_l1_db']:.2f} dB (mel L1){begun_at}; {seconds:.0f} s in all"
    )
    if hosts.is_first():
        print(diagnostics.when_to_stop(journal.history(), journal.progress, config))


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
        sweeps.check_folder(members, workdir)
        for member in members:
            run_folder.check(member.config, member.workdir)
        cli.start_jax(workdir)

        # Imported here: bad usage needs none of it.
        from vaejax.train import population

        population.train(members, workdir)


def _advise(dataset, preset: str, config: Config, workdir: Path) -> None:
    """Says which preset fits the sounds of a new run better, if any does."""
    from vaejax.data import advice

    if config.data.source == "synth" or (workdir / "fitted.npz").exists():
        return
    facts = advice.facts_of(dataset, config)
    for line in advice.advice(facts, preset=preset, config=config):
        print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
