"""What tells a researcher whether the latent is alive, what is in it, and what to do where it is
not.

The figures of an evaluation are `latent_figures` and `explained`; `advice` and `collapse_warning`
put them into words. `effects` says what each dimension does to the sound.
"""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.config import Config
from vaejax.models import linear as linear_path
from vaejax.objective.context import bind
from vaejax.objective.regularizers import REGULARIZERS
from vaejax.train import patience
from vaejax.train.patience import Progress

# Burda et al. 2016: a dimension is active where the variance of its posterior mean exceeds 0.01,
# under a prior of variance 1.
ACTIVE_VARIANCE = 0.01
# Nats per sound below which a latent says nothing.
DEAD_NATS = 0.05


# Is it alive?


def active_units(mean_variance, variance=1.0) -> int:
    """Number of latent dimensions in use (Burda et al. 2016).

    Args:
      mean_variance: [latent_dim], variance over sounds of the posterior mean.
      variance: [latent_dim], of the aggregate posterior, the variances of the posteriors included:
        a share of it is what counts, as a learned prior may have any scale. 1 by default, that of
        N(0, I).
    """
    return int(np.sum(np.asarray(mean_variance) > ACTIVE_VARIANCE * np.asarray(variance)))


def per_dim(kl_per_dim, means, variances, *, num_dims: int):
    """What a batch says of each dimension of z; where z is a path, of those that it has at a frame.

    Args:
      kl_per_dim: [num, latent_dim] nats. means, variances: [num, latent_dim], of the posteriors.
      num_dims: model.latent_dim; latent_dim itself, or that over the number of frames.

    Returns:
      [num_dims] each: KL in nats per sound; the variance of the means over sounds (and frames); and
      that of the aggregate posterior.
    """
    kl = kl_per_dim.reshape(len(kl_per_dim), -1, num_dims).sum(1).mean(0)
    spread = means.reshape(-1, num_dims).var(0)
    return kl, spread, spread + variances.reshape(-1, num_dims).mean(0)


def mutual_information(log_q) -> float:
    """What z says of which sound it is of, I(x; z) under q, in nats (Hoffman & Johnson 2016).

        I = mean_n [ log q(z_n|x_n) - log 1/N sum_m q(z_n|x_m) ],    z_n ~ q(z|x_n)

    An estimate from N sounds, and never more than log N. What is left of the KL term,
    KL(q(z) || p(z)) = E KL(q(z|x) || p(z)) - I, is how far the sounds together are from the prior.

    Args:
      log_q: [N, N], of draw n under the posterior of sound m.
    """
    log_q = np.asarray(log_q, np.float64)
    own = np.diagonal(log_q)
    top = log_q.max(1)
    log_mean = top + np.log(np.mean(np.exp(log_q - top[:, None]), 1))
    return float(np.mean(own - log_mean))


@lru_cache
def _make_pairs(config: Config):
    @jax.jit
    def pairs(flow, z, mean, logvar):
        at = bind(config, {"posterior": flow})

        def row(draw):
            def one(mean, logvar):
                return jnp.sum(at.posterior.log_density(draw, mean, logvar, at))

            return jax.vmap(one)(mean, logvar)

        return jax.lax.map(row, z)

    return pairs


def latent_figures(params, terms: Mapping[str, Any], config: Config) -> dict[str, float]:
    """What an evaluation says of the latent.

    Args:
      terms: `eval_step` of N sounds.

    Returns:
      active_units; mutual_information and marginal_kl, nats per sound, which sum to kl;
      aggregate_mean and aggregate_std, root mean square over dimensions of the mean and the
      standard deviation of the aggregate posterior: 0 and 1 where it meets N(0, I).
    """
    means, variances = (np.asarray(part, np.float64) for part in terms["moments"])
    num_dims = config.model.latent_dim
    kl_per_dim = np.asarray(terms["kl_per_dim"])
    _, active, spread = per_dim(kl_per_dim, means, variances, num_dims=num_dims)
    log_q = _make_pairs(config)(params["posterior"], terms["z"], terms["mean"], terms["logvar"])
    information = mutual_information(log_q)
    return {
        "active_units": active_units(active, spread),
        "mutual_information": information,
        "marginal_kl": float(np.mean(terms["kl"])) - information,
        "aggregate_mean": float(np.sqrt(np.mean(means.mean(0) ** 2))),
        "aggregate_std": float(np.sqrt(np.mean(spread))),
    }


def collapse_warning(held_out: Mapping[str, float], config: Config) -> str | None:
    """A sentence for the screen where the latent is dead or nearly so, else None.

    A latent is dead where no posterior mean moves with the sound, or next to no nats are spent. KL
    alone would not tell: free bits, a capacity or a learned prior hold it up where z says nothing.

    Args:
      held_out: figures of an evaluation, of which kl and active_units are looked at.
    """
    kl, units, latent_dim = held_out["kl"], int(held_out["active_units"]), config.model.latent_dim
    way_out = REGULARIZERS[config.objective.regularizer].way_out
    if units == 0 or kl < DEAD_NATS:
        return (
            f"the latent has collapsed: KL is {kl:.3g} nats and {units or 'no dimension'} of "
            f"{latent_dim} {'is' if units < 2 else 'are'} in use, so every draw will be the same "
            f"average sound; {way_out}"
        )
    if units < latent_dim / 8:
        return (
            f"only {units} of {latent_dim} latent dimensions are in use; {way_out}, "
            f"or save work with --model.latent_dim {max(2 * units, 2)}"
        )
    return None


