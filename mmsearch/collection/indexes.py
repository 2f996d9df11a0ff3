"""The FAISS indexes of a collection: each follows the catalog, and is made anew when that pays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.errors import InvalidOption, StorageFailed
from mmsearch.spaces.index_cache import Cache, Followed, Wanted
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.storage.sqlite import Catalog, Space, Stamp
from mmsearch.types import Modality
from mmsearch.vectors import EXACT
from mmsearch.vectors.hubness import EXTRA_DIMS, augmented_query
from mmsearch.vectors.index_choice import AUTO, RECALL

if TYPE_CHECKING:
    from mmsearch.vectors import FaissIndex
    from mmsearch.vectors.index_choice import SampleQueries

    Present = Sequence[tuple[Space, Sequence[Modality]]]

KIND, LEAST_RECALL = "kind", "recall"
"""The settings that hold the kind of index that was asked for, and its least recall."""

MANY = 20_000
"""Rows beside a base, or half as many as are in it, from which a search makes a new one."""

SMALL, SHARE = 50_000, 0.1
"""Rows of a base up to which each run makes a new one; of a larger one, the share beside it."""

A_FEW = 1_000
"""Rows beside any base that a run leaves there, if the next run is likely to come soon."""

FORGET_AFTER = 100_000
"""Deletions that are told although every base knows of them."""

MEASURED_BY = 128
"""Queries of each modality that the recall of a base is measured by."""

HELD = 2
"""Moments of a facet's index that are held: a thread may still be searching an older snapshot."""


