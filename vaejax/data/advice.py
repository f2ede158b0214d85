"""What a folder holds, and which preset that fits, before anything is trained.

    for line in advice(facts_of(sounds, config), preset="default", config=config): print(line)

At most two lines: one on the preset, one on the length of the clips; none where both fit.
"""

import shlex
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import metrics
from vaejax.config import Config
from vaejax.data import nsynth
from vaejax.data.sounds import Sounds
from vaejax.metrics import descriptors

# Sounds that are looked at, spread over the folder, and how many at once.
LOOKED_AT, BATCH = 64, 16
# Seconds of each that are enough to tell what it is.
LISTEN_SECONDS = 1.0
# Share of a folder that decides what it is of, and the one that rules it out.
MOST, HARDLY_ANY = 0.7, 0.3
# A hit is no note, is at its loudest by this time, and is soon over (`descriptors`).
ATTACK_SECONDS, HIT_SECONDS = 0.06, 0.25
# A sound is cut short if its last TAIL_SECONDS in the clip are above this, in dB below its peak.
TAIL_SECONDS, TAIL_DB = 0.05, -40.0
# From so many seconds on a file is a recording and no one-shot; clips are not advised longer.
RECORDING_SECONDS, LONGEST_CLIP = 10.0, 4.0

# Presets that differ in the kind of sound they are for. Whoever chooses another one has a reason
# that is not among the sounds.
FITTED = ("default", "notes", "drums")


class Facts(NamedTuple):
    """What a folder holds."""

    tonal: float
    """Share of notes in the sounds."""
    hits: float
    """Share of hits: drums, claps, hats, whatever is loudest at once and soon over."""
    cut: float
    """Share of the sounds that are longer than a clip, and still to be heard where it ends."""
    seconds: float
    """Length of the whole sound that nine in ten of those that are cut are no longer than; 0
    without any."""
    recordings: float
    """Share of sounds of `RECORDING_SECONDS` or more."""
    is_nsynth: bool
    """Whether it has NSynth's layout."""


def facts_of(sounds: Sounds, config: Config) -> Facts:
    """Looks at some of the sounds of a run."""
    corpus = sounds.corpus
    rows = np.unique(np.linspace(0, len(corpus) - 1, LOOKED_AT).astype(int))
    seconds = corpus.lengths / corpus.sample_rate
    is_tonal, is_hit, tails = _look(sounds, rows, config)
    is_cut = (corpus.lengths[rows] > config.data.num_samples) & (tails > TAIL_DB)
    return Facts(
        tonal=float(np.mean(is_tonal)),
        hits=float(np.mean(is_hit)),
        cut=float(np.mean(is_cut)),
        seconds=float(np.quantile(seconds[rows][is_cut], 0.9)) if is_cut.any() else 0.0,
        recordings=float(np.mean(seconds >= RECORDING_SECONDS)),
        is_nsynth=corpus.source != "synth" and nsynth.is_nsynth(corpus.source),
    )


def _look(sounds: Sounds, rows: np.ndarray, config: Config) -> tuple[np.ndarray, ...]:
    """Whether each sound is a note, and a hit, and the level at the end of its clip in dB below its
    peak; [len(rows)] each."""
    rate, num_samples = config.data.sample_rate, config.data.num_samples
    num_heard = min(num_samples, round(LISTEN_SECONDS * rate))
    tail = slice(num_samples - min(num_samples, round(TAIL_SECONDS * rate)), num_samples)

    @jax.jit
    def look(clips):
        def one(waveform):
            is_tonal = metrics.kind(waveform, sample_rate=rate) == metrics.KINDS.index("tonal")
            level = descriptors.envelope(waveform, sample_rate=rate)
            is_soon = jnp.argmax(level) < ATTACK_SECONDS * 1e3 / descriptors.STEP_MS
            duration = descriptors.effective_duration(waveform, sample_rate=rate)
            return is_tonal, ~is_tonal & is_soon & (duration < HIT_SECONDS)

        return jax.lax.map(one, clips[:, :num_heard].astype(jnp.float32) / 32768.0)

    found = []
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        clips = sounds.read(np.resize(chosen, BATCH))[0]
        power = np.mean((clips[:, tail] / 32768.0) ** 2, axis=1)
        columns = (*look(clips), 10 * np.log10(np.maximum(power, 1e-12)))
        found.append([np.asarray(column)[: len(chosen)] for column in columns])
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def advice(facts: Facts, *, preset: str, config: Config) -> list[str]:
    """What to choose otherwise, a line each; nothing where what is chosen fits.

    Args:
      preset: the name of the one chosen.
    """
    return [*_on_the_preset(facts, preset, config), *_on_the_length(facts, config)]


def _on_the_preset(facts: Facts, preset: str, config: Config) -> list[str]:
    folder = shlex.quote(config.data.source)
    if facts.is_nsynth and preset in FITTED:
        found, better = "this folder has NSynth's layout", "nsynth"
    elif preset not in FITTED:
        return []
    elif facts.tonal >= MOST:
        found, better = f"{facts.tonal:.0%} of these sounds are notes", "notes"
    elif facts.hits >= MOST:
        found, better = f"{facts.hits:.0%} of these sounds are hits", "drums"
    elif preset == "drums" and facts.hits <= HARDLY_ANY:
        found, better = f"only {facts.hits:.0%} of these sounds are hits", "default"
    else:
        return []
    if better == preset:
        return []
    return [
        f"advice: {found}, which the preset {better} fits better than {preset}: "
        f"python train.py --config configs/{better}.py --data {folder}"
    ]


def _on_the_length(facts: Facts, config: Config) -> list[str]:
    clip = config.data.clip_seconds
    if facts.recordings >= 0.5:
        return [
            f"advice: {facts.recordings:.0%} of these files are longer than "
            f"{RECORDING_SECONDS:g} s, and only the first {clip:g} s of each are learned: cut "
            "recordings into single sounds first"
        ]
    longer = min(np.ceil(2 * facts.seconds) / 2, LONGEST_CLIP)
    if facts.cut < 0.5 or longer <= clip:
        return []
    return [
        f"advice: {facts.cut:.0%} of these sounds are cut short after {clip:g} s: "
        f"--data.clip_seconds {longer:g} keeps more of them"
    ]
