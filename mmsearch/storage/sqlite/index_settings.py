"""Texts by key: what was chosen for an index, and how far it has come."""

from __future__ import annotations

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.records import StoreState
from mmsearch.storage.sqlite.database import Database, Prepared
from mmsearch.storage.sqlite.schema import settings
from mmsearch.storage.store import SettingStore

REVISION = "revision"
"""Counts the transactions that changed vectors."""

EPOCH = "hubs epoch"
"""Counts the transactions that changed hubs of stored vectors in place."""

CHANGES_FORGOTTEN = "changes forgotten"
"""Up to which number the deletions of vectors have been dropped from the log of changes."""


class Settings(SettingStore):
    """The settings of one index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        chosen = select(settings.c.value).where(settings.c.key == key)
        found: list[str] = self._database.scalars(chosen)
        return found[0] if found else None

    def set(self, key: str, value: str) -> None:
        with self._database.write() as connection:
            put_setting(connection, key, value)

    def state(self) -> StoreState:
        """How far the catalog has come."""
        kept = self._database.found
        if StoreState not in kept:
            with self._database.read() as connection:
                found = dict(_ALL.of(connection))
            kept[StoreState] = StoreState(
                found["catalog_id"],
                int(found[REVISION]),
                found.get(EPOCH, "0"),
                int(found.get(CHANGES_FORGOTTEN, 0)),
            )
        state: StoreState = kept[StoreState]
        return state


_ALL = Prepared(select(settings.c.key, settings.c.value))


def put_setting(connection: Connection, key: str, value: str) -> None:
    """Store the text of a key within a transaction."""
    row = insert(settings).values(key=key, value=value)
    stored = {"value": row.excluded.value}
    connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=stored))


def next_revision(connection: Connection) -> None:
    """Note that vectors changed: indexes of an earlier revision are out of date."""
    changed = update(settings).where(settings.c.key == REVISION)
    connection.execute(changed.values(value=settings.c.value + 1))


def next_epoch(connection: Connection) -> None:
    """Note that rows changed in place: indexes that hold them must be rebuilt."""
    row = insert(settings).values(key=EPOCH, value="1")
    more = {"value": settings.c.value + 1}
    connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=more))
