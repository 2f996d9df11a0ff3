"""The log of changes: how what is derived from the catalog follows it at the cost of what changed.

The FAISS indexes, the columns for filters and the index of words are its followers. Each knows the
rows up to an id; rows that are added have higher ids, and are read by them. `changes` lists what
was changed or deleted of the rows that some follower may know. Triggers write it, so that no writer
has to think of it, and a row that is added costs them one comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, select

from mmsearch.storage.records import Space
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.index_settings import CHANGES_FORGOTTEN, put_setting
from mmsearch.storage.sqlite.schema import VECTOR, changes
from mmsearch.storage.store import ChangeStore
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LAST_CHANGE = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'changes'"
"""The number of the last change; those that were dropped count, too."""


class Changes(ChangeStore):
    """What was deleted of the vectors, in order."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def last(self) -> int:
        with self._database.read() as connection:
            return int(connection.exec_driver_sql(LAST_CHANGE).scalar_one())

    def deleted_vectors(
        self, space: Space, modality: Modality, after: int
    ) -> tuple[NDArray[np.int64], int]:
        import numpy as np

        c = changes.c
        mine = (c.what == VECTOR, c.space_id == space.id, c.modality == modality)
        with self._database.read() as connection:
            last = int(connection.exec_driver_sql(LAST_CHANGE).scalar_one())
            found = connection.execute(select(c.vector_id).where(c.seq > after, *mine)).scalars()
            return np.fromiter(found, np.int64), last

    def forget(self, upto: int) -> None:
        c = changes.c
        with self._database.write() as connection:
            connection.execute(delete(changes).where(c.seq <= upto, c.what == VECTOR))
            put_setting(connection, CHANGES_FORGOTTEN, str(upto))


def drop_applied(connection: Connection) -> None:
    """Drop the changes of items that every follower has applied."""
    connection.exec_driver_sql(
        f"DELETE FROM changes WHERE what <> '{VECTOR}' "  # noqa: S608 - a constant
        "AND seq <= (SELECT CASE WHEN columns_item > 0 THEN min(words_change, columns_change) "
        "ELSE words_change END FROM followers)"
    )
