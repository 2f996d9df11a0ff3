"""The vectors of the items, by space and modality, their hubs, and token embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
    update,
)

from mmsearch.storage.packing import unpack
from mmsearch.storage.records import IMPORTED_SOURCE, ItemVectors, NewVectors, Space, VectorField
from mmsearch.storage.sql.database import Database, Prepared, is_one_of, is_one_of_ids
from mmsearch.storage.sql.index_settings import next_epoch, next_revision
from mmsearch.storage.sql.schema import (
    absent_modalities,
    items,
    sources,
    span_of,
    texts,
    token_embeddings,
    vectors,
)
from mmsearch.storage.sql.types import id_list
from mmsearch.storage.sql.writer import put_vectors
from mmsearch.storage.store import HubStore, TokenEmbeddingStore, VectorStore
from mmsearch.types import Kind, Modality, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors


class StoredVectors(VectorStore):
    """Reads vectors, and stores those that items lack."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ------------------------------------------------------------------ counting

    def counts(self) -> dict[int, dict[str, int]]:
        c = vectors.c
        counted = select(c.space_id, c.modality, func.count()).group_by(c.space_id, c.modality)
        found: dict[int, dict[str, int]] = {}
        for space_id, modality, number in self._database.rows(counted):
            found.setdefault(space_id, {})[modality] = number
        return found

    def count(
        self, space: Space, modality: Modality | None = None, ids: Iterable[int] | None = None
    ) -> int:
        c = vectors.c
        counted = select(func.count()).select_from(vectors).where(c.space_id == space.id)
        if modality is not None:
            counted = counted.where(c.modality == modality)
        if ids is not None:
            counted = counted.where(is_one_of(c.item_id, ids))
        return int(self._database.scalars(counted)[0])

    def modalities(self, space: Space) -> list[Modality]:
        with self._database.read() as connection:
            there = connection.execute(_HAS_MODALITIES, {"space": space.id}).one()
        return [one for one, is_there in zip(_MODALITIES, there, strict=True) if is_there]

    # ------------------------------------------------------------------ reading

    def of(
        self, space: Space, modality: Modality, ids: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int64], Vectors, NDArray[np.int64]]:
        import numpy as np

        given = {"space": space.id, "modality_": modality}
        with self._database.read() as connection:
            if ids is None:
                rows = _ALL.of(connection, **given)
            else:
                rows = _OF_ITEMS.of(connection, **given, ids=id_list(sorted(set(ids))))
        id_array = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
        positions = np.fromiter((row[1] for row in rows), dtype=np.int64, count=len(rows))
        return id_array, matrix_of([row[2] for row in rows], space), positions

    def pages(
        self, space: Space, modality: Modality, rows: int = 8192
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        import numpy as np

        c = vectors.c
        mine = (c.space_id == space.id, c.modality == modality)
        last = -1
        while True:
            bound = select(c.item_id).where(*mine, c.item_id > last)
            edge = self._database.scalars(bound.order_by(c.item_id).limit(1).offset(rows - 1))
            page = select(c.item_id, c.vector).where(*mine, c.item_id > last)
            if edge:
                page = page.where(c.item_id <= edge[0])
            found = self._database.rows(page.order_by(c.item_id, c.position))
            if found:
                ids = np.fromiter((row[0] for row in found), dtype=np.int64, count=len(found))
                yield ids, matrix_of([row[1] for row in found], space)
            if not edge:
                return
            last = edge[0]

    def sample(self, space: Space, modality: Modality, number: int) -> Vectors:
        c = vectors.c
        there = (c.space_id == space.id, c.modality == modality)
        found: dict[int, bytes] = {}
        with self._database.read() as connection:
            ends = select(func.min(c.item_id), func.max(c.item_id)).where(*there)
            low, high = connection.execute(ends).one()
            next_one = select(c.id, c.vector).where(*there, c.item_id >= bindparam("least"))
            next_one = next_one.order_by(c.item_id).limit(1)
            for step in range(number) if low is not None else ():
                least = low + (high - low) * step // max(number - 1, 1)
                found |= dict(map(tuple, connection.execute(next_one, {"least": least})))
        return matrix_of(found.values(), space)

    def spans(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> dict[tuple[int, int], Span | None]:
        with self._database.read() as connection:
            if modality == "text":
                rows = _TEXT_SPANS.of(connection, ids=id_list(ids))
            else:
                given = {"space": space.id, "modality_": modality}
                rows = _SPANS.of(connection, **given, ids=id_list(ids))
        return {
            (item_id, position): span_of(start, end, unit)
            for item_id, position, start, end, unit in rows
        }

    # ------------------------------------------------------------------ what is missing

    def missing(
        self,
        space: Space,
        modality: Modality,
        kinds: Iterable[Kind],
        *,
        token_embeddings: bool = False,
    ) -> list[tuple[int, str, bytes]]:
        table = _TOKEN_EMBEDDINGS if token_embeddings else vectors
        due = _should_have(modality, kinds)
        if modality != "text":
            due = and_(due, sources.c.path != IMPORTED_SOURCE)
        statement = (
            select(items.c.id, sources.c.path, items.c.folder, items.c.name, items.c.hash)
            .join(sources)
            .where(
                due,
                ~_has(table, space, modality),
                ~_has(absent_modalities, space, modality),
            )
            .order_by(items.c.id)
        )
        return [
            (id_, os.path.join(root, folder, name), hash_)
            for id_, root, folder, name, hash_ in self._database.rows(statement)
        ]

    def any_missing(self, space: Space, modality: Modality, kinds: Iterable[Kind]) -> bool:
        where = (_should_have(modality, kinds), ~_has(vectors, space, modality))
        return bool(self._database.rows(select(items.c.id).where(*where).limit(1)))

    def missing_of_imported(self, space: Space, modality: Modality, kinds: Iterable[Kind]) -> int:
        imported = (sources.c.path == IMPORTED_SOURCE, items.c.kind.in_(list(kinds)))
        counted = select(func.count(items.c.id)).join(sources)
        lacking = counted.where(*imported, ~_has(vectors, space, modality))
        return int(self._database.scalars(lacking)[0])

    def backfill(
        self,
        vectors: Mapping[tuple[int, bytes], Mapping[VectorField, ItemVectors]],
        texts: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        if not vectors:
            return
        ids = id_list(id_ for id_, _ in vectors)
        with self._database.write() as connection:
            hashes = dict(_HASHES.of(connection, ids=ids))
            current: dict[int, list[str]] = {}
            for item_id, text in _TEXTS.of(connection, ids=ids) if texts is not None else ():
                current.setdefault(item_id, []).append(text)
            unchanged = [
                (item_id, fields)
                for (item_id, hash_), fields in vectors.items()
                if hashes.get(item_id) == hash_
                and (texts is None or current.get(item_id, []) == list(texts[item_id]))
            ]
            put_vectors(self._database.writer(connection), unchanged)
            next_revision(connection)


def matrix_of(blobs: Iterable[bytes], space: Space) -> Vectors:
    """Stored vectors (n, dim) as float32."""
    import numpy as np

    rows = np.frombuffer(b"".join(blobs), dtype="<f2").reshape(-1, space.dim)
    return rows.astype(np.float32)


def new_vectors(rows: Sequence[Sequence[Any]], dim: int) -> NewVectors:
    """Rows of (id, item id, vector, hub to texts, hub to images), at least one, as arrays."""
    import numpy as np

    ids, owners, blobs, *hubs = zip(*rows, strict=True)
    return NewVectors(
        np.array(ids, np.int64),
        np.array(owners, np.int64),
        np.frombuffer(b"".join(blobs), "<f2").reshape(len(rows), dim),
        *(np.array(column, np.float32) for column in hubs),  # None becomes NaN
    )


def _should_have(modality: Modality, kinds: Iterable[Kind]) -> ColumnElement[bool]:
    """Of an item: whether it should have a vector of a modality."""
    if modality == "text":
        return exists().where(texts.c.item_id == items.c.id)
    return items.c.kind.in_(list(kinds))


def _has(table: Table, space: Space, modality: Modality) -> ColumnElement[bool]:
    """Of an item: whether a table has a row of it in a space and modality."""
    c = table.c
    mine = (c.space_id == space.id, c.modality == modality, c.item_id == items.c.id)
    return exists().where(*mine)


_TOKEN_EMBEDDINGS = token_embeddings


def _selected(*columns: Any) -> Select[Any]:
    """Columns of the vectors of a space and modality, by item and position."""
    c = vectors.c
    chosen = select(*columns)
    chosen = chosen.where(c.space_id == bindparam("space"), c.modality == bindparam("modality_"))
    return chosen.order_by(c.item_id, c.position)


_AMONG_ITEMS = is_one_of_ids(vectors.c.item_id)

_SELECTED = _selected(vectors.c.item_id, vectors.c.position, vectors.c.vector)

_ALL, _OF_ITEMS = Prepared(_SELECTED), Prepared(_SELECTED.where(_AMONG_ITEMS))

_SPAN = ("item_id", "position", "start", "end", "unit")

_SPANS = Prepared(_selected(*(vectors.c[name] for name in _SPAN)).where(_AMONG_ITEMS))

_TEXT_SPANS = Prepared(
    select(*(texts.c[name] for name in _SPAN)).where(is_one_of_ids(texts.c.item_id))
)

_HASHES = Prepared(select(items.c.id, items.c.hash).where(is_one_of_ids(items.c.id)))

_TEXTS = Prepared(
    select(texts.c.item_id, texts.c.text)
    .where(is_one_of_ids(texts.c.item_id))
    .order_by(texts.c.item_id, texts.c.position)
)

_MODALITIES: tuple[Modality, ...] = ("audio", "image", "text")

_HAS_MODALITIES = select(
    *(
        exists().where(vectors.c.space_id == bindparam("space"), vectors.c.modality == modality)
        for modality in _MODALITIES
    )
)


class Hubs(HubStore):
    """How much of a hub each vector is, by query modality."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(
        self,
        space: Space,
        modality: Modality,
        query_modality: Modality,
        ids: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        import numpy as np

        given = {"space": space.id, "modality_": modality}
        with self._database.read() as connection:
            if ids is None:
                rows = _ALL_HUBS[query_modality].of(connection, **given)
            else:
                rows = _HUBS_OF_ITEMS[query_modality].of(connection, **given, ids=id_list(ids))
        return np.array([hub for (hub,) in rows], np.float32)  # None becomes NaN

    def missing(
        self, space: Space, modality: Modality, query_modality: Modality, most: int
    ) -> tuple[list[int], Vectors]:
        c = vectors.c
        mine = (c.space_id == space.id, c.modality == modality)
        chosen = select(c.id, c.vector).where(*mine, _HUBS[query_modality].is_(None))
        rows = self._database.rows(chosen.limit(most))
        return [row[0] for row in rows], matrix_of([row[1] for row in rows], space)

    def set(
        self, query_modality: Modality, vector_ids: Sequence[int], hubs: NDArray[np.float32]
    ) -> None:
        changed = update(vectors).where(vectors.c.id == bindparam("id_"))
        changed = changed.values({_HUBS[query_modality]: bindparam("hub")})
        rows = [
            {"id_": id_, "hub": hub} for id_, hub in zip(vector_ids, hubs.tolist(), strict=True)
        ]
        with self._database.write() as connection:
            connection.execute(changed, rows)
            next_revision(connection)
            next_epoch(connection)


_HUBS = {"text": vectors.c.hub_text, "image": vectors.c.hub_image}

_ALL_HUBS = {name: Prepared(_selected(column)) for name, column in _HUBS.items()}

_HUBS_OF_ITEMS = {
    name: Prepared(_selected(column).where(_AMONG_ITEMS)) for name, column in _HUBS.items()
}


class TokenEmbeddings(TokenEmbeddingStore):
    """Small vectors of a text's words or a picture's regions, for reranking."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> dict[tuple[int, int], NDArray[np.int8]]:
        c = token_embeddings.c
        chosen = select(c.item_id, c.position, c.embeddings)
        chosen = chosen.where(c.space_id == space.id, c.modality == modality)
        rows = self._database.rows(chosen.where(is_one_of(c.item_id, ids)))
        return {(item_id, position): unpack(blob) for item_id, position, blob in rows}

    def clear(self, space: Space) -> None:
        mine = token_embeddings.c.space_id == space.id
        with self._database.write() as connection:
            connection.execute(delete(token_embeddings).where(mine))
