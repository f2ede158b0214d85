"""Which of the drawn sounds are kept: none too near to another, too strange, too quiet.

Draws are judged one after the other, in the order of their index, and only by what came before:
sound i of a seed is the same however many are asked for. A rejected draw is counted under the first
rule that it broke.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

Score = Literal["typicality", "novelty", "convergence", "level"]
# What the best of several has most of. The generator's names; `typicality` is computed at need.
SCORES: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]] = {
    "novelty": lambda batch: batch["novelty"],
    "convergence": lambda batch: -batch["spectral_convergence_db"],
    "level": lambda batch: batch["rms_db"],
}


@dataclass(frozen=True)
class Rules:
    """What a draw must meet to be kept; what is None is not asked for.

    Distances are in the unit of `novelty`: the median distance between neighbours in the training
    set (`metrics.Embedding`).
    """

    unique: float | None = None
    """Keeps no two sounds that are nearer to each other; 1 is the median distance between
    neighbours in the training set, as in the manifest's `novelty`."""
    min_novelty: float | None = None
    """Keeps no sound that is nearer to a training sound: no copies."""
    max_novelty: float | None = None
    """Keeps no sound that is farther from every training sound: nothing strange."""
    min_level: float | None = None
    """Keeps no sound whose RMS level is below, in dB of full scale, at the peak of the run's
    config: before any --level."""
    best_of: int = 1
    """Keeps at most one of so many draws in a row, the one with the highest --score."""
    score: Score = "typicality"
    """Log density under the prior that is drawn from; or novelty, the spectral convergence of the
    phase recovery (better is higher), the RMS level."""
    tries: int = 1000
    """Draws in a row without one to keep, after which it is given up."""

    @property
    def reject(self) -> bool:
        """Whether any draw could be rejected."""
        bounds = (self.unique, self.min_novelty, self.max_novelty, self.min_level)
        return self.best_of > 1 or any(bound is not None for bound in bounds)

    def problem(self) -> str | None:
        """What is wrong with the rules themselves, in one line."""
        for name in ("unique", "min_novelty", "max_novelty"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                return f"--{name} {value:g} must be a distance of 0 or more"
        if self.min_level is not None and not -math.inf < self.min_level <= 0:
            return f"--min_level {self.min_level:g} must be in dB of full scale, so at most 0"
        least, most = self.min_novelty, self.max_novelty
        if least is not None and most is not None and least > most:
            return f"--min_novelty {least:g} is above --max_novelty {most:g}"
        if self.best_of < 1 or self.tries < 1:
            return "--best_of and --tries must be at least 1"
        if self.score != Rules.score and self.best_of == 1:
            return "--score chooses among several draws: it goes with --best_of"
        return None


# How a rejected draw is explained, by rule.
REASONS = {
    "min_level": "quieter than {:g} dB",
    "min_novelty": "nearer than {:g} to a training sound",
    "max_novelty": "farther than {:g} from every training sound",
    "unique": "nearer than {:g} to a sound that was kept",
    "best_of": "not the best of their {:g}",
}


class Curation:
    """Judges draws, and counts what it rejects.

    Memory does not grow but by one embedded point per sound that is kept, and only for `unique`.
    """

    def __init__(
        self,
        rules: Rules,
        num: int,
        *,
        unit: float,
        log_density: Callable[[np.ndarray], np.ndarray],
    ):
        """Nothing is drawn yet.

        Args:
          num: sounds to keep.
          unit: of the distances, `Embedding.median_neighbour`.
          log_density: of latents [num, latent_dim], [num]; called for the score typicality alone.
        """
        self.rules, self.num = rules, num
        self.kept = self.drawn = 0
        self.rejected: Counter[str] = Counter()
        self._log_density = log_density
        self._radius = None if rules.unique is None else rules.unique * unit
        # Of what is kept, and squared lengths; the rest is room for more.
        self._points, self._norms = np.zeros((0, 0), np.float32), np.zeros(0, np.float32)
        self._kept_before = self._last_kept = 0

    def accepted(
        self, batches: Iterable[tuple[int, dict[str, np.ndarray]]]
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """What is kept of draws, until there are `num` or it is given up.

        Args:
          batches: (index of the first draw, outputs of the generator), draws in order.

        Yields:
          The kept draws' indices [n], and their outputs [n, ...].
        """
        best: tuple[float, int, dict[str, np.ndarray]] | None = None
        for start, batch in batches:
            chosen: list[tuple[int, dict[str, np.ndarray]]] = []
            broken = self._bounds_broken(batch)
            score = self._score(batch)
            candidates = self._candidates(batch)
            for j in range(len(score)):
                draw = start + j
                self.drawn = draw + 1
                rule = broken[j] or self._near(batch["point"][j], candidates[j])
                if rule:
                    self.rejected[rule] += 1
                elif best is None or score[j] > best[0]:
                    if best is not None:
                        self.rejected["best_of"] += 1
                    # A copy: the batch is not kept alive for one of its sounds.
                    best = score[j], draw, {k: np.array(v[j]) for k, v in batch.items()}
                else:
                    self.rejected["best_of"] += 1
                if (draw + 1) % self.rules.best_of:
                    continue
                if best is not None:
                    chosen.append(best[1:])
                    self._keep(best[2]["point"])
                    best, self._last_kept = None, draw + 1
                if self.kept == self.num or self.since_kept >= self.rules.tries:
                    break
            if chosen:
                draws = np.array([draw for draw, _ in chosen])
                yield draws, {k: np.stack([row[k] for _, row in chosen]) for k in batch}
            if self.kept == self.num or self.since_kept >= self.rules.tries:
                return

    @property
    def since_kept(self) -> int:
        """Draws since the last that was kept."""
        return self.drawn - self._last_kept

    def explain(self) -> str:
        """How many were drawn, and which rules the others broke, as a sentence."""
        parts = []
        for rule, reason in REASONS.items():
            if self.rejected[rule]:
                said = reason.format(getattr(self.rules, rule))
                parts.append(f"{self.rejected[rule]:,} {said} (--{rule})")
        rejected = "; rejected " + ", ".join(parts) if parts else "; none was rejected"
        return f"{self.drawn:,} drawn to keep {self.kept:,}{rejected}"

    def _bounds_broken(self, batch: dict[str, np.ndarray]) -> list[str | None]:
        """The first bound that each draw of a batch breaks."""
        rules, broken = self.rules, np.full(len(batch["novelty"]), None, object)
        # In reverse, so that the first has the last word.
        if rules.max_novelty is not None:
            broken[batch["novelty"] > rules.max_novelty] = "max_novelty"
        if rules.min_novelty is not None:
            broken[batch["novelty"] < rules.min_novelty] = "min_novelty"
        if rules.min_level is not None:
            broken[batch["rms_db"] < rules.min_level] = "min_level"
        return broken.tolist()

    def _score(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        if self.rules.best_of == 1:
            return np.zeros(len(batch["novelty"]))
        if self.rules.score == "typicality":
            return self._log_density(batch["z"])
        return SCORES[self.rules.score](batch)

    # Distances: one product per batch finds which of many kept sounds could be near; those few are
    # compared exactly, so that the verdict does not hang on how a product was rounded.

    def _candidates(self, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Per draw, which of the sounds kept before this batch [n] could be too near."""
        points = batch["point"]
        self._kept_before = self.kept
        if self._radius is None or not self.kept:
            return [np.zeros(0, np.int64)] * len(points)
        known, norms = self._points[: self.kept], self._norms[: self.kept]
        possible = []
        for product, own in zip(2 * points @ known.T, (points**2).sum(1), strict=True):
            # |a|^2 + |b|^2 - 2 ab, of whose parts float32 keeps seven digits.
            together = norms + own
            possible.append(np.flatnonzero(together - product < self._radius**2 + 1e-4 * together))
        return possible

    def _near(self, point: np.ndarray, candidates: np.ndarray) -> str | None:
        """The rule that a draw breaks by being near to one of `candidates` or of this batch."""
        rows = np.concatenate([candidates, np.arange(self._kept_before, self.kept)])
        if self._radius is None or not len(rows):
            return None
        squared = ((self._points[rows] - point) ** 2).sum(1)
        return "unique" if squared.min() < self._radius**2 else None

    def _keep(self, point: np.ndarray) -> None:
        if self._radius is not None:
            if self.kept == len(self._points):
                # Twice the room, so that all copying together costs no more than the last.
                room = np.zeros((max(64, 2 * self.kept), len(point)), np.float32)
                room[: self.kept] = self._points.reshape(-1, len(point))
                self._points = room
                self._norms = np.resize(self._norms, len(room))
            self._points[self.kept] = point
            self._norms[self.kept] = point @ point
        self.kept += 1
