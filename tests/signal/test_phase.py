"""Phase recovery: quality, a heap-ordered reference, edge cases, transforms and gradients."""

import heapq

import jax
import jax.export
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from vaejax.signal import phase, phase_start, spectrum
from vaejax.signal.stft import istft, stft

SIZES = {"n_fft": 512, "hop_length": 128}
RATE = 11025
NUM_SAMPLES = 6000
STARTS = [name for name in phase.METHODS if name != "auto"]
NOISE = np.random.default_rng(0).standard_normal(NUM_SAMPLES).astype(np.float32)


def notes():
    """A plucked chord, a struck bar and a swept tone, `[3, NUM_SAMPLES]`."""
    t = np.arange(NUM_SAMPLES) / RATE
    chord = sum(
        np.exp(-t * (3 + k)) * np.sin(2 * np.pi * f * k * t + k) / k
        for f in (220.0, 277.2, 329.6)
        for k in range(1, 7)
    )
    bar = sum(np.exp(-t * 8) * np.sin(2 * np.pi * f * t) for f in (523.0, 1433.0, 2809.0))
    bar = np.roll(bar, 900) * (np.arange(NUM_SAMPLES) >= 900)
    sweep = librosa.chirp(fmin=200, fmax=3000, sr=RATE, length=NUM_SAMPLES) * np.hanning(
        NUM_SAMPLES
    )
    return np.stack([0.2 * chord, 0.3 * bar, 0.5 * sweep]).astype(np.float32)


@pytest.fixture(scope="module")
def magnitudes():
    return jax.vmap(lambda x: spectrum.magnitude(stft(x, **SIZES)))(jnp.asarray(notes()))


def convergence(method, num_iters, magnitudes, **options):
    def one(magnitude):
        got = phase.invert(
            magnitude, method=method, num_iters=num_iters, length=NUM_SAMPLES, **SIZES, **options
        )
        return phase.spectral_convergence_db(got, magnitude, **SIZES)

    return float(jnp.mean(jax.jit(jax.vmap(one))(magnitudes)))


def heap_integration(magnitude, *, n_fft, hop_length, look_ahead=1):
    """Real-time PGHI as Prusa & Sondergaard 2016 write it, with a heap; float64, one frame a time.

    Returns phase referred to frame centres, and each bin's origin.
    """
    magnitude = np.asarray(magnitude, np.float64)
    frames, bins = magnitude.shape
    gamma = 0.25645 * n_fft**2
    log = np.log(np.maximum(magnitude, max(1e-10 * magnitude.max(), 1e-30)))
    over_bins = np.zeros_like(log)
    over_bins[:, 1:-1] = (log[:, 2:] - log[:, :-2]) / 2
    advance = 2 * np.pi * hop_length * np.arange(bins) / n_fft
    advance = advance + over_bins * hop_length * n_fft / gamma
    over_time = np.zeros_like(log)
    over_time[1:] = log[1:] - log[:-1]
    if look_ahead:
        over_time[1:-1] = (log[2:] - log[:-2]) / 2
        over_time[0] = log[1] - log[0]
    delay = np.clip(-over_time * gamma / (hop_length * n_fft), -np.pi, np.pi)
    phases, origins = np.zeros_like(log), np.zeros(log.shape, int)
    for n in range(frames):
        previous = magnitude[max(n - 1, 0)]
        heap = [(-previous[m], 0, m) for m in range(bins)]
        heapq.heapify(heap)
        done = np.zeros(bins, bool)
        while heap:
            _, is_now, m = heapq.heappop(heap)
            if not is_now:
                if done[m]:
                    continue
                if n > 0:
                    step = (advance[n - 1, m] + advance[n, m]) / 2
                    phases[n, m] = phases[n - 1, m] + step
                origins[n, m] = m
                done[m] = True
                heapq.heappush(heap, (-magnitude[n, m], 1, m))
                continue
            for other in (m - 1, m + 1):
                if 0 <= other < bins and not done[other]:
                    walk = (other - m) * (delay[n, m] + delay[n, other]) / 2
                    phases[n, other] = phases[n, m] + walk
                    origins[n, other] = origins[n, m]
                    done[other] = True
                    heapq.heappush(heap, (-magnitude[n, other], 1, other))
    return phases, origins


