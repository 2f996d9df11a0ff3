"""The one writer of items: records of a scan, batches of an import, and vectors that were missing.

A write is planned in memory from the rows that it touches, then executed in the order that
`mmsearch.storage.milvus.database` describes; `mmsearch.storage.milvus.recovery` has the last step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import DUMMY, Write
from mmsearch.storage.milvus.layout import (
    COPIES,
    TOKENS,
    VECTORS,
    Layout,
    flag,
    flags,
    joined,
    place_key,
    stored_text,
    tokens_name,
    vectors_name,
)
from mmsearch.storage.milvus.recovery import finish
from mmsearch.storage.milvus.row_updates import note_folders, put_failures
from mmsearch.storage.milvus.rows import (
    ITEM_FIELDS,
    NEW_ITEM,
    Text,
    part_rows,
    read_texts,
    read_tokens,
    sent_vector,
    set_tags,
    text_pieces,
    token_rows,
    vector_of,
)
from mmsearch.storage.records import (
    MEDIA_COLUMNS,
    DuplicateGone,
    FailureRecord,
    ItemBatch,
    ItemRecord,
    ItemVectors,
    PathKey,
    RowColumns,
    Space,
    VectorField,
    fact_text,
)
from mmsearch.storage.stored_text import text_of
from mmsearch.types import Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MEDIA = ("readings", *MEDIA_COLUMNS)

_WORDS = ("source_id", "folder", "name", "camera", "texts", "facts", "own", "tags")
"""Fields of an item that are searched as words."""


@dataclass(frozen=True, slots=True)
class NewVector:
    """A vector that is to be stored."""

    position: int
    span: tuple[Any, Any, Any]
    vector: NDArray[np.float16]
    hub_text: float | None = None
    hub_image: float | None = None
    tokens: bytes | None = None
    """Packed token embeddings."""


def put_records(
    write: Write, records: Sequence[ItemRecord], failures: Sequence[FailureRecord] = ()
) -> dict[PathKey, bytes]:
    """Make or change items with their texts and vectors, and forget their failures.

    Returns:
        As `Store.put`.

    Raises:
        DuplicateGone: the item that one is a duplicate of has other content or is gone; nothing
            has been written.
    """
    plan = Plan(write)
    ids = {id_ for one in records for id_ in (one.id, one.duplicate_of) if id_ is not None}
    plan.load(ids, (place_key(*one.path_key) for one in records))
    plan.load_vectors({r.duplicate_of for r in records if r.duplicate_of not in (None, r.id)})
    new: dict[PathKey, ItemRecord] = {}
    before: dict[PathKey, bytes] = {}
    for record in records:
        if record.id is None and (there := plan.at(*record.path_key)) is not None:
            before[record.path_key] = bytes.fromhex(plan.rows[there]["hash"])
    for record in records:
        if record.id is None and record.duplicate_of is None and record.path_key not in new:
            new[record.path_key] = record
        else:
            plan.put_record(record)
    for record in new.values():  # after the renames in this batch, which may free or take paths
        plan.put_record(record)
    plan.failures = list(failures)
    plan.execute()
    return before


def put_vectors(
    write: Write, items: Sequence[tuple[int, Mapping[VectorField, ItemVectors]]]
) -> None:
    """Store vectors of items in place of those in the same fields."""
    plan = Plan(write)
    plan.load({id_ for id_, _ in items}, ())
    for id_, vectors in items:
        for place, one in vectors.items():
            plan.set_vectors(id_, place, list(_new_vectors(one)))
    plan.execute()


def put_batch(write: Write, batch: ItemBatch, space: Space | None) -> tuple[int, int]:
    """Write a batch; returns how many items are new, and how many existed before.

    Args:
        write: The write that it is part of.
        batch: Items of one kind, with what is stored of each.
        space: The space of its vectors; None if it has none.
    """
    plan = Plan(write)
    places = list(zip(batch.sources, batch.folders, batch.names, strict=True))
    plan.load((), (place_key(*place) for place in places))
    ids, new = [], 0
    for number, place in enumerate(places):
        id_ = plan.at(*place)
        if id_ is None:
            id_, new = plan.make(*place, batch.kind), new + 1
        ids.append(id_)
        row = plan.rows[id_]
        for name, column in batch.columns.items():
            if (value := column[number]) is not None:
                row[name] = _scalar(value)
    if batch.texts is not None:
        _plan_texts(plan, ids, batch.texts)
    for field, columns in (("own", batch.metadata), ("facts", batch.facts)):
        if columns is not None:
            _plan_metadata(plan, ids, field, columns)
    if batch.tags is not None:
        _plan_tags(plan, ids, batch.tags)
    if space is not None:
        for modality, columns in batch.vectors.items():
            _plan_vectors(plan, ids, (space.id, modality), columns)
    plan.touched.update(ids)
    plan.execute()
    return new, len(ids) - new


def _plan_texts(plan: Plan, ids: list[int], columns: RowColumns) -> None:
    """Replace the texts of items, if they have others: those that stay keep their vectors."""
    texts: dict[int, list[Text]] = {id_: [] for id_ in ids}
    for number, _, origin, text, start, end, unit in batch_rows(columns):
        texts[ids[number]].append([origin, text, start, end, unit])
    former = plan.texts_of(ids)
    for id_, parts in texts.items():
        if former[id_] != parts:
            if former[id_]:
                plan.clear(id_, "text")
            plan.set_texts(id_, parts)


def _plan_metadata(plan: Plan, ids: list[int], field: str, columns: RowColumns) -> None:
    for id_ in ids:
        plan.rows[id_][field] = {}
    for number, key, text, *_ in batch_rows(columns):
        plan.rows[ids[number]][field][stored_text(key)] = stored_text(text)


def _plan_tags(plan: Plan, ids: list[int], columns: RowColumns) -> None:
    scores: dict[int, dict[str, float]] = {id_: {} for id_ in ids}
    for number, tag, score in batch_rows(columns):
        scores[ids[number]][tag] = score
    for id_, own in scores.items():
        set_tags(plan.rows[id_], own)


def _plan_vectors(plan: Plan, ids: list[int], place: VectorField, columns: RowColumns) -> None:
    import numpy as np

    found: dict[int, list[NewVector]] = {}
    for number, position, start, end, unit, blob, *hubs in batch_rows(columns):
        vector = np.frombuffer(blob, "<f2")
        one = NewVector(position, (start, end, unit), vector, *hubs)
        found.setdefault(ids[number], []).append(one)
    for id_, vectors in found.items():
        plan.set_vectors(id_, place, vectors)


# ---------------------------------------------------------------------- planning


class Plan:
    """What a write is to store, planned in memory.

    Args:
        write: The write.
    """

    def __init__(self, write: Write) -> None:
        self.write = write
        self.database = write.database
        self.client = write.client
        self.rows: dict[int, Row] = {}
        self.touched: set[int] = set()
        self.failures: list[FailureRecord] = []
        self._before: dict[int, Row] = {}
        self._at: dict[str, int] = {}
        self._displaced: dict[int, int] = {}  # whose place another one takes: the id of that one
        self._vectors: dict[int, dict[VectorField, list[NewVector]]] = {}
        self._clear: dict[VectorField, set[int]] = {}
        self._stored: dict[int, dict[VectorField, list[NewVector]]] = {}
        self._texts: dict[int, list[Text]] = {}  # in full, of those that were read or set
        self._new_texts: set[int] = set()
        self._failed: set[str] = set()
        self._generations: dict[str, int] = self.database.json("token generations", {})

    # ------------------------------------------------------------------ what is there

    def load(self, ids: Iterable[int], places: Iterable[str]) -> None:
        """Read the rows of items by id and by place."""
        items = self.database.collection("items")
        found = self.client.among(items, "id", sorted(ids), ITEM_FIELDS, at_once=1000)
        found += self.client.among(items, "place", sorted(set(places)), ITEM_FIELDS, at_once=1000)
        for row in found:
            self.rows[row["id"]] = {**row, "dummy": DUMMY}
            self._before[row["id"]] = row
            self._at[row["place"]] = row["id"]

    def load_vectors(self, ids: Iterable[int | None]) -> None:
        """Read the vectors of items that others are duplicates of."""
        wanted = sorted(id_ for id_ in ids if id_ in self.rows)
        if not wanted:
            return
        self._stored = {id_: {} for id_ in wanted}
        for place, name in self.database.vector_fields().items():
            having = [id_ for id_ in wanted if flag(place) in flags(self.rows[id_]["fields"])]
            tokens = read_tokens(self.database, place, having)
            best: dict[tuple[int, int], Row] = {}
            for row in self.client.among(name, "item_id", having, list(VECTORS)):
                key = row["item_id"], row["position"]
                if key not in best or best[key]["id"] < row["id"]:
                    best[key] = row
            for (id_, position), row in sorted(best.items()):
                one = NewVector(
                    position,
                    (row["start"], row["end"], row["unit"]),
                    vector_of(row["vector"]),
                    row["hub_text"],
                    row["hub_image"],
                    tokens.get((id_, position)),
                )
                self._stored[id_].setdefault(place, []).append(one)

    def at(self, source_id: int, folder: str, name: str) -> int | None:
        """The item at a path."""
        return self._at.get(place_key(source_id, folder, name))

    def texts_of(self, ids: Iterable[int]) -> dict[int, list[Text]]:
        """The texts of items."""
        wanted = list(ids)
        unread = [self.rows[id_] for id_ in wanted if id_ not in self._texts]
        self._texts |= read_texts(self.database, unread)
        return {id_: self._texts[id_] for id_ in wanted}

    # ------------------------------------------------------------------ changes

    def make(self, source_id: int, folder: str, name: str, kind: str) -> int:
        """A new item."""
        id_ = self.write.next("items")
        self.rows[id_] = {**NEW_ITEM, "id": id_, "kind": kind, "own": {}, "facts": {}}
        self._texts[id_] = []
        self.move(id_, source_id, folder, name)
        return id_

    def move(self, id_: int, source_id: int, folder: str, name: str) -> None:
        """Store an item under a path."""
        row = self.rows[id_]
        if self._at.get(row["place"]) == id_:
            del self._at[row["place"]]
        row |= {
            "source_id": source_id,
            "folder": stored_text(folder),
            "name": stored_text(name),
            "place": place_key(source_id, folder, name),
            "folder_key": place_key(source_id, folder),
        }
        self._at[row["place"]] = id_
        self.touched.add(id_)

    def displace(self, id_: int, by: int) -> None:
        """Delete an item whose path another one gets."""
        row = self.rows.pop(id_)
        if self._at.get(row["place"]) == id_:
            del self._at[row["place"]]
        self._displaced[id_] = by
        self.touched.discard(id_)
        self._vectors.pop(id_, None)

    def set_texts(self, id_: int, texts: list[Text]) -> None:
        """Store the texts of an item in place of those it has."""
        self._texts[id_] = texts
        self._new_texts.add(id_)
        self.touched.add(id_)

    def set_vectors(self, id_: int, place: VectorField, vectors: list[NewVector]) -> None:
        """Store the vectors of an item in a field in place of those it has; none is noted."""
        self._drop(id_, place)
        row = self.rows[id_]
        found = flags(row["fields"]) - {flag(place, "-")}
        if vectors:
            self._vectors.setdefault(id_, {})[place] = vectors
            found.add(flag(place))
            if any(one.tokens is not None for one in vectors):
                found.add(flag(place, f"+{self._generation(place)}"))
        elif place[1] != "text":
            found.add(flag(place, "-"))
        row["fields"] = joined(found)
        self.touched.add(id_)

    def clear(self, id_: int, modality: str | None = None) -> None:
        """Delete the vectors of an item, of a modality or of all."""
        for place in list(_fields(self.rows[id_])):
            if modality in (None, place[1]):
                self._drop(id_, place)

    def _drop(self, id_: int, place: VectorField) -> None:
        row = self.rows[id_]
        found = flags(row["fields"])
        mine = {one for one in found if field_of(one) == place}
        row["fields"] = joined(found - mine)
        self._vectors.get(id_, {}).pop(place, None)
        before = self._before.get(id_)
        if before is not None and flag(place) in flags(before["fields"]):
            self._clear.setdefault(place, set()).add(id_)
        self.touched.add(id_)

    def _generation(self, place: VectorField) -> int:
        return int(self._generations.get(str(place[0]), 0))

    def put_record(self, record: ItemRecord) -> None:
        """Store a record whose item may be there already, or which is a duplicate.

        Raises:
            DuplicateGone: the item that it is a duplicate of has other content or is gone.
        """
        original: Row | None = None
        if record.duplicate_of is not None:
            original = self.rows.get(record.duplicate_of)
            if original is None or original["hash"] != record.hash.hex():
                raise DuplicateGone(record.duplicate_of)
            original = dict(original)
        there = self.at(*record.path_key)
        if record.id is not None and there not in (None, record.id):
            self.displace(there, record.id)
        id_ = record.id if record.id is not None else there
        if id_ is None or id_ not in self.rows:
            id_ = self.make(*record.path_key, record.kind)
        else:
            self.move(id_, *record.path_key)
        row = self.rows[id_]
        row |= {
            "kind": record.kind,
            "size": record.stat[0],
            "mtime_ns": record.stat[1],
            "sidecar_size": record.sidecar and record.sidecar[0],
            "sidecar_mtime_ns": record.sidecar and record.sidecar[1],
            "hash": record.hash.hex(),
            "ctime_ns": record.ctime_ns,
        }
        is_other = record.duplicate_of is not None and record.duplicate_of != id_
        if original is not None and is_other:
            row |= {name: original[name] for name in _MEDIA}
            row["facts"] = dict(original["facts"])
        for name, value in (record.media or {}).items():
            row[name] = _scalar(value) if name != "readings" else value or ""
        if record.facts is not None:
            row["facts"] = {
                stored_text(key): stored_text(fact_text(value))
                for key, value in record.facts.items()
            }
        if record.texts is not None:
            self.set_texts(id_, [[p.origin, p.text, *_span(p.span)] for p in record.texts])
        elif is_other and record.duplicate_of is not None:
            self.set_texts(id_, self.texts_of([record.duplicate_of])[record.duplicate_of])
        self._put_encoded(record, id_, original if is_other else None)
        names = (record.name, record.sidecar_name or record.name, *record.companions)
        self._failed |= {place_key(record.source_id, record.folder, one) for one in names}
        self.touched.add(id_)

    def _put_encoded(self, record: ItemRecord, id_: int, original: Row | None) -> None:
        """Store the vectors of a record, and reuse those of the item it is a duplicate of."""
        if record.duplicate_of != id_:
            self.clear(id_)
        if original is not None and record.duplicate_of is not None:
            planned = self._vectors.get(record.duplicate_of, {})
            stored = self._stored.get(record.duplicate_of, {})
            for place in _fields(original):
                if flag(place, "-") in flags(original["fields"]):
                    self.set_vectors(id_, place, [])
                else:
                    reused = planned.get(place) or stored.get(place, [])
                    if reused:
                        self.set_vectors(id_, place, list(reused))
        if record.texts is not None:
            self.clear(id_, "text")
        for place, vectors in record.vectors.items():
            self.set_vectors(id_, place, list(_new_vectors(vectors)))

    # ------------------------------------------------------------------ execution

    def execute(self) -> None:
        """Write what was planned."""
        database, write = self.database, self.write
        ids = sorted(self.touched)
        before = write.last("vectors")
        vectors, tokens = self._vector_rows()
        texts = self._text_rows()
        for id_ in ids:
            self._complete(self.rows[id_])
        old = self._before
        intent = {
            "items": ids,
            "displaced": sorted(self._displaced.items()),
            "vectors": before,
            "fields": [f"{space} {modality}" for space, modality in vectors],
            "clear": {f"{p[0]} {p[1]}": sorted(found) for p, found in self._clear.items()},
            "mirror": [i for i in ids if i in old and _copies(old[i]) != _copies(self.rows[i])],
            "stale_parts": [
                i for i in ids if i in self._new_texts and i in old and old[i]["parts"]
            ],
            "left": sorted(
                {
                    (old[i]["source_id"], text_of(old[i]["folder"]))
                    for i in ids
                    if i in old and old[i]["folder_key"] != self.rows[i]["folder_key"]
                }
            ),
        }
        if ids:
            write.intend(intent)
        note_folders(database, {self._folder(self.rows[id_]) for id_ in ids})
        if texts:
            self.client.upsert(database.made("parts"), texts)
        for place, rows in vectors.items():
            layout = Layout(VECTORS, len(rows[0]["vector"]))
            self.client.upsert(database.made(vectors_name(place), layout), rows)
        for place, rows in tokens.items():
            name = database.made(tokens_name(place, self._generation(place)), Layout(TOKENS))
            self.client.upsert(name, rows)
        self.client.delete_among(database.collection("failures"), "id", sorted(self._failed))
        self.client.upsert(database.collection("items"), [self.rows[id_] for id_ in ids])
        finish(write, intent, set(ids))
        put_failures(database, self.failures)

    @staticmethod
    def _folder(row: Row) -> tuple[int, str]:
        return row["source_id"], text_of(row["folder"])

    def _vector_rows(self) -> tuple[dict[VectorField, list[Row]], dict[VectorField, list[Row]]]:
        vectors: dict[VectorField, list[Row]] = {}
        tokens: dict[VectorField, list[Row]] = {}
        for id_ in sorted(self._vectors):
            copies = _copies(self.rows[id_])
            for place, new in self._vectors[id_].items():
                first = self.write.next("vectors", len(new))
                for vector_id, one in enumerate(new, first):
                    start, end, unit = one.span
                    vectors.setdefault(place, []).append(
                        {
                            "id": vector_id,
                            "item_id": id_,
                            "position": one.position,
                            "start": start,
                            "end": end,
                            "unit": unit,
                            "hub_text": one.hub_text,
                            "hub_image": one.hub_image,
                            **copies,
                            "vector": sent_vector(self.database, one.vector),
                        }
                    )
                    if one.tokens is not None:
                        rows = token_rows(vector_id, id_, one.position, one.tokens)
                        tokens.setdefault(place, []).extend(rows)
        return vectors, tokens

    def _text_rows(self) -> list[Row]:
        """The rows of texts that are too long; sets those of the items."""
        rows: list[Row] = []
        for id_ in sorted(self._new_texts & self.rows.keys()):
            row, texts = self.rows[id_], self._texts[id_]
            pieces = text_pieces(texts)
            row |= {
                "texts": pieces[0],
                "parts": len(pieces) - 1,
                "parts_write": self.write.number,
                "texts_count": len(texts),
                "origins": sorted({one[0] for one in texts}),
            }
            rows += part_rows(id_, self.write.number, pieces)
        return rows

    def _complete(self, row: Row) -> None:
        row["meta"] = dict(sorted((row["facts"] | row["own"]).items()))
        row["write"] = self.write.number
        before = self._before.get(row["id"])
        if (
            before is None
            or any(before[name] != row[name] for name in _WORDS)
            or (row["id"] in self._new_texts and (before["parts"] or row["parts"]))
        ):
            row["words_due"] = self.write.number


def _new_vectors(vectors: ItemVectors) -> Iterator[NewVector]:
    from mmsearch.storage.packing import pack

    spans = vectors.spans or [None] * len(vectors.matrix)
    hubs = [vectors.hubs.get(asked) for asked in ("text", "image")]
    for position, (vector, span) in enumerate(zip(vectors.matrix, spans, strict=True)):
        tokens = None
        if position < len(vectors.token_embeddings):
            tokens = pack(vectors.token_embeddings[position])
        by_text, by_image = (None if hub is None else float(hub[position]) for hub in hubs)
        yield NewVector(position, _span(span), vector, by_text, by_image, tokens)


def batch_rows(columns: RowColumns) -> Iterator[tuple[Any, ...]]:
    """Columns row by row."""
    count = len(columns[0])
    return zip(*(c if isinstance(c, list) else [c] * count for c in columns), strict=True)


def _copies(row: Row) -> Row:
    return {name: row[name] for name in COPIES}


def _scalar(value: Any) -> Any:
    return stored_text(value) if isinstance(value, str) else value


def _span(span: Span | None) -> tuple[Any, Any, Any]:
    return (None, None, None) if span is None else (float(span.start), float(span.end), span.unit)


def field_of(one: str) -> VectorField:
    """The vector field of a flag."""
    space, _, rest = one.strip("|").partition(":")
    modality: Any = rest.partition("+")[0].rstrip("-")
    return int(space), modality


def _fields(row: Row) -> set[VectorField]:
    """The vector fields that an item has flags of."""
    return {field_of(one) for one in flags(row["fields"])}
