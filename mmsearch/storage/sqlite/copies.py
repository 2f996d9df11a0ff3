"""Which items have the same content, and vectors read page by page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from mmsearch.storage.sqlite.schema import items, vectors
from mmsearch.storage.sqlite.spaces import Space
from mmsearch.storage.sqlite.store import Store
from mmsearch.types import Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors


@dataclass(frozen=True, slots=True)
class Standing:
    """What says which of several copies is worth keeping."""

    id: int
    modality: Kind
    size: int
    """Bytes."""
    modified: int
    """Nanoseconds since 1970."""
    pixels: int
    seconds: float
    hash: bytes

    @property
    def order(self) -> tuple[float, ...]:
        """Sorts the one to keep first: the largest picture, the longest sound, the oldest file."""
        return (-self.pixels, -self.seconds, self.modified, -self.size, self.id)


class CopyTables(Store):
    """What finding copies asks of the catalog."""

    def same_content(self) -> list[list[int]]:
        """The ids of the items of each content that several items have.

        Of what was imported the content is not known: it has no hash.
        """
        c = items.c
        several = select(c.hash, c.modality).where(c.hash != b"").group_by(c.hash, c.modality)
        wanted = several.having(func.count() > 1).subquery()
        rows = self._rows(
            select(c.hash, c.modality, c.id)
            .join(wanted, (wanted.c.hash == c.hash) & (wanted.c.modality == c.modality))
            .order_by(c.id)
        )
        found: dict[tuple[bytes, str], list[int]] = {}
        for hash_, modality, id_ in rows:
            found.setdefault((hash_, modality), []).append(id_)
        return list(found.values())

    def standings(self) -> dict[int, Standing]:
        """By id of each item, what says which of several copies is worth keeping."""
        c = items.c
        wanted = select(
            c.id,
            c.modality,
            c.size,
            c.mtime_ns,
            func.coalesce(c.width * c.height, 0),
            func.coalesce(c.seconds, 0.0),
            c.hash,
        )
        return {row[0]: Standing(*row) for row in self._rows(wanted)}

    def pages(
        self, space: Space, facet: str, rows: int = 8192
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Item ids (n,) and vectors (n, dim) float32 of a facet, about `rows` at a time.

        In order of id; all vectors of an item are in one page.
        """
        import numpy as np

        c = vectors.c
        mine = (c.space_id == space.id, c.facet == facet)
        last = -1
        while True:
            bound = select(c.item_id).where(*mine, c.item_id > last)
            edge = self._scalars(bound.order_by(c.item_id).limit(1).offset(rows - 1))
            page = select(c.item_id, c.vector).where(*mine, c.item_id > last)
            if edge:
                page = page.where(c.item_id <= edge[0])
            found = self._rows(page.order_by(c.item_id, c.position))
            if found:
                blob = b"".join(row[1] for row in found)
                matrix = np.frombuffer(blob, dtype="<f2").reshape(len(found), space.dim)
                ids = np.fromiter((row[0] for row in found), dtype=np.int64, count=len(found))
                yield ids, matrix.astype(np.float32)
            if not edge:
                return
            last = edge[0]

    def count_vectors(self, space: Space, facet: str) -> int:
        """How many vectors a facet has in a space."""
        c = vectors.c
        counted = select(func.count()).where(c.space_id == space.id, c.facet == facet)
        return int(self._scalars(counted)[0])