@pytest.mark.parametrize("look_ahead", [0, 1])
@pytest.mark.parametrize("clip", [0, 1, 2])
def test_pghi_over_all_bins_equals_the_heap(magnitudes, clip, look_ahead):
    # Noise keeps weakest links distinct; equal ones may be served in either order.
    noisy = magnitudes[clip] + 1e-3 * jnp.abs(stft(NOISE, **SIZES))
    expected, origins = heap_integration(noisy, **SIZES, look_ahead=look_ahead)
    got_origins, _ = phase_start.strongest_path(noisy, jnp.zeros_like(noisy))
    assert np.mean(np.asarray(got_origins) == origins) > 0.999
    got = phase_start.pghi_phase(noisy, **SIZES, look_ahead=look_ahead, reach=None)
    to_start = np.pi * np.arange(257)
    error = np.angle(np.exp(1j * (np.asarray(got, np.float64) - (expected - to_start))))
    energy = np.asarray(noisy, np.float64) ** 2
    assert np.sum(energy * error**2) < 1e-4 * np.sum(energy)


def test_pghi_with_short_walks_is_as_good_as_with_all(magnitudes):
    def one(magnitude, reach):
        start = phase_start.pghi_phase(magnitude, **SIZES, reach=reach)
        got = istft(spectrum.from_polar(magnitude, start), length=NUM_SAMPLES, **SIZES)
        return phase.spectral_convergence_db(got, magnitude, **SIZES)

    short, all_bins = (np.mean([one(m, r) for m in magnitudes]) for r in (7, None))
    assert short < all_bins + 2


def test_strongest_path_finds_the_path_whose_weakest_link_is_strongest():
    strength = jnp.array([[1.0, 0.0, 0.0, 9.0, 0.0], [2.0, 3.0, 4.0, 5.0, 0.5]])
    delay = jnp.full((2, 5), 0.25)
    for reach in (3, None):
        origin, walk = phase_start.strongest_path(strength, delay, reach=reach)
        np.testing.assert_array_equal(origin[1], [3, 3, 3, 3, 3])
        np.testing.assert_allclose(walk[1], [-0.75, -0.5, -0.25, 0.0, 0.25])
    origin, _ = phase_start.strongest_path(strength, delay, reach=1)
    np.testing.assert_array_equal(origin[1], [0, 0, 3, 3, 3])


# Measured, less a margin of about 1 dB. Random phase shows what the starts are worth.
@pytest.mark.parametrize(
    ("method", "num_iters", "at_most_db"),
    [
        ("pghi", 0, -22.0),
        ("pghi", 4, -28.0),
        ("spsi", 0, -12.0),
        ("peaks", 1, -14.0),
        ("derivative", 4, -18.0),
        ("griffin_lim", 32, -17.0),
    ],
)
def test_method_converges_on_true_magnitudes(magnitudes, method, num_iters, at_most_db):
    assert convergence(method, num_iters, magnitudes) < at_most_db


def test_iterations_and_momentum_improve_convergence(magnitudes):
    none, few = (convergence("griffin_lim", n, magnitudes) for n in (0, 16))
    plain = convergence("griffin_lim", 16, magnitudes, momentum=0.0)
    assert few < plain - 1 < none - 4


def test_griffin_lim_reaches_what_librosa_reaches(magnitudes):
    ours, theirs = [], []
    for seed, magnitude in [(s, m) for s in range(3) for m in magnitudes]:
        reference = librosa.griffinlim(
            np.asarray(magnitude).T, n_iter=16, hop_length=128, length=NUM_SAMPLES,
            random_state=seed, pad_mode="constant",
        )  # fmt: skip
        key = jax.random.key(seed)
        got = phase.griffin_lim(key, magnitude, num_iters=16, length=NUM_SAMPLES, **SIZES)
        for found, waveform in ((ours, got), (theirs, reference)):
            found.append(float(phase.spectral_convergence_db(waveform, magnitude, **SIZES)))
    assert np.mean(ours) < np.mean(theirs) + 1.0


