"""When a run stops by itself, and what it says then."""

import dataclasses
import json

import numpy as np
import pytest

from vaejax.config import Config, Train
from vaejax.train import patience

CONFIG = Config(train=Train(num_steps=500, eval_every_steps=100, patience=2))


def run(errors, config=CONFIG):
    """The step at which a run stops whose evaluations, 100 steps apart, gave errors [num]; and its
    progress."""
    progress = patience.BEGIN
    for i, row in enumerate(errors):
        values = {"loss": 1.0, "mel_l1_db": float(np.mean(row))}
        progress = patience.after(progress, 100 * i, values, row, config)
        if patience.is_over(progress, config):
            return 100 * i, progress
    return None, progress


SOUNDS = np.linspace(1.0, 4.0, 11)
NOISE = np.random.default_rng(0).standard_normal((20, 11))


def test_a_gain_of_every_sound_counts_however_different_the_sounds_are():
    assert patience.is_gain(SOUNDS, SOUNDS - 0.01)
    assert not patience.is_gain(SOUNDS, SOUNDS + 0.01)
    assert not patience.is_gain(SOUNDS, SOUNDS)


def test_a_gain_that_few_sounds_disagree_about_is_chance_and_of_many_is_not():
    now = SOUNDS - np.where(np.arange(11) % 2, 0.5, -0.4)
    assert now.mean() < SOUNDS.mean()
    assert not patience.is_gain(SOUNDS, now)
    assert patience.is_gain(np.tile(SOUNDS, 400), np.tile(now, 400))


def test_a_single_value_counts_when_it_falls():
    assert patience.is_gain([2.0], [1.99])
    assert not patience.is_gain([2.0], [2.0])


def test_chance_does_not_keep_a_run_going_and_gains_do():
    flat = [SOUNDS + 0.3 * row for row in NOISE[:6]]
    assert run(flat)[0] is not None
    falling = [SOUNDS - 0.2 * i + 0.1 * row for i, row in enumerate(NOISE[:6])]
    assert run(falling)[0] is None


def test_gains_too_small_to_tell_one_by_one_add_up():
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, patience=4))
    # Fixed disagreement between sounds at every step, as weights that drift.
    slow = [SOUNDS - 0.02 * i + 0.1 * NOISE[0] * (i > 0) for i in range(12)]
    assert not patience.is_gain(slow[0], slow[1])
    assert run(slow, config)[0] is None


def test_patience_0_never_stops():
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, patience=0))
    assert run([SOUNDS] * 20, config)[0] is None


def test_progress_from_a_checkpoint_is_the_same_to_the_last_bit():
    _, progress = run([SOUNDS + row / 3 for row in NOISE[:2]])
    stored = json.loads(json.dumps(patience.to_json(progress)))
    assert patience.from_json(stored, 900) == progress
    begun = json.loads(json.dumps(patience.to_json(patience.BEGIN)))
    assert patience.from_json(begun, 0) == patience.BEGIN


def test_patience_with_a_checkpoint_of_an_older_version_begins_at_its_step():
    progress = patience.from_json({"step": 200, "loss": 1.0, "mel_l1_db": 2.0}, 900)
    assert progress.best["step"] == 200
    assert progress.since == 900
    for step, is_over in ((900, False), (1000, False), (1100, False), (1200, True)):
        values = {"loss": 1.0, "mel_l1_db": 2.0}
        progress = (
            patience.after(progress, step, values, SOUNDS, CONFIG) if step > 900 else progress
        )
        assert patience.is_over(progress, CONFIG) == is_over


def test_patience_counts_evaluations_however_often_they_come():
    twice = dataclasses.replace(
        CONFIG, train=dataclasses.replace(CONFIG.train, eval_every_steps=50)
    )
    progress = patience.BEGIN
    for step, config, is_over in ((0, CONFIG, 0), (100, twice, 0), (150, twice, 1)):
        values = {"loss": 1.0, "mel_l1_db": 2.0}
        progress = patience.after(progress, step, values, SOUNDS, config)
        assert patience.is_over(progress, config) == is_over


def test_a_run_without_best_weights_is_not_over():
    progress = patience.Progress({"loss": float("inf")}, 0, (), waited=9)
    assert not patience.is_over(progress, CONFIG)


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ([3.0, 2.0, 2.1, 2.2], "stopped at step 300 of 500: held-out audio last improved at step "
         "100 (2.00 dB); the best weights are kept and used"),
        ([2.0, 2.1, 2.2], "stopped at step 200 of 500: held-out audio was best at step 0 (2.00 dB),"
         " the start, which is PCA, whose weights are kept and used: nothing was learned"),
    ],
)  # fmt: skip
def test_a_stopped_run_says_when_and_why_and_what_is_used(means, words):
    step, progress = run([SOUNDS - SOUNDS.mean() + mean for mean in means])
    text = patience.explain(progress, step, CONFIG)
    assert text.startswith(words)
    assert "\n" not in text


def test_best_weights_that_are_better_by_chance_are_told_apart():
    lower = SOUNDS - np.where(np.arange(11) % 2, 0.5, -0.4)
    step, progress = run([SOUNDS + 1, SOUNDS, lower, SOUNDS])
    assert (step, progress.since, progress.best["step"]) == (300, 100, 200)
    text = patience.explain(progress, step, CONFIG)
    assert "has not improved by more than chance since step 100; the best weights, of step" in text
    assert "step 200 (2.4" in text


def test_a_run_resumed_after_every_evaluation_stops_where_one_that_was_not_does():
    errors = [SOUNDS - 0.3 * min(i, 3) + 0.1 * row for i, row in enumerate(NOISE)]
    whole = run(errors)
    progress = patience.BEGIN
    for i, row in enumerate(errors):
        progress = patience.from_json(json.loads(json.dumps(patience.to_json(progress))), 100 * i)
        values = {"loss": 1.0, "mel_l1_db": float(np.mean(row))}
        progress = patience.after(progress, 100 * i, values, row, CONFIG)
        if patience.is_over(progress, CONFIG):
            break
    assert (100 * i, progress) == whole
    assert 0 < whole[1].since < whole[0]
