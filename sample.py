"""Makes new sounds with a trained run: WAV or FLAC files, a manifest and a contact sheet.

    python sample.py [--workdir DIR] [--out DIR] [--num N] [--seed S] ...

Sound i depends on the run, the seed and i alone: asking for more makes the same ones and more. The
same command goes on with a run that was interrupted.
"""

if __name__ == "__main__":  # ahead of the imports below, which take seconds
    from vaejax import interrupts

    interrupts.end_at_once()

import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from vaejax import cli, interrupts
from vaejax.devices import hosts
from vaejax.sampling import requests
from vaejax.sampling.options import Options

if TYPE_CHECKING:
    from vaejax.export.files import Files
    from vaejax.run.load import Run
    from vaejax.sampling.output import Made

DESCRIPTION = (
    "Makes new sounds with a trained run. Sound i depends on the run, the seed and i alone: asking "
    "for more makes the same ones and more. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 "
    "interrupted."
)


def main(argv: list[str]) -> None:
    """Parses the command line and makes the sounds."""
    options = cli.parse(Options, Options(), argv, description=DESCRIPTION)
    try:
        requests.check(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(cli.USAGE) from None
    hosts.start(options.distributed)
    sample(options)


def sample(options: Options) -> None:
    """Makes the sounds.

    Raises:
      FileNotFoundError: no run, no such file. ValueError: options the run cannot meet, or fewer
        sounds than asked for that meet the rules; those are kept.
      OSError: the sounds cannot be written; what is complete is kept.
    """
    started = time.time()
    # Imported here: --help and bad usage need none of it.
    if (options.workdir / "config.json").exists():
        cli.start_jax(options.workdir)
    from vaejax.run.load import load_run
    from vaejax.sampling import output, redo

    run = load_run(options.workdir)
    if options.redo is not None:
        options = redo.as_before(options, redo.read(options.redo, options.index))
        requests.check_files(options)
    if options.prior == "aggregate" and not run.has_fitted_prior:
        prior = run.config.objective.prior
        own = "N(0, I)" if prior == "standard" else f"its objective's prior ({prior})"
        print(f"this run was not finished: drawing from {own} until it is", file=sys.stderr)
    plan = requests.plan(run, options)
    run = _with_sound(run, options)
    interrupts.raise_them()  # what was made until then gets its name
    made = output.write_sounds(
        run,
        plan,
        out=options.out,
        overwrite=options.overwrite,
        files=_files(options),
        batch_size=options.batch_size,
        title=f"{plan.num} {'sound' if plan.num == 1 else 'sounds'} from {options.workdir.name}",
        rules=options.rules,
    )
    _report(made, options, seconds=time.time() - started, peak_db=run.config.sound.peak_db)
    if made.curation is not None and made.num < plan.num:
        raise ValueError(
            f"only {made.num} of {plan.num} sounds were found, and the last "
            f"{made.curation.since_kept:,} draws brought none: {options.out} holds what was; "
            "loosen a rule, or raise --tries"
        )


def _files(options: Options) -> "Files":
    from vaejax.export import mastering
    from vaejax.export.files import PLAIN, Files

    return Files(
        suffix=options.format or PLAIN.suffix,
        subtype=options.subtype or PLAIN.subtype,
        dither=options.dither or PLAIN.dither,
        sample_rate=options.sample_rate,
        level=None if options.level is None else mastering.parse_level(options.level),
        trim_db=options.trim_silence,
        loop=options.loop,
        names=options.names,
        sfz=options.sfz,
        archive=options.zip,
    )


def _report(made: "Made", options: Options, *, seconds: float, peak_db: float) -> None:
    """Says what was made."""
    rate = made.sounds_per_second
    print(
        f"{made.num} {'sound' if made.num == 1 else 'sounds'} in {options.out} in {seconds:.1f} s"
        + (f" ({rate:.0f} per second once compiled)" if rate else "")
        + f"; open {options.out}/index.html"
    )
    if options.loop:
        print(
            f"{made.looped} of {made.num} sounds have a loop"
            + ("" if made.looped == made.num else "; of the others, the manifest says why not")
        )
    if made.limited:
        print(
            f"{made.limited} of {made.num} sounds are quieter than {options.level}: their peak "
            f"must not exceed {peak_db:g} dB (level_limited in the manifest)"
        )
    if options.sfz:
        print(f"{len(made.instruments)} SFZ instruments in {options.out}")
    if made.archive is not None:
        print(f"all of it in {made.archive}")
    if made.curation is not None:
        print(made.curation.explain())


def _with_sound(run: "Run", options: Options) -> "Run":
    """The run with the phase recovery and the fade that are asked for.

    Raises:
      ValueError: a fade longer than the sounds, or a phase recovery where there is none.
    """
    sound = run.config.sound
    if problem := _phase_problem(run, options):
        raise ValueError(problem)
    if options.inversion is not None:
        # These two start from nowhere: a few iterations, enough after a good start, are not for
        # them.
        needs_more = options.inversion in ("griffin_lim", "zero")
        iterations = None if needs_more else sound.iterations
        sound = replace(sound, inversion=options.inversion, iterations=iterations)
    if options.iterations is not None:
        sound = replace(sound, iterations=options.iterations)
    if options.fade_out is not None:
        clip_ms = 1000 * run.config.data.num_samples / run.config.data.sample_rate
        if options.fade_out > clip_ms:
            raise ValueError(
                f"--fade_out {options.fade_out:g} ms is longer than the sounds of this run, "
                f"{clip_ms:g} ms"
            )
        sound = replace(sound, fade_out_ms=options.fade_out)
    return run._replace(config=replace(run.config, sound=sound))


def _phase_problem(run: "Run", options: Options) -> str | None:
    """What is asked of a phase recovery that a run without spectra cannot do."""
    kind = run.config.features.kind
    if kind != "waveform":
        return None
    for name in ("inversion", "iterations"):
        if value := getattr(options, name):
            return (
                f"--{name} {value} is for spectra, and with features.kind={kind} the model says "
                "samples; leave it out"
            )
    if options.rules.score == "convergence":
        return (
            f"--score convergence is that of a spectrum, and with features.kind={kind} the model "
            "says samples; choose novelty, level or typicality"
        )
    return None


if __name__ == "__main__":
    cli.run(main)
