"""Writes the sounds of a plan: files, manifest, latents, contact sheet, with flat memory.

A chain of generators, a batch at a time:

    stream.batches      latents become sounds on the device, a batch ahead
    stream.first        the first so many of them, or
    Curation.accepted   those that meet the rules
    numbered            sound i, its draw, its outputs
    finished            rate, end, loop, level, dither; lines, pictures, files
    write               into lists and files

An interrupted run (`unfinished`) and many processes (`processes`) are stages of their own.
"""

import contextlib
import os
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from vaejax import interrupts, names
from vaejax.cli import Interrupted
from vaejax.devices import hosts, sharding
from vaejax.export import pack, sfz
from vaejax.export.errors import WriteError, explain_write_error
from vaejax.export.files import Files
from vaejax.export.folders import MANIFEST, prepare_folder
from vaejax.export.mastering import Mastered, master
from vaejax.export.sfz import root_of
from vaejax.export.wav import Tags
from vaejax.export.writing import SoundWriter
from vaejax.files import clean
from vaejax.latent import priors
from vaejax.run.load import Run
from vaejax.sampling import generate, processes, stream, unfinished
from vaejax.sampling.curation import Curation, Rules
from vaejax.sampling.lists import Lists, Part, Sound, all_files, keep_complete, npy_header
from vaejax.sampling.manifest import Lines, file_name, origin
from vaejax.sampling.order import Order
from vaejax.sampling.plans import Plan
from vaejax.sampling.stream import Batch

# Of what the host does to sounds; much of it holds the interpreter's lock. Writers are threads:
# processes write a third as many files per second, because samples have to be sent to them
# (benchmarks.writers).
MAX_THREADS = 8
# Sounds that wait for a writer, so that the next batch is not kept waiting by the disk.
MAX_PENDING = 256


class Made(NamedTuple):
    """What was written."""

    num: int
    sounds_per_second: float | None = None
    """From the second batch to the last byte; None where there is one batch, with compilation."""
    curation: Curation | None = None
    """What was rejected; None where nothing could be."""
    looped: int = 0
    """Sounds that have a loop."""
    limited: int = 0
    """Sounds that would clip at the loudness asked for, and are quieter."""
    instruments: Sequence[str] = ()
    """Names of the SFZ files."""
    archive: str | None = None
    """The zip."""


class Numbered(NamedTuple):
    """Some sounds, as the device made them."""

    numbers: np.ndarray
    """[n], of the sounds in the folder."""
    draws: np.ndarray
    """[n], of their draws; others where draws were rejected."""
    outputs: Batch


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
    order = Order(run, plan, files, rules if rules is not None and rules.reject else None)
    make = partial(_make, order, out, batch_size=batch_size, title=title)
    with contextlib.closing(unfinished.Folder(out, order, title=title)) as folder:
        state = hosts.on_first(lambda: _begin(folder, order, overwrite=overwrite))
        hosts.check_shared(out, "--out")
        begun = None if state is None else unfinished.Begun(state[0], frozenset(state[1]))
        made = make(begun, shared=hosts.count() > 1) if order.rules is None else None

        def make_alone() -> int:
            nonlocal made
            made = make(begun, shared=False)
            return made.num

        num = plan.num if made is not None else hosts.on_first(make_alone)
        # All of them come here: the first would wait for one that had left.
        instruments, archive = hosts.on_first(lambda: _finish(folder, files, overwrite=overwrite))
    if num < plan.num and made is None:
        raise hosts.FailedElsewhere
    return (made or Made(num))._replace(instruments=instruments, archive=archive)


def _begin(
    folder: unfinished.Folder, order: Order, *, overwrite: bool
) -> tuple[int, list[str]] | None:
    """Makes a folder ready to be written to; how far it is (`unfinished.Begun`) if it is gone on
    with."""
    out, plan, files = folder.out, order.plan, order.files
    folder.open()
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
    begun = None
    if folder.goes_on:
        begun = folder.resume(len(npy_header(plan.num, order.latent_dim)), order.latent_dim)
        print(f"going on with {out}, which holds the first {begun.num:,} sounds", file=sys.stderr)
    else:
        if folder.holds_other and not overwrite:
            raise WriteError(
                f"{out} holds an unfinished run of another command; give that one to go on with "
                "it, or choose another --out, or pass --overwrite"
            )
        # Names that tell the note are known when the note is; until then nobody can be in their
        # way.
        num_known = plan.num if files.names == "index" else 0
        known = map(name, range(num_known))
        prepare_folder(out, overwrite=overwrite, names=known, instruments=files.sfz)
        folder.begin()
    for subfolder in subfolders:
        (out / subfolder).mkdir(parents=True, exist_ok=True)
    return None if begun is None else (begun.num, list(begun.later))


