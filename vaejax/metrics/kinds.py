"""What kind of sound it is, by measurement: what a model is good at differs between kinds."""

import jax.numpy as jnp

from vaejax.metrics import descriptors
from vaejax.signal.pitch import pitch_of, pitch_track

KINDS = ("tonal", "drum", "noise")
# Least share of a tonal sound's amplitude that repeats at its pitch. Toms, kicks and most other
# tuned drums stay below: their pitch falls, or soon nothing of it is left.
TONAL_CLARITY = 0.85
# Most of a noise's amplitude that repeats in any frame, at whatever period; and, so that a kick of
# which no period is found is none, the least flatness of its spectrum.
NOISE_PERIODICITY, NOISE_FLATNESS_DB = 0.55, -25.0


def kind(waveform, *, sample_rate: int):
    """Tonal (a note), drum (a hit with a resonance) or noise (a hat, a cymbal, a clap, breath).

    The thresholds were chosen on recorded sounds whose kind their names tell. Of these, 175 of 182
    notes are tonal (7 drums), 93 of 103 hats, cymbals, claps and shakers noise (10 drums), and 143
    of 173 kicks, toms and snares drums (25 noise, all snares and sticks; 5 tonal). A bell whose
    partials are no multiples of one frequency counts as a drum.

    Args:
      waveform: [num_samples], at any level; silence is noise.
      sample_rate: Hz.

    Returns:
      [] int32, a place in `KINDS`.
    Raises:
      ValueError: as `pitch.pitch_track`, for a clip too short for a pitch.
    """
    hz, clarity, level = pitch_track(waveform, sample_rate=sample_rate)
    _, at_pitch = pitch_of(hz, clarity, level)
    periodicity = jnp.sum(level * clarity) / jnp.maximum(jnp.sum(level), 1e-20)
    flatness_db = descriptors.spectral_flatness_db(waveform)
    is_noise = (periodicity < NOISE_PERIODICITY) & (flatness_db > NOISE_FLATNESS_DB)
    rest = jnp.where(is_noise, KINDS.index("noise"), KINDS.index("drum"))
    return jnp.where(at_pitch >= TONAL_CLARITY, KINDS.index("tonal"), rest).astype(jnp.int32)
