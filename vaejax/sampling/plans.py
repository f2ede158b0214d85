"""Which latents a folder of sounds is made from: draws from a density, or given ones.

Drawing from the prior, from the region of one label and around one sound are the same thing with
another density; morphs, reconstructions and latents from a file are lists of latents.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.latent import paths
from vaejax.latent.priors import Prior
from vaejax.names import distinct, portable
from vaejax.run.load import Run
from vaejax.sampling import densities, encoding, sequences
from vaejax.sampling.matching import make_match
from vaejax.sampling.sequences import CLIP, Form

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
    """New sounds from a prior: `aggregate`, `standard`, or one of `priors.PRIORS`."""
    about = {"label": None, "prior": prior if run.has_fitted_prior else "standard"}
    density = densities.prior_density(run, prior)
    return draws(density, about, num=num, seed=seed, temperature=temperature)


def from_label(run: Run, label: str, *, num: int, seed: int, temperature: float) -> Plan:
    """New sounds from where the training sounds of one folder lie.

    Raises:
      ValueError: no such label (lists the known ones), or an unfinished run.
    """
    density = densities.label_density(run, label)
    about = {"label": label, "prior": "label"}
    return draws(density, about, num=num, seed=seed, temperature=temperature)


def around(run: Run, path: Path, *, num: int, seed: int, spread: float, temperature: float) -> Plan:
    """Variations of one sound: its posterior, widened by spread times the whole set's shape."""
    mean, variance = encoding.encode_file(run, path)
    _, shape = densities.gaussian_of(run)
    density = densities.widened(mean, variance, spread=spread, covariance=shape @ shape.T)
    about = {"label": None, "prior": "around", "around": path.name, "spread": spread}
    return draws(density, about, num=num, seed=seed, temperature=temperature)


def between(run: Run, a: Path, b: Path, *, num: int, path: str = "straight") -> Plan:
    """A path from one sound to another in equal steps, both included; see `path_between`."""
    start, end = (np.asarray(encoding.encode_file(run, file)[0]) for file in (a, b))
    about = {"label": None, "prior": "between", "between": [a.name, b.name], "path": path}
    return given(path_between(run, start, end, num=num, path=path), about, numbered(num, None))


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
        mean, cholesky = densities.gaussian_of(run, config.model.latent_dim)
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
    return given(latents.reshape(1, -1), about, numbered(1, None))._replace(form=form)


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
    return given(paths.bilinear(ends, u, v), about, numbered(rows * columns, None), each=each)


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
        mean, cholesky = densities.gaussian_of(run)
        return paths.spherical(start, end, t, mean=mean, cholesky=cholesky)
    raise ValueError(f"path={path!r} must be 'straight' or 'spherical'")


def matching(run: Run, path: Path, *, seed: int) -> Plan:
    """The one sound that a gradient search finds nearest to a given one.

    Starts at the encoder's answer and at draws around it.
    """
    waveform = encoding.read_file(run, path)
    mean, _ = encoding.encode_file(run, path)
    _, spread = densities.gaussian_of(run)
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
    return given(np.asarray(z)[None], about, numbered(1, None), seed=seed)


def reconstruct(run: Run, path: Path) -> Plan:
    """Sounds through the model, under their own names.

    Raises:
      FileNotFoundError: no such file or folder.
      ValueError: no usable sound in it.
    """
    means, names = encoding.encode_all(run, path)
    return given(
        means,
        {"label": None, "prior": "reconstruct"},
        distinct(names).__getitem__,
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
        return given(latents, about, numbered(len(latents), None))
    if latents.shape[1] == of_frame < latent_dim:
        latents = latents.reshape(1, -1)
    form = sequences.path_form(run.config, latents.shape[1])
    return given(latents, about, numbered(len(latents), None))._replace(form=form)


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


def given(latents: np.ndarray, about, stems, each=None, seed=None) -> Plan:
    """Sounds of given latents [num, latent_dim]; for the rest see `Plan`."""
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
