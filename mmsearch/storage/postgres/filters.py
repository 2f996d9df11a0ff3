"""Which items pass a filter: conditions that PostgreSQL evaluates, wherever they are needed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from sqlalchemy import ColumnElement, Connection, Select, func, select

from mmsearch.filters import Filter
from mmsearch.filters.check import checked
from mmsearch.storage.postgres import functions
from mmsearch.storage.sql import facets
from mmsearch.storage.sql.conditions import Dialect, Expression, compiled, items_and_sources
from mmsearch.storage.sql.database import Prepared, driver_of_connection, is_one_of
from mmsearch.storage.sql.schema import items, metadata
from mmsearch.storage.store import FilterStore
from mmsearch.types import Facets
from mmsearch.vectors.id_set import FEW, IdSet, LazyIdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage.postgres.database import Database

ANSWERS = 16
"""How many filters' counts and ids, metadata keys, and orders by date are cached until the index
changes."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class PassingItems(LazyIdSet):
    """The items that pass a filter, which is evaluated wherever a statement needs them.

    Attributes:
        sql: The subquery of their ids.
    """

    def __init__(self, database: Database, filter_: Filter) -> None:
        self.sql = FilterSql(database, filter_)
        super().__init__(filter_, self.sql.count, self.sql.fetch)
        self._at_least = 0

    def count_up_to(self, most: int) -> int:
        """How many there are, or `most` if there are more; if fewer, the ids are kept, too."""
        if self.is_counted:
            return min(len(self), most)
        if self._at_least >= most:
            return most
        found = self.sql.ids_up_to(most)  # a local: other threads count the same set
        if len(found) < most:
            self._whole = IdSet.of(found)
        else:
            self._at_least = max(self._at_least, most)
        return len(found)

    @property
    def fits_in_parameter(self) -> bool:
        """Whether the ids are known, and few enough for a parameter of a statement."""
        return self.is_fetched and len(self) <= FEW


