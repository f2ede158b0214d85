import errno
import os

import pytest

from vaejax.data import files
from vaejax.data.files import find_files, reason_not_sound


def write(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"sound")
    return path


def relative(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_sounds_are_found_at_any_depth_in_any_case_and_sorted(tmp_path):
    for name in ("b.wav", "a/deep/er/x.FLAC", "a/z.Aif", "a b/ü.mp3", "a/line\nbreak.ogg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sounds, others, _ = find_files(tmp_path)
    expected = ["a b/ü.mp3", "a/deep/er/x.FLAC", "a/line\nbreak.ogg", "a/z.Aif", "b.wav"]
    assert relative(sounds, tmp_path) == expected
    assert others == []


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    for name in ("x.wav", "._x.wav", ".DS_Store", ".trash/y.wav", "a/.hidden/z.wav", ".y.wav"):
        write(tmp_path / name)
    found = find_files(tmp_path)
    assert relative(found.sounds, tmp_path) == ["x.wav"]
    assert found.others == []
    assert found.passed_over == {"._*": 1, ".DS_Store": 1, files.HIDDEN: 3}


def test_companions_of_other_programs_are_counted_by_kind(tmp_path):
    for name in ("x.wav", "x.wav.asd", "a/y.WAV.ASD", "x.wav.reapeaks", "Thumbs.db"):
        write(tmp_path / name)
    found = find_files(tmp_path)
    assert found.others == []
    assert found.passed_over == {".asd": 2, ".reapeaks": 1, "Thumbs.db": 1}


def test_a_sound_that_icloud_holds_is_named(tmp_path):
    write(tmp_path / "x.wav")
    stub = write(tmp_path / "kick/.y.wav.icloud")
    write(tmp_path / ".notes.pages.icloud")
    found = find_files(tmp_path)
    assert found.others == [stub]
    assert reason_not_sound(stub) == "in iCloud only; download it"
    assert found.passed_over == {files.HIDDEN: 1}


def test_what_the_system_does_not_hand_out_is_that_files_reason(tmp_path, monkeypatch):
    sound = write(tmp_path / "x.wav")
    far = tmp_path / "far.wav"
    far.symlink_to("n" * 300)
    withheld = write(tmp_path / "locked/y.wav")
    stat = os.stat

    def refuse(path, **kwargs):
        if os.fspath(path) == os.fspath(withheld) and kwargs.get("follow_symlinks", True):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(path, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)
    found = find_files(tmp_path)
    assert found.sounds == [sound]
    assert {path.name: reason_not_sound(path) for path in found.others} == {
        "far.wav": "a broken link",
        "y.wav": "cannot be read (Permission denied)",
    }


def test_links_are_followed_once_and_real_names_win(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    write(root / "real/x.wav")
    write(outside / "y.wav")
    (root / "a_link").symlink_to(root / "real")
    (root / "real/loop").symlink_to(root)
    (root / "self").symlink_to("self")
    (root / "elsewhere").symlink_to(outside)
    (root / "one.wav").symlink_to(outside / "y.wav")
    sounds, others, passed_over = find_files(root)
    assert relative(sounds, root) == ["elsewhere/y.wav", "one.wav", "real/x.wav"]
    assert relative(others, root) == ["self"]
    assert passed_over == {files.SEEN: 2}


def test_everything_else_is_listed_with_its_reason(tmp_path):
    write(tmp_path / "folder.wav/x.wav")
    for name in ("notes.TXT", "README", "song.m4a"):
        (tmp_path / name).touch()
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    sounds, others, _ = find_files(tmp_path)
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