def when_to_stop(values: Mapping[int, float], progress: Progress, config: Config) -> str:
    """Whether a run that is over was long enough, in a sentence.

    Args:
      values: step -> the held-out figure `train.best_by`, lower is better.
      progress: on the held-out sounds, at the end.
    """
    name = config.train.best_by
    steps = sorted(values)
    last, best = steps[-1], min(steps, key=lambda step: values[step])
    if patience.is_over(progress, config):
        return patience.explain(progress, last, config)
    if best == last:
        # Of all that was gained, what came in the last quarter.
        before = max((s for s in steps if s <= 0.75 * last), default=steps[0])
        gained = values[steps[0]] - values[last]
        share = (values[before] - values[last]) / gained if gained > 0 else 0.0
        if share < 0.02:
            return f"the held-out {name} has settled: more steps will change little"
        return (
            f"the held-out {name} was still falling at the last step ({share:.0%} of what was "
            "gained came in the last quarter): go on with --train.num_steps "
            f"{2 * config.train.num_steps}"
        )
    text = f"the held-out {name} was best at step {best} of {last}, and rose after it: "
    if best == steps[0]:
        return text + "nothing was learned that holds for other sounds; more sounds would help most"
    return text + "the weights of that step are the ones that are kept and used"


def advice(
    step: int, held_out: Mapping[str, float], best: Mapping[str, float], config: Config
) -> str:
    """What an evaluation says about a run, in a sentence or two.

    Args:
      step: of the evaluation. held_out: its figures.
      best: step and figures of the best evaluation so far, this one included.
    """
    by = config.train.best_by
    units, kl = int(held_out["active_units"]), held_out["kl"]
    text = collapse_warning(held_out, config) or (
        f"the latent is alive: {units} of {config.model.latent_dim} dimensions are in use, KL is "
        f"{kl:.4g} nats per sound"
    )
    if best["step"] < step:
        text += (
            f"; the held-out {by} was best at step {int(best['step'])} ({best[by]:.6g}, now "
            f"{held_out[by]:.6g}), and the weights of that step are kept: where it goes on "
            "rising, the model is learning the training sounds by heart"
        )
    return text


# How much does it hold?


def errors(x, rebuilt, condition, linear, *, latent_dim: int):
    """Squared errors, [] each, of a reconstruction and of what it has to beat.

    Args:
      x, rebuilt: [num_frames, ...]. condition: [condition_dim], what the model was told.

    Returns:
      model; mean: of the mean sound, the linear path's (of all told alike); pca: of as many
      principal directions as z has dimensions, equal to mean where there is no linear path.
    """
    if linear.loc.ndim < x.ndim:  # the path of a frame, as of the `frames` model
        one = partial(errors, condition=condition, linear=linear, latent_dim=latent_dim)
        return jax.tree.map(jnp.sum, jax.vmap(lambda x, rebuilt: one(x, rebuilt))(x, rebuilt))
    mean = jnp.sum((x - linear.loc) ** 2)
    coordinates = linear_path.coordinates(linear, x, condition)
    shift = linear_path.offset(linear, condition)
    kept = jnp.arange(len(coordinates)) < latent_dim
    # Directions are orthonormal: |d - U c|^2 = |d|^2 - |U'd|^2 + |U'd - c|^2 with U'd the whole
    # coordinates spares rebuilding the sound, which took a quarter of an evaluation.
    left_out = jnp.where(kept, 0.0, coordinates)
    pca = mean - jnp.sum((coordinates + shift) ** 2) + jnp.sum(left_out**2)
    return {"model": jnp.sum((x - rebuilt) ** 2), "mean": mean, "pca": jnp.maximum(pca, 0.0)}


def explained(errors: Mapping[str, Any], config: Config) -> dict[str, float]:
    """Shares of the variance around the mean sound that are rebuilt, at most 1: by the model, and
    by PCA of as many dimensions where there is a linear path.

    Args:
      errors: of `errors`, [num] each.
    """
    total = {name: np.asarray(values, np.float64).sum() for name, values in errors.items()}
    share = {n: float(1 - total[n] / max(total["mean"], 1e-12)) for n in ("model", "pca")}
    shares = {"explained": share["model"]}
    return shares | ({"explained_by_pca": share["pca"]} if config.model.ppca_clips else {})


# What does each dimension do?


