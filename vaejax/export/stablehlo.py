"""A run as compiled-anywhere programs: `jax.export` artefacts for CPU, CUDA and TPU in a zip.

Weights stand beside the programs, once, and are their first argument: a dict of arrays by name. The
batch of every program is of any size.
"""

import json
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp

from vaejax import codec, files
from vaejax.export import weights
from vaejax.latent import priors
from vaejax.run.load import Run

PLATFORMS = ("cpu", "cuda", "tpu")
# Dates in a zip are of this, so that the same run gives the same bytes.
EPOCH = (1980, 1, 1, 0, 0, 0)


def programs(run: Run) -> dict[str, jax.export.Exported]:
    """The programs of a run by name, each of a dict of weights and of a batch of b:

    - encode(weights, waveforms [b, num_samples] at a peak of 1, facts [b, num_facts]) -> mean,
      logvar, [b, latent_dim] each;
    - draw(weights, seed [] uint32, indices [b] uint32, temperature []) -> z [b, latent_dim];
    - decode(weights, z [b, latent_dim], facts [b, num_facts]) -> waveforms [b, num_samples] and
      spectral_convergence_db [b].

    Facts are NaN where nothing is told; `vaejax.features.conditions` has their order.
    """
    config, num_facts = run.config, run.vocabulary.num_facts
    parts = weights.parts_of(run)
    tree = jax.tree.structure(parts)
    (b,) = jax.export.symbolic_shape("b")
    arrays = {name: _shape(jnp.shape(a), a.dtype) for name, a in weights.named(parts).items()}
    names = list(arrays)

    def of(given):
        return jax.tree.unflatten(tree, [given[name] for name in names])

    def encode(given, waveforms, facts):
        def one(waveform, known):
            told = codec.condition_of(known, fitted, config)
            return codec.encode(of(given)["params"], fitted, waveform, told, config=config)

        fitted = of(given)["fitted"]
        return jax.vmap(one)(waveforms, facts)

    def draw(given, seed, indices, temperature):
        def one(index):
            key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), index)
            return priors.draw(key, of(given)["prior"], temperature=temperature)[0]

        return jax.vmap(one)(indices)

    def decode(given, z, facts):
        def one(point, known):
            told = codec.condition_of(known, fitted, config)
            return codec.decode(of(given)["params"], fitted, point, told, config=config)

        fitted = of(given)["fitted"]
        return jax.vmap(one)(z, facts)

    facts = _shape((b, num_facts))
    given: dict[str, tuple[Callable, tuple]] = {
        "encode": (encode, (_shape((b, config.data.num_samples)), facts)),
        "draw": (draw, (_shape((), jnp.uint32), _shape((b,), jnp.uint32), _shape(()))),
        "decode": (decode, (_shape((b, config.latent_dim)), facts)),
    }
    return {
        # Weights that a program does not read are left in its arguments: one dict serves all.
        name: jax.export.export(jax.jit(program, keep_unused=True), platforms=PLATFORMS)(
            arrays, *arguments
        )
        for name, (program, arguments) in given.items()
    }


def write(path: Path, run: Run) -> None:
    """Writes programs, weights and manifest as one zip, whole or not at all.

    Raises:
      OSError: it cannot be written.
    """
    exported = programs(run)
    about = {
        **weights.manifest(run, "stablehlo"),
        "platforms": PLATFORMS,
        "calling_convention_version": exported["decode"].calling_convention_version,
    }
    blobs: dict[str, Any] = {f"{name}.bin": one.serialize() for name, one in exported.items()}
    blobs["manifest.json"] = json.dumps(about, indent=1).encode()
    files.replace(path, partial(_zip, blobs=blobs, arrays=weights.named(weights.parts_of(run))))


def _zip(file: BinaryIO, *, blobs: dict[str, Any], arrays: dict[str, Any]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, blob in blobs.items():
            archive.writestr(zipfile.ZipInfo(name, EPOCH), bytes(blob))
        with archive.open(zipfile.ZipInfo("weights.npz", EPOCH), "w", force_zip64=True) as entry:
            weights.savez(entry, arrays)  # type: ignore[arg-type]


def _shape(shape, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
