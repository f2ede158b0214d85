"""Every representation: shape, inverse, gradients; values against librosa and closed forms."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile

from vaejax import config as configs
from vaejax import features, rules
from vaejax.config import Config, Data, Features, Sound
from vaejax.evaluate import reconstruction, report, systems
from vaejax.sampling import manifest

# A hop that does not divide the window, and a clip that no hop divides.
NUM_SAMPLES, RATE, N_FFT, HOP = 701, 4000, 96, 40
KINDS = list(features.REPRESENTATIONS)
EXACT = ["magnitude_if", "magnitude_phase_db", "magnitude_cos_sin", "complex", "waveform"]
MAGNITUDES = ["power", "log", "log_mel"]


def config_of(kind, iterations=0, **sizes):
    sizes = {"n_fft": N_FFT, "hop_length": HOP, "n_mels": 12, **sizes}
    return Config(
        data=Data(sample_rate=RATE, clip_seconds=NUM_SAMPLES / RATE),
        features=Features(kind=kind, **sizes),
        sound=Sound(iterations=iterations),
    )


def sound(seed=0):
    """Two partials, noise and a rest."""
    rng = np.random.default_rng(seed)
    t = np.arange(NUM_SAMPLES) / RATE
    tone = np.sin(2 * np.pi * 310.0 * t) + 0.3 * np.sin(2 * np.pi * 905.0 * t + 1.0)
    noise = 0.1 * rng.standard_normal(NUM_SAMPLES)
    return (0.3 * (tone + noise) * (t < 0.12)).astype(np.float32)


def click():
    return np.eye(1, NUM_SAMPLES, dtype=np.float32)[0]


CLIPS = np.stack([sound(0), 0.2 * sound(1), np.zeros(NUM_SAMPLES, np.float32), click()])


def spectrum(waveform):
    """librosa's STFT in units of a full-scale sine, referred to the centre of the frame."""
    found = librosa.stft(
        np.asarray(waveform, np.float64), n_fft=N_FFT, hop_length=HOP, pad_mode="constant"
    ).T
    return found * (-1.0) ** np.arange(N_FFT // 2 + 1) / (N_FFT / 4)


@pytest.fixture(scope="module", params=KINDS)
def passed(request):
    """A representation, and what it makes of `CLIPS`: x, and the magnitude and sound of x."""
    config = config_of(request.param)
    statistics = features.fit_statistics([CLIPS], config)

    @jax.jit
    def there_and_back(waveforms):
        def one(waveform):
            x = features.x_of(waveform, statistics, config)
            after, convergence = features.waveform_of(
                x, statistics, config, num_samples=NUM_SAMPLES
            )
            return x, features.magnitude_of(x, statistics, config), after, convergence

        return jax.vmap(one)(waveforms)

    return request.param, config, statistics, jax.device_get(there_and_back(CLIPS))


def test_x_has_the_shape_that_the_config_says_and_everything_is_finite(passed):
    kind, config, statistics, (x, magnitude, after, convergence) = passed
    assert x.shape == (len(CLIPS), *config.shape)
    assert statistics.mean.shape == config.shape[1:]
    assert magnitude.shape == (len(CLIPS), config.num_frames, config.features.num_bins)
    assert after.shape == CLIPS.shape
    assert x.dtype == magnitude.dtype == after.dtype == np.float32
    assert np.isfinite(x).all()
    assert np.isfinite(magnitude).all()
    assert np.isfinite(after).all()
    assert np.isnan(convergence).all() == (kind == "waveform")
    np.testing.assert_allclose(after[2], 0.0, atol=1e-5)


def test_compiled_values_are_those_one_operation_at_a_time(passed):
    _, config, statistics, (x, *_) = passed
    with jax.disable_jit():
        eager = features.x_of(jnp.asarray(CLIPS[0]), statistics, config)
    np.testing.assert_allclose(x[0], eager, atol=2e-3)


def test_what_carries_the_phase_gives_the_waveform_back(passed):
    kind, config, _, (_, _, after, _) = passed
    assert features.create(config).has_phase == (kind not in MAGNITUDES)
    if kind in EXACT:
        np.testing.assert_allclose(after, CLIPS, atol=1e-4)
        assert after[3, 0] == pytest.approx(1.0, abs=1e-3)


def test_magnitude_is_that_of_the_sound(passed):
    _, config, _, (_, magnitude, _, _) = passed
    expected = np.stack([np.abs(spectrum(clip)) for clip in CLIPS])
    if config.features.kind in configs.MEL_KINDS:
        # Bins cannot be had back from bands; what they say of the bands can.
        bank = librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=12, norm=None)
        magnitude, expected = magnitude @ bank.T, expected @ bank.T
    np.testing.assert_allclose(magnitude, expected, rtol=2e-3, atol=2e-3 * expected.max())


