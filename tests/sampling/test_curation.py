"""Which draws are kept: against a plain loop, and whatever is asked for and however batched."""

import numpy as np
import pytest

from vaejax.sampling.curation import Curation, Rules

NUM_DRAWS, DIM = 400, 5
RNG = np.random.default_rng(0)
DRAWS = {
    "point": RNG.normal(size=(NUM_DRAWS, DIM)).astype(np.float32),
    "novelty": RNG.uniform(0, 3, NUM_DRAWS).astype(np.float32),
    "rms_db": RNG.uniform(-40, -5, NUM_DRAWS).astype(np.float32),
    "spectral_convergence_db": RNG.uniform(-30, -5, NUM_DRAWS).astype(np.float32),
    "z": RNG.normal(size=(NUM_DRAWS, 2)).astype(np.float32),
}
UNIT = 2.0


def log_density(z):
    return -(z**2).sum(1)


def curate(rules, num, batch=16, draws=DRAWS):
    """Indices of what is kept, their outputs, and the curation."""
    size = len(draws["z"])
    batches = (
        (at, {k: v[at : at + batch] for k, v in draws.items()}) for at in range(0, size, batch)
    )
    curation = Curation(rules, num, unit=UNIT, log_density=log_density)
    parts = list(curation.accepted(batches))
    kept = np.concatenate([p for p, _ in parts]) if parts else np.zeros(0, int)
    outputs = {k: np.concatenate([b[k] for _, b in parts]) for k in draws} if parts else {}
    return kept, outputs, curation


def by_hand(rules, num):
    """The same as a plain loop over the definition."""
    score = {
        "typicality": log_density(DRAWS["z"]),
        "novelty": DRAWS["novelty"],
        "convergence": -DRAWS["spectral_convergence_db"],
        "level": DRAWS["rms_db"],
    }[rules.score]
    kept = []
    for start in range(0, NUM_DRAWS - rules.best_of + 1, rules.best_of):
        good = []
        for i in range(start, start + rules.best_of):
            distances = [np.linalg.norm(DRAWS["point"][i] - DRAWS["point"][k]) for k in kept]
            ok = [
                rules.min_level is None or DRAWS["rms_db"][i] >= rules.min_level,
                rules.min_novelty is None or DRAWS["novelty"][i] >= rules.min_novelty,
                rules.max_novelty is None or DRAWS["novelty"][i] <= rules.max_novelty,
                rules.unique is None or min(distances, default=9e9) >= rules.unique * UNIT,
            ]
            good += [i] if all(ok) else []
        if good and len(kept) < num:
            kept.append(max(good, key=lambda i: score[i]))
    return kept


RULES = [
    Rules(),
    Rules(unique=1.0),
    Rules(min_level=-20),
    Rules(min_novelty=1.0, max_novelty=2.0),
    Rules(best_of=4),
    Rules(best_of=3, score="novelty", unique=0.8),
    Rules(best_of=2, score="convergence"),
    Rules(best_of=5, score="level", max_novelty=2.5, unique=0.5),
]


@pytest.mark.parametrize("rules", RULES)
def test_kept_draws_are_those_of_the_definition_whatever_the_batch(rules):
    expected = by_hand(rules, 12)
    assert len(expected) == 12
    for batch in (1, 7, 64):
        kept, outputs, curation = curate(rules, 12, batch)
        assert kept.tolist() == expected
        for name, values in DRAWS.items():
            np.testing.assert_array_equal(outputs[name], values[expected])
        # Every draw is either kept or counted.
        assert curation.drawn == curation.kept + sum(curation.rejected.values())
        assert curation.drawn <= expected[-1] + rules.best_of


@pytest.mark.parametrize("rules", RULES)
def test_asking_for_fewer_keeps_the_first(rules):
    assert curate(rules, 4)[0].tolist() == curate(rules, 12)[0].tolist()[:4]


def test_no_two_kept_sounds_are_nearer_than_asked_for():
    kept, outputs, _ = curate(Rules(unique=1.1), 25)
    points = outputs["point"].astype(np.float64)
    distances = np.linalg.norm(points[:, None] - points, axis=2)[~np.eye(len(kept), dtype=bool)]
    assert distances.min() >= 1.1 * UNIT * (1 - 1e-6)


def test_it_is_given_up_after_so_many_tries_in_a_row():
    kept, _, curation = curate(Rules(unique=1e6, tries=50), 3)
    assert kept.tolist() == [0]
    assert (curation.drawn, curation.since_kept) == (51, 50)
    assert curation.explain() == (
        "51 drawn to keep 1; rejected 50 nearer than 1e+06 to a sound that was kept (--unique)"
    )
    kept, outputs, curation = curate(Rules(min_level=0, tries=50), 3)
    assert (len(kept), outputs, curation.drawn) == (0, {}, 50)


def test_rejections_are_counted_under_the_first_rule_that_was_broken():
    _, _, curation = curate(Rules(min_level=-20, max_novelty=1.5, best_of=2), NUM_DRAWS)
    quiet = DRAWS["rms_db"] < -20
    strange = ~quiet & (DRAWS["novelty"] > 1.5)
    both = (~quiet & ~strange).reshape(-1, 2).all(1).sum()
    assert curation.rejected == {
        "min_level": quiet.sum(),
        "max_novelty": strange.sum(),
        "best_of": both,
    }
    text = curation.explain()
    assert f"{quiet.sum()} quieter than -20 dB (--min_level)" in text
    assert f"{strange.sum()} farther than 1.5 from every training sound (--max_novelty)" in text
    assert f"{both} not the best of their 2 (--best_of)" in text


def test_thousands_of_kept_sounds_are_compared_as_few_are():
    # Near to the threshold, far from the origin: where a product's rounding would decide.
    rng = np.random.default_rng(1)
    points = (500 + rng.normal(size=(1000, 64))).astype(np.float32)
    points[500:] = points[:500] + (rng.choice([0.999, 1.001], 500) / 8)[:, None].astype("f4")
    draws = {k: np.resize(v, (1000, *v.shape[1:])) for k, v in DRAWS.items()} | {"point": points}
    kept, _, _ = curate(Rules(unique=0.5), 1000, 32, draws)
    distances = np.linalg.norm(points[500:].astype(np.float64) - points[:500], axis=1)
    expected = [*range(500), *(500 + np.flatnonzero(distances >= 1.0))]
    assert kept.tolist() == expected


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (Rules(unique=-1), "--unique -1 must be a distance of 0 or more"),
        (Rules(max_novelty=float("nan")), "--max_novelty nan"),
        (Rules(min_level=3), "--min_level 3 must be in dB"),
        (Rules(min_novelty=2, max_novelty=1), "--min_novelty 2 is above --max_novelty 1"),
        (Rules(best_of=0), "--best_of and --tries must be at least 1"),
        (Rules(score="level"), "--score chooses among several draws"),
    ],
)
def test_rules_that_make_no_sense_are_named(rules, words):
    assert words in rules.problem()
    assert Rules().problem() is None
