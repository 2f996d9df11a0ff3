"""The index of one modality's vectors: a segment, and the delta of vectors added since."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.vectors.exact import (
    DECIMALS,
    as_float32,
    bitmap,
    exact_index,
    ranked,
    search_exactly,
)
from mmsearch.vectors.id_set import IdSet
from mmsearch.vectors.index_choice import NEIGHBOURS, SAMPLED, error_distance
from mmsearch.vectors.sample import ChanceSample
from mmsearch.vectors.segment import Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Ranking, Vectors
    from mmsearch.vectors.ann_index import AnnIndex
    from mmsearch.vectors.exact import Float16Rows


FEW = 250
"""If at most one row in 250 passes a filter, those rows are copied and searched alone. Copying
1,000 rows of a million takes 0.2 ms, and having FAISS skip the others 2 ms; from one in 100 on,
copying is slower (benchmarks/filters.py)."""

FEW_ROWS = 4_000
"""So many rows that pass a filter are searched alone, whatever share they are: under a filter that
leaves out a query's neighbourhood, about as many would be scored after a search of the codes."""

RESCORED_SHARE = 1 / 25
"""If a larger share of the rows may be among the nearest, all are compared: to read and score a row
alone takes 2 µs, and in the order of the file less than a twentieth of that."""

CANDIDATES_PER_ID = 4
"""Additional candidates that are scored for each id beyond the ten of `index_choice`."""


CELL_STEP = 4
"""A search that goes on compares four times as many cells. Whether it can stop is then decided by
three quarters of these; half of them, if it doubled, more often have no candidate by chance."""