class Indexes:
    """What searches are answered from.

    Args:
        folder: Where the bases are kept.
        catalog: What they are made of.
        query_banks: Gives the hubs, and what is typically asked.
        may_write: Whether the catalog may be written just now.
    """

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        query_banks: QueryBanks,
        may_write: Callable[[str], AbstractContextManager[bool]],
    ) -> None:
        self._catalog = catalog
        self._query_banks = query_banks
        self._may_write = may_write
        self._cache = Cache(folder, catalog)
        self._held: dict[tuple[int, str], list[Followed]] = {}  # the newest first
        self._turn = threading.RLock()

    def of(self, space: Space, facet: str) -> FaissIndex:
        """A facet's index as this thread sees the catalog: from memory, a base, or the catalog."""
        stamp = self._catalog.changes()
        held = self._newest(space, facet, stamp)
        if held is None or held.stamp != stamp:
            with self._turn:  # one thread brings it up, the others wait for it
                held = self._newest(space, facet, stamp)
                held = self._brought_up(space, facet, stamp, held)
                self._hold(space, facet, held)
        return held.index

    def settle(self, present: Present, *, soon_again: bool = False) -> None:
        """Make new bases where much is beside the old ones: done by who has written.

        Args:
            present: What the index holds.
            soon_again: Whether more is likely to come at once, so that small bases wait as well.
        """
        wanted = self._wanted()
        for space, facets in present:
            for facet in facets:
                index = self.of(space, facet)
                rows = len(index.segment.rows)
                least = 0 if rows <= SMALL and not soon_again else rows * SHARE
                if index.delta_size > (max(least, A_FEW) if soon_again else least):
                    with self._turn:
                        self._hold(space, facet, self._rebuilt(space, facet, wanted))
        oldest = self._cache.oldest_deletion()
        if oldest is not None and oldest > self._catalog.changes().forgotten + FORGET_AFTER:
            self._catalog.forget_gone(oldest)

    def unmet(self, present: Present) -> list[str]:
        """Facets for which the kind that was asked for could not be made, and why."""
        wanted = self._wanted().kind
        return [
            f"{one['facet']}: {one['why']}; every vector is compared meanwhile"
            for one in self.described(present)
            if wanted not in (AUTO, EXACT) and one["kind"] == EXACT and one["rows"]
        ]

    def want(self, kind: str | None, recall: float | None) -> None:
        """Keep what kind of index is asked for; None leaves it as it was.

        Raises:
            InvalidOption: FAISS knows no such kind; the recall is none.
        """
        if recall is not None and not 0 < recall <= 1:
            raise InvalidOption(f"the recall is a share above 0, up to 1, not {recall}")
        if kind is not None:
            for dim in {space.dim for space in self._catalog.spaces()} or {256}:
                _check_kind(kind, dim + EXTRA_DIMS)
            self._catalog.set_setting(KIND, kind)
        if recall is not None:
            self._catalog.set_setting(LEAST_RECALL, str(recall))
        if kind is not None or recall is not None:
            self.clear()

    def described(self, present: Present) -> list[dict[str, Any]]:
        """What kind of index each facet has, and why; of those that have a base."""
        stamp, wanted = self._catalog.changes(), self._wanted()
        found = []
        for space, facets in present:
            for facet in facets:
                about = self._cache.about(space, facet, stamp, wanted)
                if about is not None:
                    found.append({"model": space.name, "facet": facet, **about})
        return found

    def drop(self, space: Space) -> None:
        """Delete the bases of a space."""
        self._cache.drop(space)
        self.clear()

    def clear(self) -> None:
        """Let go of what is in memory."""
        self._held = {}

    # ------------------------------------------------------------------ parts of the above

    def _newest(self, space: Space, facet: str, stamp: Stamp) -> Followed | None:
        """What is held and can be brought up to a stamp: what is ahead of it has other rows."""
        for held in self._held.get((space.id, facet), ()):
            at = held.stamp
            if at.catalog_id == stamp.catalog_id and at.revision <= stamp.revision:
                return held
        return None

    def _hold(self, space: Space, facet: str, held: Followed) -> None:
        of = held.stamp.catalog_id
        others = [
            other
            for other in self._held.get((space.id, facet), ())
            if other is not held and other.stamp.catalog_id == of
        ]
        newest = sorted([held, *others], key=lambda one: one.stamp.revision, reverse=True)
        self._held[space.id, facet] = newest[:HELD]

    def _brought_up(
        self, space: Space, facet: str, stamp: Stamp, held: Followed | None
    ) -> Followed:
        wanted = self._wanted()
        if held is None or not held.follows(stamp):
            held = self._cache.read(space, facet, stamp, wanted)
        elif held.stamp != stamp:
            held = held.copy()  # who is searching goes on with what there was
            held.follow(self._catalog, space, facet, stamp)
        if held is not None and held.index.delta_size <= max(
            MANY, len(held.index.segment.rows) // 2
        ):
            return held
        return self._rebuilt(space, facet, wanted)

    def _rebuilt(self, space: Space, facet: str, wanted: Wanted) -> Followed:
        if not self._catalog.in_snapshot:
            with self._may_write("making an index") as may, suppress(StorageFailed):
                if may:  # an index of an older version has no hubs yet
                    self._query_banks.compute_missing_hubs(space, facet)
        return self._cache.build(space, facet, wanted, lambda: self._asked(space, facet))

    def _wanted(self) -> Wanted:
        kept = self._catalog.setting
        return Wanted(kept(KIND) or AUTO, float(kept(LEAST_RECALL) or RECALL))

    def _asked(self, space: Space, facet: str) -> SampleQueries:
        """Queries of each modality that can ask for a facet, as its index is asked."""
        import numpy as np

        found = {}
        searched = next(one for one in get_args(Modality) if one == facet)
        for modality in get_args(Modality):
            vectors = self._query_banks.sample_queries(space, modality, MEASURED_BY)
            if len(vectors):
                weight = self._query_banks.hub_weight(space, modality, searched)
                found[modality] = np.stack(
                    [augmented_query(one, modality, weight) for one in vectors]
                )
        return found


def _check_kind(kind: str, dim: int) -> None:
    if kind in (AUTO, EXACT):
        return
    import faiss

    library: Any = faiss
    try:
        library.index_factory(dim, kind, library.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise InvalidOption(
            f"{kind!r} is no kind of index for vectors of {dim} numbers: it is {AUTO!r}, {EXACT!r} "
            "or a factory string of FAISS's, 'RaBitQ' or 'HNSW32' say"
        ) from error
