"""What filters are answered from: the catalog as it is within one reading transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    LargeBinary,
    Select,
    cast,
    func,
    literal,
    select,
    union_all,
)

from mmsearch.errors import InvalidFilter
from mmsearch.filters import KEYS, META, AnyOf, Condition, Filter, Not, Period
from mmsearch.filters.match import folded
from mmsearch.storage.sqlite import facets
from mmsearch.storage.sqlite.change_log import LAST_CHANGE
from mmsearch.storage.sqlite.conditions import compiled, items_and_sources, table_of, value_of
from mmsearch.storage.sqlite.database import driver_of_connection, is_one_of
from mmsearch.storage.sqlite.schema import VECTOR, changes, items, metadata
from mmsearch.storage.sqlite.sql_functions import register_functions
from mmsearch.types import Facets
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GENERATION = "columns upto"
"""The setting that holds the generation of columns."""

DEEPEST = 40
"""Levels to which filters may be nested: Python and SQLite both have a limit."""

MOST_CONDITIONS = 250
MOST_VALUES = 10_000
"""In one filter: SQLite takes expressions of 1,000 levels, and 32,766 parameters."""

_PAGE = 20_000  # rows fetched at a time

_CONNECTION = "mmsearch connection"

_IS_KEY = "SELECT EXISTS (SELECT 1 FROM metadata WHERE key = ?)"

# in one statement: each takes SQLAlchemy 0.1 ms
_STATE = f"""
    SELECT (SELECT value FROM settings WHERE key = 'catalog_id'),
           (SELECT value FROM settings WHERE key = '{GENERATION}'),
           (SELECT coalesce(max(id), 0) FROM items),
           ({LAST_CHANGE})
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Generation:
    """The items that columns are built of, and since when their alterations are logged.

    Attributes:
        name: Random: what is built after a backup was restored is named unlike what was built
            before.
        low: The lowest id of an item.
        upto: The highest.
        begun: The number of the last alteration logged before.
    """

    name: str
    low: int
    upto: int
    begun: int

    def as_text(self) -> str:
        """As the setting has it."""
        return f"{self.upto} {self.low} {self.begun} {self.name}"

    @classmethod
    def of_text(cls, text: str | None) -> Generation | None:
        """The generation of a setting, if it holds one."""
        parts = (text or "").split()
        if len(parts) != 4 or not all(part.isdecimal() for part in parts[:3]):
            return None
        upto, low, begun = map(int, parts[:3])
        return cls(parts[3], low, upto, begun)


