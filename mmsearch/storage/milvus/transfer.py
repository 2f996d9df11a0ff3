"""An index in Milvus as logical tables: what a copy reads and writes.

An item's texts, metadata, tags and flags stand in its own row, which is written anew as each of
these tables comes. The right to write stands in for a snapshot.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.filters.values import number_in
from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import DUMMY, SETTING, Database, Write
from mmsearch.storage.milvus.files import Sources
from mmsearch.storage.milvus.layout import (
    COPIES,
    TOKEN_PARTS,
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
from mmsearch.storage.milvus.row_updates import note_folders
from mmsearch.storage.milvus.rows import (
    ITEM_FIELDS,
    NEW_ITEM,
    failure_row,
    part_rows,
    read_texts,
    sent_vector,
    set_tags,
    tags_of,
    text_pieces,
    texts_by_key,
    token_rows,
    vector_of,
)
from mmsearch.storage.milvus.spaces import Spaces
from mmsearch.storage.records import Space, VectorField
from mmsearch.storage.stored_text import text_of
from mmsearch.storage.transfer import COLUMNS, COPYING, Key, Page, TransferStore, is_own
from mmsearch.types import Modality

if TYPE_CHECKING:
    import numpy as np


_ROWS = 1_000
"""Rows that are read by one call, with their vectors or texts."""

_IDS = 16_384
"""Rows of a few numbers, likewise."""

_DOCUMENTS = ("sources", "folder devices", "roots", "spaces", "words", "token generations")

_USER, _FILE = "user", "file"


class Transfer(TransferStore):
    """Reads and writes all tables but those that follow from others.

    Args:
        database: The index.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._client = database.client

    @contextmanager
    def reading(self) -> Iterator[None]:
        with self._database.lease.writing("being copied"):
            with self._database.write():
                pass  # which finishes what another writer could not
            with self._database.snapshot():
                yield

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._database.lease.writing("copying"):
            yield

    def count(self, table: str) -> int:
        if table in ("items", "failures"):
            return self._client.count(self._database.collection(table))
        if table == "vectors":
            return sum(map(self._client.count, self._database.vector_fields().values()))
        return sum(1 for _ in getattr(self, f"_{table}")(None))

    def pages(self, table: str, after: Key | None, rows: int) -> Iterator[Page]:
        found = getattr(self, f"_{table}")(after)
        while page := list(islice(found, rows)):
            yield page

    # ------------------------------------------------------------------ reading

    def _documents(self, rows: Iterable[Any], after: Key | None) -> Iterator[Any]:
        """Rows of a document in order of their keys, which begin them."""
        for row in sorted(rows):
            if after is None or row[: len(after)] > after:
                yield row

    def _settings(self, after: Key | None) -> Iterator[Any]:
        keys = [
            text_of(key).removeprefix(SETTING) for key in self._database.documents_like(SETTING)
        ]
        values = {key: self._database.document(f"{SETTING}{key}") for key in keys}
        stored = ((k, v) for k, v in values.items() if v is not None and not is_own(k))
        return self._documents(stored, after)

    def _sources(self, after: Key | None) -> Iterator[Any]:
        found = self._database.json("sources", {})
        return self._documents(((int(id_), *one) for id_, one in found.items()), after)

    def _folder_devices(self, after: Key | None) -> Iterator[Any]:
        return self._documents(map(tuple, self._database.json("folder devices", [])), after)

    def _index_roots(self, after: Key | None) -> Iterator[Any]:
        rows = (
            (path, int(folder), json.dumps(exclude), int(hidden))
            for path, folder, exclude, hidden in self._database.json("roots", [])
        )
        return self._documents(rows, after)

    def _spaces(self, after: Key | None) -> Iterator[Any]:
        return self._documents(map(tuple, self._database.json("spaces", [])), after)

    def _query_banks(self, after: Key | None) -> Iterator[Any]:
        for space, *_ in self._spaces(after):
            if (found := self._database.json(f"bank {space}", None)) is not None:
                yield space, found[0], base64.b85decode(found[1])

    def _item_rows(
        self, fields: Iterable[str], first: int, more: str = "", rows: int = _ROWS
    ) -> Iterator[Row]:
        """Rows of items in order of id, from one on."""
        where = f"id >= {first}{f' and {more}' if more else ''}"
        items = self._database.collection("items")
        for page in self._client.iterate(items, where, ["id", *fields], rows):
            yield from page

    def _items(self, after: Key | None) -> Iterator[Any]:
        columns = COLUMNS["items"]
        texts = {"folder", "name", "kind", "taken_at", "camera", "readings"}
        for row in self._item_rows(columns[1:], 1 + after[0] if after else 1):
            row["hash"] = bytes.fromhex(row["hash"])
            for name in texts:
                row[name] = row[name] and text_of(row[name])
            yield tuple(row[name] for name in columns)

    def _texts(self, after: Key | None) -> Iterator[Any]:
        fields = ["texts", "parts", "parts_write"]
        found = self._item_rows(fields, after[0] if after else 1, "texts_count > 0")
        while rows := list(islice(found, _ROWS)):
            for id_, texts in sorted(read_texts(self._database, rows).items()):
                for position, text in enumerate(texts):
                    if after is None or (id_, position) > after:
                        yield id_, position, *text

    def _metadata(self, after: Key | None) -> Iterator[Any]:
        for row in self._item_rows(["own", "facts"], after[0] if after else 1):
            own, facts = texts_by_key(row["own"]), texts_by_key(row["facts"])
            for key, text in sorted((facts | own).items()):
                if after is None or (row["id"], key) > after:
                    origin, shadowed = (_USER, facts.get(key)) if key in own else (_FILE, None)
                    yield row["id"], key, text, number_in(text), origin, shadowed

    def _tags(self, after: Key | None) -> Iterator[Any]:
        for row in self._item_rows(["tag_scores"], after[0] if after else 1):
            for tag, score in sorted(tags_of(row).items()):
                if after is None or (row["id"], tag) > after:
                    yield row["id"], tag, score

    def _failures(self, after: Key | None) -> Iterator[Any]:
        where = f"id > {quoted(place_key(*after) if after else '')}"
        columns = COLUMNS["failures"]
        failures = self._database.collection("failures")
        for page in self._client.iterate(failures, where, ["id", *columns], _ROWS):
            for row in page:
                for name in ("folder", "name", "reason"):
                    row[name] = text_of(row[name])
                yield tuple(row[name] for name in columns)

    def _vectors(self, after: Key | None) -> Iterator[Any]:
        fields = [*COLUMNS["vectors"]]
        fields = [name for name in fields if name not in ("space_id", "modality")]
        last = after[0] if after else 0
        for place, name in sorted(self._database.vector_fields().items()):
            if last and not self._client.query(name, f"id == {last}", ["id"], 1):
                continue  # all of it was read before
            where, last = f"id > {last}", 0
            for page in self._client.iterate(name, where, fields, _ROWS):
                for row in page:
                    vector = vector_of(row["vector"]).astype("<f2").tobytes()
                    given = row | {"space_id": place[0], "modality": place[1], "vector": vector}
                    yield tuple(given[column] for column in COLUMNS["vectors"])

    def _token_fields(self) -> list[tuple[VectorField, str]]:
        """The collections of token embeddings that count."""
        generations = self._database.json("token generations", {})
        return sorted(
            ((space, modality), name)  # type: ignore[misc]
            for (space, generation, modality), name in self._database.token_collections().items()
            if generation == generations.get(str(space), 0)
        )

    def _token_embeddings(self, after: Key | None) -> Iterator[Any]:
        fields = ["id", "item_id", "position", "value"]
        for place, name in self._token_fields():
            where = "id >= 0"
            if after is not None:
                if place < after[:2]:
                    continue
                if place == after[:2]:
                    here = f"item_id == {after[2]} and position == {after[3]}"
                    last = self._client.query(name, here, ["id"])
                    where = f"id > {max(row['id'] for row in last)}"
            pages = self._client.iterate(name, where, fields, _ROWS)
            rows = (row for page in pages for row in page)
            for _, parts in groupby(rows, lambda row: row["id"] // TOKEN_PARTS):
                several = list(parts)
                text = "".join(row["value"] for row in several)
                first = several[0]
                yield *place, first["item_id"], first["position"], base64.b85decode(text)

    def _absent_modalities(self, after: Key | None) -> Iterator[Any]:
        found = self._item_rows(
            ["fields"], after[2] if after else 1, 'fields like "%-|%"', rows=_IDS
        )
        for row in found:
            absent = [one.strip("|")[:-1] for one in flags(row["fields"]) if one.endswith("-|")]
            for one in sorted(absent):
                space, _, modality = one.partition(":")
                key = int(space), modality, row["id"]
                if after is None or (row["id"], one) > (after[2], f"{after[0]}:{after[1]}"):
                    yield key

    # ------------------------------------------------------------------ writing

    def put(self, table: str, page: Page, progress: str) -> None:
        rows = [dict(zip(COLUMNS[table], row, strict=True)) for row in page]
        with self._database.write() as write:
            getattr(self, f"_put_{table}")(write, rows)
            write.put_document(f"{SETTING}{COPYING}", progress)

    def _put_settings(self, write: Write, rows: list[Row]) -> None:
        for row in rows:
            write.put_document(f"{SETTING}{row['key']}", row["value"])

    def _put_sources(self, write: Write, rows: list[Row]) -> None:
        new = {str(row["id"]): [row["path"], row["device"]] for row in rows}
        write.put_json("sources", self._database.json("sources", {}) | new)

    def _put_folder_devices(self, write: Write, rows: list[Row]) -> None:
        new = {(row["source_id"], row["folder"]): row["device"] for row in rows}
        there = {(s, folder): device for s, folder, device in self._folder_devices(None)}
        found = [[*place, device] for place, device in (there | new).items()]
        write.put_json("folder devices", found)

    def _put_index_roots(self, write: Write, rows: list[Row]) -> None:
        found = {row[0]: row for row in self._database.json("roots", [])}
        for row in rows:
            exclude = json.loads(row["exclude"])
            one = row["path"], bool(row["folder"]), exclude, bool(row["include_hidden"])
            found[row["path"]] = list(one)
        write.put_json("roots", list(found.values()))

    def _put_spaces(self, write: Write, rows: list[Row]) -> None:
        found = {row[0]: row for row in self._database.json("spaces", [])}
        found |= {row["id"]: list(row.values()) for row in rows}
        write.put_json("spaces", list(found.values()))

    def _put_query_banks(self, write: Write, rows: list[Row]) -> None:
        for row in rows:
            packed = base64.b85encode(row["bank"]).decode()
            write.put_json(f"bank {row['space_id']}", [row["version"], packed])

    def _put_items(self, write: Write, rows: list[Row]) -> None:
        new = []
        for row in rows:
            place = row["source_id"], row["folder"], row["name"]
            stored = {k: stored_text(v) if isinstance(v, str) else v for k, v in row.items()}
            keys = {"place": place_key(*place), "folder_key": place_key(*place[:2])}
            numbers = {"words_due": write.number, "write": write.number}
            new.append({**NEW_ITEM, **stored, **keys, **numbers, "hash": row["hash"].hex()})
        note_folders(self._database, {(row["source_id"], row["folder"]) for row in rows})
        self._client.upsert(self._database.made("items"), new)

    def _change(self, ids: Iterable[int], change: Callable[[list[Row]], None]) -> None:
        """Have rows of items changed, and store them."""
        name, wanted = self._database.collection("items"), sorted(set(ids))
        for start in range(0, len(wanted), _ROWS):
            some = self._client.among(name, "id", wanted[start : start + _ROWS], ITEM_FIELDS)
            change(some)
            self._client.upsert(name, [{**row, "dummy": DUMMY} for row in some])

    def _put_texts(self, write: Write, rows: list[Row]) -> None:
        new: dict[int, list[Any]] = {}
        for row in rows:
            text = [row[name] for name in ("origin", "text", "start", "end", "unit")]
            new.setdefault(row["item_id"], []).append((row["position"], text))

        def change(some: list[Row]) -> None:
            before, parts = read_texts(self._database, some), []
            stale = [row["id"] for row in some if row["parts"]]
            for row in some:
                first = new[row["id"]][0][0]  # a page may begin within an item
                texts = [*before[row["id"]][:first], *(text for _, text in new[row["id"]])]
                pieces = text_pieces(texts)
                parts += part_rows(row["id"], write.number, pieces)
                row |= {
                    "texts": pieces[0],
                    "parts": len(pieces) - 1,
                    "parts_write": write.number,
                    "texts_count": len(texts),
                    "origins": sorted({one[0] for one in texts}),
                }
            if parts:
                self._client.upsert(self._database.made("parts"), parts)
            if stale:
                name, older = self._database.collection("parts"), f"write != {write.number}"
                self._client.delete_among(name, "item_id", stale, older)

        self._change(new, change)

    def _put_metadata(self, write: Write, rows: list[Row]) -> None:
        del write
        new: dict[int, tuple[dict[str, str], dict[str, str]]] = {}
        for row in rows:
            own, facts = new.setdefault(row["item_id"], ({}, {}))
            key, text = stored_text(row["key"]), stored_text(row["text"])
            (own if row["origin"] == _USER else facts)[key] = text
            if row["shadowed"] is not None:
                facts[key] = stored_text(row["shadowed"])

        def change(some: list[Row]) -> None:
            for row in some:
                own, facts = new[row["id"]]
                row["own"] = (row["own"] or {}) | own
                row["facts"] = (row["facts"] or {}) | facts
                row["meta"] = dict(sorted((row["facts"] | row["own"]).items()))

        self._change(new, change)

    def _put_tags(self, write: Write, rows: list[Row]) -> None:
        del write
        new: dict[int, dict[str, float]] = {}
        for row in rows:
            new.setdefault(row["item_id"], {})[row["tag"]] = row["score"]

        def change(some: list[Row]) -> None:
            for row in some:
                set_tags(row, tags_of(row) | new[row["id"]])

        self._change(new, change)

    def _put_failures(self, write: Write, rows: list[Row]) -> None:
        del write
        note_folders(self._database, {(row["source_id"], row["folder"]) for row in rows})
        stored = [failure_row(**row) for row in rows]
        self._client.upsert(self._database.made("failures"), stored)

    def _flag(self, new: Mapping[int, set[str]]) -> None:
        """Note of items which vectors they have."""

        def change(some: list[Row]) -> None:
            for row in some:
                row["fields"] = joined(flags(row["fields"]) | new[row["id"]])

        self._change(new, change)

    def _put_vectors(self, write: Write, rows: list[Row]) -> None:
        import numpy as np

        del write
        items, new = self._database.collection("items"), dict[int, set[str]]()
        ids = sorted({row["item_id"] for row in rows})
        copies = {
            row.pop("id"): row for row in self._client.among(items, "id", ids, ["id", *COPIES])
        }
        stored: dict[VectorField, list[Row]] = {}
        for row in rows:
            place = row.pop("space_id"), row.pop("modality")
            new.setdefault(row["item_id"], set()).add(flag(place))
            vector: np.ndarray[Any, Any] = np.frombuffer(row["vector"], "<f2")
            sent = sent_vector(self._database, vector)
            stored.setdefault(place, []).append({**row, **copies[row["item_id"]], "vector": sent})
        for place, some in stored.items():
            layout = Layout(VECTORS, len(some[0]["vector"]))
            self._client.upsert(self._database.made(vectors_name(place), layout), some)
        self._flag(new)

    def _put_token_embeddings(self, write: Write, rows: list[Row]) -> None:
        del write
        generations = self._database.json("token generations", {})
        new: dict[int, set[str]] = {}
        places: dict[VectorField, list[Row]] = {}
        for row in rows:
            place = row["space_id"], row["modality"]
            places.setdefault(place, []).append(row)
            generation = generations.get(str(place[0]), 0)
            new.setdefault(row["item_id"], set()).add(flag(place, f"+{generation}"))
        for place, some in places.items():
            vectors, ids = (
                self._database.collection(vectors_name(place)),
                {r["item_id"] for r in some},
            )
            fields = ["id", "item_id", "position"]
            found = self._client.among(vectors, "item_id", sorted(ids), fields)
            vector_of_place = {(row["item_id"], row["position"]): row["id"] for row in found}
            stored = [
                part
                for row in some
                for key in [(row["item_id"], row["position"])]
                for part in token_rows(vector_of_place[key], *key, row["embeddings"])
            ]
            name = tokens_name(place, generations.get(str(place[0]), 0))
            self._client.upsert(self._database.made(name, Layout(TOKENS)), stored)
        self._flag(new)

    def _put_absent_modalities(self, write: Write, rows: list[Row]) -> None:
        del write
        new: dict[int, set[str]] = {}
        for row in rows:
            one = flag((row["space_id"], row["modality"]), "-")
            new.setdefault(row["item_id"], set()).add(one)
        self._flag(new)

    def clear(self) -> None:
        database, client = self._database, self._client
        with database.write(vectors=True) as write:
            with client.errors():
                for modality in get_args(Modality):
                    with suppress(Exception):  # there may be none
                        client.milvus.drop_alias(database.collection(f"serving_{modality}"))
            for name in client.collections(database.prefix):
                if name != database.collection("state"):
                    client.drop(name)
            database.known_folders.clear()
            database.made("items")
            settings = map(text_of, database.documents_like(SETTING))
            banks = database.documents_like("bank ")
            gone = (key for key in settings if not is_own(key.removeprefix(SETTING)))
            for key in (*gone, *banks, *_DOCUMENTS):
                write.put_document(key, None)

    def finish(self) -> None:
        database = self._database
        with database.write(vectors=True) as write:
            highest = {
                "items": self._highest(database.collection("items")),
                "vectors": max(map(self._highest, database.vector_fields().values()), default=0),
                "sources": max(Sources(database).roots(), default=0),
                "spaces": max((space.id for space in Spaces(database).all()), default=0),
            }
            for what, number in highest.items():
                write.head["numbers"][what] = max(number, write.last(what))
            write.head["epoch"] += 1
            spaces: dict[int, Space] = {space.id: space for space in Spaces(database).all()}
            Spaces(database).serve(write, spaces)

    def _highest(self, name: str) -> int:
        """The highest id of a collection."""
        highest = 0
        for page in self._client.iterate(name, "id > 0", ["id"], _IDS):
            highest = page[-1]["id"]
        return highest
