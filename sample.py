"""Makes new sounds with a trained run: WAV or FLAC files, a manifest and a contact sheet.

    python sample.py [--workdir DIR] [--out DIR] [--num N] [--seed S] ...

Sound i depends on the run, the seed and i alone: asking for more makes the same ones and more. The
same command goes on with a run that was interrupted.
"""

if __name__ == "__main__":  # ahead of the imports below, which take seconds
    from vaejax import interrupts

    interrupts.end_at_once()

import math
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vaejax import cli, interrupts
from vaejax.config import Inversion
from vaejax.devices import hosts
from vaejax.keys import parse_keys
from vaejax.sampling.curation import Rules
from vaejax.tables import one_of

if TYPE_CHECKING:
    from vaejax.run.load import Run
    from vaejax.sampling.latents import Plan
    from vaejax.sampling.redo import Original

# --attribute A B --attribute C
Attributes = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]

# Ways to choose latents, one at a time; without any, sounds are drawn from the prior.
MODES = ("label", "around", "between", "grid", "reconstruct", "match", "latents", "redo")
# Those that draw, so that there are more sounds where theirs come from.
DRAWING = ("label", "around")
# Those that make a number of sounds of their own.
COUNTED = ("reconstruct", "match", "latents", "redo")

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
    """Folder for the sounds; made if need be, refused if it holds sounds already. The same command
    goes on with a run that was interrupted."""
    overwrite: bool = False
    """Replace the files that an earlier run of this program left in `out`."""
    num: int | None = None
    """Sounds; 64 by default."""
    seed: int = 0
    """Seed of the draws."""
    temperature: float | None = None
    """Spread of the draws, 1 by default; below 1 nearer to what is typical (with a prior of
    windows: to single training sounds), above 1 stranger."""
    prior: Annotated[str, one_of("latent/priors.py:PRIORS", "aggregate", "standard")] = "aggregate"
    """`aggregate`: where the training sounds lie in the latent, by the likeliest of the other
    densities; `standard`: the objective's own prior, N(0, I) unless it was learned."""
    label: str | None = None
    """Draw from the region of the training sounds of this folder."""
    pitch: str | None = None
    """A key or a range of keys, 60 or C4 or 36-84, for a model that was told pitches
    (--condition.pitch of train.py): sound i has the i-th of them, over and over."""
    tell: Attributes = ()
    """NAME=VALUE, such as decay=0.5: other facts that the model was told (--condition.factors of
    train.py). Takes several, and may be repeated."""
    multisample: bool = False
    """With --pitch: --num sounds, each played at every key."""
    around: Path | None = None
    """Draw variations of this sound file."""
    spread: float = 0.5
    """Of --around: 0 stays at the sound, 1 wanders as far as the training set is wide."""
    between: tuple[Path, Path] | None = None
    """Two sound files; the sounds lead from the first to the second in equal steps."""
    path: Literal["straight", "spherical"] | None = None
    """Of --between: `straight` through the latent, the default, or `spherical`, along a great
    circle around where the training sounds lie, so that the middle is as typical as the ends."""
    morph: float | None = None
    """With --between, of a model of frames (preset canne): one sound of so many seconds, which
    moves from the first to the second."""
    hold: float | None = None
    """Of a model of frames: every sound becomes a seamless loop of so many seconds, which holds
    one of its moments."""
    at: str | None = None
    """Of --hold and --morph: the moment that is held, in seconds from the start of a sound; its
    loudest by default. Of --morph also `moving`: both sounds go on, stretched to its length."""
    grid: tuple[Path, Path, Path, Path] | None = None
    """Four sound files; the sounds make a map between them, row by row, with the first two as its
    upper corners and the others as its lower ones."""
    reconstruct: Path | None = None
    """A sound file or a folder, sent through the model; names and subfolders are kept."""
    match: Path | None = None
    """A sound file; makes the one sound that a search through the latent finds nearest to it."""
    latents: Path | None = None
    """A .npy file [num, latent_dim] to decode, such as the latents.npy of an earlier folder; of a
    model of frames, also one path of any length [num_steps, latent_dim of a frame]."""
    redo: Path | None = None
    """The manifest.jsonl of an earlier folder, or a starred list out of its contact sheet, in that
    folder; makes those sounds again, bit for bit unless told otherwise: another --format,
    --subtype, --inversion, --iterations or --temperature."""
    index: tuple[int, ...] = ()
    """Of --redo: which sounds, by their index in the manifest; all by default."""
    attribute: Attributes = ()
    """NAME=AMOUNT, such as brighter=+1: changes what is made. NAME: brighter, noisier, slower (of
    attack), longer, in standard deviations over the training sounds, where 0 holds it as it is; or
    a label, where 1 is the way from all others to it. Takes several, and may be repeated."""
    rules: Annotated[Rules, tyro.conf.arg(name="")] = field(default_factory=Rules)
    inversion: Inversion | None = None
    """Phase recovery; by default as the run's config says."""
    iterations: int | None = None
    """Griffin-Lim iterations after its start; by default as the run's config says, and 32 for
    --inversion griffin_lim and zero."""
    format: Literal["wav", "flac"] | None = None
    """Of the files, wav by default."""
    subtype: Literal["PCM_16", "PCM_24", "FLOAT"] | None = None
    """Of the samples in the files, PCM_16 by default; FLAC has no FLOAT."""
    dither: Literal["tpdf", "none"] | None = None
    """Of PCM_16, tpdf by default: noise of a step's size, added before rounding, so that quiet
    sounds and fades do not distort; the same sound gets the same noise."""
    sample_rate: int | None = None
    """Hz of the files, by resampling; by default that of the run."""
    level: str | None = None
    """Peak (-1dBFS) or loudness (-14LUFS, ITU-R BS.1770) of every sound; by default the peak that
    the run's config says, which no sound exceeds to meet a loudness."""
    fade_out: float | None = None
    """Milliseconds of fade at the end of every sound; by default as the run's config says."""
    trim_silence: float | None = None
    """dB below a sound's peak, such as -60; an end that stays below is cut off, faded. By default
    all sounds are as long as the run's clips."""
    loop: bool = False
    """Look for a seamless loop in every sound that sustains; WAVs say it in their smpl chunk, with
    the pitch, the manifest with how well it closes, or why there is none."""
    names: Literal["index", "label"] = "index"
    """`index`: 00017.wav. `label`: bass_C2_00017.wav, with the label (or that of the nearest
    training sound) and the note (C4 is MIDI 60, Cs4 is 61) where there is one."""
    sfz: bool = False
    """Write SFZ instruments, one for each label (or label of the nearest training sound): sounds
    with a pitch over the keyboard, others as a kit from C2 up."""
    zip: bool = False
    """Pack everything into OUT.zip beside the folder."""
    batch_size: int | None = None
    """Sounds that go to the writers together, rounded up to a multiple of what the device works on
    at a time; by default as many as its memory has room for. Changes speed and memory, not the
    sounds."""
    distributed: hosts.Distributed = field(default_factory=hosts.Distributed)
    debug: bool = False
    """Show where an error arose."""


