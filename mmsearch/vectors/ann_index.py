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

    Candidates = tuple[NDArray[np.int64], NDArray[np.float32]]
    """The numbers (n,) of rows, and their approximate scores (n,)."""

ROWS_PER_THREAD = 2**16
"""A search uses one thread for every 65,536 codes that it compares."""

TRAINED_ON = 100_000
"""Centroids and codebooks are trained on at most this many rows, or 40 per cell if that is more."""

_ADDED_AT_ONCE = 2**16

AT_CENTRE = 5e-7
"""A row whose squared distance from the centre of its cell is less counts as the centre. Above
FLT_EPSILON, 1.2e-7."""


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

    @property
    def bytes_per_row(self) -> float:
        """The bytes of a row's code and of its links in a graph."""
        import faiss

        codes = faiss.downcast_index(self._bare.storage) if self._hnsw else self._bare
        links = 4 * self._bare.hnsw.neighbors.size() / max(len(self), 1) if self._hnsw else 0
        if (size := getattr(codes, "code_size", None)) is not None:
            return float(size + links)
        return float(faiss.serialize_index(self._index).nbytes / max(len(self), 1))

    @property
    def cells(self) -> int:
        """The number of cells; 0 if the rows are not divided into cells."""
        return int(self._bare.nlist) if self._ivf else 0

    @property
    def scores_all(self) -> bool:
        """Whether a search can give every row a score, unlike that of a graph."""
        import faiss

        return isinstance(self._bare, faiss.IndexIVF | faiss.IndexFlatCodes)

    def error_scales(self) -> NDArray[np.float32]:
        """The error of each row's approximate score, relative to that of other rows (n,).

        For 1-bit codes, it is the length of the residual (the row less the centre of its cell) over
        the cosine between the residual and its code: `dp_multiplier`, the last four bytes of a code
        in FAISS. For other kinds, of which it is unknown, all are 1.
        """
        import faiss
        import numpy as np

        scales = np.ones(len(self), np.float32)
        if not isinstance(self._bare, faiss.IndexIVFRaBitQ) or self._bare.rabitq.nb_bits != 1:
            return scales
        cells, size = self._bare.invlists, int(self._bare.code_size)
        for cell in range(self.cells):
            if count := int(cells.list_size(cell)):
                codes = faiss.rev_swig_ptr(cells.get_codes(cell), count * size)
                last = np.ascontiguousarray(codes.reshape(count, size)[:, -4:])
                scales[faiss.rev_swig_ptr(cells.get_ids(cell), count)] = last.view("<f4")[:, 0]
        return scales

    def efforts(self, min_rows: int = 0) -> list[int]:
        """Search effort levels, ascending: cells (nprobe of IVF) or nodes (efSearch of HNSW).

        If the index has cells, the lowest level visits cells with at least `min_rows` rows.
        """
        if self._ivf:
            least = math.ceil(self.cells * min_rows / max(len(self), 1))
            return _doubled(max(least, 4), self.cells)
        if self._hnsw:
            return _doubled(64, max(64, min(len(self), 16_384)))
        return [0]

    def candidates(
        self,
        vector: Vectors,
        wanted: int,
        effort: int,
        bits: NDArray[np.uint8] | None = None,
    ) -> Candidates:
        """Up to `wanted` rows that are likely nearest to a vector, unordered.

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
            found = self._search_cells(query, 0, self._nprobe(effort), bits, wanted=wanted)
            return _best(*found, wanted)
        parameters = self._parameters(effort, wanted, bits)
        with one_thread():
            scores, rows = self._index.search(query, wanted, params=parameters)
        return rows[rows >= 0], scores[rows >= 0]

    def candidates_above(
        self,
        vector: Vectors,
        floor: float,
        first: int,
        last: int,
        bits: NDArray[np.uint8] | None = None,
    ) -> Candidates:
        """The rows whose approximate scores are above a floor, in a range of cells; unordered.

        Args:
            vector: (dim,) the query.
            floor: Of the scores.
            first: The first cell, counted from the one nearest to the query, 0.
            last: The cell after the last one.
            bits: A bitmap of the rows that may be found; None: all.

        Raises:
            RuntimeError: an index of this kind cannot skip rows, or not search by a floor (FAISS's
                own error).
        """
        import numpy as np

        query = np.ascontiguousarray(vector, np.float32).reshape(1, -1)
        return self._search_cells(query, first, min(last, self.cells), bits, floor=floor)

    def candidates_of_many(
        self, queries: Vectors, wanted: int, effort: int, bits: NDArray[np.uint8] | None = None
    ) -> Candidates:
        """The candidates of each query (m, dim), likely best first, padded with -1.

        Returns:
            Their numbers (m, wanted) and approximate scores (m, wanted).

        Raises:
            RuntimeError: an index of this kind cannot skip rows (FAISS's own error).
        """
        parameters = self._parameters(effort, wanted, bits)
        scores, numbers = self._index.search(queries, wanted, params=parameters)
        return numbers, scores

    def _search_cells(
        self,
        query: Vectors,
        first: int,
        last: int,
        bits: NDArray[np.uint8] | None,
        *,
        wanted: int | None = None,
        floor: float = 0.0,
    ) -> Candidates:
        """The `wanted` rows of each thread's cells, or else all rows above a floor.

        The cells are divided among threads of our own: FAISS's wait for each other by spinning,
        which is slow on a busy machine (benchmarks/threads.py).
        """
        import faiss
        import numpy as np

        with one_thread():
            for transform in self._transforms:
                query = transform.apply(query)
            distances, cells = self._bare.quantizer.search(query, last)
        compared = len(self) * (last - first) // self.cells
        threads = max(min(os.cpu_count() or 1, compared // ROWS_PER_THREAD), 1)

        def search_share(number: int) -> Candidates:
            share = np.ascontiguousarray(cells[:, first + number :: threads])
            share_distances = np.ascontiguousarray(distances[:, first + number :: threads])
            selector = {} if bits is None else {"sel": faiss.IDSelectorBitmap(bits)}
            parameters = faiss.SearchParametersIVF(nprobe=share.shape[1], **selector)
            at, keys, key_distances = map(faiss.swig_ptr, (query, share, share_distances))
            store_pairs = False
            if wanted is None:
                result = faiss.RangeSearchResult(1)
                self._bare.range_search_preassigned_c(
                    1, at, floor, keys, key_distances, result, store_pairs, parameters
                )
                number_found = int(faiss.rev_swig_ptr(result.lims, 2)[1])
                return (
                    faiss.rev_swig_ptr(result.labels, number_found).copy(),
                    faiss.rev_swig_ptr(result.distances, number_found).copy(),
                )
            scores, rows = np.empty((1, wanted), np.float32), np.empty((1, wanted), np.int64)
            # the C++ function, as the Python one takes no parameters
            self._bare.search_preassigned_c(
                *(1, at, wanted, keys, key_distances),
                *map(faiss.swig_ptr, (scores, rows)),
                *(store_pairs, parameters),
            )
            found = rows[0] >= 0
            return rows[0][found], scores[0][found]

        if threads == 1:
            with one_thread():
                return search_share(0)
        shares = list(_pool().map(search_share, range(threads)))
        rows, scores = zip(*shares, strict=True)
        return np.concatenate(rows), np.concatenate(scores)

    def _nprobe(self, effort: int) -> int:
        return min(max(effort, 1), self.cells)

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
        ann_index = cls(index)
        for start in range(0, len(rows), _ADDED_AT_ONCE):
            ann_index._add(as_float32(rows[start : start + _ADDED_AT_ONCE]))
        return ann_index

    def _add(self, rows: Vectors) -> None:
        """Add rows (n, dim).

        FAISS takes the length of a residual as 1 if its square is below FLT_EPSILON. That is so
        for rows that nearly are the centre of their cell, such as copies of one picture, and makes
        their scores wrong by up to 1. So such rows are encoded as the centre.
        """
        import faiss
        import numpy as np

        if not isinstance(self._bare, faiss.IndexIVFRaBitQ):
            self._index.add(rows)
            return
        for transform in self._transforms:
            rows = transform.apply(rows)
        scores, cells = self._bare.quantizer.search(rows, 1)
        centres, cell = self._bare.quantizer.reconstruct_n(0, self.cells), cells[:, 0]
        squares = np.einsum("ij,ij->i", centres, centres)[cell]
        # for a residual r of a centre c, c·row = c² + c·r: few rows are left to compare in full
        most = np.sqrt(AT_CENTRE * squares) + 1e-5
        near = np.flatnonzero(np.abs(scores[:, 0] - squares) < most)
        near = near[((rows[near] - centres[cell[near]]) ** 2).sum(axis=1) < AT_CENTRE]
        rows[near] = centres[cell[near]]
        # the C++ function that `add` calls, too, after finding the cells
        self._bare.add_core(len(rows), faiss.swig_ptr(rows), None, faiss.swig_ptr(cells))
        self._index.ntotal = self._bare.ntotal

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


def _best(numbers: NDArray[np.int64], scores: NDArray[np.float32], wanted: int) -> Candidates:
    """The `wanted` candidates of the highest scores, unordered."""
    import numpy as np

    if len(numbers) <= wanted:
        return numbers, scores
    best = np.argpartition(-scores, wanted)[:wanted]
    return numbers[best], scores[best]


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
