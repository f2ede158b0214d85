"""The objective against closed forms in float64, scipy, Monte Carlo and finite differences."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import stats

from vaejax import objectives, training
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


def test_jitted_example_terms_equal_eager_ones(case, fitted):
    model, params, batch, keys = case
    terms = partial(objectives.example_terms, model=model)
    eager = terms(params, batch[0], NOTHING, fitted.linear, keys[0])
    jitted = jax.jit(terms)(params, batch[0], NOTHING, fitted.linear, keys[0])
    for name in eager:
        np.testing.assert_allclose(jitted[name], eager[name], rtol=2e-4, atol=2e-4, err_msg=name)


def test_vmapped_example_terms_equal_a_loop(case, fitted):
    model, params, batch, keys = case
    terms = jax.jit(partial(objectives.example_terms, model=model))
    _, mapped = jax.jit(partial(objectives.batch_loss, model=model))(
        params, batch, UNTOLD, fitted.linear, keys, beta=1.0
    )
    for i in range(3):
        alone = terms(params, batch[i], NOTHING, fitted.linear, keys[i])
        for name in alone:
            np.testing.assert_allclose(
                mapped[name][i], alone[name], rtol=2e-4, atol=2e-4, err_msg=name
            )


def test_batch_loss_is_the_mean_of_recon_and_beta_times_kl(case, fitted):
    model, params, batch, keys = case
    loss = jax.jit(partial(objectives.batch_loss, model=model))
    for beta in (0.0, 0.5, 4.0):
        total, terms = loss(params, batch, UNTOLD, fitted.linear, keys, beta=beta)
        expected = np.mean(terms["recon"]) + beta * np.mean(terms["kl"])
        assert float(total) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(terms["kl"], np.sum(terms["kl_per_dim"], 1), rtol=1e-5)
    np.testing.assert_allclose(
        terms["kl_per_dim"], closed_form_kl(terms["mean"], terms["logvar"]), rtol=1e-3, atol=1e-5
    )


def test_gradient_of_batch_loss_matches_finite_differences_in_every_weight(case, fitted):
    model, params, batch, keys = case

    @jax.jit
    def loss(params):
        return objectives.batch_loss(
            params, batch, UNTOLD, fitted.linear, keys, model=model, beta=0.7
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


# Warm-up


def test_beta_grows_in_a_straight_line_and_stays():
    at = partial(objectives.beta_at, beta=0.5, warmup_steps=10)
    steps = [0, 1, 5, 10, 11, 1000]
    np.testing.assert_allclose([at(step) for step in steps], [0, 0.05, 0.25, 0.5, 0.5, 0.5])


def test_beta_without_warm_up_is_constant():
    assert float(objectives.beta_at(0, beta=0.5, warmup_steps=0)) == 0.5


# Importance-weighted bound


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
        return {"vae": {}, "likelihood": {"log_sigma_offset": jnp.log(jnp.float32(self.sigma))}}


# Its likelihood has sigma alone.
PATH = linear.flat((2, 3), 2)


def importance_bounds(model, x, num_draws, count=400):
    keys = jax.random.split(jax.random.key(num_draws), count)
    bound = partial(objectives.importance_bound, model.params, x, jnp.zeros(0), PATH)
    values, elbos = jax.jit(jax.vmap(lambda k: bound(k, model=model, num_draws=num_draws)))(keys)
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
    terms = jax.jit(
        jax.vmap(
            lambda k: objectives.example_terms(model.params, x, jnp.zeros(0), PATH, k, model=model)
        )
    )(keys)
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
    bound = jax.jit(partial(objectives.importance_bound, model=model, num_draws=16))
    many, elbo = bound(params, x, NOTHING, fitted.linear, keys[0])
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
