"""Which latents a folder of sounds is made from: draws from a density, or given ones.

Drawing from the prior, from the region of one label and around one sound are the same thing with
another density; morphs, reconstructions and latents from a file are lists of latents.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vaejax.data import files
from vaejax.latent import paths, priors
from vaejax.latent.priors import Mixture, Prior, Windows
from vaejax.names import distinct, portable, readable
from vaejax.objective import context
from vaejax.run.arrays import Posteriors
from vaejax.run.load import Run
from vaejax.sampling import encoding, generate, sequences
from vaejax.sampling.matching import make_match
from vaejax.sampling.sequences import CLIP, Form

DEFAULT_NUM = 64
# Searches of --match, and how far around the encoder's answer they start.
NUM_STARTS = 4
START_SPREAD = 0.1


class Plan(NamedTuple):
    """What to make."""

    num: int
    """Sounds."""
    stems: Callable[[int], str]
    """File name of sound i, with subfolders and without suffix."""
    about: dict[str, Any]
    """What every line of the manifest says."""
    prior: Prior | None = None
    """Density to draw from, or None where `latents` are given."""
    seed: int = 0
    """Of the draws."""
    temperature: float = 1.0
    """Of the draws."""
    latents: np.ndarray | None = None
    """[num, latent_dim], or None where they are drawn."""
    each: Sequence[dict[str, Any]] | None = None
    """What the manifest says of each sound by itself."""
    facts: Callable[[np.ndarray], np.ndarray] | None = None
    """What the model is told of sounds: indices [n] -> [n, num_facts] (see `conditions`), or None
    for nothing."""
    form: Form = CLIP
    """What becomes of each latent."""

    def held(self, run: Run, *, seconds: float, at: float | None) -> "Plan":
        """The same sounds, each held at a moment (None for its loudest) as a loop of a length.

        Raises:
          ValueError: no model of frames, or a length or a moment that cannot be.
        """
        form = sequences.loop_form(run.config, seconds, at)
        about = {**self.about, "hold": seconds, **({} if at is None else {"at": at})}
        return self._replace(form=form, about=about)

    def shifted(self, dz: np.ndarray, amounts: dict[str, float]) -> "Plan":
        """The same sounds, each a step [latent_dim] further, by `amounts` of attributes."""
        about = {**self.about, "attribute": amounts}
        if self.prior is not None:
            prior = self.prior._replace(means=self.prior.means + dz)
            return self._replace(prior=prior, about=about)
        return self._replace(latents=self.latents + dz, about=about)


def from_prior(run: Run, *, num: int, seed: int, temperature: float, prior: str) -> Plan:
    """New sounds from the prior: `aggregate` or `standard`."""
    about = {"label": None, "prior": prior if run.has_fitted_prior else "standard"}
    density = prior_density(run, prior)
    return draws(density, about, num=num, seed=seed, temperature=temperature)


def from_label(run: Run, label: str, *, num: int, seed: int, temperature: float) -> Plan:
    """New sounds from where the training sounds of one folder lie.

    Raises:
      ValueError: no such label (lists the known ones), or an unfinished run.
    """
    density = label_density(run, label)
    about = {"label": label, "prior": "label"}
    return draws(density, about, num=num, seed=seed, temperature=temperature)


def prior_density(run: Run, prior: str) -> Prior:
    """The density of `aggregate`, or of `standard`: the objective's own p(z), which is N(0, I)
    unless it was learned, and stands for the other while the run is unfinished."""
    if prior == "aggregate":
        return run.instrument.prior
    return context.prior_density(run.instrument.params, run.instrument.fitted, config=run.config)


def label_density(run: Run, label: str) -> Prior:
    """Where the training sounds of one folder lie.

    Raises:
      ValueError: no such label (lists the known ones), or an unfinished run.
    """
    chosen = rows_with_label(run, label)
    return of_rows(run.instrument.prior, posteriors_of(run), chosen)


def of_rows(prior: Prior, posteriors: Posteriors, chosen: np.ndarray) -> Prior:
    """The density of an aggregate posterior, of some of its sounds alone.

    Args:
      prior: fitted to `posteriors`.
      chosen: [num_clips] bool.

    Returns:
      The windows around these sounds; where the density is a mixture, one Gaussian, shrunk towards
      the whole set as far as they are few.
    """
    _, means, variances = posteriors
    if isinstance(prior, Windows):
        return prior._replace(chosen=jnp.asarray(np.flatnonzero(chosen), jnp.int32))
    return priors.fit_mixture(
        means[chosen],
        variances[chosen],
        components=1,
        pooled=priors.covariance(means, variances),
    )


def rows_with_label(run: Run, label: str) -> np.ndarray:
    """Which of the run's posteriors, [num_clips] bool, are of sounds of one folder.

    Raises:
      ValueError: no such label (lists the known ones), or an unfinished run.
    """
    labels = [row["label"] for row in run.data["files"]]
    if label not in labels:
        known = ", ".join(sorted(set(labels)))
        raise ValueError(f"the run knows no label {label!r}; it knows: {known}")
    chosen = np.array([labels[row] == label for row in posteriors_of(run).rows])
    if not chosen.any():
        raise ValueError(
            f"no sound with the label {label!r} is among those that the prior was fitted on (all "
            "were held out, or left out by prior.max_clips); choose another"
        )
    return chosen


def around(run: Run, path: Path, *, num: int, seed: int, spread: float, temperature: float) -> Plan:
    """Variations of one sound: its posterior, widened by spread times the whole set's shape."""
    mean, variance = encoding.encode_file(run, path)
    shape = _spread(run)
    density = widened(mean, variance, spread=spread, covariance=shape @ shape.T)
    about = {"label": None, "prior": "around", "around": path.name, "spread": spread}
    return draws(density, about, num=num, seed=seed, temperature=temperature)


