"""Where new latents are drawn from: N(0, I), or a density fitted to the aggregate posterior.

The aggregate posterior q(z) = mean_n q(z | x_n) is where the decoder has learnt to decode, and
after training it is not N(0, I). Two densities are fitted to it, and the one is kept that gives the
latents of sounds that were left out of it the higher likelihood, every sound in its turn
(cross-validation):

- a Gaussian mixture with full covariances (expectation-maximisation; Dempster et al. 1977), of 1,
  2, 4, ... components;
- manifold Parzen windows (Vincent & Bengio 2003): a Gaussian around every training sound, long
  along the way to its neighbours and narrow across it. Sounds lie near a surface that bends, which
  few components cannot follow.

`PRIORS` lists them by the name that `sample.py --prior` has.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from vaejax.latent.family import Family
from vaejax.latent.mixture import (
    MIXTURE,
    NORMAL,
    Mixture,
    covariance,
    fit_mixture,
    log_density,
    standard,
)
from vaejax.latent.windows import WINDOWS, Sizes, Windows, windows_around

__all__ = [
    "PRIORS",
    "Choice",
    "Mixture",
    "Prior",
    "Sizes",
    "Windows",
    "among",
    "choose",
    "covariance",
    "draw",
    "fit_mixture",
    "judged",
    "log_density",
    "make_log_density",
    "standard",
    "windows_around",
]

# Parts that sounds are divided into, each of which is left out once; so many sounds are enough.
NUM_FOLDS, ENOUGH = 5, 128
# Draws of the posterior of each left-out sound that a density is judged by.
NUM_JUDGED = 2

# By the name that `sample.py --prior` has.
PRIORS: dict[str, Family] = {
    "normal": NORMAL,
    "mixture": MIXTURE,
    "windows": WINDOWS,
}

Prior: TypeAlias = Any
"""A density of one of these families, a NamedTuple."""


def family_of(prior: Prior) -> Family:
    """The family that a density is of."""
    return next(family for family in PRIORS.values() if isinstance(prior, family.kind))


def draw(key, prior: Prior, *, temperature):
    """One latent.

    Args:
      key: of this draw.
      temperature: scale of the deviation from the centre of the component; 1 is the fitted
        density, 0 the centre itself.

    Returns:
      z [latent_dim], and the component [] int32 it came from (of `Windows`, the training sound).
    """
    return family_of(prior).draw(key, prior, temperature)


def make_log_density(prior: Prior):
    """log p(z) as a function of latents [num, latent_dim], in nats: [num]."""
    return family_of(prior).make_log_density(prior)


def among(prior: Prior, means, variances, chosen: np.ndarray) -> Prior:
    """The density of some of the sounds alone that a density was fitted to.

    Args:
      means, variances: [num_clips, latent_dim], of all of them.
      chosen: [num_clips] bool.

    Returns:
      The windows around these sounds; of other families one Gaussian, shrunk towards the whole set
      as far as they are few.
    """
    if (narrow := family_of(prior).among) is not None:
        return narrow(prior, np.flatnonzero(chosen))
    pooled = covariance(means, variances)
    return fit_mixture(means[chosen], variances[chosen], components=1, pooled=pooled)


class Choice(NamedTuple):
    """A fitted density, and what it was chosen from."""

    prior: Prior
    log_likelihoods: dict[str, float]
    """Of the best candidate of each kind, in nats per left-out sound, see `judged`; the last one is
    that of the prior."""


def choose(
    means,
    variances,
    *,
    max_components: int,
    seed: int,
    hashes: Sequence[str] | None = None,
    names: Sequence[str] = tuple(PRIORS),
) -> Choice:
    """Fits every kind and size of density to parts of the sounds, and to all of them the one under
    which the rest was likeliest.

    Args:
      means, variances: [num_clips, latent_dim], posteriors of sounds.
      max_components: of a mixture, at most; also limited to one per 16 sounds.
      seed: of the parts, the starts, and of the draws that densities are judged by.
      hashes: [num_clips], of the contents: of copies, one takes part in the choice.
      names: some of `PRIORS`.

    Raises:
      ValueError: so few sounds allow none of these.
    """
    means, variances = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    rng = np.random.default_rng(seed)
    own = range(len(means)) if hashes is None else hashes
    rows = np.sort(np.unique(own, return_index=True)[1])
    scores: dict[tuple[str, Any], list[np.ndarray]] = {}
    for kept, left_out in _folds(rng.permutation(rows)):
        eps = rng.standard_normal((NUM_JUDGED, len(left_out), means.shape[1]))
        points = means[left_out] + np.sqrt(variances[left_out]) * eps
        for name in names:
            fits = PRIORS[name].fit_sizes(means[kept], variances[kept], max_components, seed)
            for size, prior in fits:
                score = judged(prior, points, num=len(kept))
                scores.setdefault((name, size), []).append(score)
    if not scores:
        raise ValueError(f"{len(means)} sounds are too few for a prior of {', '.join(names)}")
    mean = {one: float(np.concatenate(parts).mean()) for one, parts in scores.items()}
    best, size = max(mean, key=lambda one: mean[one])
    by_name: dict[str, float] = {}
    for (name, _), value in mean.items():
        by_name[name] = max(value, by_name.get(name, value))
    by_name[best] = by_name.pop(best)
    return Choice(PRIORS[best].fit(means, variances, size, seed), by_name)


def _folds(rows) -> list[tuple[np.ndarray, np.ndarray]]:
    """(kept, left out) rows, several times, of equal sizes; until enough have been left out."""
    if len(rows) < 2:
        return [(rows, rows)]
    size = max(min(len(rows) // NUM_FOLDS, ENOUGH), 1)
    starts = range(0, min(size * NUM_FOLDS, len(rows) - size + 1, ENOUGH), size)
    return [(np.delete(rows, np.s_[at : at + size]), rows[at : at + size]) for at in starts]


def judged(prior: Prior, points, *, num: int):
    """log p(z) of sounds in nats, [num_sounds], where one in num + 1 may be unlike all others.

    A sound of a kind of its own lies where a density fitted to others expects nothing: ten of them
    in a hundred decided, by thousands of nats each, what the other ninety are drawn from. With
    Laplace's probability of something new it may be from N(0, I).

    Args:
      points: [num_draws, num_sounds, latent_dim].
      num: of the sounds that the density was fitted to.
    """
    flat = np.asarray(points, np.float32).reshape(-1, np.shape(points)[-1])
    judge = family_of(prior).judge
    values = judge(prior, flat) if judge else make_log_density(prior)(flat)
    fitted = np.asarray(values, np.float64)
    new = -0.5 * (np.sum(flat.astype(np.float64) ** 2, 1) + flat.shape[1] * np.log(2 * np.pi))
    either = np.logaddexp(fitted + np.log(num / (num + 1)), new - np.log(num + 1))
    return either.reshape(np.shape(points)[:2]).mean(0)
