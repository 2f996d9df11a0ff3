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

MOST = 16
"""Neighbours kept of each row, the earliest: one of them stands for the row's group."""

BLOCK = 2048
"""Rows compared at a time."""

SCORES = 8_000_000
"""Cosines that are held at a time."""

ROUNDS = 3


class Pairs(NamedTuple):
    """Rows that are alike.

    Attributes:
        later: (m,) int64, sorted; of each pair the row that stands later.
        earlier: (m,) int64, rising for each `later`; at most `MOST` of one row.
        cosine: (m,) float32.
    """

    later: NDArray[np.int64]
    earlier: NDArray[np.int64]
    cosine: NDArray[np.float32]


def near_pairs(matrix: Any, threshold: float, progress: Progress | None = None) -> Pairs:
    """Pairs of rows whose cosine reaches a threshold.

    Up to `EXACT` rows, all of them. Of more, the rows are parted into about 2·√n cells around
    means (k-means on a sample); each row is compared with those of its nearest cells only, so the
    work grows as n·√n. What is found is true; a pair may be missed whose rows lie on two sides of
    several borders.

    Args:
        matrix: (n, dim) unit rows, float16 or float32.
        threshold: The least cosine.
        progress: Called with (rows done, n).
    """
    import numpy as np

    tell = progress or (lambda _done, _total: None)
    found = _Found()
    if len(matrix) <= EXACT:
        places = np.arange(len(matrix))
        whole = _rows(matrix, slice(None))
        for some in _blocks(places, len(matrix)):
            end = some[-1] + 1
            found.add(*_matches(whole[some], some, whole[:end], places[:end], threshold))
            tell(int(end), len(matrix))
        return found.all()
    done = 0
    for members, visitors in _cells(matrix):
        rows = _rows(matrix, members)
        for some in (*_blocks(members, len(rows)), *_blocks(visitors, len(rows))):
            found.add(*_matches(_rows(matrix, some), some, rows, members, threshold))
        done += len(members)
        tell(done, len(matrix))
    return found.all()


def _rows(matrix: Any, which: Any) -> Vectors:
    import numpy as np

    rows: Vectors = np.asarray(matrix[which], dtype=np.float32)
    return rows


