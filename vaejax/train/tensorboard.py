"""What TensorBoard shows of a run, all of it in the run folder's `tensorboard/`.

SCALARS, TIME SERIES   first how far held-out sounds are off as audio; the two terms of the loss,
                       and the figures of the weights that are kept
IMAGES, AUDIO          the same held-out sounds at each evaluation, and new ones
HISTOGRAMS             KL per dimension, and how the posteriors of all held-out sounds lie
PROJECTOR              the latents of the training sounds, with labels and spectrograms
HPARAMS                the settings beside the figures of the weights that are kept
TEXT                   the resolved config, what to look for, and what the last evaluation says
"""

import functools
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from vaejax import config as configs
from vaejax import files
from vaejax.config import Config
from vaejax.drawing import figures, picture

# Where PyTorch is installed the library imports it, for seconds, to know tensors; there are none
# here.
_unloaded = "torch" not in sys.modules
if _unloaded:
    sys.modules["torch"] = None  # type: ignore[assignment]
try:
    from tensorboardX import embedding, summary
    from tensorboardX.proto.event_pb2 import Event, SessionLog
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import masked_crc32c
finally:
    if _unloaded:
        del sys.modules["torch"]

# New sounds shown while training come from another density than those of sample.py.
NEW = "new_sounds_of_one_gaussian"
NEW_CAPTION = (
    "drawn from one Gaussian over the held-out sounds; the prior that sample.py draws from is "
    "fitted when training ends"
)
# A name that sorts before those with a date: TensorBoard reads the files of a run in that order,
# and goes back to none.
HPARAMS_FILE = "events.out.tfevents.0000000000.hparams"
# Training sounds in the projector, at most: it lays them out in the browser.
PROJECTOR_POINTS = 1024
# Held-out audio, by which a run is judged.
AUDIO_ERROR = "mel_l1_db"
BEST = ("loss", "recon", "kl", "active_units", "mel_l1_db", "lsd_db")
# Edges of the histograms that TensorBoard itself makes.
_EDGES = 1e-12 * 1.1 ** np.arange(774)
BINS = np.concatenate([-_EDGES[::-1], [0.0], _EDGES])
GUIDE = """
**loss** is *recon* + beta x *kl*, in nats per sound; lower is better. It may be negative.

- **recon**: how badly the rebuilt spectrogram fits the original.
- **kl**: what the latent costs: how far the posteriors of the sounds are from the prior.
- **audio_error/mel_l1_db**, also **held_out/mel_l1_db**: the same sounds as audio, in dB between
  original and reconstruction, after the phase was recovered. The figure to judge by.
- **train/...** are of the training step, **held_out/...** of sounds that are never trained on,
  **best/...** of the weights that are kept and sampled from.

**Collapse** is the failure to look out for: the decoder stops listening to the latent, and every
draw becomes the same average sound. You see it in *kl* near 0, in bars at 0 under
*held_out/kl_per_dim*, in *active_units* far below the dimensions of z, in *mutual_information* near
0, and in new sounds that are all alike. Lower `--objective.beta`, let it grow slowly with
`--objective.beta_warmup_steps`, or take fewer dimensions with `--model.latent_dim`.

- **held_out/mutual_information** and **held_out/marginal_kl** are the two parts of *kl*: what z
  says of a sound, in nats (an estimate, at most the logarithm of the number of held-out sounds),
  and how far all posteriors together are from the prior.
- **held_out/explained**: share of the variance around the mean sound that is rebuilt; beside it
  **held_out/explained_by_pca**, with as many dimensions.

**Overfitting** is the other: *held_out/loss* rises while *train/loss* falls. The best weights are
kept, so nothing is lost but time; more sounds help, or stronger `--augment` settings.
"""


def _spares_training(method: Callable[..., None]) -> Callable[..., None]:
    """A method of a board that ends the board where it fails, and never the training."""

    @functools.wraps(method)
    def spared(board: "Board", *args, **kwargs) -> None:
        if not board.writes:
            return
        try:
            method(board, *args, **kwargs)
        except Exception as error:
            board.writes = False
            _warn(error)

    return spared


def _warn(error: Exception) -> None:
    reason = " ".join(str(error).split()) or type(error).__name__
    tqdm.write(f"warning: nothing more for TensorBoard from here on: {reason}", file=sys.stderr)


