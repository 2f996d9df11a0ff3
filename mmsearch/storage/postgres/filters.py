"""Which items pass a filter: conditions that PostgreSQL evaluates, wherever they are needed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any, Generic, TypeGuard, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    false,
    func,
    literal_column,
    or_,
    select,
)

from mmsearch.filters import META, AnyOf, Condition, Filter, Not
from mmsearch.filters.check import checked
from mmsearch.storage.postgres import functions
from mmsearch.storage.sql import facets
from mmsearch.storage.sql.conditions import (
    Dialect,
    Expression,
    compares_items,
    compiled,
    items_and_sources,
    rows_of_metadata,
)
from mmsearch.storage.sql.database import Prepared, driver_of_connection, is_one_of
from mmsearch.storage.sql.schema import items, metadata
from mmsearch.storage.store import FilterStore
from mmsearch.types import Facets
from mmsearch.vectors.id_set import FEW, IdSet, LazyIdSet

if TYPE_CHECKING:
    import numpy as np
    import psycopg
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
        sql: The filter in SQL.
    """

    def __init__(self, database: Database, filter_: Filter) -> None:
        self.sql = FilterSql(database, filter_)
        super().__init__(filter_, self.sql.count, self.sql.fetch)
        self._at_least = 0

    def count_up_to(self, most: int) -> int:
        """How many there are, or `most` if there are more."""
        if not self.is_counted and self._at_least < most:
            self.note_count(self.sql.count_up_to(most), most)
        return min(self.at_least, most)

    @property
    def at_least(self) -> int:
        """A lower bound of their number; the number itself once that is known."""
        return len(self) if self.is_counted else self._at_least

    def note_count(self, number: int, most: int) -> None:
        """Keep the result of a count that stopped at `most`."""
        if number < most:
            self._size = number
        else:
            self._at_least = max(self._at_least, most)

    @property
    def fits_in_parameter(self) -> bool:
        """Whether the ids are known, and few enough for a parameter of a statement."""
        return self.is_fetched and len(self) <= FEW


class FilterSql:
    """A filter as SQL with its parameters, for statements that the driver runs itself."""

    def __init__(self, database: Database, filter_: Filter) -> None:
        self._database, self._filter = database, filter_

    @cached_property
    def ids(self) -> tuple[str, dict[str, Any]]:
        """A subquery of the ids that pass."""
        return Prepared(passing(self._filter).order_by(None)).for_server

    @cached_property
    def test(self) -> tuple[str, dict[str, Any]]:
        """Whether the item of a row `v` passes, tested for each row by itself."""
        to = Dialect(functions, few=True, item_id=_ITEM_OF_ROW)
        tested = select(compiled(self._filter, to))
        if compares_items(self._filter):
            tested = tested.select_from(items_and_sources).where(items.c.id == _ITEM_OF_ROW)
        statement, parameters = Prepared(tested).for_server
        return f"({statement})", parameters

    def count(self) -> int:
        """How many pass."""
        ids, parameters = self.ids
        with self._database.read() as connection:
            driver = driver_of_connection(connection)
            counted = f"SELECT count(*) FROM ({ids}) AS passing"  # noqa: S608 - parameters
            found = driver.execute(counted, parameters, prepare=True, binary=True)
            return int(found.fetchone()[0])

    def count_up_to(self, most: int) -> int:
        """How many pass, or `most` if more do."""
        ids, parameters = self.ids
        with self._database.read() as connection:
            driver = driver_of_connection(connection)
            counted = f"SELECT count(*) FROM ({ids} LIMIT {most:d}) AS passing"  # noqa: S608
            found = execute_pipelined(driver, counted, parameters, *NESTED_LOOPS_ONLY)
            return int(found.fetchall()[0][0])

    def fetch(self, among: NDArray[np.int64] | None) -> NDArray[np.int64]:
        """The ids that pass, of all or of some."""
        with self._database.read() as connection:
            if among is None:
                return _ids(connection, passing(self._filter))
            passes = compiled(self._filter, Dialect(functions, few=True))
            some = select(items.c.id).select_from(items_and_sources).where(passes)
            some = some.where(is_one_of(items.c.id, among.tolist()))
            return _ids(connection, some.order_by(items.c.id))


NESTED_LOOPS_ONLY = ("enable_hashjoin", "enable_mergejoin", "enable_seqscan")
"""Settings to turn off: the planner's statistics of metadata are of all keys together; so it
expects a third of the items where few pass, and reads whole tables. Nested loops read what passes,
up to a limit."""


FEW_PARAMETERS = 16
"""A statement with more is planned each time: the server looks values up in a long list by a hash
table only where it plans for these very values, and else compares each row with all of them."""


def execute_pipelined(
    driver: Any, statement: str, parameters: Mapping[str, Any], *disabled: str
) -> psycopg.Cursor[Any]:
    """Run a statement in one round trip, with some settings of the planner off.

    It has a generic plan, made once, unless it has more than `FEW_PARAMETERS`.

    Args:
        driver: A connection in a transaction.
        statement: SQL.
        parameters: Of the statement.
        disabled: Settings of the planner that are off for it.
    """
    plan = "generic" if len(parameters) <= FEW_PARAMETERS else "custom"
    changed = dict.fromkeys(disabled, "'off'") | {"plan_cache_mode": f"'force_{plan}_plan'"}
    with driver.pipeline():
        driver.execute(_set_locally(changed), prepare=True)
        try:
            cursor: psycopg.Cursor[Any]
            cursor = driver.execute(statement, parameters, prepare=True, binary=True)
        finally:
            if not driver.closed:  # NULL is what the connection began with
                driver.execute(_set_locally(dict.fromkeys(changed, "NULL")), prepare=True)
    return cursor


def _set_locally(values: dict[str, str]) -> str:
    """Changes settings until the transaction ends; the values are SQL."""
    each = (f"set_config('{name}', {value}, true)" for name, value in values.items())
    return f"SELECT {', '.join(each)}"


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
            return self._keys.get((moment, key), lambda: is_there(key))

        def is_there(key: str) -> bool:
            there = select(select(metadata.c.key).where(metadata.c.key == key).exists())
            return bool(connection.execute(there).scalar_one())

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


def passing(filter_: Filter) -> Select[Any]:
    """Selects the ids of the items that pass, sorted."""
    if (found := _passing_by_metadata(filter_)) is not None:
        return found
    chosen = select(items.c.id).select_from(items_and_sources)
    return chosen.where(compiled(filter_, Dialect(functions))).order_by(items.c.id)


def _passing_by_metadata(filter_: Filter) -> Select[Any] | None:
    """The same without reading items: an item has at most one row of metadata for a key.

    None if no condition that all items must meet is on metadata, or if the filter compares columns
    of items.
    """
    first = next(filter(_is_on_metadata, filter_.conditions), None)
    if first is None or compares_items(filter_):
        return None
    to = Dialect(functions, item_id=metadata.c.item_id)
    meets_first = or_(false(), *rows_of_metadata(first, to))
    chosen = select(metadata.c.item_id).where(meets_first).order_by(metadata.c.item_id)
    if others := tuple(one for one in filter_.conditions if one is not first):
        chosen = chosen.where(compiled(Filter(others), to))
    return chosen


def _is_on_metadata(one: Condition | AnyOf | Not) -> TypeGuard[Condition]:
    return isinstance(one, Condition) and one.key.startswith(META)


_ITEM_OF_ROW = literal_column("v.item_id", items.c.id.type)
"""The item of a row `v` of the statement that a test is put into."""


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
