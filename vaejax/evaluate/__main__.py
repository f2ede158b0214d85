"""Measures a run: reconstruction, generation and the bound, beside baselines and anchors.

    python -m vaejax.evaluate --workdir runs/NAME [--data FOLDER] [--num 2000] [--out FILE]

Writes a JSON of all figures and a page to look at and listen to, and prints a table.
"""

import json
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vaejax import cli, files

DESCRIPTION = (
    "Measures a run: how well it rebuilds sounds that it was not trained on, how good, varied and "
    "new its sounds are, and its likelihood bound, each beside what the same figure is for the "
    "training set's own held-out sounds, for PCA and for a Gaussian mixture, with intervals of "
    "95 %. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."
)


@dataclass(frozen=True)
class Options:
    """Options of vaejax.evaluate."""

    workdir: Path = Path("runs/default")
    """Run folder, as train.py left it."""
    data: Path | None = None
    """Folder of sounds to rebuild; by default the run's held-out sounds."""
    num: int = 2000
    """New sounds of every system; 0 leaves generation out."""
    out: Path | None = None
    """JSON file to write, with a page of the same name ending in .html beside it; by default
    evaluation.json in the run folder."""
    overwrite: bool = False
    """Replace an earlier evaluation."""
    clips: int = 512
    """Sounds rebuilt, at most."""
    draws: int = 64
    """k of the importance-weighted bound; 0 leaves the bound out."""
    seed: int = 0
    """Of new sounds: those of `sample.py --seed`."""
    temperature: float = 1.0
    """Of the run's new sounds, as of `sample.py --temperature`; the baselines' stay at 1."""
    debug: bool = False
    """Show where an error arose."""


def main(argv: list[str]) -> None:
    """Parses the command line and evaluates."""
    options = cli.parse(Options, Options(), argv, description=DESCRIPTION)
    problem = _usage_problem(options)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(cli.USAGE)
    out = options.out or options.workdir / "evaluation.json"
    page = out.with_suffix(".html")
    if (options.workdir / "config.json").exists():
        cli.start_jax(options.workdir)
    if not options.overwrite and (there := next((p for p in (out, page) if p.exists()), None)):
        raise ValueError(f"{there} exists; choose another --out, or add --overwrite")
    if not out.parent.is_dir() and options.out:
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} to")
    files.clean(out.parent, (out.name, page.name))
    started = time.time()
    figures, examples = evaluate(options)
    figures["seconds"] = round(time.time() - started, 1)

    from vaejax.evaluate import report

    files.write_text(out, json.dumps(figures, indent=1) + "\n")
    files.write_text(page, report.page(figures, examples))
    print(report.table(figures))
    print(f"wrote {out} and {page} in {figures['seconds']:.0f} s")


def _usage_problem(options: Options) -> str | None:
    for name, value, least in (
        ("num", options.num, 0),
        ("clips", options.clips, 1),
        ("draws", options.draws, 0),
        ("seed", options.seed, 0),
    ):
        if value < least:
            return f"--{name} {value} must be at least {least}"
    if not 0 <= options.temperature < math.inf:
        return f"--temperature {options.temperature} must be 0 or more, and finite"
    if options.seed >= 2**32:
        return f"--seed {options.seed} must be below 2^32"
    if 0 < options.num < 8:
        return f"--num {options.num} must be 0 or at least 8: fewer sounds make no set"
    if options.out and options.out.suffix == ".html":
        return f"--out {options.out} names the JSON file; the page goes beside it as .html"
    return None


