"""train.py and sample.py as processes of their own, and what must come out of them."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
FAULTY = Path(__file__).parent / "faulty"
# The smallest run that does all there is to do: pack, fit, train, evaluate, save, fit a prior.
TINY = (
    *("--config", "configs/tiny.py", "--data.sample_rate", "8000", "--data.clip_seconds", "0.25"),
    *("--features.n_fft", "256", "--features.hop_length", "64", "--model.latent_dim", "4"),
    *("--model.width", "16", "--model.ppca_clips", "32", "--model.num_directions", "8"),
    *("--model.dense_width", "16", "--model.num_stages", "1", "--model.dense_depth", "1"),
    *("--train.batch_size", "8", "--train.steps_per_dispatch", "1"),
    *("--train.log_every_steps", "1", "--train.eval_every_steps", "4"),
    *("--train.save_every_steps", "2", "--train.board_clips", "1", "--prior.max_components", "2"),
)
# Of a line of metrics.jsonl, what depends on the clock.
TIMED = ("clips_per_second",)
# A process that takes so many times as long as an uninterrupted one, and at least so many seconds,
# hangs: the machine may be busy.
HANGS, HANGS_SECONDS = 10.0, 180.0

_restoring = threading.Lock()


class Ended(NamedTuple):
    """How a process ended."""

    code: int
    """Of the exit; negative for the signal that ended it."""
    seconds: float
    said: str
    """Standard error."""
    hung: bool
    """Whether it had to be ended."""

    def trouble(self, *, failing: bool) -> str | None:
        """What is wrong with the end: 0, or, if a write failed, 1 with one line; None if nothing.

        Args:
          failing: whether it may fail.
        """
        lines = [line for line in re.split(r"[\r\n]+", self.said) if line.startswith("error: ")]
        if self.hung:
            return "it hung"
        if self.code == 0 and not lines:
            return None
        if self.code == 1 and failing and len(lines) == 1 and "Traceback" not in self.said:
            return None
        return f"exit code {self.code}: {self.said[-2000:]}"


class Program(NamedTuple):
    """A command that makes the same whatever happens on the way."""

    name: str
    """`train` or `sample`."""
    argv: Callable[[Path], list[str]]
    """The script and its arguments, for a folder of its own."""
    results: Callable[[Path], dict[str, str]]
    """What is in that folder: name -> a hash of it."""
    compiled: Path
    """Compiled programs, shared by all processes."""
    refusal: str | None = None
    """What it says instead of doing it all again, if it does not end with 0 then."""

    def is_done(self, ended: Ended) -> bool:
        """Whether a process came to the end of its work, or found it done."""
        refused = self.refusal is not None and ended.code == 1 and self.refusal in ended.said
        return ended.code == 0 or refused

    def start(self, home: Path, **plan) -> subprocess.Popen:
        """Starts it; `plan` is that of `faulty/sitecustomize.py`."""
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(FAULTY), str(ROOT)]),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.compiled),
            "VAEJAX_CACHE": str(home / "cache"),
        }
        if plan:
            env["VAEJAX_TRUST"] = json.dumps({"roots": [str(home)], **plan}, default=str)
        return subprocess.Popen(
            [sys.executable, *self.argv(home)],
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
        )

    def run(
        self,
        home: Path,
        *,
        usual: float = 0.0,
        after: float | None = None,
        number: int = signal.SIGKILL,
        **plan,
    ) -> Ended:
        """Runs it to its end.

        Args:
          usual: seconds that it takes if nothing happens.
          after: seconds from its start to a signal, or from when Python comes to the program if a
            file `started` says so; None for none.
          number: of the signal.
        """
        begun = time.monotonic()
        process = self.start(home, **plan)
        if after is not None:
            while "started" in plan and not plan["started"].exists() and process.poll() is None:
                time.sleep(0.001)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after)
            process.send_signal(number)
        try:
            _, said = process.communicate(timeout=max(HANGS * usual, HANGS_SECONDS))
            hung = False
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            hung = True
        return Ended(process.returncode, time.monotonic() - begun, said, hung)


def train(folder: Path, *, num_steps: int) -> Program:
    """A whole training, on sounds that are written to `folder`."""
    sounds = folder / "sounds"
    if not sounds.exists():
        write_sounds(folder / "sounds-under-way")
        (folder / "sounds-under-way").rename(sounds)
    options = [*TINY, "--train.num_steps", str(num_steps), "--data", str(sounds)]
    return Program(
        "train",
        lambda home: [str(ROOT / "train.py"), *options, "--workdir", str(home / "run")],
        lambda home: trained(home / "run") | packed(home / "cache"),
        folder / "compiled",
    )


def sample(folder: Path, workdir: Path, *, num: int) -> Program:
    """New sounds of a run, with everything that goes with them."""
    options = ["--workdir", str(workdir), "--num", str(num), "--zip", "--sfz", "--loop"]
    options += ["--format", "flac", "--batch_size", "32"]
    return Program(
        "sample",
        lambda home: [str(ROOT / "sample.py"), *options, "--out", str(home / "out")],
        contents,
        folder / "compiled",
        refusal="already holds",
    )


def write_sounds(folder: Path, num: int = 32) -> None:
    """Decaying tones in two folders, WAV and FLAC."""
    rng = np.random.default_rng(3)
    rate = 11_025
    for i in range(num):
        label = ("low", "high")[i % 2]
        t = np.arange(int(rate * rng.uniform(0.1, 0.4))) / rate
        tone = np.sin(2 * np.pi * rng.uniform(80, 200) * (1 + 3 * (i % 2)) * t)
        tone *= np.exp(-rng.uniform(4, 16) * t)
        (folder / label).mkdir(parents=True, exist_ok=True)
        suffix = ("wav", "flac")[i % 3 == 0]
        soundfile.write(folder / label / f"{i:02d}.{suffix}", 0.5 * tone, rate)


def contents(home: Path) -> dict[str, str]:
    """Every file of a folder."""
    paths = (path for path in sorted(home.rglob("*")) if path.is_file())
    return {path.relative_to(home).as_posix(): _hash(path.read_bytes()) for path in paths}


def trained(run: Path) -> dict[str, str]:
    """A run folder: every array and every line, and the name of every file, left behind or not."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.name.startswith(".") or "tmp" in path.name:
            found[name] = "left behind"
        elif path.is_file() and not name.startswith(("checkpoints/", "tensorboard/")):
            found[name] = "there"
    for name in ("config.json", "data.json", "fitted.npz", "prior.npz"):
        found[name] = _hash((run / name).read_bytes()) if (run / name).exists() else "missing"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in TIMED} for row in rows]
    found["metrics.jsonl"] = _hash(json.dumps(rows).encode())
    for series in ("last", "best"):
        steps = [p for p in (run / "checkpoints" / series).iterdir() if p.name.isdigit()]
        newest = max(steps, key=_step)
        found[f"checkpoints/{series}"] = f"{newest.name}: {_checkpoint(newest)}"
    return found


def packed(cache: Path) -> dict[str, str]:
    """The cache of decoded sounds: every file of it. The name of a pack is drawn anew each time."""
    found: dict[str, str] = {}
    for path in sorted(path for path in cache.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if path.suffix == ".json":
            content = re.sub(rb"clips-[0-9a-f]{32}", b"clips", content)
        name = re.sub(r"clips-[0-9a-f]{32}", "clips", path.relative_to(cache.parent).as_posix())
        found[name] = _hash(content) + found.get(name, "")
    return found


def _step(path: Path) -> int:
    return int(path.name)


def _checkpoint(path: Path) -> str:
    """A hash of all arrays and texts of a checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    digest = hashlib.blake2b(digest_size=8)
    for item in sorted(part for part in path.iterdir() if part.is_dir()):
        if not (item / "_METADATA").exists():
            digest.update((item / "metadata").read_bytes())
            continue
        with _restoring:
            tree = ocp.StandardCheckpointer().restore(item.absolute())
        for place, leaf in jax.tree.flatten_with_path(tree)[0]:
            digest.update(jax.tree_util.keystr(place).encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def fresh(home: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    return home


def differences(found: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Names of what is not as it is without an interruption."""
    return sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
