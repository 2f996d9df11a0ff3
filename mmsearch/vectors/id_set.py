"""The set of item ids that a filter lets pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Fetch = Callable[[NDArray[np.int64] | None], NDArray[np.int64]]
    """Returns those of the given ids (n,) that pass; of None, all that do."""

FEW = 10_000
"""So many ids a server is asked for by themselves: the others that pass may be millions."""


class IdSet:
    """A set of ids, stored as a mask over a range of ids.

    Args:
        mask: Whether the set has each id from `low` on.
        low: The id that the mask begins with, 0 or more.
    """

    def __init__(self, mask: NDArray[np.bool_], low: int = 0) -> None:
        self._mask = mask
        self._low = low

    @classmethod
    def of(cls, ids: Iterable[int] | NDArray[np.int64]) -> IdSet:
        """A set of ids, given in any order."""
        import numpy as np

        listed = ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64)
        low, high = (int(listed.min()), int(listed.max())) if len(listed) else (0, -1)
        mask = np.zeros(high - low + 1, np.bool_)
        mask[listed - low] = True
        return cls(mask, low)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The ids (n,), sorted."""
        import numpy as np

        return np.flatnonzero(self._mask) + self._low

    @cached_property
    def _size(self) -> int:
        import numpy as np

        return int(np.count_nonzero(self._mask))

    def __len__(self) -> int:
        return self._size

    def count_up_to(self, most: int) -> int:
        """How many ids there are, or `most` if there are more."""
        return min(len(self), most)

    @property
    def span(self) -> tuple[int, int]:
        """A lower and an upper bound of the ids, both inclusive."""
        return self._low, self._low + len(self._mask) - 1

    def mask(self, low: int, high: int) -> NDArray[np.bool_]:
        """Whether the set has each id from `low` to `high`, both inclusive."""
        import numpy as np

        found = np.zeros(max(high - low + 1, 0), np.bool_)
        first, last = max(low, self._low), min(high, self.span[1])
        if first <= last:
            common = self._mask[first - self._low : last - self._low + 1]
            found[first - low : last - low + 1] = common
        return found

    def union(self, other: IdSet) -> IdSet:
        """The ids of this set and of another."""
        if not len(self) or not len(other):
            return self if len(self) else other
        low, high = min(self.span[0], other.span[0]), max(self.span[1], other.span[1])
        return IdSet(self.mask(low, high) | other.mask(low, high), low)

    def intersection(self, other: IdSet) -> IdSet:
        """The ids of this set that another has, too."""
        low, high = self.span
        return IdSet(self._mask & other.mask(low, high), low)

    def contains(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the set has each of the given ids (n,); takes 1 ms per million."""
        import numpy as np

        if not len(ids):
            return np.zeros(0, np.bool_)
        low, high = self._low, self._low + len(self._mask)
        if int(ids.min()) >= low and int(ids.max()) < high:
            return self._mask[ids - low if low else ids]
        inside = (ids >= low) & (ids < high)
        found = np.zeros(len(ids), np.bool_)
        found[inside] = self._mask[ids[inside] - low]
        return found


class LazyIdSet(IdSet):
    """A set of ids that a server knows, and that are fetched only where they themselves are needed.

    The server's own searches are given the condition instead, so that a filter which millions of
    items pass costs one count.

    Args:
        condition: What an item must fulfil, in the form that the server takes.
        count: Returns how many ids there are.
        fetch: Returns the ids, all or those among some.
    """

    def __init__(self, condition: Any, count: Callable[[], int], fetch: Fetch) -> None:
        self.condition = condition
        self._count = count
        self._fetch = fetch

    @cached_property
    def _whole(self) -> IdSet:
        return IdSet.of(self._fetch(None))

    @property
    def is_fetched(self) -> bool:
        """Whether all ids are here already."""
        return "_whole" in self.__dict__

    @property
    def is_counted(self) -> bool:
        """Whether the number of ids is known already."""
        return self.is_fetched or "_size" in self.__dict__

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The ids (n,), sorted."""
        return self._whole.ids

    @cached_property
    def _size(self) -> int:
        return len(self._whole) if self.is_fetched else self._count()

    @property
    def span(self) -> tuple[int, int]:
        """A lower and an upper bound of the ids, both inclusive."""
        return self._whole.span

    def mask(self, low: int, high: int) -> NDArray[np.bool_]:
        """Whether the set has each id from `low` to `high`, both inclusive."""
        return self._whole.mask(low, high)

    def union(self, other: IdSet) -> IdSet:
        """The ids of this set and of another."""
        return self._whole.union(other)

    def intersection(self, other: IdSet) -> IdSet:
        """The ids of this set that another has, too."""
        if self.is_fetched or len(other) > FEW:
            return self._whole.intersection(other)
        return IdSet.of(self._fetch(other.ids))

    def contains(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the set has each of the given ids (n,)."""
        if self.is_fetched or len(ids) > FEW:
            return self._whole.contains(ids)
        return IdSet.of(self._fetch(ids)).contains(ids)