def test_gradients_are_finite_at_silence_and_where_sound_follows_it(passed):
    _, config, statistics, _ = passed
    has_phase = features.create(config).has_phase

    @jax.jit
    def gradient(waveforms):
        def square(waveform):
            x = features.x_of(waveform, statistics, config)
            back = features.magnitude_of(x, statistics, config)
            if has_phase:
                back, _ = features.waveform_of(x, statistics, config, num_samples=NUM_SAMPLES)
            return jnp.sum(x**2) + jnp.sum(back**2)

        return jax.vmap(jax.grad(square))(waveforms)

    late = np.where(np.arange(NUM_SAMPLES) < 300, 0, CLIPS[0])
    got = gradient(np.stack([CLIPS[2], late]))
    assert np.isfinite(got).all()
    assert np.abs(got[1]).max() > 0


# Values, each against an oracle.


def values_of(kind, waveform, **sizes):
    return jax.jit(features.create(config_of(kind, **sizes)).analyse)(waveform)


def test_log_magnitude_matches_librosa():
    expected = np.log1p(200.0 * np.abs(spectrum(CLIPS[0])))
    np.testing.assert_allclose(
        values_of("log", CLIPS[0], log_gain=200.0), expected, rtol=1e-3, atol=1e-3
    )


def test_mel_bands_match_librosa():
    edges = {"fmin": 100.0, "fmax": 1500.0}
    bank = librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=12, norm=None, **edges)
    bands = np.abs(spectrum(CLIPS[0])) @ bank.T
    np.testing.assert_allclose(
        values_of("log_mel", CLIPS[0], **edges), np.log1p(1000 * bands), rtol=1e-3, atol=1e-3
    )
    level = values_of("mel_if", CLIPS[0], **edges)[..., 0]
    np.testing.assert_allclose(level, bands**0.3, rtol=1e-3, atol=1e-3)


def test_complex_is_the_stft_with_its_magnitude_compressed():
    expected = spectrum(CLIPS[0])
    expected = np.abs(expected) ** 0.5 * np.exp(1j * np.angle(expected))
    got = np.asarray(values_of("complex", CLIPS[0], exponent=0.5))
    np.testing.assert_allclose(got[..., 0] + 1j * got[..., 1], expected, atol=2e-3)


def test_wrapped_phase_cosine_sine_and_decibels_match_librosa():
    expected = spectrum(CLIPS[0])
    audible = np.abs(expected) > 1e-4
    three = np.asarray(values_of("magnitude_phase_db", CLIPS[0], floor_db=-70.0))
    turns = (three[..., 1] - np.angle(expected))[audible] / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-3)
    decibels = librosa.amplitude_to_db(np.abs(expected), amin=10 ** (-70 / 20), top_db=None)
    np.testing.assert_allclose(three[..., 2], decibels, atol=0.02)
    assert three[..., 2].min() == pytest.approx(-70.0, abs=1e-3)
    direction = np.asarray(values_of("magnitude_cos_sin", CLIPS[0]))[..., 1:]
    np.testing.assert_allclose(
        (direction[..., 0] + 1j * direction[..., 1])[audible],
        np.exp(1j * np.angle(expected))[audible],
        atol=5e-3,
    )


@pytest.mark.parametrize("hz", [237.0, 1411.0])
def test_instantaneous_frequency_of_a_sinusoid_is_its_frequency(hz):
    wave = np.sin(2 * np.pi * hz * np.arange(NUM_SAMPLES) / RATE).astype(np.float32)
    level, beyond = np.moveaxis(np.asarray(values_of("magnitude_if", wave)), -1, 0)
    loudest = level[3:-3].argmax(1)
    beyond = beyond[3:-3][np.arange(len(loudest)), loudest]
    found = loudest * RATE / N_FFT + beyond * RATE / HOP / (2 * np.pi)
    np.testing.assert_allclose(found, hz, atol=0.1)


