"""Items made and changed, failures kept: what a transaction of indexing does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from mmsearch.storage.records import (
    MEDIA_COLUMNS,
    DuplicateGone,
    ItemRecord,
    ItemVectors,
    VectorField,
)
from mmsearch.storage.sqlite.records import driver_rows as driver
from mmsearch.storage.sqlite.schema import (
    absent_modalities,
    items,
    texts,
    token_embeddings,
    vectors,
)
from mmsearch.types import TextPart


def put_entries(connection: Connection, entries: Sequence[ItemRecord]) -> None:
    """Make or change items with their texts and vectors, and forget their failures.

    Raises:
        DuplicateGone: the item that one is a duplicate of has other content or is gone; the
            transaction must be rolled back.
    """
    new: dict[tuple[int, str, str], ItemRecord] = {}
    for entry in entries:
        if entry.id is None and entry.duplicate_of is None and entry.path_key not in new:
            new[entry.path_key] = entry
        else:
            _change(connection, entry)
    fresh = []
    for entry in new.values():  # now that those have moved which this batch moves
        if _item_at(connection, entry) is None:
            fresh.append(entry)
        else:
            _change(connection, entry)
    _make(connection, fresh)


def put_rows(connection: Connection, item_id: int, place: VectorField, rows: ItemVectors) -> None:
    """File an item's vectors in the place of those it had there."""
    filed = {"space_id_": place[0], "modality_": place[1], "item_id_": item_id}
    for clear in (_CLEAR_VECTORS, _CLEAR_TOKENS):
        connection.execute(clear, filed)
    _add_rows(connection, [(item_id, place, rows)])


def _add_rows(
    connection: Connection, found: Sequence[tuple[int, VectorField, ItemVectors]]
) -> None:
    many = driver.execute_many
    vectors_of = [row for one in found for row in driver.vector_rows(*one)]
    many(connection, driver.ADD_VECTOR, vectors_of)
    empty = [(*place, item_id) for item_id, place, some in found if driver.is_blank(place, some)]
    many(connection, driver.ADD_BLANK, empty)
    tokens = [
        row
        for item_id, place, some in found
        for row in driver.token_rows(item_id, place, some.token_embeddings)
    ]
    many(connection, driver.ADD_TOKENS, tokens)


# ---------------------------------------------------------------------- new items


def _item_at(connection: Connection, entry: ItemRecord) -> int | None:
    place = driver.place_of(entry, entry.name)
    found: int | None = connection.exec_driver_sql(driver.ITEM_AT, place).scalar_one_or_none()
    return found


def _make(connection: Connection, entries: Sequence[ItemRecord]) -> None:
    """Items that have nothing to be cleared away, table by table."""
    if not entries:
        return
    # the transaction holds the write lock, so nobody else takes the ids that come next
    newest = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'items'")
    first = 1 + int(newest.scalar_one_or_none() or 0)
    made = list(enumerate(entries, first))
    many = driver.execute_many
    many(connection, driver.ADD_ITEM, [driver.item_row(*one) for one in made])
    _forget_failures(connection, entries)
    said = [row for item_id, entry in made for row in driver.text_rows(item_id, entry.texts or ())]
    many(connection, driver.ADD_TEXT, said)
    found = [
        (item_id, place, some) for item_id, entry in made for place, some in entry.vectors.items()
    ]
    _add_rows(connection, found)


def _forget_failures(connection: Connection, entries: Sequence[ItemRecord]) -> None:
    places = [
        driver.place_of(entry, name)
        for entry in entries
        for name in (entry.name, entry.sidecar_name)
        if name is not None
    ]
    driver.execute_many(connection, driver.FORGET_FAILURE, places)


# ---------------------------------------------------------------------- changed items


