"""Learned priors and the flow against SciPy, determinants and Monte Carlo."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from vaejax import objectives, priors
from vaejax.config import Config, Model, Objective
from vaejax.models import latent, linear

pytestmark = pytest.mark.usefixtures("no_rank_promotion")

DIM = 3


def config_of(**fields):
    return Config(
        model=Model(latent_dim=DIM, num_directions=4),
        objective=Objective(top_dim=2, prior_components=5, latent_width=8, **fields),
    )


def moved(tree, seed=0, amount=0.5):
    """Weights away from their zeros."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda a: a + amount * rng.standard_normal(a.shape, np.float32), tree)


# The flow


@pytest.fixture(scope="module")
def flow():
    config = config_of(posterior="flow")
    return config, moved(latent.init_posterior(jax.random.key(0), config))


SAID = jnp.array([0.3, -1.0, 2.0]), jnp.array([-1.0, 0.2, -3.0])


def test_flow_begins_as_the_gaussian(key):
    config = config_of(posterior="flow")
    params = {"posterior": latent.init_posterior(key, config)}
    plain = objectives.reparameterize(key, *SAID)
    bent = objectives.draw_posterior(params, key, *SAID, config=config)
    np.testing.assert_allclose(bent, plain, rtol=1e-6)
    np.testing.assert_allclose(latent.moments(params, *SAID, config), SAID, rtol=1e-5)


def test_flow_is_inverted_and_its_stretch_is_the_determinant(flow, key):
    config, weights = flow
    u = jax.random.normal(key, (DIM,))
    bend = partial(latent.bend, weights, mean=SAID[0], logvar=SAID[1], config=config)
    bent, stretched = bend(u)
    assert np.abs(bent - u).max() > 0.1
    back, again = latent.unbend(weights, bent, *SAID, config)
    np.testing.assert_allclose(back, u, atol=1e-5)
    np.testing.assert_allclose(again, stretched, atol=1e-5)
    sign, log_det = np.linalg.slogdet(jax.jacobian(lambda u: bend(u)[0])(u))
    assert sign == 1
    assert float(jnp.sum(stretched)) == pytest.approx(log_det, rel=1e-4)


def test_density_of_the_flow_is_that_of_its_draws(flow, key):
    """By the change of variables, from the noise that each draw was made of."""
    config, weights = flow
    z = objectives.draw_posterior({"posterior": weights}, key, *SAID, config=config)
    got = jnp.sum(objectives.log_posterior(weights, z, *SAID, config=config))
    draw = jax.jacobian(
        lambda eps: SAID[0] + jnp.exp(0.5 * SAID[1]) * latent.bend(weights, eps, *SAID, config)[0]
    )
    eps = jax.random.normal(key, (DIM,))
    expected = stats.norm.logpdf(eps).sum() - np.linalg.slogdet(draw(eps))[1]
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_moments_of_the_flow_are_those_of_its_draws(flow):
    config, weights = flow
    draw = jax.jit(
        jax.vmap(partial(objectives.draw_posterior, config=config), (None, 0, None, None))
    )
    draws = draw({"posterior": weights}, jax.random.split(jax.random.key(1), 50_000), *SAID)
    mean, logvar = latent.moments({"posterior": weights}, *SAID, config)
    deviation = np.std(draws, 0)
    # Of so many draws as `moments` takes.
    error = 4 / np.sqrt(latent.MOMENT_DRAWS)
    assert (np.abs(mean - np.mean(draws, 0)) < error * deviation).all()
    np.testing.assert_allclose(np.exp(0.5 * logvar), deviation, rtol=0.25)


# Priors