def main(argv: list[str]) -> None:
    """Parses the command line and makes the sounds."""
    options = cli.parse(Options, Options(), argv, description=DESCRIPTION)
    problem = _usage_problem(options)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(cli.USAGE)
    hosts.start(options.distributed)
    sample(options)


def _usage_problem(options: Options) -> str | None:
    modes = [m for m in MODES if getattr(options, m) is not None]
    mode = modes[0] if modes else None
    rules = options.rules
    if len(modes) > 1:
        return f"choose one of {' and '.join('--' + m for m in modes)}"
    if options.num is not None and options.num < 1:
        return f"--num {options.num} must be at least 1"
    if options.num is not None and mode in COUNTED:
        return f"--num does not go with --{mode}: it makes as many sounds as it is given"
    if mode == "between" and options.num == 1:
        return "--between makes a path from one sound to the other: --num must be at least 2"
    if mode == "grid" and options.num is not None and options.num < 4:
        return "--grid has a sound in each corner: --num must be at least 4"
    if options.path is not None and mode != "between":
        return "--path goes with --between"
    if problem := _sequence_problem(options, mode):
        return problem
    if options.index and mode != "redo":
        return "--index goes with --redo MANIFEST"
    if not 0 <= options.seed < 2**32:
        return f"--seed {options.seed} must lie in [0, 2^32)"
    if not 0 <= options.spread < math.inf or not 0 <= (options.temperature or 0) < math.inf:
        return "--temperature and --spread must not be negative or infinite"
    if options.temperature is not None and mode not in (None, *DRAWING, "redo"):
        return f"--temperature is a spread of draws, and what is made with --{mode} is given"
    if options.iterations is not None and options.iterations < 0:
        return f"--iterations {options.iterations} must not be negative"
    if options.batch_size is not None and options.batch_size < 1:
        return f"--batch_size {options.batch_size} must be at least 1"
    if options.format == "flac" and options.subtype == "FLOAT":
        return "FLAC holds no FLOAT samples; use --subtype PCM_24, or --format wav"
    try:
        hosts.arguments(options.distributed, os.environ)
    except ValueError as error:
        return str(error)
    if problem := _told_problem(options, mode):
        return problem
    if options.attribute and mode == "redo":
        return "--attribute does not go with --redo, which makes sounds as they were"
    try:
        _amounts(options.attribute, "--attribute", "brighter=+1")
    except ValueError as error:
        return str(error)
    if rules != Rules() and mode not in (None, *DRAWING):
        return f"what is made with --{mode} is given: --unique, --best_of and others choose draws"
    if problem := rules.problem():
        return problem
    return _files_problem(options)


