"""Gradient search for the latent whose sound is nearest to a given one."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from vaejax import codec, metrics
from vaejax.codec import Fitted
from vaejax.config import Config


def match(
    params,
    fitted: Fitted,
    waveform,
    starts,
    *,
    config: Config,
    num_steps: int = 40,
    learning_rate: float = 0.05,
):
    """Searches by gradient descent (Adam) through decoder and phase recovery.

    Args:
      waveform: [num_samples], the sound to come near to.
      starts: [num_starts, latent_dim], where the searches begin, in parallel.
      num_steps: of each search.
      learning_rate: in units of z, decaying to zero along a cosine.

    Returns:
      z: [latent_dim], the best of all that was visited by any search. distance: [], its
      `metrics.stft_distance`. start_distance: [], the best distance among the starts.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def distance(z):
        nothing = jnp.zeros(fitted.linear.condition_dim)
        sound, _ = codec.decode(params, fitted, z, nothing, config=config)
        return metrics.stft_distance(waveform, metrics.match_energy(sound, waveform))

    def search(start):
        def step(carry, _):
            z, opt_state, best_z, best = carry
            value, grad = jax.value_and_grad(distance)(z)
            # A start whose gradient is lost (silence) stays where it is.
            grad = jnp.where(jnp.isfinite(grad), grad, 0.0)
            better = value < best
            best_z, best = jnp.where(better, z, best_z), jnp.minimum(value, best)
            updates, opt_state = optimizer.update(grad, opt_state)
            return (optax.apply_updates(z, updates), opt_state, best_z, best), value

        carry = (start, optimizer.init(start), start, jnp.inf)
        (_, _, best_z, best), values = jax.lax.scan(step, carry, None, length=num_steps)
        return best_z, best, values[0]

    found, distances, firsts = jax.vmap(search)(starts)
    best = jnp.argmin(distances)
    return found[best], distances[best], jnp.min(firsts)


def make_match(config: Config, **options):
    """Compiles `match` for one config: (params, fitted, waveform, starts) -> its results."""
    return jax.jit(partial(match, config=config, **options))
