"""Writes the sounds of a plan: files, manifest, latents, contact sheet, with flat memory.

The device makes batch n + 1 while threads write batch n.
"""

import dataclasses
import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from vaejax import conditions, generate, priors
from vaejax.checkpoint import Run, write_text
from vaejax.cli import Interrupted
from vaejax.curation import Curation, Rules
from vaejax.export import names, pack, sfz
from vaejax.export.mastering import FACTS, Level, Mastered, Mastering, master
from vaejax.export.sheet import SheetWriter
from vaejax.export.wav import (
    LATENTS,
    MANIFEST,
    PARTIAL_PREFIX,
    SoundWriter,
    Tags,
    WriteError,
    explain_write_error,
    prepare_folder,
)
from vaejax.latents import Plan
from vaejax.signal import phase
from vaejax.signal.pitch import CLEAR, pitch

DEFAULT_BATCH = {"cpu": 32}
DEFAULT_BATCH_ACCELERATOR = 512
# Indices are uint32.
MAX_DRAWS = 2**32
# Of what the host does to sounds; much of it holds the interpreter's lock.
MAX_THREADS = 8


class Files(NamedTuple):
    """What the files are to be."""

    suffix: str
    """`wav` or `flac`."""
    subtype: str
    """`PCM_16`, `PCM_24` or `FLOAT`."""
    dither: str
    """Of PCM_16: `tpdf` or `none`."""
    sample_rate: int | None
    """Hz; None for the run's own."""
    level: Level | None
    """Peak or loudness; None for the peak of the run's config."""
    trim_db: float | None
    """Below the peak; a silent end is cut off. None keeps it."""
    loop: bool
    """Whether to look for loops."""
    names: str
    """`index`: as the plan has them. `label`: by label, note and index."""
    sfz: bool
    """Whether to write SFZ instruments."""
    archive: bool
    """Whether to make a zip beside the folder."""

    @property
    def listens(self) -> bool:
        """Whether the pitch of every sound has to be known."""
        return self.loop or self.sfz or self.names == "label"


# What is written unless something else is asked for.
PLAIN = Files(
    suffix="wav",
    subtype="PCM_16",
    dither="tpdf",
    sample_rate=None,
    level=None,
    trim_db=None,
    loop=False,
    names="index",
    sfz=False,
    archive=False,
)


class Made(NamedTuple):
    """What was written."""

    num: int
    sounds_per_second: float | None
    """From the second batch to the last byte; None where there is one batch, with compilation."""
    curation: Curation | None
    """What was rejected; None where nothing could be."""
    looped: int
    """Sounds that have a loop."""
    limited: int
    """Sounds that would clip at the loudness asked for, and are quieter."""
    instruments: list[str]
    """Names of the SFZ files."""
    archive: Path | None
    """The zip."""


