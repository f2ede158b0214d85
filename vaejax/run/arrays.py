"""The arrays of a run folder that are fitted and not trained: fitted.npz and prior.npz.

Nothing in them is pickled, and loading them executes nothing.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vaejax import files
from vaejax.codec import Fitted
from vaejax.features import Statistics
from vaejax.latent.priors import PRIORS, Mixture, Prior
from vaejax.metrics import Embedding
from vaejax.models.linear import Linear
from vaejax.run.folder import damaged

_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError)

FITTED_PARTS: dict[str, Any] = {"statistics": Statistics, "linear": Linear, "embedding": Embedding}


class Posteriors(NamedTuple):
    """Where the training sounds lie in the latent, under the weights that are sampled from."""

    rows: np.ndarray
    """[num_clips], row of each in data.json's `files`."""
    means: np.ndarray
    """[num_clips, latent_dim]."""
    variances: np.ndarray
    """[num_clips, latent_dim]."""


class Aggregate(NamedTuple):
    """The aggregate posterior."""

    prior: Prior
    """The density fitted to it."""
    posteriors: Posteriors
    log_likelihoods: dict[str, float]
    """Of the densities it was chosen from (`priors.Choice`), nats per left-out sound."""


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Writes an .npz file whole or not at all."""
    on_host: dict[str, Any] = {k: np.asarray(v) for k, v in arrays.items()}
    files.replace(path, lambda f: np.savez(f, **on_host))


@contextlib.contextmanager
def _arrays(path: Path) -> Iterator[Any]:
    """The arrays of an .npz file of a run.

    Raises:
      ValueError: it is damaged, or what is done with them shows that; says the remedy.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            yield arrays
    except FileNotFoundError:
        raise
    except (ValueError, LookupError, TypeError, OSError, EOFError, *_BROKEN_ZIP) as error:
        raise damaged(path, " ".join(str(error).split())) from None


def _finite(array: Any) -> Any:
    if not np.isfinite(array).all():
        raise ValueError("it holds values that are not finite")
    return array


def save_fitted(workdir: Path, fitted: Fitted, embedding: Embedding) -> None:
    """Writes what was fitted before training."""
    parts = {**fitted._asdict(), "embedding": embedding}
    save_arrays(
        workdir / "fitted.npz",
        {f"{part}.{k}": v for part, t in parts.items() for k, v in t._asdict().items()},
    )


def load_fitted(workdir: Path) -> tuple[Fitted, Embedding]:
    """Reads what `save_fitted` wrote."""
    with _arrays(workdir / "fitted.npz") as arrays:

        def array(name: str):
            if name == "linear.offsets" and name not in arrays:
                # Written before models could be told anything.
                return jnp.zeros((len(arrays["linear.eigenvalues"]), 0))
            if name == "linear.basis" and name not in arrays:
                # Written when directions came first.
                return jnp.moveaxis(jnp.asarray(arrays["linear.directions"]), 0, -1)
            return jnp.asarray(_finite(arrays[name]))

        parts = {
            part: kind(**{k: array(f"{part}.{k}") for k in kind._fields})
            for part, kind in FITTED_PARTS.items()
        }
    return Fitted(parts["statistics"], parts["linear"]), parts["embedding"]


def save_prior(workdir: Path, untold: Aggregate, told: Aggregate | None, step: int) -> None:
    """Writes the priors fitted for the best weights, of that step, and what they were fitted to."""
    arrays: dict[str, Any] = {"step": step}
    for prefix, aggregate in (("", untold), ("told.", told)):
        if aggregate is not None:
            arrays |= {f"{prefix}{k}": v for k, v in aggregate.prior._asdict().items()}
            parts = aggregate.posteriors._asdict()
            arrays |= {f"{prefix}posteriors.{k}": v for k, v in parts.items()}
            arrays[f"{prefix}candidates"] = list(aggregate.log_likelihoods)
            arrays[f"{prefix}log_likelihoods"] = list(aggregate.log_likelihoods.values())
    save_arrays(workdir / "prior.npz", arrays)


def load_prior(workdir: Path, step: int) -> tuple[Aggregate, Aggregate | None] | None:
    """What was fitted for the weights of a step, told nothing and told all; or None."""
    path = workdir / "prior.npz"
    if not path.exists():
        return None
    with _arrays(path) as arrays:
        if int(arrays["step"]) != step:
            return None

        def read(prefix: str) -> Aggregate:
            kinds: list[Any] = [family.kind for family in PRIORS.values()]
            whole = (kind for kind in kinds if {prefix + k for k in kind._fields} <= set(arrays))
            kind = next(whole, Mixture)
            prior = kind(*(jnp.asarray(_finite(arrays[prefix + k])) for k in kind._fields))
            parts = (_finite(arrays[f"{prefix}posteriors.{k}"]) for k in Posteriors._fields)
            posteriors = Posteriors(*parts)
            if prior.means.shape[1:] != posteriors.means.shape[1:]:
                raise ValueError("its parts are of different sizes")
            return Aggregate(
                prior,
                posteriors,
                {
                    str(name): float(value)
                    for name, value in zip(
                        arrays[f"{prefix}candidates"],
                        arrays[f"{prefix}log_likelihoods"],
                        strict=True,
                    )
                },
            )

        return read(""), read("told.") if "told.posteriors.rows" in arrays else None
