"""The families of the built-in set: in which range each factor of a sound is drawn."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaejax.data import instruments
from vaejax.data.voice import Factors, Voice

Range = tuple[float, float]

FACTORS = {
    "pitch": "MIDI note number, 69 = 440 Hz; nan where the family has no pitch",
    "brightness": "0 dark .. 1 bright: filter cut-off, modulation index or band of the noise",
    "attack": "seconds from silence to full level",
    "decay": "seconds in which the amplitude falls by 60 dB, or would without the sustain",
    "sustain": "amplitude that the decay settles at, relative to its start; 0 for struck sounds",
    "release": "seconds of fade at the end of the clip",
    "detune": "cents between the lowest and the highest of the voices in unison",
    "vibrato": "cents of pitch modulation, centre to peak",
    "sweep": "semitones above its pitch (or below, if negative) at which the sound starts",
    "noise": "RMS of the noise relative to the partials, both at their loudest",
    "shape": "0 .. 1, the family's own colour: see its function in instruments.py",
    "level": "peak of the waveform, linear amplitude",
}
LOG_UNIFORM = ("attack", "decay", "release")  # drawn evenly on a logarithmic axis


class Family(NamedTuple):
    """The function that makes a family's voice, and the range (low, high) of each factor."""

    voice: Callable[[Array, Factors, Array], Voice]
    pitch: Range
    attack: Range
    decay: Range
    brightness: Range = (0.0, 1.0)
    sustain: Range = (0.0, 0.0)
    release: Range = (0.008, 0.02)
    detune: Range = (0.0, 0.0)
    vibrato: Range = (0.0, 0.0)
    sweep: Range = (0.0, 0.0)
    noise: Range = (0.0, 0.0)
    shape: Range = (0.0, 1.0)
    level: Range = (0.55, 0.95)


NO_PITCH = (float("nan"), float("nan"))

# Columns: pitch (MIDI), attack (s), decay (s). One family per paragraph reads better than one
# factor per line.
# fmt: off
TABLE: dict[str, Family] = {
    "bass": Family(instruments.bass, (28, 50), (0.002, 0.015), (0.3, 3.0),
        sustain=(0.1, 0.7), release=(0.02, 0.15), detune=(0, 18)),
    "lead": Family(instruments.lead, (55, 84), (0.003, 0.04), (0.3, 2.0),
        sustain=(0.5, 1.0), release=(0.03, 0.2), detune=(0, 25), vibrato=(0, 35)),
    "pad": Family(instruments.pad, (43, 72), (0.12, 0.4), (1.0, 6.0),
        sustain=(0.7, 1.0), release=(0.15, 0.3), detune=(6, 40), noise=(0.0, 0.06)),
    "pluck": Family(instruments.pluck, (45, 84), (0.001, 0.003), (0.5, 4.0),
        detune=(0, 6), noise=(0.0, 0.25)),
    "keys": Family(instruments.keys, (33, 88), (0.001, 0.006), (1.0, 8.0),
        release=(0.03, 0.1), detune=(0, 5), noise=(0.0, 0.12)),
    "bell": Family(instruments.bell, (60, 90), (0.001, 0.003), (1.0, 8.0),
        detune=(0, 8)),
    "brass": Family(instruments.brass, (46, 77), (0.03, 0.12), (0.5, 4.0),
        sustain=(0.6, 1.0), release=(0.05, 0.15), detune=(0, 12), vibrato=(0, 15),
        sweep=(-1.5, 0.0), noise=(0.0, 0.08)),
    "strings": Family(instruments.strings, (43, 86), (0.06, 0.25), (1.0, 6.0),
        sustain=(0.7, 1.0), release=(0.1, 0.25), detune=(4, 25), vibrato=(5, 25),
        noise=(0.0, 0.1)),
    "organ": Family(instruments.organ, (40, 79), (0.002, 0.012), (1.0, 4.0),
        sustain=(0.9, 1.0), release=(0.01, 0.05), vibrato=(0, 10), noise=(0.0, 0.3)),
    "flute": Family(instruments.flute, (60, 93), (0.04, 0.15), (1.0, 4.0),
        sustain=(0.7, 1.0), release=(0.05, 0.15), vibrato=(0, 20), noise=(0.01, 0.12)),
    "mallet": Family(instruments.mallet, (48, 91), (0.001, 0.003), (0.3, 3.0),
        noise=(0.0, 0.3)),
    "kick": Family(instruments.kick, (26, 40), (0.001, 0.003), (0.3, 1.6),
        sweep=(12, 40), noise=(0.05, 0.6)),
    "snare": Family(instruments.snare, NO_PITCH, (0.0007, 0.002), (0.15, 0.9),
        sweep=(0, 6), noise=(0.4, 1.5)),
    "hat": Family(instruments.hat, NO_PITCH, (0.0007, 0.002), (0.05, 1.8),
        noise=(0.1, 1.5)),
    "tom": Family(instruments.tom, (38, 58), (0.001, 0.003), (0.4, 2.0),
        sweep=(1, 8), noise=(0.05, 0.4)),
    "clap": Family(instruments.clap, NO_PITCH, (0.0007, 0.002), (0.2, 0.9),
        noise=(1.0, 1.0)),
}
# fmt: on

FAMILIES: tuple[str, ...] = tuple(TABLE)

_IS_LOG = np.array([name in LOG_UNIFORM for name in FACTORS])
# [2, num_families, num_factors], the logarithm where it is what is drawn evenly. An array, so that
# one program draws for every family.
_EDGES = np.array(
    [[[getattr(f, name)[edge] for name in FACTORS] for f in TABLE.values()] for edge in (0, 1)],
    np.float32,
)
_EDGES[..., _IS_LOG] = np.log(_EDGES[..., _IS_LOG])


def draw_factors(key, family, *, duration: float) -> Factors:
    """Draws the factors of one sound.

    Args:
      key: PRNG key.
      family: index into FAMILIES; may be traced.
      duration: seconds; attack and release are shortened to fit into it.
    Returns:
      A scalar for each of FACTORS.
    """
    low, high = jnp.asarray(_EDGES)[:, family]
    even = low + (high - low) * jax.random.uniform(key, (len(FACTORS),))
    drawn = jnp.where(_IS_LOG, jnp.exp(even), even)
    factors = dict(zip(FACTORS, drawn, strict=True))
    factors["pitch"] = jnp.round(factors["pitch"])  # sounds of a set are in tune with each other
    factors["attack"] = jnp.minimum(factors["attack"], 0.4 * duration)
    factors["release"] = jnp.minimum(factors["release"], 0.3 * duration)
    return factors
