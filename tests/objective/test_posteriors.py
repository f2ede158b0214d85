"""Posteriors against determinants and Monte Carlo."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vaejax.config import Config, Model, Objective
from vaejax.objective import posteriors
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


def test_reparameterized_draws_have_the_posteriors_moments(key):
    mean, logvar = jnp.array([0.5, -2.0]), jnp.array([0.0, -3.0])
    draws = jax.vmap(lambda k: posteriors.reparameterize(k, mean, logvar))(
        jax.random.split(key, 100_000)
    )
    np.testing.assert_allclose(np.mean(draws, 0), mean, atol=0.015)
    np.testing.assert_allclose(np.var(draws, 0), np.exp(logvar), rtol=0.03)


def test_reparameterized_draw_has_the_gradient_of_its_equation(key):
    mean, logvar = jnp.array([0.5, -2.0]), jnp.array([0.0, -3.0])
    z = posteriors.reparameterize(key, mean, logvar)
    by_mean, by_logvar = jax.jacobian(partial(posteriors.reparameterize, key), argnums=(0, 1))(
        mean, logvar
    )
    np.testing.assert_allclose(by_mean, np.eye(2))
    np.testing.assert_allclose(by_logvar, np.diag(0.5 * (z - mean)), rtol=1e-5)


# The flow


@pytest.fixture(scope="module")
def flow():
    config = config_of(posterior="flow")
    weights = moved(bind(config).posterior.init(jax.random.key(0), config))
    return bind(config, {"posterior": weights})


SAID = jnp.array([0.3, -1.0, 2.0]), jnp.array([-1.0, 0.2, -3.0])


def test_flow_begins_as_the_gaussian(key):
    config = config_of(posterior="flow")
    at = bind(config, {"posterior": bind(config).posterior.init(key, config)})
    plain = posteriors.reparameterize(key, *SAID)
    np.testing.assert_allclose(at.posterior.draw(key, *SAID, at), plain, rtol=1e-6)
    np.testing.assert_allclose(at.posterior.moments(*SAID, at), SAID, rtol=1e-5)


def test_flow_is_inverted_and_its_stretch_is_the_determinant(flow, key):
    u = jax.random.normal(key, (DIM,))
    bend = partial(posteriors.bend, mean=SAID[0], logvar=SAID[1], at=flow)
    bent, stretched = bend(u)
    assert np.abs(bent - u).max() > 0.1
    back, again = bend(bent, method="inverse")
    np.testing.assert_allclose(back, u, atol=1e-5)
    np.testing.assert_allclose(again, stretched, atol=1e-5)
    sign, log_det = np.linalg.slogdet(jax.jacobian(lambda u: bend(u)[0])(u))
    assert sign == 1
    assert float(jnp.sum(stretched)) == pytest.approx(log_det, rel=1e-4)


def test_density_of_the_flow_is_that_of_its_draws(flow, key):
    """By the change of variables, from the noise that each draw was made of."""
    z = flow.posterior.draw(key, *SAID, flow)
    got = jnp.sum(flow.posterior.log_density(z, *SAID, flow))
    draw = jax.jacobian(
        lambda eps: SAID[0] + jnp.exp(0.5 * SAID[1]) * posteriors.bend(eps, *SAID, flow)[0]
    )
    eps = jax.random.normal(key, (DIM,))
    expected = stats.norm.logpdf(eps).sum() - np.linalg.slogdet(draw(eps))[1]
    assert float(got) == pytest.approx(expected, rel=1e-4)


def test_moments_of_the_flow_are_those_of_its_draws(flow):
    draw = jax.jit(jax.vmap(lambda key: flow.posterior.draw(key, *SAID, flow)))
    draws = draw(jax.random.split(jax.random.key(1), 50_000))
    mean, logvar = flow.posterior.moments(*SAID, flow)
    deviation = np.std(draws, 0)
    # Of so many draws as `moments` takes.
    error = 4 / np.sqrt(posteriors.MOMENT_DRAWS)
    assert (np.abs(mean - np.mean(draws, 0)) < error * deviation).all()
    np.testing.assert_allclose(np.exp(0.5 * logvar), deviation, rtol=0.25)
