"""FAISS's approximate indexes: they name candidates, which are then compared exactly.

Whatever FAISS can build from a factory string serves; what is known of it here is how to make it
look harder (`nprobe`, `efSearch`) and how to have it pass over some rows.

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

from mmsearch.vectors.flat import widened
from mmsearch.vectors.threads import alone

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.flat import Rows

SHARE = 2**16
"""Rows of 1-bit codes at least that are worth a thread of their own."""

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
        self._transforms = []
        if isinstance(bare, library.IndexPreTransform):
            self._transforms = list(_chain(bare))
            bare = library.downcast_index(bare.index)
        self._bare = bare
        self._ivf = isinstance(bare, library.IndexIVF)
        self._hnsw = isinstance(bare, library.IndexHNSW)

    def efforts(self, certain: int = 0) -> list[int]:
        """How hard it can look, from little on: cells (IVF) or nodes (HNSW) that are visited.

        Args:
            certain: In how many rows' cells it is always to look, if it has cells.
        """
        if self._ivf:
            cells = int(self._bare.nlist)
            least = math.ceil(cells * certain / max(len(self), 1))
            return _doubled(max(least, 4), cells)
        if self._hnsw:
            return _doubled(64, max(64, min(len(self), 16_384)))
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
        threads = self._threads(effort) if self._ivf else 1
        if threads > 1:
            return self._nearest_in_cells(query, wanted, effort, bits, threads)
        with alone():
            rows = self._index.search(query, wanted, params=self._how(effort, wanted, bits))[1][0]
        found: NDArray[np.int64] = rows[rows >= 0]
        return found

    def _threads(self, effort: int) -> int:
        """Among how many threads the nearest cells are divided."""
        gone_through = len(self) * min(effort / self._bare.nlist, 1)
        return min(os.cpu_count() or 1, int(gone_through // SHARE))

    def _nearest_in_cells(
        self,
        query: Vectors,
        wanted: int,
        effort: int,
        bits: NDArray[np.uint8] | None,
        threads: int,
    ) -> NDArray[np.int64]:
        """The same of an index with cells, whose nearest are divided among some threads.

        FAISS's own threads wait for one another by spinning, which is slow on a busy machine
        (benchmarks/threads.py).
        """
        import faiss
        import numpy as np

        library: Any = faiss
        probed = min(max(effort, 1), int(self._bare.nlist))
        with alone():
            for transform in self._transforms:
                query = transform.apply(query)
            away, cells = self._bare.quantizer.search(query, probed)

        def of_share(number: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            theirs = np.ascontiguousarray(cells[:, number::threads])
            scores, rows = np.empty((1, wanted), np.float32), np.empty((1, wanted), np.int64)
            how = {} if bits is None else {"sel": library.IDSelectorBitmap(bits)}
            params = library.SearchParametersIVF(nprobe=theirs.shape[1], **how)
            arrays = query, theirs, np.ascontiguousarray(away[:, number::threads]), scores, rows
            at, *others = map(library.swig_ptr, arrays)
            pairs_instead = False
            # its Python layer takes no parameters here
            self._bare.search_preassigned_c(1, at, wanted, *others, pairs_instead, params)
            there = rows[0] >= 0
            return scores[0][there], rows[0][there]

        parts = list(_pool().map(of_share, range(threads)))
        rows = np.concatenate([of for _, of in parts])
        if len(rows) <= wanted:
            return rows
        scores = np.concatenate([score for score, _ in parts])
        chosen: NDArray[np.int64] = rows[np.argpartition(-scores, wanted)[:wanted]]
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
            library.SearchParametersPreTransform(index_params=found) if self._transforms else found
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
    yield from _chain(index)
    for name in ("index", "storage", "base_index"):
        if (inner := getattr(index, name, None)) is not None:
            yield from _parts(inner)


def _doubled(first: int, last: int) -> list[int]:
    found = [min(first, last)]
    while found[-1] < last:
        found.append(min(found[-1] * 2, last))
    return found


def _chain(index: Any) -> Iterator[Any]:
    """What is done to vectors before an index of FAISS's sees them."""
    import faiss

    library: Any = faiss
    chain: Any = getattr(index, "chain", None)
    for number in range(chain.size() if chain is not None else 0):
        yield library.downcast_VectorTransform(chain.at(number))


@cache
def _pool() -> ThreadPoolExecutor:
    import faiss

    return ThreadPoolExecutor(
        os.cpu_count() or 1, "search", initializer=lambda: faiss.omp_set_num_threads(1)
    )
