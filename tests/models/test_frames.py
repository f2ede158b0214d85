"""The model of frames: every frame by itself, around the pPCA of frames, for any bottleneck."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vaejax import models, rules
from vaejax.models import linear
from vaejax.train.fit import fit
from vaejax.train.state import create_state

SIZES = {"kind": "frames", "latent_dim": 3, "num_directions": 5, "frame_widths": (12, 6)}
# Of the last one, nothing is variational.
KINDS = [
    {"bottleneck": "linear", "ppca_clips": 32},
    {"bottleneck": "sigmoid", "ppca_clips": 0},
    {"bottleneck": "relu", "ppca_clips": 0, "variational": False},
]


def config_of(make_config, **model):
    beta = float(model.get("variational", True))
    config = make_config(model=SIZES | model, objective={"beta": beta})
    rules.check(config)
    return config


def setting(make_config, condition_dim=2, **model):
    """A config, weights that are nowhere zero, an x, a condition and a linear path."""
    config = config_of(make_config, **model)
    keys = jax.random.split(jax.random.key(1), 3)
    params = models.init(keys[0], config, condition_dim)
    leaves, tree = jax.tree.flatten(params)
    leaves = [
        x + 0.1 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, jax.random.split(keys[1], len(leaves)), strict=True)
    ]
    x = jax.random.normal(keys[2], config.shape)
    condition = jnp.arange(1.0, 1.0 + condition_dim)
    path = models.flat_path(config, condition_dim)
    if config.model.ppca_clips:
        rows = jax.random.normal(keys[2], (8, *config.shape))
        told = jax.random.normal(keys[1], (8, condition_dim))
        path = models.fit_path(rows, told, config)
    return config, {"vae": jax.tree.unflatten(tree, leaves)}, x, condition, path


@pytest.mark.parametrize("model", KINDS)
def test_frames_go_through_one_by_one_and_have_gradients(make_config, no_rank_promotion, model):
    config, params, x, condition, path = setting(make_config, **model)
    assert config.latent_dim == 3 * config.num_frames

    @jax.jit
    def rebuild(params, x):
        mean, logvar = models.encode(params, x, condition, path, config=config)
        return mean, logvar, models.decode(params, mean, condition, path, config=config)

    mean, logvar, decoded = rebuild(params, x)
    assert mean.shape == logvar.shape == (config.latent_dim,)
    assert decoded.shape == config.shape
    for t in (0, 5):
        for whole, alone in zip((mean, logvar, decoded), rebuild(params, x[t][None]), strict=True):
            whole = whole.reshape(config.num_frames, -1)[t]
            np.testing.assert_allclose(alone.reshape(-1), whole, atol=1e-5)

    grads = jax.jit(jax.grad(lambda p: jnp.sum(rebuild(p, x)[2] ** 2)))(params)
    norms = [float(jnp.linalg.norm(leaf)) for leaf in jax.tree.leaves(grads["vae"])]
    assert np.isfinite(norms).all()
    assert float(jnp.linalg.norm(grads["vae"]["mean"]["kernel"])) > 0
    if model.get("variational", True) is False:
        np.testing.assert_allclose(np.exp(0.5 * logvar), 1e-3, rtol=1e-5)
        assert "logvar" not in params["vae"]


def test_jitted_equals_eager(make_config):
    config, params, x, condition, path = setting(make_config, **KINDS[0])

    def rebuild(x):
        mean, _ = models.encode(params, x, condition, path, config=config)
        return models.decode(params, mean, condition, path, config=config)

    np.testing.assert_allclose(jax.jit(rebuild)(x), rebuild(x), atol=1e-4)


def test_what_is_told_reaches_every_frame(make_config):
    config, params, x, condition, path = setting(make_config, **KINDS[0])
    z, _ = models.encode(params, x, condition, path, config=config)
    other = models.decode(params, z, condition + 1, path, config=config)
    same = models.decode(params, z, condition, path, config=config)
    assert (jnp.abs(other - same).max(1) > 1e-4).all()


def test_a_path_of_any_length_is_a_spectrogram_of_its_length(make_config):
    config, params, _, condition, path = setting(make_config, **KINDS[0])
    z = jax.random.normal(jax.random.key(3), (7, 3))
    decoded = models.decode(params, z.reshape(-1), condition, path, config=config)
    assert decoded.shape == (7, *config.shape[1:])
    constant = jnp.broadcast_to(z[0], (50, 3)).reshape(-1)
    decoded = models.decode(params, constant, condition, path, config=config)
    np.testing.assert_array_equal(decoded, np.broadcast_to(decoded[0], decoded.shape))


def test_path_of_frames_is_ppca_of_them(make_config):
    """Tipping & Bishop's optimum, by the eigenvalues of NumPy."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((20, 6, 4)) @ rng.standard_normal((4, 9))).astype(np.float32)
    x += 0.05 * rng.standard_normal(x.shape).astype(np.float32) + 1.0
    fitted = linear.fit_frames(x, np.zeros((20, 0), np.float32), latent_dim=3, num_directions=5)
    rows = x.reshape(-1, 9).astype(np.float64)
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    np.testing.assert_allclose(fitted.loc, rows.mean(0), atol=1e-5)
    np.testing.assert_allclose(fitted.eigenvalues[:3], values[:3], rtol=1e-3)
    np.testing.assert_allclose(fitted.noise, values[3:].mean(), rtol=1e-3)
    overlap = np.abs(np.asarray(fitted.directions)[:3] @ vectors[:, :3])
    np.testing.assert_allclose(overlap, np.eye(3), atol=1e-2)


