"""Shot detection in thumbnails of a video's frames, as they are decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Thumbnail = NDArray[np.float32]
    """A frame shrunk to few pixels, 0–1: quick to compare, and too small to show noise."""

LEAST_CUT = 0.06
"""Mean difference of two thumbnails below which nothing is a cut. Two photos differ by 0.1–0.4."""
SELDOM = 0.4
"""Seconds between two frames from which on so much moves that a cut must differ twice as much."""
ABOVE_MOTION = 3.0
"""A cut differs by this many times the recent differences between frames."""
DRIFTED = 0.18
"""Difference from a shot's picture that begins another shot once the view is still: for dissolves
and fades, which have no cut, and for pans that have come to rest."""
STILL = 0.012
"""Difference of neighbouring thumbnails of a view at rest."""
SETTLED = 0.6
"""Seconds after which a change is lasting: a flash is over, a blended cut has passed."""
UNSETTLED = 3.0
"""Seconds after which a change is accepted though more follow: fast montage, strobe light."""
EVERY = 9.0
"""Seconds after which a shot gets another picture: a second less than `LONGEST`, since there may
be only one frame a second."""
LONGEST = 10.0
"""Seconds that one picture may stand for."""


@dataclass(slots=True)
class Shot:
    """A span that one frame stands for."""

    start: float
    """Seconds."""
    frame: Any
    thumbnail: Thumbnail
    end: float = 0.0


@dataclass(slots=True)
class _Change:
    """The possible beginning of another shot."""

    start: float
    before: Thumbnail | None
    """The frame before; if it comes back, nothing has begun. None: a shot begins in any case."""
    since: float = field(init=False)
    """When the last of several quick changes happened."""

    def __post_init__(self) -> None:
        self.since = self.start


class ShotFinder:
    """Takes frames in order of time, and gives each shot once the next has certainly begun."""

    def __init__(self) -> None:
        self.latest: Shot | None = None
        """The frame fed last."""
        self._current: Shot | None = None
        self._change: _Change | None = _Change(0.0, None)
        self._motion = 0.0

    def feed(self, time: float, thumbnail: Thumbnail, frame: Any) -> Shot | None:
        """The shot that ended before this frame, if that is certain now.

        Args:
            time: Seconds; later than the frame before.
            thumbnail: Of the frame.
            frame: The frame of the shot, should this one be chosen.
        """
        differs, least = 0.0, LEAST_CUT
        if self.latest:
            differs = _difference(thumbnail, self.latest.thumbnail)
            least *= 1 if time - self.latest.start < SELDOM else 2
        is_cut = differs >= max(least, ABOVE_MOTION * self._motion)
        # a cut adds only so much that the next one can be seen half a second later
        self._motion += 0.2 * (min(differs, 0.2) - self._motion)
        ended = None
        if is_cut and self._change and time - self._change.since >= SETTLED:
            ended = self._accept(self.latest)
        before, self.latest = self.latest, Shot(time, frame, thumbnail)
        if self._change is None:
            if is_cut and before:
                self._change = _Change(time, before.thumbnail)
            elif self._is_due(differs):
                self._change = _Change(time, None)
        elif ended is None:
            if is_cut and before:
                self._change.since = time
                self._move_to_cut(time, before)
            ended = self._settle(time)
        return ended

    def finish(self, end: float) -> list[Shot]:
        """The last shots of a video that ends at `end` seconds; at least one frame was fed."""
        shots = []
        if self._change:
            lasted = end - self._change.start
            begun = self._current.start if self._current else end
            if self._current is None or lasted >= SETTLED or end - begun > LONGEST:
                shots.append(self._accept(self.latest))
        if self._current:
            self._current.end = max(end, self._current.start)
        return [shot for shot in (*shots, self._current) if shot]

    def _is_due(self, differs: float) -> bool:
        """Whether the shot needs another picture, though there is no cut."""
        if self._current is None or self.latest is None:
            return False
        lasted = self.latest.start - self._current.start
        if lasted >= EVERY:
            return True
        drifted = _difference(self.latest.thumbnail, self._current.thumbnail) >= DRIFTED
        return lasted >= 2.0 and differs <= STILL and drifted

    def _move_to_cut(self, time: float, before: Shot) -> None:
        """Have the next shot begin at a cut rather than where `EVERY` has just run out."""
        change, current = self._change, self._current
        if change and current and change.before is None and time - current.start <= LONGEST:
            change.start, change.before = time, before.thumbnail

    def _settle(self, time: float) -> Shot | None:
        """Decide on the change, if enough time has passed."""
        change, latest = self._change, self.latest
        if change is None or latest is None:
            return None
        if time - change.since < SETTLED and time - change.start < UNSETTLED:
            return None
        return self._accept(latest)

    def _accept(self, frame: Shot | None) -> Shot | None:
        """End the current shot where the change began, unless the view is back as before."""
        change, ended = self._change, self._current
        self._change = None
        if change is None or frame is None:
            return None
        if ended and change.before is not None:
            is_back = _difference(frame.thumbnail, change.before) < LEAST_CUT
            if is_back and frame.start - ended.start < EVERY:
                return None
        self._current = Shot(change.start, frame.frame, frame.thumbnail)
        if ended:
            ended.end = change.start
        return ended


def _difference(one: Thumbnail, other: Thumbnail) -> float:
    """Mean difference of two thumbnails, shifted to where they fit best: a pan is not a cut."""
    plain = float(abs(one - other).mean())
    if plain < LEAST_CUT:
        return plain  # for most frames; the rest takes a third of a millisecond
    rows, columns = one.shape[0] // 8, one.shape[1] // 8
    return min(
        float(abs(_moved(one, down, right) - _moved(other, -down, -right)).mean())
        for down in range(-rows, rows + 1)
        for right in range(-columns, columns + 1)
    )


def _moved(thumbnail: Thumbnail, down: int, right: int) -> Thumbnail:
    """A thumbnail without its upper rows and left columns, or lower and right ones if negative."""
    height, width = thumbnail.shape[:2]
    rows = slice(max(0, down), height + min(0, down))
    return thumbnail[rows, max(0, right) : width + min(0, right)]