class LiveRows:
    """The rows of a segment that have not been deleted: those of a mask (n,), or all if None.

    Objects are replaced, never changed.
    """

    def __init__(self, segment: Segment, live: NDArray[np.bool_] | None = None) -> None:
        self.segment = segment
        self.live = live
        self._live_bits = None if live is None else bitmap(live)

    def __len__(self) -> int:
        import numpy as np

        return len(self.segment) if self.live is None else int(np.count_nonzero(self.live))

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of these rows within the segment, ascending."""
        import numpy as np

        return np.arange(len(self.segment)) if self.live is None else np.flatnonzero(self.live)

    @property
    def ids(self) -> NDArray[np.int64]:
        """The id of each of these rows."""
        return self.segment.ids if self.live is None else self.segment.ids[self.live]

    def without(self, vector_ids: NDArray[np.int64]) -> LiveRows:
        """These rows less those of the given vectors, which need not be among them."""
        import numpy as np

        stored_ids, vector_ids = self.segment.vector_ids, np.sort(vector_ids)
        rows = np.searchsorted(stored_ids, vector_ids)
        rows = rows[rows < len(stored_ids)]  # drops the last ones, as they ascend
        rows = rows[stored_ids[rows] == vector_ids[: len(rows)]]
        if not len(rows):
            return self
        live = np.ones(len(stored_ids), np.bool_) if self.live is None else self.live.copy()
        live[rows] = False
        return LiveRows(self.segment, live)

    def search(self, vector: Vectors, k: int, allowed: IdSet | None) -> Ranking:
        """The k ids of the highest inner products with a vector (dim,); ties in order of id."""
        import numpy as np

        mask = self.live
        if allowed is not None:
            mask = allowed.contains(self.segment.ids)
            if self.live is not None:
                mask &= self.live
        if mask is None:
            return self._search(vector, k, len(self.segment), None)
        count = int(np.count_nonzero(mask))
        if count * FEW <= len(self.segment) or (
            self.segment.ann_index is not None and count <= max(self.candidates(k), FEW_ROWS)
        ):
            return self.rescored(np.flatnonzero(mask), vector, k)
        bits = self._live_bits if mask is self.live else bitmap(mask)
        return self._search(vector, k, count, bits)

    def candidates(self, k: int) -> int:
        """The number of candidates scored to find k ids; 0 without an approximate index."""
        if self.segment.ann_index is None:
            return 0
        return self.segment.choice.candidates + CANDIDATES_PER_ID * max(k - NEIGHBOURS, 0)

    def _search(
        self, vector: Vectors, k: int, count: int, bits: NDArray[np.uint8] | None
    ) -> Ranking:
        """The best of all rows, or of the `count` rows of a bitmap."""
        found = self._search_candidates(vector, k, count, bits)
        if found is not None:
            return found
        return search_exactly(self.segment.exact_index, self.segment.ids, vector, k, count, bits)

    def _search_candidates(
        self, vector: Vectors, k: int, count: int, bits: NDArray[np.uint8] | None
    ) -> Ranking | None:
        """The best of the candidates; None if all rows must be compared, or sooner are."""
        ann_index = self.segment.ann_index
        if ann_index is None:
            return None
        # each cell or node has only its share of the rows that pass a filter
        effort = self.segment.choice.effort * max(1, round(len(self.segment) / count))
        best = BestCandidates(self, vector, k, count)
        try:
            if ann_index.cells:
                return best.of_cells(ann_index, effort, bits)
            return best.of_all(ann_index, effort, bits)
        except RuntimeError:  # FAISS's own: this kind of index cannot skip rows
            return None

    def rescored(self, numbers: NDArray[np.int64], vector: Vectors, k: int) -> Ranking:
        """The best of a few rows, whose numbers ascend, with exact scores."""
        rows = self.segment.read_rows(numbers)
        return search_exactly(exact_index(rows), self.segment.ids[numbers], vector, k, len(rows))


class BestCandidates:
    """The k best of the candidates of an approximate index, and whether there can be better ones.

    A row is a candidate while it can be among the k best: while its approximate score, raised by
    its margin (`score_margins`), reaches the k-th exact score found so far. So how many rows are
    scored exactly depends on the query and on the filter: some hundred, or thousands if many rows
    score alike.

    Args:
        rows: Those that are searched.
        vector: (dim,) the query.
        k: The number of ids.
        count: The number of rows that may be found.
    """

    def __init__(self, rows: LiveRows, vector: Vectors, k: int, count: int) -> None:
        assert rows.segment.margins is not None, "an approximate index has them"
        self._rows, self._vector, self._k, self._count = rows, vector, k, count
        self._row_margins = rows.segment.margins
        self._first = min(rows.candidates(k), count)
        self._budget = max(int(count * RESCORED_SHARE), self._first)
        _, mean, products = rows.segment.moments
        square, row_square = float(vector @ vector), float(products.trace())
        self._squares, self._lengths = square + row_square, math.sqrt(square * row_square)
        self._mean_score = float(mean @ vector)
        self._ranking: Ranking = []

    def of_all(
        self, ann_index: AnnIndex, effort: int, bits: NDArray[np.uint8] | None
    ) -> Ranking | None:
        """The k best, by searches for more and more rows; None if these are too many."""
        wanted = self._first
        while wanted <= self._budget:
            numbers, scores = ann_index.candidates(self._vector, wanted, effort, bits)
            self._ranking = []
            self._rescore(numbers)
            if len(numbers) == self._count or (len(numbers) and scores.min() < self._floor()):
                return self._ranking
            if len(numbers) < wanted:
                effort *= 4
            wanted *= 4
        return None

    def of_cells(
        self, ann_index: AnnIndex, effort: int, bits: NDArray[np.uint8] | None
    ) -> Ranking | None:
        """The k best, from cells farther and farther away; None if candidates are too many.

        A quarter of the cells of the effort gives the first candidates. Then four times as many
        cells are searched, and again, until the added ones contain no candidate.
        """
        import numpy as np

        last = max(min(effort, ann_index.cells) // CELL_STEP, 1)
        numbers, scores = ann_index.candidates(self._vector, self._first, last, bits)
        self._rescore(numbers)
        if len(numbers) == self._first and scores.min() >= self._floor():  # there may be more
            found = ann_index.candidates_above(self._vector, self._floor(), 0, last, bits)
            new = ~np.isin(found[0], numbers)
            if not self._rescore_candidates(found[0][new], found[1][new]):
                return None
        while last < ann_index.cells:
            first, last = last, min(CELL_STEP * last, ann_index.cells)
            found = ann_index.candidates_above(self._vector, self._floor(), first, last, bits)
            if not self._rescore_candidates(*found):
                return None
            if len(self._ranking) == self._k and not self._are_candidates(*found).any():
                break
        return self._ranking

    def _floor(self) -> float:
        """The approximate score below which no row is a candidate."""
        if len(self._ranking) < self._k:
            return float("-inf")
        return float(self._worst - self._margins(self._row_margins.widest))

    def _are_candidates(
        self, numbers: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Whether each row, by its approximate score, can be among the k best (n,)."""
        import numpy as np

        if len(self._ranking) < self._k:
            return np.ones(len(numbers), np.bool_)
        by_row = self._row_margins.by_row[numbers]
        possible: NDArray[np.bool_] = scores + self._margins(by_row) >= self._worst
        return possible

    @property
    def _worst(self) -> float:
        """The k-th exact score found so far, less what rounding may have added to it."""
        return float(self._ranking[-1][1] - 10**-DECIMALS)

    def _margins(self, by_row: Any) -> Any:
        """The margins of rows as far away from the query as the k-th best may be."""
        distance = error_distance(self._squares, self._mean_score, self._worst)
        return self._row_margins.at(by_row, self._lengths, distance)

    def _rescore_candidates(self, numbers: NDArray[np.int64], scores: NDArray[np.float32]) -> bool:
        """Score rows, the most likely first, while they are candidates; False: too many are."""
        import numpy as np

        size = self._first
        left = self._are_candidates(numbers, scores)
        while left.any():
            numbers, scores = numbers[left], scores[left]
            if len(numbers) > size:
                order = np.argpartition(-scores, size)
                numbers, scores = numbers[order], scores[order]
            self._rescore(numbers[:size])
            numbers, scores = numbers[size:], scores[size:]
            left = self._are_candidates(numbers, scores)
            if np.count_nonzero(left) > self._budget:
                return False
            size *= 2
        return True

    def _rescore(self, numbers: NDArray[np.int64]) -> None:
        """Add rows, with exact scores."""
        import numpy as np

        self._budget -= len(numbers)
        found = self._rows.rescored(np.sort(numbers), self._vector, self._k)
        self._ranking = merged(self._ranking, found)[: self._k]


