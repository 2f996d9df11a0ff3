"""Reading and deleting items, with their texts, metadata and tags."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, get_args

from mmsearch.storage.milvus.client import Row
from mmsearch.storage.milvus.database import Database
from mmsearch.storage.milvus.files import Sources, at_or_below
from mmsearch.storage.milvus.layout import flag, flags, place_key, quoted
from mmsearch.storage.milvus.row_updates import remove_items
from mmsearch.storage.milvus.rows import ITEM_FIELDS, read_texts, tags_of, texts_by_key, vector_of
from mmsearch.storage.records import (
    IMPORTED_SOURCE,
    MEDIA_COLUMNS,
    CompleteItem,
    ItemQuality,
    ListedItem,
    Space,
    split_path,
)
from mmsearch.storage.store import ItemStore
from mmsearch.storage.stored_text import text_of
from mmsearch.types import Item, Kind, Modality, Span, TextPart

LIST_PAGE = 5_000
"""Items that a list reads at once."""

COMPLETE_PAGE = 500
"""Items that are read at once with all that is stored of them."""

REMOVE_PAGE = 5_000
"""Items that one write removes."""


class Items(ItemStore):
    """Reads and deletes items."""

    def __init__(self, database: Database, sources: Sources) -> None:
        self._database = database
        self._sources = sources

    @property
    def _name(self) -> str:
        return self._database.collection("items")

    def __len__(self) -> int:
        return self._database.client.count(self._name)

    def counts(self) -> dict[str, int]:
        counted = {
            kind: self._database.client.count(self._name, f"kind == {quoted(kind)}")
            for kind in get_args(Kind)
        }
        return {kind: number for kind, number in counted.items() if number}

    # ------------------------------------------------------------------ reading

    def get(self, ids: Sequence[int]) -> dict[int, Item]:
        wanted = sorted({int(id_) for id_ in ids})
        client = self._database.client
        return self._items(client.among(self._name, "id", wanted, ITEM_FIELDS, at_once=1000))

    def all(self, page: int = 500) -> Iterator[Item]:
        for rows in self._database.client.iterate(self._name, "id > 0", ITEM_FIELDS, page):
            yield from self._items(rows).values()

    def _items(self, rows: list[Row]) -> dict[int, Item]:
        roots = self._sources.roots()
        texts = read_texts(self._database, rows)
        return {
            row["id"]: _item(row, self._path(roots, row), texts[row["id"]])
            for row in sorted(rows, key=lambda row: int(row["id"]))
        }

    @staticmethod
    def _path(roots: dict[int, str], row: Row) -> str:
        root = roots.get(row["source_id"], "")
        return os.path.join(root, text_of(row["folder"]), text_of(row["name"]))

    def listed(self, ids: Any = None, limit: int | None = None) -> Iterator[ListedItem]:
        fields = ["id", "source_id", "folder", "name", "kind", "size", "mtime_ns", "taken_at"]
        found = (
            ListedItem(
                row["id"],
                self._path(roots, row),
                row["kind"],
                row["size"],
                row["mtime_ns"],
                row["taken_at"],
            )
            for rows, roots in self._pages(ids, fields, LIST_PAGE, limit)
            for row in rows
        )
        return islice(found, limit and min(limit, sys.maxsize))

    def _pages(
        self, ids: Any, fields: list[str], size: int, limit: int | None = None
    ) -> Iterator[tuple[list[Row], dict[int, str]]]:
        """Pages of rows in order of id, with the sources."""
        client = self._database.client
        if ids is not None:
            for start in range(0, len(ids), size):
                rows = client.among(self._name, "id", ids[start : start + size], fields)
                yield sorted(rows, key=lambda row: int(row["id"])), self._sources.roots()
            return
        size = size if limit is None else max(1, min(size, limit))
        for rows in client.iterate(self._name, "id > 0", fields, size):
            yield rows, self._sources.roots()

    def complete(self, space: Space | None, ids: Any = None) -> Iterator[list[CompleteItem]]:
        names = ("size", "mtime_ns", *MEDIA_COLUMNS)
        for rows, roots in self._pages(ids, ITEM_FIELDS, COMPLETE_PAGE):
            texts = read_texts(self._database, rows)
            page: dict[int, CompleteItem] = {}
            for row in rows:
                one = page[row["id"]] = CompleteItem(
                    row["id"],
                    self._path(roots, row),
                    row["kind"],
                    {name: _plain(row[name]) for name in names},
                    list(map(tuple, texts[row["id"]])),
                    texts_by_key(row["own"]),
                    texts_by_key(row["facts"]),
                )
                one.tags.update(tags_of(row))
            if space is not None:
                self._add_vectors(page, rows, space)
            yield list(page.values())

    def _add_vectors(self, page: dict[int, CompleteItem], rows: list[Row], space: Space) -> None:
        fields = ["id", "item_id", "position", "start", "end", "unit", "vector"]
        for modality in sorted(get_args(Modality)):
            name = self._database.vector_collection(space, modality)
            mine = flag((space.id, modality))
            having = [row["id"] for row in rows if mine in flags(row["fields"])]
            if name is None or not having:
                continue
            found: dict[tuple[int, int], Row] = {}
            for row in self._database.client.among(name, "item_id", having, fields):
                key = row["item_id"], row["position"]
                if key not in found or found[key]["id"] < row["id"]:
                    found[key] = row
            for (id_, position), row in sorted(found.items()):
                blob = vector_of(row["vector"]).astype("<f2").tobytes()
                span = row["start"], row["end"], row["unit"]
                page[id_].vectors.append((modality, position, *span, blob))

    # ------------------------------------------------------------------ duplicates

    def hashes(self, ids: Sequence[int]) -> dict[int, bytes]:
        rows = self._database.client.among(self._name, "id", ids, ["id", "hash"])
        return {row["id"]: bytes.fromhex(row["hash"]) for row in rows if row["hash"]}

    def same_content(self) -> list[list[int]]:
        groups: dict[tuple[str, str], list[int]] = {}
        fields = ["id", "hash", "kind"]
        for rows in self._database.client.iterate(self._name, 'hash != ""', fields, 16_384):
            for row in rows:
                groups.setdefault((row["hash"], row["kind"]), []).append(row["id"])
        return [ids for ids in groups.values() if len(ids) > 1]

    def quality(self) -> dict[int, ItemQuality]:
        fields = ["id", "kind", "size", "mtime_ns", "width", "height", "seconds", "hash"]
        return {
            row["id"]: ItemQuality(
                row["id"],
                row["kind"],
                row["size"],
                row["mtime_ns"],
                (row["width"] or 0) * (row["height"] or 0),
                row["seconds"] or 0.0,
                bytes.fromhex(row["hash"]),
            )
            for rows in self._database.client.iterate(self._name, "id > 0", fields, 16_384)
            for row in rows
        }

    # ------------------------------------------------------------------ deleting

    def remove(self, ids: Sequence[int]) -> None:
        if len(ids):
            with self._database.write(vectors=True) as write:
                remove_items(write, [int(id_) for id_ in ids])

    def remove_below(self, source_id: int, below: str) -> int:
        where = f"source_id == {source_id}"
        if below:
            file = f"place == {quoted(place_key(source_id, *os.path.split(below)))}"
            where = f"{where} and ({file} or {at_or_below('folder', below)})"
        removed = self._remove_where(where)
        database = self._database
        with database.write(vectors=True) as write:
            failures = database.collection("failures")
            failed = f"source_id == {source_id}"
            if below:
                one = quoted(place_key(source_id, *os.path.split(below)))
                failed = f"{failed} and (id == {one} or {at_or_below('folder', below)})"
            removed += database.client.count(failures, failed)
            database.client.delete(failures, failed)
            folders = f"source_id == {source_id}"
            if below:
                folders = f"{folders} and ({at_or_below('folder', below)})"
            database.client.delete(database.collection("folders"), folders)
            database.known_folders.clear()
            if not below:
                self._sources.forget(write, source_id)
        return removed

    def remove_imported(self, path: str) -> int:
        source = self._sources.known(IMPORTED_SOURCE)
        if source is None:
            return 0
        where = f"place == {quoted(place_key(source, *split_path(path)))}"
        if below := path.rstrip(os.sep):
            where = f"source_id == {source} and ({where} or {at_or_below('folder', below)})"
        return self._remove_where(where)

    def _remove_where(self, where: str) -> int:
        """Remove the items for which an expression holds, so many in one write."""
        client, removed = self._database.client, 0
        while rows := client.query(self._name, where, ["id"], REMOVE_PAGE):
            self.remove([row["id"] for row in rows])
            removed += len(rows)
        return removed


def _plain(value: Any) -> Any:
    return text_of(value) if isinstance(value, str) else value


def _item(row: Row, path: str, texts: list[list[Any]]) -> Item:
    modified = datetime.fromtimestamp(row["mtime_ns"] / 1e9, UTC)
    shown: dict[str, Any] = {
        "size": row["size"],
        "modified": modified.isoformat(timespec="seconds"),
    }
    shown |= {name: _plain(row[name]) for name in MEDIA_COLUMNS if row[name] is not None}
    if meta := texts_by_key(row["meta"]):
        shown["meta"] = meta
    if tags := tags_of(row):
        shown["tags"] = sorted(tags, key=lambda tag: (-tags[tag], tag))
    parts = tuple(
        TextPart(text, origin, None if unit is None else Span(float(start), float(end), unit))
        for origin, text, start, end, unit in texts
    )
    return Item(row["id"], path, row["kind"], parts, shown)
