"""The Python door: what it returns, and that it makes the sounds that sample.py makes."""

import jax
import numpy as np
import pytest
import soundfile

import vaejax
from vaejax.sampling import encoding


@pytest.fixture(scope="module")
def run(trained):
    return vaejax.load(trained)


@pytest.fixture(scope="module")
def drawn(run):
    return run.sample(jax.random.key(5), 3)


@pytest.fixture(scope="module")
def clip(run, folder):
    return run.read(folder / "bass" / "00.wav")


def test_run_keeps_its_fields(run, trained):
    assert run.config.model.latent_dim == 8
    assert run.posteriors.means.shape[1] == 8
    assert type(run._replace(step=0)) is type(run)


@pytest.mark.parametrize("label", [None, "bell"])
def test_samples_are_those_of_sample_py_before_they_are_rounded(
    call, trained, run, tmp_path, label
):
    argv = ["--workdir", trained, "--num", 3, "--seed", 5, "--temperature", 0.7]
    argv += [] if label is None else ["--label", label]
    drawn = run.sample(jax.random.key(5), 3, temperature=0.7, label=label)
    assert drawn.shape == (3, 8000)
    assert drawn.dtype == np.float32
    for subtype, dtype in (("FLOAT", "float32"), ("PCM_16", "int16")):
        out = tmp_path / subtype
        assert call("sample", *argv, "--out", out, "--subtype", subtype).code == 0
        files = sorted(out.glob("*.wav"))
        waves = np.stack([soundfile.read(path, dtype=dtype)[0] for path in files])
        if subtype == "FLOAT":
            np.testing.assert_array_equal(waves, drawn)
        else:
            # Rounded to integers: in a program of its own, so a tie may go either way.
            assert np.abs(waves - np.round(drawn * 32767)).max() <= 1
    latents_of = run.draw(jax.random.key(5), 3, temperature=0.7, label=label)
    np.testing.assert_array_equal(np.load(tmp_path / "FLOAT/latents.npy"), latents_of)


def test_asking_for_more_makes_the_same_and_more(run, drawn):
    more = run.sample(jax.random.key(5), 17)  # more than one chunk
    assert more.shape == (17, 8000)
    np.testing.assert_array_equal(more[:3], drawn)


def test_standard_prior_and_temperature_change_the_draws(run):
    key = jax.random.key(1)
    unit = run.draw(key, 200, prior="standard")
    assert abs(unit.mean()) < 4 / np.sqrt(unit.size)
    np.testing.assert_allclose(run.draw(key, 200, prior="standard", temperature=2.0), 2 * unit)


def test_encode_takes_one_or_many_at_any_level(run, clip, drawn):
    mean, logvar = run.encode(clip)
    assert mean.shape == logvar.shape == (8,)
    many, _ = run.encode(np.stack([clip, 0.1 * clip, *drawn]))
    assert many.shape == (5, 8)
    np.testing.assert_allclose(many[0], mean, atol=1e-5)
    np.testing.assert_allclose(many[1], mean, atol=1e-3)


def test_encode_is_that_of_the_files_that_sample_py_reads(run, clip, folder):
    assert np.abs(clip).max() == pytest.approx(1.0, abs=1e-4)
    mean, variance = encoding.encode_file(run, folder / "bass" / "00.wav")
    np.testing.assert_allclose(run.encode(clip)[0], mean, atol=1e-3)
    np.testing.assert_allclose(np.exp(run.encode(clip)[1]), variance, rtol=1e-3)


def test_decode_takes_one_or_many(run, drawn):
    z = run.draw(jax.random.key(5), 3)
    np.testing.assert_array_equal(run.decode(z), drawn)
    np.testing.assert_array_equal(run.decode(z[1]), drawn[1])


@pytest.mark.parametrize("path", ["straight", "spherical"])
def test_morph_begins_and_ends_at_its_sounds_rebuilt(run, clip, drawn, path):
    other = drawn[0]
    steps = run.morph(clip, other, 4, path=path)
    assert steps.shape == (4, 8000)
    ends = run.decode(run.encode(np.stack([clip, other]))[0])
    for step, end in zip(steps[[0, -1]], ends, strict=True):
        assert np.linalg.norm(step - end) < 1e-2 * np.linalg.norm(end)


def test_what_does_not_fit_is_refused_with_what_would(run, clip):
    with pytest.raises(ValueError, match=r"waveform has shape \(5,\); this run's are \[8000\]"):
        run.encode(np.zeros(5))
    with pytest.raises(ValueError, match=r"z has shape \(2, 3, 8\); this run's are \[8\]"):
        run.decode(np.zeros((2, 3, 8)))
    with pytest.raises(ValueError, match="z holds values that are not finite"):
        run.decode(np.full(8, np.nan))
    with pytest.raises(ValueError, match="num=0 must be at least 1"):
        run.sample(jax.random.key(0), 0)
    with pytest.raises(ValueError, match="temperature=-1"):
        run.draw(jax.random.key(0), 1, temperature=-1)
    with pytest.raises(ValueError, match="prior='uniform'"):
        run.draw(jax.random.key(0), 1, prior="uniform")
    with pytest.raises(ValueError, match="knows no label 'kazoo'; it knows: bass, bell, soft"):
        run.sample(jax.random.key(0), 1, label="kazoo")
    with pytest.raises(ValueError, match="num=1 must be at least 2"):
        run.morph(clip, clip, 1)
    with pytest.raises(ValueError, match="path='curved'"):
        run.morph(clip, clip, 2, path="curved")
