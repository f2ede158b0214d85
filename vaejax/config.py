"""Every setting of a run: frozen dataclasses, one default each, checked together.

A preset in `configs/` is a `Config` that differs from these defaults in a few fields; the command
line overrides any field (`--train.num_steps 500`). The resolved config is saved as JSON in the run
folder, and `check` refuses combinations that cannot work before anything is decoded or compiled.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

Likelihood = Literal["gaussian", "laplace", "student_t", "von_mises", "multi_resolution_stft"]
Inversion = Literal["auto", "pghi", "spsi", "derivative", "peaks", "griffin_lim", "zero"]


@dataclass(frozen=True)
class Data:
    """Which sounds, and how a file becomes a clip."""

    source: Annotated[str, tyro.conf.arg(aliases=["--data"])] = "synth"
    """Folder of sounds (any depth; the label of a sound is its folder's name), or `synth`, the
    built-in synthesiser."""
    sample_rate: int = 44_100
    """Hz; files of another rate are resampled."""
    clip_seconds: float = 1.0
    """Seconds; longer sounds are cropped with a fade, shorter ones padded with silence."""
    trim_db: float = -60.0
    """dB below a sound's peak; what comes before the first sample above it is cut off."""
    fade_ms: float = 10.0
    """Milliseconds of fade-out where a sound is cut at the end of the clip."""
    holdout_fraction: float = 0.1
    """Share of the sounds that is never trained on."""
    holdout_by: Literal["hash", "pitch", "label"] = "hash"
    """How they are chosen: `hash` sound by sound, by a hash of each file; `pitch` whole pitches
    (see pitch_pattern) and `label` whole labels, so that none of their sounds is trained on."""
    synth_count: int = 2048
    """Sounds in the built-in set."""
    synth_seed: int = 0
    """Seed of the built-in set."""
    cache_dir: str | None = None
    """Folder for decoded sounds; by default $VAEJAX_CACHE, $XDG_CACHE_HOME/vaejax or
    ~/.cache/vaejax."""
    num_workers: int | None = None
    """Threads that decode files; by default one per core."""
    pitch_pattern: str | None = None
    r"""Regular expression for the pitch in a sound's path, with a group named `pitch` that holds a
    MIDI number (60 = C4) or a name such as C#4: `_(?P<pitch>\d+)_` for piano_060_soft.wav."""
    nsynth_label: Literal["family", "source", "instrument"] = "family"
    """What labels a sound of a folder in NSynth's layout (examples.json beside audio/)."""
    estimate_pitch: bool = False
    """Measure the pitch of sounds of which it is not known otherwise."""
    device_budget_mb: int = 2048
    """Megabytes of int16 clips that may live on the device; a larger set stays in host memory and
    is sent batch by batch."""

    @property
    def num_samples(self) -> int:
        """Samples in a clip."""
        return round(self.clip_seconds * self.sample_rate)


@dataclass(frozen=True)
class Features:
    """What the model sees of a sound."""

    kind: Literal["power"] = "power"
    """`power`: STFT magnitude ** exponent."""
    n_fft: int = 2048
    """Samples in an STFT window (Hann) and in its transform."""
    hop_length: int = 512
    """Samples between STFT frames."""
    exponent: float = 0.3
    """Of `power`. Decibels look better before the inversion and sound
    worse after it: averages in dB fill the gaps between partials."""

    @property
    def num_bins(self) -> int:
        """Frequency bins."""
        return self.n_fft // 2 + 1


@dataclass(frozen=True)
class Augment:
    """Random changes of a training sound, drawn anew at each visit."""

    gain_db: float = 1.0
    """dB; the level of a clip is lowered by a uniform draw from [0, gain_db]."""
    shift_ms: float = 1.0
    """Milliseconds; the start of a clip is delayed by a uniform draw from [0, shift_ms]."""
    pitch_semitones: int = 2
    """The clip is resampled by a whole number of semitones drawn from [-this, this], which moves
    its pitch and its length. Whole ones, because tuned sounds keep to them."""
    pitch_probability: float = 0.5
    """Share of the visits at which the pitch moves."""


@dataclass(frozen=True)
class Model:
    """Encoder and decoder, and the linear path that they correct, which is probabilistic PCA."""

    kind: Literal["conv1d", "frames"] = "conv1d"
    """`conv1d`: residual 1-D convolutions over time, bins as channels, and a perceptron between z
    and principal directions. `frames`: a perceptron on every STFT frame by itself; z is a path,
    and paths of any length become sounds."""
    latent_dim: int = 64
    """Dimensions of z; of `frames`, at each frame."""
    width: int = 128
    """Channels of the convolutions."""
    num_stages: int = 3
    """Times that the encoder halves (and the decoder doubles) the number of frames."""
    num_blocks: int = 1
    """Residual blocks per stage."""
    kernel_size: int = 3
    """Frames that a convolution sees."""
    num_directions: int = 256
    """Principal directions that the perceptron reads and writes; at least latent_dim."""
    dense_width: int = 1024
    """Units of the perceptron's hidden layers."""
    dense_depth: int = 2
    """Hidden layers of the perceptron."""
    ppca_clips: int = 1536
    """Training clips, augmented ones included, that the linear path is fitted on; 0 leaves the
    linear path out."""
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
    dropout: float = 0.1
    """Share of the visits at which nothing is told, and share of the rest at which each fact is
    kept back, so that the model also works without."""


@dataclass(frozen=True)
class Objective:
    """What is minimised: by default the negative ELBO. Names are those of `objectives.py`."""

    beta: float = 1.0
    """Weight of the KL term; 1 is the evidence lower bound."""
    schedule: Literal["linear", "cyclical"] = "linear"
    """How the weight grows: `linear` from 0 over beta_warmup_steps, once; `cyclical` again and
    again, every beta_cycle_steps (Fu et al. 2019)."""
    beta_warmup_steps: int = 0
    """Steps over which the weight grows from 0 to beta (of `capacity`: the nats asked for)."""
    beta_cycle_steps: int = 0
    """Steps of a cycle of `cyclical`, the rise included."""
    bound: Literal["elbo", "iwae", "dreg"] = "elbo"
    """`elbo`; `iwae`, tighter, of num_draws draws per sound (Burda et al. 2016); `dreg`, the same
    with a gradient for the encoder that does not fade (Tucker et al. 2019)."""
    num_draws: int = 8
    """Draws of z per sound of `iwae` and `dreg`, each of which is decoded."""
    likelihood: Likelihood = "gaussian"
    """p(x|z). `laplace` and `student_t` forgive large errors; `von_mises` is for the channels that
    are angles, beside a Gaussian for the others; `multi_resolution_stft` compares sounds, not x."""
    sigma: Literal["shared", "per_bin", "optimal", "fixed"] = "shared"
    """Its scale: learned, one for all values or one per bin; the best one of each sound in closed
    form (Rybkin et al. 2021); or fixed_sigma."""
    fixed_sigma: float = 1.0
    """Of `fixed`, in units of x, whose standard deviation is 1."""
    degrees_of_freedom: float = 4.0
    """Of `student_t`; the more, the nearer to a Gaussian."""
    prior: Literal["standard", "mixture", "vampprior", "hierarchical"] = "standard"
    """p(z): N(0, I); or learned: a Gaussian mixture, the posteriors of learned pseudo-inputs
    (Tomczak & Welling 2018), or a second level of latents above z (Burda et al. 2016)."""
    prior_components: int = 64
    """Gaussians of `mixture`, pseudo-inputs of `vampprior`."""
    top_dim: int = 8
    """Dimensions of the level above z of `hierarchical`."""
    posterior: Literal["gaussian", "flow"] = "gaussian"
    """q(z|x): a Gaussian with a diagonal covariance, or that bent by coupling layers (Dinh et al.
    2017)."""
    flow_layers: int = 4
    """Coupling layers of `flow`."""
    latent_width: int = 64
    """Hidden units of the perceptrons of `hierarchical` and `flow`."""
    regularizer: Literal["kl", "free_bits", "capacity", "tc", "mmd"] = "kl"
    """What stands beside the reconstruction: beta KL; the same where each dimension has
    `free_bits` for nothing (Kingma et al. 2016); beta times how far KL is from `capacity` (Burgess
    et al. 2018); beta KL and tc_weight times the total correlation of z (Chen et al. 2018); beta KL
    and mmd_weight times the maximum mean discrepancy between q(z) and p(z) (Zhao et al. 2019)."""
    free_bits: float = 0.25
    """Nats per dimension of z that `free_bits` does not charge for."""
    capacity: float = 100.0
    """Nats per sound that `capacity` holds KL at."""
    tc_weight: float = 5.0
    """Of `tc`; the beta of Chen et al. is this plus `beta`."""
    mmd_weight: float = 1000.0
    """Of `mmd`, in nats."""


@dataclass(frozen=True)
class Train:
    """The loop."""

    num_steps: int = 500
    """Steps in all; a finished run goes on when this is raised."""
    batch_size: int = 32
    """Clips per step; may exceed the number of clips."""
    seed: int = 0
    """Seed of the weights, of the order of the clips and of every random draw."""
    steps_per_dispatch: int = 1
    """Steps in one compiled call (`lax.scan`); pays where a step is short beside its dispatch."""
    learning_rate: float = 1e-3
    """Peak of the schedule."""
    warmup_steps: int = 20
    """Steps of linear warm-up."""
    final_learning_rate: float = 0.02
    """Share of the peak that the cosine decay ends at."""
    weight_decay: float = 0.0
    """Of AdamW, per unit of learning rate."""
    clip_norm: float = 1.0
    """Largest norm of the gradient, in nats per feature value."""
    ema_decay: float = 0.98
    """Per step; the averaged weights are the ones that are evaluated and sampled from."""
    log_every_steps: int = 10
    """Steps between lines of metrics."""
    eval_every_steps: int = 100
    """Steps between measurements on the held-out sounds."""
    save_every_steps: int = 100
    """Steps between checkpoints: what a lost connection costs at most."""
    eval_clips: int = 256
    """Held-out sounds measured at an evaluation, at most."""
    board_clips: int = 4
    """Held-out sounds drawn and played in TensorBoard at an evaluation."""


@dataclass(frozen=True)
class Prior:
    """The density that new latents are drawn from, fitted to the aggregate posterior."""

    max_components: int = 16
    """Components of the Gaussian mixture, at most; the number is chosen by held-out likelihood."""
    max_clips: int = 4096
    """Training sounds that it is fitted on, at most."""


@dataclass(frozen=True)
class Sound:
    """From the model's output to a sound."""

    inversion: Inversion = "auto"
    """Start of the phase recovery; `auto` picks it from n_fft and hop_length."""
    iterations: int | None = 2
    """Griffin-Lim iterations after the start; None takes what is usual for `inversion`. On a
    model's magnitudes more than two change nothing that can be measured."""
    peak_db: float = -1.0
    """dB below full scale; every sound is scaled to this peak."""
    fade_out_ms: float = 5.0
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
        """Shape of what the model sees of a clip, time first."""
        return (self.num_frames, self.features.num_bins)

    @property
    def latent_frames(self) -> int:
        """Latents in a row that make up z: one for each frame of the `frames` model, else 1."""
        return self.num_frames if self.model.kind == "frames" else 1

    @property
    def latent_dim(self) -> int:
        """Dimensions of z, the whole of it."""
        return self.latent_frames * self.model.latent_dim

    @property
    def pack_samples(self) -> int:
        """Samples kept of each sound: a clip, and what raising its pitch reads beyond it."""
        stretch = 2.0 ** (self.augment.pitch_semitones / 12.0)
        # 8 samples more for the taps of the interpolation.
        return int(self.data.num_samples * stretch) + 8 if stretch > 1 else self.data.num_samples


# A run goes on under another value of these. Those of the loop change what is measured and when;
# a larger num_steps stretches the learning rate's schedule from there on; the source may be the
# same sounds under another path, which their fingerprint decides.
RESUMABLE = frozenset(
    {
        "data.source",
        "data.cache_dir",
        "data.num_workers",
        "train.num_steps",
        "train.log_every_steps",
        "train.eval_every_steps",
        "train.save_every_steps",
        "train.board_clips",
        "sound.inversion",
        "sound.iterations",
        "sound.peak_db",
        "sound.fade_out_ms",
    }
)


POSITIVE = (
    "data.sample_rate",
    "data.clip_seconds",
    "data.synth_count",
    "data.device_budget_mb",
    "features.n_fft",
    "features.hop_length",
    "features.exponent",
    "model.latent_dim",
    "model.width",
    "model.num_blocks",
    "model.kernel_size",
    "model.num_directions",
    "model.dense_width",
    "model.dense_depth",
    "objective.num_draws",
    "objective.fixed_sigma",
    "objective.degrees_of_freedom",
    "objective.prior_components",
    "objective.top_dim",
    "objective.flow_layers",
    "objective.latent_width",
    "train.num_steps",
    "train.batch_size",
    "train.steps_per_dispatch",
    "train.learning_rate",
    "train.clip_norm",
    "train.log_every_steps",
    "train.eval_every_steps",
    "train.save_every_steps",
    "train.eval_clips",
    "prior.max_components",
    "prior.max_clips",
)
NOT_NEGATIVE = (
    "data.fade_ms",
    "augment.gain_db",
    "augment.shift_ms",
    "augment.pitch_semitones",
    "model.num_stages",
    "model.ppca_clips",
    "objective.beta",
    "objective.beta_warmup_steps",
    "objective.beta_cycle_steps",
    "objective.free_bits",
    "objective.capacity",
    "objective.tc_weight",
    "objective.mmd_weight",
    "train.seed",
    "train.warmup_steps",
    "train.weight_decay",
    "train.board_clips",
    "sound.fade_out_ms",
    "data.synth_seed",
)


def check(config: Config) -> None:
    """Refuses a config that cannot work.

    Raises:
      ValueError: names the fields, their values and a value that would do.
    """
    data, features, model, train = config.data, config.features, config.model, config.train

    def require(holds: bool, message: str) -> None:
        if not holds:
            raise ValueError(message)

    _check_names(config)
    for name in POSITIVE:
        value = get(config, name)
        require(value > 0, f"{name}={value} must be greater than 0")
    for name in NOT_NEGATIVE:
        value = get(config, name)
        require(value >= 0, f"{name}={value} must not be negative")

    require(
        0 < data.holdout_fraction <= 0.5,
        f"data.holdout_fraction={data.holdout_fraction} must lie in (0, 0.5]",
    )
    told = config.condition
    require(0 <= told.dropout < 1, f"condition.dropout={told.dropout} must lie in [0, 1)")
    for name in ("label", "pitch", "chroma"):
        require(
            name not in told.factors,
            f"condition.factors: {name} has a setting of its own, --condition.{name}",
        )
    if data.pitch_pattern is not None:
        try:
            groups = re.compile(data.pitch_pattern).groupindex
        except re.error as error:
            raise ValueError(
                f"data.pitch_pattern={data.pitch_pattern!r} is no regular expression: {error}"
            ) from None
        require(
            "pitch" in groups,
            f"data.pitch_pattern={data.pitch_pattern!r} needs a group named pitch: (?P<pitch>...)",
        )
    require(
        0 <= config.augment.pitch_probability <= 1,
        f"augment.pitch_probability={config.augment.pitch_probability} must lie in [0, 1]",
    )
    for name, fade_ms in (
        ("data.fade_ms", data.fade_ms),
        ("sound.fade_out_ms", config.sound.fade_out_ms),
    ):
        require(
            fade_ms * 1e-3 <= data.clip_seconds,
            f"{name}={fade_ms} is longer than a clip of data.clip_seconds={data.clip_seconds}",
        )
    require(data.trim_db < 0, f"data.trim_db={data.trim_db} must be negative (dB below the peak)")
    require(0 <= train.ema_decay < 1, f"train.ema_decay={train.ema_decay} must lie in [0, 1)")
    require(
        0 <= train.final_learning_rate <= 1,
        f"train.final_learning_rate={train.final_learning_rate} is a share of the peak, in [0, 1]",
    )
    require(
        config.sound.peak_db <= 0,
        f"sound.peak_db={config.sound.peak_db} must be at most 0 (dB below full scale)",
    )
    require(features.n_fft % 2 == 0, f"features.n_fft={features.n_fft} must be even")
    require(
        2 * features.hop_length <= features.n_fft,
        f"features.hop_length={features.hop_length} is more than half of features.n_fft="
        f"{features.n_fft}: Hann windows would not overlap enough to rebuild the sound; "
        f"try {features.n_fft // 4}",
    )
    require(
        data.num_samples >= features.n_fft,
        f"a clip of data.clip_seconds={data.clip_seconds} at {data.sample_rate} Hz has "
        f"{data.num_samples} samples, fewer than features.n_fft={features.n_fft}; try "
        f"--data.clip_seconds {features.n_fft / data.sample_rate:.3f} or more, or a smaller n_fft",
    )
    if model.kind == "frames":
        _check_frames(config, require)
    stride = 2**model.num_stages
    require(
        model.kind != "conv1d" or config.num_frames >= 2 * stride,
        f"model.num_stages={model.num_stages} halves the frames {model.num_stages} times, but a "
        f"clip has {config.num_frames} frames; at least {2 * stride} are needed: a clip of "
        f"{(2 * stride - 1) * features.hop_length / data.sample_rate:.3f} s or more, or "
        f"num_stages {max(0, (config.num_frames // 2).bit_length() - 1)}",
    )
    require(model.kernel_size % 2 == 1, f"model.kernel_size={model.kernel_size} must be odd")
    values = math.prod(config.shape) // config.latent_frames
    require(
        model.latent_dim < values,
        f"model.latent_dim={model.latent_dim} must be smaller than the {values} feature values",
    )
    require(
        model.num_directions >= model.latent_dim,
        f"model.num_directions={model.num_directions} must be at least model.latent_dim="
        f"{model.latent_dim}; try {4 * model.latent_dim}",
    )
    require(
        model.ppca_clips == 0 or model.ppca_clips > model.num_directions,
        f"model.ppca_clips={model.ppca_clips} must exceed model.num_directions="
        f"{model.num_directions}; try {4 * model.num_directions}",
    )
    _check_objective(config)
    for name in ("log_every_steps", "eval_every_steps", "save_every_steps", "num_steps"):
        value = getattr(train, name)
        require(
            value % train.steps_per_dispatch == 0,
            f"train.{name}={value} must be a multiple of train.steps_per_dispatch="
            f"{train.steps_per_dispatch}; try "
            f"{-(-value // train.steps_per_dispatch) * train.steps_per_dispatch}",
        )
    require(
        train.num_steps * train.batch_size < 2**32,
        f"train.num_steps={train.num_steps} x train.batch_size={train.batch_size} must stay below "
        "2^32 clips",
    )


def _check_names(config: Config) -> None:
    """Refuses a name that is none of those that a field can have, from wherever it came."""
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        for name, hint in get_type_hints(type(values)).items():
            value = getattr(values, name)
            if get_origin(hint) is Literal and value not in get_args(hint):
                known = ", ".join(get_args(hint))
                raise ValueError(f"{section.name}.{name}={value!r} is none of: {known}")


def _check_objective(config: Config) -> None:
    objective = config.objective

    def require(holds: bool, message: str) -> None:
        if not holds:
            raise ValueError(message)

    require(
        objective.schedule != "cyclical"
        or 0 < objective.beta_warmup_steps <= objective.beta_cycle_steps,
        f"objective.schedule=cyclical needs a rise within each cycle, but beta_warmup_steps="
        f"{objective.beta_warmup_steps} and beta_cycle_steps={objective.beta_cycle_steps}; try "
        f"{config.train.num_steps // 8} and {config.train.num_steps // 4}",
    )
    if objective.bound != "elbo":
        require(
            objective.regularizer == "kl",
            f"objective.bound={objective.bound} has no room for objective.regularizer="
            f"{objective.regularizer}; leave it at kl, or take the bound elbo",
        )
    require(
        objective.bound != "dreg" or objective.prior != "hierarchical",
        "objective.bound=dreg is for one level of latents; with objective.prior=hierarchical, take "
        "iwae",
    )
    require(
        objective.regularizer != "tc" or objective.posterior == "gaussian",
        "objective.regularizer=tc needs the density of one dimension at a time, which "
        "objective.posterior=flow does not have; take gaussian",
    )
    require(
        objective.sigma != "optimal" or objective.likelihood in ("gaussian", "laplace"),
        f"objective.sigma=optimal is in closed form for gaussian and laplace, not for "
        f"objective.likelihood={objective.likelihood}; take shared",
    )
    require(
        objective.sigma != "per_bin" or objective.likelihood != "multi_resolution_stft",
        "objective.likelihood=multi_resolution_stft is one distance, without bins; take "
        "objective.sigma=shared",
    )
    require(
        objective.prior != "hierarchical" or objective.top_dim <= config.latent_dim,
        f"objective.top_dim={objective.top_dim} must be at most the {config.latent_dim} dimensions "
        "of z",
    )


def _check_frames(config: Config, require: Callable[[bool, str], None]) -> None:
    model = config.model
    require(
        len(config.shape) > 1 and config.shape[0] == config.num_frames,
        f"model.kind=frames needs spectra, which features.kind={config.features.kind} has not; "
        "try --features.kind power",
    )
    require(
        len(model.frame_widths) > 0 and min(model.frame_widths) > 0,
        f"model.frame_widths={model.frame_widths} must be one or more numbers above 0",
    )
    require(
        model.bottleneck == "linear" or model.ppca_clips == 0,
        f"model.bottleneck={model.bottleneck} goes without the linear path, which would lead "
        "around it: add --model.ppca_clips 0",
    )
    require(
        model.variational or config.objective.beta == 0,
        f"model.no_variational makes a plain autoencoder, which has no KL term, but "
        f"objective.beta={config.objective.beta:g}: add --objective.beta 0",
    )


def get(config: Config, name: str) -> Any:
    """The value of a dotted field name, such as `train.num_steps`."""
    section, key = name.split(".")
    return getattr(getattr(config, section), key)


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
