"""The built-in set: a small synthesiser, one sound from one key, its factors known.

`families` says which factors there are and in which range each family draws them, `instruments`
turns factors into a `voice`, and that is sampled: all of it in JAX, free of aliases.

    python -m vaejax.data.synth --out sounds --count 2048
"""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import soundfile
from jax import Array

from vaejax.data.families import FAMILIES, TABLE, draw_factors
from vaejax.data.voice import NUM_PARTIALS, Factors, frame_times, voice_waveform

ALL = tuple(range(len(FAMILIES)))


def play(key, family: int, factors: Factors, *, sample_rate: int, num_samples: int) -> Array:
    """Plays one sound of which the factors are given; the key sets phases and noise.

    Args:
      key: PRNG key.
      family: index into FAMILIES, a Python int.
      factors: a scalar for each of FACTORS.
      sample_rate: Hz, 8000 to 96000.
      num_samples: length.
    Returns:
      [num_samples] float32 waveform that starts and ends at 0, has no mean, and peaks at
      factors["level"].
    """
    times = frame_times(sample_rate, num_samples)
    start_key, noise_key = jax.random.split(key)
    voice = TABLE[FAMILIES[family]].voice(_draw_starts(start_key), factors, times)
    return voice_waveform(
        noise_key, voice, factors, sample_rate=sample_rate, num_samples=num_samples
    )


def render(key, family: int, *, sample_rate: int, num_samples: int) -> tuple[Array, Factors]:
    """Draws and plays one sound of a family. Pure; to be jitted and vmapped over keys.

    Args:
      key: PRNG key.
      family: index into FAMILIES, a Python int: each family is its own program.
      sample_rate: Hz, 8000 to 96000.
      num_samples: length.
    Returns:
      [num_samples] float32 waveform in [-1, 1], and its factors (see FACTORS).
    """
    factor_key, sound_key = jax.random.split(key)
    factors = draw_factors(factor_key, family, duration=num_samples / sample_rate)
    waveform = play(sound_key, family, factors, sample_rate=sample_rate, num_samples=num_samples)
    return waveform, factors


def play_each(
    keys, factors: Factors, *, sample_rate: int, num_samples: int, families: tuple[int, ...] = ALL
) -> Array:
    """Plays one sound of each family. Already compiled inside.

    A switch over families under vmap would compute all of them for every sound. Here each family
    makes one voice, and the costly part, from voices to samples, is the same program for all.

    Args:
      keys: [len(families)] PRNG keys.
      factors: for each of FACTORS an array [len(families)].
      sample_rate: Hz, 8000 to 96000.
      num_samples: length.
      families: indices into FAMILIES; all of them by default.
    Returns:
      [len(families), num_samples] waveforms, as from `play`.
    """
    size = {"sample_rate": sample_rate, "num_samples": num_samples}
    # One dtype, whatever is passed in: another would be compiled for again.
    factors = {name: jnp.asarray(value, jnp.float32) for name, value in factors.items()}
    noise_keys, voices = _voice_each(keys, factors, families=families, **size)
    return _waveform_each(noise_keys, voices, factors, **size)


def render_set(
    *,
    seed: int,
    count: int,
    sample_rate: int,
    num_samples: int,
    batch_size: int = 64,
    start: int = 0,
    families: tuple[str, ...] = FAMILIES,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]]:
    """Renders sounds `start` to `count` in order, the families taking turns.

    Sound i is of family i % len(FAMILIES) and made from fold_in(key(seed), i): it depends on
    none of `start`, `count` and `batch_size`, to the last bit on one backend. Of chosen families,
    the sounds are those of the whole set, with their numbers i, but for rounding; `start` and
    `count` are places in the list of them.

    Args:
      families: of FAMILIES, each at most once.

    Yields:
      waveforms [b, num_samples] float32, family indices [b], factors {name: [b] float32} and
      sound indices [b]; b is `batch_size`, less in the last batch.
    Raises:
      ValueError: for a sample rate outside 8000..96000 Hz, fewer than 64 samples, a count or batch
        size below 1, or a family that is unknown or named twice.
    """
    _check(sample_rate, num_samples, count=count, batch_size=batch_size)
    rounds = _rounds(
        jax.random.key(seed),
        start,
        count,
        families=indices_of(families),
        sample_rate=sample_rate,
        num_samples=num_samples,
    )
    return _rebatch(rounds, batch_size)


