"""Which items pass a filter, and what the user's own metadata say of them.

A filter becomes a SQLAlchemy expression in which whatever a user typed is a bound parameter.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, delete, insert, select

from mmsearch.filters import Filter
from mmsearch.filters.values import number_in
from mmsearch.storage.sqlite.schema import attributes, items, sources
from mmsearch.storage.sqlite.store import Store, chunks
from mmsearch.storage.sqlite.view import COLUMNS_UPTO, LAST_FILED, Era, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOGETHER = 2_000  # items whose attributes are written by one statement


class FilterTables(Store):
    """Answers filters; keeps the user's own metadata of the items."""

    @contextmanager
    def view(self) -> Iterator[View]:
        """One moment of what filters are answered from."""
        with self._read() as connection:
            yield View(connection)

    def passing(self, filter_: Filter, most: int | None = None) -> NDArray[np.int64]:
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

    def begin_era(self, instead_of: Era | None) -> bool:
        """Have alterations filed from now on, for columns that are made of the items there are.

        What was filed before is forgotten. Nothing is waited for, so that no search is: while
        someone writes, and where nothing can be written, nothing is begun.

        Args:
            instead_of: The era that was seen; when there is another by now, that one goes on.

        Returns:
            Whether one was begun.
        """
        pooled = self._engine.raw_connection()
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

    def metadata_keys(self) -> list[str]:
        """The keys of the user's own metadata, sorted."""
        with self.view() as view:
            return view.metadata_keys()

    def set_attributes(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Keep what a metadata file says of some items, in the place of what was kept of them.

        Args:
            rows: (item id, its metadata); None is as if not there. An item that is gone by now is
                left out.
        """
        with self._write() as connection:
            waiting = iter(rows)
            while some := dict(islice(waiting, _TOGETHER)):
                _replace(connection, some)

    def attributes(self, ids: Sequence[int]) -> dict[int, dict[str, str | float]]:
        """By item id, what the user's own metadata say: numbers where they read as such."""
        c = attributes.c
        base = select(c.item_id, c.key, c.text, c.number).order_by(c.item_id, c.key)
        found: dict[int, dict[str, str | float]] = {}
        for part in chunks(sorted(set(ids))):
            rows = self._rows(base.where(c.item_id.in_(part)))
            for item_id, own in groupby(rows, key=lambda row: row.item_id):
                found[item_id] = {key: _value(text, number) for _, key, text, number in own}
        return found

    def places(self, page: int = 20_000) -> Iterator[tuple[int, str, str, str]]:
        """(id, source, folder below it, name) of every item in order of id, read page by page."""
        c = items.c
        base = select(c.id, sources.c.path, c.folder, c.name).join(sources).order_by(c.id)
        last = 0
        while rows := self._rows(base.where(c.id > last).limit(page)):
            yield from map(tuple, rows)
            last = rows[-1].id


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


def _replace(connection: Connection, some: Mapping[int, Mapping[str, Any]]) -> None:
    """Write the attributes of some items in the place of those they have."""
    there: set[int] = set()
    for part in chunks(list(some)):
        there.update(connection.execute(select(items.c.id).where(items.c.id.in_(part))).scalars())
        connection.execute(delete(attributes).where(attributes.c.item_id.in_(part)))
    rows = [
        {"item_id": item_id, "key": key, "text": text, "number": number_in(text)}
        for item_id, metadata in some.items()
        if item_id in there
        for key, text in _texts(metadata).items()
    ]
    if rows:
        connection.execute(insert(attributes), rows)


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        _clean(key): str(value).lower() if isinstance(value, bool) else _clean(str(value))
        for key, value in metadata.items()
        if value is not None
    }


def _value(text: str, number: float | None) -> str | float:
    """A text as a number, if that is written just so: "5" and "4.5" are, "007" is none."""
    if number is not None:
        for read in (int, float):
            with suppress(ValueError):
                if str(read(text)) == text:
                    return read(text)
    return text


def _clean(text: str) -> str:
    """A text as the database can hold it: without halves of characters, and without NULs."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
