"""Finds pairs of nearly equal vectors: a self-join by range search, in an IVF if they are many."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Progress

EXACT = 12_000
"""Up to this many rows, all are compared with all, which takes about two seconds."""

PROBES = 4
"""Cells that each row is compared in (nprobe); benchmarks/duplicates.py measures the recall."""

MAX_NEIGHBOURS = 16
"""Neighbours kept of each row, the earliest: one of them leads the row's group."""

BLOCK = 512
"""Query rows at a time, to bound memory: a thousand copies of one picture have a million pairs."""

MAX_PAIRS = 4_000_000
"""Pairs in memory before those in excess of MAX_NEIGHBOURS are dropped."""


class Pairs(NamedTuple):
    """Pairs of nearly equal rows, m in number."""

    later: NDArray[np.int64]
    """The later row of each pair, sorted."""
    earlier: NDArray[np.int64]
    """Ascending for each `later`; at most MAX_NEIGHBOURS of one row."""
    cosine: NDArray[np.float32]


def near_pairs(matrix: Any, threshold: float, progress: Progress | None = None) -> Pairs:
    """Pairs of rows whose cosine reaches a threshold.

    Up to `EXACT` rows, all such pairs are found. More rows are divided into about 2·√n cells, and
    each row is compared with its nearest cells only, so the work is O(n·√n). Every pair found is
    exact, but a pair may be missed if its rows lie in cells far apart.

    Args:
        matrix: (n, dim) unit rows, float16 or float32.
        threshold: The least cosine.
        progress: Called with (rows done, n).
    """
    import numpy as np

    none = np.zeros(0, np.int64)
    found = [Pairs(none, none, np.zeros(0, np.float32))]
    index = _index(matrix)
    radius = float(np.nextafter(np.float32(threshold), np.float32(-2)))  # FAISS excludes it
    for start in range(0, len(matrix), BLOCK):
        rows = np.asarray(matrix[start : start + BLOCK], np.float32)
        limits, cosine, neighbours = index.range_search(rows, radius)
        numbers = np.repeat(np.arange(start, start + len(rows)), np.diff(limits.astype(np.int64)))
        others = numbers != neighbours
        numbers, neighbours = numbers[others], neighbours[others]
        pairs = np.maximum(numbers, neighbours), np.minimum(numbers, neighbours), cosine[others]
        found.append(_earliest([Pairs(*pairs)]))
        if sum(len(pairs.later) for pairs in found) > MAX_PAIRS:
            found = [_earliest(found)]
        if progress is not None:
            progress(start + len(rows), len(matrix))
    return _earliest(found)


def _index(matrix: Any) -> Any:
    """A FAISS index of the rows: flat if they are few, in float16 if they are many."""
    import faiss
    import numpy as np

    dim = matrix.shape[1]
    if len(matrix) <= EXACT:
        index = faiss.IndexFlatIP(dim)
        index.add(np.asarray(matrix, np.float32))
        return index
    cells = int(2 * math.sqrt(len(matrix)))
    index = faiss.index_factory(dim, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.seed, index.cp.min_points_per_centroid = 3, 0, 1
    sample = np.random.default_rng(0).choice(
        len(matrix), min(len(matrix), 24 * cells), replace=False
    )
    index.train(np.asarray(matrix[np.sort(sample)], np.float32))
    for start in range(0, len(matrix), EXACT):
        index.add(np.asarray(matrix[start : start + EXACT], np.float32))
    index.nprobe = PROBES
    return index


def _earliest(found: list[Pairs]) -> Pairs:
    """Each pair once, and of each row the MAX_NEIGHBOURS earliest neighbours before it."""
    import numpy as np

    later, earlier, cosine = map(np.concatenate, zip(*found, strict=True))
    order = np.lexsort((earlier, later))
    later, earlier, cosine = later[order], earlier[order], cosine[order]
    new = np.ones(len(later), bool)
    new[1:] = (later[1:] != later[:-1]) | (earlier[1:] != earlier[:-1])
    later, earlier, cosine = later[new], earlier[new], cosine[new]
    first = np.searchsorted(later, later)  # where the pairs of the same row begin
    few = np.arange(len(later)) - first < MAX_NEIGHBOURS
    return Pairs(later[few], earlier[few], cosine[few])


def leader_groups(pairs: Pairs) -> dict[int, list[tuple[int, float]]]:
    """By the row that leads a group, its other rows with their cosines to it, in order.

    In order, each row joins its nearest leader, or leads a new group if no leader is near. So every
    row of a group reaches the threshold with its leader: no chain of small changes makes a group.
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
