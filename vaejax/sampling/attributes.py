"""Directions through the latent with a name: `brighter`, `noisier`, `slower`, `longer`, any label.

A measured attribute is a linear model of how a descriptor of the decoded sound changes when a step
is made in the latent, fitted to random steps from where the training sounds lie. All that is
measured are sounds of the decoder, so that a direction is about what the decoder does, not about
what tells one family of sounds from another, and a run folder needs neither its data nor anything
that was stored when it was trained. A label is the way from the mean of all others to its own.
"""

import contextlib
import math
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import files
from vaejax.config import Config
from vaejax.features import conditions
from vaejax.latent import priors
from vaejax.metrics import descriptors
from vaejax.run.arrays import Posteriors, save_arrays
from vaejax.run.load import Run
from vaejax.sampling import densities, generate

# So many sounds are decoded and measured, and again a step away from each; the figures are kept in
# the run folder.
NUM_SOUNDS = 512
MEASURED = "attributes.npz"
# One more whenever what is measured changes, or how.
VERSION = 1
# Below this share of the variance, a step is a shot in the dark.
MIN_R2 = 0.05
RIDGES = 10.0 ** np.arange(-2, 5)


class Measure(NamedTuple):
    """What an attribute is a change of."""

    unit: str
    """Of its values."""
    thing: str
    """That is measured."""


# Frequencies and times as octaves, which is how they are heard.
MEASURES = {
    "brighter": Measure("octaves", "spectral centroid"),
    "noisier": Measure("dB", "spectral flatness"),
    "slower": Measure("octaves", "attack time"),
    "longer": Measure("octaves", "effective duration"),
}


def measure(waveform, *, config: Config):
    """The values [len(MEASURES)] of a sound [num_samples], in the order of MEASURES."""
    sample_rate = config.data.sample_rate
    centroid = descriptors.spectral_centroid(waveform, sample_rate=sample_rate)
    attack = descriptors.attack_time(waveform, sample_rate=sample_rate)
    duration = descriptors.effective_duration(waveform, sample_rate=sample_rate)
    return jnp.stack(
        [
            jnp.log2(jnp.maximum(centroid, 1.0)),
            descriptors.spectral_flatness_db(waveform),
            jnp.log2(attack),
            jnp.log2(duration),
        ]
    )


class Measured(NamedTuple):
    """Decoded sounds in the order of MEASURES."""

    values: np.ndarray
    """[num, len(MEASURES)], at posterior means of training sounds."""
    steps: np.ndarray
    """[num, latent_dim], a step from each, in the latent whitened by the aggregate posterior."""
    changes: np.ndarray
    """[num, len(MEASURES)], after the step."""


def step(
    run: Run, amounts: Mapping[str, float], *, workdir: Path | None = None
) -> tuple[np.ndarray, list[str]]:
    """The step through the latent that changes attributes by given amounts.

    The step is the likeliest one under the aggregate posterior that makes all measured changes at
    once: the shortest after whitening. An amount of 0 holds an attribute where it is.

    Args:
      run: finished, with its own phase recovery.
      amounts: in standard deviations of the attribute over the training sounds; of a label, in ways
        from the mean of all other sounds to the label's.
      workdir: where to keep what was measured, and look for it; None measures anew.

    Returns:
      dz [latent_dim] float32, and a sentence on each attribute.
    Raises:
      ValueError: an attribute or label that the run does not know, or an unfinished run.
    """
    labels = sorted({row["label"] for row in run.data["files"]})
    unknown = [name for name in amounts if name not in MEASURES and name not in labels]
    if unknown:
        raise ValueError(
            f"the run knows no attribute {unknown[0]!r}; it knows: {', '.join(MEASURES)}, and its "
            f"labels: {', '.join(labels)}"
        )
    posteriors = densities.posteriors_of(run)
    dz, said = np.zeros(posteriors.means.shape[1]), []

    measured = [name for name in amounts if name in MEASURES]
    if measured:
        sounds = measure_run(run, workdir)
        slopes, wanted = [], []
        for name in measured:
            at, (unit, thing) = list(MEASURES).index(name), MEASURES[name]
            deviation = float(np.std(sounds.values[:, at]))
            slope, r2 = fit(sounds.steps, sounds.changes[:, at])
            if not r2 >= MIN_R2:
                raise ValueError(
                    f"this run's latent says nothing of {name!r} (change of {thing}: R2 {r2:.2f}, "
                    f"at least {MIN_R2} is needed)"
                )
            said.append(
                f"{name}{amounts[name]:+g}: {amounts[name] * deviation:+.2g} {unit} of {thing} "
                f"(R2 {r2:.2f})"
            )
            slopes.append(slope)
            wanted.append(amounts[name] * deviation)
        # Least norm with slopes @ step = wanted.
        white = np.linalg.pinv(np.stack(slopes), rcond=1e-3) @ np.array(wanted)
        dz += _whitening(posteriors) @ white

    for name in amounts:
        if name not in MEASURES:
            chosen = densities.rows_with_label(run, name)
            if chosen.all():
                raise ValueError(f"all sounds of the run have the label {name!r}: it leads nowhere")
            way = posteriors.means[chosen].mean(0) - posteriors.means[~chosen].mean(0)
            dz += amounts[name] * way
            said.append(f"{name}{amounts[name]:+g}: of the way from all others to {name}")
    return dz.astype(np.float32), said


