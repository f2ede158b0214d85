"""Shared by all tests: the CPU, one compilation cache, a scratch cache of sounds, one trained run.

Rank promotion is not forbidden here: the signal code multiplies [num_frames, n_fft] by a window
[n_fft] throughout. The tests of the model and of the objective, where a promoted axis would be a
bug, forbid it with the fixture `no_rank_promotion`.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

# Before jax is imported, and inherited by the scripts that tests start and by parallel workers.
if "VAEJAX_TESTS_SCRATCH" not in os.environ:
    os.environ["VAEJAX_TESTS_SCRATCH"] = tempfile.mkdtemp(prefix="vaejax-tests-")
    atexit.register(shutil.rmtree, os.environ["VAEJAX_TESTS_SCRATCH"], ignore_errors=True)
SCRATCH = Path(os.environ["VAEJAX_TESTS_SCRATCH"])
os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests run a few times each: most of the time went into making them fast. The other
# flags save a sixth of the suite; XLA ends a process that gives it a flag it does not know (any
# more), so one is asked first, once for all parallel workers.
_QUICK = "--xla_backend_optimization_level=1"
_PLAIN = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


def _is_known(flag: str) -> bool:
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    flags = {**os.environ, "XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, env=flags, capture_output=True).returncode == 0


if _QUICK not in os.environ.get("XLA_FLAGS", ""):
    quick = f"{_QUICK} {_PLAIN}" if _is_known(_PLAIN) else _QUICK
    os.environ["XLA_FLAGS"] = f"{quick} {os.environ.get('XLA_FLAGS', '')}"
# Threads of BLAS wait for one another by spinning, on cores that the other worker needs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ["VAEJAX_CACHE"] = str(SCRATCH / "sounds")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(SCRATCH / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Tracing a program makes many small objects that live on: a collection every 700 of them costs
# 5 % of the suite.
gc.set_threshold(100_000, 50, 100)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import soundfile  # noqa: E402

from vaejax import cli, interrupts  # noqa: E402
from vaejax.config import (  # noqa: E402
    Augment,
    Config,
    Data,
    Features,
    Model,
    Objective,
    Prior,
    Train,
)
from vaejax.data import pack  # noqa: E402
from vaejax.data.sounds import Sounds, describe  # noqa: E402
from vaejax.train.fit import fit  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
# What a shell starts in the background ignores SIGINT, and so would the scripts that tests start
# and interrupt; under nohup it is SIGHUP.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# Presets import one another as `configs.NAME`, which a script in the root finds by itself.
sys.path.insert(0, str(ROOT))

# The tiny preset with everything that a test's time depends on pinned.
TINY = (
    *("--config", "configs/tiny.py"),
    *("--model.latent_dim", "8", "--model.width", "32", "--model.ppca_clips", "64"),
    *("--model.num_directions", "16", "--model.dense_width", "32"),
    # Layers cost compilation, which is most of what a run of the tests does.
    *("--model.num_stages", "1", "--model.dense_depth", "1"),
    *("--train.num_steps", "30", "--train.batch_size", "16", "--train.steps_per_dispatch", "1"),
    *("--train.log_every_steps", "1", "--train.eval_every_steps", "10"),
    *("--train.save_every_steps", "5", "--train.board_clips", "1", "--train.patience", "0"),
    *("--prior.max_components", "2"),
)


# What runs no script: a program runs once or twice here, and to optimize it takes longer.
QUICK = (
    *("models", "objective", "signal/test_phase.py", "signal/test_circular.py"),
    *("test_configs.py", "test_lowering.py"),
    *("train/test_population.py", "train/test_training.py"),
)
_quickly = [False]


@contextlib.contextmanager
def compiled_quickly(quickly: bool = True):
    """Programs compiled within are hardly optimized; only those are equal bit for bit."""
    _quickly.append(quickly)
    jax.config.update("jax_disable_most_optimizations", quickly)
    try:
        yield
    finally:
        _quickly.pop()
        jax.config.update("jax_disable_most_optimizations", _quickly[-1])


@pytest.fixture(scope="module", autouse=True)
def compilation(request):
    module = request.path.relative_to(ROOT / "tests")
    with compiled_quickly(any(module.is_relative_to(quick) for quick in QUICK)):
        yield


@pytest.fixture
def compiled_well():
    """For a claim about the last digit: products and sums are joined as in a run."""
    with compiled_quickly(False):
        yield


# Files that take a worker longest, in the order in which workers take them: the last to end has
# little left then. The first two do not wait for the same shared run.
LONGEST = (
    *("test_train.py", "signal/test_phase.py", "test_docs.py", "train/test_sweep.py"),
    *("test_notebook.py", "devices/test_hosts.py", "evaluate/test_evaluate.py"),
    *("faults/test_full_disk.py", "devices/test_sharding.py", "train/test_population.py"),
    *("data/test_synth.py", "test_representations.py", "test_sample.py", "test_configs.py"),
    *("train/test_training.py", "objective/test_elbo.py", "faults/test_signals.py"),
)


def pytest_collection_modifyitems(items):
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


class Done(NamedTuple):
    """What a script did."""

    code: int
    out: str
    err: str


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def no_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


def small_config(**sections) -> Config:
    """A config of a second's work; a section is a dict of the fields that differ."""
    base = {
        "data": {"sample_rate": 8000, "clip_seconds": 0.25, "holdout_fraction": 0.2},
        "features": {"n_fft": 256, "hop_length": 64},
        "augment": {"gain_db": 1.0, "shift_ms": 1.0, "pitch_semitones": 1},
        "model": {
            "latent_dim": 4,
            "width": 16,
            "num_stages": 1,
            "num_blocks": 1,
            "kernel_size": 3,
            "num_directions": 8,
            "dense_width": 16,
            "dense_depth": 2,
            "ppca_clips": 32,
            "compute_dtype": "float32",
        },
        "objective": {"beta": 1.0, "beta_warmup_steps": 0},
        "train": {"num_steps": 16, "batch_size": 8, "warmup_steps": 2, "steps_per_dispatch": 1},
        "prior": {"max_components": 2},
    }
    kinds = {
        "data": Data,
        "features": Features,
        "augment": Augment,
        "model": Model,
        "objective": Objective,
        "train": Train,
        "prior": Prior,
    }
    return Config(**{k: kinds[k](**{**base[k], **sections.get(k, {})}) for k in kinds})


