"""Finds the shots of a video in small pictures of its frames, as they go by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Glance = NDArray[np.float32]
    """A frame shrunk to a few pixels, 0–1: small enough to compare, too small to see noise."""

LEAST_CUT = 0.06
"""Mean difference of two glances below which nothing is a cut. Two photos differ by 0.1–0.4."""
SELDOM = 0.4
"""Seconds between two frames in which so much moves that a cut must differ by twice as much."""
ABOVE_MOTION = 3.0
"""A cut differs by this many times what frames have differed by of late."""
DRIFTED = 0.18
"""Difference from a shot's picture that makes another shot, once the view is still: dissolves and
fades, which have no cut, and pans that have come to rest."""
STILL = 0.012
"""Difference of neighbouring glances of a view at rest."""
SETTLED = 0.6
"""Seconds after which a change has come to stay: a flash is over, a blended cut has passed."""
UNSETTLED = 3.0
"""Seconds after which a change is taken though more have followed: fast montage, strobe light."""
EVERY = 9.0
"""Seconds after which a shot gets another picture. A second less than promised, since there may
be only one frame a second to look at."""
LONGEST = 10.0
"""Seconds that one picture may stand for."""


@dataclass(slots=True)
class Shot:
    """A stretch that one frame stands for."""

    start: float
    """Seconds."""
    frame: Any
    glance: Glance
    end: float = 0.0


@dataclass(slots=True)
class _Change:
    """Something else has begun, perhaps."""

    start: float
    before: Glance | None
    """What there was; should it come back, nothing has begun. None: it begins in any case."""
    since: float = field(init=False)
    """When the last of several quick changes happened."""

    def __post_init__(self) -> None:
        self.since = self.start


class ShotFinder:
    """Fed with frames in order of time, gives a shot when the next has begun for sure."""

    def __init__(self) -> None:
        self.latest: Shot | None = None
        """The frame fed last."""
        self._current: Shot | None = None
        self._change: _Change | None = _Change(0.0, None)
        self._motion = 0.0

    def feed(self, time: float, glance: Glance, frame: Any) -> Shot | None:
        """The shot that has ended before this frame, if that has become clear now.

        Args:
            time: Seconds; more than that of the frame before.
            glance: The frame, small.
            frame: What the shot is to have as its frame, should this one be chosen.
        """
        differs, least = 0.0, LEAST_CUT
        if self.latest:
            differs = _difference(glance, self.latest.glance)
            least *= 1 if time - self.latest.start < SELDOM else 2
        is_cut = differs >= max(least, ABOVE_MOTION * self._motion)
        # of a cut, only so much as lets the next one be seen half a second later
        self._motion += 0.2 * (min(differs, 0.2) - self._motion)
        ended = None
        if is_cut and self._change and time - self._change.since >= SETTLED:
            ended = self._take_up(self.latest)
        before, self.latest = self.latest, Shot(time, frame, glance)
        if self._change is None:
            if is_cut and before:
                self._change = _Change(time, before.glance)
            elif self._is_due(differs):
                self._change = _Change(time, None)
        elif ended is None:
            if is_cut and before:
                self._change.since = time
                self._prefer_cut(time, before)
            ended = self._settle(time)
        return ended

    def finish(self, end: float) -> list[Shot]:
        """The last shots, of a video that ends after so many seconds; one frame must have come."""
        shots = []
        if self._change:
            lasted = end - self._change.start
            begun = self._current.start if self._current else end
            if self._current is None or lasted >= SETTLED or end - begun > LONGEST:
                shots.append(self._take_up(self.latest))
        if self._current:
            self._current.end = max(end, self._current.start)
        return [shot for shot in (*shots, self._current) if shot]

    def _is_due(self, differs: float) -> bool:
        """Whether another picture is wanted, though there is no cut."""
        if self._current is None or self.latest is None:
            return False
        lasted = self.latest.start - self._current.start
        if lasted >= EVERY:
            return True
        drifted = _difference(self.latest.glance, self._current.glance) >= DRIFTED
        return lasted >= 2.0 and differs <= STILL and drifted

    def _prefer_cut(self, time: float, before: Shot) -> None:
        """Let a cut be the border rather than the tenth second that has just passed."""
        change, current = self._change, self._current
        if change and current and change.before is None and time - current.start <= LONGEST:
            change.start, change.before = time, before.glance

    def _settle(self, time: float) -> Shot | None:
        """Decide on the change, if there has been time enough."""
        change, latest = self._change, self.latest
        if change is None or latest is None:
            return None
        if time - change.since < SETTLED and time - change.start < UNSETTLED:
            return None
        return self._take_up(latest)

    def _take_up(self, frame: Shot | None) -> Shot | None:
        """End the current shot where the change began, unless all is as it was before."""
        change, ended = self._change, self._current
        self._change = None
        if change is None or frame is None:
            return None
        if ended and change.before is not None:
            is_back = _difference(frame.glance, change.before) < LEAST_CUT
            if is_back and frame.start - ended.start < EVERY:
                return None
        self._current = Shot(change.start, frame.frame, frame.glance)
        if ended:
            ended.end = change.start
        return ended


def _difference(one: Glance, other: Glance) -> float:
    """Mean difference of two glances, the second moved to where it fits best: a pan is no cut."""
    plain = float(abs(one - other).mean())
    if plain < LEAST_CUT:
        return plain  # as most are, and the rest takes a third of a millisecond
    rows, columns = one.shape[0] // 8, one.shape[1] // 8
    return min(
        float(abs(_moved(one, down, right) - _moved(other, -down, -right)).mean())
        for down in range(-rows, rows + 1)
        for right in range(-columns, columns + 1)
    )


def _moved(glance: Glance, down: int, right: int) -> Glance:
    """What is left of it after the upper rows and left columns, or the lower and right ones."""
    height, width = glance.shape[:2]
    rows = slice(max(0, down), height + min(0, down))
    return glance[rows, max(0, right) : width + min(0, right)]