def test_instantaneous_frequency_of_mel_bands_is_that_of_their_bins_together():
    bank = librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=12, norm=None)
    found, bins = spectrum(CLIPS[0]), np.arange(N_FFT // 2 + 1)
    advance = found[1:] * np.conj(found[:-1])
    got = np.asarray(values_of("mel_if", CLIPS[0]))[..., 1]
    widths = bank.sum(1)
    assert widths.min() < 4 < widths.max()  # bands of both sorts
    for band, weights in enumerate(bank):
        # Narrower than a main lobe of four bins: relative to the band's centre, else to each bin.
        expected = bins if widths[band] > 4 else np.sum(bins * weights) / widths[band]
        together = advance * np.exp(-2j * np.pi * expected * HOP / N_FFT) @ weights
        together = np.concatenate([found[:1] @ weights, together])
        audible = np.abs(together) > 1e-6
        assert audible.any()
        difference = np.exp(1j * (got[:, band] - np.angle(together)))
        np.testing.assert_allclose(difference[audible], 1.0, atol=1e-2)


def test_sinusoid_of_mel_bands_comes_back_in_phase():
    # What the bands of a single partial say is enough for its phase, if not for its exact level.
    wave = 0.5 * np.sin(2 * np.pi * 237.0 * np.arange(NUM_SAMPLES) / RATE).astype(np.float32)
    config = config_of("mel_if")
    one = features.Statistics(jnp.zeros(config.shape[1:]), jnp.ones(2))
    after, _ = jax.jit(
        lambda w: features.waveform_of(
            features.x_of(w, one, config), one, config, num_samples=NUM_SAMPLES
        )
    )(wave)
    assert np.corrcoef(wave, after)[0, 1] > 0.98


# Statistics, lengths, iterations.


def test_statistics_are_per_bin_and_channel_and_leave_angles_alone():
    config = config_of("magnitude_phase_db")
    fitted = features.fit_statistics([CLIPS], config)
    values = np.stack([features.create(config).analyse(clip) for clip in CLIPS])
    mean = values.mean((0, 1))
    for channel in (0, 2):
        np.testing.assert_allclose(fitted.mean[:, channel], mean[:, channel], rtol=1e-3, atol=1e-4)
        spread = (values - mean)[..., channel].std()
        assert float(fitted.scale[channel]) == pytest.approx(spread, rel=1e-3)
    assert features.create(config).angles == (1,)
    np.testing.assert_array_equal(fitted.mean[:, 1], 0.0)
    assert float(fitted.scale[1]) == pytest.approx(np.pi)


@pytest.mark.parametrize("kind", ["complex", "waveform"])
def test_a_decoder_may_say_more_frames_than_a_clip_has(kind):
    config = config_of(kind)
    num_samples = NUM_SAMPLES + 7 * (1 if kind == "waveform" else HOP)

    @jax.jit
    def longer(waveform):
        values = features.create(config).analyse(waveform)
        more = jnp.concatenate([values, jnp.zeros_like(values[:7])])
        return features.create(config).synthesise(more, num_samples)[0]

    after = longer(CLIPS[0])
    assert after.shape == (num_samples,)
    np.testing.assert_allclose(after[: NUM_SAMPLES - N_FFT], CLIPS[0][:-N_FFT], atol=1e-4)


def test_iterations_leave_a_true_spectrum_alone_and_mend_a_false_one():
    values = np.asarray(values_of("complex", CLIPS[0]))
    untrue = values + 0.1 * np.random.default_rng(0).standard_normal(values.shape)
    found = {}
    for iterations in (0, 4):
        synthesise = jax.jit(
            features.create(config_of("complex", iterations)).synthesise, static_argnums=1
        )
        np.testing.assert_allclose(synthesise(values, NUM_SAMPLES)[0], CLIPS[0], atol=1e-4)
        found[iterations] = float(synthesise(untrue, NUM_SAMPLES)[1])
    assert found[4] < found[0] - 1


@pytest.mark.parametrize(
    ("kind", "sound", "expected"),
    [
        ("power", Sound(), ("peaks", 2)),
        ("power", Sound(iterations=None), ("peaks", 2)),
        ("log_mel", Sound(inversion="zero", iterations=None), ("zero", 32)),
        ("complex", Sound(iterations=3), (None, 3)),
        ("magnitude_if", Sound(iterations=None), (None, 0)),
        ("magnitude_if", Sound(inversion="spsi", iterations=1), ("spsi", 1)),
        ("waveform", Sound(), (None, 0)),
    ],
)
def test_inversion_says_how_the_sound_is_made(kind, sound, expected):
    config = dataclasses.replace(Config(features=Features(kind=kind)), sound=sound)
    assert features.inversion(config) == expected


# The scripts


@pytest.fixture(scope="module")
def with_phase(call, tiny, folder, tmp_path_factory):
    """The run folder of a few steps on instantaneous frequencies."""
    workdir = tmp_path_factory.mktemp("with_phase") / "run"
    steps = {"num_steps": 2, "log_every_steps": 2, "eval_every_steps": 2, "save_every_steps": 2}
    options = [word for name, value in steps.items() for word in (f"--train.{name}", value)]
    done = call(
        *("train", *tiny, *options, "--features.kind", "mel_if", "--features.n_mels", "40"),
        *("--data", folder, "--workdir", workdir),
    )
    assert done.code == 0, done.err
    return workdir


def test_a_run_that_models_the_phase_makes_sounds_and_says_so(with_phase, call, tmp_path):
    out = tmp_path / "out"
    done = call("sample", "--workdir", with_phase, "--out", out, "--num", "3")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [(row["inversion"], row["iterations"]) for row in rows] == [(None, 2)] * 3
    assert all(row["spectral_convergence"] < 0 for row in rows)
    samples, _ = soundfile.read(out / rows[0]["file"])
    assert np.abs(samples).max() == pytest.approx(10 ** (-1 / 20), abs=1e-3)
    again = call("sample", "--workdir", with_phase, "--redo", out, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    for row in rows:
        assert (tmp_path / "again" / row["file"]).read_bytes() == (out / row["file"]).read_bytes()
    # Asked for by name, a phase recovery takes the magnitude alone.
    done = call(
        *("sample", "--workdir", with_phase, "--out", tmp_path / "pghi", "--inversion", "pghi"),
        *("--num", "1"),
    )
    assert done.code == 0, done.err
    row = json.loads((tmp_path / "pghi" / "manifest.jsonl").read_text())
    assert (row["inversion"], row["latent_row"]) == ("pghi", 0)
    assert (tmp_path / "pghi" / row["file"]).read_bytes() != (out / row["file"]).read_bytes()


@pytest.mark.parametrize("kind", ["power", "complex"])
def test_reconstruction_has_si_sdr_where_the_phase_is_modelled(kind):
    assert ("si_sdr_db" in reconstruction.figures_of(config_of(kind))) == (kind == "complex")
    values = {name: {"value": 1.0, "low": 0.0, "high": 2.0} for name in report.ABOUT}
    table = {name: values[name] for name in reconstruction.figures_of(config_of(kind))}
    figures = {
        "judged": {"sounds": 1, "what": "held-out sounds"},
        "reconstruction": {"systems": {systems.VAEJAX: table}, "vaejax_against": {}},
    }
    (_, shown, _), *_ = report.sections(figures)
    assert ("si_sdr_db" in shown) == (kind == "complex")
    said = " ".join(report.verdicts(figures))
    assert ("SI-SDR does not apply" in said) == (kind == "power")


def test_manifest_says_null_where_no_magnitude_was_asked_for():
    assert json.dumps([manifest.rounded(np.float32("nan")), manifest.rounded(-1.23456)]) == (
        "[null, -1.235]"
    )


# Settings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "log_mel", "n_mels": 49}, r"n_mels=49 is more than the 48 bins .* try 12"),
        (
            {"kind": "mel_if", "fmin": 500.0, "fmax": 3000.0},
            r"fmin=500\.0 and features\.fmax=3000\.0 must satisfy .* 2000\.0, half of data",
        ),
        ({"floor_db": 0.0}, r"floor_db=0\.0 must be negative"),
        ({"kind": "waveform"}, r"model\.kind=conv1d cannot read features\.kind=waveform"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_numbers(fields, message):
    small = configs.Model(latent_dim=4, num_stages=1, num_directions=8)
    config = dataclasses.replace(config_of(**{"kind": "power", **fields}), model=small)
    with pytest.raises(ValueError, match=message):
        rules.check(config)


def test_mel_settings_do_not_matter_where_there_are_no_bands():
    small = configs.Model(latent_dim=4, num_stages=1, num_directions=8)
    config = config_of("power", n_mels=4000, fmax=1e6)
    rules.check(dataclasses.replace(config, model=small))
