"""How far a catalog is: what caches that follow it compare."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.records import StoreState
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.schema import state
from mmsearch.storage.sqlite.vectors import FORGOTTEN

EPOCH = "hubs epoch"
"""The setting that counts how often hubs of stored vectors were changed in place."""


def state_of(database: Database) -> StoreState:
    """How far the catalog is."""
    found = dict(map(tuple, database.rows(_STATE)))
    return StoreState(
        found["catalog_id"],
        int(found["revision"]),
        found.get(EPOCH, "0"),
        int(found.get(FORGOTTEN, 0)),
    )


_STATE = select(state.c.key, state.c.value)


def next_epoch(connection: Connection) -> None:
    """Say that rows were changed in place: what was made of them cannot be followed up."""
    row = insert(state).values(key=EPOCH, value="1")
    more = {"value": state.c.value + 1}
    connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=more))
