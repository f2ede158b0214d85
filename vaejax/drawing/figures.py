"""Figures with axes for TensorBoard, sweeps and the notebook: spectrograms, bars, points.

Pillow only, a few milliseconds each. Images are [height, width, 3] uint8, row 0 at the top.
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vaejax.drawing import picture

INK, FAINT, PAPER, BAR = (40, 40, 48), (208, 208, 214), (255, 255, 255), (76, 21, 115)
FONT_SIZE = 11
# Levels of the colour scale, in dB.
FLOOR_DB, TOP_DB = -80.0, 0.0
FREQUENCIES = {100: "100", 1000: "1 k", 10_000: "10 k"}
# Margins and the space between panels, in pixels.
LEFT, TOP, RIGHT, BOTTOM, GAP = 58, 22, 62, 36, 6


def spectrogram_grid(
    levels: np.ndarray,
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    caption: str,
    sample_rate: int,
    seconds: float,
    height: int = 112,
    width: int = 176,
) -> np.ndarray:
    """Spectrograms in rows and columns on one scale of colours, frequencies and seconds.

    Args:
      levels: [num_rows, num_columns, num_frames, num_bins] dB, as of `picture.spectrum_db`.
      row_names: one per row, drawn at its left; column_names: one per column, drawn above it.
      caption: a line below.
      sample_rate: Hz. seconds: of a clip.
      height, width: of one spectrogram.

    Returns:
      An image of all of them, with ticks in Hz and seconds and a colour bar in dB.
    """
    num_rows, num_columns = levels.shape[:2]
    panels = picture.colorize(
        picture.grey_image(
            levels,
            sample_rate=sample_rate,
            floor_db=FLOOR_DB,
            top_db=TOP_DB,
            height=height,
            width=width,
        )
    )
    across = LEFT + num_columns * (width + GAP) - GAP + RIGHT
    bottom = TOP + num_rows * (height + GAP) - GAP
    image = Image.new("RGB", (across, bottom + BOTTOM), PAPER)
    draw = ImageDraw.Draw(image)
    for i, (row, name) in enumerate(zip(panels, row_names, strict=True)):
        y = TOP + i * (height + GAP)
        _sideways(image, name, (2, y, 14, height))
        for hz, text in FREQUENCIES.items():
            at = _height_of(hz, levels.shape[-1], sample_rate, height)
            if 0 < at < height:
                draw.line((LEFT - 4, y + height - at, LEFT, y + height - at), INK)
                _text(draw, (LEFT - 6, y + height - at), text, "rm")
        for j, panel in enumerate(row):
            image.paste(Image.fromarray(panel), (LEFT + j * (width + GAP), y))
    _text(draw, (LEFT - 6, TOP - 8), "Hz", "rm")
    for j, name in enumerate(column_names):
        x = LEFT + j * (width + GAP)
        longest = width // 7
        name = name if len(name) <= longest else "…" + name[1 - longest :]
        _text(draw, (x + width / 2, TOP - 9), name, "mm")
        for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
            text = f"{share * seconds:g}" + (" s" if share == 1.0 else "")
            _text(draw, (x + share * width, bottom + 2), text, anchor)
    _text(draw, (LEFT, bottom + 18), caption, "la")
    _color_bar(image, draw, (across - RIGHT + 10, TOP, 10, bottom - TOP))
    return np.asarray(image)


def bars(
    values: np.ndarray, *, title: str, caption: str, height: int = 120, width: int = 560
) -> np.ndarray:
    """A bar for each of some non-negative values [num], from left to right.

    Args:
      title: a line above. caption: a line below.
      height, width: of the plot alone.
    """
    values = np.asarray(values, np.float64)
    top = max(float(values.max(initial=0.0)), 1e-6)
    image = Image.new("RGB", (LEFT + width + 12, TOP + height + BOTTOM), PAPER)
    draw = ImageDraw.Draw(image)
    _text(draw, (LEFT, TOP - 9), title, "lm")
    for share in (0.0, 0.5, 1.0):
        y = TOP + height * (1 - share)
        draw.line((LEFT, y, LEFT + width, y), FAINT)
        _text(draw, (LEFT - 6, y), f"{share * top:.3g}", "rm")
    edges = LEFT + np.linspace(0, width, len(values) + 1)
    for left, right, value in zip(edges[:-1], edges[1:], values, strict=True):
        if value > 0:
            gap = 1 if right - left > 3 else 0
            draw.rectangle(
                (left, TOP + height * (1 - value / top), right - 1 - gap, TOP + height), BAR
            )
    _text(draw, (LEFT, TOP + height + 3), "0", "la")
    _text(draw, (LEFT + width, TOP + height + 3), f"{len(values) - 1}", "ra")
    _text(draw, (LEFT, TOP + height + 18), caption, "la")
    return np.asarray(image)


def rate_distortion(
    rates: Sequence[float], distortions: Sequence[float], names: Sequence[str]
) -> np.ndarray:
    """Runs as points: what the latent costs against what is lost.

    Args:
      rates: KL of each run, nats per sound. distortions: its reconstruction term, nats per sound.
      names: of the runs.

    Returns:
      An image with axes, [height, width, 3].
    """
    left, top, right, bottom, width, height = 84, 34, 24, 52, 520, 320
    image = Image.new("RGB", (left + width + right, top + height + bottom), PAPER)
    draw = ImageDraw.Draw(image)
    _text(draw, (left, 14), "Rate and distortion of held-out sounds, best weights", "lm")
    (x0, x1, across), (y0, y1, upwards) = _scale(rates), _scale(distortions)
    x_of = lambda rate: left + width * (rate - x0) / (x1 - x0)  # noqa: E731
    y_of = lambda distortion: top + height * (y1 - distortion) / (y1 - y0)  # noqa: E731
    for tick in across:
        draw.line((x_of(tick), top, x_of(tick), top + height), FAINT)
        _text(draw, (x_of(tick), top + height + 5), f"{tick:.10g}", "ma")
    for tick in upwards:
        draw.line((left, y_of(tick), left + width, y_of(tick)), FAINT)
        _text(draw, (left - 6, y_of(tick)), f"{tick:.10g}", "rm")
    _text(draw, (left + width / 2, top + height + 30), "rate: kl, nats per sound", "ma")
    _sideways(image, "distortion: recon, nats per sound", (6, top, 14, height))
    draw.rectangle((left, top, left + width, top + height), outline=INK)
    # Names towards the middle, from the top down, none over another: where points are close
    # together, the lower ones' names slide.
    free = {True: float(top), False: float(top)}
    for y, x, name in sorted(
        (y_of(d), x_of(r), name) for r, d, name in zip(rates, distortions, names, strict=True)
    ):
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=BAR)
        is_left = x < left + width / 2
        side, at = (1 if is_left else -1), max(y, free[is_left])
        free[is_left] = at + FONT_SIZE + 1
        if at > y + 2:
            draw.line((x + 4 * side, y, x + 8 * side, at), INK)
        _text(draw, (x + 9 * side, at), name, "lm" if is_left else "rm")
    return np.asarray(image)


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends of an axis with some room around values, and round numbers between them."""
    low, high = float(min(values)), float(max(values))
    room = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = low - room, high + room
    step = 10.0 ** np.floor(np.log10((high - low) / 3))
    step *= max(m for m in (1, 2, 5) if m * step <= (high - low) / 3)
    ticks = np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step
    return low, high, [float(tick) for tick in ticks]


