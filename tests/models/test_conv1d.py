"""The default model: pPCA at step 0, its shapes, its types."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA

from vaejax import codec, features, models
from vaejax.config import Config, Model
from vaejax.data.clips import raw_clip
from vaejax.models import create_model, linear
from vaejax.models.conv1d import Decoder, Encoder
from vaejax.models.vae import VAE, Dense
from vaejax.objective import context
from vaejax.objective.batch import example_terms
from vaejax.objective.context import bind
from vaejax.train.state import create_state

# What a model is told that is told nothing.
NOTHING = np.zeros(0, np.float32)

pytestmark = pytest.mark.usefixtures("no_rank_promotion")


def small(shape, latent_dim, num_stages):
    model = Model(width=4, num_stages=num_stages)
    encoder, decoder = Encoder(model, latent_dim, True), Decoder(model, shape, True)
    return VAE(encoder, decoder, latent_dim, 5, 6, 2)


def spectrograms(sounds, rows, statistics, config):
    with jax.numpy_rank_promotion("allow"):
        clips, lengths, _ = sounds.read(rows)
        return jax.jit(
            jax.vmap(
                lambda pcm, length: features.x_of(raw_clip(pcm, length, config), statistics, config)
            )
        )(clips, lengths)


@pytest.fixture(scope="module")
def fresh(config):
    return create_model(config), create_state(config).params["vae"]


@partial(jax.jit, static_argnums=0)
def encode(model, params, x, path):
    return model.apply({"params": params}, x, NOTHING, path, method="encode")


@partial(jax.jit, static_argnums=0)
def decode(model, params, z, path):
    return model.apply({"params": params}, z, NOTHING, path, method="decode")


@jax.jit
def linear_posterior(path, x):
    return linear.posterior(path, linear.coordinates(path, x, NOTHING), latent_dim=4)


@jax.jit
def linear_mean(path, z):
    return linear.at(path, linear.likelihood_coordinates(path, z))


def reconstruct(model, params, x, path):
    return decode(model, params, encode(model, params, x, path)[0], path)


def refined(config, num_refinements=2):
    model = dataclasses.replace(config.model, num_refinements=num_refinements)
    return dataclasses.replace(config, model=model)


def perturbed(params):
    """Weights away from their start, where no kernel is zero."""
    rng = np.random.default_rng(5)
    return jax.tree.map(lambda p: p + 0.05 * rng.standard_normal(p.shape, np.float32), params)


def test_step_0_reconstructs_as_ppca_does_also_what_it_was_not_fitted_on(
    fresh, config, sounds, fitted
):
    model, params = fresh
    train_rows, held_out_rows = sounds.train_rows, sounds.held_out_rows
    x = np.asarray(spectrograms(sounds, train_rows, fitted.statistics, config))
    unseen = np.asarray(spectrograms(sounds, held_out_rows, fitted.statistics, config))
    with jax.numpy_rank_promotion("allow"):
        path = linear.fit(
            x,
            np.zeros((len(x), 0), np.float32),
            latent_dim=config.model.latent_dim,
            num_directions=8,
        )

    # The oracle, in float64: pPCA shrinks each principal coordinate by (l_i - sigma^2) / l_i.
    rows = x.reshape(len(x), -1).astype(np.float64)
    pca = PCA(config.model.latent_dim, svd_solver="full").fit(rows)
    values = pca.explained_variance_ * (len(rows) - 1) / len(rows)
    left_out = rows.shape[1] - config.model.latent_dim
    total = ((rows - rows.mean(0)) ** 2).sum() / len(rows)
    noise = (total - values.sum()) / left_out
    for clips in (x, unseen):
        flat = clips.reshape(len(clips), -1).astype(np.float64)
        shrunk = pca.transform(flat) * (values - noise) / values
        expected = pca.mean_ + shrunk @ pca.components_
        got = jax.vmap(lambda one: reconstruct(model, params, one, path))(clips)
        np.testing.assert_allclose(np.asarray(got).reshape(len(clips), -1), expected, atol=2e-3)
    np.testing.assert_allclose(path.noise, noise, rtol=1e-3)


def test_step_0_of_a_run_is_the_linear_path_that_was_fitted(fresh, config, sounds, fitted):
    model, params = fresh
    x = spectrograms(sounds, sounds.held_out_rows[:1], fitted.statistics, config)[0]
    mean, logvar = encode(model, params, x, fitted.linear)
    expected_mean, expected_logvar = linear_posterior(fitted.linear, x)
    np.testing.assert_allclose(mean, expected_mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logvar, expected_logvar, rtol=1e-6)
    np.testing.assert_allclose(
        decode(model, params, mean, fitted.linear),
        linear_mean(fitted.linear, mean),
        rtol=1e-5,
        atol=1e-6,
    )
    at = bind(config, context.init(jax.random.key(0), config), fitted)
    log_sigma = at.scale.log_sigma(0.0, 0.0, at)
    np.testing.assert_allclose(np.exp(2 * log_sigma), fitted.linear.noise, rtol=1e-6)


def test_elbo_at_step_0_is_the_evidence():
    # The posterior of the linear path is exact, so the bound is tight (Lucas et al. 2019).
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 24)) + 0.5 * rng.normal(size=(50, 24))
    rows = rows.reshape(50, 4, 6).astype(np.float32)
    with jax.numpy_rank_promotion("allow"):
        path = linear.fit(
            rows, np.zeros((len(rows), 0), np.float32), latent_dim=2, num_directions=5
        )
    model = small((4, 6), latent_dim=2, num_stages=1)
    params = jax.jit(model.init)(jax.random.key(0), rows[0], NOTHING, path)["params"]
    keys = jax.random.split(jax.random.key(1), 4_000)
    config = Config(model=Model(latent_dim=2))
    params = {"vae": params, **context.init(jax.random.key(0), config)}
    fitted = codec.Fitted(None, path)
    one = partial(example_terms, model=model, config=config)
    terms = jax.jit(jax.vmap(partial(one, params, rows[0], NOTHING, fitted)))(keys)
    bounds = -np.asarray(terms["recon"] + terms["kl"], np.float64)
    basis = np.asarray(path.directions[:2], np.float64).reshape(2, -1)
    basis *= np.sqrt(np.asarray(path.eigenvalues[:2, None], np.float64) - float(path.noise))
    evidence = stats.multivariate_normal(
        np.asarray(path.loc).reshape(-1), basis.T @ basis + float(path.noise) * np.eye(24)
    ).logpdf(rows[0].reshape(-1))
    error = bounds.std() / np.sqrt(len(bounds))
    assert error < 0.05
    assert bounds.mean() == pytest.approx(evidence, abs=4 * error + 1e-3)


@pytest.mark.parametrize("num_stages", [0, 1, 2, 3])
@pytest.mark.parametrize("num_frames", [16, 17, 19, 23])
def test_any_number_of_frames_comes_back_with_its_shape(num_frames, num_stages):
    model = small((num_frames, 9), latent_dim=3, num_stages=num_stages)
    path = linear.flat((num_frames, 9), 5)

    def forward(key):
        x = jnp.ones((num_frames, 9))
        params = model.init(key, x, NOTHING, path)["params"]
        mean, logvar = model.apply({"params": params}, x, NOTHING, path, method="encode")
        return mean, logvar, model.apply({"params": params}, mean, NOTHING, path, method="decode")

    shapes = jax.tree.map(lambda s: s.shape, jax.eval_shape(forward, jax.random.key(0)))
    assert shapes == ((3,), (3,), (num_frames, 9))


def test_corrections_are_in_units_of_the_linear_paths_uncertainty(fresh, config, fitted):
    model, params = fresh
    params = perturbed(params)
    x = fitted.linear.loc + 0.5
    z = jnp.ones(config.model.latent_dim)
    wide = fitted.linear._replace(noise=4 * fitted.linear.noise)
    means, logvars, outs = [], [], []
    for path in (fitted.linear, wide):
        base_mean, base_logvar = linear_posterior(path, x)
        mean, logvar = encode(model, params, x, path)
        means.append((mean - base_mean) / np.exp(0.5 * base_logvar))
        logvars.append(logvar - base_logvar)
        outs.append(decode(model, params, z, path) - linear_mean(path, z))
    for pair in (means, logvars):
        assert np.abs(pair[0]).max() > 1e-2  # the corrections are on
        np.testing.assert_allclose(*pair, rtol=1e-3, atol=1e-3)
    # Four times the noise is twice the convolutional correction; the dense one stays as it is, and
    # lies in the principal directions.
    convolutional = outs[1] - outs[0]
    dense = np.asarray(outs[0] - convolutional)
    directions = np.asarray(fitted.linear.directions).reshape(8, -1)
    outside = dense.reshape(-1) - directions.T @ (directions @ dense.reshape(-1))
    assert np.linalg.norm(convolutional) > 1e-2
    assert np.linalg.norm(dense) > 1e-2
    assert np.linalg.norm(outside) < 1e-3 * np.linalg.norm(dense)


def test_weights_stay_float32_and_results_close_under_bfloat16(make_config, fresh, fitted):
    _, params = fresh
    params = perturbed(params)
    full = create_model(make_config())
    half = create_model(make_config(model={"compute_dtype": "bfloat16"}))
    x = fitted.linear.loc + 0.3
    made = jax.eval_shape(half.init, jax.random.key(0), x, NOTHING, fitted.linear)
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    results = [
        (*encode(m, params, x, fitted.linear), reconstruct(m, params, x, fitted.linear))
        for m in (full, half)
    ]
    for exact, rough in zip(*results, strict=True):
        assert rough.dtype == jnp.float32
        assert np.abs(exact - rough).max() > 0  # bfloat16 was really used
        assert np.linalg.norm(exact - rough) < 0.03 * np.linalg.norm(exact)


# Refinements


def test_refinements_leave_step_0_to_ppca(config, sounds, fitted):
    config = refined(config)
    model, params = create_model(config), create_state(config).params["vae"]
    x = spectrograms(sounds, sounds.held_out_rows[:1], fitted.statistics, config)[0]
    expected = linear_posterior(fitted.linear, x)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        encode(model, params, x, fitted.linear),
        expected,
    )


@pytest.mark.parametrize("condition_dim", [0, 2])
def test_a_refinement_is_shown_what_the_answer_before_it_stands_for(
    config, sounds, fitted, condition_dim
):
    rng = np.random.default_rng(1)
    offsets = rng.standard_normal((8, condition_dim)).astype(np.float32)
    path, told = fitted.linear._replace(offsets=offsets), np.ones(condition_dim, np.float32)
    state = create_state(refined(config), condition_dim)
    params = perturbed(state.params["vae"])
    first = {name: value for name, value in params.items() if name != "refiner"}
    x = spectrograms(sounds, sounds.held_out_rows[:1], fitted.statistics, config)[0]
    flat = np.asarray(x - path.loc).reshape(-1) @ np.asarray(path.basis).reshape(x.size, 8)
    coordinates = linear.coordinates(path, x, told)
    sigma = np.asarray(jnp.exp(0.5 * linear.posterior(path, coordinates, latent_dim=4)[1]))
    unit = float(linear.unit(path, latent_dim=4))

    @partial(jax.jit, static_argnums=0)
    def answer(num_refinements, params):
        model = create_model(refined(config, num_refinements))
        return model.apply({"params": params}, x, told, path, method="encode")

    def perceptron(name, out, seen):
        return Dense(16, 2, out, jnp.float32).apply({"params": params[name]}, seen)

    def along(z):
        dense = perceptron("dense_decoder", 8, np.concatenate([z, told]))
        return offsets @ told + linear.likelihood_coordinates(path, z) + unit * dense

    def refine(mean, logvar):
        error = flat - along(mean)
        # Differences in place of the derivative.
        eye = 1e-2 * np.eye(4, dtype=np.float32)
        jacobian = np.stack([along(mean + e) - along(mean - e) for e in eye], 1) / 2e-2
        step = sigma**2 * (error @ jacobian) / path.noise
        more = perceptron("refiner", 8, np.concatenate([error / unit, step, mean, told]))
        return mean + sigma * more[:4], logvar + more[4:]

    expected = answer(0, first)
    for num_refinements in (1, 2):
        expected = refine(*expected)
        for got, wanted in zip(answer(num_refinements, params), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-3)


def test_refinements_learn_batch_and_are_recomputed(config, sounds, fitted):
    config = refined(config)
    x = spectrograms(sounds, sounds.held_out_rows[:3], fitted.statistics, config)
    params = perturbed(create_state(config).params["vae"])
    model = create_model(config)

    def loss(params, model):
        def one(x):
            inputs = ({"params": params}, x, NOTHING, fitted.linear)
            return model.apply(*inputs, method="encode")[0]

        means = jax.vmap(one)(x)
        return jnp.sum(means**2), means

    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (_, means), grads = run(params, model)
    assert all(np.abs(grad).max() > 0 for grad in jax.tree.leaves(grads["refiner"]))
    alone = [encode(model, params, one, fitted.linear)[0] for one in x]
    np.testing.assert_allclose(means, np.stack(alone), rtol=1e-3, atol=1e-3)
    _, again = run(params, models.Rematerialized(model))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max()),
        again,
        grads,
    )
