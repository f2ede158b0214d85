"""sample.py from outside: what is written, what it depends on, and what it refuses."""

import json
import os
import re
import shutil
import signal
import time
import zipfile

import numpy as np
import pytest
import soundfile

from vaejax.export import loops
from vaejax.keys import note_name
from vaejax.run.load import load_run

PCM_16_STEP = 1 / 32767


def sounds(out, suffix=".wav"):
    return sorted(p for p in out.rglob(f"*{suffix}"))


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def leftovers(out):
    return [p for p in out.rglob("*") if p.name.startswith(".vaejax-partial-")]


def assert_one_line(done, code, *words):
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    (line,) = [row for row in done.err.splitlines() if row.startswith("error: ")]
    for word in words:
        assert word in line


@pytest.fixture(scope="module")
def sample(call, trained):
    """Runs sample.py on the trained run."""

    def sample(out, *argv, workdir=trained):
        return call("sample", "--workdir", workdir, "--out", out, *argv)

    return sample


@pytest.fixture(scope="module")
def forty(sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("forty") / "out"
    done = sample(out, "--num", 40, "--seed", 3)
    assert done.code == 0, done.err
    assert f"40 sounds in {out}" in done.out
    return out


# What is written


def test_sounds_have_the_right_count_rate_length_and_level(forty):
    files = sounds(forty)
    assert [p.name for p in files] == [f"{i:05d}.wav" for i in range(40)]
    for path in files:
        wave, rate = soundfile.read(path)
        assert (rate, wave.shape) == (16_000, (8000,))
        assert soundfile.info(path).subtype == "PCM_16"
        assert np.isfinite(wave).all()
        # sound.peak_db of -1 dB: neither clipped nor silent.
        assert np.abs(wave).max() == pytest.approx(10 ** (-1 / 20), abs=2 * PCM_16_STEP)
        assert np.sqrt(np.mean(wave**2)) > 0.01
        assert wave[-1] == 0.0


def test_no_two_sounds_are_alike(forty):
    assert len({p.read_bytes() for p in sounds(forty)}) == 40


def test_manifest_describes_every_sound(forty, trained):
    rows = manifest(forty)
    assert [row["index"] for row in rows] == list(range(40))
    assert [row["file"] for row in rows] == [p.name for p in sounds(forty)]
    assert [row["latent_row"] for row in rows] == list(range(40))
    train_files = {
        row["file"]
        for row in json.loads((trained / "data.json").read_text())["files"]
        if row["split"] == "train"
    }
    for row in rows:
        assert row["seed"] == 3
        assert row["temperature"] == 1.0
        assert row["prior"] == "aggregate"
        assert row["label"] is None
        assert row["inversion"] in ("derivative", "peaks", "griffin_lim", "pghi", "spsi")
        assert row["iterations"] >= 0
        assert row["sample_rate"] == 16_000
        assert row["spectral_convergence"] < 0
        assert row["nearest_file"] in train_files
        assert row["novelty"] >= 0
        assert len(row["run"]) == 16
        wave, _ = soundfile.read(forty / row["file"])
        assert row["peak"] == pytest.approx(np.abs(wave).max(), abs=2 * PCM_16_STEP)
        assert row["rms_db"] == pytest.approx(10 * np.log10(np.mean(wave**2)), abs=0.01)
        assert row["onset"] == (np.abs(wave[:4]).max() >= 0.5 * np.abs(wave).max())
        assert not row["onset"]
        loudest = np.convolve(wave**2, np.ones(800) / 800, "valid")
        body_db = 10 * np.log10(loudest.max() / np.abs(wave).max() ** 2)
        assert row["body_db"] == pytest.approx(body_db, abs=0.02)


def test_latents_stand_beside_the_sounds(forty):
    latents = np.load(forty / "latents.npy", allow_pickle=False)
    assert latents.shape == (40, 8)
    assert latents.dtype == np.float32
    assert np.isfinite(latents).all()
    assert len(np.unique(latents, axis=0)) == 40


def test_contact_sheet_plays_the_files_without_a_network(forty):
    page = (forty / "index.html").read_text()
    assert "00000.wav" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert not leftovers(forty)


# What a sound depends on


def test_fewer_sounds_are_the_first_ones_byte_for_byte(sample, forty, tmp_path):
    assert sample(tmp_path / "out", "--num", 4, "--seed", 3).code == 0
    few = sounds(tmp_path / "out")
    assert len(few) == 4
    for path in few:
        assert path.read_bytes() == (forty / path.name).read_bytes()


@pytest.mark.parametrize("batch_size", [1, 16, 33])
def test_batch_size_does_not_change_a_byte(sample, forty, tmp_path, batch_size):
    argv = ["--num", 40, "--seed", 3, "--batch_size", batch_size]
    assert sample(tmp_path / "out", *argv).code == 0
    for path in sounds(forty):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()
    assert (tmp_path / "out/manifest.jsonl").read_text() == (forty / "manifest.jsonl").read_text()


def test_another_process_makes_the_same_bytes(run, trained, forty, tmp_path):
    argv = ["--workdir", trained, "--out", tmp_path / "out", "--num", 2, "--seed", 3]
    done = run("sample", *argv)
    assert done.code == 0, done.err
    for path in sounds(tmp_path / "out"):
        assert path.read_bytes() == (forty / path.name).read_bytes()


def test_another_seed_makes_other_sounds(sample, forty, tmp_path):
    assert sample(tmp_path / "out", "--num", 4, "--seed", 4).code == 0
    for path in sounds(tmp_path / "out"):
        assert path.read_bytes() != (forty / path.name).read_bytes()


def test_temperature_0_makes_nothing_but_means_of_the_prior(sample, trained, tmp_path):
    assert sample(tmp_path / "out", "--num", 16, "--temperature", 0).code == 0
    latents = np.load(tmp_path / "out/latents.npy")
    means = np.asarray(load_run(trained).instrument.prior.means)
    distances = np.abs(latents[:, None] - means[None]).max(-1)  # [num, num_means]
    assert distances.min(1).max() < 1e-5


# Priors and formats


def test_standard_prior_draws_from_the_unit_gaussian(sample, tmp_path):
    assert sample(tmp_path / "out", "--num", 40, "--prior", "standard").code == 0
    assert {row["prior"] for row in manifest(tmp_path / "out")} == {"standard"}
    latents = np.load(tmp_path / "out/latents.npy")
    # 320 draws from N(0, 1).
    assert abs(latents.mean()) < 4 / np.sqrt(320)
    assert latents.std() == pytest.approx(1.0, abs=4 / np.sqrt(640))


@pytest.mark.parametrize(
    ("argv", "suffix", "subtype"),
    [
        (["--subtype", "PCM_24"], ".wav", "PCM_24"),
        (["--subtype", "FLOAT"], ".wav", "FLOAT"),
        (["--format", "flac"], ".flac", "PCM_16"),
        (["--format", "flac", "--subtype", "PCM_24"], ".flac", "PCM_24"),
    ],
)
def test_other_formats_hold_the_same_sounds(sample, forty, tmp_path, argv, suffix, subtype):
    done = sample(tmp_path / "out", "--num", 2, "--seed", 3, *argv)
    assert done.code == 0, done.err
    files = sounds(tmp_path / "out", suffix)
    assert [p.name for p in files] == [f"0000{i}{suffix}" for i in range(2)]
    for path in files:
        assert soundfile.info(path).subtype == subtype
        wave, rate = soundfile.read(path)
        expected, _ = soundfile.read(forty / f"{path.stem}.wav")
        assert rate == 16_000
        # A step and a half of 16 bits with dither, and one for 32767 against 32768 at full scale.
        np.testing.assert_allclose(wave, expected, atol=2.5 * PCM_16_STEP)
    assert manifest(tmp_path / "out")[0]["subtype"] == subtype


def test_inversion_and_iterations_are_as_asked(sample, forty, tmp_path):
    argv = ["--num", 2, "--seed", 3, "--inversion", "griffin_lim", "--iterations", 2]
    assert sample(tmp_path / "out", *argv).code == 0
    row = manifest(tmp_path / "out")[0]
    assert (row["inversion"], row["iterations"]) == ("griffin_lim", 2)
    assert (tmp_path / "out/00000.wav").read_bytes() != (forty / "00000.wav").read_bytes()
    np.testing.assert_array_equal(
        np.load(tmp_path / "out/latents.npy"), np.load(forty / "latents.npy")[:2]
    )


# Other ways to choose latents


def test_latents_in_make_the_same_sounds_out(sample, forty, tmp_path):
    done = sample(tmp_path / "out", "--latents", forty / "latents.npy")
    assert done.code == 0, done.err
    assert len(sounds(tmp_path / "out")) == 40
    for path in sounds(forty):
        # Bit for bit, dither included; only the comment differs, which has no seed to tell.
        again, before = (
            soundfile.read(folder / path.name, dtype="int16")[0]
            for folder in (tmp_path / "out", forty)
        )
        np.testing.assert_array_equal(again, before)
    np.testing.assert_array_equal(
        np.load(tmp_path / "out/latents.npy"), np.load(forty / "latents.npy")
    )
    assert {row["prior"] for row in manifest(tmp_path / "out")} == {"latents"}


def test_reconstruction_keeps_names_and_tree_and_resembles_its_source(sample, folder, tmp_path):
    done = sample(tmp_path / "out", "--reconstruct", folder)
    assert done.code == 0, done.err
    made = [p.relative_to(tmp_path / "out").as_posix() for p in sounds(tmp_path / "out")]
    assert made == [p.relative_to(folder).as_posix() for p in sounds(folder)]
    rows = manifest(tmp_path / "out")
    assert [row["source"] for row in rows] == [row["file"] for row in rows] == sorted(made)
    # The strongest frequency is that of the source for most, eight latents for 48 tones being few;
    # another source's is within 5 % for one in twenty.
    agree = 0
    for name in made:
        spectra = []
        for root in (folder, tmp_path / "out"):
            wave, rate = soundfile.read(root / name)
            head = wave[: int(0.14 * rate)]
            spectrum = np.abs(np.fft.rfft(head * np.hanning(len(head)), 2**16))
            spectra.append(spectrum.argmax() * rate / 2**16)
        agree += abs(spectra[0] / spectra[1] - 1) < 0.05
    assert agree > 0.5 * len(made)


def test_what_reconstruction_does_not_read_is_counted_by_reason(sample, folder, tmp_path):
    put = tmp_path / "in"
    put.mkdir()
    shutil.copy(sounds(folder / "bell")[0], put / "bell.wav")
    for name in ("a.m4a", "b.m4a", "notes.txt", "bell.wav.asd", "x.asd", "._bell.wav", ".hidden"):
        (put / name).write_bytes(b"x")
    (put / ".far.wav.icloud").write_bytes(b"x")
    (put / "empty.wav").touch()
    (put / "text.wav").write_text("no sound at all")
    done = sample(tmp_path / "out", "--reconstruct", put)
    assert done.code == 0, done.err
    assert [path.name for path in sounds(tmp_path / "out")] == ["bell.wav"]
    assert "left out empty.wav: zero length (0 bytes)" in done.out + done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("not read, by reason: "))
    reasons = line.removeprefix("not read, by reason: ").split("; ", 1)
    assert reasons[0] == "2 a format that cannot be read here (.m4a)"
    for reason in (
        "1 not an audio file (.txt)",
        "1 in iCloud only; download it",
        "1 zero length (0 bytes)",
        "1 not audio (no known format inside)",
    ):
        assert reason in reasons[1]
    assert "\npassed over: 3 companions of other programs (1 ._*, 2 .asd), 1 hidden\n" in done.err


