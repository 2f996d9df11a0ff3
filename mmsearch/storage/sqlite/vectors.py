"""The vectors of the items, by space and modality, and what changed of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
)

from mmsearch.storage.records import (
    IMPORTED_SOURCE,
    ItemVectors,
    NewVectors,
    Space,
    VectorField,
)
from mmsearch.storage.sqlite.database import Database, chunks
from mmsearch.storage.sqlite.records import next_revision, put_rows
from mmsearch.storage.sqlite.schema import (
    blanks,
    details,
    gone,
    items,
    sources,
    texts,
    vectors,
)
from mmsearch.storage.sqlite.settings import Settings, keep
from mmsearch.storage.sqlite.statements import IDS, Prepared, id_list
from mmsearch.types import Kind, Modality, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors


FORGOTTEN = "gone forgotten"
"""The setting that says up to which deletion those that were filed have been forgotten again."""

ROWS_AT_ONCE = 16_384


class StoredVectors:
    """Reads vectors, and tells caches what is new and what was deleted."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def counts(self) -> dict[int, dict[str, int]]:
        """How many vectors there are, by space id and modality."""
        c = vectors.c
        counted = select(c.space_id, c.facet, func.count()).group_by(c.space_id, c.facet)
        found: dict[int, dict[str, int]] = {}
        for space_id, modality, number in self._database.rows(counted):
            found.setdefault(space_id, {})[modality] = number
        return found

    def of(
        self, space: Space, modality: Modality, ids: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int64], Vectors, NDArray[np.int64]]:
        """Item ids (n,), vectors (n, dim) float32 and text positions (n,), in order of id.

        Args:
            space: Which encoder's.
            modality: "image", "text" or "audio".
            ids: Only these items' (all of them when None).
        """
        import numpy as np

        with self._database.read() as connection:
            given = {"space_id_": space.id, "facet_": modality}
            if ids is None:
                rows = _ROWS.of(connection, **given)
            else:
                rows = _ROWS_OF.of(connection, **given, ids=id_list(sorted(set(ids))))
        blob = b"".join(row[2] for row in rows)
        matrix = np.frombuffer(blob, dtype="<f2").reshape(len(rows), space.dim)
        id_array = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
        positions = np.fromiter((row[1] for row in rows), dtype=np.int64, count=len(rows))
        return id_array, matrix.astype(np.float32), positions

    def spans(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> dict[tuple[int, int], Span | None]:
        """By (item id, position), what stretch of the file each vector of some items is about."""
        c = texts.c if modality == "text" else vectors.c
        base = select(c.item_id, c.position, c.start, c.end, c.unit)
        if modality != "text":
            base = base.where(c.space_id == space.id, c.facet == modality)
        return {
            (item_id, position): _span(start, end, unit)
            for part in chunks(sorted(set(ids)))
            for item_id, position, start, end, unit in self._database.rows(
                base.where(c.item_id.in_(part))
            )
        }

    def missing(
        self,
        space: Space,
        modality: Modality,
        kinds: Iterable[Kind],
        *,
        token_embeddings: bool = False,
    ) -> list[tuple[int, str, bytes]]:
        """(item id, path, hash) of the items of some kinds that have no vector in a space.

        Args:
            space: Which encoder's.
            modality: Which modality's vector; for "text", items of any kind that have texts.
            kinds: Which items, for the other facets.
            token_embeddings: Those without token embeddings, not without a vector.
        """
        table = details if token_embeddings else vectors
        c = table.c
        has = select(c.item_id).where(
            c.space_id == space.id, c.facet == modality, c.item_id == items.c.id
        )
        b = blanks.c
        nothing = select(b.item_id).where(
            b.space_id == space.id, b.facet == modality, b.item_id == items.c.id
        )
        # what was imported cannot be read again: it lacks only texts' vectors
        due: ColumnElement[bool] = and_(
            items.c.modality.in_(list(kinds)), sources.c.path != IMPORTED_SOURCE
        )
        if modality == "text":
            due = select(texts.c.item_id).where(texts.c.item_id == items.c.id).exists()
        statement = (
            select(items.c.id, sources.c.path, items.c.folder, items.c.name, items.c.hash)
            .join(sources)
            .where(due, ~has.exists(), ~nothing.exists())
            .order_by(items.c.id)
        )
        return [
            (id_, os.path.join(root, folder, name), hash_)
            for id_, root, folder, name, hash_ in self._database.rows(statement)
        ]

    def modalities(self, space: Space) -> list[Modality]:
        """The facets that have vectors in a space, sorted."""
        with self._database.read() as connection:
            there = connection.execute(_ARE_THERE, {"space_id_": space.id}).one()
        return [modality for modality, is_there in zip(_FACETS, there, strict=True) if is_there]

    def pages(
        self, space: Space, modality: Modality, rows: int = 8192
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Item ids (n,) and vectors (n, dim) float32 of a modality, about `rows` at a time.

        In order of id; all vectors of an item are in one page.
        """
        import numpy as np

        c = vectors.c
        mine = (c.space_id == space.id, c.facet == modality)
        last = -1
        while True:
            bound = select(c.item_id).where(*mine, c.item_id > last)
            edge = self._database.scalars(bound.order_by(c.item_id).limit(1).offset(rows - 1))
            page = select(c.item_id, c.vector).where(*mine, c.item_id > last)
            if edge:
                page = page.where(c.item_id <= edge[0])
            found = self._database.rows(page.order_by(c.item_id, c.position))
            if found:
                blob = b"".join(row[1] for row in found)
                matrix = np.frombuffer(blob, dtype="<f2").reshape(len(found), space.dim)
                ids = np.fromiter((row[0] for row in found), dtype=np.int64, count=len(found))
                yield ids, matrix.astype(np.float32)
            if not edge:
                return
            last = edge[0]

    def count(
        self, space: Space, modality: Modality | None = None, ids: Iterable[int] | None = None
    ) -> int:
        """How many vectors a space has, of one modality or all, of some items or all."""
        c = vectors.c
        counted = select(func.count()).select_from(vectors).where(c.space_id == space.id)
        if modality is not None:
            counted = counted.where(c.facet == modality)
        if ids is None:
            return int(self._database.scalars(counted)[0])
        given = [int(id_) for id_ in ids]
        return sum(int(self._database.scalars(_of(counted, c, part))[0]) for part in chunks(given))

    def new(
        self, space: Space, modality: Modality, after: int = 0, page: int = ROWS_AT_ONCE
    ) -> Iterator[NewVectors]:
        """The vectors whose id is above `after`, in order of it, a few at a time."""
        import numpy as np

        with self._database.read() as connection:
            driver: Any = connection.connection.driver_connection
            by_id = _has_many_of(driver, space, modality, after)
            # the driver's own cursor: SQLAlchemy's rows take twice as long
            cursor = driver.execute(_CAME_BY_ID if by_id else _CAME, (after, space.id, modality))
            while rows := cursor.fetchmany(page):
                ids, owners, blobs, *hubs = zip(*rows, strict=True)
                matrix = np.frombuffer(b"".join(blobs), "<f2").reshape(len(rows), space.dim)
                yield NewVectors(
                    np.array(ids, np.int64),
                    np.array(owners, np.int64),
                    matrix,
                    *(np.array(column, np.float32) for column in hubs),  # None becomes NaN
                )

    def sample(self, space: Space, modality: Modality, number: int) -> Vectors:
        """At most `number` vectors (n, dim) float32, of items spread over all ids."""
        import numpy as np

        c = vectors.c
        there = (c.space_id == space.id, c.facet == modality)
        found: dict[int, bytes] = {}
        with self._database.read() as connection:
            ends = select(func.min(c.item_id), func.max(c.item_id)).where(*there)
            low, high = connection.execute(ends).one()
            next_one = select(c.id, c.vector).where(*there, c.item_id >= bindparam("least"))
            next_one = next_one.order_by(c.item_id).limit(1)
            for step in range(number) if low is not None else ():
                least = low + (high - low) * step // max(number - 1, 1)
                found |= dict(map(tuple, connection.execute(next_one, {"least": least})))
        matrix = np.frombuffer(b"".join(found.values()), "<f2").reshape(len(found), space.dim)
        return matrix.astype(np.float32)

    def deleted(
        self, space: Space, modality: Modality, after: int = 0
    ) -> tuple[NDArray[np.int64], int]:
        """The ids (n,) of vectors that were deleted after a certain deletion, and the last one."""
        import numpy as np

        c = gone.c
        mine = (c.space_id == space.id, c.facet == modality)
        chosen = select(c.vector_id).where(c.seq > after, *mine)
        with self._database.read() as connection:
            last = connection.execute(select(func.max(c.seq))).scalar_one() or 0
            if last <= after:
                return np.zeros(0, np.int64), after
            found = [row[0] for row in connection.execute(chosen)]
        return np.array(found, np.int64), last

    def last_deletion(self) -> int:
        """The number of the last deletion that was told, forgotten by now or not."""
        last = int(self._database.scalars(select(func.max(gone.c.seq)))[0] or 0)
        return max(last, int(self._settings.get(FORGOTTEN) or 0))

    def forget_deleted(self, upto: int) -> None:
        """Forget deletions, when no cache of this index needs to be told of them any more."""
        with self._database.write() as connection:
            connection.execute(delete(gone).where(gone.c.seq <= upto))
            keep(connection, FORGOTTEN, str(upto))

    def missing_of_imported(self, space: Space, modality: Modality, kinds: Iterable[Kind]) -> int:
        """How many items that cannot be read again have no vector of a modality in a space."""
        c = vectors.c
        has = exists().where(c.space_id == space.id, c.facet == modality, c.item_id == items.c.id)
        due = (sources.c.path == IMPORTED_SOURCE, items.c.modality.in_(list(kinds)), ~has)
        return int(
            self._database.scalars(select(func.count(items.c.id)).join(sources).where(*due))[0]
        )

    def any_missing(self, space: Space, modality: Modality, kinds: Iterable[Kind]) -> bool:
        """Whether some item lacks a vector; for "text", some item that has texts."""
        c = vectors.c
        has = exists().where(c.space_id == space.id, c.facet == modality, c.item_id == items.c.id)
        due: ColumnElement[bool] = items.c.modality.in_(list(kinds))
        if modality == "text":
            due = exists().where(texts.c.item_id == items.c.id)
        return bool(self._database.rows(select(items.c.id).where(due, ~has).limit(1)))

    def backfill(
        self,
        vectors: Mapping[tuple[int, bytes], Mapping[VectorField, ItemVectors]],
        texts: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """File vectors of items that are stored already, all or none.

        Args:
            vectors: By (item id, hash); an item whose content has changed meanwhile is left out.
            texts: By item id, the texts that were encoded; one that has others by now is left out.
        """
        if not vectors:
            return
        with self._database.write() as connection:
            hashes = dict(
                map(tuple, connection.execute(_hashes_of([id_ for id_, _ in vectors])).all())
            )
            for (item_id, hash_), places in vectors.items():
                same = texts is None or _texts_of(connection, item_id) == list(texts[item_id])
                if same and hashes.get(item_id) == hash_:
                    for place, some in places.items():
                        put_rows(connection, item_id, place, some)
            next_revision(connection)


_ALL_ROWS = (
    select(vectors.c.item_id, vectors.c.position, vectors.c.vector)
    .where(vectors.c.space_id == bindparam("space_id_"), vectors.c.facet == bindparam("facet_"))
    .order_by(vectors.c.item_id, vectors.c.position)
)

_ROWS = Prepared(_ALL_ROWS)

_ROWS_OF = Prepared(_ALL_ROWS.where(vectors.c.item_id.in_(IDS)))

_FACETS: tuple[Modality, ...] = ("audio", "image", "text")

_ARE_THERE = select(
    *(
        exists().where(vectors.c.space_id == bindparam("space_id_"), vectors.c.facet == modality)
        for modality in _FACETS
    )
)


def _span(start: float | None, end: float | None, unit: Any) -> Span | None:
    return None if start is None or end is None else Span(start, end, unit)


_CAME = (
    "SELECT id, item_id, vector, hub_text, hub_image FROM vectors "
    "WHERE id > ? AND space_id = ? AND facet = ? ORDER BY id"
)

_CAME_BY_ID = _CAME.replace("AND space_id", "AND +space_id")  # the plus: not by its index

_SOME_OF = "SELECT count(*) FROM (SELECT 1 FROM vectors WHERE space_id = ? AND facet = ? LIMIT ?)"

SHARE_OF = 4
"""Rows that are read by id are of one modality to one part in this many at least."""


def _has_many_of(driver: Any, space: Space, modality: Modality, after: int) -> bool:
    """Whether what came after an id is best read in order of the ids, all facets.

    The other way is by the modality's index, which goes through all of it and sorts what it finds:
    for ten rows more of a million it takes 0.2 s, and for the whole as long again.
    """
    last = driver.execute("SELECT max(id) FROM vectors").fetchone()[0] or 0
    enough = max(last - after, 0) // SHARE_OF
    found: int = driver.execute(_SOME_OF, (space.id, modality, enough)).fetchone()[0]
    return found >= enough


def _of(statement: Select[Any], columns: Any, ids: Sequence[int]) -> Any:
    return statement.where(columns.item_id.in_(ids))


def _texts_of(connection: Connection, item_id: int) -> list[str]:
    c = texts.c
    chosen = select(c.text).where(c.item_id == item_id).order_by(c.position)
    return [row[0] for row in connection.execute(chosen)]


def _hashes_of(ids: Sequence[int]) -> Select[Any]:
    return select(items.c.id, items.c.hash).where(items.c.id.in_(ids))
