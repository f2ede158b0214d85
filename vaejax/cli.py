"""The command line: a preset, any field of it overridden, and errors in one line."""

import contextlib
import difflib
import errno
import importlib.util
import io
import logging
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from vaejax.config import Config
from vaejax.devices import hosts
from vaejax.interrupts import INTERRUPTED

DONE, FAILED, USAGE = 0, 1, 2

# What a seed means, whatever the environment says.
SEED_SETTINGS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
}

PRESETS = Path(__file__).resolve().parents[1] / "configs"


class Interrupted(Exception):
    """The user asked to stop, and everything worth keeping was saved."""


def load_preset(path: str | os.PathLike) -> Config:
    """Runs a preset file and returns its `get_config()`.

    Raises:
      ValueError: no such file (lists the presets that exist), or it does not make a config.
    """
    path = Path(path)
    candidates = [path, PRESETS / path.name, PRESETS / f"{path.name}.py"]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None:
        known = sorted(f"configs/{p.name}" for p in PRESETS.glob("[!_]*.py"))
        close = difflib.get_close_matches(str(path), known, 1, 0.4)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"no preset {path}{hint} (known: {', '.join(known)})")
    # A preset is a diff from another one: `from configs.default import get_config`.
    if str(PRESETS.parent) not in sys.path:
        sys.path.append(str(PRESETS.parent))
    spec = importlib.util.spec_from_file_location(f"preset_{found.stem}", found)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{found} has no function get_config()")
    return module.get_config()


def parse(kind: type, default: Any, argv: Sequence[str], *, description: str) -> Any:
    """Parses options into a dataclass; on bad usage prints one line and exits with 2."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                kind,
                args=list(argv),
                default=default,
                description=description,
                config=(tyro.conf.FlagCreatePairsOff,),
                use_underscores=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        print(f"error: {_one_line(errors.getvalue())}", file=sys.stderr)
        raise SystemExit(USAGE) from None


def option(argv: Sequence[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE`, before the options are parsed in full."""
    for i, word in enumerate(argv):
        if word == f"--{name}" and i + 1 < len(argv):
            return argv[i + 1]
        if word.startswith(f"--{name}="):
            return word.split("=", 1)[1]
    return None


def start_jax(workdir: Path) -> None:
    """Prepares JAX for a script: what a seed means, where compiled programs are kept, a device.

    Compiled programs go to the run folder, unless $JAX_COMPILATION_CACHE_DIR says where. A second
    start, and sampling after training, then compile next to nothing.

    Raises:
      ValueError: $JAX_PLATFORMS asks for what is not here.
    """
    import jax

    for name, value in SEED_SETTINGS.items():
        if (found := getattr(jax.config, name, value)) != value:
            jax.config.update(name, value)
            if hosts.is_first():
                said = f"note: {name.upper()}={found} is set aside: one seed gives the same sounds"
                print(said, file=sys.stderr)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(workdir / "compilation_cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # One that a kill or a full disk cut off costs a compilation, and nothing else.
    warnings.filterwarnings("ignore", "Error .* persistent compilation cache entry")
    _check_platform()


def _check_platform() -> None:
    import jax
    import jax.extend

    asked = os.environ.get("JAX_PLATFORMS")
    try:
        jax.devices()
    except Exception:
        if not asked:
            raise
        jax.config.update("jax_platforms", None)
        found = ", ".join(jax.extend.backend.backends())
        raise ValueError(
            f"JAX_PLATFORMS={asked}: JAX finds no such device here, but {found}; unset it, or "
            "install the JAX of that platform (https://docs.jax.dev/en/latest/installation.html)"
        ) from None


def _one_line(text: str) -> str:
    """What tyro prints in a box, as a sentence."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    lines = [re.sub(r"[╭╮╰╯│─]+|-{3,}", " ", line).strip() for line in text.splitlines()]
    text = re.sub(r"\s+", " ", " ".join(line for line in lines[1:] if line))
    text, _, _ = text.partition(" For full helptext")
    unknown = re.match(r"Unrecognized options: (--[^\s,]+)", text)
    if unknown:
        close = re.findall(r"--[\w.]+", text.partition("Perhaps you meant")[2])
        hint = f"did you mean {close[0]}?" if close else "--help lists all"
        return f"unknown option {unknown[1]}; {hint}"
    problem, _, helptext = text.partition(" Argument helptext: ")
    # Of an option that may be left out, tyro lists why its value is not None either.
    choice = re.match(r"Error parsing (--\S+): no type matching .* from \[(.*?)\]\. Got", problem)
    if choice:
        name, given = choice[1], choice[2].replace("'", "").replace(", ", " ")
        helptext = helptext.replace("{None}|", "").replace(" (default: None)", "")
        counts = re.findall(r"length (\d+) did not match expected argument count (\d+)", problem)
        problem = f"{name} cannot be {given}"
        if counts:
            found, expected = counts[-1]
            problem = f"{name} takes {expected} values, not {found}: {given}".rstrip(" :")
    return f"{problem} (expected {helptext})" if helptext else problem


class _Output(io.TextIOWrapper):
    """A stream whose reader may go away (`train.py | head`, a closed terminal), or whose disk may
    be full: what cannot be written is dropped, and the work goes on."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


def _drop_unread_output() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # Not where a test or a notebook has put a stream of its own.
        if stream is getattr(sys, f"__{name}__") and type(stream) is io.TextIOWrapper:
            dropping = _Output(
                stream.buffer,
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, dropping)


def run(main: Callable[[list[str]], None]) -> None:
    """Runs a script: exit code 0, 1 with one line, 2 for wrong usage, 130 when interrupted."""
    argv = sys.argv[1:]
    # A file name that is not UTF-8 must not end a run when it is printed.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    _drop_unread_output()
    debug = "--debug" in argv
    # Messages of libraries about their own workings are not for the people who run this.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    said, code = "", DONE
    try:
        main(argv)
    except KeyboardInterrupt:
        said, code = "\ninterrupted", INTERRUPTED
    except Interrupted as stop:
        said, code = f"\n{stop}", INTERRUPTED
    except hosts.FailedElsewhere:
        code = FAILED
    except Exception as error:
        if debug:
            traceback.print_exc()
        text = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and "full" not in text:
            text = (
                f"the disk is full ({text}); what was saved is whole: free some space, then repeat"
            )
        if not isinstance(error, (ValueError, OSError, FloatingPointError)):
            text = f"{type(error).__name__}: {text} (--debug shows where)"
        said, code = f"error: {text}", FAILED
    if said and hosts.is_first():
        print(said, file=sys.stderr, flush=True)
    if code != DONE and not hosts.all_fail():
        # The others would wait for this one for ever, and it for them before it ends.
        if said and not hosts.is_first():
            print(f"process {hosts.index()}: {said.strip()}", file=sys.stderr)
        _end(code)
    if code != DONE and isinstance(sys.stdout, _Output):
        # Threads of libraries may still wait for a disk that is full or gone.
        _end(code)
    sys.stdout.flush()
    sys.stderr.flush()
    raise SystemExit(code)


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
