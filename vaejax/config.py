"""Every setting of a run: frozen dataclasses, one default each.

A preset in `configs/` is a `Config` that differs from these defaults in a few fields; the command
line overrides any field (`--train.num_steps 500`). The resolved config is saved as JSON in the run
folder, and `rules.check` refuses what cannot work before anything is decoded or compiled.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import tyro

from vaejax.tables import one_of

# Those of data.families, which imports JAX.
Family = Literal[
    "bass",
    "lead",
    "pad",
    "pluck",
    "keys",
    "bell",
    "brass",
    "strings",
    "organ",
    "flute",
    "mallet",
    "kick",
    "snare",
    "hat",
    "tom",
    "clap",
]
MEL_KINDS = ("log_mel", "mel_if")


class Mark(Enum):
    """What else a field is, beside type and range: `Annotated[float, POSITIVE, SWEEPABLE]`."""

    RESUMABLE = "of another value when a run goes on"
    """What is measured and when; a larger num_steps, which stretches the learning rate's schedule
    from there on; the source, which may be the same sounds under another path, as their fingerprint
    decides; where the clips live, which changes nothing but how they are read."""
    SWEEPABLE = "different in each member of a sweep"
    """A field that the training step only computes with, so that it may be traced; one that decides
    shapes, branches or files may not."""
    FITTED_FROM = "looked at by what is fitted before training"


RESUMABLE, SWEEPABLE, FITTED_FROM = Mark.RESUMABLE, Mark.SWEEPABLE, Mark.FITTED_FROM


class Range(NamedTuple):
    """Values that a number may have, which is always finite: `rules.check` refuses others."""

    words: str
    """What is said of others, after the field and its value."""
    holds: Callable[[Any], bool]


POSITIVE = Range("must be greater than 0", lambda value: value > 0)
NOT_NEGATIVE = Range("must not be negative", lambda value: value >= 0)
SHARE = Range("must lie in [0, 1]", lambda value: 0 <= value <= 1)
BELOW_ONE = Range("must lie in [0, 1)", lambda value: 0 <= value < 1)
Inversion = Literal["auto", "pghi", "spsi", "derivative", "peaks", "griffin_lim", "zero"]


@dataclass(frozen=True)
class Data:
    """Which sounds, and how a file becomes a clip."""

    source: Annotated[str, tyro.conf.arg(aliases=["--data"]), RESUMABLE] = "synth"
    """Folder of sounds (any depth; the label of a sound is its folder's name), or `synth`, the
    built-in synthesiser."""
    sample_rate: Annotated[int, POSITIVE] = 44_100
    """Hz; files of another rate are resampled."""
    clip_seconds: Annotated[float, POSITIVE] = 1.0
    """Seconds; longer sounds are cropped with a fade, shorter ones padded with silence."""
    trim_db: Annotated[
        float, Range("must be negative (dB below the peak)", lambda value: value < 0)
    ] = -60.0
    """dB below a sound's peak; what comes before the first sample above it is cut off."""
    fade_ms: Annotated[float, NOT_NEGATIVE] = 10.0
    """Milliseconds of fade-out where a sound is cut at the end of the clip."""
    holdout_fraction: Annotated[
        float, Range("must lie in (0, 0.5]", lambda value: 0 < value <= 0.5)
    ] = 0.1
    """Share of the sounds that is never trained on."""
    holdout_by: Literal["hash", "pitch", "label"] = "hash"
    """How they are chosen: `hash` sound by sound, by a hash of each file; `pitch` whole pitches
    (see pitch_pattern) and `label` whole labels, so that none of their sounds is trained on."""
    synth_count: Annotated[int, POSITIVE] = 2048
    """Sounds in the built-in set."""
    synth_seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the built-in set."""
    synth_families: tuple[Family, ...] = ()
    """Families of the built-in set; none named is all of them."""
    cache_dir: Annotated[str | None, RESUMABLE] = None
    """Folder for decoded sounds; by default $VAEJAX_CACHE, $XDG_CACHE_HOME/vaejax or
    ~/.cache/vaejax."""
    num_workers: Annotated[int | None, RESUMABLE] = None
    """Threads that decode files; by default one per core."""
    pitch_pattern: str | None = None
    r"""Regular expression for the pitch in a sound's path, with a group named `pitch` that holds a
    MIDI number (60 = C4) or a name such as C#4: `_(?P<pitch>\d+)_` for piano_060_soft.wav."""
    nsynth_label: Literal["family", "source", "instrument"] = "family"
    """What labels a sound of a folder in NSynth's layout (examples.json beside audio/)."""
    estimate_pitch: bool = False
    """Measure the pitch of sounds of which it is not known otherwise."""
    device_budget_mb: Annotated[int, POSITIVE, RESUMABLE] = 2048
    """Megabytes of int16 clips that may live on the device; a larger set stays on disk and is
    read ahead batch by batch: the same clips in the same order."""

    @property
    def num_samples(self) -> int:
        """Samples in a clip."""
        return round(self.clip_seconds * self.sample_rate)


@dataclass(frozen=True)
class Features:
    """What the model sees of a sound."""

    kind: Annotated[str, one_of("features/__init__.py:REPRESENTATIONS")] = "power"
    """`power`: STFT magnitude ** exponent. `log`: log(1 + log_gain * magnitude). `log_mel`: the
    same of mel bands. With phase: `magnitude_if`, `mel_if` (magnitude ** exponent and instantaneous
    frequency, of bins or mel bands), `magnitude_phase_db` (magnitude ** exponent, wrapped phase,
    dB), `magnitude_cos_sin` (magnitude ** exponent, cosine and sine of the phase), `complex` (real
    and imaginary part, magnitude ** exponent). `waveform`: the samples."""
    n_fft: Annotated[int, POSITIVE, Range("must be even", lambda value: value % 2 == 0)] = 2048
    """Samples in an STFT window (Hann) and in its transform."""
    hop_length: Annotated[int, POSITIVE] = 512
    """Samples between STFT frames."""
    exponent: Annotated[float, POSITIVE] = 0.3
    """Of the magnitude, in all kinds but `log`, `log_mel` and `waveform`. Decibels look better
    before the inversion and sound worse after it: averages in dB fill the gaps between partials."""
    log_gain: Annotated[float, POSITIVE] = 1000.0
    """Of `log` and `log_mel`: 1 / log_gain is the level, of a full-scale sine, below which they are
    linear; 1000 is 60 dB below."""
    n_mels: Annotated[int, POSITIVE] = 128
    """Bands of `log_mel` and `mel_if`."""
    fmin: float = 0.0
    """Hz, lowest edge of the mel bands."""
    fmax: float | None = None
    """Hz, highest edge of the mel bands; None is half the sample rate."""
    floor_db: Annotated[
        float, Range("must be negative (dB below a full-scale sine)", lambda value: value < 0)
    ] = -80.0
    """dB of a full-scale sine, least level in the third channel of `magnitude_phase_db`."""

    @property
    def num_bins(self) -> int:
        """Frequency bins of the STFT."""
        return self.n_fft // 2 + 1


@dataclass(frozen=True)
class Augment:
    """Random changes of a training sound, drawn anew at each visit."""

    gain_db: Annotated[float, NOT_NEGATIVE, SWEEPABLE, FITTED_FROM] = 1.0
    """dB; the level of a clip is lowered by a uniform draw from [0, gain_db]."""
    shift_ms: Annotated[float, NOT_NEGATIVE, SWEEPABLE, FITTED_FROM] = 1.0
    """Milliseconds; the start of a clip is delayed by a uniform draw from [0, shift_ms]."""
    pitch_semitones: Annotated[int, NOT_NEGATIVE] = 2
    """The clip is resampled by a whole number of semitones drawn from [-this, this], which moves
    its pitch and its length. Whole ones, because tuned sounds keep to them."""
    pitch_probability: Annotated[float, SHARE, SWEEPABLE, FITTED_FROM] = 0.5
    """Share of the visits at which the pitch moves."""
    eq_db: Annotated[float, NOT_NEGATIVE, SWEEPABLE, FITTED_FROM] = 0.0
    """dB; standard deviation of the gains of a random equaliser, whose bands are 1.5 octaves apart.
    Stands for instruments that are not among the sounds. It changes a brightness that is told
    (condition.factors), and is refused beside it."""
    eq_probability: Annotated[float, SHARE, SWEEPABLE, FITTED_FROM] = 0.7
    """Share of the visits at which the equaliser is in."""


@dataclass(frozen=True)
class Model:
    """Encoder and decoder, and the linear path that they correct, which is probabilistic PCA.

    All kinds read the fields of the linear path, and all but frames width, num_stages, num_blocks
    and kernel_size, each in its own way; layers and patch are for conv2d.
    """

    kind: Annotated[str, one_of("models/__init__.py:MODELS")] = "conv1d"
    """`conv1d`: residual convolutions over time, bins as channels. `conv2d`: convolutions over the
    plane of frames and bins. `waveform`: convolutions on the samples (--features.kind waveform).
    `frames`: a perceptron on every STFT frame by itself; z is a path, and paths of any length
    become sounds."""
    latent_dim: Annotated[int, POSITIVE] = 64
    """Dimensions of z; of `frames`, at each frame."""
    width: Annotated[int, POSITIVE] = 128
    """Channels of the convolutions: of all in conv1d and in plain conv2d; of the first in residual
    conv2d, doubling at each stage, and in waveform, doubling at every second."""
    num_stages: Annotated[int, NOT_NEGATIVE] = 3
    """Times that the encoder halves (and the decoder doubles) the number of frames: of frames and
    bins in conv2d, of samples in waveform."""
    num_blocks: Annotated[int, POSITIVE] = 1
    """Residual blocks per stage; single convolutions in plain conv2d (where there is a group before
    the first stage too) and in waveform."""
    kernel_size: Annotated[int, POSITIVE, Range("must be odd", lambda value: value % 2 == 1)] = 3
    """Frames that a convolution sees; frames and bins in conv2d, samples in waveform."""
    block: Annotated[str, one_of("models/conv1d.py:BLOCKS")] = "residual"
    """Of conv1d: what its blocks are."""
    layers: Literal["residual", "plain"] = "residual"
    """Of conv2d. `residual`: blocks around the identity, and an input that says which frequency a
    bin has. `plain`: convolution, ReLU and max-pooling."""
    patch: tuple[int, int] = (2, 4)
    """Of conv2d: frames and bins that its first convolution strides by, and its last one fills.
    (1, 1) sees every value by itself, and takes longest."""
    num_directions: Annotated[int, POSITIVE] = 256
    """Principal directions that the perceptron reads and writes; at least latent_dim."""
    dense_width: Annotated[int, POSITIVE] = 1024
    """Units of the hidden layers of the perceptron between z and principal directions."""
    dense_depth: Annotated[int, POSITIVE] = 2
    """Hidden layers of the perceptron."""
    num_refinements: Annotated[int, NOT_NEGATIVE] = 0
    """Times that the encoder is shown the error of its answer and answers again (Marino et al.
    2018); not of `frames`, nor without a linear path. Pays for sounds unlike those trained on."""
    ppca_clips: Annotated[int, NOT_NEGATIVE] = 1536
    """Training clips, augmented ones included, that the linear path is fitted on; 0 leaves the
    linear path out, and the perceptron with it: a plain VAE from random weights."""
    frame_widths: tuple[int, ...] = (1000, 512, 256, 128, 64, 32, 16)
    """Of `frames`: units of the encoder's hidden layers; the decoder has them in reverse."""
    bottleneck: Literal["linear", "relu", "sigmoid"] = "linear"
    """Of `frames`: what the decoder does to z first. The others than `linear` go without the
    linear path, which would lead around them."""
    variational: bool = True
    """Of `frames`: whether z has a posterior; without, a plain autoencoder (objective.beta 0)."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of convolutions and perceptron; weights and losses stay float32. bfloat16 pays on
    GPU and TPU."""


@dataclass(frozen=True)
class Condition:
    """What the model is told of a sound beside z, in training and when sounds are made; nothing by
    default."""

    label: bool = False
    """Its label, the folder's name: `sample.py --label` then tells the model."""
    pitch: bool = False
    """Its pitch (see data.pitch_pattern): `sample.py --pitch` then tells the model."""
    chroma: bool = False
    """Its pitch class, 0 for C to 11 for B: the pitch but for the octave, which z says.
    `sample.py --tell chroma=9` then tells the model."""
    factors: tuple[str, ...] = ()
    """Factors of the built-in set (brightness, attack, decay ...) or of NSynth (velocity)."""
    dropout: Annotated[float, BELOW_ONE, SWEEPABLE, FITTED_FROM] = 0.1
    """Share of the visits at which nothing is told, and share of the rest at which each fact is
    kept back, so that the model also works without."""


@dataclass(frozen=True)
class Objective:
    """What is minimised: by default the negative ELBO. Names are those of the tables in
    `objective/`."""

    beta: Annotated[float, NOT_NEGATIVE, SWEEPABLE] = 1.0
    """Weight of the KL term; 1 is the evidence lower bound."""
    schedule: Annotated[str, one_of("objective/schedules.py:SCHEDULES")] = "linear"
    """How the weight grows: `linear` from 0 over beta_warmup_steps, once; `cyclical` again and
    again, every beta_cycle_steps (Fu et al. 2019)."""
    beta_warmup_steps: Annotated[int, NOT_NEGATIVE] = 0
    """Steps over which the weight grows from 0 to beta (of `capacity`: the nats asked for)."""
    beta_cycle_steps: Annotated[int, NOT_NEGATIVE] = 0
    """Steps of a cycle of `cyclical`, the rise included."""
    bound: Annotated[str, one_of("objective/bounds.py:BOUNDS")] = "elbo"
    """`elbo`; `iwae`, tighter, of num_draws draws per sound (Burda et al. 2016); `dreg`, the same
    with a gradient for the encoder that does not fade (Tucker et al. 2019)."""
    num_draws: Annotated[int, POSITIVE] = 8
    """Draws of z per sound of `iwae` and `dreg`, each of which is decoded."""
    likelihood: Annotated[str, one_of("objective/likelihoods.py:LIKELIHOODS")] = "gaussian"
    """p(x|z). `laplace` and `student_t` forgive large errors; `von_mises` is for the channels that
    are angles, beside a Gaussian for the others; `multi_resolution_stft` compares sounds, not x."""
    sigma: Annotated[str, one_of("objective/scales.py:SCALES")] = "shared"
    """Its scale: learned, one for all values or one per bin; the best one of each sound in closed
    form (Rybkin et al. 2021); or fixed_sigma."""
    fixed_sigma: Annotated[float, POSITIVE, SWEEPABLE] = 1.0
    """Of `fixed`, in units of x, whose standard deviation is 1."""
    degrees_of_freedom: Annotated[float, POSITIVE, SWEEPABLE] = 4.0
    """Of `student_t`; the more, the nearer to a Gaussian."""
    prior: Annotated[str, one_of("objective/priors.py:PRIORS")] = "standard"
    """p(z): N(0, I); or learned: a Gaussian mixture, the posteriors of learned pseudo-inputs
    (Tomczak & Welling 2018), or a second level of latents above z (Burda et al. 2016)."""
    prior_components: Annotated[int, POSITIVE] = 64
    """Gaussians of `mixture`, pseudo-inputs of `vampprior`."""
    top_dim: Annotated[int, POSITIVE] = 8
    """Dimensions of the level above z of `hierarchical`."""
    posterior: Annotated[str, one_of("objective/posteriors.py:POSTERIORS")] = "gaussian"
    """q(z|x): a Gaussian with a diagonal covariance, or that bent by coupling layers (Dinh et al.
    2017)."""
    flow_layers: Annotated[int, POSITIVE] = 4
    """Coupling layers of `flow`."""
    latent_width: Annotated[int, POSITIVE] = 64
    """Hidden units of the perceptrons of `hierarchical` and `flow`."""
    regularizer: Annotated[str, one_of("objective/regularizers.py:REGULARIZERS")] = "kl"
    """What stands beside the reconstruction: beta KL; the same where each dimension has
    `free_bits` for nothing (Kingma et al. 2016); beta times how far KL is from `capacity` (Burgess
    et al. 2018); beta KL and tc_weight times the total correlation of z (Chen et al. 2018); beta KL
    and mmd_weight times the maximum mean discrepancy between q(z) and p(z) (Zhao et al. 2019)."""
    free_bits: Annotated[float, NOT_NEGATIVE, SWEEPABLE] = 0.25
    """Nats per dimension of z that `free_bits` does not charge for."""
    capacity: Annotated[float, NOT_NEGATIVE, SWEEPABLE] = 100.0
    """Nats per sound that `capacity` holds KL at."""
    tc_weight: Annotated[float, NOT_NEGATIVE, SWEEPABLE] = 5.0
    """Of `tc`; the beta of Chen et al. is this plus `beta`."""
    mmd_weight: Annotated[float, NOT_NEGATIVE, SWEEPABLE] = 1000.0
    """Of `mmd`, in nats."""
    mel_weight: Annotated[float, NOT_NEGATIVE] = 0.0
    """Nats beside the likelihood for every dB that the mel spectrum is off (the magnitudes', before
    their phase is recovered): the ear's frequencies and levels count for more. Above 0 the loss is
    not the negative ELBO any more, and no comparison with one."""


@dataclass(frozen=True)
class Train:
    """The loop."""

    num_steps: Annotated[int, POSITIVE, RESUMABLE] = 500
    """Steps in all; a finished run goes on when this is raised."""
    batch_size: Annotated[int, POSITIVE] = 32
    """Clips per step; may exceed the number of clips."""
    seed: Annotated[int, NOT_NEGATIVE, SWEEPABLE, FITTED_FROM] = 0
    """Seed of the weights, of the order of the clips and of every random draw."""
    steps_per_dispatch: Annotated[int, POSITIVE] = 1
    """Steps in one compiled call (`lax.scan`); pays where a step is short beside its dispatch."""
    grad_accumulation: Annotated[int, POSITIVE, RESUMABLE] = 1
    """Parts that a batch is worked through in, one after the other, before the weights move: the
    same step within rounding, in a fraction of the memory."""
    remat: Annotated[bool, RESUMABLE] = False
    """Compute what encoder and decoder keep for the gradient a second time instead of keeping it:
    the same step within rounding, with less memory (a seventh, in a model of long clips) and more
    work (a third). train.grad_accumulation saves more."""
    optimizer: Annotated[str, one_of("train/optimizers.py:OPTIMIZERS")] = "adamw"
    """`adamw`; `muon`, AdamW for what is no matrix (Jordan et al. 2024); `schedule_free`, which
    needs no decay of the learning rate and averages by itself (Defazio et al. 2024)."""
    learning_rate: Annotated[float, POSITIVE, SWEEPABLE] = 1e-3
    """Peak of the schedule."""
    warmup_steps: Annotated[int, NOT_NEGATIVE] = 20
    """Steps of linear warm-up."""
    final_learning_rate: Annotated[
        float, Range("is a share of the peak, in [0, 1]", SHARE.holds), SWEEPABLE
    ] = 0.02
    """Share of the peak that the cosine decay ends at."""
    weight_decay: Annotated[float, NOT_NEGATIVE, SWEEPABLE] = 0.0
    """Of AdamW, per unit of learning rate."""
    clip_norm: Annotated[float, POSITIVE, SWEEPABLE] = 1.0
    """Largest norm of the gradient, in nats per feature value."""
    ema_decay: Annotated[float, BELOW_ONE, SWEEPABLE] = 0.98
    """Per step; the averaged weights are the ones that are evaluated and sampled from."""
    log_every_steps: Annotated[int, POSITIVE, RESUMABLE] = 10
    """Steps between lines of metrics."""
    eval_every_steps: Annotated[int, POSITIVE, RESUMABLE] = 100
    """Steps between measurements on the held-out sounds."""
    save_every_steps: Annotated[int, POSITIVE, RESUMABLE] = 100
    """Steps between checkpoints: what a lost connection costs at most."""
    best_by: Literal["loss", "mel_l1_db", "lsd_db"] = "mel_l1_db"
    """Held-out figure by which the best weights are kept, sampled from, and training stops: a
    distance in audio, or the loss, which on small sets rises long before the audio gets worse."""
    patience: Annotated[int, NOT_NEGATIVE, RESUMABLE] = 2
    """Evaluations without a gain, by more than chance, after which training stops; 0 goes on to
    num_steps. Chance is one standard error of how much nearer each held-out sound has come."""
    eval_clips: Annotated[int, POSITIVE] = 64
    """Held-out sounds measured at an evaluation, at most."""
    board_clips: Annotated[int, NOT_NEGATIVE, RESUMABLE] = 4
    """Held-out sounds drawn and played in TensorBoard at an evaluation."""


@dataclass(frozen=True)
class Prior:
    """The density that new latents are drawn from, fitted to the aggregate posterior."""

    max_components: Annotated[int, POSITIVE] = 16
    """Components of the Gaussian mixture, at most; the number is chosen by the
    likelihood of sounds that are left out in turn."""
    max_clips: Annotated[int, POSITIVE] = 4096
    """Training sounds that it is fitted on, at most."""


@dataclass(frozen=True)
class Sound:
    """From the model's output to a sound."""

    inversion: Annotated[Inversion, RESUMABLE] = "auto"
    """Start of the phase recovery; `auto` is `peaks`, or the phase that the model says where the
    kind of features carries one. By any other name the phase is recovered from the magnitude
    alone."""
    iterations: Annotated[int | None, RESUMABLE] = 2
    """Griffin-Lim iterations after the start, or after the phase that the model says; None takes
    what is usual for `inversion`, 0 after the model's phase. On a model's magnitudes more than two
    change nothing that can be measured."""
    peak_db: Annotated[
        float, Range("must be at most 0 (dB below full scale)", lambda value: value <= 0), RESUMABLE
    ] = -1.0
    """dB below full scale; every sound is scaled to this peak."""
    fade_out_ms: Annotated[float, NOT_NEGATIVE, RESUMABLE] = 5.0
    """Milliseconds of fade at the end of every sound, so that none ends in a click."""


@dataclass(frozen=True)
class Config:
    """One run."""

    data: Data = field(default_factory=Data)
    features: Features = field(default_factory=Features)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    condition: Condition = field(default_factory=Condition)
    objective: Objective = field(default_factory=Objective)
    train: Train = field(default_factory=Train)
    prior: Prior = field(default_factory=Prior)
    sound: Sound = field(default_factory=Sound)

    @property
    def num_frames(self) -> int:
        """STFT frames in a clip (centred frames)."""
        return 1 + self.data.num_samples // self.features.hop_length

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the model sees of a clip, time first: [num_frames, ...], or [num_samples]
        of a waveform."""
        # Imported here: it takes JAX, and seconds.
        from vaejax.features import shape_of

        return shape_of(self.data, self.features)

    @property
    def latent_frames(self) -> int:
        """Latents in a row that make up z: one for each frame of the `frames` model, else 1."""
        return self.num_frames if self.model.kind == "frames" else 1

    @property
    def latent_dim(self) -> int:
        """Dimensions of z, the whole of it."""
        return self.latent_frames * self.model.latent_dim

    @property
    def num_directions(self) -> int:
        """Principal directions of the linear path; 0 where it is left out."""
        return self.model.num_directions if self.model.ppca_clips else 0

    @property
    def pack_samples(self) -> int:
        """Samples kept of each sound: a clip, and what raising its pitch reads beyond it."""
        stretch = 2.0 ** (self.augment.pitch_semitones / 12.0)
        # 8 samples more for the taps of the interpolation.
        return int(self.data.num_samples * stretch) + 8 if stretch > 1 else self.data.num_samples


@lru_cache
def marked(mark: Mark | Range) -> tuple[str, ...]:
    """Dotted names of the fields that have a mark, in their order."""
    return tuple(
        f"{section.name}.{name}"
        for section in dataclasses.fields(Config)
        for name, hint in get_type_hints(section.type, include_extras=True).items()
        if mark in getattr(hint, "__metadata__", ())
    )


def get(config: Config, name: str) -> Any:
    """The value of a dotted field name, such as `train.num_steps`."""
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with other values of some fields, by dotted name."""
    for name, value in values.items():
        section, key = name.split(".")
        changed = dataclasses.replace(getattr(config, section), **{key: value})
        config = dataclasses.replace(config, **{section: changed})
    return config


def to_dict(config: Config) -> dict[str, dict[str, Any]]:
    """The config as nested plain values."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, dict[str, Any]]) -> Config:
    """The inverse of `to_dict`.

    Raises:
      ValueError: names a section or field that this version does not know.
    """
    default = Config()
    known = to_dict(default)
    unknown = [name for name in values if name not in known]
    unknown += [
        f"{name}.{key}" for name in known for key in values.get(name, {}) if key not in known[name]
    ]
    if unknown:
        raise ValueError(f"unknown settings: {', '.join(unknown)}")
    # JSON has lists for tuples.
    sections = {
        name: dataclasses.replace(
            getattr(default, name),
            **{k: tuple(v) if isinstance(v, list) else v for k, v in section.items()},
        )
        for name, section in values.items()
    }
    return dataclasses.replace(default, **sections)


def load(path: Path) -> Config:
    """Reads a config from a file that holds `to_json`."""
    return from_dict(json.loads(path.read_text()))


def to_json(config: Config) -> str:
    """The config as the text that `load` reads."""
    return json.dumps(to_dict(config), indent=2) + "\n"


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted field name -> (old, new) for every field that differs."""
    a, b = to_dict(old), to_dict(new)
    return {
        f"{section}.{key}": (a[section][key], b[section][key])
        for section in a
        for key in a[section]
        if a[section][key] != b[section][key]
    }


def check_resumable(old: Config, new: Config, workdir: Path) -> None:
    """Refuses to go on with the run in `workdir` under settings that would make it another.

    Raises:
      ValueError: names the fields that differ and may not.
    """
    changed = differences(old, new)
    fixed = {name: pair for name, pair in changed.items() if name not in marked(RESUMABLE)}
    if fixed:
        listed = ", ".join(f"{name} was {old!r}, is {new!r}" for name, (old, new) in fixed.items())
        raise ValueError(
            f"{workdir} holds a run with other settings ({listed}); "
            "choose another --workdir, or the settings it began with"
        )
