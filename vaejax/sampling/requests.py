"""The ways to ask for sounds, one entry each; what goes together, and what is made of it.

`check` refuses what is wrong in itself, before JAX starts; `plan` is what a run makes of the rest.
"""

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from vaejax.devices import hosts
from vaejax.sampling.curation import Rules
from vaejax.sampling.options import Options

if TYPE_CHECKING:
    from vaejax.run.load import Run
    from vaejax.sampling.plans import Plan

DEFAULT_NUM = 64


class Request(NamedTuple):
    """A way to ask for sounds."""

    plan: "Callable[[Run, Options], Plan]"
    """What a run makes of it."""
    draws: bool = False
    """Whether latents are drawn, so that there are more sounds where these come from."""
    counted: bool = False
    """Whether it makes a number of sounds of its own."""
    at_least: tuple[int, str] = (1, "")
    """Sounds, and why."""


def check(options: Options) -> None:
    """Refuses options that are wrong whatever the run.

    Raises:
      ValueError: says which, and what would do.
    """
    name, request = chosen(options)
    _check_number(options, name, request)
    _check_sequences(options, name)
    _check_values(options)
    _check_conditions(options)
    if not request.draws:
        if options.temperature is not None and name != "redo":
            raise ValueError(f"--temperature is a spread of draws, and {_given(name)}")
        if options.pitch or options.tell:
            raise ValueError(f"{_given(name)}: --pitch and --tell go with what is drawn")
        if options.rules != Rules():
            raise ValueError(f"{_given(name)}: --unique, --best_of and others choose draws")
    if options.amounts and name == "redo":
        raise ValueError("--attribute does not go with --redo, which makes sounds as they were")
    if problem := options.rules.problem():
        raise ValueError(problem)
    check_files(options)


def plan(run: "Run", options: Options) -> "Plan":
    """What a run makes of the options.

    Raises:
      FileNotFoundError: no such file. ValueError: the run cannot meet the options.
    """
    from vaejax.sampling import attributes

    made = chosen(options)[1].plan(run, options)
    if amounts := options.amounts:
        step, effects = attributes.step(run, amounts, workdir=options.workdir)
        print("\n".join(effects))
        made = made.shifted(step, amounts)
    if options.hold is not None:
        at = options.moment
        assert not isinstance(at, str)
        made = made.held(run, seconds=options.hold, at=at)
    return made


def chosen(options: Options) -> tuple[str, Request]:
    """The way of asking, by its option; "" for none.

    Raises:
      ValueError: there are two.
    """
    names = [name for name in REQUESTS if name and getattr(options, name) is not None]
    if len(names) > 1:
        raise ValueError(f"choose one of {' and '.join('--' + name for name in names)}")
    name = names[0] if names else ""
    return name, REQUESTS[name]


def _given(name: str) -> str:
    return f"what is made with --{name} is given"


def _check_number(options: Options, name: str, request: Request) -> None:
    num, (least, why) = options.num, request.at_least
    if num is None:
        return
    if num < 1:
        raise ValueError(f"--num {num} must be at least 1")
    if request.counted:
        raise ValueError(f"--num does not go with --{name}: it makes as many sounds as it is given")
    if num < least:
        raise ValueError(f"--{name} {why}: --num must be at least {least}")


def _check_sequences(options: Options, name: str) -> None:
    if options.path is not None and name != "between":
        raise ValueError("--path goes with --between")
    for option in ("morph", "hold"):
        seconds = getattr(options, option)
        if seconds is not None and not 0 < seconds < math.inf:
            raise ValueError(f"--{option} {seconds:g} must be more than 0 seconds")
    if options.morph is not None:
        if name != "between":
            raise ValueError("--morph goes with --between: it moves from one sound to the other")
        if options.num is not None:
            raise ValueError("--morph makes one sound, which moves: --num does not go with it")
        if options.hold is not None:
            raise ValueError("choose one of --morph and --hold: a loop does not move")
    elif options.hold is None:
        if options.at is not None:
            raise ValueError("--at goes with --hold or --morph")
    elif options.inversion is not None:
        raise ValueError(
            "--hold finds phases of its own, those of a loop: --inversion does not go with it"
        )
    elif options.fade_out is not None or options.trim_silence is not None or options.loop:
        raise ValueError(
            "a sound of --hold is a loop from end to end: leave out --fade_out, --trim_silence, "
            "--loop"
        )
    _ = options.moment


def _check_values(options: Options) -> None:
    if options.index and options.redo is None:
        raise ValueError("--index goes with --redo MANIFEST")
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed {options.seed} must lie in [0, 2^32)")
    if not 0 <= options.spread < math.inf or not 0 <= (options.temperature or 0) < math.inf:
        raise ValueError("--temperature and --spread must not be negative or infinite")
    if options.iterations is not None and options.iterations < 0:
        raise ValueError(f"--iterations {options.iterations} must not be negative")
    if options.batch_size is not None and options.batch_size < 1:
        raise ValueError(f"--batch_size {options.batch_size} must be at least 1")
    if options.format == "flac" and options.subtype == "FLOAT":
        raise ValueError("FLAC holds no FLOAT samples; use --subtype PCM_24, or --format wav")
    hosts.arguments(options.distributed, os.environ)