class View:
    """One moment of a catalog, as filters see it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        driver = driver_of_connection(connection)
        (version,) = driver.execute("PRAGMA data_version").fetchone()
        own = connection.info.setdefault(_CONNECTION, object())  # no other connection has it
        self.moment = own, version, driver.total_changes
        """Equal for two views of the same content: commits of other connections change the version,
        writes of this one its count of changes."""

    @cached_property
    def _state(self) -> tuple[str, str | None, int, int]:
        catalog_id, generation, highest, logged = self._connection.exec_driver_sql(_STATE).one()
        return catalog_id, generation, highest, logged

    @property
    def catalog_id(self) -> str:
        """Names the catalog."""
        return self._state[0]

    @property
    def generation(self) -> Generation | None:
        """The current generation of columns, if one has begun."""
        return Generation.of_text(self._state[1])

    @property
    def highest(self) -> int:
        """The highest id of an item, 0 if there is none."""
        return self._state[2]

    @property
    def logged(self) -> int:
        """The number of the last alteration that was logged."""
        return self._state[3]

    def check(self, filter_: Filter) -> Filter:
        """The filter with the keys of the user's metadata as they are stored.

        A key that no item has so is one that differs in case, or in how its accents are composed.

        Raises:
            InvalidFilter: it cannot be answered here.
        """
        conditions = list(_conditions(filter_))
        values = [value for one in conditions if one.op == "in" for value in one.value]
        periods = sum(isinstance(value, Period) for value in values)  # each is two comparisons
        if len(conditions) + periods > MOST_CONDITIONS or len(values) > MOST_VALUES:
            raise InvalidFilter(
                f"a filter has at most {MOST_CONDITIONS} conditions and {MOST_VALUES:,} values"
            )
        own = {one.key.removeprefix(META) for one in conditions if one.key not in KEYS}
        stored: dict[str, list[str]] = {}
        for key in sorted(own):
            if not self._connection.exec_driver_sql(_IS_KEY, (key,)).scalar_one():
                there = self.metadata_keys()
                stored[META + key] = alike = [
                    META + one for one in there if folded(one) == folded(key)
                ]
                if not alike:
                    raise InvalidFilter(_unknown(key, there))
        return _with_keys(filter_, stored) if stored else filter_

    def metadata_keys(self) -> list[str]:
        """The keys of the user's own metadata, sorted."""
        found: list[str] = []
        # from one key to the next by the index, past all the items that have it
        while (key := self._connection.execute(_next_key(found)).scalar_one()) is not None:
            found.append(key)
        return found

    # ------------------------------------------------------------------ answers of SQL

    def passing(
        self, filter_: Filter, most: int | None = None, upto: int | None = None
    ) -> NDArray[np.int64]:
        """The ids (n,) of the items that pass, sorted: at most so many, or up to an id."""
        statement = statement_of(filter_).limit(most)
        return self._ids(statement if upto is None else statement.where(items.c.id <= upto))

    def passing_lately(self, filter_: Filter, upto: int) -> NDArray[np.int64]:
        """The same among the items that were altered and those above an id."""
        all_ = items.alias()
        newer = select(all_.c.id).where(all_.c.id > upto)
        return self._passing_in(filter_, union_all(self._altered(), newer))

    def passing_of(self, filter_: Filter, ids: Sequence[int]) -> NDArray[np.int64]:
        """The same among a few items."""
        return self._passing_in(filter_, ids)

    def by_date(self, *, oldest: bool, ids: Sequence[int] | None = None) -> NDArray[np.int64]:
        """The ids (n,) of all items, or of a few, the newest first, or the oldest."""
        statement = facets.by_date(oldest=oldest)
        return self._ids(statement if ids is None else statement.where(is_one_of(items.c.id, ids)))

    def counted(self, names: Iterable[str], ids: Iterable[int] | None = None) -> facets.Counts:
        """How many of some items, or of all, have each value of some facets."""
        return facets.counted(self._connection, names, ids)

    def counted_by_index(self, ids: IdSet) -> facets.Counts:
        """The same of many items, by folder and tag."""
        return facets.counted_by_index(self._connection, ids)

    def ids_above(self, upto: int) -> NDArray[np.int64]:
        """The ids (n,) of the items above one."""
        return self._ids(select(items.c.id).where(items.c.id > upto))

    def as_facets(self, counts: facets.Counts) -> Facets:
        """Counts as users see them."""
        return facets.as_facets(self._connection, counts)

    def _passing_in(self, filter_: Filter, ids: Any) -> NDArray[np.int64]:
        return self._ids(statement_of(filter_, few=True).where(items.c.id.in_(ids)))

    def _ids(self, statement: Select[Any]) -> NDArray[np.int64]:
        import numpy as np

        register_functions(self._connection)
        # the driver takes 0.3 s for a million rows; SQLAlchemy, which copies them, 1.3
        found: Any = self._connection.execute(statement).cursor.fetchall()
        return np.fromiter(chain.from_iterable(found), dtype=np.int64, count=len(found))

    # ------------------------------------------------------------------ what columns are built of

    def altered(self) -> list[int]:
        """The ids of the items altered since the generation began; -1 stands for a source."""
        return list(self._connection.execute(self._altered()).scalars())

    def _altered(self) -> Select[Any]:
        since = 0 if self.generation is None else self.generation.begun
        c = changes.c
        return select(c.item_id).where(c.seq > since, c.what != VECTOR)

    def ids(self, upto: int) -> Iterator[list[tuple[int, int]]]:
        """Pages of (id, 1) of the items up to an id."""
        return self._pages(select(items.c.id, literal(1)).where(items.c.id <= upto))

    def values(
        self, key: str, upto: int, *, numbers: bool = False
    ) -> Iterator[list[tuple[int, Any]]]:
        """Pages of (item id, value) of the items up to an id that have a key; texts are bytes.

        Args:
            key: A key with a stored value.
            upto: The last item's id.
            numbers: Of the user's own metadata, those that read as numbers, as numbers.
        """
        if key.startswith(META):
            c = metadata.c
            value: ColumnElement[Any] = c.number if numbers else cast(c.text, LargeBinary)
            id_ = c.item_id
            chosen = select(id_, value).where(c.key == key.removeprefix(META))
        else:
            declared, table = KEYS[key], table_of(KEYS[key])
            value, id_ = value_of(declared), items.c.id if table is items else table.c.item_id
            is_text = declared.type.compared_as == "text"
            if is_text or declared.type.encode is datetime.isoformat:
                value = cast(value, LargeBinary)
            chosen = select(id_, value)
        return self._pages(chosen.where(value.is_not(None), id_ <= upto))

    def _pages(self, statement: Select[Any]) -> Iterator[list[tuple[int, Any]]]:
        # the driver's rows: SQLAlchemy's take four times as long
        cursor: Any = self._connection.execute(statement).cursor
        while page := cursor.fetchmany(_PAGE):
            yield page


