"""FAISS's exact search over float16 rows, wherever these lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.vectors.threads import alone

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Ranking, Vectors

    Rows = NDArray[np.float16]
    """(n, dim)."""

DECIMALS = 6
"""Scores are rounded to this: float32 sums differ in the 7th decimal with the order of adding."""

ONE_THREAD = 50_000
"""Rows up to which a search stays on the thread that asks."""

_AT_ONCE = 256  # rows that are widened while they are in the processor's cache


def flat(dim: int) -> Any:
    """An empty index of FAISS's that keeps float16 rows and compares a vector with all of them."""
    import faiss

    half = faiss.ScalarQuantizer.QT_fp16
    return faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)


def flat_over(rows: Rows) -> Any:
    """The same over rows where they lie, a file in memory say; they have to outlive it."""
    index = flat(rows.shape[1])
    if len(rows):
        index.codes = view_of(rows)
        index.ntotal = len(rows)
    return index


def flat_of(rows: Rows) -> Any:
    """The same with a copy of rows: products are those of the whole to the bit."""
    import faiss
    import numpy as np

    index = flat(rows.shape[1])
    codes = np.ascontiguousarray(rows).view(np.uint8).reshape(-1)
    faiss.copy_array_to_vector(codes, index.codes)
    index.ntotal = len(rows)
    return index


def view_of(codes: NDArray[Any]) -> Any:
    """An array's bytes as FAISS's vector of codes, not copied; the array has to outlive it."""
    import faiss
    import numpy as np

    library: Any = faiss  # its stubs know nothing of what its Python layer adds
    raw = codes.view(np.uint8).reshape(-1)
    nobody = library.MaybeOwnedVectorUInt8().owner
    return library.MaybeOwnedVectorUInt8.create_view(library.swig_ptr(raw), raw.size, nobody)


def rows_in(index: Any) -> Rows:
    """The rows (n, dim) where a flat index has them: valid until some are added."""
    import faiss
    import numpy as np

    shape = index.ntotal, index.d
    if not index.ntotal:
        return np.zeros(shape, np.float16)
    codes = faiss.rev_swig_ptr(index.codes.data(), index.codes.size())
    rows: Rows = codes.view(np.float16).reshape(shape)
    return rows


def bits_of(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Marks of rows as FAISS's selectors take them."""
    import numpy as np

    return np.packbits(mask, bitorder="little")


def selecting(bits: NDArray[np.uint8]) -> Any:
    """FAISS's search parameters that admit some rows."""
    import faiss

    library: Any = faiss
    return library.SearchParameters(sel=library.IDSelectorBitmap(bits))


def deepened(
    index: Any,
    ids: NDArray[np.int64],
    vector: Vectors,
    k: int,
    passing: int,
    chosen: Any = None,
) -> Ranking:
    """The k best ids, looking deeper until neither a tie nor an id's second row can change them.

    Args:
        index: FAISS's index of rows.
        ids: Of each row.
        vector: (dim,).
        k: How many ids.
        passing: How many rows may be found.
        chosen: FAISS's search parameters that tell which.
    """
    wanted = min(k + 16, passing)
    while wanted:
        scores, rows = nearest(index, vector.reshape(1, -1), wanted, chosen)
        ranking = ranked(ids[rows[0]].tolist(), scores[0].tolist())
        floor = round(float(scores[0][-1]), DECIMALS)  # nothing that was left out is above
        if wanted == passing or (len(ranking) >= k and ranking[k - 1][1] > floor):
            return ranking[:k]
        wanted = min(wanted * 4, passing)
    return []


def nearest(index: Any, vectors: Vectors, wanted: int, chosen: Any) -> Any:
    """FAISS's search; on one thread where waking others takes longer than the work."""
    if index.ntotal > ONE_THREAD:
        return index.search(vectors, wanted, params=chosen)
    with alone():
        return index.search(vectors, wanted, params=chosen)


def widened(halves: Rows, rows: NDArray[np.int64] | None = None) -> Vectors:
    """Some rows (or all) as float32, a third of the time that NumPy's own conversion takes.

    A float16's bits, moved to where a float32 has them, are its value over 2**112: the exponents
    count from 15 and from 127. So it is for zeros and the smallest numbers; not for infinity.
    """
    import numpy as np

    number = len(halves) if rows is None else len(rows)
    wide = np.empty((number, halves.shape[1]), dtype=np.float32)
    bits = halves.view(np.int16)
    no_copies_of_the_sign = np.int32(0x8FFFE000 - 2**32)
    for start in range(0, number, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        some = (bits[part] if rows is None else bits[rows[part]]).astype(np.int32)
        some <<= 13
        some &= no_copies_of_the_sign
        np.multiply(some.view(np.float32), np.float32(2.0**112), out=wide[part])
    return wide


def ranked(ids: Sequence[int], scores: Sequence[float]) -> Ranking:
    """Ids by their best score, high to low, then by id."""
    best: dict[int, float] = {}
    for item_id, score in zip(ids, scores, strict=True):
        rounded = round(score, DECIMALS) + 0.0  # never -0.0
        if rounded > best.get(item_id, float("-inf")):
            best[item_id] = rounded
    return sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))