def indices_of(families: tuple[str, ...]) -> tuple[int, ...]:
    """Indices into FAMILIES of some of them, in the order of FAMILIES.

    Raises:
      ValueError: one is unknown or named twice, or there is none.
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        raise ValueError(f"no family {unknown[0]!r}; there are {', '.join(FAMILIES)}")
    if not families or len(set(families)) < len(families):
        raise ValueError(f"families={families} must name one or more families, each once")
    return tuple(i for i, name in enumerate(FAMILIES) if name in families)


def _rounds(key, first, count, *, families, sample_rate, num_samples):
    """What `render_set` yields, one sound of each family at a time."""
    size = {"sample_rate": sample_rate, "num_samples": num_samples, "families": families}

    # Every call has the same shape whatever was asked for, so rounding is the same too.
    def render_each(start):
        keys, factors = _draw_each(key, start, **size)
        return play_each(keys, factors, **size), factors

    num_chosen, chosen = len(families), np.asarray(families)
    begin = first // num_chosen
    upcoming = render_each(begin * len(FAMILIES))
    for turn in range(begin, -(-count // num_chosen)):
        waveforms, factors = upcoming
        if (turn + 1) * num_chosen < count:
            # Runs while the caller uses this one.
            upcoming = render_each((turn + 1) * len(FAMILIES))
        keep = slice(max(0, first - turn * num_chosen), min(num_chosen, count - turn * num_chosen))
        values = {name: np.asarray(value)[keep] for name, value in factors.items()}
        indices = turn * len(FAMILIES) + chosen[keep]
        yield np.asarray(waveforms)[keep], chosen[keep], values, indices


def _rebatch(parts, batch_size):
    """Cuts a stream of tuples of arrays anew, `batch_size` rows at a time."""
    waiting = []
    num_waiting = 0
    for part in parts:
        waiting.append(part)
        num_waiting += len(part[-1])
        if num_waiting < batch_size:
            continue
        joined = jax.tree.map(lambda *rows: np.concatenate(rows), *waiting)
        while num_waiting >= batch_size:
            yield jax.tree.map(lambda x: x[:batch_size], joined)
            joined = jax.tree.map(lambda x: x[batch_size:], joined)
            num_waiting -= batch_size
        waiting = [joined]
    if num_waiting:
        yield jax.tree.map(lambda *rows: np.concatenate(rows), *waiting)


@partial(jax.jit, static_argnames=("sample_rate", "num_samples", "families"))
def _draw_each(key, start, *, sample_rate, num_samples, families):
    """Keys and factors of the sounds of `families` from number `start` on, one of each."""
    families = jnp.asarray(families)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, start + families)
    factor_keys, sound_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    draw = partial(draw_factors, duration=num_samples / sample_rate)
    return sound_keys, jax.vmap(draw)(factor_keys, families)


# Compiled as one program with what follows, this takes XLA twice as long and runs slower.
@partial(jax.jit, static_argnames=("sample_rate", "num_samples", "families"))
def _voice_each(keys, factors, *, sample_rate, num_samples, families):
    start_keys, noise_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    starts = jax.vmap(_draw_starts)(start_keys)
    times = frame_times(sample_rate, num_samples)
    voices = [
        TABLE[FAMILIES[family]].voice(
            starts[i], {name: value[i] for name, value in factors.items()}, times
        )
        for i, family in enumerate(families)
    ]
    return noise_keys, jax.tree.map(lambda *parts: jnp.stack(parts), *voices)


@partial(jax.jit, static_argnames=("sample_rate", "num_samples"))
def _waveform_each(keys, voices, factors, *, sample_rate, num_samples):
    sound = partial(voice_waveform, sample_rate=sample_rate, num_samples=num_samples)
    return jax.vmap(sound)(keys, voices, factors)


def _draw_starts(key):
    return jax.random.uniform(key, (NUM_PARTIALS,))


# --- a folder of files ---------------------------------------------------------------------------


def _check(sample_rate, num_samples, **counts):
    if not 8000 <= sample_rate <= 96000:
        raise ValueError(f"sample_rate={sample_rate} Hz must be between 8000 and 96000")
    if num_samples < 64:
        raise ValueError(f"num_samples={num_samples} must be at least 64")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name}={value} must be at least 1")


def write_folder(
    out: Path,
    *,
    seed: int = 0,
    count: int = 2048,
    sample_rate: int = 44100,
    num_samples: int = 44100,
) -> None:
    """Writes the built-in set as WAV files, one folder per family, and factors.jsonl.

    Args:
      out: folder to make; must be absent or empty.
      seed: which set; the same seed makes the same files.
      count: number of sounds; the families take turns.
      sample_rate: Hz, 8000 to 96000.
      num_samples: length of each sound.
    """
    _check(sample_rate, num_samples, count=count)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty folder; give --out a new one")
    for name in FAMILIES[:count]:
        (out / name).mkdir(parents=True, exist_ok=True)
    lines = []
    batches = render_set(seed=seed, count=count, sample_rate=sample_rate, num_samples=num_samples)
    for waveforms, families, factors, indices in batches:
        for row, index in enumerate(indices):
            name = FAMILIES[families[row]]
            path = f"{name}/{name}_{index:05d}.wav"
            soundfile.write(out / path, waveforms[row], sample_rate, subtype="PCM_16")
            values = {k: float(v[row]) for k, v in factors.items()}
            known = {k: None if np.isnan(v) else v for k, v in values.items()}  # JSON has no nan
            line = {"file": path, "index": int(index), "family": name, "seed": seed, **known}
            lines.append(json.dumps(line))
    (out / "factors.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Command line: python -m vaejax.data.synth --help."""
    import tyro

    try:
        tyro.cli(write_folder)
    except (ValueError, OSError, soundfile.SoundFileError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