def _blocks(rows: Any, others: int = 0) -> Iterator[Any]:
    """Rows in parts, each of few enough to be compared with so many others at a time."""
    step = max(1, min(BLOCK, SCORES // max(others, 1)))
    for start in range(0, len(rows), step):
        yield rows[start : start + step]


def _matches(
    rows: Vectors, names: Any, others: Vectors, other_names: Any, threshold: float
) -> tuple[Any, Any, Any]:
    """(later, earlier, cosine) of the pairs between two sets of rows; of a pair both ways, one."""
    import numpy as np

    scores = rows @ others.T
    alike = scores >= threshold
    if np.count_nonzero(alike) > MOST * (len(rows) + len(others)):
        alike = _thinned(alike, names, other_names)
    left, right = np.nonzero(alike)
    cosine = scores[left, right]
    one, two = names[left], other_names[right]
    kept = one != two
    later, earlier = np.maximum(one, two)[kept], np.minimum(one, two)[kept]
    return later, earlier, cosine[kept]


def _thinned(alike: Any, names: Any, other_names: Any) -> Any:
    """Where two sets are alike, of each row only the `MOST` earliest others; both stand in order.

    A thousand pictures of one wall would have half a million pairs else.
    """
    import numpy as np

    earlier = other_names[None, :] < names[:, None]
    before, after = alike & earlier, alike & ~earlier
    before &= np.cumsum(before, axis=1, dtype=np.int32) <= MOST
    after &= np.cumsum(after, axis=0, dtype=np.int32) <= MOST
    return before | after


class _Found:
    """Pairs as they come in; what is too much is thrown away early, so memory stays bounded."""

    ROOM = 4_000_000

    def __init__(self) -> None:
        self._parts: list[tuple[Any, Any, Any]] = []
        self._held = 0

    def add(self, later: Any, earlier: Any, cosine: Any) -> None:
        if not len(later):
            return
        self._parts.append((later, earlier, cosine))
        self._held += len(later)
        if self._held > self.ROOM:
            pairs = self.all()
            self._parts, self._held = [(*pairs,)], len(pairs.later)

    def all(self) -> Pairs:
        """Each pair once, and of each row the earliest `MOST`."""
        import numpy as np

        if not self._parts:
            none = np.zeros(0, np.int64)
            return Pairs(none, none, np.zeros(0, np.float32))
        later, earlier, cosine = map(np.concatenate, zip(*self._parts, strict=True))
        order = np.lexsort((earlier, later))
        later, earlier, cosine = later[order], earlier[order], cosine[order]
        new = np.ones(len(later), bool)
        new[1:] = (later[1:] != later[:-1]) | (earlier[1:] != earlier[:-1])
        later, earlier, cosine = later[new], earlier[new], cosine[new]
        first = np.searchsorted(later, later)  # where the pairs of the same row begin
        few = np.arange(len(later)) - first < MOST
        return Pairs(later[few], earlier[few], cosine[few].astype(np.float32))


def _cells(matrix: Any) -> Iterator[tuple[Any, Any]]:
    """For each cell: the rows that lie in it, and those that lie near it."""
    import numpy as np

    centres = _centres(matrix, int(2 * math.sqrt(len(matrix))))
    probes = min(PROBES, len(centres))
    near = np.empty((len(matrix), probes), dtype=np.int32)
    for start in range(0, len(matrix), BLOCK):
        scores = _rows(matrix, slice(start, start + BLOCK)) @ centres.T
        best = np.argpartition(-scores, probes - 1, axis=1)[:, :probes]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
        near[start : start + BLOCK] = np.take_along_axis(best, order, axis=1)
    homes = _by_cell(near[:, :1], len(centres))
    visits = _by_cell(near[:, 1:], len(centres))
    yield from zip(homes, visits, strict=True)


def _by_cell(near: Any, count: int) -> Iterator[Any]:
    """For each cell in turn, the rows that name it."""
    import numpy as np

    flat = near.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(count + 1))
    for start, end in pairwise(bounds):
        yield order[start:end] // near.shape[1]


def _centres(matrix: Any, count: int) -> Vectors:
    """Means (count, dim) of a sample's rows, each nearest to its own."""
    import numpy as np

    chance = np.random.default_rng(0)
    some = chance.choice(len(matrix), min(len(matrix), 24 * count), replace=False)
    sample = _rows(matrix, np.sort(some))
    centres = sample[chance.choice(len(sample), count, replace=False)].copy()
    for _ in range(ROUNDS):
        nearest = np.concatenate([np.argmax(part @ centres.T, axis=1) for part in _blocks(sample)])
        order = np.argsort(nearest, kind="stable")
        held, starts = np.unique(nearest[order], return_index=True)
        centres[held] = np.add.reduceat(sample[order], starts, axis=0)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True).clip(1e-9)
    return centres


def led_groups(pairs: Pairs) -> dict[int, list[tuple[int, float]]]:
    """By the row that leads a group, its other rows with their cosines to it, in order.

    Rows are taken in order. One that is alike to rows that lead joins the nearest of them, else it
    leads a group of its own. So every row of a group is as like its leader as the threshold says,
    and chains of small changes are cut.
    """
    import numpy as np

    groups: dict[int, list[tuple[int, float]]] = {}
    follows: set[int] = set()
    bounds = np.flatnonzero(np.diff(pairs.later)) + 1
    spans = zip([0, *bounds.tolist()], [*bounds.tolist(), len(pairs.later)], strict=True)
    for start, end in spans if len(pairs.later) else ():
        near = zip(pairs.earlier[start:end].tolist(), pairs.cosine[start:end].tolist(), strict=True)
        led = [(cosine, -row) for row, cosine in near if row not in follows]
        if led:
            cosine, row = max(led)
            later = int(pairs.later[start])
            groups.setdefault(-row, []).append((later, cosine))
            follows.add(later)
    return groups
