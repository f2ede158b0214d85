"""The generator: a function of (run, seed, index), and what is done to a sound after decoding."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import codec
from vaejax.data import sounds as sets
from vaejax.data.clips import raw_clip
from vaejax.drawing import thumbnails
from vaejax.export.samples import quantize
from vaejax.latent import priors
from vaejax.run.load import load_run
from vaejax.sampling import generate

# Facts of a chunk of sounds for a model that is told nothing.
UNTOLD = np.zeros((generate.chunk_size(), 0), np.float32)


@pytest.fixture(scope="module")
def loaded(trained):
    return load_run(trained)


@pytest.fixture(scope="module")
def make(loaded):
    """Generates a chunk of sounds by index with the trained run."""
    draw, decode = generate.make_drawer(), generate.make_decoder(loaded.config, "PCM_16")
    instrument = loaded.instrument

    def make(indices, seed=0, temperature=1.0):
        indices, key = np.asarray(indices, np.uint32), jax.random.key(seed)
        z = draw(instrument.prior, key, indices, jnp.float32(temperature))
        return jax.tree.map(np.asarray, decode(instrument, z, UNTOLD))

    return make


def with_sound(config, **changes):
    return dataclasses.replace(config, sound=dataclasses.replace(config.sound, **changes))


# One sound, whatever is made beside it


def test_a_sound_depends_on_its_index_and_not_on_its_batch(make):
    chunk = generate.chunk_size()
    ordered = make(range(chunk))
    reverse = make(range(chunk - 1, -1, -1))
    others = make([*range(chunk // 2), *range(1000, 1000 + chunk - chunk // 2)])
    for name in ("samples", "z", "peak", "rms_db", "nearest", "thumbnail"):
        np.testing.assert_array_equal(ordered[name], reverse[name][::-1], err_msg=name)
        np.testing.assert_array_equal(
            ordered[name][: chunk // 2], others[name][: chunk // 2], err_msg=name
        )


def test_a_sound_depends_on_its_seed(make):
    chunk = generate.chunk_size()
    first, other = make(range(chunk)), make(range(chunk), seed=1)
    assert (first["samples"] != other["samples"]).any(1).all()


def test_generator_equals_one_sound_at_a_time(loaded, make):
    chunk = generate.chunk_size()
    batch = make(range(chunk))
    one = jax.jit(partial(generate.sound_of, config=loaded.config, subtype="PCM_16"))
    for i in (0, chunk - 1):
        key = jax.random.fold_in(jax.random.key(0), i)
        z, _ = priors.draw(key, loaded.instrument.prior, temperature=1.0)
        alone = one(loaded.instrument, z, UNTOLD[0])
        np.testing.assert_allclose(alone["z"], batch["z"][i], rtol=1e-4, atol=1e-5)
        # The phase recovery carries a rounding of the magnitudes on, at -60 dB or below.
        error = np.asarray(alone["samples"], np.float64) - batch["samples"][i]
        assert np.sqrt(np.mean(error**2)) < 1e-3 * 32767
        assert int(alone["nearest"]) == batch["nearest"][i]
        np.testing.assert_allclose(alone["novelty"], batch["novelty"][i], rtol=0.02)


def test_jitted_sound_equals_the_eager_one(loaded):
    z = jnp.zeros(8)
    args = loaded.instrument.params, loaded.instrument.fitted, z, UNTOLD[0]
    decode = partial(codec.decode, config=with_sound(loaded.config, iterations=0))
    eager, eager_db = decode(*args)
    jitted, jitted_db = jax.jit(decode)(*args)
    error = np.linalg.norm(np.asarray(eager) - np.asarray(jitted)) / np.linalg.norm(eager)
    assert error < 1e-3
    assert float(eager_db) == pytest.approx(float(jitted_db), abs=0.05)


def test_decoder_makes_the_generators_sounds_from_its_latents(loaded, make):
    drawn = make(range(generate.chunk_size()))
    decoded = generate.make_decoder(loaded.config, "PCM_16")(loaded.instrument, drawn["z"], UNTOLD)
    for name in decoded:
        np.testing.assert_array_equal(decoded[name], drawn[name], err_msg=name)


def test_sounds_are_exactly_one_clip_at_the_peak_asked_for(loaded, make):
    samples = make(range(generate.chunk_size()))["samples"]
    assert samples.dtype == np.int16
    assert samples.shape[1] == loaded.config.data.num_samples
    peak = 10 ** (loaded.config.sound.peak_db / 20) * 32767
    np.testing.assert_allclose(np.abs(samples.astype(int)).max(1), peak, atol=1)


def test_spectral_convergence_is_that_of_the_sound_against_the_decoders_magnitude(loaded):
    instrument = loaded.instrument
    decode = jax.jit(partial(codec.decode, config=with_sound(loaded.config, iterations=0)))
    better = jax.jit(partial(codec.decode, config=with_sound(loaded.config, iterations=32)))
    args = instrument.params, instrument.fitted, instrument.prior.means[0], UNTOLD[0]
    assert float(better(*args)[1]) < float(decode(*args)[1]) < 0


# After decoding


def test_finish_scales_the_peak_and_ends_in_silence(config):
    config = with_sound(config, peak_db=-6.0, fade_out_ms=10.0)
    x = np.float32(0.01) * np.sin(0.3 * np.arange(2000)).astype(np.float32)
    y = np.asarray(codec.finish(x, config))
    assert np.abs(y).max() == pytest.approx(10 ** (-6 / 20), rel=1e-5)
    assert y[-1] == 0.0
    # 10 ms at 8 kHz are 80 samples; what is before them is only scaled.
    np.testing.assert_allclose(y[:1920], x[:1920] * (y[5] / x[5]), rtol=1e-5)
    assert np.abs(y[1990:]).max() < 0.1 * np.abs(y).max()


def test_finish_without_fade_keeps_the_last_sample(config):
    y = codec.finish(np.ones(2000, np.float32), with_sound(config, fade_out_ms=0.0, peak_db=0))
    np.testing.assert_allclose(y, 1.0)


def test_finish_leaves_silence_silent(config):
    np.testing.assert_array_equal(codec.finish(np.zeros(2000, np.float32), config), 0.0)


def test_quantize_uses_the_whole_range_of_each_subtype():
    x = np.float32([0.0, 1.0, -1.0, 0.5])
    pcm_16 = quantize(x, "PCM_16")
    assert pcm_16.dtype == jnp.int16
    np.testing.assert_array_equal(pcm_16, [0, 32767, -32767, 16384])
    pcm_24 = quantize(x, "PCM_24")
    assert pcm_24.dtype == jnp.int32
    np.testing.assert_array_equal(pcm_24, np.array([0, 8388607, -8388607, 4194304]) * 256)
    np.testing.assert_array_equal(quantize(x, "FLOAT"), x)


# What is said of a sound


def test_a_training_sound_is_its_own_nearest_with_no_novelty(loaded, folder):
    config = loaded.config
    held = sets.load(config)
    describe = jax.jit(partial(generate.describe, config=config))
    for i in (0, 11):
        pcm, length, _ = held.read(held.train_rows[[i]])
        clip = raw_clip(pcm[0], length[0], config)
        about = describe(clip, loaded.instrument.embedding)
        assert int(about["nearest"]) == i
        assert float(about["novelty"]) < 0.01
        assert float(about["peak"]) == pytest.approx(1.0, abs=1e-4)
        expected = 10 * np.log10(np.mean(np.square(clip)))
        assert float(about["rms_db"]) == pytest.approx(expected, abs=1e-3)


def test_thumbnail_shows_a_tone_where_it_is(config):
    t = np.arange(2000) / 8000
    rows = []
    for hz in (300, 3000):
        picture = thumbnails.thumbnail(np.float32(np.sin(2 * np.pi * hz * t)), config=config)
        assert picture.shape == (48, 64)
        assert picture.dtype == jnp.uint8
        rows.append(int(np.asarray(picture).mean(1).argmax()))
    assert rows[1] < rows[0]  # low frequencies are in the last rows
    silence = thumbnails.thumbnail(np.zeros(2000, np.float32), config=config)
    np.testing.assert_array_equal(silence, 0)


def test_thumbnail_shows_silence_before_a_sound(config):
    x = np.zeros(2000, np.float32)
    x[1000:] = np.random.default_rng(0).uniform(-1, 1, 1000)
    columns = np.asarray(thumbnails.thumbnail(x, config=config)).mean(0)
    assert columns[:25].max() < 0.2 * columns[40:].min()


def test_outline_is_the_largest_magnitude_of_each_stretch():
    x = np.zeros(6400, np.float32)
    x[150], x[-1] = -0.5, 1.0
    expected = np.zeros(64)
    expected[1], expected[-1] = round(255 * 0.5), 255
    np.testing.assert_array_equal(thumbnails.outline(x), expected)


def test_outline_of_a_length_that_does_not_divide_covers_the_end():
    x = np.zeros(1000, np.float32)
    x[-1] = 1.0
    outline = np.asarray(thumbnails.outline(x))
    assert outline.max() == 255
    assert len(outline) == 64
