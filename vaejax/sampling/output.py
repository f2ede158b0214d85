"""Writes the sounds of a plan: files, manifest, latents, contact sheet, with flat memory.

The device makes batch n + 1 while threads write batch n. What is interrupted is gone on with by the
same command (`unfinished`).
"""

import contextlib
import io
import json
import os
import sys
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from vaejax import interrupts, names
from vaejax.cli import Interrupted
from vaejax.devices import hosts, sharding
from vaejax.export import pack, sfz
from vaejax.export.files import Files
from vaejax.export.mastering import Level, Mastered, Mastering, master
from vaejax.export.sheet import SheetWriter
from vaejax.export.wav import (
    LATENTS,
    MANIFEST,
    SoundWriter,
    Tags,
    WriteError,
    explain_write_error,
    is_written,
    prepare_folder,
)
from vaejax.features import conditions
from vaejax.files import clean, write_text
from vaejax.latent import priors
from vaejax.run.load import Run
from vaejax.sampling import generate, sequences, unfinished
from vaejax.sampling.curation import Curation, Rules
from vaejax.sampling.latents import Plan
from vaejax.sampling.manifest import Lines, file_name, origin
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
# Of calls of the compiled program that a CPU works on at once.
MAX_PROGRAMS = 4
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


class Part(NamedTuple):
    """What the lists of the folder say of some sounds."""

    rows: list[dict[str, Any]]
    """Lines of the manifest."""
    latents: np.ndarray
    """[n, latent_dim] float32."""
    pictures: np.ndarray
    """[n] `unfinished.PICTURE`."""


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

    Many processes share the sounds: each writes the files of its own, the first one the lists of
    all, and it alone holds the folder. Under rules the first makes all of them, because each draw
    is judged by what came before.

    Raises:
      OSError: the folder is taken or cannot be written. What is complete is kept, with a manifest
        of just that.
    """
    curated = rules is not None and rules.reject
    held: list[unfinished.Folder] = []
    made: list[Made] = []
    instruments: list[str] = []
    archive: list[Path] = []

    def begin() -> tuple[int, list[str]] | None:
        held.append(unfinished.Folder(out, unfinished.identity(run, plan, files, rules, title)))
        begun = _begin(held[0], run, plan, overwrite=overwrite, files=files)
        return None if begun is None else (begun.num, sorted(begun.later))

    def finish() -> None:
        if files.sfz:
            instruments.extend(sfz.write_instruments(out))
        if overwrite:
            pack.drop_archive(out)  # of sounds that are gone
        if files.archive:
            archive.append(pack.pack(out, _all_files(out, instruments)))
        held[0].finish()

    try:
        begun = hosts.on_first(begin)
        hosts.check_shared(out, "--out")
        write = partial(
            _write,
            run,
            plan,
            out=out,
            begun=begun if begun is None else unfinished.Begun(begun[0], frozenset(begun[1])),
            files=files,
            batch_size=batch_size,
            title=title,
            rules=rules if curated else None,
        )

        def alone() -> int:
            made.append(write(processes=1))
            return made[0].num

        found = plan.num
        if curated:
            found = hosts.on_first(alone)
        else:
            made.append(write(processes=hosts.count()))
        # All of them come here: the first would wait for one that had left.
        hosts.on_first(finish)
        if found < plan.num and not made:
            raise hosts.FailedElsewhere
    finally:
        for folder in held:
            folder.close()
    done = made[0] if made else Made(plan.num, None, None, 0, 0, [], None)
    return done._replace(instruments=instruments, archive=archive[0] if archive else None)


def _begin(
    folder: unfinished.Folder, run: Run, plan: Plan, *, overwrite: bool, files: Files
) -> unfinished.Begun | None:
    """Makes a folder ready to be written to; how far it is, if it is gone on with."""
    out, begun = folder.out, None
    name = partial(file_name, plan, files)
    if folder.goes_on or overwrite:
        clean(out, ("*.sfz", MANIFEST))
    pack.clean(out)
    # Only these have subfolders.
    subfolders = {os.path.dirname(name(i)) for i in range(plan.num if plan.each else 0)} - {""}
    for subfolder in subfolders:
        if not names.stays_in(out, f"{subfolder}/sound"):
            raise WriteError(f"{out / subfolder} is a link out of {out}; choose another --out")
    if files.archive:
        pack.check_archive(out, overwrite=overwrite or folder.goes_on)
    if folder.goes_on:
        latent_dim = _latent_dim(run, plan)
        begun = folder.resume(len(_npy_header(plan.num, latent_dim)), latent_dim)
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
            names=map(name, range(plan.num if files.names == "index" else 0)),
            instruments=files.sfz,
        )
        folder.begin()
    for subfolder in subfolders:
        (out / subfolder).mkdir(parents=True, exist_ok=True)
    return begun


def _write(
    run: Run,
    plan: Plan,
    *,
    out: Path,
    begun: unfinished.Begun | None,
    files: Files,
    batch_size: int | None,
    title: str,
    rules: Rules | None,
    processes: int,
) -> Made:
    """Makes the sounds, and writes them and the lists.

    Args:
      begun: how far the folder is; None for a new one.
      rules: None where nothing is rejected.
      processes: that share the sounds, batch by batch in turn.
    """
    config = run.config
    # What is in the way of a new folder has been looked for already.
    checked = files.names == "index" and begun is None
    begun = begun or unfinished.NOTHING
    mesh = sharding.local_mesh()
    chunk = generate.chunk_size()
    at_a_time = chunk * (1 if mesh is None else mesh.size)
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
    if batch_size is None and rules is not None:
        batch_size = chunk  # what is drawn in vain, after the last that is kept, is two batches
    elif batch_size is None:
        sample_bytes = 2 if subtype == "PCM_16" else 4
        sound_bytes = sample_bytes * sequences.num_samples(plan.form, config)
        sound_bytes += unfinished.PICTURE.itemsize
        memory = jax.local_devices()[0].memory_stats()
        room = automatic_batch(sound_bytes, memory, chunk=at_a_time)
        batch_size = fitting = min(room, -(-plan.num // processes))
        if processes > 1:  # whose memory need not be equally free
            batch_size = hosts.on_first(lambda: fitting)
    batch_size = -(-batch_size // at_a_time) * at_a_time
    lines = Lines(run, plan, files, mastering, rules, listens=listens)

    curation = None
    if rules is not None:
        assert plan.prior is not None, "only draws can be chosen from"
        density = priors.make_log_density(plan.prior)
        curation = Curation(
            rules,
            plan.num,
            unit=float(run.instrument.embedding.median_neighbour),
            log_density=lambda z: generate.in_chunks(density, z, chunk),
        )

    def made_of(
        numbers: np.ndarray, draws: np.ndarray, batch
    ) -> tuple[Part, list[tuple[Path, np.ndarray, Tags]]]:
        """What the lists say of sounds, and those of their files that are not there yet."""
        told = None if plan.facts is None else plan.facts(draws)
        if on_host:
            mastered = list(threads.map(partial(master, mastering=mastering), batch["samples"]))
        else:
            mastered = [Mastered(sound, None, {}) for sound in batch["samples"]]
        rows = [
            lines.line(int(i), int(draws[j]), told, batch, j, mastered[j])
            for j, i in enumerate(numbers)
        ]
        pictures = np.zeros(len(rows), unfinished.PICTURE)
        pictures["thumbnail"], pictures["outline"] = batch["thumbnail"], batch["outline"]
        pictures["map"] = batch["point"][:, :2]
        sounds = []
        for row, sound in zip(rows, mastered, strict=True):
            path = out / row["file"]
            tags = Tags(origin(row), sfz.root_of(row), sound.loop)
            if row["file"] in begun.later:
                continue
            if not checked and os.path.lexists(path):
                # Of a run that was gone on with, and killed before it had listed this one again.
                rate, stored = mastering.sample_rate, files.subtype
                if is_written(path, sound.samples, rate, subtype=stored, tags=tags):
                    continue
                raise WriteError(
                    f"{path} is in the way and not from an earlier run; move it or choose another "
                    "--out"
                )
            sounds.append((path, sound.samples, tags))
        return Part(rows, batch["z"], pictures), sounds

    writes = hosts.is_first()
    lists = _Lists(
        out,
        num=plan.num,
        latent_dim=_latent_dim(run, plan),
        title=title,
        sample_rate=mastering.sample_rate,
        seconds=sequences.num_samples(plan.form, config) / config.data.sample_rate,
    )
    # Sounds that the loop below has come to, those in the lists, those in them after a batch.
    at, done, first, after_first = 0, begun.num, 0, 0.0
    stopped: BaseException | None = None
    failed: Exception | None = None
    try:
        with (
            lists if writes else contextlib.nullcontext(),
            tqdm(
                total=plan.num,
                initial=done,
                unit="sound",
                dynamic_ncols=True,
                disable=not writes,
            ) as bar,
        ):
            try:
                with (
                    SoundWriter(
                        mastering.sample_rate,
                        subtype=files.subtype,
                        num_threads=min(MAX_THREADS, max(2, (os.cpu_count() or 1) // 2)),
                        max_pending=MAX_PENDING,
                    ) as writer,
                    ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)) as threads,
                    contextlib.closing(
                        _batches(
                            run,
                            plan,
                            start=0 if curation else begun.num // at_a_time * at_a_time,
                            num=None if curation else plan.num,
                            subtype=subtype,
                            batch_size=batch_size,
                            listen=listens,
                            mesh=mesh,
                            processes=processes,
                        )
                    ) as batches,
                ):
                    chosen = curation.accepted(batches) if curation else _all(batches, plan.num)
                    for draws, batch in chosen:
                        interrupts.check()
                        # Where nothing is rejected, draw i is sound i.
                        numbers = np.arange(at, at + len(draws)) if curation else draws
                        at += len(draws)
                        # What was there already, or has to be drawn again to know what follows.
                        old = int(np.sum(numbers < begun.num))
                        part: Part | None = None
                        sounds: list[tuple[Path, np.ndarray, Tags]] = []
                        try:
                            if failed is not None:
                                raise failed
                            if old < len(draws):
                                rest = {k: v[old:] for k, v in batch.items()}
                                part, sounds = made_of(numbers[old:], draws[old:], rest)
                        except Exception as error:
                            failed = error
                        # The sounds go last: one without its latent and its line would be lost
                        # to --overwrite, a line without its sound is dropped by _keep_complete.
                        for made in _exchange(part, failed, processes):
                            if writes:
                                lists.add(made)
                            done += len(made.rows)
                            bar.update(len(made.rows))
                        if processes > 1:
                            hosts.wait("listed")
                        try:
                            for path, samples, tags in sounds:
                                writer.submit(path, samples, tags)
                        except Exception as error:
                            if processes == 1:
                                raise
                            failed = error  # The others hear of it with the next batch.
                        if curation:
                            bar.set_postfix_str(f"{curation.drawn} drawn")
                        if not first and done > begun.num:
                            first, after_first = done, time.perf_counter()
                    if processes > 1:
                        try:
                            if failed is not None:
                                raise failed
                            writer.close()
                        except Exception as error:
                            failed = error
                        list(_exchange(None, failed, processes))
            except KeyboardInterrupt as interrupt:
                # What is complete stays usable: the manifest and the sheet are finished too.
                stopped = interrupt
    except BaseException as error:
        _leave(out, processes)
        if isinstance(error, OSError):
            explained = explain_write_error(out / MANIFEST, error)
            again = WriteError(f"{explained}; then the same command goes on from there")
            again.errno = explained.errno
            raise again from error
        raise
    if stopped is not None:
        complete = _leave(out, processes)
        raise Interrupted(
            f"interrupted; {out} holds the {complete} sounds made until then; the same command "
            "goes on"
        )
    timed = done > first > begun.num
    rate = (done - first) / (time.perf_counter() - after_first) if timed else None
    return Made(done, rate, curation, lists.looped, lists.limited, [], None)


def _exchange(part: Part | None, failed: Exception | None, processes: int) -> Iterator[Part]:
    """What every process has made, in the order of the processes, or what failed in one of them.

    Raises:
      What failed here, or OSError that says what failed elsewhere.
    """
    if processes == 1:
        if failed is not None:
            raise failed
        if part is not None:
            yield part
        return
    content = b"" if part is None else _pack(part)
    gathered = hosts.gather(content if failed is None else b"error" + str(failed).encode())
    for number, content in enumerate(gathered):
        if content.startswith(b"error"):
            raise OSError(f"process {number}: {content[len(b'error') :].decode()}")
    yield from (_unpack(content) for content in gathered if content)


def _pack(part: Part) -> bytes:
    """A part as bytes: an .npz, with the lines as JSON in it."""
    packed = io.BytesIO()
    lines = np.frombuffer(json.dumps(part.rows).encode(), np.uint8)
    np.savez(packed, rows=lines, latents=part.latents, pictures=part.pictures)
    return packed.getvalue()


def _unpack(content: bytes) -> Part:
    """The inverse of `_pack`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as packed:
        return Part(json.loads(packed["rows"].tobytes()), packed["latents"], packed["pictures"])


