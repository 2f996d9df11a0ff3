"""What the catalog holds of each file: texts, vectors, details."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
)
from sqlalchemy.dialects import sqlite

from mmsearch.storage.sqlite.records import DETAILS, unpacked
from mmsearch.storage.sqlite.schema import (
    attributes,
    blanks,
    details,
    items,
    sources,
    tags,
    texts,
    vectors,
)
from mmsearch.types import Item, Kind, Modality, Span, TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

from mmsearch.storage.sqlite.spaces import ELSEWHERE, Space
from mmsearch.storage.sqlite.store import Store, chunks


class ContentTables(Store):
    """What is known of the items: their texts, their vectors."""

    def vectors(
        self, space: Space, facet: str, ids: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int64], Vectors, NDArray[np.int64]]:
        """Item ids (n,), vectors (n, dim) float32 and text positions (n,), in order of id.

        Args:
            space: Which encoder's.
            facet: "image", "text" or "audio".
            ids: Only these items' (all of them when None).
        """
        import numpy as np

        with self._read() as connection:
            given = {"space_id_": space.id, "facet_": facet}
            if ids is None:
                rows = _ROWS.of(connection, **given)
            else:
                rows = _ROWS_OF.of(connection, **given, ids=_listed(sorted(set(ids))))
        blob = b"".join(row[2] for row in rows)
        matrix = np.frombuffer(blob, dtype="<f2").reshape(len(rows), space.dim)
        id_array = np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))
        positions = np.fromiter((row[1] for row in rows), dtype=np.int64, count=len(rows))
        return id_array, matrix.astype(np.float32), positions

    def spans(
        self, space: Space, facet: str, ids: Sequence[int]
    ) -> dict[tuple[int, int], Span | None]:
        """By (item id, position), what stretch of the file each vector of some items is about."""
        c = texts.c if facet == "text" else vectors.c
        base = select(c.item_id, c.position, c.start, c.end, c.unit)
        if facet != "text":
            base = base.where(c.space_id == space.id, c.facet == facet)
        return {
            (item_id, position): _span(start, end, unit)
            for part in chunks(sorted(set(ids)))
            for item_id, position, start, end, unit in self._rows(base.where(c.item_id.in_(part)))
        }

    def tokens(
        self, space: Space, facet: str, ids: Sequence[int]
    ) -> dict[tuple[int, int], NDArray[np.int8]]:
        """By (item id, position), the regions or words (n, d) of some items' vectors."""
        c = details.c
        base = select(c.item_id, c.position, c.tokens).where(
            c.space_id == space.id, c.facet == facet
        )
        return {
            (item_id, position): unpacked(blob)
            for part in chunks(sorted(set(ids)))
            for item_id, position, blob in self._rows(base.where(c.item_id.in_(part)))
        }

    def hashes(self, ids: Sequence[int]) -> dict[int, bytes]:
        """By id, the BLAKE2b-128 of some items' files; of imported ones it is not known."""
        base = select(items.c.id, items.c.hash).where(items.c.hash != b"")
        return {
            item_id: hash_
            for part in chunks(sorted(set(ids)))
            for item_id, hash_ in self._rows(base.where(items.c.id.in_(part)))
        }

    def clear_tokens(self, space: Space) -> None:
        """Delete what a space keeps for reranking."""
        with self._write() as connection:
            connection.execute(delete(details).where(details.c.space_id == space.id))

    def without(
        self, space: Space, facet: str, kinds: Iterable[Kind], *, tokens: bool = False
    ) -> list[tuple[int, str, bytes]]:
        """(item id, path, hash) of the items of some kinds that have no vector in a space.

        Args:
            space: Which encoder's.
            facet: Which facet's vector; for "text", items of any kind that have texts.
            kinds: Which items, for the other facets.
            tokens: Those without regions or words, not without a vector.
        """
        table = details if tokens else vectors
        c = table.c
        has = select(c.item_id).where(
            c.space_id == space.id, c.facet == facet, c.item_id == items.c.id
        )
        b = blanks.c
        nothing = select(b.item_id).where(
            b.space_id == space.id, b.facet == facet, b.item_id == items.c.id
        )
        # what was imported cannot be read again: it lacks only texts' vectors
        due: ColumnElement[bool] = and_(
            items.c.modality.in_(list(kinds)), sources.c.path != ELSEWHERE
        )
        if facet == "text":
            due = select(texts.c.item_id).where(texts.c.item_id == items.c.id).exists()
        statement = (
            select(items.c.id, sources.c.path, items.c.folder, items.c.name, items.c.hash)
            .join(sources)
            .where(due, ~has.exists(), ~nothing.exists())
            .order_by(items.c.id)
        )
        return [
            (id_, os.path.join(root, folder, name), hash_)
            for id_, root, folder, name, hash_ in self._rows(statement)
        ]

    def facets(self, space: Space) -> list[Modality]:
        """The facets that have vectors in a space, sorted."""
        with self._read() as connection:
            there = connection.execute(_ARE_THERE, {"space_id_": space.id}).one()
        return [facet for facet, is_there in zip(_FACETS, there, strict=True) if is_there]

    def items(self, ids: Sequence[int]) -> dict[int, Item]:
        """Items by id, with their texts; ids that are gone are left out."""
        if not len(ids):
            return {}
        with self._read() as connection:
            return _items(connection, _BY_ID, ids=_listed(ids))

    def all_items(self, page: int = 500) -> Iterator[Item]:
        """Every item in order of id, read page by page."""
        last = 0
        while True:
            with self._read() as connection:
                some = _items(connection, _A_PAGE, last=last, page=page)
            if not some:
                return
            yield from some.values()
            last = max(some)


