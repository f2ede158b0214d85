"""Figures: what is drawn where."""

import numpy as np
import pytest

from vaejax.drawing import figures, picture

GRID = {"row_names": ["a"], "caption": "c", "sample_rate": 16_000, "seconds": 1.0}


def panel(image, column, *, height, width):
    left = figures.LEFT + column * (width + figures.GAP)
    return image[figures.TOP : figures.TOP + height, left : left + width]


def test_grid_holds_the_spectrograms_themselves_on_one_scale():
    levels = np.random.default_rng(0).uniform(-90, 5, (1, 2, 20, 65))
    image = figures.spectrogram_grid(levels, column_names=["x", "y"], height=40, width=30, **GRID)
    for j in range(2):
        expected = picture.spectrogram_image(levels[0, j], sample_rate=16_000, height=40, width=30)
        assert np.array_equal(panel(image, j, height=40, width=30), expected)


@pytest.mark.parametrize("hz", [100, 1000])
def test_tick_stands_at_the_height_of_its_frequency(hz):
    rate, n_fft, height = 16_000, 1024, 200
    tone = np.sin(2 * np.pi * hz * np.arange(rate) / rate)
    levels = picture.spectrum_db(tone, n_fft=n_fft, hop_length=256)[None, None]
    image = figures.spectrogram_grid(levels, column_names=["x"], height=height, width=64, **GRID)
    brightest = panel(image, 0, height=height, width=64)[:, 32].sum(-1).argmax()
    ticks = np.flatnonzero((image[:, figures.LEFT - 3] == figures.INK).all(-1)) - figures.TOP
    assert np.abs(ticks - brightest).min() <= 2


def test_long_names_do_not_run_into_their_neighbours():
    levels = np.full((1, 2, 4, 9), -80.0)
    names = ["", "a folder of many words/and a file of more of them.wav"]
    image = figures.spectrogram_grid(levels, column_names=names, height=20, width=60, **GRID)
    above = image[: figures.TOP, figures.LEFT : figures.LEFT + 60]
    assert (above == 255).all()


def test_bars_are_as_high_as_their_values():
    image = figures.bars(
        np.array([1.0, 0.0, 4.0, 2.0]), title="t", caption="c", height=100, width=80
    )
    plot = image[figures.TOP : figures.TOP + 101, figures.LEFT : figures.LEFT + 80]
    heights = (plot == figures.BAR).all(-1).sum(0)[[10, 30, 50, 70]]
    assert np.abs(heights - [25, 0, 100, 50]).max() <= 1


def test_bars_of_nothing_are_drawn_as_nothing():
    image = figures.bars(np.zeros(3), title="t", caption="c")
    assert not (image == figures.BAR).all(-1).any()


def test_runs_lie_where_their_rate_and_distortion_put_them():
    image = figures.rate_distortion([10.0, 30.0], [-5.0, 200.0], ["a", "b"])
    y, x = np.nonzero((image == figures.BAR).all(-1))
    is_left = x < x.mean()
    # The smaller rate at the left, the smaller distortion at the bottom.
    assert y[is_left].min() > y[~is_left].max()
    gaps = x[~is_left].mean() - x[is_left].mean(), y[is_left].mean() - y[~is_left].mean()
    assert gaps == pytest.approx((520 / 1.16, 320 / 1.16), abs=1)
