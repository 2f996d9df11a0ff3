"""Groups of copies in an index, and the best file of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmsearch.search.duplicate_threshold import threshold_of
from mmsearch.search.near_pairs import Pairs, leader_groups, near_pairs
from mmsearch.search.setting_formats import SHARE
from mmsearch.spaces.open_index import OpenIndex
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
"""The kinds of files compared by a modality; of several vectors of a file, by their mean."""

TIMED: frozenset[Kind] = frozenset({"audio", "video"})

LENGTH_TOLERANCE = 0.05
"""Sounds and videos are copies only if their lengths differ by no more than this share."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One file of a group."""

    item: Item
    same: bool
    """Whether it has the content of the file to keep, byte for byte."""
    cosine: float
    """To the file to keep."""


@dataclass(frozen=True, slots=True)
class Group:
    """Files that are copies of one another."""

    keep: Item
    """The largest picture or longest sound; of equal ones the oldest file."""
    copies: tuple[Copy, ...]
    """The others: those of the same content, then the most similar first."""
    wasted: int
    """Bytes of the others."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `mmsearch duplicates --json` and the HTTP API write them."""
        copies = [
            {**_plain(copy.item), "same": copy.same, "cosine": copy.cosine} for copy in self.copies
        ]
        return {"keep": _plain(self.keep), "copies": copies, "wasted": self.wasted}


def _plain(item: Item) -> dict[str, Any]:
    return {"id": item.id, "path": item.path, "modality": item.modality, **item.metadata}


def duplicate_groups(
    index: OpenIndex,
    *,
    threshold: float | None = None,
    same: bool = False,
    progress: Progress | None = None,
) -> list[Group]:
    """All groups of copies in an index, those that waste most bytes first.

    Files of the same content are found by their hashes. One item of each content is then compared
    with the others of its kind by its vector. Each item of a group reaches the threshold with the
    one to keep, so no chain of small changes makes a group.

    `Collection.duplicates` describes the arguments.

    Raises:
        InvalidOption: the threshold is not from 0 to 1.
    """
    if threshold is not None:
        threshold = SHARE.check("the threshold, a cosine,", threshold)
    finder = _CopyFinder(index.store)
    if not same:
        spaces = {
            modality: space
            for space, modalities in reversed(index.serving())
            for modality in modalities
        }
        steps = [(modality, kind) for modality in spaces for kind in KINDS[modality]]
        total = sum(len(finder.ids_of(kind)) for _, kind in steps)
        done = 0
        for modality, kind in steps:
            cutoff = threshold
            if cutoff is None:
                cutoff = threshold_of(index.store, spaces[modality], index.encoder, modality)
            advance = _advance(progress, done, total) if progress else None
            finder.compare(spaces[modality], modality, kind, cutoff, advance)
            done += len(finder.ids_of(kind))
    return finder.groups()


def _advance(progress: Progress, before: int, total: int) -> Progress:
    """The progress of one step, reported as that of all steps."""
    return lambda done, _: progress(before + done, total)


class _CopyFinder:
    """The copies found in a store so far."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._quality = store.items.quality()
        self._same: dict[int, list[int]] = {}
        """By item to keep, the others of the same content."""
        self._near: dict[int, dict[int, float]] = {}
        """By item to keep, the similar ones with their cosines, one of each content."""
        hidden: set[int] = set()
        for ids in store.items.same_content():
            first, *others = sorted(ids, key=self._order)
            self._same[first] = others
            hidden.update(others)
        self._ids: dict[Kind, list[int]] = {}
        for id_, quality in self._quality.items():
            if id_ not in hidden:
                self._ids.setdefault(quality.kind, []).append(id_)

    def _order(self, item_id: int) -> tuple[float, ...]:
        return self._quality[item_id].order

    def ids_of(self, kind: Kind) -> list[int]:
        """The items of a kind, one of each content."""
        return self._ids.get(kind, [])

    def compare(
        self,
        space: Space,
        modality: Modality,
        kind: Kind,
        threshold: float,
        progress: Progress | None,
    ) -> None:
        """Find the copies among the items of a kind, by their vectors of a modality in a space."""
        # sorted by quality, as the first of a group is the one to keep
        ids, matrix = self._means(space, modality, sorted(self.ids_of(kind), key=self._order))
        pairs = near_pairs(matrix, threshold, progress)
        if kind in TIMED:
            pairs = self._of_same_length(pairs, ids)
        for leader, others in leader_groups(pairs).items():
            self._near[ids[leader]] = {ids[row]: cosine for row, cosine in others}

    def _of_same_length(self, pairs: Pairs, ids: Sequence[int]) -> Pairs:
        """Only pairs whose lengths in seconds are nearly the same."""
        import numpy as np

        seconds = np.array([self._quality[id_].seconds for id_ in ids])
        later, earlier = seconds[pairs.later], seconds[pairs.earlier]
        similar = np.abs(later - earlier) <= LENGTH_TOLERANCE * np.maximum(later, earlier)
        return Pairs(pairs.later[similar], pairs.earlier[similar], pairs.cosine[similar])

    def _means(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> tuple[list[int], NDArray[np.float16]]:
        """The items that have vectors, in order, and the unit mean of each item's vectors (n, dim).

        In float16, as they are stored: a million rows of 512 numbers take 1 GB.
        """
        import numpy as np

        item_ids = np.asarray(ids, dtype=np.int64)
        by_id = np.argsort(item_ids)
        matrix = np.zeros((len(ids), space.dim), np.float16)
        stored = np.zeros(len(ids), bool)
        for owners, rows in self._store.vectors.pages(space, modality) if ids else ():
            page_ids, starts = np.unique(owners, return_index=True)
            mean = np.add.reduceat(rows, starts, axis=0)
            mean /= np.linalg.norm(mean, axis=1, keepdims=True).clip(1e-9)
            rows_by_id = np.searchsorted(item_ids, page_ids, sorter=by_id)
            places = by_id[rows_by_id.clip(max=len(ids) - 1)]
            known = item_ids[places] == page_ids
            matrix[places[known]] = mean[known]
            stored[places[known]] = True
        if not stored.all():
            matrix = matrix[stored]
        return item_ids[stored].tolist(), matrix

    def groups(self) -> list[Group]:
        """The groups found; items deleted meanwhile are left out."""
        followers = {id_ for near in self._near.values() for id_ in near}
        equal = {id_ for others in self._same.values() for id_ in others}
        items = self._store.items.get(sorted({*self._near, *self._same, *followers, *equal}))
        groups = []
        for first in dict.fromkeys([*self._near, *self._same]):
            if first in followers or first not in items:
                continue
            others = [(id_, True, 1.0) for id_ in self._same.get(first, ())]
            near = sorted(self._near.get(first, {}).items(), key=lambda pair: -pair[1])
            for id_, cosine in near:
                others.append((id_, False, cosine))
                others += [(same, False, cosine) for same in self._same.get(id_, ())]
            copies = tuple(
                Copy(items[id_], same, round(min(cosine, 1.0), 4))
                for id_, same, cosine in others
                if id_ in items
            )
            if copies:
                wasted = sum(int(copy.item.metadata["size"]) for copy in copies)
                groups.append(Group(items[first], copies, wasted))
        return sorted(groups, key=lambda group: (-group.wasted, group.keep.id))