def small_sounds(config: Config, num: int) -> Sounds:
    """Decaying tones with two overtones, in two folders, in memory."""
    rng = np.random.default_rng(7)
    rate, samples = config.data.sample_rate, config.pack_samples
    t = np.arange(samples) / rate
    tones, pitches = [], []
    for _ in range(num):
        hz, decay = rng.uniform(150, 900), rng.uniform(3, 20)
        pitches.append(69 + 12 * np.log2(hz / 440))
        level = rng.uniform(0.1, 1.0, 3)
        partials = sum(a * np.sin(2 * np.pi * hz * (k + 1) * t) for k, a in enumerate(level))
        tone = partials * np.exp(-decay * t) * np.minimum(1, t * 400)
        tones.append(np.round(32767 * tone / np.abs(tone).max()).astype(np.int16))
    labels = [("low", "high")[i % 2] for i in range(num)]
    packed = pack.Corpus(
        clips=np.stack(tones),
        lengths=np.full(num, samples, np.int32),
        names=[f"{labels[i]}/{i:04d}.wav" for i in range(num)],
        labels=labels,
        hashes=[f"{(i * 2654435761) % 2**32:016x}" for i in range(num)],
        factors={},
        rejected=[],
        sample_rate=rate,
        source="memory",
        fingerprint="memory",
    )
    held_out = np.zeros(num, bool)
    held_out[::5] = True
    return describe(packed, held_out, np.array(pitches), config)


