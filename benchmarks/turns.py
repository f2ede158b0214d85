"""Programs that take turns on one machine, each in a process of its own.

A peer measured before or after vaejax meets another machine: clocks, caches and neighbours change.
A peer in the same process shares thread pools and allocators with it. So each is a process that
sits idle, reading, until it is its turn; a round gives every one a turn, in alternating order.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Tasks = dict[str, Callable[[], dict[str, Any] | None]]
"""Work of one turn by name; figures of its own, if any, beside the seconds taken."""

ROOT = Path(__file__).resolve().parents[1]


class Player:
    """A process that prepares itself and then does as it is told, turn by turn."""

    def __init__(self, module: str, options: dict[str, Any]):
        """Starts `python -m module` and waits until it is ready.

        Raises:
          RuntimeError: it ended instead; its own text is above.
        """
        self.module = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        ready = self._read()
        self.about: dict[str, Any] = ready["about"]
        self.tasks: list[str] = ready["tasks"]

    def turn(self, task: str) -> dict[str, Any]:
        """Lets it do a task: {"seconds": ..., and what the task says}."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        return self._read()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.module} ended with exit code {self.process.wait()}")
        return json.loads(line)


def serve(prepare: Callable[[dict[str, Any]], tuple[dict[str, Any], Tasks]]) -> None:
    """The other end of a `Player`: `prepare(options)` -> what is said of it, and its tasks.

    A package that is missing is said to be; there are then no tasks.
    """
    # The pipe is for replies; whatever a library prints goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    about: dict[str, Any]
    tasks: Tasks
    try:
        about, tasks = prepare(json.loads(sys.argv[1]))
    except ModuleNotFoundError as error:
        about = {"missing": f'no module {error.name}; pip install -e ".[bench]" brings it'}
        tasks = {}
    reply({"about": about, "tasks": list(tasks)})
    for line in sys.stdin:
        task = tasks[json.loads(line)]
        started = time.perf_counter()
        figures = task() or {}
        reply({"seconds": time.perf_counter() - started, **figures})


def play(
    players: Iterable[Player], rounds: int
) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    """Gives every task of every player `rounds` turns, after a first one that does not count.

    Returns:
      Seconds of each task's first turn, in which it compiles, and what each later one said.
    """
    order = [(player, task) for player in players for task in player.tasks]
    said: dict[str, list[dict[str, Any]]] = {task: [] for _, task in order}
    first = {task: player.turn(task)["seconds"] for player, task in order}
    for number in range(rounds):
        # Forwards and backwards, so that nobody always comes after the same neighbour.
        for player, task in order if number % 2 == 0 else reversed(order):
            said[task].append(player.turn(task))
    return first, said


def middle(turns: list[dict[str, Any]]) -> float:
    """Median seconds of some turns."""
    return statistics.median(turn["seconds"] for turn in turns)


def rates(turns: list[dict[str, Any]], amount: float, digits: int = 1) -> dict[str, float]:
    """Median, lowest and highest of amount per second over some turns."""
    values = sorted(amount / turn["seconds"] for turn in turns)
    return {
        "median": round(statistics.median(values), digits),
        "lowest": round(values[0], digits),
        "highest": round(values[-1], digits),
    }


def ratio(own: list[dict[str, Any]], other: list[dict[str, Any]], scale: float = 1.0) -> float:
    """Median over rounds of scale * the other's seconds / own seconds: how often `own` is faster.

    Turns of one round meet about the same machine, so each round gives a ratio of its own.
    """
    pairs = zip(own, other, strict=True)
    return round(statistics.median(scale * b["seconds"] / a["seconds"] for a, b in pairs), 2)