class FilterSql:
    """A filter as a subquery, for the driver's own statements."""

    def __init__(self, database: Database, filter_: Filter) -> None:
        self._database, self._filter = database, filter_

    @cached_property
    def ids(self) -> tuple[str, dict[str, Any]]:
        """A subquery of the ids that pass, and its parameters."""
        return Prepared(passing(self._filter).order_by(None)).for_server

    @cached_property
    def ids_of_few(self) -> tuple[str, dict[str, Any]]:
        """The same where few items are tried."""
        return Prepared(passing(self._filter, few=True).order_by(None)).for_server

    def count(self) -> int:
        """How many pass."""
        ids, parameters = self.ids
        return int(self._value(f"SELECT count(*) FROM ({ids}) AS passing", parameters))  # noqa: S608 - parameters

    def ids_up_to(self, most: int) -> list[int]:
        """Up to `most` of the ids that pass."""
        ids, parameters = self.ids
        with self._database.read() as connection:
            driver = driver_of_connection(connection)
            with driver.pipeline():
                driver.execute(_NESTED_LOOPS_ONLY, prepare=True)
                statement = f"SELECT ARRAY({ids} LIMIT {most:d})"
                found = driver.execute(statement, parameters, prepare=True, binary=True)
                driver.execute(_BY_ANY_PLAN, prepare=True)
            return list(found.fetchone()[0])

    def count_among(self, ids: list[int]) -> int:
        """How many of some ids pass."""
        few, parameters = self.ids_of_few
        counted = f"SELECT count(*) FROM ({few}) AS passing WHERE id = ANY(%(among)s)"  # noqa: S608
        return int(self._value(counted, {**parameters, "among": ids}))

    def _value(self, statement: str, parameters: dict[str, Any]) -> Any:
        with self._database.read() as connection:
            driver = driver_of_connection(connection)
            found = driver.execute(statement, parameters, prepare=True, binary=True)
            return found.fetchone()[0]

    def fetch(self, among: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """The ids that pass, of all or of some."""
        with self._database.read() as connection:
            if among is None:
                return _ids(connection, passing(self._filter))
            some = passing(self._filter, few=True).where(is_one_of(items.c.id, among.tolist()))
            return _ids(connection, some)


_NESTED_LOOPS_ONLY, _BY_ANY_PLAN = (
    "SELECT "
    + ", ".join(
        f"set_config('enable_{plan}', {value}, true)"
        for plan in ("hashjoin", "mergejoin", "seqscan")
    )
    for value in ("'off'", "NULL")  # NULL: what the connection began with
)
"""The planner knows the numbers of all keys of metadata together, and so expects a third of the
items where few pass. It would read whole tables; nested loops read what passes, up to a limit."""


class Filters(FilterStore):
    """Answers filters, by statements whose conditions are the filter's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers: _Recent[tuple[int, Filter], PassingItems] = _Recent()
        self._orders: _Recent[tuple[int, bool], NDArray[np.int64]] = _Recent()
        self._keys: _Recent[tuple[int, str], bool] = _Recent()

    def matching(self, filter_: Filter, most: int | None = None) -> NDArray[np.int64]:
        with self._database.read() as connection:
            return _ids(connection, passing(self._checked(connection, filter_)).limit(most))

    def passing(self, filter_: Filter) -> IdSet:
        with self._database.read() as connection:
            return self._answers.get(
                (self._database.moment(), filter_),
                lambda: PassingItems(self._database, self._checked(connection, filter_)),
            )

    def _checked(self, connection: Connection, filter_: Filter) -> Filter:
        moment = self._database.moment()

        def is_key(key: str) -> bool:
            there = select(select(metadata.c.key).where(metadata.c.key == key).exists())
            return self._keys.get(
                (moment, key), lambda: bool(connection.execute(there).scalar_one())
            )

        def keys() -> list[str]:
            found: list[str] = []
            # from one key to the next by the index, past all the items that have it
            next_ = select(func.min(metadata.c.key, type_=metadata.c.key.type))
            while key := connection.execute(
                next_.where(metadata.c.key > found[-1]) if found else next_
            ).scalar_one():
                found.append(key)
            return found

        return checked(filter_, is_key, keys)

    def by_date(self, ids: IdSet | None = None, *, oldest: bool = False) -> NDArray[np.int64]:
        with self._database.read() as connection:
            statement = facets.by_date(oldest=oldest)
            if ids is not None:
                return _ids(connection, statement.where(is_in(items.c.id, ids)))
            key = self._database.moment(), oldest
            return self._orders.get(key, lambda: _ids(connection, statement))

    def facets(self, ids: IdSet | None = None) -> Facets:
        def is_one(id_: ColumnElement[int]) -> Expression:
            assert ids is not None
            return is_in(id_, ids)

        with self._database.read() as connection:
            counts = facets.counted(connection, facets.FACETS, None if ids is None else is_one)
            return facets.as_facets(connection, counts)


def passing(filter_: Filter, *, few: bool = False) -> Select[Any]:
    """Selects the ids of the items that pass, sorted; `few` as `Dialect` has it."""
    chosen = select(items.c.id).select_from(items_and_sources)
    return chosen.where(compiled(filter_, Dialect(functions, few))).order_by(items.c.id)


def is_in(id_: ColumnElement[int], ids: IdSet) -> Expression:
    """Whether an id is in a set: by the filter itself, if it is one that passes a filter."""
    if isinstance(ids, LazyIdSet):
        return id_.in_(passing(ids.condition).order_by(None).correlate(None))
    found: Expression = is_one_of(id_, ids.ids.tolist())
    return found


def _ids(connection: Connection, statement: Select[Any]) -> NDArray[np.int64]:
    import numpy as np

    return np.fromiter(connection.execute(statement).scalars(), np.int64)


class _Recent(Generic[Key, Value]):
    """A cache of the last ANSWERS values, which threads share."""

    def __init__(self) -> None:
        self._values: dict[Key, Value] = {}
        self._lock = Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key; it is made, outside the lock, if it is not cached."""
        if (known := self._values.get(key)) is not None:
            return known
        made = make()
        with self._lock:
            if len(self._values) >= ANSWERS:
                del self._values[next(iter(self._values))]
            return self._values.setdefault(key, made)
