"""Phase recovery: quality on recorded notes, oracles, edge cases, transforms and gradients."""

import functools
import heapq
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile

from vaejax import metrics
from vaejax.signal import phase, phase_start, spectrum
from vaejax.signal.stft import stft

NOTES = Path(__file__).resolve().parents[1] / "notes"
REAL = {"n_fft": 2048, "hop_length": 512}

SIZES = {"n_fft": 512, "hop_length": 128}
RATE = 11025
NUM_SAMPLES = 6000
STARTS = ("pghi", "spsi", "derivative", "peaks")
NOISE = np.random.default_rng(0).standard_normal(NUM_SAMPLES).astype(np.float32)


def tones():
    """A plucked chord, a bar struck out of silence and a swept tone, `[3, NUM_SAMPLES]`."""
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
    return jax.vmap(lambda x: spectrum.magnitude(stft(x, **SIZES)))(jnp.asarray(tones()))


@pytest.fixture(scope="module")
def notes():
    """Twelve recorded notes of one second at 44.1 kHz, `[12, 44100]`."""
    files = sorted(NOTES.rglob("*.flac"))[::2]
    return jnp.asarray(np.stack([soundfile.read(f, dtype="float32")[0] for f in files]))


def convergence(notes, start, iterations, *, window="hann", n_fft=2048, hop_length=512, **options):
    """Mean spectral convergence in dB after each number of iterations, of recorded notes."""
    sizes = {"n_fft": n_fft, "hop_length": hop_length, "window": window}

    def one(clip):
        magnitude = spectrum.magnitude(stft(clip, **sizes))
        init = start(magnitude, **sizes)
        sizes_and_length = {**sizes, "length": clip.shape[0], **options}
        recovered = [
            phase.griffin_lim(None, magnitude, init=init, num_iters=n, **sizes_and_length)
            for n in iterations
        ]
        return jnp.stack([phase.spectral_convergence_db(x, magnitude, **sizes) for x in recovered])

    return np.asarray(jax.jit(lambda clips: jax.lax.map(one, clips))(notes)).mean(axis=0)


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


def test_pghi_over_all_bins_equals_the_heap(magnitudes):
    noisy = magnitudes + 1e-3 * jnp.abs(stft(NOISE, **SIZES))
    # Noise keeps weakest links distinct; equal ones may be served in either order.
    paths = jax.jit(jax.vmap(lambda m: phase_start.strongest_path(m, jnp.zeros_like(m))[0]))(noisy)
    for look_ahead in (0, 1):

        def one(magnitude, look_ahead=look_ahead):
            return phase_start.pghi_phase(magnitude, **SIZES, look_ahead=look_ahead, reach=None)

        for got, origin, magnitude in zip(jax.jit(jax.vmap(one))(noisy), paths, noisy, strict=True):
            expected, origins = heap_integration(magnitude, **SIZES, look_ahead=look_ahead)
            assert np.mean(np.asarray(origin) == origins) > 0.999
            to_start = np.pi * np.arange(257)
            error = np.angle(np.exp(1j * (np.asarray(got, np.float64) - (expected - to_start))))
            energy = np.asarray(magnitude, np.float64) ** 2
            assert np.sum(energy * error**2) < 1e-4 * np.sum(energy)


def test_walks_of_the_default_reach_are_as_good_as_all_on_notes(notes):
    every = functools.partial(phase_start.pghi_phase, reach=None)
    short, all_bins = (
        convergence(notes, start, [0])[0] for start in (phase_start.pghi_phase, every)
    )
    assert short < all_bins + 0.1


def test_strongest_path_finds_the_path_whose_weakest_link_is_strongest():
    strength = jnp.array([[1.0, 0.0, 0.0, 9.0, 0.0], [2.0, 3.0, 4.0, 5.0, 0.5]])
    delay = jnp.full((2, 5), 0.25)
    for reach in (3, None):
        origin, walk = phase_start.strongest_path(strength, delay, reach=reach)
        np.testing.assert_array_equal(origin[1], [3, 3, 3, 3, 3])
        np.testing.assert_allclose(walk[1], [-0.75, -0.5, -0.25, 0.0, 0.25])
    origin, _ = phase_start.strongest_path(strength, delay, reach=1)
    np.testing.assert_array_equal(origin[1], [0, 0, 3, 3, 3])


