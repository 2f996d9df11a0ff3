"""Approximate FAISS indexes. They return candidates, which are then scored exactly.

Any index that FAISS builds from a factory string will do. This module sets its search effort
(`nprobe`, `efSearch`) and has it skip rows.

Source of the 1-bit codes: RaBitQ, Gao & Long, SIGMOD 2024.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmsearch.vectors.exact import as_float32, one_thread

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.exact import Float16Rows

ROWS_PER_THREAD = 2**16
"""A search uses one thread for every 65,536 codes that it compares."""

TRAINED_ON = 100_000
"""Centroids and codebooks are trained on at most this many rows, or 40 per cell if that is more."""

_ADDED_AT_ONCE = 2**16


class AnnIndex:
    """A FAISS index of all rows of a segment, which it identifies by their numbers."""

    def __init__(self, index: Any) -> None:
        import faiss

        self._index = index
        self._transforms = list(_transforms(index))
        bare = faiss.downcast_index(index)
        if self._transforms:
            bare = faiss.downcast_index(bare.index)
        self._bare = bare
        self._ivf = isinstance(bare, faiss.IndexIVF)
        self._hnsw = isinstance(bare, faiss.IndexHNSW)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def efforts(self, min_rows: int = 0) -> list[int]:
        """Search effort levels, ascending: cells (nprobe of IVF) or nodes (efSearch of HNSW).

        If the index has cells, the lowest level visits cells with at least `min_rows` rows.
        """
        if self._ivf:
            cells = int(self._bare.nlist)
            least = math.ceil(cells * min_rows / max(len(self), 1))
            return _doubled(max(least, 4), cells)
        if self._hnsw:
            return _doubled(64, max(64, min(len(self), 16_384)))
        return [0]

    def candidates(
        self,
        vector: Vectors,
        wanted: int,
        effort: int,
        bits: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.int64]:
        """The numbers of up to `wanted` rows that are likely nearest to a vector, unordered.

        Args:
            vector: (dim,) the query.
            wanted: The number of rows.
            effort: One of `efforts`, or a number in between.
            bits: A bitmap of the rows that may be found; None: all.

        Raises:
            RuntimeError: an index of this kind cannot skip rows (FAISS's own error).
        """
        import numpy as np

        query = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        if self._ivf:
            compared = len(self) * min(effort / self._bare.nlist, 1)
            threads = min(os.cpu_count() or 1, int(compared // ROWS_PER_THREAD))
            if threads > 1:
                return self._candidates_by_threads(query, wanted, effort, bits, threads)
        parameters = self._parameters(effort, wanted, bits)
        with one_thread():
            rows = self._index.search(query, wanted, params=parameters)[1][0]
        found: NDArray[np.int64] = rows[rows >= 0]
        return found

    def candidates_of_many(self, queries: Vectors, wanted: int, effort: int) -> NDArray[np.int64]:
        """The candidates (m, wanted) of each query (m, dim), likely best first, padded with -1."""
        parameters = self._parameters(effort, wanted, None)
        found: NDArray[np.int64] = self._index.search(queries, wanted, params=parameters)[1]
        return found

    def _candidates_by_threads(
        self,
        query: Vectors,
        wanted: int,
        effort: int,
        bits: NDArray[np.uint8] | None,
        threads: int,
    ) -> NDArray[np.int64]:
        """`candidates` of an index with cells, whose nearest cells are divided among threads.

        FAISS's own threads wait for each other by spinning, which is slow on a busy machine
        (benchmarks/threads.py).
        """
        import faiss
        import numpy as np

        with one_thread():
            for transform in self._transforms:
                query = transform.apply(query)
            distances, cells = self._bare.quantizer.search(query, self._nprobe(effort))

        def search_share(number: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            share = np.ascontiguousarray(cells[:, number::threads])
            share_distances = np.ascontiguousarray(distances[:, number::threads])
            scores, rows = np.empty((1, wanted), np.float32), np.empty((1, wanted), np.int64)
            selector = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
            parameters = faiss.SearchParametersIVF(nprobe=share.shape[1], **selector)
            arrays = query, share, share_distances, scores, rows
            at, *others = map(faiss.swig_ptr, arrays)
            store_pairs = False
            # the C++ function, as the Python one takes no parameters
            self._bare.search_preassigned_c(1, at, wanted, *others, store_pairs, parameters)
            found = rows[0] >= 0
            return scores[0][found], rows[0][found]

        shares = list(_pool().map(search_share, range(threads)))
        rows = np.concatenate([rows for _, rows in shares])
        if len(rows) <= wanted:
            return rows
        scores = np.concatenate([scores for scores, _ in shares])
        best: NDArray[np.int64] = rows[np.argpartition(-scores, wanted)[:wanted]]
        return best

    def _nprobe(self, effort: int) -> int:
        return min(max(effort, 1), int(self._bare.nlist))

    def _parameters(self, effort: int, wanted: int, bits: NDArray[np.uint8] | None) -> Any:
        import faiss

        selector = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
        if self._ivf:
            found = faiss.SearchParametersIVF(nprobe=self._nprobe(effort), **selector)
        elif self._hnsw:
            found = faiss.SearchParametersHNSW(efSearch=max(effort, wanted), **selector)
        elif not selector:
            return None
        elif isinstance(self._bare, faiss.IndexRaBitQ):
            found = faiss.RaBitQSearchParameters(qb=self._bare.qb, **selector)
        else:
            found = faiss.SearchParameters(**selector)
        if self._transforms:
            return faiss.SearchParametersPreTransform(index_params=found)
        return found

    # ------------------------------------------------------------------ building and storing

    @classmethod
    def build(cls, kind: str, rows: Float16Rows) -> AnnIndex:
        """An index of rows (n, dim), of the kind that a factory string describes.

        Raises:
            RuntimeError: FAISS knows no such kind, or cannot build it from these rows.
        """
        import faiss
        import numpy as np

        index = faiss.index_factory(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
        for component in _components(index):
            for trained in (component, getattr(component, "pq", None)):
                clustering: Any = getattr(trained, "cp", None)
                if clustering is not None:  # else FAISS warns on stderr of few rows
                    clustering.min_points_per_centroid = 1
        cells = getattr(faiss.try_extract_index_ivf(index), "nlist", 0)
        number = min(len(rows), max(TRAINED_ON, 40 * cells))
        index.train(as_float32(rows, np.arange(number) * len(rows) // number))
        for start in range(0, len(rows), _ADDED_AT_ONCE):
            index.add(as_float32(rows[start : start + _ADDED_AT_ONCE]))
        return cls(index)

    def save(self, path: Path) -> None:
        """Write to `path`.

        Raises:
            OSError: it cannot be written, for example because the disk is full.
        """
        import faiss

        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:  # FAISS's own
            raise OSError(f"{path}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> AnnIndex:
        """The index that `save` wrote, mapped into memory and read when needed.

        Raises:
            RuntimeError: the file is missing or damaged (FAISS's own error).
        """
        import faiss

        return cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC))


def _components(index: Any) -> Iterator[Any]:
    """A FAISS index and everything it is composed of."""
    import faiss

    index = faiss.downcast_index(index)
    yield index
    yield from _transforms(index)
    for name in ("index", "storage", "base_index"):
        if (inner := getattr(index, name, None)) is not None:
            yield from _components(inner)


def _transforms(index: Any) -> Iterator[Any]:
    """The transforms that a FAISS index applies to vectors first, such as a rotation."""
    import faiss

    chain: Any = getattr(faiss.downcast_index(index), "chain", None)
    for number in range(chain.size() if chain is not None else 0):
        yield faiss.downcast_VectorTransform(chain.at(number))


def _doubled(first: int, last: int) -> list[int]:
    """The numbers from `first` to `last`, each double the one before."""
    found = [min(first, last)]
    while found[-1] < last:
        found.append(min(found[-1] * 2, last))
    return found


@cache
def _pool() -> ThreadPoolExecutor:
    import faiss

    return ThreadPoolExecutor(
        os.cpu_count() or 1, "search", initializer=lambda: faiss.omp_set_num_threads(1)
    )
