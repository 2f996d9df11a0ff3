"""How one file is written into the catalog's tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Table, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.schema import failures as failed
from mmsearch.schema import items, state, texts, vectors
from mmsearch.types import Modality, TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Stat = tuple[int, int]
"""(size in bytes, mtime in ns) of a file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it is to stand in the catalog.

    `vectors` maps a facet to its (n, dim) float16 rows, one a text for the text facet; a facet
    it does not name keeps the rows that `vectors_of` (else the item itself) has.
    """

    source_id: int
    folder: str
    name: str
    modality: Modality
    stat: Stat
    hash: bytes
    id: int | None = None  # the item to change; None makes a new one
    sidecar: Stat | None = None
    sidecar_name: str | None = None
    details: dict[str, Any] | None = None  # width, height, taken_at, …; None leaves them
    texts: Sequence[TextPart] | None = None  # None leaves them
    vectors: dict[str, NDArray[np.float16]] = field(default_factory=dict)
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


def put_entry(connection: Connection, entry: Entry, space_id: int) -> None:
    """Make or change one item with its texts and vectors, and forget its failures."""
    place = {"source_id": entry.source_id, "folder": entry.folder, "name": entry.name}
    row: dict[str, Any] = {
        **place,
        "modality": entry.modality,
        "size": entry.stat[0],
        "mtime_ns": entry.stat[1],
        "hash": entry.hash,
        "sidecar_size": entry.sidecar[0] if entry.sidecar else None,
        "sidecar_mtime_ns": entry.sidecar[1] if entry.sidecar else None,
        **(entry.details or {}),
    }
    borrows = entry.like is not None and entry.like != entry.id
    if borrows:
        row = {**_details(connection, entry.like), **row}
    asked = {f"{column}_": value for column, value in place.items()}
    connection.execute(_CLEAR_PLACE, {**asked, "id_": entry.id or 0})
    if entry.id is None:
        item_id = int(connection.execute(_MAKE_ITEM, row).scalar_one())
    else:
        item_id = entry.id
        connection.execute(update(items).where(items.c.id == item_id).values(row))
    for name in (entry.name, entry.sidecar_name):
        if name is not None:
            connection.execute(_FORGET_FAILURE, {**asked, "name_": name})
    if borrows:
        _borrow(connection, entry, item_id)
    if entry.texts is not None:
        _put_texts(connection, item_id, entry.texts)
    for facet, matrix in entry.vectors.items():
        filed = {"space_id": space_id, "facet": facet, "item_id": item_id}
        if entry.id is not None:
            connection.execute(_CLEAR_VECTORS, {f"{key}_": value for key, value in filed.items()})
        rows = [
            {**filed, "position": position, "vector": vector.astype("<f2").tobytes()}
            for position, vector in enumerate(matrix)
        ]
        if rows:
            connection.execute(_ADD_VECTORS, rows)


def _at(table: Table) -> list[ColumnElement[bool]]:
    return [table.c[name] == bindparam(f"{name}_") for name in ("source_id", "folder", "name")]


# Statements are made once: composing them anew for each of a million files takes longer than
# SQLite needs to carry them out.
_CLEAR_PLACE = delete(items).where(*_at(items), items.c.id != bindparam("id_"))
_MAKE_ITEM = insert(items).returning(items.c.id)
_FORGET_FAILURE = delete(failed).where(*_at(failed))
_ADD_VECTORS = insert(vectors)
_CLEAR_VECTORS = delete(vectors).where(
    *(vectors.c[name] == bindparam(f"{name}_") for name in ("space_id", "facet", "item_id"))
)


def _details(connection: Connection, item_id: int | None) -> dict[str, Any]:
    c = items.c
    columns = (c.width, c.height, c.taken_at, c.camera, c.latitude, c.longitude)
    return dict(connection.execute(select(*columns).where(c.id == item_id)).mappings().one())


def _borrow(connection: Connection, entry: Entry, item_id: int) -> None:
    """Copy the texts and vectors that the entry does not bring from the item it is like."""
    for table, wanted in (
        (texts, [] if entry.texts is not None else [texts.c.item_id == entry.like]),
        (vectors, [vectors.c.item_id == entry.like, vectors.c.facet.not_in(list(entry.vectors))]),
    ):
        if not wanted:
            continue
        copied = [column for column in table.c if column.name not in {"id", "item_id"}]
        connection.execute(delete(table).where(table.c.item_id == item_id))
        lent = connection.execute(select(*copied).where(*wanted)).mappings().all()
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
            "start_line": part.span.start if part.span else None,
            "end_line": part.span.end if part.span else None,
        }
        for position, part in enumerate(parts)
    ]
    if rows:
        connection.execute(insert(texts), rows)