def widened(mean, variance, *, spread: float, covariance) -> Mixture:
    """A posterior, mean and variance [latent_dim] each, widened by spread times the shape of the
    whole set, covariance [latent_dim, latent_dim]."""
    cholesky = jnp.linalg.cholesky(jnp.diag(variance) + spread**2 * covariance)
    return Mixture(jnp.zeros(1), mean[None], cholesky[None])


def between(run: Run, a: Path, b: Path, *, num: int, path: str = "straight") -> Plan:
    """A path from one sound to another in equal steps, both included; see `path_between`."""
    start, end = (np.asarray(encoding.encode_file(run, file)[0]) for file in (a, b))
    about = {"label": None, "prior": "between", "between": [a.name, b.name], "path": path}
    return _given(path_between(run, start, end, num=num, path=path), about, numbered(num, None))


def morph(
    run: Run, a: Path, b: Path, *, seconds: float, at: float | str | None, path: str = "straight"
) -> Plan:
    """One sound that moves from one to another in time.

    Args:
      at: the moment of both that it moves between, in seconds, None for the loudest of each; or
        `moving`: both go on, stretched to its length.
      path: `straight` or `spherical`, as `path_between`.

    Raises:
      ValueError: no model of frames, or a length or a moment that cannot be.
    """
    config = run.config
    sequences.require_frames(config, "--morph")
    steps = sequences.steps_of(config, seconds)
    frame = None if isinstance(at, str) else sequences.frame_at(config, at)
    start, end = (np.asarray(encoding.encode_file(run, file)[0]) for file in (a, b))
    if at == "moving":
        blends = path_between(run, start, end, num=steps, path=path)
        latents = sequences.stretched(blends.reshape(steps, config.num_frames, -1))
    else:
        moment = jax.jit(partial(sequences.moment, frame=frame, config=config))
        parts = run.instrument.params, run.instrument.fitted
        nothing = jnp.zeros(run.vocabulary.condition_dim)
        ends = [np.asarray(moment(*parts, z, nothing)) for z in (start, end)]
        mean, cholesky = _of_frames(run)
        latents = sequences.between(
            ends[0], ends[1], steps, mean=mean, cholesky=cholesky, path=path
        )
    about = {
        "label": None,
        "prior": "between",
        "between": [a.name, b.name],
        "path": path,
        "morph": seconds,
        **({} if at is None else {"at": at}),
    }
    form = sequences.path_form(config, latents.size, fades_in=at != "moving")
    return _given(latents.reshape(1, -1), about, numbered(1, None))._replace(form=form)


