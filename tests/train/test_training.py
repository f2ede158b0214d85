"""The training step: a function of (seed, step), whatever the dispatch or the storage."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vaejax import features
from vaejax.data import batches
from vaejax.data.clips import raw_clip
from vaejax.objective.regularizers import REGULARIZERS
from vaejax.run import checkpoint
from vaejax.train import optimizers
from vaejax.train.evaluation import eval_step
from vaejax.train.feed import Visits
from vaejax.train.fit import fit
from vaejax.train.state import create_state, keys_of
from vaejax.train.step import DROP, example_at, make_steps, train_step


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def run_steps(config, sounds, fitted, num):
    """The state after a number of steps, and the metrics of each dispatch."""
    steps, steps_in = make_steps(config, sounds, fitted)
    state, metrics = create_state(config), []
    for step in range(0, num, steps_in):
        state, m = steps(state, step)
        metrics.append(m)
    return state, metrics


@pytest.fixture(scope="module")
def eight_steps(config, sounds, fitted):
    return run_steps(config, sounds, fitted, 8)


# What is fitted before


def test_statistics_are_those_of_every_raw_training_clip(config, sounds, fitted):
    clips, lengths, _ = sounds.read(sounds.train_rows)
    raw = jax.jit(jax.vmap(lambda p, n: raw_clip(p, n, config)))(clips, lengths)
    expected = features.fit_statistics([raw], config)
    # The last batch of 8 of 32 clips is whole, so that no clip counts twice.
    assert len(sounds.train_rows) == 32
    np.testing.assert_allclose(fitted.statistics.mean, expected.mean, rtol=1e-5)
    np.testing.assert_allclose(fitted.statistics.scale, expected.scale, rtol=1e-5)


def test_linear_path_is_left_out_on_request(make_config, sounds):
    config = make_config(model={"ppca_clips": 0})
    fitted = fit(sounds, config)
    np.testing.assert_array_equal(fitted.linear.directions, 0.0)
    assert float(fitted.linear.noise) == 1.0


def test_fit_is_the_same_every_time(config, sounds, fitted):
    equal(fit(sounds, config), fitted)


# The state


def test_weights_depend_on_the_seed(config, make_config):
    other = make_config(train={"seed": 1})
    a, again, b = (create_state(c).params for c in (config, config, other))
    equal(a, again)
    kernel = [p["vae"]["encoder"]["Dense_0"]["kernel"] for p in (a, b)]
    assert np.abs(kernel[0] - kernel[1]).max() > 1e-3


def test_new_state_is_at_step_0_with_the_average_at_the_weights(config):
    state = create_state(config)
    assert int(state.step) == 0
    assert int(state.first_bad_step) == -1
    equal(state.params, state.ema)


# The schedule


def test_learning_rate_warms_up_in_a_line_and_decays_by_a_cosine(make_config):
    config = make_config(
        train={
            "num_steps": 100,
            "warmup_steps": 10,
            "learning_rate": 2e-3,
            "final_learning_rate": 0.1,
        }
    )
    schedule = optimizers.learning_rate(config)
    for step in (0, 1, 5, 10):
        assert float(schedule(step)) == pytest.approx(2e-3 * step / 10, rel=1e-5, abs=1e-12)
    for step in (10, 40, 55, 100):
        share = 0.5 * (1 + np.cos(np.pi * (step - 10) / 90))
        assert float(schedule(step)) == pytest.approx(2e-3 * (0.1 + 0.9 * share), rel=1e-4)


def test_warm_up_longer_than_the_run_is_shortened(make_config):
    config = make_config(train={"num_steps": 4, "warmup_steps": 100, "learning_rate": 1e-3})
    schedule = optimizers.learning_rate(config)
    assert float(schedule(3)) == pytest.approx(1e-3, rel=1e-5)


# One step


@pytest.fixture(scope="module")
def one_step(config, sounds, fitted):
    """A step by hand: its arguments, and what it returns."""
    state = create_state(config)
    positions = batches.positions_at(state.step, batch_size=8)
    index = batches.shuffled_indices(keys_of(config)[1], positions, num_clips=32)
    clips, lengths, facts = sounds.read(sounds.train_rows[np.asarray(index)])
    step = jax.jit(lambda *a: train_step(*a, config=config, num_clips=32))
    visits = Visits(clips, lengths, facts, positions)
    return state, visits, step(state, fitted, visits)


def test_step_counts_and_reports_scalars(config, one_step):
    *_, (state, metrics) = one_step
    assert int(state.step) == 1
    assert int(state.first_bad_step) == -1
    for name in ("loss", "recon", "kl", "beta", "sigma", "grad_norm", "learning_rate"):
        assert metrics[name].shape == (), name
        assert np.isfinite(metrics[name]), name
    assert metrics["kl_per_dim"].shape == metrics["mean_variance"].shape == (4,)
    np.testing.assert_allclose(metrics["loss"], metrics["recon"] + metrics["kl"], rtol=1e-6)


def test_average_follows_the_weights_by_its_decay(config, one_step, eight_steps):
    before, *_, (after, _) = one_step
    decay = config.train.ema_decay
    jax.tree.map(
        lambda e0, p1, e1: np.testing.assert_allclose(
            e1, decay * np.asarray(e0) + (1 - decay) * np.asarray(p1), rtol=1e-5, atol=1e-7
        ),
        before.ema,
        after.params,
        after.ema,
    )
    eighth, _ = eight_steps
    gap = optax.global_norm(jax.tree.map(jnp.subtract, eighth.ema, eighth.params))
    assert float(gap) > 0


def test_step_of_a_loop_is_the_step_by_hand(one_step, config, sounds, fitted):
    *_, (by_hand, _) = one_step
    looped, _ = run_steps(config, sounds, fitted, 1)
    for left, right in zip(
        jax.tree.leaves(by_hand.params), jax.tree.leaves(looped.params), strict=True
    ):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


def test_a_batch_in_parts_that_keep_nothing_is_the_same_step(make_config, sounds, fitted, one_step):
    config = make_config(train={"grad_accumulation": 4, "remat": True})
    state, visits, (expected, expected_metrics) = one_step
    step = jax.jit(lambda *a: train_step(*a, config=config, num_clips=32))
    arguments = state, fitted, visits
    after, metrics = step(*arguments)
    # The first step has no learning rate: the moments of Adam are what it leaves.
    for (path, a), b in zip(
        jax.tree.flatten_with_path(expected.opt_state)[0],
        jax.tree.leaves(after.opt_state),
        strict=True,
    ):
        atol = 1e-3 * np.abs(a).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    # Encoder and decoder, in a loop over the parts.
    text = str(jax.make_jaxpr(lambda *a: train_step(*a, config=config, num_clips=32))(*arguments))
    assert "length=4" in text
    assert text.count("remat2[") >= 2


def test_what_an_objective_carries_goes_through_steps_logs_and_checkpoints(
    config, sounds, fitted, tmp_path, monkeypatch
):
    def carry(mean, batch):
        return {"multiplier": batch.carried["multiplier"] + mean["kl"]}

    assert create_state(config).carried == {}
    kl = REGULARIZERS["kl"]._replace(begin=lambda c: {"multiplier": jnp.ones(())}, carry=carry)
    monkeypatch.setitem(REGULARIZERS, "kl", kl)
    state = create_state(config)
    columns = *sounds.read(sounds.train_rows[:8]), batches.positions_at(state.step, batch_size=8)
    step = partial(train_step, config=config, num_clips=32)
    after, metrics = jax.eval_shape(step, state, fitted, Visits(*columns))
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["multiplier"].shape == ()
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save_last(state._replace(carried={"multiplier": jnp.float32(3.0)}), {"loss": 1.0})
    checkpoints.wait()
    restored, _ = checkpoints.restore_last(lambda: create_state(config))
    checkpoints.close()
    assert float(restored.carried["multiplier"]) == 3.0


def test_every_weight_learns(config, eight_steps):
    start = create_state(config).params
    end, _ = eight_steps
    for (path, a), b in zip(
        jax.tree.flatten_with_path(start)[0], jax.tree.leaves(end.params), strict=True
    ):
        assert np.abs(a - b).max() > 0, jax.tree_util.keystr(path)


# Order of work


def test_steps_in_one_dispatch_equal_single_steps(make_config, sounds, fitted, eight_steps):
    config = make_config(
        train={
            "steps_per_dispatch": 4,
            "log_every_steps": 4,
            "eval_every_steps": 4,
            "save_every_steps": 4,
        }
    )
    scanned, scanned_metrics = run_steps(config, sounds, fitted, 8)
    single, single_metrics = eight_steps
    assert int(scanned.step) == int(single.step) == 8
    assert len(scanned_metrics) == 2
    for left, right in zip(
        jax.tree.leaves(scanned.params), jax.tree.leaves(single.params), strict=True
    ):
        # Adam divides by the root of a second moment: a weight whose gradient is next to nothing
        # moves by its rounding, at most by the learning rate.
        np.testing.assert_allclose(left, right, atol=2e-3)
    for name in ("loss", "recon", "kl", "learning_rate", "kl_per_dim"):
        mean = np.mean([m[name] for m in single_metrics[:4]], 0)
        np.testing.assert_allclose(scanned_metrics[0][name], mean, rtol=1e-3, err_msg=name)


def test_streamed_training_equals_resident_training_bit_for_bit(make_config, make_sounds, fitted):
    config = make_config(data={"device_budget_mb": 1})
    sounds = make_sounds(config, 320)
    # 256 training clips of 2,126 int16 samples are 1.04 MB.
    size = len(sounds.train_rows) * config.pack_samples * 2
    assert 2**20 < size < 2 * 2**20
    resident = make_config(data={"device_budget_mb": 2})
    streamed_state, streamed_metrics = run_steps(config, sounds, fitted, 4)
    resident_state, resident_metrics = run_steps(resident, sounds, fitted, 4)
    equal(streamed_state, resident_state)
    equal(streamed_metrics, resident_metrics)


@pytest.mark.parametrize("steps_in", [1, 4])
def test_streamed_steps_see_the_clips_of_resident_ones(
    make_config, make_sounds, fitted, monkeypatch, steps_in
):
    def look(state, fitted, visits, **_):
        seen = visits._asdict() | {"clips": jnp.sum(visits.clips, 1)}
        return state._replace(step=state.step + 1), jax.tree.map(jnp.float32, seen)

    monkeypatch.setattr("vaejax.train.step.train_step", look)
    train = {"steps_per_dispatch": steps_in, "num_steps": 16}
    streamed = make_config(data={"device_budget_mb": 1}, train=train)
    resident = make_config(data={"device_budget_mb": 2}, train=train)
    sounds = make_sounds(streamed, 320)
    seen = [run_steps(config, sounds, fitted, 16)[1] for config in (streamed, resident)]
    assert len(seen[0]) == 16 // steps_in
    equal(*seen)
    # As a run that goes on after step 8 does.
    steps, _ = make_steps(streamed, sounds, fitted)
    state = create_state(streamed)
    equal(steps(state._replace(step=jnp.asarray(8)), 8)[1], seen[1][8 // steps_in])


def test_a_run_resumed_from_its_state_is_the_run_that_was_not(config, sounds, fitted, eight_steps):
    steps, _ = make_steps(config, sounds, fitted)
    state = create_state(config)
    for step in range(3):
        state, _ = steps(state, step)
    stored = jax.tree.map(np.asarray, state)
    del state  # the steps consumed all states before it
    state = jax.tree.map(jnp.array, stored)
    for step in range(3, 8):
        state, _ = steps(state, step)
    equal(state, eight_steps[0])


@pytest.mark.usefixtures("compiled_well")
def test_an_example_depends_on_its_position_alone(config, sounds, fitted):
    visit_key = keys_of(config)[2]
    clips, lengths, facts = sounds.read(sounds.train_rows[:4])
    example = jax.jit(
        jax.vmap(lambda *clip: example_at(visit_key, *clip, fitted.statistics, config, 0)[0])
    )
    positions = jnp.arange(4, dtype=jnp.uint32)
    together = example(clips, lengths, facts, positions)
    alone = example(clips[2:3], lengths[2:3], facts[2:3], positions[2:3])
    # The mean: a power of 0.3 makes much of rounding where there is next to nothing.
    assert np.abs(together[2] - alone[0]).mean() < 1e-6
    elsewhere = example(clips[2:3], lengths[2:3], facts[2:3], positions[3:4])
    assert np.abs(elsewhere[0] - alone[0]).mean() > 0.01


# A loss that is not finite


def test_first_bad_step_is_the_first_and_stays(make_config, sounds, fitted):
    config = make_config(train={"learning_rate": 1e30, "warmup_steps": 0})
    state, metrics = run_steps(config, sounds, fitted, 5)
    losses = [bool(np.isfinite(m["loss"]) and np.isfinite(m["grad_norm"])) for m in metrics]
    assert losses[0]
    assert not all(losses)
    assert int(state.first_bad_step) == losses.index(False)


# Evaluation


def test_evaluation_draws_the_same_noise_every_time_and_in_any_batch(config, sounds, fitted):
    params = create_state(config).ema
    evaluate = jax.jit(lambda *a: eval_step(params, fitted, *a, config=config))
    rows = sounds.held_out_rows
    together = evaluate(*sounds.read(rows), rows.astype(np.int32))
    again = evaluate(*sounds.read(rows), rows.astype(np.int32))
    equal(together, again)
    reverse = evaluate(*sounds.read(rows[::-1]), rows[::-1].astype(np.int32))
    np.testing.assert_allclose(reverse["recon"][::-1], together["recon"], rtol=1e-4)


def test_evaluation_does_not_augment(config, sounds, fitted):
    params = create_state(config).ema
    plain = dataclasses.replace(
        config, augment=dataclasses.replace(config.augment, gain_db=0.0, shift_ms=0.0)
    )
    rows = sounds.held_out_rows[:2]
    results = [
        jax.jit(lambda *a, c=c: eval_step(params, fitted, *a, config=c))(
            *sounds.read(rows), rows.astype(np.int32)
        )
        for c in (config, plain)
    ]
    equal(*results)


def test_what_is_kept_back_does_not_follow_the_noise_of_z():
    key = jax.random.key(0)
    kept_back = jax.random.fold_in(key, DROP)
    parts = jax.random.key_data(jax.random.split(key))
    assert not (parts == jax.random.key_data(kept_back)).all(axis=1).any()
