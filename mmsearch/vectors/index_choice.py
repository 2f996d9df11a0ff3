"""Which kind of FAISS index serves a segment: chosen by size, and by recall measured on its rows.

An approximate index returns candidates, among which the nearest are found exactly. How many
candidates are needed depends on the vectors and on the queries. Text queries lie apart from the
images they match (the modality gap), so candidates that suffice for image queries may be too few
for text. Therefore the true neighbours of sample queries of every modality are computed, and the
search effort is raised until the index finds them.

That holds on average, and for queries like the samples. For the others, and under filters, a search
goes on until no row that is left can be among the nearest (`LiveRows`), by the error of approximate
scores, which is measured here too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mmsearch.vectors.ann_index import AnnIndex
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

RECALL = 0.98
"""The share of the nearest rows that each search should find."""

EXACT_BYTES = 96 * 2**20
"""Up to this size all rows are compared: about 3 ms from memory (benchmarks/kinds.py)."""

MIN_CODES = 2**18
"""1-bit codes that a search compares at least, whatever recall was measured, in case queries differ
from the sample: about 7 ms of a search of a million rows (benchmarks/kinds.py)."""

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
    margin: float | None = None
    """How far below its exact score a row's approximate one may lie, as `score_margin` measures it;
    None: it was not measured, by an earlier version or since the index is exact."""


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
        kind: AUTO, EXACT, or a factory string, which is then used whatever its recall.
        recall: The recall to reach for queries of each modality; 1 means EXACT.
    """
    if kind == EXACT or recall >= 1 or not len(rows):
        asked = "as asked for" if kind == EXACT else "a recall of 1 takes every vector"
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
    name, min_codes = (codes_in_cells(*rows.shape), MIN_CODES) if kind == AUTO else (kind, 0)
    try:
        ann_index = AnnIndex.build(name, rows)
    except RuntimeError as error:
        # the end of "Error in SIGNATURE at FILE:LINE: Error: 'CONDITION' failed: REASON"
        reason = str(error).rpartition("failed: ")[2].rpartition(": ")[2].strip()
        why = f"{name} cannot be made of {len(rows):,} vectors: {reason}"
        return IndexChoice(why=why), None
    choice = _tuned(name, ann_index, ann_index.efforts(min_codes), queries, truth, recall)
    choice = replace(choice, margin=score_margin(rows, ann_index, recall))
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


def score_margin(rows: Float16Rows, ann_index: AnnIndex, recall: float) -> float:
    """How far below its exact score a row's approximate one may lie, as a share of a distance.

    It is the standard deviation of the errors times `spreads`.

    The distance is the root mean square of those from the query to the rows: the error of a code
    grows with it. The errors are those of random directions and of stored rows as queries; the
    larger spread of the two counts, or what their tail suggests if that is longer than a normal
    distribution's.
    """
    import numpy as np

    numbers = np.arange(min(SAMPLED, len(rows))) * len(rows) // min(SAMPLED, len(rows))
    sample, row_of = as_float32(rows, numbers), np.full(len(rows), -1, np.int32)
    row_of[numbers] = np.arange(len(numbers), dtype=np.int32)
    directions = np.random.default_rng(0).standard_normal(sample[:_ERROR_QUERIES].shape)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    stored = sample[:: max(len(sample) // _ERROR_QUERIES, 1)][:_ERROR_QUERIES]
    effort, measured = ann_index.efforts()[-1], []
    for queries in (stored, directions.astype(np.float32)):
        try:
            found = ann_index.candidates_of_many(queries, len(sample), effort, bitmap(row_of >= 0))
        except RuntimeError:  # this kind of index cannot skip rows
            found = ann_index.candidates_of_many(queries, len(sample), effort)
        distances = np.sqrt(
            (queries**2).sum(axis=1)
            + (sample**2).sum() / len(sample)
            - 2 * queries @ sample.mean(axis=0)
        )
        errors = [
            (as_float32(rows, of[of >= 0]) @ query - scores[of >= 0]) / max(distance, 1e-9)
            for query, distance, of, scores in zip(queries, distances, *found, strict=True)
        ]
        joined = np.concatenate(errors)
        tail = float(np.quantile(joined, _TAIL)) / _TAIL_SPREADS if len(joined) else 0.0
        measured.append(max(float(np.sqrt((joined**2).mean())) if len(joined) else 0.0, tail))
    return max(measured) * spreads(recall)


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
        f"every search is to find {target} of the nearest, so candidates are scored, at worst all "
        f"vectors, until none left can be among them, by the error of the codes measured on "
        f"{min(SAMPLED, len(ann_index)):,} vectors; the first {enough:,} have {shown} of the ten "
        "nearest, measured on this index"
        if ann_index.scores_all
        else f"finds {shown} of the ten nearest, measured on this index; {target} was asked for"
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