def _sequence_problem(options: Options, mode: str | None) -> str | None:
    for name in ("morph", "hold"):
        seconds = getattr(options, name)
        if seconds is not None and not 0 < seconds < math.inf:
            return f"--{name} {seconds:g} must be more than 0 seconds"
    if options.morph is not None:
        if mode != "between":
            return "--morph goes with --between: it moves from one sound to the other"
        if options.num is not None:
            return "--morph makes one sound, which moves: --num does not go with it"
        if options.hold is not None:
            return "choose one of --morph and --hold: a loop does not move"
    elif options.hold is None:
        if options.at is not None:
            return "--at goes with --hold or --morph"
    elif options.inversion is not None:
        return "--hold finds phases of its own, those of a loop: --inversion does not go with it"
    elif options.fade_out is not None or options.trim_silence is not None or options.loop:
        return (
            "a sound of --hold is a loop from end to end: leave out --fade_out, --trim_silence, "
            "--loop"
        )
    try:
        _moment(options)
    except ValueError as error:
        return str(error)
    return None


def _moment(options: Options) -> float | Literal["moving"] | None:
    """What --at says."""
    if options.at is None:
        return None
    if options.at == "moving":
        if options.morph is None:
            raise ValueError("--at moving goes with --morph: what is held does not move")
        return "moving"
    try:
        seconds = float(options.at)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"--at {options.at} must be a moment in seconds, or moving for --morph")
    return seconds


def _files_problem(options: Options) -> str | None:
    if options.sample_rate is not None or options.level is not None:
        from vaejax.export import mastering

        low, high = mastering.MIN_RATE, mastering.MAX_RATE
        if options.sample_rate is not None and not low <= options.sample_rate <= high:
            return f"--sample_rate {options.sample_rate} must lie from {low} to {high} Hz"
        rate = options.sample_rate or 0
        # Above what 16 bits hold, FLAC states tens of hertz.
        if options.format == "flac" and rate > 65535 and rate % 10:
            return f"FLAC holds no --sample_rate {rate}: above 65535 Hz only multiples of 10"
        try:
            mastering.parse_level(options.level or "-1dBFS")
        except ValueError as error:
            return str(error)
    if options.fade_out is not None and not 0 <= options.fade_out < math.inf:
        return f"--fade_out {options.fade_out:g} must be 0 or more milliseconds"
    if options.trim_silence is not None and not -120 <= options.trim_silence <= -10:
        return (
            f"--trim_silence {options.trim_silence:g} must lie from -120 to -10 dB below the peak"
        )
    for mode in ("reconstruct", "redo"):
        if options.names == "label" and getattr(options, mode) is not None:
            return f"--names label does not go with --{mode}, which keeps the names of its sounds"
    return None


