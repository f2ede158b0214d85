"""What copies of the package compute, for test_docs.py: one JSON line per copy.

    python tests/changed_copy.py '[["COPY", ["--objective.prior", "laplace"]], ...]'

Imports `vaejax` from each copy in turn, parses the options that go with it, and trains and samples
on two clips, one operation at a time: what one copy has compiled the next one finds, which whole
programs would not.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

# Families of densities that tests of their own fit.
BUILT_IN = {"normal", "mixture", "windows"}
SIZES = {"n_fft": 64, "hop_length": 16}
STEPS = 2


def measure(root: str, argv: list[str]) -> dict:
    """Figures of the copy in the folder `root`."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "vaejax"]:
        del sys.modules[name]
    sys.path.insert(0, root)
    from vaejax import cli, codec, features, rules
    from vaejax.config import Config, Data, Features, Model, Objective, Sound, Train
    from vaejax.latent import priors
    from vaejax.models import create_model, linear
    from vaejax.objective import batch, context
    from vaejax.objective.regularizers import Batch
    from vaejax.objective.schedules import ramp_at
    from vaejax.train import optimizers
    from vaejax.train.state import create_state

    assert optimizers.__file__.startswith(root), optimizers.__file__
    sys.path.pop(0)

    config = Config(
        data=Data(sample_rate=8000, clip_seconds=0.032),
        features=Features(**SIZES),
        model=Model(
            latent_dim=8, width=8, num_stages=1, num_directions=8, dense_width=8, dense_depth=1
        ),
        sound=Sound(inversion="zero", iterations=0),
        train=Train(warmup_steps=0),
    )
    config = cli.parse(Config, config, argv, description="")
    rules.check(config)
    rng = np.random.default_rng(0)
    t = np.arange(config.data.num_samples) / config.data.sample_rate
    waveforms = jnp.asarray(
        [np.sin(2 * np.pi * hz * t) * np.exp(-9 * t) for hz in rng.uniform(200, 2000, 8)],
        jnp.float32,
    )
    one = features.Statistics(jnp.zeros(config.shape[1:]), jnp.ones(()))

    @jax.jit
    def there_and_back(waveforms):
        x = jax.vmap(lambda w: features.x_of(w, one, config))(waveforms)
        return x, features.magnitude_of(x[0], one, config)

    x, magnitude = there_and_back(waveforms)
    # A linear path with something in it; `linear.fit` would compile more than all the rest.
    basis = np.linalg.qr(rng.standard_normal((x[0].size, 8)))[0].reshape(*x[0].shape, 8)
    path = linear.flat(x[0].shape, 8)._replace(
        basis=jnp.asarray(basis, jnp.float32), eigenvalues=jnp.arange(10.0, 2.0, -1.0)
    )
    model, fitted = create_model(config), codec.Fitted(one, path)
    shapes = jax.eval_shape(lambda: create_state(config).params)
    # Corrections are zero at the start, where a change of theirs would not show.
    params = jax.tree.map(
        lambda s: jnp.asarray(0.1 * rng.standard_normal(s.shape), s.dtype), shapes
    )
    loss_of = partial(batch.batch_loss, model=model, config=config, num_clips=8, train=True)
    gradient = jax.value_and_grad(loss_of, has_aux=True)
    average, opt_state = params, optimizers.create(config).init(params)
    carried, seen = batch.carried_of(config), []
    for step in range(STEPS):
        keys, ramp = jax.random.split(jax.random.key(step), 2), ramp_at(5 + step, config.objective)
        given = x[:2], jnp.zeros((2, 0)), fitted, keys
        (loss, terms), grads = gradient(params, *given, ramp=ramp, carried=carried)
        seen.append((loss, terms, grads))
        carried = batch.carried_after(Batch(terms, config, params, ramp, 8, carried=carried))
        params, average, opt_state = optimizers.update(grads, params, average, opt_state, config)

    def densities(names):
        """Mean and deviation of what is drawn from each, fitted to latents around 3."""
        means, moments = 3 + 0.5 * rng.standard_normal((40, 3)), {}
        for name in sorted(names):
            one = priors.PRIORS[name].fit(means, np.full(means.shape, 1e-4), None, 0)
            draw = jax.vmap(partial(priors.draw, prior=one, temperature=1.0))
            z, _ = draw(jax.random.split(jax.random.key(0), 200))
            moments[name] = float(jnp.mean(z)), float(jnp.mean(jnp.std(z, 0)))
        return moments

    loss, terms, grads = seen[0]
    squares = [np.sum(np.square(leaf)) for leaf in jax.tree.leaves(jax.device_get(grads))]
    density = context.prior_density(average, fitted, config=config)
    z = density.means[0] + density.cholesky[0] @ jnp.ones(config.latent_dim)
    decoded = context.bind(config, average, fitted, model).decode(z, jnp.zeros(0))
    sound, _ = features.waveform_of(decoded, one, config, num_samples=config.data.num_samples)
    rising = Objective(schedule=config.objective.schedule, beta_warmup_steps=4)
    return {
        "densities": densities(set(priors.PRIORS) - BUILT_IN),
        "loss": float(loss),
        "last_loss": float(seen[-1][0]),
        "kl": float(np.mean(terms["kl"])),
        "grad_norm": float(np.sqrt(sum(squares))),
        "largest_mean": float(np.max(np.abs(terms["mean"]))),
        "weights": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "carried": {name: float(value) for name, value in carried.items()},
        "terms": sorted(batch.figures(terms)),
        "sound": float(np.std(sound)),
        "ramps": [float(ramp_at(step, rising)) for step in range(9)],
        "spectrogram": float(np.sum(x)),
        "magnitude": float(np.sum(magnitude)),
    }


if __name__ == "__main__":
    for copy, options in json.loads(sys.argv[1]):
        print(json.dumps(measure(copy, options)), flush=True)
