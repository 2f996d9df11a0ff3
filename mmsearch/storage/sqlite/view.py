"""What filters are answered from: the catalog as it is within one reading transaction."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
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

from mmsearch.filters import KEYS, META, Filter
from mmsearch.filters.check import checked
from mmsearch.storage.sql import facets
from mmsearch.storage.sql.conditions import (
    Dialect,
    compiled,
    items_and_sources,
    table_of,
    value_of,
)
from mmsearch.storage.sql.database import is_one_of
from mmsearch.storage.sql.schema import VECTOR, changes, items, metadata
from mmsearch.storage.sqlite import sql_functions
from mmsearch.storage.sqlite.change_log import LAST_CHANGE
from mmsearch.storage.sqlite.facets import counted_by_index
from mmsearch.storage.sqlite.sql_functions import register_functions
from mmsearch.types import Facets
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from sqlalchemy import PoolProxiedConnection

GENERATION = "columns upto"
"""The setting that holds the generation of columns."""

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


def moment_of(connection: PoolProxiedConnection) -> Hashable:
    """Equal for two moments of a connection with the same content of the catalog.

    Commits of other connections change the version, writes of this one its count of changes.
    """
    driver: Any = connection.driver_connection
    (version,) = driver.execute("PRAGMA data_version").fetchone()
    own = connection.info.setdefault(_CONNECTION, object())  # no other connection has it
    return own, version, driver.total_changes


class View:
    """One moment of a catalog, as filters see it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.moment = moment_of(connection.connection)

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
        return checked(filter_, self._is_metadata_key, self.metadata_keys)

    def _is_metadata_key(self, key: str) -> bool:
        return bool(self._connection.exec_driver_sql(_IS_KEY, (key,)).scalar_one())

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
        is_one = None if ids is None else partial(is_one_of, ids=ids)
        return facets.counted(self._connection, names, is_one)

    def counted_by_index(self, ids: IdSet) -> facets.Counts:
        """The same of many items, by folder and tag."""
        return counted_by_index(self._connection, ids)

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
    """Selects the ids of the items that pass, sorted; `few` as `Dialect` has it."""
    chosen = select(items.c.id).select_from(items_and_sources)
    return chosen.where(compiled(filter_, Dialect(sql_functions, few))).order_by(items.c.id)


def _next_key(before: Sequence[str]) -> Select[Any]:
    next_ = select(func.min(metadata.c.key))
    return next_.where(metadata.c.key > before[-1]) if before else next_
