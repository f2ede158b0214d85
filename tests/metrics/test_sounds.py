"""Distances between two sounds on cases with known answers, and against librosa."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from vaejax import metrics

RATE = 44_100

lsd_db = jax.jit(metrics.lsd_db)
mel_l1_db = jax.jit(metrics.mel_l1_db, static_argnames="sample_rate")
stft_distance = jax.jit(metrics.stft_distance)


def noise(seed=0, num_samples=RATE, level=0.3):
    return (level * np.random.default_rng(seed).normal(size=num_samples)).astype(np.float32)


def two_bands(low_gain, high_gain):
    """Noise with a gain below 11 kHz and another above, exactly, and of equal energy there."""
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(size=RATE))
    hz = np.fft.rfftfreq(RATE, 1 / RATE)
    low = hz < RATE / 4
    spectrum[low] /= np.linalg.norm(spectrum[low])
    spectrum[~low] /= np.linalg.norm(spectrum[~low])
    x = np.fft.irfft(spectrum * np.where(low, low_gain, high_gain), RATE)
    return (1e4 * x).astype(np.float32)


def reference_levels(waveform):
    spectrum = librosa.stft(waveform.astype(np.float64), n_fft=2048, hop_length=512)
    return np.abs(spectrum) / 512


def test_equal_sounds_have_distance_zero():
    x = noise()
    assert float(lsd_db(x, x)) == pytest.approx(0.0, abs=1e-4)
    assert float(mel_l1_db(x, x, sample_rate=RATE)) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("gain", [0.01, 0.5, 3.0])
def test_a_change_of_gain_is_no_distance(gain):
    x = noise()
    assert float(lsd_db(x, gain * x)) == pytest.approx(0.0, abs=1e-3)
    assert float(mel_l1_db(x, gain * x, sample_rate=RATE)) == pytest.approx(0.0, abs=1e-3)


def test_match_energy_scales_to_the_reference_and_leaves_silence():
    x = noise()
    np.testing.assert_allclose(metrics.match_energy(0.2 * x, x), x, rtol=1e-4)
    np.testing.assert_array_equal(metrics.match_energy(jnp.zeros(100), jnp.ones(100)), 0.0)


def test_lsd_of_two_bands_at_other_levels_is_their_root_mean_square():
    # 1.2 in one half and sqrt(2 - 1.2^2) in the other keep the energy: 1.58 and -2.52 dB.
    low, high = 1.2, np.sqrt(2 - 1.2**2)
    steps = 20 * np.log10([low, high])
    expected = np.sqrt(np.mean(steps**2))
    got = float(lsd_db(two_bands(1, 1), two_bands(low, high)))
    assert got == pytest.approx(expected, rel=0.01)


def test_lsd_matches_its_definition_by_librosa():
    x, y = noise(0), noise(1)
    y *= np.sqrt((x.astype(np.float64) ** 2).sum() / (y.astype(np.float64) ** 2).sum())
    a, b = (20 * np.log10(np.maximum(reference_levels(w), 1e-3)) for w in (x, y))
    expected = np.sqrt(((a - b) ** 2).mean(0)).mean()
    assert float(lsd_db(x, y)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mel_l1_matches_its_definition_by_librosa(rate):
    x, y = noise(0), np.cumsum(noise(1)).astype(np.float32)
    scaled = y * np.sqrt((x.astype(np.float64) ** 2).sum() / (y.astype(np.float64) ** 2).sum())
    bank = librosa.filters.mel(sr=rate, n_fft=2048, n_mels=128, norm=None)
    a, b = (20 * np.log10(np.maximum(bank @ reference_levels(w), 1e-3)) for w in (x, scaled))
    expected = np.abs(a - b).mean()
    assert expected > 5
    assert float(mel_l1_db(x, y, sample_rate=rate)) == pytest.approx(expected, rel=1e-3)


def test_levels_below_the_floor_are_the_floor():
    loud = np.zeros(RATE, np.float32)
    loud[::2048] = 1e-6  # far below -60 dB everywhere
    other = np.zeros(RATE, np.float32)
    other[::1024] = 1e-6
    assert float(lsd_db(loud, other)) == pytest.approx(0.0, abs=1e-5)


def test_silence_against_sound_is_finite():
    silence = np.zeros(RATE, np.float32)
    for pair in ((silence, noise()), (noise(), silence), (silence, silence)):
        assert np.isfinite(lsd_db(*pair))
        assert np.isfinite(mel_l1_db(*pair, sample_rate=RATE))


@pytest.mark.parametrize("num_samples", [300, 1500, 2049])
def test_clips_shorter_than_a_window_can_be_compared(num_samples):
    x, y = noise(0, num_samples), noise(1, num_samples)
    assert float(mel_l1_db(x, x, sample_rate=RATE)) == pytest.approx(0.0, abs=1e-4)
    assert float(mel_l1_db(x, y, sample_rate=RATE)) > 1


# Multi-resolution STFT


def test_stft_distance_is_zero_for_equal_sounds_and_grows_with_distance():
    t = np.arange(8000) / 8000
    sine = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    near = np.sin(2 * np.pi * 442 * t).astype(np.float32)
    far = np.sin(2 * np.pi * 880 * t).astype(np.float32)
    assert float(stft_distance(sine, sine)) < 1e-6
    distances = [float(stft_distance(sine, other)) for other in (near, far)]
    assert 0.01 < distances[0] < distances[1]


def test_stft_distance_matches_numpy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 0.1, (2, 6000)).astype(np.float32)
    expected = 0.0
    for n_fft in (512, 1024, 2048):
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)

        def level(x, n_fft=n_fft, window=window):
            padded = np.pad(x.astype(np.float64), n_fft // 2)
            frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[:: n_fft // 4]
            power = np.abs(np.fft.rfft(frames * window)) ** 2 * (4 / n_fft) ** 2
            return np.sqrt(power + 1e-10)

        x, y = level(a), level(b)
        expected += np.linalg.norm(x - y) / np.linalg.norm(x)
        expected += np.abs(np.log(x) - np.log(y)).mean()
    np.testing.assert_allclose(stft_distance(a, b), expected / 3, rtol=1e-4)


def test_stft_distance_has_finite_gradients_at_silence():
    t = np.arange(4000) / 8000
    sine = np.sin(2 * np.pi * 440 * t).astype(np.float32)
    grad = jax.jit(jax.grad(lambda x: stft_distance(sine, x)))(jnp.zeros(4000))
    assert np.isfinite(grad).all()


# Spectral convergence


def sine(hz, num_samples=16_384, rate=16_384, start=0):
    t = (start + np.arange(num_samples)) / rate
    return np.sin(2 * np.pi * hz * t).astype(np.float32)


def test_spectral_convergence_ignores_a_change_of_gain():
    # What is left of equal sounds is rounding.
    assert float(metrics.spectral_convergence_db(sine(440), 0.1 * sine(440))) < -100


def test_spectral_convergence_of_sounds_with_nothing_in_common():
    # |A - B|^2 = |A|^2 + |B|^2 = 2 |A|^2.
    got = float(metrics.spectral_convergence_db(sine(512), sine(4096)))
    assert got == pytest.approx(10 * np.log10(2), abs=0.05)


def test_spectral_convergence_hears_no_phase_but_at_the_edges():
    shifted = sine(512, start=5)
    assert float(metrics.spectral_convergence_db(sine(512), shifted)) < -25
    assert np.linalg.norm(sine(512) - shifted) > 0.5 * np.linalg.norm(shifted)


# Multi-resolution STFT as auraloss has it


def auraloss_by_numpy(x, y):
    """The defaults of auraloss.freq.MultiResolutionSTFTLoss(x, y), y the target, restated."""
    total = 0.0
    for n_fft, hop, size in ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240)):
        window = np.zeros(n_fft)
        begin = (n_fft - size) // 2
        window[begin : begin + size] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
        levels = []
        for signal in (x, y):
            padded = np.pad(signal.astype(np.float64), n_fft // 2, mode="reflect")
            frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
            power = np.abs(np.fft.rfft(frames * window)) ** 2
            levels.append(np.sqrt(np.maximum(power, 1e-8)))
        a, b = levels
        total += np.linalg.norm(b - a) / np.linalg.norm(b) + np.abs(np.log(a) - np.log(b)).mean()
    return total / 3


def test_auraloss_stft_matches_its_published_formula():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 0.1, (2, 6000)).astype(np.float32)
    y[3000:] = 0
    assert float(metrics.auraloss_stft(y, x)) == pytest.approx(auraloss_by_numpy(x, y), rel=1e-4)
    assert float(metrics.auraloss_stft(x, x)) < 1e-6


# Attack


def test_attack_error_is_the_level_that_the_attack_has_lost():
    x = noise(num_samples=RATE)
    softer = x.copy()
    softer[: round(0.05 * RATE)] *= 0.5
    softer[-1] = x[-1] = np.abs(x).max()  # the peak is elsewhere
    got = float(metrics.attack_error_db(x, softer, sample_rate=RATE))
    assert got == pytest.approx(20 * np.log10(2), abs=0.01)
    late = x.copy()
    late[round(0.05 * RATE) + 2 : -1] *= 0.5  # the attack is as it was, beside a softer rest
    assert float(metrics.attack_error_db(x, late, sample_rate=RATE)) < 0.01


def test_attack_error_hears_a_click_at_the_start():
    x = noise(num_samples=RATE)
    clicks = x.copy()
    clicks[0] = 4 * np.abs(x).max()  # at its peak all else lies 12 dB lower
    got = float(metrics.attack_error_db(x, clicks, sample_rate=RATE))
    assert 10 < got < 12.1


def test_attack_error_is_finite_for_silence_and_short_sounds():
    x = noise(num_samples=100)
    for pair in ((x, 0 * x), (0 * x, x), (0 * x, 0 * x)):
        assert np.isfinite(metrics.attack_error_db(*pair, sample_rate=RATE))
    assert float(metrics.attack_error_db(x, x, sample_rate=RATE)) < 1e-4


@pytest.mark.parametrize("snr_db", [-10.0, 0.0, 25.0])
def test_si_sdr_is_the_ratio_of_what_is_added_at_any_gain(snr_db):
    x, added = noise(0), noise(1)
    added -= np.dot(added, x) / np.dot(x, x) * x  # orthogonal, so that the ratio is exact
    added *= np.linalg.norm(x) / np.linalg.norm(added) * 10 ** (-snr_db / 20)
    assert float(metrics.si_sdr_db(x, 0.3 * (x + added))) == pytest.approx(snr_db, abs=0.01)


def test_si_sdr_hears_phase_and_is_finite_for_silence():
    x = noise()
    assert float(metrics.si_sdr_db(x, -2 * x)) > 90
    assert float(metrics.si_sdr_db(x, np.roll(x, 1))) < 0
    assert float(metrics.si_sdr_db(x, 0 * x)) == float(metrics.si_sdr_db(0 * x, x)) == -100


def test_magnitude_lsd_matches_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.01, 1, (2, 20, 30)).astype(np.float32)
    scaled = b * np.linalg.norm(a) / np.linalg.norm(b)
    expected = np.sqrt(((20 * np.log10(a / scaled)) ** 2).mean(1)).mean()
    assert float(metrics.magnitude_lsd_db(a, 3 * b)) == pytest.approx(expected, rel=1e-4)


# Start and body

onset = jax.jit(metrics.onset)
onset_step = jax.jit(metrics.onset_step)
body_db = jax.jit(metrics.body_db, static_argnames="sample_rate")


def started_by(first, rest):
    """A sound of full scale whose first samples are given."""
    rest = np.asarray(rest, np.float32) / np.abs(rest).max()
    return np.concatenate([np.asarray(first, np.float32), rest])


@pytest.mark.parametrize(
    ("first", "loud"),
    [([0, 0, 0, 0], 0), ([0, 0.4, 0.45, 0.49], 0), ([0, 0, 0, -0.6], 1), ([0.51, 0, 0, 0], 1)],
)
def test_an_onset_is_loud_if_its_first_four_samples_reach_half_of_the_peak(first, loud):
    # The peak lies far behind them; the level is no matter.
    sound = started_by(first, np.cumsum(noise()))
    assert float(onset(sound)) == float(onset(1e-3 * sound)) == loud


def test_a_click_is_a_step_and_loud_noise_and_a_loud_slow_start_are_none():
    decaying = noise() * np.exp(-np.arange(RATE) / 4000)
    assert float(onset_step(started_by([1.0], 0.05 * np.sin(np.arange(RATE) / 20)))) == 1
    # All of a bright noise jumps as far as its first sample.
    assert float(onset(started_by([1.0], decaying[: RATE // 8]))) == 1
    assert float(onset_step(started_by([1.0], decaying[: RATE // 8]))) == 0
    # The first samples are loud together, but the first is not.
    assert float(onset(started_by([0, 0.3, 0.6], sine(100)))) == 1
    assert float(onset_step(started_by([0, 0.3, 0.6], sine(100)))) == 0


def test_silence_has_no_onset_and_the_body_of_a_click():
    silence, click = np.zeros(RATE, np.float32), np.zeros(RATE, np.float32)
    click[0] = 0.5
    assert float(onset(silence)) == float(onset_step(silence)) == 0
    assert float(body_db(silence, click, sample_rate=RATE)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("num_samples", [600, RATE])
def test_body_level_of_a_sine_is_that_of_a_sine_where_it_fills_50_ms(num_samples):
    sound = np.concatenate([np.zeros(777), sine(1000, num_samples, RATE)]).astype(np.float32)
    filled = min(num_samples / (0.05 * RATE), 1)
    level = float(metrics.body_level_db(0.1 * sound, sample_rate=RATE))
    assert level == pytest.approx(10 * np.log10(filled / 2), abs=0.05)


@pytest.mark.parametrize("gain_db", [-12.0, -6.0, 0.0])
def test_body_is_quieter_by_what_a_click_rises_above_it(gain_db):
    sound = sine(440, RATE, RATE)
    clicked = 10 ** (gain_db / 20) * sound
    clicked[0] = 1.0
    assert float(body_db(sound, clicked, sample_rate=RATE)) == pytest.approx(gain_db, abs=0.1)
    assert float(body_db(clicked, sound, sample_rate=RATE)) == pytest.approx(-gain_db, abs=0.1)