def test_reconstruction_of_one_file_keeps_its_name(sample, folder, tmp_path):
    source = sounds(folder / "bell")[0]
    assert sample(tmp_path / "out", "--reconstruct", source, "--format", "flac").code == 0
    assert [p.name for p in sounds(tmp_path / "out", ".flac")] == [f"{source.stem}.flac"]


def test_reconstructions_and_their_archive_have_names_that_every_system_takes(
    sample, folder, tmp_path
):
    source = sounds(folder / "bass")[0]
    given = ["a\\b.wav", "a-b.wav", "CON.wav", "end. /COM1 .wav", "12:30?.wav", "Kick #1.wav"]
    for name in given:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / "in" / name)
    done = sample(tmp_path / "out", "--reconstruct", tmp_path / "in", "--zip", "--sfz")
    assert done.code == 0, done.err
    rows = {row["source"]: row["file"] for row in manifest(tmp_path / "out")}
    assert rows == {
        "a-b.wav": "a-b.wav.wav",
        "a\\b.wav": "a-b.wav-2.wav",
        "CON.wav": "CON_.wav",
        "end. /COM1 .wav": "end/COM1_.wav",
        "12:30?.wav": "12-30-.wav",
        "Kick #1.wav": "Kick #1.wav",
    }
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        # ZipFile shows a backslash as it stands in the archive on this system.
        assert {f"out/{name}" for name in rows.values()} <= set(archive.namelist())


