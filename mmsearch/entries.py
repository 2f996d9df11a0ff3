"""How one file is written into the catalog's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Table, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.schema import blanks, details, items, state, texts, vectors
from mmsearch.schema import failures as failed
from mmsearch.types import Kind, Span, TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Stat = tuple[int, int]
"""(size in bytes, mtime in ns) of a file."""


class LenderGone(Exception):
    """An entry would borrow from an item that is gone, or has other content by now."""

    def __init__(self, item_id: int) -> None:
        super().__init__(item_id)
        self.item_id = item_id


@dataclass(frozen=True, slots=True)
class Rows:
    """The vectors of one facet of one item.

    Attributes:
        matrix: (n, dim) float16.
        spans: What stretch each is about; empty when they have none of their own.
        tokens: Of each its regions or words (n_i, d) int8, for reranking; empty: none were made.
    """

    matrix: NDArray[np.float16]
    spans: Sequence[Span | None] = ()
    tokens: Sequence[NDArray[np.int8]] = ()


Place = tuple[int, str]
"""(space id, facet): where vectors are filed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it is to stand in the catalog.

    A place that `vectors` does not name keeps the rows of the item that it is `like`; when it is
    like none, its content is new and what was stored of an older one goes.
    """

    source_id: int
    folder: str
    name: str
    modality: Kind
    stat: Stat
    hash: bytes
    id: int | None = None  # the item to change; None makes a new one
    sidecar: Stat | None = None
    sidecar_name: str | None = None
    details: dict[str, Any] | None = None  # width, height, taken_at, …; None leaves them
    texts: Sequence[TextPart] | None = None  # None leaves them
    vectors: dict[Place, Rows] = field(default_factory=dict)
    like: int | None = None  # the item of the same content that lends what is not given

    @property
    def brings_vectors(self) -> bool:
        """Whether storing it changes what a search can find."""
        return self.id is None or bool(self.vectors) or self.like not in (None, self.id)


def next_revision(connection: Connection) -> None:
    """Say that vectors changed: caches of an earlier revision are out of date."""
    connection.execute(
        update(state).where(state.c.key == "revision").values(value=state.c.value + 1)
    )


def put_failures(connection: Connection, failures: Sequence[dict[str, Any]]) -> None:
    """Keep failures, each in the place of an earlier one of the same file."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [{**row, "seen_at": now} for row in failures]
    if rows:
        connection.execute(insert(failed).prefix_with("OR REPLACE"), rows)


def put_entry(connection: Connection, entry: Entry) -> None:
    """Make or change one item with its texts and vectors, and forget its failures.

    Raises:
        LenderGone: `entry.like` has not the entry's content; nothing of the batch may be kept.
    """
    place = {"source_id": entry.source_id, "folder": entry.folder, "name": entry.name}
    asked = {f"{column}_": value for column, value in place.items()}
    row: dict[str, Any] = {
        **place,
        "modality": entry.modality,
        "size": entry.stat[0],
        "mtime_ns": entry.stat[1],
        "hash": entry.hash,
        "sidecar_size": entry.sidecar[0] if entry.sidecar else None,
        "sidecar_mtime_ns": entry.sidecar[1] if entry.sidecar else None,
    }
    if entry.like is not None:
        lender = connection.execute(_LENDER, {"id_": entry.like}).mappings().one_or_none()
        if lender is None or lender["hash"] != entry.hash:
            raise LenderGone(entry.like)
        row = {**lender, **row}
    row |= entry.details or {}
    there = connection.execute(_ITEM_AT, asked).scalar_one_or_none()
    if entry.id is not None and there not in (None, entry.id):
        connection.execute(delete(items).where(items.c.id == there))
    item_id = _put_row(connection, entry.id or there, row)
    for name in (entry.name, entry.sidecar_name):
        if name is not None:
            connection.execute(_FORGET_FAILURE, {**asked, "name_": name})
    if entry.like is None:
        for clear in (_CLEAR_ALL_VECTORS, _CLEAR_ALL_TOKENS, _CLEAR_BLANKS):
            connection.execute(clear, {"item_id_": item_id})
    elif entry.like != item_id:
        _borrow(connection, entry, item_id)
    if entry.texts is not None:
        _put_texts(connection, item_id, entry.texts)
        for clear in (_CLEAR_TEXT_VECTORS, _CLEAR_TEXT_TOKENS):  # of all spaces
            connection.execute(clear, {"item_id_": item_id})
    for place_, rows in entry.vectors.items():
        put_rows(connection, item_id, place_, rows)


