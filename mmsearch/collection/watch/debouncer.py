"""What has changed and is still to be read."""

from __future__ import annotations

import os
from collections.abc import Iterable

QUIET = 1.0
"""Seconds without a change after which what has changed is read."""

PATIENCE = 10.0
"""Seconds after which it is read although changes go on."""

STILL_WRITTEN = 6
"""A file that changes on and on is read all the same after so many times the patience."""

FLOOD = 1_000
"""Changed paths from which whole folders are looked at, which costs a second for 100,000 files."""


class Pending:
    """Changed paths, until nothing more happens; but not for ever.

    Args:
        quiet: Seconds without a change after which all of them are due.
        patience: Seconds after which they are due although changes go on.
    """

    def __init__(self, quiet: float = QUIET, patience: float = PATIENCE) -> None:
        self._quiet = quiet
        self._patience = patience
        self._paths: dict[str, tuple[float, float]] = {}  # when they changed first and last
        self._floods: dict[str, float] = {}  # folders with too many of them, since when
        self._last = float("-inf")

    def __len__(self) -> int:
        return len(self._paths) + len(self._floods)

    def note(self, paths: Iterable[str], now: float, folders: Iterable[str] = ()) -> None:
        """Keep paths that changed now.

        Args:
            paths: Absolute.
            now: Seconds, of a clock that never goes back.
            folders: What stands for the paths in them once there are too many.
        """
        for path in paths:
            self._last = now
            self._paths[path] = self._paths.get(path, (now, now))[0], now
        if len(self._paths) > FLOOD:
            for folder in folders:
                self._flood(folder)

    def hurry(self, paths: Iterable[str]) -> None:
        """Keep paths that are due at once, whatever else goes on."""
        self._floods |= dict.fromkeys(paths, float("-inf"))

    def take(self, now: float) -> set[str]:
        """What is due, which is then no longer pending; of what is still written to, little is."""
        if not self or not (self._is_quiet(now) or now - self._oldest() >= self._patience):
            return set()
        due = {path for path, times in self._paths.items() if self._is_due(times, now)}
        for path in due:
            del self._paths[path]
        due.update(self._floods)
        self._floods.clear()
        return due

    def _flood(self, folder: str) -> None:
        below = [path for path in self._paths if is_in(path, folder)]
        if below:
            began = min(self._paths.pop(path)[0] for path in below)
            self._floods[folder] = min(began, self._floods.get(folder, began))

    def _is_quiet(self, now: float) -> bool:
        return now - self._last >= self._quiet

    def _oldest(self) -> float:
        return min([*(first for first, _ in self._paths.values()), *self._floods.values()])

    def _is_due(self, times: tuple[float, float], now: float) -> bool:
        first, last = times
        return now - last >= self._quiet or now - first >= STILL_WRITTEN * self._patience


def is_in(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