def test_around_stays_at_the_sound_without_spread_and_wanders_with_it(sample, folder, tmp_path):
    source = sounds(folder / "bass")[0]
    spreads = []
    for spread in (0, 1):
        out = tmp_path / f"out{spread}"
        done = sample(out, "--around", source, "--spread", spread, "--num", 5)
        assert done.code == 0, done.err
        assert len(sounds(out)) == 5
        assert manifest(out)[0]["around"] == source.name
        spreads.append(np.load(out / "latents.npy").std(0).mean())
    assert spreads[0] < 0.3 * spreads[1]


def test_between_leads_from_one_sound_to_the_other_in_equal_steps(sample, folder, tmp_path):
    a, b = sounds(folder / "bass")[0], sounds(folder / "bell")[0]
    done = sample(tmp_path / "out", "--between", a, b, "--num", 5)
    assert done.code == 0, done.err
    latents = np.load(tmp_path / "out/latents.npy")
    steps = np.diff(latents, axis=0)
    np.testing.assert_allclose(steps, np.tile(steps[:1], (4, 1)), atol=1e-5)
    assert np.linalg.norm(steps) > 0.1
    assert manifest(tmp_path / "out")[0]["between"] == [a.name, b.name]


def test_grid_is_a_map_between_four_sounds(sample, folder, tmp_path):
    corners = [sounds(folder / label)[i] for label in ("bass", "bell") for i in (0, 1)]
    done = sample(tmp_path / "out", "--grid", *corners, "--num", 9)
    assert done.code == 0, done.err
    assert "a grid of 3 rows and 3 columns" in done.out
    rows = manifest(tmp_path / "out")
    assert len(sounds(tmp_path / "out")) == len(rows) == 9
    assert rows[0]["corners"] == [path.name for path in corners]
    assert rows[5]["grid"] == [1.0, 0.5]
    latents = np.load(tmp_path / "out/latents.npy").reshape(3, 3, 8)
    np.testing.assert_allclose(latents[1, 1], latents[[0, 0, 2, 2], [0, 2, 0, 2]].mean(0), 1e-4)