def test_mixture_density_is_scipys(key):
    rng = np.random.default_rng(0)
    weights, means, logvars = rng.dirichlet(np.ones(4)), *rng.normal(size=(2, 4, DIM))
    z = rng.normal(size=DIM)
    given = [np.float32(a) for a in (z, np.log(weights), means, logvars)]
    per_dim, rest = latent.mixture_log_density(*given)
    each = stats.norm.logpdf(z, means, np.exp(0.5 * logvars))
    np.testing.assert_allclose(per_dim, np.log(weights @ np.exp(each)), rtol=1e-4)
    expected = logsumexp(np.log(weights) + each.sum(1))
    assert float(jnp.sum(per_dim) + rest) == pytest.approx(expected, rel=1e-5)


class Model2x2:
    """Encodes x [2, 2] as the three first values, with a variance that depends on the last."""

    def apply(self, variables, x, condition, path, method):
        assert method == "encode"
        x = x.reshape(-1)
        return variables["params"]["gain"] * x[:DIM], jnp.full(DIM, -1.0) + 0.1 * x[DIM]


PATH = linear.flat((2, 2), 4)._replace(
    basis=jnp.eye(4).reshape(2, 2, 4), eigenvalues=jnp.array([4.0, 2.0, 1.0, 0.5])
)


def params_of(config):
    prior = moved(latent.init_prior(jax.random.key(0), config), amount=0.3)
    return {"vae": {"gain": jnp.float32(0.7)}, "prior": prior, "posterior": {}}


def test_vampprior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs(key):
    config = config_of(prior="vampprior")
    params, z = params_of(config), jnp.array([0.2, -0.4, 1.0])
    per_dim, rest = objectives.log_prior(params, z, key, PATH, model=Model2x2(), config=config)
    inputs = np.asarray(params["prior"]["coordinates"]) * np.sqrt([4.0, 2.0, 1.0, 0.5])
    sigma = np.exp(0.5 * (-1.0 + 0.1 * inputs[:, 3:]))
    each = stats.norm.logpdf(z, 0.7 * inputs[:, :DIM], sigma).sum(1)
    assert float(jnp.sum(per_dim) + rest) == pytest.approx(logsumexp(each) - np.log(5), rel=1e-4)


def test_hierarchical_prior_begins_as_the_standard_one_with_a_level_above_that_is_alive(key):
    config = config_of(prior="hierarchical")
    weights, z = latent.init_prior(key, config), jnp.array([0.2, -0.4, 1.0])
    per_dim, rest = latent.hierarchical_log_density(weights, z, key, config)
    # Whatever is drawn above, the estimate is the density itself: q(t|z) is exact.
    assert float(jnp.sum(per_dim) + rest) == pytest.approx(stats.norm.logpdf(z).sum(), rel=1e-5)
    hierarchy = latent.hierarchy_of(config)
    top, _ = hierarchy.apply({"params": weights}, z, method="top")
    np.testing.assert_allclose(top, 0.5 * z[:2])


@pytest.mark.parametrize("name", ["standard", "mixture", "vampprior", "hierarchical"])
def test_latents_are_drawn_from_the_density_that_is_trained(name):
    """log p(z) of the objective against that of what `sample.py --prior standard` draws from."""
    config = config_of(prior=name)
    params = params_of(config)
    density = latent.prior_density(params, PATH, model=Model2x2(), config=config)
    z = jnp.array([0.2, -0.4, 0.6])
    keys = jax.random.split(jax.random.key(2), 4000 if name == "hierarchical" else 1)
    per_dim, rest = jax.vmap(
        lambda k: objectives.log_prior(params, z, k, PATH, model=Model2x2(), config=config)
    )(keys)
    # The importance-weighted mean, with the level above integrated over.
    got = logsumexp(np.sum(per_dim, 1) + rest) - np.log(len(keys))
    with jax.numpy_rank_promotion("allow"):
        expected = float(priors.log_density(density, z))
    assert got == pytest.approx(expected, abs=0.05 if name == "hierarchical" else 1e-4)


def test_standard_prior_is_that_of_priors():
    density = latent.prior_density({}, PATH, model=None, config=config_of())
    for got, expected in zip(density, priors.standard(DIM), strict=True):
        np.testing.assert_array_equal(got, expected)
