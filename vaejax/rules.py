"""What a config must keep to: the ranges of its fields, and rules for several fields together.

`check` refuses what cannot work before anything is decoded or compiled.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

from tyro.constructors import PrimitiveConstructorSpec

from vaejax.config import MEL_KINDS, Config, Family, Range, get


def check(config: Config) -> None:
    """Refuses a config that cannot work.

    Raises:
      ValueError: names the fields, their values and a value that would do.
    """
    # Imported here: it takes JAX, and seconds.
    from vaejax.objective import context

    for rule in (_names, _ranges, *RULES, context.problem):
        if text := rule(config):
            raise ValueError(text)


def rule(
    holds: Callable[[Config], bool],
    message: str,
    values: Callable[[Config], dict[str, Any]] = lambda c: {},
) -> Callable[[Config], str | None]:
    """A rule for several fields.

    Args:
      message: where it does not hold. In braces: fields by their dotted names, and `values`.
      values: by name, such as what would do instead.
    """

    def broken(config: Config) -> str | None:
        if holds(config):
            return None
        return message.format(**vars(config), **values(config))

    return broken


def _fields(config: Config) -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, value and type with its marks, of every field."""
    for section in dataclasses.fields(config):
        values = getattr(config, section.name)
        for name, hint in get_type_hints(type(values), include_extras=True).items():
            yield f"{section.name}.{name}", getattr(values, name), hint


def _names(config: Config) -> str | None:
    """A name that is none of those that a field can have, from wherever it came."""
    for name, value, hint in _fields(config):
        known = _choices(hint)
        if known and value not in known:
            return f"{name}={value!r} is none of: {', '.join(known)}"
    return None


