"""STFT and inverse against librosa and SciPy, exact at the first and last sample."""

import jax
import jax.export
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.signal

from vaejax.signal.stft import istft, num_frames, perfect_padding, stft

RNG = np.random.default_rng(0)
NOISE = (0.2 * RNG.standard_normal(8000)).astype(np.float32)
SIZES = [
    (1000, 250, None),
    (1000, 256, None),
    (1000, 250, 512),
    (512, 128, 511),
    (1001, 300, None),
    (1024, 256, None),
    (2048, 700, 1200),
    (64, 1, None),
]


def round_trip(clip, **sizes):
    """There and back as one compiled program: compiled op by op it takes several times longer."""

    def pair(x):
        return istft(stft(x, **sizes), length=x.shape[0], **sizes)

    return jax.jit(pair)(clip)


@pytest.mark.parametrize(("n_fft", "hop_length", "win_length"), SIZES)
@pytest.mark.parametrize("center", [True, False])
def test_stft_matches_librosa(n_fft, hop_length, win_length, center):
    sizes = {"n_fft": n_fft, "hop_length": hop_length, "win_length": win_length, "center": center}
    got = stft(NOISE, **sizes)
    expected = librosa.stft(NOISE, **sizes, pad_mode="constant").T
    assert got.shape == expected.shape
    assert got.dtype == jnp.complex64
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    assert got.shape[0] == num_frames(8000, n_fft=n_fft, hop_length=hop_length, center=center)


@pytest.mark.parametrize("window", ["hann", "hamming", ("kaiser", 8.0), ("gaussian", 90.0)])
def test_stft_matches_librosa_for_every_window_scipy_knows(window):
    got = stft(NOISE, n_fft=512, hop_length=256, window=window)
    expected = librosa.stft(NOISE, n_fft=512, hop_length=256, window=window, pad_mode="constant").T
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


def test_stft_matches_scipy():
    transform = scipy.signal.ShortTimeFFT(
        scipy.signal.get_window("hann", 512), hop=128, fs=1, phase_shift=None
    )
    expected = transform.stft(NOISE, p0=0, p1=63).T
    got = stft(NOISE, n_fft=512, hop_length=128)
    assert got.shape == (63, 257)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop_length", "win_length"), SIZES)
def test_round_trip_is_exact_from_first_to_last_sample(n_fft, hop_length, win_length):
    sizes = {"n_fft": n_fft, "hop_length": hop_length, "win_length": win_length}
    got = round_trip(NOISE, **sizes)
    assert got.shape == (8000,)
    np.testing.assert_allclose(got, NOISE, atol=2e-6)


@pytest.mark.parametrize("window", ["hamming", "kaiser", "vorbis", "kbd", "gaussian"])
def test_round_trip_holds_for_every_window(window):
    sizes = {"n_fft": 512, "hop_length": 128, "window": window}
    np.testing.assert_allclose(round_trip(NOISE, **sizes), NOISE, atol=2e-6)


@pytest.mark.parametrize("hop_length", [1024, 512, 256, 300])
def test_padding_for_perfect_reconstruction_round_trips_without_centring(hop_length):
    padding = perfect_padding(8000, n_fft=2048, hop_length=hop_length)
    sizes = {"n_fft": 2048, "hop_length": hop_length, "center": False, "padding": padding}
    np.testing.assert_allclose(round_trip(NOISE, **sizes), NOISE, atol=1e-5)


def test_begin_and_end_padding_are_zeros_around_the_clip():
    got = stft(NOISE, n_fft=512, hop_length=128, center=False, padding=(100, 60))
    expected = stft(np.pad(NOISE, (100, 60)), n_fft=512, hop_length=128, center=False)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("hop_length", [1024, 512, 256])
