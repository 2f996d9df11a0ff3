"""The items of an index in groups of copies, with the one of each group that is worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidOption
from mmsearch.search.duplicates.cells import Pairs, led_groups, near_pairs
from mmsearch.storage import Space, Store
from mmsearch.types import Item, Kind, Modality, Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KINDS: dict[Modality, tuple[Kind, ...]] = {
    "image": ("image", "video"),
    "audio": ("audio",),
    "text": ("text", "document"),
}
"""The kinds of files that are compared by a facet; those with several vectors by their mean."""

LASTING: frozenset[Kind] = frozenset({"audio", "video"})

AS_LONG = 0.05
"""Sounds and videos are copies only if their lengths differ by no more than this share."""

Alike = Callable[[Space, Modality], float]
"""The cosine from which two items of a space's facet are taken for copies of one."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One file of a group."""

    item: Item
    same: bool
    """Whether its content is that of the file to keep, byte for byte."""
    cosine: float
    """To the file to keep."""


@dataclass(frozen=True, slots=True)
class Group:
    """Files that are copies of one another."""

    keep: Item
    """The largest picture or longest sound; of equal ones the oldest file."""
    copies: tuple[Copy, ...]
    """The others: those of the same content, then the most alike first."""
    wasted: int
    """Bytes of the others."""


def duplicate_groups(
    store: Store,
    spaces: Sequence[tuple[Space, Sequence[Modality]]],
    alike: Alike | None,
    progress: Progress | None = None,
) -> list[Group]:
    """All groups of copies in an index, those that waste most bytes first.

    Files of the same content are told by their hashes. Of each content one item is compared with
    the others by its vector; items of different kinds never are. Each item of a group is as like
    the one to keep as the threshold says, so no chain of small changes makes a group.

    Args:
        store: Whose items.
        spaces: Those that answer, the preferred one first, and the facets each holds.
        alike: Says how like copies are; None takes only the same content for copies.
        progress: Called with (items compared, items in all).

    Raises:
        InvalidOption: a threshold is not from 0 to 1.
    """
    finder = _Finder(store)
    if alike is not None:
        chosen = {facet: space for space, facets in reversed(spaces) for facet in facets}
        parts = [(space, facet, kind) for facet, space in chosen.items() for kind in KINDS[facet]]
        total = sum(len(finder.ids_of(kind)) for _, _, kind in parts)
        done = 0
        for space, facet, kind in parts:
            tell = None if progress is None else partial(_further, progress, done, total)
            finder.compare(space, facet, kind, _checked(alike(space, facet)), tell)
            done += len(finder.ids_of(kind))
    return finder.groups()


def _checked(threshold: float) -> float:
    if not 0 <= threshold <= 1:
        raise InvalidOption(f"a threshold is a cosine from 0 to 1, not {threshold}")
    return threshold


def _further(progress: Progress, before: int, total: int, done: int, _total: int | None) -> None:
    progress(before + done, total)


class _Finder:
    """What is known of the copies in an index so far."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._standings = store.items.quality()
        self._twins: dict[int, list[int]] = {}
        """By item to keep, the others of the same content."""
        self._near: dict[int, dict[int, float]] = {}
        """By item to keep, those like it with their cosines; twins are not among them."""
        hidden: set[int] = set()
        for ids in store.items.same_content():
            first, *others = sorted(ids, key=self._order)
            self._twins[first] = others
            hidden.update(others)
        self._ids: dict[Kind, list[int]] = {}
        for id_, standing in self._standings.items():
            if id_ not in hidden:
                self._ids.setdefault(standing.kind, []).append(id_)

    def _order(self, item_id: int) -> tuple[float, ...]:
        order: tuple[float, ...] = self._standings[item_id].order
        return order

    def ids_of(self, kind: Kind) -> list[int]:
        """The items of a kind, one of each content."""
        return self._ids.get(kind, [])

    def compare(
        self,
        space: Space,
        facet: Modality,
        kind: Kind,
        threshold: float,
        progress: Progress | None,
    ) -> None:
        """Find which items of a kind are alike."""
        ids, matrix = self._means(space, facet, sorted(self.ids_of(kind), key=self._order))
        # in the order in which they are worth keeping: the first of a group leads it
        pairs = near_pairs(matrix, threshold, progress)
        if kind in LASTING:
            pairs = self._as_long(pairs, ids)
        for leader, others in led_groups(pairs).items():
            self._near[ids[leader]] = {ids[row]: cosine for row, cosine in others}

    def _as_long(self, pairs: Pairs, ids: Sequence[int]) -> Pairs:
        """Only pairs whose lengths in seconds are nearly the same."""
        import numpy as np

        seconds = np.array([self._standings[id_].seconds for id_ in ids])
        one, two = seconds[pairs.later], seconds[pairs.earlier]
        kept = np.abs(one - two) <= AS_LONG * np.maximum(one, two)
        return Pairs(pairs.later[kept], pairs.earlier[kept], pairs.cosine[kept])

    def _means(
        self, space: Space, facet: Modality, ids: Sequence[int]
    ) -> tuple[list[int], NDArray[np.float16]]:
        """The unit vectors (n, dim) of items, in order: of an item with several, their mean.

        Float16, as they are stored: a million of 512 numbers take 1 GB. Items without any are left
        out.
        """
        import numpy as np

        wanted = np.asarray(ids, dtype=np.int64)
        by_id = np.argsort(wanted)
        matrix = np.zeros((len(ids), space.dim), np.float16)
        there = np.zeros(len(ids), bool)
        for owners, rows in self._store.vectors.pages(space, facet) if ids else ():
            own, starts = np.unique(owners, return_index=True)
            mean = np.add.reduceat(rows, starts, axis=0)
            mean /= np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-9)
            places = by_id[np.searchsorted(wanted, own, sorter=by_id).clip(max=len(ids) - 1)]
            asked = wanted[places] == own
            matrix[places[asked]] = mean[asked]
            there[places[asked]] = True
        if not there.all():
            matrix = matrix[there]
        return wanted[there].tolist(), matrix

    def groups(self) -> list[Group]:
        """What was found, with the items looked up; those that have just gone are left out."""
        members = self._members()
        wanted = {*members, *(one[0] for several in members.values() for one in several)}
        items = self._store.items.get(sorted(wanted))
        groups = []
        for first, several in members.items():
            copies = tuple(
                Copy(items[id_], same, round(min(cosine, 1.0), 4))
                for id_, same, cosine in several
                if id_ in items
            )
            if first in items and copies:
                wasted = sum(int(copy.item.metadata["size"]) for copy in copies)
                groups.append(Group(items[first], copies, wasted))
        return sorted(groups, key=lambda group: (-group.wasted, group.keep.id))

    def _members(self) -> dict[int, list[tuple[int, bool, float]]]:
        """By item to keep, the others: whether of the same content, and the cosine."""
        joined = {id_ for others in self._near.values() for id_ in others}
        members: dict[int, list[tuple[int, bool, float]]] = {}
        for first in dict.fromkeys([*self._near, *self._twins]):
            if first in joined:
                continue
            several = [(id_, True, 1.0) for id_ in self._twins.get(first, ())]
            near = sorted(self._near.get(first, {}).items(), key=lambda pair: -pair[1])
            for id_, cosine in near:
                several.append((id_, False, cosine))
                several += [(twin, False, cosine) for twin in self._twins.get(id_, ())]
            members[first] = several
        return members
