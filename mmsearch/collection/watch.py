"""Keeps an index up to date with the disk until it is stopped.

The system reports changes (through watchfiles: inotify and its equivalents), which only say where
to scan. Changes that it misses are found by scans of everything: at the start, when a folder
reappears, after an overflow, and every hour.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mmsearch.collection.folder_changes import (
    PATIENCE,
    QUIET,
    ChangeListener,
    PendingChanges,
    readable_below,
)
from mmsearch.errors import IndexBusy, IndexNotFound, MissingExtra, PathNotFound, StorageFailed
from mmsearch.indexing.scopes import is_in, outermost
from mmsearch.storage.backups import CATALOG
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.types import Progress

Folder = tuple[str, bool]
"""A folder to watch, and whether with everything below."""

RESCAN_ALL = 3600.0
"""Seconds between two scans of everything: the system's queue may have overflowed, it may watch no
more folders, and network drives do not report changes by other machines."""

POLLING = 5.0
"""Seconds between two scans of everything when polling, at least."""

POLLING_SHARE = 10
"""A poll waits at least this many times as long as the last scan took."""

SLEEP = 0.2
"""Seconds within which a stop is noticed."""

CHECK_FOLDERS = 2.0
"""Seconds between two checks of which watched folders exist."""

TRY_AGAIN = 1.0
"""Seconds until the paths to watch are tried again while another process writes."""

MOST_ERRORS, ERRORS_WITHIN = 5, 60.0
"""After this many errors of listening within so many seconds, it polls."""

LONGEST_PAUSE = {IndexBusy: 5.0, PathNotFound: 5.0, StorageFailed: 60.0}
"""The longest pause in seconds before a retry, by error; pauses start at one and double."""

LIMITS = (
    "the system does not watch so many folders: raise fs.inotify.max_user_watches (`sysctl "
    "fs.inotify` shows it) or fs.inotify.max_user_instances, then start again"
)


def watch(  # noqa: PLR0913 - keywords, all optional
    collection: Collection,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    *,
    poll: bool = False,
    stop: threading.Event | None = None,
    on_update: Callable[[Report], None] | None = None,
    on_trouble: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    quiet: float = QUIET,
    patience: float = PATIENCE,
) -> Report:
    """Bring an index up to date, and keep it so until `stop` is set; returns what was done in all.

    Args:
        collection: The index.
        paths: Folders and files; left out, all that was ever indexed, also what is later on.
        poll: Do not rely on the system: scan everything again and again, which takes a tenth of the
            time. For network drives that other machines write to.
        stop: Set it to stop watching, once the current batch is stored.
        on_update: Called with the report of each scan, even if nothing changed.
        on_trouble: Called once with each problem; what failed is retried.
        progress: Of the first scan.
        quiet: Seconds without a change after which what has changed is read.
        patience: Seconds after which it is read although changes go on.

    Raises:
        MissingExtra: watchfiles is not installed, and it is not to `poll`.
        PathNotFound: one of `paths` does not exist, or none were given and nothing was indexed yet.
        IndexNotFound: the index was deleted meanwhile.
    """
    if not poll and importlib.util.find_spec("watchfiles") is None:
        raise MissingExtra("mmsearch watch without --poll", "watch")
    watcher = _Watcher(
        collection,
        PendingChanges(quiet, patience),
        stop or threading.Event(),
        poll,
        on_update or _ignore,
        on_trouble or _ignore,
        progress or _ignore,
    )
    return watcher.run(paths)


@dataclass
class _Watcher:
    """The arguments of `watch`, and its state."""

    collection: Collection
    pending: PendingChanges
    stop: threading.Event
    poll: bool
    on_update: Callable[[Report], None]
    on_trouble: Callable[[str], None]
    progress: Progress

    given: Mapping[str, bool] | None = None  # folders to watch; None: all index roots
    flat: bool = False  # listen to each folder on its own, as some may not be read
    listeners: list[ChangeListener] = field(default_factory=list)
    inodes: dict[Folder, tuple[int, int]] = field(default_factory=dict)  # of the folders that exist
    checked: float = float("-inf")
    errors: list[float] = field(default_factory=list)  # when listening failed
    scanned: float = field(default_factory=time.monotonic)
    scan_took: float = 0.0
    first: bool = True
    pause: float = 0.0
    paused_until: float = float("-inf")
    troubles: set[str] = field(default_factory=set)
    total: Report = field(default_factory=Report)

    def run(self, paths: Sequence[str | os.PathLike[str]] | None) -> Report:
        """Watch paths, or all index roots, until it is stopped; returns what was done in all."""
        began = time.monotonic()
        try:
            self.given = None if paths is None else self._roots(paths)
            while not self.stop.is_set():
                self._check_folders()
                self._check_time()
                now = time.monotonic()
                if now >= self.paused_until and (due := self.pending.take(now)):
                    self._refresh(due)
                else:
                    self._listen()
        finally:
            self._close_listeners()
            self.total.seconds = time.monotonic() - began
        return self.total

    def _roots(self, paths: Sequence[str | os.PathLike[str]]) -> Mapping[str, bool]:
        """The folders to watch, once the paths are index roots; none if it is stopped before."""
        while not self.stop.is_set():
            try:
                return self.collection.ask_for(paths)
            except IndexBusy as error:
                self._warn(f"{error} (it is tried again)")
                self.stop.wait(TRY_AGAIN)
        return {}

    # ------------------------------------------------------------------ listening

    def _listen(self) -> None:
        """Wait a little for changes."""
        if not self.listeners:
            self.stop.wait(SLEEP)
            return
        try:
            changed = set().union(*(listener.changed() for listener in self.listeners))
        except (OSError, RuntimeError) as error:
            self._recover_listening(error)
            return
        own = os.path.realpath(self.collection.folder)
        paths = [path for path in changed if not is_in(path, own)]
        self.pending.add(paths, time.monotonic(), self._folders())
        if self.flat and any(map(os.path.isdir, paths)):
            self.inodes.clear()

    def _recover_listening(self, error: Exception) -> None:
        """Listen again after an error, or poll if errors go on; then everything is scanned."""
        now = time.monotonic()
        self.errors = [*(then for then in self.errors if now - then < ERRORS_WITHIN), now]
        if isinstance(error, PermissionError) and not self.flat:
            self.flat = True
        elif "limit" in str(error) or "Too many open files" in str(error):
            self._give_up_listening(LIMITS)
        elif len(self.errors) >= MOST_ERRORS:  # names that are not UTF-8 are such errors
            self._give_up_listening(f"the system does not report changes: {error}")
        self.inodes.clear()  # so that they are listened to again, and scanned
        self.checked = now

    def _give_up_listening(self, why: str) -> None:
        self.poll = True
        self._warn(f"{why}; until then everything is looked at every few seconds, or minutes")

    def _check_folders(self) -> None:
        """Listen to the folders that exist now; those that are new are scanned."""
        now = time.monotonic()
        if now - self.checked < CHECK_FOLDERS:
            return
        self.checked = now
        wanted = self.collection.asked_folders() if self.given is None else self.given
        if not wanted:
            raise PathNotFound(
                "nothing was indexed yet: say what to watch, `mmsearch watch FOLDER`"
            )
        inodes = {folder: inode for folder in wanted.items() if (inode := _inode(folder[0]))}
        if inodes == self.inodes:
            return
        new = [folder[0] for folder, inode in inodes.items() if self.inodes.get(folder) != inode]
        for path, _ in self.inodes.keys() - inodes.keys():
            self._warn(f"{path} is not there; what was found in it stays in the index for now")
        self.inodes = inodes
        self.pending.add_due(new)
        self._close_listeners()
        try:
            self._open_listeners(inodes if not self.poll else ())
        except (OSError, RuntimeError) as error:
            self._recover_listening(error)

    def _open_listeners(self, folders: Iterable[Folder]) -> None:
        deep = outermost(path for path, recursive in folders if recursive)
        flat = {path for path, _ in folders if not any(is_in(path, one) for one in deep)}
        if self.flat:
            flat.update(path for one in deep for path in readable_below(one))
            deep = set()
        for some, recursive in ((deep, True), (flat, False)):
            if some:
                timeout = SLEEP / 2
                listener = ChangeListener(sorted(some), recursive=recursive, timeout=timeout)
                self.listeners.append(listener)

    def _close_listeners(self) -> None:
        for listener in self.listeners:
            listener.close()
        self.listeners = []

    def _check_time(self) -> None:
        """Scan everything when the interval for that has passed."""
        pause = max(POLLING, POLLING_SHARE * self.scan_took) if self.poll else RESCAN_ALL
        if time.monotonic() - self.scanned >= pause:
            self.scanned = time.monotonic()
            self.pending.add_due(self._folders())

    def _folders(self) -> list[str]:
        return [path for path, _ in self.inodes]

    # ------------------------------------------------------------------ refreshing

    def _refresh(self, paths: set[str]) -> None:
        place = self.collection.place
        if place.is_folder and not (place.folder / CATALOG).is_file():
            raise IndexNotFound(f"the index at {place} is gone")
        began, done = time.monotonic(), False
        try:
            self.collection.refresh(paths, unsettled=self.pending.paths, progress=self._step)
            done = True
        except _StopRequestedError:
            self.total.interrupted = True
        except (IndexBusy, StorageFailed, PathNotFound) as error:
            self._retry_later(paths, error)
        report = self.collection.report or Report()
        if done or any(getattr(report, name) for name in _COUNTS):
            for name in _COUNTS:
                setattr(self.total, name, getattr(self.total, name) + getattr(report, name))
            self.on_update(report)
        if done:
            self.pause = 0.0
            self.troubles.clear()
            self.first = False
        if paths.issuperset(self._folders()):
            self.scanned = time.monotonic()
            self.scan_took = self.scanned - began

    def _retry_later(self, paths: set[str], error: Exception) -> None:
        """Schedule a retry; a folder that vanished while it was scanned needs no warning."""
        if not isinstance(error, PathNotFound):
            self._warn(f"{error} (it is tried again)")
        longest = next(most for kind, most in LONGEST_PAUSE.items() if isinstance(error, kind))
        self.pause = min(longest, max(1.0, 2 * self.pause))
        now = time.monotonic()
        self.paused_until = now + self.pause
        self.pending.add(paths, now, self._folders())

    def _step(self, done: int, total: int | None) -> None:
        if self.first:
            self.progress(done, total)
        if self.stop.is_set():
            raise _StopRequestedError

    def _warn(self, trouble: str) -> None:
        if trouble not in self.troubles:
            self.troubles.add(trouble)
            self.on_trouble(trouble)


class _StopRequestedError(KeyboardInterrupt):
    """Ends an indexing run as Ctrl-C does: the current batch is stored."""


_COUNTS = ("added", "updated", "renamed", "removed", "filled")


def _ignore(*_: object) -> None:
    """A callback that does nothing."""


def _inode(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