def grid(run: Run, corners: Sequence[Path], *, num: int) -> Plan:
    """A bilinear map between four sounds, row by row; its corners are the sounds.

    Args:
      corners: left above, right above, left below, right below.
      num: the nearest number that makes rows and columns is made.
    """
    ends = np.stack([encoding.encode_file(run, corner)[0] for corner in corners])
    rows, columns = paths.grid_shape(num)
    v, u = np.indices((rows, columns)).reshape(2, -1) / [[rows - 1], [columns - 1]]
    asked = "" if rows * columns == num else f" ({num} were asked for)"
    print(f"a grid of {rows} rows and {columns} columns: {rows * columns} sounds{asked}")
    about = {"label": None, "prior": "grid", "corners": [corner.name for corner in corners]}
    each = [{"grid": [round(float(x), 6), round(float(y), 6)]} for x, y in zip(u, v, strict=True)]
    return _given(paths.bilinear(ends, u, v), about, numbered(rows * columns, None), each=each)


def path_between(run: Run, start, end, *, num: int, path: str) -> np.ndarray:
    """`num` latents [num, latent_dim] from one [latent_dim] to another.

    Args:
      path: `straight`, or `spherical` around the aggregate posterior, in its own metric.

    Raises:
      ValueError: another path.
    """
    t = np.linspace(0.0, 1.0, num)
    if path == "straight":
        return paths.straight(start, end, t)
    if path == "spherical":
        return paths.spherical(start, end, t, mean=_centre(run), cholesky=_spread(run))
    raise ValueError(f"path={path!r} must be 'straight' or 'spherical'")


def matching(run: Run, path: Path, *, seed: int) -> Plan:
    """The one sound that a gradient search finds nearest to a given one.

    Starts at the encoder's answer and at draws around it.
    """
    waveform = encoding.read_file(run, path)
    mean, _ = encoding.encode_file(run, path)
    spread = _spread(run)
    eps = jax.random.normal(jax.random.key(seed), (NUM_STARTS - 1, mean.shape[0]))
    starts = jnp.concatenate([mean[None], mean + START_SPREAD * eps @ spread.T])
    search = make_match(run.config)
    z, distance, start_distance = search(
        run.instrument.params, run.instrument.fitted, waveform, starts
    )
    about = {
        "label": None,
        "prior": "match",
        "match": path.name,
        "distance": round(float(distance), 4),
        "start_distance": round(float(start_distance), 4),
    }
    print(
        f"distance to {path.name}: {float(distance):.3f} (multi-resolution STFT; "
        f"{float(start_distance):.3f} before the search)"
    )
    return _given(np.asarray(z)[None], about, numbered(1, None), seed=seed)


def reconstruct(run: Run, path: Path) -> Plan:
    """Sounds through the model, under their own names.

    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: no usable sound in it.
    """
    left_out: Counter[str] = Counter()
    beside: list[str] = []
    if path.is_dir():
        found = files.find_files(path)
        sounds, root = found.sounds, path
        left_out.update(map(files.reason_not_sound, found.others))
        beside = files.about_passed_over(found.passed_over)
    else:
        if not path.exists():
            raise FileNotFoundError(f"no file or folder {path}")
        sounds, root = [path], path.parent
    means, names = [], []
    changed: Counter[str] = Counter()
    chunk = generate.ENCODE_CHUNK
    encode, try_read = encoding.encoder(run), partial(encoding.try_read, run)
    with (
        ThreadPoolExecutor() as pool,
        tqdm(total=len(sounds), desc="Encoding", unit="sound", disable=len(sounds) < chunk) as bar,
    ):
        for start in range(0, len(sounds), chunk):
            some = sounds[start : start + chunk]
            waveforms = []
            for sound, result in zip(some, pool.map(try_read, some), strict=True):
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
    stems = distinct(names)
    return _given(
        np.concatenate(means),
        {"label": None, "prior": "reconstruct"},
        stems.__getitem__,
        each=[{"source": name} for name in names],
    )


