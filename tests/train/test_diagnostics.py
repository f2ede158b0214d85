"""What is said of a latent that is dead, half dead, alive, and of what its dimensions do."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV, LeaveOneOut

from vaejax import features
from vaejax.config import Config, Model, Objective, Train
from vaejax.evaluate import factors
from vaejax.metrics import descriptors
from vaejax.models import linear
from vaejax.train import diagnostics, patience


def config_of(latent_dim, **objective):
    return Config(model=Model(latent_dim=latent_dim), objective=Objective(**objective))


def figures(kl, units, **more):
    return {"kl": kl, "active_units": units, **more}


def test_active_units_counts_dimensions_above_the_threshold():
    assert diagnostics.active_units(np.array([0.0, 0.005, 0.02, 3.0])) == 2
    assert diagnostics.active_units(np.zeros(4)) == 0


def test_threshold_is_that_of_burda_et_al():
    assert diagnostics.active_units(np.array([0.0099, 0.0101])) == 1


def test_active_units_do_not_depend_on_the_scale_of_a_learned_prior():
    means, variances = np.array([0.5, 0.0]), np.array([0.5, 1.0])
    for scale in (1e-3, 1.0, 1e3):
        assert diagnostics.active_units(scale * means, scale * (means + variances)) == 1


@pytest.mark.parametrize(("kl", "units"), [(0.0, 0), (0.01, 5), (10.0, 0)])
def test_collapse_is_reported_with_a_way_out(kl, units):
    warning = diagnostics.collapse_warning(figures(kl, units), config_of(16))
    assert "the latent has collapsed" in warning
    assert "--objective.beta" in warning
    assert "of 16" in warning


def test_the_workshops_own_run_is_flagged():
    # 8 dimensions, 5e-4 nats: its decoder had learnt to do without.
    warning = diagnostics.collapse_warning(figures(5e-4, 0), config_of(8))
    assert warning.startswith("the latent has collapsed: KL is 0.0005 nats and no dimension of 8")


@pytest.mark.parametrize(
    ("objective", "kl", "way_out"),
    [
        ({"regularizer": "free_bits", "free_bits": 0.5}, 4.0, "--objective.free_bits"),
        ({"regularizer": "capacity", "capacity": 10.0}, 10.0, "--objective.capacity"),
        ({"regularizer": "tc"}, 0.0, "--objective.tc_weight"),
        ({"prior": "vampprior"}, 2.0, "--objective.beta"),
    ],
)
def test_nats_that_are_free_or_asked_for_do_not_hide_a_collapse(objective, kl, way_out):
    warning = diagnostics.collapse_warning(figures(kl, 0), config_of(8, **objective))
    assert "the latent has collapsed" in warning
    assert way_out in warning


def test_mostly_unused_latent_is_reported_with_the_numbers():
    warning = diagnostics.collapse_warning(figures(8.0, 3), config_of(64))
    assert warning.startswith("only 3 of 64 latent dimensions are in use")
    assert "--model.latent_dim 6" in warning


@pytest.mark.parametrize(("kl", "units", "latent_dim"), [(8.0, 8, 64), (3.0, 2, 8), (1.0, 1, 4)])
def test_a_live_latent_is_no_warning(kl, units, latent_dim):
    assert diagnostics.collapse_warning(figures(kl, units), config_of(latent_dim)) is None


def test_advice_says_what_the_figures_say():
    config, best = config_of(8), {"step": 20, "loss": -5.0}
    text = diagnostics.advice(20, figures(12.0, 8, loss=-5.0), best, config)
    assert text == ("the latent is alive: 8 of 8 dimensions are in use, KL is 12 nats per sound")
    dead = diagnostics.advice(20, figures(0.0, 0, loss=3.0), {"step": 20, "loss": 3.0}, config)
    assert "--objective.beta" in dead


def test_advice_names_the_step_whose_weights_are_kept():
    worse = figures(12.0, 8, mel_l1_db=1.75)
    text = diagnostics.advice(300, worse, {"step": 200, "mel_l1_db": 1.5}, config_of(8))
    assert "best at step 200 (1.5, now 1.75)" in text


# The figures of an evaluation


def terms_of(means, logvars):
    """What `eval_step` says of posteriors [num, latent_dim] under N(0, I)."""
    z = means + np.exp(0.5 * logvars) * np.random.default_rng(9).normal(size=means.shape)
    kl = 0.5 * np.sum(means**2 + np.exp(logvars) - 1 - logvars, 1)
    parts = {"z": z, "mean": means, "logvar": logvars}
    return {
        "kl": kl,
        "kl_per_dim": 0.5 * (means**2 + np.exp(logvars) - 1 - logvars),
        "moments": (means, np.exp(logvars)),
        **{name: jnp.float32(value) for name, value in parts.items()},
    }


def latent_figures(means, logvars):
    config = config_of(means.shape[1])
    return diagnostics.latent_figures({"posterior": {}}, terms_of(means, logvars), config)


def test_a_dead_latent_is_found_in_its_posteriors():
    rng = np.random.default_rng(0)
    dead = latent_figures(1e-3 * rng.normal(size=(64, 8)), np.full((64, 8), -1e-2))
    assert dead["active_units"] == 0
    assert abs(dead["mutual_information"]) < 1e-3
    kl = dead["mutual_information"] + dead["marginal_kl"]
    assert kl < 1e-3
    warning = diagnostics.collapse_warning({**dead, "kl": kl}, config_of(8))
    assert "no dimension of 8 is in use" in warning


def test_information_of_gaussians_is_the_closed_form():
    # z = x + noise: I = 1/2 log(1 + signal / noise), and q(z) is N(0, signal + noise).
    rng = np.random.default_rng(1)
    found = latent_figures(rng.normal(0, np.sqrt(0.7), (1500, 1)), np.full((1500, 1), np.log(0.3)))
    assert found["mutual_information"] == pytest.approx(0.5 * np.log(1 / 0.3), abs=0.06)
    assert found["marginal_kl"] == pytest.approx(0.0, abs=0.06)
    assert found["aggregate_std"] == pytest.approx(1.0, abs=0.05)
    assert found["active_units"] == 1


def test_information_is_at_most_the_logarithm_of_the_sounds():
    found = latent_figures(np.arange(20.0)[:, None] * 100, np.full((20, 1), -4.0))
    assert found["mutual_information"] == pytest.approx(np.log(20), rel=1e-6)


def test_errors_and_shares_are_those_of_the_mean_sound_and_of_pca():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 12)) @ rng.normal(size=(12, 12)) + 1.0
    centred = x - x.mean(0)
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    path = linear.flat((4, 3), 5)._replace(
        loc=jnp.float32(x.mean(0).reshape(4, 3)),
        basis=jnp.float32(right[:5].T.reshape(4, 3, 5)),
    )
    one = partial(diagnostics.errors, condition=jnp.zeros(0), linear=path, latent_dim=3)
    clips = jnp.float32(x.reshape(30, 4, 3))
    found = jax.vmap(one)(clips, 0.5 * (clips + path.loc))
    shares = diagnostics.explained(found, config_of(3))
    expected = np.sum(singular[:3] ** 2) / np.sum(singular**2)
    assert shares["explained_by_pca"] == pytest.approx(expected, rel=1e-4)
    assert shares["explained"] == pytest.approx(0.75, rel=1e-4)
    without = replace(config_of(3), model=Model(latent_dim=3, ppca_clips=0))
    assert "explained_by_pca" not in diagnostics.explained(found, without)


# What dimensions do

RATE, HOP = 8000, 64


def note(z):
    """Magnitudes of a note of three partials: z is gain in dB, semitones, attack in 10 ms."""
    t = jnp.arange(2048) / RATE
    hertz = 400 * 2 ** (z[1] / 12)
    attack = 0.06 * (1 + z[2] / 6)
    # Faded out: a cut sound clicks, and how depends on its phase.
    rise = jnp.clip(t / attack, 0.0, 1.0) * jnp.sin(jnp.pi / 2 * jnp.clip((0.256 - t) / 0.1, 0, 1))
    tone = sum(0.2 * jnp.sin(2 * jnp.pi * k * hertz * t) for k in (1, 2, 3))
    waveform = 10 ** (z[0] / 20) * rise * tone
    return features.compressed_magnitude(waveform, n_fft=512, hop_length=HOP, exponent=1.0)


@pytest.fixture(scope="module")
def found():
    one = partial(diagnostics.effects, note, sample_rate=RATE, seconds=HOP / RATE)
    return jax.tree.map(np.asarray, jax.jit(one)(jnp.zeros(3), jnp.ones(3)))


def test_a_dimension_that_is_a_gain_is_told_in_decibels(found):
    assert found["level"][0] == pytest.approx(1.0, rel=1e-3)
    assert found["size"][0] == pytest.approx(np.log(10) / 20, rel=1e-3)
    for name in ("centroid", "attack", "pitch"):
        assert found[name][0] == pytest.approx(0.0, abs=1e-3)
    assert found["pitch_share"][0] == pytest.approx(1.0, abs=1e-3)


def test_a_dimension_that_is_a_pitch_is_told_in_semitones(found):
    assert found["pitch"][1] == pytest.approx(1.0, rel=0.15)
    assert found["pitch_share"][1] > 0.8
    assert found["centroid"][1] == pytest.approx(1 / 12, rel=0.1)
    assert 350 < found["hertz"][1] < 1300


def test_a_dimension_that_is_an_attack_is_told_in_milliseconds(found):
    assert found["attack"][2] == pytest.approx(10.0, rel=0.4)
    assert abs(found["pitch"][2]) < 0.02
    assert found["time"][2] < 0.07


def test_measures_are_those_of_the_waveform():
    t = np.arange(4096) / RATE
    waveform = jnp.float32(np.sin(2 * np.pi * 900 * t) * np.clip(t / 0.2, 0, 1))
    magnitude = jnp.float32(np.abs(descriptors._magnitude(waveform))) * (4 / descriptors.N_FFT)
    seconds = descriptors.HOP_LENGTH / RATE
    got = diagnostics.measures(magnitude, sample_rate=RATE, seconds=seconds)
    assert float(2 ** got["centroid"]) == pytest.approx(900, rel=2e-3)
    assert float(got["level"]) == pytest.approx(10 * np.log10(np.mean(magnitude**2)), rel=1e-4)
    assert float(got["attack"]) == pytest.approx(0.2, rel=0.35)


# Factors


def test_factors_are_recovered_as_far_as_z_holds_them():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(600, 4))
    noise = rng.normal(size=600)
    known = {
        "linear": z[:, 0] - 2 * z[:, 3] + 7,
        "bent": z[:, 0] ** 2 + np.sin(2 * z[:, 1]),
        "noisy": z[:, 1] + noise,
        "absent": noise,
        "sometimes": np.where(np.arange(600) % 3 == 0, z[:, 2], np.nan),
        "constant": np.ones(600),
        "rare": np.where(np.arange(600) < 300, z[:, 2], np.nan),
    }
    split = [
        ({k: v[part] for k, v in known.items()}, z[part]) for part in (slice(400), slice(400, 600))
    ]
    got = factors.factor_recovery(split[0][1], split[0][0], split[1][1], split[1][0])
    assert got["linear"]["r2_linear"] == 1.0
    assert got["linear"]["r2"] > 0.99
    assert got["linear"]["sounds"] == 200
    assert got["bent"]["r2_linear"] < 0.4
    assert got["bent"]["r2"] > 0.95
    slope = stats.linregress(known["noisy"][400:], z[400:, 1])
    assert got["noisy"]["r2_linear"] == pytest.approx(slope.rvalue**2, abs=0.05)
    assert got["noisy"]["r2"] == pytest.approx(slope.rvalue**2, abs=0.08)
    assert max(got["absent"]["r2"], got["absent"]["r2_linear"]) < 0.05
    assert min(got["sometimes"]["r2"], got["sometimes"]["r2_linear"]) > 0.98
    assert got["sometimes"]["sounds"] == 66
    assert "constant" not in got
    assert "rare" not in got


def test_kernel_ridge_is_scikit_learns_with_what_predicts_left_out_sounds_best():
    rng = np.random.default_rng(1)
    z, new = rng.normal(size=(40, 3)), rng.normal(size=(9, 3))
    targets = np.stack([np.sin(z[:, 0]), z[:, 1] + rng.normal(size=40)], axis=1)
    squares = np.sum((z[:, None] - z) ** 2, -1)
    gammas = [0.5 / (width * np.median(squares)) for width in factors.WIDTHS]
    wanted = []
    for target in targets.T:
        search = GridSearchCV(
            KernelRidge(kernel="rbf"),
            {"gamma": gammas, "alpha": factors.PENALTIES},
            cv=LeaveOneOut(),
            scoring="neg_mean_squared_error",
        )
        # Centred once for all folds, as here.
        search.fit(z, target - target.mean())
        wanted.append(search.predict(new) + target.mean())
    got = factors.kernel_ridge(z, targets, new)
    np.testing.assert_allclose(got, np.stack(wanted, axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({0: 10.0, 50: 8.0, 100: 4.0}, ["still falling", "67%", "--train.num_steps 200"]),
        ({0: 10.0, 50: 4.01, 75: 4.005, 100: 4.0}, ["has settled"]),
        ({0: 10.0, 50: 4.0, 100: 5.0}, ["best at step 50 of 100", "are kept and used"]),
        ({0: 4.0, 50: 5.0, 100: 6.0}, ["best at step 0 of 100", "more sounds"]),
    ],
)
def test_a_finished_run_says_whether_it_was_long_enough(values, words):
    text = diagnostics.when_to_stop(values, patience.BEGIN, Config(train=Train(num_steps=100)))
    for word in words:
        assert word in text
    assert "\n" not in text


def test_a_run_that_stopped_by_itself_is_not_told_to_go_on():
    config = Config(train=Train(num_steps=100, eval_every_steps=10, patience=1, best_by="loss"))
    progress = patience.BEGIN
    for step, value in ((0, 9.0), (10, 1.0), (20, 2.0)):
        progress = patience.after(progress, step, {"loss": value}, [value], config)
    text = diagnostics.when_to_stop({0: 9.0, 10: 1.0, 20: 2.0}, progress, config)
    assert text.startswith("stopped at step 20 of 100: held-out loss last improved at step 10")
    assert "--train.num_steps" not in text


def test_figures_of_a_path_are_of_the_dimensions_of_a_frame():
    """Three frames of two dimensions, of which the second never moves."""
    rng = np.random.default_rng(0)
    kl, means = rng.random((5, 6)), rng.standard_normal((5, 6))
    means[:, 1::2] = 0
    per_dim, active, spread = diagnostics.per_dim(kl, means, np.full((5, 6), 0.25), num_dims=2)
    np.testing.assert_allclose(per_dim, [kl[:, ::2].sum(1).mean(), kl[:, 1::2].sum(1).mean()])
    np.testing.assert_allclose(active, [means[:, ::2].var(), 0])
    np.testing.assert_allclose(spread, active + 0.25)
    assert diagnostics.active_units(active, spread) == 1


def test_errors_of_frames_sum_those_of_each():
    rng = np.random.default_rng(1)
    x, rebuilt = rng.standard_normal((2, 4, 6)).astype(np.float32)
    path = linear.fit_frames(
        rng.standard_normal((3, 8, 6)).astype(np.float32),
        np.zeros((3, 0), np.float32),
        latent_dim=2,
        num_directions=3,
    )
    found = diagnostics.errors(x, rebuilt, jnp.zeros(0), path, latent_dim=2)
    directions = np.asarray(path.directions)[:2]
    rest = (x - path.loc) - (x - path.loc) @ directions.T @ directions
    np.testing.assert_allclose(found["model"], np.sum((x - rebuilt) ** 2), rtol=1e-4)
    np.testing.assert_allclose(found["mean"], np.sum((x - path.loc) ** 2), rtol=1e-4)
    np.testing.assert_allclose(found["pca"], np.sum(rest**2), rtol=1e-4)
