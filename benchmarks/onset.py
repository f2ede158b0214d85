"""How sounds begin when their phases are recovered from true magnitudes, with and without an onset.

    python -m benchmarks.onset --data path/to/sounds [--num 96]

Every start of `vaejax.signal.phase`, as it is and out of `onset_phase`, on the same clips: shares
of sounds that begin loud and with a step, level of the body, distance as audio, and what is left of
a noise (flatness of the spectrum and kurtosis of the samples, rebuilt minus original).
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import record
from vaejax import cli
from vaejax.config import Config
from vaejax.data.clips import raw_clip

# Samples over which a waveform is brought to one level before its kurtosis is taken: 5 ms.
LEVEL_MS = 5.0
# Share of the loudest stretch's level from which on a stretch counts.
LEAST_LEVEL = 0.03


@dataclass(frozen=True)
class Options:
    """Options."""

    data: Path = Path("sounds")
    """Folder of sounds."""
    num: int = 96
    """Sounds, at most."""
    n_fft: int = 2048
    """Samples in a frame."""
    hop_length: int = 512
    """Samples between frames."""
    iterations: int = 2
    """Of Griffin-Lim after a start; from random and zero phases 32."""
    save: bool = True
    """Write the results beside the others."""
    debug: bool = False
    """Show where an error arose."""


def main(argv: list[str]) -> None:
    """Parses the command line and measures."""
    assert __doc__ is not None
    options = cli.parse(Options, Options(), argv, description=__doc__)
    clips, rate = clips_of(options)
    sizes = {"n_fft": options.n_fft, "hop_length": options.hop_length}
    started = time.time()
    figures: dict[str, Any] = {
        "source": options.data.name,
        "sounds": len(clips),
        **sizes,
        "original": starts_of(clips),
        "starts": measure(clips, rate, iterations=options.iterations, **sizes),
        "seconds": round(time.time() - started, 1),
    }
    if options.save:
        record.save(f"onset-{options.data.name}", figures)


def clips_of(options: Options):
    """Sounds of the folder as training sees them, [num, num_samples], and their rate in Hz."""
    import numpy as np

    from vaejax.data import sounds

    base = Config()
    config = replace(base, data=replace(base.data, source=str(options.data)))
    dataset = sounds.load(config)
    rows = np.arange(len(dataset.corpus))
    if len(rows) > options.num:
        rows = np.sort(np.random.default_rng(0).choice(rows, options.num, replace=False))
    pcm, lengths, _ = dataset.read(rows)
    columns = zip(pcm, lengths, strict=True)
    clips = np.stack([np.asarray(raw_clip(p, n, config)) for p, n in columns])
    return clips, config.data.sample_rate


def starts_of(clips) -> dict[str, float]:
    """Shares of clips that begin loud and with a step."""
    import jax
    import numpy as np

    from vaejax import metrics

    shares = {"onset": metrics.onset, "onset_step": metrics.onset_step}
    return {name: float(np.mean(jax.vmap(share)(clips))) for name, share in shares.items()}


def measure(clips, rate: int, *, n_fft: int, hop_length: int, iterations: int) -> dict[str, Any]:
    """Start -> with and without the onset -> figure."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from vaejax import metrics
    from vaejax.metrics import descriptors
    from vaejax.signal import phase, phase_start, spectrum
    from vaejax.signal.stft import stft

    sizes: dict[str, Any] = {"n_fft": n_fft, "hop_length": hop_length}
    table: dict[str, Any] = {}

    def compared(clip, start, num_iters, with_onset):
        magnitude = spectrum.magnitude(stft(clip, **sizes))
        first = phase_start.onset_phase(magnitude, **sizes) if with_onset else None
        rebuilt = phase.griffin_lim(
            None,
            magnitude,
            num_iters=num_iters,
            length=len(clip),
            init=start(magnitude, first=first, **sizes),
            **sizes,
        )
        flatness = descriptors.spectral_flatness_db
        return {
            "mel_l1_db": metrics.mel_l1_db(clip, rebuilt, sample_rate=rate),
            "attack_error_db": metrics.attack_error_db(clip, rebuilt, sample_rate=rate),
            "body_db": metrics.body_db(clip, rebuilt, sample_rate=rate),
            "onset": metrics.onset(rebuilt),
            "onset_step": metrics.onset_step(rebuilt),
            "flatness_db": flatness(rebuilt) - flatness(clip),
            "kurtosis": jnp.log2(kurtosis(rebuilt, rate) / kurtosis(clip, rate)),
        }

    for name, start in phase.METHODS.items():
        if start is None:
            continue
        num_iters = 32 if name in ("griffin_lim", "zero") else iterations
        for with_onset in (False, True):

            def one(clip, start=start, num_iters=num_iters, with_onset=with_onset):
                return compared(clip, start, num_iters, with_onset)

            found = jax.tree.map(np.asarray, jax.jit(lambda c, one=one: jax.lax.map(one, c))(clips))
            figures = {key: round(float(column.mean()), 3) for key, column in found.items()}
            for key in ("body_db", "flatness_db", "kurtosis"):
                figures[key] = round(float(np.median(found[key])), 3)
            figures["body_within_3_db"] = round(float(np.mean(abs(found["body_db"]) <= 3)), 3)
            key = "with onset" if with_onset else "without"
            table.setdefault(name, {"iterations": num_iters})[key] = figures
            print(f"{name}, {key}: {figures}", flush=True)
    return table


def kurtosis(waveform, rate: int):
    """Kurtosis of the differences from sample to sample (which whitens), in stretches brought to
    one level, [] : 3 of a Gaussian noise, more where impulses stick out."""
    import jax.numpy as jnp

    length = round(LEVEL_MS * 1e-3 * rate)
    steps = jnp.diff(waveform)
    steps = steps[: len(steps) // length * length].reshape(-1, length)
    power = jnp.mean(steps**2, axis=1)
    counts = power > LEAST_LEVEL**2 * jnp.max(power)
    each = jnp.mean(steps**4, axis=1) / jnp.maximum(power, 1e-20) ** 2
    return jnp.sum(jnp.where(counts, each, 0)) / jnp.maximum(jnp.sum(counts), 1)


if __name__ == "__main__":
    cli.run(main)
