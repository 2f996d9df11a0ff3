"""Statements compiled once, for what every search reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Select, bindparam, func, select
from sqlalchemy.dialects import sqlite


class Prepared:
    """A statement that each search makes, in the driver's own words: for ten rows, SQLAlchemy's
    part takes longer than SQLite's.
    """

    def __init__(self, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        self._sql = str(compiled)
        self._usual = compiled.params
        self._names = list(statement.selected_columns.keys())

    def of(self, connection: Connection, **given: Any) -> list[tuple[Any, ...]]:
        """The rows, by what its parameters are."""
        driver: Any = connection.connection.driver_connection
        rows: list[tuple[Any, ...]] = driver.execute(self._sql, {**self._usual, **given}).fetchall()
        return rows

    def named(self, connection: Connection, **given: Any) -> list[dict[str, Any]]:
        """The same, each value by the name of its column."""
        return [dict(zip(self._names, row, strict=True)) for row in self.of(connection, **given)]


IDS = select(func.json_each(bindparam("ids")).table_valued("value").c.value)
"""However many ids, as one parameter."""


def id_list(ids: Iterable[int]) -> str:
    """Ids as the one parameter that IDS takes."""
    return json.dumps(list(map(int, ids)))
