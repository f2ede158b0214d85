"""Which sounds are held out: stable, about as many as asked for, whole groups, clear errors."""

import hashlib

import numpy as np
import pytest

from vaejax.data import splits
from vaejax.data.splits import by_group, by_hash, choose


def hashes_of(count, salt=0):
    return [hashlib.blake2b(bytes([salt, i % 256, i // 256])).hexdigest() for i in range(count)]


def test_split_holds_out_about_the_fraction():
    held = by_hash(hashes_of(5000), holdout_fraction=0.1)
    assert held.dtype == bool
    assert abs(held.mean() - 0.1) < 0.015


def test_split_is_stable_when_files_are_added():
    few, many = hashes_of(300), hashes_of(300)[::-1] + hashes_of(700, salt=1)
    before = dict(zip(few, by_hash(few, holdout_fraction=0.1), strict=True))
    after = dict(zip(many, by_hash(many, holdout_fraction=0.1), strict=True))
    assert all(after[digest] == side for digest, side in before.items())


def test_split_keeps_copies_together():
    hashes = hashes_of(50) * 2
    held = by_hash(hashes, holdout_fraction=0.3)
    np.testing.assert_array_equal(held[:50], held[50:])


@pytest.mark.parametrize("fraction", [1e-9, 0.1, 0.5])
@pytest.mark.parametrize("copies", [1, 2])
def test_split_of_a_small_set_leaves_neither_side_empty(fraction, copies):
    for salt in range(100):
        hashes = hashes_of(4 // copies, salt=salt) * copies
        held = by_hash(hashes, holdout_fraction=fraction)
        assert held.sum() >= 1
        assert (~held).sum() >= splits.MIN_TRAIN


def test_split_names_what_is_missing():
    rejected = [{"file": f"{i}.wav", "reason": "all silence"} for i in range(5)]
    expected = (
        r"^found 3 usable sounds in /music, need at least 4; 5 files were rejected "
        r"\(0\.wav: all silence; 1\.wav: all silence; 2\.wav: all silence; \.\.\.\)$"
    )
    with pytest.raises(ValueError, match=expected):
        by_hash(hashes_of(3), holdout_fraction=0.1, source="/music", rejected=rejected)
    with pytest.raises(ValueError, match=r"^found 0 usable sounds in the source, need at least 4$"):
        by_hash([], holdout_fraction=0.1)
    with pytest.raises(ValueError, match="the 6 usable sounds in /music are copies of 1; need"):
        by_hash(hashes_of(1) * 6, holdout_fraction=0.1, source="/music")


@pytest.mark.parametrize("fraction", [0, -0.1, 0.51, float("nan")])
def test_split_refuses_a_fraction_out_of_range(fraction):
    with pytest.raises(ValueError, match=r"holdout_fraction=.* must be above 0 and at most 0\.5"):
        by_hash(hashes_of(10), holdout_fraction=fraction)


# Whole groups


def groups_of(counts, salt=0):
    """Names and hashes of sounds in groups "0", "1", ... of these sizes."""
    names = [str(i) for i, count in enumerate(counts) for _ in range(count)]
    return names, hashes_of(len(names), salt)


@pytest.mark.parametrize("seed", range(5))
def test_whole_groups_are_held_out_and_about_the_fraction_of_the_sounds(seed):
    counts = np.random.default_rng(seed).integers(3, 30, 40)
    names, hashes = groups_of(counts)
    held, groups = by_group(names, hashes, holdout_fraction=0.2, what="label")
    assert {name for name, side in zip(names, held, strict=True) if side} == set(groups)
    assert not {name for name, side in zip(names, held, strict=True) if not side} & set(groups)
    assert abs(held.mean() - 0.2) < 0.03


def test_groups_do_not_depend_on_the_order_of_the_sounds():
    names, hashes = groups_of(range(5, 25))
    order = np.random.default_rng(0).permutation(len(names))
    held, groups = by_group(names, hashes, holdout_fraction=0.1, what="label")
    again, same = by_group(
        [names[i] for i in order], [hashes[i] for i in order], holdout_fraction=0.1, what="label"
    )
    assert groups == same
    np.testing.assert_array_equal(held[order], again)


def test_a_new_sound_goes_where_its_group_is():
    names, hashes = groups_of([20] * 30)
    _, before = by_group(names, hashes, holdout_fraction=0.1, what="label")
    for group in (before[0], next(n for n in names if n not in before)):
        held, after = by_group(
            [*names, group], [*hashes, "ab" * 16], holdout_fraction=0.1, what="label"
        )
        assert after == before
        assert held[-1] == (group in before)


def test_a_copy_of_a_held_out_sound_in_another_group_is_held_out():
    names, hashes = groups_of([10] * 10)
    _, groups = by_group(names, hashes, holdout_fraction=0.1, what="label")
    other = next(name for name in names if name not in groups)
    held, _ = by_group(
        [*names, other], [*hashes, hashes[names.index(groups[0])]], holdout_fraction=0.1, what="x"
    )
    assert held[-1]


def test_large_groups_are_held_out_one_at_least_and_never_all():
    names, hashes = groups_of([30, 20])
    held, groups = by_group(names, hashes, holdout_fraction=0.1, what="label")
    assert groups == ["1"]
    assert held.sum() == 20
    held, groups = by_group(*groups_of([3, 3]), holdout_fraction=0.5, what="label")
    assert len(groups) == 1
    assert held.sum() == 3
    # Copies of one sound in two groups cannot be parted.
    with pytest.raises(ValueError, match="would leave 0 sounds of the source to train on"):
        by_group(["a", "a", "b", "b"], ["0"] * 4, holdout_fraction=0.5, what="label")


def chosen(by, **changes):
    values = {
        "hashes": hashes_of(60),
        "labels": [f"l{i % 6}" for i in range(60)],
        "pitches": 48.0 + np.arange(60) % 12,
        "holdout_fraction": 0.2,
    }
    return choose(by, **{**values, **changes})


def test_each_way_to_hold_out_says_what_it_held_out():
    assert chosen("hash").groups == []
    np.testing.assert_array_equal(
        chosen("hash").held_out, by_hash(hashes_of(60), holdout_fraction=0.2)
    )
    by_label = chosen("label")
    assert by_label.summary() == {"by": "label", "groups": by_label.groups}
    assert set(by_label.groups) < {f"l{i}" for i in range(6)}
    by_pitch = chosen("pitch", pitches=48.2 + np.arange(60) % 12)
    assert set(by_pitch.groups) < {f"{n:03d}" for n in range(48, 60)}
    assert by_pitch.held_out.sum() == 5 * len(by_pitch.groups) == 10


def test_sounds_without_a_pitch_are_trained_on():
    pitches = np.where(np.arange(60) % 2, np.nan, 48.0 + np.arange(60) % 12)
    held = chosen("pitch", pitches=pitches).held_out
    assert held.any()
    assert not held[np.isnan(pitches)].any()


@pytest.mark.parametrize(
    ("by", "changes", "text"),
    [
        ("pitch", {"pitches": np.full(60, np.nan)}, "needs to know pitches, and none is known"),
        ("pitch", {"pitches": np.full(60, 60.0)}, "needs sounds of two pitches at least"),
        (
            "label",
            {"labels": ["a"] * 60, "source": "/music"},
            "two labels .*, and /music has 1",
        ),
    ],
)
def test_groups_that_cannot_be_held_out_are_refused(by, changes, text):
    with pytest.raises(ValueError, match=text):
        chosen(by, **changes)
