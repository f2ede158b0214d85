import contextlib
import errno
import os
import struct

import numpy as np
import pytest
import soundfile

from vaejax.data import conditioning, containers, decoding, files
from vaejax.data.files import UnusableSound, find_files

RATE = 44_100


def sine(*, num_samples=RATE // 10, rate=RATE, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(num_samples) / rate)).astype(np.float32)


def write(path, waveform=None, rate=RATE, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".aif", ".aifc"):
        kwargs["format"] = "AIFF"
    soundfile.write(os.fsencode(path), sine() if waveform is None else waveform, rate, **kwargs)
    return path


def decode(path, *, sample_rate):
    waveform = decoding.read(path, sample_rate=sample_rate)
    samples = np.concatenate(list(waveform.pieces()))
    assert len(samples) == waveform.num_samples
    assert waveform.low <= samples.min() <= samples.max() <= waveform.high
    return samples


# Decoding


@pytest.mark.parametrize(
    ("name", "kwargs", "tolerance"),
    [
        ("x.wav", {"subtype": "PCM_U8"}, 1 / 128),
        ("x.wav", {"subtype": "PCM_16"}, 1e-4),
        ("x.wav", {"subtype": "PCM_24"}, 1e-6),
        ("x.wav", {"subtype": "PCM_32"}, 1e-6),
        ("x.wav", {"subtype": "FLOAT"}, 1e-7),
        ("x.wav", {"subtype": "DOUBLE"}, 1e-7),
        ("x.wav", {"subtype": "ULAW"}, 0.02),
        ("x.wav", {"subtype": "PCM_16", "endian": "BIG"}, 1e-4),
        ("x.flac", {"subtype": "PCM_24"}, 1e-6),
        ("x.aif", {"subtype": "PCM_16"}, 1e-4),
        ("x.aifc", {"subtype": "FLOAT"}, 1e-7),
        ("x.caf", {"subtype": "PCM_16"}, 1e-4),
        ("x.au", {"subtype": "PCM_16"}, 1e-4),
        ("x.w64", {"subtype": "PCM_16"}, 1e-4),
        ("x.rf64", {"subtype": "PCM_16"}, 1e-4),
        ("x.ogg", {"subtype": "VORBIS"}, 0.1),
        ("x.mp3", {}, 0.1),
        # The extension only decides whether a file is tried: its content decides how.
        ("aiff_inside.wav", {"format": "AIFF", "subtype": "PCM_16"}, 1e-4),
    ],
)
def test_every_format_and_depth_decodes_to_the_waveform_written(tmp_path, name, kwargs, tolerance):
    if name == "x.mp3" and "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    decoded = decode(write(tmp_path / name, **kwargs), sample_rate=RATE)
    assert decoded.dtype == np.float32
    assert decoded.shape == sine().shape
    np.testing.assert_allclose(decoded, sine(), atol=tolerance)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000, 192_000])
@pytest.mark.parametrize("target", [16_000, 44_100])
def test_resampling_matches_a_sine_of_the_same_frequency(tmp_path, rate, target):
    path = write(tmp_path / "x.wav", sine(num_samples=rate, rate=rate), rate, subtype="FLOAT")
    decoded = decode(path, sample_rate=target)
    assert abs(len(decoded) - target) <= 1
    expected = sine(num_samples=len(decoded), rate=target)
    inner = slice(target // 20, -target // 20)  # the filter rings where the sine starts and ends
    np.testing.assert_allclose(decoded[inner], expected[inner], atol=1e-5)


@pytest.mark.parametrize("rate", [22_050, 88_200, 48_000])
def test_resampling_keeps_the_position_of_a_peak(tmp_path, rate):
    waveform = np.zeros(rate, np.float32)
    waveform[rate // 3] = 1
    decoded = decode(write(tmp_path / "x.wav", waveform, rate), sample_rate=RATE)
    assert abs(np.abs(decoded).argmax() - RATE / 3) <= 1


def test_channels_are_averaged(tmp_path):
    stereo = np.stack([sine(hz=440), sine(hz=1000)], axis=1)
    decoded = decode(write(tmp_path / "x.wav", stereo, subtype="FLOAT"), sample_rate=RATE)
    np.testing.assert_allclose(decoded, stereo.mean(axis=1), atol=1e-6)


def test_the_loudest_channel_is_taken_where_channels_cancel(tmp_path):
    stereo = np.stack([-sine(), 1.01 * sine()], axis=1)
    decoded = decode(write(tmp_path / "x.wav", stereo, subtype="FLOAT"), sample_rate=RATE)
    np.testing.assert_allclose(decoded, 1.01 * sine(), atol=1e-6)


def test_one_sounding_channel_of_a_hundred_is_heard(tmp_path):
    many = np.zeros((RATE // 10, 100), np.float32)
    many[:, 70] = sine()
    decoded = decode(write(tmp_path / "x.wav", many, subtype="FLOAT"), sample_rate=RATE)
    np.testing.assert_allclose(decoded, sine(), atol=1e-6)


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.ogg"])
def test_decoding_in_blocks_equals_decoding_at_once(tmp_path, monkeypatch, name):
    path = write(tmp_path / name, np.stack([sine(), sine(hz=1000)], axis=1))
    whole = decode(path, sample_rate=RATE)
    monkeypatch.setattr(decoding, "BLOCK_VALUES", 1000)
    np.testing.assert_array_equal(decode(path, sample_rate=RATE), whole)


@pytest.mark.parametrize("target", [8_000, 44_100, 192_000])
def test_a_single_sample_is_a_sound(tmp_path, target):
    path = write(tmp_path / "x.wav", np.array([0.5]), 192_000)
    waveform = decoding.read(path, sample_rate=target)
    clip = conditioning.condition(waveform, sample_rate=target, trim_db=-60, num_samples=100)
    assert clip.length == waveform.num_samples >= 1
    assert np.abs(clip.pcm.astype(int)).max() == 32767


@pytest.mark.parametrize(
    "name",
    ["sp ace.wav", "new\nline.wav", "ünï🎹.wav", "n" * 200 + ".wav", os.fsdecode(b"\xff.wav")],
)
def test_any_file_name_is_decoded(tmp_path, name):
    try:
        path = write(tmp_path / name)
    except OSError:
        pytest.skip("this file system has no such name")
    assert find_files(tmp_path).sounds == [path]
    assert len(decode(path, sample_rate=RATE)) == len(sine())


# Rejecting


@pytest.mark.parametrize("name", ["x.wav", "x.aif", "x.au", "x.w64", "x.rf64"])
def test_a_file_whose_stated_length_runs_past_its_end_is_truncated(tmp_path, name):
    path = write(tmp_path / name)
    content = path.read_bytes()
    for kept in (len(content) // 2, len(content) - 100):
        path.write_bytes(content[:kept])
        with pytest.raises(UnusableSound, match=r"^truncated$"):
            decode(path, sample_rate=RATE)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("x.flac", "lost sync"), ("x.ogg", "^truncated$"), ("x.mp3", "truncated|damaged")],
)
def test_a_compressed_file_cut_in_half_is_rejected(tmp_path, name, reason):
    if name == "x.mp3" and "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")
    path = write(tmp_path / name, sine(num_samples=RATE))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnusableSound, match=reason):
        decode(path, sample_rate=RATE)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_written_to_a_pipe_is_decoded_whole(tmp_path, size):
    path = write(tmp_path / "x.wav", subtype="PCM_16")
    content = bytearray(path.read_bytes())
    assert content[36:40] == b"data"
    content[4:8] = content[40:44] = struct.pack("<I", size)
    path.write_bytes(content)
    np.testing.assert_allclose(decode(path, sample_rate=RATE), sine(), atol=1e-4)


def test_a_wav_without_samples_but_with_a_chunk_after_them_is_empty(tmp_path):
    path = write(tmp_path / "x.wav", np.zeros(0))
    path.write_bytes(path.read_bytes()[:44] + struct.pack("<4sI", b"LIST", 200) + bytes(200))
    with pytest.raises(UnusableSound, match=r"^zero length$"):
        decode(path, sample_rate=RATE)


def test_a_few_missing_bytes_are_no_truncation(tmp_path):
    path = write(tmp_path / "x.wav", subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-44])
    assert len(decode(path, sample_rate=RATE)) == len(sine()) - 22


