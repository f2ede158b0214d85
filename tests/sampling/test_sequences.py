"""Paths and loops of a model of frames: through the Python door and through sample.py."""

import json

import numpy as np
import pytest
import soundfile

import vaejax
from vaejax.latent import paths
from vaejax.sampling import sequences
from vaejax.sampling.sequences import Form

LOOP_STEP = 1.0  # of the seam, over the largest step inside


@pytest.fixture(scope="module")
def run(trained_frames):
    return vaejax.load(trained_frames)


@pytest.fixture(scope="module")
def sample(call, trained_frames):
    def sample(out, *argv, workdir=trained_frames):
        return call("sample", "--workdir", workdir, "--out", out, *argv)

    return sample


@pytest.fixture(scope="module")
def clip(run, folder):
    return run.read(folder / "bass" / "00.wav")


@pytest.fixture(scope="module")
def held(sample, tmp_path_factory):
    out = tmp_path_factory.mktemp("held") / "out"
    done = sample(out, "--num", 3, "--hold", 0.5, "--names", "label", "--sfz")
    assert done.code == 0, done.err
    return out


@pytest.fixture(scope="module")
def moved(sample, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("moved") / "out"
    ends = folder / "bass" / "00.wav", folder / "bell" / "01.wav"
    done = sample(out, "--between", *ends, "--morph", 0.72)
    assert done.code == 0, done.err
    return out


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def sounds(out):
    return [soundfile.read(out / row["file"])[0] for row in manifest(out)]


def smpl_loop(path):
    """(start, end) in the smpl chunk of a WAV, by its bytes."""
    data = path.read_bytes()
    at = data.index(b"smpl") + 8
    assert int.from_bytes(data[at + 28 : at + 32], "little") == 1
    start = at + 36 + 8
    return tuple(int.from_bytes(data[i : i + 4], "little") for i in (start, start + 4))


def test_held_sounds_are_loops_of_whole_hops_without_a_seam(run, held):
    hop = run.config.features.hop_length
    for row, sound in zip(manifest(held), sounds(held), strict=True):
        assert len(sound) == round(0.5 * run.config.data.sample_rate / hop) * hop
        assert row["seconds"] == pytest.approx(len(sound) / row["sample_rate"], abs=1e-6)
        assert (row["loop"]["start"], row["loop"]["end"]) == (0, len(sound) - 1)
        assert smpl_loop(held / row["file"]) == (0, len(sound) - 1)
        step = abs(sound[0] - sound[-1])
        assert step <= LOOP_STEP * np.abs(np.diff(sound)).max()
        assert row["loop"]["step"] <= LOOP_STEP
        assert row["fade_out_ms"] == 0
        # As loud at the end as in the middle.
        level = [np.std(part) for part in np.split(sound[: len(sound) // 4 * 4], 4)]
        assert max(level) < 1.5 * min(level)
    text = next(held.glob("*.sfz")).read_text()
    assert "loop_mode=loop_continuous" in text


def test_held_sounds_are_those_of_the_python_door(run, held):
    z = np.load(held / "latents.npy")
    loops = run.hold(z, 0.5)
    for loop, sound in zip(loops, sounds(held), strict=True):
        assert np.abs(loop - sound).max() < 2.5 / 32768  # a rounding and its dither
    for row, loop, path in zip(manifest(held), loops, z, strict=True):
        frame = round(row["held_at"] * row["sample_rate"] / run.config.features.hop_length)
        one = run.hold(path.reshape(run.config.num_frames, -1)[frame], 0.5)
        np.testing.assert_allclose(one, loop, atol=1e-3)


def test_held_sounds_are_made_again_and_loop_at_another_rate_too(sample, held, tmp_path):
    done = sample(tmp_path / "again", "--redo", held / "manifest.jsonl", "--index", 1)
    assert done.code == 0, done.err
    (row,) = manifest(tmp_path / "again")
    before = manifest(held)[1]
    assert row == {**before, "latent_row": 0}
    assert (tmp_path / "again" / row["file"]).read_bytes() == (held / row["file"]).read_bytes()
    argv = ["--redo", held / "manifest.jsonl", "--index", 1, "--sample_rate", 44100]
    assert sample(tmp_path / "rate", *argv).code == 0
    (row,) = manifest(tmp_path / "rate")
    (sound,) = sounds(tmp_path / "rate")
    assert row["loop"]["end"] == len(sound) - 1
    assert row["seconds"] == pytest.approx(before["seconds"], abs=1e-4)
    assert abs(sound[0] - sound[-1]) <= LOOP_STEP * np.abs(np.diff(sound)).max()


def test_morph_is_one_sound_from_frame_to_frame_and_is_made_again(
    run, moved, sample, folder, tmp_path
):
    (row,), (sound,) = manifest(moved), sounds(moved)
    features = run.config.features
    steps = 1 + round(0.72 * run.config.data.sample_rate / features.hop_length)
    assert len(sound) == (steps - 1) * features.hop_length
    assert (row["morph"], row["between"]) == (0.72, ["00.wav", "01.wav"])
    path = np.load(moved / "latents.npy").reshape(steps, -1)
    t = np.linspace(0, 1, steps)
    np.testing.assert_allclose(path, paths.straight(path[0], path[-1], t), atol=1e-5)
    for end, name in ((path[0], "bass/00.wav"), (path[-1], "bell/01.wav")):
        mean, _ = run.encode(run.read(folder / name))
        frames = mean.reshape(run.config.num_frames, -1)
        assert np.abs(frames - end).max(1).min() < 1e-4
    # It begins and ends with a fade.
    fade = round(0.002 * run.config.data.sample_rate)
    inside = np.abs(sound).max()
    assert np.abs(sound[:fade]).max() < inside
    assert abs(sound[-1]) < 0.01
    again = tmp_path / "again"
    assert sample(again, "--redo", moved).code == 0
    assert (again / row["file"]).read_bytes() == (moved / row["file"]).read_bytes()
    assert manifest(again) == [row]


def test_moving_morph_begins_as_the_one_and_ends_as_the_other(run, sample, folder, tmp_path):
    ends = [folder / "bass" / "00.wav", folder / "bell" / "01.wav"]
    argv = ["--between", *ends, "--morph", 0.72, "--at", "moving", "--path", "spherical"]
    done = sample(tmp_path / "out", *argv)
    assert done.code == 0, done.err
    width = run.config.model.latent_dim
    path = np.load(tmp_path / "out/latents.npy").reshape(-1, width)
    for end, file, at in ((path[0], ends[0], 0), (path[-1], ends[1], -1)):
        frames = run.encode(run.read(file))[0].reshape(-1, width)
        np.testing.assert_allclose(end, frames[at], atol=1e-3)


def test_a_path_from_a_file_is_one_sound_and_frames_are_held(run, moved, sample, tmp_path):
    width = run.config.model.latent_dim
    path = np.load(moved / "latents.npy").reshape(-1, width)
    np.save(tmp_path / "path.npy", path)
    out = tmp_path / "path"
    assert sample(out, "--latents", tmp_path / "path.npy", "--dither", "none").code == 0
    (sound,) = sounds(out)
    assert len(sound) == (len(path) - 1) * run.config.features.hop_length
    door = run.decode_path(path)
    assert np.abs(door - sound).max() < 2 / 32768
    loops = tmp_path / "loops"
    np.save(tmp_path / "frames.npy", path[::30])
    assert sample(loops, "--latents", tmp_path / "frames.npy", "--hold", 0.5).code == 0
    assert len(manifest(loops)) == len(path[::30])
    np.testing.assert_array_equal(np.load(loops / "latents.npy"), path[::30])


def test_a_clip_is_the_path_of_its_frames(run, clip):
    mean, logvar = run.encode(clip)
    path, path_logvar = run.encode_path(clip)
    np.testing.assert_allclose(path.reshape(-1), mean, atol=1e-4)
    np.testing.assert_allclose(path_logvar.reshape(-1), logvar, atol=1e-4)
    longer, _ = run.encode_path(np.concatenate([clip, clip]))
    assert longer.shape == (1 + 2 * len(clip) // run.config.features.hop_length, path.shape[1])


def test_a_recordings_own_phases_rebuild_it_better_than_recovered_ones(run, clip):
    path, _ = run.encode_path(clip)
    own = run.decode_path(path, phases_of=clip)
    assert own.shape == clip.shape
    recovered = np.resize(run.decode_path(path), clip.shape)

    def alike(a):
        return np.dot(a, clip) / np.linalg.norm(a) / np.linalg.norm(clip)

    assert alike(own) > max(alike(recovered), 0.5)


def test_what_needs_frames_says_so_and_what_would_do(trained, sample, folder, tmp_path):
    plain = vaejax.load(trained)
    for what in (
        lambda: plain.hold(np.zeros(8), 1.0),
        lambda: plain.decode_path(np.zeros((9, 8))),
        lambda: plain.encode_path(np.zeros(8000)),
    ):
        with pytest.raises(ValueError, match=r"needs a model of frames .*this run's is conv1d"):
            what()
    ends = folder / "bass" / "00.wav", folder / "bell" / "01.wav"
    for argv in (["--hold", 1], ["--between", *ends, "--morph", 1]):
        done = sample(tmp_path / "out", *argv, workdir=trained)
        assert done.code == 1
        assert "needs a model of frames" in done.err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--hold", 0], "--hold 0 must be more than 0 seconds"),
        (["--morph", 2], "--morph goes with --between"),
        (["--between", "a", "b", "--morph", 2, "--num", 3], "--num does not go with it"),
        (["--between", "a", "b", "--morph", 2, "--hold", 2], "a loop does not move"),
        (["--at", 1], "--at goes with --hold or --morph"),
        (["--hold", 1, "--at", "moving"], "--at moving goes with --morph"),
        (["--hold", 1, "--at", "soon"], "--at soon must be a moment in seconds"),
        (["--hold", 1, "--inversion", "pghi"], "--inversion does not go with it"),
        (["--hold", 1, "--fade_out", 5], "a loop from end to end"),
        (["--hold", 1, "--loop"], "a loop from end to end"),
    ],
)
def test_options_that_do_not_go_together_are_usage(sample, tmp_path, argv, words):
    done = sample(tmp_path / "out", *argv)
    assert done.code == 2
    assert words in done.err


def test_lengths_and_moments_that_cannot_be_are_refused_with_those_that_can(run):
    with pytest.raises(ValueError, match=r"of 0.001 s cannot be made: this run's take 0\.\d+ to"):
        sequences.loop_form(run.config, 0.001)
    with pytest.raises(ValueError, match="to 600 s"):
        sequences.steps_of(run.config, 601)
    with pytest.raises(ValueError, match="9 s is no moment of this run's sounds"):
        sequences.loop_form(run.config, 1, at=9)
    with pytest.raises(ValueError, match="13 values is no multiple of the 4"):
        sequences.path_form(run.config, 13)
    with pytest.raises(ValueError, match=r"which are 63 frames, and the path 20 steps"):
        run.decode_path(np.zeros((20, 4)), phases_of=np.zeros(8000))
    with pytest.raises(ValueError, match=r"recording of shape \(5,\)"):
        run.encode_path(np.zeros(5))


def test_long_loops_are_made_few_at_a_time(run):
    config = run.config
    for hops, rows in ((config.num_frames - 1, 16), (4 * config.num_frames, 2), (10**4, 1)):
        assert sequences.rows_per_call(Form(hops=hops), config, 16) == rows
    assert sequences.rows_per_call(sequences.CLIP, config, 16) == 16


def test_stretched_plays_every_frame_once_along_the_way():
    frames = np.arange(5.0)[:, None]
    blends = np.broadcast_to(frames, (9, 5, 1))
    np.testing.assert_allclose(sequences.stretched(blends)[:, 0], np.arange(9) / 2)
    np.testing.assert_array_equal(sequences.stretched(blends[:, :1]), np.zeros((9, 1)))
