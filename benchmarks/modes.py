"""What the modes and the curation of `sample.py` cost beside plain sampling, and what they do.

    python -m benchmarks.modes --workdir runs/default

Sounds per second to disk of each mode over those of plain sampling, alternating in one process with
everything compiled; a curated folder is counted by its draws. Then --match for one file, from a
cold start; how far each attribute moves the sounds of a run; and whether morphs lead straight on.
"""

import contextlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from benchmarks import record

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Options:
    workdir: Path = Path("runs/default")
    """A finished run. What is measured for the attributes is kept in it."""
    num: int = 256
    """Sounds of each call."""
    repeats: int = 5
    draws: int = 128
    """Sounds that each attribute is tried on."""


def main(options: Options) -> None:
    import vaejax

    run = vaejax.load(options.workdir)
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            "workdir": options.workdir.name,
            "num": options.num,
            "over_plain": overhead(run, Path(folder), options),
            "match_seconds": match_seconds(run, Path(folder), options.workdir.resolve()),
            "attributes": attribute_effects(run, options),
            "morph": morph_steps(run),
        }
    record.save(f"modes-{options.workdir.name}", figures)


def overhead(run, folder: Path, options: Options) -> dict[str, Any]:
    """Per mode, the median over repeats of plain seconds per sound over the mode's own."""
    import jax
    import soundfile

    from vaejax.export.files import PLAIN
    from vaejax.sampling import attributes, output, plans, redo
    from vaejax.sampling.curation import Rules

    num, rate = options.num, run.config.data.sample_rate
    corners = [folder / f"{i}.wav" for i in range(4)]
    for path, waveform in zip(corners, run.sample(jax.random.key(1), 4), strict=True):
        soundfile.write(path, waveform, rate)
    sources = folder / "sources"
    sources.mkdir()
    for i, waveform in enumerate(run.sample(jax.random.key(2), num)):
        soundfile.write(sources / f"{i}.wav", waveform, rate)
    label = run.data["files"][int(run.posteriors.rows[0])]["label"]
    draw: dict[str, Any] = {"num": num, "seed": 0, "temperature": 1.0}
    earlier = folder / "earlier"

    def plain():
        return plans.from_prior(run, prior="aggregate", **draw)

    def brighter():
        dz, _ = attributes.step(run, {"brighter": 1.0}, workdir=options.workdir)
        return plain().shifted(dz, {"brighter": 1.0})

    # Every one includes choosing its latents, encoding files too.
    modes = {
        "label": lambda: plans.from_label(run, label, **draw),
        "around": lambda: plans.around(run, corners[0], spread=0.5, **draw),
        "between": lambda: plans.between(run, *corners[:2], num=num, path="spherical"),
        "grid": lambda: plans.grid(run, corners, num=num),
        "reconstruct": lambda: plans.reconstruct(run, sources),
        "attribute": brighter,
        "redo": lambda: redo.plan(
            run, redo.read(earlier, ()), temperature=None, workdir=options.workdir
        ),
        "unique": plain,
        "best_of": plain,
    }
    rules = {"unique": Rules(unique=1.0), "best_of": Rules(best_of=4, min_level=-40)}

    def seconds_per_draw(make, out: Path, rules=None) -> float:
        shutil.rmtree(out, ignore_errors=True)
        begun = time.perf_counter()
        made = output.write_sounds(
            run,
            make(),
            out=out,
            overwrite=False,
            files=PLAIN,
            batch_size=None,
            title="benchmark",
            rules=rules,
        )
        drawn = made.curation.drawn if made.curation else made.num
        return (time.perf_counter() - begun) / drawn

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        seconds_per_draw(plain, earlier)
        for name, make in modes.items():
            seconds_per_draw(make, folder / "out", rules.get(name))
        ratios: dict[str, list[float]] = {name: [] for name in modes}
        rates = []
        for _ in range(options.repeats):
            for name, make in modes.items():
                before = seconds_per_draw(plain, folder / "out")
                own = seconds_per_draw(make, folder / "out", rules.get(name))
                after = seconds_per_draw(plain, folder / "out")
                ratios[name].append(2 * own / (before + after))
                rates.append(2 / (before + after))
    return {
        "plain_sounds_per_second": round(statistics.median(rates), 1),
        "time_ratio": {k: round(statistics.median(v), 3) for k, v in ratios.items()},
        "time_ratio_each": {k: [round(x, 3) for x in v] for k, v in ratios.items()},
    }


