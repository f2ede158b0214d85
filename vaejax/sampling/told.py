"""Plans of sounds of which the model is told something: label, pitch, factors.

What is asked for is told; what is not asked for is told as of a training sound drawn at random
(of that label, where one is asked for), because a model that is told half of what it knows
answers less sharply. z comes from where training sounds lie when the model is told all of them.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.features import conditions
from vaejax.keys import Keys, midi_of_hz
from vaejax.latent import priors
from vaejax.latent.priors import Prior
from vaejax.run.arrays import Aggregate
from vaejax.run.load import Run
from vaejax.sampling import encoding, generate, latents
from vaejax.sampling.latents import Plan
from vaejax.signal.pitch import CLEAR, pitch

# Folded into the key of a sound for the training sound whose facts it borrows.
BORROWED = 1


def aggregate_of(run: Run) -> Aggregate:
    """Where the training sounds lie when the model is told all that is known.

    Raises:
      ValueError: the run is unfinished, or its model can be told nothing.
    """
    if run.told is None:
        latents.posteriors_of(run)  # says that the run is unfinished
        if run.vocabulary.num_facts:
            raise ValueError(
                "where this run's sounds lie when the model is told of them was not stored: run "
                "train.py on it again"
            )
        raise ValueError("this run's model can be told nothing of a sound")
    return run.told


def density(run: Run, label: str | None) -> Prior:
    """Where z lies when the model is told all that is known, of one label or of all.

    Raises:
      ValueError: no such label, or an unfinished run.
    """
    told = aggregate_of(run)
    if label is None:
        return told.prior
    return latents.of_rows(told.prior, told.posteriors, latents.rows_with_label(run, label))


class Asked(NamedTuple):
    """What sounds are asked for; what is None is left open."""

    label: str | None = None
    pitches: Keys | None = None
    """Sound i has key low + i % num."""
    factors: tuple[tuple[str, float], ...] = ()
    """(name, value) of each."""
    multisample: bool = False
    """Each draw of z is played at every key of `pitches`, one after the other."""

    @property
    def keys_per_draw(self) -> int:
        """Sounds that share a z."""
        return self.pitches.num if self.multisample and self.pitches is not None else 1

    def facts(self, run: Run) -> np.ndarray:
        """What is asked for as facts [num_facts], the first key for all.

        Raises:
          ValueError: the model cannot be told that, or there is no such label.
        """
        pitch = None if self.pitches is None else self.pitches.low
        # A model that is not told labels knows one by the region of its sounds.
        label = self.label if run.vocabulary.labels else None
        values = {**dict(self.factors), "label": label, "pitch": pitch}
        return conditions.facts_from(run.vocabulary, values)

    def with_keys(self, run: Run, facts: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Facts [n, num_facts] of sounds, each with its own key."""
        if self.pitches is not None:
            facts, names = facts.copy(), conditions.fact_names(run.vocabulary)
            keys = self.pitches.low + indices % self.pitches.num
            facts[:, names.index("pitch")] = keys
            if "chroma" in names and "chroma" not in dict(self.factors):
                facts[:, names.index("chroma")] = keys % conditions.NUM_CHROMA
        return facts


def draws(run: Run, asked: Asked, *, num: int, seed: int, temperature: float) -> Plan:
    """New sounds of a label, of a range of pitches, of some factors, or all of these.

    Raises:
      ValueError: the model cannot be told that, no such label, or an unfinished run.
    """
    facts = facts_for(run, asked, jax.random.key(seed))
    drawn_from = density(run, asked.label)
    about = {"label": asked.label, "prior": "told" if asked.label is None else "label"}
    plan = latents.draws(drawn_from, about, num=num, seed=seed, temperature=temperature)
    return _played(plan._replace(facts=facts), asked)