def _choices(hint: Any) -> tuple[str, ...]:
    """The names that a field of a type can have; none where it has no names."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    specs = (
        m for m in getattr(hint, "__metadata__", ()) if isinstance(m, PrimitiveConstructorSpec)
    )
    return next((spec.choices or () for spec in specs), ())


def _ranges(config: Config) -> str | None:
    for name, value, hint in _fields(config):
        for mark in getattr(hint, "__metadata__", ()):
            if not isinstance(mark, Range):
                continue
            if not mark.holds(value):
                return f"{name}={value} {mark.words}"
            if not math.isfinite(value):
                return f"{name}={value} must be a finite number"
    return None


def _families(config: Config) -> str | None:
    known, chosen = get_args(Family), config.data.synth_families
    for name in chosen:
        if name not in known:
            return f"data.synth_families: no {name!r}; there are {', '.join(known)}"
        if chosen.count(name) > 1:
            return f"data.synth_families names {name} more than once"
    return None


def _pitch_pattern(config: Config) -> str | None:
    pattern = config.data.pitch_pattern
    if pattern is None:
        return None
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        return f"data.pitch_pattern={pattern!r} is no regular expression: {error}"
    if "pitch" not in groups:
        return f"data.pitch_pattern={pattern!r} needs a group named pitch: (?P<pitch>...)"
    return None


def _fmax(config: Config) -> float:
    """Highest edge of the mel bands, in Hz."""
    fmax = config.features.fmax
    return config.data.sample_rate / 2 if fmax is None else fmax


def _most_mels(config: Config) -> int:
    """More bands than that are empty, most of them."""
    hertz = _fmax(config) - config.features.fmin
    return int(hertz * config.features.n_fft / config.data.sample_rate)


def _halvings(config: Config) -> str | None:
    """An axis that the model halves more often than it can be halved."""
    data, features, model = config.data, config.features, config.model
    if model.kind == "frames":
        return None
    # Two positions of an axis at least are left at the last stage.
    least = 2 * 2**model.num_stages
    patch = model.patch if model.kind == "conv2d" else (1, 1)
    of_samples = model.kind == "waveform"
    num_samples = least if of_samples else (least - 1) * patch[0] * features.hop_length
    clip = f"a clip of {math.ceil(num_samples / data.sample_rate * 1e3) / 1e3:.3f} s or more"
    axes = [("samples" if of_samples else "frames", config.shape[0], patch[0], clip)]
    if model.kind == "conv2d":
        bins = (least - 1) * patch[1] + 1
        n_fft = 2 ** math.ceil(math.log2(2 * (bins - 1)))
        is_mel = features.kind in MEL_KINDS
        fix = f"features.n_mels {bins} or more" if is_mel else f"features.n_fft {n_fft} or more"
        axes.append(("mel bands" if is_mel else "bins", config.shape[1], patch[1], fix))
    of_patch = f", model.patch={model.patch} at a time," if patch != (1, 1) else ""
    for axis, size, step, fix in axes:
        if (have := -(-size // step)) < least:
            needed = f"{least}" if step == 1 else f"{least} x {step}"
            return (
                f"model.num_stages={model.num_stages} halves the {axis}{of_patch} "
                f"{model.num_stages} times, but a clip has {size} {axis}; at least {needed} are "
                f"needed: {fix}, or num_stages {max(0, (have // 2).bit_length() - 1)}"
            )
    return None


def _is_frames(c: Config) -> bool:
    return c.model.kind == "frames"


def _num_values(c: Config) -> int:
    """Feature values that one latent is of."""
    return math.prod(c.shape) // c.latent_frames


def _up(number: int, multiple: int) -> int:
    """The least multiple that is no less than a number."""
    return -(-number // multiple) * multiple


def _has_own_setting(name: str):
    return rule(
        lambda c: name not in c.condition.factors,
        f"condition.factors: {name} has a setting of its own, --condition.{name}",
    )


def _fits_a_clip(name: str):
    return rule(
        lambda c: get(c, name) * 1e-3 <= c.data.clip_seconds,
        f"{name}={{{name}}} is longer than a clip of data.clip_seconds={{data.clip_seconds}}",
    )


def _dispatched(name: str):
    return rule(
        lambda c: getattr(c.train, name) % c.train.steps_per_dispatch == 0,
        f"train.{name}={{train.{name}}} must be a multiple of train.steps_per_dispatch="
        "{train.steps_per_dispatch}; try {fits}",
        lambda c: {"fits": _up(getattr(c.train, name), c.train.steps_per_dispatch)},
    )


# Each returns what is wrong with a config, or None; the first that is broken is said.
RULES: tuple[Callable[[Config], str | None], ...] = (
    # The sounds, and what is said of them.
    _families,
    _pitch_pattern,
    rule(
        lambda c: c.augment.eq_db == 0 or "brightness" not in c.condition.factors,
        "augment.eq_db={augment.eq_db:g} changes the brightness that condition.factors tells; "
        "leave one of the two out",
    ),
    *map(_has_own_setting, ("label", "pitch", "chroma")),
    *map(_fits_a_clip, ("data.fade_ms", "sound.fade_out_ms")),
    # The spectrogram.
    rule(
        lambda c: 2 * c.features.hop_length <= c.features.n_fft,
        "features.hop_length={features.hop_length} is more than half of features.n_fft="
        "{features.n_fft}: Hann windows would not overlap enough to rebuild the sound; try {fits}",
        lambda c: {"fits": c.features.n_fft // 4},
    ),
    rule(
        lambda c: c.data.num_samples >= c.features.n_fft,
        "a clip of data.clip_seconds={data.clip_seconds} at {data.sample_rate} Hz has "
        "{data.num_samples} samples, fewer than features.n_fft={features.n_fft}; try "
        "--data.clip_seconds {seconds:.3f} or more, or a smaller n_fft",
        lambda c: {"seconds": c.features.n_fft / c.data.sample_rate},
    ),
    rule(
        lambda c: (
            c.features.kind not in MEL_KINDS
            or 0 <= c.features.fmin < _fmax(c) <= c.data.sample_rate / 2
        ),
        "features.fmin={features.fmin} and features.fmax={fmax} must satisfy 0 <= fmin < fmax <= "
        "{nyquist}, half of data.sample_rate={data.sample_rate}",
        lambda c: {"fmax": _fmax(c), "nyquist": c.data.sample_rate / 2},
    ),
    rule(
        lambda c: c.features.kind not in MEL_KINDS or c.features.n_mels <= _most_mels(c),
        "features.n_mels={features.n_mels} is more than the {most} bins that features.n_fft="
        "{features.n_fft} has from features.fmin={features.fmin} to features.fmax={fmax} Hz; try "
        "{fits}",
        lambda c: {"most": (most := _most_mels(c)), "fmax": _fmax(c), "fits": max(most // 4, 1)},
    ),
    # The model.
    rule(
        lambda c: (c.model.kind == "waveform") == (c.features.kind == "waveform"),
        "model.kind={model.kind} cannot read features.kind={features.kind}: the model waveform "
        "goes with the features waveform, and other models with other features; try {fits}",
        lambda c: {
            "fits": "--features.kind waveform"
            if c.model.kind == "waveform"
            else "--model.kind waveform, or --features.kind power"
        },
    ),
    rule(
        lambda c: _is_frames(c) or min(c.model.patch) >= 1,
        "model.patch={model.patch} must be two numbers greater than 0",
    ),
    _halvings,
    rule(
        lambda c: not _is_frames(c) or (len(c.shape) > 1 and c.shape[0] == c.num_frames),
        "model.kind=frames needs spectra, which features.kind={features.kind} has not; try "
        "--features.kind power",
    ),
    rule(
        lambda c: not _is_frames(c) or min(c.model.frame_widths, default=0) > 0,
        "model.frame_widths={model.frame_widths} must be one or more numbers above 0",
    ),
    rule(
        lambda c: not _is_frames(c) or c.model.bottleneck == "linear" or c.model.ppca_clips == 0,
        "model.bottleneck={model.bottleneck} goes without the linear path, which would lead around "
        "it: add --model.ppca_clips 0",
    ),
    rule(
        lambda c: not _is_frames(c) or c.model.variational or c.objective.beta == 0,
        "model.no_variational makes a plain autoencoder, which has no KL term, but objective.beta="
        "{objective.beta:g}: add --objective.beta 0",
    ),
    rule(
        lambda c: c.model.latent_dim < _num_values(c),
        "model.latent_dim={model.latent_dim} must be smaller than the {num} feature values",
        lambda c: {"num": _num_values(c)},
    ),
    rule(
        lambda c: c.model.ppca_clips == 0 or c.model.num_directions >= c.model.latent_dim,
        "model.num_directions={model.num_directions} must be at least model.latent_dim="
        "{model.latent_dim}; try {fits}",
        lambda c: {"fits": 4 * c.model.latent_dim},
    ),
    rule(
        lambda c: c.model.ppca_clips == 0 or c.model.ppca_clips > c.model.num_directions,
        "model.ppca_clips={model.ppca_clips} must exceed model.num_directions="
        "{model.num_directions}; try {fits}",
        lambda c: {"fits": 4 * c.model.num_directions},
    ),
    rule(
        lambda c: c.model.num_refinements == 0 or (not _is_frames(c) and c.model.ppca_clips > 0),
        "model.num_refinements={model.num_refinements} needs the perceptron between z and "
        "principal directions, which model.kind=frames and model.ppca_clips=0 go without; leave it "
        "at 0",
    ),
    # The loop.
    *map(_dispatched, ("log_every_steps", "eval_every_steps", "save_every_steps", "num_steps")),
    rule(
        lambda c: c.train.batch_size % c.train.grad_accumulation == 0,
        "train.batch_size={train.batch_size} must be a multiple of train.grad_accumulation="
        "{train.grad_accumulation}; try {fits}",
        lambda c: {"fits": _up(c.train.batch_size, c.train.grad_accumulation)},
    ),
    rule(
        lambda c: c.train.num_steps * c.train.batch_size < 2**32,
        "train.num_steps={train.num_steps} x train.batch_size={train.batch_size} must stay below "
        "2^32 clips",
    ),
)
