"""Texts by key: what was chosen for an index, and how far it has come."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import BigInteger, Connection, Text, cast, select, update

from mmsearch.storage.records import StoreState
from mmsearch.storage.sql.database import Database, Prepared, insert_into, put_rows
from mmsearch.storage.sql.schema import settings
from mmsearch.storage.store import SettingStore

REVISION = "revision"
"""Counts the transactions that changed vectors."""

EPOCH = "hubs epoch"
"""Counts the transactions that changed hubs of stored vectors in place."""

CHANGES_FORGOTTEN = "changes forgotten"
"""Up to which number the deletions of vectors have been dropped from the log of changes."""


STATE = ("catalog_id", REVISION, EPOCH, CHANGES_FORGOTTEN)
"""The settings that make the state of a store."""


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
        """How far the store has come."""
        kept = self._database.found
        if StoreState not in kept:
            with self._database.read() as connection:
                kept[StoreState] = state_of(dict(_ALL.of(connection)))
        state: StoreState = kept[StoreState]
        return state


def state_of(found: Mapping[str, str]) -> StoreState:
    """How far a store of some settings has come."""
    return StoreState(
        found["catalog_id"],
        int(found[REVISION]),
        found.get(EPOCH, "0"),
        int(found.get(CHANGES_FORGOTTEN, 0)),
    )


_ALL = Prepared(select(settings.c.key, settings.c.value))


_NEXT = cast(cast(settings.c.value, BigInteger) + 1, Text)


def put_setting(connection: Connection, key: str, value: str) -> None:
    """Store the text of a key within a transaction."""
    put_rows(connection, settings, {"key": key, "value": value})


def next_revision(connection: Connection) -> None:
    """Note that vectors changed: indexes of an earlier revision are out of date."""
    changed = update(settings).where(settings.c.key == REVISION)
    connection.execute(changed.values(value=_NEXT))


def next_epoch(connection: Connection) -> None:
    """Note that rows changed in place: indexes that hold them must be rebuilt."""
    row = insert_into(connection, settings).values(key=EPOCH, value="1")
    more = {"value": _NEXT}
    connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=more))


def next_numbers(connection: Connection, number: int) -> range:
    """Numbers that were never returned before, in a transaction."""
    chosen = select(settings.c.value).where(settings.c.key == _NUMBERED)
    first = int(connection.execute(chosen).scalar() or 0)
    put_setting(connection, _NUMBERED, str(first + number))
    return range(first, first + number)


_NUMBERED = "numbered items"
"""The setting that holds the next number for items that came without a name."""
