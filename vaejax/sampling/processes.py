"""Sounds that many processes make together: each writes files of its own, the first the lists."""

import contextlib
import io
import json
from collections.abc import Generator, Iterable, Iterator
from typing import Any

import numpy as np

from vaejax.devices import hosts
from vaejax.export.writing import SoundWriter
from vaejax.sampling.lists import Lists, Part, Sound


def share(starts: range) -> Iterator[int]:
    """The first indices of the batches of this process, which has as many as every other: some may
    lie beyond the end of all sounds."""
    for start in range(starts.start, starts.stop, starts.step * hosts.count()):
        yield start + hosts.index() * starts.step


def write(
    made: Iterable[tuple[Part, list[Sound]]], lists: Lists, writer: SoundWriter
) -> Generator[int]:
    """`output.write` for sounds that the processes have made in turn.

    What fails in one process fails in all of them, at the batch after.

    Args:
      lists: written by the first process alone.

    Yields:
      Sounds that are in the lists now and were not before.
    """
    batches, more = iter(made), True
    failed: Exception | None = None
    while more:
        part: Part | None = None
        sounds: list[Sound] = []
        try:
            if failed is None:
                part, sounds = next(batches)
        except StopIteration:
            more = False
            try:
                writer.close()
            except Exception as error:
                failed = error
        except Exception as error:
            failed = error
        num = 0
        for each in exchange(part, failed):
            if hosts.is_first():
                lists.add(each)
            num += len(each.rows)
        hosts.wait("listed")
        try:
            for sound in sounds:
                writer.submit(*sound)
        except Exception as error:
            failed = error  # The others hear of it with the next batch.
        yield num


def exchange(part: Part | None, failed: Exception | None) -> Iterator[Part]:
    """What every process has made, in the order of the processes.

    Raises:
      OSError: something failed in one of them; says what.
    """
    content = b"" if part is None or not part.rows else pack(part)
    if failed is not None:
        content = b"error" + str(failed).encode()
    gathered = hosts.gather(content)
    if failed is not None:
        raise failed
    for number, content in enumerate(gathered):
        if content.startswith(b"error"):
            raise OSError(f"process {number}: {content[len(b'error') :].decode()}")
    yield from (unpack(content) for content in gathered if content)


def pack(part: Part) -> bytes:
    """A part as bytes: an .npz, with the lines as JSON in it."""
    packed = io.BytesIO()
    lines = np.frombuffer(json.dumps(part.rows).encode(), np.uint8)
    np.savez(packed, rows=lines, latents=part.latents, pictures=part.pictures)
    return packed.getvalue()


def unpack(content: bytes) -> Part:
    """The inverse of `pack`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as packed:
        rows: list[dict[str, Any]] = json.loads(packed["rows"].tobytes())
        return Part(rows, packed["latents"], packed["pictures"])


def wait_for_the_last_file() -> None:
    """Returns when no process writes any more, or after a while."""
    if hosts.count() > 1:
        with contextlib.suppress(Exception):
            hosts.wait("stopped", seconds=hosts.FAILING_SECONDS)