def test_one_plain_iteration_equals_its_equations():
    rng = np.random.default_rng(1)
    start = rng.uniform(-3, 3, (21, 257)).astype(np.float32)
    magnitude = rng.random((21, 257)).astype(np.float32)
    got = phase.griffin_lim(
        None, magnitude, num_iters=1, momentum=0.0, init=start, length=2560, **SIZES
    )
    waveform = librosa.istft((magnitude * np.exp(1j * start)).T, hop_length=128, length=2560)
    again = librosa.stft(waveform, n_fft=512, hop_length=128, pad_mode="constant").T
    projected = magnitude * np.exp(1j * np.angle(again))
    np.testing.assert_allclose(got, istft(projected, length=2560, **SIZES), atol=1e-4)


@pytest.mark.parametrize("hz", [301.0, 1000.0, 2123.4])
@pytest.mark.parametrize("method", ["pghi", "spsi", "derivative", "peaks"])
def test_start_finds_the_frequency_of_a_steady_sine(method, hz):
    t = np.arange(NUM_SAMPLES) / RATE
    magnitude = spectrum.magnitude(stft(np.sin(2 * np.pi * hz * t).astype(np.float32), **SIZES))
    start = phase.METHODS[method](magnitude, **SIZES)
    peak = round(hz * 512 / RATE)
    advance = np.diff(np.asarray(start, np.float64)[10:30, peak])
    error = np.angle(np.exp(1j * (advance - 2 * np.pi * hz * 128 / RATE)))
    # 0.12 radians per hop is 1.6 Hz here.
    assert np.abs(error).max() < 0.12


def test_true_phase_is_a_fixed_point(magnitudes):
    clip = jnp.asarray(notes()[0])
    full = stft(clip, **SIZES)
    got = phase.griffin_lim(
        None, magnitudes[0], num_iters=4, init=full, length=NUM_SAMPLES, **SIZES
    )
    np.testing.assert_allclose(got, clip, atol=1e-5)


def test_click_at_the_first_sample_survives_with_its_own_phase():
    click = jnp.zeros(2000).at[0].set(1.0)
    full = stft(click, **SIZES)
    got = phase.griffin_lim(
        None, spectrum.magnitude(full), num_iters=2, init=full, length=2000, **SIZES
    )
    assert abs(float(got[0]) - 1) < 1e-3


@pytest.mark.parametrize("method", phase.METHODS)
def test_silence_is_exactly_silent_with_finite_gradients(method):
    def energy(magnitude):
        return jnp.sum(phase.invert(magnitude, method=method, num_iters=2, **SIZES) ** 2)

    silence = jnp.zeros((12, 257))
    got = phase.invert(silence, method=method, num_iters=2, **SIZES)
    np.testing.assert_array_equal(got, np.zeros(11 * 128, np.float32))
    assert np.isfinite(jax.jit(jax.grad(energy))(silence)).all()


@pytest.mark.parametrize("method", phase.METHODS)
def test_click_dc_and_square_are_finite_and_not_silent(method):
    click = np.eye(1, 1000, dtype=np.float32)[0]
    square = np.sign(np.sin(0.05 * np.arange(1000) + 0.01)).astype(np.float32)
    clips = jnp.stack([click, jnp.ones(1000), square])

    def one(clip):
        magnitude = spectrum.magnitude(stft(clip, **SIZES))
        return phase.invert(magnitude, method=method, num_iters=1, length=1000, **SIZES)

    got = jax.jit(jax.vmap(one))(clips)
    assert got.shape == clips.shape
    assert np.isfinite(got).all()
    if method != "zero":  # Its pulses lie half a frame early: the click's is before the clip.
        assert np.any(got, axis=1).all()


@pytest.mark.parametrize("method", ["pghi", "spsi", "peaks", "derivative"])
@pytest.mark.parametrize("num_samples", [1, 130])
def test_clip_of_one_or_two_frames_is_finite_and_of_the_right_length(method, num_samples):
    @jax.jit
    def one(clip):
        magnitude = spectrum.magnitude(stft(clip, **SIZES))
        return phase.invert(magnitude, method=method, num_iters=1, length=num_samples, **SIZES)

    got = one(NOISE[:num_samples])
    assert got.shape == (num_samples,)
    assert np.isfinite(got).all()
    assert np.any(got)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(500, 120), (501, 100), (512, 256), (512, 64)])
