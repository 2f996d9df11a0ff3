"""The items of a catalog: one row a file, with its texts, metadata and tags."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    func,
    or_,
    select,
)

from mmsearch.storage.records import (
    IMPORTED_SOURCE,
    MEDIA_COLUMNS,
    CompleteItem,
    ItemQuality,
    ListedItem,
    Space,
    split_path,
)
from mmsearch.storage.sqlite.database import MAX_PARAMETERS, Database, chunks
from mmsearch.storage.sqlite.records import next_revision
from mmsearch.storage.sqlite.schema import (
    attributes,
    items,
    sources,
    tags,
    texts,
    vectors,
)
from mmsearch.storage.sqlite.schema import failures as failed
from mmsearch.storage.sqlite.sources import at_or_below
from mmsearch.storage.sqlite.statements import IDS, Prepared, id_list
from mmsearch.types import Item, Span, TextPart

PAGE = 5_000
"""Items that a list reads at once."""


class Items:
    """Reads and removes items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __len__(self) -> int:
        return int(self._database.scalars(select(func.count()).select_from(items))[0])

    def counts(self) -> dict[str, int]:
        """How many items there are of each kind."""
        counted = select(items.c.modality, func.count()).group_by(items.c.modality)
        return dict(map(tuple, self._database.rows(counted)))

    def hashes(self, ids: Sequence[int]) -> dict[int, bytes]:
        """By id, the BLAKE2b-128 of some items' files; of imported ones it is not known."""
        base = select(items.c.id, items.c.hash).where(items.c.hash != b"")
        return {
            item_id: hash_
            for part in chunks(sorted(set(ids)))
            for item_id, hash_ in self._database.rows(base.where(items.c.id.in_(part)))
        }

    def get(self, ids: Sequence[int]) -> dict[int, Item]:
        """Items by id, with their texts; ids that are gone are left out."""
        if not len(ids):
            return {}
        with self._database.read() as connection:
            return _items(connection, _BY_ID, ids=id_list(ids))

    def all(self, page: int = 500) -> Iterator[Item]:
        """Every item in order of id, read page by page."""
        last = 0
        while True:
            with self._database.read() as connection:
                some = _items(connection, _A_PAGE, last=last, page=page)
            if not some:
                return
            yield from some.values()
            last = max(some)

    def listed(self, ids: Any = None, limit: int | None = None) -> Iterator[ListedItem]:
        """Items in order of id, a page at a time; each page is as the catalog then is.

        Args:
            ids: Only these, sorted.
            limit: At most so many.
        """
        c = items.c
        columns = (c.id, sources.c.path, c.folder, c.name, c.modality, c.size, c.mtime_ns)
        base = select(*columns, c.taken_at).join(sources).order_by(c.id)
        found = (
            ListedItem(id_, os.path.join(root, folder, name), *rest)
            for rows in self._pages(base, ids, PAGE)
            for id_, root, folder, name, *rest in rows
        )
        return islice(found, limit)

    def complete(self, space: Space | None, ids: Any = None) -> Iterator[list[CompleteItem]]:
        """Items in order of id with all that is known of them, page by page.

        Args:
            space: Whose vectors; None leaves them out.
            ids: Only these, sorted.
        """
        c = items.c
        known = [c[name] for name in _KNOWN]
        base = select(c.id, sources.c.path, c.folder, c.name, *known).join(sources)
        for rows in self._pages(base.order_by(c.id), ids, MAX_PARAMETERS):
            page = {
                id_: CompleteItem(
                    id_,
                    os.path.join(root, folder, name),
                    dict(zip(_KNOWN, rest, strict=True)),
                )
                for id_, root, folder, name, *rest in rows
            }
            self._complete(page, space)
            yield list(page.values())

    def _complete(self, page: dict[int, CompleteItem], space: Space | None) -> None:
        given = list(page)
        t, v = texts.c, vectors.c
        said = select(t.item_id, t.origin, t.text, t.start, t.end, t.unit)
        for id_, *rest in self._database.rows(_of(said, t, given).order_by(t.item_id, t.position)):
            page[id_].texts.append(tuple(rest))
        own = select(attributes.c.item_id, attributes.c.key, attributes.c.text)
        for id_, key, text in self._database.rows(
            _of(own, attributes.c, given).order_by(attributes.c.key)
        ):
            page[id_].metadata[key] = text
        labels = select(tags.c.item_id, tags.c.tag, tags.c.score)
        for id_, tag, score in self._database.rows(_of(labels, tags.c, given).order_by(tags.c.tag)):
            page[id_].tags[tag] = score
        if space is not None:
            made = select(v.item_id, v.facet, v.position, v.start, v.end, v.unit, v.vector)
            mine = _of(made, v, given).where(v.space_id == space.id)
            for id_, *rest in self._database.rows(mine.order_by(v.item_id, v.facet, v.position)):
                page[id_].vectors.append(tuple(rest))

    def _pages(self, base: Select[Any], ids: Any, size: int) -> Iterator[list[Any]]:
        if ids is not None:
            for part in chunks([int(id_) for id_ in ids]):
                yield self._database.rows(base.where(items.c.id.in_(part)))
            return
        last = 0
        while rows := self._database.rows(base.where(items.c.id > last).limit(size)):
            yield rows
            last = rows[-1][0]

    def same_content(self) -> list[list[int]]:
        """The ids of the items of each content that several items have.

        Of what was imported the content is not known: it has no hash.
        """
        c = items.c
        several = select(c.hash, c.modality).where(c.hash != b"").group_by(c.hash, c.modality)
        wanted = several.having(func.count() > 1).subquery()
        rows = self._database.rows(
            select(c.hash, c.modality, c.id)
            .join(wanted, (wanted.c.hash == c.hash) & (wanted.c.modality == c.modality))
            .order_by(c.id)
        )
        found: dict[tuple[bytes, str], list[int]] = {}
        for hash_, modality, id_ in rows:
            found.setdefault((hash_, modality), []).append(id_)
        return list(found.values())

    def quality(self) -> dict[int, ItemQuality]:
        """By id of each item, what says which of several copies is worth keeping."""
        c = items.c
        wanted = select(
            c.id,
            c.modality,
            c.size,
            c.mtime_ns,
            func.coalesce(c.width * c.height, 0),
            func.coalesce(c.seconds, 0.0),
            c.hash,
        )
        return {row[0]: ItemQuality(*row) for row in self._database.rows(wanted)}

    def remove(self, ids: Sequence[int]) -> None:
        """Take items out, with their texts and vectors, all or none."""
        if not ids:
            return
        with self._database.write() as connection:
            for chunk in chunks(ids):
                connection.execute(delete(items).where(items.c.id.in_(chunk)))
            next_revision(connection)

    def remove_below(self, source_id: int, below: str) -> int:
        """Take out a file or all at and below a folder; returns how many items and failures."""
        with self._database.write() as connection:
            gone = 0
            for table in (failed, items):
                where = [table.c.source_id == source_id]
                if below:
                    folder, name = os.path.split(below)
                    file = (table.c.folder == folder) & (table.c.name == name)
                    where.append(or_(file, at_or_below(table, below)))
                gone += connection.execute(delete(table).where(*where)).rowcount
            if not below:
                connection.execute(delete(sources).where(sources.c.id == source_id))
            next_revision(connection)
        return gone

    def remove_imported(self, path: str) -> int:
        """Take out the item of this path, or those below it, that lie in no folder we know."""
        folder, name = split_path(path)
        with self._database.write() as connection:
            chosen = select(sources.c.id).where(sources.c.path == IMPORTED_SOURCE)
            source_id = connection.execute(chosen).scalar_one_or_none()
            if source_id is None:
                return 0
            c = items.c
            place = and_(c.folder == folder, c.name == name)
            if below := path.rstrip(os.sep):
                place = or_(place, at_or_below(items, below))
            gone = connection.execute(delete(items).where(c.source_id == source_id, place))
            if gone.rowcount:
                next_revision(connection)
            return int(gone.rowcount)


