"""Densities in the latent that sounds are drawn from: where the training sounds lie, or some of
them."""

import jax.numpy as jnp
import numpy as np

from vaejax.latent import priors
from vaejax.latent.priors import Mixture, Prior
from vaejax.objective import context
from vaejax.run.arrays import Aggregate, Posteriors
from vaejax.run.load import Run


def prior_density(run: Run, prior: str) -> Prior:
    """The density of `aggregate`, which was fitted to the training sounds; of `standard`, the
    objective's own p(z), which stands for the other while the run is unfinished; or that of one of
    `priors.PRIORS`, fitted now.

    Raises:
      ValueError: an unfinished run, or too few sounds for that.
    """
    if prior == "aggregate":
        return run.instrument.prior
    params, fitted, config = run.instrument.params, run.instrument.fitted, run.config
    if prior == "standard":
        return context.prior_density(params, fitted, config=config)
    _, means, variances = posteriors_of(run)
    most, seed = config.prior.max_components, config.train.seed
    return priors.choose(means, variances, max_components=most, seed=seed, names=[prior]).prior


def label_density(run: Run, label: str) -> Prior:
    """Where the training sounds of one folder lie.

    Raises:
      ValueError: no such label (lists the known ones), or an unfinished run.
    """
    chosen = rows_with_label(run, label)
    return of_rows(run.instrument.prior, posteriors_of(run), chosen)


def of_rows(prior: Prior, posteriors: Posteriors, chosen: np.ndarray) -> Prior:
    """The density of an aggregate posterior, of some of its sounds alone.

    Args:
      prior: fitted to `posteriors`.
      chosen: [num_clips] bool.

    Returns:
      The windows around these sounds; where the density is a mixture, one Gaussian, shrunk towards
      the whole set as far as they are few.
    """
    return priors.among(prior, posteriors.means, posteriors.variances, chosen)


def rows_with_label(run: Run, label: str) -> np.ndarray:
    """Which of the run's posteriors, [num_clips] bool, are of sounds of one folder.

    Raises:
      ValueError: no such label (lists the known ones), or an unfinished run.
    """
    labels = [row["label"] for row in run.data["files"]]
    if label not in labels:
        known = ", ".join(sorted(set(labels)))
        raise ValueError(f"the run knows no label {label!r}; it knows: {known}")
    chosen = np.array([labels[row] == label for row in posteriors_of(run).rows])
    if not chosen.any():
        raise ValueError(
            f"no sound with the label {label!r} is among those that the prior was fitted on (all "
            "were held out, or left out by prior.max_clips); choose another"
        )
    return chosen


def widened(mean, variance, *, spread: float, covariance) -> Mixture:
    """A posterior, mean and variance [latent_dim] each, widened by spread times the shape of the
    whole set, covariance [latent_dim, latent_dim]."""
    cholesky = jnp.linalg.cholesky(jnp.diag(variance) + spread**2 * covariance)
    return Mixture(jnp.zeros(1), mean[None], cholesky[None])


def conditioned(run: Run, label: str | None) -> Prior:
    """Where z lies when the model is told all that is known, of one label or of all.

    Raises:
      ValueError: no such label, or an unfinished run.
    """
    aggregate = conditioned_aggregate(run)
    if label is None:
        return aggregate.prior
    return of_rows(aggregate.prior, aggregate.posteriors, rows_with_label(run, label))


def conditioned_aggregate(run: Run) -> Aggregate:
    """Where the training sounds lie when the model is told all that is known.

    Raises:
      ValueError: the run is unfinished, or its model can be told nothing.
    """
    if run.told is None:
        posteriors_of(run)  # says that the run is unfinished
        if run.vocabulary.num_facts:
            raise ValueError(
                "where this run's sounds lie when the model is told of them was not stored: run "
                "train.py on it again"
            )
        raise ValueError("this run's model can be told nothing of a sound")
    return run.told


def posteriors_of(run: Run) -> Posteriors:
    """Where the training sounds lie.

    Raises:
      ValueError: the run is unfinished.
    """
    if run.posteriors is None:
        raise ValueError(
            "this run was not finished, so where its sounds lie is not known yet: let train.py "
            "finish, or stop it with Ctrl-C"
        )
    return run.posteriors


def gaussian_of(run: Run, width: int | None = None):
    """The aggregate posterior as one Gaussian; N(0, I) where the run is unfinished.

    Args:
      width: of the latent of a frame, for the Gaussian of all frames.

    Returns:
      mean [width], and the Cholesky factor [width, width] of the covariance.
    """
    width = width or run.config.latent_dim
    if run.posteriors is None:
        return jnp.zeros(width), jnp.eye(width)
    _, *parts = run.posteriors
    means, variances = (part.reshape(-1, width) for part in parts)
    return means.mean(0), jnp.linalg.cholesky(priors.covariance(means, variances))
