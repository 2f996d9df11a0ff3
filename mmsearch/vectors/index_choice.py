"""Which kind of index serves a facet: chosen by size, and only if its recall was measured here.

Each kind names candidates, of which those that the query is really nearest to are found exactly.
How many candidates that takes depends on the vectors and on who asks: queries in words lie apart
from the pictures that they are for (the modality gap), so what does for queries by picture may be
too few for them. So true neighbours are computed for queries of every modality that can ask, and
the index has to look harder until it finds them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mmsearch.vectors.ann_index import Coarse
from mmsearch.vectors.flat import widened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.flat import Rows

    Asked = Mapping[str, Vectors]
    """Queries (m, dim) by the modality that asks."""

EXACT = "exact"
"""No approximate index: every row is compared."""

AUTO = "auto"

RECALL = 0.98
"""Of the ten nearest, how many a search is to find, on average."""

EXACT_BYTES = 96 * 2**20
"""Rows up to this size are all compared: some 3 ms from memory (benchmarks/kinds.py)."""

CERTAIN = 2**18
"""Rows whose 1-bit codes are gone through whatever was measured, those of the nearest cells: a
search of a million takes some 7 ms so (benchmarks/kinds.py). Queries unlike those measured by are
found as well."""

NEIGHBOURS = 10
WIDTHS = (800, 3_200, 12_800)
"""Candidates that are asked for to see among how many the neighbours are."""

MOST_CANDIDATES = WIDTHS[-1]
_ROWS_AT_ONCE = 2**14


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        kind: EXACT, or a factory string of FAISS's.
        candidates: Rows that are compared exactly to find ten.
        effort: Cells or nodes that are visited; 0 where there are none.
        recall: By modality that asks, the share of the ten nearest that was found.
        why: In words.
    """

    kind: str = EXACT
    candidates: int = 0
    effort: int = 0
    recall: dict[str, float] = field(default_factory=dict)
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def chosen(
    rows: Rows, asked: Callable[[], Asked], *, kind: str = AUTO, recall: float = RECALL
) -> tuple[Choice, Coarse | None]:
    """The kind of index for some rows, and the index, if it is not EXACT.

    Args:
        rows: (n, dim).
        asked: Gives what is asked, to measure by; without any, nothing can be measured.
        kind: AUTO, EXACT, or a factory string: that one, whatever its recall is.
        recall: What is to be reached for queries of each modality.
    """
    if kind == EXACT or not len(rows):
        return Choice(why="as asked for" if kind == EXACT else "there is nothing yet"), None
    if kind == AUTO and rows.nbytes <= EXACT_BYTES:
        size = rows.nbytes / 2**20
        return Choice(why=f"{len(rows):,} vectors ({size:.0f} MiB) are compared in a moment"), None
    queries = {modality: some for modality, some in asked().items() if len(some)}
    if not queries:
        return Choice(why="there is nothing to measure the recall of another kind by"), None
    truth = {modality: true_neighbours(rows, some) for modality, some in queries.items()}
    name, certain = (codes_in_cells(*rows.shape), CERTAIN) if kind == AUTO else (kind, 0)
    try:
        coarse = Coarse.build(name, rows)
    except RuntimeError as error:
        # of "Error in SIGNATURE at FILE:LINE: Error: 'CONDITION' failed: WHY" the end
        said = str(error).rpartition("failed: ")[2].rpartition(": ")[2].strip()
        return Choice(why=f"{name} cannot be made of {len(rows):,} vectors: {said}"), None
    found, reached = _tuned(name, coarse, coarse.efforts(certain), queries, truth, recall)
    if reached or kind != AUTO:
        return found, coarse
    best = min(found.recall.values())
    return Choice(why=f"no other kind finds {recall}: {name} found {best:.3f}"), None


def codes_in_cells(number: int, dim: int) -> str:
    """The factory string of 1-bit codes of rows (number, dim), in cells around which these lie.

    Turned at random first, as what a code is off by hangs on how evenly the numbers of a row are
    spread; into whole words of 64 bits. Few cells, as they are made in seconds so: 64 of 100,000
    rows, 256 of a million.
    """
    cells = 2 ** max(round(math.log2(math.sqrt(max(number, 1)) / 4)), 0)
    return f"RR{64 * max(round(dim / 64), 1)},IVF{cells},RaBitQ"


def true_neighbours(rows: Rows, queries: Vectors, k: int = NEIGHBOURS) -> NDArray[np.int64]:
    """Of each query (m, dim) the k rows (m, min(k, n)) of the highest inner product.

    A row that the query is itself counts like any other.
    """
    import numpy as np

    k = min(k, len(rows))
    best = np.full((len(queries), k), -np.inf, np.float32)
    where = np.zeros((len(queries), k), np.int64)
    turned = np.ascontiguousarray(queries.T, np.float32)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        scores = (widened(rows[start : start + _ROWS_AT_ONCE]) @ turned).T
        among = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        both = np.concatenate([best, np.take_along_axis(scores, among, axis=1)], axis=1)
        ids = np.concatenate([where, among + start], axis=1)
        kept = np.argpartition(-both, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(both, kept, axis=1)
        where = np.take_along_axis(ids, kept, axis=1)
    return where


def _tuned(
    kind: str,
    coarse: Coarse,
    efforts: list[int],
    queries: Asked,
    truth: Mapping[str, NDArray[np.int64]],
    target: float,
) -> tuple[Choice, bool]:
    """How hard an index has to look, and whether it then finds enough."""
    # measured on a sample: aimed a little higher than what is asked for
    aim = target + (1 - target) / 4
    ranks: dict[str, NDArray[np.int64]] = {}
    effort, wanted = 0, 0
    # the widest net takes ten times as long as the narrowest, which is mostly wide enough
    looks = (itertools.product(efforts, widths) for widths in (WIDTHS[:-1], WIDTHS[-1:]))
    for effort, most in itertools.chain.from_iterable(looks):
        wanted = min(most, MOST_CANDIDATES, len(coarse))
        ranks = {
            modality: _ranks(coarse.many(some, wanted, effort), truth[modality])
            for modality, some in queries.items()
        }
        if all((found < wanted).mean() >= aim for found in ranks.values()):
            break
    enough = max(_enough(found, aim, wanted) for found in ranks.values())
    recall = {name: round(float((found < enough).mean()), 4) for name, found in ranks.items()}
    reached = all(share >= target for share in recall.values())
    shown = " and ".join(f"{share:.3f} for {name}" for name, share in recall.items())
    why = f"finds {shown} of the ten nearest, measured on this index; {target} was asked for"
    return Choice(kind, enough, effort, recall, why), reached


def _ranks(found: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each true neighbour (m, k) stands among the candidates (m, wanted); wanted if not."""
    import numpy as np

    ranks = np.full(truth.shape, found.shape[1], np.int64)
    for number, (candidates, nearest) in enumerate(zip(found, truth, strict=True)):
        order = np.argsort(candidates, kind="stable")
        at = np.searchsorted(candidates, nearest, sorter=order)
        at = np.minimum(at, len(order) - 1)
        there = candidates[order[at]] == nearest
        ranks[number, there] = order[at][there]
    return ranks


def _enough(ranks: NDArray[np.int64], aim: float, most: int) -> int:
    """Candidates that hold a share of the neighbours, in steps of a hundred."""
    import numpy as np

    needed = int(np.quantile(ranks, aim, method="higher")) + 1
    return min(math.ceil(needed / 100) * 100, most)
