"""Where the pitches of a set come from."""

import numpy as np
import pytest

from vaejax.data import pitches
from vaejax.data.pack import Corpus


def test_pattern_reads_paths_and_leaves_the_rest_unknown():
    names = ["piano/016_060_100.flac", "piano/016_C#2_100.flac", "kick/1.wav"]
    found = pitches.from_names(names, r"\d+_(?P<pitch>[^_]+)_")
    np.testing.assert_array_equal(found, np.float32([60, 37, np.nan]))


def test_pattern_that_cannot_work_says_why():
    with pytest.raises(ValueError, match=r"finds nothing in any of 1 paths"):
        pitches.from_names(["X.wav"], r"_(?P<pitch>\d+)|X")
    with pytest.raises(ValueError, match=r"finds nothing in any of 1 paths, such as 'a.wav'"):
        pitches.from_names(["a.wav"], r"(?P<pitch>\d+)")
    with pytest.raises(ValueError, match=r"in x_999_: '999' lies outside"):
        pitches.from_names(["x_999_"], r"_(?P<pitch>\d+)_")


def corpus_of(tones, rate=16_000):
    clips = np.stack([np.round(30_000 * t).astype(np.int16) for t in tones])
    num = len(clips)
    return Corpus(
        clips=clips,
        lengths=np.full(num, clips.shape[1], np.int32),
        names=[f"{i}.wav" for i in range(num)],
        labels=["x"] * num,
        hashes=[f"{i:032x}" for i in range(num)],
        factors={},
        rejected=[],
        sample_rate=rate,
        source="memory",
        fingerprint="memory",
    )


def test_pitches_are_measured_where_they_are_not_known():
    t = np.arange(6_000) / 16_000
    hz = 440.0 * 2 ** ((52 - 69) / 12)
    saw = 0.8 * (2 * ((hz * t) % 1) - 1)
    noise = np.random.default_rng(0).uniform(-0.8, 0.8, len(t))
    loaded = corpus_of([saw, noise])
    unknown = pitches.known(loaded, pattern=None, estimate=False)
    assert np.isnan(unknown).all()
    found = pitches.known(loaded, pattern=None, estimate=True)
    assert found[0] == pytest.approx(52, abs=0.1)
    assert np.isnan(found[1])
    given = pitches.known(loaded, pattern=r"(?P<pitch>1)\.wav", estimate=True)
    assert given[0] == pytest.approx(52, abs=0.1)
    assert given[1] == 1.0
