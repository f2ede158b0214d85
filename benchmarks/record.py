"""Writes a benchmark's figures with the hardware and versions they were measured on."""

import datetime
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "soundfile", "soxr")


def hardware() -> dict[str, Any]:
    """Name of the processor or accelerator, cores that may be used, and versions."""
    import jax

    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = device.device_kind if device.platform != "cpu" else _processor()
    return {
        "device": name,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "cpu": _processor(),
        "cores": cores,
        "python": platform.python_version(),
        "versions": {package: metadata.version(package) for package in PACKAGES},
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
        name = re.search(r"model name\s*:\s*(.+)", text)
        flags = re.search(r"flags\s*:\s*(.+)", text)
        wide = [f for f in ("avx2", "avx512f", "amx_bf16") if flags and f in flags[1].split()]
        return f"{name[1].strip() if name else platform.processor()} ({', '.join(wide)})"
    except OSError:
        return platform.processor() or platform.machine()


def save(name: str, figures: dict[str, Any], *, show: bool = True) -> Path:
    """Writes `<date>-<hardware>-<name>.json`, and prints the figures."""
    machine = hardware()
    slug = re.sub(r"[^a-z0-9]+", "-", machine["device"].split("(")[0].lower()).strip("-")
    if machine["platform"] == "cpu":
        slug += f"-{machine['cores']}-cores"
    path = RESULTS / f"{datetime.date.today().isoformat()}-{slug}-{name}.json"
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({"hardware": machine, **figures}, indent=2) + "\n")
    if show:
        print(json.dumps(figures, indent=2))
    print(f"wrote {path}")
    return path
