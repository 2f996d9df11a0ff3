"""Loading many items: batches by COPY, each a transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from mmsearch.storage.postgres.database import Database
from mmsearch.storage.postgres.schema import TABLES
from mmsearch.storage.records import ItemBatch, Space
from mmsearch.storage.sql.index_settings import next_numbers, next_revision
from mmsearch.storage.sql.writer import put_batch
from mmsearch.storage.store import LoaderStore, PutBatch

MANY_ROWS = 10_000
"""From this many rows on, the planner's figures are brought up to date at once, not some minutes
later: with those of an empty table it reads whole tables."""


class Loader(LoaderStore):
    """Writes many items at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def loading(self, total: int | None = None) -> Iterator[PutBatch]:
        del total
        loaded = 0

        def put(batch: ItemBatch, space: Space | None) -> tuple[int, int]:
            nonlocal loaded
            with self._database.write() as connection:
                done = put_batch(self._database.writer(connection), batch, space)
                next_revision(connection)
            loaded += sum(done)
            return done

        try:
            yield put
        finally:
            if loaded >= MANY_ROWS:
                with self._database.write() as connection:
                    analyse(connection)

    def next_numbers(self, number: int) -> range:
        with self._database.write() as connection:
            return next_numbers(connection, number)


def analyse(connection: Connection) -> None:
    """Bring the planner's figures of all tables up to date."""
    connection.execute(text("ANALYZE " + ", ".join(table.name for table in TABLES)))