class _Prepared:
    """A statement that each search makes, in the driver's own words: for ten rows, SQLAlchemy's
    part takes longer than SQLite's.
    """

    def __init__(self, statement: Select[Any]) -> None:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="named"))
        self._sql = str(compiled)
        self._usual = compiled.params
        self._names = list(statement.selected_columns.keys())

    def of(self, connection: Connection, **given: Any) -> list[tuple[Any, ...]]:
        """The rows, by what its parameters are."""
        driver: Any = connection.connection.driver_connection
        rows: list[tuple[Any, ...]] = driver.execute(self._sql, {**self._usual, **given}).fetchall()
        return rows

    def named(self, connection: Connection, **given: Any) -> list[dict[str, Any]]:
        """The same, each value by the name of its column."""
        return [dict(zip(self._names, row, strict=True)) for row in self.of(connection, **given)]


_IDS = select(func.json_each(bindparam("ids")).table_valued("value").c.value)
"""However many ids, as one parameter."""


def _listed(ids: Iterable[int]) -> str:
    return json.dumps(list(map(int, ids)))


_ALL_ROWS = (
    select(vectors.c.item_id, vectors.c.position, vectors.c.vector)
    .where(vectors.c.space_id == bindparam("space_id_"), vectors.c.facet == bindparam("facet_"))
    .order_by(vectors.c.item_id, vectors.c.position)
)
_ROWS = _Prepared(_ALL_ROWS)
_ROWS_OF = _Prepared(_ALL_ROWS.where(vectors.c.item_id.in_(_IDS)))

_FACETS: tuple[Modality, ...] = ("audio", "image", "text")

_ARE_THERE = select(
    *(
        exists().where(vectors.c.space_id == bindparam("space_id_"), vectors.c.facet == facet)
        for facet in _FACETS
    )
)


def _items(connection: Connection, which: _Prepared, **given: Any) -> dict[int, Item]:
    """Items with all that is said of them, by id.

    Args:
        connection: To read by.
        which: _BY_ID or _A_PAGE.
        given: What that asks for.
    """
    rows = which.named(connection, **given)
    parts: dict[int, list[TextPart]] = {row["id"]: [] for row in rows}
    own: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in _SAID}
    ids = _listed(parts)
    for name, said in _SAID.items():
        for item_id, key, what in said.of(connection, ids=ids):
            own[name].setdefault(item_id, {})[key] = what
    for row in _TEXTS.named(connection, ids=ids):
        span = _span(row["start"], row["end"], row["unit"])
        parts[row["item_id"]].append(TextPart(row["text"], row["origin"], span))
    return {
        row["id"]: _item(
            row, parts[row["id"]], {name: of.get(row["id"]) for name, of in own.items()}
        )
        for row in rows
    }


_PLACED = select(items, sources.c.path.label("root")).join(sources).order_by(items.c.id)
_BY_ID = _Prepared(_PLACED.where(items.c.id.in_(_IDS)))
_A_PAGE = _Prepared(_PLACED.where(items.c.id > bindparam("last")).limit(bindparam("page")))
_TEXTS = _Prepared(
    select(texts).where(texts.c.item_id.in_(_IDS)).order_by(texts.c.item_id, texts.c.position)
)


def _said_in(table: Table, key: Column[Any], value: Column[Any]) -> _Prepared:
    said = select(table.c.item_id, key, value)
    return _Prepared(said.where(table.c.item_id.in_(_IDS)).order_by(key))


_SAID = {
    "attributes": _said_in(attributes, attributes.c.key, attributes.c.text),
    "tags": _said_in(tags, tags.c.tag, tags.c.score),
}
"""What users and labels say of an item: name and value."""


def _span(start: float | None, end: float | None, unit: Any) -> Span | None:
    return None if start is None or end is None else Span(start, end, unit)


def _item(row: Any, parts: list[TextPart], own: dict[str, dict[str, Any] | None]) -> Item:
    metadata: dict[str, Any] = {
        "size": row["size"],
        "modified": datetime.fromtimestamp(row["mtime_ns"] / 1e9, UTC).isoformat(
            timespec="seconds"
        ),
    }
    for key in DETAILS:
        if row[key] is not None:
            metadata[key] = row[key]
    if said := own["attributes"]:
        metadata["meta"] = said
    if labels := own["tags"]:
        metadata["tags"] = sorted(labels, key=lambda label: (-labels[label], label))
    path = os.path.join(row["root"], row["folder"], row["name"])
    return Item(row["id"], path, row["modality"], tuple(parts), metadata)
