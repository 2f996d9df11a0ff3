"""Loading many items: batches on a connection of their own, whose log is moved beside the writing.

SQLite moves its log into the file within a commit, and nothing is written meanwhile; here a thread
does it, on another connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, func, select

from mmsearch.storage.records import ItemBatch, Space
from mmsearch.storage.sql.index_settings import next_numbers, next_revision
from mmsearch.storage.sql.schema import items, metadata, tags
from mmsearch.storage.sql.writer import put_batch
from mmsearch.storage.sqlite.database import Database, driver_of, storage_errors
from mmsearch.storage.store import LoaderStore, PutBatch

_FOR_LOADING = {"cache_size": -262_144, "wal_autocheckpoint": 0, "foreign_keys": 0}
"""256 MiB of pages in memory, where indexes grow. Foreign keys need no check: nothing that others
refer to is deleted, and a batch refers to what it has brought itself."""

_RANDOM = {str(index.name): index for table in (metadata, tags) for index in table.indexes}
"""Indexes whose keys come in random order."""

MANY_ROWS = 50_000
"""From this many rows on, it pays to make those indexes at the end."""

MOST_PAGES = 16_384
"""Pages in the log from which the next batch waits until all of it has been moved: 256 MiB. Only
then does SQLite write it from its beginning again."""


class Loader(LoaderStore):
    """Writes many items at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def loading(self, total: int | None = None) -> Iterator[PutBatch]:
        with self.transactions(total) as transaction:

            def put(batch: ItemBatch, space: Space | None) -> tuple[int, int]:
                with transaction() as connection:
                    done = put_batch(self._database.writer(connection), batch, space)
                    next_revision(connection)
                return done

            yield put

    @contextmanager
    def transactions(
        self, total: int | None = None
    ) -> Iterator[Callable[[], AbstractContextManager[Connection]]]:
        """A context that gives what begins a transaction of many rows, one after the other.

        Args:
            total: How many rows are coming, if that is known.
        """
        there = self._database.rows(select(func.max(items.c.id)))[0][0] or 0
        if total is not None and total > max(MANY_ROWS, there):
            # sorting all keys at the end is several times as fast as putting each in its place
            with self._database.write() as connection:
                for name in _RANDOM:
                    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
        try:
            with (
                storage_errors(),
                self._connection() as connection,
                Checkpoints(self._database.path) as checkpoints,
            ):

                @contextmanager
                def transaction() -> Iterator[Connection]:
                    with storage_errors(), connection.begin():
                        yield connection
                    checkpoints.committed()

                yield transaction
        finally:
            self.restore_indexes()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A connection with settings that nobody else may have: it is closed afterwards."""
        self._database.check_open()
        engine = self._database.engine.execution_options(begin="BEGIN IMMEDIATE")
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            try:
                for name, value in _FOR_LOADING.items():
                    driver.execute(f"PRAGMA {name}={value}")
                yield connection
            finally:
                connection.invalidate()

    def missing_indexes(self) -> list[str]:
        """The indexes that a killed process did not make: filters take longer without them."""
        names = "SELECT name FROM sqlite_master WHERE type = 'index'"
        with self._database.read() as connection:
            there = {row[0] for row in connection.exec_driver_sql(names)}
        return [name for name in _RANDOM if name not in there]

    def restore_indexes(self) -> None:
        """Make the indexes that are missing."""
        for name in self.missing_indexes():
            with self._database.write() as connection:
                _RANDOM[name].create(connection)

    def next_numbers(self, number: int) -> range:
        with self._database.write() as connection:
            return next_numbers(connection, number)


class Checkpoints:
    """A thread that moves the log into the file; what it cannot move is left to the next writer.

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
        """Have what was committed moved; waits for it once the log has grown long."""
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
        except sqlite3.Error:  # a full disk, say: the writer meets it as well
            return 0
        return int(found[1])

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
