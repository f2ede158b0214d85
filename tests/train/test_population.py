"""The program of a population: each member does what the same run alone does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import partial_eval

from vaejax import config as configs
from vaejax import models
from vaejax.data import batches
from vaejax.train import population, sweep
from vaejax.train.feed import Visits
from vaejax.train.fit import fit
from vaejax.train.state import TrainState, create_state, keys_of
from vaejax.train.step import make_steps, train_step
from vaejax.train.sweep import Member

# Another value of every field that can be swept.
OTHER = {
    "augment.gain_db": 6.0,
    "augment.shift_ms": 4.0,
    "augment.pitch_probability": 1.0,
    "augment.eq_db": 6.0,
    "augment.eq_probability": 1.0,
    "condition.dropout": 0.9,
    "objective.beta": 3.0,
    "objective.fixed_sigma": 0.5,
    "objective.degrees_of_freedom": 3.0,
    "objective.free_bits": 0.5,
    "objective.capacity": 10.0,
    "objective.tc_weight": 2.0,
    "objective.mmd_weight": 10.0,
    "train.learning_rate": 3e-3,
    "train.final_learning_rate": 0.5,
    "train.weight_decay": 0.3,
    "train.clip_norm": 1e-3,
    "train.ema_decay": 0.3,
    "train.seed": 5,
}
# Those of objectives that are not the default one; see also test_regularizers.py.
ELSEWHERE = {name for name in OTHER if name.startswith("objective.")} - {"objective.beta"}
NUM_STEPS = 4
SMALL = {"num_stages": 0, "dense_depth": 1}


def steps_of(members, sounds, fitted):
    """The stacked state of members after NUM_STEPS."""
    told = fitted.linear.condition_dim
    state = population.stack([create_state(m.config, told) for m in members])
    steps, steps_in = population.make_steps(members, sounds, [fitted] * len(members))
    for step in range(0, NUM_STEPS, steps_in):
        state, metrics = steps(state, step)
    return state, metrics


def member(config, values, name="m"):
    return Member(name, values, configs.replaced(config, values), None)


def assert_close(left, right):
    """Every array up to 2e-4 of its norm: Adam makes much of the rounding of a small gradient."""
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.linalg.norm(a - b) <= 2e-4 * np.linalg.norm(b)


def test_a_member_does_what_the_run_alone_does_in_every_field(make_config, make_sounds):
    assert set(OTHER) == set(sweep.SWEEPABLE)
    config = configs.replaced(make_config(model=SMALL), {"condition.label": True})
    sounds = make_sounds(config, 40)
    fitted = fit(sounds, config)
    usual = {name: configs.get(config, name) for name in OTHER}
    assert not {name for name in OTHER if usual[name] == OTHER[name]}
    state, metrics = steps_of([member(config, usual), member(config, OTHER)], sounds, fitted)

    alone = configs.replaced(config, OTHER)
    steps, _ = make_steps(alone, sounds, fitted)
    expected = create_state(alone, fitted.linear.condition_dim)
    for step in range(NUM_STEPS):
        expected, expected_metrics = steps(expected, step)
    assert_close(population.state_of(state, 1)._asdict(), expected._asdict())
    assert_close({k: v[1] for k, v in metrics.items()}, expected_metrics)


def test_the_step_uses_every_field_that_can_be_swept(make_config, make_sounds, fitted):
    config = configs.replaced(make_config(), {"condition.label": True})
    sounds = make_sounds(config, 40)
    columns = sounds.read(sounds.train_rows[:8])
    told = sounds.told.condition_dim
    fitted = fitted._replace(linear=models.flat_path(config, told))
    state = jax.eval_shape(lambda: create_state(config, told))

    def step(swept, state):
        positions = batches.positions_at(state.step, batch_size=8)
        own = configs.replaced(config, swept)
        return train_step(state, fitted, Visits(*columns, positions), config=own, num_clips=32)

    values = population.traceable(OTHER)
    traced = jax.make_jaxpr(step)(values, state)
    _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    # Arguments come in the order of the dict's sorted names, and those of the state after them.
    assert {n for n, is_used in zip(sorted(values), used, strict=False) if not is_used} == ELSEWHERE


def test_what_is_fitted_before_depends_on_no_other_field(config, sounds, fitted):
    others = {k: v for k, v in OTHER.items() if k not in population.FITTED_FROM}
    again = fit(sounds, configs.replaced(config, others))
    jax.tree.map(np.testing.assert_array_equal, again, fitted)


def test_a_streamed_population_is_the_resident_one_and_so_are_two_steps_in_one_dispatch(
    make_config, make_sounds
):
    dispatch = {f"{what}_every_steps": 2 for what in ("log", "eval", "save")}
    config = make_config(
        train={"steps_per_dispatch": 2, **dispatch},
        data={"device_budget_mb": 2},
        augment={"pitch_semitones": 0, "shift_ms": 0.0},
        model={**SMALL, "ppca_clips": 0},
    )
    # 280 packed sounds of int16 samples: between one and two megabytes.
    sounds = make_sounds(config, 350)
    fitted = fit(sounds, config)
    size = len(sounds.train_rows) * config.pack_samples * 2
    assert 2**20 < size < 2 * 2**20
    seed, decay = "train.seed", "train.weight_decay"
    members = [
        member(config, {seed: 0, decay: 0.0}),
        member(config, {seed: 0, decay: 0.3}),
        member(config, {seed: 5, decay: 0.0}),
    ]
    resident, _ = steps_of(members, sounds, fitted)
    small = configs.replaced(config, {"data.device_budget_mb": 1, "train.steps_per_dispatch": 1})
    # Members with batches of their own, and members that share theirs.
    for name, values, other in ((seed, (0, 5), 2), (decay, (0.0, 0.3), 1)):
        streamed, _ = steps_of([member(small, {name: v}) for v in values], sounds, fitted)
        for i, same in enumerate((0, other)):
            assert_close(
                population.state_of(streamed, i)._asdict(),
                population.state_of(resident, same)._asdict(),
            )


def test_a_traced_shift_of_zero_is_none(key):
    pcm = np.arange(-600, 600, dtype=np.int16) * 20
    options = {"num_samples": 1000, "fade_samples": 10, "gain_db": 0.0}
    options |= {"pitch_semitones": 0, "pitch_probability": 0.0}
    options |= {"sample_rate": 8000, "eq_db": 0.0, "eq_probability": 0.0}

    def clip(shift):
        return batches.augmented_clip(key, pcm, 1200, shift_samples=shift, **options)[0]

    np.testing.assert_allclose(jax.jit(clip)(0.0), clip(0.0), atol=1e-6)


def test_a_seed_beyond_32_bits_is_the_same_traced():
    for seed in (3, 2**31 + 5, 2**40 + 1):
        config = configs.Config(train=configs.Train(seed=seed))
        values = population.traceable({"train.seed": seed})
        traced = jax.jit(lambda v: keys_of(configs.replaced(configs.Config(), v)))(values)
        for a, b in zip(traced, keys_of(config), strict=True):
            np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))


# A member whose loss is not finite


class Written:
    """A journal that keeps what it is told, and finds fault with states whose first step is bad."""

    def __init__(self, waits_until=None):
        self.saved, self.waits_until = [], waits_until

    def measure(self, at, state):
        return None

    def has_waited(self, step):
        return self.waits_until is not None and step >= self.waits_until

    def finish(self):
        pass

    def check(self, state):
        if state.first_bad_step >= 0:
            raise FloatingPointError("not finite")

    def save(self, state):
        self.saved.append(float(state.params))


def state_with(bad):
    values = jnp.arange(float(len(bad)))
    return TrainState(jnp.array(3), values, values, values, jnp.array(bad))


def test_a_member_that_fails_is_left_and_the_others_go_on():
    journals = population.Journals({"a": Written(), "b": Written(), "c": Written()})
    for bad in ([-1, -1, -1], [-1, 2, -1]):
        journals.check(state_with(bad))
        journals.save(state_with(bad))
    assert list(journals.failed) == ["b"]
    assert [j.saved for j in journals.journals.values()] == [[0.0, 0.0], [1.0], [2.0, 2.0]]
    with pytest.raises(FloatingPointError, match="a: not finite"):
        journals.check(state_with([1, 1, 1]))


def test_a_member_that_nothing_has_got_better_for_ends_as_it_would_alone():
    journals = population.Journals({"a": Written(20), "b": Written(10), "c": Written(20)})
    state = state_with([-1, -1, -1])
    for at in (0, 10, 20):
        journals.measure(at, state)
        assert journals.has_waited(at) == (at == 20)
        journals.check(state)
        journals.save(state)
    assert [j.saved for j in journals.journals.values()] == [[0.0, 0.0, 0.0], [1.0, 1.0], [2.0] * 3]
    # It is over: what becomes of its loss is nobody's concern.
    journals.check(state_with([1, 1, 1]))
    assert not journals.failed
