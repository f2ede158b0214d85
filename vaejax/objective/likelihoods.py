"""Likelihoods p(x|z), by name in `LIKELIHOODS`; and the distance of mel spectra.

A density is a plain function nll(x, mean, log_sigma, ...) -> -log p(x|z) [] in nats, summed over
all values. x and mean are of one shape, the model's; log_sigma is broadcastable to it, the natural
logarithm of the scale (`scales`).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax.scipy.special import gammaln, i0e

from vaejax import features, metrics
from vaejax.config import Config, replaced
from vaejax.objective.record import LOG_2PI, always_works, no_weights, plain
from vaejax.signal.stft import istft, stft

# Of a sound that is rebuilt without error: a millionth of the standard deviation of x is left.
LEAST_VARIANCE = 1e-12


class Likelihood(NamedTuple):
    """p(x|z), of which the decoder says the mean."""

    nll: Callable
    """(x, mean, log_sigma, context) -> -log p(x|z), [] nats."""
    init: Callable = no_weights
    """(key, config) -> what is trained of it beside the scale, in `params["likelihood"]`."""
    best_log_sigma: Callable | None = None
    """(x, mean) -> log sigma [] where p(x|z) is highest; None where it has no closed form."""
    has_bins: bool = True
    """Whether each value of x may have a sigma of its own."""
    is_density: bool = True
    """Whether it is a density of x, so that the loss bounds log p(x)."""
    check: Callable[[Config], str | None] = always_works
    """What is wrong with a config that asks for it; None for nothing."""


def gaussian_nll(x, mean, log_sigma):
    """-log N(x; mean, sigma^2)."""
    nll = 0.5 * ((x - mean) * jnp.exp(-log_sigma)) ** 2 + log_sigma + 0.5 * jnp.log(2 * jnp.pi)
    return jnp.sum(nll)


def laplace_nll(x, mean, log_sigma):
    """-log Laplace(x; mean, b), b = sigma / sqrt(2), whose standard deviation is sigma."""
    log_b = log_sigma - 0.5 * jnp.log(2.0)
    return jnp.sum(jnp.abs(x - mean) * jnp.exp(-log_b) + log_b + jnp.log(2.0))


def student_t_nll(x, mean, log_sigma, *, degrees_of_freedom):
    """-log t(x; mean, sigma) with nu degrees of freedom; sigma is the scale, and the standard
    deviation is sigma sqrt(nu / (nu - 2))."""
    nu = jnp.asarray(degrees_of_freedom, jnp.float32)
    log_norm = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * jnp.log(nu * jnp.pi)
    error = (x - mean) * jnp.exp(-log_sigma)
    return jnp.sum(0.5 * (nu + 1) * jnp.log1p(error**2 / nu) + log_sigma - log_norm)


def von_mises_nll(x, mean, log_sigma, *, angles):
    """Von Mises for the channels (of the last axis) that are angles, Gaussian for the others.

        p(t) = exp(kappa cos(pi (t - mean))) / (2 I0(kappa)),   kappa = 1 / (pi sigma)^2

    The angle is pi t, t in [-1, 1]: half turns, as features have it. For small errors this is the
    Gaussian of the same sigma (Mardia & Jupp 2000).

    Raises:
      ValueError: no channel is an angle.
    """
    if not angles:
        raise ValueError(
            "objective.likelihood=von_mises is for angles, and this features.kind has no channel "
            "of angles; take one with phase or instantaneous frequency, or gaussian"
        )
    is_angle = jnp.isin(jnp.arange(x.shape[-1]), jnp.asarray(angles))
    is_angle = jnp.broadcast_to(is_angle, x.shape)
    log_sigma = jnp.broadcast_to(log_sigma, x.shape)
    kappa = jnp.exp(-2 * log_sigma) / jnp.pi**2
    # I0(kappa) = i0e(kappa) exp(kappa), which would overflow.
    circular = kappa * (1 - jnp.cos(jnp.pi * (x - mean))) + jnp.log(2 * i0e(kappa))
    flat = 0.5 * ((x - mean) * jnp.exp(-log_sigma)) ** 2 + log_sigma + 0.5 * LOG_2PI
    return jnp.sum(jnp.where(is_angle, circular, flat))


def multi_resolution_stft_nll(x, mean, log_sigma, *, sounds):
    """As if each of the N values of x were off by the distance L between the two sounds, under a
    Laplace density: N (log 2b + L / b), b = sigma / sqrt(2).

    L is `metrics.stft_distance` (Yamamoto et al. 2020). It is no density of x, but has the
    scale of one: with a learned sigma it balances itself against the KL, as Rybkin et al. 2021.

    Args:
      sounds: (x, mean) -> two waveforms, see `sounds_of`.
    """
    log_b = log_sigma - 0.5 * jnp.log(2.0)
    distance = metrics.stft_distance(*sounds(x, mean))
    return x.size * (jnp.log(2.0) + log_b + distance * jnp.exp(-log_b))


def sounds_of(x, mean, statistics, config: Config):
    """The sounds [num_samples] of x and of a decoder's answer, the latter with a gradient.

    Where the values have no phase, both get the one recovered for x: its recovery sees no decoder,
    so it needs no gradient, and what is compared is what the decoder said. Where they have one, the
    decoder's own phase counts.
    """
    num_samples = config.data.num_samples
    waveform, _ = features.waveform_of(x, statistics, config, num_samples=num_samples)
    if features.create(config).has_phase:
        answer, _ = features.waveform_of(mean, statistics, config, num_samples=num_samples)
        return waveform, answer
    n_fft, hop_length = config.features.n_fft, config.features.hop_length
    phase = jnp.angle(stft(waveform, n_fft=n_fft, hop_length=hop_length))
    magnitude = features.magnitude_of(mean, statistics, config) * (n_fft / 4.0)
    spectrum = magnitude * jnp.exp(1j * phase)
    return waveform, istft(spectrum, n_fft=n_fft, hop_length=hop_length, length=num_samples)


def mel_db(x, mean, statistics, config: Config):
    """How many dB the mel spectrum of a decoder's answer is off: as `metrics.mel_l1_db`, but of the
    magnitudes that x and mean stand for, at the n_fft and level that they have.

    A Gaussian of |X|^0.3 hardly sees what lies 50 dB below the loudest; this sees all levels above
    -60 dB alike, and what is below has no gradient.

    Args:
      x, mean: [num_frames, ...].

    Returns:
      [] dB >= 0.
    """
    sample_rate = config.data.sample_rate

    def spectrum(x):
        return metrics.mel_db(features.magnitude_of(x, statistics, config), sample_rate=sample_rate)

    return jnp.mean(jnp.abs(spectrum(x) - spectrum(mean)))


def best_gaussian_log_sigma(x, mean):
    """Logarithm of the root mean square error."""
    return 0.5 * jnp.log(jnp.mean((x - mean) ** 2) + LEAST_VARIANCE)


def best_laplace_log_sigma(x, mean):
    """Logarithm of sqrt(2) times the mean absolute error."""
    return 0.5 * jnp.log(2 * jnp.mean(jnp.abs(x - mean)) ** 2 + LEAST_VARIANCE)


def _student_t(x, mean, log_sigma, at):
    degrees_of_freedom = at.config.objective.degrees_of_freedom
    return student_t_nll(x, mean, log_sigma, degrees_of_freedom=degrees_of_freedom)


def _von_mises(x, mean, log_sigma, at):
    return von_mises_nll(x, mean, log_sigma, angles=features.create(at.config).angles)


def _check_von_mises(config: Config) -> str | None:
    if features.create(config).angles:
        return None

    kinds = [
        kind
        for kind in features.REPRESENTATIONS
        if features.create(replaced(config, {"features.kind": kind})).angles
    ]
    return (
        f"objective.likelihood=von_mises is for angles, and features.kind={config.features.kind} "
        f"has none; take gaussian, or one of {', '.join(kinds)}"
    )


def _multi_resolution_stft(x, mean, log_sigma, at):
    sounds = partial(sounds_of, statistics=at.fitted.statistics, config=at.config)
    return multi_resolution_stft_nll(x, mean, log_sigma, sounds=sounds)


# By the name that `objective.likelihood` has.
LIKELIHOODS = {
    "gaussian": Likelihood(plain(gaussian_nll), best_log_sigma=best_gaussian_log_sigma),
    "laplace": Likelihood(plain(laplace_nll), best_log_sigma=best_laplace_log_sigma),
    "student_t": Likelihood(_student_t),
    "von_mises": Likelihood(_von_mises, check=_check_von_mises),
    "multi_resolution_stft": Likelihood(_multi_resolution_stft, has_bins=False, is_density=False),
}