def test_spectrum_survives_inverse_and_forward(hop_length):
    sizes = {"n_fft": 2048, "hop_length": hop_length}
    spectrum = librosa.stft(NOISE[:7168], n_fft=2048, hop_length=hop_length, pad_mode="constant").T
    again = stft(istft(spectrum, **sizes), **sizes)
    assert again.shape == spectrum.shape
    np.testing.assert_allclose(again, spectrum, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("position", [0, 1, 511, 7999])
def test_click_survives_with_gain_one_and_nothing_around_it(position):
    click = np.zeros(8000, np.float32)
    click[position] = 1.0
    got = np.asarray(
        istft(stft(click, n_fft=2048, hop_length=512), n_fft=2048, hop_length=512, length=8000)
    )
    assert abs(got[position] - 1) < 1e-4
    assert np.abs(np.delete(got, position)).max() < 1e-4


@pytest.mark.parametrize("num_samples", [1, 2, 100, 511, 512, 513])
def test_clip_shorter_than_a_frame_round_trips(num_samples):
    clip = NOISE[:num_samples]
    spectrum = stft(clip, n_fft=512, hop_length=128)
    assert spectrum.shape == (1 + num_samples // 128, 257)
    got = istft(spectrum, n_fft=512, hop_length=128, length=num_samples)
    np.testing.assert_allclose(got, clip, atol=2e-6)


@pytest.mark.parametrize("clip", [np.ones(4000), np.sign(np.sin(np.arange(4000) * 0.05) + 1e-9)])
def test_dc_and_full_scale_square_round_trip(clip):
    clip = clip.astype(np.float32)
    got = round_trip(clip, n_fft=512, hop_length=128)
    np.testing.assert_allclose(got, clip, atol=1e-5)


def test_silence_gives_exact_silence_and_zero_gradient():
    def loss(waveform):
        spectrum = stft(waveform, n_fft=256, hop_length=64)
        return jnp.sum(istft(spectrum, n_fft=256, hop_length=64, length=1000) ** 2)

    silence = jnp.zeros(1000)
    assert not np.any(stft(silence, n_fft=256, hop_length=64))
    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(silence), 0.0)


@pytest.mark.parametrize(("n_fft", "hop_length", "win_length"), SIZES)
def test_inverse_of_any_spectrum_matches_librosa(n_fft, hop_length, win_length):
    # Consistent with no waveform: the inverse alone is judged, not the pair.
    shape = (1 + 8000 // hop_length, n_fft // 2 + 1)
    full = RNG.standard_normal(shape) + 1j * RNG.standard_normal(shape)
    full = full.astype(np.complex64)
    options = {"n_fft": n_fft, "hop_length": hop_length, "win_length": win_length, "length": 8000}
    expected = librosa.istft(full.T, **options)
    # Where windows hardly reach, at the very ends, both amplify what rounding leaves.
    np.testing.assert_allclose(istft(full, **options), expected, rtol=1e-4, atol=1e-5)


def test_frames_of_one_second_are_those_that_kapre_counts():
    assert num_frames(44100, n_fft=2048, hop_length=512, center=False) == 83
    assert num_frames(44100, n_fft=2048, hop_length=512) == 87


def test_default_length_is_what_the_frames_span():
    spectrum = stft(NOISE[:1280], n_fft=512, hop_length=128)
    got = istft(spectrum, n_fft=512, hop_length=128)
    np.testing.assert_allclose(got, NOISE[:1280], atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_input_is_computed_in_float32(dtype):
    clip = jnp.asarray(NOISE).astype(dtype)
    got = stft(clip, n_fft=512, hop_length=128)
    assert got.dtype == jnp.complex64
    np.testing.assert_array_equal(got, stft(clip.astype(jnp.float32), n_fft=512, hop_length=128))


def test_float64_input_is_taken_and_kept_where_x64_is_on():
    clip = NOISE.astype(np.float64)
    np.testing.assert_array_equal(
        stft(clip, n_fft=512, hop_length=128), stft(NOISE, n_fft=512, hop_length=128)
    )
    with jax.enable_x64(True):
        spectrum = stft(clip, n_fft=512, hop_length=128)
        assert spectrum.dtype == jnp.complex128
        got = istft(spectrum, n_fft=512, hop_length=128, length=8000)
        np.testing.assert_allclose(got, clip, atol=1e-14)


def test_learned_window_gets_gradients_through_the_pair():
    def loss(window):
        spectrum = stft(NOISE[:1000], n_fft=256, hop_length=64, window=window)
        quiet = spectrum * 0.5
        got = istft(quiet, n_fft=256, hop_length=64, length=1000, window=window)
        return jnp.sum(jnp.abs(spectrum) ** 2) * 1e-3 + jnp.sum(got**2)

    window = jnp.asarray(scipy.signal.get_window("hann", 256), jnp.float32)
    gradient = jax.jit(jax.grad(loss))(window)
    assert np.isfinite(gradient).all()
    step = 1e-2
    bumped = window.at[100].add(step), window.at[100].add(-step)
    evaluate = jax.jit(loss)
    numeric = (evaluate(bumped[0]) - evaluate(bumped[1])) / (2 * step)
    np.testing.assert_allclose(gradient[100], numeric, rtol=1e-2)


def test_window_under_jit_equals_the_named_window():
    window = jnp.asarray(scipy.signal.get_window("hann", 512), jnp.float32)

    @jax.jit
    def round_trip(waveform, window):
        spectrum = stft(waveform, n_fft=512, hop_length=128, window=window)
        return istft(spectrum, n_fft=512, hop_length=128, length=8000, window=window)

    np.testing.assert_allclose(round_trip(NOISE, window), NOISE, atol=2e-6)


def test_pair_lowers_for_every_platform():
    def round_trip(waveform):
        spectrum = stft(waveform, n_fft=512, hop_length=100)
        return istft(spectrum, n_fft=512, hop_length=100, length=1000)

    shape = jax.ShapeDtypeStruct((2, 1000), jnp.float32)
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(jax.vmap(round_trip)), platforms=platforms)(shape)
    assert exported.platforms == platforms
    text = exported.mlir_module()
    assert "scatter" not in text
    assert "convolution" not in text


def test_uncovered_samples_are_refused_with_numbers():
    spectrum = np.zeros((9, 257), np.complex64)
    with pytest.raises(
        ValueError, match=r"do not cover .* n_fft=512, hop_length=512.*hop_length=1"
    ):
        istft(spectrum, n_fft=512, hop_length=512, length=4096)


def test_hop_longer_than_the_frame_is_refused():
    with pytest.raises(ValueError, match="do not cover"):
        istft(np.zeros((4, 33), np.complex64), n_fft=64, hop_length=100, length=300)


def test_uncentred_pair_without_padding_says_that_its_edge_is_lost():
    spectrum = stft(NOISE, n_fft=512, hop_length=128, center=False)
    with pytest.raises(ValueError, match=r"samples 0 to .*center=True"):
        istft(spectrum, n_fft=512, hop_length=128, center=False)


def test_length_past_the_last_frame_is_refused_with_the_longest_possible():
    with pytest.raises(ValueError, match=r"length=5000 reaches past.*at most 768"):
        istft(np.zeros((5, 257), np.complex64), n_fft=512, hop_length=128, length=5000)


def test_single_frame_needs_an_explicit_length():
    with pytest.raises(ValueError, match=r"length=0 must be at least 1.*pass length"):
        istft(np.zeros((1, 257), np.complex64), n_fft=512, hop_length=128)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"n_fft": 1}, "n_fft=1 must be at least 2"),
        ({"hop_length": 0}, "hop_length=0 must be at least 1"),
        ({"win_length": 600}, "win_length=600 is longer than n_fft=512"),
        ({"window": "triangle"}, "unknown window 'triangle'"),
        ({"padding": (4, 4)}, "no effect with center=True"),
        ({"padding": (-1, 0), "center": False}, "must not be negative"),
        ({"n_fft": 9000, "center": False}, "shorter than one frame of 9000"),
    ],
)
def test_sizes_that_cannot_work_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        stft(NOISE, **{"n_fft": 512, "hop_length": 128, **arguments})


def test_transposed_spectrum_is_refused():
    with pytest.raises(ValueError, match=r"shape \(257, 9\), expected \[num_frames, 257\].*transp"):
        istft(np.zeros((257, 9), np.complex64), n_fft=512, hop_length=128)


def test_batch_is_refused_with_vmap_as_the_way():
    with pytest.raises(ValueError, match=r"jax\.vmap over clips"):
        stft(np.zeros((2, 8000), np.float32), n_fft=512, hop_length=128)
