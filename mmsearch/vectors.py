"""Exact nearest-neighbour search: by FAISS, and by NumPy as the oracle that checks it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Ranking, Vectors

DECIMALS = 6
"""Scores are rounded to this: float32 sums differ in the 7th decimal with the order of adding."""

ONE_THREAD = 50_000
"""Rows up to which a search stays on the thread that asks."""

FEW = 250
"""Up to one row in this many, allowed rows are copied out and searched alone: copying 1,000 of a
million takes 0.2 ms and having FAISS pass over the others 2; from one in 100 on, copying is the
slower (benchmarks/filters.py)."""

_AT_ONCE = 256  # rows that are widened while they are in the processor's cache


class FaissIndex:
    """Exact inner products over float16 rows, which is how the catalog keeps them.

    An id may be added several times (the captions of one photo): its best row stands for it.
    """

    def __init__(self, index: Any) -> None:
        import faiss

        self._index = index
        self._flat: Any = faiss.downcast_index(index.index)
        self._kept: dict[str, Any] = {}  # what is made when it is first asked for

    @classmethod
    def empty(cls, dim: int) -> FaissIndex:
        """An index of no vectors, for vectors of `dim` numbers."""
        import faiss

        return cls(faiss.IndexIDMap(_flat(dim)))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        """How many numbers a vector has."""
        return int(self._index.d)

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        """File vectors (n, dim) under ids (n,)."""
        import numpy as np

        self._kept.clear()  # FAISS may move the rows
        self._index.add_with_ids(
            np.ascontiguousarray(vectors, dtype=np.float32), np.asarray(ids, dtype=np.int64)
        )

    def search(self, vector: Vectors, k: int, allowed: NDArray[np.int64] | None = None) -> Ranking:
        """The k ids of the highest inner product with a vector (dim,); ties by id.

        Args:
            vector: What to be near to.
            k: How many; never fewer if as many are there and allowed.
            allowed: Ids that may be found, in any order; None allows all.
        """
        import numpy as np

        ids = self._ids()
        if allowed is None:
            return _deepened(self._flat, ids, vector, k, len(self))
        mask = self._rows_of(allowed)
        number = int(np.count_nonzero(mask))
        if number * FEW <= len(self):
            rows = np.flatnonzero(mask)
            return _deepened(self._copied(rows), ids[rows], vector, k, number)
        return _deepened(self._flat, ids, vector, k, number, _selecting(mask))

    def sample(self, n: int) -> Vectors:
        """At most n of its vectors (min(n, len), dim), evenly strided, always the same."""
        import numpy as np

        if (name := f"sample of {n}") not in self._kept:
            number = min(n, len(self))
            rows = np.arange(number, dtype=np.int64) * len(self) // max(number, 1)
            self._kept[name] = _widened(self._codes(), rows)
            self._kept[name].flags.writeable = False
        found: Vectors = self._kept[name]
        return found

    def _ids(self) -> NDArray[np.int64]:
        """The id of each row."""
        import faiss

        if "ids" not in self._kept:
            self._kept["ids"] = faiss.vector_to_array(self._index.id_map)
        found: NDArray[np.int64] = self._kept["ids"]
        return found

    def _codes(self) -> NDArray[np.float16]:
        """The rows (len, dim) where FAISS has them: valid until some are added."""
        import faiss
        import numpy as np

        shape = len(self), self.dim
        if not len(self):
            return np.zeros(shape, np.float16)
        codes = faiss.rev_swig_ptr(self._flat.codes.data(), self._flat.codes.size())
        rows: NDArray[np.float16] = codes.view(np.float16).reshape(shape)
        return rows

    def _rows_of(self, allowed: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows are of the allowed ids; 0.7 ms for a million rows."""
        import numpy as np

        ids = self._ids()
        if "span" not in self._kept:
            self._kept["span"] = (int(ids.min()), int(ids.max())) if len(ids) else (0, -1)
        low, high = self._kept["span"]
        by_id = np.zeros(high - low + 1, dtype=np.bool_)
        by_id[allowed[(allowed >= low) & (allowed <= high)] - low] = True
        return by_id[ids - low if low else ids]

    def _copied(self, rows: NDArray[np.int64]) -> Any:
        """A FAISS index of some rows: its products are those of the whole to the bit."""
        import faiss
        import numpy as np

        copy = _flat(self.dim)
        faiss.copy_array_to_vector(self._codes()[rows].view(np.uint8).reshape(-1), copy.codes)
        copy.ntotal = len(rows)
        return copy

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

    def search(self, vector: Vectors, k: int, allowed: NDArray[np.int64] | None = None) -> Ranking:
        """The k ids of the highest inner product with a vector (dim,); ties by id."""
        scores = (self._rows @ vector.astype(float)).tolist()
        ranking = _rank(self._ids, scores)
        if allowed is not None:
            among = set(allowed.tolist())
            ranking = [pair for pair in ranking if pair[0] in among]
        return ranking[:k]


