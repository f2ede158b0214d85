"""The alternatives that a config names, bound to weights."""

from typing import Any, NamedTuple

import jax

from vaejax import models
from vaejax.config import Config
from vaejax.latent.priors import Mixture
from vaejax.models.linear import Linear
from vaejax.objective.bounds import BOUNDS, Bound
from vaejax.objective.likelihoods import LIKELIHOODS, Likelihood, mel_db
from vaejax.objective.posteriors import POSTERIORS, Posterior
from vaejax.objective.priors import PRIORS, Prior
from vaejax.objective.regularizers import REGULARIZERS, Regularizer
from vaejax.objective.scales import SCALES, Scale
from vaejax.objective.schedules import SCHEDULES, Schedule


class Context(NamedTuple):
    """What a part of the objective may look at beside its arguments: the other parts, weights, and
    what was fitted before training. See `bind`."""

    config: Config
    params: Any
    """{"vae": of the model, and those of `init`}."""
    fitted: Any
    """`codec.Fitted`, the model's linear path and the statistics of x."""
    model: Any
    """Of `models.create_model`."""
    dropout: Any
    """Key of what the model leaves out at random, in training; None leaves out nothing."""
    schedule: Schedule
    bound: Bound
    regularizer: Regularizer
    likelihood: Likelihood
    scale: Scale
    posterior: Posterior
    prior: Prior

    def encode(self, x, condition):
        """The encoder's mean and logvar [latent_dim] of x under a condition."""
        return self._apply("encode", x, condition)

    def decode(self, z, condition):
        """The decoder's mean of p(x|z), of x's shape."""
        return self._apply("decode", z, condition)

    def distances(self, x, decoded):
        """What is measured beside the likelihood because it has a weight."""
        if not self.config.objective.mel_weight:
            return {}
        return {"mel_db": mel_db(x, decoded, self.fitted.statistics, self.config)}

    def _apply(self, method: str, given, condition):
        return models.apply(
            self.model,
            self.params,
            given,
            condition,
            self.fitted.linear,
            method=method,
            dropout=self.dropout,
        )


def bind(config: Config, params=None, fitted=None, model=None, dropout=None) -> Context:
    """The alternatives that a config names, with whatever there is for them to look at."""
    objective = config.objective
    return Context(
        config,
        params,
        fitted,
        model,
        dropout,
        schedule=SCHEDULES[objective.schedule],
        bound=BOUNDS[objective.bound],
        regularizer=REGULARIZERS[objective.regularizer],
        likelihood=LIKELIHOODS[objective.likelihood],
        scale=SCALES[objective.sigma],
        posterior=POSTERIORS[objective.posterior],
        prior=PRIORS[objective.prior],
    )


def problem(config: Config) -> str | None:
    """What is wrong with the objective that a config asks for, in words; None for nothing."""
    at, parts = bind(config), config.train.grad_accumulation
    if parts > 1 and not at.regularizer.splits:
        return (
            f"train.grad_accumulation={parts} needs a loss that is a mean over sounds, which "
            f"objective.regularizer={config.objective.regularizer} is not; leave one of the two out"
        )
    chosen = at.schedule, at.bound, at.regularizer, at.likelihood, at.scale, at.posterior, at.prior
    found = (part.check(config) for part in chosen)
    return next((text for text in found if text), None)


def is_density(config: Config) -> bool:
    """Whether p(x|z) is a density of x, so that there is a bound on log p(x)."""
    at = bind(config)
    return at.likelihood.is_density and at.scale.is_density


def init(key, config: Config) -> dict[str, Any]:
    """What is trained beside the model.

    Returns:
      likelihood: sigma starts at that of the linear path. prior, posterior: start as N(0, I) and as
      the encoder's Gaussian; but a VampPrior starts as the posteriors of random sounds.
      regularizer: only where it trains something. All are empty where nothing of them is trained.
    """
    at = bind(config)
    prior_key, posterior_key = jax.random.split(key)
    scale_key, likelihood_key, other_key = (jax.random.fold_in(key, i) for i in (2, 3, 4))
    scale = at.scale.init(scale_key, config)
    weights = {
        "likelihood": scale | at.likelihood.init(likelihood_key, config),
        "prior": at.prior.init(prior_key, config),
        "posterior": at.posterior.init(posterior_key, config),
    }
    regularizer = at.regularizer.init(other_key, config)
    return weights | ({"regularizer": regularizer} if regularizer else {})


def posterior_moments(params, mean, logvar, *, config: Config):
    """Mean and log-variance [latent_dim] of q(z|x), of which the encoder said mean and logvar."""
    at = bind(config, params)
    return at.posterior.moments(mean, logvar, at)


def encode(params, x, condition, linear: Linear, *, config: Config):
    """Mean and log-variance, [latent_dim] each, of q(z|x) of x [*config.shape] of which the model
    is told condition [condition_dim]; zeros for nothing."""
    mean, logvar = models.encode(params, x, condition, linear, config=config)
    return posterior_moments(params, mean, logvar, config=config)


def prior_density(params, fitted, *, config: Config) -> Mixture:
    """p(z) of the objective, N(0, I) or what was learned, as what latents are drawn from."""
    at = bind(config, params, fitted, models.create_model(config))
    return at.prior.density(at)
