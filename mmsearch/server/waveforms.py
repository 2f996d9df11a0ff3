"""Waveforms: how loud a sound is over its length."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

from mmsearch.errors import PathNotFound, TooLarge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Kind

MOST_BYTES = 64 * 2**20
"""The limit of all kept waveforms together."""
MOST_SECONDS = 12 * 3600.0
"""Longer sounds have no waveform: it would take minutes to decode them."""
VERSION = 1
"""To be raised whenever waveforms change, as it is part of their keys."""

_FINEST = 4096
"""The most peaks; longer sounds have between half as many and so many."""
_FIRST_WINDOW = 64
"""Samples of a peak, of the shortest sounds."""


class _Peaks:
    """The peaks of a sound of unknown length, in bounded memory.

    When there are too many, they are merged in pairs, and a peak covers twice as many samples from
    then on.
    """

    def __init__(self) -> None:
        import numpy as np

        self._found = np.zeros(_FINEST, np.float32)
        self._count = 0
        self._window = _FIRST_WINDOW
        self._rest: NDArray[np.float32] = np.zeros(0, np.float32)

    def add(self, amplitudes: NDArray[np.float32]) -> None:
        """Add the amplitudes (n,), not negative, of the samples that follow."""
        import numpy as np

        samples = np.concatenate([self._rest, amplitudes])
        while len(samples) >= self._window:
            room = _FINEST - self._count
            if not room:
                self._found[: _FINEST // 2] = self._found.reshape(-1, 2).max(axis=1)
                self._count = _FINEST // 2
                self._window *= 2
                continue
            windows = min(room, len(samples) // self._window)
            taken, samples = np.split(samples, [windows * self._window])
            peaks = taken.reshape(windows, self._window).max(axis=1)
            self._found[self._count : self._count + windows] = peaks
            self._count += windows
        self._rest = samples

    def all(self) -> NDArray[np.float32]:
        """The peaks (n,); the last one may cover fewer samples."""
        import numpy as np

        last = self._rest.max(initial=0, keepdims=True) if len(self._rest) else self._rest
        return np.concatenate([self._found[: self._count], last])


def waveform(file: BinaryIO, kind: Kind, check: Callable[[], None]) -> bytes:
    """The whole waveform of a sound, or of a video's sound, for `at_points`.

    Args:
        file: At its beginning.
        kind: What it is.
        check: Called often; may raise to give up.

    Raises:
        PathNotFound: it has no sound.
        UnreadableFile: it cannot be decoded.
        TooLarge: it is longer than MOST_SECONDS.
    """
    import numpy as np

    from mmsearch.media import video
    from mmsearch.media.audio import blocks

    if kind not in ("audio", "video") or (kind == "video" and not video.has_sound(file)):
        raise PathNotFound("there is no sound in it")
    file.seek(0)
    peaks, seconds = _Peaks(), 0.0
    for rate, block in blocks(file):
        peaks.add(np.nan_to_num(np.abs(block), posinf=0).max(axis=1).clip(0, 1))
        seconds += len(block) / rate
        if seconds > MOST_SECONDS:
            hours = MOST_SECONDS / 3600
            raise TooLarge(f"a sound of over {hours:g} hours has no waveform: play it without")
        check()
    levels = (255 * peaks.all()).round().astype(np.uint8).tolist()
    return json.dumps({"seconds": round(seconds, 3), "levels": levels}).encode()


def at_points(made: bytes, points: int) -> dict[str, Any]:
    """The length of a waveform in seconds, and so many peaks from 0 to 1."""
    import numpy as np

    found = json.loads(made)
    levels = np.asarray(found["levels"], np.uint8)
    starts = np.arange(points) * len(levels) // points
    peaks = np.maximum.reduceat(levels, starts) / 255
    return {"seconds": found["seconds"], "peaks": peaks.round(3).tolist()}
