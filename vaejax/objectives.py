"""The negative evidence lower bound, for one example and then, once, for a batch.

    log p(x) >= E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))          Kingma & Welling 2014, eq. 3

Terms are sums over feature values and latent dimensions, in nats per example, unweighted; the only
weight (beta) and the only mean over examples are in `batch_loss`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp


def reparameterize(key, mean, logvar):
    """z = mean + sigma * eps, eps ~ N(0, I): a draw with a gradient (Kingma & Welling 2014)."""
    eps = jax.random.normal(key, mean.shape)
    return mean + jnp.exp(0.5 * logvar) * eps


def gaussian_kl(mean, logvar):
    """KL(N(mean, exp(logvar)) || N(0, 1)) per dimension (Kingma & Welling 2014, appendix B).

    Args:
      mean: [latent_dim].
      logvar: [latent_dim], natural log of the variance.

    Returns:
      [latent_dim] nats, >= 0; sum them for the KL term.
    """
    # 0.5 (mean^2 + var - 1 - log var); expm1 keeps its digits as logvar -> 0.
    return 0.5 * (mean**2 + jnp.expm1(logvar) - logvar)


def gaussian_nll(x, mean, log_sigma):
    """-log N(x; mean, sigma^2) summed over all values, in nats.

    Args:
      x: the spectrogram, any shape.
      mean: of the shape of x.
      log_sigma: log standard deviation, broadcastable to x.
    """
    nll = 0.5 * ((x - mean) * jnp.exp(-log_sigma)) ** 2 + log_sigma + 0.5 * jnp.log(2 * jnp.pi)
    return jnp.sum(nll)


def init_likelihood():
    """What is trained of the likelihood: sigma starts at that of the linear path."""
    return {"log_sigma_offset": jnp.zeros(())}


def log_sigma(params, linear):
    """Log standard deviation of the likelihood, one for all values."""
    return 0.5 * jnp.log(linear.noise) + params["likelihood"]["log_sigma_offset"]


def example_terms(params, x, condition, linear, key, *, model):
    """The terms of one example.

    Args:
      params: {"vae": of the model, "likelihood": see `init_likelihood`}.
      x: [num_frames, ...], as the model sees a sound.
      condition: [condition_dim], what the model is told of it; width 0 for nothing.
      linear: the model's linear path.
      key: of this example's draw of z.

    Returns:
      recon: -log p(x|z), [] nats. kl: [] nats. kl_per_dim: [latent_dim] nats.
      mean, logvar: of the posterior, [latent_dim] each.
    """
    variables = {"params": params["vae"]}
    mean, logvar = model.apply(variables, x, condition, linear, method="encode")
    z = reparameterize(key, mean, logvar)
    decoded = model.apply(variables, z, condition, linear, method="decode")
    kl_per_dim = gaussian_kl(mean, logvar)
    return {
        "recon": gaussian_nll(x, decoded, log_sigma(params, linear)),
        "kl": jnp.sum(kl_per_dim),
        "kl_per_dim": kl_per_dim,
        "mean": mean,
        "logvar": logvar,
    }


def importance_bound(params, x, condition, linear, key, *, model, num_draws: int):
    """The importance-weighted bound on log p(x), IWAE-k (Burda et al. 2016, equation 8).

        log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x),    z_i ~ q(z|x)

    In expectation the ELBO at k = 1, never falling in k, and log p(x) in the limit.

    Args:
      x, condition, linear: as in `example_terms`.
      key: of the draws.
      num_draws: k; one decoding each.

    Returns:
      The bound [] in nats, and the mean of the k ELBOs [] in nats: what k = 1 says on average.
    """
    variables = {"params": params["vae"]}
    mean, logvar = model.apply(variables, x, condition, linear, method="encode")

    def log_weight(key):
        z = reparameterize(key, mean, logvar)
        decoded = model.apply(variables, z, condition, linear, method="decode")
        log_prior = -gaussian_nll(z, 0.0, 0.0)
        log_posterior = -gaussian_nll(z, mean, 0.5 * logvar)
        return log_prior - log_posterior - gaussian_nll(x, decoded, log_sigma(params, linear))

    # One draw at a time: k decoded spectrograms would not fit for a large k.
    weights = jax.lax.map(log_weight, jax.random.split(key, num_draws))
    return logsumexp(weights) - jnp.log(num_draws), jnp.mean(weights)


def batch_loss(params, batch, conditions, linear, keys, *, model, beta):
    """Mean of recon + beta * kl over a batch, and the terms of each example.

    Args:
      batch: [batch, num_frames, ...].
      conditions: [batch, condition_dim].
      keys: [batch] of PRNG keys.
      beta: weight of the KL term.

    Returns:
      loss [] in nats per example (the negative ELBO where beta is 1), and `example_terms` with a
      leading batch axis.
    """
    terms = jax.vmap(partial(example_terms, model=model), in_axes=(None, 0, 0, None, 0))(
        params, batch, conditions, linear, keys
    )
    return jnp.mean(terms["recon"]) + beta * jnp.mean(terms["kl"]), terms


def beta_at(step, *, beta, warmup_steps):
    """The weight of the KL term: 0 -> beta in a straight line over warmup_steps, then beta."""
    if warmup_steps == 0:
        return jnp.asarray(beta, jnp.float32)
    return beta * jnp.minimum(1.0, step / warmup_steps)
