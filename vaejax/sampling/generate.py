"""key -> z -> decoder -> phase recovery -> PCM, one sound at a time.

Sound i of a run is a function of (weights, seed, i): its key is fold_in(key(seed), i). Drawing z is
a program of its own, and what makes a sound of it the same program for every way to choose z: a
latent that was kept gives its sound again, bit for bit.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import metrics, models
from vaejax.codec import (
    Fitted,
    Instrument,
    at_peak,
    condition_of,
    decode,
    encode,
    fade_samples,
    finish,
    waveform_of,
)
from vaejax.config import Config
from vaejax.devices import partwise
from vaejax.drawing.thumbnails import outline, thumbnail
from vaejax.export.samples import quantize
from vaejax.latent import priors
from vaejax.metrics import Embedding
from vaejax.sampling import sequences
from vaejax.sampling.sequences import CLIP, Form
from vaejax.signal.fade import fade_out

MAP_TEXT = (
    "Sounds alike lie near each other: the two main directions (PCA) in which the log-mel spectra "
    "of the training sounds differ."
)
"""What the places mean that `describe` gives, for the reader of the contact sheet."""

# One compiled call makes this many sounds, whatever the batch size: products of another shape may
# round differently, and sound i must not depend on how many are asked for.
CHUNK = {"cpu": 16}
CHUNK_ACCELERATOR = 128
ENCODE_CHUNK = 16


def render(params, fitted: Fitted, z, condition, *, form: Form, config: Config):
    """The sound of any form that a latent stands for; `decode` where it is a clip.

    Returns:
      waveform [sequences.num_samples(form, config)] float32, ready for a file: a loop is not
      faded; its spectral convergence, [] dB; and a dict of what else there is to say: of a loop,
      `held_frame` [] int32.
    """
    if form == CLIP:
        return *decode(params, fitted, z, condition, config=config), {}
    if form.hops is not None:
        waveform, convergence, frame = sequences.hold(
            params, fitted, z, condition, hops=form.hops, frame=form.frame, config=config
        )
        return at_peak(waveform, config), convergence, {"held_frame": frame}
    waveform, convergence = sequences.decode(params, fitted, z, condition, config=config)
    if form.fades_in:
        waveform = fade_out(waveform[::-1], fade_samples(config))[::-1]
    return finish(waveform, config), convergence, {}


def describe(waveform, embedding: Embedding, *, config: Config):
    """What the manifest and the contact sheet say of a sound [num_samples].

    Returns:
      peak: [] of full scale. rms_db: [] dB of full scale. onset: [], 1.0 if it begins loud
      (`metrics.onset`). body_db: [] dB, level of its loudest 50 ms under its peak. nearest: []
      int32, row of the nearest training sound. novelty: [], its distance over the median distance
      between neighbours in the training set. point: [EMBEDDING_DIM], where it lies in the space of
      these distances; the first two make the plane in which training sounds differ most.
      thumbnail: [THUMBNAIL_HEIGHT, THUMBNAIL_WIDTH] uint8, low frequencies last. outline:
      [OUTLINE_WIDTH] uint8, the magnitude of the waveform over time.
    """
    sample_rate = config.data.sample_rate
    peak = jnp.max(jnp.abs(waveform))
    # At the peak of the training clips: distances between sounds are not about their level.
    at_full_scale = waveform / jnp.where(peak > 1e-10, peak, 1.0)
    point = metrics.embed(at_full_scale, embedding, sample_rate=sample_rate)
    row, novelty = metrics.nearest(point, embedding)
    return {
        "peak": peak,
        "rms_db": 10 * jnp.log10(jnp.maximum(jnp.mean(waveform**2), 1e-20)),
        "onset": metrics.onset(waveform),
        "body_db": metrics.body_level_db(waveform, sample_rate=sample_rate),
        "nearest": row,
        "novelty": novelty,
        "point": point,
        # Of the same samples, so that where n_fft is that of the embedding one STFT serves both.
        "thumbnail": thumbnail(at_full_scale, config=config),
        "outline": outline(waveform),
    }


def sound_of(
    instrument: Instrument, z, condition, *, config: Config, subtype: str, form: Form = CLIP
):
    """The sound of a latent [latent_dim] under a condition [condition_dim], as it is written and
    described.

    Returns:
      samples: [num_samples] in the type of the file. z: [latent_dim]. spectral_convergence_db: [].
      And what `render` and `describe` say.
    """
    params, fitted = instrument.params, instrument.fitted
    waveform, convergence, said = render(params, fitted, z, condition, form=form, config=config)
    return {
        **said,
        "z": z,
        "spectral_convergence_db": convergence,
        **written(waveform, instrument.embedding, config=config, subtype=subtype),
    }


def written(waveform, embedding: Embedding, *, config: Config, subtype: str):
    """The samples of the file [num_samples], and what `describe` says."""
    samples = quantize(waveform, subtype, jnp)
    return {"samples": samples, **describe(waveform, embedding, config=config)}


def chunk_size() -> int:
    """Sounds that the device works on at a time."""
    return CHUNK.get(jax.default_backend(), CHUNK_ACCELERATOR)


# Each is compiled once per process and config.


@lru_cache
def make_encoder(config: Config):
    """Compiles `encode` for `ENCODE_CHUNK` clips at a time.

    Returns:
      encode(params, fitted, waveforms [ENCODE_CHUNK, num_samples], facts [num_facts] of all of
      them) -> mean, logvar, both [ENCODE_CHUNK, latent_dim].
    """

    @jax.jit
    def means(params, fitted, waveforms, facts):
        condition = condition_of(facts, fitted, config)
        return jax.vmap(lambda w: encode(params, fitted, w, condition, config=config))(waveforms)

    return means


@lru_cache
def make_drawer():
    """Compiles the draw of `chunk_size()` latents at a time.

    Returns:
      draw(prior, seed_key, indices [chunk] uint32, temperature []) -> z [chunk, latent_dim], where
      that of sound i is drawn with fold_in(seed_key, i).
    """

    @jax.jit
    def latents(prior, seed_key, indices, temperature):
        def one(index):
            key = jax.random.fold_in(seed_key, index)
            return priors.draw(key, prior, temperature=temperature)[0]

        return jax.vmap(one)(indices)

    return latents


@lru_cache
def make_decoder(config: Config, subtype: str, form: Form = CLIP):
    """Compiles what `sound_of` does, for `chunk_size()` latents [chunk, latent_dim] and facts
    [chunk, num_facts] (see `conditions`; NaN where not told) at a time; of other forms than a clip,
    `sequences.rows_per_call`."""

    @jax.jit
    def clips(instrument, latents, facts):
        fitted = instrument.fitted

        def answer(z, known):
            condition = condition_of(known, fitted, config)
            return models.decode(instrument.params, z, condition, fitted.linear, config=config)

        def sound(x):
            waveform, convergence = waveform_of(x, fitted, config=config)
            about = written(waveform, instrument.embedding, config=config, subtype=subtype)
            return {"spectral_convergence_db": convergence, **about}

        # The decoder reads its weights once for all; the rest takes 0.8 of the time in parts.
        return {"z": latents, **partwise.vmap(sound)(jax.vmap(answer)(latents, facts))}

    @jax.jit
    def others(instrument, latents, facts):
        def one(z, known):
            condition = condition_of(known, instrument.fitted, config)
            return sound_of(instrument, z, condition, config=config, subtype=subtype, form=form)

        return jax.vmap(one)(latents, facts)

    return clips if form == CLIP else others


def in_chunks(program, rows, size: int):
    """Applies a program that takes exactly `size` rows [size, ...] to any number of them.

    Returns:
      Its results in NumPy, [len(rows), ...].
    """
    parts = []
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        missing = [(0, size - len(part))] + [(0, 0)] * (part.ndim - 1)
        parts.append(jax.tree.map(lambda a: np.asarray(a), program(np.pad(part, missing))))
    return jax.tree.map(lambda *a: np.concatenate(a)[: len(rows)], *parts)
