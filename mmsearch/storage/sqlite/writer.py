"""Writes rows into SQLite: hundreds by one statement.

With one statement per row, SQLite would copy the pages that triggers may have to roll back, which
takes ten times as long as the writing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from mmsearch.storage.sql.types import path_bytes
from mmsearch.storage.sql.writer import PATHS, Writer

MOST_PARAMETERS = 30_000
"""In one statement."""

JSON_LIST = "(SELECT value FROM json_each(?))"
"""The values of a JSON list, for statements of the driver."""


class SqliteWriter(Writer):
    """Writes rows within a transaction."""

    path = "CAST(? AS TEXT)"
    ids = JSON_LIST

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        driver: Any = connection.connection.driver_connection
        self._run: Callable[..., sqlite3.Cursor] = driver.execute
        self._limit = driver.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)

    def run(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        return self._run(statement, parameters).rowcount

    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._run(statement, parameters).fetchall()

    def insert(
        self,
        table: str,
        columns: Mapping[str, Any],
        conflict: str = "",
        paths: Container[str] = PATHS,
    ) -> int:
        varying = [
            _bound(values) if name in paths else values
            for name, values in columns.items()
            if isinstance(values, list)
        ]
        count = len(varying[0])
        if not count:
            return 0
        cells = (
            self.path if name in paths else "?" if isinstance(value, list) else _sql(value)
            for name, value in columns.items()
        )
        row = f"({', '.join(cells)})"
        names = ", ".join(f'"{name}"' for name in columns)
        width = len(varying)
        most = max(1, min(MOST_PARAMETERS, self._limit) // width)
        inserted = 0
        for start in range(0, count, most):
            number = min(most, count - start)
            values: list[Any] = [None] * (number * width)
            for place, column in enumerate(varying):
                values[place::width] = column[start : start + number]
            rows = ", ".join([row] * number)
            statement = f"INSERT INTO {table} ({names}) VALUES {rows}{conflict}"  # noqa: S608
            inserted += self._run(statement, values).rowcount
        return inserted

    def new_ids(self, number: int) -> range:
        last = self._run("SELECT seq FROM sqlite_sequence WHERE name = 'items'").fetchone()
        first = 1 + (last[0] if last else 0)
        return range(first, first + number)

    def bound(self, name: str) -> bytes:
        return path_bytes(name)


def _sql(value: str | int | bytes | None) -> str:
    """A value as SQL writes it."""
    if value is None:
        return "NULL"
    if isinstance(value, bytes):
        return f"x'{value.hex()}'"
    return str(value) if isinstance(value, int) else "'{}'".format(value.replace("'", "''"))


def _bound(names: list[str]) -> list[Any]:
    """Names as the driver takes them: those that are not UTF-8 as bytes."""
    try:
        "".join(names).encode()
    except UnicodeEncodeError:
        return list(map(path_bytes, names))
    return names
