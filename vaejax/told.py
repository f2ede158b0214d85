"""Plans of sounds of which the model is told something: label, pitch, factors.

What is asked for is told; what is not asked for is told as of a training sound drawn at random
(of that label, where one is asked for), because a model that is told half of what it knows
answers less sharply. z comes from where training sounds lie when the model is told all of them.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import conditions, generate, latents, priors
from vaejax.checkpoint import Aggregate, Run
from vaejax.keys import Keys
from vaejax.latents import Plan
from vaejax.priors import Mixture

# Folded into the key of a sound for the training sound whose facts it borrows.
BORROWED = 1


def aggregate_of(run: Run) -> Aggregate:
    """Where the training sounds lie when the model is told all that is known.

    Raises:
      ValueError: the run is unfinished, or its model can be told nothing.
    """
    if run.told is None:
        latents.posteriors_of(run)  # says that the run is unfinished
        raise ValueError("this run's model can be told nothing of a sound")
    return run.told


def density(run: Run, label: str | None) -> Mixture:
    """Where z lies when the model is told all that is known, of one label or of all.

    Raises:
      ValueError: no such label, or an unfinished run.
    """
    told = aggregate_of(run)
    if label is None:
        return told.prior
    chosen = latents.rows_with_label(run, label)
    posteriors = told.posteriors
    return priors.fit(
        posteriors.means[chosen],
        posteriors.variances[chosen],
        posteriors.means[chosen],
        max_components=1,
        seed=0,
        pooled=priors.covariance(posteriors.means, posteriors.variances),
    )


def draw_facts(run: Run, key, indices: np.ndarray, values: dict) -> np.ndarray:
    """Facts [len(indices), num_facts] of sounds: `values` where given, else borrowed.

    Args:
      key: of the run's draws; sound i borrows from fold_in(key, i) alone.
    """
    wanted = conditions.facts_from(run.vocabulary, values)
    known = aggregate_of(run).posteriors.rows
    chosen = np.arange(len(known))
    if values.get("label") is not None:
        chosen = np.flatnonzero(latents.rows_with_label(run, values["label"]))
    files = [run.data["files"][row] for row in known[chosen]]
    table = conditions.facts_of(run.vocabulary, files)

    def one(index):
        own = jax.random.fold_in(jax.random.fold_in(key, index), BORROWED)
        return jax.random.randint(own, (), 0, len(files))

    borrowed = table[np.asarray(jax.vmap(one)(jnp.asarray(indices, jnp.uint32)))]
    return np.where(np.isnan(wanted), borrowed, wanted).astype(np.float32)


def draws(
    run: Run,
    *,
    num: int,
    seed: int,
    temperature: float,
    label: str | None = None,
    pitches: Keys | None = None,
    factors: dict[str, float] | None = None,
    multisample: bool = False,
) -> Plan:
    """New sounds of a label, of a range of pitches, of some factors, or all of these.

    Args:
      pitches: sound i has key low + i % pitches.num.
      multisample: `num` draws of z, each played at every key of `pitches`.

    Raises:
      ValueError: the model cannot be told that, no such label, or an unfinished run.
    """
    values = {**(factors or {}), "label": label}
    asked = {**values, "pitch": None if pitches is None else pitches.low}
    conditions.facts_from(run.vocabulary, asked)  # before anything else, whether it can be told
    mixture = density(run, label)
    key = jax.random.key(seed)
    keys = 1 if pitches is None or not multisample else pitches.num

    def facts(indices: np.ndarray) -> np.ndarray:
        told = draw_facts(run, key, indices // keys, values)
        if pitches is not None:
            at = conditions.fact_names(run.vocabulary).index("pitch")
            told[:, at] = pitches.low + indices % pitches.num
        return told

    about = {"label": label, "prior": "told" if label is None else "label"}
    plan = latents.draws(mixture, about, num=num, seed=seed, temperature=temperature)
    if keys == 1:
        return plan._replace(facts=facts)
    draw = generate.make_drawer()
    points = generate.in_chunks(
        lambda indices: draw(mixture, key, indices, jnp.float32(temperature)),
        np.arange(num, dtype=np.uint32),
        generate.chunk_size(),
    )
    return plan._replace(
        num=num * keys,
        stems=latents.numbered(num * keys, label),
        latents=np.repeat(points, keys, axis=0),
        prior=None,
        facts=facts,
        about={**plan.about, "multisample": keys},
    )
