"""Pre-emphasis against librosa and SciPy, and its inverse."""

import librosa
import numpy as np
import pytest
import scipy.signal

from vaejax.signal.extra.emphasis import deemphasis, preemphasis

NOISE = np.random.default_rng(0).standard_normal(5000).astype(np.float32)


@pytest.mark.parametrize("coef", [0.0, 0.5, 0.97])
def test_preemphasis_matches_librosa_from_silence(coef):
    expected = librosa.effects.preemphasis(NOISE, coef=coef, zi=[0.0])
    np.testing.assert_allclose(preemphasis(NOISE, coef=coef), expected, atol=1e-6)


def test_deemphasis_matches_scipy():
    expected = scipy.signal.lfilter([1.0], [1.0, -0.97], NOISE)
    np.testing.assert_allclose(deemphasis(NOISE), expected, atol=2e-5)


@pytest.mark.parametrize("num_samples", [1, 2, 5000])
def test_pair_inverts_from_first_to_last_sample(num_samples):
    clip = NOISE[:num_samples]
    np.testing.assert_allclose(deemphasis(preemphasis(clip)), clip, atol=2e-5)


@pytest.mark.parametrize("function", [preemphasis, deemphasis])
def test_unstable_coefficient_is_refused(function):
    with pytest.raises(ValueError, match=r"coef=1.0 must be at least 0 and below 1"):
        function(NOISE, coef=1.0)
