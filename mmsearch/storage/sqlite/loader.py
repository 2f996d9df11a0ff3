"""Loading many items at once, by a few long statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sqlalchemy import Connection, func, select

from mmsearch.storage.records import ItemBatch, Space
from mmsearch.storage.sqlite.checkpoints import Checkpoints
from mmsearch.storage.sqlite.database import Database, storage_errors
from mmsearch.storage.sqlite.schema import items, metadata, tags
from mmsearch.storage.sqlite.settings import Settings, next_revision, put_setting
from mmsearch.storage.sqlite.writer import put_batch
from mmsearch.storage.store import PutBatch

_FOR_LOADING = {"cache_size": -262_144, "wal_autocheckpoint": 0, "foreign_keys": 0}
"""256 MiB of pages in memory, so that indexes grow there; another connection moves the log. Nothing
that others refer to is deleted, and a batch refers to what it has itself brought."""

_RANDOM = {str(index.name): index for table in (metadata, tags) for index in table.indexes}

MANY_ROWS = 50_000
"""Rows from which making indexes anew may pay."""

_NUMBERED = "numbered items"
"""The setting that holds the next number for items that came without a name."""


class Loader:
    """Writes many items at once."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    @contextmanager
    def loading(self, total: int | None = None) -> Iterator[PutBatch]:
        """Gives what writes a batch, all or none, and what is committed is as safe as ever.

        While it lasts, more memory is used for writing. Where more rows are coming than there are,
        indexes of what is random are made at the end: sorting is several times as fast as putting
        each row in its place.

        Args:
            total: How many rows are coming, if that is known.
        """
        there = self._database.rows(select(func.max(items.c.id)))[0][0] or 0
        if total is not None and total > max(MANY_ROWS, there):
            with self._database.write() as connection:
                for name in _RANDOM:
                    connection.exec_driver_sql(f"DROP INDEX IF EXISTS {name}")
        try:
            with (
                storage_errors(),
                self._for_loading() as connection,
                Checkpoints(self._database.path) as checkpoints,
            ):
                yield partial(_put, connection, checkpoints)
        finally:
            self.restore_indexes()

    @contextmanager
    def _for_loading(self) -> Iterator[Connection]:
        """A connection with settings that nobody else may have: it is closed after."""
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
        """The indexes that a killed process has left out: filters take longer without them."""
        names = "SELECT name FROM sqlite_master WHERE type = 'index'"
        with self._database.read() as connection:
            there = {row[0] for row in connection.exec_driver_sql(names)}
        return [name for name in _RANDOM if name not in there]

    def restore_indexes(self) -> None:
        """Make the indexes that a killed process has left out."""
        for name in self.missing_indexes():
            with self._database.write() as connection:
                _RANDOM[name].create(connection)

    def next_numbers(self, number: int) -> range:
        """As many numbers as that, none of which was given before: names of items without one."""
        with self._database.write() as connection:
            first = int(self._settings.get(_NUMBERED) or 0)
            put_setting(connection, _NUMBERED, str(first + number))
        return range(first, first + number)


def _put(
    connection: Connection, checkpoints: Checkpoints, batch: ItemBatch, space: Space | None
) -> tuple[int, int]:
    with storage_errors(), connection.begin():
        done = put_batch(connection, batch, space)
        next_revision(connection)
    checkpoints.committed()
    return done
