"""Which factors of a sound its latent holds: how well they can be read off z, in a straight line
and by any smooth function (the informativeness of Eastwood & Williams 2018)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vaejax.data.families import FAMILIES, LOG_UNIFORM
from vaejax.data.sounds import Sounds
from vaejax.sampling import attributes

# Fewer held-out sounds than this say little of a factor.
MIN_SOUNDS = 8
DRUMS = ("kick", "snare", "hat", "tom", "clap")
HARMONIC = tuple(name for name in FAMILIES if name not in DRUMS)
# Of the kernel: its variance, times the median squared distance of two sounds; what is added to the
# diagonal of its matrix; and the most training sounds, since their number is cubed.
WIDTHS = (0.1, 0.5, 2.0, 8.0)
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
MAX_SOUNDS = 2048


def known_factors(sounds: Sounds) -> dict[str, np.ndarray]:
    """Factor -> [num_clips], on the axis on which it is drawn evenly; NaN where there is none.

    Pitch in MIDI numbers, also by itself for the families whose partials are those of a note.
    """
    known = {}
    for name, values in sounds.corpus.factors.items():
        values = np.asarray(values, np.float64)
        known[name] = np.log(np.maximum(values, 1e-6)) if name in LOG_UNIFORM else values
    if "pitch" in known:
        harmonic = np.isin(sounds.corpus.labels, HARMONIC)
        known["pitch_harmonic"] = np.where(harmonic, known["pitch"], np.nan)
    return known


def factor_recovery(
    train, train_factors: Mapping[str, Any], held_out, held_out_factors: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """How well factors can be read off z by functions of it, fitted to the training sounds.

    Args:
      train, held_out: [num, latent_dim], posterior means.
      train_factors, held_out_factors: factor -> [num]; NaN where a sound has none.

    Returns:
      Factor -> r2 and r2_linear, the share of its variance over the held-out sounds that is
      predicted by kernel ridge regression on MAX_SOUNDS of the training sounds at most, and by
      ridge regression on all of them (1 at best, 0 for the mean, below for worse); and sounds, how
      many of them have it. Factors that do not vary, or that fewer than MIN_SOUNDS have, are left
      out.
    """
    train, held_out = np.asarray(train, np.float64), np.asarray(held_out, np.float64)
    values = {name: np.asarray(known, np.float64) for name, known in train_factors.items()}
    truths = {name: np.asarray(held_out_factors[name], np.float64) for name in values}
    names = [name for name in values if _is_judged(values[name], truths[name])]

    # Factors that the same sounds have share the kernel's matrix, which is what takes time.
    sharing: dict[bytes, list[str]] = {}
    for name in names:
        sharing.setdefault(np.isfinite(values[name]).tobytes(), []).append(name)
    bent: dict[str, np.ndarray] = {}
    for together in sharing.values():
        rows = np.flatnonzero(np.isfinite(values[together[0]]))
        rows = rows[np.linspace(0, len(rows) - 1, min(MAX_SOUNDS, len(rows))).astype(int)]
        targets = np.stack([values[name][rows] for name in together], axis=1)
        predicted = kernel_ridge(train[rows], targets, held_out)
        bent.update(zip(together, predicted.T, strict=True))

    found = {}
    for name in names:
        judged, fit_on = np.isfinite(truths[name]), np.isfinite(values[name])
        z, y = train[fit_on], values[name][fit_on]
        slope, _ = attributes.fit(z, y)
        straight = (held_out - z.mean(0)) @ slope + y.mean()
        found[name] = {
            "r2": _r2(bent[name][judged], truths[name][judged]),
            "r2_linear": _r2(straight[judged], truths[name][judged]),
            "sounds": int(judged.sum()),
        }
    return found


def _is_judged(values, truth) -> bool:
    judged = np.isfinite(truth)
    enough = min(judged.sum(), np.isfinite(values).sum()) >= MIN_SOUNDS
    return bool(enough and truth[judged].std() >= 1e-9)


def _r2(predicted, truth) -> float:
    return round(float(1 - np.mean((predicted - truth) ** 2) / np.var(truth)), 4)


def kernel_ridge(z, targets, new):
    """Kernel ridge regression (Saunders et al. 1998) with a Gaussian kernel.

    Width and penalty are, for each target, those that predict left-out sounds best, which has a
    closed form: the residual is weight / diagonal of the inverse (Rasmussen & Williams 2006, 5.12).

    Args:
      z: [num, latent_dim]. targets: [num, num_targets]. new: [num_new, latent_dim].

    Returns:
      Of the targets at `new`, [num_new, num_targets].
    """
    centre = targets.mean(0)
    squares, new_squares = _squares(z, z), _squares(new, z)
    typical = max(float(np.median(squares)), 1e-12)
    least = np.full(targets.shape[1], np.inf)
    found = np.zeros((len(new), targets.shape[1]))
    for width in WIDTHS:
        scale = -0.5 / (width * typical)
        values, vectors = np.linalg.eigh(np.exp(scale * squares))
        along = vectors.T @ (targets - centre)
        new_kernel = np.exp(scale * new_squares)
        for penalty in PENALTIES:
            inverse = 1 / (np.maximum(values, 0.0) + penalty)
            weights = vectors @ (inverse[:, None] * along)
            left_out = weights / ((vectors**2) @ inverse)[:, None]
            error = np.mean(left_out**2, 0)
            better = error < least
            least = np.minimum(least, error)
            found[:, better] = new_kernel @ weights[:, better]
    return centre + found


def _squares(a, b):
    """Squared distances of rows, [len(a), len(b)]."""
    return np.maximum(np.sum(a**2, 1)[:, None] + np.sum(b**2, 1) - 2 * a @ b.T, 0.0)