def measures(magnitude, *, sample_rate: int, seconds: float) -> dict[str, jax.Array]:
    """A sound's level, centroid and attack from its magnitudes, all with a gradient.

    Args:
      magnitude: [num_frames, num_bins], linear.
      seconds: between frames.

    Returns:
      level: [] dB of the mean power.
      centroid: [] octaves above 1 Hz, of the mean frequency weighted by power (by magnitude it
      would ripple as partials pass from bin to bin).
      attack: [] seconds; the spread in time of where the envelope rises, scaled so that of a
      straight rise it is its length.
    """
    num_frames, num_bins = magnitude.shape
    hertz = jnp.linspace(0.0, sample_rate / 2, num_bins)
    power = magnitude**2
    total = jnp.maximum(jnp.sum(power), 1e-12)
    # The rise of the envelope is a density over time; sqrt(12) its uniform one's length over sigma.
    envelope = jnp.sqrt(jnp.sum(power, 1) + 1e-12)
    rise = jnp.maximum(jnp.diff(envelope, prepend=0.0), 0.0)
    rise /= jnp.sum(rise)
    time = jnp.arange(num_frames) * seconds
    centre = jnp.sum(rise * time)
    return {
        "level": 10 * jnp.log10(jnp.maximum(jnp.mean(power), 1e-12)),
        "centroid": jnp.log2(jnp.maximum(jnp.sum(hertz * power) / total, 1.0)),
        "attack": jnp.sqrt(12 * jnp.sum(rise * (time - centre) ** 2) + 1e-12),
    }


def transposition(magnitude, change):
    """How a change of the magnitudes moves them along frequency, by least squares.

    To first order, a sound that is transposed by p octaves and made louder by a factor of 1 + g
    changes by g S - p dS/dlog2(f) (optical flow along one axis: Lucas & Kanade 1981).

    Args:
      magnitude, change: [num_frames, num_bins], linear.

    Returns:
      semitones: []. share: [] of the change (of its energy) that this and a gain explain.
    """
    bins = jnp.arange(magnitude.shape[1])
    # Five points: a window's lobe is four bins wide, of whose slope two neighbours miss a quarter.
    near = jnp.pad(magnitude, ((0, 0), (2, 2)))
    slope = (8 * (near[:, 3:-1] - near[:, 1:-3]) - (near[:, 4:] - near[:, :-4])) / 12
    slope *= bins * jnp.log(2.0)
    basis = jnp.stack([magnitude.ravel(), -slope.ravel()])
    gram, target = basis @ basis.T, basis @ change.ravel()
    found = jnp.linalg.solve(
        gram + 1e-9 * jnp.trace(gram) * jnp.eye(2) + 1e-20 * jnp.eye(2), target
    )
    energy = jnp.maximum(jnp.sum(change**2), 1e-20)
    return 12 * found[1], jnp.clip(jnp.dot(found, target) / energy, 0.0, 1.0)


def effects(magnitude_of, z, scale, *, sample_rate: int, seconds: float) -> dict[str, jax.Array]:
    """What each latent dimension does to one sound, to first order, by forward differentiation.

    Args:
      magnitude_of: z [latent_dim] -> STFT magnitude [num_frames, num_bins], in units of a
        full-scale sine, such as `features.magnitude_of` of what the decoder says.
      z: [latent_dim], where.
      scale: [latent_dim], the step that a figure is of; such as the standard deviation of the
        aggregate posterior.
      seconds: between frames.

    Returns:
      Of a step along each dimension, [latent_dim] each: size, the norm of the change over that of
      the magnitudes; level in dB, centroid in octaves and attack in ms (see `measures`); pitch in
      semitones and pitch_share, see `transposition`; hertz and time, in Hz and seconds, the centre
      of where the sound changes.
    """

    def both(z):
        magnitude = magnitude_of(z)
        known = measures(magnitude, sample_rate=sample_rate, seconds=seconds)
        return (magnitude, known), magnitude

    # [num_frames, num_bins, latent_dim] and [latent_dim] each: a column per dimension.
    (jacobian, slopes), magnitude = jax.jacfwd(both, has_aux=True)(z)
    changes = jnp.moveaxis(jacobian * scale, -1, 0)
    pitch, share = jax.vmap(lambda change: transposition(magnitude, change))(changes)
    energy = changes**2
    total = jnp.maximum(jnp.sum(energy, (1, 2)), 1e-20)
    num_frames, num_bins = magnitude.shape
    log_hertz = jnp.log2(jnp.maximum(jnp.linspace(0.0, sample_rate / 2, num_bins), 1.0))
    time = jnp.arange(num_frames) * seconds
    return {
        "size": jnp.sqrt(total / jnp.maximum(jnp.sum(magnitude**2), 1e-20)),
        "level": slopes["level"] * scale,
        "centroid": slopes["centroid"] * scale,
        "attack": 1e3 * slopes["attack"] * scale,
        "pitch": pitch,
        "pitch_share": share,
        "hertz": 2 ** (jnp.einsum("zfb,b->z", energy, log_hertz) / total),
        "time": jnp.einsum("zfb,f->z", energy, time) / total,
    }
