"""The arrays of a run under plain names, and the manifest that says what they are.

The name of an array is the way to it: `params/vae/encoder/...`, `fitted/linear/basis`, `prior/...`.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from vaejax import config as configs
from vaejax import files
from vaejax.features import conditions
from vaejax.run.load import Run

FORMAT_VERSION = 1
MANIFEST = "manifest"


def parts_of(run: Run) -> dict[str, Any]:
    """What encoding, drawing and decoding read of a run, as a tree."""
    instrument = run.instrument
    return {
        "params": instrument.params,
        "fitted": instrument.fitted,
        "prior": instrument.prior,
    }


def named(tree) -> dict[str, Any]:
    """The leaves of a tree by their names, in the order of `jax.tree.leaves`."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(way, simple=True, separator="/"): leaf for way, leaf in leaves}


def manifest(run: Run, kind: str) -> dict[str, Any]:
    """What a reader has to know beside the arrays; JSON.

    Args:
      kind: of the file, as `--to` has it.
    """
    told = run.vocabulary
    return {
        "format": f"vaejax-{kind}",
        "format_version": FORMAT_VERSION,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")},
        "step": run.step,
        "fingerprint": run.fingerprint,
        "sample_rate": run.config.data.sample_rate,
        "num_samples": run.config.data.num_samples,
        "latent_dim": run.config.latent_dim,
        "facts": conditions.fact_names(told),
        "labels": list(told.labels),
        "factors": {
            name: {"centre": centre, "scale": scale}
            for name, centre, scale in zip(told.factors, told.centres, told.scales, strict=True)
        },
        "config": configs.to_dict(run.config),
    }


def savez(file: BinaryIO, arrays: dict[str, Any]) -> None:
    """Writes named arrays as an npz."""
    # Its own arguments are called `file` and `allow_pickle`; no name here is, for all have a slash.
    np.savez(file, **{name: np.asarray(array) for name, array in arrays.items()})  # type: ignore[arg-type]


def write(path: Path, run: Run) -> None:
    """Writes all arrays of a run and its manifest as one npz, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    about = np.array(json.dumps(manifest(run, "npz")))
    arrays = {MANIFEST: about, **named(parts_of(run))}
    files.replace(path, lambda file: savez(file, arrays))
