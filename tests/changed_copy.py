"""What copies of the package compute, for test_docs.py: one JSON line per copy.

    python tests/changed_copy.py COPY [COPY ...]

Imports `vaejax` from each copy in turn and takes the gradient of the loss of two clips, one
operation at a time: what one copy has compiled the next one finds, which whole programs would not.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

SIZES = {"n_fft": 64, "hop_length": 16}


def measure(root: str) -> dict[str, float | list[float]]:
    """Figures of the copy in the folder `root`."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "vaejax"]:
        del sys.modules[name]
    sys.path.insert(0, root)
    from vaejax import features, objectives, training
    from vaejax.config import Config, Data, Features, Model, Objective
    from vaejax.models import create_model, linear

    assert objectives.__file__.startswith(root), objectives.__file__
    sys.path.pop(0)

    config = Config(
        data=Data(sample_rate=8000, clip_seconds=0.032),
        features=Features(**SIZES),
        model=Model(
            latent_dim=4, width=8, num_stages=1, num_directions=6, dense_width=8, dense_depth=1
        ),
    )
    rng = np.random.default_rng(0)
    t = np.arange(config.data.num_samples) / config.data.sample_rate
    waveforms = jnp.asarray(
        [np.sin(2 * np.pi * hz * t) * np.exp(-9 * t) for hz in rng.uniform(200, 2000, 8)],
        jnp.float32,
    )
    one = features.Statistics(jnp.zeros(config.features.num_bins), jnp.ones(()))

    @jax.jit
    def there_and_back(waveforms):
        x = jax.vmap(lambda w: features.x_of(w, one, config))(waveforms)
        return x, features.magnitude_of(x[0], one, config)

    x, magnitude = there_and_back(waveforms)
    conditions = jnp.zeros((2, 0))
    # A linear path with something in it; `linear.fit` would compile more than all the rest.
    basis = np.linalg.qr(rng.standard_normal((x[0].size, 6)))[0].reshape(*x[0].shape, 6)
    path = linear.flat(x[0].shape, 6)._replace(
        basis=jnp.asarray(basis, jnp.float32), eigenvalues=jnp.arange(8.0, 2.0, -1.0)
    )
    model = create_model(config)
    shapes = jax.eval_shape(lambda: training.create_state(config).params)
    # Corrections are zero at the start, where a change of theirs would not show.
    params = jax.tree.map(
        lambda s: jnp.asarray(0.1 * rng.standard_normal(s.shape), s.dtype), shapes
    )
    keys = jax.random.split(jax.random.key(1), 2)
    loss_of = partial(objectives.batch_loss, model=model, config=config, num_clips=8)
    fitted = training.Fitted(one, path)
    (loss, terms), grads = jax.value_and_grad(loss_of, has_aux=True)(
        params, x[:2], conditions, fitted, keys
    )
    squares = [np.sum(np.square(leaf)) for leaf in jax.tree.leaves(jax.device_get(grads))]
    rising = Objective(beta_warmup_steps=4)
    ramps = [float(objectives.ramp_at(step, rising)) for step in range(9)]
    return {
        "loss": float(loss),
        "kl": float(np.mean(terms["kl"])),
        "grad_norm": float(np.sqrt(sum(squares))),
        "largest_mean": float(np.max(np.abs(terms["mean"]))),
        "weights": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "ramps": ramps,
        "spectrogram": float(np.sum(x)),
        "magnitude": float(np.sum(magnitude)),
    }


if __name__ == "__main__":
    for copy in sys.argv[1:]:
        print(json.dumps(measure(copy)), flush=True)
