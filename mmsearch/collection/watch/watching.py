"""One run of watching: hear what changes, wait until it is quiet, have it read."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.collection.watch.debouncer import Pending, is_in
from mmsearch.collection.watch.folder_listener import Ears, Heard, readable_below
from mmsearch.errors import IndexBusy, IndexNotFound, PathNotFound, StorageFailed
from mmsearch.types import Report

if TYPE_CHECKING:
    from mmsearch.collection import Collection
    from mmsearch.types import Progress

Folder = tuple[str, bool]
"""A folder to watch, and whether with all below."""

TOLD_ALL = 3600.0
"""Seconds after which everything is looked at unasked: the system's queue may have run over, it may
watch no more folders, and network drives do not tell what other machines do."""

POLLING = 5.0
"""Seconds between two looks at everything where the system tells nothing, at least."""

POLLING_SHARE = 10
"""Times as long as the last look took, at least: polling takes a tenth of the time at most."""

SLEEP = 0.2
"""Seconds within which a stop is noticed."""

LOOK_FOR_FOLDERS = 2.0
"""Seconds between two looks whether watched folders went away or came back."""

MOST_ERRORS, ERRORS_WITHIN = 5, 60.0
"""Errors of listening, within so many seconds, that are put up with."""

LONGEST_PAUSE = {IndexBusy: 5.0, PathNotFound: 5.0, StorageFailed: 60.0}
"""Seconds until something is tried again, at most; it begins with one and doubles."""

LIMITS = (
    "the system does not watch so many folders: raise fs.inotify.max_user_watches (`sysctl "
    "fs.inotify` shows it) or fs.inotify.max_user_instances, then start again"
)


@dataclass(frozen=True, slots=True)
class Told:
    """Who is told what happens."""

    update: Callable[[Report], None]
    trouble: Callable[[str], None]
    progress: Progress | None


class Watching:
    """Keeps an index in step.

    Args:
        collection: The index.
        given: The folders to watch; None: those of all that was asked for, at each moment.
        pending: What has changed.
        stop: Ends it.
        told: Who is told.
        poll: Whether to look again and again instead of being told.
    """

    def __init__(
        self,
        collection: Collection,
        given: Mapping[str, bool] | None,
        pending: Pending,
        stop: threading.Event,
        told: Told,
        *,
        poll: bool,
    ) -> None:
        self._collection = collection
        self._given = given
        self._pending = pending
        self._stop = stop
        self._told = told
        self._poll = poll
        self._each = False  # folder is listened to on its own, as some may not be read
        self._heard: Heard = queue.SimpleQueue()
        self._ears: list[Ears] = []
        self._there: dict[Folder, tuple[int, int]] = {}  # and their inodes
        self._checked = float("-inf")
        self._errors: list[float] = []
        self._looked = time.monotonic()
        self._look_took = 0.0
        self._first = True
        self._pause = 0.0
        self._paused_until = float("-inf")
        self._troubles: set[str] = set()
        self._total = Report()

    def run(self) -> Report:
        """Until it is stopped; what was done in all."""
        began = time.monotonic()
        try:
            while not self._stop.is_set():
                self._mind_folders()
                self._mind_time()
                now = time.monotonic()
                if now >= self._paused_until and (due := self._pending.take(now)):
                    self._look(due)
                else:
                    self._listen()
        finally:
            self._close_ears()
            self._total.seconds = time.monotonic() - began
        return self._total

    # ------------------------------------------------------------------ what happens

    def _listen(self) -> None:
        """Wait for what is heard, a little."""
        try:
            heard = self._heard.get(timeout=SLEEP)
        except queue.Empty:
            return
        if isinstance(heard, Exception):
            self._listen_otherwise(heard)
            return
        own = os.path.realpath(self._collection.folder)
        paths = [path for path in heard if not is_in(path, own)]
        self._pending.note(paths, time.monotonic(), self._places())
        if self._each and any(map(os.path.isdir, paths)):
            self._there.clear()

    def _listen_otherwise(self, error: Exception) -> None:
        """Listen anew after an error, or poll if it is of no use; all is looked at meanwhile."""
        now = time.monotonic()
        self._errors = [*(then for then in self._errors if now - then < ERRORS_WITHIN), now]
        if isinstance(error, PermissionError) and not self._each:
            self._each = True
        elif "limit" in str(error) or "Too many open files" in str(error):
            self._give_up_listening(LIMITS)
        elif len(self._errors) >= MOST_ERRORS:  # names that are not UTF-8 are such errors
            self._give_up_listening(f"the system does not tell what changes: {error}")
        self._there.clear()  # so that they are listened to anew, and looked at
        self._checked = now

    def _give_up_listening(self, why: str) -> None:
        self._poll = True
        self._say(f"{why}; until then everything is looked at every few seconds, or minutes")

    def _mind_folders(self) -> None:
        """Listen to the folders that are there now; those that have come are looked at."""
        now = time.monotonic()
        if now - self._checked < LOOK_FOR_FOLDERS:
            return
        self._checked = now
        asked = self._collection.asked_folders() if self._given is None else self._given
        if not asked:
            raise PathNotFound(
                "nothing was indexed yet: say what to watch, `mmsearch watch FOLDER`"
            )
        there = {folder: inode for folder in asked.items() if (inode := _inode(folder[0]))}
        if there == self._there:
            return
        come = [path for (path, deep), at in there.items() if self._there.get((path, deep)) != at]
        for path, _ in self._there.keys() - there.keys():
            self._say(f"{path} is not there; what was found in it stays in the index for now")
        self._there = there
        self._close_ears()
        if not self._poll:
            self._ears = self._ears_for(there)
        self._pending.hurry(come)

    def _ears_for(self, folders: Iterable[Folder]) -> list[Ears]:
        deep = _outermost({path for path, all_below in folders if all_below})
        flat = {path for path, _ in folders if not any(is_in(path, one) for one in deep)}
        if self._each:
            flat.update(path for one in deep for path in readable_below(one))
            deep = set()
        both = ((deep, True), (flat, False))
        return [Ears(sorted(some), self._heard, deep=below) for some, below in both if some]

    def _close_ears(self) -> None:
        for ears in self._ears:
            ears.close()
        self._ears = []

    def _mind_time(self) -> None:
        """Look at everything after a while, told or not."""
        pause = max(POLLING, POLLING_SHARE * self._look_took) if self._poll else TOLD_ALL
        if time.monotonic() - self._looked >= pause:
            self._looked = time.monotonic()
            self._pending.hurry(self._places())

    def _places(self) -> list[str]:
        return [path for path, _ in self._there]

    # ------------------------------------------------------------------ what is done about it

    def _look(self, paths: set[str]) -> None:
        if not (self._collection.folder / "catalog.db").is_file():
            raise IndexNotFound(f"the index at {self._collection.folder} is gone")
        began, done = time.monotonic(), False
        try:
            self._collection.refresh(paths, progress=self._step)
            done = True
        except _StopAskedForError:
            self._total.interrupted = True
        except (IndexBusy, StorageFailed, PathNotFound) as error:
            self._put_off(paths, error)
        report = self._collection.report or Report()
        if done or any(getattr(report, name) for name in _COUNTS):
            self._tally(report)
        if done:
            self._pause = 0.0
            self._troubles.clear()
            self._first = False
        if paths.issuperset(self._places()):
            self._looked = time.monotonic()
            self._look_took = self._looked - began

    def _put_off(self, paths: set[str], error: Exception) -> None:
        """Try again later; a folder that vanished while it was read is no trouble."""
        if not isinstance(error, PathNotFound):
            self._say(f"{error} (it is tried again)")
        longest = next(most for kind, most in LONGEST_PAUSE.items() if isinstance(error, kind))
        self._pause = min(longest, max(1.0, 2 * self._pause))
        now = time.monotonic()
        self._paused_until = now + self._pause
        self._pending.note(paths, now, self._places())

    def _step(self, done: int, total: int | None) -> None:
        if self._told.progress is not None and self._first:
            self._told.progress(done, total)
        if self._stop.is_set():
            raise _StopAskedForError

    def _tally(self, report: Report) -> None:
        for name in _COUNTS:
            setattr(self._total, name, getattr(self._total, name) + getattr(report, name))
        self._told.update(report)

    def _say(self, trouble: str) -> None:
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            self._told.trouble(trouble)


class _StopAskedForError(KeyboardInterrupt):
    """Ends a run of indexing where Ctrl-C would, after what is stored."""


_COUNTS = ("added", "updated", "renamed", "removed", "filled")


def _inode(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _outermost(folders: set[str]) -> set[str]:
    return {one for one in folders if not any(is_in(one, o) for o in folders if o != one)}
