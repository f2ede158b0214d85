"""Spectrograms as pictures: RGB images for TensorBoard and PNG, small grey ones for the sheet.

NumPy only. Images are uint8 with row 0 at the top, so low frequencies are in the last row.
Levels are in dB; `floor_db` is the darkest colour and `top_db` the brightest.
"""

import io

import numpy as np
from PIL import Image

# Dark violet over red to pale yellow: lightness rises evenly from end to end, so that equal steps
# in dB look equal, also in print and to the colour-blind. The sheet interpolates these anchors too.
COLORS = (
    (2, 1, 8),
    (25, 13, 58),
    (47, 17, 92),
    (76, 21, 115),
    (108, 29, 122),
    (140, 41, 121),
    (172, 52, 114),
    (204, 64, 103),
    (228, 84, 93),
    (243, 111, 90),
    (250, 141, 100),
    (253, 170, 117),
    (254, 197, 139),
    (253, 224, 164),
    (252, 250, 196),
)
LOWEST_HZ = 40.0


def spectrum_db(waveform: np.ndarray, *, n_fft: int, hop_length: int) -> np.ndarray:
    """Levels of a sound, to draw: NumPy, because a handful of pictures is no work for a device.

    Args:
      waveform: [num_samples] float.
      n_fft, hop_length: of centred frames under a Hann window.
    Returns:
      [num_frames, n_fft // 2 + 1] dB, 0 for the peak of a full-scale sine, at least -200.
    """
    padded = np.pad(waveform, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop_length]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    level = np.abs(np.fft.rfft(frames * window)) * (4.0 / n_fft)
    return 20 * np.log10(np.maximum(level, 1e-10))


def spectrogram_image(
    magnitude_db: np.ndarray,
    *,
    sample_rate: int = 44_100,
    floor_db: float = -80.0,
    top_db: float = 0.0,
    height: int | None = None,
    width: int | None = None,
    log_frequency: bool = True,
) -> np.ndarray:
    """A spectrogram in colour, time to the right, low frequencies at the bottom.

    Args:
      magnitude_db: [num_frames, num_bins], dB; bins are evenly spaced from 0 Hz to sample_rate / 2.
        NaN and -Inf are drawn as the floor.
      sample_rate: Hz; places the logarithmic axis, which starts at 40 Hz.
      floor_db: level of the darkest colour.
      top_db: level of the brightest colour.
      height: rows of the image; by default num_bins, at most 256.
      width: columns; by default num_frames.
      log_frequency: octaves take equal height; otherwise hertz do.
    Returns:
      [height, width, 3] uint8 RGB.
    Raises:
      ValueError: a shape other than [num_frames, num_bins], or floor_db >= top_db.
    """
    return colorize(
        grey_image(
            magnitude_db,
            sample_rate=sample_rate,
            floor_db=floor_db,
            top_db=top_db,
            height=height,
            width=width,
            log_frequency=log_frequency,
        )
    )


def grey_image(
    magnitude_db: np.ndarray,
    *,
    sample_rate: int = 44_100,
    floor_db: float = -80.0,
    top_db: float = 0.0,
    height: int | None = None,
    width: int | None = None,
    log_frequency: bool = True,
) -> np.ndarray:
    """A spectrogram before the colours; also a batch of them, as thumbnails for the sheet.

    Args:
      magnitude_db: [..., num_frames, num_bins], dB.
      sample_rate, floor_db, top_db, height, width, log_frequency: as for `spectrogram_image`.
    Returns:
      [..., height, width] uint8; 0 at or below floor_db, 255 at or above top_db.
    Raises:
      ValueError: fewer than two axes, or floor_db >= top_db.
    """
    magnitude_db = np.asarray(magnitude_db, np.float32)
    if magnitude_db.ndim < 2 or 0 in magnitude_db.shape:
        raise ValueError(f"expected [num_frames, num_bins], got shape {magnitude_db.shape}")
    if floor_db >= top_db:
        raise ValueError(f"floor_db={floor_db:g} must lie below top_db={top_db:g}")
    num_frames, num_bins = magnitude_db.shape[-2:]
    height = height or min(num_bins, 256)
    width = width or num_frames
    # fmax and fmin pass over NaN, so that it ends at the floor. Averages commute with the scaling,
    # which is left for the small image.
    clipped = np.fmin(np.fmax(magnitude_db, np.float32(floor_db)), np.float32(top_db))
    rows = clipped @ frequency_weights(
        num_bins, height, sample_rate=sample_rate, log_frequency=log_frequency
    )
    if width != num_frames:
        rows = time_weights(num_frames, width) @ rows
    level = (np.swapaxes(rows, -1, -2)[..., ::-1, :] - floor_db) / (top_db - floor_db)
    return np.rint(255 * np.clip(level, 0, 1)).astype(np.uint8)


def frequency_weights(
    num_bins: int, height: int, *, sample_rate: int = 44_100, log_frequency: bool = True
) -> np.ndarray:
    """How `grey_image` averages bins into rows, for those who do the same on a device.

    Args:
      num_bins: bins evenly spaced from 0 Hz to sample_rate / 2.
      height: rows.
      sample_rate: Hz.
      log_frequency: rows evenly spaced in octaves from 40 Hz; otherwise in hertz.
    Returns:
      [num_bins, height] float32, lowest frequency first; columns sum to 1.
    """
    edges = np.linspace(0, num_bins - 1, height + 1)
    if log_frequency and num_bins > 2:
        # Row edges as positions on the bin axis; never below the first bin above 0 Hz.
        nyquist = sample_rate / 2
        lowest = max(LOWEST_HZ, nyquist / (num_bins - 1)) / nyquist
        edges = (num_bins - 1) * np.geomspace(min(lowest, 0.5), 1.0, height + 1)
    return _averaging(edges, num_bins)


def time_weights(num_frames: int, width: int) -> np.ndarray:
    """How `grey_image` averages frames into columns: [width, num_frames], rows sum to 1."""
    return _averaging(np.linspace(0, num_frames - 1, width + 1), num_frames).T


def colorize(grey: np.ndarray) -> np.ndarray:
    """Grey levels [...] uint8 through the colour map: [..., 3] uint8."""
    anchors = np.asarray(COLORS, np.float64)
    at = np.linspace(0, 255, len(anchors))
    table = np.stack([np.interp(np.arange(256), at, channel) for channel in anchors.T], axis=-1)
    return np.rint(table).astype(np.uint8)[grey]


def png_bytes(image: np.ndarray) -> bytes:
    """An image [height, width, 3] RGB or [height, width] grey, uint8, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image, np.uint8)).save(file, "PNG")
    return file.getvalue()


def _averaging(edges: np.ndarray, size: int) -> np.ndarray:
    """Weights [size, num_cells] that average a linearly interpolated axis between the edges.

    Exact integrals of the interpolating hat functions: a cell narrower than a bin interpolates, a
    wide one averages all it covers, so no partial is lost between two rows.

    Args:
      edges: [num_cells + 1], rising, positions on the axis in [0, size - 1].
      size: points on the axis.
    """
    if size == 1:
        return np.ones((1, len(edges) - 1), np.float32)
    # Integral from 0 to each edge of each hat function of unit width.
    offset = np.clip(edges[None, :] - np.arange(size)[:, None], -1, 1)
    integral = np.where(offset < 0, (1 + offset) ** 2 / 2, 1 - (1 - offset) ** 2 / 2)
    integral[0] -= 0.5  # The first hat has only its right half on the axis.
    weights = np.diff(integral, axis=1)
    return (weights / np.maximum(weights.sum(0), 1e-12)).astype(np.float32)
