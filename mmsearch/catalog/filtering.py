"""Which items pass a filter, and what the user's own metadata say of them.

A filter becomes a SQLAlchemy expression in which whatever a user typed is a bound parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, delete, exists, func, insert, select

from mmsearch.catalog.conditions import compiled
from mmsearch.catalog.lent import lend_functions
from mmsearch.catalog.store import Store, chunks
from mmsearch.errors import InvalidFilter
from mmsearch.filters import KEYS, META, Condition, Filter, Not, Period
from mmsearch.filters.values import number_in
from mmsearch.schema import attributes, items, sources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_CONDITIONS = 250
MOST_VALUES = 10_000
"""In one filter: SQLite takes 1,000 expressions one in the other, and 32,766 parameters."""

_TOGETHER = 2_000  # items whose attributes are written by one statement


class FilterTables(Store):
    """Answers filters; keeps the user's own metadata of the items."""

    def passing(self, filter_: Filter, most: int | None = None) -> NDArray[np.int64]:
        """The ids of the items that pass, sorted.

        Args:
            filter_: What must hold.
            most: Stop at so many.

        Raises:
            InvalidFilter: it names a key that no item has, or is too long.
        """
        import numpy as np

        self._check(filter_)
        statement = statement_of(filter_).limit(most)
        with self._read() as connection:
            lend_functions(connection)
            # a million rows take the driver 0.3 s, and SQLAlchemy, who makes them its own, 1.3
            found: Any = connection.execute(statement).cursor.fetchall()
        return np.fromiter(chain.from_iterable(found), dtype=np.int64, count=len(found))

    def metadata_keys(self) -> list[str]:
        """The keys of the user's own metadata, sorted."""
        found: list[str] = []
        with self._read() as connection:
            # from one key to the next by the index, past all the items that have it
            while (key := connection.execute(_next_key(found)).scalar_one()) is not None:
                found.append(key)
        return found

    def set_attributes(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Keep what a metadata file says of some items, in the place of what was kept of them.

        Args:
            rows: (item id, its metadata); None is as if not there. An item that is gone by now is
                left out.
        """
        with self._write() as connection:
            waiting = iter(rows)
            while some := dict(islice(waiting, _TOGETHER)):
                _replace(connection, some)

    def attributes(self, ids: Sequence[int]) -> dict[int, dict[str, str | float]]:
        """By item id, what the user's own metadata say: numbers where they read as such."""
        c = attributes.c
        base = select(c.item_id, c.key, c.text, c.number).order_by(c.item_id, c.key)
        found: dict[int, dict[str, str | float]] = {}
        for part in chunks(sorted(set(ids))):
            rows = self._rows(base.where(c.item_id.in_(part)))
            for item_id, own in groupby(rows, key=lambda row: row.item_id):
                found[item_id] = {key: _value(text, number) for _, key, text, number in own}
        return found

    def places(self, page: int = 20_000) -> Iterator[tuple[int, str, str, str]]:
        """(id, source, folder below it, name) of every item in order of id, read page by page."""
        c = items.c
        base = select(c.id, sources.c.path, c.folder, c.name).join(sources).order_by(c.id)
        last = 0
        while rows := self._rows(base.where(c.id > last).limit(page)):
            yield from map(tuple, rows)
            last = rows[-1].id

    def _check(self, filter_: Filter) -> None:
        """Raise InvalidFilter for a filter that cannot be answered here."""
        conditions = list(_conditions(filter_))
        values = [value for one in conditions if one.op == "in" for value in one.value]
        periods = sum(isinstance(value, Period) for value in values)  # each is two comparisons
        if len(conditions) + periods > MOST_CONDITIONS or len(values) > MOST_VALUES:
            raise InvalidFilter(
                f"a filter has at most {MOST_CONDITIONS} conditions and {MOST_VALUES:,} values"
            )
        unknown = {one.key for one in conditions if one.key not in KEYS}
        with self._read() as connection:
            for key in sorted(unknown):
                of_key = exists().where(attributes.c.key == key.removeprefix(META))
                if not connection.execute(select(of_key)).scalar_one():
                    break
            else:
                return
        raise InvalidFilter(_unknown(key.removeprefix(META), self.metadata_keys()))


def statement_of(filter_: Filter) -> Select[Any]:
    """Selects the ids of the items that pass, sorted."""
    return select(items.c.id).where(compiled(filter_)).order_by(items.c.id)


def _conditions(filter_: Filter) -> Iterator[Condition]:
    """All conditions of a filter, however deep."""
    waiting = [filter_]
    while waiting:
        for one in waiting.pop().conditions:
            if isinstance(one, Condition):
                yield one
            elif isinstance(one, Not):
                waiting.append(one.filter)
            else:
                waiting += one.filters


def _unknown(key: str, own: Sequence[str]) -> str:
    known = [*KEYS, *(f"{META}{one}" if one in KEYS else one for one in own)]
    near = get_close_matches(key, known, 1)
    perhaps = f"; did you mean {near[0]!r}?" if near else ";"
    mine = f"; and of your own metadata: {', '.join(known[len(KEYS) :])}" if own else ""
    return f"no item has a key {key!r}{perhaps} there are: {', '.join(KEYS)}{mine}"


def _next_key(before: Sequence[str]) -> Select[Any]:
    next_ = select(func.min(attributes.c.key))
    return next_.where(attributes.c.key > before[-1]) if before else next_


def _replace(connection: Connection, some: Mapping[int, Mapping[str, Any]]) -> None:
    """Write the attributes of some items in the place of those they have."""
    there: set[int] = set()
    for part in chunks(list(some)):
        there.update(connection.execute(select(items.c.id).where(items.c.id.in_(part))).scalars())
        connection.execute(delete(attributes).where(attributes.c.item_id.in_(part)))
    rows = [
        {"item_id": item_id, "key": key, "text": text, "number": number_in(text)}
        for item_id, metadata in some.items()
        if item_id in there
        for key, text in _texts(metadata).items()
    ]
    if rows:
        connection.execute(insert(attributes), rows)


def _texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    return {
        _clean(key): str(value).lower() if isinstance(value, bool) else _clean(str(value))
        for key, value in metadata.items()
        if value is not None
    }


def _value(text: str, number: float | None) -> str | float:
    """A text as a number, if that is written just so: "5" and "4.5" are, "007" is none."""
    if number is not None:
        for read in (int, float):
            with suppress(ValueError):
                if str(read(text)) == text:
                    return read(text)
    return text


def _clean(text: str) -> str:
    """A text as the database can hold it: without halves of characters, and without NULs."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
