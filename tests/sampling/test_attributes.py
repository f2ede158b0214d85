"""Directions with a name: against a known truth, and by what the decoder makes of them."""

import shutil
from functools import partial

import jax
import numpy as np
import pytest

import vaejax
from vaejax.latent import priors
from vaejax.sampling import attributes, densities, generate


@pytest.fixture(scope="module", autouse=True)
def few_sounds():
    """Eight latents need fewer sounds than many do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attributes, "NUM_SOUNDS", 256)
        yield


@pytest.fixture(scope="module")
def workdir(trained, tmp_path_factory):
    """A copy of the trained run: measuring leaves a file in it."""
    copy = tmp_path_factory.mktemp("attributes") / "run"
    return shutil.copytree(trained, copy)


@pytest.fixture(scope="module")
def run(workdir):
    return vaejax.load(workdir)


@pytest.fixture(scope="module")
def measures(run):
    """What the sounds of latents measure, [num, len(MEASURES)]."""
    program = jax.jit(jax.vmap(partial(attributes.measure, config=run.config)))
    return lambda z: generate.in_chunks(program, run.decode(z), 16)


# The regression


@pytest.mark.parametrize("noise", [0.0, 0.5, 2.0])
def test_fit_finds_a_linear_truth_and_what_share_of_it_can_be_known(noise):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 6))
    truth = np.array([2.0, -1.0, 0.0, 0.5, 0.0, 0.0])
    y = 40 + x @ truth + noise * rng.normal(size=2000)
    slope, r2 = attributes.fit(x, y)
    np.testing.assert_allclose(slope, truth, atol=0.12)
    assert r2 == pytest.approx(truth @ truth / (truth @ truth + noise**2), abs=0.03)


def test_left_out_r2_is_that_of_fitting_without_each_sound_in_turn():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(25, 4))
    y = x[:, 0] + rng.normal(size=25)
    scores = []
    for penalty in attributes.RIDGES:
        errors = []
        for i in range(25):
            rest = np.arange(25) != i
            mean_x, mean_y = x[rest].mean(0), y[rest].mean()
            a = (x[rest] - mean_x).T @ (x[rest] - mean_x) + penalty * np.eye(4)
            slope = np.linalg.solve(a, (x[rest] - mean_x).T @ (y[rest] - mean_y))
            errors.append(y[i] - mean_y - (x[i] - mean_x) @ slope)
        scores.append(1 - np.mean(np.square(errors)) / np.var(y))
    assert attributes.fit(x, y)[1] == pytest.approx(max(scores), abs=1e-6)


def test_fit_of_pure_noise_and_of_a_constant_explains_nothing():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 5))
    assert attributes.fit(x, rng.normal(size=200))[1] < attributes.MIN_R2
    assert attributes.fit(x, np.full(200, 3.0))[1] == 0.0


# The step


def test_a_brighter_step_makes_brighter_sounds_and_a_negative_one_darker(run, workdir, measures):
    z = run.draw(jax.random.key(0), 48)
    before = measures(z)[:, 0]
    dz, said = attributes.step(run, {"brighter": 1.0}, workdir=workdir)
    assert "octaves of spectral centroid (R2 0." in said[0]
    assert np.median(measures(z + dz)[:, 0] - before) > 0.1
    opposite, _ = attributes.step(run, {"brighter": -1.0}, workdir=workdir)
    np.testing.assert_allclose(opposite, -dz, rtol=1e-5)
    assert np.median(measures(z - dz)[:, 0] - before) < -0.1


def test_a_step_is_the_shortest_that_makes_all_changes_at_once(run, workdir):
    sounds = attributes.measure_run(run, workdir)
    names = list(attributes.MEASURES)
    fits = [attributes.fit(sounds.steps, sounds.changes[:, i]) for i in range(len(names))]
    known = [i for i, (_, r2) in enumerate(fits) if r2 > attributes.MIN_R2][:2]
    amounts = dict(zip([names[i] for i in known], (1.0, 0.0), strict=True))
    dz, _ = attributes.step(run, amounts, workdir=workdir)
    covariance = priors.covariance(run.posteriors.means, run.posteriors.variances)
    dw = np.linalg.solve(np.linalg.cholesky(covariance), dz)
    slopes = np.stack([fits[i][0] for i in known])
    deviation = sounds.values[:, known[0]].std()
    np.testing.assert_allclose(slopes @ dw, [deviation, 0.0], atol=1e-3 * deviation)
    # Nothing of it changes neither: it lies in the span of the slopes.
    rest = dw - slopes.T @ np.linalg.lstsq(slopes.T, dw, rcond=None)[0]
    assert np.linalg.norm(rest) < 1e-3 * np.linalg.norm(dw)


def test_a_label_is_the_way_from_all_others_to_it(run):
    dz, _ = attributes.step(run, {"bell": 0.5})
    chosen = densities.rows_with_label(run, "bell")
    means = run.posteriors.means
    np.testing.assert_allclose(dz, 0.5 * (means[chosen].mean(0) - means[~chosen].mean(0)), 1e-4)


def test_what_was_measured_is_kept_and_the_same_without(run, workdir, capsys):
    first = attributes.measure_run(run, workdir)
    capsys.readouterr()
    again = attributes.measure_run(run, workdir)
    assert capsys.readouterr().out == ""
    # Into a run folder that cannot be written to.
    anew = attributes.measure_run(run, workdir / "missing")
    assert "measuring 512 sounds" in capsys.readouterr().out
    for name in attributes.Measured._fields:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_array_equal(getattr(first, name), getattr(anew, name))
    # Of other weights or damaged, it is not used.
    attributes.measure_run(run._replace(fingerprint="another"), workdir)
    assert "measuring 512 sounds" in capsys.readouterr().out
    (workdir / "attributes.npz").write_bytes(b"no archive")
    np.testing.assert_array_equal(attributes.measure_run(run, workdir).values, first.values)
    assert "measuring 512 sounds" in capsys.readouterr().out


# What is refused


def test_unknown_attributes_list_the_known(run):
    with pytest.raises(
        ValueError, match=r"no attribute 'warm'; it knows: brighter, noisier, .*bass, bell, soft"
    ):
        attributes.step(run, {"warm": 1.0})


def test_an_attribute_that_the_latent_does_not_know_is_refused(run, workdir, monkeypatch):
    sounds = attributes.measure_run(run, workdir)
    random = sounds._replace(changes=np.random.default_rng(0).normal(size=sounds.changes.shape))
    monkeypatch.setattr(attributes, "measure_run", lambda *_: random)
    with pytest.raises(
        ValueError, match=r"latent says nothing of 'slower' \(change of attack time: R2 -?0\.\d+"
    ):
        attributes.step(run, {"slower": 1.0}, workdir=workdir)


def test_an_unfinished_run_has_no_attributes(run):
    with pytest.raises(ValueError, match="this run was not finished"):
        attributes.step(run._replace(posteriors=None), {"brighter": 1.0})
