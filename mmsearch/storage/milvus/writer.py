"""The one writer of items: records of a scan, batches of an import, and vectors that were missing.

A write is planned in memory from the rows that it touches, then executed in the order that
`mmsearch.storage.milvus.database` describes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import DUMMY, Database, Deletion, Write
from mmsearch.storage.milvus.layout import (
    COPIES,
    TOKENS,
    VECTORS,
    Layout,
    flag,
    flags,
    joined,
    place_key,
    quoted,
    stored_text,
    tokens_name,
    vectors_name,
)
from mmsearch.storage.milvus.rows import (
    ITEM_FIELDS,
    NEW_ITEM,
    Text,
    failure_row,
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
    RowColumns,
    Space,
    VectorField,
    fact_text,
)
from mmsearch.storage.stored_text import text_of
from mmsearch.types import Modality, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEW_FOLDERS = 20
"""So many are looked at one by one; of more, what they hold is read at once."""

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
) -> None:
    """Make or change items with their texts and vectors, and forget their failures.

    Raises:
        DuplicateGone: the item that one is a duplicate of has other content or is gone; nothing
            has been written.
    """
    plan = Plan(write)
    ids = {id_ for one in records for id_ in (one.id, one.duplicate_of) if id_ is not None}
    plan.load(ids, (place_key(*one.path_key) for one in records))
    plan.load_vectors({r.duplicate_of for r in records if r.duplicate_of not in (None, r.id)})
    new: dict[tuple[int, str, str], ItemRecord] = {}
    for record in records:
        if record.id is None and record.duplicate_of is None and record.path_key not in new:
            new[record.path_key] = record
        else:
            plan.put_record(record)
    for record in new.values():  # after the renames in this batch, which may free or take paths
        plan.put_record(record)
    plan.failures = list(failures)
    plan.execute()


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
    """Write a batch; returns how many items are new, and how many existed before."""
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


def recover(write: Write, intent: dict[str, Any]) -> None:
    """Finish a write that did not come to its end: each of its items is as it was, or new."""
    client, database = write.client, write.database
    logged = client.query(database.collection("deleted"), f"id > {write.head['changes']}", ["id"])
    write.head["changes"] = max([write.head["changes"], *(row["id"] for row in logged)])
    number = intent["write"]
    items = database.collection("items")
    done = client.among(items, "id", intent.get("items", ()), ["id"], f"write == {number}")
    committed = {row["id"] for row in done}
    undone = sorted(set(intent.get("items", ())) - committed)
    above = f"id > {intent.get('vectors', 0)}"
    for place in map(_place, intent.get("fields", ())):
        delete_vectors(write, place, undone, above)
    client.delete_among(database.collection("parts"), "item_id", undone, f"write == {number}")
    finish(write, intent, committed)
    if "merge" in intent:
        from mmsearch.storage.milvus.files import merge_sources

        merge_sources(write, **intent["merge"])
    if "dropped" in intent:
        from mmsearch.storage.milvus.spaces import drop_space

        drop_space(write, intent["dropped"])


def finish(write: Write, intent: Mapping[str, Any], committed: set[int]) -> None:
    """Delete what the new rows of items replace, and bring copies up to date."""
    before = f"id <= {intent.get('vectors', 0)}"
    for key, ids in intent.get("clear", {}).items():
        delete_vectors(write, _place(key), sorted(committed & set(ids)), before)
    displaced = [id_ for id_, by in intent.get("displaced", ()) if by in committed]
    if removed := [*intent.get("removed", ()), *displaced]:
        delete_items(write, removed)
    if stale := sorted(committed & set(intent.get("stale_parts", ()))):
        parts = write.database.collection("parts")
        write.client.delete_among(parts, "item_id", stale, f"write != {intent['write']}")
    if mirrored := sorted(committed & set(intent.get("mirror", ()))):
        refresh_copies(write.database, mirrored)
    if left := intent.get("left"):
        forget_folders(write.database, {(source, folder) for source, folder in left})


def delete_vectors(write: Write, place: VectorField, ids: Sequence[int], more: str) -> None:
    """Delete vectors of items in a vector field, with their token embeddings, and log it."""
    client, database = write.client, write.database
    name = database.vector_collection(*place)
    if name is None or not ids:
        return
    rows = client.among(name, "item_id", ids, ["id"], more)
    if not rows:
        return
    doomed = sorted(row["id"] for row in rows)
    deletions: list[Deletion] = [(*place, id_) for id_ in doomed]
    write.log_deletions(deletions)
    client.delete_among(name, "id", doomed)
    for (space, _, modality), tokens in database.token_collections().items():
        if (space, modality) == place:
            client.delete_among(tokens, "vector_id", doomed)


def delete_items(write: Write, ids: Sequence[int]) -> None:
    """Delete items with all that belongs to them; their rows come first."""
    client, database = write.client, write.database
    items = database.collection("items")
    rows = client.among(items, "id", ids, ["source_id", "folder"])
    client.delete_among(items, "id", ids)
    for place in database.vector_fields():
        delete_vectors(write, place, ids, "id > 0")
    client.delete_among(database.collection("parts"), "item_id", ids)
    client.delete_among(database.collection("words"), "item_id", ids)
    forget_folders(database, {(row["source_id"], text_of(row["folder"])) for row in rows})


def remove_items(write: Write, ids: Sequence[int]) -> None:
    """Delete items: what a crash leaves of them is deleted by the next writer."""
    write.intend({"removed": list(ids)})
    delete_items(write, ids)


def refresh_copies(database: Database, ids: Sequence[int]) -> None:
    """Bring what the vectors of items repeat of them up to date."""
    client = database.client
    rows = client.among(database.collection("items"), "id", ids, ["id", *COPIES])
    copies = {row["id"]: {name: row.get(name) for name in COPIES} for row in rows}
    for name in database.vector_fields().values():
        for start in range(0, len(ids), 1000):
            some = ids[start : start + 1000]
            found = client.among(name, "item_id", some, list(VECTORS))
            changed = [
                {**row, **copies[row["item_id"]]}
                for row in found
                if row["item_id"] in copies
                and any(row.get(key) != value for key, value in copies[row["item_id"]].items())
            ]
            for row in changed:
                row["vector"] = sent_vector(database, vector_of(row["vector"]))
            client.upsert(name, changed)


def forget_folders(database: Database, places: set[tuple[int, str]]) -> None:
    """Forget the folders that hold neither items nor failures any more."""
    client = database.client
    keys = {place_key(*place) for place in places}
    for table in (database.collection("items"), database.collection("failures")):
        if len(keys) <= FEW_FOLDERS:
            keys = {
                key
                for key in keys
                if not client.query(table, f"folder_key == {quoted(key)}", ["id"], 1)
            }
        else:
            rows = client.among(table, "folder_key", sorted(keys), ["folder_key"])
            keys -= {row["folder_key"] for row in rows}
    client.delete_among(database.collection("folders"), "id", sorted(keys))
    database.known_folders -= keys


def note_folders(database: Database, places: Iterable[tuple[int, str]]) -> None:
    """Note folders that are to hold items or failures."""
    new = {place_key(*place): place for place in places}
    new = {key: place for key, place in new.items() if key not in database.known_folders}
    rows: list[Row] = [
        {"id": key, "source_id": source, "folder": stored_text(folder), "dummy": DUMMY}
        for key, (source, folder) in new.items()
    ]
    if rows:
        database.client.upsert(database.made("folders"), rows)
        database.known_folders.update(new)


def put_failures(database: Database, records: Sequence[FailureRecord]) -> None:
    """Store failures, each in place of an earlier one of the same file."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    note_folders(database, {(one.source_id, one.folder) for one in records})
    rows: dict[str, Row] = {}
    for one in records:
        key = place_key(one.source_id, one.folder, one.name)
        rows[key] = failure_row(
            one.source_id,
            one.folder,
            one.name,
            reason=one.reason,
            seen_at=now,
            size=one.stat and one.stat[0],
            mtime_ns=one.stat and one.stat[1],
            retry=int(one.retry),
            ctime_ns=one.ctime_ns,
        )
    if rows:
        database.client.upsert(database.made("failures"), list(rows.values()))


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
        """Store a record whose item may be there already, or which is a duplicate."""
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


def _place(key: str) -> VectorField:
    space, _, modality = key.partition(" ")
    known: Modality = modality  # type: ignore[assignment]
    return int(space), known
