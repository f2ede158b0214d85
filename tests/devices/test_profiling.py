"""A trace of a few steady calls, where TensorBoard looks for it; the calls stay what they were."""

import jax
import jax.numpy as jnp
import pytest

from vaejax.devices.profiling import NUM_BEFORE, NUM_TRACED, Profiler


@pytest.fixture
def steps():
    def called(state, step):
        calls.append(step)
        return state + 1, {"loss": state}

    calls = called.calls = []
    return called


def run(profiler, steps, num):
    state = jnp.zeros(())
    for step in range(num):
        state, metrics = profiler.call(steps, state, 10 * step)
    assert float(state) == num
    assert float(metrics["loss"]) == num - 1
    return state


def test_steady_calls_are_traced_once(steps, tmp_path):
    profiler = Profiler(tmp_path)
    run(profiler, steps, NUM_BEFORE + NUM_TRACED + 3)
    assert steps.calls == [10 * i for i in range(NUM_BEFORE + NUM_TRACED + 3)]
    assert profiler.traced == steps.calls[NUM_BEFORE : NUM_BEFORE + NUM_TRACED]
    (trace,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    spans = jax.profiler.ProfileData.from_file(str(trace)).planes
    found = [
        dict(event.stats)["step_num"]
        for plane in spans
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert found == profiler.traced
    assert f"at steps 30 to 70 in {tmp_path}/plugins/profile" in profiler.explain()


def test_a_trace_that_is_cut_short_is_whole(steps, tmp_path):
    profiler = Profiler(tmp_path)
    run(profiler, steps, NUM_BEFORE + 1)
    profiler.close()
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == 1


def test_nothing_is_traced_unless_asked_for_or_too_early(steps, tmp_path):
    run(Profiler(None), steps, NUM_BEFORE + NUM_TRACED)
    early = Profiler(tmp_path)
    run(early, steps, NUM_BEFORE)
    early.close()
    assert not list(tmp_path.iterdir())
    assert "no trace" in early.explain()
