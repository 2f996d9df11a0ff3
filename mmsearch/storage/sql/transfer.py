"""A store as logical tables: what a copy reads and writes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, Table, and_, delete, func, literal, not_, select, tuple_

from mmsearch.storage.sql.database import Database
from mmsearch.storage.sql.index_settings import next_epoch, next_revision, put_setting
from mmsearch.storage.sql.schema import changes, settings, tables
from mmsearch.storage.sql.types import PathText
from mmsearch.storage.transfer import (
    COLUMNS,
    COPYING,
    ENGINE,
    KEYS,
    OWN_SETTINGS,
    Key,
    Page,
    TransferStore,
    key_of,
)

_TABLES: dict[str, Table] = {name: tables.tables[name] for name in COLUMNS}

_PATHS = {
    name: frozenset(c.name for c in table.columns if isinstance(c.type, PathText))
    for name, table in _TABLES.items()
}
"""The columns that hold paths."""

_COPIED = {
    "settings": and_(settings.c.key.not_in(OWN_SETTINGS), not_(settings.c.key.startswith(ENGINE)))
}
"""Which rows of a table are copied, if not all."""


class Transfer(TransferStore):
    """Reads and writes all tables but those that follow from others."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._transaction: Callable[[], AbstractContextManager[Connection]] = database.write

    def reading(self) -> AbstractContextManager[None]:
        return self._database.snapshot()

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self.transactions() as transaction:
            self._transaction = transaction
            try:
                yield
            finally:
                self._transaction = self._database.write

    @abstractmethod
    def transactions(
        self,
    ) -> AbstractContextManager[Callable[[], AbstractContextManager[Connection]]]:
        """A context in which nobody else writes; it gives what begins a transaction."""

    def count(self, table: str) -> int:
        chosen = select(func.count()).select_from(_TABLES[table])
        if table in _COPIED:
            chosen = chosen.where(_COPIED[table])
        return int(self._database.scalars(chosen)[0])

    def pages(self, table: str, after: Key | None, rows: int) -> Iterator[Page]:
        stored = _TABLES[table]
        key = [stored.c[name] for name in KEYS[table]]
        chosen = select(*(stored.c[name] for name in COLUMNS[table])).order_by(*key).limit(rows)
        if table in _COPIED:
            chosen = chosen.where(_COPIED[table])
        while True:
            page = chosen
            if after is not None:
                last = [literal(one, column.type) for one, column in zip(after, key, strict=True)]
                page = chosen.where(tuple_(*key) > tuple_(*last))
            found = [tuple(row) for row in self._database.rows(page)]
            if not found:
                return
            yield found
            if len(found) < rows:
                return
            after = key_of(table, found[-1])

    # ------------------------------------------------------------------ within `writing`

    def put(self, table: str, page: Page, progress: str) -> None:
        values = map(list, zip(*page, strict=True))
        columns = dict(zip(COLUMNS[table], values, strict=True))
        with self._transaction() as connection:
            writer = self._database.writer(connection)
            writer.insert_missing(table, columns, _PATHS[table])
            put_setting(connection, COPYING, progress)

    def clear(self) -> None:
        with self._transaction() as connection:
            for name in reversed(COLUMNS):
                gone = delete(_TABLES[name])
                connection.execute(gone.where(_COPIED[name]) if name in _COPIED else gone)
            connection.execute(delete(changes))
            self.cleared(connection)

    def finish(self) -> None:
        with self._transaction() as connection:
            next_revision(connection)
            next_epoch(connection)
            self.finished(connection)

    @abstractmethod
    def cleared(self, connection: Connection) -> None:
        """Do what is left to do once every row is deleted, in the same transaction."""

    @abstractmethod
    def finished(self, connection: Connection) -> None:
        """Do what is left to do once all is there, in the same transaction."""
