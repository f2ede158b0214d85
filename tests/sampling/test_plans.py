"""Which latents a plan stands for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from vaejax.latent import priors
from vaejax.run import arrays
from vaejax.run.load import load_run
from vaejax.sampling import densities, encoding, plans

DRAW = {"seed": 0, "temperature": 1.0}


@pytest.fixture(scope="module")
def run(trained):
    return load_run(trained)


def covariance_of(mixture):
    return np.asarray(mixture.cholesky[0] @ mixture.cholesky[0].T)


def test_prior_plan_draws_from_the_density_of_its_name(run):
    fitted = plans.from_prior(run, num=3, prior="aggregate", **DRAW)
    np.testing.assert_array_equal(fitted.prior.means, run.instrument.prior.means)
    unit = plans.from_prior(run, num=3, prior="standard", **DRAW)
    np.testing.assert_array_equal(unit.prior.cholesky[0], np.eye(8))
    assert unit.about["prior"] == "standard"


def test_names_have_five_digits_and_more_when_needed(run):
    few = plans.from_prior(run, num=3, prior="standard", **DRAW)
    assert few.stems(2) == "00002"
    many = plans.from_prior(run, num=1_000_001, prior="standard", **DRAW)
    assert many.stems(2) == "0000002"
    assert many.stems(1_000_000) == "1000000"


def test_aggregate_prior_of_an_unfinished_run_is_said_to_be_standard(run):
    unfinished = run._replace(posteriors=None)
    plan = plans.from_prior(unfinished, num=3, prior="aggregate", **DRAW)
    assert plan.about["prior"] == "standard"


def test_label_plan_is_centred_on_the_labels_posteriors(run):
    plan = plans.from_label(run, "bell", num=3, **DRAW)
    labels = np.array([row["label"] for row in run.data["files"]])[run.posteriors.rows]
    own = run.posteriors.means[labels == "bell"]
    keys = jax.random.split(jax.random.key(0), 9)
    z = np.stack([priors.draw(key, plan.prior, temperature=0.0)[0] for key in keys])
    assert np.abs(z[:, None] - own[None]).max(2).min(1).max() < 1e-5
    assert plan.stems(0) == "00000_bell"
    # Nearer to its own sounds than to those of the other labels.
    density = priors.make_log_density(plan.prior)(jnp.asarray(run.posteriors.means))
    density = np.asarray(density)
    assert np.median(density[labels == "bell"]) > np.median(density[labels != "bell"])


def test_unknown_label_and_one_held_out_whole_are_told_apart(run):
    with pytest.raises(ValueError, match=r"knows no label 'x'; it knows: bass, bell, soft"):
        plans.from_label(run, "x", num=1, **DRAW)
    labels = np.array([row["label"] for row in run.data["files"]])[run.posteriors.rows]
    without = run._replace(
        posteriors=arrays.Posteriors(*(a[labels != "bell"] for a in run.posteriors))
    )
    with pytest.raises(ValueError, match="no sound with the label 'bell' is among those"):
        plans.from_label(without, "bell", num=1, **DRAW)


def test_a_training_file_encodes_to_the_posterior_that_was_stored(run, folder):
    for i in (0, 5, 20):
        row = run.posteriors.rows[i]
        mean, variance = encoding.encode_file(run, folder / run.data["files"][row]["file"])
        np.testing.assert_allclose(mean, run.posteriors.means[i], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(variance, run.posteriors.variances[i], rtol=1e-3)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_around_plan_is_the_posterior_widened_by_the_sets_shape(run, folder, spread):
    path = folder / run.data["files"][0]["file"]
    plan = plans.around(run, path, num=3, spread=spread, **DRAW)
    mean, variance = encoding.encode_file(run, path)
    np.testing.assert_allclose(plan.prior.means[0], mean, rtol=1e-5)
    means, variances = run.posteriors.means, run.posteriors.variances
    shape = np.cov(means.T, bias=True) + np.diag(variances.mean(0))
    np.testing.assert_allclose(
        covariance_of(plan.prior), np.diag(variance) + spread**2 * shape, rtol=1e-2, atol=1e-4
    )


def test_between_plan_begins_and_ends_at_the_sounds(run, folder):
    a, b = (folder / run.data["files"][i]["file"] for i in (0, 40))
    plan = plans.between(run, a, b, num=4)
    np.testing.assert_allclose(plan.latents[0], encoding.encode_file(run, a)[0], rtol=1e-5)
    np.testing.assert_allclose(plan.latents[-1], encoding.encode_file(run, b)[0], rtol=1e-5)
    np.testing.assert_allclose(plan.latents[1], (2 * plan.latents[0] + plan.latents[3]) / 3, 1e-4)


def test_spherical_plan_has_the_same_ends_and_bends_away_from_the_centre(run, folder):
    a, b = (folder / run.data["files"][i]["file"] for i in (0, 40))
    straight = plans.between(run, a, b, num=5).latents
    plan = plans.between(run, a, b, num=5, path="spherical")
    assert plan.about["path"] == "spherical"
    np.testing.assert_allclose(plan.latents[[0, -1]], straight[[0, -1]], rtol=1e-3, atol=1e-3)
    centre, shape = densities.gaussian_of(run)

    def radius(z):
        return np.linalg.norm(np.linalg.solve(shape, z - centre))

    assert radius(plan.latents[2]) > radius(straight[2])
    ends = [radius(z) for z in plan.latents[[0, -1]]]
    assert min(ends) - 1e-3 <= radius(plan.latents[2]) <= max(ends) + 1e-3


def test_grid_plan_has_its_sounds_in_the_corners_and_says_where_each_lies(run, folder, capsys):
    corners = [folder / run.data["files"][i]["file"] for i in (0, 13, 26, 40)]
    plan = plans.grid(run, corners, num=7)
    assert "a grid of 3 rows and 2 columns: 6 sounds (7 were asked for)" in capsys.readouterr().out
    assert plan.num == 6
    ends = np.stack([encoding.encode_file(run, corner)[0] for corner in corners])
    np.testing.assert_allclose(plan.latents[[0, 1, 4, 5]], ends, atol=1e-4)
    np.testing.assert_allclose(plan.latents[2], (ends[0] + ends[2]) / 2, atol=1e-4)
    assert [row["grid"] for row in plan.each] == [
        [0.0, 0.0], [1.0, 0.0], [0.0, 0.5], [1.0, 0.5], [0.0, 1.0], [1.0, 1.0]
    ]  # fmt: skip


def test_what_had_to_be_changed_about_a_file_is_said(run, folder, tmp_path, capsys):
    wave = np.sin(0.1 * np.arange(16_000)) * 0.5
    soundfile.write(tmp_path / "fits.wav", wave[:8000], 16_000)
    soundfile.write(tmp_path / "long.wav", wave, 16_000)
    soundfile.write(tmp_path / "slow.wav", wave[:2000], 8000)
    for name, said in (
        ("fits", ""),
        ("long", "long.wav: cropped from 1 to 0.5 s\n"),
        ("slow", "slow.wav: resampled from 8000 to 16000 Hz, padded from 0.25 to 0.5 s\n"),
    ):
        encoding.encode_file(run, tmp_path / f"{name}.wav")
        assert capsys.readouterr().err == said
    plans.reconstruct(run, tmp_path)
    said = "of 3 sounds: 1 cropped, 1 padded, 1 resampled (this run makes 0.5 s at 16000 Hz)\n"
    assert capsys.readouterr().err == said


def test_shifted_plan_makes_the_same_sounds_a_step_further(run, tmp_path):
    dz = np.arange(8, dtype=np.float32)
    drawn = plans.from_prior(run, num=3, prior="aggregate", **DRAW)
    moved = drawn.shifted(dz, {"brighter": 1.0})
    np.testing.assert_allclose(moved.prior.means, drawn.prior.means + dz, rtol=1e-6)
    back = moved.prior._replace(means=drawn.prior.means)
    jax.tree.map(np.testing.assert_array_equal, back, drawn.prior)
    assert moved.about["attribute"] == {"brighter": 1.0}
    np.save(tmp_path / "z.npy", np.ones((2, 8), np.float32))
    given = plans.from_file(run, tmp_path / "z.npy").shifted(dz, {})
    np.testing.assert_array_equal(given.latents, np.ones((2, 8)) + dz)


def test_reconstruct_plan_encodes_every_file_whatever_the_batch(run, folder):
    plan = plans.reconstruct(run, folder)
    assert plan.num == 48  # three batches of 16
    sources = [row["source"] for row in plan.each]
    assert sources == sorted(row["file"] for row in run.data["files"])
    for i in (0, 17, 47):
        mean, _ = encoding.encode_file(run, folder / sources[i])
        np.testing.assert_allclose(plan.latents[i], mean, rtol=1e-3, atol=1e-3)


def test_reconstruct_plan_keeps_both_of_two_files_with_one_stem(run, tmp_path):
    wave = np.sin(0.1 * np.arange(4000)) * 0.5
    soundfile.write(tmp_path / "a.wav", wave, 8000)
    soundfile.write(tmp_path / "a.flac", wave, 8000)
    soundfile.write(tmp_path / "b.wav", wave, 8000)
    plan = plans.reconstruct(run, tmp_path)
    assert sorted(plan.stems(i) for i in range(3)) == ["a.flac", "a.wav", "b"]


def test_reconstruct_plan_leaves_out_what_is_no_sound_and_refuses_if_nothing_is_left(run, tmp_path):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    with pytest.raises(ValueError, match=f"no usable sound in {tmp_path}"):
        plans.reconstruct(run, tmp_path)
    soundfile.write(tmp_path / "good.wav", np.sin(0.1 * np.arange(4000)) * 0.5, 8000)
    assert plans.reconstruct(run, tmp_path).each == [{"source": "good.wav"}]


def test_latents_of_a_file_are_used_as_they_are(run, tmp_path):
    given = np.random.default_rng(0).normal(size=(3, 8))
    np.save(tmp_path / "z.npy", given)
    plan = plans.from_file(run, tmp_path / "z.npy")
    np.testing.assert_array_equal(plan.latents, given.astype(np.float32))
    assert plan.about["seed"] is None


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (np.zeros((3, 5)), r"holds \(3, 5\), but this run's latents are \[num, 8\]"),
        (np.zeros(8), r"holds \(8,\)"),
        (np.full((2, 8), np.nan), "must hold finite"),
        (np.zeros((2, 8), int), "must hold finite floating point"),
    ],
)
def test_latents_that_do_not_fit_are_refused(run, tmp_path, stored, message):
    np.save(tmp_path / "z.npy", stored)
    with pytest.raises(ValueError, match=message):
        plans.from_file(run, tmp_path / "z.npy")


def test_latents_that_are_no_array_are_refused(run, tmp_path):
    (tmp_path / "z.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match=r"is no NumPy array file"):
        plans.from_file(run, tmp_path / "z.npy")
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"is no NumPy array file"):
        plans.from_file(run, tmp_path / "pickled.npy")


# Matching


def test_match_finds_a_nearer_sound_than_the_encoder(run, folder, capsys):
    path = folder / run.data["files"][0]["file"]
    plan = plans.matching(run, path, seed=0)
    assert plan.num == 1
    assert plan.latents.shape == (1, run.config.model.latent_dim)
    assert np.isfinite(plan.latents).all()
    assert plan.about["distance"] < 0.98 * plan.about["start_distance"]
    said = re.search(r"distance to \S+: ([\d.]+) ", capsys.readouterr().out)
    assert float(said[1]) == pytest.approx(plan.about["distance"], abs=1e-3)