def test_path_of_frames_knows_what_conditions_explain():
    rng = np.random.default_rng(1)
    told = np.eye(2, dtype=np.float32)[rng.integers(0, 2, 40)]
    moved = told @ np.array([[3.0, 0, 0, 0, 0], [0, -3.0, 0, 0, 0]])
    x = (moved[:, None] + 0.1 * rng.standard_normal((40, 4, 5))).astype(np.float32)
    fitted = linear.fit_frames(x, told, latent_dim=2, num_directions=5)
    for c in np.eye(2, dtype=np.float32):
        explained = linear.at(fitted, linear.offset(fitted, c))
        np.testing.assert_allclose(explained, c @ [[3, 0, 0, 0, 0], [0, -3, 0, 0, 0]], atol=0.3)
    assert fitted.eigenvalues[0] < 0.05


def test_step_0_is_the_path_of_frames(make_config, make_sounds):
    config = config_of(make_config, **KINDS[0])
    sounds = make_sounds(config, 12)
    fitted = fit(sounds, config)
    assert fitted.linear.directions.shape == (5, config.features.num_bins)
    params = create_state(config).params
    x, nothing = jax.random.normal(jax.random.key(0), config.shape), jnp.zeros(0)
    mean, logvar = models.encode(params, x, nothing, fitted.linear, config=config)
    expected = [
        linear.posterior(
            fitted.linear, linear.coordinates(fitted.linear, frame, nothing), latent_dim=3
        )
        for frame in x
    ]
    np.testing.assert_allclose(mean, np.concatenate([m for m, _ in expected]), atol=1e-5)
    np.testing.assert_allclose(logvar, np.concatenate([v for _, v in expected]), atol=1e-5)


@pytest.mark.parametrize(
    ("model", "objective", "words"),
    [
        ({"bottleneck": "relu"}, {}, r"model\.bottleneck=relu .* add --model\.ppca_clips 0"),
        ({"variational": False}, {}, r"objective\.beta=1: add --objective\.beta 0"),
        ({"frame_widths": ()}, {}, r"model\.frame_widths=\(\) must be one or more"),
    ],
)
def test_what_cannot_be_is_refused_with_what_could(make_config, model, objective, words):
    with pytest.raises(ValueError, match=words):
        rules.check(make_config(model=SIZES | model, objective=objective))
