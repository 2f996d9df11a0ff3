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
from mmsearch.vectors.id_set import IdSet, LazyIdSet

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
        self._least = 0

    def count_up_to(self, most: int) -> int:
        """How many there are, or `most` if there are more; these are not counted."""
        if (counted := self.counted) is not None:
            return min(counted, most)
        if self._least >= most:
            return most
        found = self.sql.count(most)  # a local: other threads count the same set
        if found < most:
            self._size = found
        else:
            self._least = max(self._least, found)
        return found

    @property
    def counted(self) -> int | None:
        """How many there are; None if they have not been counted."""
        return len(self) if self.is_fetched or "_size" in self.__dict__ else None


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

    def count(self, most: int | None = None) -> int:
        """How many pass, counted up to `most`."""
        ids, parameters = self.ids
        limit = "" if most is None else f" LIMIT {most:d}"
        statement = f"SELECT count(*) FROM ({ids}{limit}) AS passing"  # noqa: S608 - parameters
        with self._database.read() as connection:
            found = driver_of_connection(connection).execute(statement, parameters, prepare=True)
            return int(found.fetchone()[0])

    def fetch(self, among: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """The ids that pass, of all or of some."""
        with self._database.read() as connection:
            if among is None:
                return _ids(connection, passing(self._filter))
            some = passing(self._filter, few=True).where(is_one_of(items.c.id, among.tolist()))
            return _ids(connection, some)


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
