"""A trace of a few steady steps, which TensorBoard's profiler shows (and https://ui.perfetto.dev).

It is written to `plugins/profile/` of the run's TensorBoard folder. What it costs the traced steps
is in the trace: they are not for timing by the clock.
"""

from pathlib import Path
from typing import Any

import jax

# Calls before the trace, of which the first compiles, and calls in it.
NUM_BEFORE = 3
NUM_TRACED = 5


class Profiler:
    """Calls steps, and records a few of them."""

    def __init__(self, folder: Path | None):
        """Records nothing yet.

        Args:
          folder: of TensorBoard; None to record nothing at all.
        """
        self.folder = folder
        self.traced: list[int] = []
        """The steps that the recorded calls began with."""
        self._calls = 0
        self._is_on = False

    def call(self, steps, state, step: int) -> tuple[Any, Any]:
        """steps(state, step), recorded when it is its turn."""
        if self.folder is None or self._calls == NUM_BEFORE + NUM_TRACED:
            return steps(state, step)
        if self._calls == NUM_BEFORE:
            # What was dispatched before does not belong to it.
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self.folder))
            self._is_on = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = steps(state, step)
        self._calls += 1
        if self._is_on:
            self.traced.append(step)
        if self._calls == NUM_BEFORE + NUM_TRACED:
            jax.block_until_ready(metrics)
            self.close()
        return state, metrics

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._is_on:
            self._is_on = False
            jax.profiler.stop_trace()

    def explain(self) -> str:
        """Where the trace is, or why there is none."""
        if not self.traced:
            return f"no trace: the run ended before {NUM_BEFORE + 1} calls of the compiled steps"
        return (
            f"trace of the calls at steps {self.traced[0]} to {self.traced[-1]} in "
            f"{self.folder}/plugins/profile; open it with `tensorboard --logdir {self.folder}` "
            "(pip install xprof), under Profile"
        )
