"""Reading ahead changes when clips are read, never which."""

import threading

import jax
import numpy as np
import pytest

from vaejax.data import batches
from vaejax.data.stream import NUM_AHEAD, Reader, make_order


@pytest.fixture
def calls():
    return []


def reader_of(calls, last_step, fail_at=None):
    def read(step):
        calls.append(step)
        if step == fail_at:
            raise OSError("the disk went away")
        return np.full(3, step), np.int32(10 * step)

    return Reader(read, last_step)


def test_each_step_gets_its_own_batch_on_the_device(calls):
    reader = reader_of(calls, 6)
    for step in range(6):
        values, other = reader.batch_at(step)
        np.testing.assert_array_equal(values, [step] * 3)
        assert int(other) == 10 * step
        assert hasattr(values, "devices")
    assert sorted(calls) == list(range(6))


def test_a_resumed_run_starts_in_the_middle(calls):
    reader = reader_of(calls, 100)
    np.testing.assert_array_equal(reader.batch_at(40)[0], [40] * 3)
    assert min(calls) == 40


def test_a_jump_drops_what_was_read_ahead_and_reads_what_is_asked(calls):
    reader = reader_of(calls, 100)
    reader.batch_at(0)
    for step in (50, 7, 8):
        np.testing.assert_array_equal(reader.batch_at(step)[0], [step] * 3)


def test_nothing_is_read_beyond_the_last_step(calls):
    reader = reader_of(calls, 3)
    for step in range(3):
        reader.batch_at(step)
    assert sorted(calls) == [0, 1, 2]


def test_the_next_steps_are_read_while_one_runs():
    ahead = threading.Event()

    def read(step):
        if step == NUM_AHEAD - 1:
            ahead.set()
        return (np.zeros(1),)

    reader = Reader(read, 100)
    reader.batch_at(0)
    assert ahead.wait(10)


def test_an_error_of_the_disk_reaches_the_step_that_needed_it(calls):
    reader = reader_of(calls, 10, fail_at=2)
    reader.batch_at(0)
    reader.batch_at(1)
    with pytest.raises(OSError, match="the disk went away"):
        reader.batch_at(2)


def test_the_order_is_that_of_sets_in_memory():
    key = jax.random.key(3)
    positions = np.arange(90, 150, dtype=np.uint32)
    expected = batches.shuffled_indices(key, positions, num_clips=100)
    np.testing.assert_array_equal(make_order(key, num_clips=100)(positions), expected)
