"""Rows as the driver takes them: tuples, many of a table in one call.

SQLAlchemy's statements cost more to carry out than SQLite itself takes for them, which counts
where a row is written a vector or a text; these are the driver's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Table

from mmsearch.storage.records import MEDIA_COLUMNS, ItemRecord, ItemVectors, VectorField
from mmsearch.storage.sqlite.schema import (
    PathText,
    absent_modalities,
    failures,
    items,
    path_bytes,
    texts,
    token_embeddings,
    vectors,
)
from mmsearch.types import Span, TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = tuple[Any, ...]


def execute_many(connection: Connection, statement: str, rows: Sequence[Row]) -> None:
    """Carry out a statement of the driver's for each of some rows, if there are any."""
    if rows:
        connection.exec_driver_sql(statement, list(rows))


def _marks(table: Table, columns: Iterable[str]) -> list[str]:
    return ["CAST(? AS TEXT)" if isinstance(table.c[c].type, PathText) else "?" for c in columns]


def _insert(table: Table, columns: Sequence[str], extra: str = "") -> str:
    names = ", ".join(f'"{column}"' for column in columns)
    return f"INSERT{extra} INTO {table.name} ({names}) VALUES ({', '.join(_marks(table, columns))})"


def at(table: Table, columns: Sequence[str]) -> str:
    """The condition that some columns of a table are what is bound."""
    marks = _marks(table, columns)
    return " AND ".join(f"{column} = {mark}" for column, mark in zip(columns, marks, strict=True))


_WHERE = ("source_id", "folder", "name")
_SPAN = ("start", "end", "unit")
_FILED = ("space_id", "modality", "item_id")

ITEM_AT = f"SELECT id FROM items WHERE {at(items, _WHERE)}"  # noqa: S608
ADD_ITEM = _insert(
    items,
    (
        "id",
        *_WHERE,
        "kind",
        "size",
        "mtime_ns",
        "sidecar_size",
        "sidecar_mtime_ns",
        "hash",
        "readings",
        *MEDIA_COLUMNS,
    ),
)
FORGET_FAILURE = f"DELETE FROM failures WHERE {at(failures, _WHERE)}"  # noqa: S608
ADD_TEXT = _insert(texts, ("item_id", "position", "origin", "text", *_SPAN))
ADD_VECTOR = _insert(vectors, (*_FILED, "position", *_SPAN, "vector", "hub_text", "hub_image"))
ADD_TOKENS = _insert(token_embeddings, (*_FILED, "position", "embeddings"))
ADD_BLANK = _insert(absent_modalities, _FILED, " OR IGNORE")


def item_row(item_id: int, entry: ItemRecord) -> Row:
    """An entry's row for ADD_ITEM."""
    known = entry.media or {}
    return (
        item_id,
        *place_of(entry, entry.name),
        entry.kind,
        *entry.stat,
        *(entry.sidecar or (None, None)),
        entry.hash,
        known.get("readings", ""),
        *(known.get(name) for name in MEDIA_COLUMNS),
    )


def place_of(entry: ItemRecord, name: str) -> Row:
    """A file in the entry's folder, as ITEM_AT and FORGET_FAILURE take it."""
    return entry.source_id, path_bytes(entry.folder), path_bytes(name)


def text_rows(item_id: int, parts: Sequence[TextPart]) -> Iterator[Row]:
    """An item's texts for ADD_TEXT."""
    for position, part in enumerate(parts):
        yield item_id, position, part.origin, part.text, *_span(part.span)


def vector_rows(item_id: int, place: VectorField, rows: ItemVectors) -> Iterator[Row]:
    """An item's vectors of a facet for ADD_VECTOR."""
    spans = rows.spans or [None] * len(rows.matrix)
    hubs = [
        rows.hubs[asked].tolist() if asked in rows.hubs else [None] * len(rows.matrix)
        for asked in ("text", "image")
    ]
    matrix = rows.matrix.astype("<f2", copy=False)
    for position, (vector, span, *of) in enumerate(zip(matrix, spans, *hubs, strict=True)):
        yield *place, item_id, position, *_span(span), vector.tobytes(), *of


def token_rows(
    item_id: int, place: VectorField, tokens: Sequence[NDArray[np.int8]]
) -> Iterator[Row]:
    """The regions or words of an item's vectors for ADD_TOKENS, one blob a vector."""
    for position, some in enumerate(tokens):
        yield *place, item_id, position, packed(some)


def is_blank(place: VectorField, rows: ItemVectors) -> bool:
    """Whether an item has nothing for a facet; that it has no text need not be noted."""
    return not len(rows.matrix) and place[1] != "text"


def packed(tokens: NDArray[np.int8]) -> bytes:
    """Small vectors (n, d) as bytes: d in two, then the numbers."""
    width: int = tokens.shape[1]
    return width.to_bytes(2, "little") + bytes(tokens.tobytes())


def unpacked(blob: bytes) -> NDArray[np.int8]:
    """What `packed` was given."""
    import numpy as np

    return np.frombuffer(blob, np.int8, offset=2).reshape(-1, int.from_bytes(blob[:2], "little"))


def _span(span: Span | None) -> Row:
    return (None, None, None) if span is None else (span.start, span.end, span.unit)