def test_attributes_shift_any_mode_and_are_said(sample, forty, tmp_path):
    argv = ["--num", 3, "--seed", 3, "--attribute", "bell=+0.5", "bass=-0.25"]
    done = sample(tmp_path / "out", *argv)
    assert done.code == 0, done.err
    assert "bell+0.5: " in done.out
    assert manifest(tmp_path / "out")[0]["attribute"] == {"bell": 0.5, "bass": -0.25}
    steps = np.load(tmp_path / "out/latents.npy") - np.load(forty / "latents.npy")[:3]
    assert np.linalg.norm(steps[0]) > 0.1
    np.testing.assert_allclose(steps, steps[[0, 0, 0]], atol=1e-5)
    argv = ["--latents", forty / "latents.npy", *argv[4:]]
    assert sample(tmp_path / "given", *argv).code == 0
    given = np.load(tmp_path / "given/latents.npy") - np.load(forty / "latents.npy")
    np.testing.assert_allclose(given[0], steps[0], atol=1e-5)


# Curation


def test_curated_sounds_are_draws_of_the_same_seed_in_order(sample, forty, tmp_path):
    rules = ["--min_level", -20, "--best_of", 2, "--score", "novelty"]
    done = sample(tmp_path / "out", "--num", 8, "--seed", 3, *rules)
    assert done.code == 0, done.err
    rows = manifest(tmp_path / "out")
    plain = manifest(forty)
    expected = []
    for a, b in zip(plain[::2], plain[1::2], strict=True):
        loud = [row for row in (a, b) if row["rms_db"] >= -20]
        expected += [max(loud, key=lambda row: row["novelty"])["index"]] if loud else []
    assert [row["draw"] for row in rows] == expected[:8]
    assert [row["index"] for row in rows] == list(range(8))
    for row in rows:
        name = f"{row['draw']:05d}.wav"
        assert (tmp_path / "out" / row["file"]).read_bytes() == (forty / name).read_bytes()
    assert "to keep 8; rejected " in done.out
    assert "quieter than -20 dB (--min_level)" in done.out
    assert rows[0]["curation"]["best_of"] == 2
    # Another batch, and fewer: the same ones.
    again = sample(tmp_path / "few", "--num", 3, "--seed", 3, "--batch_size", 16, *rules)
    assert again.code == 0, again.err
    assert [row["draw"] for row in manifest(tmp_path / "few")] == expected[:3]


