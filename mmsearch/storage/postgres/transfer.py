"""How a copy writes an index in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, func, insert, select, text

from mmsearch.storage.postgres.database import Database
from mmsearch.storage.postgres.loader import analyse
from mmsearch.storage.postgres.lock import AdvisoryLock
from mmsearch.storage.postgres.schema import words_due
from mmsearch.storage.sql.schema import items, sources, spaces, vectors
from mmsearch.storage.sql.transfer import Transfer

_NUMBERED = (items, sources, spaces, vectors)
"""The tables whose ids the database gives."""


class PostgresTransfer(Transfer):
    """Reads and writes the tables of an index."""

    def __init__(self, database: Database, lock: AdvisoryLock) -> None:
        super().__init__(database)
        self._write = database.write
        self._lock = lock

    @contextmanager
    def transactions(self) -> Iterator[Callable[[], AbstractContextManager[Connection]]]:
        with self._lock.writing_alone("copying"):
            yield self._write

    def cleared(self, connection: Connection) -> None:
        """Everything else was deleted with the items."""

    def finished(self, connection: Connection) -> None:
        for table in _NUMBERED:
            highest = select(func.coalesce(func.max(table.c.id), 0)).scalar_subquery()
            sequence = f"{table.name}_id_seq"
            after = func.setval(sequence, highest + 1, False)  # noqa: FBT003 - not yet given
            connection.execute(select(after))
        connection.execute(words_due.delete())
        connection.execute(insert(words_due).from_select(["item_id"], select(items.c.id)))
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        analyse(connection)
