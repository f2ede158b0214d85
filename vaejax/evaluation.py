"""Measurements on the held-out sounds, and what is fitted to a whole set with given weights."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import config as configs
from vaejax import diagnostics, generate, metrics, objectives, priors, training
from vaejax.checkpoint import Aggregate, Posteriors
from vaejax.config import Config
from vaejax.data.sounds import Sounds
from vaejax.metrics import Embedding
from vaejax.training import Fitted

BATCH = 32
# Held-out sounds that are inverted and compared as audio at every evaluation.
AUDIO_CLIPS = 32
NUM_DRAWS = 4
BATCH_DECODED = 8


def over_rows(function: Callable, sounds: Sounds, rows: np.ndarray) -> Any:
    """Applies a compiled function to clips in batches of one shape.

    Args:
      function: (clips [BATCH, pack_samples], lengths [BATCH], rows [BATCH]) -> a tree of arrays
        with a leading batch axis.
      rows: of the clips.

    Returns:
      The same tree in NumPy, [len(rows), ...].
    """
    results = []
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        filled = np.resize(chosen, BATCH)  # the last batch repeats its rows
        results.append(function(*sounds.read(filled), filled.astype(np.int32)))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(rows)], *results)


def make_evaluate(config: Config, sounds: Sounds, fitted: Fitted):
    """Compiles the evaluation of a set of weights.

    Returns:
      evaluate(params) -> (values, latent, pairs, draws); the same programs serve a member of a
      sweep: evaluate(params, what was fitted for it, the fields of the config that are its own).
      values: loss, recon, kl in nats per
      sound, the figures of `diagnostics.latent_figures` and of `diagnostics.explained`, and
      mel_l1_db and lsd_db of the audio after inversion; latent:
      kl_per_dim (`diagnostics.per_dim`), and the posteriors' mean and std [num, latent_dim];
      pairs: the same few sounds and their reconstructions, [num, num_samples] each; draws: a few
      new sounds [num, num_samples], from a Gaussian fitted to the held-out posteriors.
    """
    rows = sounds.held_out_rows[: config.train.eval_clips]
    audio_rows = rows[:AUDIO_CLIPS]
    sample_rate = config.data.sample_rate

    @jax.jit
    def terms(params, fitted, swept, *columns):
        own = configs.replaced(config, swept)
        return training.eval_step(params, fitted, *columns, config=own)

    @jax.jit
    def decode(params, fitted, latents, facts):
        def one(z, known):
            told = training.condition_of(known, fitted, config)
            return generate.decode(params, fitted, z, told, config=config)[0]

        return jax.vmap(one)(latents, facts)

    @jax.jit
    def loss_of(terms, swept):
        """Of all held-out sounds as one batch, at the full weights."""
        loss, terms = objectives.loss_of(
            terms,
            objective=configs.replaced(config, swept).objective,
            ramp=1.0,
            num_clips=len(rows),
        )
        return loss, {k: jnp.mean(terms[k]) for k in objectives.EXTRA_TERMS if k in terms}

    def sounds_of(params, fitted, latents, facts):
        """[num, num_samples] of latents [num, latent_dim] and facts [num, num_facts], by one
        program for any num."""
        outputs = []
        for start in range(0, len(latents), BATCH_DECODED):
            # The last batch repeats its rows.
            chosen = np.resize(
                np.arange(start, min(start + BATCH_DECODED, len(latents))), BATCH_DECODED
            )
            outputs.append(np.asarray(decode(params, fitted, latents[chosen], facts[chosen])))
        return np.concatenate(outputs)[: len(latents)]

    @jax.jit
    def compare(clips, lengths, outputs):
        def one(pcm, length, after):
            before = training.raw_clip(pcm, length, config)
            return {
                "input": before,
                "output": metrics.match_energy(after, before),
                "mel_l1_db": metrics.mel_l1_db(before, after, sample_rate=sample_rate),
                "lsd_db": metrics.lsd_db(before, after),
                "body_db": metrics.body_db(before, after, sample_rate=sample_rate),
                "onset": metrics.onset(after),
            }

        return jax.vmap(one)(clips, lengths, outputs)

    def evaluate(params, fitted=fitted, swept: Mapping[str, Any] | None = None):
        swept = swept or {}
        measured = over_rows(partial(terms, params, fitted, swept), sounds, rows)
        clips, lengths, facts = sounds.read(audio_rows)
        means, variances = measured["moments"]
        outputs = sounds_of(params, fitted, means[: len(audio_rows)], facts)
        rebuilt = jax.tree.map(np.asarray, compare(clips, lengths, outputs))
        errors = measured.pop("errors")
        loss, batch_terms = jax.tree.map(float, loss_of(measured, swept))
        values = {
            "loss": loss,
            "recon": float(measured["recon"].mean()),
            "kl": float(measured["kl"].mean()),
            **batch_terms,
            **diagnostics.latent_figures(params, measured, config),
            **diagnostics.explained(errors, config),
            "mel_l1_db": float(rebuilt["mel_l1_db"].mean()),
            "lsd_db": float(rebuilt["lsd_db"].mean()),
            "body_db": float(np.median(rebuilt["body_db"])),
            "onset": float(rebuilt["onset"].mean()),
        }
        few = config.train.board_clips
        pairs = rebuilt["input"][:few], rebuilt["output"][:few]
        prior = priors.fit(means, variances, means, max_components=1, seed=0)
        eps = np.random.default_rng(0).standard_normal((NUM_DRAWS, means.shape[1]))
        drawn = np.asarray(prior.means[0]) + eps @ np.asarray(prior.cholesky[0]).T
        # The model is told what it was told of these sounds.
        told = np.resize(facts, (NUM_DRAWS, facts.shape[1]))
        new = sounds_of(params, fitted, drawn.astype(np.float32), told)
        latent = {
            "kl_per_dim": diagnostics.per_dim(
                measured["kl_per_dim"], means, variances, num_dims=config.model.latent_dim
            )[0],
            "mean": means,
            "std": np.sqrt(variances),
        }
        return values, latent, pairs, new

    return evaluate


def fit_embedding(sounds: Sounds, config: Config) -> Embedding:
    """Fits the space in which sounds are compared to the training set."""

    @jax.jit
    def pooled(clips, lengths, facts, rows):
        def one(pcm, length):
            waveform = training.raw_clip(pcm, length, config)
            return metrics.pooled_log_mel(waveform, sample_rate=config.data.sample_rate)

        return jax.vmap(one)(clips, lengths)

    return metrics.fit_embedding(over_rows(pooled, sounds, sounds.train_rows))


def thumbnails(sounds: Sounds, rows: np.ndarray, config: Config) -> np.ndarray:
    """Square grey spectrograms of clips, [len(rows), size, size] uint8."""

    @jax.jit
    def small(clips, lengths, facts, rows):
        def one(pcm, length):
            waveform = training.raw_clip(pcm, length, config)
            return generate.thumbnail(waveform, config=config, width=generate.THUMBNAIL_HEIGHT)

        return jax.vmap(one)(clips, lengths)

    return over_rows(small, sounds, rows)


def left_out_of(num: int, config: Config) -> np.ndarray | None:
    """Which of so many training sounds choose a density, [num] bool; what they choose is then
    fitted to all.

    None where the held-out sounds choose. Those of whole groups say how far away these groups are,
    not where training sounds lie.
    """
    if config.data.holdout_by == "hash":
        return None
    rng = np.random.default_rng(config.train.seed)
    return rng.permutation(num) < config.data.holdout_fraction * num


def fit_prior(
    params, fitted: Fitted, sounds: Sounds, config: Config
) -> tuple[Aggregate, Aggregate | None]:
    """Fits the prior to the posteriors of the training sounds under given weights.

    Returns:
      With the model told nothing, and told all that is known; None where it can be told nothing.
    """

    @jax.jit
    def posterior(params, fitted, clips, lengths, facts, rows):
        def one(pcm, length, known):
            waveform = training.raw_clip(pcm, length, config)
            told = training.condition_of(known, fitted, config)
            mean, logvar = generate.encode(params, fitted, waveform, told, config=config)
            return mean, jnp.exp(logvar)

        return jax.vmap(one)(clips, lengths, facts)

    rows = sounds.train_rows
    if len(rows) > config.prior.max_clips:
        rng = np.random.default_rng(config.train.seed)
        rows = np.sort(rng.choice(rows, config.prior.max_clips, replace=False))

    def aggregate(known: Sounds) -> Aggregate:
        encode = partial(posterior, params, fitted)
        means, variances = over_rows(encode, known, rows)
        sizes = {"max_components": config.prior.max_components, "seed": config.train.seed}
        left_out = left_out_of(len(rows), config)
        if left_out is None:
            held_out = over_rows(encode, known, known.held_out_rows)
            choice = priors.choose(means, variances, *held_out, **sizes)
            prior = choice.prior
        else:
            kept = ~left_out
            choice = priors.choose(
                means[kept], variances[kept], means[left_out], variances[left_out], **sizes
            )
            prior = choice.refit(means, variances)
        return Aggregate(prior, Posteriors(rows, means, variances), choice.log_likelihoods)

    if sounds.told.num_facts == 0:
        return aggregate(sounds), None
    return aggregate(sounds._replace(facts=np.full_like(sounds.facts, np.nan))), aggregate(sounds)
