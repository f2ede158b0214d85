"""Pictures: orientation, scale, the logarithmic axis, batches, PNG."""

import io

import numpy as np
import pytest
from PIL import Image

from vaejax.drawing import picture


def line(bin_index, num_frames=20, num_bins=513):
    magnitude_db = np.full((num_frames, num_bins), -90.0)
    magnitude_db[:, bin_index] = 0.0
    return magnitude_db


@pytest.mark.parametrize("log_frequency", [True, False])
def test_low_frequency_is_at_the_bottom(log_frequency):
    low, high = (
        picture.grey_image(line(b), height=64, log_frequency=log_frequency).sum(1).argmax()
        for b in (8, 400)
    )
    assert low > high


def test_time_runs_to_the_right():
    click = np.full((30, 65), -90.0)
    click[25] = 0.0
    image = picture.grey_image(click, height=16)
    assert image.shape == (16, 30)
    assert (image.argmax(1) == 25).all()


def test_octaves_take_equal_height_on_the_logarithmic_axis():
    rate, num_bins = 44_100, 2049
    hz = rate / 2 / (num_bins - 1)
    rows = [
        picture.grey_image(line(round(f / hz), num_bins=num_bins), sample_rate=rate, height=400)
        .sum(1)
        .argmax()
        for f in (500, 1000, 2000, 4000)
    ]
    steps = -np.diff(rows)
    assert np.ptp(steps) <= 2
    assert steps[0] == pytest.approx(400 / np.log2(22_050 / 40), abs=2)


def test_every_bin_is_visible_when_rows_are_fewer_than_bins():
    for b in (20, 101, 301, 477):
        assert picture.grey_image(line(b), height=48).max() > 0


def test_equal_rows_and_bins_without_resampling_keep_levels():
    ramp = np.repeat(np.linspace(-80, 0, 33)[None], 4, 0)
    image = picture.grey_image(ramp, height=33, log_frequency=False)
    expected = np.linspace(255, 0, 33)[:, None]
    np.testing.assert_allclose(image, np.broadcast_to(expected, (33, 4)), atol=4.1)


def test_levels_are_clipped_to_floor_and_top():
    grey = picture.grey_image(np.array([[-200.0, -200.0], [30.0, 30.0]]), height=2)
    assert (grey[:, 0] == 0).all()
    assert (grey[:, 1] == 255).all()


def test_nan_and_minus_infinity_are_drawn_as_the_floor():
    bad = np.array([[np.nan, -np.inf, np.nan], [np.nan, -np.inf, np.nan]])
    assert (picture.grey_image(bad) == 0).all()


def test_batch_equals_one_by_one():
    db = np.random.default_rng(0).uniform(-90, 10, (3, 87, 257)).astype(np.float32)
    batch = picture.grey_image(db, height=48, width=64)
    assert batch.shape == (3, 48, 64)
    for one, image in zip(db, batch, strict=True):
        np.testing.assert_array_equal(picture.grey_image(one, height=48, width=64), image)


def test_colour_map_rises_in_lightness_evenly():
    ramp = picture.colorize(np.arange(256, dtype=np.uint8)) / 255.0
    linear = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(
        luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance
    )  # CIE L*
    steps = np.diff(lightness[::17])
    assert (steps > 0).all()
    assert steps.max() / steps.min() < 1.25


def test_spectrogram_image_defaults():
    image = picture.spectrogram_image(np.full((87, 1025), -40.0))
    assert image.shape == (256, 87, 3)
    assert image.dtype == np.uint8
    assert picture.spectrogram_image(line(5, num_bins=65)).shape == (65, 20, 3)


def test_wrong_shapes_and_scales_are_refused():
    with pytest.raises(ValueError, match=r"expected \[num_frames, num_bins\]"):
        picture.spectrogram_image(np.zeros(4))
    with pytest.raises(ValueError, match="floor_db=0 must lie below top_db=-10"):
        picture.spectrogram_image(np.zeros((4, 4)), floor_db=0, top_db=-10)


def test_png_bytes_decode_to_the_same_image():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        np.asarray(Image.open(io.BytesIO(picture.png_bytes(image)))), image
    )
