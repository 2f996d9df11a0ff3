"""How what follows the catalog reads the vectors that were added to it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmsearch.storage.records import NewVectors, Space
from mmsearch.storage.sql.vectors import StoredVectors, new_vectors
from mmsearch.types import Modality

ROWS_AT_ONCE = 16_384

SHARE_OF = 4
"""New vectors are read in order of id if one in so many, at least, is of the modality."""


class SqliteVectors(StoredVectors):
    """The vectors of a catalog."""

    def new(
        self, space: Space, modality: Modality, after: int = 0, page: int = ROWS_AT_ONCE
    ) -> Iterator[NewVectors]:
        with self._database.read() as connection:
            driver: Any = connection.connection.driver_connection
            by_id = _are_many(driver, space, modality, after)
            # the driver's own cursor: SQLAlchemy's rows take twice as long
            cursor = driver.execute(_NEW_BY_ID if by_id else _NEW, (after, space.id, modality))
            while rows := cursor.fetchmany(page):
                yield new_vectors(rows, space.dim)


_NEW = (
    "SELECT id, item_id, vector, hub_text, hub_image FROM vectors "
    "WHERE id > ? AND space_id = ? AND modality = ? ORDER BY id"
)

_NEW_BY_ID = _NEW.replace("AND space_id", "AND +space_id")  # the plus: not by its index

_FIRST_OF = (
    "SELECT count(*) FROM (SELECT 1 FROM vectors WHERE space_id = ? AND modality = ? LIMIT ?)"
)


def _are_many(driver: Any, space: Space, modality: str, after: int) -> bool:
    """Whether what came after an id is best read in order of the ids, all modalities.

    The other way is by the modality's index, which reads all of it and sorts what it finds: for ten
    new rows after a million it takes 0.2 s, and for the whole as long again.
    """
    last = driver.execute("SELECT max(id) FROM vectors").fetchone()[0] or 0
    enough = max(last - after, 0) // SHARE_OF
    found: int = driver.execute(_FIRST_OF, (space.id, modality, enough)).fetchone()[0]
    return found >= enough
