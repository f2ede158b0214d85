"""MFCC and delta against librosa and SciPy."""

import librosa
import numpy as np
import pytest
import scipy.signal

from vaejax.signal.extra.cepstrum import delta, inverse_mfcc, mfcc

MEL_DB = (20 * np.random.default_rng(0).standard_normal((30, 40)) - 40).astype(np.float32)


@pytest.mark.parametrize("n_mfcc", [1, 20, 40])
def test_mfcc_matches_librosa_in_every_coefficient(n_mfcc):
    expected = librosa.feature.mfcc(S=MEL_DB.T, n_mfcc=n_mfcc).T
    np.testing.assert_allclose(mfcc(MEL_DB, n_mfcc=n_mfcc), expected, atol=1e-4)


def test_all_coefficients_invert():
    got = inverse_mfcc(mfcc(MEL_DB, n_mfcc=40), n_mels=40)
    np.testing.assert_allclose(got, MEL_DB, atol=1e-4)


def test_some_coefficients_invert_to_librosas_smoothing():
    coefficients = mfcc(MEL_DB, n_mfcc=13)
    expected = librosa.feature.inverse.mfcc_to_mel(np.asarray(coefficients).T, n_mels=40, ref=1.0).T
    np.testing.assert_allclose(inverse_mfcc(coefficients, n_mels=40), librosa.power_to_db(expected, top_db=None, amin=1e-30), atol=1e-2)  # noqa: E501  # fmt: skip


@pytest.mark.parametrize("win_length", [3, 5, 9])
def test_delta_matches_librosa(win_length):
    expected = librosa.feature.delta(MEL_DB, width=win_length, axis=0)
    np.testing.assert_allclose(delta(MEL_DB, win_length=win_length), expected, atol=1e-4)


@pytest.mark.parametrize(("mode", "scipy_mode"), [("constant", "constant"), ("reflect", "mirror")])
def test_delta_with_padding_matches_scipy(mode, scipy_mode):
    expected = scipy.signal.savgol_filter(MEL_DB, 5, 1, deriv=1, axis=0, mode=scipy_mode)
    np.testing.assert_allclose(delta(MEL_DB, win_length=5, mode=mode), expected, atol=1e-4)


def test_symmetric_delta_of_a_ramp_halves_at_the_ends():
    got = delta(np.array([1.0, 2.0, 3.0, 4.0]), win_length=3, mode="symmetric")
    np.testing.assert_allclose(got, [0.5, 1.0, 1.0, 0.5])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: mfcc(MEL_DB, n_mfcc=41), "n_mfcc=41 must be from 1 to n_mels=40"),
        (lambda: mfcc(MEL_DB, n_mfcc=0), "n_mfcc=0 must be"),
        (lambda: inverse_mfcc(MEL_DB, n_mels=39), "n_mels=39 must be at least the 40"),
        (lambda: delta(MEL_DB, win_length=4), "win_length=4 must be odd"),
        (lambda: delta(MEL_DB, mode="wrap"), "unknown mode 'wrap'"),
        (lambda: delta(MEL_DB[:8]), "8 frames are too few for win_length=9"),
    ],
)
def test_sizes_that_cannot_work_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
