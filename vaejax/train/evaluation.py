"""Measurements on the held-out sounds, and what is fitted to a whole set with given weights."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vaejax import codec, features, metrics, models
from vaejax import config as configs
from vaejax.codec import Fitted, condition_of
from vaejax.config import Config
from vaejax.data.clips import raw_clip
from vaejax.data.sounds import Sounds
from vaejax.devices import partwise
from vaejax.drawing.thumbnails import THUMBNAIL_HEIGHT, thumbnail
from vaejax.latent import priors
from vaejax.metrics import Embedding
from vaejax.objective import batch as objective
from vaejax.objective import context
from vaejax.objective.regularizers import Batch
from vaejax.run.arrays import Aggregate, Posteriors
from vaejax.train import diagnostics

BATCH = 32
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


def eval_step(params, fitted: Fitted, clips, lengths, facts, rows, *, config: Config):
    """The terms of raw clips under noise that is the same at every evaluation.

    Args:
      clips: [batch, pack_samples] int16. lengths: [batch] int32. facts: [batch, num_facts], all
        of which the model is told.
      rows: [batch] int32, row of each clip in the set: its noise is drawn from (seed, row).

    Returns:
      `elbo.example_terms` and `diagnostics.errors` with a leading batch axis, and `moments`,
      mean and variance of the posteriors, [batch, latent_dim] each.
    """
    model = models.create_model(config)
    key = jax.random.key(config.train.seed)

    def seen(pcm, length):
        return features.x_of(raw_clip(pcm, length, config), fitted.statistics, config)

    def one(x, known, row):
        told = condition_of(known, fitted, config)
        row_key = jax.random.fold_in(key, row)
        terms = objective.example_terms(
            params, x, told, fitted, row_key, model=model, config=config
        )
        said = terms["mean"], terms["logvar"]
        mean, logvar = context.posterior_moments(params, *said, config=config)
        rebuilt = models.decode(params, mean, told, fitted.linear, config=config)
        errors = diagnostics.errors(
            x, rebuilt, told, fitted.linear, latent_dim=config.model.latent_dim
        )
        return {**terms, "errors": errors, "moments": (mean, jnp.exp(logvar))}

    return jax.vmap(one)(partwise.vmap(seen)(clips, lengths), facts, rows)


class Evaluation(NamedTuple):
    """Of a set of weights, on the held-out sounds."""

    values: dict[str, float]
    """loss, recon, kl in nats per sound, the figures of `diagnostics.latent_figures` and of
    `diagnostics.explained`, and of the audio after inversion mel_l1_db, lsd_db, onset (means) and
    body_db (the median)."""
    latent: dict[str, np.ndarray]
    """kl_per_dim (`diagnostics.per_dim`), and the posteriors' mean and std [num, latent_dim]."""
    pairs: tuple[np.ndarray, np.ndarray]
    """The first few sounds and their reconstructions, [board_clips, num_samples] each."""
    draws: np.ndarray
    """[NUM_DRAWS, num_samples], new sounds from a Gaussian fitted to the held-out posteriors."""
    per_sound: dict[str, np.ndarray]
    """mel_l1_db, lsd_db, body_db and onset, [num] each: at every evaluation of the same sounds, in
    one order."""


class Programs(NamedTuple):
    """What an evaluation compiles; `swept` are the fields of the config that a member of a sweep
    has of its own."""

    terms: Callable
    """(params, fitted, swept, clips, lengths, facts, rows) -> what `eval_step` returns."""
    loss: Callable
    """(params, terms, swept) -> loss [] of all held-out sounds as one batch, and what it is of."""
    decode: Callable
    """(params, fitted, latents [BATCH_DECODED, latent_dim], facts) -> their sounds."""
    compare: Callable
    """(clips, lengths, outputs) -> figures of each, and the sounds before and after."""


def programs_of(config: Config, num_clips: int) -> Programs:
    """Compiles, once called, what an evaluation of `num_clips` sounds takes."""

    @jax.jit
    def terms(params, fitted, swept, *columns):
        return eval_step(params, fitted, *columns, config=configs.replaced(config, swept))

    @jax.jit
    def loss(params, terms, swept):
        # At the full weights and with what is carried as at step 0, so that evaluations may be
        # compared.
        own = configs.replaced(config, swept)
        key, carried = jax.random.key(own.train.seed), objective.carried_of(own)
        loss, terms = objective.loss_of(
            Batch(terms, own, params, 1.0, num_clips, key=key, carried=carried)
        )
        return loss, objective.figures(terms)

    @jax.jit
    def decode(params, fitted, latents, facts):
        def one(z, known):
            told = condition_of(known, fitted, config)
            return codec.decode(params, fitted, z, told, config=config)[0]

        return jax.vmap(one)(latents, facts)

    compare = jax.jit(jax.vmap(partial(compare_sound, config=config)))
    return Programs(terms, loss, decode, compare)


def compare_sound(pcm, length, after, config: Config):
    """Figures [] of a sound after inversion, [num_samples], beside its clip, and both sounds."""
    before, sample_rate = raw_clip(pcm, length, config), config.data.sample_rate
    figures = {
        "mel_l1_db": metrics.mel_l1_db(before, after, sample_rate=sample_rate),
        "lsd_db": metrics.lsd_db(before, after),
        "body_db": metrics.body_db(before, after, sample_rate=sample_rate),
        "onset": metrics.onset(after),
    }
    return figures, (before, metrics.match_energy(after, before))


