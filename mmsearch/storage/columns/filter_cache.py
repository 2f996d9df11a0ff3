"""Which items pass a filter, as quickly as may be, and as the catalog itself would say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmsearch.filters import Filter
from mmsearch.storage.columns.column_generation import EraColumns, Unready
from mmsearch.storage.columns.lru import Recent
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.sqlite.view import Era, View
from mmsearch.vectors.id_set import IdSet

SMALLEST = 5_000
"""Items from which on columns are worth it: SQLite looks through fewer in 5 ms, mostly."""

_MOST = 16  # answers that are remembered
_LATELY = 2_000, 0.005  # items that came or were altered, by themselves and as a share: a new era


class Columns:
    """Answers filters for one index, for as long as a process has it open.

    The first filter is answered by SQL alone, unless what it takes is there: a process that asks
    once would make columns for nothing. What has changed since they were made is asked of SQL.

    Args:
        catalog: The truth.
        folder: Where the columns are kept; it need not be there, nor writable.
    """

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self._catalog = catalog
        self._folder = folder
        self._answers: Recent[Any, IdSet] = Recent(_MOST)
        self._eras: Recent[Era, EraColumns] = Recent(2)  # an older one may be seen in a snapshot
        self._asked = 0

    def passing(self, filter_: Filter) -> IdSet:
        """The items that pass.

        Raises:
            InvalidFilter: it names a key that no item has, or is too long.
        """
        with self._catalog.filters.view() as view:
            known = self._answers.get((view.moment, filter_))
            if known is not None:
                return known
            view.check(filter_)
            if not self._is_due(view):
                return self._answer(view, filter_)
        self._catalog.filters.begin_generation(view.era)
        with self._catalog.filters.view() as view:
            return self._answer(view, filter_)

    def _is_due(self, view: View) -> bool:
        """Whether columns are to be made, or to be made anew."""
        if not self._asked or view.highest < SMALLEST:
            return False
        return view.era is None or self._is_past(view, view.era)

    def _is_past(self, view: View, era: Era) -> bool:
        most = max(_LATELY[0], _LATELY[1] * (era.upto - era.low))
        return view.highest - era.upto + view.filed - era.begun > most

    def _answer(self, view: View, filter_: Filter) -> IdSet:
        answer = self._told(view, filter_)
        self._answers.keep((view.moment, filter_), answer)
        self._asked += 1
        return answer

    def _told(self, view: View, filter_: Filter) -> IdSet:
        if view.era is not None and view.highest >= SMALLEST:
            try:
                return self._by_columns(view, view.era, filter_)
            except Unready:
                pass
        return IdSet.of(view.passing(filter_))

    def _by_columns(self, view: View, era: Era, filter_: Filter) -> IdSet:
        import numpy as np

        columns = self._columns_of(era, view.catalog_id)
        marks = columns.marks(view, filter_, make=self._asked > 0)
        if view.highest == era.upto and not len(columns.altered(view)):
            return IdSet(marks, era.low)
        late = view.passing_lately(filter_, era.upto)
        found = np.zeros(max(view.highest, era.upto) - era.low + 1, np.bool_)
        found[: len(marks)] = marks
        found[late - era.low] = True
        return IdSet(found, era.low)

    def _columns_of(self, era: Era, catalog_id: str) -> EraColumns:
        known = self._eras.get(era)
        if known is None:
            known = EraColumns(era, catalog_id, self._folder)
            self._eras.keep(era, known)
        return known
