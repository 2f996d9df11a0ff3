"""The items of a store: one row a file, with its texts, metadata and tags."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Column, Connection, Select, Table, and_, bindparam, delete, func, or_, select

from mmsearch.storage.records import (
    IMPORTED_SOURCE,
    MEDIA_COLUMNS,
    CompleteItem,
    ItemQuality,
    ListedItem,
    Space,
    split_path,
)
from mmsearch.storage.sql.database import Database, Prepared, is_one_of, is_one_of_ids
from mmsearch.storage.sql.index_settings import next_revision
from mmsearch.storage.sql.indexed_files import at_or_below
from mmsearch.storage.sql.schema import (
    FILE,
    USER,
    failures,
    items,
    metadata,
    sources,
    span_of,
    tags,
    texts,
    vectors,
)
from mmsearch.storage.sql.types import id_list
from mmsearch.storage.store import ItemStore
from mmsearch.types import Item, TextPart

LIST_PAGE = 5_000
"""Items that a list reads at once."""

COMPLETE_PAGE = 500
"""Items that are read at once with all that is stored of them."""


class Items(ItemStore):
    """Reads and deletes items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __len__(self) -> int:
        with self._database.read() as connection:
            return int(_COUNT.of(connection)[0][0])

    def counts(self) -> dict[str, int]:
        counted = select(items.c.kind, func.count()).group_by(items.c.kind)
        return dict(map(tuple, self._database.rows(counted)))

    # ------------------------------------------------------------------ reading

    def get(self, ids: Sequence[int]) -> dict[int, Item]:
        if not len(ids):
            return {}
        with self._database.read() as connection:
            return self._found(connection, ids=id_list(ids))

    def all(self, page: int = 500) -> Iterator[Item]:
        last = 0
        while True:
            with self._database.read() as connection:
                some = self._found(connection, last=last, page=page)
            if not some:
                return
            yield from some.values()
            last = max(some)

    def _found(self, connection: Connection, **given: Any) -> dict[int, Item]:
        """Items in order of id: those of `ids`, an `id_list`, or a `page` after the `last`."""
        rows = (_BY_ID if "ids" in given else _NEXT_PAGE).of(connection, **given)
        ids = id_list(row[0] for row in rows)
        return as_items(rows, *(one.of(connection, ids=ids) for one in (_TEXTS, _METADATA, _TAGS)))

    def listed(self, ids: Any = None, limit: int | None = None) -> Iterator[ListedItem]:
        c = items.c
        base = select(
            c.id, sources.c.path, c.folder, c.name, c.kind, c.size, c.mtime_ns, c.taken_at
        )
        found = (
            ListedItem(id_, os.path.join(root, folder, name), *rest)
            for rows in self._pages(base, ids, LIST_PAGE)
            for id_, root, folder, name, *rest in rows
        )
        return islice(found, limit and min(limit, sys.maxsize))

    def complete(self, space: Space | None, ids: Any = None) -> Iterator[list[CompleteItem]]:
        c = items.c
        names = ("size", "mtime_ns", *MEDIA_COLUMNS)
        base = select(c.id, sources.c.path, c.folder, c.name, c.kind)
        base = base.add_columns(*(c[name] for name in names))
        for rows in self._pages(base, ids, COMPLETE_PAGE):
            page = {
                id_: CompleteItem(
                    id_, os.path.join(root, folder, name), kind, dict(zip(names, rest, strict=True))
                )
                for id_, root, folder, name, kind, *rest in rows
            }
            self._complete(page, space)
            yield list(page.values())

    def _complete(self, page: dict[int, CompleteItem], space: Space | None) -> None:
        def rows_of(table: Table, *columns: str, order: str) -> list[Any]:
            chosen = select(table.c.item_id, *(table.c[column] for column in columns))
            chosen = chosen.where(is_one_of(table.c.item_id, page))
            if table is vectors and space is not None:
                chosen = chosen.where(vectors.c.space_id == space.id)
            return self._database.rows(
                chosen.order_by(table.c.item_id, *(table.c[name] for name in order.split()))
            )

        span = ("start", "end", "unit")
        for id_, *rest in rows_of(texts, "origin", "text", *span, order="position"):
            page[id_].texts.append(tuple(rest))
        columns = ("key", "text", "origin", "shadowed")
        for id_, key, text, origin, shadowed in rows_of(metadata, *columns, order="key"):
            if origin == USER:
                page[id_].metadata[key] = text
            if (fact := text if origin == FILE else shadowed) is not None:
                page[id_].facts[key] = fact
        for id_, tag, score in rows_of(tags, "tag", "score", order="tag"):
            page[id_].tags[tag] = score
        if space is not None:
            encoded = ("modality", "position", *span, "vector")
            for id_, *rest in rows_of(vectors, *encoded, order="modality position"):
                page[id_].vectors.append(tuple(rest))

    def _pages(self, base: Select[Any], ids: Any, size: int) -> Iterator[list[Any]]:
        """Pages of items joined with their sources, in order of id."""
        base = base.join(sources).order_by(items.c.id)
        if ids is not None:
            for start in range(0, len(ids), size):
                some = is_one_of(items.c.id, ids[start : start + size])
                yield self._database.rows(base.where(some))
            return
        last = 0
        while rows := self._database.rows(base.where(items.c.id > last).limit(size)):
            yield rows
            last = rows[-1].id

    # ------------------------------------------------------------------ duplicates

    def hashes(self, ids: Sequence[int]) -> dict[int, bytes]:
        c = items.c
        chosen = select(c.id, c.hash).where(c.hash != b"", is_one_of(c.id, ids))
        return dict(map(tuple, self._database.rows(chosen)))

    def same_content(self) -> list[list[int]]:
        c = items.c
        several = select(c.hash, c.kind).where(c.hash != b"").group_by(c.hash, c.kind)
        wanted = several.having(func.count() > 1).subquery()
        rows = self._database.rows(
            select(c.hash, c.kind, c.id)
            .join(wanted, (wanted.c.hash == c.hash) & (wanted.c.kind == c.kind))
            .order_by(c.id)
        )
        found: dict[tuple[bytes, str], list[int]] = {}
        for hash_, kind, id_ in rows:
            found.setdefault((hash_, kind), []).append(id_)
        return list(found.values())

    def quality(self) -> dict[int, ItemQuality]:
        c = items.c
        pixels, seconds = func.coalesce(c.width * c.height, 0), func.coalesce(c.seconds, 0.0)
        wanted = select(c.id, c.kind, c.size, c.mtime_ns, pixels, seconds, c.hash)
        return {row[0]: ItemQuality(*row) for row in self._database.rows(wanted)}

    # ------------------------------------------------------------------ deleting

    def remove(self, ids: Sequence[int]) -> None:
        if not ids:
            return
        with self._database.write() as connection:
            connection.execute(delete(items).where(is_one_of(items.c.id, ids)))
            next_revision(connection)

    def remove_below(self, source_id: int, below: str) -> int:
        with self._database.write() as connection:
            removed = 0
            for table in (failures, items):
                where = [table.c.source_id == source_id]
                if below:
                    folder, name = os.path.split(below)
                    file = (table.c.folder == folder) & (table.c.name == name)
                    where.append(or_(file, at_or_below(table.c.folder, below)))
                removed += connection.execute(delete(table).where(*where)).rowcount
            if not below:
                connection.execute(delete(sources).where(sources.c.id == source_id))
            next_revision(connection)
        return removed

    def remove_imported(self, path: str) -> int:
        folder, name = split_path(path)
        c = items.c
        chosen = and_(c.folder == folder, c.name == name)
        if below := path.rstrip(os.sep):
            chosen = or_(chosen, at_or_below(c.folder, below))
        imported = select(sources.c.id).where(sources.c.path == IMPORTED_SOURCE)
        with self._database.write() as connection:
            removed = connection.execute(delete(items).where(c.source_id.in_(imported), chosen))
            if removed.rowcount:
                next_revision(connection)
            return int(removed.rowcount)


