"""The training step, the generator and the pitch lower for every backend, without its hardware."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest

from vaejax import codec, features, metrics
from vaejax.devices import partwise
from vaejax.latent import priors
from vaejax.models import flat_path
from vaejax.sampling import generate
from vaejax.signal.pitch import pitch
from vaejax.train import training

PLATFORMS = ("cpu", "cuda", "tpu")


def shapes(config):
    """Shapes of a fitted set, of a state and of a batch."""

    def make():
        channels = config.shape[2:]
        statistics = features.Statistics(jnp.zeros(config.shape[1:]), jnp.zeros(channels))
        path = flat_path(config)
        embedding = metrics.Embedding(
            jnp.zeros(1024), jnp.zeros((1024, 64)), jnp.zeros((10, 64)), jnp.zeros(())
        )
        prior = priors.standard(config.model.latent_dim)
        state = training.create_state(config)
        fitted = codec.Fitted(statistics, path)
        return state, fitted, codec.Instrument(state.ema, fitted, prior, embedding)

    return jax.eval_shape(make)


@pytest.mark.parametrize(
    ("model", "kind", "compute_dtype"),
    [
        ("conv1d", "power", "float32"),
        ("conv1d", "power", "bfloat16"),
        ("conv2d", "magnitude_phase_db", "bfloat16"),
        ("waveform", "waveform", "float32"),
    ],
)
def test_train_step_lowers_for_cpu_cuda_and_tpu(
    make_config, monkeypatch, model, kind, compute_dtype
):
    # Which is traced here as on an accelerator.
    monkeypatch.setattr(partwise, "ROWS", {})
    config = make_config(
        model={"kind": model, "compute_dtype": compute_dtype}, features={"kind": kind}
    )
    state, fitted, _ = shapes(config)
    batch = config.train.batch_size
    exported = jax.export.export(
        jax.jit(partial(training.train_step, config=config, num_clips=32), donate_argnums=0),
        platforms=PLATFORMS,
    )(
        state,
        fitted,
        jax.ShapeDtypeStruct((batch, config.pack_samples), jnp.int16),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
        jax.ShapeDtypeStruct((batch, 0), jnp.float32),
        jax.ShapeDtypeStruct((batch,), jnp.uint32),
    )
    assert exported.platforms == PLATFORMS
    assert ("bf16" in exported.mlir_module()) == (compute_dtype == "bfloat16")


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_decoder_lowers_for_cpu_cuda_and_tpu(config, monkeypatch, subtype):
    monkeypatch.setattr(partwise, "ROWS", {})
    *_, instrument = shapes(config)
    exported = jax.export.export(generate.make_decoder(config, subtype), platforms=PLATFORMS)(
        instrument,
        jax.ShapeDtypeStruct((generate.chunk_size(), config.model.latent_dim), jnp.float32),
        jax.ShapeDtypeStruct((generate.chunk_size(), 0), jnp.float32),
    )
    assert exported.platforms == PLATFORMS
    samples = jax.tree.unflatten(exported.out_tree, exported.out_avals)["samples"]
    assert samples.shape == (generate.chunk_size(), config.data.num_samples)


def test_draws_lower_for_cpu_cuda_and_tpu(config):
    *_, instrument = shapes(config)
    exported = jax.export.export(generate.make_drawer(), platforms=PLATFORMS)(
        instrument.prior,
        jax.eval_shape(lambda: jax.random.key(0)),
        jax.ShapeDtypeStruct((generate.chunk_size(),), jnp.uint32),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    assert exported.platforms == PLATFORMS
    assert exported.out_avals[0].shape == (generate.chunk_size(), config.model.latent_dim)


def test_pitch_lowers_for_cpu_cuda_and_tpu():
    detect = jax.jit(jax.vmap(partial(pitch, sample_rate=8000)))
    exported = jax.export.export(detect, platforms=PLATFORMS)(
        jax.ShapeDtypeStruct((4, 2000), jnp.float32)
    )
    assert exported.platforms == PLATFORMS
