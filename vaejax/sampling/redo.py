"""Sounds that were made before, again: from a manifest, or from what was starred in a sheet.

A sound comes from its latent, which stands in the latents.npy beside the manifest, or, if that is
gone, is drawn again with its key. The manifest says how it was inverted and written.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import names
from vaejax.export.folders import LATENTS, MANIFEST
from vaejax.features import conditions
from vaejax.latent import priors
from vaejax.latent.priors import Prior
from vaejax.run.load import Run
from vaejax.sampling import attributes, densities, generate, plans, sequences
from vaejax.sampling.options import Options
from vaejax.sampling.plans import Plan
from vaejax.sampling.sequences import CLIP


class Original(NamedTuple):
    """Sounds of a manifest."""

    path: Path
    """The manifest."""
    rows: list[dict[str, Any]]
    """The lines of the sounds that are wanted, in the order in which they are."""

    def setting(self, name: str) -> Any:
        """What all lines agree on.

        Raises:
          ValueError: they do not.
        """
        values = {row.get(name) for row in self.rows}
        if len(values) > 1:
            listed = ", ".join(sorted(map(str, values)))
            raise ValueError(
                f"the sounds were made with different settings ({name}: {listed}); redo them apart"
            )
        return values.pop()

    @property
    def format(self) -> Literal["wav", "flac"]:
        """Of the files."""
        return "flac" if all(row["file"].endswith(".flac") for row in self.rows) else "wav"


def read(path: Path, indices: Sequence[int]) -> Original:
    """Reads a manifest, or the starred list of a contact sheet, which names its manifest.

    Args:
      path: manifest.jsonl, its folder, or the JSON file of starred sounds.
      indices: of the sounds that are wanted; all of the file if there are none.

    Raises:
      FileNotFoundError: no such file.
      ValueError: it is no manifest, or lacks one of the sounds.
    """
    if path.is_dir():
        path = path / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; give the manifest.jsonl of a folder of sounds")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no manifest: it is not text") from None
    try:
        starred = json.loads(text)
    except ValueError:
        starred = None  # Lines, each JSON by itself.
    if isinstance(starred, dict) and "sounds" in starred:
        original = _starred(path, starred)
        return _chosen(original, indices) if indices else original
    rows = [starred] if isinstance(starred, dict) else _lines(path, text)
    _check(path, rows)
    original = Original(path, rows)
    return _chosen(original, indices) if indices else original


def as_before(options: Options, original: Original) -> Options:
    """The options with those of the first time where none are given.

    Raises:
      ValueError: they do not go together, or the sounds were made in different ways.
    """
    if options.out.resolve() == original.path.parent.resolve():
        raise ValueError(f"{options.out} holds the sounds to be made again: choose another --out")
    if options.inversion is None:
        options = replace(options, inversion=original.setting("inversion"))
        if options.iterations is None:
            options = replace(options, iterations=original.setting("iterations"))
    if options.hold is None and (hold := original.setting("hold")) is not None:
        at = original.setting("at") if options.at is None else options.at
        options = replace(options, hold=hold, at=None if at is None else str(at))
    form = options.format or original.format
    before = original.setting("subtype")
    subtype = options.subtype or before
    if (form, subtype) == ("flac", "FLOAT"):
        raise ValueError("the sounds are FLOAT, which FLAC does not hold: give --subtype PCM_24")
    # Folders of before there was dither say nothing of it: they had none.
    dither: Any = (original.setting("dither") or "none") if before == "PCM_16" else None
    return replace(
        options,
        format=form,
        subtype=subtype,
        dither=options.dither or dither,
        sample_rate=options.sample_rate or original.setting("sample_rate"),
        level=options.level or original.setting("level"),
        fade_out=(
            original.setting("fade_out_ms") if options.fade_out is None else options.fade_out
        ),
        trim_silence=(
            original.setting("trim_silence")
            if options.trim_silence is None
            else options.trim_silence
        ),
        loop=options.loop or (options.hold is None and any("loop" in r for r in original.rows)),
    )


def plan(run: Run, original: Original, *, temperature: float | None, workdir: Path) -> Plan:
    """The sounds again, under their own numbers and names.

    Args:
      temperature: of the draws, if it is to be another; the same keys are drawn with.
      workdir: the run folder.

    Raises:
      ValueError: another run made them, or neither latents nor a way to draw them are there.
    """
    for row in original.rows:
        if row["run"] != run.fingerprint:
            raise ValueError(
                f"{original.path} is of the run {row['run']}, but {workdir} is the run "
                f"{run.fingerprint}; give the --workdir that made it"
            )
    redrawn = temperature is not None
    changes = {"temperature": temperature} if redrawn else {}
    stored = None if redrawn else _stored(run, original)
    if stored is None:
        stored = _drawn(run, original, temperature=temperature, workdir=workdir)
    facts = _facts(run, original)
    first = original.rows[0]
    form = CLIP  # what is held is made so by its own option, as the first time
    if first.get("hold") is None:
        fades_in = first.get("morph") is not None and first.get("at") != "moving"
        form = sequences.path_form(run.config, stored.shape[1], fades_in=fades_in)
    stems = names.distinct([row["file"] for row in original.rows])
    return Plan(
        num=len(stored),
        stems=stems.__getitem__,
        about={},
        latents=stored,
        each=[{**row, **changes} for row in original.rows],
        facts=lambda indices: facts[np.minimum(indices, len(facts) - 1)],
        form=form,
    )


def _facts(run: Run, original: Original) -> np.ndarray:
    """What the model was told of each sound, [num, num_facts]."""
    facts = conditions.nothing(run.vocabulary, len(original.rows))
    for i, row in enumerate(original.rows):
        if row.get("facts"):
            facts[i] = [math.nan if fact is None else fact for fact in row["facts"]]
    return facts


def _stored(run: Run, original: Original) -> np.ndarray | None:
    """The latents [num, latent_dim] beside the manifest, or None if they are gone."""
    path = original.path.parent / LATENTS
    if not path.is_file() or any("latent_row" not in row for row in original.rows):
        return None
    stored = plans.from_file(run, path, held=True).latents
    assert stored is not None
    rows = [row["latent_row"] for row in original.rows]
    if not all(isinstance(row, int) and 0 <= row < len(stored) for row in rows):
        raise ValueError(f"{path} does not go with {original.path}: it holds {len(stored)} latents")
    return stored[rows]


def _drawn(run: Run, original: Original, *, temperature: float | None, workdir: Path) -> np.ndarray:
    """The latents [num, latent_dim], drawn again with their keys."""
    densities: dict[str, Prior] = {}
    drawer = generate.make_drawer()
    rows = []
    for row in original.rows:
        conditioned = bool(row.get("facts"))
        kind = json.dumps([conditioned, *(row.get(k) for k in ("prior", "label", "attribute"))])
        if kind not in densities:
            densities[kind] = _density(run, row, original, workdir)
        warmth = jnp.float32(row["temperature"] if temperature is None else temperature)
        density, key = densities[kind], jax.random.key(row["seed"])
        # A draw is played at so many keys.
        draw = row.get("draw", row["index"]) // row.get("multisample", 1)
        index = np.full(generate.chunk_size(), draw, np.uint32)
        rows.append(np.asarray(drawer(density, key, index, warmth)[0]))
    return np.stack(rows)


def _density(run: Run, row: dict[str, Any], original: Original, workdir: Path) -> Prior:
    """What a sound was drawn from."""
    kind = row.get("prior") if row.get("seed") is not None else None
    if row.get("facts") and kind in ("told", "label"):
        density = densities.conditioned(run, row.get("label") if kind == "label" else None)
    elif kind in ("aggregate", "standard", *priors.PRIORS):
        density = densities.prior_density(run, kind)
    elif kind == "label":
        density = densities.label_density(run, row["label"])
    elif kind == "around":
        raise ValueError(
            f"sound {row['index']} is a variation of {row.get('around')}: to draw it again, repeat "
            f"--around with that file, --spread {row.get('spread')} and --seed {row.get('seed')}"
            + ("" if _has_latents(original) else f", for there is no {LATENTS} beside its manifest")
        )
    else:
        raise ValueError(
            f"sound {row['index']} was not drawn (its prior is {row.get('prior')!r})"
            + (
                ", so it has no temperature"
                if _has_latents(original)
                else f", and there is no {LATENTS} beside {original.path}"
            )
        )
    if row.get("attribute"):
        dz, _ = attributes.step(run, row["attribute"], workdir=workdir)
        density = density._replace(means=density.means + dz)
    return density


def _has_latents(original: Original) -> bool:
    return (original.path.parent / LATENTS).is_file()


def _starred(path: Path, starred: dict[str, Any]) -> Original:
    """The sounds of a starred list, out of the manifest that it names."""
    try:
        files = {int(sound["index"]): str(sound["file"]) for sound in starred["sounds"]}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is no starred list: its sounds need index and file") from None
    if not files:
        raise ValueError(f"{path} lists no sound: star some in the contact sheet first")
    manifest = path.parent / names.within(starred.get("manifest") or MANIFEST, path)
    if not manifest.is_file():
        raise FileNotFoundError(
            f"{path} lists sounds of {manifest}, which is not there: move the list into the folder "
            "of its sounds, or give --redo the manifest of that folder and --index"
        )
    original = read(manifest, list(files))
    for row in original.rows:
        listed = (files[row["index"]], starred.get("run", row["run"]))
        if listed != (row["file"], row["run"]):
            raise ValueError(
                f"{path} is not of {manifest}: sound {row['index']} is {listed[0]} of the run "
                f"{listed[1]} in the one, {row['file']} of the run {row['run']} in the other"
            )
    return original


def _check(path: Path, rows: list[Any]) -> None:
    """Raises ValueError unless the lines are those of a manifest, and all of its names harmless."""
    needed = {"index": int, "file": str, "run": str}
    for number, row in enumerate(rows, 1):
        right = isinstance(row, dict) and all(isinstance(row.get(k), needed[k]) for k in needed)
        if not right or row["index"] < 0:
            raise ValueError(
                f"{path} is no manifest: its lines need {', '.join(needed)}, and line {number} "
                "lacks one of them or has another kind of it"
            )
        names.within(row["file"], f"{path}, line {number},")
    if not rows:
        raise ValueError(f"{path} is no manifest: it holds no line")


def _lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise ValueError(f"{path} is no manifest: line {number} is not JSON") from None
    return rows


def _chosen(original: Original, indices: Sequence[int]) -> Original:
    by_index = {row["index"]: row for row in original.rows}
    missing = [index for index in indices if index not in by_index]
    if missing:
        known = sorted(by_index)
        raise ValueError(
            f"{original.path} has no sound {missing[0]}; its {len(known)} are numbered from "
            f"{known[0]} to {known[-1]}"
        )
    return original._replace(rows=[by_index[index] for index in dict.fromkeys(indices)])
