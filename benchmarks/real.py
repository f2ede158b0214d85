"""Presets on folders of recorded sounds, beside PCA, on sounds that they never heard.

    python -m benchmarks.real --data FOLDER [--by folder|pitch|hash] [--folds 5] [--presets ...]
    python -m benchmarks.real --train FOLDER FOLDER --test FOLDER

Of every division of the sounds, `train.py` trains each preset on the training sounds alone: those
that it holds out to choose its weights are among them. The test sounds are then rebuilt by the run,
by PCA of equal width on the same features, by that of augmented copies which the run starts from,
and, if asked for, by a system of the workshop's shape in TensorFlow; all but the last go through
the same phase recovery. `docs/real-sounds.md` has sets to try it on.
"""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import divide, record
from benchmarks.divide import By, Fold
from vaejax import cli, files
from vaejax.interrupts import INTERRUPTED

ROOT = Path(__file__).resolve().parents[1]
SYNTH = "synth"
# Of new sounds, in the table; the file has more.
NEW = ("frechet_mel", "precision", "recall", "novelty", "copies")


@dataclass(frozen=True)
class Options:
    """Options of benchmarks.real."""

    data: Path | None = None
    """Folder whose sounds are divided into training and test sounds; or `synth`, the built-in set,
    which is tested on sounds of another seed."""
    train: tuple[Path, ...] = ()
    """Folders that are trained on in any case."""
    test: tuple[Path, ...] = ()
    """Folders that are tested on, instead of a part of --data."""
    by: By = "folder"
    """What stays together: the sounds of a `folder` (a kit, an instrument), of a `pitch`, or
    nothing but the copies of a file (`hash`)."""
    pitch_pattern: str = r"_(?P<pitch>\d+)_"
    """Where the pitch is in a file's name, as data.pitch_pattern."""
    hold_out: tuple[str, ...] = ()
    """Folders or pitches (036) to test on."""
    folds: int = 0
    """Divisions in which every group is tested on once; 0 is a single one."""
    fraction: float = 0.1
    """Of the sounds, to test on; where neither --hold_out nor --folds says which."""
    presets: tuple[str, ...] = ("configs/default.py",)
    """Each is trained and tested."""
    overrides: tuple[str, ...] = ()
    """Settings for all of them: train.num_steps=200."""
    seconds: float | None = None
    """Stops training after so long, its start counted."""
    limit: int = 512
    """Test sounds of a division, at most."""
    num: int = 0
    """New sounds of every system, to be compared with the training sounds as sets."""
    minutes: float = 0.0
    """Of training of the workshop's shape in TensorFlow; 0 leaves it out."""
    workdir: Path = Path("runs/real")
    """Folder for divisions and runs. What is trained already is only measured again."""
    name: str = ""
    """Of the file of results; by default that of what is tested on."""
    save: bool = True
    """Write it, to benchmarks/results/."""
    debug: bool = False
    """Show where an error arose."""


def main(argv: list[str]) -> None:
    """Parses the command line, trains and measures."""
    assert __doc__ is not None
    options = cli.parse(Options, Options(), argv, description=__doc__)
    problem = usage_problem(options)
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        raise SystemExit(cli.USAGE)
    figures = benchmark(options)
    print(table(figures))
    if options.save:
        record.save(f"real-{figures['name']}", figures, show=False)


def usage_problem(options: Options) -> str | None:
    """Why the options ask for nothing, or for two things at once; None where they do not."""
    if (options.data is None) == (not options.test):
        return "give --data FOLDER to divide, or --train FOLDER and --test FOLDER"
    if options.test and not options.train:
        return "--test needs --train, the folders to train on"
    if options.hold_out and (options.folds or options.by == "hash"):
        return (
            "--hold_out names folders or pitches of one division; leave out --folds and --by hash"
        )
    if str(options.data) == SYNTH and (options.train or options.hold_out or options.folds):
        return f"--data {SYNTH} is tested on other sounds of the built-in set: nothing is divided"
    for text in options.overrides:
        if not re.fullmatch(r"\w+\.\w+=.+", text):
            return f"--overrides {text} must be SECTION.FIELD=VALUE"
    for preset in options.presets:
        if not (ROOT / preset).is_file():
            return f"--presets {preset} is no file"
    return None


