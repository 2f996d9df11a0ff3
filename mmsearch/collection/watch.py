"""Keeps an index in step with the disk, until it is stopped.

The system reports changes (inotify and its like, through watchfiles); they only tell where to
scan. Those that it does not report are found all the same: everything is scanned in the beginning,
when a folder comes back, after a flood of changes, and every hour.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.collection.folder_changes import (
    PATIENCE,
    QUIET,
    ChangeListener,
    PendingChanges,
    readable_below,
    require_watchfiles,
)
from mmsearch.errors import IndexBusy, IndexNotFound, PathNotFound, StorageFailed
from mmsearch.indexing.scopes import is_in, outermost
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
"""Seconds between two scans of everything where the system reports nothing, at least."""

POLLING_SHARE = 10
"""Times as long as the last scan took, at least: polling takes a tenth of the time at most."""

SLEEP = 0.2
"""Seconds within which a stop is noticed."""

CHECK_FOLDERS = 2.0
"""Seconds between two checks whether watched folders went away or came back."""

TRY_AGAIN = 1.0
"""Seconds until the paths to watch are tried again while another process writes."""

MOST_ERRORS, ERRORS_WITHIN = 5, 60.0
"""Errors of listening, within so many seconds, after which it polls."""

LONGEST_PAUSE = {IndexBusy: 5.0, PathNotFound: 5.0, StorageFailed: 60.0}
"""Seconds until something is tried again, at most; the first pause is one, each the double."""

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
        stop: Ends it, once the batch that is being encoded is stored.
        on_update: Called with what each scan found, also if that is nothing.
        on_trouble: Called with what is in the way, once; it is tried again.
        progress: Of the first scan.
        quiet: Seconds without a change after which what has changed is read.
        patience: Seconds after which it is read although changes go on.

    Raises:
        MissingExtra: watchfiles is not installed, and it is not to `poll`.
        PathNotFound: one of `paths` does not exist, or none were given and nothing was indexed yet.
        IndexNotFound: the index was deleted meanwhile.
    """
    if not poll:
        require_watchfiles()
    callbacks = _Callbacks(on_update, on_trouble, progress)
    watcher = Watcher(collection, PendingChanges(quiet, patience), stop, callbacks, poll=poll)
    return watcher.run(paths)


@dataclass(frozen=True, slots=True)
class _Callbacks:
    update: Callable[[Report], None] | None
    trouble: Callable[[str], None] | None
    progress: Progress | None


