"""One writer at a time on a server: a lease in the state collection, and its holder.

Milvus has no locks, and no row that only one of two clients can change. So who wants to write puts
his name into a row, looks a moment later whether it still stands there, and renews it while he
writes; a lease that was not renewed in time, or whose process is gone from this machine, may be
taken over. A writer who was away for so long that somebody else took over is told at his next
write. Clocks of writers on several machines must agree to some seconds.

Processes on one machine meet at the lock of their cache folder first, which no crash leaves behind.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from mmsearch.errors import IndexBusy, MMSearchError
from mmsearch.storage.lock import FolderLock, Holder, may_enter, this_host

LEASE = 45.0
"""Seconds that a lease lasts without being renewed."""

RENEW_AFTER = 10.0
"""Seconds after which it is renewed."""

SETTLED_AFTER = 0.05
"""Seconds after which a name that still stands in the row was the last to be put there."""

ROW = "lease"


class Lease:
    """The right to write to an index on a server, which one thread of one process has at a time.

    That thread may take it again.

    Args:
        folder: The cache folder of the index, which exists.
        address: How the index is called in messages.
        read: Reads the lease row; None if there is none.
        write: Writes it.
        between_writes: A lock that every write holds: a lease is not given back within one.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        read: Callable[[], str | None],
        write: Callable[[str], None],
        between_writes: threading.RLock,
    ) -> None:
        self._folder_lock = FolderLock(folder)
        self._address = address
        self._read_row, self._write_row = read, write
        self._between_writes = between_writes
        self._mine: dict[str, Any] | None = None
        self._lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.number = 0
        """Counts how often it was acquired: what was read before is out of date then."""

    @contextmanager
    def writing(self, what: str, *, wait: float = 0.0) -> Iterator[None]:
        """The right to write, as long as the context lasts.

        Args:
            what: What is being done, for those who find the index busy: "indexing".
            wait: Seconds to wait for another writer.

        Raises:
            IndexBusy: another process or thread is writing.
            StorageFailed: the server cannot be reached.
        """
        until = time.monotonic() + min(wait, threading.TIMEOUT_MAX)
        with self._folder_lock.writing(what, wait=wait):
            if self._mine is not None:  # this thread has it already
                yield
                return
            self._acquire(what, until)
            try:
                yield
            finally:
                with self._between_writes:
                    self._release()

    def may_write(self, what: str) -> AbstractContextManager[bool]:
        """Whether there is the right to write, as long as the context lasts; never waits."""
        return may_enter(self.writing(what))

    def holder(self) -> Holder | None:
        """The process that writes, if one does."""
        found = self._row()
        if found is None or _is_over(found):
            return None
        return Holder(found["pid"], found["host"], found["what"], found["since"])

    @property
    def is_held(self) -> bool:
        """Whether this process has the right to write."""
        return self._mine is not None

    def check(self) -> None:
        """Raise IndexBusy if another process has taken over."""
        mine = self._mine
        if mine is not None and time.time() > mine["expires"]:  # this process was stopped, say
            found = self._row()
            self._lost = found is None or found["holder"] != mine["holder"]
        if self._lost:
            raise IndexBusy(
                f"this process could not renew its right to write to {self._address} in time, and "
                "another one may have taken over: run the command again, it goes on from there"
            )

    def _acquire(self, what: str, until: float) -> None:
        while True:
            found = self._row()
            if found is None or _is_over(found):
                now = datetime.now(UTC).isoformat(timespec="seconds")
                mine = {
                    "holder": secrets.token_hex(8),
                    "pid": os.getpid(),
                    "host": this_host(),
                    "system": _system(),
                    "what": what,
                    "since": now,
                    "expires": time.time() + LEASE,
                }
                self._write_row(json.dumps(mine))
                time.sleep(SETTLED_AFTER)
                found = self._row()
                if found is not None and found["holder"] == mine["holder"]:
                    break
            if time.monotonic() >= until:
                raise self._busy(found)
            time.sleep(0.2)
        self._mine, self._lost = mine, False
        self.number += 1
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, args=(self._stop, mine), daemon=True)
        self._thread.start()

    def _release(self) -> None:
        mine, self._mine = self._mine, None
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with suppress(MMSearchError):  # a server that is gone: the lease runs out
            found = self._row()
            if mine is not None and found is not None and found["holder"] == mine["holder"]:
                self._write_row(json.dumps({**mine, "expires": 0.0}))

    def _renew(self, stop: threading.Event, mine: dict[str, Any]) -> None:
        while not stop.wait(RENEW_AFTER):
            try:
                found = self._row()
                if found is None or found["holder"] != mine["holder"]:
                    self._lost = True
                    return
                mine["expires"] = time.time() + LEASE
                self._write_row(json.dumps(mine))
            except MMSearchError:
                if time.time() > mine["expires"]:
                    self._lost = True
                    return

    def _row(self) -> dict[str, Any] | None:
        text = self._read_row()
        found: dict[str, Any] | None = json.loads(text) if text else None
        return found

    def _busy(self, found: dict[str, Any] | None) -> IndexBusy:
        who = "another process"
        if found is not None:
            who = str(Holder(found["pid"], found["host"], found["what"], found["since"]))
        return IndexBusy(
            f"another process is writing to {self._address}: {who}; wait for it or stop it (one "
            f"that was killed on another machine is forgotten after {LEASE:.0f} seconds)"
        )


@cache
def _system() -> str:
    """What tells process ids from those of other machines and containers of the same name."""
    parts = []
    with suppress(OSError):  # on Linux alone
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _is_over(found: dict[str, Any]) -> bool:
    """Whether a lease may be taken over."""
    if time.time() > found["expires"]:
        return True
    if (found["host"], found["system"]) != (this_host(), _system()):
        return False
    if found["pid"] == os.getpid():
        return False
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
