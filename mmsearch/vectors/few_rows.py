"""Exact search of small sets of items by the client, such as those that pass a narrow filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from mmsearch.vectors.exact import exact_index, search_exactly
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Ranking, Vectors
    from mmsearch.vectors.exact import Float16Rows

    Rows = tuple[NDArray[np.int64], Float16Rows]
    """The item id (n,) of each row, and the rows (n, dim), contiguous."""


MOST_CACHED = 10_000
"""Sets with more rows are fetched again for each query: an item may have many, as videos do."""


class FewRows:
    """Searches sets of items, fetching the rows of each set from a server once.

    They are cached as long as the set exists: that of a filter, until the store changes.

    Args:
        fetch: Returns the rows of the items in a set.
    """

    def __init__(self, fetch: Callable[[IdSet], Rows]) -> None:
        self._fetch = fetch
        self._rows: WeakKeyDictionary[IdSet, Rows] = WeakKeyDictionary()

    def search(self, items: IdSet, vector: Vectors, k: int) -> Ranking:
        """The k items of a set with the highest inner products with a vector (dim,)."""
        if (rows := self._rows.get(items)) is None:
            rows = self._fetch(items)
            if len(rows[0]) <= MOST_CACHED:
                self._rows[items] = rows
        return best_of(rows, vector, k)


def best_of(rows: Rows, vector: Vectors, k: int) -> Ranking:
    """The k items whose rows have the highest inner products with a vector (dim,)."""
    owners, matrix = rows
    return search_exactly(exact_index(matrix), owners, vector, k, len(matrix))
