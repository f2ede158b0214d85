"""Kills and failing writes, each gone on with and compared with what was left in peace."""

import json
import random
import re
import signal
from pathlib import Path
from typing import NamedTuple

from benchmarks.trust import program
from benchmarks.trust.cases import Cases
from benchmarks.trust.program import Ended, Program

# Faults that one folder takes before it is left in peace and compared.
MOST_KILLS, MOST_FAILURES = 4, 6
# Seconds within which a program that was done anyway ends.
AT_ONCE = 0.5
# What a first start may take, which compiles.
HOUR = 3600.0


class Reference(NamedTuple):
    """What an uninterrupted run is."""

    results: dict[str, str]
    seconds: float
    writes: int
    """Opened files, written pieces, renames and so on, as `faulty/sitecustomize.py` counts them."""


def reference(made: Program, home: Path) -> Reference:
    """Runs a program in peace, or reads what an earlier call found.

    Raises:
      RuntimeError: it failed, or a second run made something else.
    """
    path, count = (home.with_name(f"{home.name}{suffix}") for suffix in (".json", "-writes"))
    if path.exists():
        return Reference(**json.loads(path.read_text()))
    results = []
    for _ in range(2):  # the first one compiles
        count.write_bytes(b"")
        ended = made.run(program.fresh(home), usual=HOUR, count=count)
        if ended.code != 0:
            raise RuntimeError(f"{made.name}.py failed by itself: {ended.said}")
        results.append(made.results(home))
    if differing := program.differences(*results):
        raise RuntimeError(f"two runs of {made.name}.py differ: {', '.join(differing)}")
    known = Reference(results[1], ended.seconds, count.stat().st_size)
    path.write_text(json.dumps(known._asdict()))
    return known


def compared(made: Program, home: Path, known: Reference, ended: Ended) -> list[str]:
    """What is wrong with a folder that was gone on with to its end."""
    if not made.is_done(ended):
        trouble = ended.trouble(failing=False)
        return [f"the same command did not go on: {trouble}"]
    differing = program.differences(made.results(home), known.results)
    return [f"not as without an interruption: {', '.join(differing)}"] if differing else []


def kills(made: Program, home: Path, known: Reference, cases: Cases, num: int) -> None:
    """Kills a program `num` times, at random moments and at random writes.

    A folder takes up to MOST_KILLS kills, one after the other, before it is compared: what is
    started again is killed again.
    """
    part = f"{made.name} kills"
    while cases.count(part) < num and cases.goes_on():
        draw = random.Random(f"{cases.seed}/{part}/{len(cases.of(part))}")
        program.fresh(home)
        done: list[str] = []
        trouble: list[str] = []
        while len(done) < min(MOST_KILLS, num - cases.count(part)):
            if draw.random() < 0.5:
                at = draw.randint(1, known.writes)
                ended, moment = made.run(home, usual=known.seconds, kill_at=at), f"write {at}"
            else:
                after = draw.uniform(0, known.seconds)
                ended, moment = made.run(home, usual=known.seconds, after=after), f"{after:.2f} s"
            if made.is_done(ended) or ended.hung:
                break
            if ended.code != -signal.SIGKILL:
                trouble.append(f"before the kill at {moment}: {ended.trouble(failing=False)}")
                break
            done.append(moment)
        else:
            ended = made.run(home, usual=known.seconds)
        trouble += compared(made, home, known, ended)
        cases.add(part, len(done), trouble, killed_at=done)


def failing_writes(made: Program, home: Path, known: Reference, cases: Cases) -> None:
    """Lets every place that writes fail once, as on a full disk, until there is no other."""
    part = f"{made.name} writes"
    sites = cases.folder / f"{made.name}-sites.txt"
    # Those that failed in a folder that was never compared fail again.
    compared_with = [f"{site}\n" for row in cases.of(part) for site in row["failed"]]
    sites.write_text("".join(compared_with))
    while not cases.finished(part) and cases.goes_on():
        program.fresh(home)
        failed: dict[str, str] = {}
        trouble: list[str] = []
        ended = None
        while ended is None or (not made.is_done(ended) and len(failed) < MOST_FAILURES):
            before = sites.read_text().splitlines()
            ended = made.run(home, usual=known.seconds, sites=sites)
            new = sites.read_text().splitlines()[len(before) :]
            failed |= dict.fromkeys(new, "went on" if ended.code == 0 else "one line")
            problem = ended.trouble(failing=bool(new))
            if problem and not made.is_done(ended):
                trouble.append(f"{', '.join(new)}: {problem}")
            if ended.hung or not new:
                break
        assert ended is not None
        if not made.is_done(ended):
            ended = made.run(home, usual=known.seconds)
        trouble += compared(made, home, known, ended)
        cases.add(part, len(failed), trouble, failed=failed, finished=not failed)


def signals(
    programs: list[Program], home: Path, cases: Cases, num: int, *, within: float = 3.0
) -> None:
    """Sends programs a signal at random moments of their first seconds."""
    part = "signals"
    while cases.count(part) < num and cases.goes_on():
        index = cases.count(part)
        draw = random.Random(f"{cases.seed}/{part}/{index}")
        made, after = programs[index % len(programs)], draw.uniform(0, within)
        number = draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
        started = home.with_name(f"{home.name}-started")
        started.unlink(missing_ok=True)
        ended = made.run(program.fresh(home), after=after, number=number, started=started)
        trouble = []
        outcome = _outcome(ended, number, after)
        if outcome == "wrong":
            trouble.append(
                f"{made.name}.py, {number.name} after {after:.3f} s: exit code {ended.code}"
                f"{', hung' if ended.hung else ''}: {ended.said[-2000:]}"
            )
        cases.add(part, 1, trouble, outcome=outcome)


def _outcome(ended: Ended, number: signal.Signals, after: float) -> str:
    """`one line`, `finished` (before the signal came), `Python's start`, or `wrong`.

    Until the program has said what a signal does, which it does first of all, Python ends by
    itself: by the signal, or with a traceback of its own modules, or of a line up to that one.
    """
    lines = [line for line in ended.said.splitlines() if "interrupted" in line]
    if ended.hung:
        return "wrong"
    if ended.code == 130 and len(lines) == 1 and "Traceback" not in ended.said:
        return "one line"
    if ended.code == 0 and "Traceback" not in ended.said and ended.seconds < after + AT_ONCE:
        return "finished"
    by_itself = ended.code == -number or "Fatal Python error: init_" in ended.said
    own = re.findall(r'File "(?:.*/)?((?:train|sample)\.py|vaejax/[^"]+)", line', ended.said)
    first = {"train.py", "sample.py", "vaejax/__init__.py", "vaejax/interrupts.py"}
    return "Python's start" if by_itself and set(own) <= first else "wrong"