def statement_of(filter_: Filter, *, few: bool = False) -> Select[Any]:
    """Selects the ids of the items that pass, sorted; `few` as `compiled` has it."""
    chosen = select(items.c.id).select_from(items_and_sources)
    return chosen.where(compiled(filter_, few=few)).order_by(items.c.id)


def _conditions(filter_: Filter) -> Iterator[Condition]:
    """All conditions of a filter."""
    level, waiting = 0, [filter_]
    while waiting:
        if level == DEEPEST:
            raise InvalidFilter(f"a filter is nested {DEEPEST // 2} deep at most")
        level, parts = level + 1, [one for part in waiting for one in part.conditions]
        yield from (one for one in parts if isinstance(one, Condition))
        waiting = [one.filter for one in parts if isinstance(one, Not)]
        waiting += [part for one in parts if isinstance(one, AnyOf) for part in one.filters]


def _with_keys(filter_: Filter, stored: Mapping[str, Sequence[str]]) -> Filter:
    """A filter with other keys in place of some, any of which may fulfil a condition."""

    def renamed(one: Condition | AnyOf | Not) -> Condition | AnyOf | Not:
        if isinstance(one, Not):
            return Not(_with_keys(one.filter, stored))
        if isinstance(one, AnyOf):
            return AnyOf(tuple(_with_keys(part, stored) for part in one.filters))
        if one.key not in stored:
            return one
        ways = [replace(one, key=key) for key in stored[one.key]]
        return ways[0] if len(ways) == 1 else AnyOf(tuple(Filter((way,)) for way in ways))

    return Filter(tuple(map(renamed, filter_.conditions)))


def _unknown(key: str, own: Sequence[str]) -> str:
    from difflib import get_close_matches

    known = [*KEYS, *(f"{META}{one}" if one in KEYS else one for one in own)]
    near = get_close_matches(key, known, 1)
    perhaps = f"; did you mean {near[0]!r}?" if near else ";"
    mine = f"; and of metadata: {', '.join(known[len(KEYS) :])}" if own else ""
    return f"no item has a key {key!r}{perhaps} there are: {', '.join(KEYS)}{mine}"


def _next_key(before: Sequence[str]) -> Select[Any]:
    next_ = select(func.min(metadata.c.key))
    return next_.where(metadata.c.key > before[-1]) if before else next_
