"""Which items pass a filter: conditions that PostgreSQL evaluates, wherever they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from mmsearch.filters import Filter
from mmsearch.filters.check import checked
from mmsearch.storage.postgres import functions
from mmsearch.storage.sql import facets
from mmsearch.storage.sql.conditions import Dialect, Expression, compiled, items_and_sources
from mmsearch.storage.sql.database import is_one_of
from mmsearch.storage.sql.schema import items, metadata
from mmsearch.storage.store import FilterStore
from mmsearch.types import Facets
from mmsearch.vectors.id_set import IdSet, LazyIdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage.postgres.database import Database

ANSWERS = 16
"""How many filters' counts and ids, and orders by date, are cached until the index changes."""


class Filters(FilterStore):
    """Answers filters, by statements whose conditions are the filter's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers: dict[tuple[int, Filter], LazyIdSet] = {}
        self._orders: dict[tuple[int, bool], NDArray[np.int64]] = {}

    def matching(self, filter_: Filter, most: int | None = None) -> NDArray[np.int64]:
        with self._database.read() as connection:
            return _ids(connection, passing(_checked(connection, filter_)).limit(most))

    def passing(self, filter_: Filter) -> IdSet:
        with self._database.read() as connection:
            key = self._database.moment(), filter_
            if key not in self._answers:
                asked = _checked(connection, filter_)
                _keep(
                    self._answers, key, LazyIdSet(asked, self._counts(asked), self._ids_of(asked))
                )
            return self._answers[key]

    def _counts(self, filter_: Filter) -> Callable[[], int]:
        def count() -> int:
            with self._database.read() as connection:
                found = passing(filter_).order_by(None).subquery()
                return int(connection.execute(select(func.count()).select_from(found)).scalar_one())

        return count

    def _ids_of(self, filter_: Filter) -> Callable[[Any], NDArray[np.int64]]:
        def fetch(among: NDArray[np.int64] | None) -> NDArray[np.int64]:
            with self._database.read() as connection:
                if among is None:
                    return _ids(connection, passing(filter_))
                some = passing(filter_, few=True).where(is_one_of(items.c.id, among.tolist()))
                return _ids(connection, some)

        return fetch

    def by_date(self, ids: IdSet | None = None, *, oldest: bool = False) -> NDArray[np.int64]:
        with self._database.read() as connection:
            statement = facets.by_date(oldest=oldest)
            if ids is not None:
                return _ids(connection, statement.where(is_in(items.c.id, ids)))
            key = self._database.moment(), oldest
            if key not in self._orders:
                _keep(self._orders, key, _ids(connection, statement))
            return self._orders[key]

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


def _checked(connection: Connection, filter_: Filter) -> Filter:
    def is_key(key: str) -> bool:
        there = select(metadata.c.key).where(metadata.c.key == key).exists()
        return bool(connection.execute(select(there)).scalar_one())

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


def _ids(connection: Connection, statement: Select[Any]) -> NDArray[np.int64]:
    import numpy as np

    return np.fromiter(connection.execute(statement).scalars(), np.int64)


def _keep(cache: dict[Any, Any], key: Any, value: Any) -> None:
    """Cache one of the last ANSWERS values."""
    cache.pop(next(iter(cache)), None) if len(cache) >= ANSWERS else None
    cache[key] = value
