"""How vectors are read where PostgreSQL has a better way than SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Connection, bindparam, func, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from mmsearch.storage.records import NewVectors, Space
from mmsearch.storage.sql.change_log import Changes
from mmsearch.storage.sql.index_settings import CHANGES_FORGOTTEN
from mmsearch.storage.sql.schema import changes, settings, vectors
from mmsearch.storage.sql.vectors import StoredVectors, matrix_of, new_vectors
from mmsearch.types import Modality

if TYPE_CHECKING:
    from mmsearch.types import Vectors

ROWS_AT_ONCE = 16_384


class PostgresVectors(StoredVectors):
    """The vectors of an index."""

    def sample(self, space: Space, modality: Modality, number: int) -> Vectors:
        c = vectors.c
        there = (c.space_id == space.id, c.modality == modality)
        with self._database.read() as connection:
            ends = select(func.min(c.item_id), func.max(c.item_id)).where(*there)
            low, high = connection.execute(ends).one()
            steps = range(number) if low is not None else ()
            least = [low + (high - low) * step // max(number - 1, 1) for step in steps]
            # one round trip for all of them
            given = func.unnest(bindparam("least", least, type_=ARRAY(BigInteger)))
            wanted = given.table_valued("least").render_derived(name="wanted")
            one = select(c.id, c.vector).where(*there, c.item_id >= wanted.c.least)
            one = one.order_by(c.item_id, c.position).limit(1)
            found = one.lateral("found")
            rows = connection.execute(
                select(found.c.id, found.c.vector).select_from(wanted).join(found, true())
            )
            return matrix_of(dict(map(tuple, rows)).values(), space)

    def new(
        self, space: Space, modality: Modality, after: int = 0, page: int = ROWS_AT_ONCE
    ) -> Iterator[NewVectors]:
        c = vectors.c
        chosen = select(c.id, c.item_id, c.vector, c.hub_text, c.hub_image).where(
            c.id > bindparam("last"), c.space_id == space.id, c.modality == modality
        )
        chosen = chosen.order_by(c.id).limit(page)
        with self._database.read() as connection:
            while rows := connection.execute(chosen, {"last": after}).all():
                yield new_vectors(rows, space.dim)
                after = rows[-1].id


class PostgresChanges(Changes):
    """The log of the vectors that were deleted."""

    def last_of(self, connection: Connection) -> int:
        forgotten = select(settings.c.value).where(settings.c.key == CHANGES_FORGOTTEN)
        known = connection.execute(forgotten).scalar()
        last = connection.execute(select(func.max(changes.c.seq))).scalar()
        return max(last or 0, int(known or 0))