def put_rows(connection: Connection, item_id: int, place: Place, rows: Rows) -> None:
    """File an item's vectors in the place of those it had there."""
    filed = {"space_id": place[0], "facet": place[1], "item_id": item_id}
    for clear in (_CLEAR_VECTORS, _CLEAR_TOKENS):
        connection.execute(clear, {f"{key}_": value for key, value in filed.items()})
    spans = rows.spans or [None] * len(rows.matrix)
    found = [
        {
            **filed,
            "position": position,
            **_span_columns(span),
            "vector": vector.astype("<f2").tobytes(),
        }
        for position, (vector, span) in enumerate(zip(rows.matrix, spans, strict=True))
    ]
    if found:
        connection.execute(_ADD_VECTORS, found)
    elif place[1] != "text":
        connection.execute(_ADD_BLANK, filed)
    put_tokens(connection, filed, rows.tokens)


def put_tokens(
    connection: Connection, filed: Mapping[str, Any], tokens: Sequence[NDArray[np.int8]]
) -> None:
    """File the regions or words of an item's vectors, one blob a vector.

    Args:
        connection: In a transaction that writes.
        filed: space_id, facet and item_id.
        tokens: (n_i, d) int8 each.
    """
    rows = [
        {**filed, "position": position, "tokens": packed(some)}
        for position, some in enumerate(tokens)
    ]
    if rows:
        connection.execute(_ADD_TOKENS, rows)


def packed(tokens: NDArray[np.int8]) -> bytes:
    """Small vectors (n, d) as bytes: d in two, then the numbers."""
    width: int = tokens.shape[1]
    return width.to_bytes(2, "little") + bytes(tokens.tobytes())


def unpacked(blob: bytes) -> NDArray[np.int8]:
    """What `packed` was given."""
    import numpy as np

    return np.frombuffer(blob, np.int8, offset=2).reshape(-1, int.from_bytes(blob[:2], "little"))


def _span_columns(span: Span | None) -> dict[str, Any]:
    if span is None:
        return {"start": None, "end": None, "unit": None}
    return {"start": span.start, "end": span.end, "unit": span.unit}


def _put_row(connection: Connection, item_id: int | None, row: dict[str, Any]) -> int:
    """Change the item, or make one if there is none (any more)."""
    if item_id is not None:
        changed = connection.execute(update(items).where(items.c.id == item_id).values(row))
        if changed.rowcount:
            return item_id
    return int(connection.execute(_MAKE_ITEM, row).scalar_one())


def _at(table: Table) -> list[ColumnElement[bool]]:
    return [table.c[name] == bindparam(f"{name}_") for name in ("source_id", "folder", "name")]


# Statements are made once: composing them anew for each of a million files takes longer than
# SQLite needs to carry them out.
DETAILS = ("width", "height", "taken_at", "camera", "latitude", "longitude", "seconds", "pages")
_DETAILS = [items.c[name] for name in (*DETAILS, "readings")]
_LENDER = select(items.c.hash, *_DETAILS).where(items.c.id == bindparam("id_"))
_ITEM_AT = select(items.c.id).where(*_at(items))
_MAKE_ITEM = insert(items).returning(items.c.id)
_FORGET_FAILURE = delete(failed).where(*_at(failed))
_ADD_VECTORS = insert(vectors)
_CLEAR_ALL_VECTORS = delete(vectors).where(vectors.c.item_id == bindparam("item_id_"))
_CLEAR_BLANKS = delete(blanks).where(blanks.c.item_id == bindparam("item_id_"))
_ADD_BLANK = insert(blanks).on_conflict_do_nothing()
_CLEAR_TEXT_VECTORS = _CLEAR_ALL_VECTORS.where(vectors.c.facet == "text")
_CLEAR_VECTORS, _CLEAR_TOKENS = (
    delete(table).where(
        *(table.c[name] == bindparam(f"{name}_") for name in ("space_id", "facet", "item_id"))
    )
    for table in (vectors, details)
)
_ADD_TOKENS = insert(details)
_CLEAR_ALL_TOKENS = delete(details).where(details.c.item_id == bindparam("item_id_"))
_CLEAR_TEXT_TOKENS = _CLEAR_ALL_TOKENS.where(details.c.facet == "text")


def _borrow(connection: Connection, entry: Entry, item_id: int) -> None:
    """Copy the texts and vectors that the entry does not bring from the item it is like."""
    lent_tables = (vectors, details, blanks)
    for table in lent_tables if entry.texts is not None else (*lent_tables, texts):
        copied = [column for column in table.c if column.name not in {"id", "item_id"}]
        connection.execute(delete(table).where(table.c.item_id == item_id))
        wanted = select(*copied).where(table.c.item_id == entry.like)
        lent = connection.execute(wanted).mappings().all()
        if lent:
            connection.execute(insert(table), [{**row, "item_id": item_id} for row in lent])


def _put_texts(connection: Connection, item_id: int, parts: Sequence[TextPart]) -> None:
    connection.execute(delete(texts).where(texts.c.item_id == item_id))
    rows = [
        {
            "item_id": item_id,
            "position": position,
            "origin": part.origin,
            "text": part.text,
            **_span_columns(part.span),
        }
        for position, part in enumerate(parts)
    ]
    if rows:
        connection.execute(insert(texts), rows)
