"""Window functions, periodic by default, as host arrays that become constants of the program.

Every window is float64 NumPy: it is computed once while tracing and rounded where it is used.
A learnable window is any JAX array, handed to `stft` instead of a name.
"""

from collections.abc import Callable

import jax
import numpy as np
from numpy.typing import ArrayLike

# Kaiser 12 is what tf.signal (and so Kapre) uses: side lobes below -90 dB.
DEFAULT_KAISER_BETA = 12.0

# A name, a name with its parameter such as ("kaiser", 8.6), or the window's own samples.
Window = str | tuple[str, float] | ArrayLike


def hann(win_length: int) -> np.ndarray:
    """Returns the periodic Hann window `[win_length]`, `0.5 - 0.5 cos(2 pi n / win_length)`."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)


def hamming(win_length: int) -> np.ndarray:
    """Returns the periodic Hamming window `[win_length]`, `0.54 - 0.46 cos(...)`."""
    return 0.54 - 0.46 * np.cos(2 * np.pi * np.arange(win_length) / win_length)


def kaiser(win_length: int, beta: float = DEFAULT_KAISER_BETA) -> np.ndarray:
    """Returns the periodic Kaiser window `[win_length]`; larger `beta`, lower side lobes."""
    return np.kaiser(win_length + 1, beta)[:-1]


def kaiser_bessel_derived(win_length: int, beta: float = DEFAULT_KAISER_BETA) -> np.ndarray:
    """Returns the Kaiser-Bessel-derived window `[win_length]`, power-complementary at half overlap.

    Args:
      win_length: samples, even.
      beta: shape of the Kaiser window it is summed from (alpha times pi).
    Raises:
      ValueError: if win_length is odd.
    """
    if win_length % 2:
        raise ValueError(
            f"a Kaiser-Bessel-derived window has two equal halves, but win_length={win_length} "
            f"is odd; try {win_length + 1}"
        )
    cumulative = np.cumsum(np.kaiser(win_length // 2 + 1, beta))
    half = np.sqrt(cumulative[:-1] / cumulative[-1])
    return np.concatenate([half, half[::-1]])


def vorbis(win_length: int) -> np.ndarray:
    """Returns Vorbis's power-complementary window `[win_length]` (Vorbis I, section 1.3.2)."""
    sine = np.sin(np.pi * (np.arange(win_length) + 0.5) / win_length)
    return np.sin(0.5 * np.pi * sine**2)


def gaussian(win_length: int, std: float | None = None) -> np.ndarray:
    """Returns the periodic Gaussian window `[win_length]`.

    Args:
      win_length: samples.
      std: standard deviation in samples; by default the window falls to 0.01 at its ends.
    """
    if std is None:
        std = 0.5 * win_length / np.sqrt(-2.0 * np.log(0.01))
    offset = np.arange(win_length) - win_length / 2
    return np.exp(-0.5 * (offset / std) ** 2)


WINDOWS: dict[str, Callable[..., np.ndarray]] = {
    "hann": hann,
    "hamming": hamming,
    "kaiser": kaiser,
    "kaiser_bessel_derived": kaiser_bessel_derived,
    "kbd": kaiser_bessel_derived,
    "vorbis": vorbis,
    "gaussian": gaussian,
}


def get_window(window: Window, win_length: int):
    """Returns window samples `[win_length]` from a name, a (name, parameter) pair or an array.

    Args:
      window: a key of `WINDOWS`; or a pair such as `("kaiser", 8.6)`; or samples, returned as they
        are, so that a JAX array stays traced and learnable.
      win_length: samples.
    Raises:
      ValueError: on an unknown name, a win_length below 1, or samples of another length.
    """
    if win_length < 1:
        raise ValueError(f"win_length={win_length} must be at least 1 sample")
    parameters: tuple[float, ...] = ()
    if isinstance(window, tuple) and window and isinstance(window[0], str):
        window, *rest = window
        parameters = tuple(rest)
    if isinstance(window, str):
        if window not in WINDOWS:
            raise ValueError(f"unknown window {window!r}; known: {', '.join(sorted(WINDOWS))}")
        # One sample of a window that starts at 0 would silence everything; SciPy gives 1 as well.
        return np.ones(1) if win_length == 1 else WINDOWS[window](win_length, *parameters)
    samples = window if isinstance(window, jax.Array) else np.asarray(window)
    if samples.shape != (win_length,):
        raise ValueError(
            f"window has shape {samples.shape} but win_length={win_length}; "
            f"give [{win_length}] samples or set win_length to the window's length"
        )
    return samples