def _finish(
    folder: unfinished.Folder, files: Files, *, overwrite: bool
) -> tuple[list[str], str | None]:
    """Writes what is made of the whole folder: names of instruments, path of the archive."""
    instruments = sfz.write_instruments(folder.out) if files.sfz else []
    if overwrite:
        pack.drop_archive(folder.out)  # of sounds that are gone
    archive = None
    if files.archive:
        archive = str(pack.pack(folder.out, all_files(folder.out, instruments)))
    folder.finish()
    return instruments, archive


def _make(
    order: Order,
    out: Path,
    begun: unfinished.Begun | None,
    *,
    batch_size: int | None,
    title: str,
    shared: bool,
) -> Made:
    """Makes the sounds, and writes them and the lists; says what to do where that fails.

    Args:
      begun: how far the folder is; None for a new one.
      shared: whether with all other processes, batch by batch in turn.
    """
    lists = Lists(out, order, title=title)
    try:
        return _run(order, out, begun, lists, batch_size=batch_size, shared=shared)
    except BaseException as error:
        if shared:
            processes.wait_for_the_last_file()
        complete = keep_complete(out) if hosts.is_first() else 0
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(
                f"interrupted; {out} holds the {complete} sounds made until then; the same command "
                "goes on"
            ) from None
        if isinstance(error, OSError):
            explained = explain_write_error(out / MANIFEST, error)
            again = WriteError(f"{explained}; then the same command goes on from there")
            again.errno = explained.errno
            raise again from error
        raise


def _run(
    order: Order,
    out: Path,
    begun: unfinished.Begun | None,
    lists: Lists,
    *,
    batch_size: int | None,
    shared: bool,
) -> Made:
    """The chain, from latents to files."""
    done = unfinished.NOTHING if begun is None else begun
    mesh, num = sharding.local_mesh(), order.plan.num
    at_a_time = stream.sounds_at_a_time(mesh)
    size = _batch_size(order, batch_size, at_a_time, shared=shared)
    # What is chosen hangs on all that was drawn before.
    start = 0 if order.rules else done.num // at_a_time * at_a_time
    starts = range(start, stream.num_draws(order), size)
    curation = None if order.rules is None else _create_curation(order, order.rules)
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            stack.enter_context(lists)
        bar = stack.enter_context(
            tqdm(
                total=num,
                initial=done.num,
                unit="sound",
                dynamic_ncols=True,
                disable=not hosts.is_first(),
            )
        )
        writer = stack.enter_context(_create_writer(order))
        threads = stack.enter_context(ThreadPoolExecutor(min(MAX_THREADS, os.cpu_count() or 1)))
        own = processes.share(starts) if shared else starts
        batches = stream.batches(order, own, batch_size=size, mesh=mesh)
        stack.enter_context(contextlib.closing(batches))
        chosen = curation.accepted(batches) if curation else stream.first(batches, num)
        new = beyond(numbered(chosen, consecutive=curation is not None), done.num)
        complete = {out / name for name in done.later}
        made = without_files(finished(new, order, out, threads), complete)
        if begun is not None or order.files.names != "index":
            made = unclaimed(
                made, writer
            )  # in a new folder, it is known that nothing is in the way
        first, after_first, total = 0, 0.0, done.num
        for more in (processes.write if shared else write)(made, lists, writer):
            bar.update(more)
            total += more
            if curation:
                bar.set_postfix_str(f"{curation.drawn} drawn")
            if not first and more:
                first, after_first = total, time.perf_counter()
    timed = total > first > done.num
    rate = (total - first) / (time.perf_counter() - after_first) if timed else None
    return Made(total, rate, curation, lists.looped, lists.limited)


def numbered(
    batches: Iterable[tuple[np.ndarray, Batch]], *, consecutive: bool
) -> Iterator[Numbered]:
    """Sounds with their numbers.

    Args:
      batches: draws [n] and outputs [n, ...].
      consecutive: whether they are numbered as they come; otherwise draw i is sound i.
    """
    count = 0
    for draws, outputs in batches:
        interrupts.check()
        numbers = np.arange(count, count + len(draws)) if consecutive else draws
        count += len(draws)
        yield Numbered(numbers, draws, outputs)