# Measured on these notes, less half a dB.
@pytest.mark.parametrize(
    ("method", "iterations", "at_most_db"),
    [
        ("pghi", [0, 4], [-23.9, -30.7]),
        ("spsi", [0], [-21.2]),
        ("peaks", [0, 1], [-17.1, -22.7]),
        ("derivative", [0, 4], [-8.4, -23.7]),
        ("griffin_lim", [32], [-22.0]),
    ],
)
def test_method_converges_on_true_magnitudes_of_notes(notes, method, iterations, at_most_db):
    got = convergence(notes, phase.METHODS[method], iterations)
    assert (got < at_most_db).all(), got


@pytest.mark.parametrize("overlap", [2, 4])
def test_expected_convergence_is_what_notes_reach(notes, overlap):
    # These notes are the worse of the two sets behind the table at this n_fft.
    got = convergence(notes, out_of_silence, (0, 1, 2, 4), hop_length=2048 // overlap)
    expected = np.array(phase.EXPECTED_DB[2048, overlap][:4])
    assert (got < expected + 0.1).all(), got
    assert (got > expected - 0.7).all(), got


# The start of a sound: silence before it.


def out_of_silence(magnitude, **sizes):
    """The start of `phase.recover`."""
    first = phase_start.onset_phase(magnitude, **sizes)
    return phase_start.pghi_phase(magnitude, first=first, **sizes)


METHODS = [method for method in phase.METHODS if method != "auto"]


def struck(num_samples=22_050):
    """Sixteen drums from sample 0 on, `[16, num_samples]`: noise bursts, and falling tones with
    some noise, of several lengths."""
    t = np.arange(num_samples) / 44_100
    rng = np.random.default_rng(1)
    sounds = []
    for number in range(8):
        noise = rng.standard_normal(num_samples)
        sounds.append(noise * np.exp(-t / (0.01 * 1.5**number)))
        turns = 50 * t + (4 + number) * (1 - np.exp(-t * 40))
        tone = np.sin(2 * np.pi * turns) * np.exp(-t / 0.15)
        sounds.append(tone + 0.3 * noise * np.exp(-t / 0.02))
    sounds = np.stack(sounds) * np.minimum(1, np.arange(num_samples) / 20)
    return (sounds / np.abs(sounds).max(axis=1, keepdims=True)).astype(np.float32)


def steps_at_start(clips, invert):
    """Share of clips that begin with a step (`metrics.onset_step`) after `invert`."""
    rebuilt = jax.jit(lambda clips: jax.lax.map(invert, clips))(jnp.asarray(clips))
    return float(jnp.mean(jax.vmap(metrics.onset_step)(rebuilt)))


@pytest.mark.parametrize("method", METHODS)
def test_no_sound_that_rises_begins_with_a_step(method):
    clips = struck()
    iterations = 2 if method in STARTS else 32

    def recovered(clip):
        magnitude = spectrum.magnitude(stft(clip, **REAL))
        return phase.invert(
            magnitude, method=method, num_iters=iterations, length=len(clip), **REAL
        )

    def without_onset(clip):
        magnitude = spectrum.magnitude(stft(clip, **REAL))
        start = phase_start.peak_phase(magnitude, **REAL)
        return phase.griffin_lim(None, magnitude, num_iters=2, length=len(clip), init=start, **REAL)

    assert steps_at_start(clips, jnp.asarray) == 0
    assert steps_at_start(clips, without_onset) > 0.5
    # `zero`, a baseline, puts frame 2 on sample 0 with the weight that its window has there.
    assert steps_at_start(clips, recovered) <= (1 / len(clips) if method == "zero" else 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [(2048, 512), (2048, 256), (512, 256), (500, 120)])
def test_click_at_sample_0_stays_a_click(method, sizes):
    n_fft, hop_length = sizes
    click = jnp.zeros(3 * n_fft).at[0].set(1.0)
    sizes = {"n_fft": n_fft, "hop_length": hop_length}
    magnitude = spectrum.magnitude(stft(click, **sizes))
    iterations = 32 if method in ("griffin_lim", "zero") else 2
    got = phase.invert(magnitude, method=method, num_iters=iterations, length=len(click), **sizes)
    # Those that follow peaks find some in a flat spectrum; random phases leave some of them behind.
    leaves = {"spsi": 0.1, "griffin_lim": 0.1, "peaks": 0.01}
    at_most = leaves.get(method, 1e-3)
    assert abs(float(got[0]) - 1) < at_most
    assert float(jnp.max(jnp.abs(got[1:]))) < at_most


@pytest.mark.parametrize("decay", [0.0, 2.0, 20.0])
def test_delay_at_an_onset_is_that_of_a_noise_of_the_same_decay(decay):
    # Group delay of a bin: the energy-weighted mean time, by Monte Carlo over 4,000 noises.
    n_fft, hop_length = 512, 128
    t = np.arange(n_fft)
    noise = np.random.default_rng(2).standard_normal((4000, n_fft)) * np.exp(-decay * t / n_fft)
    window = np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2
    frames = [
        noise[:, : n_fft // 2 + hop * hop_length]
        * window[n_fft // 2 - hop * hop_length :][: n_fft // 2 + hop * hop_length]
        for hop in (0, 1)
    ]
    energies = [np.mean(np.sum(frame**2, axis=1)) for frame in frames]
    times = np.sum(frames[0] ** 2 * t[: n_fft // 2], axis=1)
    mean = np.mean(times) / energies[0] / n_fft
    ratio, delays, _ = phase_start._onset_table(n_fft, hop_length, "hann")
    got = np.interp(np.sqrt(energies[1] / energies[0]), ratio, delays)
    assert got == pytest.approx(mean, rel=0.03)


@pytest.mark.parametrize("start", [phase_start.pghi_phase, phase_start.peak_phase])
def test_sizes_that_do_not_divide_converge_as_well_as_those_that_do(notes, start):
    dividing = convergence(notes, start, [4])[0]
    odd = convergence(notes, start, [4], n_fft=2001, hop_length=500)[0]
    assert odd < dividing + 1, (odd, dividing)


def test_an_overlap_between_those_measured_converges_as_the_next_smaller_one(notes):
    got = convergence(notes, out_of_silence, [4], hop_length=600)[0]
    assert phase.choose(2048, 600, phase.EXPECTED_DB[2048, 2][3]) == ("pghi", 4)
    assert got < phase.EXPECTED_DB[2048, 2][3] + 0.5, got


@pytest.mark.parametrize(
    ("window", "start"),
    [
        ("hamming", phase_start.pghi_phase),
        ("gaussian", phase_start.pghi_phase),
        ("kbd", phase_start.peak_phase),
    ],
)
def test_other_windows_have_a_start_that_works(notes, window, start):
    # As good as the Hann window, less 5 dB where no Gaussian equivalent is known.
    got = convergence(notes[::2], start, [4], window=window)[0]
    assert got < (-26 if window == "kbd" else -29), got


def test_momentum_and_relaxation_each_improve_convergence(notes):
    def reached(start, num_iters, **options):
        return convergence(notes[::2], start, [num_iters], **options)[0]

    both = reached(phase.random_phase, 24)
    fast = reached(phase.random_phase, 24, relaxation=1.0)
    plain = reached(phase.random_phase, 24, relaxation=1.0, momentum=0.0)
    assert both < fast - 0.7, (both, fast)
    assert fast < plain - 4, (fast, plain)
    start = phase_start.pghi_phase
    assert reached(start, 8) < reached(start, 8, relaxation=1.0) - 0.3


def test_fast_griffin_lim_equals_librosas_from_the_same_start(magnitudes):
    for seed, magnitude in enumerate(np.asarray(magnitudes)):
        expected = librosa.griffinlim(
            magnitude.T, n_iter=6, hop_length=128, length=NUM_SAMPLES, random_state=seed,
            pad_mode="constant",
        )  # fmt: skip
        # What librosa draws from this seed.
        start = 2 * np.pi * np.random.RandomState(seed).random(magnitude.T.shape).T
        got = griffin_lim_librosas(magnitude, start.astype(np.float32))
        np.testing.assert_allclose(got, expected, atol=2e-3 * np.abs(expected).max())


@jax.jit
def griffin_lim_librosas(magnitude, start):
    return phase.griffin_lim(
        None, magnitude, init=start, num_iters=6, relaxation=1.0, length=NUM_SAMPLES, **SIZES
    )


def test_accelerated_iterations_equal_their_equations(magnitudes):
    magnitude = np.asarray(magnitudes[0])
    start = np.random.default_rng(1).uniform(-3, 3, magnitude.shape).astype(np.float32)
    got = phase.griffin_lim(
        None, magnitude, num_iters=3, momentum=0.9, relaxation=1.3, init=start,
        length=NUM_SAMPLES, **SIZES,
    )  # fmt: skip

    # Nenov et al. 2023, algorithm 2, with alpha = beta, on spectra as printed there.
    def consistent(c):
        clip = librosa.istft(c.T, hop_length=128, length=NUM_SAMPLES)
        return librosa.stft(clip, n_fft=512, hop_length=128, pad_mode="constant").T

    def with_magnitude(c):
        return magnitude * np.exp(1j * np.angle(c))

    c = d = t = consistent(magnitude * np.exp(1j * start))
    for _ in range(3):
        projected = consistent(with_magnitude(c))
        before, t = t, (1 - 1.3) * d + 1.3 * projected
        c, d = t + 0.9 * (t - before), t + 0.9 * (t - before)
    expected = librosa.istft(projected.T, hop_length=128, length=NUM_SAMPLES)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("method", STARTS)
def test_start_finds_the_frequency_of_a_steady_sine(method):
    hz = np.array([301.0, 1000.0, 2123.4])
    sines = np.sin(2 * np.pi * hz[:, None] * np.arange(NUM_SAMPLES) / RATE).astype(np.float32)

    def one(sine):
        return phase.METHODS[method](spectrum.magnitude(stft(sine, **SIZES)), **SIZES)

    starts = np.asarray(jax.jit(jax.vmap(one))(sines), np.float64)
    for start, frequency in zip(starts, hz, strict=True):
        advance = np.diff(start[10:30, round(frequency * 512 / RATE)])
        error = np.angle(np.exp(1j * (advance - 2 * np.pi * frequency * 128 / RATE)))
        # 0.12 radians per hop is 1.6 Hz here.
        assert np.abs(error).max() < 0.12


def test_true_phase_is_a_fixed_point(magnitudes):
    clip = jnp.asarray(tones()[0])
    got = phase.griffin_lim(
        None, magnitudes[0], num_iters=4, init=stft(clip, **SIZES), length=NUM_SAMPLES, **SIZES
    )
    np.testing.assert_allclose(got, clip, atol=1e-5)


def test_click_at_the_first_sample_survives_with_its_own_phase():
    click = jnp.zeros(2000).at[0].set(1.0)
    full = stft(click, **SIZES)
    got = phase.griffin_lim(
        None, spectrum.magnitude(full), num_iters=2, init=full, length=2000, **SIZES
    )
    assert abs(float(got[0]) - 1) < 1e-3


EDGES = {
    "silence": np.zeros(1000),
    "click": np.eye(1, 1000)[0],
    "constant": np.ones(1000),
    "square": np.sign(np.sin(0.05 * np.arange(1000) + 0.01)),
    "noise": NOISE[:1000],
}


@pytest.mark.parametrize("method", [method for method in phase.METHODS if method != "auto"])
def test_edge_cases_are_finite_with_finite_gradients_jitted_batched_or_not(method):
    clips = jnp.asarray(np.stack(list(EDGES.values())), jnp.float32)
    levels = jax.jit(jax.vmap(lambda x: spectrum.magnitude(stft(x, **SIZES))))(clips)

    def recovered(magnitude):
        got = phase.invert(magnitude, method=method, num_iters=1, length=1000, **SIZES)
        return jnp.sum(got**2), got

    differentiate = jax.value_and_grad(recovered, has_aux=True)
    (_, got), gradients = jax.jit(jax.vmap(differentiate))(levels)
    assert got.shape == clips.shape
    assert np.isfinite(got).all()
    assert np.isfinite(gradients).all()
    for name, clip, gradient in zip(EDGES, got, gradients, strict=True):
        # The pulses of zero phase lie half a frame early: the click's is before the clip.
        if name == "silence":
            np.testing.assert_array_equal(clip, 0)
        elif (method, name) != ("zero", "click"):
            assert np.any(clip), name
            assert np.any(gradient), name
    _, alone = recovered(levels[-1])
    error = phase.spectral_convergence_db(
        alone, spectrum.magnitude(stft(got[-1], **SIZES)), **SIZES
    )
    assert float(error) < -40


@pytest.mark.parametrize(
    ("method", "num_samples"),
    [("pghi", 1), ("spsi", 1), ("derivative", 1), ("peaks", 1), ("pghi", 130)],
)
def test_clip_of_one_or_two_frames_is_finite_and_of_the_right_length(method, num_samples):
    @jax.jit
    def one(clip):
        magnitude = spectrum.magnitude(stft(clip, **SIZES))
        return phase.invert(magnitude, method=method, num_iters=1, length=num_samples, **SIZES)

    got = one(NOISE[:num_samples])
    assert got.shape == (num_samples,)
    assert np.isfinite(got).all()
    assert np.any(got)


def test_gradient_through_iterations_matches_a_finite_difference(magnitudes):
    with jax.enable_x64(True):
        magnitude = jnp.asarray(np.asarray(magnitudes[0][:12], np.float64))
        target = jnp.asarray(NOISE[: 11 * 128].astype(np.float64))
        start = phase_start.pghi_phase(magnitude, **SIZES)

        @jax.jit
        def loss(magnitude):
            got = phase.griffin_lim(None, magnitude, num_iters=3, init=start, **SIZES)
            assert got.dtype == jnp.float64
            return jnp.sum(got * target)

        direction = magnitude / jnp.linalg.norm(magnitude)
        slope = jnp.vdot(jax.jit(jax.grad(loss))(magnitude), direction)
        ahead, behind = (loss(magnitude + step * direction) for step in (1e-4, -1e-4))
        np.testing.assert_allclose(slope, (ahead - behind) / 2e-4, rtol=1e-5)


recover = jax.jit(functools.partial(phase.recover, length=NUM_SAMPLES, **SIZES))


def test_half_precision_and_float64_magnitudes_are_computed_in_float32(magnitudes):
    magnitude = magnitudes[0].astype(jnp.bfloat16)
    got = recover(magnitude)
    assert got.dtype == jnp.float32
    # Compiled by themselves, the two programs may round differently.
    np.testing.assert_allclose(got, recover(magnitude.astype(jnp.float32)), atol=1e-4)
    wide = np.asarray(magnitudes[0], np.float64)
    np.testing.assert_array_equal(recover(wide), recover(magnitudes[0]))


def test_loudness_scales_through(magnitudes):
    np.testing.assert_allclose(
        recover(magnitudes[0] * 1e-3) * 1e3, recover(magnitudes[0]), atol=2e-3
    )


@pytest.mark.parametrize("target_db", [-20.0, -25.0])
def test_recover_reaches_its_target_on_notes_and_repeats_itself(notes, target_db):
    @jax.jit
    def one(clip):
        magnitude = spectrum.magnitude(stft(clip, **REAL))
        got = phase.recover(magnitude, target_db=target_db, length=clip.shape[0], **REAL)
        return got, phase.spectral_convergence_db(got, magnitude, **REAL)

    first, again = (jax.lax.map(one, notes) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    assert float(jnp.mean(first[1])) < target_db


def test_choice_asks_for_more_iterations_the_finer_the_target():
    counts = [phase.choose(2048, 512, target)[1] for target in (-20, -25, -30, -33, -80)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == phase.DEFAULT_ITERS
    assert phase.choose(2048, 512, method="griffin_lim") == ("griffin_lim", phase.DEFAULT_ITERS)


def test_choice_knows_frame_and_overlap():
    # Short frames and little overlap need more iterations; sizes between those measured take the
    # nearest, and an overlap counts as the next smaller one.
    assert phase.choose(512, 128, -22.0)[1] > phase.choose(2048, 512, -22.0)[1]
    assert phase.choose(2048, 1024, -25.0)[1] > phase.choose(2048, 256, -25.0)[1]
    assert phase.choose(1900, 600, -25.0) == phase.choose(2048, 1024, -25.0)
    assert phase.choose(16384, 4096, -25.0) == phase.choose(4096, 1024, -25.0)


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


def test_recovery_lowers_for_every_platform():
    def one(magnitude):
        return phase.invert(magnitude, method="pghi", num_iters=2, **SIZES)

    shape = jax.ShapeDtypeStruct((2, 20, 257), jnp.float32)
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(jax.vmap(one)), platforms=platforms)(shape)
    assert exported.platforms == platforms


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_iters": -1}, "num_iters=-1 must be 0 or more"),
        ({"momentum": -0.5}, "momentum=-0.5 must be 0 or more"),
        ({"relaxation": 2.0}, "relaxation=2.0 must be between 0 and 2"),
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


def test_bins_of_a_partial_stay_together_for_minutes():
    # A partial between two bins, the same in every frame.
    frame = np.zeros(33, np.float32)
    frame[9:14] = [0.1, 0.6, 1.0, 0.8, 0.2]
    found = phase_start.peak_phase(np.tile(frame, (40_000, 1)), n_fft=64, hop_length=16)
    found = np.asarray(found, np.float64)
    apart = (found[:, 10:13] - found[:, 11:12]) / (2 * np.pi)
    drift = apart[-1] - apart[-4001]
    np.testing.assert_allclose(drift - np.round(drift), 0, atol=2e-3)