class Watcher:
    """Keeps an index in step.

    Args:
        collection: The index.
        pending: What has changed.
        stop: Ends it.
        callbacks: Called when something happens.
        poll: Whether to scan again and again instead of listening.
    """

    def __init__(
        self,
        collection: Collection,
        pending: PendingChanges,
        stop: threading.Event | None,
        callbacks: _Callbacks,
        *,
        poll: bool,
    ) -> None:
        self._collection = collection
        self._pending = pending
        self._stop = stop or threading.Event()
        self._callbacks = callbacks
        self._poll = poll
        self._given: Mapping[str, bool] | None = None  # to watch; None: all index roots
        self._flat = False  # listen to each folder on its own, as some may not be read
        self._listeners: list[ChangeListener] = []
        self._there: dict[Folder, tuple[int, int]] = {}  # and their inodes
        self._checked = float("-inf")
        self._errors: list[float] = []
        self._scanned = time.monotonic()
        self._scan_took = 0.0
        self._first = True
        self._pause = 0.0
        self._paused_until = float("-inf")
        self._troubles: set[str] = set()
        self._total = Report()

    def run(self, paths: Sequence[str | os.PathLike[str]] | None) -> Report:
        """Watch paths, or all index roots, until it is stopped; returns what was done in all."""
        began = time.monotonic()
        try:
            self._given = None if paths is None else self._roots(paths)
            while not self._stop.is_set():
                self._check_folders()
                self._check_time()
                now = time.monotonic()
                if now >= self._paused_until and (due := self._pending.take(now)):
                    self._refresh(due)
                else:
                    self._listen()
        finally:
            self._close_listeners()
            self._total.seconds = time.monotonic() - began
        return self._total

    def _roots(self, paths: Sequence[str | os.PathLike[str]]) -> Mapping[str, bool]:
        """The folders to watch, once the paths are index roots; none if it is stopped before."""
        while not self._stop.is_set():
            try:
                return self._collection.ask_for(paths)
            except IndexBusy as error:
                self._say(f"{error} (it is tried again)")
                self._stop.wait(TRY_AGAIN)
        return {}

    # ------------------------------------------------------------------ what happens

    def _listen(self) -> None:
        """Wait a little for changes."""
        if not self._listeners:
            self._stop.wait(SLEEP)
            return
        try:
            heard = set().union(*(listener.changed() for listener in self._listeners))
        except (OSError, RuntimeError) as error:
            self._listen_otherwise(error)
            return
        own = os.path.realpath(self._collection.folder)
        paths = [path for path in heard if not is_in(path, own)]
        self._pending.add(paths, time.monotonic(), self._folders())
        if self._flat and any(map(os.path.isdir, paths)):
            self._there.clear()

    def _listen_otherwise(self, error: Exception) -> None:
        """Listen again after an error, or poll if errors go on; then everything is scanned."""
        now = time.monotonic()
        self._errors = [*(then for then in self._errors if now - then < ERRORS_WITHIN), now]
        if isinstance(error, PermissionError) and not self._flat:
            self._flat = True
        elif "limit" in str(error) or "Too many open files" in str(error):
            self._give_up_listening(LIMITS)
        elif len(self._errors) >= MOST_ERRORS:  # names that are not UTF-8 are such errors
            self._give_up_listening(f"the system does not report changes: {error}")
        self._there.clear()  # so that they are listened to again, and scanned
        self._checked = now

    def _give_up_listening(self, why: str) -> None:
        self._poll = True
        self._say(f"{why}; until then everything is looked at every few seconds, or minutes")

    def _check_folders(self) -> None:
        """Listen to the folders that are there now; those that have come are scanned."""
        now = time.monotonic()
        if now - self._checked < CHECK_FOLDERS:
            return
        self._checked = now
        wanted = self._collection.asked_folders() if self._given is None else self._given
        if not wanted:
            raise PathNotFound(
                "nothing was indexed yet: say what to watch, `mmsearch watch FOLDER`"
            )
        there = {folder: inode for folder in wanted.items() if (inode := _inode(folder[0]))}
        if there == self._there:
            return
        come = [folder[0] for folder, inode in there.items() if self._there.get(folder) != inode]
        for path, _ in self._there.keys() - there.keys():
            self._say(f"{path} is not there; what was found in it stays in the index for now")
        self._there = there
        self._pending.add_due(come)
        self._close_listeners()
        try:
            self._open_listeners(there if not self._poll else ())
        except (OSError, RuntimeError) as error:
            self._listen_otherwise(error)

    def _open_listeners(self, folders: Iterable[Folder]) -> None:
        deep = outermost(path for path, recursive in folders if recursive)
        flat = {path for path, _ in folders if not any(is_in(path, one) for one in deep)}
        if self._flat:
            flat.update(path for one in deep for path in readable_below(one))
            deep = set()
        for some, recursive in ((deep, True), (flat, False)):
            if some:
                timeout = SLEEP / 2
                listener = ChangeListener(sorted(some), recursive=recursive, timeout=timeout)
                self._listeners.append(listener)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    def _check_time(self) -> None:
        """Scan everything after a while, whatever was heard."""
        pause = max(POLLING, POLLING_SHARE * self._scan_took) if self._poll else RESCAN_ALL
        if time.monotonic() - self._scanned >= pause:
            self._scanned = time.monotonic()
            self._pending.add_due(self._folders())

    def _folders(self) -> list[str]:
        return [path for path, _ in self._there]

    # ------------------------------------------------------------------ what is done about it

    def _refresh(self, paths: set[str]) -> None:
        if not (self._collection.folder / "catalog.db").is_file():
            raise IndexNotFound(f"the index at {self._collection.folder} is gone")
        began, done = time.monotonic(), False
        try:
            self._collection.refresh(paths, unsettled=self._pending.paths, progress=self._step)
            done = True
        except _StopAskedForError:
            self._total.interrupted = True
        except (IndexBusy, StorageFailed, PathNotFound) as error:
            self._put_off(paths, error)
        report = self._collection.report or Report()
        if done or any(getattr(report, name) for name in _COUNTS):
            for name in _COUNTS:
                setattr(self._total, name, getattr(self._total, name) + getattr(report, name))
            if self._callbacks.update is not None:
                self._callbacks.update(report)
        if done:
            self._pause = 0.0
            self._troubles.clear()
            self._first = False
        if paths.issuperset(self._folders()):
            self._scanned = time.monotonic()
            self._scan_took = self._scanned - began

    def _put_off(self, paths: set[str], error: Exception) -> None:
        """Try again later; a folder that vanished while it was scanned is no trouble."""
        if not isinstance(error, PathNotFound):
            self._say(f"{error} (it is tried again)")
        longest = next(most for kind, most in LONGEST_PAUSE.items() if isinstance(error, kind))
        self._pause = min(longest, max(1.0, 2 * self._pause))
        now = time.monotonic()
        self._paused_until = now + self._pause
        self._pending.add(paths, now, self._folders())

    def _step(self, done: int, total: int | None) -> None:
        if self._callbacks.progress is not None and self._first:
            self._callbacks.progress(done, total)
        if self._stop.is_set():
            raise _StopAskedForError

    def _say(self, trouble: str) -> None:
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            if self._callbacks.trouble is not None:
                self._callbacks.trouble(trouble)


class _StopAskedForError(KeyboardInterrupt):
    """Ends a run of indexing where Ctrl-C would, after what is stored."""


_COUNTS = ("added", "updated", "renamed", "removed", "filled")


def _inode(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