def _change(connection: Connection, entry: ItemRecord) -> None:
    """One item that may be there already, or borrows."""
    row: dict[str, Any] = {
        "source_id": entry.source_id,
        "folder": entry.folder,
        "name": entry.name,
        "kind": entry.kind,
        "size": entry.stat[0],
        "mtime_ns": entry.stat[1],
        "hash": entry.hash,
        "sidecar_size": entry.sidecar[0] if entry.sidecar else None,
        "sidecar_mtime_ns": entry.sidecar[1] if entry.sidecar else None,
    }
    if entry.duplicate_of is not None:
        lender = connection.execute(_LENDER, {"id_": entry.duplicate_of}).mappings().one_or_none()
        if lender is None or lender["hash"] != entry.hash:
            raise DuplicateGone(entry.duplicate_of)
        row = {**lender, **row}
    row |= entry.media or {}
    there = _item_at(connection, entry)
    if entry.id is not None and there not in (None, entry.id):
        connection.execute(delete(items).where(items.c.id == there))
    item_id = _put_row(connection, entry.id or there, row)
    _forget_failures(connection, [entry])
    if entry.duplicate_of is None:
        for clear in (_CLEAR_ALL_VECTORS, _CLEAR_ALL_TOKENS, _CLEAR_BLANKS):
            connection.execute(clear, {"item_id_": item_id})
    elif entry.duplicate_of != item_id:
        _borrow(connection, entry, item_id)
    if entry.texts is not None:
        _put_texts(connection, item_id, entry.texts)
        for clear in (_CLEAR_TEXT_VECTORS, _CLEAR_TEXT_TOKENS):  # of all spaces
            connection.execute(clear, {"item_id_": item_id})
    for place, rows in entry.vectors.items():
        put_rows(connection, item_id, place, rows)


def _put_row(connection: Connection, item_id: int | None, row: dict[str, Any]) -> int:
    """Change the item, or make one if there is none (any more)."""
    if item_id is not None:
        changed = connection.execute(update(items).where(items.c.id == item_id).values(row))
        if changed.rowcount:
            return item_id
    return int(connection.execute(_MAKE_ITEM, row).scalar_one())


def _borrow(connection: Connection, entry: ItemRecord, item_id: int) -> None:
    """Copy the texts and vectors that the entry does not bring from the item it is like."""
    lent_tables = (vectors, token_embeddings, absent_modalities)
    for table in lent_tables if entry.texts is not None else (*lent_tables, texts):
        copied = [column for column in table.c if column.name not in {"id", "item_id"}]
        connection.execute(delete(table).where(table.c.item_id == item_id))
        wanted = select(*copied).where(table.c.item_id == entry.duplicate_of)
        lent = connection.execute(wanted).mappings().all()
        if lent:
            connection.execute(insert(table), [{**row, "item_id": item_id} for row in lent])


def _put_texts(connection: Connection, item_id: int, parts: Sequence[TextPart]) -> None:
    connection.execute(_CLEAR_TEXTS, {"item_id_": item_id})
    driver.execute_many(connection, driver.ADD_TEXT, list(driver.text_rows(item_id, parts)))


# Statements are made once: composing them anew for each of a million files takes longer than
# SQLite needs to carry them out.
_LENDER = select(items.c.hash, *(items.c[name] for name in (*MEDIA_COLUMNS, "readings"))).where(
    items.c.id == bindparam("id_")
)
_MAKE_ITEM = insert(items).returning(items.c.id)
_CLEAR_TEXTS = delete(texts).where(texts.c.item_id == bindparam("item_id_"))
_CLEAR_ALL_VECTORS = delete(vectors).where(vectors.c.item_id == bindparam("item_id_"))
_CLEAR_BLANKS = delete(absent_modalities).where(
    absent_modalities.c.item_id == bindparam("item_id_")
)
_CLEAR_TEXT_VECTORS = _CLEAR_ALL_VECTORS.where(vectors.c.modality == "text")
_CLEAR_VECTORS, _CLEAR_TOKENS = (
    delete(table).where(
        *(table.c[name] == bindparam(f"{name}_") for name in ("space_id", "modality", "item_id"))
    )
    for table in (vectors, token_embeddings)
)
_CLEAR_ALL_TOKENS = delete(token_embeddings).where(
    token_embeddings.c.item_id == bindparam("item_id_")
)
_CLEAR_TEXT_TOKENS = _CLEAR_ALL_TOKENS.where(token_embeddings.c.modality == "text")
