"""Makes new sounds with a trained run: WAV or FLAC files, a manifest and a contact sheet.

    python sample.py [--workdir DIR] [--out DIR] [--num N] [--seed S] ...

Sound i depends on the run, the seed and i alone: asking for more makes the same ones and more.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vaejax import cli
from vaejax.config import Inversion

if TYPE_CHECKING:
    from vaejax.checkpoint import Run
    from vaejax.latents import Plan

MODES = ("label", "around", "between", "reconstruct", "match", "latents")

DESCRIPTION = (
    "Makes new sounds with a trained run. Sound i depends on the run, the seed and i alone: asking "
    "for more makes the same ones and more. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 "
    "interrupted."
)


@dataclass(frozen=True)
class Options:
    """Options of sample.py."""

    workdir: Path = Path("runs/default")
    """Run folder of train.py."""
    out: Path = Path("samples")
    """Folder for the sounds; made if need be, refused if it holds sounds already."""
    overwrite: bool = False
    """Replace the files that an earlier run of this program left in `out`."""
    num: int | None = None
    """Sounds; 64 by default."""
    seed: int = 0
    """Seed of the draws."""
    temperature: float = 1.0
    """Spread of the draws; below 1 nearer to what is typical, above 1 stranger."""
    prior: Literal["aggregate", "standard"] = "aggregate"
    """`aggregate`: where the training sounds lie in the latent; `standard`: N(0, I)."""
    label: str | None = None
    """Draw from the region of the training sounds of this folder."""
    around: Path | None = None
    """Draw variations of this sound file."""
    spread: float = 0.5
    """Of --around: 0 stays at the sound, 1 wanders as far as the training set is wide."""
    between: tuple[Path, Path] | None = None
    """Two sound files; the sounds lead from the first to the second in equal steps."""
    reconstruct: Path | None = None
    """A sound file or a folder, sent through the model; names and subfolders are kept."""
    match: Path | None = None
    """A sound file; makes the one sound that a search through the latent finds nearest to it."""
    latents: Path | None = None
    """A .npy file [num, latent_dim] to decode, such as the latents.npy of an earlier folder."""
    inversion: Inversion | None = None
    """Phase recovery; by default as the run's config says."""
    iterations: int | None = None
    """Griffin-Lim iterations after its start; by default as the run's config says, and 32 for
    --inversion griffin_lim and zero."""
    format: Literal["wav", "flac"] = "wav"
    """Of the files."""
    subtype: Literal["PCM_16", "PCM_24", "FLOAT"] = "PCM_16"
    """Of the samples in the files; FLAC has no FLOAT."""
    batch_size: int | None = None
    """Sounds in one call of the compiled program, rounded up to a multiple of what the device works
    on at a time. Changes speed and memory, not the sounds."""
    debug: bool = False
    """Show where an error arose."""


def main(argv: list[str]) -> None:
    """Parses the command line and makes the sounds."""
    options = cli.parse(Options, Options(), argv, description=DESCRIPTION)
    problem = _usage_problem(options)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(cli.USAGE)
    sample(options)


def _usage_problem(options: Options) -> str | None:
    modes = [m for m in MODES if getattr(options, m) is not None]
    if len(modes) > 1:
        return f"choose one of {' and '.join('--' + m for m in modes)}"
    if options.num is not None and options.num < 1:
        return f"--num {options.num} must be at least 1"
    if options.num is not None and modes and modes[0] in ("reconstruct", "match", "latents"):
        return f"--num does not go with --{modes[0]}: it makes as many sounds as it is given"
    if options.between and options.num == 1:
        return "--between makes a path from one sound to the other: --num must be at least 2"
    if not 0 <= options.seed < 2**32:
        return f"--seed {options.seed} must lie in [0, 2^32)"
    if options.temperature < 0 or options.spread < 0:
        return "--temperature and --spread must not be negative"
    if options.iterations is not None and options.iterations < 0:
        return f"--iterations {options.iterations} must not be negative"
    if options.batch_size is not None and options.batch_size < 1:
        return f"--batch_size {options.batch_size} must be at least 1"
    if options.format == "flac" and options.subtype == "FLOAT":
        return "FLAC holds no FLOAT samples; use --subtype PCM_24, or --format wav"
    return None


def sample(options: Options) -> None:
    """Makes the sounds.

    Raises:
      FileNotFoundError: no run, no such file. ValueError: options the run cannot meet.
      OSError: the sounds cannot be written; what is complete is kept.
    """
    started = time.time()
    # Imported here: --help and bad usage need none of it.
    import dataclasses

    if (options.workdir / "config.json").exists():
        cli.use_compilation_cache(options.workdir)
    from vaejax import checkpoint
    from vaejax.export import output

    run = checkpoint.load_run(options.workdir)
    sound = run.config.sound
    if options.inversion is not None:
        # These two start from nowhere: a few iterations, enough after a good start, are not for
        # them.
        needs_more = options.inversion in ("griffin_lim", "zero")
        iterations = None if needs_more else sound.iterations
        sound = dataclasses.replace(sound, inversion=options.inversion, iterations=iterations)
    if options.iterations is not None:
        sound = dataclasses.replace(sound, iterations=options.iterations)
    run = run._replace(config=dataclasses.replace(run.config, sound=sound))
    if options.prior == "aggregate" and not run.has_fitted_prior:
        print("this run was not finished: drawing from N(0, I) until it is", file=sys.stderr)

    plan = _plan(run, options)
    made = output.write_sounds(
        run,
        plan,
        out=options.out,
        overwrite=options.overwrite,
        suffix=options.format,
        subtype=options.subtype,
        batch_size=options.batch_size,
        title=f"{plan.num} sounds from {options.workdir.name}",
    )
    seconds = time.time() - started
    rate = made.sounds_per_second
    print(
        f"{made.num} sounds in {options.out} in {seconds:.1f} s"
        + (f" ({rate:.0f} per second once compiled)" if rate else "")
        + f"; open {options.out}/index.html"
    )


def _plan(run: "Run", options: Options) -> "Plan":
    from vaejax import latents

    num = latents.DEFAULT_NUM if options.num is None else options.num
    draw: dict[str, Any] = {
        "num": num,
        "seed": options.seed,
        "temperature": options.temperature,
    }
    if options.label is not None:
        return latents.from_label(run, options.label, **draw)
    if options.around is not None:
        return latents.around(run, options.around, spread=options.spread, **draw)
    if options.between is not None:
        return latents.between(run, *options.between, num=num)
    if options.reconstruct is not None:
        return latents.reconstruct(run, options.reconstruct)
    if options.match is not None:
        return latents.matching(run, options.match, seed=options.seed)
    if options.latents is not None:
        return latents.from_file(run, options.latents)
    return latents.from_prior(run, prior=options.prior, **draw)


if __name__ == "__main__":
    cli.run(main)
