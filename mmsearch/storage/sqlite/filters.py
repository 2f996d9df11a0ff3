"""Which items pass a filter.

A filter becomes a SQLAlchemy expression in which whatever a user typed is a bound parameter.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmsearch.filters import Filter
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.view import COLUMNS_UPTO, LAST_FILED, Era, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Filters:
    """Answers filters in SQL."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @contextmanager
    def view(self) -> Iterator[View]:
        """One moment of what filters are answered from."""
        with self._database.read() as connection:
            yield View(connection)

    def matching(self, filter_: Filter, most: int | None = None) -> NDArray[np.int64]:
        """The ids of the items that pass, sorted.

        Args:
            filter_: What must hold.
            most: Stop at so many.

        Raises:
            InvalidFilter: it names a key that no item has, or is too long.
        """
        with self.view() as view:
            view.check(filter_)
            return view.passing(filter_, most)

    def begin_generation(self, instead_of: Era | None) -> bool:
        """Have alterations filed from now on, for columns that are made of the items there are.

        What was filed before is forgotten. Nothing is waited for, so that no search is: while
        someone writes, and where nothing can be written, nothing is begun.

        Args:
            instead_of: The era that was seen; when there is another by now, that one goes on.

        Returns:
            Whether one was begun.
        """
        pooled = self._database.engine.raw_connection()
        driver: Any = pooled.dbapi_connection
        patience = driver.execute("PRAGMA busy_timeout").fetchone()[0]
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            driver.execute("BEGIN IMMEDIATE")
            with driver:
                return _begin_era(driver, instead_of)
        except sqlite3.Error:
            return False
        finally:
            driver.execute(f"PRAGMA busy_timeout = {patience}")
            pooled.close()


def _begin_era(driver: Any, instead_of: Era | None) -> bool:
    """In a transaction that writes."""
    asked = "SELECT value FROM state WHERE key = ?"
    written = driver.execute(asked, (COLUMNS_UPTO,)).fetchone()
    if Era.read(written and written[0]) != instead_of:
        return False
    low, upto = driver.execute("SELECT min(id), max(id) FROM items").fetchone()
    if upto is None:
        return False
    (filed,) = driver.execute(LAST_FILED).fetchone()
    era = Era(uuid.uuid4().hex[:12], low, upto, filed)
    driver.execute("DELETE FROM altered")
    keep = "INSERT OR REPLACE INTO state (key, value) VALUES (?, ?)"
    driver.execute(keep, (COLUMNS_UPTO, era.written()))
    driver.execute("UPDATE followed SET columns = ?", (upto,))
    return True