def broken(value):
    return np.where(np.arange(RATE) == RATE // 2, np.float32(value), sine(num_samples=RATE))


@pytest.mark.parametrize(
    ("waveform", "reason"),
    [
        (np.zeros(0), "^zero length$"),
        (np.zeros(RATE), "^all silence$"),
        (np.full(RATE, 1 / 128), "^all silence$"),  # an 8-bit zero that is off by one
        (np.random.default_rng(0).integers(-1, 2, RATE) / 2**16, "^all silence$"),  # dither
        (broken(np.nan), "^NaN or Inf samples$"),
        (broken(np.inf), "^NaN or Inf samples$"),
        (np.stack([broken(np.inf), broken(-np.inf)], axis=1), "^NaN or Inf samples$"),
        (np.full(RATE, np.inf), "^NaN or Inf samples$"),
        (np.full(RATE, np.nan), "^NaN or Inf samples$"),
    ],
)
@pytest.mark.parametrize("target", [22_050, RATE])
def test_unusable_samples_are_named(tmp_path, waveform, reason, target):
    path = write(tmp_path / "x.wav", waveform, subtype="FLOAT")
    with pytest.raises(UnusableSound, match=reason):
        decode(path, sample_rate=target)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"^zero length \(0 bytes\)$"),
        (b"not audio", r"^not audio \(no known format inside\)$"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", "^not audio, or damaged"),
        (b"RIFF", "^not audio"),
        (b"riff" + bytes(60), "^not audio"),
        (b"FORM\x00\x00\x00\x00AIFF", "^not audio"),
        (b".snd", "^not audio"),
        (b"fLaC" + bytes(100), "^not audio"),
        (b"OggS" + bytes(300), "^not audio"),
    ],
)
def test_content_that_is_not_audio_is_named(tmp_path, content, reason):
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    with pytest.raises(UnusableSound, match=reason):
        decode(path, sample_rate=RATE)


def test_random_damage_to_a_header_never_crashes(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("x.wav", "x.aif", "x.w64", "x.flac"):
        path = write(tmp_path / name, sine(num_samples=500))
        content = path.read_bytes()
        for _ in range(60):
            damaged = np.frombuffer(content, np.uint8).copy()
            damaged[rng.integers(4, 60, 3)] = rng.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            with contextlib.suppress(UnusableSound):
                assert np.isfinite(decode(path, sample_rate=RATE)).all()


def test_a_sample_rate_that_cannot_be_meant_is_named(tmp_path):
    with pytest.raises(UnusableSound, match=r"^sample rate of 7 Hz$"):
        decode(write(tmp_path / "x.wav", rate=7), sample_rate=RATE)


def test_a_file_that_is_gone_or_withheld_is_named_and_worth_another_try(tmp_path, monkeypatch):
    with pytest.raises(files.UnreadableFile, match=r"^cannot be read \(No such file"):
        decode(tmp_path / "gone.wav", sample_rate=RATE)
    path = write(tmp_path / "x.wav")

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(containers, "open", refuse, raising=False)
    with pytest.raises(files.UnreadableFile, match=r"^cannot be read \(Permission denied\)$"):
        decode(path, sample_rate=RATE)
