"""Which kind of FAISS index serves a segment: chosen by size, and by recall measured on its rows.

An approximate index returns candidates, among which the nearest are found exactly. How many
candidates are needed depends on the vectors and on the queries. Text queries lie apart from the
images they match (the modality gap), so candidates that suffice for image queries may be too few
for text. Therefore the true neighbours of sample queries of every modality are computed, and the
search effort is raised until the index finds them.

The first candidates reach this recall for queries like the samples. For others, and under filters,
a search goes on until no other row is likely to be among the nearest (`BestCandidates`). To that
end, it is measured how far an approximate score may be too low (`score_margins`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmsearch.vectors.ann_index import AT_CENTRE, AnnIndex
from mmsearch.vectors.exact import as_float32, bitmap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors
    from mmsearch.vectors.exact import Float16Rows

    SampleQueries = Mapping[str, Vectors]
    """Queries (m, dim) by their modality."""

EXACT = "exact"
"""No approximate index: every row is compared."""

AUTO = "auto"
"""EXACT for few rows; for many, 1-bit codes if their recall suffices."""

ONE_BIT = "1-bit"
"""The 1-bit codes that AUTO chooses for many rows, however many there are."""

NAMED = (AUTO, EXACT, ONE_BIT)
"""The kinds with names of our own; any other is a FAISS factory string."""

RECALL = 0.98
"""The share of the nearest rows that each search should find."""

EXACT_BYTES = 96 * 2**20
"""Up to this size all rows are compared: about 3 ms from memory (benchmarks/kinds.py)."""

MIN_CODES = 2**18
"""1-bit codes that a search compares at least, whatever recall was measured, in case queries differ
from the sample: about 7 ms of a search of a million rows (benchmarks/kinds.py)."""

MIN_SHARE = 1 / 8
"""The share of the 1-bit codes that a search compares at least, which matters above two million:
after fewer cells, the next ones may have no candidate by chance, although ones far away do."""

NEIGHBOURS = 10
CANDIDATES = (800, 3_200, 12_800)
"""The numbers of candidates that are tried."""

MOST_CANDIDATES = CANDIDATES[-1]

SAFETY = 100
"""If errors are normal with the measured spread, a search misses this many times fewer neighbours
than it may: the spread differs a little between rows (benchmarks/recall.py)."""

SAMPLED = 4_096
"""The number of sampled rows that statistics are computed from."""

_ERROR_QUERIES = 16
_TAIL, _TAIL_SPREADS = 0.9999, 3.719
"""A normal distribution has this share of its values below so many standard deviations."""

_CHUNK = 2**14


@dataclass(frozen=True, slots=True)
class IndexChoice:
    """The kind of index that was chosen. The attributes are keys in stored files, too."""

    kind: str = EXACT
    """EXACT, or a factory string of FAISS."""
    candidates: int = 0
    """The number of rows that are scored exactly to find the nearest ten."""
    effort: int = 0
    """The search effort, as in `AnnIndex.efforts`."""
    recall: dict[str, float] = field(default_factory=dict)
    """By query modality, the recall of the ten nearest rows that the first candidates have."""
    why: str = ""
    """The reason, in words for the user."""


def choose_index(
    rows: Float16Rows,
    sample_queries: Callable[[], SampleQueries],
    *,
    kind: str = AUTO,
    recall: float = RECALL,
) -> tuple[IndexChoice, AnnIndex | None]:
    """The kind of index for the given rows, and the index itself unless the kind is EXACT.

    Args:
        rows: (n, dim).
        sample_queries: Returns queries to measure the recall with; without any, EXACT is chosen.
        kind: One of NAMED, or a factory string; any but AUTO is used whatever its recall.
        recall: The recall to reach for queries of each modality; 1 means EXACT.
    """
    if kind == EXACT or recall >= 1 or not len(rows):
        asked = "as asked for" if kind == EXACT else "a recall of 1 compares every vector"
        return IndexChoice(why=asked if len(rows) else "there is nothing yet"), None
    if kind == AUTO and rows.nbytes <= EXACT_BYTES:
        size = rows.nbytes / 2**20
        why = f"{len(rows):,} vectors ({size:.0f} MiB) are compared in a moment"
        return IndexChoice(why=why), None
    queries = {modality: rows for modality, rows in sample_queries().items() if len(rows)}
    if not queries:
        why = "there are no queries to measure the recall of another kind with"
        return IndexChoice(why=why), None
    truth = {modality: true_neighbours(rows, vectors) for modality, vectors in queries.items()}
    name, min_codes = kind, 0
    if kind in (AUTO, ONE_BIT):
        name, min_codes = codes_in_cells(*rows.shape), max(MIN_CODES, int(len(rows) * MIN_SHARE))
    try:
        ann_index = AnnIndex.build(name, rows)
    except RuntimeError as error:
        # the end of "Error in SIGNATURE at FILE:LINE: Error: 'CONDITION' failed: REASON"
        reason = str(error).rpartition("failed: ")[2].rpartition(": ")[2].strip()
        why = f"{name} cannot be made of {len(rows):,} vectors: {reason}"
        return IndexChoice(why=why), None
    choice = _tuned(name, ann_index, ann_index.efforts(min_codes), queries, truth, recall)
    lowest = min(choice.recall.values())
    if lowest >= recall or kind != AUTO:
        return choice, ann_index
    return IndexChoice(why=f"no other kind finds {recall}: {name} found {lowest:.3f}"), None


def codes_in_cells(number: int, dim: int) -> str:
    """The factory string for 1-bit codes of rows (number, dim), relative to the centre of a cell.

    Rows are first rotated at random, since the error of a code depends on how evenly the values of
    a row are spread; and into a multiple of 64 dimensions, as codes are words of 64 bits. There are
    few cells, so that clustering takes only seconds: 64 for 100,000 rows, 256 for a million.
    """
    cells = 2 ** max(round(math.log2(math.sqrt(max(number, 1)) / 4)), 0)
    return f"RR{64 * max(round(dim / 64), 1)},IVF{cells},RaBitQ"


def true_neighbours(rows: Float16Rows, queries: Vectors, k: int = NEIGHBOURS) -> NDArray[np.int64]:
    """The k rows (m, min(k, n)) of the highest inner products with each query (m, dim), unordered.

    A query that is one of the rows finds itself.
    """
    import numpy as np

    k = min(k, len(rows))
    best = np.full((len(queries), k), -np.inf, np.float32)
    numbers = np.zeros((len(queries), k), np.int64)
    transposed = np.ascontiguousarray(queries.T, np.float32)
    for start in range(0, len(rows), _CHUNK):
        scores = (as_float32(rows[start : start + _CHUNK]) @ transposed).T
        top = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        best = np.concatenate([best, np.take_along_axis(scores, top, axis=1)], axis=1)
        numbers = np.concatenate([numbers, top + start], axis=1)
        kept = np.argpartition(-best, k - 1, axis=1)[:, :k]
        best = np.take_along_axis(best, kept, axis=1)
        numbers = np.take_along_axis(numbers, kept, axis=1)
    return numbers


def spreads(recall: float) -> float:
    """The standard deviations of an error that a search allows for, to find a share of neighbours.

    It is 3.5 for 0.98, and 4.3 for 0.999.
    """
    missed = (1 - recall) / SAFETY
    low, high = 0.0, 10.0
    for _ in range(50):  # bisection, as the inverse in `statistics` is slow to import
        middle = (low + high) / 2
        if math.erfc(middle / math.sqrt(2)) / 2 > missed:
            low = middle
        else:
            high = middle
    return high


@dataclass(frozen=True, slots=True)
class ScoreMargins:
    """How far below its exact score each row's approximate score may be.

    The error of a code is proportional to the part of the query that is orthogonal to the row, both
    relative to the centre of the cell; this is at most the distance between query and row. A second
    error does not depend on the distance: rotation into fewer dimensions loses a share of every
    score.
    """

    constant: float
    """What does not depend on the distance, for a query and rows of length 1."""
    by_row: NDArray[np.float32]
    """(n,) the margin of each row at a distance of 1."""
    widest: float
    """The largest of `by_row`."""

    def at(self, by_row: Any, lengths: float, distance: Any) -> Any:
        """The margins at a distance from the query; broadcasts arrays.

        Args:
            by_row: Some of `by_row`, or `widest`.
            lengths: The length of the query times that of a row.
            distance: The result of `error_distance`.
        """
        import numpy as np

        return np.sqrt((self.constant * lengths) ** 2 + (by_row * distance) ** 2)


def error_distance(squares: float, mean_score: float, score: Any) -> Any:
    """The distance of rows from a query, by their scores; broadcasts arrays.

    It counts as at least half of the root mean square distance to all rows: the query is rounded
    relative to the centre of a cell, which may be far away even if a row is near.

    Args:
        squares: The sum of the squared lengths of the query and of a row.
        mean_score: The query's mean inner product with all rows.
        score: The inner product with a row.
    """
    import numpy as np

    return np.sqrt(np.maximum(np.maximum(squares - 2 * score, (squares - 2 * mean_score) / 4), 0))


def score_margins(rows: Float16Rows, ann_index: AnnIndex, recall: float) -> ScoreMargins:
    """The margins of rows (n, dim) with which searches reach a recall.

    A margin is the standard deviation of the error times `spreads`. The variance, a constant plus a
    multiple of the squared product of the row's `error_scales` and the distance, is fitted to the
    errors of sampled rows for two kinds of queries, random directions and stored rows. It is then
    scaled to the kind of larger errors, or to their tail if this is longer than that of a normal
    distribution.
    """
    import numpy as np

    numbers = np.arange(min(SAMPLED, len(rows))) * len(rows) // min(SAMPLED, len(rows))
    sample, row_of = as_float32(rows, numbers), np.full(len(rows), -1, np.int32)
    row_of[numbers] = np.arange(len(numbers), dtype=np.int32)
    directions = np.random.default_rng(0).standard_normal(sample[:_ERROR_QUERIES].shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    stored = sample[:: max(len(sample) // _ERROR_QUERIES, 1)][:_ERROR_QUERIES]
    row_square, mean = float((sample**2).sum()) / len(sample), sample.mean(axis=0)
    scales = ann_index.error_scales()
    effort = ann_index.efforts()[-1]
    measured = []
    for queries in (stored, directions.astype(np.float32)):
        try:
            found = ann_index.candidates_of_many(queries, len(sample), effort, bitmap(row_of >= 0))
        except RuntimeError:  # this kind of index cannot skip rows
            found = ann_index.candidates_of_many(queries, len(sample), effort)
        errors = []
        for query, of, approximate in zip(queries, *found, strict=True):
            known = of[of >= 0]
            scores, square = as_float32(rows, known) @ query, float(query @ query)
            distances = error_distance(square + row_square, float(mean @ query), scores)
            both = np.stack([scores - approximate[of >= 0], scales[known] * distances])
            errors.append(both / max(math.sqrt(square * row_square), 1e-9))
        measured.append(np.concatenate(errors, axis=1).astype(np.float64))
    joined = np.concatenate(measured, axis=1)
    if not joined.size:
        return ScoreMargins(0.0, np.zeros(len(rows), np.float32), 0.0)
    squares, variables = joined**2
    centred = variables - variables.mean()
    slope = max(float(centred @ squares) / max(float(centred @ centred), 1e-30), 0.0)
    constant = max(float(squares.mean() - slope * variables.mean()), AT_CENTRE)
    longest = 1.0
    for errors, variables in measured:
        standard = errors / np.sqrt(constant + slope * variables**2)
        tail = float(np.quantile(standard, _TAIL)) / _TAIL_SPREADS
        longest = max(longest, float(np.sqrt((standard**2).mean())), tail)
    factor = longest * spreads(recall)
    by_row = scales * np.float32(factor * math.sqrt(slope))
    return ScoreMargins(factor * math.sqrt(constant), by_row, float(by_row.max(initial=0.0)))


def _tuned(
    kind: str,
    ann_index: AnnIndex,
    efforts: list[int],
    queries: SampleQueries,
    truth: Mapping[str, NDArray[np.int64]],
    target: float,
) -> IndexChoice:
    """The effort and the candidates that an index needs for a recall, else the most of both."""
    # the recall of a sample is an estimate, so aim a little higher
    aim = target + (1 - target) / 4
    ranks: dict[str, NDArray[np.int64]] = {}
    effort, wanted = 0, 0
    # the most candidates take ten times as long as the fewest, which mostly suffice
    trials = (itertools.product(efforts, most) for most in (CANDIDATES[:-1], CANDIDATES[-1:]))
    for effort, most in itertools.chain.from_iterable(trials):
        wanted = min(most, MOST_CANDIDATES, len(ann_index))
        ranks = {
            modality: _ranks(ann_index.candidates_of_many(rows, wanted, effort)[0], truth[modality])
            for modality, rows in queries.items()
        }
        if all((found < wanted).mean() >= aim for found in ranks.values()):
            break
    enough = max(_needed_candidates(found, aim, wanted) for found in ranks.values())
    recall = {name: round(float((found < enough).mean()), 4) for name, found in ranks.items()}
    shown = " and ".join(f"{share:.3f} for {name}" for name, share in recall.items())
    why = (
        f"finds at least {target} of the nearest on average: candidates are scored until no other "
        f"vector is likely to be among them, by the error of approximate scores measured on "
        f"{min(SAMPLED, len(ann_index)):,} vectors of this index; the first {enough:,} candidates "
        f"have {shown} of the ten nearest to sample queries"
        if ann_index.scores_all
        else f"found {shown} of the ten nearest to sample queries; {target} was asked for"
    )
    return IndexChoice(kind, enough, effort, recall, why)


def _ranks(candidates: NDArray[np.int64], truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rank of each true neighbour (m, k) among the candidates (m, wanted); else `wanted`."""
    import numpy as np

    matches = candidates[:, :, None] == truth[:, None, :]
    ranks: NDArray[np.int64] = np.where(
        matches.any(axis=1), matches.argmax(axis=1), candidates.shape[1]
    )
    return ranks


def _needed_candidates(ranks: NDArray[np.int64], aim: float, most: int) -> int:
    """How many candidates contain a share of the neighbours, rounded up to a hundred."""
    import numpy as np

    needed = int(np.quantile(ranks, aim, method="higher")) + 1
    return min(math.ceil(needed / 100) * 100, most)
