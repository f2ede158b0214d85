"""Every file is decoded to its true length, or refused with the true reason."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile

from vaejax.data import decoding, mpeg, quiet
from vaejax.data.files import UnusableSound

RATE = 44_100
TIMES = np.arange(RATE) / RATE
# Rising noise over a tone: a variable bit rate that begins far from its mean.
SOUND = TIMES * 0.1 * np.random.default_rng(0).standard_normal(RATE) + 0.3 * np.sin(
    2 * np.pi * 220 * TIMES
)
PCM = np.round(SOUND * 32767).astype("<i2").tobytes()


def decode(path):
    waveform = decoding.read(path, sample_rate=RATE)
    return np.concatenate(list(waveform.pieces()))


def assert_is_sound(samples, *, extra=0, atol=1e-4):
    assert len(SOUND) <= len(samples) <= len(SOUND) + extra
    if not extra:
        np.testing.assert_allclose(samples, SOUND, atol=atol)
        return
    # A codec puts some samples before it.
    size = 1 << 17
    spectra = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(SOUND, size))
    best = np.fft.irfft(spectra).max() / np.linalg.norm(samples) / np.linalg.norm(SOUND)
    assert best > 0.95


def encoded(form, **options):
    content = io.BytesIO()
    soundfile.write(content, SOUND, RATE, format=form, **options)
    return content.getvalue()


def with_mp3():
    if "MP3" not in soundfile.available_formats():
        pytest.skip("this libsndfile has no MP3")


@pytest.fixture(scope="module")
def mp3():
    """A variable bit rate, with the frame that states the length and without it."""
    with_mp3()
    whole = encoded("MP3", bitrate_mode="VARIABLE", compression_level=0.2)
    found = mpeg.frames(io.BytesIO(whole), 0, len(whole))
    assert found.stated is not None
    return whole, whole[found.audio_start :]


def wav(*, tag=1, channels=1, rate=RATE, byte_rate=None, align=2, bits=16, size=None, data=PCM):
    byte_rate = rate * align if byte_rate is None else byte_rate
    fmt = struct.pack("<HHIIHH", tag, channels, rate, byte_rate, align, bits)
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def rf64(magic, *, stated, size=0xFFFFFFFF):
    ds64 = struct.pack("<QQQI", stated + 72, stated, stated // 2, 0)
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    body = b"WAVEds64" + struct.pack("<I", len(ds64)) + ds64 + b"fmt " + struct.pack("<I", 16) + fmt
    return magic + b"\xff" * 4 + body + b"data" + struct.pack("<I", size) + PCM


def w64(stated):
    guid = bytes.fromhex("f3acd3118cd100c04f8edb8a")
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    head = b"riff" + bytes.fromhex("2e91cf11a5d628db04c10000") + struct.pack("<Q", stated)
    head += b"wave" + guid + b"fmt " + guid + struct.pack("<Q", 40) + fmt
    return head + b"data" + guid + struct.pack("<Q", stated) + PCM


def ogg_flac():
    """A FLAC in pages: its header, then everything else."""
    flac = bytearray(encoded("FLAC"))
    packets = [b"\x7fFLAC\x01\x00\x00\x01" + flac[:42], flac[42:]]
    pages, number = [], 0
    for packet in packets:
        for first in range(0, len(packet), 255 * 254):
            part = packet[first : first + 255 * 254]
            lacing = bytes([255] * (len(part) // 255) + [len(part) % 255])
            is_last = packet is packets[-1] and first + len(part) == len(packet)
            flags = 2 * (number == 0) | 4 * is_last
            head = struct.pack("<4sBBqIII", b"OggS", 0, flags, 0, 7, number, 0)
            pages.append(head + bytes([len(lacing)]) + lacing + part)
            number += 1
    return b"".join(pages)


WHOLE = {
    "bw64.wav": rf64(b"BW64", stated=len(PCM)),
    "rf64_of_a_pipe.wav": rf64(b"RF64", stated=0),
    "rf64_of_a_pipe_too.wav": rf64(b"RF64", stated=2**64 - 100),
    "bw64_of_a_pipe.wav": rf64(b"BW64", stated=0, size=0),
    "w64_of_a_pipe.w64": w64(2**63 - 1),
    "w64_of_a_pipe_too.w64": w64(0),
    "aiff_of_a_pipe.aif": encoded("AIFF", subtype="PCM_16").replace(
        b"SSND" + struct.pack(">I", len(PCM) + 8), b"SSND\x7f\x00\x00\x08"
    ),
    "ogg_flac.ogg": ogg_flac(),
    "flac_of_a_pipe.flac": (lambda c: c[:21] + bytes([c[21] & 0xF0, 0, 0, 0, 0]) + c[26:])(
        encoded("FLAC")
    ),
    "a_slip_in_one_field.wav": wav(align=4, byte_rate=2 * RATE),
    "a_tag_at_the_end.wav": wav() + b"TAG" + bytes(125),
    "a_chunk_that_is_cut_off.wav": wav() + b"LIST" + struct.pack("<I", 5000) + b"INFO" * 40,
}
REFUSED = {
    "aac.wav": (b"\xff\xf1\x50\x80\x2e\x7f\xfc" + bytes(500), "AAC (ADTS)"),
    "aac.mp3": (b"\xff\xf9\x50\x80\x2e\x7f\xfc" + bytes(500), "AAC (ADTS)"),
    "mp4.wav": (b"\0\0\0\x20ftypM4A " + bytes(500), "MPEG-4"),
    "transport.mp3": ((b"G" + bytes(187)) * 20, "MPEG transport stream"),
    "wavpack.wav": (b"wvpk" + bytes(500), "WavPack"),
    "noise.mp3": (np.random.default_rng(1).bytes(30_000), "not audio"),
    "aac_in.wav": (wav(tag=0xFF), "codec 0x00ff in a WAV"),
    "states_half.wav": (wav(size=len(PCM) // 2), "states 44,100 bytes of samples, and 44,100 more"),
    "states_little.wav": (wav(size=100), "states 100 bytes of samples"),
    "states_too_much.wav": (wav(size=2 * len(PCM)), "^truncated$"),
    "states_half_rf64.wav": (rf64(b"RF64", stated=len(PCM) // 2), "states 44,100 bytes"),
    "two_channels.wav": (wav(channels=2), "2 x 16 bits in frames of 2 bytes"),
    "bits.wav": (wav(bits=24), "1 x 24 bits in frames of 2 bytes"),
    "few_bits.wav": (wav(bits=8), "1 x 8 bits in frames of 2 bytes"),
    "a_law.wav": (wav(tag=6), "contradicts itself"),
    "aiff_frames.aif": (
        encoded("AIFF", subtype="PCM_16").replace(struct.pack(">I", RATE), b"\0\0\x10\0", 1),
        "contradicts itself .*4096 samples in one place, 44100 in another",
    ),
    "chained.ogg": (encoded("OGG") * 2, "several recordings one after the other"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_is_decoded_to_its_true_length(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(WHOLE[name])
    assert_is_sound(decode(path))


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_the_true_reason(tmp_path, name):
    content, reason = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UnusableSound, match=reason.replace("(", r"\(").replace(")", r"\)")):
        decode(path)


@pytest.mark.parametrize("before", [b"", bytes(700), b"ID3\x04\0\0\0\0\1\0" + bytes(128)])
def test_an_mp3_that_does_not_state_its_length_is_decoded_whole(tmp_path, mp3, before):
    path = tmp_path / "x.mp3"
    path.write_bytes(before + mp3[1])
    assert_is_sound(decode(path), extra=4000)


def test_an_mp3_that_states_its_length_is_that_long(tmp_path, mp3):
    path = tmp_path / "x.mp3"
    path.write_bytes(mp3[0])
    assert len(decode(path)) == RATE


def test_two_mp3_in_one_file_are_both_decoded(tmp_path, mp3):
    path = tmp_path / "x.mp3"
    path.write_bytes(mp3[0] * 2)
    assert 2 * RATE <= len(decode(path)) < 2 * RATE + 8000


def test_an_mp3_that_is_cut_off_is_truncated(tmp_path, mp3):
    path = tmp_path / "x.mp3"
    for content in mp3:
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(UnusableSound, match=r"^truncated$"):
            decode(path)


@pytest.mark.parametrize("size", [None, 0xFFFFFFFF])
def test_mp3_in_a_wav_is_decoded(tmp_path, mp3, size):
    path = tmp_path / "x.wav"
    path.write_bytes(wav(tag=0x55, bits=0, align=1, data=mp3[1], size=size))
    assert_is_sound(decode(path), extra=4000)


def test_what_macos_leaves_beside_an_mp3_is_not_read_in_its_place(tmp_path, mp3):
    (tmp_path / "x.mp3").write_bytes(mp3[0])
    (tmp_path / "._x.mp3").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4000))
    assert len(decode(tmp_path / "x.mp3")) == RATE


def test_a_file_in_the_working_folder_does_not_end_the_process(tmp_path, mp3, monkeypatch):
    (tmp_path / "x.mp3").write_bytes(mp3[0])
    (tmp_path / "._").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnusableSound, match="the working folder has a file"):
        decode(tmp_path / "x.mp3")


def test_a_header_with_any_one_field_changed_gives_no_other_sound(tmp_path):
    path = tmp_path / "x.wav"
    original = np.frombuffer(wav(), np.uint8)
    kept = 0
    for at in (*range(4, 8), *range(16, 24), *range(32, 36), *range(40, 44)):
        for value in (0, 1, 2, 4, 24, 255):
            changed = original.copy()
            changed[at] = value
            path.write_bytes(changed.tobytes())
            try:
                samples = decode(path)
            except UnusableSound:
                continue
            assert_is_sound(samples)
            kept += 1
    assert kept > 20


@pytest.mark.parametrize(
    ("wide", "hiss", "cancels"), [(1, 0.07, True), (1, 0.3, True), (0.1, 0.3, False), (1, 0, True)]
)
def test_a_wide_sound_is_not_lost_in_the_mean_of_its_channels(tmp_path, wide, hiss, cancels):
    in_phase = hiss * 0.2 * np.random.default_rng(2).standard_normal(RATE)
    channels = np.stack([in_phase - 0.99 * wide * SOUND, in_phase + wide * SOUND], 1)
    soundfile.write(tmp_path / "x.wav", channels, RATE, subtype="FLOAT")
    waveform = decoding.read(tmp_path / "x.wav", sample_rate=RATE)
    (samples,) = waveform.pieces()
    loudest = int(np.square(channels).sum(0).argmax())
    expected = channels[:, loudest] if cancels else channels.mean(1)
    np.testing.assert_allclose(samples, expected, atol=1e-6)
    said = [f"its channels cancel; the loudest alone was taken ({loudest + 1} of 2)"]
    assert waveform.notes == (said if cancels else [])


def test_independent_channels_are_averaged_without_a_word(tmp_path):
    channels = 0.3 * np.random.default_rng(3).uniform(-1, 1, (RATE, 2))
    soundfile.write(tmp_path / "x.wav", channels, RATE, subtype="FLOAT")
    waveform = decoding.read(tmp_path / "x.wav", sample_rate=RATE)
    np.testing.assert_allclose(next(waveform.pieces()), channels.mean(1), atol=1e-6)
    assert waveform.notes == []


def test_notes_of_the_decoder_do_not_reach_the_terminal(tmp_path, mp3, capfd):
    path = tmp_path / "x.mp3"
    path.write_bytes(mp3[1][:4000] + bytes(900) + mp3[1][4000:])
    decode(path)
    assert "ote" in capfd.readouterr().err  # what it would write
    with quiet.decoders():
        decode(path)
        with quiet.decoders():
            os.write(2, b"from elsewhere\n")
    assert capfd.readouterr().err == "from elsewhere\n"
