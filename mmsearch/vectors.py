"""Exact nearest-neighbour search: by FAISS, and by NumPy as the oracle that checks it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmsearch.types import Ranking, Vectors

DECIMALS = 6
"""Scores are rounded to this: float32 sums differ in the 7th decimal with the order of adding."""


ONE_THREAD = 50_000
"""Rows up to which a search stays on the thread that asks."""


class FaissIndex:
    """Exact inner products over float16 rows, which is how the catalog keeps them.

    An id may be added several times (the captions of one photo): its best row stands for it.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def empty(cls, dim: int) -> FaissIndex:
        """An index of no vectors, for vectors of `dim` numbers."""
        import faiss

        half = faiss.ScalarQuantizer.QT_fp16
        flat = faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)
        return cls(faiss.IndexIDMap(flat))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        """File vectors (n, dim) under ids (n,)."""
        import numpy as np

        self._index.add_with_ids(
            np.ascontiguousarray(vectors, dtype=np.float32), np.asarray(ids, dtype=np.int64)
        )

    def search(self, vector: Vectors, k: int) -> Ranking:
        """The k ids of the highest inner product with a vector (dim,); ties by id."""
        rows = len(self)
        wanted = min(k + 16, rows)
        while wanted:
            scores, ids = self._nearest(vector.reshape(1, -1), wanted)
            ranking = _rank(ids[0].tolist(), scores[0].tolist())
            floor = round(float(scores[0][-1]), DECIMALS)  # nothing that was left out is above
            if wanted == rows or (len(ranking) >= k and ranking[k - 1][1] > floor):
                return ranking[:k]
            wanted = min(wanted * 4, rows)
        return []

    def _nearest(self, vector: Vectors, wanted: int) -> Any:
        """FAISS's search; on one thread where waking others takes longer than the work.

        10,000 rows take 0.4 ms alone, and 8 ms on two threads when other programs are busy
        (benchmarks/threads.py).
        """
        import faiss

        if len(self) > ONE_THREAD:
            return self._index.search(vector, wanted)
        before = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)  # of the calling thread alone
        try:
            return self._index.search(vector, wanted)
        finally:
            faiss.omp_set_num_threads(before)

    def save(self, path: Path) -> None:
        """Write to `path` whole or not at all."""
        import faiss

        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            faiss.write_index(self._index, str(part))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> FaissIndex:
        """What `save` wrote.

        Raises:
            RuntimeError: the file is missing or damaged (FAISS's own error).
        """
        import faiss

        return cls(faiss.read_index(str(path)))


class ExactIndex:
    """The same by plain NumPy in float64: slow, obvious, and what FaissIndex is tested against."""

    def __init__(self, dim: int) -> None:
        import numpy as np

        self._ids: list[int] = []
        self._rows = np.zeros((0, dim))

    @classmethod
    def empty(cls, dim: int) -> ExactIndex:
        """An index of no vectors, for vectors of `dim` numbers."""
        return cls(dim)

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        """File vectors (n, dim), as float16 keeps them, under ids (n,)."""
        import numpy as np

        self._ids += [int(i) for i in ids]
        kept = vectors.astype(np.float16).astype(np.float64)
        self._rows = np.concatenate([self._rows, kept])

    def search(self, vector: Vectors, k: int) -> Ranking:
        """The k ids of the highest inner product with a vector (dim,); ties by id."""
        return _rank(self._ids, (self._rows @ vector.astype(float)).tolist())[:k]


def _rank(ids: Sequence[int], scores: Sequence[float]) -> Ranking:
    """Ids by their best score, high to low, then by id."""
    best: dict[int, float] = {}
    for item_id, score in zip(ids, scores, strict=True):
        rounded = round(score, DECIMALS) + 0.0  # never -0.0
        if rounded > best.get(item_id, float("-inf")):
            best[item_id] = rounded
    return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))
