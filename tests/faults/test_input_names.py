"""Any name that a file system allows works from train.py to the archive, in any locale."""

import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import soundfile

from vaejax.run.load import load_run

SHIFT_JIS = "キック".encode("shift-jis")
LATIN_1 = "fl\u00fcte".encode("latin-1")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Twelve tones in two folders, none of whose names is UTF-8."""
    root = os.fsencode(tmp_path_factory.mktemp("odd") / "set")
    times = np.arange(2000) / 22_050
    for i in range(12):
        folder = os.path.join(root, (SHIFT_JIS, LATIN_1)[i % 2])
        os.makedirs(folder, exist_ok=True)
        tone = np.exp(-20 * times) * np.sin(2 * np.pi * (110 + 20 * i) * times)
        path = os.path.join(folder, SHIFT_JIS + b"%d.wav" % i)
        try:
            with open(path, "wb") as file:
                soundfile.write(file, tone, 22_050, format="WAV")
        except OSError:
            pytest.skip("this file system insists on UTF-8")
    return os.fsdecode(root)


def test_names_that_are_not_utf8_go_from_training_to_the_archive(
    odd, run, call, tiny, tmp_path, monkeypatch
):
    monkeypatch.setenv("LC_ALL", "C")
    workdir, out = tmp_path / "run", tmp_path / "out"
    short = ("--train.num_steps", "2", "--train.eval_every_steps", "1", "--train.batch_size", "4")
    done = run("train", *tiny, *short, "--data", odd, "--workdir", workdir)
    assert done.code == 0, done.err
    trained = load_run(workdir)
    labels = {row["label"] for row in trained.data["files"]}
    assert labels == {r"\x83L\x83b\x83N", r"fl\xfcte"}
    assert len({row["file"] for row in trained.data["files"]}) == 12
    json.dumps(trained.data, ensure_ascii=False).encode()
    sampled = ("--workdir", workdir, "--zip", "--sfz", "--names", "label")
    done = call("sample", *sampled, "--out", out, "--num", "3", "--label", r"fl\xfcte")
    assert done.code == 0, done.err
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert sum(name.endswith(".wav") for name in archive.namelist()) == 3
        assert archive.testzip() is None
    again = ("--workdir", workdir, "--out", tmp_path / "again", "--reconstruct", odd, "--zip")
    done = call("sample", *again)
    assert done.code == 0, done.err
    assert len(list((tmp_path / "again").rglob("*.wav"))) == 12


def test_a_folder_with_another_name_is_gone_on_with(trained, folder, call, tiny, tmp_path):
    workdir = shutil.copytree(trained, tmp_path / "run")
    moved = shutil.copytree(folder, tmp_path / "another name")
    before = json.loads((workdir / "data.json").read_text())
    done = call("train", *tiny, "--data", moved, "--workdir", workdir)
    assert done.code == 0, done.err
    assert "is finished at step 30" in done.out
    after = json.loads((workdir / "data.json").read_text())
    assert after["source"] == str(moved)
    del after["source"], before["source"]
    assert after == before
