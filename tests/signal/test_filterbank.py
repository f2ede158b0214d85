"""Filterbanks against librosa, and their inversion."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from vaejax.signal.filterbank import apply_filterbank, log_filterbank, mel_filterbank
from vaejax.signal.mel_inversion import invert_filterbank
from vaejax.signal.scales import power_to_db
from vaejax.signal.stft import stft

CLIP = librosa.chirp(fmin=80, fmax=6000, sr=22050, length=8000).astype(np.float32) * 0.2
CLIP = CLIP + 0.01 * np.random.default_rng(0).standard_normal(8000).astype(np.float32)


@pytest.mark.filterwarnings("ignore:Empty filters")
@pytest.mark.parametrize("norm", [None, "slaney", 1.0, np.inf])
@pytest.mark.parametrize("htk", [False, True])
@pytest.mark.parametrize(("fmin", "nyquists"), [(0.0, 1.0), (200.0, 0.5)])
@pytest.mark.parametrize(("rate", "n_fft", "n_mels"), [(44100, 2048, 128), (22050, 512, 32)])
def test_mel_filterbank_equals_librosa(rate, n_fft, n_mels, fmin, nyquists, htk, norm):
    options = {"n_fft": n_fft, "n_mels": n_mels, "fmin": fmin, "htk": htk, "norm": norm}
    options["fmax"] = nyquists * rate / 2
    got = mel_filterbank(sample_rate=rate, **options)
    np.testing.assert_allclose(got, librosa.filters.mel(sr=rate, **options).T, rtol=1e-7, atol=0)


@pytest.mark.parametrize("hop_length", [128, 256])
def test_mel_magnitude_matches_librosa(hop_length):
    magnitude = jnp.abs(stft(CLIP, n_fft=512, hop_length=hop_length))
    bank = mel_filterbank(sample_rate=22050, n_fft=512, n_mels=40, fmax=8000)
    got = apply_filterbank(magnitude, bank)
    expected = librosa.feature.melspectrogram(
        y=CLIP, sr=22050, n_fft=512, hop_length=hop_length, n_mels=40, fmax=8000, power=1.0,
        pad_mode="constant",
    ).T  # fmt: skip
    np.testing.assert_allclose(got, expected, atol=1e-5)
    for amin, top_db in ((1e-5, 120.0), (1e-3, 80.0)):
        db = power_to_db(got, amin=amin, top_db=top_db)
        reference = librosa.power_to_db(expected, amin=amin, top_db=top_db)
        np.testing.assert_allclose(db, reference, atol=1e-3)


@pytest.mark.parametrize("spread", [0.5, 0.125, 0.01])
@pytest.mark.parametrize(("n_bins", "bins_per_octave", "fmin"), [(84, 12, 32.70319566), (32, 8, 40.0), (84, 36, 100.0)])  # noqa: E501  # fmt: skip
@pytest.mark.parametrize(("rate", "n_fft"), [(44100, 2048), (22050, 512)])
def test_log_filterbank_sums_to_one_around_its_centres(
    rate, n_fft, n_bins, bins_per_octave, fmin, spread
):
    bank = log_filterbank(
        sample_rate=rate, n_fft=n_fft, n_bins=n_bins, bins_per_octave=bins_per_octave, fmin=fmin,
        spread=spread,
    )  # fmt: skip
    assert bank.shape == (n_fft // 2 + 1, n_bins)
    assert bank.dtype == np.float32
    assert (bank >= 0).all()
    np.testing.assert_allclose(bank.sum(axis=0), 1.0, rtol=1e-5)
    centres = fmin * 2 ** (np.arange(n_bins) / bins_per_octave)
    peaks = bank.argmax(axis=0) * rate / n_fft
    assert np.abs(peaks - centres).max() <= rate / n_fft


def test_learned_filterbank_gets_the_matrix_products_gradient():
    magnitude = jnp.abs(stft(CLIP, n_fft=512, hop_length=256))
    bank = jnp.asarray(mel_filterbank(sample_rate=22050, n_fft=512, n_mels=20))
    gradient = jax.grad(lambda bank: jnp.sum(apply_filterbank(magnitude, bank)))(bank)
    expected = np.repeat(np.asarray(magnitude).sum(axis=0)[:, None], 20, axis=1)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


def test_inverted_mel_fits_its_bands_better_than_librosa():
    magnitude = np.abs(np.asarray(stft(CLIP, n_fft=512, hop_length=256)))
    bank = mel_filterbank(sample_rate=22050, n_fft=512, n_mels=40)
    bands = magnitude @ bank
    got = np.asarray(invert_filterbank(bands, bank))
    theirs = librosa.feature.inverse.mel_to_stft(bands.T, sr=22050, n_fft=512, power=1.0).T
    assert (got >= 0).all()
    ours, reference = (np.linalg.norm(x @ bank - bands) for x in (got, theirs))
    assert ours < 0.01 * np.linalg.norm(bands)
    assert ours < reference
    assert np.linalg.norm(got - magnitude) < np.linalg.norm(theirs - magnitude)


def test_inverted_silence_is_silent_with_finite_gradients():
    bank = mel_filterbank(sample_rate=22050, n_fft=512, n_mels=40)

    def total(bands):
        return jnp.sum(invert_filterbank(bands, bank, num_iters=4))

    assert float(total(jnp.zeros((3, 40)))) == 0
    assert np.isfinite(jax.jit(jax.grad(total))(jnp.zeros((3, 40)))).all()


BANK = mel_filterbank(sample_rate=22050, n_fft=512, n_mels=40)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: mel_filterbank(sample_rate=22050, n_fft=512, n_mels=0), "n_mels=0 must be"),
        (lambda: mel_filterbank(sample_rate=100, n_fft=8, fmax=60), "fmax=60 must satisfy.* 50.0"),
        (lambda: mel_filterbank(sample_rate=100, n_fft=8, fmin=30, fmax=20), "fmin=30"),
        (lambda: mel_filterbank(sample_rate=100, n_fft=8, norm="l2"), "norm='l2' must be"),
        (lambda: log_filterbank(sample_rate=22050, n_fft=1024, n_bins=300), "use n_bins <= 101"),
        (lambda: log_filterbank(sample_rate=22050, n_fft=1024, spread=0), "spread=0"),
        (lambda: apply_filterbank(jnp.ones((5, 256)), BANK), r"shape \(5, 256\)"),
        (lambda: invert_filterbank(jnp.ones((5, 41)), BANK), r"bands has shape \(5, 41\)"),
        (lambda: invert_filterbank(jnp.ones((5, 40)), BANK, num_iters=-1), "num_iters=-1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
