"""How many sounds are needed: held-out audio after training on fewer and fewer of a set.

    python -m benchmarks.amount --counts 60 120 240 480 960 1856

The held-out sounds are the same throughout. With `--steps 0` only the linear path is fitted, which
is where training starts; otherwise the best evaluation of so many steps counts as well.
"""

from dataclasses import dataclass

import tyro

from benchmarks import record


@dataclass(frozen=True)
class Options:
    config: str = "configs/default.py"
    """Preset."""
    data: str = "synth"
    """Folder of sounds, or the built-in set."""
    counts: tuple[int, ...] = (60, 120, 240, 480, 960, 1856)
    """Training sounds, chosen by a hash of each file."""
    steps: int = 0
    """Steps of training after the linear path; a multiple of `every`."""
    every: int = 50
    """Steps between evaluations."""


def main(options: Options) -> None:
    import dataclasses

    import numpy as np

    from vaejax import cli
    from vaejax.data import sounds
    from vaejax.train import evaluation
    from vaejax.train.fit import fit
    from vaejax.train.state import create_state
    from vaejax.train.step import make_steps

    config = cli.load_preset(options.config)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, source=options.data),
        train=dataclasses.replace(config.train, num_steps=max(options.steps, 1)),
    )
    full = sounds.load(config)
    rows = full.train_rows[np.argsort([full.corpus.hashes[row] for row in full.train_rows])]
    figures = []
    for count in options.counts:
        chosen = np.sort(rows[:count])
        if len(chosen) < count:
            raise ValueError(f"{count} training sounds were asked for; there are {len(rows)}")

        # The same corpus and held-out sounds, with a part of the training sounds.
        class Part(sounds.Sounds):
            train_rows = chosen

        part = Part(*full)
        fitted = fit(part, config)
        evaluate = evaluation.make_evaluate(config, part, fitted)
        state = create_state(config)
        start = evaluate(state.ema)[0]["mel_l1_db"]
        best, best_step = start, 0
        if options.steps:
            run_steps, steps_in = make_steps(config, part, fitted)
            for step in range(0, options.steps, steps_in):
                state, _ = run_steps(state, step)
                done = step + steps_in
                if done % options.every == 0:
                    now = evaluate(state.ema)[0]["mel_l1_db"]
                    best, best_step = min((best, best_step), (now, done))
        figures.append(
            {
                "sounds": count,
                "start_mel_l1_db": round(start, 2),
                "best_mel_l1_db": round(best, 2),
                "best_step": best_step,
            }
        )
        print(figures[-1], flush=True)
    record.save(
        "amount",
        {"config": options.config, "data": options.data, "steps": options.steps, "runs": figures},
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