@pytest.fixture(scope="session")
def make_config():
    """The function `small_config`."""
    return small_config


@pytest.fixture(scope="session")
def config():
    return small_config()


@pytest.fixture(scope="session")
def make_sounds():
    """The function `small_sounds`."""
    return small_sounds


@pytest.fixture(scope="session")
def sounds(config):
    return small_sounds(config, 40)


@pytest.fixture(scope="session")
def fitted(config, sounds):
    with compiled_quickly():  # as those who ask for it are
        return fit(sounds, config)


def _load_script(name: str):
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: tyro resolves the annotations of its dataclass there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def call_script(name: str, *argv) -> Done:
    """Runs train.py or sample.py in this process, as `python NAME.py ARGV` would."""
    module = _load_script(name)
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    old_argv, sys.argv = sys.argv, [f"{name}.py", *map(str, argv)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.run(module.main)
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = old_argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Done(code or 0, out.getvalue(), err.getvalue())


def start_script(name: str, *argv) -> subprocess.Popen:
    """Starts train.py or sample.py as a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / f"{name}.py"), *map(str, argv)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_script(name: str, *argv) -> Done:
    """Runs train.py or sample.py as a process of its own."""
    process = start_script(name, *argv)
    out, err = process.communicate(timeout=300)
    return Done(process.returncode, out, err)


@pytest.fixture(scope="session")
def call():
    """The function `call_script`."""
    return call_script


@pytest.fixture(scope="session")
def start():
    """The function `start_script`."""
    return start_script


@pytest.fixture(scope="session")
def run():
    """The function `run_script`."""
    return run_script


@pytest.fixture(scope="session")
def tiny():
    """Options of train.py: the tiny preset, pinned."""
    return TINY


@pytest.fixture(scope="session")
def folder():
    """48 tones of a sixth to half a second in three folders, one of them inside another."""
    root = SCRATCH / "tones"
    with (SCRATCH / "tones.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.exists():
            _write_tones(root.with_name("tones-under-way"))
            root.with_name("tones-under-way").rename(root)
    return root


def _write_tones(root):
    rng = np.random.default_rng(3)
    rate = 22_050
    for i in range(48):
        label = ("bass", "bell", "bell/soft")[i % 3]
        t = np.arange(int(rate * rng.uniform(0.15, 0.6))) / rate
        hz, decay = rng.uniform(80, 200) * (1 + 4 * (i % 3)), rng.uniform(4, 16)
        tone = np.sin(2 * np.pi * hz * t) + 0.3 * np.sin(2 * np.pi * 2.7 * hz * t)
        tone *= np.exp(-decay * t) * np.minimum(1, t * 500)
        (root / label).mkdir(parents=True, exist_ok=True)
        soundfile.write(root / label / f"{i:02d}.wav", 0.5 * tone / np.abs(tone).max(), rate)


@pytest.fixture(scope="session")
def trained(tiny, folder):
    """The run folder of a finished run; a test that alters it works on a copy."""
    return _trained_once("trained", *tiny, "--data", folder)


@pytest.fixture(scope="session")
def trained_frames(tiny, folder):
    """The same with a model of frames."""
    model = ("--model.kind", "frames", "--model.frame_widths", "32", "16")
    return _trained_once(
        *("trained-frames", *tiny, "--data", folder, *model, "--model.latent_dim", "4"),
        *("--train.num_steps", "10", "--train.eval_every_steps", "10"),
    )


def _trained_once(name: str, *argv) -> Path:
    """A run folder, made once for all parallel workers: the first trains, the others wait."""
    workdir = SCRATCH / name / "run"
    workdir.parent.mkdir(exist_ok=True)
    with (SCRATCH / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not workdir.exists():
            under_way = workdir.with_name("under-way")
            done = run_script("train", *argv, "--workdir", under_way)
            assert done.code == 0, done.err
            under_way.rename(workdir)
    return workdir