def _told_problem(options: Options, mode: str | None) -> str | None:
    try:
        tells = _amounts(options.tell, "--tell", "decay=0.5")
        keys = None if options.pitch is None else parse_keys(options.pitch)
    except ValueError as error:
        return str(error)
    for name in ("label", "pitch"):
        if name in tells:
            return f"--tell {name}=... has an option of its own: --{name}"
    if (keys or tells) and options.prior != "aggregate":
        return f"--prior {options.prior} knows nothing of --pitch and --tell"
    if keys and keys.num > 1 and options.rules != Rules():
        return "--unique and others reject keys of a range as well: give --pitch one key"
    if (keys or tells) and options.attribute:
        return "--attribute is measured with the model told nothing; leave out --pitch and --tell"
    if (options.pitch or options.tell) and mode not in (None, *DRAWING):
        return f"what is made with --{mode} is given: --pitch and --tell go with what is drawn"
    if options.multisample and options.pitch is None:
        return "--multisample plays every key of --pitch: give a range of keys, such as C2-C6"
    if options.multisample and options.rules != Rules():
        return "--multisample plays each draw at every key: --unique and others choose single draws"
    return None


def _amounts(options: Attributes, flag: str, example: str) -> dict[str, float]:
    """NAME=NUMBER ..., by name."""
    amounts: dict[str, float] = {}
    for given in (given for together in options for given in together or ("",)):
        name, _, number = given.rpartition("=")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not name or not math.isfinite(amount):
            raise ValueError(f"{flag} {given!r} must be NAME=NUMBER, such as {example}")
        if name in amounts:
            raise ValueError(f"{flag} gives {name} twice")
        amounts[name] = amount
    return amounts


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
    from vaejax.export import mastering
    from vaejax.export.files import PLAIN, Files
    from vaejax.run.load import load_run
    from vaejax.sampling import output, redo

    run = load_run(options.workdir)
    original = None
    if options.redo is not None:
        original = redo.read(options.redo, options.index)
        options = _as_before(options, original)
        if problem := _files_problem(options):
            raise ValueError(problem)
    if options.prior == "aggregate" and not run.has_fitted_prior:
        prior = run.config.objective.prior
        own = "N(0, I)" if prior == "standard" else f"its objective's prior ({prior})"
        print(f"this run was not finished: drawing from {own} until it is", file=sys.stderr)
    plan = _plan(run, options, original)
    if options.hold is not None:
        at = _moment(options)
        assert not isinstance(at, str)
        plan = plan.held(run, seconds=options.hold, at=at)
    run = _with_sound(run, options)
    interrupts.raise_them()  # what was made until then gets its name
    made = output.write_sounds(
        run,
        plan,
        out=options.out,
        overwrite=options.overwrite,
        files=Files(
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
        ),
        batch_size=options.batch_size,
        title=f"{plan.num} {'sound' if plan.num == 1 else 'sounds'} from {options.workdir.name}",
        rules=options.rules,
    )
    seconds = time.time() - started
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
            f"must not exceed {run.config.sound.peak_db:g} dB (level_limited in the manifest)"
        )
    if options.sfz:
        print(f"{len(made.instruments)} SFZ instruments in {options.out}")
    if made.archive is not None:
        print(f"all of it in {made.archive}")
    if made.curation is not None:
        print(made.curation.explain())
        if made.num < plan.num:
            raise ValueError(
                f"only {made.num} of {plan.num} sounds were found, and the last "
                f"{made.curation.since_kept:,} draws brought none: {options.out} holds what was; "
                "loosen a rule, or raise --tries"
            )


