"""The user's own metadata of the items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, islice
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from mmsearch.filters.values import number_in
from mmsearch.storage.sqlite.database import Database, chunks
from mmsearch.storage.sqlite.schema import attributes, items
from mmsearch.storage.sqlite.view import View

_TOGETHER = 2_000  # items whose attributes are written by one statement


class Metadata:
    """Reads and keeps the user's metadata."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keys(self) -> list[str]:
        """The keys of the user's own metadata, sorted."""
        with self._database.read() as connection:
            return View(connection).metadata_keys()

    def set(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Keep what a metadata file says of some items, in the place of what was kept of them.

        Args:
            rows: (item id, its metadata); None is as if not there. An item that is gone by now is
                left out.
        """
        with self._database.write() as connection:
            waiting = iter(rows)
            while some := dict(islice(waiting, _TOGETHER)):
                _replace(connection, some)

    def of(self, ids: Sequence[int]) -> dict[int, dict[str, str | float]]:
        """By item id, what the user's own metadata say: numbers where they read as such."""
        c = attributes.c
        base = select(c.item_id, c.key, c.text, c.number).order_by(c.item_id, c.key)
        found: dict[int, dict[str, str | float]] = {}
        for part in chunks(sorted(set(ids))):
            rows = self._database.rows(base.where(c.item_id.in_(part)))
            for item_id, own in groupby(rows, key=lambda row: row.item_id):
                found[item_id] = {key: _value(text, number) for _, key, text, number in own}
        return found


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
