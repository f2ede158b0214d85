"""Sounds of which the model is told their label, pitch or factors."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from vaejax import codec
from vaejax.config import Condition
from vaejax.data import pack
from vaejax.data.sounds import describe
from vaejax.features import conditions
from vaejax.features.conditions import Vocabulary
from vaejax.keys import Keys
from vaejax.latent import priors
from vaejax.run import load
from vaejax.sampling import conditioned, densities, generate, plans
from vaejax.sampling.conditioned import Conditioning
from vaejax.signal.pitch import pitch
from vaejax.synthesizer import Synthesizer
from vaejax.train import evaluation
from vaejax.train.fit import fit
from vaejax.train.state import create_state

KEYS = (60, 64, 67, 72)
DRAW = {"seed": 3, "temperature": 1.0}


def notes(config, num):
    """Saw-like tones on four keys, in two folders that differ in their decay."""
    rng = np.random.default_rng(11)
    rate, samples = config.data.sample_rate, config.pack_samples
    t = np.arange(samples) / rate
    keys = np.array([KEYS[(i // 2) % len(KEYS)] for i in range(num)], float)
    labels = [("held", "plucked")[i % 2] for i in range(num)]
    clips = []
    for key, label in zip(keys, labels, strict=True):
        hz = 440 * 2 ** ((key - 69) / 12)
        tone = sum(rng.uniform(0.5, 1) / n * np.sin(2 * np.pi * n * hz * t) for n in range(1, 8))
        tone *= np.exp(-t * (2 if label == "held" else 15)) * np.minimum(1, t * 400)
        clips.append(np.round(32767 * tone / np.abs(tone).max()).astype(np.int16))
    packed = pack.Corpus(
        clips=np.stack(clips),
        lengths=np.full(num, samples, np.int32),
        names=[f"{labels[i]}/{i:03d}.wav" for i in range(num)],
        labels=labels,
        hashes=[f"{(i * 2654435761) % 2**32:032x}" for i in range(num)],
        factors={"pitch": keys.astype(np.float32)},
        rejected=[],
        sample_rate=rate,
        source="memory",
        fingerprint="memory",
    )
    held_out = np.zeros(num, bool)
    held_out[::5] = True
    return describe(packed, held_out, keys, config)


@pytest.fixture(scope="module")
def run(make_config):
    """What a run folder holds at step 0, where the model is conditional pPCA."""
    config = dataclasses.replace(
        make_config(
            augment={"pitch_semitones": 0},
            model={"num_directions": 32, "ppca_clips": 128},
        ),
        condition=Condition(label=True, pitch=True),
    )
    sounds = notes(config, 80)
    fitted = fit(sounds, config)
    params = create_state(config, sounds.told.condition_dim).ema
    untold, aggregate = evaluation.fit_prior(params, fitted, sounds, config)
    embedding = evaluation.fit_embedding(sounds, config)
    return load.Run(
        config=config,
        instrument=codec.Instrument(params, fitted, untold.prior, embedding),
        data=sounds.listing,
        step=0,
        posteriors=untold.posteriors,
        fingerprint="test",
        vocabulary=sounds.told,
        told=aggregate,
    )


def facts(plan, num=None):
    return plan.facts(np.arange(plan.num if num is None else num))


def test_told_the_key_z_need_not_say_it(run):
    files = [run.data["files"][row] for row in run.posteriors.rows]
    keys = np.eye(4)[[KEYS.index(int(row["pitch"])) for row in files]]

    def explained(means):
        """Share of the variance of z that the key explains."""
        means = means - means.mean(0)
        fit = keys @ np.linalg.lstsq(keys, means, rcond=None)[0]
        return (fit**2).sum() / (means**2).sum()

    assert explained(run.posteriors.means) > 0.5
    assert explained(run.told.posteriors.means) < 0.1


def test_sounds_have_the_pitch_that_the_model_is_told(run):
    plan = conditioned.draws(run, Conditioning(pitches=Keys(60, 72)), num=16, **DRAW)
    decoder = generate.make_decoder(run.config, "FLOAT")
    draw = generate.make_drawer()
    index = np.arange(16, dtype=np.uint32)
    z = draw(plan.prior, jax.random.key(3), index, jnp.float32(0.5))
    wanted = np.array([KEYS[i % 4] for i in range(16)], np.float32)
    given = facts(plan)
    given[:, 1] = wanted
    waveforms = np.asarray(decoder(run.instrument, z, given)["samples"])
    measure = jax.jit(jax.vmap(lambda w: pitch(w, sample_rate=run.config.data.sample_rate)[0]))
    found = 69 + 12 * np.log2(np.asarray(measure(waveforms)) / 440)
    assert (np.abs(found - wanted) < 0.5).mean() >= 14 / 16


def test_keys_take_turns_and_labels_are_as_asked(run):
    plan = conditioned.draws(run, Conditioning("plucked", Keys(60, 62)), num=10, **DRAW)
    values = [conditions.values_of(run.vocabulary, row) for row in facts(plan)]
    assert [v["pitch"] for v in values] == [60, 61, 62] * 3 + [60]
    assert {v["label"] for v in values} == {"plucked"}
    assert plan.about["label"] == "plucked"


def test_what_is_not_asked_for_is_borrowed_from_one_training_sound(run):
    plan = conditioned.draws(run, Conditioning("held"), num=200, **DRAW)
    keys = {conditions.values_of(run.vocabulary, row)["pitch"] for row in facts(plan)}
    assert keys == set(KEYS)
    everything = conditioned.draws(run, Conditioning(pitches=Keys(60, 60)), num=200, **DRAW)
    labels = [conditions.values_of(run.vocabulary, row)["label"] for row in facts(everything)]
    assert 60 < labels.count("held") < 140


def test_only_sounds_that_have_a_pitch_lend_their_label_to_one(run):
    files = [
        {**row, "pitch": None if row["label"] == "held" else row["pitch"]}
        for row in run.data["files"]
    ]
    drums = run._replace(data={**run.data, "files": files})
    plan = conditioned.draws(drums, Conditioning(pitches=Keys(60, 62)), num=40, **DRAW)
    labels = {conditions.values_of(run.vocabulary, row)["label"] for row in facts(plan)}
    assert labels == {"plucked"}
    asked = conditioned.draws(drums, Conditioning("held", Keys(60, 62)), num=3, **DRAW)
    assert [conditions.values_of(run.vocabulary, row)["pitch"] for row in facts(asked)] == [
        60,
        61,
        62,
    ]


def test_facts_of_a_sound_do_not_depend_on_how_many_are_asked_for(run):
    few = conditioned.draws(run, Conditioning(pitches=Keys(48, 72)), num=5, **DRAW)
    many = conditioned.draws(run, Conditioning(pitches=Keys(48, 72)), num=50, **DRAW)
    np.testing.assert_array_equal(facts(few), facts(many, 5))
    other = conditioned.draws(
        run, Conditioning(pitches=Keys(48, 72)), num=50, seed=4, temperature=1.0
    )
    assert (facts(other)[:, 0] != facts(many)[:, 0]).any()


def test_multisample_plays_each_draw_at_every_key(run):
    plan = conditioned.draws(
        run, Conditioning(pitches=Keys(60, 63), multisample=True), num=3, **DRAW
    )
    assert plan.num == 12
    assert plan.about["multisample"] == 4
    for i in range(3):
        same = plan.latents[4 * i : 4 * i + 4]
        np.testing.assert_array_equal(same, np.broadcast_to(same[0], same.shape))
        rows = facts(plan)[4 * i : 4 * i + 4]
        np.testing.assert_array_equal(rows[:, 1], [60, 61, 62, 63])
        assert len(set(rows[:, 0])) == 1
    assert np.abs(plan.latents[0] - plan.latents[4]).max() > 0
    # The draws are those of plain sampling.
    alone = conditioned.draws(run, Conditioning(pitches=Keys(60, 60)), num=3, **DRAW)
    z = generate.make_drawer()(
        alone.prior, jax.random.key(3), np.arange(16, dtype=np.uint32), jnp.float32(1.0)
    )
    np.testing.assert_array_equal(plan.latents[::4], z[:3])


def test_a_run_that_is_told_nothing_says_so(run):
    plain = run._replace(vocabulary=conditions.Vocabulary(), told=None)
    with pytest.raises(ValueError, match="cannot be told pitch; it was told nothing"):
        conditioned.draws(plain, Conditioning(pitches=Keys(60, 60)), num=1, **DRAW)
    unfinished = run._replace(told=None, posteriors=None)
    with pytest.raises(ValueError, match="was not finished"):
        conditioned.draws(unfinished, Conditioning(pitches=Keys(60, 60)), num=1, **DRAW)


def test_density_of_a_label_is_centred_on_its_sounds(run):
    labels = np.array([row["label"] for row in run.data["files"]])[run.told.posteriors.rows]
    expected = run.told.posteriors.means[labels == "held"].mean(0)
    density = densities.conditioned(run, "held")
    centres = density.means
    if isinstance(density, priors.Windows):
        centres = centres[density.chosen]
    np.testing.assert_allclose(centres.mean(0), expected, atol=1e-4)
    with pytest.raises(ValueError, match="no label 'x'"):
        densities.conditioned(run, "x")
    assert densities.rows_with_label(run, "held").sum() == (labels == "held").sum()


def test_variations_of_a_file_are_told_its_pitch_and_played_at_others(run, tmp_path):
    rate = run.config.data.sample_rate
    t = np.arange(run.config.data.num_samples) / rate
    hz = 440 * 2 ** ((64 - 69) / 12)
    tone = sum(np.sin(2 * np.pi * n * hz * t) / n for n in range(1, 8)) * np.exp(-2 * t)
    path = tmp_path / "tone.wav"
    soundfile.write(path, 0.4 * tone, rate)
    asked = Conditioning(pitches=Keys(60, 72), multisample=True)
    plan = conditioned.around(run, path, asked, spread=0.0, num=1, seed=0, temperature=0.0)
    assert plan.num == 13
    rows = facts(plan)
    np.testing.assert_array_equal(rows[:, 1], np.arange(60, 73))
    assert np.isnan(rows[:, 0]).all()
    # Told its pitch, the sound lies where the model expects a sound of that pitch to lie.
    untold = plans.around(run, path, spread=0.0, num=1, seed=0, temperature=0.0)
    assert np.linalg.norm(plan.latents[0]) < np.linalg.norm(untold.prior.means[0])


def test_the_door_tells_what_it_is_told(run):
    player = Synthesizer(*run)
    key = jax.random.key(3)
    sounds = player.sample(key, 4, label="held", pitch=64, temperature=0.5)
    plan = conditioned.draws(
        run, Conditioning("held", Keys(64, 64)), num=4, seed=3, temperature=0.5
    )
    z = player.draw(key, 4, label="held", pitch=64, temperature=0.5)
    decoder = generate.make_decoder(run.config, "FLOAT")
    chunk = generate.chunk_size()
    rows = np.pad(z, ((0, chunk - 4), (0, 0))), np.pad(facts(plan), ((0, chunk - 4), (0, 0)))
    np.testing.assert_array_equal(sounds, decoder(run.instrument, *rows)["samples"][:4])
    other = player.decode(z, label="held", pitch=72)
    assert np.abs(other - sounds).max() > 0.1
    np.testing.assert_array_equal(player.decode(z[0], label="held", pitch=64), sounds[0])
    with pytest.raises(ValueError, match="cannot be told pitch"):
        Synthesizer(*run._replace(vocabulary=conditions.Vocabulary())).decode(z, pitch=60)


def test_keys_of_a_range_move_the_chroma_too():
    run = SimpleNamespace(vocabulary=Vocabulary(pitch=True, chroma=True))
    told = Conditioning(pitches=Keys(60, 62)).with_keys(
        run, np.zeros((4, 2), np.float32), np.arange(4)
    )
    np.testing.assert_array_equal(told, [[60, 0], [61, 1], [62, 2], [60, 0]])