def fit(steps, changes) -> tuple[np.ndarray, float]:
    """Ridge regression with the penalty that predicts left-out changes best.

    Args:
      steps: [num, latent_dim].
      changes: [num].

    Returns:
      slope: [latent_dim], change per unit of step. r2: share of the changes' variance that is
      explained, each left out of the fit in turn.
    """
    y = changes - changes.mean()
    x = steps - steps.mean(0)
    if not y.any():
        return np.zeros(x.shape[1]), 0.0
    left, singular, right = np.linalg.svd(x, full_matrices=False)
    along = left.T @ y
    best = (math.inf, np.zeros(x.shape[1]))
    for penalty in RIDGES:
        shrunk = singular**2 / (singular**2 + penalty)
        # Left-out residuals in closed form (Allen 1974); the mean is one parameter more.
        leverage = (left**2) @ shrunk + 1 / len(y)
        press = np.mean(((y - left @ (shrunk * along)) / (1 - np.minimum(leverage, 0.999))) ** 2)
        if press < best[0]:
            best = (press, right.T @ (shrunk / np.maximum(singular, 1e-12) * along))
    press, slope = best
    # The penalty makes slopes too shallow, and steps by them too long; undone along the direction.
    fitted = x @ slope
    return slope * (fitted @ y) / max(fitted @ fitted, 1e-12), 1 - press / np.mean(y**2)


def measure_run(run: Run, workdir: Path | None) -> Measured:
    """Measures NUM_SOUNDS of the training sounds, chosen evenly, and a step from each; where there
    are fewer, several steps from each."""
    path = None if workdir is None else workdir / MEASURED
    identity = f"{VERSION} {run.fingerprint}"
    # Of other weights, of another version or damaged, it is measured again.
    with contextlib.suppress(OSError, KeyError, ValueError, zipfile.BadZipFile):
        if path is not None:
            with np.load(path, allow_pickle=False) as arrays:
                if str(arrays["identity"]) == identity:
                    return Measured(*(arrays[name] for name in Measured._fields))
    posteriors = densities.posteriors_of(run)
    chosen = np.linspace(0, len(posteriors.means) - 1, NUM_SOUNDS).round().astype(int)
    means = posteriors.means[chosen]
    steps = np.random.default_rng(0).standard_normal(means.shape)
    decoder = generate.make_decoder(run.config, "FLOAT")
    untold = conditions.nothing(run.vocabulary, generate.chunk_size())
    measures = jax.jit(jax.vmap(partial(measure, config=run.config)))
    print(f"measuring {2 * NUM_SOUNDS} sounds for the attributes, once per run", flush=True)
    here, there = (
        generate.in_chunks(
            lambda rows: measures(decoder(run.instrument, rows, untold)["samples"]),
            points.astype(np.float32),
            generate.chunk_size(),
        ).astype(np.float64)
        for points in (means, means + steps @ _whitening(posteriors).T)
    )
    measured = Measured(here, steps, there - here)
    if path is not None:
        files.clean(path.parent, (path.name,))
        # A run folder that may only be read is measured every time.
        with contextlib.suppress(OSError):
            save_arrays(path, {**measured._asdict(), "identity": identity})
    return measured


def _whitening(posteriors: Posteriors) -> np.ndarray:
    """Lower triangular factor [latent_dim, latent_dim] of the aggregate posterior's covariance."""
    covariance = priors.covariance(posteriors.means, posteriors.variances)
    # The jitter is for dimensions that the model does not use.
    return np.linalg.cholesky(covariance + 1e-9 * np.eye(len(covariance)))
