"""Writes the sounds of a plan: files, manifest, latents, contact sheet, with flat memory.

The device makes batch n + 1 while threads write batch n. What is interrupted is gone on with by the
same command (`unfinished`).
"""

import io
import json
import os
import sys
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

from vaejax import conditions, generate, priors, sequences
from vaejax.checkpoint import Run, write_text
from vaejax.cli import Interrupted
from vaejax.curation import Curation, Rules
from vaejax.export import pack, sfz, unfinished
from vaejax.export.files import Files
from vaejax.export.manifest import Lines, file_name, origin
from vaejax.export.mastering import Level, Mastered, Mastering, master
from vaejax.export.sheet import SheetWriter
from vaejax.export.wav import (
    LATENTS,
    MANIFEST,
    SoundWriter,
    Tags,
    WriteError,
    explain_write_error,
    prepare_folder,
)
from vaejax.latents import Plan
from vaejax.signal.pitch import pitch

# Sounds in a batch where the device does not say what memory it has, as a CPU does not.
DEFAULT_BATCH = 32
# Of a device's free memory, what the batches on it may take; and bytes of one, which the host holds
# several times over.
MEMORY_SHARE = 0.25
MAX_BATCH_BYTES = 2**28
# Indices are uint32.
MAX_DRAWS = 2**32
# Of what the host does to sounds; much of it holds the interpreter's lock. Writers are threads:
# processes write a third as many files per second, because samples have to be sent to them
# (benchmarks.writers).
MAX_THREADS = 8
# Sounds that wait for a writer, so that the next batch is not kept waiting by the disk.
MAX_PENDING = 256


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

    A folder that holds an unfinished run of the same sounds is gone on with: what is complete
    stays, and the folder becomes what it would have been.

    Raises:
      OSError: the folder is taken or cannot be written. What is complete is kept, with a manifest
        of just that.
    """
    folder = unfinished.Folder(out, unfinished.identity(run, plan, files, rules, title))
    try:
        return _write_sounds(
            run, plan, folder, overwrite=overwrite, files=files, batch_size=batch_size, title=title,
            rules=rules,
        )  # fmt: skip
    finally:
        folder.close()


def _write_sounds(
    run: Run,
    plan: Plan,
    folder: unfinished.Folder,
    *,
    overwrite: bool,
    files: Files,
    batch_size: int | None,
    title: str,
    rules: Rules | None,
) -> Made:
    config, out = run.config, folder.out

    def name(i: int) -> str:
        return file_name(plan, files, i)

    by_index = files.names == "index"
    if files.archive:
        pack.check_archive(out, overwrite=overwrite or folder.goes_on)
    # Paths of another length have another width.
    latent_dim = config.latent_dim if plan.latents is None else plan.latents.shape[1]
    header = _npy_header(plan.num, latent_dim)
    begun = unfinished.NOTHING
    if folder.goes_on:
        begun = folder.resume(len(header), latent_dim)
        print(f"going on with {out}, which holds the first {begun.num:,} sounds", file=sys.stderr)
    else:
        if folder.holds_other and not overwrite:
            raise WriteError(
                f"{out} holds an unfinished run of another command; give that one to go on with "
                "it, or choose another --out, or pass --overwrite"
            )
        # Names that tell the note are known when the note is; until then nobody can be in their
        # way.
        prepare_folder(
            out,
            overwrite=overwrite,
            names=map(name, range(plan.num if by_index else 0)),
            instruments=files.sfz,
        )
        folder.begin()
    if plan.each:  # only these have subfolders
        for subfolder in {os.path.dirname(name(i)) for i in range(plan.num)} - {""}:
            (out / subfolder).mkdir(parents=True, exist_ok=True)

    curated = rules is not None and rules.reject
    chunk = generate.chunk_size()
    mastering = Mastering(
        source_rate=config.data.sample_rate,
        sample_rate=files.sample_rate or config.data.sample_rate,
        trim_db=files.trim_db,
        fade_ms=0.0 if plan.form.hops is not None else config.sound.fade_out_ms,
        loop=files.loop,
        level=files.level or Level(config.sound.peak_db, "dBFS"),
        ceiling_db=config.sound.peak_db,
        subtype=files.subtype,
        dither=files.dither == "tpdf",
        is_loop=plan.form.hops is not None,
    )
    on_host = mastering.reshapes or mastering.dithers
    # What was listened to once is listened to again: the pitch is in the file.
    listens = files.listens or any("detected_pitch" in line for line in plan.each or ())
    subtype = "FLOAT" if on_host else files.subtype
    if batch_size is None and curated:
        batch_size = chunk  # what is drawn in vain, after the last that is kept, is two batches
    elif batch_size is None:
        sample_bytes = 2 if subtype == "PCM_16" else 4
        sound_bytes = sample_bytes * sequences.num_samples(plan.form, config)
        sound_bytes += unfinished.PICTURE.itemsize
        memory = jax.local_devices()[0].memory_stats()
        batch_size = min(automatic_batch(sound_bytes, memory, chunk=chunk), plan.num)
    batch_size = -(-batch_size // chunk) * chunk
    lines = Lines(run, plan, files, mastering, rules if curated else None, listens=listens)

    curation = None
    if curated:
        assert rules is not None
        assert plan.prior is not None, "only draws can be chosen from"
        density = jax.jit(jax.vmap(partial(priors.log_density, plan.prior)))
        curation = Curation(
            rules,
            plan.num,
            unit=float(run.instrument.embedding.median_neighbour),
            log_density=lambda z: generate.in_chunks(density, z, chunk),
        )

    latents_path = out / unfinished.PARTIAL_LATENTS
    # Sounds that the loop below has come to, those that are on their way, those of the first batch.
    at = begun.num // chunk * chunk if curation is None else 0
    done, first, after_first = begun.num, 0, 0.0
    looped = limited = 0
    stopped: BaseException | None = None
    try:
        with (
            # A stream, not a memory map: a full disk is then an OSError to report, not a SIGBUS.
            open(latents_path, "r+b") as latents,
            open(out / unfinished.PICTURES, "ab") as pictures,
            open(out / MANIFEST, "a", encoding="utf-8") as manifest,
            SheetWriter(
                out,
                title=title,
                sample_rate=mastering.sample_rate,
                seconds=sequences.num_samples(plan.form, config) / config.data.sample_rate,
                map_text=generate.MAP_TEXT,
            ) as sheet,
            tqdm(total=plan.num, initial=done, unit="sound", dynamic_ncols=True) as bar,
        ):
            latents.write(header)
            latents.seek(0, os.SEEK_END)
            for rows, shown in folder.shown():
                looped += sum(row.get("loop") is not None for row in rows)
                limited += sum(bool(row.get("level_limited")) for row in rows)
                sheet.add(_shown(rows, shown["map"]), shown["thumbnail"], shown["outline"])
            try:
                with (
                    SoundWriter(
                        mastering.sample_rate,
                        subtype=files.subtype,
                        num_threads=min(MAX_THREADS, max(2, (os.cpu_count() or 1) // 2)),
                        max_pending=MAX_PENDING,
                    ) as writer,
                    ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads,
                ):
                    batches = _batches(
                        run,
                        plan,
                        start=at,
                        num=None if curation else plan.num,
                        subtype=subtype,
                        batch_size=batch_size,
                        listen=listens,
                    )
                    chosen = curation.accepted(batches) if curation else _all(batches, plan.num)
                    for draws, batch in chosen:
                        # What was there already, or has to be drawn again to know what follows.
                        old = min(max(begun.num - at, 0), len(draws))
                        at += len(draws)
                        if old:
                            draws, batch = draws[old:], {k: v[old:] for k, v in batch.items()}
                        count = len(draws)
                        if not count:
                            continue
                        told = None if plan.facts is None else plan.facts(draws)
                        if on_host:
                            finish = partial(master, mastering=mastering)
                            mastered = list(threads.map(finish, batch["samples"]))
                        else:
                            mastered = [Mastered(sound, None, {}) for sound in batch["samples"]]
                        rows = [
                            lines.line(done + j, int(draws[j]), told, batch, j, mastered[j])
                            for j in range(count)
                        ]
                        looped += sum(sound.loop is not None for sound in mastered)
                        limited += sum(bool(r.get("level_limited")) for r in rows)
                        # The sounds go last: one without its latent and its line would be lost
                        # to --overwrite, a line without its sound is dropped by _keep_complete.
                        shown = np.zeros(count, unfinished.PICTURE)
                        shown["thumbnail"], shown["outline"] = batch["thumbnail"], batch["outline"]
                        shown["map"] = batch["point"][:, :2]
                        latents.write(batch["z"].astype("<f4").tobytes())
                        pictures.write(shown.tobytes())
                        manifest.writelines(json.dumps(r) + "\n" for r in rows)
                        for file in (latents, pictures, manifest):
                            file.flush()
                        for j in range(count):
                            if rows[j]["file"] in begun.later:
                                continue
                            path = out / rows[j]["file"]
                            checked = by_index and not folder.goes_on
                            if not checked and os.path.lexists(path):
                                raise WriteError(
                                    f"{path} is in the way and not from an earlier run; move it or "
                                    "choose another --out"
                                )
                            tags = Tags(origin(rows[j]), sfz.root_of(rows[j]), mastered[j].loop)
                            writer.submit(path, mastered[j].samples, tags)
                        sheet.add(_shown(rows, shown["map"]), shown["thumbnail"], shown["outline"])
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
            rows_written = (latents.tell() - len(header)) // (4 * latent_dim)
            latents.seek(0)
            latents.write(_npy_header(rows_written, latent_dim))
        os.replace(latents_path, out / LATENTS)
    except BaseException as error:
        _keep_complete(out)
        if isinstance(error, OSError):
            explained = explain_write_error(out / MANIFEST, error)
            again = WriteError(f"{explained}; then the same command goes on from there")
            again.errno = explained.errno
            raise again from error
        raise
    if stopped is not None:
        complete = _keep_complete(out)
        raise Interrupted(
            f"interrupted; {out} holds the {complete} sounds made until then; the same command "
            "goes on"
        )
    timed = done > first > begun.num
    rate = (done - first) / (time.perf_counter() - after_first) if timed else None
    instruments = sfz.write_instruments(out) if files.sfz else []
    archive = None
    if overwrite:
        pack.drop_archive(out)  # of sounds that are gone
    if files.archive:
        archive = pack.pack(out, _all_files(out, instruments))
    folder.finish()
    return Made(done, rate, curation, looped, limited, instruments, archive)


def automatic_batch(sound_bytes: int, memory: dict[str, int] | None, *, chunk: int) -> int:
    """Sounds in a batch: as many as the device's memory has room for, in whole chunks.

    Args:
      sound_bytes: of what the device returns of a sound.
      memory: `memory_stats` of the device, or None.
      chunk: sounds that it works on at a time; there is always room for one.
    """
    if not memory or "bytes_limit" not in memory:
        return max(chunk, DEFAULT_BATCH)
    free = memory["bytes_limit"] - memory.get("bytes_in_use", 0)
    # One batch is being made while one is on its way to the host.
    room = min(MEMORY_SHARE * free / 2, MAX_BATCH_BYTES)
    return max(1, int(room / sound_bytes) // chunk) * chunk


def _shown(rows: list[dict[str, Any]], places: np.ndarray) -> list[dict[str, Any]]:
    """What the contact sheet is given of lines of the manifest and places [n, 2] on the map."""
    # `facts` are for --redo; people read label, pitch and `told`.
    return [
        {**{k: v for k, v in row.items() if k != "facts"}, "map": place}
        for row, place in zip(rows, places.tolist(), strict=True)
    ]


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
    run: Run,
    plan: Plan,
    *,
    start: int = 0,
    num: int | None,
    subtype: str,
    batch_size: int,
    listen: bool,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(first index, outputs on the host), one batch ahead of the caller on the device.

    Sounds `start`, the first of a chunk, to `num`, filled up to whole chunks; None for as many
    draws as there are indices. With `listen`, also the pitch `hz` and its `clarity`, by a program
    of its own: the sounds are the same with and without.
    """
    hear = _make_listener(run.config.data.sample_rate) if listen else lambda made: made
    num = MAX_DRAWS if num is None else num
    chunk = generate.chunk_size()
    decoder = generate.make_decoder(run.config, subtype, plan.form)
    size = sequences.rows_per_call(plan.form, run.config, chunk)
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

    def calls(start: int, end: int):
        latents, facts = latents_at(start), facts_at(start)
        if size == chunk:
            yield decoder(run.instrument, latents, facts)
            return
        for at in range(0, min(chunk, end - start), size):
            rows = slice(at, at + size)
            yield decoder(run.instrument, latents[rows], facts[rows])

    def dispatch(start: int) -> list:
        end = min(start + batch_size, num)
        made = [hear(one) for at in range(start, end, chunk) for one in calls(at, end)]
        # On its way to the host as soon as it is made, not when it is asked for.
        for array in jax.tree.leaves(made):
            array.copy_to_host_async()
        return made

    ahead = dispatch(start)
    for begin in range(start, num, batch_size):
        current = ahead
        if begin + batch_size < num:
            ahead = dispatch(begin + batch_size)
        yield begin, jax.tree.map(lambda *parts: np.concatenate(parts), *current)


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
