"""Writes a trained run as a file that other programs can play.

python -m vaejax.export --workdir runs/NAME --to npz|stablehlo --out FILE
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vaejax import cli

DESCRIPTION = (
    "Writes a trained run as one file for other programs: its arrays with a manifest (npz), or "
    "programs that encode, draw and decode, for CPU, CUDA and TPU, without vaejax (stablehlo). "
    "Every representation and kind of model can be exported. Exit codes: 0 done, 1 failed, 2 wrong "
    "usage, 130 interrupted."
)


@dataclass(frozen=True)
class Options:
    """Options of vaejax.export."""

    workdir: Path = Path("runs/default")
    """Run folder, as train.py left it."""
    to: Literal["npz", "stablehlo"] = "npz"
    """Kind of file."""
    out: Path | None = None
    """File to write; it must not exist."""
    debug: bool = False
    """Show where an error arose."""


def main(argv: list[str]) -> None:
    """Parses the command line and writes the file."""
    options = cli.parse(Options, Options(), argv, description=DESCRIPTION)
    if options.out is None:
        print("error: --out FILE is missing: the file to write", file=sys.stderr)
        raise SystemExit(cli.USAGE)
    if options.out.exists():
        raise ValueError(f"{options.out} exists; choose another --out, or remove it first")
    if not options.out.parent.is_dir():
        raise FileNotFoundError(f"no folder {options.out.parent} to write {options.out.name} to")
    if options.to == "stablehlo" and not importlib.util.find_spec("flatbuffers"):
        raise ValueError('--to stablehlo needs flatbuffers: pip install -e ".[export]"')
    if (options.workdir / "config.json").exists():
        cli.start_jax(options.workdir)

    # Imported here: bad usage is said at once.
    from vaejax.export import stablehlo, weights
    from vaejax.run.load import load_run

    run = load_run(options.workdir)
    if not run.has_fitted_prior:
        raise ValueError(
            f"the run in {options.workdir} is not finished: let its train.py command end, with "
            "the same --workdir, then export"
        )
    {"npz": weights, "stablehlo": stablehlo}[options.to].write(options.out, run)
    print(f"wrote {options.out}, {options.out.stat().st_size / 1e6:.1f} MB, step {run.step:,}")


if __name__ == "__main__":
    cli.run(main)