@pytest.mark.parametrize("method", ["pghi", "peaks"])
def test_any_sizes_work_hop_dividing_n_fft_or_not(method, n_fft, hop_length):
    clip = jnp.asarray(notes()[0])
    sizes = {"n_fft": n_fft, "hop_length": hop_length}
    magnitude = spectrum.magnitude(stft(clip, **sizes))
    got = phase.invert(magnitude, method=method, num_iters=4, length=NUM_SAMPLES, **sizes)
    assert float(phase.spectral_convergence_db(got, magnitude, **sizes)) < -14


@pytest.mark.parametrize("method", ["pghi", "spsi", "derivative", "peaks"])
def test_jit_and_vmap_equal_eager_one_by_one(magnitudes, method):
    def one(magnitude):
        return phase.invert(magnitude, method=method, num_iters=2, length=NUM_SAMPLES, **SIZES)

    fast = jax.jit(jax.vmap(one))(magnitudes)
    for got, magnitude in zip(fast, magnitudes, strict=True):
        error = phase.spectral_convergence_db(got, spectrum.magnitude(stft(one(magnitude), **SIZES)), **SIZES)  # noqa: E501  # fmt: skip
        assert float(error) < -40


def test_gradient_through_iterations_matches_a_finite_difference(magnitudes):
    magnitude = magnitudes[0][:12]
    target = jnp.asarray(NOISE[: 11 * 128])
    start = phase_start.pghi_phase(magnitude, **SIZES)

    def loss(magnitude):
        got = phase.griffin_lim(None, magnitude, num_iters=3, init=start, **SIZES)
        return jnp.sum(got * target)

    direction = magnitude / jnp.linalg.norm(magnitude)
    slope = jnp.vdot(jax.grad(loss)(magnitude), direction)
    numeric = (loss(magnitude + 0.05 * direction) - loss(magnitude - 0.05 * direction)) / 0.1
    np.testing.assert_allclose(slope, numeric, rtol=2e-2)


@pytest.mark.parametrize("method", ["pghi", "spsi", "derivative", "peaks"])
def test_gradient_through_the_start_is_finite(magnitudes, method):
    def loss(magnitude):
        return jnp.sum(phase.invert(magnitude, method=method, num_iters=1, **SIZES) ** 2)

    gradient = jax.jit(jax.grad(loss))(magnitudes[1])
    assert np.isfinite(gradient).all()
    assert np.any(gradient)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_magnitude_is_computed_in_float32(magnitudes, dtype):
    magnitude = magnitudes[0].astype(dtype)
    got = phase.recover(magnitude, length=NUM_SAMPLES, **SIZES)
    assert got.dtype == jnp.float32
    expected = phase.recover(magnitude.astype(jnp.float32), length=NUM_SAMPLES, **SIZES)
    np.testing.assert_array_equal(got, expected)


def test_float64_magnitude_is_taken(magnitudes):
    magnitude = np.asarray(magnitudes[0], np.float64)
    got = phase.recover(magnitude, length=NUM_SAMPLES, **SIZES)
    assert got.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = phase.recover(magnitude, length=NUM_SAMPLES, **SIZES)
        assert wide.dtype == jnp.float64
        assert np.isfinite(wide).all()


def test_loudness_scales_through(magnitudes):
    quiet = phase.recover(magnitudes[0] * 1e-3, length=NUM_SAMPLES, **SIZES)
    loud = phase.recover(magnitudes[0], length=NUM_SAMPLES, **SIZES)
    np.testing.assert_allclose(quiet * 1e3, loud, atol=2e-3)


def test_recover_reaches_its_target_and_repeats_itself(magnitudes):
    for target_db in (-20.0, -25.0):

        def one(magnitude, target_db=target_db):
            return phase.recover(magnitude, target_db=target_db, length=NUM_SAMPLES, **SIZES)

        got = jax.vmap(one)(magnitudes)
        np.testing.assert_array_equal(got, jax.vmap(one)(magnitudes))
        reached = jax.vmap(lambda x, m: phase.spectral_convergence_db(x, m, **SIZES))
        assert float(jnp.mean(reached(got, magnitudes))) < target_db


