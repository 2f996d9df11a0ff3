"""One writer at a time: the lock of an index folder, and its holder.

The operating system's own lock decides: it is released when its process ends, in whatever way, so a
lock file that is left behind never blocks anybody. A file beside it describes the writer, for the
message that the index is busy. Reading takes no lock.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mmsearch.errors import IndexBusy, IndexUnusable, StorageFailed

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK = "writer.lock"
HOLDER = "writer.json"
SOFT_LOCK = "writer.pid"
"""Used instead where the file system has no locks: it names its holder, and is taken over once that
process is gone, if it ran on this machine."""

WITHOUT_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""Errors of file systems that have no locks, or cannot reach the service that keeps them."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that writes to an index.

    Attributes:
        what: What it is doing: "indexing".
        since: ISO 8601, UTC.
    """

    pid: int
    host: str
    what: str
    since: str

    def __str__(self) -> str:
        began = datetime.fromisoformat(self.since).astimezone()
        today = began.date() == datetime.now(UTC).astimezone().date()
        when = began.strftime("%H:%M" if today else "%Y-%m-%d %H:%M")
        return f"pid {self.pid} on {self.host}, {self.what} since {when}"


class FolderLock:
    """The right to write to an index, which one thread of one process has at a time.

    That thread may take it again, as functions that it calls do.

    Args:
        folder: The index's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = threading.RLock()
        self._lock: BaseFileLock | None = None

    @contextmanager
    def writing(self, what: str, *, wait: float = 0.0) -> Iterator[None]:
        """The right to write, as long as the context lasts.

        Args:
            what: What is being done, for those who find the index busy: "indexing".
            wait: Seconds to wait for another writer.

        Raises:
            IndexBusy: another process or thread is writing.
            StorageFailed: the folder cannot be written.
        """
        wait = min(wait, threading.TIMEOUT_MAX)
        until = time.monotonic() + wait
        if not self._thread.acquire(timeout=wait):
            raise self._busy()
        try:
            if self._lock is not None:  # this thread has it already
                yield
                return
            self._lock = self._acquired(until)
            try:
                self._write_holder(what)
                yield
            finally:
                with suppress(OSError):
                    (self._folder / HOLDER).unlink(missing_ok=True)
                self._lock.release()
                self._lock = None
        finally:
            self._thread.release()

    def may_write(self, what: str) -> AbstractContextManager[bool]:
        """Whether there is the right to write, as long as the context lasts; never waits.

        For work that can as well be left undone: a search that would store what it has computed.
        """
        return may_enter(self.writing(what))

    def holder(self) -> Holder | None:
        """The last process that said it was writing; it may be gone by now."""
        with suppress(OSError, ValueError, TypeError):
            return Holder(**json.loads((self._folder / HOLDER).read_bytes()))
        return None

    def _acquired(self, until: float) -> BaseFileLock:
        from filelock import FileLock, SoftFileLock, Timeout

        if not self._folder.is_dir():  # filelock would make it
            raise self._unwritable(FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)))
        for kind, name in ((FileLock, LOCK), (SoftFileLock, SOFT_LOCK)):
            lock = kind(self._folder / name, thread_local=False)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that it fell back to a soft lock by itself
                    lock.acquire(timeout=max(0.0, until - time.monotonic()))
            except Timeout as error:
                raise self._busy() from error
            except NotImplementedError:
                continue
            except OSError as error:
                if error.errno in WITHOUT_LOCKS and kind is FileLock:
                    continue
                raise self._unwritable(error) from error
            return lock
        raise AssertionError("a soft lock is acquired, or raises")

    def _write_holder(self, what: str) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        holder = json.dumps(asdict(Holder(os.getpid(), this_host(), what, now)))
        part = self._folder / f"{HOLDER}.part"
        try:
            part.write_text(holder, encoding="utf-8")
            part.replace(self._folder / HOLDER)
        except OSError:  # a full disk: the lock holds all the same
            with suppress(OSError):
                part.unlink(missing_ok=True)

    def _busy(self) -> IndexBusy:
        holder = self.holder()
        if holder is None:
            return IndexBusy(
                f"another process is writing to the index at {self._folder}; wait for it or stop it"
            )
        if (holder.pid, holder.host) == (os.getpid(), this_host()):
            return IndexBusy(
                f"this process is writing to the index already: {holder}; wait until it is done"
            )
        return IndexBusy(
            f"another process is writing to this index: {holder}; wait for it or stop it"
        )

    def _unwritable(self, error: OSError) -> StorageFailed:
        return StorageFailed(
            f"the index at {self._folder} cannot be written: {error.strerror or error}; make its "
            "folder writable, or free some space, then run the command again"
        )


@contextmanager
def may_enter(writing: AbstractContextManager[None]) -> Iterator[bool]:
    """Whether there is the right to write, as long as the context lasts.

    Args:
        writing: The context of that right, which is entered if it can be.
    """
    with ExitStack() as stack:
        free = True
        try:
            stack.enter_context(writing)
        except (IndexBusy, IndexUnusable):
            free = False
        yield free


def this_host() -> str:
    """The name of this machine."""
    import socket  # a query that writes nothing has no need of it

    return socket.gethostname()