# ---------------------------------------------------------------------- items with their parts

_COUNT = Prepared(select(func.count()).select_from(items))

WITH_ROOT = select(items, sources.c.path.label("root")).join(sources).order_by(items.c.id)
"""Items, each with the path of its source."""

_BY_ID = Prepared(WITH_ROOT.where(is_one_of_ids(items.c.id)))

_NEXT_PAGE = Prepared(WITH_ROOT.where(items.c.id > bindparam("last")).limit(bindparam("page")))

_TEXTS = Prepared(
    select(texts).where(is_one_of_ids(texts.c.item_id)).order_by(texts.c.item_id, texts.c.position)
)


def _pairs(table: Table, key: Column[Any], value: Column[Any]) -> Prepared:
    pairs = select(table.c.item_id, key, value)
    return Prepared(pairs.where(is_one_of_ids(table.c.item_id)).order_by(key))


_METADATA = _pairs(metadata, metadata.c.key, metadata.c.text)

_TAGS = _pairs(tags, tags.c.tag, tags.c.score)


def as_items(
    found: Iterable[Any], texts_found: Iterable[Any], pairs: Iterable[Any], tagged: Iterable[Any]
) -> dict[int, Item]:
    """Items by id, with everything that is shown of them.

    Args:
        found: Rows of WITH_ROOT.
        texts_found: Rows of their texts, in order of position.
        pairs: (item id, key, text) of their metadata, in order of key.
        tagged: (item id, tag, score) of their tags.
    """
    rows = _BY_ID.by_name(found)
    parts: dict[int, list[TextPart]] = {row["id"]: [] for row in rows}
    for row in _TEXTS.by_name(texts_found):
        span = span_of(row["start"], row["end"], row["unit"])
        parts[row["item_id"]].append(TextPart(row["text"], row["origin"], span))
    own: dict[int, dict[str, str]] = {}
    for item_id, key, text in pairs:
        own.setdefault(item_id, {})[key] = text
    scores: dict[int, dict[str, float]] = {}
    for item_id, tag, score in tagged:
        scores.setdefault(item_id, {})[tag] = score
    return {
        id_: _item(row, tuple(parts[id_]), own.get(id_), scores.get(id_))
        for id_, row in ((row["id"], row) for row in rows)
    }


def _item(
    row: dict[str, Any],
    parts: tuple[TextPart, ...],
    own: dict[str, str] | None,
    scores: dict[str, float] | None,
) -> Item:
    modified = datetime.fromtimestamp(row["mtime_ns"] / 1e9, UTC)
    shown: dict[str, Any] = {
        "size": row["size"],
        "modified": modified.isoformat(timespec="seconds"),
    }
    shown |= {name: row[name] for name in MEDIA_COLUMNS if row[name] is not None}
    if own:
        shown["meta"] = own
    if scores:
        shown["tags"] = sorted(scores, key=lambda tag: (-scores[tag], tag))
    path = os.path.join(row["root"], row["folder"], row["name"])
    return Item(row["id"], path, row["kind"], parts, shown)
