"""What TensorBoard shows: scalars, the latent, and the same held-out sounds at each evaluation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from vaejax import config as configs
from vaejax import picture
from vaejax.config import Config


class Board:
    """Writes one run's events."""

    def __init__(self, workdir: Path, config: Config, start_step: int):
        """Opens the log; events after start_step, of a run that was killed, are hidden."""
        self.config = config
        self.writer = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start_step + 1 if start_step else 0
        )
        if start_step == 0:
            text = json.dumps(configs.to_dict(config), indent=2)
            self.writer.add_text("config", f"```json\n{text}\n```", 0)

    def scalars(self, split: str, step: int, values: dict[str, float]) -> None:
        """Logs numbers under a split, `train` or `held_out`."""
        for name, value in values.items():
            self.writer.add_scalar(f"{split}/{name}", value, step)

    def latent(self, split: str, step: int, kl_per_dim) -> None:
        """Logs the KL of each latent dimension as a histogram."""
        self.writer.add_histogram(f"{split}/kl_per_dim", np.asarray(kl_per_dim), step)

    def pairs(self, step: int, inputs, outputs) -> None:
        """Draws and plays sounds beside their reconstructions.

        Args:
          inputs, outputs: [num, num_samples] float, the same sounds at every step.
        """
        for i, (before, after) in enumerate(
            zip(np.asarray(inputs), np.asarray(outputs), strict=True)
        ):
            image = picture.pair_image(
                self._spectrum_db(before),
                self._spectrum_db(after),
                sample_rate=self.config.data.sample_rate,
                height=128,
                width=256,
            )
            self.writer.add_image(f"held_out/{i}_input_over_output", image, step, dataformats="HWC")
            if step == 0:
                self._play(f"held_out/{i}_input", before, step)
            self._play(f"held_out/{i}_output", after, step)

    def draws(self, step: int, sounds) -> None:
        """Draws and plays new sounds [num, num_samples]."""
        for i, sound in enumerate(np.asarray(sounds)):
            image = picture.spectrogram_image(
                self._spectrum_db(sound),
                sample_rate=self.config.data.sample_rate,
                height=128,
                width=256,
            )
            self.writer.add_image(f"new/{i}", image, step, dataformats="HWC")
            self._play(f"new/{i}", sound, step)

    def close(self) -> None:
        """Flushes everything to disk."""
        self.writer.close()

    def _play(self, name: str, sound, step: int) -> None:
        # A reconstruction at the level of its input may peak above it.
        sound = np.clip(sound, -1.0, 1.0)
        self.writer.add_audio(name, sound[:, None], step, self.config.data.sample_rate)

    def _spectrum_db(self, waveform: np.ndarray) -> np.ndarray:
        sizes = self.config.features
        return picture.spectrum_db(waveform, n_fft=sizes.n_fft, hop_length=sizes.hop_length)


def summary(metrics: dict[str, Any]) -> dict[str, float]:
    """The scalar entries of a metrics dict as Python floats."""
    return {k: float(v) for k, v in metrics.items() if np.ndim(v) == 0}
