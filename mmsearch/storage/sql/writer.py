"""The one writer of items: the records of a scan, and batches of many items.

Both insert rows, given column by column, hundreds by one statement, and use the driver itself:
SQLAlchemy takes longer per statement than the database.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from mmsearch.filters.values import number_in
from mmsearch.storage.packing import pack
from mmsearch.storage.records import (
    MEDIA_COLUMNS,
    DuplicateGone,
    ItemBatch,
    ItemRecord,
    ItemVectors,
    PathKey,
    RowColumns,
    Space,
    VectorField,
    fact_text,
)
from mmsearch.storage.sql.schema import FILE, USER
from mmsearch.storage.sql.types import id_list
from mmsearch.types import Span, TextPart

_PATH_KEY = ("source_id", "folder", "name")
_FILE = ("kind", "size", "mtime_ns", "sidecar_size", "sidecar_mtime_ns", "hash", "ctime_ns")
_MEDIA = ("readings", *MEDIA_COLUMNS)
_TEXTS = ("item_id", "position", "origin", "text", "start", "end", "unit")
_METADATA = ("item_id", "key", "text", "number")
_TAGS = ("item_id", "tag", "score")
_FIELD = ("space_id", "modality")
_VECTORS = ("item_id", "position", "start", "end", "unit", "vector", "hub_text", "hub_image")
_EMBEDDINGS = (*_FIELD, "item_id", "position", "embeddings")
_OF_FIELDS = ("vectors", "token_embeddings")
"""The tables that hold what was encoded, by vector field."""

ItemAtPath = tuple[int, bytes]
"""(id, hash of the content)."""

PATHS = frozenset({"folder", "name"})
"""Columns that hold file names, which need not be UTF-8."""


def put_records(writer: Writer, records: Sequence[ItemRecord]) -> tuple[dict[PathKey, bytes], bool]:
    """Make or change items with their texts and vectors, and forget their failures.

    Returns:
        What `Store.put` returns; and whether vectors were added or deleted.

    Raises:
        DuplicateGone: the item that one is a duplicate of has other content or is gone; the
            transaction must be rolled back.
    """
    new: dict[PathKey, ItemRecord] = {}
    before: dict[PathKey, bytes] = {}
    changed = any(record.changes_vectors for record in records)

    def change(record: ItemRecord, there: ItemAtPath | None) -> None:
        nonlocal changed
        if record.id is None and there is not None:
            before[record.path_key] = there[1]
        changed |= there is not None and there[0] != record.id  # whose place it takes
        writer.change(record, None if there is None else there[0])

    for record in records:
        if record.id is None and record.duplicate_of is None and record.path_key not in new:
            new[record.path_key] = record
        else:
            change(record, writer.item_at(record))
    fresh = []
    for record in new.values():  # after the renames in this batch, which may free or take paths
        if (there := writer.item_at(record)) is None:
            fresh.append(record)
        else:
            change(record, there)
    writer.make(fresh)
    return before, changed


def put_vectors(
    writer: Writer, items: Sequence[tuple[int, Mapping[VectorField, ItemVectors]]]
) -> None:
    """Store vectors of items in place of those in the same fields."""
    for item_id, vectors in items:
        for field in vectors:
            writer.clear_field([item_id], field)
    writer.add_vectors(items)


def put_metadata(writer: Writer, items: Mapping[int, Mapping[str, str]]) -> None:
    """Replace the user's metadata of some items."""
    writer.clear_metadata(items)
    rows = [
        (item_id, key, text, number_in(text))
        for item_id, own in items.items()
        for key, text in own.items()
    ]
    writer.insert_metadata(_columns(_METADATA, rows))


def put_batch(writer: Writer, batch: ItemBatch, space: Space | None) -> tuple[int, int]:
    """Write a batch; returns how many items are new, and how many existed before.

    Args:
        writer: Writes in a transaction.
        batch: The items.
        space: The space of their vectors, if they have any.
    """
    ids, there = writer.put_items(batch)

    def rows(names: Sequence[str], columns: RowColumns) -> dict[str, Any]:
        numbers, *others = columns
        return dict(zip(names, [list(map(ids.__getitem__, numbers)), *others], strict=True))

    if batch.texts is not None:
        writer.replace_texts(rows(_TEXTS, batch.texts), there.values())
    if batch.facts is not None:
        writer.clear_facts(there.values())
        writer.insert_facts(rows(_METADATA, batch.facts))
    if batch.metadata is not None:
        writer.clear_metadata(there.values())
        writer.insert_metadata(rows(_METADATA, batch.metadata))
    if batch.tags is not None:
        writer.clear(["tags"], there.values())
        writer.insert("tags", rows(_TAGS, batch.tags))
    for modality, columns in batch.vectors.items():
        if space is None:
            break
        field = (space.id, modality)
        writer.clear_field({there[number] for number in columns[0] if number in there}, field)
        of_field = dict(zip(_FIELD, field, strict=True))
        writer.insert("vectors", of_field | rows(_VECTORS, columns))
    return len(ids) - len(there), len(there)


