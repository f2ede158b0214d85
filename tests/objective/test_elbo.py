"""The loss against closed forms in float64, Monte Carlo and finite differences."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from vaejax import codec
from vaejax.config import Config, Data, Features, Model, Objective
from vaejax.features import Statistics
from vaejax.models import create_model, linear
from vaejax.objective import context
from vaejax.objective.batch import batch_loss, example_terms
from vaejax.objective.bounds import importance_bound
from vaejax.objective.context import bind
from vaejax.train.state import create_state

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


def closed_form_kl(mean, logvar):
    mean, logvar = np.asarray(mean, np.float64), np.asarray(logvar, np.float64)
    return 0.5 * (mean**2 + np.expm1(logvar) - logvar)


NOTHING, UNTOLD = np.zeros(0, np.float32), np.zeros((3, 0), np.float32)


@pytest.fixture(scope="module")
def case(config, fitted):
    """Model, weights away from their zeros, a batch of spectrograms, and a key for each."""
    model = create_model(config)
    rng = np.random.default_rng(4)
    params = jax.tree.map(
        lambda p: p + 0.08 * rng.standard_normal(p.shape, np.float32),
        create_state(config).params,
    )
    shape = (3, config.num_frames, config.features.num_bins)
    batch = jnp.asarray(rng.standard_normal(shape, np.float32))
    return model, params, batch, jax.random.split(jax.random.key(1), 3)


def test_jitted_example_terms_equal_eager_ones(case, config, fitted):
    model, params, batch, keys = case
    terms = partial(example_terms, model=model, config=config)
    eager = terms(params, batch[0], NOTHING, fitted, keys[0])
    jitted = jax.jit(terms)(params, batch[0], NOTHING, fitted, keys[0])
    for name in eager:
        np.testing.assert_allclose(jitted[name], eager[name], rtol=2e-4, atol=2e-4, err_msg=name)


def test_vmapped_example_terms_equal_a_loop(case, config, fitted):
    model, params, batch, keys = case
    terms = jax.jit(partial(example_terms, model=model, config=config))
    _, mapped = jax.jit(partial(batch_loss, model=model, config=config, num_clips=32))(
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
    loss = jax.jit(partial(batch_loss, model=model, config=config, num_clips=32))
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
        return batch_loss(
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
FITTED = codec.Fitted(Statistics(jnp.zeros(3), jnp.ones(())), linear.flat((2, 3), 2))


def importance_bounds(model, x, num_draws, count=400):
    keys = jax.random.split(jax.random.key(num_draws), count)
    at = bind(TOY, model.params, FITTED, model)

    def one(key):
        return importance_bound(x, jnp.zeros(0), key, at, num_draws=num_draws)

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
    one = partial(example_terms, model=model, config=TOY)
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
    params, x = create_state(config).params, batch[0]

    @jax.jit
    def bound(params, fitted):
        at = bind(config, params, fitted, model)
        return importance_bound(x, NOTHING, keys[0], at, num_draws=16)

    many, elbo = bound(params, fitted)
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
            context.init(jax.random.key(0), config),
        )
        return jax.tree.map(jnp.asarray, {"vae": vae, **moved})

    def apply(self, variables, *args, method, rngs=None):
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
        return batch_loss(
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


def test_a_model_may_leave_units_out_at_random_in_training_and_nowhere_else():
    class Dropping(Toy):
        def apply(self, variables, *args, method, rngs=None):
            found = super().apply(variables, *args, method=method)
            if rngs is None or method == "encode":
                return found
            return found * jax.random.bernoulli(rngs["dropout"], 0.5, found.shape)

    config, keys = toy_config(sigma="fixed"), jax.random.split(jax.random.key(1), 4)
    params, x = Toy.params(config), jnp.asarray(np.random.default_rng(1).normal(size=(4, 2, 3)))
    given = params, x, jnp.zeros((4, 0)), FITTED, keys
    plain, dropped, again, measured = (
        batch_loss(*given, model=model(), config=config, num_clips=50, train=train)[1]["recon"]
        for model, train in ((Toy, True), (Dropping, True), (Dropping, True), (Dropping, False))
    )
    np.testing.assert_array_equal(dropped, again)
    np.testing.assert_array_equal(measured, plain)
    assert (np.abs(dropped - plain) > 1e-3).any()


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
    loss, terms = batch_loss(
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
