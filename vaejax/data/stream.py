"""Batches of a training set that is larger than the device: read ahead from the pack, by grain.

Element n of the data set is what step n trains on, a function of (seed, n) as everywhere else. So
there is no state to save, and a run that goes on asks for its next step.
"""

import contextlib
from collections.abc import Callable

import jax
import numpy as np

from vaejax.data import batches

# Steps that are read at a time, and that wait on the device: one is enough where a step takes long,
# and where it takes a few milliseconds, several threads share the copying.
NUM_THREADS = 2
NUM_AHEAD = 4


def make_order(key, *, num_clips: int) -> Callable[[np.ndarray], np.ndarray]:
    """`batches.shuffled_indices` for the host: positions [n] uint32 -> [n] int32.

    It runs on the host's processor: on an accelerator it would wait there for the steps that are
    under way, and what is read ahead would come too late.
    """
    with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave the processor out
        key = jax.device_put(key, jax.local_devices(backend="cpu")[0])
    return lambda positions: np.asarray(
        batches.shuffled_indices(key, np.asarray(positions), num_clips=num_clips)
    )


class Reader:
    """Reads the clips of a step while the steps before it run."""

    def __init__(
        self,
        read: Callable[[int], tuple],
        last_step: int,
        put: Callable[[tuple], tuple] = jax.device_put,
        num_ahead: int = NUM_AHEAD,
    ):
        """Prepares to read.

        Args:
          read: from a step to a tuple of host arrays; called on threads of its own.
          last_step: steps are asked for in order, below this.
          put: from host arrays to those of the devices.
          num_ahead: batches that wait on the devices.
        """
        import grain  # takes a second, and only sets beyond the device's budget need it

        self._steps = grain.MapDataset.source(_Steps(read, last_step)).map(put)
        self._options = grain.ReadOptions(
            num_threads=min(NUM_THREADS, num_ahead), prefetch_buffer_size=num_ahead
        )
        self._batches = iter(())
        self._next = -1

    def batch_at(self, step: int) -> tuple:
        """The arrays of a step, on the device."""
        if step != self._next:
            self._batches = iter(self._steps[step:].to_iter_dataset(self._options))
        self._next = step + 1
        return next(self._batches)


class _Steps:
    """What grain asks of a source with random access."""

    def __init__(self, read: Callable[[int], tuple], last_step: int):
        self._read, self._last = read, last_step

    def __len__(self) -> int:
        return self._last

    def __getitem__(self, step) -> tuple:
        return self._read(int(step))
