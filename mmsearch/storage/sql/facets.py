"""How many items have each value of a facet, and the order of items by date."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, Text, case, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from mmsearch.storage.sql.schema import items, sources, tags
from mmsearch.types import FacetCount, Facets

Counts = dict[str, Counter[Any]]
"""By facet, how many items have each value: "kind", "month", "camera", "tag", and "folder", whose
values are (source id, path below the source)."""

_c = items.c


class _UtcTime(FunctionElement[str]):
    """A time in nanoseconds since 1970 as ISO 8601, in UTC, to the second."""

    type = Text()
    inherit_cache = True


@compiles(_UtcTime)
def _by_sqlite(element: _UtcTime, compiler: Any, **options: Any) -> str:
    number = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%dT%H:%M:%S', {number} / 1000000000, 'unixepoch')"


@compiles(_UtcTime, "postgresql")
def _by_postgresql(element: _UtcTime, compiler: Any, **options: Any) -> str:
    seconds = f"to_timestamp({compiler.process(element.clauses, **options)} / 1000000000)"
    shown = f"to_char({seconds} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS')"
    return f'{shown} COLLATE "C"'


_MODIFIED = _UtcTime(_c.mtime_ns)

_DATE: ColumnElement[Any] = func.coalesce(_c.taken_at, case((_c.mtime_ns != 0, _MODIFIED)))
"""When an item was taken, else modified, ISO 8601; NULL if neither is known."""


COLUMNS: dict[str, tuple[ColumnElement[Any], ...]] = {
    "kind": (_c.kind, _c.id),
    "month": (func.substr(_DATE, 1, 7), _c.id),
    "camera": (_c.camera, _c.id),
    "folder": (_c.source_id, _c.folder, _c.id),
    "tag": (tags.c.tag, tags.c.item_id),
}
"""By facet, its value and, at last, the id of the item that has it."""

FACETS, BY_INDEX = tuple(COLUMNS), ("folder", "tag")
"""All facets; those whose values come in the order of an index."""


def by_date(*, oldest: bool) -> Select[Any]:
    """Selects the ids of all items, the newest first, or the oldest."""
    date = _DATE.asc() if oldest else _DATE.desc()
    return select(_c.id).order_by(_DATE.is_(None), date, _c.id)


def counted(
    connection: Connection,
    names: Iterable[str],
    is_one: Callable[[ColumnElement[int]], ColumnElement[bool]] | None = None,
) -> Counts:
    """How many of some items, or of all, have each value of some facets; none is not counted.

    Args:
        connection: In a transaction.
        names: The facets.
        is_one: Takes an id, and tells whether the item is one of those to count; None: all are.
    """
    found: Counts = {}
    for name in names:
        *value, id_ = COLUMNS[name]
        counting = select(*value, func.count()).group_by(*value).where(value[0].is_not(None))
        if is_one is not None:
            counting = counting.where(is_one(id_))
        found[name] = Counter({key_of(row): row[-1] for row in connection.execute(counting)})
    return found


def key_of(row: Any) -> Any:
    """The value of a row, whose last field is about it."""
    return row[0] if len(row) == 2 else tuple(row[:-1])


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
