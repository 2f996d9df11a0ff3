"""What caches of the vectors have to know: how far the catalog is, what came and what went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, delete, func, select
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.sqlite.schema import gone, state, vectors
from mmsearch.storage.sqlite.spaces import Space
from mmsearch.storage.sqlite.store import Store, keep

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

EPOCH = "hubs epoch"
"""The setting that counts how often hubs of stored vectors were changed in place."""

FORGOTTEN = "gone forgotten"
"""The setting that says up to which deletion those that were filed have been forgotten again."""

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class Stamp:
    """How far a catalog is.

    Attributes:
        catalog_id: Names it.
        revision: Rises whenever a vector comes, changes or goes.
        epoch: Changes when rows changed in place.
        forgotten: Deletions up to this one are not told any more.
    """

    catalog_id: str
    revision: int
    epoch: str
    forgotten: int


@dataclass(frozen=True, slots=True)
class Came:
    """Vectors, some of those that came after a certain one.

    Attributes:
        vector_ids: (n,) rising.
        ids: (n,) the item of each.
        rows: (n, dim) float16.
        hub_text: (n,) float32; NaN where it is not known.
        hub_image: The same by typical pictures.
    """

    vector_ids: NDArray[np.int64]
    ids: NDArray[np.int64]
    rows: NDArray[np.float16]
    hub_text: NDArray[np.float32]
    hub_image: NDArray[np.float32]


class ChangeTables(Store):
    """Tells caches what they lack."""

    def changes(self) -> Stamp:
        """How far the catalog is."""
        found = dict(map(tuple, self._rows(_STATE)))
        return Stamp(
            found["catalog_id"],
            int(found["revision"]),
            found.get(EPOCH, "0"),
            int(found.get(FORGOTTEN, 0)),
        )

    def came(
        self, space: Space, facet: str, after: int = 0, page: int = ROWS_AT_ONCE
    ) -> Iterator[Came]:
        """The vectors of a facet whose id is above `after`, in order of it, a few at a time."""
        import numpy as np

        with self._read() as connection:
            driver: Any = connection.connection.driver_connection
            by_id = _has_many_of(driver, space, facet, after)
            # the driver's own cursor: SQLAlchemy's rows take twice as long
            cursor = driver.execute(_CAME_BY_ID if by_id else _CAME, (after, space.id, facet))
            while rows := cursor.fetchmany(page):
                ids, owners, blobs, *hubs = zip(*rows, strict=True)
                matrix = np.frombuffer(b"".join(blobs), "<f2").reshape(len(rows), space.dim)
                yield Came(
                    np.array(ids, np.int64),
                    np.array(owners, np.int64),
                    matrix,
                    *(np.array(column, np.float32) for column in hubs),  # None becomes NaN
                )

    def some_vectors(self, space: Space, facet: str, number: int) -> Vectors:
        """At most `number` vectors (n, dim) float32 of a facet, of items spread over all ids."""
        import numpy as np

        c = vectors.c
        there = (c.space_id == space.id, c.facet == facet)
        found: dict[int, bytes] = {}
        with self._read() as connection:
            ends = select(func.min(c.item_id), func.max(c.item_id)).where(*there)
            low, high = connection.execute(ends).one()
            next_one = select(c.id, c.vector).where(*there, c.item_id >= bindparam("least"))
            next_one = next_one.order_by(c.item_id).limit(1)
            for step in range(number) if low is not None else ():
                least = low + (high - low) * step // max(number - 1, 1)
                found |= dict(map(tuple, connection.execute(next_one, {"least": least})))
        matrix = np.frombuffer(b"".join(found.values()), "<f2").reshape(len(found), space.dim)
        return matrix.astype(np.float32)

    def went(self, space: Space, facet: str, after: int = 0) -> tuple[NDArray[np.int64], int]:
        """The vectors (n,) of a facet that went after a certain deletion, and the last of these."""
        import numpy as np

        c = gone.c
        chosen = select(c.vector_id).where(c.seq > after, c.space_id == space.id, c.facet == facet)
        with self._read() as connection:
            last = connection.execute(select(func.max(c.seq))).scalar_one() or 0
            if last <= after:
                return np.zeros(0, np.int64), after
            found = [row[0] for row in connection.execute(chosen)]
        return np.array(found, np.int64), last

    def last_deletion(self) -> int:
        """The number of the last deletion that was told, forgotten by now or not."""
        last = int(self._scalars(select(func.max(gone.c.seq)))[0] or 0)
        return max(last, int(self.setting(FORGOTTEN) or 0))

    def forget_gone(self, upto: int) -> None:
        """Forget deletions, when no cache of this index needs to be told of them any more."""
        with self._write() as connection:
            connection.execute(delete(gone).where(gone.c.seq <= upto))
            keep(connection, FORGOTTEN, str(upto))


_STATE = select(state.c.key, state.c.value)

_CAME = (
    "SELECT id, item_id, vector, hub_text, hub_image FROM vectors "
    "WHERE id > ? AND space_id = ? AND facet = ? ORDER BY id"
)
_CAME_BY_ID = _CAME.replace("AND space_id", "AND +space_id")  # the plus: not by its index
_SOME_OF = "SELECT count(*) FROM (SELECT 1 FROM vectors WHERE space_id = ? AND facet = ? LIMIT ?)"

SHARE_OF = 4
"""Rows that are read by id are of one facet to one part in this many at least."""


def _has_many_of(driver: Any, space: Space, facet: str, after: int) -> bool:
    """Whether what came after an id is best read in order of the ids, all facets.

    The other way is by the facet's index, which goes through all of the facet and sorts what it
    finds: for ten rows more of a million it takes 0.2 s, and for the whole as long again.
    """
    last = driver.execute("SELECT max(id) FROM vectors").fetchone()[0] or 0
    enough = max(last - after, 0) // SHARE_OF
    found: int = driver.execute(_SOME_OF, (space.id, facet, enough)).fetchone()[0]
    return found >= enough


def next_epoch(connection: Connection) -> None:
    """Say that rows were changed in place: what was made of them cannot be followed up."""
    row = insert(state).values(key=EPOCH, value="1")
    more = {"value": state.c.value + 1}
    connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=more))
