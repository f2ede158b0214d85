"""What is minimised, for one example and then, once, for a batch.

    log p(x) >= E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))          Kingma & Welling 2014, eq. 3

Every part is a plain function, chosen by its name in `config.Objective`: a likelihood p(x|z) and
its scale sigma, a prior p(z), a posterior q(z|x), a regularizer, a bound and a schedule; and, with
a weight of its own, how far off the mel spectrum is. The defaults are a Gaussian with one learned
sigma, N(0, I), a Gaussian, the KL and a weight of 0: the negative ELBO.

Terms are sums over feature values and latent dimensions, in nats per example (`mel_db` a mean, in
dB), unweighted; the only weights and the only mean over examples are in `loss_of`. What needs a
whole batch takes a `Batch`.

`params` is {"vae": of the model, "likelihood", "prior", "posterior": see `init`; empty where
nothing of them is trained}.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln, i0e, logsumexp

from vaejax import config as configs
from vaejax import features, metrics
from vaejax.models import latent
from vaejax.signal.stft import istft, stft

LOG_2PI = math.log(2 * math.pi)
# Of a sound that is rebuilt without error: a millionth of the standard deviation of x is left.
LEAST_VARIANCE = 1e-12


def init(key, config: configs.Config):
    """What is trained beside the model.

    Returns:
      likelihood: sigma starts at that of the linear path. prior, posterior: start as N(0, I) and as
      the encoder's Gaussian; but a VampPrior starts as the posteriors of random sounds.
    """
    objective = config.objective
    likelihood = {}
    if objective.sigma in ("shared", "per_bin"):
        shape = (1, *config.shape[1:]) if objective.sigma == "per_bin" else ()
        likelihood["log_sigma_offset"] = jnp.zeros(shape)
    prior_key, posterior_key = jax.random.split(key)
    return {
        "likelihood": likelihood,
        "prior": latent.init_prior(prior_key, config),
        "posterior": latent.init_posterior(posterior_key, config),
    }


# Likelihoods: nll(x, mean, log_sigma) -> -log p(x|z) [] in nats, summed over all values. x and mean
# are of one shape, the model's; log_sigma is broadcastable to it, the logarithm of the scale.


def gaussian_nll(x, mean, log_sigma):
    """-log N(x; mean, sigma^2)."""
    nll = 0.5 * ((x - mean) * jnp.exp(-log_sigma)) ** 2 + log_sigma + 0.5 * jnp.log(2 * jnp.pi)
    return jnp.sum(nll)


def laplace_nll(x, mean, log_sigma):
    """-log Laplace(x; mean, b), b = sigma / sqrt(2), whose standard deviation is sigma."""
    log_b = log_sigma - 0.5 * jnp.log(2.0)
    return jnp.sum(jnp.abs(x - mean) * jnp.exp(-log_b) + log_b + jnp.log(2.0))


def student_t_nll(x, mean, log_sigma, *, degrees_of_freedom):
    """-log t(x; mean, sigma) with nu degrees of freedom; sigma is the scale, and the standard
    deviation is sigma sqrt(nu / (nu - 2))."""
    nu = jnp.asarray(degrees_of_freedom, jnp.float32)
    log_norm = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * jnp.log(nu * jnp.pi)
    error = (x - mean) * jnp.exp(-log_sigma)
    return jnp.sum(0.5 * (nu + 1) * jnp.log1p(error**2 / nu) + log_sigma - log_norm)


def von_mises_nll(x, mean, log_sigma, *, angles):
    """Von Mises for the channels (of the last axis) that are angles, Gaussian for the others.

        p(t) = exp(kappa cos(pi (t - mean))) / (2 I0(kappa)),   kappa = 1 / (pi sigma)^2

    The angle is pi t, t in [-1, 1]: half turns, as features have it. For small errors this is the
    Gaussian of the same sigma (Mardia & Jupp 2000).

    Raises:
      ValueError: no channel is an angle.
    """
    if not angles:
        raise ValueError(
            "objective.likelihood=von_mises is for angles, and this features.kind has no channel "
            "of angles; take one with phase or instantaneous frequency, or gaussian"
        )
    is_angle = jnp.isin(jnp.arange(x.shape[-1]), jnp.asarray(angles))
    is_angle = jnp.broadcast_to(is_angle, x.shape)
    log_sigma = jnp.broadcast_to(log_sigma, x.shape)
    kappa = jnp.exp(-2 * log_sigma) / jnp.pi**2
    # I0(kappa) = i0e(kappa) exp(kappa), which would overflow.
    circular = kappa * (1 - jnp.cos(jnp.pi * (x - mean))) + jnp.log(2 * i0e(kappa))
    flat = 0.5 * ((x - mean) * jnp.exp(-log_sigma)) ** 2 + log_sigma + 0.5 * LOG_2PI
    return jnp.sum(jnp.where(is_angle, circular, flat))


def multi_resolution_stft_nll(x, mean, log_sigma, *, sounds):
    """As if each of the N values of x were off by the distance L between the two sounds, under a
    Laplace density: N (log 2b + L / b), b = sigma / sqrt(2).

    L is `metrics.multi_resolution_stft` (Yamamoto et al. 2020). It is no density of x, but has the
    scale of one: with a learned sigma it balances itself against the KL, as Rybkin et al. 2021.

    Args:
      sounds: (x, mean) -> two waveforms, see `sounds_of`.
    """
    log_b = log_sigma - 0.5 * jnp.log(2.0)
    distance = metrics.multi_resolution_stft(*sounds(x, mean))
    return x.size * (jnp.log(2.0) + log_b + distance * jnp.exp(-log_b))


def sounds_of(x, mean, statistics, config: configs.Config):
    """The sounds [num_samples] of x and of a decoder's answer, the latter with a gradient.

    Where the values have no phase, both get the one recovered for x: its recovery sees no decoder,
    so it needs no gradient, and what is compared is what the decoder said. Where they have one, the
    decoder's own phase counts.
    """
    num_samples = config.data.num_samples
    waveform, _ = features.waveform_of(x, statistics, config, num_samples=num_samples)
    if features.create(config).has_phase:
        answer, _ = features.waveform_of(mean, statistics, config, num_samples=num_samples)
        return waveform, answer
    n_fft, hop_length = config.features.n_fft, config.features.hop_length
    phase = jnp.angle(stft(waveform, n_fft=n_fft, hop_length=hop_length))
    magnitude = features.magnitude_of(mean, statistics, config) * (n_fft / 4.0)
    spectrum = magnitude * jnp.exp(1j * phase)
    return waveform, istft(spectrum, n_fft=n_fft, hop_length=hop_length, length=num_samples)


def likelihood_of(config: configs.Config, statistics):
    """nll(x, mean, log_sigma) of the likelihood that a config names."""
    objective = config.objective
    return {
        "gaussian": gaussian_nll,
        "laplace": laplace_nll,
        "student_t": partial(student_t_nll, degrees_of_freedom=objective.degrees_of_freedom),
        "von_mises": partial(von_mises_nll, angles=features.create(config).angles),
        "multi_resolution_stft": partial(
            multi_resolution_stft_nll,
            sounds=partial(sounds_of, statistics=statistics, config=config),
        ),
    }[objective.likelihood]


def mel_db(x, mean, statistics, config: configs.Config):
    """How many dB the mel spectrum of a decoder's answer is off: as `metrics.mel_l1_db`, but of the
    magnitudes that x and mean stand for, at the n_fft and level that they have.

    A Gaussian of |X|^0.3 hardly sees what lies 50 dB below the loudest; this sees all levels above
    -60 dB alike, and what is below has no gradient.

    Args:
      x, mean: [num_frames, ...].

    Returns:
      [] dB >= 0.
    """
    sample_rate = config.data.sample_rate

    def spectrum(x):
        return metrics.mel_db(features.magnitude_of(x, statistics, config), sample_rate=sample_rate)

    return jnp.mean(jnp.abs(spectrum(x) - spectrum(mean)))


def log_sigma(params, linear, x, mean, *, objective: configs.Objective):
    """Logarithm of the likelihood's scale: [], or [1, num_bins, ...] of `per_bin`.

    Args:
      x, mean: what `optimal` is the best scale of. That is the per-image variant of Rybkin et al.
        2021, in closed form: where p(x|z) is highest.
    """
    if objective.sigma == "fixed":
        return jnp.log(jnp.asarray(objective.fixed_sigma, jnp.float32))
    if objective.sigma == "optimal":
        if objective.likelihood == "laplace":
            return 0.5 * jnp.log(2 * jnp.mean(jnp.abs(x - mean)) ** 2 + LEAST_VARIANCE)
        return 0.5 * jnp.log(jnp.mean((x - mean) ** 2) + LEAST_VARIANCE)
    return 0.5 * jnp.log(linear.noise) + params["likelihood"]["log_sigma_offset"]


# Posteriors: a draw z [latent_dim] with a gradient, and log q(z|x) of it.


def reparameterize(key, mean, logvar):
    """z = mean + sigma * eps, eps ~ N(0, I): a draw with a gradient (Kingma & Welling 2014)."""
    eps = jax.random.normal(key, mean.shape)
    return mean + jnp.exp(0.5 * logvar) * eps


def draw_posterior(params, key, mean, logvar, *, config: configs.Config):
    """One z [latent_dim] of q(z|x), of which the encoder said mean and logvar.

        z = mean + sigma * f(eps),   eps ~ N(0, I)

    f is the identity, or a flow that is told what the encoder said (Rezende & Mohamed 2015).
    """
    if config.objective.posterior == "gaussian":
        return reparameterize(key, mean, logvar)
    eps = jax.random.normal(key, mean.shape)
    bent, _ = latent.bend(params["posterior"], eps, mean, logvar, config)
    return mean + jnp.exp(0.5 * logvar) * bent


def log_posterior(flow, z, mean, logvar, *, config: configs.Config):
    """log q(z|x) of any z, by dimension: [latent_dim] nats, which sum to the density.

    Of a flow, of which these are the weights, log N(eps; 0, I) less the logarithm of how much it
    stretches (Rezende & Mohamed 2015).
    """
    u, stretched = (z - mean) * jnp.exp(-0.5 * logvar), 0.0
    if config.objective.posterior == "flow":
        u, stretched = latent.unbend(flow, u, mean, logvar, config)
    return -0.5 * (u**2 + LOG_2PI) - stretched - 0.5 * logvar


# Priors: log p(z) by dimension [latent_dim], and what does not go by dimension [], which sum to it.


def standard_log_density(z):
    """log N(z; 0, I)."""
    return -0.5 * (z**2 + LOG_2PI), jnp.zeros(())


def log_prior(params, z, key, linear, *, model, config: configs.Config):
    """log p(z) by dimension [latent_dim], and the rest [], under the prior that a config names."""
    if config.objective.prior == "standard":
        return standard_log_density(z)
    if config.objective.prior == "hierarchical":
        return latent.hierarchical_log_density(params["prior"], z, key, config)
    components = latent.components(params, linear, model=model, config=config)
    return latent.mixture_log_density(z, *components)


# KL, in closed form where there is one.


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


# One example


def draw_terms(
    params, x, condition, fitted, key, mean, logvar, share=None, *, model, config, exact
):
    """Terms of one draw of z; for the arguments see `example_terms`.

    Args:
      mean, logvar: what the encoder said, [latent_dim] each.
      share: [], of the gradient that goes back through z, while log q(z|x) has one through z alone
        (Tucker et al. 2019); None for an ordinary gradient.
      exact: whether to take the KL in closed form where there is one; log q(z|x) - log p(z), which
        has it as its mean, otherwise.
    """
    objective, linear = config.objective, fitted.linear
    z = draw_posterior(params, key, mean, logvar, config=config)
    if share is not None:
        z = scale_gradient(z, share)
    decoded = model.apply({"params": params["vae"]}, z, condition, linear, method="decode")
    scale = log_sigma(params, linear, x, decoded, objective=objective)
    recon = likelihood_of(config, fitted.statistics)(x, decoded, scale)
    if exact and (objective.prior, objective.posterior) == ("standard", "gaussian"):
        kl_per_dim = gaussian_kl(mean, logvar)
        kl = jnp.sum(kl_per_dim)
    else:
        said = params["posterior"], mean, logvar
        said = said if share is None else jax.lax.stop_gradient(said)
        log_q = log_posterior(said[0], z, *said[1:], config=config)
        top_key = jax.random.fold_in(key, 1)
        log_p, rest = log_prior(params, z, top_key, linear, model=model, config=config)
        kl_per_dim = log_q - log_p
        kl = jnp.sum(kl_per_dim) - rest
    sigma = jnp.exp(jnp.mean(scale))
    terms = {"recon": recon, "kl": kl, "kl_per_dim": kl_per_dim, "sigma": sigma, "z": z}
    if objective.mel_weight:
        terms["mel_db"] = mel_db(x, decoded, fitted.statistics, config)
    return terms


def example_terms(params, x, condition, fitted, key, share=None, *, model, config):
    """The terms of one example.

    Args:
      params: see the top of this file.
      x: [num_frames, ...], as the model sees a sound.
      condition: [condition_dim], what the model is told of it; width 0 for nothing.
      fitted: `training.Fitted`, the model's linear path and the statistics of x.
      key: of this example's draws.
      share: [num_draws], see `batch_loss`; None for an ordinary gradient.

    Returns:
      recon: -log p(x|z), [] nats. kl: [] nats; a draw has it as its mean where there is no closed
      form, and may then be negative. kl_per_dim: [latent_dim] nats; they sum to kl but for what a
      learned prior knows of dimensions together. sigma: [], of the likelihood (its geometric mean).
      z: [latent_dim], a draw. mean, logvar: what the encoder said, [latent_dim] each. mel_db: of
      the draw, see `mel_db`, if it has a weight.
      Of `iwae` and `dreg` the first ones are means over the draws, and draws has the recon and kl
      of each, [num_draws]. Of `mmd` prior_z [latent_dim] is a draw from p(z).
    """
    variables = {"params": params["vae"]}
    mean, logvar = model.apply(variables, x, condition, fitted.linear, method="encode")
    one = partial(draw_terms, model=model, config=config, exact=config.objective.bound == "elbo")
    given = params, x, condition, fitted
    if config.objective.bound == "elbo":
        terms = one(*given, key, mean, logvar)
    else:
        keys = jax.random.split(key, config.objective.num_draws)
        draws = jax.vmap(lambda k, s: one(*given, k, mean, logvar, s))(keys, share)
        terms = jax.tree.map(lambda t: jnp.mean(t, 0), draws)
        terms["z"] = draws["z"][0]
        terms["draws"] = {"recon": draws["recon"], "kl": draws["kl"]}
    if config.objective.regularizer == "mmd":
        terms["prior_z"] = _draw_prior(params, key, fitted.linear, model=model, config=config)
    return {**terms, "mean": mean, "logvar": logvar}


def _draw_prior(params, key, linear, *, model, config):
    """One z [latent_dim] of p(z), without a gradient."""
    component_key, eps_key = jax.random.split(jax.random.fold_in(key, 2))
    density = jax.lax.stop_gradient(
        latent.prior_density(params, linear, model=model, config=config)
    )
    chosen = jax.random.categorical(component_key, density.log_weights)
    eps = jax.random.normal(eps_key, (config.latent_dim,))
    return density.means[chosen] + density.cholesky[chosen] @ eps


@jax.custom_vjp
def scale_gradient(z, share):
    """z, whose gradient is multiplied by share []."""
    return z


scale_gradient.defvjp(
    lambda z, share: (z, share), lambda share, grad: (share * grad, jnp.zeros_like(share))
)


def importance_bound(params, x, condition, fitted, key, *, model, config, num_draws: int):
    """The importance-weighted bound on log p(x), IWAE-k (Burda et al. 2016, equation 8).

        log 1/k sum_i p(x|z_i) p(z_i) / q(z_i|x),    z_i ~ q(z|x)

    In expectation the ELBO at k = 1, never falling in k, and log p(x) in the limit. It is a bound
    where p(x|z) is a density: not of `multi_resolution_stft`, nor where sigma is `optimal`, which
    has seen x.

    Args:
      x, condition, fitted: as in `example_terms`.
      key: of the draws.
      num_draws: k; one decoding each.

    Returns:
      The bound [] in nats, and the mean of the k ELBOs [] in nats: what k = 1 says on average.
    """
    variables = {"params": params["vae"]}
    mean, logvar = model.apply(variables, x, condition, fitted.linear, method="encode")
    one = partial(draw_terms, model=model, config=config, exact=False)

    def log_weight(key):
        terms = one(params, x, condition, fitted, key, mean, logvar)
        return -terms["recon"] - terms["kl"]

    # One draw at a time: k decoded spectrograms would not fit for a large k.
    weights = jax.lax.map(log_weight, jax.random.split(key, num_draws))
    return logsumexp(weights) - jnp.log(num_draws), jnp.mean(weights)


# A batch


class Batch(NamedTuple):
    """The posteriors of a whole batch: what a term that needs one is a function of."""

    z: jax.Array
    """[batch, latent_dim], a draw from each."""
    mean: jax.Array
    """[batch, latent_dim]."""
    logvar: jax.Array
    """[batch, latent_dim]."""
    prior_z: jax.Array | None
    """[batch, latent_dim], draws from p(z); None where they are not asked for."""


def total_correlation(batch: Batch, *, num_clips):
    """KL(q(z) || prod_d q(z_d)), of which the mean over examples is an estimate: [batch] nats.

    Chen et al. 2018, equation 2, by minibatch stratified sampling (their appendix C.2): of the
    num_clips posteriors that q(z) is the mean of, a sound's own is known, and the others of the
    batch stand for all others. Exact where the batch is the set.
    """
    size = len(batch.z)
    difference = batch.z[:, None] - batch.mean[None]  # [draws, posteriors, latent_dim]
    logvar = batch.logvar[None]
    log_q = -0.5 * (difference**2 * jnp.exp(-logvar) + logvar + LOG_2PI)
    own = jnp.eye(size, dtype=bool)
    others = (1 - 1 / num_clips) / max(size - 1, 1)
    log_weights = jnp.log(jnp.where(own, 1 / num_clips, others))
    joint = logsumexp(log_weights + jnp.sum(log_q, 2), axis=1)
    return joint - jnp.sum(logsumexp(log_weights[:, :, None] + log_q, axis=1), axis=1)


def maximum_mean_discrepancy(batch: Batch, *, num_clips):
    """MMD^2 between q(z) and p(z), of which the mean over examples is an estimate: [batch].

        k(a, b) = exp(-|a - b|^2 / (2 latent_dim))                     Zhao et al. 2019

    Unbiased by leaving out each draw's distance to itself (Gretton et al. 2012, lemma 6).
    """
    size, latent_dim = batch.z.shape

    def kernel(a, b):
        return jnp.exp(-jnp.sum((a[:, None] - b[None]) ** 2, 2) / (2 * latent_dim))

    def among(a):
        return (jnp.sum(kernel(a, a), 1) - 1) / max(size - 1, 1)

    across = kernel(batch.z, batch.prior_z)
    return among(batch.z) + among(batch.prior_z) - jnp.mean(across, 1) - jnp.mean(across, 0)


BATCH_TERMS = {"tc": total_correlation, "mmd": maximum_mean_discrepancy}
# What stands in the loss beside recon and kl, where it is asked for.
EXTRA_TERMS = (*BATCH_TERMS, "mel_db")


def batch_loss(
    params, batch, conditions, fitted, keys, *, model, config, ramp=1.0, num_clips, vmap=jax.vmap
):
    """The loss of a batch, and the terms of each example.

    The gradient is that of the loss; of `dreg`, the doubly reparameterised one (Tucker et al.
    2019): with w_i the normalised weights of the draws, the decoder is moved by w_i and the encoder
    by w_i^2, through z alone.

    Args:
      batch: [batch, num_frames, ...].
      conditions: [batch, condition_dim].
      keys: [batch] of PRNG keys.
      ramp: [] in 0..1, of the schedule, see `ramp_at`.
      num_clips: sounds that the batch is drawn from.
      vmap: of the examples; see `sharding.make_vmap`.

    Returns:
      loss [] in nats per example, see `loss_of`, and `example_terms` with a leading batch axis.
    """
    objective = config.objective
    one = partial(example_terms, model=model, config=config)
    given = params, batch, conditions, fitted, keys
    terms = vmap(one, in_axes=(None, 0, 0, None, 0))(*given)
    loss, terms = loss_of(terms, objective=objective, ramp=ramp, num_clips=num_clips)
    if objective.bound == "dreg":
        shares = jax.lax.stop_gradient(jax.nn.softmax(log_weights_of(terms, objective, ramp)))
        again = vmap(one, in_axes=(None, 0, 0, None, 0, 0))(*given, shares)
        moved = -jnp.mean(jnp.sum(shares * log_weights_of(again, objective, ramp), 1))
        loss = jax.lax.stop_gradient(loss - moved) + moved
    return loss, terms


def log_weights_of(terms, objective: configs.Objective, ramp):
    """log of p(x|z) (p(z) / q(z|x))^beta, [batch, num_draws]."""
    return -(terms["draws"]["recon"] + objective.beta * ramp * terms["draws"]["kl"])


def loss_of(terms, *, objective: configs.Objective, ramp, num_clips):
    """The loss of the terms of a batch: the only mean over examples, and the only weights.

    Args:
      terms: `example_terms` with a leading batch axis.

    Returns:
      loss [] in nats per example (the negative ELBO, or its tighter bound, where beta is 1, the
      regularizer is kl and mel_weight 0), and the terms, with the one of `BATCH_TERMS` that is
      asked for.
    """
    name, beta = objective.regularizer, objective.beta * ramp
    if name in BATCH_TERMS:
        whole = Batch(terms["z"], terms["mean"], terms["logvar"], terms.get("prior_z"))
        terms = {**terms, name: BATCH_TERMS[name](whole, num_clips=num_clips)}
    averaged = ("recon", "kl", "kl_per_dim", *EXTRA_TERMS)
    mean = {key: jnp.mean(terms[key], 0) for key in averaged if key in terms}
    if objective.bound != "elbo":
        bound = logsumexp(log_weights_of(terms, objective, ramp), axis=1)
        return -jnp.mean(bound - jnp.log(objective.num_draws)), terms
    cost = {
        "kl": lambda: beta * mean["kl"],
        # Kingma et al. 2016, appendix C.8: sum_d max(free_bits, kl_d).
        "free_bits": lambda: (
            beta * (mean["kl"] + jnp.sum(jnp.maximum(objective.free_bits - mean["kl_per_dim"], 0)))
        ),
        # Burgess et al. 2018; what grows is the capacity, not its weight.
        "capacity": lambda: objective.beta * jnp.abs(mean["kl"] - ramp * objective.capacity),
        # Chen et al. 2018, equation 4, with alpha = gamma = 1.
        "tc": lambda: beta * mean["kl"] + ramp * objective.tc_weight * mean["tc"],
        # InfoVAE (Zhao et al. 2019), with beta = 1 - alpha.
        "mmd": lambda: beta * mean["kl"] + ramp * objective.mmd_weight * mean["mmd"],
    }
    extra = objective.mel_weight * mean["mel_db"] if "mel_db" in mean else 0.0
    return mean["recon"] + extra + cost[name](), terms


# Schedules: how far a weight has grown at a step, in 0..1.


def linear_ramp(step, objective: configs.Objective):
    """0 -> 1 in a straight line over beta_warmup_steps, then 1."""
    steps = objective.beta_warmup_steps
    return jnp.where(steps > 0, jnp.minimum(1.0, step / jnp.maximum(steps, 1)), 1.0)


def cyclical_ramp(step, objective: configs.Objective):
    """The same again in every cycle of beta_cycle_steps (Fu et al. 2019)."""
    return linear_ramp(step % objective.beta_cycle_steps, objective)


SCHEDULES = {"linear": linear_ramp, "cyclical": cyclical_ramp}


def ramp_at(step, objective: configs.Objective):
    """How far the schedule that a config names has come at a step: [] in 0..1."""
    return SCHEDULES[objective.schedule](step, objective)