def test_choice_asks_for_more_iterations_the_finer_the_target():
    counts = [phase.choose(2048, 512, target)[1] for target in (-20, -25, -30, -33, -80)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == phase.DEFAULT_ITERS
    assert phase.choose(2048, 512, method="griffin_lim") == ("griffin_lim", phase.DEFAULT_ITERS)


def test_other_windows_have_a_start_that_works():
    clip = jnp.asarray(notes()[0])
    for window, method in [("hamming", "pghi"), ("gaussian", "pghi"), ("kbd", "peaks")]:
        magnitude = spectrum.magnitude(stft(clip, window=window, **SIZES))
        got = phase.invert(
            magnitude, method=method, num_iters=4, length=NUM_SAMPLES, window=window, **SIZES
        )
        reached = phase.spectral_convergence_db(got, magnitude, window=window, **SIZES)
        assert float(reached) < -18


def test_random_start_depends_on_the_key_only():
    magnitude = jnp.abs(stft(NOISE[:1280], **SIZES))
    one, again, other = (
        phase.griffin_lim(jax.random.key(k), magnitude, num_iters=1, **SIZES) for k in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)


def test_spectral_convergence_is_the_relative_error_in_db():
    magnitude = jnp.abs(stft(NOISE, **SIZES))
    np.testing.assert_allclose(
        phase.spectral_convergence_db(0.9 * NOISE, magnitude, **SIZES), -20.0, atol=1e-3
    )
    silence = jnp.zeros(NUM_SAMPLES)
    assert float(phase.spectral_convergence_db(silence, jnp.zeros_like(magnitude), **SIZES)) == -200
    assert float(phase.spectral_convergence_db(NOISE, jnp.zeros_like(magnitude), **SIZES)) == 200


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_recovery_lowers_for_every_platform(platform):
    def one(magnitude):
        return phase.invert(magnitude, method="pghi", num_iters=2, **SIZES)

    shape = jax.ShapeDtypeStruct((2, 20, 257), jnp.float32)
    assert jax.export.export(jax.jit(jax.vmap(one)), platforms=[platform])(shape)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_iters": -1}, "num_iters=-1 must be 0 or more"),
        ({"momentum": -0.5}, "momentum=-0.5 must be 0 or more"),
        ({"length": 5000}, r"length=5000 samples have 40 frames.*has 5; lengths from 512 to 639"),
        ({"init": jnp.zeros((4, 257))}, r"init has shape \(4, 257\)"),
        ({"key": None}, "needs a key"),
    ],
)
def test_griffin_lim_refuses_what_cannot_work(arguments, match):
    key = arguments.pop("key", jax.random.key(0))
    with pytest.raises(ValueError, match=match):
        phase.griffin_lim(key, jnp.ones((5, 257)), **SIZES, **arguments)


@pytest.mark.parametrize(
    ("magnitude", "arguments", "match"),
    [
        (jnp.ones((257, 5)), {}, r"expected \[num_frames, 257\] for n_fft=512: time first"),
        (jnp.ones((5, 257), jnp.complex64), {}, "expected real floating point"),
        (jnp.ones((5, 257)), {"method": "magic"}, "unknown method 'magic'; known: auto, pghi"),
        (jnp.ones((5, 257)), {"target_db": 3.0}, "target_db=3.0 must be below 0"),
        (jnp.ones((5, 257)), {"hop_length": 400}, "hop_length=400 must be from 1 to half"),
        (jnp.ones((5, 257)), {"window": "kbd"}, "no Gaussian equivalent.*'kbd'"),
    ],
)
def test_invert_refuses_what_cannot_work(magnitude, arguments, match):
    with pytest.raises(ValueError, match=match):
        phase.invert(magnitude, **{**SIZES, **arguments})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"look_ahead": 2}, "look_ahead=2 must be 0 or 1"),
        ({"tolerance": 1.0}, "tolerance=1.0 must be at least 0"),
        ({"reach": -1}, "reach=-1 must be 0 or more"),
        ({"hop_length": 0}, "hop_length=0 must be at least 1"),
    ],
)
def test_pghi_refuses_what_cannot_work(arguments, match):
    with pytest.raises(ValueError, match=match):
        phase_start.pghi_phase(jnp.ones((5, 257)), **{**SIZES, **arguments})


def test_convergence_of_clips_of_different_length_is_refused():
    with pytest.raises(ValueError, match="has 8 frames and the magnitude 5"):
        phase.spectral_convergence_db(jnp.zeros(1000), jnp.ones((5, 257)), **SIZES)
