"""Which items may be found: the ids that a filter lets pass, as a list or as mask."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class IdSet:
    """Some ids. Few are best kept as a list, many as mask; either is made of the other when asked.

    Args:
        mask: Of each id from `low` on, whether it passes.
        low: The id of the first mark, 0 or more.
    """

    def __init__(self, mask: NDArray[np.bool_], low: int = 0) -> None:
        self._mask = mask
        self._low = low

    @classmethod
    def of(cls, ids: Iterable[int] | NDArray[np.int64]) -> IdSet:
        """Those ids, in any order."""
        import numpy as np

        listed = ids if isinstance(ids, np.ndarray) else np.fromiter(ids, np.int64)
        low, high = (int(listed.min()), int(listed.max())) if len(listed) else (0, -1)
        mask = np.zeros(high - low + 1, np.bool_)
        mask[listed - low] = True
        return cls(mask, low)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The ids, sorted."""
        import numpy as np

        return np.flatnonzero(self._mask) + self._low

    @cached_property
    def _number(self) -> int:
        import numpy as np

        return int(np.count_nonzero(self._mask))

    def __len__(self) -> int:
        return self._number

    @property
    def span(self) -> tuple[int, int]:
        """Ids that none that passes is below, and above."""
        return self._low, self._low + len(self._mask) - 1

    def mask(self, low: int, high: int) -> NDArray[np.bool_]:
        """Of each id from `low` to `high`, whether it passes."""
        import numpy as np

        found = np.zeros(max(high - low + 1, 0), np.bool_)
        first, last = max(low, self._low), min(high, self._low + len(self._mask) - 1)
        if first <= last:
            found[first - low : last - low + 1] = self._mask[
                first - self._low : last - self._low + 1
            ]
        return found

    def contains(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of each of some ids (n,), whether it passes; 1 ms a million."""
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
