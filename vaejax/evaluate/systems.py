"""What is compared: a run, linear baselines of the same size, and the anchors.

All see the same spectrograms and go through the same phase recovery, so that they differ in the
model alone.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import codec, features, models
from vaejax.codec import Fitted
from vaejax.config import Config, Objective
from vaejax.data.clips import raw_clip
from vaejax.data.sounds import Sounds
from vaejax.latent import priors
from vaejax.latent.priors import Mixture
from vaejax.models import linear
from vaejax.objective import context
from vaejax.run.load import Run
from vaejax.train import evaluation
from vaejax.train.state import create_state

# Training sounds that PCA is fitted on, at most: its memory is that of their spectrograms.
MAX_PCA_CLIPS = 2048

TRUE, VAEJAX, PPCA, PCA, GMM = "true magnitudes", "vaejax", "pPCA", "PCA", "GMM on PCA"


class System(NamedTuple):
    """One column of the table. Functions of one example; `arrays` holds all they depend on."""

    name: str
    about: str
    arrays: Any
    rebuild: Callable | None = None
    """(arrays, x [num_frames, ...], facts [num_facts]) -> x of the reconstruction."""
    draw: Callable | None = None
    """(arrays, key) -> x of a new sound."""
    weights: tuple[Any, Fitted] | None = None
    """Of a model whose bound can be computed."""
    is_exact: bool = False
    """Whether its posterior is, and so its bound the evidence itself for any number of draws."""


def create(run: Run, sounds: Sounds | None, *, temperature: float = 1.0) -> list[System]:
    """The systems that a run can be compared with.

    Args:
      sounds: of the run; without them there is no PCA of them.
      temperature: at which the run itself draws new ones; the baselines draw at 1.
    """
    config, (params, fitted, prior, _) = run.config, run.instrument
    latent_dim = config.latent_dim
    start = create_state(linear_config(config), fitted.linear.condition_dim).params
    has_phase = features.create(config).has_phase
    about = (
        "the sounds' own values: what the way back costs"
        if has_phase
        else "the sounds' own magnitudes: what phase recovery costs"
    )
    systems = [
        System(TRUE, about, (), _same),
        System(
            VAEJAX,
            f"this run at step {run.step}",
            (params, fitted, prior),
            partial(_rebuild, config=config),
            partial(_draw, config=config, temperature=temperature),
            (params, fitted),
        ),
    ]
    if config.num_directions:
        systems.append(
            System(
                PPCA,
                f"the run's linear path, step 0: pPCA-{latent_dim} of augmented training sounds",
                (start, fitted, priors.standard(latent_dim)),
                partial(_rebuild, config=linear_config(config)),
                partial(_draw, config=linear_config(config)),
                (start, fitted),
                True,
            )
        )
    if sounds is not None:
        plain, mixture, num = fit_pca(sounds, fitted, config)
        about = f"PCA-{latent_dim} of {num} training sounds as they are"
        plain_fitted = Fitted(fitted.statistics, plain)
        systems.append(
            System(
                PCA,
                about,
                plain,
                partial(_project, latent_dim=latent_dim),
                # Around a linear path the weights of step 0 are zero where it counts: the model
                # is then the path that it is given. A model of frames has no place for one of
                # whole sounds.
                weights=(start, plain_fitted)
                if config.num_directions and config.latent_frames == 1
                else None,
                is_exact=True,
            )
        )
        components = len(mixture.log_weights)
        systems.append(
            System(
                GMM,
                f"a Gaussian mixture ({components}) of the sounds' places in that PCA",
                (plain, mixture),
                draw=_draw_mixture,
            )
        )
    return systems


def linear_config(config: Config) -> Config:
    """Under which the linear path is exact: its own likelihood and prior, whatever the run has."""
    return replace(config, objective=Objective())


def fit_pca(sounds: Sounds, fitted: Fitted, config: Config) -> tuple[linear.Linear, Mixture, int]:
    """PCA of the training sounds as they are, and a mixture fitted to their coordinates.

    Returns:
      The linear path; the density of the latent_dim first coordinates, each in units of the root
      of its eigenvalue, with as many components as sounds that are left out prefer; and how many
      sounds.
    """
    latent_dim = config.latent_dim
    rows = sounds.train_rows
    if len(rows) > MAX_PCA_CLIPS:
        rng = np.random.default_rng(config.train.seed)
        rows = np.sort(rng.choice(rows, MAX_PCA_CLIPS, replace=False))

    @jax.jit
    def spectrograms(clips, lengths, facts, rows):
        def one(pcm, length):
            waveform = raw_clip(pcm, length, config)
            return features.x_of(waveform, fitted.statistics, config)

        return jax.vmap(one)(clips, lengths)

    x = evaluation.over_rows(spectrograms, sounds, rows)
    # Of the width of the run's own path, so that one compiled program serves both.
    nothing = np.zeros((len(x), fitted.linear.condition_dim), np.float32)
    # At least as many directions as the baseline has dimensions: z may be a path.
    num_directions = max(config.num_directions, latent_dim)
    path = linear.fit(x, nothing, latent_dim=latent_dim, num_directions=num_directions)

    @jax.jit
    def whitened(path, x):
        def one(x):
            places = linear.coordinates(path, x, jnp.zeros(path.condition_dim))
            return places[:latent_dim] / jnp.sqrt(path.eigenvalues[:latent_dim])

        return jax.lax.map(one, x, batch_size=8)

    places = np.asarray(whitened(path, x))
    choice = priors.choose(
        places,
        np.zeros_like(places),
        max_components=config.prior.max_components,
        seed=config.train.seed,
        hashes=[sounds.corpus.hashes[row] for row in rows],
        names=("mixture",),
    )
    assert isinstance(choice.prior, Mixture)
    return path, choice.prior, len(rows)


def _same(arrays, x, facts):
    return x


def _rebuild(arrays, x, facts, config: Config):
    params, fitted, _ = arrays
    told = codec.condition_of(facts, fitted, config)
    mean, _ = context.encode(params, x, told, fitted.linear, config=config)
    return models.decode(params, mean, told, fitted.linear, config=config)


def _draw(arrays, key, config: Config, temperature: float = 1.0):
    """Told nothing, as `sample.py` by default; sound i of its --seed where the key is that of i."""
    params, fitted, prior = arrays
    z, _ = priors.draw(key, prior, temperature=temperature)
    nothing = jnp.zeros(fitted.linear.condition_dim)
    return models.decode(params, z, nothing, fitted.linear, config=config)


def _project(path, x, facts, latent_dim: int):
    places = linear.coordinates(path, x, jnp.zeros(path.condition_dim))
    return linear.at(path, jnp.where(jnp.arange(len(places)) < latent_dim, places, 0.0))


def _draw_mixture(arrays, key):
    path, mixture = arrays
    z, _ = priors.draw(key, mixture, temperature=1.0)
    places = z * jnp.sqrt(path.eigenvalues[: len(z)])
    return linear.at(path, jnp.pad(places, (0, len(path.eigenvalues) - len(z))))
