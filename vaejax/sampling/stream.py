"""The stream of sounds from the device: batch n + 1 is made while the caller works on batch n.

A batch is a dict of NumPy arrays [n, ...], as `generate.sound_of` names them.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vaejax.devices import sharding
from vaejax.features import conditions
from vaejax.sampling import generate, sequences
from vaejax.sampling.order import Order
from vaejax.sampling.unfinished import PICTURE
from vaejax.signal.pitch import pitch

Batch = dict[str, np.ndarray]

# Sounds in a batch where the device does not say what memory it has, as a CPU does not.
DEFAULT_BATCH = 32
# Of a device's free memory, what the batches on it may take; and bytes of one, which the host holds
# several times over.
MEMORY_SHARE = 0.25
MAX_BATCH_BYTES = 2**28
# Indices are uint32.
MAX_DRAWS = 2**32
# Of calls of the compiled program that a CPU works on at once.
MAX_PROGRAMS = 4


def sounds_at_a_time(mesh: Mesh | None) -> int:
    """Sounds that the devices work on at a time: each makes whole chunks."""
    return generate.chunk_size() * (1 if mesh is None else mesh.size)


def num_draws(order: Order) -> int:
    """Sounds to make at most: where some are rejected, as many as there are indices."""
    return order.plan.num if order.rules is None else MAX_DRAWS


def usual_batch(order: Order, at_a_time: int) -> int:
    """Sounds in a batch where nobody says how many."""
    if order.rules is not None:
        # What is drawn in vain, after the last that is kept, is two batches.
        return generate.chunk_size()
    sample_bytes = 2 if order.device_subtype == "PCM_16" else 4
    sound_bytes = sample_bytes * order.num_samples + PICTURE.itemsize
    memory = jax.local_devices()[0].memory_stats()
    return automatic_batch(sound_bytes, memory, chunk=at_a_time)


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


def batches(
    order: Order, starts: Iterable[int], *, batch_size: int, mesh: Mesh | None
) -> Generator[tuple[int, Batch]]:
    """(first index, outputs) of each batch, filled up to whole chunks.

    Args:
      starts: first index of each batch, of a chunk as well; a batch that starts beyond the last
        sound is empty.
      batch_size: sounds, in whole chunks.
      mesh: devices of this process that share each batch, each by the program that one device by
        itself would run.
    """
    inputs = _make_inputs(order, mesh)
    num, at_a_time = num_draws(order), sounds_at_a_time(mesh)
    on_cpu = jax.default_backend() == "cpu" and mesh is None
    ahead: deque[tuple[int, list]] = deque()
    with _caller(_make_program(order, mesh), several=on_cpu) as call:
        for start in starts:
            end = min(start + batch_size, num)
            parts = range(start, end, at_a_time)
            ahead.append((start, call([one for at in parts for one in inputs(at, end)])))
            if len(ahead) > 1:
                yield _on_host(*ahead.popleft())
        yield from (_on_host(*one) for one in ahead)


def first(batches: Iterable[tuple[int, Batch]], num: int) -> Iterator[tuple[np.ndarray, Batch]]:
    """Indices [n] and outputs [n, ...] of the first `num` sounds; the last batch has more."""
    for start, batch in batches:
        count = max(0, min(len(batch["z"]), num - start)) if batch else 0
        yield np.arange(start, start + count), {k: v[:count] for k, v in batch.items()}


def _make_inputs(order: Order, mesh: Mesh | None) -> Callable[[int, int], Iterator[tuple]]:
    """Latents and facts of the calls that make `sounds_at_a_time` sounds from an index on, as far
    as an end."""
    run, plan = order.run, order.plan
    at_a_time, chunk = sounds_at_a_time(mesh), generate.chunk_size()
    size = sequences.rows_per_call(plan.form, run.config, chunk)
    in_a_call = size * (at_a_time // chunk)
    draw = generate.make_drawer()
    if mesh is not None:
        draw = jax.jit(sharding.by_device(draw, mesh, (None, None, 0, None)))
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

    def inputs(start: int, end: int) -> Iterator[tuple]:
        latents, facts = latents_at(start), facts_at(start)
        if size == chunk:
            yield latents, facts
            return
        for at in range(0, min(at_a_time, end - start), in_a_call):
            rows = slice(at, at + in_a_call)
            yield latents[rows], facts[rows]

    return inputs


def _make_program(order: Order, mesh: Mesh | None) -> Callable[[Any, Any], dict[str, Any]]:
    """Latents and facts to outputs that are on their way to the host.

    Where the order listens, also the pitch `hz` and its `clarity`, by a program of its own: the
    sounds are the same with and without.
    """
    run = order.run
    decoder = generate.make_decoder(run.config, order.device_subtype, order.plan.form)
    instrument = run.instrument
    if mesh is not None:
        decoder = jax.jit(sharding.by_device(decoder, mesh, (None, 0, 0)))
        instrument = sharding.put(instrument, sharding.replicated(mesh))
    hear = _make_listener(run.config.data.sample_rate, mesh) if order.listens else lambda made: made

    def make(latents, facts):
        made = hear(decoder(instrument, latents, facts))
        # On its way to the host as soon as it is made, not when it is asked for.
        for array in jax.tree.leaves(made):
            array.copy_to_host_async()
        return made

    return make


def _make_listener(sample_rate: int, mesh: Mesh | None):
    """Adds pitch and clarity, [n] each, to what the generator returns."""

    def hear(samples):
        if jnp.issubdtype(samples.dtype, jnp.integer):
            samples = samples.astype(jnp.float32) / -float(jnp.iinfo(samples.dtype).min)
        return jax.vmap(partial(pitch, sample_rate=sample_rate))(samples)

    program = jax.jit(sharding.by_device(hear, mesh))

    def listen(made):
        hz, clarity = program(made["samples"])
        return {**made, "hz": hz, "clarity": clarity}

    return listen


@contextlib.contextmanager
def _caller(make, *, several: bool) -> Iterator[Callable[[list[tuple]], list]]:
    """Calls `make` for each of some arguments, without waiting for the results.

    Args:
      several: whether by several threads. Much of a sound, Fourier transforms first, keeps one core
        of a CPU busy, and what one thread asks of it runs one after the other; so several threads
        ask, and each waits for its answer.
    """
    if not several:
        yield lambda calls: [make(*arguments) for arguments in calls]
        return
    pool = ThreadPoolExecutor(min(MAX_PROGRAMS, os.cpu_count() or 1))
    compiled = False

    def make_and_wait(latents, facts):
        return jax.block_until_ready(make(latents, facts))

    def call(calls: list[tuple]) -> list:
        nonlocal compiled
        made = [pool.submit(make_and_wait, *arguments) for arguments in calls[:1]]
        if not compiled:
            futures.wait(made)  # Compiled once, not by every thread.
            compiled = True
        return made + [pool.submit(make_and_wait, *arguments) for arguments in calls[1:]]

    try:
        yield call
    finally:
        pool.shutdown(cancel_futures=True)


def _on_host(start: int, parts: list) -> tuple[int, Batch]:
    made = [part.result() if isinstance(part, futures.Future) else part for part in parts]
    return start, jax.tree.map(lambda *arrays: np.concatenate(arrays), *made) if made else {}
