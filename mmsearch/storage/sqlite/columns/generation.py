"""The columns of one generation: the items up to an id, with a log of those altered since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from mmsearch.filters import AnyOf, Condition, Filter, Not
from mmsearch.storage.sql.facets import Counts
from mmsearch.storage.sql.schema import EVERY_ITEM
from mmsearch.storage.sqlite.columns.column import (
    Column,
    Unfit,
    build_column,
    path_of,
    read_column,
    write_column,
)
from mmsearch.storage.sqlite.columns.predicates import fulfilling
from mmsearch.storage.sqlite.view import Generation, View
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Mask = NDArray[np.bool_]

FEW = 2_000
"""Up to so many items are looked up by id where columns cannot answer."""

ANSWERS = 16
"""Answers of SQL that are remembered."""

PRESENT = "present"
"""The name of the column that says which items there are."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


def remember(memory: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Add to a memory of at most so many values, dropping the oldest ones; threads may share it."""
    for old in list(memory)[: max(0, len(memory) + 1 - most)]:
        memory.pop(old, None)
    memory[key] = value


class GenerationColumns:
    """The columns of a generation, each built or read when first needed.

    Columns, and remembered answers of SQL, are right for all items of the generation that were not
    altered since it began, whenever they were made; so none is built again while it lasts.

    Args:
        generation: Which items.
        catalog_id: Names the catalog in the names of files.
        folder: Where columns are kept; it need not exist, nor be writable.
    """

    def __init__(self, generation: Generation, catalog_id: str, folder: Path) -> None:
        self._generation = generation
        self._catalog_id = catalog_id
        self._folder = folder
        self._columns: dict[str, Column | None] = {}
        self._answers: dict[tuple[Condition, ...], tuple[int, Mask]] = {}
        self._altered: tuple[int, NDArray[np.int64]] | None = None
        self._lock = RLock()

    def passing(self, view: View, filter_: Filter) -> IdSet:
        """The items that pass; SQL answers for those that were altered or added.

        Raises:
            Unfit: SQL must answer all of it.
        """
        import numpy as np

        own = self._generation
        among = self.column(view, PRESENT).has_value
        altered = self._logged(view)
        inside = altered[(altered >= own.low) & (altered <= own.upto)]  # the log has later ones too
        among[inside - own.low] = False
        found = self._all_of(view, filter_, among)
        if len(altered) or view.highest > own.upto:
            older, found = found, np.zeros(max(view.highest, own.upto) - own.low + 1, np.bool_)
            found[: len(older)] = older
            found[view.passing_lately(filter_, own.upto) - own.low] = True
        return IdSet(found, own.low)

    def counted(self, view: View, ids: IdSet | None) -> Counts:
        """How many of some items, or of all, have each kind, month and camera.

        Raises:
            Unfit: SQL must answer this.
        """
        import numpy as np

        own = self._generation
        among = self.column(view, PRESENT).has_value
        altered = self._logged(view)
        inside = altered[(altered >= own.low) & (altered <= own.upto)]
        among[inside - own.low] = False
        if ids is not None:
            among &= ids.mask(own.low, own.upto)
        taken, modified = self.column(view, "taken"), self.column(view, "modified")
        known = modified.values != 0
        months = modified.values.astype("datetime64[ns]").astype("datetime64[M]").astype("S7")
        counts = {
            "kind": _per_label(self.column(view, "modality"), among),
            "camera": _per_label(self.column(view, "camera"), among),
            "month": _per_label(taken, among, taken.values.astype("S7"))
            + _per_label(modified, among & ~taken.has_value, np.where(known, months, b"")),
        }
        recent = np.union1d(inside, view.ids_above(own.upto))
        if ids is not None:
            recent = recent[ids.contains(recent)]
        later = view.counted(counts.keys(), recent) if len(recent) else {}
        return {facet: counts[facet] + later.get(facet, Counter()) for facet in counts}

    def source_has_moved(self, view: View) -> bool:
        """Whether the paths of items may be others than when the generation began."""
        return EVERY_ITEM in self._logged(view)

    def _logged(self, view: View) -> NDArray[np.int64]:
        """The logged ids of altered items, and EVERY_ITEM."""
        import numpy as np

        known = self._altered
        if known is None or known[0] != view.logged:
            ids = view.altered() if view.logged > self._generation.begun else []
            known = self._altered = view.logged, np.unique(np.array(ids, np.int64))
        return known[1]

    def column(self, view: View, key: str, *, numbers: bool = False) -> Column:
        """The column of a key; of the user's own metadata, as texts or as numbers.

        Raises:
            Unfit: the key's values make no column, or it is newer than the view.
        """
        name = f"numbers of {key}" if numbers else key
        if name not in self._columns:
            with self._lock:
                if name not in self._columns:
                    self._columns[name] = self._load(view, name, key, numbers=numbers)
        found = self._columns[name]
        if found is None or found.logged > view.logged:
            raise Unfit
        return found

    def _load(self, view: View, name: str, key: str, *, numbers: bool) -> Column | None:
        own = self._generation
        path = path_of(self._folder, self._catalog_id, own.name, name)
        if found := read_column(path):
            return found
        pages = (
            view.ids(own.upto) if key == PRESENT else view.values(key, own.upto, numbers=numbers)
        )
        try:
            found = build_column(pages, own.low, own.upto - own.low + 1, view.logged)
        except Unfit:
            return None
        write_column(path, found)
        return found

    # ------------------------------------------------------------------ filters

    def _all_of(self, view: View, filter_: Filter, among: Mask) -> Mask:
        """Those of some items that fulfil all conditions: by columns first, then by SQL."""
        groups: list[AnyOf | Not] = []
        for_sql: list[Condition] = []
        for one in filter_.conditions:
            if not isinstance(one, Condition):
                groups.append(one)
            elif one.op == "in" and not one.value:
                return among & False
            else:
                try:
                    among = among & fulfilling(one, partial(self.column, view))
                except Unfit:
                    for_sql.append(one)
        for group in groups:
            if isinstance(group, Not):
                among = among & ~self._all_of(view, group.filter, among)
            else:
                found = among & False
                for choice in group.filters:
                    found |= self._all_of(view, choice, among)
                among = found
        return among & self._by_sql(view, tuple(for_sql), among) if for_sql else among

    def _by_sql(self, view: View, conditions: tuple[Condition, ...], among: Mask) -> Mask:
        """Whether each item fulfils all conditions, at least where it is one of `among`."""
        import numpy as np

        remembered = self._answers.get(conditions)
        if remembered is not None and remembered[0] <= view.logged:
            return remembered[1]
        low, upto, filter_ = self._generation.low, self._generation.upto, Filter(conditions)
        if few := np.count_nonzero(among) <= FEW:
            passing = view.passing_of(filter_, (np.flatnonzero(among) + low).tolist())
        else:
            passing = view.passing(filter_, upto=upto)
        found = np.zeros(len(among), np.bool_)
        found[passing - low] = True
        if not few and remembered is None and not any(map(_changes_unlogged, conditions)):
            remember(self._answers, conditions, (view.logged, found), ANSWERS)
        return found


def _per_label(
    column: Column, among: Mask, labels: NDArray[np.bytes_] | None = None
) -> Counter[Any]:
    """How many of some items have a value of each label; equal labels are next to each other.

    Args:
        column: Of the values.
        among: The items.
        labels: (k,) of the values; b"" counts for none. By default the values themselves.
    """
    import numpy as np

    labels = column.values if labels is None else labels
    if not len(labels):
        return Counter()
    numbers = np.bincount(column.codes[among], minlength=len(labels) + 1)[1:]
    starts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
    sums = np.add.reduceat(numbers, starts).tolist()
    texts = [label.decode("utf-8", "surrogateescape") for label in labels[starts].tolist()]
    return Counter({text: n for text, n in zip(texts, sums, strict=True) if n and text})


def _changes_unlogged(one: Condition) -> bool:
    """Whether items come to fulfil a condition without being logged as altered."""
    return one.key == "has" and "sound" in one.value  # when a vector is added
