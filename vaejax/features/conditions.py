"""What the model is told of a sound beside z: its label, its pitch, factors of the built-in set.

The facts of a sound are numbers, NaN where not known:

    label     index into the sorted names of the training labels
    pitch     MIDI number, 69 = 440 Hz, 60 = C4; may lie between keys
    chroma    pitch class, 0 = C to 11 = B; may lie between them too
    factors   as the built-in set or NSynth's listing has them

and become the condition, a vector that goes into encoder and decoder:

    label     one-hot
    pitch     weights on the two nearest of 128 keys, which sum to 1
    chroma    weights on the two nearest of 12 classes, around the octave (MANNe's one-hot chroma)
    factor    (1, standardised value)

What is not known becomes zeros, and so does what is dropped in training, so that one model answers
with and without being told (after classifier-free guidance; Ho & Salimans 2022).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import config as configs

NUM_KEYS = 128
NUM_CHROMA = 12


class Vocabulary(NamedTuple):
    """What a run's model can be told; empty if nothing."""

    labels: tuple[str, ...] = ()
    """Names in the order of their indices; empty where labels are not told."""
    pitch: bool = False
    """Whether pitch is told."""
    factors: tuple[str, ...] = ()
    """Names of the factors told."""
    centres: tuple[float, ...] = ()
    """Mean of each factor over the training sounds."""
    scales: tuple[float, ...] = ()
    """Standard deviation of each factor over the training sounds."""
    chroma: bool = False
    """Whether the pitch class is told."""

    @property
    def num_facts(self) -> int:
        """Numbers that describe a sound: [label] [pitch] [chroma] [factor] ..."""
        return bool(self.labels) + self.pitch + self.chroma + len(self.factors)

    @property
    def condition_dim(self) -> int:
        """Width of the condition."""
        keys = NUM_KEYS * self.pitch + NUM_CHROMA * self.chroma
        return len(self.labels) + keys + 2 * len(self.factors)


def vocabulary(condition: configs.Condition, rows: Sequence[dict[str, Any]]) -> Vocabulary:
    """What can be told, given the sounds of a run.

    Args:
      rows: the `files` of data.json.

    Raises:
      ValueError: a fact that the config asks for is known of no training sound.
    """
    train = [row for row in rows if row["split"] == "train"]
    asked = "pitch" if condition.pitch else "chroma" if condition.chroma else None
    if asked and not any(row.get("pitch") is not None for row in train):
        raise ValueError(
            f"condition.{asked} needs to know pitches; none is known: give --data.pitch_pattern "
            r"(such as '_(?P<pitch>\d+)_' for 016_060_100.wav), or --data.estimate_pitch"
        )
    centres, scales = [], []
    for name in condition.factors:
        known = sorted({key for row in train for key in row.get("factors", {})})
        if name not in known:
            listed = ", ".join(known) or "none: only the built-in set and NSynth have them"
            raise ValueError(f"condition.factors: no factor {name!r} is known; known: {listed}")
        values = [row["factors"][name] for row in train if row["factors"].get(name) is not None]
        centres.append(float(np.mean(values)) if values else 0.0)
        scales.append(max(float(np.std(values)), 1e-6) if values else 1.0)
    # Sorted over all sounds: a label all of whose sounds are held out has its place too.
    labels = tuple(sorted({row["label"] for row in rows})) if condition.label else ()
    return Vocabulary(
        labels,
        condition.pitch,
        condition.factors,
        tuple(centres),
        tuple(scales),
        condition.chroma,
    )


