"""Who writes to an index in PostgreSQL: many may at once, one alone where it must be."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from mmsearch.errors import IndexBusy
from mmsearch.storage.lock import may_enter, this_host
from mmsearch.storage.postgres.database import Database

STEP = 0.25
"""Seconds from one try to the next."""


class AdvisoryLock:
    """The right to write to an index, which the server takes back when the process ends.

    Any number of processes have it at once, since their transactions wait for one another; but only
    one thread of each, and that may take it again. A copy has it alone.

    Args:
        database: The index's.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = threading.RLock()
        self._depth = 0

    @contextmanager
    def writing(self, what: str, *, wait: float = 0.0) -> Iterator[None]:
        """The right to write beside others, as long as the context lasts.

        Args:
            what: What is being done, for those who find the index busy: "indexing".
            wait: Seconds to wait for a copy into this index.

        Raises:
            IndexBusy: another process is copying into it, or another thread of this one writes.
            StorageFailed: the server cannot be reached.
        """
        with self._held(what, "pg_try_advisory_lock_shared", wait):
            yield

    @contextmanager
    def writing_alone(self, what: str) -> Iterator[None]:
        """The right to write while nobody else does, as long as the context lasts.

        Raises:
            IndexBusy: another process is writing.
            StorageFailed: the server cannot be reached.
        """
        with self._held(what, "pg_try_advisory_lock", 0.0):
            yield

    def may_write(self, what: str) -> AbstractContextManager[bool]:
        """Whether there is the right to write, as long as the context lasts; never waits."""
        return may_enter(self.writing(what))

    @contextmanager
    def _held(self, what: str, function: str, wait: float) -> Iterator[None]:
        wait = min(wait, threading.TIMEOUT_MAX)
        until = time.monotonic() + wait
        if not self._thread.acquire(timeout=wait):
            raise IndexBusy("this process is writing to the index already; wait until it is done")
        try:
            if self._depth:  # this thread has it already
                self._depth += 1
                yield
                return
            with self._database.session() as session:
                self._take(session, what, function, until)
                self._depth += 1
                yield  # the lock ends with the session
        finally:
            self._depth = max(self._depth - 1, 0)
            self._thread.release()

    def _take(self, session: Any, what: str, function: str, until: float) -> None:
        key = self._database.lock_key("writer")
        name = f"mmsearch: {what}, pid {os.getpid()} on {this_host()}"
        session.execute("SELECT set_config('application_name', %s, false)", (name,))
        while not session.execute(f"SELECT {function}(%s)", (key,)).fetchone()[0]:
            if time.monotonic() >= until:
                found = session.execute(_HOLDER, (key >> 32 & 0xFFFFFFFF, key & 0xFFFFFFFF))
                who = found.fetchone()
                holder = f": {who[0].removeprefix('mmsearch: ')}" if who else ""
                raise IndexBusy(
                    f"another process is writing to this index{holder}; wait for it or stop it"
                )
            time.sleep(STEP)


_HOLDER = """
    SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND classid::bigint = %s AND objid::bigint = %s
    AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND pid <> pg_backend_pid()
"""