def test_fewer_than_asked_for_are_kept_and_said(sample, tmp_path):
    out = tmp_path / "out"
    done = sample(out, "--num", 50, "--unique", 1e6, "--tries", 40)
    assert_one_line(done, 1, "only 1 of 50 sounds were found", "the last 40 draws", "--tries")
    assert "41 drawn to keep 1; rejected 40 nearer than 1e+06" in done.out
    assert [p.name for p in sounds(out)] == ["00000.wav"]
    assert len(manifest(out)) == 1
    assert np.load(out / "latents.npy").shape == (1, 8)
    assert (out / "index.html").exists()
    none = sample(tmp_path / "none", "--min_level", 0, "--tries", 20)
    assert_one_line(none, 1, "only 0 of 64 sounds were found")
    assert np.load(tmp_path / "none/latents.npy").shape == (0, 8)


def test_label_names_its_files(sample, tmp_path):
    done = sample(tmp_path / "out", "--label", "bell", "--num", 3)
    assert done.code == 0, done.err
    assert [p.name for p in sounds(tmp_path / "out")] == [f"0000{i}_bell.wav" for i in range(3)]
    assert {row["label"] for row in manifest(tmp_path / "out")} == {"bell"}


# Real notes


def test_real_notes_train_and_sample(call, tiny, tmp_path, request):
    notes = request.path.parent / "notes"
    run, out = tmp_path / "run", tmp_path / "out"
    done = call("train", *tiny, "--train.num_steps", 4, "--data", notes, "--workdir", run)
    assert done.code == 0, done.err
    data = json.loads((run / "data.json").read_text())
    assert data["labels"] == {"bass": 6, "guitar": 6, "marimba": 6, "organ": 6}
    assert [row["file"] for row in data["rejected"]] == ["LICENSE.txt"]
    done = call("sample", "--workdir", run, "--out", out, "--num", 3, "--label", "organ")
    assert done.code == 0, done.err
    for path in sounds(out):
        wave, rate = soundfile.read(path)
        assert (rate, len(wave)) == (16_000, 8000)
        assert np.sqrt(np.mean(wave**2)) > 0.01


# What is refused


def test_folder_with_sounds_is_refused_unless_overwrite(sample, tmp_path):
    out = tmp_path / "out"
    assert sample(out, "--num", 3).code == 0
    (out / "mine.txt").write_text("keep me")
    before = {p: p.read_bytes() for p in out.iterdir()}
    done = sample(out, "--num", 2)
    assert_one_line(done, 1, str(out), "3 sounds", "--overwrite")
    assert {p: p.read_bytes() for p in out.iterdir()} == before
    done = sample(out, "--num", 2, "--overwrite")
    assert done.code == 0, done.err
    assert [p.name for p in sounds(out)] == ["00000.wav", "00001.wav"]
    assert len(manifest(out)) == 2
    assert (out / "mine.txt").read_text() == "keep me"