def _flat(dim: int) -> Any:
    import faiss

    half = faiss.ScalarQuantizer.QT_fp16
    return faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)


def _selecting(mask: NDArray[np.bool_]) -> Any:
    """FAISS's search parameters that admit some rows."""
    import faiss
    import numpy as np

    library: Any = faiss  # its stubs know nothing of what its Python layer adds
    selector = library.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
    return library.SearchParameters(sel=selector)


def _deepened(
    flat: Any,
    ids: NDArray[np.int64],
    vector: Vectors,
    k: int,
    passing: int,
    chosen: Any = None,
) -> Ranking:
    """The k best ids, looking deeper until neither a tie nor an id's second row can change them.

    Args:
        flat: FAISS's index of rows.
        ids: Of each row.
        vector: (dim,).
        k: How many ids.
        passing: How many rows may be found.
        chosen: FAISS's search parameters that tell which.
    """
    wanted = min(k + 16, passing)
    while wanted:
        scores, rows = _nearest(flat, vector.reshape(1, -1), wanted, chosen)
        ranking = _rank(ids[rows[0]].tolist(), scores[0].tolist())
        floor = round(float(scores[0][-1]), DECIMALS)  # nothing that was left out is above
        if wanted == passing or (len(ranking) >= k and ranking[k - 1][1] > floor):
            return ranking[:k]
        wanted = min(wanted * 4, passing)
    return []


def _nearest(flat: Any, vectors: Vectors, wanted: int, chosen: Any) -> Any:
    """FAISS's search; on one thread where waking others takes longer than the work.

    10,000 rows take 0.4 ms alone, and 8 ms on two threads when other programs are busy
    (benchmarks/threads.py).
    """
    import faiss

    if flat.ntotal > ONE_THREAD:
        return flat.search(vectors, wanted, params=chosen)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # of the calling thread alone
    try:
        return flat.search(vectors, wanted, params=chosen)
    finally:
        faiss.omp_set_num_threads(before)


def _widened(halves: NDArray[np.float16], rows: NDArray[np.int64]) -> Vectors:
    """Some rows as float32, a third of the time that NumPy's own conversion takes.

    A float16's bits, moved to where a float32 has them, are its value over 2**112: the exponents
    count from 15 and from 127. So it is for zeros and the smallest numbers; not for infinity.
    """
    import numpy as np

    wide = np.empty((len(rows), halves.shape[1]), dtype=np.float32)
    bits = halves.view(np.int16)
    no_copies_of_the_sign = np.int32(0x8FFFE000 - 2**32)
    for start in range(0, len(rows), _AT_ONCE):
        some = bits[rows[start : start + _AT_ONCE]].astype(np.int32)
        some <<= 13
        some &= no_copies_of_the_sign
        np.multiply(some.view(np.float32), np.float32(2.0**112), out=wide[start : start + _AT_ONCE])
    return wide


def _rank(ids: Sequence[int], scores: Sequence[float]) -> Ranking:
    """Ids by their best score, high to low, then by id."""
    best: dict[int, float] = {}
    for item_id, score in zip(ids, scores, strict=True):
        rounded = round(score, DECIMALS) + 0.0  # never -0.0
        if rounded > best.get(item_id, float("-inf")):
            best[item_id] = rounded
    return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))
