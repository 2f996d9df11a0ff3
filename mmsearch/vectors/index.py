"""The index of one modality's vectors: a segment, and the delta of vectors added since."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsearch.vectors.exact import as_float32, bitmap, exact_index, ranked, search_exactly
from mmsearch.vectors.id_set import IdSet
from mmsearch.vectors.index_choice import NEIGHBOURS
from mmsearch.vectors.segment import SAMPLED, Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Ranking, Vectors
    from mmsearch.vectors.exact import Float16Rows

FEW = 250
"""If at most one row in 250 passes a filter, those rows are copied and searched alone. Copying
1,000 rows of a million takes 0.2 ms, and having FAISS skip the others 2 ms; from one in 100 on,
copying is slower (benchmarks/filters.py)."""

CANDIDATES_PER_ID = 4
"""Additional candidates that are scored for each id beyond the ten of `index_choice`."""


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
        if count * FEW <= len(self.segment) or count <= self.candidates(k):
            return self._rescored(np.flatnonzero(mask), vector, k)
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
        """The best of the candidates; None if these do not suffice."""
        import numpy as np

        segment = self.segment
        if segment.ann_index is None:
            return None
        wanted = min(self.candidates(k), count)
        # each cell or node has only its share of the rows that pass a filter
        effort = segment.choice.effort * max(1, round(len(segment) / count))
        while wanted < len(segment):
            try:
                numbers = segment.ann_index.candidates(vector, wanted, effort, bits)
            except RuntimeError:  # this kind of index cannot skip rows
                return None
            ranking = self._rescored(np.sort(numbers), vector, k)
            if len(ranking) >= k:
                return ranking
            if wanted == count:
                return ranking if len(numbers) == count else None
            if len(numbers) < wanted:
                effort *= 4
            wanted = min(wanted * 4, count)
        return None

    def _rescored(self, numbers: NDArray[np.int64], vector: Vectors, k: int) -> Ranking:
        """The best of a few rows, whose numbers ascend, with exact scores."""
        rows = self.segment.read_rows(numbers)
        return search_exactly(exact_index(rows), self.segment.ids[numbers], vector, k, len(rows))


class FaissIndex:
    """Inner products with float16 rows, as the catalog stores them.

    Scores are always exact. The ranking is exact if the segment is searched exactly, else its
    recall is that of the segment's `IndexChoice`. The delta is always searched exactly.

    An id may be added several times (the captions of one photo): its best row counts.
    """

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self._rows = LiveRows(segment)
        self._delta = LiveRows(Segment.empty(segment.dim))
        self._sample: Vectors | None = None

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
        self._delta, self._sample = LiveRows(delta, live), None

    def delete(self, vector_ids: NDArray[np.int64]) -> None:
        """Delete the vectors of the catalog's ids (n,), as far as the index has them."""
        self._rows, self._delta = self._rows.without(vector_ids), self._delta.without(vector_ids)
        self._sample = None

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        """The k ids of the highest inner products with a vector (dim,); ties in order of id.

        Args:
            vector: The query.
            k: The number of ids; fewer are found only if no more are stored and allowed.
            allowed: Ids that may be found; None allows all.
        """
        found = self._rows.search(vector, k, allowed)
        new = self._delta.search(vector, k, allowed) if len(self._delta.segment) else []
        if not new:
            return found
        both = found + new
        return ranked([id_ for id_, _ in both], [score for _, score in both])[:k]

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
            mean: Vectors = self._chance_sample().mean(axis=0)
            return mean
        return self.segment.moments[1]  # the delta is a small share of a large segment

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        """The scores that a sample of the vectors has by chance with a query vector (dim,).

        Returns:
            The size of the sample, the mean of the inner products, and the mean of their squares.
        """
        if self.segment.ann_index is None:
            scores = (self._chance_sample() @ vector).astype(float)
            return len(scores), float(scores.mean()), float((scores * scores).mean())
        number, mean, products = self.segment.moments
        return number, float(mean @ vector), float(vector @ (products @ vector))

    def warm_up(self) -> None:
        """Load what every search needs, FAISS as well."""
        if self.segment.ann_index is None:
            _ = self.segment.exact_index
            self._chance_sample()
        else:
            _ = self.segment.moments

    def _chance_sample(self) -> Vectors:
        if self._sample is None:
            self._sample = self.sample(SAMPLED)
        return self._sample
