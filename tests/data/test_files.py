import contextlib
import errno
import os
import struct

import numpy as np
import pytest
import soundfile

from vaejax.data import files
from vaejax.data.files import UnusableSound, condition, decode, find_files, reason_not_sound

RATE = 44_100


def sine(*, num_samples=RATE // 10, rate=RATE, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(num_samples) / rate)).astype(np.float32)


def write(path, waveform=None, rate=RATE, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".aif", ".aifc"):
        kwargs["format"] = "AIFF"
    soundfile.write(os.fsencode(path), sine() if waveform is None else waveform, rate, **kwargs)
    return path


def relative(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


# Finding


def test_sounds_are_found_at_any_depth_in_any_case_and_sorted(tmp_path):
    for name in ("b.wav", "a/deep/er/x.FLAC", "a/z.Aif", "a b/ü.mp3", "a/line\nbreak.ogg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sounds, others = find_files(tmp_path)
    expected = ["a b/ü.mp3", "a/deep/er/x.FLAC", "a/line\nbreak.ogg", "a/z.Aif", "b.wav"]
    assert relative(sounds, tmp_path) == expected
    assert others == []


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    for name in ("x.wav", "._x.wav", ".DS_Store", ".trash/y.wav", "a/.hidden/z.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert relative(find_files(tmp_path)[0], tmp_path) == ["x.wav"]
    assert find_files(tmp_path)[1] == []


def test_links_are_followed_once_and_real_names_win(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    write(root / "real/x.wav")
    write(outside / "y.wav")
    (root / "a_link").symlink_to(root / "real")
    (root / "real/loop").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "elsewhere").symlink_to(outside)
    (root / "one.wav").symlink_to(outside / "y.wav")
    sounds, others = find_files(root)
    assert relative(sounds, root) == ["elsewhere/y.wav", "one.wav", "real/x.wav"]
    assert relative(others, root) == ["self"]


def test_everything_else_is_listed_with_its_reason(tmp_path):
    write(tmp_path / "folder.wav/x.wav")
    for name in ("notes.TXT", "README", "song.m4a"):
        (tmp_path / name).touch()
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    sounds, others = find_files(tmp_path)
    assert relative(sounds, tmp_path) == ["folder.wav/x.wav"]
    assert {path.name: reason_not_sound(path) for path in others} == {
        "README": "not an audio file (no extension)",
        "gone.wav": "a broken link",
        "notes.TXT": "not an audio file (.txt)",
        "pipe.wav": "not a regular file",
        "song.m4a": "a format that cannot be read here (.m4a); convert it to WAV or FLAC",
    }


def test_missing_folder_single_file_and_empty_folder_are_clear_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere \(looked in .*\); give one"):
        find_files(tmp_path / "nowhere")
    sound = write(tmp_path / "kicks/x.wav")
    with pytest.raises(ValueError, match=r"x\.wav is a file, not a folder .* try .*kicks$"):
        find_files(sound)
    (tmp_path / "empty/inner").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no files in .*empty; put sounds there: \.wav"):
        find_files(tmp_path / "empty")


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
    monkeypatch.setattr(files, "BLOCK_VALUES", 1000)
    np.testing.assert_array_equal(decode(path, sample_rate=RATE), whole)


@pytest.mark.parametrize("target", [8_000, 44_100, 192_000])
def test_a_single_sample_is_a_sound(tmp_path, target):
    path = write(tmp_path / "x.wav", np.array([0.5]), 192_000)
    decoded = decode(path, sample_rate=target)
    pcm, length = condition(decoded, sample_rate=target, trim_db=-60, num_samples=100)
    assert length == len(decoded) >= 1
    assert np.abs(pcm.astype(int)).max() == 32767


@pytest.mark.parametrize(
    "name",
    ["sp ace.wav", "new\nline.wav", "ünï🎹.wav", "n" * 200 + ".wav", os.fsdecode(b"\xff.wav")],
)
def test_any_file_name_is_decoded(tmp_path, name):
    try:
        path = write(tmp_path / name)
    except OSError:
        pytest.skip("this file system has no such name")
    assert find_files(tmp_path)[0] == [path]
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
    [("x.flac", "lost sync"), ("x.ogg", "damaged"), ("x.mp3", "truncated|damaged")],
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

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(files.UnreadableFile, match=r"^cannot be read \(Permission denied\)$"):
        decode(path, sample_rate=RATE)


# Conditioning


def conditioned(waveform, *, trim_db=-60.0, num_samples=2000):
    return condition(waveform, sample_rate=RATE, trim_db=trim_db, num_samples=num_samples)


def test_trimming_removes_the_silence_and_keeps_the_attack():
    attack = sine(num_samples=1000) * np.linspace(0, 1, 1000, dtype=np.float32)
    hiss = 1e-5 * np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    pcm, length = conditioned(np.concatenate([hiss, attack]))
    onset = 9000 + int(np.argmax(np.abs(attack) >= 1e-3 * np.abs(attack).max()))
    assert length == 10_000 - (onset - 44)  # one millisecond before the onset
    expected = np.concatenate([hiss, attack])[onset - 44 :]
    expected = expected / np.abs(expected).max() * 32767
    np.testing.assert_allclose(pcm[:length], expected, atol=0.51)
    assert not pcm[length:].any()


def test_a_click_after_silence_lands_one_millisecond_in():
    waveform = np.zeros(30_000, np.float32)
    waveform[20_000] = -0.01
    pcm, length = conditioned(waveform)
    assert length == 10_000 + 44
    assert np.flatnonzero(pcm).tolist() == [44]
    assert pcm[44] == -32767


def test_a_sound_that_starts_at_once_is_not_moved():
    pcm, length = conditioned(np.eye(1, 500, dtype=np.float32)[0])
    assert length == 500
    assert pcm[0] == 32767


def test_nothing_is_trimmed_at_minus_infinity():
    waveform = np.zeros(500, np.float32)
    waveform[400] = 1
    pcm, length = conditioned(waveform, trim_db=-np.inf)
    assert length == 500
    assert pcm[400] == 32767


def test_length_is_counted_before_cropping_and_the_kept_part_is_scaled():
    waveform = sine(num_samples=5000)
    waveform[3000:] *= 2  # the loudest part is cropped away
    pcm, length = conditioned(waveform, num_samples=2000)
    assert length == 5000
    assert pcm.shape == (2000,)
    assert np.abs(pcm.astype(int)).max() == 32767
    assert pcm[-1] != 0  # a hard cut, no fade


def test_the_onset_stays_inside_the_shortest_clip():
    waveform = np.zeros(500, np.float32)
    waveform[400] = 1
    assert conditioned(waveform, num_samples=1)[0].tolist() == [32767]
    assert conditioned(waveform, num_samples=10)[0].tolist() == [0] * 9 + [32767]


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e38])
def test_any_scale_comes_out_at_full_scale(scale):
    pcm, _ = conditioned(np.float32(scale) * sine(num_samples=1000) / np.float32(0.5))
    assert np.abs(pcm.astype(int)).max() == 32767


def test_condition_refuses_bad_settings_and_silence():
    with pytest.raises(ValueError, match=r"trim_db=60 .* must be <= 0; try -60"):
        conditioned(sine(), trim_db=60)
    with pytest.raises(ValueError, match="num_samples=0 must be at least 1"):
        conditioned(sine(), num_samples=0)
    with pytest.raises(UnusableSound, match=r"^all silence$"):
        conditioned(np.zeros(100, np.float32))
