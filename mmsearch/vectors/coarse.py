"""FAISS's approximate indexes: they name candidates, which are then compared exactly.

Whatever FAISS can build from a factory string serves; what is known of it here is how to make it
look harder (`nprobe`, `efSearch`) and how to have it pass over some rows.

Source of the 1-bit codes: RaBitQ, Gao & Long, SIGMOD 2024.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.vectors.flat import alone, view_of, widened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.flat import Rows

SHARD = 2**18
"""Rows of 1-bit codes that one thread goes through: 3 ms. Of more, each thread takes its share."""

TRAINED_ON = 100_000
"""Rows at most that centroids and the like are learned from, but 40 for each cell there is."""

_ADDED_AT_ONCE = 2**16


class Coarse:
    """An index of FAISS's over all rows of a base, by their number.

    Args:
        index: FAISS's.
    """

    def __init__(self, index: Any) -> None:
        import faiss

        library: Any = faiss
        self._index = index
        bare = library.downcast_index(index)
        self._transformed = isinstance(bare, library.IndexPreTransform)
        if self._transformed:
            bare = library.downcast_index(bare.index)
        self._bare = bare
        self._ivf = isinstance(bare, library.IndexIVF)
        self._hnsw = isinstance(bare, library.IndexHNSW)
        self._bits = isinstance(bare, library.IndexRaBitQ) and not self._transformed
        self._shards = _shards(bare) if self._bits and bare.ntotal > SHARD else []

    @property
    def efforts(self) -> list[int]:
        """How hard it can look, from little on: cells (IVF) or nodes (HNSW) that are visited."""
        if self._ivf:
            return _doubled(4, int(self._bare.nlist))
        if self._hnsw:
            return _doubled(64, max(64, min(int(self._index.ntotal), 16_384)))
        return [0]

    def nearest(
        self,
        vector: Vectors,
        wanted: int,
        effort: int,
        bits: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.int64]:
        """At most `wanted` rows that are likely the nearest to a vector (dim,), in no order.

        Args:
            vector: What to be near to.
            wanted: How many.
            effort: One of `efforts`, or between.
            bits: Which rows may be found, a bit each; None: all.

        Raises:
            RuntimeError: this kind cannot pass over rows (FAISS's own error).
        """
        import numpy as np

        query = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        if not self._shards:
            with alone():
                how = self._how(effort, wanted, bits)
                rows = self._index.search(query, wanted, params=how)[1][0]
            found: NDArray[np.int64] = rows[rows >= 0]
            return found
        each = [
            (shard, query, wanted, None if bits is None else bits[start // 8 : start // 8 + size])
            for shard, start, size in self._shards
        ]
        parts = list(_pool().map(_of_shard, each))
        rows = np.concatenate(
            [of + start for (_, of), (_, start, _) in zip(parts, self._shards, strict=True)]
        )
        if len(rows) <= wanted:
            return rows
        scores = np.concatenate([score for score, _ in parts])
        best = np.argpartition(-scores, wanted)[:wanted]
        chosen: NDArray[np.int64] = rows[best]
        return chosen

    def many(self, queries: Vectors, wanted: int, effort: int) -> NDArray[np.int64]:
        """Of each query (m, dim) its candidates (m, wanted), likely best first; -1 where none."""
        found: NDArray[np.int64] = self._index.search(
            queries, wanted, params=self._how(effort, wanted, None)
        )[1]
        return found

    def _how(self, effort: int, wanted: int, bits: NDArray[np.uint8] | None) -> Any:
        import faiss

        library: Any = faiss
        how: dict[str, Any] = {} if bits is None else {"sel": library.IDSelectorBitmap(bits)}
        if self._ivf:
            probed = min(max(effort, 1), int(self._bare.nlist))
            found = library.SearchParametersIVF(nprobe=probed, **how)
        elif self._hnsw:
            found = library.SearchParametersHNSW(efSearch=max(effort, wanted), **how)
        elif not how:
            return None
        elif isinstance(self._bare, library.IndexRaBitQ):
            found = library.RaBitQSearchParameters(qb=self._bare.qb, **how)
        else:
            found = library.SearchParameters(**how)
        return (
            library.SearchParametersPreTransform(index_params=found) if self._transformed else found
        )

    # ------------------------------------------------------------------ making and keeping

    @classmethod
    def build(cls, kind: str, rows: Rows) -> Coarse:
        """An index of a factory string's kind over rows (n, dim).

        Raises:
            RuntimeError: FAISS knows no such kind, or cannot make it of these rows.
        """
        import faiss
        import numpy as np

        library: Any = faiss
        index = library.index_factory(rows.shape[1], kind, library.METRIC_INNER_PRODUCT)
        divided = library.try_extract_index_ivf(index)
        for part in _parts(index):
            for learned in (part, getattr(part, "pq", None)):
                clustering: Any = getattr(learned, "cp", None)
                if clustering is not None:  # or it writes to stderr that there are few
                    clustering.min_points_per_centroid = 1
        cells = getattr(divided, "nlist", 0)
        most = max(TRAINED_ON, 40 * cells)
        learned_from = np.arange(min(len(rows), most)) * len(rows) // min(len(rows), most)
        index.train(widened(rows, learned_from))
        for start in range(0, len(rows), _ADDED_AT_ONCE):
            index.add(widened(rows[start : start + _ADDED_AT_ONCE]))
        return cls(index)

    def save(self, path: Path) -> None:
        """Write to `path`.

        Raises:
            OSError: it cannot be written: the disk is full, say.
        """
        import faiss

        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:  # FAISS's own
            raise OSError(f"{path}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Coarse:
        """What `save` wrote, mapped into memory and read as it is needed.

        Raises:
            RuntimeError: the file is missing or damaged (FAISS's own error).
        """
        import faiss

        library: Any = faiss
        return cls(library.read_index(str(path), library.IO_FLAG_MMAP_IFC))

    def __len__(self) -> int:
        return int(self._index.ntotal)


def _parts(index: Any) -> Iterator[Any]:
    """An index of FAISS's, and those that it is made of."""
    import faiss

    library: Any = faiss
    index = library.downcast_index(index)
    yield index
    chain: Any = getattr(index, "chain", None)
    for number in range(chain.size() if chain is not None else 0):
        yield library.downcast_VectorTransform(chain.at(number))
    for name in ("index", "storage", "base_index"):
        if (inner := getattr(index, name, None)) is not None:
            yield from _parts(inner)


def _doubled(first: int, last: int) -> list[int]:
    found = [min(first, last)]
    while found[-1] < last:
        found.append(min(found[-1] * 2, last))
    return found


def _shards(whole: Any) -> list[tuple[Any, int, int]]:
    """(an index of FAISS's, its first row, bytes of its bits) for each share of 1-bit codes."""
    import faiss

    library: Any = faiss
    size = int(whole.code_size)
    codes = library.rev_swig_ptr(whole.codes.data(), whole.codes.size())
    found = []
    for start in range(0, whole.ntotal, SHARD):
        number = min(SHARD, whole.ntotal - start)
        shard = library.IndexRaBitQ(whole.d, whole.metric_type)
        shard.center, shard.rabitq, shard.qb = whole.center, whole.rabitq, whole.qb
        shard.is_trained = True
        shard.codes = view_of(codes[start * size : (start + number) * size])
        shard.ntotal = number
        found.append((shard, start, (number + 7) // 8))
    return found


@cache
def _pool() -> ThreadPoolExecutor:
    import faiss

    return ThreadPoolExecutor(
        os.cpu_count() or 1, "search", initializer=lambda: faiss.omp_set_num_threads(1)
    )


def _of_shard(given: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(scores, rows) of one share's best."""
    import faiss

    library: Any = faiss
    shard, query, wanted, bits = given
    how = None
    if bits is not None:
        how = library.RaBitQSearchParameters(qb=shard.qb, sel=library.IDSelectorBitmap(bits))
    scores, rows = shard.search(query, min(wanted, shard.ntotal), params=how)
    there = rows[0] >= 0
    return scores[0][there], rows[0][there]
