"""How many items have each value of a facet, and the order of items by date."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Select, case, func, select

from mmsearch.storage.sqlite.database import is_one_of
from mmsearch.storage.sqlite.schema import items, sources, tags
from mmsearch.types import FacetCount, Facets

if TYPE_CHECKING:
    from mmsearch.vectors.id_set import IdSet

Counts = dict[str, Counter[Any]]
"""By facet, how many items have each value: "kind", "month", "camera", "tag", and "folder", whose
values are (source id, path below the source)."""

_c = items.c

_MODIFIED = func.strftime("%Y-%m-%dT%H:%M:%S", _c.mtime_ns // 1_000_000_000, "unixepoch")

_DATE: ColumnElement[Any] = func.coalesce(_c.taken_at, case((_c.mtime_ns != 0, _MODIFIED)))
"""When an item was taken, else modified, ISO 8601; NULL if neither is known."""


_COLUMNS: dict[str, tuple[ColumnElement[Any], ...]] = {
    "kind": (_c.kind, _c.id),
    "month": (func.substr(_DATE, 1, 7), _c.id),
    "camera": (_c.camera, _c.id),
    "folder": (_c.source_id, _c.folder, _c.id),
    "tag": (tags.c.tag, tags.c.item_id),
}
"""By facet, its value and, at last, the id of the item that has it."""

FACETS, BY_INDEX = tuple(_COLUMNS), ("folder", "tag")
"""All facets; those whose values come in the order of an index."""


def by_date(*, oldest: bool) -> Select[Any]:
    """Selects the ids of all items, the newest first, or the oldest."""
    date = _DATE.asc() if oldest else _DATE.desc()
    return select(_c.id).order_by(_DATE.is_(None), date, _c.id)


def counted(connection: Connection, names: Iterable[str], ids: Iterable[int] | None) -> Counts:
    """How many of some items, or of all, have each value of some facets; none is not counted."""
    found: Counts = {}
    for name in names:
        *value, id_ = _COLUMNS[name]
        counting = select(*value, func.count()).group_by(*value).where(value[0].is_not(None))
        if ids is not None:
            counting = counting.where(is_one_of(id_, ids))
        rows: Any = connection.execute(counting).cursor.fetchall()
        found[name] = Counter({_key(row): row[-1] for row in rows})
    return found


def counted_by_index(connection: Connection, ids: IdSet) -> Counts:
    """The same of many items by folder and tag, whose indexes name the items of each value."""
    import numpy as np

    found: Counts = {}
    for name in BY_INDEX:
        *value, id_ = _COLUMNS[name]
        listing = select(*value, func.group_concat(id_)).group_by(*value)
        rows: Any = connection.execute(listing).cursor
        found[name] = Counter()
        for row in rows:
            number = np.count_nonzero(ids.contains(np.fromstring(row[-1], np.int64, sep=",")))
            if number:
                found[name][_key(row)] = int(number)
    return found


def _key(row: tuple[Any, ...]) -> Any:
    """The value of a row, whose last field is about it."""
    return row[0] if len(row) == 2 else row[:-1]


def as_facets(connection: Connection, counts: Counts) -> Facets:
    """The counts as users see them: folders as absolute paths, years beside the months."""
    years: Counter[str] = Counter()
    for month, number in counts["month"].items():
        years[month[:4]] += number
    roots: Any = dict(connection.execute(select(sources.c.id, sources.c.path)).all())
    folders: Counter[str] = Counter()
    for (root, below), number in counts["folder"].items():
        folder = os.path.join(roots[root], below) if below else roots[root]
        if folder:  # rows may have been imported under a name alone
            folders[folder] += number
    return Facets(
        kind=_most_frequent(counts["kind"]),
        year=_in_order(years),
        month=_in_order(counts["month"]),
        folder=_most_frequent(folders),
        camera=_most_frequent(counts["camera"]),
        tag=_most_frequent(counts["tag"]),
        counted=counts["kind"].total(),
    )


def _most_frequent(counts: Counter[str]) -> list[FacetCount]:
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return [FacetCount(*pair) for pair in ordered]


def _in_order(counts: Counter[str]) -> list[FacetCount]:
    return [FacetCount(*pair) for pair in sorted(counts.items())]
