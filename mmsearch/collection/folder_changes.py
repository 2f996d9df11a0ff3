"""A listener for changes in folders, and a debouncer of the changed paths."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from mmsearch.indexing.scopes import is_in
from mmsearch.media.companions import may_be_sidecar
from mmsearch.media.kinds import kind_of
from mmsearch.media.members import is_corpus

QUIET = 1.0
"""Seconds without any change after which changed paths are read."""

PATIENCE = 10.0
"""Seconds after which they are read even while other paths keep changing."""

MAX_PATIENCE = 6
"""Times `patience` after which even a file that never stops changing is read."""

FLOOD = 1_000
"""With more changed paths than this, whole folders are scanned: a second for 100,000 files."""


class ChangeListener:
    """Collects what changes in folders, from when it is made until it is closed.

    The debouncing of watchfiles cannot tell a file that is written all the time from one that has
    changed once; so it only collects what the system reports within a moment.

    Args:
        folders: Where to listen; they exist.
        recursive: Whether to listen in the folders below, too, those that are there and new ones.
        timeout: Seconds to wait for a change.

    Raises:
        OSError, RuntimeError: the system cannot be listened to, or not any longer.
    """

    def __init__(self, folders: Sequence[str], *, recursive: bool, timeout: float) -> None:
        import watchfiles

        self._changes = watchfiles.watch(
            *folders,
            watch_filter=None,
            debounce=1000,
            step=50,
            rust_timeout=int(1000 * timeout),
            yield_on_timeout=True,
            recursive=recursive,
            force_polling=False,
            # if ignored, no folder would report changes, and no error would say so
            ignore_permission_denied=False,
        )
        self._early = self._next()  # it listens from here on

    def changed(self) -> set[str]:
        """The paths that have changed since the last call; waits for some until the timeout."""
        early, self._early = self._early, set()
        return early or self._next()

    def close(self) -> None:
        """Stop listening."""
        self._changes.close()

    def _next(self) -> set[str]:
        changes = next(self._changes, set())
        return {path for change, path in changes if _is_relevant(change.name, path)}


class PendingChanges:
    """Debounces changed paths: they are due once they are quiet, or have waited long enough.

    Args:
        quiet: Seconds without a change after which all of them are due.
        patience: Seconds after which those are due that are quiet themselves.
    """

    def __init__(self, quiet: float = QUIET, patience: float = PATIENCE) -> None:
        self._quiet = quiet
        self._patience = patience
        self._paths: dict[str, tuple[float, float]] = {}  # when they changed first and last
        self._folders: dict[str, float] = {}  # to be scanned whole, since when
        self._last = float("-inf")

    def __len__(self) -> int:
        return len(self._paths) + len(self._folders)

    @property
    def paths(self) -> set[str]:
        """Those that are not due yet."""
        return set(self._paths)

    def add(self, paths: Iterable[str], now: float, folders: Iterable[str] = ()) -> None:
        """Keep paths that changed now.

        Args:
            paths: Absolute.
            now: Seconds, of a clock that never goes back.
            folders: What is scanned instead of the paths in them once there are too many.
        """
        for path in paths:
            self._last = now
            self._paths[path] = self._paths.get(path, (now, now))[0], now
        for folder in folders if len(self._paths) > FLOOD else ():
            if inside := [path for path in self._paths if is_in(path, folder)]:
                began = min(self._paths.pop(path)[0] for path in inside)
                self._folders[folder] = min(began, self._folders.get(folder, began))

    def add_due(self, paths: Iterable[str]) -> None:
        """Keep folders that are due at once, whatever else changes."""
        self._folders |= dict.fromkeys(paths, float("-inf"))

    def take(self, now: float) -> set[str]:
        """The paths that are due, which are then no longer pending."""
        if not self:
            return set()
        oldest = min([*(first for first, _ in self._paths.values()), *self._folders.values()])
        if now - self._last < self._quiet and now - oldest < self._patience:
            return set()
        longest = MAX_PATIENCE * self._patience
        due = {
            path
            for path, (first, last) in self._paths.items()
            if now - last >= self._quiet or now - first >= longest
        }
        for path in due:
            del self._paths[path]
        due.update(self._folders)
        self._folders.clear()
        return due


def readable_below(folder: str) -> list[str]:
    """A folder and those below it, as far as they may be read."""
    return [path for path, _, _ in os.walk(folder) if os.access(path, os.R_OK | os.X_OK)]


def _is_relevant(change: str, path: str) -> bool:
    """Whether it is a file to index, one that may belong to one, or a folder.

    Of what was deleted, only the name is known.
    """
    name = os.path.basename(path)
    known = kind_of(name) is not None or may_be_sidecar(name) or is_corpus(name)
    return change == "deleted" or known or os.path.isdir(path)
