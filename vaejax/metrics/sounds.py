"""Distances between two sounds. Audio domain unless a name says otherwise.

Levels: 0 dB is the STFT peak of a full-scale sine (n_fft 2048, hop 512, Hann). Before it is
compared, an estimate is scaled to the energy of the reference.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vaejax.signal import phase
from vaejax.signal.filterbank import mel_filterbank
from vaejax.signal.framing import slice_frames
from vaejax.signal.stft import stft

N_FFT, HOP_LENGTH = 2048, 512
FLOOR_DB = -60.0
NUM_MELS = 128
# Of the envelope over an attack: windows of 5 ms, 2.5 ms apart.
ATTACK_MS, ENVELOPE_MS = 50.0, 5.0
# Of the start: so many samples, and how far above the later jumps a step is.
ONSET_SAMPLES, STEP_RATIO, STEP_PERCENTILE = 4, 3.0, 99.0
# The window whose loudest place is the body of a sound.
BODY_MS = 50.0
# (n_fft, hop_length, win_length): those of Yamamoto et al. 2020, and auraloss's defaults.
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))


def levels(waveform):
    """STFT magnitudes [num_frames, num_bins], 1.0 for a full-scale sine."""
    return jnp.abs(stft(_padded(waveform), n_fft=N_FFT, hop_length=HOP_LENGTH)) * (4.0 / N_FFT)


def _padded(waveform):
    """A clip shorter than a window is padded, so that there is a whole frame to compare."""
    return jnp.pad(waveform, (0, max(N_FFT - waveform.shape[0], 0)))


def decibels(level, floor_db):
    """Levels in dB, at least floor_db."""
    return 20 * jnp.log10(jnp.maximum(level, 10.0 ** (floor_db / 20)))


def match_energy(estimate, reference):
    """The estimate (of any shape) scaled to the energy of the reference; silence stays silence."""
    energy = jnp.sum(estimate**2)
    return estimate * jnp.sqrt(jnp.sum(reference**2) / jnp.where(energy > 0, energy, 1.0))


def mel_l1_db(reference, estimate, *, sample_rate: int):
    """Mean absolute difference of 128-band mel magnitudes in dB, floored at -60 dB.

    Args:
      reference, estimate: [num_samples], of equal length.
      sample_rate: Hz.

    Returns:
      [] dB >= 0; lower is better.
    """
    a = mel_db(levels(reference), sample_rate=sample_rate)
    b = mel_db(levels(match_energy(estimate, reference)), sample_rate=sample_rate)
    return jnp.mean(jnp.abs(a - b))


def mel_db(level, *, sample_rate: int):
    """The mel spectrum that `mel_l1_db` compares: 128 bands in dB, floored at -60 dB.

    Args:
      level: [num_frames, num_bins], magnitudes of an STFT of any n_fft, 1.0 for a full-scale sine.

    Returns:
      [num_frames, 128].
    """
    n_fft = 2 * (level.shape[1] - 1)
    bank = mel_filterbank(sample_rate=sample_rate, n_fft=n_fft, n_mels=NUM_MELS, norm=None)
    return decibels(level @ jnp.asarray(bank), FLOOR_DB)


def lsd_db(reference, estimate):
    """Log-spectral distance: per frame the root mean square over bins, then the mean over frames.

    Args:
      reference, estimate: [num_samples], of equal length.

    Returns:
      [] dB >= 0, floored at -60 dB; lower is better.
    """
    a = decibels(levels(reference), FLOOR_DB)
    b = decibels(levels(match_energy(estimate, reference)), FLOOR_DB)
    return jnp.mean(jnp.sqrt(jnp.mean((a - b) ** 2, axis=1)))


def stft_distance(reference, estimate):
    """Multi-resolution STFT distance (Yamamoto et al. 2020): differentiable, for searches.

    Per resolution, the spectral convergence plus the mean absolute difference of the natural
    logarithms of the magnitudes; then the mean over n_fft 512, 1024 and 2048 (hop a quarter).

    Args:
      reference, estimate: [num_samples], of equal length.

    Returns:
      [] >= 0; lower is better.
    """
    total = jnp.zeros(())
    for n_fft in (512, 1024, 2048):
        missing = max(n_fft - reference.shape[0], 0)

        def level(waveform, n_fft=n_fft, missing=missing):
            spectrum = stft(jnp.pad(waveform, (0, missing)), n_fft=n_fft, hop_length=n_fft // 4)
            # -100 dB: below hearing, and it keeps root and logarithm smooth at silence.
            power = (jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2) * (4.0 / n_fft) ** 2
            return jnp.sqrt(power + 1e-10)

        a, b = level(reference), level(estimate)
        convergence = jnp.sqrt(jnp.sum((a - b) ** 2) + 1e-20) / jnp.sqrt(jnp.sum(a**2))
        total += convergence + jnp.mean(jnp.abs(jnp.log(a) - jnp.log(b)))
    return total / 3


def spectral_convergence_db(reference, estimate):
    """20 log10(norm(|STFT(estimate)| - |STFT(reference)|) / norm(|STFT(reference)|)), Frobenius.

    Sturmel & Daudet 2011, of magnitudes; n_fft 2048, hop 512, after `match_energy`.

    Args:
      reference, estimate: [num_samples], of equal length.

    Returns:
      [] dB, between -200 (equal) and 200; lower is better.
    """
    return phase.spectral_convergence_db(
        _padded(match_energy(estimate, reference)),
        jnp.abs(stft(_padded(reference), n_fft=N_FFT, hop_length=HOP_LENGTH)),
        n_fft=N_FFT,
        hop_length=HOP_LENGTH,
    )


def auraloss_stft(reference, estimate):
    """Multi-resolution STFT distance as auraloss defines it by default (Steinmetz & Reiss 2020).

    Per resolution (Yamamoto et al. 2020), with S the magnitudes, at least 1e-4:

        norm(S_ref - S_est) / norm(S_ref) + mean |ln S_ref - ln S_est|

    and the mean over `RESOLUTIONS`. Frames are centred over reflected edges, under periodic Hann
    windows, and not normalised: a full-scale sine peaks at half the window's sum.

    Args:
      reference, estimate: [num_samples], of equal length, more than half of the longest n_fft.

    Returns:
      [] >= 0; lower is better.
    """

    def magnitudes(waveform, n_fft, hop_length, win_length):
        spectrum = stft(
            jnp.pad(waveform, n_fft // 2, mode="reflect"),
            n_fft=n_fft,
            hop_length=hop_length,
            win_length=win_length,
            center=False,
        )
        return jnp.sqrt(jnp.maximum(jnp.real(spectrum) ** 2 + jnp.imag(spectrum) ** 2, 1e-8))

    total = jnp.zeros(())
    for sizes in RESOLUTIONS:
        a, b = magnitudes(reference, *sizes), magnitudes(estimate, *sizes)
        convergence = jnp.linalg.norm(a - b) / jnp.linalg.norm(a)
        total += convergence + jnp.mean(jnp.abs(jnp.log(a) - jnp.log(b)))
    return total / len(RESOLUTIONS)


def attack_error_db(reference, estimate, *, sample_rate: int):
    """Mean absolute difference of the level envelopes over the first 50 ms, in dB.

    The envelope is the root mean square in windows of 5 ms, 2.5 ms apart, floored at -60 dB of a
    full-scale sine's. At equal peaks, as files are written: a click at the start is short and says
    little in the envelope itself, but it leaves less level for all that follows. (At equal energy
    recorded hats with and without a click are 1.5 and 0.9 dB off, at equal peaks 5.3 and 1.9.)

    Args:
      reference, estimate: [num_samples], of equal length; a shorter sound is compared in full.
      sample_rate: Hz.

    Returns:
      [] dB >= 0; lower is better.
    """
    window = max(round(ENVELOPE_MS * 1e-3 * sample_rate), 2)
    length = max(round(ATTACK_MS * 1e-3 * sample_rate), window)

    def envelope_db(waveform):
        attack = jnp.pad(waveform, (0, max(length - waveform.shape[0], 0)))[:length]
        frames = slice_frames(attack, frame_length=window, hop_length=window // 2)
        return decibels(jnp.sqrt(2 * jnp.mean(frames**2, axis=1)), FLOOR_DB)

    a, b = envelope_db(reference), envelope_db(_match_peak(estimate, reference))
    return jnp.mean(jnp.abs(a - b))


def _match_peak(estimate, reference):
    """The estimate at the peak of the reference; silence stays silence."""
    ours, theirs = jnp.max(jnp.abs(estimate)), jnp.max(jnp.abs(reference))
    return estimate * jnp.where(ours > 0, theirs / jnp.where(ours > 0, ours, 1.0), 0.0)


def onset(waveform):
    """Whether a sound begins loud: its first 4 samples reach half of its peak.

    A sound that is trimmed to its onset seldom does; one that begins with a click does.

    Args:
      waveform: [num_samples], at any level; of NumPy or JAX, and so is the result.

    Returns:
      [] 1.0 or 0.0, so that the mean over sounds is their share; 0.0 for silence.
    """
    level = abs(waveform)
    peak = level.max()
    return ((peak > 0) & (level[:ONSET_SAMPLES].max() >= 0.5 * peak)).astype(np.float32)


def onset_step(waveform):
    """Whether a sound begins with a step: `onset`, and a jump to its first sample that is more than
    3 times the 99th percentile of its later jumps from sample to sample.

    The loud start of a bright noise, whose samples all jump as far, is no step.

    Args:
      waveform: [num_samples], 2 at least, at any level.

    Returns:
      [] 1.0 or 0.0, so that the mean over sounds is their share; 0.0 for silence.
    """
    later = jnp.percentile(jnp.abs(jnp.diff(waveform)), STEP_PERCENTILE)
    return onset(waveform) * (jnp.abs(waveform[0]) > STEP_RATIO * later)


def body_level_db(waveform, *, sample_rate: int):
    """Level of the loudest 50 ms of a sound, under its peak.

    Args:
      waveform: [num_samples], at any level, of NumPy or JAX; behind a sound shorter than 50 ms
        is silence.
      sample_rate: Hz.

    Returns:
      [] dB: root mean square over peak, so 0 for a square wave, -3.01 for a sine and -33.4 at
      44.1 kHz for a click, which is the least, and that of silence.
    """
    window = round(BODY_MS * 1e-3 * sample_rate)
    # On the host too: NumPy has no compilation for every length of a trimmed sound.
    xp = jnp if isinstance(waveform, jax.Array) else np
    peak = abs(waveform).max()
    power = (waveform / xp.where(peak > 0, peak, 1.0)) ** 2
    power = xp.pad(power, (0, max(window - waveform.shape[0], 0)))
    until = xp.concatenate([xp.zeros(1), xp.cumsum(power)])
    loudest = (until[window:] - until[:-window]).max()
    return 10 * xp.log10(xp.maximum(loudest, 1.0) / window)


def body_db(reference, estimate, *, sample_rate: int):
    """How much louder the loudest 50 ms of the estimate are, where both have the same peak.

    Sounds are written at equal peaks: a click at the start leaves less for all that follows, which
    `match_energy` would hide.

    Args:
      reference, estimate: [num_samples].
      sample_rate: Hz.

    Returns:
      [] dB; 0 is best, below it the estimate is quieter.
    """
    ours, theirs = (body_level_db(w, sample_rate=sample_rate) for w in (estimate, reference))
    return ours - theirs


def si_sdr_db(reference, estimate):
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019): how much louder the part of
    the estimate that is the reference is than all that is not. Higher is better.

    Sample by sample, so it hears every phase: of use only where the phase is modelled.

    Args:
      reference, estimate: [num_samples], of equal length.

    Returns:
      [] dB, between -100 and 100; 100 where both are silent.
    """
    # No mean is subtracted: a shift of it is a distortion too.
    power = jnp.sum(reference**2)
    scale = jnp.sum(estimate * reference) / jnp.where(power > 0, power, 1.0)
    target = jnp.sum((scale * reference) ** 2)
    rest = jnp.sum((estimate - scale * reference) ** 2)
    # Without a rest the estimate is the reference, or it is silence.
    alike = jnp.where((target > 0) | (power == 0), 1e10, 0.0)
    ratio = jnp.where(rest > 0, target / jnp.where(rest > 0, rest, 1.0), alike)
    return 10 * jnp.log10(jnp.clip(ratio, 1e-10, 1e10))


def magnitude_lsd_db(reference, estimate):
    """`lsd_db` of STFT magnitudes [num_frames, num_bins], 1.0 for a full-scale sine, whatever they
    were computed with: the distance before phase recovery."""
    matched = match_energy(estimate, reference)
    a, b = decibels(reference, FLOOR_DB), decibels(matched, FLOOR_DB)
    return jnp.mean(jnp.sqrt(jnp.mean((a - b) ** 2, axis=1)))
