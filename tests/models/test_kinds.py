"""What holds for every kind of model: shapes, jit and vmap, step 0, types; and what each is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vaejax import models
from vaejax.config import Config, Data, Features, Model
from vaejax.models import conv2d, linear, waveform

pytestmark = pytest.mark.usefixtures("no_rank_promotion")

SIZES = {"latent_dim": 3, "width": 4, "num_stages": 1, "num_directions": 5}
SIZES |= {"dense_width": 6, "ppca_clips": 10}
PLANE = {"features": Features(n_fft=32, hop_length=8), "data": Data("synth", 8000, 0.016)}
SAMPLES = {"features": Features(kind="waveform"), "data": Data("synth", 8000, 0.015)}
CHANNELS = {**PLANE, "features": Features(kind="magnitude_cos_sin", n_fft=32, hop_length=8)}
CONFIGS = {
    "residual": Config(model=Model(kind="conv2d", **SIZES), **CHANNELS),
    "plain": Config(model=Model(kind="conv2d", layers="plain", **SIZES), **PLANE),
    "waveform": Config(model=Model(kind="waveform", **SIZES), **SAMPLES),
}
NOTHING, ONES = jnp.zeros(0), jnp.ones(2)


def without_path(config):
    return Config(
        model=Model(**{**vars(config.model), "ppca_clips": 0}),
        features=config.features,
        data=config.data,
    )


def start(config, condition_dim=0):
    make = jax.jit(lambda key: models.init(key, config, condition_dim))
    return {"vae": make(jax.random.key(0))}


def clips(config, num=3):
    return np.random.default_rng(0).standard_normal((num, *config.shape)).astype(np.float32)


@partial(jax.jit, static_argnames="config")
def both(params, x, condition, path, *, config):
    mean, logvar = models.encode(params, x, condition, path, config=config)
    return mean, logvar, models.decode(params, mean, condition, path, config=config)


@pytest.fixture(scope="module", params=CONFIGS)
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def plain(config):
    """Without a linear path: config, weights of a model that is told two numbers, path, clips."""
    config = without_path(config)
    return config, start(config, 2), models.flat_path(config, 2), clips(config)


def test_any_shape_comes_back(config):
    shapes = {
        "conv2d": [(87, 1025), (87, 1025, 3), (16, 33, 2), (23, 37), (17, 18, 1)],
        "waveform": [(44_100,), (44_101,), (1001,), (8,)],
    }
    for shape in shapes[config.model.kind]:
        of_shape = type("OfShape", (Config,), {"shape": shape})
        other = of_shape(model=config.model, features=config.features, data=config.data)
        path = models.flat_path(other)

        def forward(path, x, other=other):
            params = {"vae": models.init(jax.random.key(0), other)}
            return both.__wrapped__(params, x, NOTHING, path, config=other)

        mean, logvar, out = jax.eval_shape(forward, path, jnp.zeros(shape))
        assert (mean.shape, logvar.shape, out.shape) == ((3,), (3,), shape)
        assert out.dtype == jnp.float32


def test_step_0_is_the_linear_path(config):
    x = clips(config, 12)
    with jax.numpy_rank_promotion("allow"):
        path = linear.fit(x, np.zeros((12, 0), np.float32), latent_dim=3, num_directions=5)
    mean, logvar, out = both(start(config), x[0], NOTHING, path, config=config)
    coordinates = linear.coordinates(path, x[0], NOTHING)
    expected_mean, expected_logvar = linear.posterior(path, coordinates, latent_dim=3)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-5)
    np.testing.assert_allclose(logvar, expected_logvar, atol=1e-5)
    expected = linear.at(path, linear.likelihood_coordinates(path, mean))
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_without_a_linear_path_sounds_differ_from_the_start(plain):
    config, params, path, x = plain
    assert set(params["vae"]) == {"encoder", "decoder"}
    (mean, logvar, out), (other_mean, _, other_out) = (
        both(params, one, ONES, path, config=config) for one in x[:2]
    )
    assert np.abs(mean - other_mean).max() > 1e-2
    assert np.abs(out - other_out).max() > 1e-3
    # The prior's variance: no sound pays for more than its mean.
    np.testing.assert_array_equal(logvar, 0.0)


def test_every_weight_learns_and_a_batch_equals_one_by_one_and_eager(plain):
    config, params, path, x = plain
    rng = np.random.default_rng(5)
    # Away from the start, where the second half of each block is zero.
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), params)

    def one(params, x):
        return both.__wrapped__(params, x, ONES, path, config=config)

    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        means, logvars, outs = jax.vmap(partial(one, params))(x)
        return jnp.sum(jnp.abs(outs - x)) + jnp.sum(means**2 + logvars), (means, logvars, outs)

    (_, batched), grads = jax.jit(loss)(params)
    for name, grad in flatten_dict(grads).items():
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name
    alone = [both(params, clip, ONES, path, config=config) for clip in x]
    for got, *expected in zip(batched, *alone, strict=True):
        np.testing.assert_allclose(got, np.stack(expected), rtol=1e-4, atol=2e-5)
    for got, expected in zip(one(params, x[0]), alone[0], strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=2e-5)


def test_what_the_model_is_told_reaches_encoder_and_decoder(plain):
    config, params, path, x = plain
    (mean, _, _), (told_mean, _, out) = (
        both(params, x[0], told, path, config=config) for told in (0 * ONES, ONES)
    )
    assert np.abs(mean - told_mean).max() > 1e-2
    untold = models.decode(params, told_mean, 0 * ONES, path, config=config)
    assert np.abs(untold - out).max() > 1e-3


def test_bfloat16_is_close_and_weights_stay_float32(plain):
    config, params, path, x = plain
    half = Config(
        model=Model(**{**vars(config.model), "compute_dtype": "bfloat16"}),
        features=config.features,
        data=config.data,
    )
    made = jax.eval_shape(lambda: models.init(jax.random.key(0), half))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    exact = both(params, x[0], ONES, path, config=config)
    rough = both(params, x[0], ONES, path, config=half)
    for a, b in ((exact[0], rough[0]), (exact[2], rough[2])):
        assert b.dtype == jnp.float32
        assert 0 < np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


# conv2d


def test_residual_encoder_reads_the_frequency_of_a_bin():
    config = without_path(CONFIGS["residual"])
    params, x, path = start(config, 2), clips(config)[0], models.flat_path(config, 2)
    kernel = params["vae"]["encoder"]["FrequencyAwareConv_0"]["Conv_0"]["kernel"]
    assert kernel.shape == (4, 6, 3 + 1, 4)  # patches of 2 x 4 under a kernel of 3, a ramp on top
    mean, _, _ = both(params, x, ONES, path, config=config)
    kernel = kernel.at[:, :, -1].set(0.0)
    params["vae"]["encoder"]["FrequencyAwareConv_0"]["Conv_0"]["kernel"] = kernel
    without, _, _ = both(params, x, ONES, path, config=config)
    assert np.abs(mean - without).max() > 1e-2


def test_plain_layers_can_be_the_workshops():
    model = Model(
        kind="conv2d", layers="plain", latent_dim=8, width=16, num_stages=4, num_blocks=3,
        patch=(1, 1), ppca_clips=0,
    )  # fmt: skip
    # 80 x 1025 x 3, as the original's; the sizes of its layers follow from its description.
    data = Data(clip_seconds=79 * 512 / 44_100)
    config = Config(model=model, data=data, features=Features(kind="magnitude_phase_db"))
    assert config.shape == (80, 1025, 3)
    assert conv2d.plane_sizes((80, 1025), (1, 1), 4)[-1] == (5, 65)
    params = jax.eval_shape(lambda: models.init(jax.random.key(0), config))
    kernels = {
        half: [
            leaf.shape for name, leaf in flatten_dict(params[half]).items()
            if name[-1] == "kernel" and len(leaf.shape) == 4
        ]
        for half in ("encoder", "decoder")
    }  # fmt: skip
    assert kernels["encoder"] == [(3, 3, 3, 16)] + 14 * [(3, 3, 16, 16)]
    assert sorted(kernels["decoder"]) == [(3, 3, 16, 3)] + 15 * [(3, 3, 16, 16)]


def test_the_decoder_leaves_no_checkerboard():
    # Every copy of a value sees the same values around it where all are equal.
    config = without_path(CONFIGS["residual"])
    h = jnp.ones((4, 6, 4))
    layer = conv2d.Patches((8, 24), 3, (2, 4), False, jnp.float32)
    out = layer.apply(layer.init(jax.random.key(0), h), h)
    inner = np.asarray(out)[2:-2, 4:-4]
    np.testing.assert_allclose(inner, inner[0, 0], rtol=1e-5)
    assert config.model.patch == (2, 4)


# waveform


def test_waveform_channels_are_the_workshops():
    assert waveform.widths(8, 6) == [8, 8, 16, 16, 32, 32]
