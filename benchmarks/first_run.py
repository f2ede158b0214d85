"""From a clone to 64 new sounds: installation, training and sampling, as the README says.

    python -m benchmarks.first_run

Clones this repository's HEAD into a temporary folder and runs the README's first command there in a
fresh virtual environment, with an empty cache of sounds and of compiled programs.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import record

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"^(pip install .+ && python train\.py && python sample\.py)$", readme, re.M)
    assert found, "README.md has lost its first command"
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        clone, venv = Path(folder) / "vaejax", Path(folder) / "venv"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        env = {
            **os.environ,
            "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "VAEJAX_CACHE": str(Path(folder) / "cache"),
        }
        env.pop("JAX_COMPILATION_CACHE_DIR", None)
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        for command in found[1].split(" && "):
            begun = time.perf_counter()
            subprocess.run(command, shell=True, cwd=clone, env=env, check=True)
            seconds[command] = round(time.perf_counter() - begun, 1)
        seconds["in all"] = round(time.perf_counter() - started, 1)
        num = len(list((clone / "samples").glob("*.wav")))
    record.save("first_run", {"command": found[1], "sounds": num, "seconds": seconds})


if __name__ == "__main__":
    main()
