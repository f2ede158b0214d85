"""The objective against closed forms in float64, scipy, Monte Carlo and finite differences."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats
from scipy.special import logsumexp

from vaejax import config as configs
from vaejax import features, metrics, objectives, training
from vaejax.config import Config, Data, Features, Model, Objective, Sound
from vaejax.features import Statistics
from vaejax.models import create_model, linear

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


def closed_form_kl(mean, logvar):
    mean, logvar = np.asarray(mean, np.float64), np.asarray(logvar, np.float64)
    return 0.5 * (mean**2 + np.expm1(logvar) - logvar)


# KL


def test_gaussian_kl_matches_the_closed_form():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=50), rng.uniform(-6, 3, 50)
    got = objectives.gaussian_kl(jnp.float32(mean), jnp.float32(logvar))
    np.testing.assert_allclose(got, closed_form_kl(mean, logvar), rtol=1e-5)


def test_gaussian_kl_matches_monte_carlo():
    mean, logvar = np.array([0.5, -1.2, 0.0]), np.array([0.3, -1.0, -2.0])
    draws = mean + np.exp(0.5 * logvar) * np.random.default_rng(0).normal(size=(200_000, 3))
    log_ratio = stats.norm.logpdf(draws, mean, np.exp(0.5 * logvar)) - stats.norm.logpdf(draws)
    error = log_ratio.std(0) / np.sqrt(len(draws))
    got = np.asarray(objectives.gaussian_kl(jnp.asarray(mean), jnp.asarray(logvar)))
    assert (np.abs(got - log_ratio.mean(0)) < 4 * error).all()
    assert error.max() < 0.01


def test_gaussian_kl_is_zero_at_the_prior_with_zero_gradient():
    zero = jnp.zeros(4)
    np.testing.assert_array_equal(objectives.gaussian_kl(zero, zero), 0.0)
    gradient = jax.grad(lambda m, v: jnp.sum(objectives.gaussian_kl(m, v)), argnums=(0, 1))
    for part in gradient(zero, zero):
        np.testing.assert_array_equal(part, 0.0)


@pytest.mark.parametrize("logvar", [1e-3, -1e-3, 1e-2])
def test_gaussian_kl_keeps_its_digits_near_the_prior(logvar):
    # exp(logvar) - 1 - logvar in float32 is off by several percent here.
    got = float(objectives.gaussian_kl(jnp.float32(0.0), jnp.float32(logvar)))
    assert got == pytest.approx(closed_form_kl(0.0, np.float32(logvar)), rel=2e-3)


def test_gaussian_kl_is_never_negative():
    logvar = jnp.linspace(-1, 1, 2001)
    assert (objectives.gaussian_kl(jnp.zeros(2001), logvar) >= 0).all()


# Likelihood


def test_gaussian_nll_matches_scipy():
    rng = np.random.default_rng(1)
    x, mean = rng.normal(size=(2, 6, 7)).astype(np.float32)
    got = float(objectives.gaussian_nll(x, mean, jnp.float32(-0.7)))
    expected = -stats.norm.logpdf(x.astype(np.float64), mean, np.exp(-0.7)).sum()
    assert got == pytest.approx(expected, rel=1e-5)


def test_gaussian_nll_is_least_at_the_root_mean_square_error():
    x = np.random.default_rng(2).normal(size=(40, 50)).astype(np.float32)
    slope = jax.grad(lambda s: objectives.gaussian_nll(x, jnp.zeros_like(x), s))
    best = np.log(np.sqrt(np.mean(x.astype(np.float64) ** 2)))
    assert abs(float(slope(jnp.float32(best)))) < 1e-3 * x.size


def error_of(likelihood, x, mean, sigma):
    """-log p of SciPy, in float64."""
    x, mean = np.asarray(x, np.float64), np.asarray(mean, np.float64)
    if likelihood == "laplace":
        return -stats.laplace.logpdf(x, mean, sigma / np.sqrt(2)).sum()
    if likelihood == "student_t":
        return -stats.t.logpdf(x, 4.0, mean, sigma).sum()
    if likelihood == "von_mises":
        # Of half turns: the density of an angle, times pi.
        angle = stats.vonmises.logpdf(np.pi * (x - mean)[..., 1], 1 / (np.pi * sigma) ** 2)
        others = stats.norm.logpdf(x[..., 0], mean[..., 0], sigma)
        return -angle.sum() - np.log(np.pi) * angle.size - others.sum()
    return -stats.norm.logpdf(x, mean, sigma).sum()


NLLS = {
    "gaussian": objectives.gaussian_nll,
    "laplace": objectives.laplace_nll,
    "student_t": partial(objectives.student_t_nll, degrees_of_freedom=4.0),
    "von_mises": partial(objectives.von_mises_nll, angles=(1,)),
}


@pytest.mark.parametrize("likelihood", NLLS)
@pytest.mark.parametrize("sigma", [0.02, 0.5, 2.0])
def test_likelihoods_match_scipy(likelihood, sigma):
    x, mean = np.random.default_rng(1).uniform(-1, 1, (2, 6, 7, 2)).astype(np.float32)
    got = float(NLLS[likelihood](x, mean, jnp.float32(np.log(sigma))))
    assert got == pytest.approx(error_of(likelihood, x, mean, sigma), rel=2e-5)


def test_angles_wrap_and_other_channels_do_not():
    x, mean = jnp.full((4, 2), 0.99), jnp.full((4, 2), -0.99)
    nll = partial(objectives.von_mises_nll, angles=(1,), log_sigma=jnp.log(0.1))
    both = nll(x, mean)
    turned = nll(x, mean + jnp.array([[0.0, 2.0]] * 4))
    assert float(both) == pytest.approx(float(turned), rel=1e-3)
    assert float(both - nll(x, x)) == pytest.approx(4 * (0.5 * 19.8**2 + 2e-2), rel=0.02)


def test_von_mises_without_angles_is_refused():
    with pytest.raises(ValueError, match=r"no channel of angles; take one with phase"):
        objectives.von_mises_nll(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 0.0, angles=())


def test_multi_resolution_stft_is_a_laplace_density_of_the_distance():
    x = np.random.default_rng(0).normal(size=64).astype(np.float32)
    mean = 0.5 * x
    nll = partial(objectives.multi_resolution_stft_nll, x, mean, sounds=lambda *both: both)
    with jax.numpy_rank_promotion("allow"):
        distance = float(jax.jit(metrics.multi_resolution_stft)(x, mean))
        value_and_slope = jax.jit(jax.value_and_grad(nll))
        b = 0.3 / np.sqrt(2)
        expected = 64 * (np.log(2 * b) + distance / b)
        value, _ = value_and_slope(jnp.float32(np.log(0.3)))
        assert float(value) == pytest.approx(expected, rel=1e-5)
        # Least where b is the distance, as that of any learned scale.
        _, slope = value_and_slope(jnp.float32(np.log(np.sqrt(2) * distance)))
    assert abs(float(slope)) < 1e-3 * 64


def test_sound_of_a_decoders_magnitudes_is_compared_under_the_phase_of_x(make_config):
    config = make_config(data={"clip_seconds": 0.128})
    config = replace(config, sound=Sound(inversion="zero", iterations=1))
    one = Statistics(jnp.zeros(config.features.num_bins), jnp.ones(()))
    t = np.arange(config.data.num_samples) / 8000
    waveform = jnp.float32(0.5 * np.sin(2 * np.pi * 700 * t) * np.exp(-9 * t))

    @jax.jit
    def compared(waveform):
        with jax.numpy_rank_promotion("allow"):
            x = features.x_of(waveform, one, config)
            nll = objectives.likelihood_of(
                replace(config, objective=Objective(likelihood="multi_resolution_stft")), one
            )
            sound, same = objectives.sounds_of(x, x, one, config)
            louder = features.standardise(features.unstandardise(x, one) * 2**0.3, one)
            _, twice = objectives.sounds_of(x, louder, one, config)
            return sound, same, twice, jax.grad(nll, argnums=1)(x, louder, jnp.float32(0.0))

    sound, same, twice, gradient = compared(waveform)
    # As near as two iterations of phase recovery come to magnitudes of its own.
    with jax.numpy_rank_promotion("allow"):
        assert metrics.spectral_convergence_db(sound, same) < -5
    np.testing.assert_allclose(twice, 2 * same, atol=1e-4)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 0


def test_mel_distance_of_magnitudes_is_the_metric_of_their_sounds(make_config):
    config = make_config(features={"n_fft": metrics.sounds.N_FFT, "hop_length": 512})
    config = replace(config, data=replace(config.data, sample_rate=8000, clip_seconds=0.5))
    one = Statistics(jnp.zeros(config.features.num_bins), jnp.ones(()))
    t = np.arange(config.data.num_samples) / 8000
    first = 0.5 * np.sin(2 * np.pi * 700 * t) * np.exp(-9 * t)
    second = np.sin(2 * np.pi * 900 * t) * np.exp(-5 * t)
    second *= np.linalg.norm(first) / np.linalg.norm(second)  # as the metric has it

    @jax.jit
    def compared(first, second):
        with jax.numpy_rank_promotion("allow"):
            x, answer, silence = (
                features.x_of(sound, one, config) for sound in (first, second, 0 * first)
            )
            slope = jax.grad(objectives.mel_db, argnums=1)
            return (
                objectives.mel_db(x, answer, one, config),
                metrics.mel_l1_db(first, second, sample_rate=8000),
                slope(x, answer, one, config),
                slope(x, silence, one, config),
            )

    found, expected, gradient, from_silence = compared(jnp.float32(first), jnp.float32(second))
    assert 1 < float(expected) < 40
    assert float(found) == pytest.approx(float(expected), rel=1e-4)
    assert np.abs(gradient).max() > 0
    assert np.isfinite(gradient).all()
    assert np.isfinite(from_silence).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace"])
def test_optimal_sigma_is_where_the_likelihood_is_highest(likelihood):
    x, mean = np.random.default_rng(3).normal(size=(2, 30, 20)).astype(np.float32)
    objective = Objective(likelihood=likelihood, sigma="optimal")
    best = float(objectives.log_sigma({}, None, x, mean, objective=objective))
    at = [error_of(likelihood, x, mean, np.exp(best + d)) for d in (-0.01, 0.0, 0.01)]
    assert at[1] < min(at[0], at[2])
    # Rybkin et al. 2021: N/2 log MSE and a constant, for the Gaussian.
    if likelihood == "gaussian":
        mse = np.mean((x.astype(np.float64) - mean) ** 2)
        assert at[1] == pytest.approx(0.5 * x.size * np.log(2 * np.pi * np.e * mse), rel=1e-5)


# Reparameterisation


def test_reparameterized_draws_have_the_posteriors_moments(key):
    mean, logvar = jnp.array([0.5, -2.0]), jnp.array([0.0, -3.0])
    draws = jax.vmap(lambda k: objectives.reparameterize(k, mean, logvar))(
        jax.random.split(key, 100_000)
    )
    np.testing.assert_allclose(np.mean(draws, 0), mean, atol=0.015)
    np.testing.assert_allclose(np.var(draws, 0), np.exp(logvar), rtol=0.03)


def test_reparameterized_draw_has_the_gradient_of_its_equation(key):
    mean, logvar = jnp.array([0.5, -2.0]), jnp.array([0.0, -3.0])
    z = objectives.reparameterize(key, mean, logvar)
    by_mean, by_logvar = jax.jacobian(partial(objectives.reparameterize, key), argnums=(0, 1))(
        mean, logvar
    )
    np.testing.assert_allclose(by_mean, np.eye(2))
    np.testing.assert_allclose(by_logvar, np.diag(0.5 * (z - mean)), rtol=1e-5)


def test_gradients_of_the_terms_match_finite_differences_in_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(3)
        mean, logvar = jnp.asarray(rng.normal(size=(2, 5)))
        check_grads(objectives.gaussian_kl, (mean, logvar), order=1, modes=["rev"])
        x, out = jnp.asarray(rng.normal(size=(2, 3, 5)))
        check_grads(objectives.gaussian_nll, (x, out, jnp.asarray(-0.3)), order=1, modes=["rev"])


# One example and a batch

NOTHING, UNTOLD = np.zeros(0, np.float32), np.zeros((3, 0), np.float32)


@pytest.fixture(scope="module")
def case(config, fitted):
    """Model, weights away from their zeros, a batch of spectrograms, and a key for each."""
    model = create_model(config)
    rng = np.random.default_rng(4)
    params = jax.tree.map(
        lambda p: p + 0.08 * rng.standard_normal(p.shape, np.float32),
        training.create_state(config).params,
    )
    shape = (3, config.num_frames, config.features.num_bins)
    batch = jnp.asarray(rng.standard_normal(shape, np.float32))
    return model, params, batch, jax.random.split(jax.random.key(1), 3)


def test_jitted_example_terms_equal_eager_ones(case, config, fitted):
    model, params, batch, keys = case
    terms = partial(objectives.example_terms, model=model, config=config)
    eager = terms(params, batch[0], NOTHING, fitted, keys[0])
    jitted = jax.jit(terms)(params, batch[0], NOTHING, fitted, keys[0])
    for name in eager:
        np.testing.assert_allclose(jitted[name], eager[name], rtol=2e-4, atol=2e-4, err_msg=name)


def test_vmapped_example_terms_equal_a_loop(case, config, fitted):
    model, params, batch, keys = case
    terms = jax.jit(partial(objectives.example_terms, model=model, config=config))
    _, mapped = jax.jit(partial(objectives.batch_loss, model=model, config=config, num_clips=32))(
        params, batch, UNTOLD, fitted, keys
    )
    for i in range(3):
        alone = terms(params, batch[i], NOTHING, fitted, keys[i])
        for name in alone:
            np.testing.assert_allclose(
                mapped[name][i], alone[name], rtol=2e-4, atol=2e-4, err_msg=name
            )


def test_batch_loss_is_the_mean_of_recon_and_beta_times_kl(case, config, fitted):
    model, params, batch, keys = case
    loss = jax.jit(partial(objectives.batch_loss, model=model, config=config, num_clips=32))
    for ramp in (0.0, 0.5, 4.0):
        total, terms = loss(params, batch, UNTOLD, fitted, keys, ramp=ramp)
        expected = np.mean(terms["recon"]) + ramp * np.mean(terms["kl"])
        assert float(total) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(terms["kl"], np.sum(terms["kl_per_dim"], 1), rtol=1e-5)
    np.testing.assert_allclose(
        terms["kl_per_dim"], closed_form_kl(terms["mean"], terms["logvar"]), rtol=1e-3, atol=1e-5
    )


def test_gradient_of_batch_loss_matches_finite_differences_in_every_weight(case, config, fitted):
    model, params, batch, keys = case

    @jax.jit
    def loss(params):
        return objectives.batch_loss(
            params, batch, UNTOLD, fitted, keys, model=model, config=config, ramp=0.7, num_clips=32
        )[0]

    gradient = jax.jit(jax.grad(loss))(params)
    leaves, tree = jax.tree.flatten(params)
    slopes = jax.tree.leaves(gradient)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.flatten_with_path(params)[0]]
    for i, path in enumerate(paths):
        # Along the gradient of one array at a time, as far as changes the loss by some 1e-5 of
        # itself: a hundred times its rounding.
        norm = float(jnp.linalg.norm(slopes[i]))
        assert norm > 0, path
        length = 1e-5 * float(loss(params)) / norm
        step = length * slopes[i] / norm
        ends = [
            float(loss(jax.tree.unflatten(tree, [*leaves[:i], leaves[i] + s, *leaves[i + 1 :]])))
            for s in (step, -step)
        ]
        assert (ends[0] - ends[1]) / (2 * length) == pytest.approx(norm, rel=0.02), path


# Schedules


def ramps(steps, **fields):
    return [float(objectives.ramp_at(step, Objective(**fields))) for step in steps]


def test_the_weight_grows_in_a_straight_line_and_stays():
    steps = [0, 1, 5, 10, 11, 1000]
    got = ramps(steps, beta_warmup_steps=10)
    np.testing.assert_allclose(got, [0, 0.1, 0.5, 1, 1, 1], rtol=1e-6)


def test_without_warm_up_the_weight_is_constant():
    assert ramps([0, 7]) == [1.0, 1.0]


def test_cyclical_weight_starts_again_in_every_cycle():
    # Fu et al. 2019: four cycles, each half rising and half constant.
    got = ramps(range(16), schedule="cyclical", beta_warmup_steps=2, beta_cycle_steps=4)
    np.testing.assert_allclose(got, [0, 0.5, 1, 1] * 4)


# Importance-weighted bound


# Of a model of two dimensions; its shapes are not looked at.
TOY = Config(model=Model(latent_dim=2, ppca_clips=0))


class Linear:
    """x = W z + noise, with the exact posterior or one that is too wide; stands in for a model."""

    def __init__(self, widen):
        rng = np.random.default_rng(0)
        self.w, self.sigma, self.widen = rng.normal(size=(6, 2)), 0.7, widen
        self.precision = np.eye(2) + self.w.T @ self.w / self.sigma**2

    def evidence(self, x):
        covariance = self.w @ self.w.T + self.sigma**2 * np.eye(6)
        return stats.multivariate_normal(np.zeros(6), covariance).logpdf(x.reshape(-1))

    def apply(self, variables, *args, method):
        if method == "encode":
            mean = np.linalg.solve(self.precision, self.w.T / self.sigma**2)
            # Of the diagonal alone: even unwidened it is not exact, as no diagonal one can be.
            logvar = -np.log(np.diag(self.precision)) + self.widen
            return jnp.float32(mean) @ args[0].reshape(-1), jnp.float32(logvar)
        return (jnp.float32(self.w) @ args[0]).reshape(2, 3)

    @property
    def params(self):
        sigma = {"log_sigma_offset": jnp.log(jnp.float32(self.sigma))}
        return {"vae": {}, "likelihood": sigma, "prior": {}, "posterior": {}}


# Its likelihood has sigma alone.
FITTED = training.Fitted(Statistics(jnp.zeros(3), jnp.ones(())), linear.flat((2, 3), 2))


def importance_bounds(model, x, num_draws, count=400):
    keys = jax.random.split(jax.random.key(num_draws), count)
    bound = partial(objectives.importance_bound, model=model, config=TOY, num_draws=num_draws)
    one = partial(bound, model.params, x, jnp.zeros(0), FITTED)
    values, elbos = jax.jit(jax.vmap(one))(keys)
    return np.asarray(values, np.float64), np.asarray(elbos, np.float64)


def test_importance_bound_rises_with_k_to_the_evidence():
    model, x = Linear(widen=1.0), jnp.float32(np.random.default_rng(1).normal(size=(2, 3)))
    counts = {1: 4000, 4: 4000, 16: 4000, 1000: 400}
    results = {k: importance_bounds(model, x, k, count)[0] for k, count in counts.items()}
    means = [values.mean() for values in results.values()]
    errors = [values.std() / np.sqrt(len(values)) for values in results.values()]
    evidence = model.evidence(np.asarray(x, np.float64))
    for k in range(3):
        assert means[k + 1] - means[k] > 3 * np.hypot(errors[k], errors[k + 1])
        assert means[k] < evidence
    assert evidence - means[0] > 0.5
    assert means[3] == pytest.approx(evidence, abs=4 * errors[3] + 0.005)


def test_importance_bound_at_k_1_is_the_elbo_in_expectation():
    model, x = Linear(widen=0.5), jnp.float32(np.random.default_rng(2).normal(size=(2, 3)))
    values, elbos = importance_bounds(model, x, 1, 4000)
    np.testing.assert_allclose(values, elbos, rtol=1e-6)
    keys = jax.random.split(jax.random.key(9), 4000)
    one = partial(objectives.example_terms, model=model, config=TOY)
    terms = jax.jit(jax.vmap(partial(one, model.params, x, jnp.zeros(0), FITTED)))(keys)
    expected = -np.asarray(terms["recon"] + terms["kl"], np.float64)
    error = np.hypot(values.std(), expected.std()) / np.sqrt(4000)
    assert values.mean() == pytest.approx(expected.mean(), abs=4 * error)
    _, mean_elbos = importance_bounds(model, x, 20)
    error = np.hypot(mean_elbos.std() / 20, expected.std() / np.sqrt(4000))
    assert mean_elbos.mean() == pytest.approx(expected.mean(), abs=4 * error)


def test_importance_bound_at_step_0_is_the_evidence(case, config, fitted):
    # The posterior of the linear path is exact: every weight is the evidence.
    model, _, batch, keys = case
    params, x = training.create_state(config).params, batch[0]
    bound = jax.jit(partial(objectives.importance_bound, model=model, config=config, num_draws=16))
    many, elbo = bound(params, x, NOTHING, fitted, keys[0])
    basis = np.asarray(fitted.linear.directions, np.float64)[: config.model.latent_dim]
    basis = basis.reshape(len(basis), -1)
    noise = float(fitted.linear.noise)
    values = np.asarray(fitted.linear.eigenvalues, np.float64)[: len(basis)]
    centred = np.asarray(x - fitted.linear.loc, np.float64).reshape(-1)
    along = basis @ centred
    # Tipping & Bishop 1999, equation 4, in the axes of the covariance.
    rest = (centred**2).sum() - (along**2).sum()
    log_det = np.log(values).sum() + (centred.size - len(basis)) * np.log(noise)
    evidence = -0.5 * (
        centred.size * np.log(2 * np.pi) + log_det + (along**2 / values).sum() + rest / noise
    )
    for value in (float(many), float(elbo)):
        assert value == pytest.approx(evidence, rel=1e-4)


# Every choice


class Toy:
    """x [2, 3] <-> z [2] by matrices that are trained; of the shapes of TOY."""

    @staticmethod
    def params(config):
        rng = np.random.default_rng(0)
        vae = {"encoder": rng.normal(size=(4, 6)), "decoder": rng.normal(size=(6, 2))}
        moved = jax.tree.map(
            lambda a: a + 0.3 * rng.standard_normal(a.shape),
            objectives.init(jax.random.key(0), config),
        )
        return jax.tree.map(jnp.asarray, {"vae": vae, **moved})

    def apply(self, variables, *args, method):
        weights = variables["params"]
        if method == "encode":
            mean, logvar = jnp.split(weights["encoder"] @ args[0].reshape(-1), 2)
            return 0.3 * mean, -1.0 + 0.3 * logvar
        return (weights["decoder"] @ args[0]).reshape(2, 3)


SMALL = {"latent_width": 3, "flow_layers": 2}


def toy_config(**fields):
    return Config(
        data=Data(sample_rate=1000, clip_seconds=0.003),
        features=Features(n_fft=4, hop_length=2),
        model=Model(latent_dim=2, num_directions=2, ppca_clips=0),
        objective=Objective(
            **{"num_draws": 3, "prior_components": 3, "top_dim": 1, **SMALL, **fields}
        ),
    )


def toy_loss(config, **keywords):
    """loss(params, x [batch, 2, 3], keys) -> (loss, terms)."""

    def loss(params, x, keys):
        return objectives.batch_loss(
            params,
            x,
            jnp.zeros((len(x), 0)),
            FITTED,
            keys,
            model=Toy(),
            config=config,
            num_clips=50,
            **keywords,
        )

    return loss


CHOICES = [
    {"likelihood": "laplace", "sigma": "per_bin", "regularizer": "free_bits", "free_bits": 0.3},
    {"likelihood": "student_t", "sigma": "fixed", "regularizer": "capacity"},
    {"sigma": "optimal", "regularizer": "tc"},
    {"posterior": "flow", "regularizer": "mmd"},
    {"prior": "mixture", "bound": "iwae"},
    {"prior": "vampprior"},
    {"prior": "hierarchical"},
]


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(map(str, c.values())))
def test_every_gradient_is_that_of_its_loss(choice):
    """Against finite differences in float64, along random directions of all weights at once."""
    with jax.enable_x64(True):
        config = toy_config(**choice)
        params = Toy.params(config)
        rng = np.random.default_rng(1)
        x, keys = jnp.asarray(rng.normal(size=(4, 2, 3))), jax.random.split(jax.random.key(1), 4)
        loss = jax.jit(jax.value_and_grad(toy_loss(config, ramp=0.7), has_aux=True))
        gradient = loss(params, x, keys)[1]
        for part in jax.tree.leaves(gradient):
            assert np.isfinite(part).all()
            assert np.abs(part).max() > 0
        direction = jax.tree.map(lambda a: rng.standard_normal(a.shape), params)

        def along(distance):
            at = jax.tree.map(lambda a, d: a + distance * d, params, direction)
            return float(loss(at, x, keys)[0][0])

        parts = jax.tree.map(lambda g, d: float(np.sum(g * d)), gradient, direction)
        slope = sum(jax.tree.leaves(parts))
        # Perceptrons end in float32, whose rounding a smaller step would see.
        assert (along(1e-3) - along(-1e-3)) / 2e-3 == pytest.approx(slope, rel=1e-3)


def test_gradient_of_dreg_is_the_doubly_reparameterised_one():
    """Against its equation (Tucker et al. 2019), each factor by finite differences in float64."""
    with jax.enable_x64(True):
        config = toy_config(bound="dreg", beta=0.6)
        params = Toy.params(config)
        x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2, 3)))
        key = jax.random.key(3)
        (value, terms), gradient = jax.jit(jax.value_and_grad(toy_loss(config), has_aux=True))(
            params, x, key[None]
        )
        log_w = -np.asarray(terms["draws"]["recon"] + 0.6 * terms["draws"]["kl"])[0]
        assert float(value) == pytest.approx(np.log(3) - logsumexp(log_w), rel=1e-9)
        share = np.exp(log_w - logsumexp(log_w))
        eps = np.stack([jax.random.normal(k, (2,)) for k in jax.random.split(key, 3)])
        encoder, decoder = (np.asarray(params["vae"][k]) for k in ("encoder", "decoder"))
        flat = np.asarray(x).reshape(-1)
        sigma = np.exp(float(params["likelihood"]["log_sigma_offset"]))

        def said(encoder):
            mean, logvar = np.split(encoder @ flat, 2)
            return 0.3 * mean, np.exp(0.5 * (-1.0 + 0.3 * logvar))

        def log_weights(decoder, z):
            """Of three draws, with q(z|x) as it stands."""
            mean, scale = said(encoder)
            log_p = stats.norm.logpdf(z).sum(1) - stats.norm.logpdf(z, mean, scale).sum(1)
            return stats.norm.logpdf(flat, z @ decoder.T, sigma).sum(1) + 0.6 * log_p

        def z_of(encoder):
            mean, scale = said(encoder)
            return mean + scale * eps

        def slope(function, at, weights):
            """Of the sum of weights times function, by central differences."""
            result = np.zeros_like(at)
            for i in np.ndindex(at.shape):
                step = np.zeros_like(at)
                step[i] = 1e-5
                result[i] = weights @ (function(at + step) - function(at - step)) / 2e-5
            return result

        np.testing.assert_allclose(log_weights(decoder, z_of(encoder)), log_w, rtol=1e-9)
        by_decoder = slope(lambda d: log_weights(d, z_of(encoder)), decoder, share)
        by_encoder = slope(lambda e: log_weights(decoder, z_of(e)), encoder, share**2)
        np.testing.assert_allclose(gradient["vae"]["decoder"], -by_decoder, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(gradient["vae"]["encoder"], -by_encoder, rtol=1e-5, atol=1e-7)


def test_iwae_loss_is_the_importance_bound_and_tighter_than_the_elbo():
    x = jnp.float32(np.random.default_rng(1).normal(size=(1, 2, 3)))
    model, count = Linear(widen=1.0), 4000
    keys, given = jax.random.split(jax.random.key(0), count), (jnp.zeros((count, 0)), FITTED)
    config = replace(TOY, objective=Objective(bound="iwae", num_draws=16))
    loss, terms = objectives.batch_loss(
        model.params,
        jnp.repeat(x, count, 0),
        *given,
        keys,
        model=model,
        config=config,
        num_clips=1,
    )
    bounds, elbos = importance_bounds(model, x[0], 16, count)
    error = 2 * bounds.std() / np.sqrt(count)
    assert -float(loss) == pytest.approx(bounds.mean(), abs=4 * error)
    assert -float(loss) > elbos.mean() + 0.5
    # What is logged beside it are the terms of the ELBO.
    elbo = -float(jnp.mean(terms["recon"] + terms["kl"]))
    assert elbo == pytest.approx(elbos.mean(), abs=4 * elbos.std() / np.sqrt(count) + 0.02)


def test_monte_carlo_kl_has_the_closed_form_as_its_mean():
    # A mixture of one N(0, I) takes the road of densities.
    config = toy_config(prior="mixture", prior_components=1)
    params = jax.tree.map(jnp.float32, Toy.params(config))
    params["prior"] = {
        "means": jnp.zeros((1, 2)),
        "logvars": jnp.zeros((1, 2)),
        "logits": jnp.zeros(1),
    }
    x = jnp.repeat(jnp.float32(np.random.default_rng(1).normal(size=(1, 2, 3))), 20_000, 0)
    _, terms = jax.jit(toy_loss(config))(params, x, jax.random.split(jax.random.key(0), len(x)))
    for name, expected in (
        ("kl", closed_form_kl(terms["mean"][0], terms["logvar"][0]).sum()),
        ("kl_per_dim", closed_form_kl(terms["mean"][0], terms["logvar"][0])),
    ):
        drawn = np.asarray(terms[name], np.float64)
        error = drawn.std(0) / np.sqrt(len(drawn))
        assert (np.abs(drawn.mean(0) - expected) < 4 * error).all()
        assert np.max(error) < 0.02


# What stands beside the reconstruction

TERMS = {
    "recon": jnp.array([3.0, 5.0]),
    "kl": jnp.array([1.0, 2.0]),
    "kl_per_dim": jnp.array([[0.1, 0.9], [0.3, 1.7]]),
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"beta": 2.0}, 4 + 2 * 0.5 * 1.5),
        # Kingma et al. 2016: sum_d max(0.4, mean kl_d) = 0.4 + 1.3.
        ({"regularizer": "free_bits", "free_bits": 0.4, "beta": 2.0}, 4 + 2 * 0.5 * 1.7),
        ({"regularizer": "free_bits", "free_bits": 0.0}, 4 + 0.5 * 1.5),
        # Burgess et al. 2018: gamma |KL - C|, C half grown.
        ({"regularizer": "capacity", "capacity": 10.0, "beta": 3.0}, 4 + 3 * abs(1.5 - 5)),
        ({"regularizer": "capacity", "capacity": 1.0, "beta": 3.0}, 4 + 3 * abs(1.5 - 0.5)),
    ],
)
def test_regularizers_are_their_equations(fields, expected):
    objective = Objective(**fields)
    loss, _ = objectives.loss_of(TERMS, objective=objective, ramp=0.5, num_clips=2)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_the_mel_spectrum_counts_by_its_weight_beside_the_bound():
    terms = {**TERMS, "mel_db": jnp.array([0.5, 1.5])}
    loss, _ = objectives.loss_of(
        terms, objective=Objective(mel_weight=100.0), ramp=0.5, num_clips=2
    )
    assert float(loss) == pytest.approx(4 + 0.5 * 1.5 + 100 * 1.0, rel=1e-6)


def gaussian_batch(num, correlation, sigma, seed=0):
    rng = np.random.default_rng(seed)
    covariance = np.array([[1, correlation], [correlation, 1]])
    means = rng.multivariate_normal(np.zeros(2), covariance - sigma**2 * np.eye(2), num)
    z = means + sigma * rng.normal(size=(num, 2))
    logvar = np.full((num, 2), 2 * np.log(sigma))
    prior_z = rng.normal(size=(num, 2))
    return objectives.Batch(*(jnp.float32(a) for a in (z, means, logvar, prior_z)))


def test_total_correlation_of_a_gaussian_is_the_closed_form():
    batch = gaussian_batch(1500, 0.8, 0.3)
    found = np.asarray(objectives.total_correlation(batch, num_clips=1500), np.float64)
    error = found.std() / np.sqrt(len(found))
    expected = -0.5 * np.log(1 - 0.8**2)
    assert found.mean() == pytest.approx(expected, abs=4 * error)
    assert error < 0.03


def test_total_correlation_of_a_batch_weighs_the_sounds_that_are_not_in_it():
    batch = gaussian_batch(5, 0.5, 0.4)
    got = objectives.total_correlation(batch, num_clips=40)
    z, means = np.asarray(batch.z, np.float64), np.asarray(batch.mean, np.float64)
    density = stats.norm.pdf(z[:, None], means, 0.4)  # [draws, posteriors, 2]
    weights = np.full((5, 5), (1 - 1 / 40) / 4) + np.eye(5) * (1 / 40 - (1 - 1 / 40) / 4)
    np.testing.assert_allclose(weights.sum(1), 1)
    joint = np.log((weights * density.prod(2)).sum(1))
    each = np.log((weights[:, :, None] * density).sum(1)).sum(1)
    np.testing.assert_allclose(got, joint - each, rtol=1e-4)


def test_maximum_mean_discrepancy_of_gaussians_is_the_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 2500, 2)) * [[[0.5]], [[1.0]]] + [[[0.8]], [[0.0]]]
    batch = objectives.Batch(jnp.float32(a), None, None, jnp.float32(b))
    found = np.asarray(objectives.maximum_mean_discrepancy(batch, num_clips=1), np.float64)

    def kernel(variance, offset):
        """E k(a, b) where a - b ~ N(offset, variance) in two dimensions, k's variance being 2."""
        each = np.sqrt(2 / (2 + variance)) * np.exp(-(offset**2) / (2 * (2 + variance)))
        return each**2

    expected = kernel(0.5, 0) + kernel(2.0, 0) - 2 * kernel(1.25, 0.8)
    assert found.mean() == pytest.approx(expected, abs=5 * found.std() / np.sqrt(2500))
    assert expected > 10 * found.std() / np.sqrt(2500)
    same = objectives.Batch(batch.prior_z[:1000], None, None, batch.prior_z[1000:2000])
    nothing = objectives.maximum_mean_discrepancy(same, num_clips=1)
    assert abs(float(jnp.mean(nothing))) < 5e-3


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"likelihood": "gausian"}, "objective.likelihood='gausian' is none of: gaussian, laplace"),
        ({"prior": "vamp"}, "is none of: standard, mixture, vampprior, hierarchical"),
        ({"schedule": "cyclical"}, "needs a rise within each cycle"),
        ({"bound": "iwae", "regularizer": "tc"}, "has no room for objective.regularizer=tc"),
        ({"bound": "iwae", "mel_weight": 9.0}, "has no room for objective.mel_weight=9.0"),
        ({"bound": "dreg", "prior": "hierarchical"}, "take iwae"),
        ({"regularizer": "tc", "posterior": "flow"}, "take gaussian"),
        ({"likelihood": "student_t", "sigma": "optimal"}, "take shared"),
        ({"likelihood": "multi_resolution_stft", "sigma": "per_bin"}, "objective.sigma=shared"),
        ({"prior": "hierarchical", "top_dim": 65}, "at most the 64 dimensions"),
        ({"num_draws": 0}, "objective.num_draws=0 must be greater than 0"),
    ],
)
def test_objectives_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        configs.check(Config(objective=Objective(**fields)))
