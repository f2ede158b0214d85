"""The README's picture and its sounds: held-out sounds, their reconstructions, new sounds of a run.

    python -m benchmarks.picture --workdir runs/default

Writes docs/first-sounds.png and, for each of its three rows, one FLAC file with the sounds of that
row from left to right.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

ROWS = ("held-out", "reconstructed", "new")
HEIGHT, WIDTH = 128, 160  # pixels of one spectrogram
PEAK_DB = -1.0


@dataclass(frozen=True)
class Options:
    """What to draw."""

    workdir: Path = Path("runs/default")
    """A finished run; its sounds must still be where they were."""
    out: Path = Path("docs/first-sounds.png")
    """The picture; the sounds go beside it, under its name and the row's."""
    columns: int = 6
    """Sounds in a row."""


def main(options: Options) -> None:
    import dataclasses

    import jax
    import numpy as np
    import soundfile

    import vaejax
    from vaejax.data import sounds
    from vaejax.drawing import picture
    from vaejax.train import evaluation

    run = vaejax.load(options.workdir)
    train = dataclasses.replace(run.config.train, board_clips=options.columns)
    config = dataclasses.replace(run.config, train=train)
    dataset = sounds.load(config)
    evaluate = evaluation.make_evaluate(config, dataset, run.instrument.fitted)
    before, after = evaluate(run.instrument.params)[2]
    new = run.sample(jax.random.key(0), options.columns)
    rows = [np.asarray(row)[: options.columns] for row in (before, after, new)]

    def strip(waveforms) -> np.ndarray:
        images = [
            picture.spectrogram_image(
                picture.spectrum_db(w, n_fft=2048, hop_length=512),
                sample_rate=config.data.sample_rate,
                height=HEIGHT,
                width=WIDTH,
            )
            for w in waveforms
        ]
        gap = np.full((HEIGHT, 4, 3), 255, np.uint8)
        return np.concatenate([part for image in images for part in (image, gap)][:-1], axis=1)

    strips = [strip(row) for row in rows]
    thin = np.full((3, strips[0].shape[1], 3), 255, np.uint8)
    thick = np.full((14, strips[0].shape[1], 3), 255, np.uint8)
    image = np.concatenate([strips[0], thin, strips[1], thick, strips[2]])
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_bytes(picture.png_bytes(image))
    print(f"wrote {options.out}")
    # One gain for a sound and its reconstruction: they are compared at the level they have.
    peaks = [np.abs(row).max(axis=1, keepdims=True) for row in rows]
    pair_peaks = np.maximum(peaks[0], peaks[1])
    for name, row, peak in zip(ROWS, rows, (pair_peaks, pair_peaks, peaks[2]), strict=True):
        path = options.out.with_name(f"{options.out.stem}-{name}.flac")
        waveform = (row * (10 ** (PEAK_DB / 20) / peak)).reshape(-1)
        soundfile.write(path, waveform, config.data.sample_rate, subtype="PCM_16")
        print(f"wrote {path}")


if __name__ == "__main__":
    main(tyro.cli(Options))