def beyond(batches: Iterable[Numbered], num: int) -> Iterator[Numbered]:
    """Without the first `num` sounds, which are there already: they had to be made again to know
    what follows."""
    for numbers, draws, outputs in batches:
        old = int(np.sum(numbers < num))
        yield Numbered(numbers[old:], draws[old:], {k: v[old:] for k, v in outputs.items()})


def finished(
    batches: Iterable[Numbered], order: Order, out: Path, threads: ThreadPoolExecutor
) -> Iterator[tuple[Part, list[Sound]]]:
    """What the lists say of sounds, and the sounds as their files hold them."""
    lines, mastering, plan = Lines(order), order.mastering, order.plan
    on_host = mastering.reshapes or mastering.dithers
    for numbers, draws, outputs in batches:
        if not len(numbers):
            yield Part([], np.zeros((0, order.latent_dim)), np.zeros(0, unfinished.PICTURE)), []
            continue
        if on_host:
            sounds = list(threads.map(partial(master, mastering=mastering), outputs["samples"]))
        else:
            sounds = [Mastered(samples, None, {}) for samples in outputs["samples"]]
        facts = None if plan.facts is None else plan.facts(draws)
        rows = [
            lines.line(int(i), int(draws[j]), facts, outputs, j, sounds[j])
            for j, i in enumerate(numbers)
        ]
        pictures = np.zeros(len(rows), unfinished.PICTURE)
        pictures["thumbnail"], pictures["outline"] = outputs["thumbnail"], outputs["outline"]
        pictures["map"] = outputs["point"][:, :2]
        yield (
            Part(rows, outputs["z"], pictures),
            [
                Sound(out / row["file"], sound.samples, Tags(origin(row), root_of(row), sound.loop))
                for row, sound in zip(rows, sounds, strict=True)
            ],
        )


def without_files(
    made: Iterable[tuple[Part, list[Sound]]], complete: set[Path]
) -> Iterator[tuple[Part, list[Sound]]]:
    """Without the sounds whose files are complete already, although not all before them are."""
    for part, sounds in made:
        yield part, [sound for sound in sounds if sound.path not in complete]


def unclaimed(
    made: Iterable[tuple[Part, list[Sound]]], writer: SoundWriter
) -> Iterator[tuple[Part, list[Sound]]]:
    """Refuses a sound whose name somebody else's file has, and leaves out what is there already: of
    a run that was gone on with, and killed before it had listed that one again.

    Raises:
      WriteError: before anything of its batch is written.
    """
    for part, sounds in made:
        there = [sound for sound in sounds if os.path.lexists(sound.path)]
        for sound in there:
            if not writer.has_written(*sound):
                raise WriteError(
                    f"{sound.path} is in the way and not from an earlier run; move it or choose "
                    "another --out"
                )
        paths = {sound.path for sound in there}
        yield part, [sound for sound in sounds if sound.path not in paths]


def write(
    made: Iterable[tuple[Part, list[Sound]]], lists: Lists, writer: SoundWriter
) -> Generator[int]:
    """Writes sounds into lists and files; yields how many, batch by batch.

    The files go last: a sound without its latent and its line would be lost to --overwrite, a line
    without its sound is dropped by `keep_complete`.
    """
    for part, sounds in made:
        lists.add(part)
        for sound in sounds:
            writer.submit(*sound)
        yield len(part.rows)


def _batch_size(order: Order, wanted: int | None, at_a_time: int, *, shared: bool) -> int:
    """Sounds in a batch, in whole chunks of all devices."""
    size = wanted
    if size is None:
        size = usual_size = stream.usual_batch(order, at_a_time)
        if order.rules is None:
            size = usual_size = min(size, -(-order.plan.num // (hosts.count() if shared else 1)))
        if shared:  # whose memory need not be equally free
            size = hosts.on_first(lambda: usual_size)
    return -(-size // at_a_time) * at_a_time


def _create_curation(order: Order, rules: Rules) -> Curation:
    assert order.plan.prior is not None, "only draws can be chosen from"
    density, chunk = priors.make_log_density(order.plan.prior), generate.chunk_size()
    return Curation(
        rules,
        order.plan.num,
        unit=float(order.run.instrument.embedding.median_neighbour),
        log_density=lambda z: generate.in_chunks(density, z, chunk),
    )


def _create_writer(order: Order) -> SoundWriter:
    return SoundWriter(
        order.mastering.sample_rate,
        subtype=order.files.subtype,
        num_threads=min(MAX_THREADS, max(2, (os.cpu_count() or 1) // 2)),
        max_pending=MAX_PENDING,
    )
