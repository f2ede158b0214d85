"""How far a told pitch is obeyed: held-out sounds rebuilt at other keys, and what YIN hears.

    python -m benchmarks.pitch --workdir RUN     (a run with --condition.pitch)

A key is found where the measured pitch lies within half a semitone of it. Sounds whose own pitch
YIN does not find are left out.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from benchmarks import record

SHIFTS = (0, 1, -1, 4, -4, 12, -12)


@dataclass(frozen=True)
class Options:
    """Options."""

    workdir: Path = Path("runs/pitched")
    """Run folder."""
    num: int = 48
    """Held-out sounds, at most."""


def main(options: Options) -> None:
    import jax
    import numpy as np

    from vaejax import codec
    from vaejax.data import sounds
    from vaejax.data.clips import raw_clip
    from vaejax.features import conditions
    from vaejax.run.load import load_run
    from vaejax.signal.pitch import pitch

    run = load_run(options.workdir)
    config, (params, fitted, *_) = run.config, run.instrument
    dataset = sounds.load(config)
    at = conditions.fact_names(run.vocabulary).index("pitch")
    rows = dataset.held_out_rows
    rows = rows[np.isfinite(dataset.facts[rows, at])][: options.num]
    clips, lengths, facts = dataset.read(rows)
    measure = partial(pitch, sample_rate=config.data.sample_rate)

    @jax.jit
    def encode(clips, lengths, facts):
        def one(pcm, length, known):
            waveform = raw_clip(pcm, length, config)
            told = codec.condition_of(known, fitted, config)
            mean, _ = codec.encode(params, fitted, waveform, told, config=config)
            return mean, measure(waveform)[0]

        return jax.lax.map(lambda x: one(*x), (clips, lengths, facts), batch_size=8)

    @jax.jit
    def heard(latents, facts):
        def one(z, known):
            told = codec.condition_of(known, fitted, config)
            return measure(codec.decode(params, fitted, z, told, config=config)[0])[0]

        return jax.lax.map(lambda x: one(*x), (latents, facts), batch_size=8)

    def keys(hz):
        return 69 + 12 * np.log2(np.maximum(np.asarray(hz), 1.0) / 440)

    latents, hz = encode(clips, lengths, facts)
    clear = np.abs(keys(hz) - facts[:, at]) < 0.5
    found, octaves = {}, {}
    for shift in SHIFTS:
        told = facts.copy()
        told[:, at] += shift
        off = (keys(heard(latents, told)) - told[:, at])[clear]
        found[str(shift)] = round(float(np.mean(np.abs(off) < 0.5)), 3)
        octaves[str(shift)] = round(float(np.mean(np.abs((off + 6) % 12 - 6) < 0.5)), 3)
    source = Path(run.data["source"]).name
    record.save(
        f"pitch-{source}",
        {
            "source": source,
            "steps": run.step,
            "sounds": int(clear.sum()),
            "found_by_shift": found,
            "found_up_to_octaves": octaves,
        },
    )


if __name__ == "__main__":
    main(tyro.cli(Options))
