"""One facet's vectors, searched: a base that was made at some moment, and what came since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmsearch.vectors.flat import flat, flat_of, ranked, rows_in, widened
from mmsearch.vectors.id_set import IdSet
from mmsearch.vectors.rows import Part
from mmsearch.vectors.segment import SAMPLED, Segment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Ranking, Vectors
    from mmsearch.vectors.flat import Rows


class FaissIndex:
    """Inner products over float16 rows, which is how the catalog keeps them.

    Scores are those of the rows to the bit. So is the ranking where the base is searched exactly;
    else it is as good as `Choice.recall` says. What was appended is always searched exactly.

    An id may be added several times (the captions of one photo): its best row stands for it.

    Args:
        base: What there was; rows that are appended come on top.
    """

    def __init__(self, segment: Segment) -> None:
        import numpy as np

        self.segment = segment
        self._part = segment.part()
        self._flat = flat(segment.dim)
        self._tail_ids = self._tail_vector_ids = np.zeros(0, np.int64)
        self._tail = self._tail_part()
        self._samples: dict[int, Vectors] = {}

    @classmethod
    def empty(cls, dim: int) -> FaissIndex:
        """An index of no vectors, for vectors of `dim` numbers."""
        return cls(Segment.empty(dim))

    def __len__(self) -> int:
        return len(self._part) + len(self._tail)

    @property
    def dim(self) -> int:
        """How many numbers a vector has."""
        return self.segment.dim

    @property
    def delta_size(self) -> int:
        """Rows that are not in the base, and those of the base that are gone."""
        return len(self._tail_ids) + len(self._part.rows) - len(self._part)

    def copy(self) -> FaissIndex:
        """The same again: changing it leaves alone those who are searching this one."""
        found = FaissIndex(self.segment)
        found._flat = flat_of(rows_in(self._flat))
        found._tail_ids, found._tail_vector_ids = self._tail_ids, self._tail_vector_ids
        found._tail = found._tail_part()
        for new, old in ((found._part, self._part), (found._tail, self._tail)):
            new.keep(old.alive)
        return found

    def add(
        self,
        ids: Sequence[int] | NDArray[np.int64],
        vectors: Vectors | Rows,
        vector_ids: NDArray[np.int64] | None = None,
    ) -> None:
        """File vectors (n, dim) under ids (n,).

        Args:
            ids: The item of each.
            vectors: The rows.
            vector_ids: The catalog's own id of each, above those there are; None: the next ones.
        """
        import numpy as np

        if vector_ids is None:
            known = (self._part.vector_ids, self._tail_vector_ids)
            first = 1 + max((int(some[-1]) for some in known if len(some)), default=0)
            vector_ids = np.arange(first, first + len(vectors))
        self._samples.clear()
        self._flat.add(np.ascontiguousarray(vectors, dtype=np.float32))
        self._tail_ids = np.concatenate([self._tail_ids, np.asarray(ids, np.int64)])
        self._tail_vector_ids = np.concatenate([self._tail_vector_ids, vector_ids])
        alive = self._tail.alive
        self._tail = self._tail_part()
        if alive is not None:
            self._tail.keep(np.concatenate([alive, np.ones(len(vectors), np.bool_)]))

    def delete(self, vector_ids: NDArray[np.int64]) -> None:
        """Have rows found no more, by the catalog's ids of them."""
        self._samples.clear()
        self._part.drop(vector_ids)
        self._tail.drop(vector_ids)

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        """The k ids of the highest inner product with a vector (dim,); ties by id.

        Args:
            vector: What to be near to.
            k: How many; never fewer if as many are there and allowed.
            allowed: Ids that may be found; None allows all.
        """
        found = self._part.search(vector, k, allowed)
        if not len(self._tail_ids):
            return found
        late = self._tail.search(vector, k, allowed)
        if not late:
            return found
        both = found + late
        return ranked([id_ for id_, _ in both], [score for _, score in both])[:k]

    def sample(self, n: int) -> Vectors:
        """At most n of its vectors (min(n, len), dim), evenly strided, always the same."""
        if n not in self._samples:
            self._samples[n] = self._sampled(n)
            self._samples[n].flags.writeable = False
        return self._samples[n]

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        """What its vectors score by chance with a vector (dim,), told by a sample.

        Returns:
            How many were sampled, the mean of their inner products, the mean of the squares.
        """
        if self.segment.coarse is None:
            scores = (self.sample(SAMPLED) @ vector).astype(float)
            return len(scores), float(scores.mean()), float((scores * scores).mean())
        number, mean, squares = self.segment.moments
        return number, float(mean @ vector), float(vector @ (squares @ vector))

    def warm_up(self) -> None:
        """Read what every search needs."""
        if self.segment.coarse is None:
            self.sample(SAMPLED)
        else:
            _ = self.segment.moments

    def _sampled(self, n: int) -> Vectors:
        import numpy as np

        if self.segment.coarse is not None and n == SAMPLED:
            return widened(self.segment.sample())  # what came and went since is a small share
        parts = [
            (part.rows, np.arange(len(part.rows)) if part.alive is None else _there(part.alive))
            for part in (self._part, self._tail)
        ]
        total = sum(len(there) for _, there in parts)
        number = min(n, total)
        wanted = np.arange(number, dtype=np.int64) * total // max(number, 1)
        found, before = [], 0
        for rows, there in parts:
            inside = wanted[(wanted >= before) & (wanted < before + len(there))] - before
            found.append(widened(rows, there[inside]))
            before += len(there)
        whole: Vectors = np.concatenate(found)
        return whole

    def _tail_part(self) -> Part:
        return Part(rows_in(self._flat), self._tail_ids, self._tail_vector_ids, self._flat)


def _there(alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    import numpy as np

    return np.flatnonzero(alive)
