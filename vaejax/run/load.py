"""Loads a run folder to make sounds with it."""

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax import config as configs
from vaejax.codec import Fitted, Instrument
from vaejax.config import Config
from vaejax.features import conditions
from vaejax.features.conditions import Vocabulary
from vaejax.objective import context
from vaejax.run import folder as run_folder
from vaejax.run.arrays import Aggregate, Posteriors, load_fitted, load_prior
from vaejax.run.checkpoint import Checkpoints, DamagedError, has_checkpoint


class Run(NamedTuple):
    """A run as the sampler sees it."""

    config: Config
    instrument: Instrument
    data: dict[str, Any]
    """data.json; its `files` are {"file", "label", "seconds", "split"}."""
    step: int
    """Of the weights."""
    posteriors: Posteriors | None
    """None where the run was killed before they were stored; the prior is then the objective's."""
    fingerprint: str
    """Of what the sounds depend on: weights, what was fitted, and data."""
    vocabulary: Vocabulary
    """What the model can be told of a sound."""
    told: Aggregate | None
    """The aggregate posterior where the model is told all that is known; None where it can be told
    nothing, or was killed before."""

    @property
    def has_fitted_prior(self) -> bool:
        """Whether the prior is that of the aggregate posterior."""
        return self.posteriors is not None


def load_run(workdir: str | os.PathLike) -> Run:
    """Loads a run folder for sampling.

    Raises:
      FileNotFoundError: there is no run in it; names the command that makes one.
      ValueError: it is of another version.
    """
    workdir = Path(workdir)
    command = f"python train.py --workdir {workdir}"
    if not (workdir / "config.json").exists():
        raise FileNotFoundError(f"no run in {workdir}: train one first with `{command}`")
    stored = run_folder.read_json(workdir / "config.json")
    try:
        config = configs.from_dict(stored)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{workdir / 'config.json'} is of another version: {error}") from None
    if not has_checkpoint(workdir):
        raise FileNotFoundError(
            f"the run in {workdir} has no checkpoint yet: let `{command}` reach its first "
            "evaluation"
        )
    data = run_folder.read_data(workdir)
    fitted, embedding = load_fitted(workdir)
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step, params = checkpoints.restore_best(config, fitted.linear.condition_dim)
    except DamagedError as error:
        raise ValueError(
            f"{error}: the train.py command of this run takes its last ones"
        ) from error
    finally:
        checkpoints.close()
    loaded = load_prior(workdir, step)
    untold, told = loaded or (None, None)
    return Run(
        config=config,
        instrument=Instrument(
            params=params,
            fitted=fitted,
            prior=untold.prior if untold else context.prior_density(params, fitted, config=config),
            embedding=embedding,
        ),
        data=data,
        step=step,
        posteriors=untold.posteriors if untold else None,
        fingerprint=_fingerprint(params, fitted, data["fingerprint"]),
        vocabulary=conditions.vocabulary(config.condition, data["files"]),
        told=told,
    )


def _fingerprint(params, fitted: Fitted, data: str) -> str:
    """Stays as it is while the best weights do, whatever else of the run goes on or is set anew."""
    digest = hashlib.blake2b(data.encode(), digest_size=8)
    # The eigenvalues stand for the directions, which take a hundred times the room.
    for leaf in jax.tree.leaves((params, fitted.statistics, fitted.linear.eigenvalues)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()