def from_file(run: Run, path: Path, *, held: bool = False) -> Plan:
    """Latents from a .npy file: [num, latent_dim]; of a model of frames, also paths of another
    length, [num, num_steps * d], or one path [num_steps, d] (`held`: frames to hold, [num, d]).

    Raises:
      FileNotFoundError: no such file.
      ValueError: it holds no array, or one of another width.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        latents = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is no NumPy array file (.npy): {error}") from None
    latent_dim, of_frame = run.config.latent_dim, run.config.model.latent_dim
    shape = getattr(latents, "shape", type(latents).__name__)
    fits = latent_dim
    if run.config.latent_frames > 1 and isinstance(shape, tuple) and len(shape) == 2:
        fits = max(shape[1] // of_frame, 1) * of_frame
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != fits or not shape[0]:
        also = "" if latent_dim == of_frame else f", or a path [num_steps, {of_frame}]"
        raise ValueError(
            f"{path} holds {shape}, but this run's latents are [num, {latent_dim}]{also}"
        )
    if not np.issubdtype(latents.dtype, np.floating) or not np.isfinite(latents).all():
        raise ValueError(f"{path} must hold finite floating point numbers")
    about = {"label": None, "prior": "latents", "latents": path.name}
    latents = latents.astype(np.float32)
    if held:
        return _given(latents, about, numbered(len(latents), None))
    if latents.shape[1] == of_frame < latent_dim:
        latents = latents.reshape(1, -1)
    form = sequences.path_form(run.config, latents.shape[1])
    return _given(latents, about, numbered(len(latents), None))._replace(form=form)


def _centre(run: Run):
    """Mean [latent_dim] of the aggregate posterior."""
    if run.posteriors is None:
        return jnp.zeros(run.config.latent_dim)
    return run.posteriors.means.mean(0)


def _spread(run: Run):
    """Cholesky factor [latent_dim, latent_dim] of the aggregate posterior's covariance."""
    if run.posteriors is None:
        return jnp.eye(run.config.latent_dim)
    return jnp.linalg.cholesky(priors.covariance(run.posteriors.means, run.posteriors.variances))


def _of_frames(run: Run):
    """Mean [d] of the latents of single frames, and the Cholesky factor [d, d] of their
    covariance."""
    width = run.config.model.latent_dim
    if run.posteriors is None:
        return jnp.zeros(width), jnp.eye(width)
    means, variances = (
        part.reshape(-1, width) for part in (run.posteriors.means, run.posteriors.variances)
    )
    return means.mean(0), jnp.linalg.cholesky(priors.covariance(means, variances))


def posteriors_of(run: Run) -> Posteriors:
    """Where the training sounds lie.

    Raises:
      ValueError: the run is unfinished.
    """
    if run.posteriors is None:
        raise ValueError(
            "this run was not finished, so where its labels lie is not known yet: let train.py "
            "finish, or stop it with Ctrl-C"
        )
    return run.posteriors


def draws(prior: Prior, about, *, num: int, seed: int, temperature: float) -> Plan:
    """Sounds drawn from a density; `about` is what the manifest says of them, `label` included."""
    return Plan(
        num=num,
        stems=numbered(num, about["label"]),
        about={**about, "seed": seed, "temperature": temperature},
        prior=prior,
        seed=seed,
        temperature=temperature,
    )


def _given(latents: np.ndarray, about, stems, each=None, seed=None) -> Plan:
    return Plan(
        num=len(latents),
        stems=stems,
        about={**about, "seed": seed, "temperature": None},
        latents=latents,
        each=each,
    )


def numbered(num: int, label: str | None) -> Callable[[int], str]:
    """File names without suffix: the index, and the label where there is one."""
    digits = max(5, len(str(num - 1)))
    # A label is a folder's name; a separator in it can only come from another system.
    suffix = "" if label is None else portable("_" + label.replace("/", "-"))
    return lambda i: f"{i:0{digits}d}{suffix}"
