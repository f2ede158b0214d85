"""Memory does not grow with the length of a file, and no one file can end a run."""

import time
import tracemalloc

import numpy as np
import pytest
import soundfile

from vaejax.data import conditioning, decoding
from vaejax.data.corpus import load_folder

RATE = 48_000
LIMIT_BYTES = 30 << 20


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    """Four minutes, 46 MB as floats: noise that begins after a second."""
    path = tmp_path_factory.mktemp("long") / "x.wav"
    minute = 0.1 * np.random.default_rng(0).uniform(-1, 1, 60 * RATE).astype(np.float32)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        file.write(np.zeros(RATE))
        for _ in range(4):
            file.write(minute)
    return path


@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_long_file_takes_no_more_memory_than_a_short_one(long_file, rate):
    tracemalloc.start()
    try:
        waveform = decoding.read(long_file, sample_rate=rate)
        clip = conditioning.condition(waveform, sample_rate=rate, trim_db=-60, num_samples=rate)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < LIMIT_BYTES
    assert abs(waveform.num_samples - clip.length - rate) < 5e-3 * rate
    assert waveform.num_samples == round(soundfile.info(long_file).frames * rate / RATE)


def test_a_long_file_gives_the_clip_that_it_would_give_in_memory(long_file, monkeypatch):
    def clip():
        waveform = decoding.read(long_file, sample_rate=RATE)
        return conditioning.condition(waveform, sample_rate=RATE, trim_db=-60, num_samples=RATE)

    by_pieces = clip()
    monkeypatch.setattr(decoding, "KEPT_SAMPLES", 1 << 26)
    whole = clip()
    np.testing.assert_array_equal(by_pieces.pcm, whole.pcm)
    assert by_pieces.length == whole.length


def test_hours_in_a_small_file_are_read_in_seconds_or_rejected(tmp_path):
    for name, value in (("silent.flac", 0.0), ("loud.flac", 0.3)):
        block = value * np.sin(0.01 * np.arange(1 << 18))
        with soundfile.SoundFile(tmp_path / name, "w", 1000, 1, "PCM_16") as file:
            for _ in range(20):  # an hour and a half
                file.write(block)
    begun = time.monotonic()
    tracemalloc.start()
    loaded = load_folder(
        tmp_path,
        sample_rate=44_100,
        pack_samples=44_100,
        trim_db=-60.0,
        cache_dir=tmp_path / "cache",
        progress=False,
    )
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2 * LIMIT_BYTES  # two at once
    assert time.monotonic() - begun < 60
    assert loaded.names == ["loud.flac"]
    assert loaded.rejected == [{"file": "silent.flac", "reason": "all silence"}]
