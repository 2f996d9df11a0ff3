"""Writes rows into PostgreSQL: by COPY, or by one statement that is given whole columns."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import nullcontext, suppress
from typing import Any

import psycopg
from sqlalchemy import BigInteger, Connection, Float, LargeBinary, Table

from mmsearch.storage.postgres.schema import TABLES
from mmsearch.storage.sql.types import HalfVector, stored_text
from mmsearch.storage.sql.writer import PATHS, Writer
from mmsearch.storage.stored_text import text_of

FEW = 4
"""Rows that are inserted by one statement: COPY takes a round trip more."""

MANY = 1_000
"""Above this many rows, COPY is tried first even if some may exist, because usually none does."""

_TABLES = {table.name: table for table in TABLES}


class PostgresWriter(Writer):
    """Writes rows within a transaction."""

    ids = "(SELECT unnest(CAST(translate(?, '[]', '{}') AS bigint[])))"

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        driver: Any = connection.connection.driver_connection
        self._driver = driver
        self._dialect = connection.dialect

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        return int(self._execute(statement, parameters).rowcount)

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return [
            tuple(text_of(value) if isinstance(value, str) else value for value in row)
            for row in self._execute(statement, parameters)
        ]

    def _execute(self, statement: str, parameters: Sequence[Any]) -> Any:
        given = [stored_text(one) if isinstance(one, str) else one for one in parameters]
        return self._driver.execute(statement.replace("?", "%s"), given)

    def insert(
        self,
        table: str,
        columns: Mapping[str, Any],
        conflict: str = "",
        paths: Container[str] = PATHS,
    ) -> int:
        del paths  # texts are texts here
        count = next(len(values) for values in columns.values() if isinstance(values, list))
        if not count:
            return 0
        kinds = [self._kind(_TABLES[table], name) for name in columns]
        given = [
            _BOUND.get(kind, list)(values if isinstance(values, list) else [values] * count)
            for kind, values in zip(kinds, columns.values(), strict=True)
        ]
        names = ", ".join(f'"{name}"' for name in columns)
        if count > (MANY if conflict else FEW):
            savepoint = self._driver.transaction() if conflict else nullcontext()
            some_there = (psycopg.errors.UniqueViolation,) if conflict else ()
            with suppress(*some_there), savepoint:
                self._copy(f"{table} ({names})", kinds, given)
                return count
        arrays = ", ".join(f"%s::{kind}[]" for kind in kinds)
        statement = f"INSERT INTO {table} ({names}) SELECT * FROM unnest({arrays}){conflict}"  # noqa: S608
        return int(self._driver.execute(statement, given).rowcount)

    def _copy(self, into: str, kinds: list[str], columns: Sequence[list[Any]]) -> None:
        with (
            self._driver.cursor() as cursor,
            cursor.copy(f"COPY {into} FROM STDIN (FORMAT BINARY)") as copy,
        ):
            copy.set_types(kinds)
            for row in zip(*columns, strict=True):
                copy.write_row(row)

    def insert_missing(
        self, table: str, columns: Mapping[str, Any], paths: Container[str] = PATHS
    ) -> None:
        try:
            with self._driver.transaction():  # a savepoint
                self.insert(table, columns)
        except psycopg.errors.UniqueViolation:  # some are there: row by row
            super().insert_missing(table, columns, paths)

    def new_ids(self, number: int) -> range:
        # no other transaction writes now: the next numbers are all free
        (first,) = self._driver.execute("SELECT nextval('items_id_seq')").fetchone()
        if number > 1:
            self._driver.execute("SELECT setval('items_id_seq', %s)", (first + number - 1,))
        return range(first, first + number)

    def bound(self, name: str) -> str:
        return name

    def _kind(self, table: Table, name: str) -> str:
        """The driver's name of a column's type."""
        impl = table.c[name].type.dialect_impl(self._dialect)
        if isinstance(impl, HalfVector):
            return "halfvec"
        kinds = (BigInteger, "int8"), (Float, "float8"), (LargeBinary, "bytea")
        return next((name for kind, name in kinds if isinstance(impl, kind)), "text")


def _texts(values: list[str | None]) -> list[str | None]:
    """Texts as PostgreSQL can hold them."""
    return [None if value is None else stored_text(value) for value in values]


def _vectors(values: list[bytes]) -> list[Any]:
    """Vectors, little-endian float16, as the driver takes them."""
    import numpy as np
    from pgvector import HalfVector as Bound

    return [Bound(np.frombuffer(value, "<f2")) for value in values]


_BOUND: dict[str, Callable[[list[Any]], list[Any]]] = {"text": _texts, "halfvec": _vectors}