class Board:
    """Writes one run's events, each at once: no queue or thread that a full disk could block."""

    def __init__(self, workdir: Path, config: Config, start_step: int, *, write: bool = True):
        """Opens the log; events after start_step, of a run that was killed, are hidden.

        Args:
          write: False for one that takes everything and writes nothing.
        """
        self.config = config
        self.writes = write
        """Whether it still does: what cannot be written ends the board, and is said."""
        self._file: IO[bytes] | None = None
        self._advised = ""
        self._open(workdir / "tensorboard", start_step)

    @_spares_training
    def _open(self, folder: Path, start_step: int) -> None:
        _save_hparams(folder, self.config)
        self._file = open(_new_file(folder), "wb", buffering=0)  # noqa: SIM115
        self._write(Event(file_version="brain.Event:2"))
        restart = SessionLog(status=SessionLog.START)
        self._write(Event(step=start_step + 1 if start_step else 0, session_log=restart))
        # Also when a run goes on: what it goes on with may have been changed.
        self._add(summary.text("config", _config_table(self.config)), start_step)
        self._add(summary.text("how_to_read_this", GUIDE), start_step)
        if start_step == 0:
            terms = {
                name: ["Multiline", [f"train/{name}$", f"held_out/{name}$"]]
                for name in ("loss", "recon", "kl")
            }
            self._add(summary.custom_scalars({"train against held out": terms}), 0)

    @_spares_training
    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Logs numbers under a split, `train` or `held_out`."""
        for name, value in values.items():
            self._add(summary.scalar(f"{split}/{name}", value), step)
        if split == "held_out" and AUDIO_ERROR in values:
            # The figure to judge by, where the first card is.
            self._add(summary.scalar(f"audio_error/{AUDIO_ERROR}", values[AUDIO_ERROR]), step)

    @_spares_training
    def latent(self, split: str, step: int, values: Mapping[str, Any]) -> None:
        """Logs histograms of the latent.

        Args:
          values: kl_per_dim [latent_dim], which is drawn as bars too; any others, such as the
            posteriors' mean and std [num, latent_dim].
        """
        for name, value in values.items():
            event = summary.histogram(f"{split}/{name}", np.asarray(value).ravel(), BINS)
            self._add(event, step)
        if split == "held_out":
            image = figures.bars(
                values["kl_per_dim"],
                title=f"KL per latent dimension at step {step}, nats",
                caption="a dimension at 0 says nothing about the sound",
            )
            self._image("held_out/kl_per_dim_bars", image, step, "")

    @_spares_training
    def pairs(self, step: int, inputs, outputs, names: Sequence[str]) -> None:
        """Draws and plays sounds beside their reconstructions.

        Args:
          inputs, outputs: [num, num_samples] float, the same sounds at every step.
          names: of the sounds.
        """
        inputs, outputs = np.asarray(inputs), np.asarray(outputs)
        if not len(inputs):
            return
        names = names[: len(inputs)]
        caption = f"step {step}: held-out sounds, and what the model makes of them"
        image = self._grid([inputs, outputs], ["original", "reconstruction"], names, caption)
        self._image("held_out/original_over_reconstruction", image, step, caption)
        for i, (before, after) in enumerate(zip(inputs, outputs, strict=True)):
            if step == 0:
                self._play(f"held_out/{i}_original", before, step, names[i])
            self._play(f"held_out/{i}_reconstruction", after, step, names[i])

    @_spares_training
    def draws(self, step: int, sounds) -> None:
        """Draws and plays new sounds [num, num_samples] of the Gaussian of an evaluation."""
        sounds = np.asarray(sounds)
        names = [str(i) for i in range(len(sounds))]
        image = self._grid([sounds], ["new"], names, f"step {step}: {NEW_CAPTION}")
        self._image(f"{NEW}/spectrograms", image, step, NEW_CAPTION)
        for name, sound in zip(names, sounds, strict=True):
            self._play(f"{NEW}/{name}", sound, step, NEW_CAPTION)

    @_spares_training
    def advice(self, step: int, text: str) -> None:
        """Shows what an evaluation says about the run, when it says something else than before."""
        said = re.sub(r"[-+]?[\d.,]+", "", text)
        if said != self._advised:
            self._add(summary.text("advice", text), step)
        self._advised = said

    @_spares_training
    def finish(self, best: Mapping[str, float]) -> None:
        """Logs the figures of the weights that are kept, which the table of settings shows."""
        self.scalars("best", int(best["step"]), {k: best[k] for k in BEST})
        _, _, end = summary.hparams({}, {})
        self._add(end, int(best["step"]))

    def close(self) -> None:
        """Closes the file, in which everything is already."""
        self.writes = False
        if self._file is not None:
            self._file.close()

    def _grid(self, rows, row_names, names, caption: str) -> np.ndarray:
        sizes = self.config.features
        spectra = np.array(
            [
                [
                    picture.spectrum_db(x, n_fft=sizes.n_fft, hop_length=sizes.hop_length)
                    for x in waveforms
                ]
                for waveforms in rows
            ]
        )
        return figures.spectrogram_grid(
            spectra,
            row_names=row_names,
            column_names=names,
            caption=caption,
            sample_rate=self.config.data.sample_rate,
            seconds=self.config.data.clip_seconds,
        )

    def _image(self, tag: str, image: np.ndarray, step: int, description: str) -> None:
        self._add(_described(summary.image(tag, image, dataformats="HWC"), description), step)

    def _play(self, tag: str, sound, step: int, description: str) -> None:
        # A reconstruction at the level of its input may peak above it.
        sound = np.clip(sound, -1.0, 1.0)[:, None]
        event = summary.audio(tag, sound, sample_rate=self.config.data.sample_rate)
        self._add(_described(event, description), step)

    def _add(self, content: Summary, step: int) -> None:
        self._write(Event(summary=content, step=step))

    def _write(self, event: Event) -> None:
        assert self._file is not None
        record = memoryview(_record(event))
        while record:  # an unbuffered write may take only a part
            record = record[self._file.write(record) :]


def save_projector(
    workdir: Path, latents: np.ndarray, rows: Sequence[Mapping[str, Any]], thumbnails, step: int
) -> None:
    """Writes what the embedding projector shows, in place of what an earlier end of the run left.

    Args:
      latents: [num, latent_dim], posterior means of sounds.
      rows: [num], their entries in data.json.
      thumbnails: [num, size, size] uint8, their spectrograms.
      step: of the weights.
    """
    try:
        _save_projector(workdir, latents, rows, thumbnails, step)
    except Exception as error:
        _warn(error)


def _save_projector(workdir: Path, latents, rows, thumbnails, step: int) -> None:
    folder = workdir / "tensorboard" / "projector"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # A tab or line feed in a file's name would begin a new column or row.
    table = [
        (" ".join(str(row["label"]).split()), " ".join(row["file"].split()), row["seconds"])
        for row in rows
    ]
    embedding.make_mat(latents, str(folder))
    embedding.make_tsv(table, str(folder), ["label", "file", "seconds"])
    images = picture.colorize(np.asarray(thumbnails)).transpose(0, 3, 1, 2) / 255.0
    # The library leaves the rest of the last row of sprites as it finds the memory.
    with np.errstate(all="ignore"):
        embedding.make_sprite(images, str(folder))
    (workdir / "tensorboard" / "projector_config.pbtxt").unlink(missing_ok=True)
    embedding.append_pbtxt(
        table, images, str(workdir / "tensorboard"), folder.name, step, "posterior_means"
    )


def scalar_values(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The scalar entries of a metrics dict as Python floats."""
    return {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0}


