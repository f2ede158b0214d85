"""The README's picture: held-out sounds, their reconstructions, and new sounds of a run.

python -m benchmarks.picture --workdir runs/default --out docs/first-sounds.png
"""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Options:
    workdir: Path = Path("runs/default")
    out: Path = Path("docs/first-sounds.png")
    columns: int = 6


def main(options: Options) -> None:
    import dataclasses

    import jax
    import numpy as np

    from vaejax import checkpoint, evaluation, generate, picture
    from vaejax.data import sounds

    run = checkpoint.load_run(options.workdir)
    train = dataclasses.replace(run.config.train, board_clips=options.columns)
    config = dataclasses.replace(run.config, train=train)
    dataset = sounds.load(config)
    evaluate = evaluation.make_evaluate(config, dataset, run.instrument.fitted)
    before, after = evaluate(run.instrument.params)[2]
    count = generate.chunk_size()
    program = generate.make_generator(config, "FLOAT")
    new = program(run.instrument, jax.random.key(0), np.arange(count, dtype=np.uint32), 1.0)

    def row(waveforms) -> np.ndarray:
        images = [
            picture.spectrogram_image(
                picture.spectrum_db(np.asarray(w), n_fft=2048, hop_length=512),
                sample_rate=config.data.sample_rate,
                height=128,
                width=160,
            )
            for w in waveforms[: options.columns]
        ]
        gap = np.full((128, 4, 3), 255, np.uint8)
        return np.concatenate([part for image in images for part in (image, gap)][:-1], axis=1)

    rows = [row(before), row(after), row(new["samples"])]
    thin = np.full((3, rows[0].shape[1], 3), 255, np.uint8)
    thick = np.full((14, rows[0].shape[1], 3), 255, np.uint8)
    image = np.concatenate([rows[0], thin, rows[1], thick, rows[2]])
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_bytes(picture.png_bytes(image))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main(tyro.cli(Options))
