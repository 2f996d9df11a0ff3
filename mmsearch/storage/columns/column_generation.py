"""The columns of one era: which of its items pass, and what was altered since it began."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

from mmsearch.filters import AnyOf, Condition, Filter, Not
from mmsearch.storage.columns.column import Column, Held, Unfit
from mmsearch.storage.columns.files import place_of, read_column, write_column
from mmsearch.storage.columns.lru import Recent
from mmsearch.storage.columns.making import PRESENT, make_column
from mmsearch.storage.columns.predicates import tell
from mmsearch.storage.sqlite.view import Era, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Marks = NDArray[np.bool_]

FEW = 2_000
"""Items that are looked up one by one, where columns cannot tell which of them pass."""

_MOST_TOLD = 8  # answers of the catalog that are remembered
_SOURCES = -1  # in the place of an item, when a source was moved
_OF_PLACES = ("path", "folder")
_SOUNDING = Condition("has", "in", ("sound",))
_MAY_SOUND = Condition("modality", "in", ("audio", "video"))


class Unready(Exception):
    """The columns that it takes are not made yet, or are newer than what is seen."""


class EraColumns:
    """What items of an era hold, and which of them fulfil a condition.

    Each answer is right for all items that were not altered since the era began, whenever it was
    made within it; so none of them has to be made again while it lasts.
    """

    def __init__(self, era: Era, catalog_id: str, folder: Path) -> None:
        self._era = era
        self._catalog_id = catalog_id
        self._folder = folder
        self._columns: dict[str, Column | None] = {}
        self._told: Recent[tuple[Condition, int], tuple[int, Marks]] = Recent(_MOST_TOLD)
        self._altered: tuple[int, tuple[NDArray[np.int64], int]] | None = None
        self._making = RLock()

    def marks(self, view: View, filter_: Filter, *, make: bool) -> Marks:
        """Of each item of the era, whether it passes; those that were altered do not.

        Args:
            view: What is seen of the catalog.
            filter_: What is asked.
            make: Whether columns that are missing are to be made.

        Raises:
            Unready: they are missing, and not to be made.
        """
        present = self.column(view, PRESENT, make=make).arrays["codes"] != 0
        present[self.altered(view) - self._era.low] = False
        return _Asking(self, view, make=make).all_of(filter_, present)

    def altered(self, view: View) -> NDArray[np.int64]:
        """The items that were altered since the era began, sorted."""
        return self._altered_in(view)[0]

    def moved(self, view: View) -> int:
        """When a source was moved last, as a number that rises."""
        return self._altered_in(view)[1]

    def _altered_in(self, view: View) -> tuple[NDArray[np.int64], int]:
        import numpy as np

        known = self._altered
        if known is None or known[0] != view.filed:
            rows = view.altered() if view.filed > self._era.begun else []
            items = np.unique(np.array([item for _, item in rows if item != _SOURCES], np.int64))
            moved = max((number for number, item in rows if item == _SOURCES), default=0)
            known = self._altered = view.filed, (items, moved)
        return known[1]

    def column(self, view: View, name: str, *, make: bool) -> Column:
        """The column of a key, as old as what is seen or older.

        Raises:
            Unfit: none can be made of it.
            Unready: there is none.
        """
        if name not in self._columns:
            with self._making:
                if name not in self._columns:
                    self._columns[name] = self._found(view, name, make=make)
        found = self._columns[name]
        if found is None:
            raise Unfit
        if found.filed > view.filed:
            raise Unready
        return found

    def _found(self, view: View, name: str, *, make: bool) -> Column | None:
        place = place_of(self._folder, self._catalog_id, self._era, name)
        found = read_column(place)
        if found is None and not make:
            raise Unready
        if found is None:
            with suppress(Unfit):
                found = make_column(view, self._era, name)
                write_column(place, found)
        return found

    def told_by_catalog(self, view: View, one: Condition) -> Marks:
        """Of each item, whether it fulfils a condition that columns cannot tell."""
        import numpy as np

        key = one, self.moved(view) if one.key in _OF_PLACES else 0
        remembered = self._told.get(key)
        if remembered is not None and remembered[0] <= view.filed:
            return remembered[1]
        found = np.zeros(self._era.upto - self._era.low + 1, np.bool_)
        found[view.passing(Filter((one,)), upto=self._era.upto) - self._era.low] = True
        if remembered is None and not _changes_unseen(one):
            self._told.keep(key, (view.filed, found))
        return found

    def told_of_few(self, view: View, one: Condition, among: Marks) -> Marks:
        """The same of a few items, each of them looked up."""
        import numpy as np

        asked = np.flatnonzero(among) + self._era.low
        found = np.zeros(len(among), np.bool_)
        found[view.passing_of(Filter((one,)), asked.tolist()) - self._era.low] = True
        return found


def _changes_unseen(one: Condition) -> bool:
    """Whether items come to fulfil a condition without being filed as altered."""
    return one.key == "has" and "sound" in one.value  # by a vector of theirs


class _Asking:
    """One filter, asked of the columns, and of the catalog what they cannot tell."""

    def __init__(self, columns: EraColumns, view: View, *, make: bool) -> None:
        self._columns = columns
        self._view = view
        self._make = make
        self._held = Held(self._column, view.sources)

    def _column(self, name: str) -> Column:
        return self._columns.column(self._view, name, make=self._make)

    def all_of(self, filter_: Filter, among: Marks) -> Marks:
        """Those of some items that pass."""
        groups: list[AnyOf | Not] = []
        untold: list[Condition] = []
        for one in filter_.conditions:
            if not isinstance(one, Condition):
                groups.append(one)
                continue
            if one.op == "in" and not one.value:
                return among & False
            try:
                among = among & tell(one, self._held)
            except Unfit:
                untold.append(one)
        for group in groups:
            among = self._in_group(group, among)
        for one in untold:
            among = among & self._told_by_catalog(one, among)
        return among

    def _in_group(self, group: AnyOf | Not, among: Marks) -> Marks:
        import numpy as np

        if isinstance(group, Not):
            return among & ~self.all_of(group.filter, among)
        found = np.zeros(len(among), np.bool_)
        for filter_ in group.filters:
            found |= self.all_of(filter_, among)
        return found

    def _told_by_catalog(self, one: Condition, among: Marks) -> Marks:
        import numpy as np

        if one == _SOUNDING:
            among = among & tell(_MAY_SOUND, self._held)
        number = np.count_nonzero(among)
        if not number:
            return among
        if number <= FEW:
            return self._columns.told_of_few(self._view, one, among)
        return self._columns.told_by_catalog(self._view, one)
