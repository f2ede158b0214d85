"""What was tried so far, in a file of lines: the same command goes on with it."""

import json
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Cases:
    """The cases of all parts."""

    def __init__(self, folder: Path, *, seed: int, minutes: float):
        self.folder, self.seed = folder, seed
        self.path = folder / "cases.jsonl"
        self._until = time.monotonic() + 60 * minutes
        self._lock = threading.Lock()
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            self.rows = [json.loads(line) for line in self.path.read_text().splitlines()]

    def goes_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self._until

    def of(self, part: str) -> list[dict[str, Any]]:
        """What was tried of a part."""
        with self._lock:
            return [row for row in self.rows if row["part"] == part]

    def count(self, part: str) -> int:
        """How many were tried."""
        return sum(row["num"] for row in self.of(part))

    def finished(self, part: str) -> bool:
        """Whether nothing is left to try."""
        return any(row.get("finished") for row in self.of(part))

    def add(self, part: str, num: int, trouble: Iterable[str], **more: Any) -> None:
        """Adds `num` cases of a part and what was wrong with them."""
        row = {"part": part, "num": num, "trouble": list(trouble), **more}
        with self._lock:
            self.rows.append(row)
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        for line in row["trouble"]:
            print(f"{part}: {line}", flush=True)
