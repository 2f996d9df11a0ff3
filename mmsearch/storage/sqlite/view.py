"""What filters are answered from, as it is within one transaction that reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, func, select, union_all

from mmsearch.errors import InvalidFilter
from mmsearch.filters import KEYS, META, AnyOf, Condition, Filter, Not, Period
from mmsearch.storage.sqlite.conditions import compiled
from mmsearch.storage.sqlite.schema import altered, attributes, items, sources
from mmsearch.storage.sqlite.sql_functions import register_functions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COLUMNS_UPTO = "columns upto"
"""The setting that says of which items the columns for filters are made."""

DEEPEST = 40
"""Filters one in the other: Python and SQLite both have a bound."""

MOST_CONDITIONS = 250
MOST_VALUES = 10_000
"""In one filter: SQLite takes 1,000 expressions one in the other, and 32,766 parameters."""

_PAGE = 20_000  # rows that are fetched at a time

_SEEN = "mmsearch seen"

_IS_KEY = "SELECT EXISTS (SELECT 1 FROM attributes WHERE key = ?)"

LAST_FILED = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'altered'"
"""The number of the last alteration that was filed; those that are forgotten count too."""

# in one statement: each takes SQLAlchemy 0.1 ms
_STATE = f"""
    SELECT (SELECT value FROM state WHERE key = 'catalog_id'),
           (SELECT value FROM state WHERE key = '{COLUMNS_UPTO}'),
           (SELECT coalesce(max(id), 0) FROM items),
           ({LAST_FILED})
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class Era:
    """Which items columns are made of, and since when alterations of them are filed.

    Attributes:
        name: A random one: when a catalog is restored, what is then made has another name than
            what was made before.
        low: The lowest id of an item.
        upto: The highest.
        begun: Up to here alterations were filed before.
    """

    name: str
    low: int
    upto: int
    begun: int

    def written(self) -> str:
        """As the setting has it."""
        return f"{self.upto} {self.low} {self.begun} {self.name}"

    @classmethod
    def read(cls, written: str | None) -> Era | None:
        """What `written` gave; None for anything else."""
        parts = (written or "").split()
        if len(parts) != 4 or not all(part.isdecimal() for part in parts[:3]):
            return None
        upto, low, begun = map(int, parts[:3])
        return cls(parts[3], low, upto, begun)


class View:
    """One moment of a catalog, as filters see it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        driver: Any = connection.connection.dbapi_connection
        version = connection.exec_driver_sql("PRAGMA data_version").scalar_one()
        # what others commit changes the version, and what this connection writes its own count
        self.moment = connection.info.setdefault(_SEEN, _Seen()), version, driver.total_changes
        """Equal for two views of which nothing can tell a difference."""

    @cached_property
    def _state(self) -> tuple[str, str | None, int, int]:
        catalog_id, era, highest, filed = self._connection.exec_driver_sql(_STATE).one()
        return catalog_id, era, highest, filed

    @property
    def catalog_id(self) -> str:
        """Names the catalog."""
        return self._state[0]

    @property
    def era(self) -> Era | None:
        """What columns are to be made of, if that was ever said."""
        return Era.read(self._state[1])

    @property
    def highest(self) -> int:
        """The highest id of an item, 0 without any."""
        return self._state[2]

    @property
    def filed(self) -> int:
        """The number of the last alteration that was filed."""
        return self._state[3]

    @cached_property
    def sources(self) -> dict[int, str]:
        """The folders that were indexed, by id."""
        rows = self._connection.execute(select(sources.c.id, sources.c.path))
        return dict(map(tuple, rows.all()))

    def check(self, filter_: Filter) -> None:
        """Raise InvalidFilter for a filter that cannot be answered here."""
        conditions = list(_conditions(filter_))
        values = [value for one in conditions if one.op == "in" for value in one.value]
        periods = sum(isinstance(value, Period) for value in values)  # each is two comparisons
        if len(conditions) + periods > MOST_CONDITIONS or len(values) > MOST_VALUES:
            raise InvalidFilter(
                f"a filter has at most {MOST_CONDITIONS} conditions and {MOST_VALUES:,} values"
            )
        own = {one.key.removeprefix(META) for one in conditions if one.key not in KEYS}
        for key in sorted(own):
            if not self._connection.exec_driver_sql(_IS_KEY, (key,)).scalar_one():
                raise InvalidFilter(_unknown(key, self.metadata_keys()))

    def metadata_keys(self) -> list[str]:
        """The keys of the user's own metadata, sorted."""
        found: list[str] = []
        # from one key to the next by the index, past all the items that have it
        while (key := self._connection.execute(_next_key(found)).scalar_one()) is not None:
            found.append(key)
        return found

    def altered(self) -> list[tuple[int, int]]:
        """(number, item id) of what was altered since the era began; -1 stands for a source."""
        rows = self._connection.execute(select(altered.c.seq, altered.c.item_id))
        return list(map(tuple, rows.all()))

    def passing(
        self, filter_: Filter, most: int | None = None, upto: int | None = None
    ) -> NDArray[np.int64]:
        """The ids of the items that pass, sorted; of the first `most`, or of those up to an id."""
        statement = statement_of(filter_).limit(most)
        return self._ids(statement if upto is None else statement.where(items.c.id <= upto))

    def passing_lately(self, filter_: Filter, upto: int) -> NDArray[np.int64]:
        """The same of the items that were altered, and of those behind an id."""
        all_ = items.alias()
        newer = select(all_.c.id).where(all_.c.id > upto)
        asked = union_all(select(altered.c.item_id), newer)
        chosen = select(items.c.id).where(compiled(filter_, few=True), items.c.id.in_(asked))
        return self._ids(chosen.order_by(items.c.id))

    def passing_of(self, filter_: Filter, ids: Sequence[int]) -> NDArray[np.int64]:
        """The same of a few items."""
        chosen = select(items.c.id).where(compiled(filter_, few=True), items.c.id.in_(ids))
        return self._ids(chosen.order_by(items.c.id))

    def pages(self, sql: str, parameters: tuple[Any, ...]) -> Iterator[list[tuple[Any, ...]]]:
        """Rows as the driver gives them, many at a time: SQLAlchemy's take four times as long."""
        cursor: Any = self._connection.exec_driver_sql(sql, parameters).cursor
        while page := cursor.fetchmany(_PAGE):
            yield page

    def _ids(self, statement: Select[Any]) -> NDArray[np.int64]:
        import numpy as np

        register_functions(self._connection)
        # a million rows take the driver 0.3 s, and SQLAlchemy, who makes them its own, 1.3
        found: Any = self._connection.execute(statement).cursor.fetchall()
        return np.fromiter(chain.from_iterable(found), dtype=np.int64, count=len(found))


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


def _unknown(key: str, own: Sequence[str]) -> str:
    known = [*KEYS, *(f"{META}{one}" if one in KEYS else one for one in own)]
    near = get_close_matches(key, known, 1)
    perhaps = f"; did you mean {near[0]!r}?" if near else ";"
    mine = f"; and of your own metadata: {', '.join(known[len(KEYS) :])}" if own else ""
    return f"no item has a key {key!r}{perhaps} there are: {', '.join(KEYS)}{mine}"


def _next_key(before: Sequence[str]) -> Select[Any]:
    next_ = select(func.min(attributes.c.key))
    return next_.where(attributes.c.key > before[-1]) if before else next_


class _Seen:
    """Tells one connection from all others, also from those that come after it."""


def statement_of(filter_: Filter) -> Select[Any]:
    """Selects the ids of the items that pass, sorted."""
    return select(items.c.id).where(compiled(filter_)).order_by(items.c.id)