def _plan(run: "Run", options: Options, original: "Original | None") -> "Plan":
    """What is to be made: the way to choose latents that the options name."""
    from vaejax.sampling import attributes, latents, redo, told

    num = latents.DEFAULT_NUM if options.num is None else options.num
    draw: dict[str, Any] = {
        "num": num,
        "seed": options.seed,
        "temperature": 1.0 if options.temperature is None else options.temperature,
    }
    if original is not None:
        return redo.plan(run, original, temperature=options.temperature, workdir=options.workdir)
    factors = _amounts(options.tell, "--tell", "decay=0.5")
    tells_label = options.label is not None and bool(run.vocabulary.labels)
    if tells_label and (options.attribute or options.prior != "aggregate"):
        raise ValueError(
            "this run's model is told labels: --attribute and --prior, which are of sounds of "
            "which it is told nothing, do not go with --label"
        )
    if options.pitch is not None or factors or tells_label:
        asked = told.Asked(
            label=options.label,
            pitches=None if options.pitch is None else parse_keys(options.pitch),
            factors=tuple(factors.items()),
            multisample=options.multisample,
        )
        if options.around is None:
            plan = told.draws(run, asked, **draw)
        else:
            plan = told.around(run, options.around, asked, spread=options.spread, **draw)
    elif options.label is not None:
        plan = latents.from_label(run, options.label, **draw)
    elif options.around is not None:
        plan = latents.around(run, options.around, spread=options.spread, **draw)
    elif options.between is not None and options.morph is not None:
        plan = latents.morph(
            run,
            *options.between,
            seconds=options.morph,
            at=_moment(options),
            path=options.path or "straight",
        )
    elif options.between is not None:
        plan = latents.between(run, *options.between, num=num, path=options.path or "straight")
    elif options.grid is not None:
        plan = latents.grid(run, options.grid, num=num)
    elif options.reconstruct is not None:
        plan = latents.reconstruct(run, options.reconstruct)
    elif options.match is not None:
        plan = latents.matching(run, options.match, seed=options.seed)
    elif options.latents is not None:
        plan = latents.from_file(run, options.latents, held=options.hold is not None)
    else:
        plan = latents.from_prior(run, prior=options.prior, **draw)
    if options.attribute:
        amounts = _amounts(options.attribute, "--attribute", "brighter=+1")
        dz, said = attributes.step(run, amounts, workdir=options.workdir)
        print("\n".join(said))
        plan = plan.shifted(dz, amounts)
    return plan


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
    if kind == "waveform" and options.inversion is not None:
        return (
            f"--inversion {options.inversion} is for spectra, and with features.kind={kind} the "
            "model says samples; leave it out"
        )
    if kind == "waveform" and options.iterations:
        return (
            f"--iterations {options.iterations} are for spectra, and with features.kind={kind} the "
            "model says samples; leave it out"
        )
    if kind == "waveform" and options.rules.score == "convergence":
        return (
            f"--score convergence is that of a spectrum, and with features.kind={kind} the model "
            "says samples; choose novelty, level or typicality"
        )
    return None


def _as_before(options: Options, original: "Original") -> Options:
    """The options with those of the first time where none are given."""
    if options.out.resolve() == original.path.parent.resolve():
        raise ValueError(f"{options.out} holds the sounds to be made again: choose another --out")
    if options.inversion is None:
        options = replace(options, inversion=original.setting("inversion"))
        if options.iterations is None:
            options = replace(options, iterations=original.setting("iterations"))
    if options.hold is None and (hold := original.setting("hold")) is not None:
        at = original.setting("at") if options.at is None else options.at
        options = replace(options, hold=hold, at=None if at is None else str(at))
    form = options.format or original.format
    before = original.setting("subtype")
    subtype = options.subtype or before
    if (form, subtype) == ("flac", "FLOAT"):
        raise ValueError("the sounds are FLOAT, which FLAC does not hold: give --subtype PCM_24")
    # Folders of before there was dither say nothing of it: they had none.
    dither: Any = (original.setting("dither") or "none") if before == "PCM_16" else None
    return replace(
        options,
        format=form,
        subtype=subtype,
        dither=options.dither or dither,
        sample_rate=options.sample_rate or original.setting("sample_rate"),
        level=options.level or original.setting("level"),
        fade_out=(
            original.setting("fade_out_ms") if options.fade_out is None else options.fade_out
        ),
        trim_silence=(
            original.setting("trim_silence")
            if options.trim_silence is None
            else options.trim_silence
        ),
        loop=options.loop or (options.hold is None and any("loop" in r for r in original.rows)),
    )


if __name__ == "__main__":
    cli.run(main)
