"""Which items pass a filter: by SQL, and over many items by columns."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.filters import Filter
from mmsearch.storage.sql.facets import BY_INDEX, FACETS, Counts
from mmsearch.storage.sqlite.change_log import LAST_CHANGE
from mmsearch.storage.sqlite.columns import GenerationColumns, Unfit, remember
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.view import GENERATION, Generation, View
from mmsearch.storage.store import FilterStore
from mmsearch.types import Facets
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALLEST = 5_000
"""With fewer items, columns do not pay: SQL mostly compares these in 5 ms."""

ANSWERS = 16
"""How many results are cached until the store changes."""

ORDERS = 4
"""How many orders of all items by date are."""

FEW = 2_000
"""So many items are sorted, or counted, by themselves."""

CHANGED, CHANGED_SHARE = 2_000, 0.005
"""A generation ends when more items than both, one by number and one by share, were added or
altered since it began: SQL answers for each of them."""


class Filters(FilterStore):
    """Answers filters.

    The first filter over a generation of items is answered by SQL. From the second one on, columns
    of the keys that filters name are built, and kept for later processes; SQL answers for items
    that have changed since.

    Args:
        database: The catalog's.
        folder: Where columns are kept; it need not exist, nor be writable.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._answers: dict[tuple[Any, Filter], IdSet] = {}
        self._columns: dict[Generation, GenerationColumns] = {}
        self._orders: dict[tuple[Any, bool], NDArray[np.int64]] = {}

    @contextmanager
    def view(self) -> Iterator[View]:
        """A consistent view of the catalog."""
        with self._database.read() as connection:
            yield View(connection)

    def matching(self, filter_: Filter, most: int | None = None) -> NDArray[np.int64]:
        with self.view() as view:
            return view.passing(view.check(filter_), most)

    def passing(self, filter_: Filter) -> IdSet:
        with self.view() as view:
            known = self._answers.get((view.moment, filter_))
            if known is not None:
                return known
            checked = view.check(filter_)
            columns = self._columns_of(view)
            answer = self._answer(view, columns, checked)
            remember(self._answers, (view.moment, filter_), answer, ANSWERS)
        if columns is None and view.highest >= SMALLEST:
            self.begin_generation(view.generation)
        return answer

    def by_date(self, ids: IdSet | None = None, *, oldest: bool = False) -> NDArray[np.int64]:
        with self.view() as view:
            if ids is not None and len(ids) <= FEW:
                return view.by_date(oldest=oldest, ids=ids.ids.tolist())
            order = self._orders.get((view.moment, oldest))
            if order is None:
                order = view.by_date(oldest=oldest)
                remember(self._orders, (view.moment, oldest), order, ORDERS)
        return order if ids is None else order[ids.contains(order)]

    def facets(self, ids: IdSet | None = None) -> Facets:
        with self.view() as view:
            columns = self._columns_of(view)
            found = view.as_facets(_counts(view, columns, ids))
        if columns is None and view.highest >= SMALLEST:
            self.begin_generation(view.generation)
        return found

    def _answer(self, view: View, columns: GenerationColumns | None, filter_: Filter) -> IdSet:
        if columns is not None:
            with suppress(Unfit):
                return columns.passing(view, filter_)
        return IdSet.of(view.passing(filter_))

    def _columns_of(self, view: View) -> GenerationColumns | None:
        """The columns of the generation that a view sees, unless too much has changed since."""
        if (own := view.generation) is None or view.highest < SMALLEST:
            return None
        changed = view.highest - own.upto + view.logged - own.begun
        if changed > max(CHANGED, CHANGED_SHARE * (own.upto - own.low)):
            return None
        known = self._columns.get(own)
        if known is None:
            known = GenerationColumns(own, view.catalog_id, self._folder)
            remember(self._columns, own, known, 2)  # a snapshot may be of the one before
        return None if known.source_has_moved(view) else known

    def begin_generation(self, seen: Generation | None) -> bool:
        """Let columns be built of the items there are, and log alterations of these from now on.

        The log of the previous generation is dropped. So that no search waits, nothing happens
        while another process writes, or if the catalog cannot be written.

        Args:
            seen: The generation to replace; if there is another one by now, that one goes on.

        Returns:
            Whether a generation has begun.
        """
        pooled = self._database.engine.raw_connection()
        driver: Any = pooled.dbapi_connection
        timeout = driver.execute("PRAGMA busy_timeout").fetchone()[0]
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            driver.execute("BEGIN IMMEDIATE")
            with driver:
                return _begin_generation(driver, seen)
        except sqlite3.Error:
            return False
        finally:
            driver.execute(f"PRAGMA busy_timeout = {timeout}")
            pooled.close()


def _counts(view: View, columns: GenerationColumns | None, ids: IdSet | None) -> Counts:
    if columns is not None and (ids is None or len(ids) > FEW):
        with suppress(Unfit):
            counts = columns.counted(view, ids)
            others = view.counted(BY_INDEX) if ids is None else view.counted_by_index(ids)
            return {**counts, **others}
    return view.counted(FACETS, None if ids is None else ids.ids)


def _begin_generation(driver: Any, seen: Generation | None) -> bool:
    """Within a transaction that writes."""
    written = driver.execute("SELECT value FROM settings WHERE key = ?", (GENERATION,)).fetchone()
    if Generation.of_text(written and written[0]) != seen:
        return False
    low, upto = driver.execute("SELECT min(id), max(id) FROM items").fetchone()
    if upto is None:
        return False
    (logged,) = driver.execute(LAST_CHANGE).fetchone()
    begun = Generation(uuid.uuid4().hex[:12], low, upto, logged)
    keep = "INSERT OR REPLACE INTO settings (key, value) VALUES (?, ?)"
    driver.execute(keep, (GENERATION, begun.as_text()))
    move = "UPDATE followers SET columns_item = ?, columns_change = ?"
    driver.execute(move, (upto, logged))
    return True
