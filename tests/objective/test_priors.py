"""Priors against SciPy and Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp

from vaejax import codec
from vaejax.config import Config, Model, Objective
from vaejax.latent import priors as densities
from vaejax.models import linear
from vaejax.objective import priors
from vaejax.objective.context import bind

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


# N(0, I)


def closed_form_kl(mean, logvar):
    mean, logvar = np.asarray(mean, np.float64), np.asarray(logvar, np.float64)
    return 0.5 * (mean**2 + np.expm1(logvar) - logvar)


def test_gaussian_kl_matches_the_closed_form():
    rng = np.random.default_rng(0)
    mean, logvar = rng.normal(size=50), rng.uniform(-6, 3, 50)
    got = priors.gaussian_kl(jnp.float32(mean), jnp.float32(logvar))
    np.testing.assert_allclose(got, closed_form_kl(mean, logvar), rtol=1e-5)


def test_gaussian_kl_matches_monte_carlo():
    mean, logvar = np.array([0.5, -1.2, 0.0]), np.array([0.3, -1.0, -2.0])
    draws = mean + np.exp(0.5 * logvar) * np.random.default_rng(0).normal(size=(200_000, 3))
    log_ratio = stats.norm.logpdf(draws, mean, np.exp(0.5 * logvar)) - stats.norm.logpdf(draws)
    error = log_ratio.std(0) / np.sqrt(len(draws))
    got = np.asarray(priors.gaussian_kl(jnp.asarray(mean), jnp.asarray(logvar)))
    assert (np.abs(got - log_ratio.mean(0)) < 4 * error).all()
    assert error.max() < 0.01


def test_gaussian_kl_is_zero_at_the_prior_with_zero_gradient():
    zero = jnp.zeros(4)
    np.testing.assert_array_equal(priors.gaussian_kl(zero, zero), 0.0)
    gradient = jax.grad(lambda m, v: jnp.sum(priors.gaussian_kl(m, v)), argnums=(0, 1))
    for part in gradient(zero, zero):
        np.testing.assert_array_equal(part, 0.0)


@pytest.mark.parametrize("logvar", [1e-3, -1e-3, 1e-2])
def test_gaussian_kl_keeps_its_digits_near_the_prior(logvar):
    # exp(logvar) - 1 - logvar in float32 is off by several percent here.
    got = float(priors.gaussian_kl(jnp.float32(0.0), jnp.float32(logvar)))
    assert got == pytest.approx(closed_form_kl(0.0, np.float32(logvar)), rel=2e-3)


def test_gaussian_kl_is_never_negative():
    logvar = jnp.linspace(-1, 1, 2001)
    assert (priors.gaussian_kl(jnp.zeros(2001), logvar) >= 0).all()


# Learned


def test_mixture_density_is_scipys(key):
    rng = np.random.default_rng(0)
    weights, means, logvars = rng.dirichlet(np.ones(4)), *rng.normal(size=(2, 4, DIM))
    z = rng.normal(size=DIM)
    given = [np.float32(a) for a in (z, np.log(weights), means, logvars)]
    per_dim, rest = priors.mixture_log_density(*given)
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
    prior = moved(bind(config).prior.init(jax.random.key(0), config), amount=0.3)
    return {"vae": {"gain": jnp.float32(0.7)}, "prior": prior, "posterior": {}}


def test_vampprior_is_the_mean_of_the_posteriors_of_its_pseudo_inputs(key):
    config = config_of(prior="vampprior")
    params, z = params_of(config), jnp.array([0.2, -0.4, 1.0])
    at = bind(config, params, codec.Fitted(None, PATH), Model2x2())
    per_dim, rest = at.prior.log_density(z, key, at)
    inputs = np.asarray(params["prior"]["coordinates"]) * np.sqrt([4.0, 2.0, 1.0, 0.5])
    sigma = np.exp(0.5 * (-1.0 + 0.1 * inputs[:, 3:]))
    each = stats.norm.logpdf(z, 0.7 * inputs[:, :DIM], sigma).sum(1)
    assert float(jnp.sum(per_dim) + rest) == pytest.approx(logsumexp(each) - np.log(5), rel=1e-4)


def test_hierarchical_prior_begins_as_the_standard_one_with_a_level_above_that_is_alive(key):
    config = config_of(prior="hierarchical")
    weights, z = bind(config).prior.init(key, config), jnp.array([0.2, -0.4, 1.0])
    per_dim, rest = priors.hierarchical_log_density(z, key, bind(config, {"prior": weights}))
    # Whatever is drawn above, the estimate is the density itself: q(t|z) is exact.
    assert float(jnp.sum(per_dim) + rest) == pytest.approx(stats.norm.logpdf(z).sum(), rel=1e-5)
    hierarchy = priors.hierarchy_of(config)
    top, _ = hierarchy.apply({"params": weights}, z, method="top")
    np.testing.assert_allclose(top, 0.5 * z[:2])


@pytest.mark.parametrize("name", ["standard", "mixture", "vampprior", "hierarchical"])
def test_latents_are_drawn_from_the_density_that_is_trained(name):
    """log p(z) of the objective against that of what `sample.py --prior standard` draws from."""
    config = config_of(prior=name)
    at = bind(config, params_of(config), codec.Fitted(None, PATH), Model2x2())
    density = at.prior.density(at)
    z = jnp.array([0.2, -0.4, 0.6])
    keys = jax.random.split(jax.random.key(2), 4000 if name == "hierarchical" else 1)
    per_dim, rest = jax.vmap(lambda k: at.prior.log_density(z, k, at))(keys)
    # The importance-weighted mean, with the level above integrated over.
    got = logsumexp(np.sum(per_dim, 1) + rest) - np.log(len(keys))
    with jax.numpy_rank_promotion("allow"):
        expected = float(densities.log_density(density, z))
    assert got == pytest.approx(expected, abs=0.05 if name == "hierarchical" else 1e-4)


def test_standard_prior_is_that_of_priors():
    at = bind(config_of())
    for got, expected in zip(at.prior.density(at), densities.standard(DIM), strict=True):
        np.testing.assert_array_equal(got, expected)
