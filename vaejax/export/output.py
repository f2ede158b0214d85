"""Writes the sounds of a plan: files, manifest, latents, contact sheet, with flat memory.

The device makes batch n + 1 while threads write batch n.
"""

import contextlib
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from vaejax import conditions, generate, hosts, priors, sharding
from vaejax.checkpoint import Run, write_text
from vaejax.cli import Interrupted
from vaejax.curation import Curation, Rules
from vaejax.export import pack, sfz
from vaejax.export.files import Files
from vaejax.export.manifest import Lines, file_name, origin
from vaejax.export.mastering import Level, Mastered, Mastering, master
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
from vaejax.signal.pitch import pitch

DEFAULT_BATCH = {"cpu": 32}
DEFAULT_BATCH_ACCELERATOR = 512
# Indices are uint32.
MAX_DRAWS = 2**32
# Of what the host does to sounds; much of it holds the interpreter's lock.
MAX_THREADS = 8


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
    places: np.ndarray
    """[n, 2], on the map of the sheet."""
    thumbnails: np.ndarray
    """[n, height, width] uint8."""
    outlines: np.ndarray
    """[n, width] uint8."""
    looped: int
    """Sounds with a loop."""
    limited: int
    """Sounds that would clip at the loudness asked for."""


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

    Many processes share the sounds: each writes the files of its own, the first one the lists of
    all. Under rules the first makes all of them, because each draw is judged by what came before.

    Raises:
      OSError: the folder is taken or cannot be written. What is complete is kept, with a manifest
        of just that.
    """
    if files.archive:
        hosts.on_first(lambda: pack.check_archive(out, overwrite=overwrite))
    names = partial(file_name, plan, files)
    by_index = files.names == "index"

    def prepare() -> None:
        # Names that tell the note are known when the note is; until then nobody can be in their
        # way.
        prepare_folder(
            out,
            overwrite=overwrite,
            names=map(names, range(plan.num if by_index else 0)),
            instruments=files.sfz,
        )
        if plan.each:  # only these have subfolders
            for folder in {os.path.dirname(names(i)) for i in range(plan.num)} - {""}:
                (out / folder).mkdir(parents=True, exist_ok=True)

    hosts.on_first(prepare)
    hosts.check_shared(out, "--out")

    curated = rules is not None and rules.reject
    write = partial(
        _write,
        run,
        plan,
        out=out,
        files=files,
        batch_size=batch_size,
        title=title,
        rules=rules if curated else None,
    )
    made: list[Made] = []

    def alone() -> int:
        made.append(write(processes=1))
        return made[0].num

    if not curated:
        made.append(write(processes=hosts.count()))
    elif hosts.on_first(alone) < plan.num and not made:
        raise hosts.FailedElsewhere
    instruments: list[str] = []
    archive: list[Path] = []

    def finish() -> None:
        if files.sfz:
            instruments.extend(sfz.write_instruments(out))
        if overwrite:
            pack.drop_archive(out)  # of sounds that are gone
        if files.archive:
            archive.append(pack.pack(out, _all_files(out, instruments)))

    hosts.on_first(finish)
    done = made[0] if made else Made(plan.num, None, None, 0, 0, [], None)
    return done._replace(instruments=instruments, archive=archive[0] if archive else None)


def _write(
    run: Run,
    plan: Plan,
    *,
    out: Path,
    files: Files,
    batch_size: int | None,
    title: str,
    rules: Rules | None,
    processes: int,
) -> Made:
    """Makes the sounds, and writes them and the lists.

    Args:
      rules: None where nothing is rejected.
      processes: that share the sounds, batch by batch in turn.
    """
    config = run.config
    by_index = files.names == "index"
    mesh = sharding.local_mesh()
    chunk = generate.chunk_size()
    default = DEFAULT_BATCH.get(jax.default_backend(), DEFAULT_BATCH_ACCELERATOR)
    if rules is not None:
        default = (
            chunk  # What is drawn in vain, after the last that is kept, is at most two batches.
        )
    at_a_time = chunk * (1 if mesh is None else mesh.size)
    batch_size = -(-(batch_size or min(default, plan.num)) // at_a_time) * at_a_time
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
    lines = Lines(run, plan, files, mastering, rules, listens=listens)

    curation = None
    if rules is not None:
        assert plan.prior is not None, "only draws can be chosen from"
        density = jax.jit(jax.vmap(partial(priors.log_density, plan.prior)))
        curation = Curation(
            rules,
            plan.num,
            unit=float(run.instrument.embedding.median_neighbour),
            log_density=lambda z: generate.in_chunks(density, z, chunk),
        )

    def made_of(draws: np.ndarray, batch) -> tuple[Part, list[tuple[Path, np.ndarray, Tags]]]:
        """What the lists say of a batch, and its files."""
        told = None if plan.facts is None else plan.facts(draws)
        if on_host:
            mastered = list(threads.map(partial(master, mastering=mastering), batch["samples"]))
        else:
            mastered = [Mastered(sound, None, {}) for sound in batch["samples"]]
        # Where nothing is rejected, draw i is sound i.
        numbers = draws if curation is None else range(done, done + len(draws))
        rows = [
            lines.line(int(i), int(draws[j]), told, batch, j, mastered[j])
            for j, i in enumerate(numbers)
        ]
        sounds = []
        for row, sound in zip(rows, mastered, strict=True):
            path = out / row["file"]
            if not by_index and os.path.lexists(path):
                raise WriteError(
                    f"{path} is in the way and not from an earlier run; move it or choose another "
                    "--out"
                )
            sounds.append((path, sound.samples, Tags(origin(row), sfz.root_of(row), sound.loop)))
        part = Part(
            rows,
            batch["z"],
            batch["point"][:, :2],
            batch["thumbnail"],
            batch["outline"],
            looped=sum(sound.loop is not None for sound in mastered),
            limited=sum(bool(row.get("level_limited")) for row in rows),
        )
        return part, sounds

    writes = hosts.is_first()
    lists = _Lists(
        out,
        num=plan.num,
        latent_dim=config.latent_dim,
        title=title,
        sample_rate=mastering.sample_rate,
        seconds=config.data.num_samples / config.data.sample_rate,
    )
    done, first, after_first = 0, 0, 0.0
    looped = limited = 0
    stopped: BaseException | None = None
    failed: Exception | None = None
    try:
        with (
            lists if writes else contextlib.nullcontext(),
            tqdm(total=plan.num, unit="sound", dynamic_ncols=True, disable=not writes) as bar,
        ):
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
                        mesh=mesh,
                        processes=processes,
                    )
                    chosen = curation.accepted(batches) if curation else _all(batches, plan.num)
                    for draws, batch in chosen:
                        part: Part | None = None
                        sounds: list[tuple[Path, np.ndarray, Tags]] = []
                        try:
                            if failed is not None:
                                raise failed
                            if len(draws):
                                part, sounds = made_of(draws, batch)
                        except Exception as error:
                            failed = error
                        # The sounds go last: one without its latent and its line would be lost
                        # to --overwrite, a line without its sound is dropped by _keep_complete.
                        for made in _exchange(part, failed, processes):
                            if writes:
                                lists.add(made)
                            done += len(made.rows)
                            looped, limited = looped + made.looped, limited + made.limited
                            bar.update(len(made.rows))
                        try:
                            for path, samples, tags in sounds:
                                writer.submit(path, samples, tags)
                        except Exception as error:
                            if processes == 1:
                                raise
                            failed = error  # The others hear of it with the next batch.
                        if curation:
                            bar.set_postfix_str(f"{curation.drawn} drawn")
                        if not first:
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
        if writes:
            lists.give_up()
        if isinstance(error, OSError):
            raise explain_write_error(out / MANIFEST, error) from error
        raise
    if stopped is not None:
        if processes > 1:
            with contextlib.suppress(Exception):  # the files of the others are still being written
                hosts.wait("stopped", seconds=hosts.FAILING_SECONDS)
        complete = _keep_complete(out) if writes else 0
        raise Interrupted(f"interrupted; {out} holds the {complete} sounds made until then")
    rate = (done - first) / (time.perf_counter() - after_first) if done > first else None
    return Made(done, rate, curation, looped, limited, [], None)


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
    """A part as bytes: an .npz, with all that is no array as JSON in it."""
    plain = {k: v for k, v in part._asdict().items() if not isinstance(v, np.ndarray)}
    arrays = {k: v for k, v in part._asdict().items() if k not in plain}
    packed = io.BytesIO()
    np.savez(packed, plain=np.frombuffer(json.dumps(plain).encode(), np.uint8), **arrays)
    return packed.getvalue()


def _unpack(content: bytes) -> Part:
    """The inverse of `_pack`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as packed:
        arrays = dict(packed)
    return Part(**json.loads(arrays.pop("plain").tobytes()), **arrays)