class Writer(ABC):
    """Writes rows within a transaction."""

    path = "?"
    """Where a file name is bound."""

    ids = ""
    """The ids that `id_list` makes one parameter of, as a subquery."""

    def __init__(self) -> None:
        at = f"WHERE source_id = ? AND folder = {self.path} AND name = {self.path}"
        self._item_at = f"SELECT id, hash FROM items {at}"  # noqa: S608 - constants
        self._forget_failure = f"DELETE FROM failures {at}"  # noqa: S608

    # ------------------------------------------------------------------ what the database does

    @abstractmethod
    def run(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Run a statement, whose parameters are "?"; returns how many rows it changed."""

    @abstractmethod
    def rows(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement, whose parameters are "?"."""

    @abstractmethod
    def insert(
        self,
        table: str,
        columns: Mapping[str, Any],
        conflict: str = "",
        paths: Container[str] = PATHS,
    ) -> int:
        """Insert rows; returns how many were inserted.

        Args:
            table: The table.
            columns: By name, the values of the rows, or the one value of all rows.
            conflict: What to do with rows that are there already: SQL.
            paths: The columns that hold paths.
        """

    @abstractmethod
    def new_ids(self, number: int) -> range:
        """Ids for new items; no other transaction uses them."""

    @abstractmethod
    def bound(self, name: str) -> Any:
        """A file name as the driver takes it."""

    # ------------------------------------------------------------------ rows of any table

    def insert_missing(
        self, table: str, columns: Mapping[str, Any], paths: Container[str] = PATHS
    ) -> None:
        """Insert rows but those whose key is there already."""
        self.insert(table, columns, " ON CONFLICT DO NOTHING", paths)

    def clear(self, tables: Iterable[str], ids: Iterable[int], more: str = "", *given: Any) -> None:
        """Delete the rows of items from tables, as far as they fulfil another condition."""
        if not (listed := list(ids)):
            return
        for table in tables:
            statement = f"DELETE FROM {table} WHERE item_id IN {self.ids}{more}"  # noqa: S608
            self.run(statement, (id_list(listed), *given))

    def clear_field(self, ids: Iterable[int], field: VectorField) -> None:
        """Delete what was encoded of items in a vector field."""
        self.clear(_OF_FIELDS, ids, " AND space_id = ? AND modality = ?", *field)

    def clear_texts(self, ids: Iterable[int]) -> None:
        """Delete the texts of items, with their vectors in all spaces."""
        listed = list(ids)
        self.clear(["texts"], listed)
        self.clear(_OF_FIELDS, listed, " AND modality = 'text'")

    # ------------------------------------------------------------------ texts and vectors

    def add_texts(self, items: Iterable[tuple[int, Sequence[TextPart]]]) -> None:
        """Insert the texts of items that have none."""
        rows = [
            (item_id, position, part.origin, part.text, *_span(part.span))
            for item_id, parts in items
            for position, part in enumerate(parts)
        ]
        self.insert("texts", _columns(_TEXTS, rows))

    def replace_texts(self, rows: Mapping[str, Any], there: Iterable[int]) -> None:
        """Insert texts, in place of those of items that were there, if these have others.

        Texts that are as they were keep their vectors.
        """
        ids = set(there)
        if ids:
            same, changed = self._compared_texts(rows, ids)
            self.clear_texts(changed)
            kept = (row for row in _rows(rows) if row[0] not in same)
            rows = _columns(_TEXTS, list(kept))
        self.insert("texts", rows)

    def _compared_texts(self, rows: Mapping[str, Any], ids: set[int]) -> tuple[set[int], list[int]]:
        """Of some items: those that have these texts, and those that have others."""
        given: dict[int, list[tuple[Any, ...]]] = {id_: [] for id_ in ids}
        for row in _rows(rows):
            if row[0] in given:
                given[row[0]].append(row)
        stored: dict[int, list[tuple[Any, ...]]] = {id_: [] for id_ in ids}
        names = ", ".join(f'"{name}"' for name in _TEXTS)
        chosen = f"SELECT {names} FROM texts WHERE item_id IN {self.ids}"  # noqa: S608
        for row in self.rows(f"{chosen} ORDER BY item_id, position", (id_list(ids),)):
            stored[row[0]].append(row)
        same = {id_ for id_ in ids if given[id_] == stored[id_]}
        return same, [id_ for id_ in ids - same if stored[id_]]

    def add_vectors(self, items: Sequence[tuple[int, Mapping[VectorField, ItemVectors]]]) -> None:
        """Insert vectors with their token embeddings; note where an item has none."""
        found = [(id_, *pair) for id_, vectors in items for pair in vectors.items()]
        rows = list(chain.from_iterable(_vector_rows(*one) for one in found))
        self.insert("vectors", _columns((*_FIELD, *_VECTORS), rows))
        embeddings = [
            (*field, id_, position, pack(one))
            for id_, field, vectors in found
            for position, one in enumerate(vectors.token_embeddings)
        ]
        self.insert("token_embeddings", _columns(_EMBEDDINGS, embeddings))
        absent = [  # that it has no text need not be noted
            (*field, id_)
            for id_, field, vectors in found
            if not len(vectors.matrix) and field[1] != "text"
        ]
        columns = _columns((*_FIELD, "item_id"), absent)
        self.insert("absent_modalities", columns, " ON CONFLICT DO NOTHING")

    # ------------------------------------------------------------------ metadata

    def insert_metadata(self, rows: Mapping[str, Any]) -> None:
        """Insert the user's metadata; they override the files' under the same keys."""
        self.insert("metadata", {**rows, "origin": USER}, _SHADOW)

    def clear_metadata(self, ids: Iterable[int]) -> None:
        """Delete the user's metadata of items; the files' under the same keys take effect."""
        listed = list(ids)
        shadowed = self._shadowed(listed)
        self.clear(["metadata"], listed, " AND origin = ?", USER)
        self.insert_facts(_fact_rows(shadowed))

    def insert_facts(self, rows: Mapping[str, Any]) -> None:
        """Insert the files' own metadata, shadowed where the user has the same keys."""
        self.insert("metadata", {**rows, "origin": FILE}, _BE_SHADOWED)

    def clear_facts(self, ids: Iterable[int]) -> None:
        """Delete the files' own metadata of items."""
        if listed := list(ids):
            self.clear(["metadata"], listed, " AND origin = ?", FILE)
            self.run(_FORGET_SHADOWED.format(self.ids), (id_list(listed),))

    def _shadowed(self, ids: Sequence[int]) -> list[tuple[int, str, str]]:
        """Item, key and text of the files' metadata that the user overrides."""
        if not ids:
            return []
        return self.rows(_SHADOWED.format(self.ids), (id_list(ids),))

    def copy_facts(self, from_id: int, to_id: int) -> None:
        """Copy the file's own metadata of an item to another one of the same content."""
        own = self.rows(_FACTS, (from_id,))
        found = [*own, *self._shadowed([from_id])]
        self.clear_facts([to_id])
        self.insert_facts(_fact_rows((to_id, key, text) for _, key, text in found))

    # ------------------------------------------------------------------ records

    def item_at(self, record: ItemRecord) -> ItemAtPath | None:
        """The item at a record's path; None if there is none."""
        found = self.rows(self._item_at, self._path(record))
        return (int(found[0][0]), bytes(found[0][1])) if found else None

    def make(self, records: Sequence[ItemRecord]) -> None:
        """Insert items that have nothing to be cleared away."""
        if not records:
            return
        made = list(zip(self.new_ids(len(records)), records, strict=True))
        rows = [(id_, *record.path_key, *_file(record), *_media(record)) for id_, record in made]
        self.insert("items", _columns(("id", *_PATH_KEY, *_FILE, *_MEDIA), rows))
        self._forget_failures(records)
        self.add_texts((id_, record.texts or ()) for id_, record in made)
        self.insert_facts(_facts_of(made))
        self.add_vectors([(id_, record.vectors) for id_, record in made])

    def change(self, record: ItemRecord, there: int | None) -> None:
        """Store a record whose item may exist already, or which is a duplicate.

        Args:
            record: The record.
            there: The id of the item at its path; None if there is none.
        """
        columns = dict(zip(_FILE, _file(record), strict=True))
        if record.duplicate_of is not None:
            columns |= self._media_of(record.duplicate_of, record.hash)
        columns |= record.media or {}
        if record.id is not None and there not in (None, record.id):
            self.run("DELETE FROM items WHERE id = ?", (there,))
        item_id = self._put_item(record, record.id or there, columns)
        self._forget_failures([record])
        if record.duplicate_of is None:
            self.clear((*_OF_FIELDS, "absent_modalities"), [item_id])
        elif record.duplicate_of != item_id:
            self._reuse(record, item_id)
            if record.facts is None:
                self.copy_facts(record.duplicate_of, item_id)
        if record.facts is not None:
            self.clear_facts([item_id])
            self.insert_facts(_facts_of([(item_id, record)]))
        if record.texts is not None:
            self.clear_texts([item_id])
            self.add_texts([(item_id, record.texts)])
        for field in record.vectors:
            self.clear_field([item_id], field)
        self.add_vectors([(item_id, record.vectors)])

    def _media_of(self, item_id: int, hash_: bytes) -> dict[str, Any]:
        """What is known of the media of a stored item of a content."""
        chosen = f"SELECT hash, {', '.join(_MEDIA)} FROM items WHERE id = ?"  # noqa: S608
        found = self.rows(chosen, (item_id,))
        if not found or found[0][0] != hash_:
            raise DuplicateGone(item_id)
        return dict(zip(_MEDIA, found[0][1:], strict=True))

    def _put_item(self, record: ItemRecord, item_id: int | None, columns: Mapping[str, Any]) -> int:
        """Change an item, or make one if there is none (any more); returns its id."""
        path: dict[str, Any] = dict(zip(_PATH_KEY, record.path_key, strict=True))
        if item_id is not None:
            values = dict.fromkeys(columns, "?") | {
                name: self.path if name in PATHS else "?" for name in path
            }
            changed = ", ".join(f"{name} = {mark}" for name, mark in values.items())
            statement = f"UPDATE items SET {changed} WHERE id = ?"  # noqa: S608
            given = (*columns.values(), *self._path(record), item_id)
            if self.run(statement, given):
                return item_id
        (item_id,) = self.new_ids(1)
        row = {"id": item_id, **path, **columns}
        self.insert("items", {name: [value] for name, value in row.items()})
        return item_id

    def _reuse(self, record: ItemRecord, item_id: int) -> None:
        """Copy the vectors of the item that a record is a duplicate of, and its texts."""
        copied = {**_COPIED, **({} if record.texts is not None else {"texts": _TEXTS[1:]})}
        self.clear(copied, [item_id])
        for table, columns in copied.items():
            names = ", ".join(f'"{name}"' for name in columns)
            self.run(
                f"INSERT INTO {table} (item_id, {names}) "  # noqa: S608
                f"SELECT ?, {names} FROM {table} WHERE item_id = ?",
                (item_id, record.duplicate_of),
            )

    def _path(self, record: ItemRecord, name: str | None = None) -> tuple[Any, ...]:
        """The parameters of a place: a record's file, or another one in its folder."""
        return record.source_id, self.bound(record.folder), self.bound(name or record.name)

    def _forget_failures(self, records: Iterable[ItemRecord]) -> None:
        for record in records:
            for name in (record.name, record.sidecar_name, *record.companions):
                if name is not None:
                    self.run(self._forget_failure, self._path(record, name))

    # ------------------------------------------------------------------ batches

    def put_items(self, batch: ItemBatch) -> tuple[Sequence[int], dict[int, int]]:
        """Insert or change a batch's items.

        Returns:
            The id of each, and by number those that were there before.
        """
        new = self.new_ids(len(batch.names))
        defaults = {"size": 0, "mtime_ns": 0, "kind": batch.kind}
        columns: dict[str, Any] = {
            "id": list(new),
            "source_id": batch.sources,
            "folder": batch.folders,
            "name": batch.names,
            **defaults,
            "hash": b"",
        }
        for name, values in batch.columns.items():
            default = defaults.get(name)
            columns[name] = [default if value is None else value for value in values]
        conflict = " ON CONFLICT (source_id, folder, name) DO NOTHING"
        if self.insert("items", columns, conflict) == len(new):
            return new, {}
        made = {row[0] for row in self.rows("SELECT id FROM items WHERE id >= ?", (new[0],))}
        there: dict[int, int] = {}
        for number, id_ in enumerate(new):
            if id_ not in made:
                path = map(self.bound, (batch.folders[number], batch.names[number]))
                found = self.rows(self._item_at, (batch.sources[number], *path))
                there[number] = found[0][0]
        self._change_columns(batch, there)
        return [there.get(number, id_) for number, id_ in enumerate(new)], there

    def _change_columns(self, batch: ItemBatch, there: Mapping[int, int]) -> None:
        """Give items that were there what is known of them now."""
        for name, values in batch.columns.items():
            differs = f"({name} IS NULL OR {name} <> ?)"
            statement = f"UPDATE items SET {name} = ? WHERE id = ? AND {differs}"  # noqa: S608
            for number, id_ in there.items():
                if (value := values[number]) is not None:
                    self.run(statement, (value, id_, value))


_SHADOW = f"""
    ON CONFLICT (item_id, key) DO UPDATE SET text = excluded.text, number = excluded.number,
    shadowed = CASE metadata.origin WHEN '{FILE}' THEN metadata.text ELSE metadata.shadowed END,
    origin = '{USER}'
"""

_BE_SHADOWED = " ON CONFLICT (item_id, key) DO UPDATE SET shadowed = excluded.text"

_SHADOWED = (
    "SELECT item_id, key, shadowed FROM metadata WHERE item_id IN {} AND shadowed IS NOT NULL"
)

_FORGET_SHADOWED = (
    "UPDATE metadata SET shadowed = NULL WHERE item_id IN {} AND shadowed IS NOT NULL"
)

_FACTS = f"SELECT item_id, key, text FROM metadata WHERE item_id = ? AND origin = '{FILE}'"  # noqa: S608

_COPIED: dict[str, Sequence[str]] = {
    "vectors": (*_FIELD, *_VECTORS[1:]),
    "token_embeddings": (*_FIELD, *_EMBEDDINGS[3:]),
    "absent_modalities": _FIELD,
}
"""The columns that a duplicate takes over, by table."""


def _file(record: ItemRecord) -> tuple[Any, ...]:
    return (
        record.kind,
        *record.stat,
        *(record.sidecar or (None, None)),
        record.hash,
        record.ctime_ns,
    )


def _media(record: ItemRecord) -> Iterator[Any]:
    known = {"readings": "", **(record.media or {})}
    return map(known.get, _MEDIA)


def _facts_of(items: Iterable[tuple[int, ItemRecord]]) -> dict[str, list[Any]]:
    """Rows of metadata, of the files' own in some records."""
    found = [(id_, *pair) for id_, record in items for pair in (record.facts or {}).items()]
    return _fact_rows((id_, key, fact_text(value)) for id_, key, value in found)


def _fact_rows(facts: Iterable[tuple[int, str, str]]) -> dict[str, list[Any]]:
    """Rows of metadata, from item, key and text each."""
    rows = [(id_, key, text, number_in(text)) for id_, key, text in facts]
    return _columns(_METADATA, rows)


def _span(span: Span | None) -> tuple[Any, ...]:
    return (None, None, None) if span is None else (span.start, span.end, span.unit)


def _vector_rows(
    item_id: int, field: VectorField, vectors: ItemVectors
) -> Iterator[tuple[Any, ...]]:
    nothing = [None] * len(vectors.matrix)
    spans = vectors.spans or nothing
    hubs = [
        vectors.hubs[one].tolist() if one in vectors.hubs else nothing for one in ("text", "image")
    ]
    matrix = vectors.matrix.astype("<f2", copy=False)
    for position, (vector, span, *of) in enumerate(zip(matrix, spans, *hubs, strict=True)):
        yield *field, item_id, position, *_span(span), vector.tobytes(), *of


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """Rows column by column."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in names)
    return dict(zip(names, map(list, columns), strict=True))


def _rows(columns: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Columns row by row."""
    count = next(len(values) for values in columns.values() if isinstance(values, list))
    whole = (
        values if isinstance(values, list) else [values] * count for values in columns.values()
    )
    return zip(*whole, strict=True)