def benchmark(options: Options) -> dict[str, Any]:
    """All figures, ready for JSON."""
    divisions = folds(options)
    # Compiled programs outlive a division.
    cli.start_jax(options.workdir)
    from benchmarks import scores

    presets: dict[str, Any] = {}
    for preset in options.presets:
        runs, parts = [], []
        folder = options.workdir / Path(preset).stem
        for number, fold in enumerate(divisions):
            print(f"{preset}, division {number + 1} of {len(divisions)}", flush=True)
            place = folder / str(number)
            trained = train(preset, fold, place, options)
            about, part = measure(place, options)
            runs.append({**trained, **about})
            parts.append(part)
        every = scores.together(parts)
        rows = (json.dumps(line) + "\n" for line in scores.lines(every))
        files.write_text(folder / "sounds.jsonl", "".join(rows))
        presets[preset] = {"runs": runs, "by_kind": scores.summary(every)}
    tested = options.test or (options.data,)
    return {
        "name": options.name or "-".join(Path(f).resolve().name for f in tested if f),
        "settings": _settings(options),
        "divisions": [
            {"groups": fold.groups, "train": _count(fold.train), "test": _count(fold.test)}
            for fold in divisions
            if fold
        ],
        "presets": presets,
    }


def _settings(options: Options) -> dict[str, Any]:
    """What was asked for; of folders their names, since where they lie is nobody's business."""
    apart = ("name", "workdir", "save", "debug")
    return {
        key: [Path(f).resolve().name for f in value] if key in ("train", "test") else value
        for key, value in vars(options).items()
        if key not in apart
    } | {"data": options.data and options.data.resolve().name}


def _count(sounds: Sequence[divide.Sound]) -> dict[str, int]:
    """How many sounds of each source."""
    return dict(Counter(sound.name.partition("/")[0] for sound in sounds))


def folds(options: Options) -> list[Fold | None]:
    """The divisions; None for the built-in set, which makes its own.

    Raises:
      ValueError, FileNotFoundError: folders, groups or pitches that are not there.
    """
    if str(options.data) == SYNTH:
        return [None]
    always = divide.listed(options.train)
    if options.data is None:
        test = divide.listed(options.test)
        return [Fold([], divide.without(always, test), test)]
    sounds = divide.listed([options.data], by=options.by, pattern=options.pitch_pattern)
    if options.folds:
        found = divide.in_turn(sounds, options.folds, by=options.by)
    elif options.hold_out:
        found = [divide.named(sounds, options.hold_out)]
    else:
        found = [divide.once(sounds, by=options.by, fraction=options.fraction)]
    return [fold._replace(train=divide.without(always, fold.test) + fold.train) for fold in found]


def train(preset: str, fold: Fold | None, place: Path, options: Options) -> dict[str, Any]:
    """Trains a preset on a division, unless it has been: seconds, and whether they were all.

    Raises:
      ValueError: training failed, or the folder has a run of other settings.
    """
    asked = ["--config", preset, *(word for o in options.overrides for word in _option(o))]
    about = {
        "asked": asked,
        "seconds": options.seconds,
        "preset": _preset_fingerprint(preset),
        "sounds": _fingerprint(fold),
    }
    done = place / "trained.json"
    if done.exists():
        trained = json.loads(done.read_text())
        if trained["about"] != about:
            raise ValueError(f"{place} has a run of other settings; choose another --workdir")
        return trained["figures"]
    place.mkdir(parents=True, exist_ok=True)
    place = place.resolve()
    data = ["--data", SYNTH]
    if fold is not None:
        divide.place(fold.test, place / "test")
        train_folder = divide.place(fold.train, place / "train")
        data = ["--data", str(train_folder), "--data.cache_dir", str(place / "cache")]
    command = [*asked, *data, "--workdir", str(place / "run")]
    started = time.perf_counter()
    script = str(ROOT / "train.py")
    # Out of reach of Ctrl-C: a second signal would stop it before it has saved.
    process = subprocess.Popen([sys.executable, script, *command], cwd=ROOT, start_new_session=True)
    stopped = False
    try:
        code = process.wait(options.seconds)
    except BaseException as reason:
        process.send_signal(signal.SIGINT)
        code = process.wait()
        stopped = isinstance(reason, subprocess.TimeoutExpired)
        if not stopped:
            raise
    if code not in ((cli.DONE, INTERRUPTED) if stopped else (cli.DONE,)):
        raise ValueError(f"train.py ended with exit code {code}; its own words are above")
    figures = {"train_seconds": round(time.perf_counter() - started, 1), "stopped": stopped}
    done.write_text(json.dumps({"about": about, "figures": figures}) + "\n")
    return figures


