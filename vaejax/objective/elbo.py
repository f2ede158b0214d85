"""The loss, from x to the scalar.

    log p(x) >= E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))          Kingma & Welling 2014, eq. 3

Terms are sums over feature values and latent dimensions, in nats per example, unweighted; the only
weights are in a regularizer's loss, such as `negative_elbo`, and the only mean over examples in
`batch.loss_of`. What differs between objectives is looked up in `at`, a `context.Context`; by
default it is a Gaussian p(x|z) with one learned sigma, p(z) = N(0, I) and a Gaussian q(z|x).
"""

import jax
import jax.numpy as jnp


def example_terms(x, condition, key, at):
    """The terms of one example, of one draw of z.

    Args:
      x: [num_frames, ...], as the model sees a sound.
      condition: [condition_dim], what the model is told of it; width 0 for nothing.
      key: of this example's draws.

    Returns:
      mean, logvar: of the encoder, [latent_dim] each; and `draw_terms`.
    """
    mean, logvar = at.encode(x, condition)  # q(z|x)
    z = at.posterior.draw(key, mean, logvar, at)  # z ~ q(z|x)
    return {**draw_terms(z, x, condition, key, mean, logvar, at), "mean": mean, "logvar": logvar}


def draw_terms(z, x, condition, key, mean, logvar, at, *, exact: bool = True):
    """The terms of a draw z [latent_dim] from q(z|x).

    Args:
      mean, logvar: of the encoder, [latent_dim] each.
      exact: whether the KL is in closed form where there is one.

    Returns:
      recon: -log p(x|z), [] nats. kl: [] nats; a draw has it as its mean where there is no closed
      form, and may then be negative. kl_per_dim: [latent_dim] nats; they sum to kl but for what a
      learned prior knows of dimensions together. sigma: [], of the likelihood (its geometric mean).
      z: [latent_dim]. mel_db, if it has a weight, see `likelihoods.mel_db`. And the terms of the
      regularizer.
    """
    decoded = at.decode(z, condition)  # f(z)
    log_sigma = at.scale.log_sigma(x, decoded, at)
    recon = at.likelihood.nll(x, decoded, log_sigma, at)  # -log p(x|z)
    kl, kl_per_dim = kl_terms(z, key, mean, logvar, at, exact=exact)
    sigma = jnp.exp(jnp.mean(log_sigma))
    terms = {"recon": recon, "kl": kl, "kl_per_dim": kl_per_dim, "sigma": sigma, "z": z}
    return {**terms, **at.distances(x, decoded), **at.regularizer.terms(x, decoded, key, at)}


def kl_terms(z, key, mean, logvar, at, *, exact: bool = True):
    """KL(q(z|x) || p(z)), or log q(z|x) - log p(z), of which it is the mean: [] nats; and by
    dimension, [latent_dim] nats."""
    if exact and at.posterior.is_gaussian and at.prior.gaussian_kl is not None:
        per_dim = at.prior.gaussian_kl(mean, logvar)
        return jnp.sum(per_dim), per_dim
    log_q = at.posterior.log_density(z, mean, logvar, at)
    log_p, rest = at.prior.log_density(z, jax.random.fold_in(key, 1), at)
    return jnp.sum(log_q - log_p) - rest, log_q - log_p


def negative_elbo(mean, batch):
    """-ELBO where beta is 1: the loss [] of the terms averaged over a batch."""
    return mean["recon"] + batch.beta * mean["kl"]