def evaluate(options: Options) -> tuple[dict[str, Any], dict[str, Any]]:
    """All figures, ready for JSON; and what the page shows beside them, as arrays."""
    # Imported here: --help and bad usage need none of it.
    import jax
    import numpy as np

    from vaejax import files, metrics
    from vaejax.evaluate import bound, generation, judging, latent, reconstruction, systems
    from vaejax.objective import context
    from vaejax.run.load import load_run

    run = load_run(options.workdir)
    config, instrument = run.config, run.instrument
    own, why_not = judging.own_sounds(run)
    if options.data is not None:
        judged = judging.given_sounds(run, replace(config.data, source=str(options.data)))
        rows = np.arange(len(judged.corpus))
    elif own is not None:
        judged, rows = own, own.held_out_rows
    else:
        raise ValueError(f"{why_not}; give a folder of sounds to rebuild with --data")
    if why_not:
        print(f"no PCA and no mixture of the training sounds: {why_not}", flush=True)
    rows = rows[: options.clips]
    compared = systems.create(run, own, temperature=options.temperature)
    print(
        f"{options.workdir} at step {run.step}: {len(rows)} sounds to rebuild, "
        f"{options.num} new ones of each system",
        flush=True,
    )

    shared: dict[str, Any] = {"embedding": instrument.embedding, "config": config}
    rebuilt = reconstruction.reconstruct(compared, judged, rows, fitted=instrument.fitted, **shared)
    figures: dict[str, Any] = {
        "run": {
            "workdir": str(options.workdir),
            "fingerprint": run.fingerprint,
            "step": run.step,
            "source": run.data["source"],
            "split": run.data.get("split", {"by": config.data.holdout_by, "groups": []}),
            "counts": run.data["counts"],
            "latent_dim": config.latent_dim,
            "fitted_prior": run.has_fitted_prior,
        },
        "judged": {
            "what": "held-out sounds" if options.data is None else str(options.data),
            "sounds": len(rows),
        },
        "seed": options.seed,
        "temperature": options.temperature,
        "device": jax.devices()[0].device_kind,
        "about": {system.name: system.about for system in compared},
        "reconstruction": reconstruction.reconstruction_table(rebuilt.figures),
        "by_kind": reconstruction.by_kind(rebuilt),
        "sounds": [
            {
                "file": judged.corpus.names[row],
                "label": judged.corpus.labels[row],
                "kind": metrics.KINDS[int(rebuilt.kinds[i])],
                **{
                    name: round(float(values["mel_l1_db"][i]), 4)
                    for name, values in rebuilt.figures.items()
                },
            }
            for i, row in enumerate(rows)
        ],
    }

    figures["latent"] = latent.latent_table(run, judged, rows, is_own=judged is own)

    points = {}
    if options.num:
        reference = generation.reference_of(instrument.embedding, seed=options.seed)
        made = {figures["judged"]["what"]: generation.Generated(rebuilt.points, rebuilt.loudness)}
        for system in compared:
            if system.draw is not None:
                made[system.name] = generation.make_sounds(
                    system,
                    options.num,
                    seed=options.seed,
                    statistics=instrument.fitted.statistics,
                    **shared,
                )
        figures["generation"] = generation.generation_table(
            made, reference, len(rows), seed=options.seed
        )
        points = {"training sounds": reference.points}
        points |= {name: sounds.points for name, sounds in made.items()}

    objective, is_density = config.objective, context.is_density(config)
    if options.draws and not is_density:
        print(
            f"no likelihood: objective.likelihood={objective.likelihood} with "
            f"sigma={objective.sigma} is no density",
            flush=True,
        )
    if options.draws and is_density:
        by_system = {
            system.name: bound.bounds(system, judged, rows, num_draws=options.draws, config=config)
            for system in compared
            if system.weights is not None
        }
        if own is not None:
            ours = next(s for s in compared if s.name == systems.VAEJAX)
            chosen = own.train_rows
            if len(chosen) > len(rows):
                rng = np.random.default_rng(options.seed)
                chosen = np.sort(rng.choice(chosen, len(rows), replace=False))
            by_system["vaejax, training sounds"] = bound.bounds(
                ours, own, chosen, num_draws=options.draws, config=config
            )
        figures["bound"] = bound.bound_table(by_system, num_draws=options.draws, config=config)

    lines = files.read_lines(options.workdir / "metrics.jsonl")
    curve = [m for m in lines if m.get("split") == "held_out"]
    figures["curve"] = [
        {key: m[key] for key in ("step", "loss", "mel_l1_db", "lsd_db") if key in m} for m in curve
    ]
    examples = {
        "points": points,
        "audio": rebuilt.audio,
        "sample_rate": config.data.sample_rate,
        "names": [judged.corpus.names[row] for row in rows],
        "mel_l1_db": rebuilt.figures[systems.VAEJAX]["mel_l1_db"],
    }
    return figures, examples


if __name__ == "__main__":
    cli.run(main)
