"""The log of a catalog that is being loaded, moved into its file beside the writing.

SQLite itself moves it within a commit, and nothing is written meanwhile.
"""

from __future__ import annotations

import sqlite3
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from mmsearch.storage.sqlite.database import driver_of

MOST_PAGES = 16_384
"""In the log, until the next batch has to wait for all of it to be moved: 256 MiB. Only then does
SQLite write it from its beginning again."""


class Checkpoints:
    """A thread that moves; what it cannot is left to whoever writes next.

    Args:
        path: The catalog.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._connection: sqlite3.Connection | None = None
        self._moving: Future[int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.submit(self._close)
        self._thread.shutdown()

    def committed(self) -> None:
        """Have what was committed moved; it is waited for where the log has become long."""
        if self._moving is not None and not self._moving.done():
            return  # what is new is moved with what comes next
        pages = 0 if self._moving is None else self._moving.result()
        self._moving = self._thread.submit(self._move)
        if pages > MOST_PAGES:
            self._moving.result()
            self._moving = None

    def _move(self) -> int:
        """Move what there is; returns how many pages the log has."""
        try:
            if self._connection is None:
                self._connection = driver_of(self._path)
                self._connection.execute("PRAGMA busy_timeout = 0")
                self._connection.execute("PRAGMA synchronous = NORMAL")
            found = self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error:  # the disk is full, say: who writes is told
            return 0
        return int(found[1])

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
