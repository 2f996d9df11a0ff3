"""Texts kept under keys: what was chosen for an index, and how far things are."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.schema import state


class Settings:
    """The settings of one index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        """The text kept under a key, if any."""
        found: list[str] = self._database.scalars(select(state.c.value).where(state.c.key == key))
        return found[0] if found else None

    def set(self, key: str, value: str) -> None:
        """Keep a text under a key."""
        with self._database.write() as connection:
            keep(connection, key, value)


def keep(connection: Connection, key: str, value: str) -> None:
    """Keep a text under a key within a transaction that writes."""
    row = insert(state).values(key=key, value=value)
    kept = {"value": row.excluded.value}
    connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=kept))
