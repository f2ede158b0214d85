"""What the model is told: facts to conditions, and back to what was said."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax.config import Condition
from vaejax.features import conditions
from vaejax.features.conditions import Vocabulary

ALL = Condition(label=True, pitch=True, factors=("decay",))
TOLD = Vocabulary(("bass", "bell", "kick"), True, ("decay",), (2.0,), (0.5,))


def row(label, pitch=None, decay=None, split="train"):
    return {"label": label, "pitch": pitch, "split": split, "factors": {"decay": decay}}


ROWS = [
    row("kick", None, 1.0),
    row("bass", 40.0, 2.0),
    row("bell", 72.5, 3.0),
    row("gong", 30.0, 90.0, "held_out"),
]


@jax.jit
def encode(facts):
    return conditions.encode(facts, condition=ALL, condition_dim=TOLD.condition_dim)


def test_vocabulary_has_every_label_and_the_training_sounds_moments():
    told = conditions.vocabulary(ALL, ROWS)
    assert told.labels == ("bass", "bell", "gong", "kick")
    assert told.centres == (2.0,)
    assert told.scales[0] == pytest.approx(np.std([1, 2, 3]))
    assert told.num_facts == 3
    assert told.condition_dim == 4 + 128 + 2
    assert conditions.num_labels(ALL, told.condition_dim) == 4
    assert conditions.vocabulary(Condition(), ROWS) == Vocabulary()
    assert Vocabulary().num_facts == Vocabulary().condition_dim == 0


def test_a_fact_that_nothing_is_known_of_is_refused_with_the_way_out():
    silent = [row("a"), row("b")]
    with pytest.raises(ValueError, match=r"condition\.pitch needs.*--data\.pitch_pattern"):
        conditions.vocabulary(Condition(pitch=True), silent)
    with pytest.raises(ValueError, match=r"no factor 'shape' is known; known: decay"):
        conditions.vocabulary(Condition(factors=("shape",)), ROWS)


def test_condition_is_one_hot_label_two_keys_and_standardised_factor():
    facts = conditions.facts_of(TOLD, [row("bell", 60.25, 3.0)])[0]
    condition = np.asarray(encode(facts))
    expected = np.zeros(TOLD.condition_dim)
    expected[1] = 1.0
    expected[3 + 60], expected[3 + 61] = 0.75, 0.25
    expected[-2:] = 1.0, 2.0
    np.testing.assert_allclose(condition, expected, atol=1e-6)


def test_what_is_not_known_is_zeros_and_keys_stay_on_the_keyboard():
    nothing = np.full(3, np.nan, np.float32)
    np.testing.assert_array_equal(encode(nothing), 0.0)
    assert np.isfinite(jax.jacfwd(encode)(jnp.asarray(nothing))).all()
    beyond = np.asarray(encode(np.array([np.nan, 140.0, np.nan], np.float32)))
    assert beyond[3 + 127] == beyond.sum() == 1.0


def test_pitch_moves_with_the_semitones_and_nothing_else_does():
    facts = jnp.asarray([1.0, 60.0, 0.5])
    np.testing.assert_array_equal(
        conditions.transpose(facts, -2.0, condition=ALL), [1.0, 58.0, 0.5]
    )
    label_only = Condition(label=True)
    np.testing.assert_array_equal(
        conditions.transpose(facts[:1], -2.0, condition=label_only), [1.0]
    )


def test_drop_forgets_all_or_each_as_often_as_asked():
    keys = jax.random.split(jax.random.key(0), 20_000)
    drop = partial(conditions.drop, facts=jnp.arange(3.0), probability=0.2)
    gone = np.isnan(np.asarray(jax.vmap(drop)(keys)))
    # 3 standard errors of a share of 20,000 are at most 0.011.
    assert gone.all(1).mean() == pytest.approx(0.2 + 0.8 * 0.2**3, abs=0.011)
    np.testing.assert_allclose(gone.mean(0), 0.2 + 0.8 * 0.2, atol=0.011)
    kept = conditions.drop(keys[0], jnp.arange(3.0), probability=0.0)
    np.testing.assert_array_equal(kept, [0.0, 1.0, 2.0])


def test_values_and_facts_are_each_others_inverse():
    values = {"label": "kick", "pitch": 36.5, "decay": 1.25}
    facts = conditions.facts_from(TOLD, values)
    assert conditions.values_of(TOLD, facts) == values
    some = conditions.facts_from(TOLD, {"pitch": 40, "label": None})
    assert conditions.values_of(TOLD, some) == {"pitch": 40.0}


def test_telling_what_the_model_does_not_know_names_what_it_does():
    with pytest.raises(ValueError, match="cannot be told attack; it was told label, pitch, decay"):
        conditions.facts_from(TOLD, {"attack": 1.0})
    with pytest.raises(ValueError, match="no label 'gong'; it knows: bass, bell, kick"):
        conditions.facts_from(TOLD, {"label": "gong"})
    with pytest.raises(ValueError, match=r"pitch=500 must be a MIDI number from 0 to 127"):
        conditions.facts_from(TOLD, {"pitch": 500})
    with pytest.raises(ValueError, match="it was told nothing"):
        conditions.facts_from(Vocabulary(), {"pitch": 60})


def test_chroma_is_the_pitch_without_its_octave_around_the_circle():
    condition = Condition(chroma=True, factors=("decay",))
    told = conditions.vocabulary(condition, ROWS)
    assert told.num_facts == 2
    assert told.condition_dim == 14
    for pitch, weights in ((57, {9: 1}), (69, {9: 1}), (71.25, {11: 0.75, 0: 0.25})):
        facts = conditions.facts_of(told, [{"label": "bass", "pitch": pitch}])[0]
        encoded = conditions.encode(jnp.asarray(facts), condition=condition, condition_dim=14)
        expected = np.zeros(14)
        for at, weight in weights.items():
            expected[at] = weight
        np.testing.assert_allclose(encoded, expected, atol=1e-6)
    facts = conditions.facts_from(told, {"chroma": 11})
    assert conditions.values_of(told, facts) == {"chroma": 11}
    moved = conditions.transpose(jnp.asarray(facts), 2, condition=condition)
    encoded = conditions.encode(moved, condition=condition, condition_dim=14)
    assert int(jnp.argmax(encoded)) == 1
    assert jnp.isnan(moved[1])
    with pytest.raises(ValueError, match="chroma=13 must be a pitch class"):
        conditions.facts_from(told, {"chroma": 13})
