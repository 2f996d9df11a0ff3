"""Exact search: FAISS's inner products of a query with float16 rows, and the ranking by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from mmsearch.types import Ranking, Vectors

    Float16Rows = NDArray[np.float16]
    """(n, dim)."""

DECIMALS = 6
"""Scores are rounded to this many: the order of summation changes the 7th decimal of a float32."""

ONE_THREAD = 50_000
"""Up to this many rows a search stays on the calling thread."""

_CHUNK = 256  # rows converted at a time, so that they stay in the processor's cache


@contextmanager
def one_thread() -> Iterator[None]:
    """A context in which FAISS computes on the calling thread only.

    Idle threads of FAISS, like those of NumPy, spin for a while and take the cores of threads that
    have work: a search of 10,000 rows takes 0.4 ms on one thread, and 8 ms on two while other
    programs are busy (benchmarks/threads.py).
    """
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # affects the calling thread only
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def exact_index(rows: Float16Rows) -> Any:
    """A FAISS index that compares a query with all rows. It does not copy them from a mapped file.

    Args:
        rows: (n, dim), contiguous; they must outlive the index.
    """
    import faiss
    import numpy as np

    half = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexScalarQuantizer(rows.shape[1], half, faiss.METRIC_INNER_PRODUCT)
    if len(rows):
        codes = rows.view(np.uint8).reshape(-1)
        no_owner = faiss.MaybeOwnedVectorUInt8().owner
        view = faiss.MaybeOwnedVectorUInt8.create_view
        index.codes = view(faiss.swig_ptr(codes), codes.size, no_owner)
        index.ntotal = len(rows)
    return index


def bitmap(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A mask of rows as a bitmap, as FAISS's selectors take it."""
    import numpy as np

    return np.packbits(mask, bitorder="little")


def search_exactly(
    index: Any,
    ids: NDArray[np.int64],
    vector: Vectors,
    k: int,
    count: int,
    bits: NDArray[np.uint8] | None = None,
) -> Ranking:
    """The k best ids: retrieves more rows until neither ties nor repeated ids can change them.

    Args:
        index: The result of `exact_index`.
        ids: (n,) the id of each row.
        vector: (dim,) the query.
        k: The number of ids.
        count: The number of rows that may be found.
        bits: A `bitmap` of these rows; None: all.
    """
    import faiss
    import numpy as np

    selector = None if bits is None else faiss.IDSelectorBitmap(bits)
    parameters = None if selector is None else faiss.SearchParameters(sel=selector)
    query = vector.reshape(1, -1)
    wanted = min(k + 16, count)
    while wanted:
        if index.ntotal > ONE_THREAD:
            scores, rows = index.search(query, wanted, params=parameters)
        else:  # waking other threads would take longer than the search
            with one_thread():
                scores, rows = index.search(query, wanted, params=parameters)
        rounded = scores[0].astype(np.float64).round(DECIMALS)
        ranking = ranked(ids[rows[0]], rounded)
        if wanted == count or (len(ranking) >= k and ranking[k - 1][1] > rounded[-1]):
            return ranking[:k]  # no row left out scores higher
        wanted = min(wanted * 4, count)
    return []


def as_float32(rows: Float16Rows, numbers: NDArray[np.int64] | None = None) -> Vectors:
    """All rows, or those of the given numbers, in float32: three times as fast as NumPy does it.

    If the bits of a float16 are shifted to the places of a float32's, they are its value divided by
    2**112, as the exponents are biased by 15 and by 127. This is true of zeros and subnormal
    numbers too, but not of infinity.
    """
    import numpy as np

    count = len(rows) if numbers is None else len(numbers)
    converted = np.empty((count, rows.shape[1]), dtype=np.float32)
    bits = rows.view(np.int16)
    no_copies_of_the_sign = np.int32(0x8FFFE000 - 2**32)
    for start in range(0, count, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        shifted = (bits[chunk] if numbers is None else bits[numbers[chunk]]).astype(np.int32)
        shifted <<= 13
        shifted &= no_copies_of_the_sign
        np.multiply(shifted.view(np.float32), np.float32(2.0**112), out=converted[chunk])
    return converted


def ranked(ids: ArrayLike, scores: ArrayLike) -> Ranking:
    """Each id with its best score, the highest score first, then the lowest id.

    Args:
        ids: (n,) of items; some may be there several times.
        scores: (n,) rounded.
    """
    import numpy as np

    ids, scores = np.asarray(ids, np.int64), np.asarray(scores, np.float64)
    order = np.lexsort((ids, -scores))
    listed = ids[order].tolist()
    pairs = zip(listed, (scores[order] + 0.0).tolist(), strict=True)  # never -0.0
    if len(set(listed)) == len(listed):
        return list(pairs)
    best: dict[int, float] = {}
    for item_id, score in pairs:
        best.setdefault(item_id, score)
    return list(best.items())