def match_seconds(run, folder: Path, workdir: Path) -> dict[str, float]:
    """Wall seconds of `sample.py --match` for one file, compiling everything and nothing."""
    import jax
    import soundfile

    target = folder / "target.wav"
    soundfile.write(
        target, run.sample(jax.random.key(3), 1, temperature=0.7)[0], run.config.data.sample_rate
    )
    argv = ("--workdir", workdir, "--match", target)
    seconds = {}
    for name in ("cold", "warm"):
        begun = time.perf_counter()
        out = folder / f"matched-{name}"
        subprocess.run(
            [sys.executable, "sample.py", *map(str, argv), "--out", str(out)],
            cwd=ROOT,
            check=True,
            capture_output=True,
            env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(folder / "cache")},
        )
        seconds[name] = round(time.perf_counter() - begun, 1)
    return seconds


def attribute_effects(run, options: Options) -> dict[str, Any]:
    """What a step of one standard deviation each way does to new sounds, in those deviations."""
    import jax
    import numpy as np

    from vaejax.sampling import attributes, generate

    z = run.draw(jax.random.key(4), options.draws)
    measures = jax.jit(jax.vmap(partial(attributes.measure, config=run.config)))

    def values(z):
        return generate.in_chunks(measures, run.decode(z), generate.chunk_size())

    before = values(z)
    sounds = attributes.measure_run(run, options.workdir)
    effects: dict[str, Any] = {}
    for i, (name, (unit, thing)) in enumerate(attributes.MEASURES.items()):
        deviation = sounds.values[:, i].std()
        _, r2 = attributes.fit(sounds.steps, sounds.changes[:, i])
        effects[name] = {"of": thing, "unit": unit, "deviation": round(float(deviation), 3)}
        effects[name]["r2"] = round(float(r2), 3)
        if r2 < attributes.MIN_R2:
            continue
        for amount in (1.0, -1.0):
            dz, _ = attributes.step(run, {name: amount}, workdir=options.workdir)
            change = (values(z + dz) - before)[:, i]
            effects[name][f"{amount:+g}"] = {
                "median_change": round(float(np.median(change) / deviation), 3),
                "share_that_moved_so": round(float(np.mean(change * amount > 0)), 3),
            }
    return effects


def morph_steps(run) -> dict[str, Any]:
    """Between pairs of new sounds: the share of steps that lead away from the first and towards
    the second, by embedding distance, and the largest step over the mean one."""
    import jax
    import numpy as np

    from vaejax import metrics

    embedding, rate = run.instrument.embedding, run.config.data.sample_rate
    embed = jax.jit(jax.vmap(lambda w: metrics.embed(w, embedding, sample_rate=rate)))
    ends = run.sample(jax.random.key(5), 16)
    figures: dict[str, Any] = {}
    for path in ("straight", "spherical"):
        onward, largest = [], []
        for a, b in zip(ends[::2], ends[1::2], strict=True):
            points = np.asarray(embed(run.morph(a, b, 16, path=path)))
            away = np.linalg.norm(points - points[0], axis=1)
            towards = np.linalg.norm(points - points[-1], axis=1)
            steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
            onward.append(np.mean([np.diff(away) > 0, np.diff(towards) < 0]))
            largest.append(steps.max() / steps.mean())
        figures[path] = {
            "steps_onward": round(float(np.mean(onward)), 3),
            "largest_over_mean_step": round(float(np.median(largest)), 2),
        }
    return figures


if __name__ == "__main__":
    main(tyro.cli(Options))
