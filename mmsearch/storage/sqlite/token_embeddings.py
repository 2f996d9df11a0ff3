"""Token embeddings: small vectors of a text's words or a picture's regions, for reranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import (
    delete,
    select,
)

from mmsearch.storage.records import Space
from mmsearch.storage.sqlite.database import Database, chunks
from mmsearch.storage.sqlite.records import unpacked
from mmsearch.storage.sqlite.schema import details
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TokenEmbeddings:
    """Reads and deletes token embeddings."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> dict[tuple[int, int], NDArray[np.int8]]:
        """By (item id, position), the regions or words (n, d) of some items' vectors."""
        c = details.c
        base = select(c.item_id, c.position, c.tokens).where(
            c.space_id == space.id, c.facet == modality
        )
        return {
            (item_id, position): unpacked(blob)
            for part in chunks(sorted(set(ids)))
            for item_id, position, blob in self._database.rows(base.where(c.item_id.in_(part)))
        }

    def clear(self, space: Space) -> None:
        """Delete what a space keeps for reranking."""
        with self._database.write() as connection:
            connection.execute(delete(details).where(details.c.space_id == space.id))
