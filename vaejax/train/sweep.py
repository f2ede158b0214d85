"""Sweeps: the members of a population train at once, by one vmap over them in one program.

    python train.py --sweep.objective.beta 0.25 1 4 --sweep.seeds 2

trains every combination. A member differs from the others in a few numbers of its config, which the
program takes as arguments; its shapes are theirs. It draws what the same run alone would draw, and
its run folder is that of a run alone.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro

from vaejax import config as configs
from vaejax import files, rules
from vaejax.config import Config
from vaejax.run.folder import PLOT, SWEEP, damaged, read_config, read_json

SWEEPABLE = configs.marked(configs.SWEEPABLE)


class Member(NamedTuple):
    """One run of a sweep."""

    name: str
    """Of its folder: `beta-0.25_seed-1`."""
    values: dict[str, Any]
    """What it differs in, by dotted name."""
    config: Config
    workdir: Path


# The grammar.


def _grammar() -> type:
    """A dataclass with the sections and fields of SWEEPABLE, each a tuple of values."""
    sections: dict[str, list] = {}
    for name in SWEEPABLE:
        section, key = name.split(".")
        kind: Any = type(configs.get(Config(), name))
        told = tyro.conf.arg(help=f"Values of {name}.")
        kinds = Annotated[tuple[kind, ...] | None, told]
        sections.setdefault(section, []).append((key, kinds, field(default=None)))
    fields: list = [
        (section, made := make_dataclass(section, keys, frozen=True), field(default=made()))
        for section, keys in sections.items()
    ]
    told = tyro.conf.arg(help="A number of runs that differ in train.seed, from its value upwards.")
    fields.append(("seeds", Annotated[int | None, told], field(default=None)))
    doc = "Trains every combination of some values at once; one run folder each."
    made = make_dataclass("Sweep", fields, frozen=True)
    made.__doc__ = doc
    return made


if TYPE_CHECKING:
    Sweep = Any
else:
    Sweep = _grammar()


def check_names(argv: Sequence[str]) -> None:
    """Refuses options that sweep what cannot be swept, or over nothing.

    Raises:
      ValueError: names the first of them, and lists what can be.
    """
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue="--"):
        option, equals, _ = word.partition("=")
        if not option.startswith("--sweep"):
            continue
        name = option.removeprefix("--sweep").removeprefix(".").replace("-", "_")
        if name not in (*SWEEPABLE, "seeds"):
            raise ValueError(
                f"{option} cannot be swept in one program; what can: --sweep.seeds N, and "
                f"--sweep.FIELD VALUE VALUE ... of {', '.join(SWEEPABLE)}"
            )
        if not equals and following.startswith("--"):
            raise ValueError(f"{option} needs values: {option} VALUE VALUE ...")


def members(config: Config, sweep: Sweep, workdir: Path | None, preset: str) -> list[Member]:
    """The runs that a sweep asks for; none without a sweep.

    Args:
      sweep: what is asked for.
      workdir: folder of their folders; by default runs/ and the name of the preset and what is
        swept: runs/tiny-beta-seed.

    Raises:
      ValueError: the same run twice, or values that cannot work.
    """
    swept = {name: values for name in SWEEPABLE if (values := configs.get(sweep, name))}
    if sweep.seeds is not None:
        if "train.seed" in swept:
            raise ValueError("--sweep.seeds and --sweep.train.seed both say the seeds; give one")
        if sweep.seeds < 1:
            raise ValueError(f"sweep.seeds={sweep.seeds} must be greater than 0")
        first = config.train.seed
        swept["train.seed"] = tuple(range(first, first + sweep.seeds))
    if not swept:
        return []
    for name, values in swept.items():
        if len(set(values)) < len(values):
            listed = " ".join(map(_text, values))
            raise ValueError(f"--sweep.{name} {listed}: each value may be given once")
    keys = [name.split(".")[1] for name in swept]
    workdir = workdir or Path("runs") / "-".join([preset, *keys])
    made = []
    for combination in itertools.product(*swept.values()):
        values = dict(zip(swept, combination, strict=True))
        own = configs.replaced(config, values)
        rules.check(own)
        name = "_".join(f"{key}-{_text(v)}" for key, v in zip(keys, combination, strict=True))
        made.append(Member(name, values, own, workdir / name))
    return made


def _text(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


# The folder.


def check_folder(members: Sequence[Member], workdir: Path) -> None:
    """Refuses a folder that holds something else than this sweep, or a smaller one like it.

    Raises:
      ValueError: a run, a sweep over other fields, or one with other settings.
    """
    if (workdir / "config.json").exists():
        raise ValueError(f"{workdir} holds a single run; give the sweep another --workdir")
    swept = list(members[0].values)
    known = _read(workdir)
    for name, values in known.items():
        if list(values) != swept:
            raise ValueError(
                f"{workdir} holds a sweep over {', '.join(values)}, not {', '.join(swept)}; choose "
                "another --workdir"
            )
        if (path := workdir / name / "config.json").exists():
            own = configs.replaced(members[0].config, values)
            configs.check_resumable(read_config(path), own, workdir / name)


def compare(members: Sequence[Member], workdir: Path) -> list[dict[str, Any]]:
    """Writes what sets the members in a sweep's folder side by side: sweep.json, and their rates
    and distortions in rate-distortion.png.

    Returns:
      The members that have been measured, earlier ones in the folder included, as in sweep.json:
      name, values, step and the figures on the held-out sounds of the best weights.
    """
    from PIL import Image

    from vaejax.drawing import figures
    from vaejax.run import checkpoint

    known = _read(workdir) | {member.name: member.values for member in members}
    rows = []
    for name, values in sorted(known.items(), key=lambda item: tuple(item[1].values())):
        measured = checkpoint.best_figures(workdir / name)
        rows.append({"name": name, "values": values, **(measured or {})})
    text = json.dumps({"members": rows}, indent=1) + "\n"
    files.write_text(workdir / SWEEP, text)
    rows = [row for row in rows if "loss" in row]
    if rows:
        image = figures.rate_distortion(
            [row["kl"] for row in rows],
            [row["recon"] for row in rows],
            [row["name"] for row in rows],
        )
        files.replace(workdir / PLOT, lambda f: Image.fromarray(image).save(f, "PNG"))
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The members that `compare` returns, one per line, for the screen."""
    columns = {"loss": ".6g", "recon": ".6g", "kl": ".4g", "mel_l1_db": ".2f", "step": "d"}
    width = max((len(row["name"]) for row in rows), default=0)
    lines = [" " * width + "".join(f"{name:>11}" for name in columns)]
    for row in rows:
        figures = "".join(f"{row[name]:>11{form}}" for name, form in columns.items())
        lines.append(f"{row['name']:<{width}}{figures}")
    return "\n".join(lines)


def _read(workdir: Path) -> dict[str, dict[str, Any]]:
    """Name -> values of the members that a folder has."""
    path = workdir / SWEEP
    if not path.exists():
        return {}
    try:
        return {row["name"]: row["values"] for row in read_json(path)["members"]}
    except (LookupError, TypeError) as error:
        raise damaged(path, error) from None