def _check_conditions(options: Options) -> None:
    """Of what the model is told."""
    factors, keys, rules = options.factors, options.keys, options.rules
    for name in ("label", "pitch"):
        if name in factors:
            raise ValueError(f"--tell {name}=... has an option of its own: --{name}")
    if (keys or factors) and options.prior != "aggregate":
        raise ValueError(f"--prior {options.prior} knows nothing of --pitch and --tell")
    if keys and keys.num > 1 and rules != Rules():
        raise ValueError("--unique and others reject keys of a range as well: give --pitch one key")
    if (keys or factors) and options.attribute:
        raise ValueError(
            "--attribute is measured with the model told nothing; leave out --pitch and --tell"
        )
    if options.multisample and keys is None:
        raise ValueError(
            "--multisample plays every key of --pitch: give a range of keys, such as C2-C6"
        )
    if options.multisample and rules != Rules():
        raise ValueError(
            "--multisample plays each draw at every key: --unique and others choose single draws"
        )


def check_files(options: Options) -> None:
    """Refuses files that cannot be.

    Raises:
      ValueError: says why.
    """
    if options.sample_rate is not None or options.level is not None:
        from vaejax.export import mastering

        low, high, rate = mastering.MIN_RATE, mastering.MAX_RATE, options.sample_rate
        if rate is not None and not low <= rate <= high:
            raise ValueError(f"--sample_rate {rate} must lie from {low} to {high} Hz")
        # Above what 16 bits hold, FLAC states tens of hertz.
        if options.format == "flac" and rate is not None and rate > 65535 and rate % 10:
            raise ValueError(
                f"FLAC holds no --sample_rate {rate}: above 65535 Hz only multiples of 10"
            )
        mastering.parse_level(options.level or "-1dBFS")
    if options.fade_out is not None and not 0 <= options.fade_out < math.inf:
        raise ValueError(f"--fade_out {options.fade_out:g} must be 0 or more milliseconds")
    if options.trim_silence is not None and not -120 <= options.trim_silence <= -10:
        raise ValueError(
            f"--trim_silence {options.trim_silence:g} must lie from -120 to -10 dB below the peak"
        )
    for name in ("reconstruct", "redo"):
        if options.names == "label" and getattr(options, name) is not None:
            raise ValueError(
                f"--names label does not go with --{name}, which keeps the names of its sounds"
            )


# The plans. Imported in them: --help and bad usage need none of it.


def _draw(run: "Run", options: Options) -> "Plan":
    """From a density, under what the model is told."""
    from vaejax.sampling import conditioned, plans

    temperature = 1.0 if options.temperature is None else options.temperature
    how: dict[str, Any] = {
        "num": options.num or DEFAULT_NUM,
        "seed": options.seed,
        "temperature": temperature,
    }
    keys, factors, label = options.keys, options.factors, options.label
    told_label = label is not None and bool(run.vocabulary.labels)
    if told_label and (options.attribute or options.prior != "aggregate"):
        raise ValueError(
            "this run's model is told labels: --attribute and --prior, which are of sounds of "
            "which it is told nothing, do not go with --label"
        )
    if keys is not None or factors or told_label:
        condition = conditioned.Conditioning(
            label, keys, tuple(factors.items()), options.multisample
        )
        if options.around is None:
            return conditioned.draws(run, condition, **how)
        return conditioned.around(run, options.around, condition, spread=options.spread, **how)
    if label is not None:
        return plans.from_label(run, label, **how)
    if options.around is not None:
        return plans.around(run, options.around, spread=options.spread, **how)
    return plans.from_prior(run, prior=options.prior, **how)


def _between(run: "Run", options: Options) -> "Plan":
    from vaejax.sampling import plans

    assert options.between is not None
    ends, path = options.between, options.path or "straight"
    if options.morph is None:
        return plans.between(run, *ends, num=options.num or DEFAULT_NUM, path=path)
    return plans.morph(run, *ends, seconds=options.morph, at=options.moment, path=path)


def _redo(run: "Run", options: Options) -> "Plan":
    from vaejax.sampling import redo

    assert options.redo is not None
    original = redo.read(options.redo, options.index)
    return redo.plan(run, original, temperature=options.temperature, workdir=options.workdir)


def _plans() -> Any:
    """The module `plans`."""
    from vaejax.sampling import plans

    return plans


# By the option that asks for them, one at a time; without any, draws from the prior.
REQUESTS = {
    "": Request(_draw, draws=True),
    "label": Request(_draw, draws=True),
    "around": Request(_draw, draws=True),
    "between": Request(_between, at_least=(2, "makes a path from one sound to the other")),
    "grid": Request(
        lambda run, o: _plans().grid(run, o.grid, num=o.num or DEFAULT_NUM),
        at_least=(4, "has a sound in each corner"),
    ),
    "reconstruct": Request(lambda run, o: _plans().reconstruct(run, o.reconstruct), counted=True),
    "match": Request(lambda run, o: _plans().matching(run, o.match, seed=o.seed), counted=True),
    "latents": Request(
        lambda run, o: _plans().from_file(run, o.latents, held=o.hold is not None), counted=True
    ),
    "redo": Request(_redo, counted=True),
}
