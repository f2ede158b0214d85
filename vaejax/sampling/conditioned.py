"""Plans of sounds under a condition: label, pitch, factors.

What is left open is taken from a training sound drawn at random (of that label, where one is
given), because a model that is told half of what it knows answers less sharply. z is drawn from
where the training sounds lie when the model is told all of them.
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
from vaejax.run.load import Run
from vaejax.sampling import densities, encoding, generate, plans
from vaejax.sampling.plans import Plan
from vaejax.signal.pitch import CLEAR, pitch

# Folded into the key of a sound for the training sound whose facts it borrows.
BORROWED = 1


class Conditioning(NamedTuple):
    """What sounds are conditioned on; what is None is left open."""

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


def draws(run: Run, condition: Conditioning, *, num: int, seed: int, temperature: float) -> Plan:
    """New sounds of a label, of a range of pitches, of some factors, or all of these.

    Raises:
      ValueError: the model cannot be told that, no such label, or an unfinished run.
    """
    facts = facts_for(run, condition, jax.random.key(seed))
    drawn_from = densities.conditioned(run, condition.label)
    about = {"label": condition.label, "prior": "told" if condition.label is None else "label"}
    plan = plans.draws(drawn_from, about, num=num, seed=seed, temperature=temperature)
    return _played(plan._replace(facts=facts), condition)


def facts_for(run: Run, condition: Conditioning, key) -> Callable[[np.ndarray], np.ndarray]:
    """What the model is told of sounds drawn with a key: indices [n] -> [n, num_facts].

    Raises:
      ValueError: the model cannot be told that, no such label, or an unfinished run.
    """
    wanted = condition.facts(run)
    borrow = _lender(run, condition, key)

    def facts(indices: np.ndarray) -> np.ndarray:
        borrowed = borrow(indices // condition.keys_per_draw)
        filled = np.where(np.isnan(wanted), borrowed, wanted).astype(np.float32)
        return condition.with_keys(run, filled, indices)

    return facts


def around(
    run: Run,
    path: Path,
    condition: Conditioning,
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
    wanted = condition.facts(run)
    waveform = encoding.read_file(run, path, says=True)
    own = conditions.facts_from(run.vocabulary, _heard(run, waveform))
    encode = generate.make_encoder(run.config)
    parts = run.instrument.params, run.instrument.fitted
    mean, logvar = generate.in_chunks(
        lambda clips: encode(*parts, clips, own), waveform[None], generate.ENCODE_CHUNK
    )
    posteriors = densities.conditioned_aggregate(run).posteriors
    drawn_from = densities.widened(
        jnp.asarray(mean[0]),
        jnp.exp(logvar[0]),
        spread=spread,
        covariance=priors.covariance(posteriors.means, posteriors.variances),
    )
    filled = np.where(np.isnan(wanted), own, wanted).astype(np.float32)

    def facts(indices: np.ndarray) -> np.ndarray:
        return condition.with_keys(run, np.tile(filled, (len(indices), 1)), indices)

    about = {"label": None, "prior": "around", "around": path.name, "spread": spread}
    plan = plans.draws(drawn_from, about, num=num, seed=seed, temperature=temperature)
    return _played(plan._replace(facts=facts), condition)


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


def _lender(run: Run, condition: Conditioning, key) -> Callable[[np.ndarray], np.ndarray]:
    """Facts of training sounds, of one label or of all: indices [n] -> [n, num_facts].

    Where a pitch is asked for, only of sounds that have one: a drum has no keys. Sound i borrows
    those of a training sound that is drawn with fold_in(key, i) alone.
    """
    known = densities.conditioned_aggregate(run).posteriors.rows
    if condition.label is not None:
        known = known[densities.rows_with_label(run, condition.label)]
    table = conditions.facts_of(run.vocabulary, [run.data["files"][row] for row in known])
    if condition.pitches is not None:
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


def _played(plan: Plan, condition: Conditioning) -> Plan:
    """The plan with each of its draws played at every key, if that is asked for."""
    keys = condition.keys_per_draw
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
        stems=plans.numbered(plan.num * keys, plan.about["label"]),
        latents=np.repeat(points, keys, axis=0),
        prior=None,
        about={**plan.about, "multisample": keys},
    )