class _Lists:
    """Manifest, latents and contact sheet of a folder, as they grow. A context."""

    def __init__(
        self, out: Path, *, num: int, latent_dim: int, title: str, sample_rate: int, seconds: float
    ):
        self._out, self._num, self._latent_dim = out, num, latent_dim
        self._latents_path = out / f"{PARTIAL_PREFIX}{LATENTS}"
        self._sheet = SheetWriter(
            out,
            title=title,
            sample_rate=sample_rate,
            seconds=seconds,
            map_text=generate.MAP_TEXT,
        )
        self._num_rows = 0

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            # A stream, not a memory map: a full disk is then an OSError to report, not a SIGBUS.
            self._latents = stack.enter_context(open(self._latents_path, "wb"))
            self._manifest = stack.enter_context(open(self._out / MANIFEST, "w", encoding="utf-8"))
            stack.enter_context(self._sheet)
            self._latents.write(_npy_header(self._num, self._latent_dim))
            self._files = stack.pop_all()
        return self

    def add(self, part: Part) -> None:
        """Sounds, in their order."""
        self._latents.write(part.latents.astype("<f4").tobytes())
        self._manifest.writelines(json.dumps(row) + "\n" for row in part.rows)
        # `facts` are for --redo; people read label, pitch and `told`.
        shown = [
            {**{k: v for k, v in row.items() if k != "facts"}, "map": at}
            for row, at in zip(part.rows, part.places.tolist(), strict=True)
        ]
        self._sheet.add(shown, part.thumbnails, part.outlines)
        self._num_rows += len(part.rows)

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            # Fewer than asked for: interrupted, or no more were found.
            self._latents.seek(0)
            self._latents.write(_npy_header(self._num_rows, self._latent_dim))
        self._files.__exit__(kind, error, trace)
        if kind is None:
            os.replace(self._latents_path, self._out / LATENTS)

    def give_up(self) -> None:
        """After a failure: leaves a manifest of what is complete."""
        self._latents_path.unlink(missing_ok=True)
        _keep_complete(self._out)


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
    num: int | None,
    subtype: str,
    batch_size: int,
    listen: bool,
    mesh: Mesh | None,
    processes: int,
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(first index, outputs on the host), one batch ahead of the caller on the device.

    `num` sounds, filled up to whole chunks; None for as many draws as there are indices. With
    `listen`, also the pitch `hz` and its `clarity`, by a program of its own: the sounds are the
    same with and without. Each device of `mesh` makes whole chunks, by the program that one device
    by itself would run. Of several processes, each yields every so manieth batch, as often as the
    others: nothing where there are no sounds left.
    """
    hear = _make_listener(run.config.data.sample_rate, mesh) if listen else lambda made: made
    num = MAX_DRAWS if num is None else num
    at_a_time = generate.chunk_size() * (1 if mesh is None else mesh.size)
    decoder = generate.make_decoder(run.config, subtype)
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

    def call(start: int):
        return decoder(instrument, latents_at(start), facts_at(start))

    def dispatch(start: int) -> list:
        end = min(start + batch_size, num)
        return [hear(call(at)) for at in range(start, end, at_a_time)]

    together = batch_size * processes
    own = hosts.index() * batch_size if processes > 1 else 0
    ahead = dispatch(own)
    for start in range(0, num, together):
        current = ahead
        if start + together < num:
            ahead = dispatch(start + together + own)
        empty: dict[str, np.ndarray] = {}
        yield (
            start + own,
            jax.tree.map(lambda *parts: np.concatenate(parts), *current) if current else empty,
        )


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
