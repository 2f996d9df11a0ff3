"""Sound as a picture: log-mel spectrograms."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 16000
"""Samples a second."""
FRAME = 400
"""Samples in the window of a column: 25 ms."""
STEP = 160
"""Samples from one column to the next: 10 ms."""
BANDS = 128
LOWEST, HIGHEST = 20.0, 8000.0
"""Hertz: the lower end of the lowest band, the upper end of the highest."""
TRANSFORM = 1024
"""Points of the Fourier transform: with fewer, the lowest bands would contain none."""
RANGE = 80.0
"""Decibels from black to the loudest band of a picture, which is white."""
SILENCE = -100.0
"""The lowest level, in decibels."""


def log_mel(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Decibels (128, columns) of mono sound at 16 kHz, low pitches first.

    A column every 10 ms, the first centred on the first sample: power under a Hann window of 25 ms,
    summed in 128 triangles that are evenly spaced in mel, where mel = 2595 log10(1 + f / 700).

    Args:
        samples: (n,) in [-1, 1].

    Source: Stevens, Volkmann & Newman, JASA 1937; the formula is O'Shaughnessy's, 1987.
    """
    import numpy as np

    around = np.pad(np.asarray(samples, np.float32), FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(around, FRAME)[: len(samples) : STEP]
    spectrum = np.fft.rfft(frames * _hann(), TRANSFORM)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    bands = power @ _triangles()
    decibels = 10 * np.log10(np.maximum(bands.T, 10 ** (SILENCE / 10)))
    heard: NDArray[np.float32] = np.maximum(decibels, SILENCE)
    return heard


def mel_picture(samples: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """A grey picture (side, side) of mono sound at 16 kHz: time to the right, pitch upward."""
    return picture_of(log_mel(samples), side)


def picture_of(decibels: NDArray[np.float32], side: int) -> NDArray[np.uint8]:
    """A grey picture (side, side) of a log-mel spectrogram.

    The loudest band is white, and 80 dB below it is black, so a sound looks the same at any
    volume. Silence is black.
    """
    import numpy as np
    from PIL import Image

    loudest = float(decibels.max(initial=SILENCE))
    if loudest <= SILENCE:
        return np.zeros((side, side), np.uint8)
    shades = np.clip((decibels[::-1] - (loudest - RANGE)) / RANGE, 0, 1)
    picture = Image.fromarray(np.round(255 * shades).astype(np.uint8))
    return np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC))


@cache
def _hann() -> NDArray[np.float32]:
    import numpy as np

    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)).astype(np.float32)


@cache
def _triangles() -> NDArray[np.float32]:
    """(513, 128): the share of each frequency in each band."""
    import numpy as np

    ends = np.linspace(_mel(LOWEST), _mel(HIGHEST), BANDS + 2)
    edges = 700 * (10 ** (ends / 2595) - 1)
    frequencies = np.arange(TRANSFORM // 2 + 1)[:, None] * RATE / TRANSFORM
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _mel(frequency: float) -> float:
    import math

    return 2595 * math.log10(1 + frequency / 700)