def _height_of(hz: float, num_bins: int, sample_rate: int, height: int) -> float:
    """Pixels above the bottom at which `picture` draws a frequency."""
    nyquist = sample_rate / 2
    lowest = max(picture.LOWEST_HZ, nyquist / (num_bins - 1))
    return height * float(np.log(hz / lowest) / np.log(nyquist / lowest))


def _color_bar(image: Image.Image, draw: ImageDraw.ImageDraw, box) -> None:
    x, y, width, height = box
    ramp = np.rint(np.linspace(255, 0, height)).astype(np.uint8)
    image.paste(Image.fromarray(picture.colorize(np.repeat(ramp[:, None], width, axis=1))), (x, y))
    for db in (TOP_DB, (TOP_DB + FLOOR_DB) / 2, FLOOR_DB):
        at = y + height * (TOP_DB - db) / (TOP_DB - FLOOR_DB)
        _text(draw, (x + width + 4, min(max(at, y + 5), y + height - 5)), f"{db:g} dB", "lm")


@functools.cache
def _font():
    return ImageFont.load_default(FONT_SIZE)


def _text(draw: ImageDraw.ImageDraw, at, text: str, anchor: str) -> None:
    draw.text(at, text, INK, font=_font(), anchor=anchor)


def _sideways(image: Image.Image, text: str, box) -> None:
    """Text that runs upwards in the middle of (x, y, width, height)."""
    x, y, width, height = box
    line = Image.new("RGB", (height, width), PAPER)
    _text(ImageDraw.Draw(line), (height / 2, width / 2), text, "mm")
    image.paste(line.rotate(90, expand=True), (x, y))