def write_sounds(
    run: Run,
    plan: Plan,
    *,
    out: Path,
    overwrite: bool,
    files: Files,
    batch_size: int | None,
    title: str,
    rules: Rules | None = None,
) -> Made:
    """Makes and writes every sound of a plan, or, under `rules`, as many as it finds.

    Raises:
      OSError: the folder is taken or cannot be written. What is complete is kept, with a manifest
        of just that.
    """
    config = run.config

    def name(i: int) -> str:
        return f"{plan.stems(i)}.{files.suffix}"

    by_index = files.names == "index"
    if files.archive:
        pack.check_archive(out, overwrite=overwrite)
    # Names that tell the note are known when the note is; until then nobody can be in their way.
    prepare_folder(out, overwrite=overwrite, names=map(name, range(plan.num if by_index else 0)))
    if plan.each:  # only these have subfolders
        for folder in {os.path.dirname(name(i)) for i in range(plan.num)} - {""}:
            (out / folder).mkdir(parents=True, exist_ok=True)

    curated = rules is not None and rules.reject
    chunk = generate.chunk_size()
    default = DEFAULT_BATCH.get(jax.default_backend(), DEFAULT_BATCH_ACCELERATOR)
    if curated:
        default = (
            chunk  # What is drawn in vain, after the last that is kept, is at most two batches.
        )
    batch_size = -(-(batch_size or min(default, plan.num)) // chunk) * chunk
    train_files = [row["file"] for row in run.data["files"] if row["split"] == "train"]
    neighbour_distance = float(run.instrument.embedding.median_neighbour)
    iterations = config.sound.iterations
    method, usual = phase.choose(
        config.features.n_fft, config.features.hop_length, method=config.sound.inversion
    )
    labels = {row["file"]: row["label"] for row in run.data["files"]}
    mastering = Mastering(
        source_rate=config.data.sample_rate,
        sample_rate=files.sample_rate or config.data.sample_rate,
        trim_db=files.trim_db,
        fade_ms=config.sound.fade_out_ms,
        loop=files.loop,
        level=files.level or Level(config.sound.peak_db, "dBFS"),
        ceiling_db=config.sound.peak_db,
        subtype=files.subtype,
        dither=files.dither == "tpdf",
    )
    on_host = mastering.reshapes or mastering.dithers
    # What was listened to once is listened to again: the pitch is in the file.
    listens = files.listens or any("detected_pitch" in line for line in plan.each or ())
    about = {
        **plan.about,
        "inversion": method,
        "iterations": usual if iterations is None else iterations,
        "sample_rate": mastering.sample_rate,
        "seconds": round(config.data.num_samples / config.data.sample_rate, 6),
        "subtype": files.subtype,
        "dither": "tpdf" if mastering.dithers else "none",
        "level": str(mastering.level),
        "fade_out_ms": mastering.fade_ms,
        "trim_silence": mastering.trim_db,
        "run": run.fingerprint,
        "step": run.step,
    }

    curation = None
    if curated:
        assert rules is not None
        assert plan.prior is not None, "only draws can be chosen from"
        about["curation"] = {k: v for k, v in dataclasses.asdict(rules).items() if v is not None}
        density = jax.jit(jax.vmap(partial(priors.log_density, plan.prior)))
        curation = Curation(
            rules,
            plan.num,
            unit=neighbour_distance,
            log_density=lambda z: generate.in_chunks(density, z, chunk),
        )

    def row(
        i: int, draw: int, told: np.ndarray | None, batch, j: int, mastered: Mastered
    ) -> dict[str, Any]:
        # All digits of what the model was told: it takes them to make the sound again.
        facts = [] if told is None else [None if math.isnan(x) else x for x in told[j].tolist()]
        # Made again, a sound may be mastered in another way.
        each = {k: v for k, v in plan.each[i].items() if k not in FACTS} if plan.each else {}
        nearest_file = train_files[int(batch["nearest"][j])]
        line = {
            "index": i,
            **({"draw": draw} if curation else {}),
            **({"facts": facts} if facts else {}),
            **each,
            "file": name(i),
            "latent_row": i,
            **about,
            **({} if told is None else _said(run, told[j])),
            "peak": round(float(batch["peak"][j]), 6),
            "rms_db": round(float(batch["rms_db"][j]), 3),
            "spectral_convergence": round(float(batch["spectral_convergence_db"][j]), 3),
            "nearest_file": nearest_file,
            "nearest_label": labels[nearest_file],
            "nearest_distance": round(float(batch["novelty"][j]) * neighbour_distance, 3),
            "novelty": round(float(batch["novelty"][j]), 4),
        }
        if listens:
            clarity = float(batch["clarity"][j])
            heard = 69 + 12 * math.log2(float(batch["hz"][j]) / 440)
            line["detected_pitch"] = round(heard, 3) if clarity > CLEAR else None
            line["pitch_clarity"] = round(clarity, 3)
        line |= mastered.facts
        if not by_index:
            digits = max(5, len(str(plan.num - 1)))
            root = sfz.root_of(line)
            key = None if root is None else min(max(round(root), 0), 127)
            stem = names.telling(i, digits=digits, label=sfz.label_of(line), key=key)
            line["file"] = f"{stem}.{files.suffix}"
        return line

    latents_path = out / f"{PARTIAL_PREFIX}{LATENTS}"
    done, first, after_first = 0, 0, 0.0
    looped = limited = 0
    stopped: BaseException | None = None
    try:
        with (
            # A stream, not a memory map: a full disk is then an OSError to report, not a SIGBUS.
            open(latents_path, "wb") as latents,
            open(out / MANIFEST, "w", encoding="utf-8") as manifest,
            SheetWriter(
                out,
                title=title,
                sample_rate=mastering.sample_rate,
                seconds=config.data.num_samples / config.data.sample_rate,
                map_text=generate.MAP_TEXT,
            ) as sheet,
            tqdm(total=plan.num, unit="sound", dynamic_ncols=True) as bar,
        ):
            latents.write(_npy_header(plan.num, config.model.latent_dim))
            try:
                with (
                    SoundWriter(mastering.sample_rate, subtype=files.subtype) as writer,
                    ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads,
                ):
                    batches = _batches(
                        run,
                        plan,
                        num=None if curation else plan.num,
                        subtype="FLOAT" if on_host else files.subtype,
                        batch_size=batch_size,
                        listen=listens,
                    )
                    chosen = curation.accepted(batches) if curation else _all(batches, plan.num)
                    for draws, batch in chosen:
                        count = len(draws)
                        told = None if plan.facts is None else plan.facts(draws)
                        if on_host:
                            finish = partial(master, mastering=mastering)
                            mastered = list(threads.map(finish, batch["samples"]))
                        else:
                            mastered = [Mastered(sound, None, {}) for sound in batch["samples"]]
                        rows = [
                            row(done + j, int(draws[j]), told, batch, j, mastered[j])
                            for j in range(count)
                        ]
                        looped += sum(sound.loop is not None for sound in mastered)
                        limited += sum(bool(r.get("level_limited")) for r in rows)
                        # The sounds go last: one without its latent and its line would be lost
                        # to --overwrite, a line without its sound is dropped by _keep_complete.
                        latents.write(batch["z"].astype("<f4").tobytes())
                        manifest.writelines(json.dumps(r) + "\n" for r in rows)
                        for j in range(count):
                            path = out / rows[j]["file"]
                            if not by_index and os.path.lexists(path):
                                raise WriteError(
                                    f"{path} is in the way and not from an earlier run; move it or "
                                    "choose another --out"
                                )
                            tags = Tags(_origin(rows[j]), sfz.root_of(rows[j]), mastered[j].loop)
                            writer.submit(path, mastered[j].samples, tags)
                        places = batch["point"][:, :2].tolist()
                        shown = [{**r, "map": at} for r, at in zip(rows, places, strict=True)]
                        sheet.add(shown, batch["thumbnail"], batch["outline"])
                        done += count
                        bar.update(count)
                        if curation:
                            bar.set_postfix_str(f"{curation.drawn} drawn")
                        if not first:
                            first, after_first = done, time.perf_counter()
            except KeyboardInterrupt as interrupt:
                # What is complete stays usable: the manifest and the sheet are finished too.
                stopped = interrupt
            # Fewer than asked for: interrupted, or no more were found.
            rows_written = latents.tell() - len(_npy_header(plan.num, config.model.latent_dim))
            rows_written //= 4 * config.model.latent_dim
            latents.seek(0)
            latents.write(_npy_header(rows_written, config.model.latent_dim))
        os.replace(latents_path, out / LATENTS)
    except BaseException as error:
        latents_path.unlink(missing_ok=True)
        _keep_complete(out)
        if isinstance(error, OSError):
            raise explain_write_error(out / MANIFEST, error) from error
        raise
    if stopped is not None:
        complete = _keep_complete(out)
        raise Interrupted(f"interrupted; {out} holds the {complete} sounds made until then")
    rate = (done - first) / (time.perf_counter() - after_first) if done > first else None
    instruments = sfz.write_instruments(out) if files.sfz else []
    archive = None
    if files.archive:
        archive = pack.pack(out, _all_files(out, instruments))
    return Made(done, rate, curation, looped, limited, instruments, archive)


def _said(run: Run, facts: np.ndarray) -> dict[str, Any]:
    """What the model was told, in words: label and pitch, and `told`, the factors."""
    values = conditions.values_of(run.vocabulary, facts)
    said: dict[str, Any] = {n: values.pop(n) for n in ("label", "pitch") if n in values}
    return {**said, **({"told": values} if values else {})}


def _origin(row: dict[str, Any]) -> str:
    """Where a sound comes from, as its file says it: the same for the same draw, chosen or not."""
    drawn = row.get("seed") is not None
    number = row.get("draw", row["index"]) if drawn else row["index"]
    said = {
        "run": row["run"],
        "step": row["step"],
        **({"seed": row["seed"], "draw": number} if drawn else {"index": number}),
    }
    return ", ".join(f"{name} {value}" for name, value in said.items())


def _all_files(out: Path, instruments: list[str]) -> Iterator[str]:
    """Names of all files of a finished folder, relative to it."""
    with open(out / MANIFEST, encoding="utf-8") as manifest:
        for line in manifest:
            yield json.loads(line)["file"]
    yield from (MANIFEST, LATENTS, *instruments)
    yield from sorted(page.name for page in out.glob("index*.html"))


def _all(
    batches: Iterable[tuple[int, dict[str, np.ndarray]]], num: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Indices [n] and outputs [n, ...] of `num` sounds: the last batch has more."""
    for start, batch in batches:
        count = min(len(batch["z"]), num - start)
        yield np.arange(start, start + count), {k: v[:count] for k, v in batch.items()}


def _batches(
    run: Run, plan: Plan, *, num: int | None, subtype: str, batch_size: int, listen: bool
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(first index, outputs on the host), one batch ahead of the caller on the device.

    `num` sounds, filled up to whole chunks; None for as many draws as there are indices. With
    `listen`, also the pitch `hz` and its `clarity`, by a program of its own: the sounds are the
    same with and without.
    """
    hear = _make_listener(run.config.data.sample_rate) if listen else lambda made: made
    num = MAX_DRAWS if num is None else num
    chunk = generate.chunk_size()
    decoder = generate.make_decoder(run.config, subtype)
    draw = generate.make_drawer()
    key = jax.random.key(plan.seed)
    temperature = jnp.asarray(plan.temperature, jnp.float32)

    def latents_at(start: int):
        if plan.latents is None:
            indices = np.arange(start, start + chunk, dtype=np.uint32)
            return draw(plan.prior, key, indices, temperature)
        rows = plan.latents[start : start + chunk]
        return np.pad(rows, ((0, chunk - len(rows)), (0, 0)))

    def facts_at(start: int) -> np.ndarray:
        if plan.facts is None:
            return conditions.nothing(run.vocabulary, chunk)
        return plan.facts(np.arange(start, start + chunk))

    def call(start: int):
        return decoder(run.instrument, latents_at(start), facts_at(start))

    def dispatch(start: int) -> list:
        end = min(start + batch_size, num)
        return [hear(call(at)) for at in range(start, end, chunk)]

    ahead = dispatch(0)
    for start in range(0, num, batch_size):
        current = ahead
        if start + batch_size < num:
            ahead = dispatch(start + batch_size)
        yield start, jax.tree.map(lambda *parts: np.concatenate(parts), *current)


def _make_listener(sample_rate: int):
    """Adds pitch and clarity, [chunk] each, to what the generator returns."""

    @jax.jit
    def hear(samples):
        full_scale = 2.0**31 if samples.dtype == jnp.int32 else 2.0**15
        if jnp.issubdtype(samples.dtype, jnp.integer):
            samples = samples.astype(jnp.float32) / full_scale
        return jax.vmap(partial(pitch, sample_rate=sample_rate))(samples)

    def listen(made):
        hz, clarity = hear(made["samples"])
        return {**made, "hz": hz, "clarity": clarity}

    return listen


def _npy_header(num: int, latent_dim: int) -> bytes:
    """What a .npy file of float32 [num, latent_dim] begins with; as long for every num."""
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (num, latent_dim)}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def _keep_complete(out: Path) -> int:
    """After a failure: drops the lines of the manifest whose file was never finished.

    Returns:
      The lines that are left.
    """
    path = out / MANIFEST
    whole = []
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
        for line in lines:
            try:
                if (out / json.loads(line)["file"]).exists():
                    whole.append(line)
            except ValueError:
                continue
        write_text(path, "".join(whole))
    except OSError:
        pass
    return len(whole)
