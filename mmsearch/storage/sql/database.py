"""What the parts of a store ask of its database, and statements that both databases run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy import Connection, Select, Table, Text, bindparam
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from mmsearch.storage.sql.types import HalfVector, StoredText, id_list, stored_text, vector_bytes
from mmsearch.storage.sql.writer import Writer
from mmsearch.storage.stored_text import texts_of

if TYPE_CHECKING:
    from sqlalchemy.dialects.sqlite import Insert


class Database(Protocol):
    """One index in an SQL database. Reads are consistent; each write is one transaction."""

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction that reads, or this thread's snapshot."""

    def snapshot(self) -> AbstractContextManager[None]:
        """A context in which everything that this thread reads is of one moment."""

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction that writes, committed at the end, rolled back on an exception."""

    def rows(self, statement: Select[Any]) -> list[Any]:
        """The rows of a statement."""

    def scalars(self, statement: Select[Any]) -> list[Any]:
        """The first column of the rows of a statement."""

    def driver_rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """The driver's own rows, in a fifth of the time that SQLAlchemy takes for them.

        Args:
            statement: SQL, with "?" for numbers and bytes, and CAST(? AS TEXT) for texts.
            parameters: Their values.
        """

    def writer(self, connection: Connection) -> Writer:
        """Writes rows within a transaction."""

    @property
    def in_snapshot(self) -> bool:
        """Whether this thread is within a snapshot, where it may not write."""

    @property
    def found(self) -> dict[Any, Any]:
        """What this thread's snapshot keeps of what it read; outside one, nothing is kept."""


class ThreadSnapshot(threading.local):
    """The snapshot that a thread reads, if it is within one.

    Attributes:
        connection: Its transaction.
    """

    connection: Connection | None = None
    _found: dict[Any, Any] | None = None

    @property
    def found(self) -> dict[Any, Any]:
        """What is kept of what was read; outside a snapshot, nothing is."""
        return {} if self._found is None else self._found

    @contextmanager
    def reading(self, connection: Connection) -> Iterator[None]:
        """Let this thread read a transaction's snapshot within the context."""
        self.connection, self._found = connection, {}
        try:
            yield
        finally:
            self.connection = self._found = None


# ---------------------------------------------------------------------- many ids at once


class _IsOneOf(FunctionElement[bool]):
    """Whether a column has one of the ids of a list that `id_list` makes.

    It has no type: SQLAlchemy writes a Boolean as `… = 1` for SQLite, which then uses no index.
    """

    inherit_cache = True


@compiles(_IsOneOf)
def _in_json(element: Any, compiler: Any, **more: Any) -> str:
    column, ids = (compiler.process(one, **more) for one in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({ids}))"  # noqa: S608 - compiled parts


@compiles(_IsOneOf, "postgresql")
def _in_array(element: Any, compiler: Any, **more: Any) -> str:
    column, ids = (compiler.process(one, **more) for one in element.clauses)
    return f"{column} = ANY (CAST(translate({ids}, '[]', '{{}}') AS bigint[]))"


def is_one_of(column: Any, ids: Iterable[int]) -> Any:
    """Whether a column has one of any number of ids."""
    return _IsOneOf(column, bindparam("ids", id_list(ids), type_=Text(), unique=True))


def is_one_of_ids(column: Any) -> Any:
    """The same, of the parameter `ids` of a prepared statement, which `id_list` makes."""
    return _IsOneOf(column, bindparam("ids", type_=Text()))


# ---------------------------------------------------------------------- statements


class Prepared:
    """A statement that searches make, compiled once and run by the driver: for ten rows,
    SQLAlchemy's part takes longer than SQLite's. PostgreSQL prepares it once a connection, too.
    """

    def __init__(self, statement: Select[Any]) -> None:
        self._statement = statement

    @cached_property
    def _compiled(self) -> tuple[str, dict[str, Any]]:
        """The SQL and its constants, made at first use: a query needs five of thirteen."""
        compiled = self._statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        return str(compiled), dict(compiled.params)

    def of(self, connection: Connection, **given: Any) -> list[tuple[Any, ...]]:
        """The rows, given the values of its parameters."""
        if connection.dialect.name != "sqlite":
            return self._of_server(connection, given)
        sql, constants = self._compiled
        driver = driver_of_connection(connection)
        rows: list[tuple[Any, ...]] = driver.execute(sql, {**constants, **given}).fetchall()
        return rows

    def named(self, connection: Connection, **given: Any) -> list[dict[str, Any]]:
        """The same, each value by the name of its column."""
        return self.by_name(self.of(connection, **given))

    def by_name(self, rows: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
        """Rows of it, each value by the name of its column."""
        return [dict(zip(self._names, row, strict=True)) for row in rows]

    @cached_property
    def _names(self) -> list[str]:
        return list(self._statement.selected_columns.keys())

    @cached_property
    def _readers(self) -> list[tuple[int, Callable[[Sequence[Any]], Sequence[Any]]]]:
        """What a column's values are read by, where they are not what the driver gives."""
        dialect = _postgresql()
        found: list[tuple[int, Callable[[Sequence[Any]], Sequence[Any]]]] = []
        for number, column in enumerate(self._statement.selected_columns):
            kind = column.type.dialect_impl(dialect)
            if isinstance(kind, StoredText):
                found.append((number, texts_of))
            elif isinstance(kind, HalfVector):
                found.append((number, lambda sent: list(map(vector_bytes, sent))))
        return found

    @cached_property
    def for_server(self) -> tuple[str, dict[str, Any]]:
        """The SQL for PostgreSQL's driver, and its constants."""
        # each value of a list becomes a parameter; such statements can have no required ones
        expanded = {"render_postcompile": True}
        compiled = self._statement.compile(dialect=_postgresql(), compile_kwargs=expanded)
        return str(compiled), _stored(compiled.params)

    def _of_server(self, connection: Connection, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        sql, constants = self.for_server
        driver = driver_of_connection(connection)
        cursor = driver.execute(sql, constants | _stored(given), prepare=True, binary=True)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        if not self._readers or not rows:
            return rows
        columns: list[Any] = list(zip(*rows, strict=True))
        for number, reader in self._readers:
            columns[number] = reader(columns[number])
        return list(zip(*columns, strict=True))


@cache
def _postgresql() -> Any:
    from sqlalchemy.dialects.postgresql import psycopg

    return psycopg.dialect()  # type: ignore[no-untyped-call]


def _stored(given: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, their texts as PostgreSQL can hold them."""
    return {
        name: stored_text(value) if isinstance(value, str) else value
        for name, value in given.items()
    }


def driver_of_connection(connection: Connection) -> Any:
    """The driver's own connection, which runs a statement in a tenth of SQLAlchemy's time."""
    return connection.connection.driver_connection


def insert_into(connection: Connection, table: Table) -> Insert:
    """An INSERT that can say what to do on conflict; both databases say it in the same words."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)  # type: ignore[return-value]


def put_rows(
    connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]] | Mapping[str, Any]
) -> None:
    """Insert rows, in place of those that have the same primary key."""
    new = insert_into(connection, table)
    keys = list(table.primary_key.columns)
    others = {c.name: new.excluded[c.name] for c in table.columns if not c.primary_key}
    connection.execute(new.on_conflict_do_update(index_elements=keys, set_=others), rows)
