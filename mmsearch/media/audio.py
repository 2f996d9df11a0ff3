"""Reads a sound, or the sound of a video, as windows of a fixed length, in mono."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import UnreadableFile
from mmsearch.media.sound_files import opened
from mmsearch.types import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.media.sound_decoders import Samples, Sound

WINDOW = 5.0
"""Seconds of sound that have one vector."""
HOP = 2.5
"""Seconds from the start of one window to that of the next."""
TAIL = 0.1
"""Seconds of new sound that are worth a window; encoders leave less than that at the end."""


@dataclass(frozen=True, slots=True)
class SoundInfo:
    """What a file says of its sound."""

    seconds: float
    """0 where the file does not say."""
    channels: int
    sample_rate: int


def windows(source: str | Path | bytes, rate: int) -> Iterator[tuple[Span, NDArray[np.float32]]]:
    """Each window of a sound: where it lies, and its samples (5 s · rate,) in [-1, 1].

    Windows start at 0, 2.5, 5, … seconds, until one reaches the end; the same file has the same
    windows to the bit. The last one, if it is not full, is filled up by repeating its own sound,
    and its span ends where the sound does. However long the sound is, little of it is in memory.

    Args:
        source: A path, or the bytes of a file.
        rate: Samples a second of what is wanted, whatever the file has.

    Raises:
        UnreadableFile: It cannot be opened, has no sound, or is damaged or truncated. That may
            turn out after some windows.
        MissingExtra: Reading it takes PyAV, which is not installed.
    """
    import numpy as np

    full, hop, tail = round(WINDOW * rate), round(HOP * rate), round(TAIL * rate)
    start = 0.0
    ahead = np.empty(0, np.float32)  # from `start` on
    with opened(source) as sound:
        for part in _resampled(sound, rate):
            ahead = np.concatenate([ahead, part])
            while len(ahead) > full + tail:
                yield Span(start, start + WINDOW, "second"), ahead[:full].copy()
                ahead = ahead[hop:]
                start += HOP
    if not len(ahead):
        raise UnreadableFile("0 seconds")
    end = start + min(WINDOW, len(ahead) / rate)
    yield Span(start, round(end, 3), "second"), np.resize(ahead[:full], full)


def probe(source: str | Path | bytes) -> SoundInfo:
    """How long a sound is, and how it was recorded, as its file says.

    Raises:
        UnreadableFile: It cannot be opened, or has no sound.
        MissingExtra: Reading it takes PyAV, which is not installed.
    """
    with opened(source) as sound:
        return SoundInfo(sound.seconds, sound.channels, sound.rate)


def _resampled(sound: Sound, rate: int) -> Iterator[Samples]:
    """Mono at the wanted rate, block by block."""
    import numpy as np
    import soxr

    change = soxr.ResampleStream(sound.rate, rate, 1, "float32") if sound.rate != rate else None
    for block in sound.blocks:
        if not np.isfinite(block).all():
            raise UnreadableFile("damaged")
        mono = block.mean(axis=1)
        yield np.clip(change.resample_chunk(mono) if change else mono, -1, 1)
    if change:
        yield np.clip(change.resample_chunk(np.empty(0, np.float32), last=True), -1, 1)
