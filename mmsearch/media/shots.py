"""Shot detection in thumbnails of a video's frames, as they are decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Thumbnail = NDArray[np.float32]
    """A frame shrunk to a few pixels, 0–1: quick to compare, and too small to show noise."""

MIN_CUT = 0.06
"""Mean difference of two thumbnails below which nothing is a cut. Two photos differ by 0.1–0.4."""
SPARSE = 0.4
"""Seconds between frames from which on so much moves that a cut must differ twice as much."""
CUT_TO_MOTION = 3.0
"""A cut differs by this many times the recent differences between frames."""
DRIFT = 0.18
"""Difference from a shot's frame that begins another shot once the view is still: for dissolves
and fades, which have no cut, and for pans that have come to rest."""
STILL = 0.012
"""Difference of neighbouring thumbnails of a view at rest."""
SETTLING_TIME = 0.6
"""Seconds without a cut after which a change is lasting: flashes and blended cuts are over."""
MAX_SETTLING_TIME = 3.0
"""Seconds after which a change counts though cuts go on: fast montage, strobe light."""
RENEWAL_TIME = 9.0
"""Seconds after which a shot is split without a cut: a second less than `MAX_SHOT`, since there
may be only one frame a second."""
MAX_SHOT = 10.0
"""Seconds that one frame may stand for."""


@dataclass(slots=True)
class Shot:
    """A span of a video, and the frame that stands for it."""

    start: float
    """Seconds."""
    frame: Any
    thumbnail: Thumbnail
    end: float = 0.0


@dataclass(slots=True)
class _Change:
    """Where another shot may begin: it does once the view has settled."""

    start: float
    before: Thumbnail | None
    """The frame before; no shot begins if the view returns to it. None: one begins in any case."""
    last_cut: float
    """Seconds; later than `start` while cut follows cut."""


class ShotFinder:
    """Takes frames in order of time, and returns each shot once the next has certainly begun."""

    def __init__(self) -> None:
        self.latest: Shot | None = None
        """The frame fed last, as a shot of its own."""
        self._current: Shot | None = None
        self._change: _Change | None = _Change(0.0, None, 0.0)
        self._motion = 0.0
        """Moving average of the differences between frames."""

    def feed(self, time: float, thumbnail: Thumbnail, frame: Any) -> Shot | None:
        """The shot before the current one, once it is certain that it has ended.

        Args:
            time: Seconds; later than the frame before.
            thumbnail: Of the frame.
            frame: Becomes `Shot.frame` if this frame is chosen.
        """
        difference, threshold = 0.0, MIN_CUT
        if self.latest:
            difference = _difference(thumbnail, self.latest.thumbnail)
            threshold *= 1 if time - self.latest.start < SPARSE else 2
        is_cut = difference >= max(threshold, CUT_TO_MOTION * self._motion)
        # bounded, so that another cut can be detected half a second after this one
        self._motion += 0.2 * (min(difference, 0.2) - self._motion)
        ended = None
        if is_cut and self._change and time - self._change.last_cut >= SETTLING_TIME:
            ended = self._begin_shot(self.latest)
        before, self.latest = self.latest, Shot(time, frame, thumbnail)
        if self._change is None:
            if is_cut and before:
                self._change = _Change(time, before.thumbnail, time)
            elif self._needs_another_frame(difference):
                self._change = _Change(time, None, time)
        elif ended is None:
            if is_cut and before:
                self._change.last_cut = time
                self._move_to_cut(time, before)
            settled = time - self._change.last_cut >= SETTLING_TIME
            if settled or time - self._change.start >= MAX_SETTLING_TIME:
                ended = self._begin_shot(self.latest)
        return ended

    def finish(self, end: float) -> list[Shot]:
        """The last shots of a video that ends at `end` seconds, after at least one frame."""
        shots = []
        if self._change:
            settled = end - self._change.start >= SETTLING_TIME
            if self._current is None or settled or end - self._current.start > MAX_SHOT:
                shots.append(self._begin_shot(self.latest))
        if self._current:
            self._current.end = max(end, self._current.start)
        return [shot for shot in (*shots, self._current) if shot]

    def _needs_another_frame(self, difference: float) -> bool:
        """Whether the shot should be split though there is no cut."""
        if self._current is None or self.latest is None:
            return False
        duration = self.latest.start - self._current.start
        if duration >= RENEWAL_TIME:
            return True
        drifted = _difference(self.latest.thumbnail, self._current.thumbnail) >= DRIFT
        return duration >= 2.0 and difference <= STILL and drifted

    def _move_to_cut(self, time: float, before: Shot) -> None:
        """Let the next shot begin at a cut rather than where `RENEWAL_TIME` ran out before it."""
        change, current = self._change, self._current
        if change and current and change.before is None and time - current.start <= MAX_SHOT:
            change.start, change.before = time, before.thumbnail

    def _begin_shot(self, frame: Shot | None) -> Shot | None:
        """Begin a shot at the change and return the one it ends; nothing if the view is back."""
        change, ended = self._change, self._current
        self._change = None
        if change is None or frame is None:
            return None
        if ended and change.before is not None:
            is_back = _difference(frame.thumbnail, change.before) < MIN_CUT
            if is_back and frame.start - ended.start < RENEWAL_TIME:
                return None
        self._current = Shot(change.start, frame.frame, frame.thumbnail)
        if ended:
            ended.end = change.start
        return ended


def _difference(first: Thumbnail, second: Thumbnail) -> float:
    """Mean difference of two thumbnails at the shift where they agree best: a pan is not a cut."""
    unshifted = float(abs(first - second).mean())
    if unshifted < MIN_CUT:
        return unshifted  # true of most frames; trying all shifts takes a third of a millisecond
    rows, columns = first.shape[0] // 8, first.shape[1] // 8
    return min(
        float(abs(_cropped(first, down, right) - _cropped(second, -down, -right)).mean())
        for down in range(-rows, rows + 1)
        for right in range(-columns, columns + 1)
    )


def _cropped(thumbnail: Thumbnail, down: int, right: int) -> Thumbnail:
    """A thumbnail without its upper rows and left columns; lower and right ones if negative."""
    height, width = thumbnail.shape[:2]
    rows = slice(max(0, down), height + min(0, down))
    return thumbnail[rows, max(0, right) : width + min(0, right)]