def test_foreign_sounds_are_never_written_over(sample, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    soundfile.write(out / "00000.wav", np.zeros(10), 8000)
    before = (out / "00000.wav").read_bytes()
    assert_one_line(sample(out, "--num", 2, "--overwrite"), 1, "00000.wav", "in the way")
    assert (out / "00000.wav").read_bytes() == before


def test_folder_without_a_run_is_named_with_the_command_that_makes_one(sample, tmp_path):
    missing = tmp_path / "none"
    done = sample(tmp_path / "out", workdir=missing)
    assert_one_line(done, 1, f"no run in {missing}", f"python train.py --workdir {missing}")
    assert not (tmp_path / "out").exists()
    assert not missing.exists()


def test_run_without_a_checkpoint_is_named_with_the_command_that_makes_one(
    sample, trained, tmp_path
):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    shutil.rmtree(run / "checkpoints")
    done = sample(tmp_path / "out", workdir=run)
    assert_one_line(done, 1, f"{run} has no checkpoint yet", f"python train.py --workdir {run}")


def test_run_of_another_version_is_one_line(sample, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    config = json.loads((run / "config.json").read_text())
    config["model"]["depth"] = 3
    (run / "config.json").write_text(json.dumps(config))
    done = sample(tmp_path / "out", workdir=run)
    assert_one_line(done, 1, "config.json is of another version", "model.depth")


def test_unfinished_run_samples_from_the_unit_gaussian_and_says_so(sample, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "prior.npz").unlink()
    done = sample(tmp_path / "out", "--num", 2, workdir=run)
    assert done.code == 0, done.err
    assert "this run was not finished: drawing from N(0, I)" in done.err
    assert manifest(tmp_path / "out")[0]["prior"] == "standard"
    done = sample(tmp_path / "out2", "--num", 2, "--label", "bell", workdir=run)
    assert_one_line(done, 1, "this run was not finished")


def test_unknown_label_lists_the_known(sample, tmp_path):
    done = sample(tmp_path / "out", "--label", "kazoo")
    assert_one_line(done, 1, "no label 'kazoo'", "bass, bell, soft")


@pytest.mark.parametrize("option", ["--around", "--reconstruct", "--latents", "--match", "--redo"])
def test_missing_input_is_named(sample, tmp_path, option):
    done = sample(tmp_path / "out", option, tmp_path / "nothing.wav")
    assert_one_line(done, 1, str(tmp_path / "nothing.wav"))


def test_input_that_is_no_sound_is_named_with_the_reason(sample, tmp_path):
    (tmp_path / "x.wav").write_bytes(b"no audio")
    done = sample(tmp_path / "out", "--around", tmp_path / "x.wav")
    assert_one_line(done, 1, f"{tmp_path / 'x.wav'}: ")


def test_unknown_attribute_lists_the_known(sample, tmp_path):
    done = sample(tmp_path / "out", "--attribute", "warm=1")
    assert_one_line(done, 1, "no attribute 'warm'", "brighter", "bass, bell, soft")


def test_latents_of_another_width_are_refused_with_both(sample, tmp_path):
    np.save(tmp_path / "z.npy", np.zeros((3, 5), np.float32))
    done = sample(tmp_path / "out", "--latents", tmp_path / "z.npy")
    assert_one_line(done, 1, "(3, 5)", "[num, 8]")


def test_file_in_the_way_of_the_output_folder_is_one_line(sample, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file/out"):
        assert_one_line(sample(out, "--num", 2), 1, str(tmp_path / "file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission_is_one_line(sample, tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert_one_line(sample(tmp_path / "out", "--num", 2), 1, "no permission to write")
    finally:
        tmp_path.chmod(0o700)


# Interrupted


def test_ctrl_c_keeps_what_is_complete(start, sample, trained, tmp_path):
    out = tmp_path / "out"
    process = start("sample", "--workdir", trained, "--out", out, "--num", 20_000)
    deadline = time.monotonic() + 120
    while not (out / "00100.wav").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    made = sounds(out)
    assert 100 < len(made) < 20_000
    assert [row["file"] for row in manifest(out)] == [p.name for p in made]
    assert f"{out} holds the {len(made)} sounds made until then" in err
    for path in made:
        assert soundfile.info(path).frames == 8000
    assert len(made) <= len(np.load(out / "latents.npy")) < 20_000
    assert (out / "index.html").exists()
    # What the same command goes on with.
    assert sorted(p.name.rpartition("-")[2] for p in leftovers(out)) == ["pictures", "run.json"]
    # What is complete is known as this program's own.
    done = sample(out, "--num", 2, "--overwrite")
    assert done.code == 0, done.err
    assert len(sounds(out)) == 2


def test_a_killed_run_is_gone_on_with_byte_for_byte(start, sample, trained, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    argv = "--num", 600, "--seed", 3
    process = start("sample", "--workdir", trained, "--out", out, *argv)
    deadline = time.monotonic() + 120
    while not (out / "00020.wav").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    made = {path: path.stat().st_mtime_ns for path in sounds(out)}
    assert 20 < len(made) < 600
    done = sample(out, "--num", 601, "--seed", 3)
    assert_one_line(done, 1, f"{out} holds an unfinished run of another command")
    # What a kill while an instrument or the archive is written leaves.
    left = [out / ".kick-18.sfz-abcdef12", tmp_path / ".out.zip-abcdef12"]
    for path in left:
        path.write_text("half of it")
    done = sample(out, *argv)
    assert done.code == 0, done.err
    assert f"going on with {out}" in done.err
    assert not any(path.exists() for path in left)
    assert all(path.stat().st_mtime_ns == made[path] for path in made)
    assert sample(whole, *argv).code == 0
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in whole.iterdir())
    for path in whole.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes(), path.name


# What a file is


ALL = (
    *("--num", 20, "--seed", 3, "--level", "-20LUFS", "--sample_rate", 22_050),
    *("--trim_silence", -50, "--loop", "--sfz", "--names", "label", "--zip"),
)


@pytest.fixture(scope="module")
def finished(sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "my sounds"
    with pytest.MonkeyPatch.context() as patch:
        # This run's tones all die away: let some of them count as held, to the end of the module.
        lenient = {"SUSTAIN_DB": 60.0, "TAIL_DB": 60.0, "MAX_JUMP_DB": 7.5, "JUMP_COST": 0.0}
        for name, value in lenient.items():
            patch.setattr(loops, name, value)
        done = sample(out, *ALL)
        assert done.code == 0, done.err
        yield out, done


def test_finished_files_are_as_their_lines_say(finished):
    out, done = finished
    rows = manifest(out)
    assert len(rows) == len(sounds(out)) == 20
    limited = 0
    for row in rows:
        with soundfile.SoundFile(out / row["file"]) as file:
            wave, rate, more = file.read(), file.samplerate, file.extra_info
            assert file.comment.endswith(f"seed 3, draw {row['index']}")
            assert f"run {row['run']}" in file.comment
        assert (rate, row["sample_rate"]) == (22_050, 22_050)
        assert len(wave) == round(row["seconds"] * rate)
        assert 0.05 <= row["seconds"] <= 0.5
        assert wave[-1] == 0.0
        assert row["peak"] == pytest.approx(np.abs(wave).max(), abs=2 * PCM_16_STEP)
        assert row["peak"] <= 10 ** (-1 / 20) + 1e-6
        if row["level_limited"]:
            limited += 1
            assert row["loudness"] < -20
        else:
            assert row["loudness"] == pytest.approx(-20, abs=0.01)
        # Name and chunk agree on the pitch.
        label, *note, index = row["file"].removesuffix(".wav").rsplit("_", 2)
        assert label == row["nearest_label"].replace("/", "-")
        assert int(index) == row["index"]
        if row["detected_pitch"] is None:
            assert not note
        else:
            assert note == [note_name(round(row["detected_pitch"]))]
            assert f"Midi Note    : {int(row['detected_pitch'])}\n" in more
        if row["loop"] is None:
            assert row["no_loop"]
            assert "End : " not in more
        else:
            found = re.search(r"Start : +(\d+)  End : +(\d+)", more)
            assert [int(n) for n in found.groups()] == [row["loop"]["start"], row["loop"]["end"]]
            assert row["loop"]["end"] < len(wave)
    looped = sum(row["loop"] is not None for row in rows)
    assert 0 < looped < 20
    assert f"{looped} of 20 sounds have a loop" in done.out
    assert limited == 0 or f"{limited} of 20 sounds are quieter than -20LUFS" in done.out


def test_instruments_and_archive_hold_all_of_it(finished):
    out, done = finished
    text = "".join(path.read_text() for path in out.glob("*.sfz"))
    named = re.findall(r"sample=(.*)", text)
    assert sorted(named) == sorted(row["file"] for row in manifest(out))
    archive = out.with_name("my sounds.zip")
    assert str(archive) in done.out
    with zipfile.ZipFile(archive) as packed:
        assert packed.testzip() is None
        inside = {name.removeprefix("my sounds/"): packed.read(name) for name in packed.namelist()}
    assert inside == {path.name: path.read_bytes() for path in out.iterdir()}


def test_finished_bytes_depend_neither_on_batches_nor_on_the_number(sample, finished, tmp_path):
    out, _ = finished
    again = tmp_path / "my sounds"
    assert sample(again, *ALL, "--batch_size", 3).code == 0
    assert (
        again.with_name("my sounds.zip").read_bytes() == out.with_name("my sounds.zip").read_bytes()
    )


def test_finished_folder_can_be_replaced_and_leaves_nothing_of_the_old(sample, finished, tmp_path):
    out = tmp_path / "my sounds"
    shutil.copytree(finished[0], out)
    shutil.copy(finished[0].with_name("my sounds.zip"), tmp_path)
    (out / "own.sfz").write_text("<region> sample=mine.wav")
    assert_one_line(sample(out, *ALL), 1, "my sounds.zip exists already")
    argv = ["--num", 1, "--overwrite", "--zip", "--format", "flac", "--loop"]
    assert sample(out, *argv).code == 0
    left = sorted(path.name for path in out.iterdir())
    assert left == ["00000.flac", "index.html", "latents.npy", "manifest.jsonl", "own.sfz"]
    with zipfile.ZipFile(tmp_path / "my sounds.zip") as packed:
        assert "my sounds/own.sfz" not in packed.namelist()
    assert "loop" in manifest(out)[0]


def test_dither_is_within_a_step_and_can_be_left_out(sample, forty, tmp_path):
    done = sample(tmp_path / "out", "--num", 4, "--seed", 3, "--dither", "none")
    assert done.code == 0, done.err
    assert [row["dither"] for row in manifest(tmp_path / "out")] == ["none"] * 4
    assert {row["dither"] for row in manifest(forty)} == {"tpdf"}
    for path in sounds(tmp_path / "out"):
        plain, _ = soundfile.read(path, dtype="int16")
        dithered, _ = soundfile.read(forty / path.name, dtype="int16")
        difference = dithered.astype(int) - plain
        assert np.abs(difference).max() <= 2
        assert 0.1 < np.mean(difference != 0) < 0.9
        assert np.abs(dithered.astype(int)).max() <= np.abs(plain.astype(int)).max()


def test_fade_out_is_as_long_as_asked(sample, forty, tmp_path):
    argv = ["--num", 2, "--seed", 3, "--fade_out", 200, "--subtype", "FLOAT"]
    assert sample(tmp_path / "out", *argv).code == 0
    assert manifest(tmp_path / "out")[0]["fade_out_ms"] == 200
    fade = 3200
    ramp = 0.5 * (1 + np.cos(np.pi * np.arange(1, fade + 1) / fade))
    for path in sounds(tmp_path / "out"):
        faded, _ = soundfile.read(path)
        whole, _ = soundfile.read(forty / path.name)
        gain = faded[:1000] @ whole[:1000] / (whole[:1000] @ whole[:1000])
        # Up to where the other's own fade, of 5 ms, begins.
        expected = gain * np.concatenate([whole[:-fade], whole[-fade:] * ramp])
        np.testing.assert_allclose(faded[:-80], expected[:-80], atol=3 * PCM_16_STEP)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--level", "loud"], ["--level loud", "-1dBFS", "-14LUFS"]),
        (["--level", "3dBFS"], ["--level 3dBFS", "full scale"]),
        (["--level", "-300LUFS"], ["-60"]),
        (["--sample_rate", 10], ["--sample_rate 10", "4000", "384000"]),
        (["--trim_silence", 6], ["--trim_silence 6", "below the peak"]),
        (["--fade_out", -1], ["--fade_out -1"]),
        (["--dither", "yes"], ["--dither", "tpdf"]),
        (["--names", "label", "--reconstruct", "x"], ["--names label", "--reconstruct"]),
        (["--format", "flac", "--subtype", "FLOAT"], ["FLAC holds no FLOAT"]),
        (["--format", "flac", "--sample_rate", 96_001], ["96001", "multiples of 10"]),
    ],
)
def test_files_that_cannot_be_are_refused_as_usage(sample, tmp_path, argv, words):
    assert_one_line(sample(tmp_path / "out", *argv), 2, *words)
    assert not (tmp_path / "out").exists()


def test_a_fade_longer_than_the_clip_says_both_lengths(sample, tmp_path):
    assert_one_line(sample(tmp_path / "out", "--fade_out", 600), 1, "600 ms", "500 ms")


def test_redo_masters_as_the_first_time(sample, finished, tmp_path):
    out, _ = finished
    rows = manifest(out)
    looped = next(row["index"] for row in rows if row["loop"])
    done = sample(tmp_path / "out", "--redo", out, "--index", looped)
    assert done.code == 0, done.err
    (again,) = manifest(tmp_path / "out")
    assert again["loop"] == rows[looped]["loop"]
    made = (tmp_path / "out" / again["file"]).read_bytes()
    assert made == (out / rows[looped]["file"]).read_bytes()
    # Another level, and so no loudness in the line.
    argv = ["--redo", out, "--index", looped, "--level", "-6dBFS", "--subtype", "PCM_24"]
    assert sample(tmp_path / "louder", *argv).code == 0
    (louder,) = manifest(tmp_path / "louder")
    assert louder["peak"] == pytest.approx(10 ** (-6 / 20), abs=1e-6)
    assert (louder["level"], louder["dither"]) == ("-6dBFS", "none")
    assert "loudness" not in louder