class _Lists:
    """Manifest, latents, pictures and contact sheet of a folder, as they grow. A context."""

    def __init__(
        self, out: Path, *, num: int, latent_dim: int, title: str, sample_rate: int, seconds: float
    ):
        self._out, self._latent_dim = out, latent_dim
        self._header = _npy_header(num, latent_dim)
        self._sheet = SheetWriter(
            out,
            title=title,
            sample_rate=sample_rate,
            seconds=seconds,
            map_text=generate.MAP_TEXT,
        )
        self.looped = self.limited = 0

    def __enter__(self) -> Self:
        out = self._out
        with contextlib.ExitStack() as stack:
            # A stream, not a memory map: a full disk is then an OSError to report, not a SIGBUS.
            latents = stack.enter_context(open(out / unfinished.PARTIAL_LATENTS, "r+b"))
            pictures = stack.enter_context(open(out / unfinished.PICTURES, "ab"))
            manifest = stack.enter_context(open(out / MANIFEST, "a", encoding="utf-8"))
            stack.enter_context(self._sheet)
            latents.write(self._header)
            latents.seek(0, os.SEEK_END)
            for rows, shown in unfinished.listed(out):
                self._show(rows, shown)
            self._latents, self._pictures, self._manifest = latents, pictures, manifest
            self._files = stack.pop_all()
        return self

    def add(self, part: Part) -> None:
        """Sounds, in their order."""
        self._latents.write(part.latents.astype("<f4").tobytes())
        self._pictures.write(part.pictures.tobytes())
        self._manifest.writelines(json.dumps(row) + "\n" for row in part.rows)
        for file in (self._latents, self._pictures, self._manifest):
            file.flush()
        self._show(part.rows, part.pictures)

    def _show(self, rows: list[dict[str, Any]], pictures: np.ndarray) -> None:
        self.looped += sum(row.get("loop") is not None for row in rows)
        self.limited += sum(bool(row.get("level_limited")) for row in rows)
        # `facts` are for --redo; people read label, pitch and `told`.
        shown = [
            {**{k: v for k, v in row.items() if k != "facts"}, "map": place}
            for row, place in zip(rows, pictures["map"].tolist(), strict=True)
        ]
        self._sheet.add(shown, pictures["thumbnail"], pictures["outline"])

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            # Fewer than asked for: interrupted, or no more were found.
            num_rows = (self._latents.tell() - len(self._header)) // (4 * self._latent_dim)
            self._latents.seek(0)
            self._latents.write(_npy_header(num_rows, self._latent_dim))
        self._files.__exit__(kind, error, trace)
        if kind is None:
            os.replace(self._out / unfinished.PARTIAL_LATENTS, self._out / LATENTS)


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
        count = max(0, min(len(batch["z"]), num - start)) if batch else 0
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
    mesh: Mesh | None,
    processes: int,
) -> Generator[tuple[int, dict[str, np.ndarray]]]:
    """(first index, outputs on the host), one batch ahead of the caller on the device.

    Sounds `start`, the first of a chunk, to `num`, filled up to whole chunks; None for as many
    draws as there are indices. With `listen`, also the pitch `hz` and its `clarity`, by a program
    of its own: the sounds are the same with and without. Each device of `mesh` makes whole chunks,
    by the program that one device by itself would run. Of several processes, each yields every n-th
    batch, as often as the others: nothing where there are no sounds left.
    """
    hear = _make_listener(run.config.data.sample_rate, mesh) if listen else lambda made: made
    num = MAX_DRAWS if num is None else num
    chunk = generate.chunk_size()
    size = sequences.rows_per_call(plan.form, run.config, chunk)
    num_devices = 1 if mesh is None else mesh.size
    at_a_time, in_a_call = chunk * num_devices, size * num_devices
    decoder = generate.make_decoder(run.config, subtype, plan.form)
    draw = generate.make_drawer()
    instrument = run.instrument
    if mesh is not None:
        decoder = jax.jit(sharding.by_device(decoder, mesh, (None, 0, 0)))
        draw = jax.jit(sharding.by_device(draw, mesh, (None, None, 0, None)))
        instrument = sharding.put(instrument, sharding.replicated(mesh))
    key = jax.random.key(plan.seed)
    temperature = jnp.asarray(plan.temperature, jnp.float32)

    def latents_at(start: int):
        if plan.latents is None:
            # Beyond the last index is the first again; what is made of it is not asked for.
            indices = np.arange(start, start + at_a_time).astype(np.uint32)
            return draw(plan.prior, key, indices, temperature)
        rows = plan.latents[start : start + at_a_time]
        return np.pad(rows, ((0, at_a_time - len(rows)), (0, 0)))

    def facts_at(start: int) -> np.ndarray:
        if plan.facts is None:
            return conditions.nothing(run.vocabulary, at_a_time)
        return plan.facts(np.arange(start, start + at_a_time))

    def calls(start: int, end: int):
        latents, facts = latents_at(start), facts_at(start)
        if size == chunk:
            yield latents, facts
            return
        for at in range(0, min(at_a_time, end - start), in_a_call):
            rows = slice(at, at + in_a_call)
            yield latents[rows], facts[rows]

    def make(latents, facts):
        made = hear(decoder(instrument, latents, facts))
        # On its way to the host as soon as it is made, not when it is asked for.
        for array in jax.tree.leaves(made):
            array.copy_to_host_async()
        return made

    def make_and_wait(latents, facts):
        return jax.block_until_ready(make(latents, facts))

    # Much of a sound, Fourier transforms first, keeps one core of a CPU busy, and what one thread
    # asks of it runs one after the other. So several threads ask, and each waits for its answer.
    on_cpu = jax.default_backend() == "cpu" and mesh is None
    pool = ThreadPoolExecutor(min(MAX_PROGRAMS, os.cpu_count() or 1)) if on_cpu else None

    def dispatch(start: int) -> list:
        end = min(start + batch_size, num)
        arguments = [one for at in range(start, end, at_a_time) for one in calls(at, end)]
        if pool is None:
            return [make(*one) for one in arguments]
        made = [pool.submit(make_and_wait, *one) for one in arguments[:1]]
        if start == first:
            # Compiled once, not by every thread.
            futures.wait(made)
        return made + [pool.submit(make_and_wait, *one) for one in arguments[1:]]

    together, first = batch_size * processes, start
    own = hosts.index() * batch_size if processes > 1 else 0
    try:
        ahead = dispatch(start + own)
        for begin in range(start, num, together):
            current = ahead
            if begin + together < num:
                ahead = dispatch(begin + together + own)
            made = [one.result() if isinstance(one, futures.Future) else one for one in current]
            empty: dict[str, np.ndarray] = {}
            yield (
                begin + own,
                jax.tree.map(lambda *parts: np.concatenate(parts), *made) if made else empty,
            )
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _make_listener(sample_rate: int, mesh: Mesh | None):
    """Adds pitch and clarity, [n] each, to what the generator returns."""

    def hear(samples):
        full_scale = 2.0**31 if samples.dtype == jnp.int32 else 2.0**15
        if jnp.issubdtype(samples.dtype, jnp.integer):
            samples = samples.astype(jnp.float32) / full_scale
        return jax.vmap(partial(pitch, sample_rate=sample_rate))(samples)

    program = jax.jit(sharding.by_device(hear, mesh))

    def listen(made):
        hz, clarity = program(made["samples"])
        return {**made, "hz": hz, "clarity": clarity}

    return listen


def _latent_dim(run: Run, plan: Plan) -> int:
    """Numbers in a latent of the plan: paths of another length have another width."""
    return run.config.latent_dim if plan.latents is None else plan.latents.shape[1]


def _npy_header(num: int, latent_dim: int) -> bytes:
    """What a .npy file of float32 [num, latent_dim] begins with; as long for every num."""
    header = io.BytesIO()
    about = {"descr": "<f4", "fortran_order": False, "shape": (num, latent_dim)}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def _leave(out: Path, processes: int) -> int:
    """`_keep_complete` by the first process, when the others no longer write."""
    if processes > 1:
        with contextlib.suppress(Exception):
            hosts.wait("stopped", seconds=hosts.FAILING_SECONDS)
    return _keep_complete(out) if hosts.is_first() else 0


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
