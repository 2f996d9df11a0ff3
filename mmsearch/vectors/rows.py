"""Rows that are searched together: those of a base in its files, or those that came since."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mmsearch.vectors.ann_index import Coarse
from mmsearch.vectors.flat import bits_of, deepened, flat_of, selecting
from mmsearch.vectors.id_set import IdSet
from mmsearch.vectors.index_choice import NEIGHBOURS, Choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Ranking, Vectors
    from mmsearch.vectors.flat import Rows

FEW = 250
"""Up to one row in this many, allowed rows are copied out and searched alone: copying 1,000 of a
million takes 0.2 ms and having FAISS pass over the others 2; from one in 100 on, copying is the
slower (benchmarks/filters.py)."""

DEEPER = 4
"""Candidates more for each id that is wanted beyond ten."""


class Part:
    """Rows, whose they are, and which of them are still there.

    Args:
        rows: (n, dim).
        ids: (n,) the item of each.
        vector_ids: (n,) the catalog's own id of each, rising.
        flat: FAISS's exact index over them.
        coarse: An approximate one, if there is one.
        choice: How hard that has to look.
        gathered: Gives a copy of some rows; by default, from `rows`.
    """

    def __init__(
        self,
        rows: Rows,
        ids: NDArray[np.int64],
        vector_ids: NDArray[np.int64],
        flat: Any,
        coarse: Coarse | None = None,
        choice: Choice | None = None,
        gathered: Callable[[NDArray[np.int64]], Rows] | None = None,
    ) -> None:
        self.rows = rows
        self.ids = ids
        self.vector_ids = vector_ids
        self._flat = flat
        self._coarse = coarse
        self._choice = choice or Choice()
        self._gathered = gathered or rows.__getitem__
        self.alive: NDArray[np.bool_] | None = None
        """Of each row whether it is still there; None: all are."""
        self._bits: NDArray[np.uint8] | None = None  # the same for FAISS

    def __len__(self) -> int:
        """How many rows are still there."""
        import numpy as np

        return len(self.rows) if self.alive is None else int(np.count_nonzero(self.alive))

    def keep(self, alive: NDArray[np.bool_] | None) -> None:
        """Have only some rows found, from now on."""
        self.alive = alive
        self._bits = None if alive is None else bits_of(alive)

    def drop(self, vector_ids: NDArray[np.int64]) -> None:
        """Have rows found no more; those it never had are passed over."""
        import numpy as np

        vector_ids = np.sort(vector_ids)
        at = np.searchsorted(self.vector_ids, vector_ids)
        at = at[at < len(self.vector_ids)]  # the first ones, as they rise
        at = at[self.vector_ids[at] == vector_ids[: len(at)]]
        if len(at):
            alive = np.ones(len(self.rows), np.bool_) if self.alive is None else self.alive.copy()
            alive[at] = False
            self.keep(alive)

    def search(self, vector: Vectors, k: int, allowed: IdSet | None) -> Ranking:
        """The k ids of the highest inner product with a vector (dim,); ties by id."""
        import numpy as np

        mask = self.alive
        if allowed is not None:
            mask = allowed.contains(self.ids)
            if self.alive is not None:
                mask = mask & self.alive
        if mask is None:
            return self._best(vector, k, len(self.rows), None)
        number = int(np.count_nonzero(mask))
        if number * FEW <= len(self.rows) or number <= self._candidates(k):
            return self._among(np.flatnonzero(mask), vector, k)
        bits = self._bits if mask is self.alive and self._bits is not None else bits_of(mask)
        return self._best(vector, k, number, bits)

    def _among(self, rows: NDArray[np.int64], vector: Vectors, k: int) -> Ranking:
        """The best of a few rows, in rising order: their scores are those of a search of all."""
        return deepened(flat_of(self._gathered(rows)), self.ids[rows], vector, k, len(rows))

    def _best(
        self, vector: Vectors, k: int, number: int, bits: NDArray[np.uint8] | None
    ) -> Ranking:
        """The best of all rows, or of those that some bits name, `number` of them."""
        if self._coarse is not None:
            found = self._likely(self._coarse, vector, k, number, bits)
            if found is not None:
                return found
        how = None if bits is None else selecting(bits)
        return deepened(self._flat, self.ids, vector, k, number, how)

    def _likely(
        self,
        coarse: Coarse,
        vector: Vectors,
        k: int,
        number: int,
        bits: NDArray[np.uint8] | None,
    ) -> Ranking | None:
        """The best of the candidates; None if these cannot be had, or are too few."""
        import numpy as np

        wanted = min(self._candidates(k), number)
        # of what a filter leaves, each cell and each node has but its share
        effort = self._choice.effort * max(1, round(len(self.rows) / number))
        while wanted < len(self.rows):
            try:
                rows = coarse.nearest(vector, wanted, effort, bits)
            except RuntimeError:  # of a kind that cannot pass over rows
                return None
            ranking = self._among(np.sort(rows), vector, k)
            if len(ranking) >= k or wanted == number:
                return ranking if len(ranking) >= k or len(rows) == number else None
            if len(rows) < wanted:
                effort *= 4
            wanted = min(wanted * 4, number)
        return None

    def _candidates(self, k: int) -> int:
        if self._coarse is None:
            return 0
        return self._choice.candidates + DEEPER * max(k - NEIGHBOURS, 0)
