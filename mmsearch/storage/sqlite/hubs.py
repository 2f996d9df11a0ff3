"""Hubness of the stored vectors, and the query banks it is measured with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.records import Space
from mmsearch.storage.sqlite.database import Database, chunks
from mmsearch.storage.sqlite.records import next_revision
from mmsearch.storage.sqlite.schema import banks, vectors
from mmsearch.storage.sqlite.state import next_epoch
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors


COLUMNS = {"text": vectors.c.hub_text, "image": vectors.c.hub_image}
"""By the modality that asks."""


class Hubs:
    """The hub value of each vector, by query modality."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(
        self,
        space: Space,
        modality: Modality,
        query_modality: Modality,
        ids: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """The hub (n,) of each vector as `vectors` orders them; NaN where none is known."""
        import numpy as np

        c = vectors.c
        base = select(COLUMNS[query_modality]).where(c.space_id == space.id, c.facet == modality)
        found: list[float | None] = []
        for part in [None] if ids is None else chunks(sorted(set(ids))):
            chosen = base if part is None else base.where(c.item_id.in_(part))
            found += self._database.scalars(chosen.order_by(c.item_id, c.position))
        return np.asarray([np.nan if hub is None else hub for hub in found], dtype=np.float32)

    def missing(
        self, space: Space, modality: Modality, query_modality: Modality, most: int
    ) -> tuple[list[int], Vectors]:
        """Row ids (n,) and vectors (n, dim) of at most `most` vectors whose hub is not known."""
        import numpy as np

        c = vectors.c
        chosen = select(c.id, c.vector).where(
            c.space_id == space.id, c.facet == modality, COLUMNS[query_modality].is_(None)
        )
        rows = self._database.rows(chosen.limit(most))
        matrix = np.frombuffer(b"".join(row[1] for row in rows), dtype="<f2")
        return [row[0] for row in rows], matrix.reshape(len(rows), space.dim).astype(np.float32)

    def set(
        self, query_modality: Modality, vector_ids: Sequence[int], hubs: NDArray[np.float32]
    ) -> None:
        """Keep the hubs (n,) of vectors, by the ids that `missing` gave."""
        column = COLUMNS[query_modality]
        changed = update(vectors).where(vectors.c.id == bindparam("id_"))
        rows = [
            {"id_": row_id, "hub": hub}
            for row_id, hub in zip(vector_ids, hubs.tolist(), strict=True)
        ]
        with self._database.write() as connection:
            connection.execute(changed.values({column: bindparam("hub")}), rows)
            next_revision(connection)
            next_epoch(connection)


class QueryBanks:
    """The query banks made for an index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, space: Space) -> bytes | None:
        """What is typical of a space, as it was kept."""
        found = self._database.scalars(select(banks.c.bank).where(banks.c.space_id == space.id))
        return found[0] if found else None

    def set(self, space: Space, version: str, bank: bytes) -> None:
        """Keep what is typical of a space."""
        row = {"space_id": space.id, "version": version, "bank": bank}
        with self._database.write() as connection:
            connection.execute(insert(banks).prefix_with("OR REPLACE").values(row))
