"""What a sweep saves: members trained at once against the same runs one after another.

    python -m benchmarks.sweep [--config configs/tiny.py] [--members 4] [--rounds 20]

The same runs in one process, their steps in turns: one step of the population, then one of each run
alone, so that both meet the same machine. Compilation is excluded and reported apart. Once for
members that see the same batches (values of beta) and once for members that do not (seeds).
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import record
from vaejax import cli
from vaejax import config as configs
from vaejax.config import Config
from vaejax.train import sweep


@dataclass(frozen=True)
class Options:
    config: str = "configs/tiny.py"
    members: int = 4
    rounds: int = 20
    """Steps timed of each."""


def main(options: Options) -> None:
    from vaejax.data import sounds
    from vaejax.train.fit import fit

    config = cli.load_preset(options.config)
    dataset = sounds.load(config)
    fitted = fit(dataset, config)
    betas = [config.objective.beta * 2.0**i for i in range(options.members)]
    figures = {
        "betas": measured("objective.beta", betas, config, dataset, fitted, options),
        "seeds": measured(
            "train.seed", list(range(options.members)), config, dataset, fitted, options
        ),
    }
    record.save(
        f"sweep-{Path(options.config).stem}",
        {"config": options.config, "members": options.members, **figures},
    )


def measured(name: str, values, config: Config, dataset, fitted, options: Options) -> Any:
    """Seconds per step of a population over the values of a field, and of its runs in turn."""
    import jax

    from vaejax.train import population
    from vaejax.train.state import create_state
    from vaejax.train.step import make_steps

    members = [
        sweep.Member(str(v), {name: v}, configs.replaced(config, {name: v}), Path()) for v in values
    ]
    told = dataset.told.condition_dim

    def timed(run_steps, state, step):
        started = time.perf_counter()
        state, metrics = run_steps(state, step)
        jax.block_until_ready(metrics)
        return state, time.perf_counter() - started

    states = [create_state(m.config, told) for m in members]
    steps, steps_in = population.make_steps(members, dataset, [fitted] * len(members))
    together = population.stack(states)
    together, together_compile = timed(steps, together, 0)
    alone, alone_compile = [], 0.0
    for member, state in zip(members, states, strict=True):
        own, _ = make_steps(member.config, dataset, fitted)
        state, seconds = timed(own, state, 0)
        alone_compile += seconds
        alone.append((own, state))

    at_once, in_turn = [], []
    for i in range(1, options.rounds + 1):
        together, seconds = timed(steps, together, i * steps_in)
        at_once.append(seconds / steps_in)
        total = 0.0
        for k, (own, state) in enumerate(alone):
            state, seconds = timed(own, state, i * steps_in)
            alone[k] = own, state
            total += seconds / steps_in
        in_turn.append(total)
    ratios = [b / a for a, b in zip(at_once, in_turn, strict=True)]
    return {
        "step_ms_at_once": round(1e3 * statistics.median(at_once), 1),
        "step_ms_in_turn": round(1e3 * statistics.median(in_turn), 1),
        "speedup": {
            "median": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        },
        "first_step_seconds_at_once": round(together_compile, 1),
        "first_step_seconds_in_turn": round(alone_compile, 1),
    }


if __name__ == "__main__":
    main(tyro.cli(Options))
