"""Whether anything is lost, hangs or crashes: kills, failing writes, damaged files, signals.

    python -m benchmarks.trust [--kills N] [--files N] [--signals N] [--parts ...] [--minutes M]

- kills: train.py and sample.py are killed (SIGKILL) at random moments and at random writes; the
  same command goes on, and what comes out is compared bit by bit with an uninterrupted run.
- writes: every place in the code that writes fails once, as on a full disk; the same again.
- files: damaged sound files of every format go through the decoder in a process with limits.
- signals: SIGINT, SIGTERM and SIGHUP in the first three seconds end a program with one line.

The same command goes on where it was stopped, by --minutes or otherwise. The figures, with how much
of it was tried, are written to benchmarks/results/. Exit code 1 if anything was wrong.
"""

import signal
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.trust import faults, program
from benchmarks.trust import files as sound_files
from benchmarks.trust.cases import Cases
from vaejax import cli
from vaejax import files as whole_files

PARTS = ("kills", "writes", "files", "signals")


@dataclass(frozen=True)
class Options:
    """How much is tried."""

    folder: Path = Path("runs/trust")
    """For everything that is made on the way."""
    parts: tuple[str, ...] = PARTS
    """Those of kills, writes, files and signals that are tried."""
    kills: int = 100
    """Two thirds of them in training, the others in sampling."""
    files: int = 20_000
    signals: int = 200
    num_steps: int = 10
    """Of a training."""
    num_sounds: int = 96
    """Of a folder of new sounds."""
    jobs: int = 2
    """Parts that are worked on at a time."""
    minutes: float = 1e6
    """After which nothing new is begun."""
    seed: int = 0
    save: bool = True
    """Write the figures to benchmarks/results/, also those of a part of it."""
    debug: bool = False
    """Show where an error arose."""


def main(argv: list[str]) -> None:
    """Parses the command line, tries it all and records the figures."""
    assert __doc__ is not None
    options = cli.parse(Options, Options(), argv, description=__doc__)
    if unknown := set(options.parts) - set(PARTS):
        print(f"error: no part {unknown.pop()} (of {', '.join(PARTS)})", file=sys.stderr)
        raise SystemExit(cli.USAGE)
    # What a shell starts in the background ignores SIGINT, under nohup SIGHUP, and so would every
    # program that is started here until it says otherwise.
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.resolve()
    with (folder / "lock").open("w") as lock:
        if whole_files.lock(lock) is False:
            raise ValueError(f"another process is at work in {folder}: choose another --folder")
        cases = Cases(folder, seed=options.seed, minutes=options.minutes)
        tries(options, folder, cases)
    figures = summary(options, cases)
    if options.save:
        record.save("trust", figures)
    else:
        print(figures)
    if figures["trouble"]:
        raise SystemExit(cli.FAILED)


def tries(options: Options, folder: Path, cases: Cases) -> None:
    """Works on the parts, some at a time."""
    work: list[Callable[[], None]] = []
    if set(options.parts) & {"kills", "writes", "signals"}:
        train = program.train(folder, num_steps=options.num_steps)
        trained = faults.reference(train, folder / "reference")
        sample = program.sample(folder, folder / "reference/run", num=options.num_sounds)
        sampled = faults.reference(sample, folder / "sampled")
        for made, known, kills in (
            (train, trained, options.kills - options.kills // 3),
            (sample, sampled, options.kills // 3),
        ):
            home = folder / made.name
            if "kills" in options.parts:
                work.append(partial(faults.kills, made, home / "kills", known, cases, kills))
            if "writes" in options.parts:
                work.append(partial(faults.failing_writes, made, home / "writes", known, cases))
        if "signals" in options.parts:
            both = [train, sample]
            work.append(partial(faults.signals, both, folder / "signals", cases, options.signals))
    if "files" in options.parts:
        work.append(partial(sound_files.files, folder / "files", cases, options.files))
    with ThreadPoolExecutor(options.jobs) as pool:
        for future in [pool.submit(one) for one in work]:
            future.result()


def summary(options: Options, cases: Cases) -> dict[str, Any]:
    """The figures of all parts."""
    figures: dict[str, Any] = {"parts": []}
    asked = {
        "train kills": options.kills - options.kills // 3,
        "sample kills": options.kills // 3,
        "files": options.files,
        "signals": options.signals,
    }
    for part in sorted({row["part"] for row in cases.rows}):
        rows = cases.of(part)
        figure: dict[str, Any] = {"tried": cases.count(part)}
        if part in asked:
            figure["asked"] = asked[part]
        if part.endswith("kills"):
            figure["folders_compared"] = len(rows)
        if part.endswith("writes"):
            ends = Counter(end for row in rows for end in row["failed"].values())
            figure |= {"folders_compared": len(rows), "ends": dict(ends)}
            figure["all_places"] = cases.finished(part)
        if part == "signals":
            figure["ends"] = dict(Counter(row["outcome"] for row in rows))
        if part == "files":
            figure |= {
                "formats": len(sound_files.originals()),
                "used": sum(row.get("used", 0) for row in rows),
                "most_memory_mb": max(row.get("memory_mb", 0) for row in rows),
                "reasons": sorted({r for row in rows for r in row.get("reasons", ())}),
            }
        figure["wrong"] = sum(bool(row["trouble"]) for row in rows)
        figures["parts"].append(part)
        figures[part] = figure
    figures["trouble"] = [line for row in cases.rows for line in row["trouble"]]
    return figures


if __name__ == "__main__":
    cli.run(main)
