"""Sound files and clips to where they lie in the latent."""

import re
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vaejax.config import Config
from vaejax.data import conditioning, decoding, files, quiet
from vaejax.data.clips import raw_clip
from vaejax.features import conditions
from vaejax.names import readable
from vaejax.run.load import Run
from vaejax.sampling import generate


def encode_file(run: Run, path: Path):
    """Posterior mean and variance [latent_dim] of a sound file, cropped or padded to a clip.

    Raises:
      FileNotFoundError: no such file. ValueError: it is not usable; says why.
    """
    mean, logvar = encode_clips(run, read_file(run, path, says=True)[None])
    return jnp.asarray(mean[0]), jnp.exp(logvar[0])


def encode_clips(run: Run, waveforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and logvars, [num, latent_dim] each, of clips [num, num_samples]."""
    return generate.in_chunks(encoder(run), waveforms, generate.ENCODE_CHUNK)


def encoder(run: Run) -> Callable[[Any], Any]:
    """Waveforms [ENCODE_CHUNK, num_samples] to posterior means and logvars, in one program, with
    the model told nothing of them."""
    encode = generate.make_encoder(run.config)
    nothing = conditions.nothing(run.vocabulary, 1)[0]
    return lambda clips: encode(run.instrument.params, run.instrument.fitted, clips, nothing)


def encode_all(run: Run, path: Path) -> tuple[np.ndarray, list[str]]:
    """Posterior means [num, latent_dim] of a sound file, or of all in a folder, and their names.

    What is left out or had to be changed is said on stderr.

    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: no usable sound in it.
    """
    sounds, root, left_out, beside = _sounds_in(path)
    means, names = [], []
    changed: Counter[str] = Counter()
    chunk, encode = generate.ENCODE_CHUNK, encoder(run)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(sounds), desc="Encoding", unit="sound", disable=len(sounds) < chunk) as bar,
    ):
        for start in range(0, len(sounds), chunk):
            some = sounds[start : start + chunk]
            waveforms = []
            for sound, result in zip(some, pool.map(partial(try_read, run), some), strict=True):
                name = readable(sound.relative_to(root).as_posix())
                if isinstance(result, files.UnusableSound):
                    tqdm.write(f"left out {name}: {result}")
                    left_out[str(result)] += 1
                    continue
                waveform, changes = result
                waveforms.append(waveform)
                names.append(name)
                # What follows differs from sound to sound.
                changed.update(re.split(r" from | \(", change)[0] for change in changes)
            if waveforms:
                filled = np.zeros((chunk, run.config.data.num_samples), np.float32)
                filled[: len(waveforms)] = waveforms
                # Not waited for: the next files are read meanwhile.
                means.append(encode(filled)[0][: len(waveforms)])
            bar.update(len(some))
    if left_out:
        listed = "; ".join(f"{num} {reason}" for reason, num in left_out.most_common())
        beside.insert(0, f"not read, by reason: {listed}")
    for line in beside:
        print(line, file=sys.stderr)
    if not names:
        raise ValueError(f"no usable sound in {path}")
    if changed:
        data = run.config.data
        listed = ", ".join(f"{changed[verb]} {verb}" for verb in sorted(changed))
        print(
            f"of {len(names)} sounds: {listed} (this run makes {data.clip_seconds:g} s at "
            f"{data.sample_rate} Hz)",
            file=sys.stderr,
        )
    return np.concatenate(means), names


def _sounds_in(path: Path) -> tuple[list[Path], Path, Counter[str], list[str]]:
    """Sound files of a folder, the folder, and how many others there are, by reason, and what
    else to say of it; a file is one by itself."""
    if path.is_dir():
        found = files.find_files(path)
        left_out = Counter(map(files.reason_not_sound, found.others))
        return found.sounds, path, left_out, files.about_passed_over(found.passed_over)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {path}")
    return [path], path.parent, Counter(), []


def read_file(run: Run, path: Path, *, says: bool = False) -> np.ndarray:
    """A sound file as the clip that training would have made of it, [num_samples] float32.

    Args:
      says: whether to say on stderr what had to be done to it.

    Raises:
      FileNotFoundError: no such file. ValueError: it is not usable; says why.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        waveform, changes = read(run, path)
    except files.UnusableSound as error:
        raise ValueError(f"{path}: {error}") from None
    if changes and says:
        print(f"{path.name}: {', '.join(changes)}", file=sys.stderr)
    return waveform


def try_read(run: Run, path: Path) -> tuple[np.ndarray, list[str]] | files.UnusableSound:
    """`read`, with the reason why it cannot be read as a value."""
    try:
        return read(run, path)
    except files.UnusableSound as error:
        return error


def read(run: Run, path: Path) -> tuple[np.ndarray, list[str]]:
    """A file as the clip that training would have made of it.

    Returns:
      waveform: [num_samples] float32. changes: what had to be done to it, in words.
    Raises:
      UnusableSound: it is not usable; says why, without its name.
    """
    data = run.config.data
    with quiet.decoders():
        waveform = decoding.read(path, sample_rate=data.sample_rate)
        pcm, length, notes = conditioning.condition(
            waveform,
            sample_rate=data.sample_rate,
            trim_db=data.trim_db,
            num_samples=data.num_samples,
        )
    changes = list(notes)
    if (rate := waveform.file_rate) != data.sample_rate:
        changes.append(f"resampled from {rate} to {data.sample_rate} Hz")
    # Some milliseconds come and go with the trim and with resampling.
    if abs(length - data.num_samples) > 5e-3 * data.sample_rate:
        verb = "cropped" if length > data.num_samples else "padded"
        seconds = length / data.sample_rate
        changes.append(f"{verb} from {seconds:.3g} to {data.clip_seconds:g} s")
    return np.asarray(_cut(run.config)(pcm, length)), changes


@lru_cache
def _cut(config: Config):
    return jax.jit(partial(raw_clip, config=config))