def _described(event: Summary, description: str) -> Summary:
    """An event with the text that TensorBoard shows under the card's sign for information."""
    event.value[0].metadata.summary_description = description
    return event


def _config_table(config: Config) -> str:
    """Every setting in Markdown; those that differ from the default in bold."""
    default = Config()
    lines = ["| setting | value | default |", "|---|---|---|"]
    for section, fields in configs.to_dict(config).items():
        for key, value in fields.items():
            usual = configs.get(default, f"{section}.{key}")
            shown = f"**{value}**" if value != usual else f"{value}"
            lines.append(f"| {section}.{key} | {shown} | {usual} |")
    return "\n".join(lines)


def _record(event: Event) -> bytes:
    """An event as it stands in a file, dated now: length, its checksum, data, its checksum."""
    event.wall_time = time.time()
    data = event.SerializeToString()
    header = len(data).to_bytes(8, "little")
    sums = (masked_crc32c(part).to_bytes(4, "little") for part in (header, data))
    return header + next(sums) + data + next(sums)


def _new_file(folder: Path) -> Path:
    """A name for a file of events that TensorBoard reads after those that are there."""
    before = (path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*"))
    # The clock may have been set back since.
    last = max((int(second) for second in before if second.isdigit()), default=0)
    number = max(int(time.time()), last + 1)
    return folder / f"events.out.tfevents.{number:010d}.{socket.gethostname()}"


def _save_hparams(folder: Path, config: Config) -> None:
    """Writes the settings that a run cannot change, and its length, for the table of settings.

    In a file of their own, which a run that goes on replaces: TensorBoard keeps the first that it
    reads. The library's `add_hparams` would make a run of its own beside the run, and declare the
    table's columns, where TensorBoard left alone puts those first in which runs differ.
    """
    values = {
        f"{section}.{key}": value
        for section, fields in configs.to_dict(config).items()
        for key, value in fields.items()
        if f"{section}.{key}" not in configs.marked(configs.RESUMABLE)
    }
    values["train.num_steps"] = config.train.num_steps
    values["data.source"] = Path(config.data.source).name
    _, start, _ = summary.hparams(values, {})
    folder.mkdir(parents=True, exist_ok=True)
    records = [_record(Event(file_version="brain.Event:2")), _record(Event(summary=start))]
    files.replace(folder / HPARAMS_FILE, lambda file: file.write(b"".join(records)))
