"""When training stops by itself: once held-out sounds have long come no nearer than by chance.

Every evaluation measures the same sounds with the same noise, so what is looked at is how much
nearer each of them has come. Their mean counts as a gain if it is above its standard error: with
few sounds, or sounds that disagree, only a large gain does (the one-standard-error rule of Breiman
et al. 1984). The reference stays until there is one, so that small gains add up to one.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vaejax.config import Config


class Progress(NamedTuple):
    """How far a run has come on its held-out sounds; a checkpoint keeps it."""

    best: dict[str, float]
    """`step` and figures of the best weights; {"loss": inf} before there are any."""
    since: int
    """Step of the evaluation that was the last to be better by more than chance."""
    errors: tuple[float, ...]
    """`train.best_by` of each held-out sound at that step."""
    waited: int = 0
    """Evaluations since then."""


BEGIN = Progress({"loss": math.inf}, 0, ())
# What a checkpoint has of it beside the figures of the best weights.
STORED = ("since", "errors", "waited")


def after(
    progress: Progress, step: int, values: Mapping[str, float], errors, config: Config
) -> Progress:
    """The progress of a run after one more evaluation.

    Args:
      values: its figures.
      errors: [num] `train.best_by` of each held-out sound; of a figure that only a set of sounds
        has, that one value, whose every fall then counts.
    """
    by = config.train.best_by
    if values[by] < progress.best.get(by, math.inf):
        progress = progress._replace(best={"step": step, **values})
    if not progress.errors or is_gain(progress.errors, errors):
        return progress._replace(since=step, errors=tuple(map(float, errors)), waited=0)
    return progress._replace(waited=progress.waited + 1)


def is_gain(before, now) -> bool:
    """Whether errors of the same sounds, [num] each, fell by more than chance."""
    gains = np.asarray(before, np.float64) - np.asarray(now, np.float64)
    chance = gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return bool(gains.mean() > chance)


def is_over(progress: Progress, config: Config) -> bool:
    """Whether the last gain is as many evaluations back as `train.patience` says."""
    # Without best weights (they were damaged), the next evaluation has to find some first.
    return "step" in progress.best and 0 < config.train.patience <= progress.waited


def explain(progress: Progress, step: int, config: Config) -> str:
    """Why a run stopped at a step, and what is used of it, in a sentence."""
    by, best = config.train.best_by, progress.best
    name = "held-out audio" if by.endswith("_db") else f"held-out {by}"
    at = f"step {int(best['step'])} ({figure(best[by], by)})"
    begun = f"stopped at step {step} of {config.train.num_steps}: "
    if best["step"] == 0:
        start = "the start, which is PCA" if config.model.ppca_clips else "the start"
        return (
            f"{begun}{name} was best at {at}, {start}, whose weights are kept and used: nothing "
            "was learned that holds for other sounds; more sounds would help most"
        )
    if best["step"] == progress.since:
        return f"{begun}{name} last improved at {at}; the best weights are kept and used"
    return (
        f"{begun}{name} has not improved by more than chance since step {progress.since}; the best "
        f"weights, of {at}, are kept and used"
    )


def way_on(progress: Progress, step: int, config: Config) -> str:
    """The options under which a run that is finished at a step goes on."""
    options = []
    if step >= config.train.num_steps:
        options.append("a larger --train.num_steps")
    if is_over(progress, config):
        options.append(f"more --train.patience than {config.train.patience} (0: without end)")
    return " and ".join(options)


def figure(value: float, by: str) -> str:
    """A held-out figure with its unit."""
    return f"{value:.2f} dB" if by.endswith("_db") else f"{value:.6g} nats"


def to_json(progress: Progress) -> dict[str, Any]:
    """For a checkpoint."""
    return {**progress.best, **{name: getattr(progress, name) for name in STORED}}


def from_json(stored: Mapping[str, Any], step: int) -> Progress:
    """What `to_json` returned, of a checkpoint at a step; that of an older version has the best
    figures alone, and patience begins at the checkpoint."""
    best = {k: v for k, v in stored.items() if k not in STORED}
    since, waited = stored.get("since", step), stored.get("waited", 0)
    return Progress(best, int(since), tuple(stored.get("errors", ())), int(waited))