def _items(connection: Connection, which: Prepared, **given: Any) -> dict[int, Item]:
    """Items with all that is said of them, by id.

    Args:
        connection: To read by.
        which: _BY_ID or _A_PAGE.
        given: What that asks for.
    """
    rows = which.named(connection, **given)
    parts: dict[int, list[TextPart]] = {row["id"]: [] for row in rows}
    own: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in _SAID}
    ids = id_list(parts)
    for name, said in _SAID.items():
        for item_id, key, what in said.of(connection, ids=ids):
            own[name].setdefault(item_id, {})[key] = what
    for row in _TEXTS.named(connection, ids=ids):
        span = _span(row["start"], row["end"], row["unit"])
        parts[row["item_id"]].append(TextPart(row["text"], row["origin"], span))
    return {
        row["id"]: _item(
            row, parts[row["id"]], {name: of.get(row["id"]) for name, of in own.items()}
        )
        for row in rows
    }


_PLACED = select(items, sources.c.path.label("root")).join(sources).order_by(items.c.id)

_BY_ID = Prepared(_PLACED.where(items.c.id.in_(IDS)))

_A_PAGE = Prepared(_PLACED.where(items.c.id > bindparam("last")).limit(bindparam("page")))

_TEXTS = Prepared(
    select(texts).where(texts.c.item_id.in_(IDS)).order_by(texts.c.item_id, texts.c.position)
)


def _said_in(table: Table, key: Column[Any], value: Column[Any]) -> Prepared:
    said = select(table.c.item_id, key, value)
    return Prepared(said.where(table.c.item_id.in_(IDS)).order_by(key))


_SAID = {
    "attributes": _said_in(attributes, attributes.c.key, attributes.c.text),
    "tags": _said_in(tags, tags.c.tag, tags.c.score),
}
"""What users and labels say of an item: name and value."""


def _span(start: float | None, end: float | None, unit: Any) -> Span | None:
    return None if start is None or end is None else Span(start, end, unit)


def _item(row: Any, parts: list[TextPart], own: dict[str, dict[str, Any] | None]) -> Item:
    metadata: dict[str, Any] = {
        "size": row["size"],
        "modified": datetime.fromtimestamp(row["mtime_ns"] / 1e9, UTC).isoformat(
            timespec="seconds"
        ),
    }
    for key in MEDIA_COLUMNS:
        if row[key] is not None:
            metadata[key] = row[key]
    if said := own["attributes"]:
        metadata["meta"] = said
    if labels := own["tags"]:
        metadata["tags"] = sorted(labels, key=lambda label: (-labels[label], label))
    path = os.path.join(row["root"], row["folder"], row["name"])
    return Item(row["id"], path, row["modality"], tuple(parts), metadata)


_KNOWN = ("modality", "size", "mtime_ns", *MEDIA_COLUMNS)


def _of(statement: Select[Any], columns: Any, ids: Sequence[int]) -> Any:
    return statement.where(columns.item_id.in_(ids))