def merged(first: Ranking, second: Ranking) -> Ranking:
    """One ranking of two that may have ids in common."""
    if not first or not second:
        return first or second
    both = first + second
    return ranked([id_ for id_, _ in both], [score for _, score in both])


class FaissIndex:
    """Inner products with float16 rows, as the catalog stores them.

    Scores are always exact. The ranking is exact if the segment is searched exactly, else each
    search finds the share of the nearest that its `IndexChoice` was made for, whatever the query
    and the filter (`BestCandidates`). The delta is always searched exactly.

    An id may be added several times (the captions of one photo): its best row counts.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._rows = LiveRows(segment)
        self._delta = LiveRows(Segment.empty(segment.dim))
        self._sample: ChanceSample | None = None
        self._items: IdSet | None = None

    @classmethod
    def empty(cls, dim: int) -> FaissIndex:
        """An index without vectors, for vectors of `dim` numbers."""
        return cls(Segment.empty(dim))

    def __len__(self) -> int:
        return len(self._rows) + len(self._delta)

    @property
    def delta_size(self) -> int:
        """The number of rows that were added to the segment or deleted from it."""
        return len(self._delta.segment) + len(self.segment) - len(self._rows)

    def copy(self) -> FaissIndex:
        """A copy that can be changed while other threads search this index."""
        return copy.copy(self)

    def add(
        self,
        ids: Sequence[int] | NDArray[np.int64],
        vectors: Vectors | Float16Rows,
        vector_ids: NDArray[np.int64] | None = None,
    ) -> None:
        """Add vectors (n, dim) to the delta.

        Args:
            ids: (n,) the item of each vector.
            vectors: (n, dim), which are rounded to float16.
            vector_ids: (n,) the catalog's id of each, above all ids so far; None: the next ids.
        """
        import numpy as np

        old, live = self._delta.segment, self._delta.live
        if vector_ids is None:
            known = [*self.segment.vector_ids[-1:], *old.vector_ids[-1:], 0]
            vector_ids = np.arange(len(vectors)) + max(known) + 1
        delta = Segment(
            np.concatenate([old.rows, vectors.astype(np.float16, copy=False)]),
            np.concatenate([old.ids, np.asarray(ids, np.int64)]),
            np.concatenate([old.vector_ids, vector_ids]),
        )
        if live is not None:
            live = np.concatenate([live, np.ones(len(vectors), np.bool_)])
        self._delta, self._sample, self._items = LiveRows(delta, live), None, None

    def delete(self, vector_ids: NDArray[np.int64]) -> None:
        """Delete the vectors of the catalog's ids (n,), as far as the index has them."""
        self._rows, self._delta = self._rows.without(vector_ids), self._delta.without(vector_ids)
        self._sample = self._items = None

    def items(self) -> IdSet:
        """The ids that have a vector."""
        if self._items is None:
            self._items = IdSet.of(self._rows.ids).union(IdSet.of(self._delta.ids))
        return self._items

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        """The k ids of the highest inner products with a vector (dim,); ties in order of id.

        Args:
            vector: The query.
            k: The number of ids; fewer are found only if no more are stored and allowed.
            allowed: Ids that may be found; None allows all.
        """
        found = self._rows.search(vector, k, allowed)
        new = self._delta.search(vector, k, allowed) if len(self._delta.segment) else []
        return merged(found, new)[:k]

    def sample(self, n: int) -> Vectors:
        """At most n of the vectors (min(n, len), dim), evenly strided, always the same."""
        import numpy as np

        numbers, new_numbers = self._rows.numbers, self._delta.numbers
        total = len(numbers) + len(new_numbers)
        n = min(n, total)
        chosen = np.arange(n, dtype=np.int64) * total // max(n, 1)
        old = chosen[chosen < len(numbers)]
        new = chosen[len(old) :] - len(numbers)
        return np.concatenate(
            [
                as_float32(self.segment.rows, numbers[old]),
                as_float32(self._delta.segment.rows, new_numbers[new]),
            ]
        )

    def mean(self) -> Vectors:
        """The mean (dim,) of a sample of the vectors."""
        if self.segment.ann_index is None:
            return self._chance_sample().mean
        return self.segment.moments[1]  # the delta is a small share of a large segment

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        """The scores that a sample of the vectors has by chance with a query vector (dim,).

        Returns:
            The size of the sample, the mean of the inner products, and the mean of their squares.
        """
        if self.segment.ann_index is None:
            return self._chance_sample().moments(vector)
        number, mean, products = self.segment.moments
        return number, float(mean @ vector), float(vector @ (products @ vector))

    def warm_up(self) -> None:
        """Load what every search needs, FAISS as well."""
        if self.segment.ann_index is None:
            _ = self.segment.exact_index
            self._chance_sample()
        else:
            _ = self.segment.moments

    def _chance_sample(self) -> ChanceSample:
        if self._sample is None:
            self._sample = ChanceSample(self.sample(SAMPLED))
        return self._sample
