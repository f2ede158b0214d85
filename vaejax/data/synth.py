"""The built-in set: a small synthesiser, one sound from one key, its factors known.

A sound is a sum of cosine partials and of filtered noise (Serra & Smith 1990), described by one
of the `families`. No partial is ever above the Nyquist frequency, so nothing aliases.

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
from jax import Array, lax
from scipy.fft import next_fast_len

from vaejax.data.families import FACTORS, FAMILIES, TABLE, draw_factors
from vaejax.data.instruments import NUM_PARTIALS, Factors, Voice

__all__ = ["FACTORS", "FAMILIES", "draw_factors", "play", "render", "render_set", "write_folder"]

BLOCK_SECONDS = 1 / 900  # envelopes are straight lines between instants about this far apart
VIBRATO_HZ = 5.5
FADE_SECONDS = 0.008  # shortest fade at the end
TAPER_START, TAPER_END = 0.40, 0.475  # of the sample rate: partials fade out over this band


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
    times = _frame_times(sample_rate, num_samples)
    start_key, noise_key = jax.random.split(key)
    voice = TABLE[FAMILIES[family]].voice(_draw_starts(start_key), factors, times)
    return _voice_waveform(
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


def render_set(
    *, seed: int, count: int, sample_rate: int, num_samples: int, batch_size: int = 64
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]]:
    """Renders `count` sounds in order, the families taking turns.

    Sound i is of family i % len(FAMILIES) and made from fold_in(key(seed), i): it depends on
    neither `count` nor `batch_size`, to the last bit on one backend.

    Yields:
      waveforms [b, num_samples] float32, family indices [b], factors {name: [b] float32} and
      sound indices [b]; b is `batch_size`, less in the last batch.
    Raises:
      ValueError: for a sample rate outside 8000..96000 Hz, fewer than 64 samples, or a count or
        batch size below 1.
    """
    _check(sample_rate, num_samples, count=count, batch_size=batch_size)
    rounds = _rounds(jax.random.key(seed), count, sample_rate=sample_rate, num_samples=num_samples)
    return _rebatch(rounds, batch_size)


def _rounds(key, count, *, sample_rate, num_samples):
    """What `render_set` yields, one sound of each family at a time."""
    # Every call has the same shape whatever was asked for, so rounding is the same too.
    render_round = partial(_render_round, key, sample_rate=sample_rate, num_samples=num_samples)
    size = len(FAMILIES)
    upcoming = render_round(0)
    for start in range(0, count, size):
        waveforms, factors = upcoming
        if start + size < count:
            upcoming = render_round(start + size)  # runs while the caller uses this one
        keep = min(size, count - start)
        indices = np.arange(start, start + keep)
        values = {name: np.asarray(value)[:keep] for name, value in factors.items()}
        yield np.asarray(waveforms)[:keep], indices % size, values, indices


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


def _render_round(key, start, *, sample_rate, num_samples):
    """Sounds start .. start + len(FAMILIES), one of each family.

    A switch over families under vmap would compute all of them for every sound. Here each family
    makes one voice, and the costly part, from voices to samples, is the same program for all.
    """
    size = {"sample_rate": sample_rate, "num_samples": num_samples}
    noise_keys, voices, factors = _draw_round(key, start, **size)
    return _play_round(noise_keys, voices, factors, **size), factors


# Two programs: compiled as one, XLA takes twice as long and runs slower.
@partial(jax.jit, static_argnames=("sample_rate", "num_samples"))
def _draw_round(key, start, *, sample_rate, num_samples):
    split = jax.vmap(jax.random.split, out_axes=1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, start + jnp.arange(len(FAMILIES)))
    factor_keys, sound_keys = split(keys)
    start_keys, noise_keys = split(sound_keys)
    draw = partial(draw_factors, duration=num_samples / sample_rate)
    factors = jax.vmap(draw)(factor_keys, jnp.arange(len(FAMILIES)))
    starts = jax.vmap(_draw_starts)(start_keys)
    times = _frame_times(sample_rate, num_samples)
    voices = [
        family.voice(starts[i], {name: value[i] for name, value in factors.items()}, times)
        for i, family in enumerate(TABLE.values())
    ]
    return noise_keys, jax.tree.map(lambda *parts: jnp.stack(parts), *voices), factors


@partial(jax.jit, static_argnames=("sample_rate", "num_samples"))
def _play_round(noise_keys, voices, factors, *, sample_rate, num_samples):
    sound = partial(_voice_waveform, sample_rate=sample_rate, num_samples=num_samples)
    return jax.vmap(sound)(noise_keys, voices, factors)


def _draw_starts(key):
    return jax.random.uniform(key, (NUM_PARTIALS,))


# --- from a voice to samples --------------------------------------------------------------------


def _block_length(sample_rate):
    return 16 * max(1, round(BLOCK_SECONDS * sample_rate / 16))  # 16: whole vector registers


def _frame_times(sample_rate, num_samples):
    """[num_blocks + 1, 1] seconds, the edges of the blocks that cover the clip."""
    length = _block_length(sample_rate)
    return jnp.arange(-(-num_samples // length) + 1)[:, None] * (length / sample_rate)


def _voice_waveform(key, voice: Voice, factors: Factors, *, sample_rate, num_samples):
    """[num_samples] waveform of a voice: partials and noise through attack, release and level.

    Samples are laid out [num_blocks, block_length] until the end.
    """
    num_blocks, length = voice.gain.shape[0] - 1, _block_length(sample_rate)
    n = jnp.arange(num_blocks * length, dtype=jnp.uint32).reshape(num_blocks, length)
    rms = jnp.sqrt(0.5 * jnp.sum(voice.gain**2, axis=1))
    loudest = jnp.maximum(jnp.max(rms), 1e-9)  # 1e-9: a sound may have no partials
    tone = _partials(voice, factors, n, sample_rate=sample_rate) / loudest
    noise = _noise(key, voice.noise_band, n.size, sample_rate=sample_rate).reshape(-1, *n.shape)
    noise = sum(_ramps(voice.noise_gain[:, i], length) * noise[i] for i in range(len(noise)))
    gate = _gate(factors, n, sample_rate=sample_rate, num_samples=num_samples)
    waveform = gate * (tone + noise)
    # A short decay leaves a mean; taking it off in the shape of the loudness leaves the ends at 0.
    bias = gate * _ramps(rms / loudest + jnp.sum(voice.noise_gain, axis=1), length)
    waveform = waveform - bias * (jnp.sum(waveform) / jnp.sum(bias))
    waveform = waveform * (factors["level"] / jnp.max(jnp.abs(waveform)))
    return waveform.ravel()[:num_samples]


def _ramps(frames, length):
    """[num_blocks + 1] values at the edges -> [num_blocks, length] on straight lines."""
    position = jnp.arange(length)[None] / length
    return frames[:-1, None] + (frames[1:] - frames[:-1])[:, None] * position


def _gate(factors, n, *, sample_rate, num_samples):
    """Attack and release at the samples n: raised cosines, 0 at both ends of the clip."""
    n = n.astype(jnp.float32)
    rise = n / (factors["attack"] * sample_rate)
    release = jnp.maximum(factors["release"], FADE_SECONDS) * sample_rate
    fall = (num_samples - 1 - n) / jnp.minimum(release, 0.5 * num_samples)
    return _raised_cosine(rise) * _raised_cosine(fall)


def _raised_cosine(position):
    """Exactly 0 up to position 0, 1 from position 1 on."""
    return _cosine(0.25 - 0.25 * jnp.clip(position, 0.0, 1.0)) ** 2


def _partials(voice: Voice, factors: Factors, n, *, sample_rate):
    """Sum of the partials at the samples n: additive synthesis (Risset & Mathews 1969).

    Phase is counted in a 32-bit integer of which the whole range is one cycle, as in a hardware
    oscillator (Tierney et al. 1971): it wraps by itself and is as exact after an hour as at once,
    where a float32 phase is off by -40 dB after a second of a high partial. Only what vibrato and
    sweep add, a few cycles, is a float.
    """
    # Relative excursion of the frequency; its integral is the excursion of the phase.
    sweep = 2.0 ** (factors["sweep"] / 12.0) - 1.0
    depth = 2.0 ** (factors["vibrato"] / 1200.0) - 1.0
    seconds = voice.sweep_seconds
    times = n.astype(jnp.float32) / sample_rate
    grown = jnp.clip(times / 0.4, 0.0, 1.0)  # players let a note settle before its vibrato
    wobble = depth * grown * _cosine(VIBRATO_HZ * times) / (2.0 * jnp.pi * VIBRATO_HZ)
    excursion = voice.frequency * (sweep * seconds * (1.0 - jnp.exp(-times / seconds)) + wobble)

    hz = voice.frequency * voice.ratio
    frame_times = jnp.append(times[:, 0], times[-1, -1])[:, None]
    highest = hz[None] * (1.0 + depth + sweep * jnp.exp(-frame_times / seconds))
    gain = voice.gain * _taper(highest / sample_rate)
    increment = (jnp.minimum(hz / sample_rate, 0.5) * 2.0**32).astype(jnp.uint32)

    def add(total, one):
        increment, ratio, phase, gain = one
        counted = (increment * n).astype(jnp.int32).astype(jnp.float32) * 2.0**-32
        cosine = _cosine(counted + (ratio * excursion + phase))
        return total + _ramps(gain, n.shape[1]) * cosine, None

    one_by_one = (increment, voice.ratio, voice.phase, gain.T)
    return lax.scan(add, jnp.zeros(n.shape), one_by_one, unroll=4)[0]


def _taper(frequency):
    """Gain of a partial by its frequency in cycles per sample: 1, then 0 before Nyquist."""
    position = (frequency - TAPER_START) / (TAPER_END - TAPER_START)
    return jnp.cos(0.5 * jnp.pi * jnp.clip(position, 0.0, 1.0)) ** 2


def _cosine(cycles):
    """cos(2 pi cycles) to 4e-7: many times faster than jnp.cos where no vector version exists.

    Folded to a quarter of a cycle, where the odd Taylor series of sin(2 pi v) is short.
    """
    v = 0.25 - jnp.abs(cycles - jnp.round(cycles))
    w = (2.0 * jnp.pi * v) ** 2
    series = 1.0 + w * (-1 / 6 + w * (1 / 120 + w * (-1 / 5040 + w * (1 / 362880 - w / 39916800))))
    return 2.0 * jnp.pi * v * series


def _noise(key, band, num_samples, *, sample_rate):
    """[num_bands, num_samples] one source of noise through band-passes [num_bands, 2], RMS 1 each.

    Made in the frequency domain, where a filter is a product; second-order slopes.
    """
    n_fft = 2 * next_fast_len((num_samples + 1) // 2, real=True)
    hz = jnp.arange(1, n_fft // 2)[None] * (sample_rate / n_fft)  # neither 0 Hz nor Nyquist
    # A band above what this sample rate can hold moves down into it.
    low, high = jnp.minimum(band, 0.35 * sample_rate).T[..., None]
    power = 1.0 / ((1.0 + (low / hz) ** 4) * (1.0 + (hz / high) ** 4))
    real, imag = jax.random.uniform(key, (2, hz.size), minval=-1.0)
    spectrum = jnp.sqrt(power) * lax.complex(real, imag)[None]
    noise = jnp.fft.irfft(jnp.pad(spectrum, ((0, 0), (1, 1))), n_fft)
    # Parseval: E |spectrum|^2 = 2/3 power, and each bin counts twice.
    rms = jnp.sqrt(4.0 / 3.0 * jnp.sum(power, axis=1, keepdims=True)) / n_fft
    return noise[:, :num_samples] / rms


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
    import soundfile

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
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
