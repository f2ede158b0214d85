"""The options of sample.py, and what those written as text say. Needs no JAX."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vaejax.config import Inversion
from vaejax.devices import hosts
from vaejax.keys import Keys, parse_keys
from vaejax.sampling.curation import Rules
from vaejax.tables import one_of

# --attribute A B --attribute C
Attributes = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]


@dataclass(frozen=True)
class Options:
    """Options of sample.py."""

    workdir: Path = Path("runs/default")
    """Run folder of train.py."""
    out: Path = Path("samples")
    """Folder for the sounds; made if need be, refused if it holds sounds already. The same command
    goes on with a run that was interrupted."""
    overwrite: bool = False
    """Replace the files that an earlier run of this program left in `out`."""
    num: int | None = None
    """Sounds; 64 by default."""
    seed: int = 0
    """Seed of the draws."""
    temperature: float | None = None
    """Spread of the draws, 1 by default; below 1 nearer to what is typical (with a prior of
    windows: to single training sounds), above 1 stranger."""
    prior: Annotated[str, one_of("latent/priors.py:PRIORS", "aggregate", "standard")] = "aggregate"
    """`aggregate`: where the training sounds lie in the latent, by the likeliest of the other
    densities; `standard`: the objective's own prior, N(0, I) unless it was learned."""
    label: str | None = None
    """Draw from the region of the training sounds of this folder."""
    pitch: str | None = None
    """A key or a range of keys, 60 or C4 or 36-84, for a model that was told pitches
    (--condition.pitch of train.py): sound i has the i-th of them, over and over."""
    tell: Attributes = ()
    """NAME=VALUE, such as decay=0.5: other facts that the model was told (--condition.factors of
    train.py). Takes several, and may be repeated."""
    multisample: bool = False
    """With --pitch: --num sounds, each played at every key."""
    around: Path | None = None
    """Draw variations of this sound file."""
    spread: float = 0.5
    """Of --around: 0 stays at the sound, 1 wanders as far as the training set is wide."""
    between: tuple[Path, Path] | None = None
    """Two sound files; the sounds lead from the first to the second in equal steps."""
    path: Literal["straight", "spherical"] | None = None
    """Of --between: `straight` through the latent, the default, or `spherical`, along a great
    circle around where the training sounds lie, so that the middle is as typical as the ends."""
    morph: float | None = None
    """With --between, of a model of frames (preset canne): one sound of so many seconds, which
    moves from the first to the second."""
    hold: float | None = None
    """Of a model of frames: every sound becomes a seamless loop of so many seconds, which holds
    one of its moments."""
    at: str | None = None
    """Of --hold and --morph: the moment that is held, in seconds from the start of a sound; its
    loudest by default. Of --morph also `moving`: both sounds go on, stretched to its length."""
    grid: tuple[Path, Path, Path, Path] | None = None
    """Four sound files; the sounds make a map between them, row by row, with the first two as its
    upper corners and the others as its lower ones."""
    reconstruct: Path | None = None
    """A sound file or a folder, sent through the model; names and subfolders are kept."""
    match: Path | None = None
    """A sound file; makes the one sound that a search through the latent finds nearest to it."""
    latents: Path | None = None
    """A .npy file [num, latent_dim] to decode, such as the latents.npy of an earlier folder; of a
    model of frames, also one path of any length [num_steps, latent_dim of a frame]."""
    redo: Path | None = None
    """The manifest.jsonl of an earlier folder, or a starred list out of its contact sheet, in that
    folder; makes those sounds again, bit for bit unless told otherwise: another --format,
    --subtype, --inversion, --iterations or --temperature."""
    index: tuple[int, ...] = ()
    """Of --redo: which sounds, by their index in the manifest; all by default."""
    attribute: Attributes = ()
    """NAME=AMOUNT, such as brighter=+1: changes what is made. NAME: brighter, noisier, slower (of
    attack), longer, in standard deviations over the training sounds, where 0 holds it as it is; or
    a label, where 1 is the way from all others to it. Takes several, and may be repeated."""
    rules: Annotated[Rules, tyro.conf.arg(name="")] = field(default_factory=Rules)
    inversion: Inversion | None = None
    """Phase recovery; by default as the run's config says."""
    iterations: int | None = None
    """Griffin-Lim iterations after its start; by default as the run's config says, and 32 for
    --inversion griffin_lim and zero."""
    format: Literal["wav", "flac"] | None = None
    """Of the files, wav by default."""
    subtype: Literal["PCM_16", "PCM_24", "FLOAT"] | None = None
    """Of the samples in the files, PCM_16 by default; FLAC has no FLOAT."""
    dither: Literal["tpdf", "none"] | None = None
    """Of PCM_16, tpdf by default: noise of a step's size, added before rounding, so that quiet
    sounds and fades do not distort; the same sound gets the same noise."""
    sample_rate: int | None = None
    """Hz of the files, by resampling; by default that of the run."""
    level: str | None = None
    """Peak (-1dBFS) or loudness (-14LUFS, ITU-R BS.1770) of every sound; by default the peak that
    the run's config says, which no sound exceeds to meet a loudness."""
    fade_out: float | None = None
    """Milliseconds of fade at the end of every sound; by default as the run's config says."""
    trim_silence: float | None = None
    """dB below a sound's peak, such as -60; an end that stays below is cut off, faded. By default
    all sounds are as long as the run's clips."""
    loop: bool = False
    """Look for a seamless loop in every sound that sustains; WAVs say it in their smpl chunk, with
    the pitch, the manifest with how well it closes, or why there is none."""
    names: Literal["index", "label"] = "index"
    """`index`: 00017.wav. `label`: bass_C2_00017.wav, with the label (or that of the nearest
    training sound) and the note (C4 is MIDI 60, Cs4 is 61) where there is one."""
    sfz: bool = False
    """Write SFZ instruments, one for each label (or label of the nearest training sound): sounds
    with a pitch over the keyboard, others as a kit from C2 up."""
    zip: bool = False
    """Pack everything into OUT.zip beside the folder."""
    batch_size: int | None = None
    """Sounds that go to the writers together, rounded up to a multiple of what the device works on
    at a time; by default as many as its memory has room for. Changes speed and memory, not the
    sounds."""
    distributed: hosts.Distributed = field(default_factory=hosts.Distributed)
    debug: bool = False
    """Show where an error arose."""

    @property
    def keys(self) -> Keys | None:
        """Those of --pitch."""
        return None if self.pitch is None else parse_keys(self.pitch)

    @property
    def factors(self) -> dict[str, float]:
        """Those of --tell, by name."""
        return _amounts(self.tell, "--tell", "decay=0.5")

    @property
    def amounts(self) -> dict[str, float]:
        """Those of --attribute, by name."""
        return _amounts(self.attribute, "--attribute", "brighter=+1")

    @property
    def moment(self) -> float | Literal["moving"] | None:
        """Of --at, in seconds."""
        if self.at is None:
            return None
        if self.at == "moving":
            if self.morph is None:
                raise ValueError("--at moving goes with --morph: what is held does not move")
            return "moving"
        try:
            seconds = float(self.at)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise ValueError(f"--at {self.at} must be a moment in seconds, or moving for --morph")
        return seconds


def _amounts(options: Attributes, flag: str, example: str) -> dict[str, float]:
    """NAME=NUMBER ..., by name."""
    amounts: dict[str, float] = {}
    for given in (given for together in options for given in together or ("",)):
        name, _, number = given.rpartition("=")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not name or not math.isfinite(amount):
            raise ValueError(f"{flag} {given!r} must be NAME=NUMBER, such as {example}")
        if name in amounts:
            raise ValueError(f"{flag} gives {name} twice")
        amounts[name] = amount
    return amounts