def facts_for(run: Run, asked: Asked, key) -> Callable[[np.ndarray], np.ndarray]:
    """What the model is told of sounds drawn with a key: indices [n] -> [n, num_facts].

    Raises:
      ValueError: the model cannot be told that, no such label, or an unfinished run.
    """
    wanted = asked.facts(run)
    borrow = _lender(run, asked, key)

    def facts(indices: np.ndarray) -> np.ndarray:
        borrowed = borrow(indices // asked.keys_per_draw)
        told = np.where(np.isnan(wanted), borrowed, wanted).astype(np.float32)
        return asked.with_keys(run, told, indices)

    return facts


def around(
    run: Run,
    path: Path,
    asked: Asked,
    *,
    spread: float,
    num: int,
    seed: int,
    temperature: float,
) -> Plan:
    """Variations of one sound at other pitches, or told other factors.

    The sound is encoded with the model told its pitch, as it is heard, so that z need not say it.

    Raises:
      FileNotFoundError: no such file. ValueError: it is not usable, or as `draws`.
    """
    wanted = asked.facts(run)
    waveform = encoding.read_file(run, path, says=True)
    own = conditions.facts_from(run.vocabulary, _heard(run, waveform))
    encode = generate.make_encoder(run.config)
    parts = run.instrument.params, run.instrument.fitted
    mean, logvar = generate.in_chunks(
        lambda clips: encode(*parts, clips, own), waveform[None], generate.ENCODE_CHUNK
    )
    posteriors = aggregate_of(run).posteriors
    drawn_from = latents.widened(
        jnp.asarray(mean[0]),
        jnp.exp(logvar[0]),
        spread=spread,
        covariance=priors.covariance(posteriors.means, posteriors.variances),
    )
    told = np.where(np.isnan(wanted), own, wanted).astype(np.float32)

    def facts(indices: np.ndarray) -> np.ndarray:
        return asked.with_keys(run, np.tile(told, (len(indices), 1)), indices)

    about = {"label": None, "prior": "around", "around": path.name, "spread": spread}
    plan = latents.draws(drawn_from, about, num=num, seed=seed, temperature=temperature)
    return _played(plan._replace(facts=facts), asked)


def _heard(run: Run, waveform: np.ndarray) -> dict[str, float]:
    """The pitch of a clip [num_samples], as the model is told it; nothing where there is none."""
    vocabulary = run.vocabulary
    if not (vocabulary.pitch or vocabulary.chroma):
        return {}
    hz, clarity = jax.jit(partial(pitch, sample_rate=run.config.data.sample_rate))(waveform)
    if clarity < CLEAR:
        return {}
    key = float(midi_of_hz(hz))
    heard = {"pitch": key} if vocabulary.pitch else {}
    return {**heard, "chroma": conditions.chroma_of(key)} if vocabulary.chroma else heard


def _lender(run: Run, asked: Asked, key) -> Callable[[np.ndarray], np.ndarray]:
    """Facts of training sounds, of one label or of all: indices [n] -> [n, num_facts].

    Where a pitch is asked for, only of sounds that have one: a drum has no keys. Sound i borrows
    those of a training sound that is drawn with fold_in(key, i) alone.
    """
    known = aggregate_of(run).posteriors.rows
    if asked.label is not None:
        known = known[latents.rows_with_label(run, asked.label)]
    table = conditions.facts_of(run.vocabulary, [run.data["files"][row] for row in known])
    if asked.pitches is not None:
        pitch = table[:, conditions.fact_names(run.vocabulary).index("pitch")]
        # Of a label without pitches, as before: it is what was asked for.
        table = table[np.isfinite(pitch)] if np.isfinite(pitch).any() else table

    @jax.jit
    def choose(indices):
        def one(index):
            own = jax.random.fold_in(jax.random.fold_in(key, index), BORROWED)
            return jax.random.randint(own, (), 0, len(table))

        return jax.vmap(one)(indices)

    def borrow(indices: np.ndarray) -> np.ndarray:
        chosen = generate.in_chunks(choose, indices.astype(np.uint32), generate.chunk_size())
        return table[chosen]

    return borrow


def _played(plan: Plan, asked: Asked) -> Plan:
    """The plan with each of its draws played at every key, if that is asked for."""
    keys = asked.keys_per_draw
    if keys == 1:
        return plan
    assert plan.prior is not None
    drawer, key = generate.make_drawer(), jax.random.key(plan.seed)
    points = generate.in_chunks(
        lambda indices: drawer(plan.prior, key, indices, jnp.float32(plan.temperature)),
        np.arange(plan.num, dtype=np.uint32),
        generate.chunk_size(),
    )
    return plan._replace(
        num=plan.num * keys,
        stems=latents.numbered(plan.num * keys, plan.about["label"]),
        latents=np.repeat(points, keys, axis=0),
        prior=None,
        about={**plan.about, "multisample": keys},
    )