def _option(text: str) -> list[str]:
    name, _, value = text.partition("=")
    return [f"--{name}", *value.split()]


def _preset_fingerprint(preset: str) -> str:
    """Of all that training depends on: how sounds are made of magnitudes may change since."""
    settings = asdict(cli.load_preset(str(ROOT / preset)))
    del settings["sound"]
    return _digest(settings)


def _fingerprint(fold: Fold | None) -> str:
    parts = (fold.train, fold.test) if fold else ()
    return _digest([[(sound.name, sound.digest) for sound in part] for part in parts])


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def measure(place: Path, options: Options) -> tuple[dict[str, Any], Any]:
    """What is to say of a run, and the figures of its test sounds.

    Raises:
      ValueError: a run without its own sounds has no PCA.
    """
    from benchmarks import scores, workshop
    from vaejax.evaluate import judging, systems
    from vaejax.run.load import load_run

    run = load_run(place / "run")
    config = run.config
    own, why_not = judging.own_sounds(run)
    if own is None:
        raise ValueError(f"no PCA to compare with: {why_not}")
    data = config.data
    if data.source == SYNTH:
        data = replace(data, synth_seed=data.synth_seed + 1, synth_count=options.limit)
    else:
        data = replace(data, source=str((place / "test").resolve()))
    judged = judging.given_sounds(run, data)
    rows = judged.held_out_rows[: options.limit]
    compared = systems.create(run, own)
    audio = {
        system.name: scores.rebuilt(
            system, judged, rows, fitted=run.instrument.fitted, config=config
        )
        for system in compared
        if system.rebuild is not None
    }
    about: dict[str, Any] = {
        "step": run.step,
        "latent_dim": config.latent_dim,
        "test_sounds": len(rows),
        "rejected": len(judged.corpus.rejected),
        "counts": run.data["counts"],
    }
    if options.minutes:
        # It has nothing to choose by: what the run holds out is trained on as well.
        clips, held_out = own.read(np.arange(len(own.corpus)))[0], judged.read(rows)[0]
        about["workshop"], audio[scores.WORKSHOP] = workshop.peer(
            clips, held_out, config, minutes=options.minutes
        )
    if options.num:
        about["new"] = scores.new_sounds(run, compared, options.num, len(rows))
    return about, scores.scored(judged, rows, audio, config=config)


def table(figures: dict[str, Any]) -> str:
    """The figures as tables in Markdown, by preset and kind of sound."""
    head = ["", "sounds", "`mel_l1_db`", "of PCA", "of pPCA", "`lsd_db`", "onset", "step"]
    head += ["`body_db`", "within 3 dB"]
    lines = []
    for preset, found in figures["presets"].items():
        for kind, systems in found["by_kind"].items():
            lines += ["", f"{figures['name']}, {preset}: {kind}", "", _row(head)]
            lines.append(_row(["---"] * len(head)))
            lines += [_row(_cells(name, system)) for name, system in systems.items()]
        if "new" in found["runs"][0]:
            lines += ["", f"{figures['name']}, {preset}: new sounds", "", _row(["", *NEW])]
            lines.append(_row(["---"] * (1 + len(NEW))))
            parts = [run["new"]["systems"] for run in found["runs"]]
            for name in parts[0]:
                means = (np.mean([part[name][key]["value"] for part in parts]) for key in NEW)
                lines.append(_row([name, *(f"{mean:.3g}" for mean in means)]))
    return "\n".join([*lines, ""])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(name: str, system: dict[str, Any]) -> list[str]:
    def shown(key: str, digits: int = 2, scale: float = 1.0) -> str:
        if key not in system:
            return ""
        value, low, high = (scale * system[key][k] for k in ("value", "low", "high"))
        return f"{value:.{digits}f} ({low:.{digits}f}..{high:.{digits}f})"

    return [
        name,
        str(system["sounds"]),
        shown("mel_l1_db"),
        shown("ratio_to_pca"),
        shown("ratio_to_ppca"),
        shown("lsd_db"),
        *(f"{100 * system[key]['value']:.0f} %" for key in ("onset", "onset_step")),
        shown("body_db", 1),
        f"{100 * system['body_within_3_db']['value']:.0f} %"
        if "body_within_3_db" in system
        else "",
    ]


if __name__ == "__main__":
    cli.run(main)