def make_evaluate(config: Config, sounds: Sounds, fitted: Fitted):
    """Compiles the evaluation of a set of weights.

    Returns:
      evaluate(params) -> Evaluation; the same programs serve a member of a sweep: evaluate(params,
      what was fitted for it, the fields of the config that are its own).
    """
    rows = sounds.held_out_rows[: config.train.eval_clips]
    programs = programs_of(config, len(rows))

    def evaluate(params, fitted=fitted, swept: Mapping[str, Any] | None = None) -> Evaluation:
        swept = swept or {}
        terms = over_rows(partial(programs.terms, params, fitted, swept), sounds, rows)
        means, variances = terms["moments"]
        decode = partial(programs.decode, params, fitted)
        num_shown = config.train.board_clips
        per_sound, pairs = _heard(decode, programs.compare, means, sounds, rows, num_shown)
        errors = terms.pop("errors")
        loss, terms_of_loss = jax.tree.map(float, programs.loss(params, terms, swept))
        values = {
            "loss": loss,
            **terms_of_loss,
            **diagnostics.latent_figures(params, terms, config),
            **diagnostics.explained(errors, config),
            **{name: float(column.mean()) for name, column in per_sound.items()},
            # The median: one sound whose peak is luck would move the mean.
            "body_db": float(np.median(per_sound["body_db"])),
        }
        kl_per_dim, _, _ = diagnostics.per_dim(
            terms["kl_per_dim"], means, variances, num_dims=config.model.latent_dim
        )
        latent = {"kl_per_dim": kl_per_dim, "mean": means, "std": np.sqrt(variances)}
        # The model is told what it was told of some of these sounds, as many as a batch has.
        facts = sounds.read(np.resize(rows, BATCH_DECODED))[2]
        draws = np.asarray(decode(_drawn(means, variances), facts))[:NUM_DRAWS]
        return Evaluation(values, latent, pairs, draws, per_sound)

    return evaluate


def _heard(decode: Callable, compare: Callable, latents, sounds: Sounds, rows: np.ndarray, num):
    """Figures [len(rows)] of the sounds rebuilt from latents [len(rows), latent_dim], and the first
    `num` sounds before and after, [num, num_samples] each."""
    figures, pairs = [], []
    for start in range(0, len(rows), BATCH_DECODED):
        # The last batch repeats its rows: one program serves any number.
        filled = np.resize(np.arange(start, min(start + BATCH_DECODED, len(rows))), BATCH_DECODED)
        clips, lengths, facts = sounds.read(rows[filled])
        measured, pair = compare(clips, lengths, decode(latents[filled], facts))
        figures.append(jax.tree.map(np.asarray, measured))
        if start == 0 or start < num:
            pairs.append(jax.tree.map(np.asarray, pair))
    joined = [jax.tree.map(lambda *x: np.concatenate(x), *part) for part in (figures, pairs)]
    first = min(num, len(rows))
    return (
        {name: column[: len(rows)] for name, column in joined[0].items()},
        tuple(column[:first] for column in joined[1]),
    )


def _drawn(means, variances) -> np.ndarray:
    """NUM_DRAWS latents from a Gaussian fitted to posteriors, repeated to fill a batch."""
    prior = priors.fit_mixture(means, variances, components=1)
    eps = np.random.default_rng(0).standard_normal((NUM_DRAWS, means.shape[1]))
    drawn = np.asarray(prior.means[0]) + eps @ np.asarray(prior.cholesky[0]).T
    return np.resize(drawn.astype(np.float32), (BATCH_DECODED, means.shape[1]))


def fit_embedding(sounds: Sounds, config: Config) -> Embedding:
    """Fits the space in which sounds are compared to the training set."""

    @jax.jit
    def pooled(clips, lengths, facts, rows):
        def one(pcm, length):
            waveform = raw_clip(pcm, length, config)
            return metrics.pooled_log_mel(waveform, sample_rate=config.data.sample_rate)

        return jax.vmap(one)(clips, lengths)

    return metrics.fit_embedding(over_rows(pooled, sounds, sounds.train_rows))


def thumbnails(sounds: Sounds, rows: np.ndarray, config: Config) -> np.ndarray:
    """Square grey spectrograms of clips, [len(rows), size, size] uint8."""

    @jax.jit
    def small(clips, lengths, facts, rows):
        def one(pcm, length):
            waveform = raw_clip(pcm, length, config)
            return thumbnail(waveform, config=config, width=THUMBNAIL_HEIGHT)

        return jax.vmap(one)(clips, lengths)

    return over_rows(small, sounds, rows)


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
            waveform = raw_clip(pcm, length, config)
            told = condition_of(known, fitted, config)
            mean, logvar = codec.encode(params, fitted, waveform, told, config=config)
            return mean, jnp.exp(logvar)

        return jax.vmap(one)(clips, lengths, facts)

    rows = sounds.train_rows
    if len(rows) > config.prior.max_clips:
        rng = np.random.default_rng(config.train.seed)
        rows = np.sort(rng.choice(rows, config.prior.max_clips, replace=False))

    def aggregate(known: Sounds) -> Aggregate:
        encode = partial(posterior, params, fitted)
        means, variances = over_rows(encode, known, rows)
        choice = priors.choose(
            means,
            variances,
            max_components=config.prior.max_components,
            seed=config.train.seed,
            hashes=[known.corpus.hashes[row] for row in rows],
        )
        return Aggregate(choice.prior, Posteriors(rows, means, variances), choice.log_likelihoods)

    if sounds.told.num_facts == 0:
        return aggregate(sounds), None
    return aggregate(sounds._replace(facts=np.full_like(sounds.facts, np.nan))), aggregate(sounds)
