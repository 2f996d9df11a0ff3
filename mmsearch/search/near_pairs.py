"""Pairs of vectors that are nearly the same, among many, without comparing all with all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Progress, Vectors

EXACT = 12_000
"""Rows up to which all are compared with all: that takes about two seconds."""

PROBES = 4
"""Cells that each row is compared in. benchmarks/duplicates.py says how many pairs are missed."""

MAX_NEIGHBOURS = 16
"""Neighbours kept of each row, the earliest: one of them leads the row's group."""

BLOCK = 2048
"""Rows compared at a time."""

MAX_COSINES = 8_000_000
"""Cosines in memory at a time."""

MAX_PAIRS = 4_000_000
"""Pairs in memory before those in excess of MAX_NEIGHBOURS are dropped."""


class Pairs(NamedTuple):
    """Rows that are nearly the same.

    Attributes:
        later: (m,) int64, sorted; of each pair the row that comes later.
        earlier: (m,) int64, ascending for each `later`; at most MAX_NEIGHBOURS of one row.
        cosine: (m,) float32.
    """

    later: NDArray[np.int64]
    earlier: NDArray[np.int64]
    cosine: NDArray[np.float32]


def near_pairs(matrix: Any, threshold: float, progress: Progress | None = None) -> Pairs:
    """Pairs of rows whose cosine reaches a threshold.

    Up to `EXACT` rows, all of them. More rows are divided into about 2·√n cells around k-means of a
    sample, and each is compared with those of its nearest cells only, so the work grows as n·√n.
    Every pair found is true; one may be missed if several borders lie between its rows.

    Args:
        matrix: (n, dim) unit rows, float16 or float32.
        threshold: The least cosine.
        progress: Called with (rows done, n).
    """
    import numpy as np

    step = progress or (lambda _done, _total: None)
    found: list[Pairs] = []
    if len(matrix) <= EXACT:
        places = np.arange(len(matrix))
        whole = _rows(matrix, slice(None))
        for some in _blocks(places, len(matrix)):
            end = some[-1] + 1
            found.append(_matches(whole[some], some, whole[:end], places[:end], threshold))
            step(int(end), len(matrix))
        return _merged(found)
    done = 0
    for members, visitors in _cells(matrix):
        rows = _rows(matrix, members)
        blocks = (*_blocks(members, len(rows)), *_blocks(visitors, len(rows)))
        found += [_matches(_rows(matrix, one), one, rows, members, threshold) for one in blocks]
        if sum(len(pairs.later) for pairs in found) > MAX_PAIRS:
            found = [_merged(found)]
        done += len(members)
        step(done, len(matrix))
    return _merged(found)


def _rows(matrix: Any, which: Any) -> Vectors:
    import numpy as np

    rows: Vectors = np.asarray(matrix[which], dtype=np.float32)
    return rows


def _blocks(rows: Any, others: int) -> Iterator[Any]:
    """Rows in blocks, each small enough to be compared with so many others at once."""
    step = max(1, min(BLOCK, MAX_COSINES // max(others, 1)))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _matches(
    rows: Vectors, names: Any, others: Vectors, other_names: Any, threshold: float
) -> Pairs:
    """The pairs between two sets of rows."""
    import numpy as np

    cosines = rows @ others.T
    near = cosines >= threshold
    if np.count_nonzero(near) > MAX_NEIGHBOURS * (len(rows) + len(others)):
        near = _thinned(near, names, other_names)
    left, right = np.nonzero(near)
    cosine = cosines[left, right]
    one, two = names[left], other_names[right]
    kept = one != two
    return Pairs(np.maximum(one, two)[kept], np.minimum(one, two)[kept], cosine[kept])


def _thinned(near: Any, names: Any, other_names: Any) -> Any:
    """Of each row's neighbours only the MAX_NEIGHBOURS earliest; both sets are in order.

    A thousand pictures of one wall would otherwise have half a million pairs.
    """
    import numpy as np

    earlier = other_names[None, :] < names[:, None]
    before, after = near & earlier, near & ~earlier
    before &= np.cumsum(before, axis=1, dtype=np.int32) <= MAX_NEIGHBOURS
    after &= np.cumsum(after, axis=0, dtype=np.int32) <= MAX_NEIGHBOURS
    return before | after


def _merged(found: list[Pairs]) -> Pairs:
    """Each pair once, and of each row the MAX_NEIGHBOURS earliest."""
    import numpy as np

    if not found:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0, np.float32))
    later, earlier, cosine = map(np.concatenate, zip(*found, strict=True))
    order = np.lexsort((earlier, later))
    later, earlier, cosine = later[order], earlier[order], cosine[order]
    new = np.ones(len(later), bool)
    new[1:] = (later[1:] != later[:-1]) | (earlier[1:] != earlier[:-1])
    later, earlier, cosine = later[new], earlier[new], cosine[new]
    first = np.searchsorted(later, later)  # where the pairs of the same row begin
    few = np.arange(len(later)) - first < MAX_NEIGHBOURS
    return Pairs(later[few], earlier[few], cosine[few].astype(np.float32))


def _cells(matrix: Any) -> Iterator[tuple[Any, Any]]:
    """For each cell: the rows that lie in it, and those that lie near it."""
    import faiss
    import numpy as np

    count = int(2 * math.sqrt(len(matrix)))
    chance = np.random.default_rng(0)
    sample = np.sort(chance.choice(len(matrix), min(len(matrix), 24 * count), replace=False))
    means: Any = faiss.Kmeans(
        matrix.shape[1], count, niter=3, seed=0, spherical=True, min_points_per_centroid=1
    )
    means.train(_rows(matrix, sample))
    probes = min(PROBES, count)
    near = np.empty((len(matrix), probes), dtype=np.int64)
    for start in range(0, len(matrix), BLOCK):
        block = slice(start, start + BLOCK)
        near[block] = means.index.search(_rows(matrix, block), probes)[1]
    yield from zip(_by_cell(near[:, :1], count), _by_cell(near[:, 1:], count), strict=True)


def _by_cell(near: Any, count: int) -> Iterator[Any]:
    """For each cell in turn, the rows that name it."""
    import numpy as np

    flat = near.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(count + 1))
    for start, end in pairwise(bounds):
        yield order[start:end] // near.shape[1]


def leader_groups(pairs: Pairs) -> dict[int, list[tuple[int, float]]]:
    """By the row that leads a group, its other rows with their cosines to it, in order.

    Rows are taken in order. One that is near to leaders joins the nearest of them, else it leads a
    group of its own. So every row of a group reaches the threshold with its leader, and chains of
    small changes are cut.
    """
    import numpy as np

    groups: dict[int, list[tuple[int, float]]] = {}
    followers: set[int] = set()
    bounds = np.flatnonzero(np.diff(pairs.later)) + 1
    spans = zip([0, *bounds.tolist()], [*bounds.tolist(), len(pairs.later)], strict=True)
    for start, end in spans if len(pairs.later) else ():
        near = zip(pairs.earlier[start:end].tolist(), pairs.cosine[start:end].tolist(), strict=True)
        leaders = [(cosine, -row) for row, cosine in near if row not in followers]
        if leaders:
            cosine, row = max(leaders)
            later = int(pairs.later[start])
            groups.setdefault(-row, []).append((later, cosine))
            followers.add(later)
    return groups
