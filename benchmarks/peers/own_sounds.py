"""vaejax making sounds, told when its turn is; and what it shares with those who invert for it."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import turns

DEVICE_CALLS = 8


def sample(workdir: str, out: Path, num: int, cache: str, *more: str) -> dict[str, Any]:
    """Runs `sample.py` as its users do.

    Returns:
      wall_seconds, with start-up; rate, its own sounds per second after the first batch, None where
      there is one batch; memory_gb at its peak.
    """
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "sample.py", "--workdir", workdir, "--out", out, "--num", str(num), *more],
        cwd=turns.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": cache},
    )
    assert process.stdout is not None
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    assert status == 0, text
    found = re.search(r"\((\d+) per second", text)
    return {
        "wall_seconds": seconds,
        "rate": float(found[1]) if found else None,
        "memory_gb": usage.ru_maxrss / 2**20,
    }


def prepare(options: dict[str, Any]) -> tuple[dict[str, Any], turns.Tasks]:
    """Leaves magnitudes.npy and clips.npy, both of new sounds, in options["folder"]."""
    import jax
    import numpy as np

    import vaejax
    from vaejax import features, models
    from vaejax.sampling import generate

    folder = Path(options["folder"])
    run = vaejax.load(options["workdir"])
    config, instrument = run.config, run.instrument
    size = generate.chunk_size()
    z = run.draw(jax.random.key(0), max(size, options["shared"]))
    told = np.zeros(instrument.fitted.linear.condition_dim, np.float32)

    @jax.jit
    def magnitudes(instrument, latents):
        def one(z):
            params, fitted = instrument.params, instrument.fitted
            x = models.decode(params, z, told, fitted.linear, config=config)
            return features.magnitude_of(x, fitted.statistics, config)

        return jax.vmap(one)(latents)

    np.save(folder / "magnitudes.npy", magnitudes(instrument, z[: options["shared"]]))
    clips = run.decode(z[: options["shared"]])
    np.save(folder / "clips.npy", np.round(32767 * clips).astype(np.int16))
    decoder = generate.make_decoder(config, "PCM_16")
    facts = np.full((size, run.vocabulary.num_facts), np.nan, np.float32)
    latents = jax.device_put(z[:size])

    def files():
        made = sample(
            options["workdir"], folder / "files", options["num"], str(folder / "compiled")
        )
        assert made["rate"], f"{options['num']} sounds are one batch; ask for more"
        # What is counted is the rate after the first batch.
        return {**made, "seconds": options["num"] / made["rate"]}

    def one():
        return jax.block_until_ready(decoder(instrument, latents, facts)["samples"])

    def device():
        # From two threads, as `sample.py` does.
        with ThreadPoolExecutor(2) as threads:
            made = [threads.submit(one) for _ in range(DEVICE_CALLS)]
            _ = [future.result() for future in made]

    about = {
        "sample_rate": config.data.sample_rate,
        "clip_seconds": config.data.num_samples / config.data.sample_rate,
        "n_fft": config.features.n_fft,
        "hop_length": config.features.hop_length,
        "num_samples": config.data.num_samples,
        "device_sounds": DEVICE_CALLS * size,
        "inversion": features.inversion(config)[0],
        "iterations": features.inversion(config)[1],
    }
    return about, {"vaejax, to files": files, "vaejax, on the device": device}


if __name__ == "__main__":
    turns.serve(prepare)
