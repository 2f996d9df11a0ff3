"""The log of changes: how what is derived from a store follows it at the cost of what changed.

Each follower knows the rows up to an id; rows that are added have higher ids, and are read by them.
`changes` lists what was changed or deleted of the rows that some follower may know. Triggers write
it, so that no writer has to think of it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from sqlalchemy import Connection, delete, select

from mmsearch.storage.records import Space
from mmsearch.storage.sql.database import Database
from mmsearch.storage.sql.index_settings import CHANGES_FORGOTTEN, put_setting
from mmsearch.storage.sql.schema import VECTOR, changes
from mmsearch.storage.store import ChangeStore
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Changes(ChangeStore):
    """What was deleted of the vectors, in order."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @abstractmethod
    def last_of(self, connection: Connection) -> int:
        """The number of the last change; those that were dropped count, too."""

    def last(self) -> int:
        with self._database.read() as connection:
            return self.last_of(connection)

    def deleted_vectors(
        self, space: Space, modality: Modality, after: int
    ) -> tuple[NDArray[np.int64], int]:
        import numpy as np

        c = changes.c
        mine = (c.what == VECTOR, c.space_id == space.id, c.modality == modality)
        with self._database.read() as connection:
            last = self.last_of(connection)
            found = connection.execute(select(c.vector_id).where(c.seq > after, *mine)).scalars()
            return np.fromiter(found, np.int64), last

    def forget(self, upto: int) -> None:
        c = changes.c
        with self._database.write() as connection:
            connection.execute(delete(changes).where(c.seq <= upto, c.what == VECTOR))
            put_setting(connection, CHANGES_FORGOTTEN, str(upto))