def facts_of(told: Vocabulary, rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """[len(rows), num_facts] float32 of the `files` of data.json."""
    columns = []
    if told.labels:
        index = {name: i for i, name in enumerate(told.labels)}
        columns.append([index.get(row["label"], np.nan) for row in rows])
    if told.pitch:
        columns.append([np.nan if row.get("pitch") is None else row["pitch"] for row in rows])
    if told.chroma:
        columns.append(
            [np.nan if row.get("pitch") is None else chroma_of(row["pitch"]) for row in rows]
        )
    for name, centre, scale in zip(told.factors, told.centres, told.scales, strict=True):
        values = [row.get("factors", {}).get(name) for row in rows]
        columns.append([np.nan if v is None else (v - centre) / scale for v in values])
    return np.array(columns, np.float32).T.reshape(len(rows), told.num_facts)


def chroma_of(pitch: float) -> float:
    """The pitch class of a MIDI number, 0 for C to 11 for B."""
    return pitch % NUM_CHROMA


def nothing(told: Vocabulary, num: int) -> np.ndarray:
    """Facts [num, num_facts] of sounds of which nothing is told."""
    return np.full((num, told.num_facts), np.nan, np.float32)


def num_labels(condition: configs.Condition, condition_dim: int) -> int:
    """Labels in a condition of some width."""
    keys = NUM_KEYS * condition.pitch + NUM_CHROMA * condition.chroma
    return condition_dim - keys - 2 * len(condition.factors)


def encode(facts, *, condition: configs.Condition, condition_dim: int):
    """The condition of a sound.

    Args:
      facts: [num_facts], NaN where not known.

    Returns:
      [condition_dim] float32.
    """
    parts, at = [jnp.zeros(0)], 0

    def known(fact, values):
        return jnp.where(jnp.isnan(fact), 0.0, values)

    if condition.label:
        index = jnp.arange(num_labels(condition, condition_dim))
        parts.append(known(facts[at], jnp.where(index == facts[at], 1.0, 0.0)))
        at += 1
    if condition.pitch:
        distance = jnp.abs(jnp.arange(NUM_KEYS) - jnp.clip(facts[at], 0, NUM_KEYS - 1))
        parts.append(known(facts[at], jnp.maximum(1.0 - distance, 0.0)))
        at += 1
    if condition.chroma:
        distance = jnp.abs(jnp.arange(NUM_CHROMA) - facts[at] % NUM_CHROMA)
        distance = jnp.minimum(distance, NUM_CHROMA - distance)
        parts.append(known(facts[at], jnp.maximum(1.0 - distance, 0.0)))
        at += 1
    for fact in facts[at:]:
        parts.append(known(fact, jnp.stack([jnp.ones(()), fact])))
    return jnp.concatenate(parts)


def transpose(facts, semitones, *, condition: configs.Condition):
    """The facts of a sound after its pitch was moved."""
    if not (condition.pitch or condition.chroma):
        return facts
    at = int(condition.label)
    # Both are in semitones, and stand beside each other.
    return facts.at[at : at + condition.pitch + condition.chroma].add(semitones)


def drop(key, facts, *, probability: float):
    """Forgets all facts with `probability`, and each of the rest with `probability`."""
    draws = jax.random.uniform(key, (1 + facts.shape[0],))
    return jnp.where(jnp.minimum(draws[1:], draws[0]) < probability, jnp.nan, facts)


def facts_from(told: Vocabulary, values: dict[str, Any]) -> np.ndarray:
    """[num_facts] float32 of what is known of one sound: {"label": name, "pitch": MIDI number,
    factor: value}; NaN for what is left out.

    Raises:
      ValueError: the model is not told that, or there is no such label.
    """
    known = {name: value for name, value in values.items() if value is not None}
    names = fact_names(told)
    for name in known:
        if name not in names:
            what = ", ".join(names) or "nothing"
            raise ValueError(
                f"this run's model cannot be told {name}; it was told {what} "
                "(see --condition.label, .pitch, .chroma and .factors of train.py)"
            )
    if "pitch" in known and not 0 <= known["pitch"] <= NUM_KEYS - 1:
        raise ValueError(f"pitch={known['pitch']} must be a MIDI number from 0 to {NUM_KEYS - 1}")
    if "label" in known and known["label"] not in told.labels:
        listed = ", ".join(told.labels)
        raise ValueError(f"the run knows no label {known['label']!r}; it knows: {listed}")
    if "chroma" in known and not 0 <= known["chroma"] <= NUM_CHROMA:
        raise ValueError(f"chroma={known['chroma']:g} must be a pitch class from 0 (C) to 11 (B)")
    apart = ("label", "pitch", "chroma")
    factors = {name: value for name, value in known.items() if name not in apart}
    row = {"label": known.get("label"), "pitch": known.get("pitch"), "factors": factors}
    facts = facts_of(told, [row])[0]
    if "chroma" in known:
        facts[names.index("chroma")] = known["chroma"]
    return facts


def values_of(told: Vocabulary, facts) -> dict[str, Any]:
    """The inverse of `facts_from`, without what is not known."""
    values: dict[str, Any] = {}
    for name, fact in zip(fact_names(told), np.asarray(facts, np.float64), strict=True):
        if np.isnan(fact):
            continue
        if name == "label":
            values[name] = told.labels[int(fact)]
        elif name in ("pitch", "chroma"):
            values[name] = round(float(fact), 3)
        else:
            at = told.factors.index(name)
            values[name] = round(float(fact * told.scales[at] + told.centres[at]), 6)
    return values


def fact_names(told: Vocabulary) -> list[str]:
    """What each of the facts says."""
    keys = ["pitch"] * told.pitch + ["chroma"] * told.chroma
    return ["label"] * bool(told.labels) + keys + list(told.factors)
