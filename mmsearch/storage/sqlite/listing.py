"""All that is stored, read page by page: for what goes through millions of items."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from sqlalchemy import Select, func, select

from mmsearch.storage.sqlite.records import DETAILS
from mmsearch.storage.sqlite.schema import attributes, items, sources, tags, texts, vectors
from mmsearch.storage.sqlite.spaces import Space
from mmsearch.storage.sqlite.store import MAX_PARAMETERS, Store, chunks
from mmsearch.types import Kind

PAGE = 5_000
"""Items that a list reads at once."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An item as a list has it."""

    id: int
    path: str
    modality: Kind
    size: int
    """Bytes."""
    mtime_ns: int
    taken_at: str | None

    @property
    def date(self) -> str:
        """When it was taken, else last modified, ISO 8601; "" if neither is known."""
        if self.taken_at or not self.mtime_ns:
            return self.taken_at or ""
        moment = datetime.fromtimestamp(self.mtime_ns / 1e9, UTC)
        return moment.isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Whole:
    """An item with all that is known of it but its hash.

    Attributes:
        id: In the catalog.
        path: Whole; names that are not UTF-8 have surrogate escapes.
        columns: modality, size, mtime_ns, width and so on, None where not known.
        texts: (origin, text, start, end, unit) each.
        metadata: The user's, by key.
        tags: Scores by tag.
        vectors: (facet, position, start, end, unit, float16 bytes) each.
    """

    id: int
    path: str
    columns: dict[str, Any]
    texts: list[tuple[Any, ...]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    tags: dict[str, float] = field(default_factory=dict)
    vectors: list[tuple[Any, ...]] = field(default_factory=list)


class ListTables(Store):
    """Going through everything."""

    def listed(self, ids: Any = None, limit: int | None = None) -> Iterator[Listed]:
        """Items in order of id, a page at a time; each page is as the catalog then is.

        Args:
            ids: Only these, sorted.
            limit: At most so many.
        """
        c = items.c
        columns = (c.id, sources.c.path, c.folder, c.name, c.modality, c.size, c.mtime_ns)
        base = select(*columns, c.taken_at).join(sources).order_by(c.id)
        found = (
            Listed(id_, os.path.join(root, folder, name), *rest)
            for rows in self._pages(base, ids, PAGE)
            for id_, root, folder, name, *rest in rows
        )
        return islice(found, limit)

    def whole(self, space: Space | None, ids: Any = None) -> Iterator[list[Whole]]:
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
                id_: Whole(
                    id_,
                    os.path.join(root, folder, name),
                    dict(zip(_KNOWN, rest, strict=True)),
                )
                for id_, root, folder, name, *rest in rows
            }
            self._complete(page, space)
            yield list(page.values())

    def _complete(self, page: dict[int, Whole], space: Space | None) -> None:
        given = list(page)
        t, v = texts.c, vectors.c
        said = select(t.item_id, t.origin, t.text, t.start, t.end, t.unit)
        for id_, *rest in self._rows(_of(said, t, given).order_by(t.item_id, t.position)):
            page[id_].texts.append(tuple(rest))
        own = select(attributes.c.item_id, attributes.c.key, attributes.c.text)
        for id_, key, text in self._rows(_of(own, attributes.c, given).order_by(attributes.c.key)):
            page[id_].metadata[key] = text
        labels = select(tags.c.item_id, tags.c.tag, tags.c.score)
        for id_, tag, score in self._rows(_of(labels, tags.c, given).order_by(tags.c.tag)):
            page[id_].tags[tag] = score
        if space is not None:
            made = select(v.item_id, v.facet, v.position, v.start, v.end, v.unit, v.vector)
            mine = _of(made, v, given).where(v.space_id == space.id)
            for id_, *rest in self._rows(mine.order_by(v.item_id, v.facet, v.position)):
                page[id_].vectors.append(tuple(rest))

    def count_vectors_of(self, space: Space, ids: Any = None) -> int:
        """How many vectors a space has, of some items or of all."""
        c = vectors.c
        counted: Select[Any] = (
            select(func.count()).select_from(vectors).where(c.space_id == space.id)
        )
        if ids is None:
            return int(self._scalars(counted)[0])
        given = [int(id_) for id_ in ids]
        return sum(int(self._scalars(_of(counted, c, part))[0]) for part in chunks(given))

    def _pages(self, base: Select[Any], ids: Any, size: int) -> Iterator[list[Any]]:
        if ids is not None:
            for part in chunks([int(id_) for id_ in ids]):
                yield self._rows(base.where(items.c.id.in_(part)))
            return
        last = 0
        while rows := self._rows(base.where(items.c.id > last).limit(size)):
            yield rows
            last = rows[-1][0]


_KNOWN = ("modality", "size", "mtime_ns", *DETAILS)


def _of(statement: Select[Any], columns: Any, ids: Sequence[int]) -> Any:
    return statement.where(columns.item_id.in_(ids))
