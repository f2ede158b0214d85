"""Kinds of sound, of sounds that are one by construction."""

import jax
import numpy as np
import pytest

from vaejax import metrics

RATE = 16_000
T = np.arange(RATE // 2) / RATE
NOISE = np.random.default_rng(0).normal(size=len(T))


def note(hz):
    """Ten harmonics that die away at different rates, as a plucked string's."""
    rates = 3 + np.arange(10)
    return sum(np.exp(-r * T) * np.sin(2 * np.pi * hz * (r - 2) * T) / (r - 2) for r in rates)


def kick():
    """A falling sine, of 200 Hz at first and of 50 at last, under a short burst of noise."""
    hz = 50 + 150 * np.exp(-30 * T)
    return np.exp(-12 * T) * np.sin(2 * np.pi * np.cumsum(hz) / RATE) + np.exp(-200 * T) * NOISE


def high(sound):
    """Without what a first difference takes away."""
    return np.diff(sound, prepend=0)


SOUNDS = {
    "tonal": [note(110), note(261.6), 1e-3 * note(440), note(880) + 0.02 * NOISE],
    "drum": [kick(), 1e-3 * kick(), 2 * kick() + np.exp(-20 * T) * note(180)],
    "noise": [NOISE, 0.1 * high(NOISE) * np.exp(-30 * T), NOISE * np.exp(-8 * T), 0 * T],
}


@pytest.fixture(scope="module")
def kinds():
    """All sounds at once: name of the kind -> what they are told as."""
    told = jax.jit(jax.vmap(lambda w: metrics.kind(w, sample_rate=RATE)))
    names = [name for name, sounds in SOUNDS.items() for _ in sounds]
    every = np.asarray([sound for sounds in SOUNDS.values() for sound in sounds], np.float32)
    found = [metrics.KINDS[i] for i in np.asarray(told(every))]
    return {name: [f for f, n in zip(found, names, strict=True) if n == name] for name in SOUNDS}


@pytest.mark.parametrize("name", metrics.KINDS)
def test_notes_are_tonal_hits_are_drums_and_hats_are_noise_at_any_level(kinds, name):
    assert kinds[name] == [name] * len(SOUNDS[name])
