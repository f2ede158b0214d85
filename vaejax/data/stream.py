"""Batches of a training set that is larger than the device: read ahead from the pack on disk."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax

NUM_AHEAD = 3


class Reader:
    """Reads the clips of a step while the steps before it run."""

    def __init__(
        self,
        read: Callable[[int], tuple],
        last_step: int,
        put: Callable[[tuple], tuple] = jax.device_put,
    ):
        """Prepares to read.

        Args:
          read: from a step to a tuple of host arrays; called on a thread of its own.
          last_step: steps are asked for in order, below this.
          put: from host arrays to those of the devices.
        """
        self._read, self._last, self._put = read, last_step, put
        self._pool = ThreadPoolExecutor(1, "reader")
        self._ahead: deque[tuple[int, Future]] = deque()

    def batch_at(self, step: int) -> tuple:
        """The arrays of a step, on the device."""
        while self._ahead and self._ahead[0][0] != step:
            self._ahead.popleft()
        following = self._ahead[-1][0] + 1 if self._ahead else step
        while len(self._ahead) < NUM_AHEAD and following < max(self._last, step + 1):
            self._ahead.append((following, self._pool.submit(self._load, following)))
            following += 1
        return self._ahead.popleft()[1].result()

    def _load(self, step: int) -> tuple:
        return self._put(self._read(step))
