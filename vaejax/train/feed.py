"""Which clips the next steps train on: held on the devices if they fit there, else streamed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from vaejax.config import Config
from vaejax.data import batches
from vaejax.data.sounds import Sounds
from vaejax.data.stream import NUM_AHEAD, Reader, make_order
from vaejax.devices.sharding import ONE, Placement
from vaejax.train.state import keys_of


class Visits(NamedTuple):
    """The clips of one step, each at one visit of it."""

    clips: Any
    """[batch, pack_samples] int16."""
    lengths: Any
    """[batch] int32, samples of each sound before it was cropped or padded."""
    facts: Any
    """[batch, num_facts] float32, NaN where not known."""
    positions: Any
    """[batch] uint32, see `batches.positions_at`."""


class Feed(NamedTuple):
    """Where a compiled step finds its clips."""

    resident: Any
    """Arrays that stay on the devices; () where clips are streamed."""
    batch_at: Callable[[int], Any]
    """step -> what is sent to the devices for that step alone; () where all is resident."""
    take: Callable[[Any, Any, jax.Array, Config], Visits]
    """(resident, batch, step [], config) -> the clips of the step; called inside the program."""


def make_feed(config: Config, sounds: Sounds, placement: Placement = ONE) -> Feed:
    """The training clips, resident if the budget allows it, else streamed."""
    if fits(config, sounds):
        return resident(config, sounds, placement)
    return streamed(make_read(config, sounds, placement), config, placement)


def fits(config: Config, sounds: Sounds) -> bool:
    """Whether the training clips may live on the device."""
    size = len(sounds.train_rows) * config.pack_samples * 2
    return size <= config.data.device_budget_mb * 2**20


def resident(config: Config, sounds: Sounds, placement: Placement = ONE) -> Feed:
    """All training clips on every device, as an epoch's order asks each of them for any clip."""
    num_clips, batch_size = len(sounds.train_rows), config.train.batch_size

    def take(resident, batch, step, config: Config) -> Visits:
        key = keys_of(config)[1]

        def clip_at(position, resident):
            index = batches.shuffled_index(key, position, num_clips=num_clips)
            return tuple(column[index] for column in resident)

        positions = batches.positions_at(step, batch_size=batch_size)
        clips, lengths, facts = placement.vmap(clip_at, in_axes=(0, None))(positions, resident)
        return Visits(clips, lengths, facts, positions)

    return Feed(placement.put(sounds.read(sounds.train_rows)), lambda step: (), take)


def streamed(read: Callable[[int], Visits], config: Config, placement: Placement = ONE) -> Feed:
    """Clips that are read while the steps before theirs run."""
    num_ahead = max(NUM_AHEAD, 2 * config.train.steps_per_dispatch)
    reader = Reader(read, config.train.num_steps, placement.put_rows, num_ahead)
    return Feed((), reader.batch_at, lambda resident, batch, step, config: batch)


def make_read(
    config: Config, sounds: Sounds, placement: Placement = ONE
) -> Callable[[int], Visits]:
    """step -> its clips in memory, as many of them as are on the devices of this process."""
    rows, batch_size = sounds.train_rows, config.train.batch_size
    order = make_order(keys_of(config)[1], num_clips=len(rows))
    own = placement.rows(batch_size)

    def read(step: int) -> Visits:
        positions = np.uint32(step * batch_size) + np.arange(batch_size, dtype=np.uint32)[own]
        return Visits(*sounds.read(rows[order(positions)]), positions)

    return read
