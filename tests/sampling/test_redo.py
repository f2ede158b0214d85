"""Sounds made again: the same bytes, their own names, and only of the run that made them."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from vaejax.features import conditions
from vaejax.run.load import load_run
from vaejax.sampling import redo


@pytest.fixture(scope="module")
def sample(call, trained):
    def sample(out, *argv, workdir=trained):
        return call("sample", "--workdir", workdir, "--out", out, *argv)

    return sample


@pytest.fixture(scope="module")
def first(sample, tmp_path_factory):
    """Twenty sounds of a label, with settings that are not the defaults."""
    out = tmp_path_factory.mktemp("first") / "out"
    argv = ["--num", 20, "--seed", 3, "--label", "bell", "--temperature", 0.8]
    argv += ["--inversion", "spsi", "--iterations", 1, "--subtype", "PCM_24"]
    done = sample(out, *argv)
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def run(trained):
    return load_run(trained)


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def assert_one_line(done, code, *words):
    assert done.code == code, done.err
    assert "Traceback" not in done.err
    (line,) = [row for row in done.err.splitlines() if row.startswith("error: ")]
    for word in words:
        assert word in line


def copy_without_latents(first, tmp_path):
    copy = shutil.copytree(first, tmp_path / "copy")
    (copy / "latents.npy").unlink()
    return copy


def test_sounds_are_made_again_bit_for_bit_with_their_names_and_numbers(sample, first, tmp_path):
    out = tmp_path / "out"
    done = sample(out, "--redo", first / "manifest.jsonl", "--index", 17, 2)
    assert done.code == 0, done.err
    assert sorted(p.name for p in out.glob("*.wav")) == ["00002_bell.wav", "00017_bell.wav"]
    for path in out.glob("*.wav"):
        assert path.read_bytes() == (first / path.name).read_bytes()
    before = {row["index"]: row for row in manifest(first)}
    for place, row in enumerate(manifest(out)):
        assert row == {**before[row["index"]], "latent_row": place}
    np.testing.assert_array_equal(
        np.load(out / "latents.npy"), np.load(first / "latents.npy")[[17, 2]]
    )


def test_without_its_latents_a_drawn_sound_is_drawn_again(sample, first, tmp_path):
    copy = copy_without_latents(first, tmp_path)
    done = sample(tmp_path / "out", "--redo", copy)  # the folder, and all of it
    assert done.code == 0, done.err
    for path in first.glob("*.wav"):
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_another_format_inversion_or_temperature_changes_just_that(sample, first, tmp_path):
    argv = ["--redo", first / "manifest.jsonl", "--index", 5]
    assert sample(tmp_path / "flac", *argv, "--format", "flac").code == 0
    flac, _ = soundfile.read(tmp_path / "flac/00005_bell.flac", dtype="int32")
    wav, _ = soundfile.read(first / "00005_bell.wav", dtype="int32")
    np.testing.assert_array_equal(flac, wav)

    other = ["--inversion", "pghi", "--subtype", "PCM_16"]
    assert sample(tmp_path / "pghi", *argv, *other).code == 0
    (row,) = manifest(tmp_path / "pghi")
    assert (row["inversion"], row["subtype"], row["temperature"]) == ("pghi", "PCM_16", 0.8)
    np.testing.assert_array_equal(
        np.load(tmp_path / "pghi/latents.npy"), np.load(first / "latents.npy")[[5]]
    )

    for temperature in (0, 1.6):
        out = tmp_path / str(temperature)
        assert sample(out, *argv, "--temperature", temperature).code == 0
        assert manifest(out)[0]["temperature"] == temperature
    # The same draw, twice as far from the density's middle as at 0.8.
    middle, near, far = (
        np.load(path / "latents.npy") for path in (tmp_path / "0", first, tmp_path / "1.6")
    )
    np.testing.assert_allclose(far[0] - middle[0], 2 * (near[5] - middle[0]), atol=1e-5)


def test_curated_and_shifted_sounds_are_drawn_again_too(sample, tmp_path):
    argv = ["--num", 6, "--unique", 0.5, "--best_of", 2, "--attribute", "bell=+0.5"]
    first = tmp_path / "first"
    done = sample(first, *argv)
    assert done.code == 0, done.err
    assert [row["draw"] for row in manifest(first)] != list(range(6))
    (first / "latents.npy").unlink()
    assert sample(tmp_path / "again", "--redo", first / "manifest.jsonl").code == 0
    for path in first.glob("*.wav"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_a_starred_list_in_the_folder_names_its_sounds(sample, run, first, tmp_path):
    copy = shutil.copytree(first, tmp_path / "copy")
    names = {row["index"]: row["file"] for row in manifest(first)}
    starred = {
        "format": "vaejax-starred-1",
        "run": run.fingerprint,
        "manifest": "manifest.jsonl",
        "sounds": [{"index": i, "file": names[i]} for i in (4, 11)],
    }

    def write(folder, **changes):
        (folder / "starred.json").write_text(json.dumps({**starred, **changes}, indent=1))
        return folder / "starred.json"

    done = sample(tmp_path / "out", "--redo", write(copy))
    assert done.code == 0, done.err
    made = sorted(p.name for p in (tmp_path / "out").glob("*.wav"))
    assert made == [names[4], names[11]]
    with pytest.raises(FileNotFoundError, match="is not there: move the list into the folder"):
        redo.read(write(tmp_path), [])
    with pytest.raises(ValueError, match="lists no sound: star some"):
        redo.read(write(copy, sounds=[]), [])
    with pytest.raises(ValueError, match="its sounds need index and file"):
        redo.read(write(copy, sounds=[3]), [])
    with pytest.raises(ValueError, match=r"is not of .*: sound 4 is other\.wav of the run"):
        redo.read(write(copy, sounds=[{"index": 4, "file": "other.wav"}]), [])
    with pytest.raises(ValueError, match=r"is not of .* of the run another in the one"):
        redo.read(write(copy, run="another"), [])
    with pytest.raises(ValueError, match="has no sound 99"):
        redo.read(write(copy, sounds=[{"index": 99, "file": "00099.wav"}]), [])


def test_what_the_model_was_told_is_told_again_to_the_last_digit(run, first):
    facts = np.array([[1, 60.1], [np.nan, 61.25]], np.float32)
    listed = [[None if np.isnan(x) else x for x in row] for row in facts.tolist()]
    rows = [{**row, "facts": f} for row, f in zip(manifest(first), listed, strict=False)]
    original = redo.Original(first / "manifest.jsonl", json.loads(json.dumps(rows)))
    able = run._replace(vocabulary=conditions.Vocabulary(labels=("bass", "bell"), pitch=True))
    plan = redo.plan(able, original, temperature=None, workdir=first)
    np.testing.assert_array_equal(plan.facts(np.arange(2)), facts)
    # The last chunk is filled up.
    assert plan.facts(np.arange(16)).shape == (16, 2)


# What is refused


def test_a_manifest_of_another_run_is_one_line_with_both(sample, first, run, tmp_path):
    copy = shutil.copytree(first, tmp_path / "copy")
    lines = (copy / "manifest.jsonl").read_text().replace(run.fingerprint, "0123456789abcdef")
    (copy / "manifest.jsonl").write_text(lines)
    done = sample(tmp_path / "out", "--redo", copy, "--index", 1)
    assert_one_line(done, 1, "is of the run 0123456789abcdef", run.fingerprint, "--workdir")
    assert not (tmp_path / "out").exists()


def test_a_sound_that_is_not_in_the_manifest_is_one_line(sample, first, tmp_path):
    done = sample(tmp_path / "out", "--redo", first, "--index", 3, 20)
    assert_one_line(done, 1, "has no sound 20", "its 20 are numbered from 0 to 19")


def test_sounds_are_not_made_again_over_themselves(sample, first):
    before = sorted(first.iterdir())
    done = sample(first, "--redo", first, "--index", 3, "--overwrite")
    assert_one_line(done, 1, f"{first} holds the sounds to be made again", "another --out")
    assert sorted(first.iterdir()) == before


def test_float_sounds_are_not_put_into_flac_unasked(sample, first, tmp_path):
    copy = shutil.copytree(first, tmp_path / "copy")
    lines = (copy / "manifest.jsonl").read_text().replace("PCM_24", "FLOAT")
    (copy / "manifest.jsonl").write_text(lines)
    done = sample(tmp_path / "out", "--redo", copy, "--format", "flac")
    assert_one_line(done, 1, "which FLAC does not hold: give --subtype PCM_24")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"\xff\xfe\x00", "it is not text"),
        (b'{"index": 0}\n{"index"\n', "line 2 is not JSON"),
        (b'{"index": 0, "file": "a.wav"}\n', "its lines need index, file, run"),
        (b"[1, 2]\n", "its lines need"),
        (b"", "it holds no line"),
        (b'{"index": "0", "file": "a.wav", "run": "r"}\n', "another kind of it"),
        (b'{"index": -1, "file": "a.wav", "run": "r"}\n', "another kind of it"),
    ],
)
def test_what_is_no_manifest_is_named(tmp_path, text, words):
    (tmp_path / "m.jsonl").write_bytes(text)
    with pytest.raises(ValueError, match=words):
        redo.read(tmp_path / "m.jsonl", [])


@pytest.mark.parametrize("file", ["../../x.wav", "/tmp/x.wav", "..\\x.wav", "C:x.wav"])
def test_nothing_is_written_outside_out_whatever_a_manifest_says(sample, first, tmp_path, file):
    rows = [{**row, "file": file} if row["index"] == 3 else row for row in manifest(first)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    before = sorted(tmp_path.rglob("*"))
    done = sample(tmp_path / "a/b/out", "--redo", tmp_path / "m.jsonl")
    assert_one_line(done, 1, "m.jsonl, line 4, names the file", "leads out of its folder")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["../m.jsonl", "/tmp/m.jsonl", "..\\m.jsonl", "C:m.jsonl", 3])
def test_a_starred_list_names_only_a_manifest_beside_it(tmp_path, name):
    (tmp_path / "sub").mkdir()
    (tmp_path / "m.jsonl").write_text("")
    listed = {"manifest": name, "sounds": [{"index": 0, "file": "x.wav"}]}
    (tmp_path / "sub/starred.json").write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"starred\.json names the file .* leads out of"):
        redo.read(tmp_path / "sub/starred.json", [])


def test_two_lines_of_one_file_become_two_sounds(sample, first, tmp_path):
    rows = [{**row, "file": "x.wav"} for row in manifest(first)[:2]]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = sample(tmp_path / "out", "--redo", tmp_path / "m.jsonl")
    assert done.code == 0, done.err
    made = sorted(p.name for p in (tmp_path / "out").glob("*.wav"))
    assert made == ["x.wav-2.wav", "x.wav.wav"]


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none"):
        redo.read(tmp_path / "none.jsonl", [])
    with pytest.raises(FileNotFoundError, match=r"no file .*manifest\.jsonl"):
        redo.read(tmp_path, [])


def test_what_was_not_drawn_needs_its_latents_and_has_no_temperature(run, first, tmp_path):
    def plan(folder, temperature, changes):
        rows = [{**manifest(first)[0], **changes}]
        original = redo.Original(folder / "manifest.jsonl", rows)
        return redo.plan(run, original, temperature=temperature, workdir=tmp_path)

    morph = {"prior": "between", "seed": None, "temperature": None}
    assert plan(first, None, morph).num == 1
    with pytest.raises(ValueError, match=r"prior is 'between'\), so it has no temperature"):
        plan(first, 0.5, morph)
    with pytest.raises(ValueError, match=r"was not drawn .* there is no latents\.npy beside"):
        plan(tmp_path, None, morph)
    around = {"prior": "around", "around": "kick.wav", "spread": 0.5}
    with pytest.raises(
        ValueError, match=r"a variation of kick\.wav: .* --spread 0\.5 and --seed 3"
    ):
        plan(first, 0.5, around)


def test_latents_that_do_not_go_with_the_manifest_are_named(run, first, tmp_path):
    original = redo.read(first, [19])._replace(path=tmp_path / "manifest.jsonl")
    options = {"temperature": None, "workdir": tmp_path}
    np.save(tmp_path / "latents.npy", np.zeros((3, 8), np.float32))
    with pytest.raises(ValueError, match=r"latents\.npy does not go with .*manifest\.jsonl"):
        redo.plan(run, original, **options)
    np.save(tmp_path / "latents.npy", np.zeros((20, 5), np.float32))
    with pytest.raises(ValueError, match=r"holds \(20, 5\), but this run's latents are \[num, 8\]"):
        redo.plan(run, original, **options)
    (tmp_path / "latents.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"latents\.npy is no NumPy array file"):
        redo.plan(run, original, **options)


def test_sounds_of_different_settings_are_not_mixed(first):
    rows = [{**row, "inversion": ("pghi", "spsi")[i % 2]} for i, row in enumerate(manifest(first))]
    original = redo.Original(first / "manifest.jsonl", rows)
    assert original.setting("subtype") == "PCM_24"
    with pytest.raises(ValueError, match=r"\(inversion: pghi, spsi\); redo them apart"):
        original.setting("inversion")
