"""The measures of each query, and their means and intervals over many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmsearch.metrics import (
    average_precision_at_r,
    bounds,
    first_rank,
    groups_of,
    median_rank,
    ndcg,
    r_precision,
    resampled_means,
    resampled_medians,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.evaluation.qrels import Way

CUTOFFS = (1, 5, 10)
NDCG_CUTOFF = 10
MEANS = (
    *(f"Recall@{cutoff}" for cutoff in CUTOFFS),
    "MRR",
    f"nDCG@{NDCG_CUTOFF}",
    "R-precision",
    "mAP@R",
)
MEDIAN = "median rank"
MEASURES = (*MEANS, MEDIAN)
"""Of the last, lower is better."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A measure over queries, and its 95 % bootstrap interval; a rank may be infinite."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The measures of one query."""

    key: tuple[Way, int | str]
    """Identifies the query, the same in every index."""
    query: str
    """For people to read."""
    paths: tuple[str, ...]
    """Of the relevant items."""
    rank: float
    """Of the first relevant item, from 1; infinity if none was found."""
    ndcg: float
    """nDCG@10."""
    r_precision: float
    """The share of relevant items among the first R, where R is how many are relevant."""
    average_precision: float
    """AP@R, whose mean over queries is mAP@R."""


@dataclass(frozen=True, slots=True)
class Direction:
    """The queries of one modality that search for items of another, or of the same."""

    name: str
    """Such as "text→image"."""
    way: Way
    """Whether queries search for their files, or files for their queries."""
    groups: int
    """How many independent groups its queries form: those that share relevant items, such as the
    captions of a photo, are one."""
    measures: Mapping[str, Figure]
    """By name; recall as papers on image–text retrieval report it: whether anything relevant is
    among the first K."""
    outcomes: tuple[Outcome, ...] = field(repr=False)
    """Of each query, in order."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How well an index answers queries whose relevant items are known."""

    directions: tuple[Direction, ...]
    """One for each pair of modalities."""
    index: str
    settings: Mapping[str, Any]
    depth: int
    """How many ranks count; a relevant item below them counts as not found."""
    items: int
    """How many the index holds."""
    verbatim: int = 0
    """Queries whose very words a relevant item holds, so that its text finds it."""
    missing: tuple[str, ...] = ()
    """Files that are not in the index, as written."""
    ambiguous: tuple[str, ...] = ()
    """Bare names of several files."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Queries that could not be searched, and why."""

    def __getitem__(self, name: str) -> Direction:
        """The first direction of a name, "text→image"."""
        return {direction.name: direction for direction in reversed(self.directions)}[name]


def outcome_of(
    key: tuple[Way, int | str],
    query: str,
    paths: Sequence[str],
    ranking: Sequence[int],
    relevant: Mapping[int, float],
) -> Outcome:
    """The measures of one query.

    Args:
        key: Identifies the query.
        query: For people to read.
        paths: Of the relevant items.
        ranking: Ids of items, best first, each once; items that it lacks were not found.
        relevant: The gain of each relevant item, by id.
    """
    return Outcome(
        key=key,
        query=query,
        paths=tuple(paths),
        rank=first_rank(ranking, relevant),
        ndcg=ndcg(ranking, relevant, NDCG_CUTOFF),
        r_precision=r_precision(ranking, relevant),
        average_precision=average_precision_at_r(ranking, relevant),
    )


def direction_of(name: str, way: Way, outcomes: Sequence[Outcome]) -> Direction:
    """The measures of some queries, with bootstrap intervals over their groups."""
    means, ranks = values_of(outcomes)
    groups = groups_of([outcome.paths for outcome in outcomes])
    drawn = resampled_means(means, groups)
    measures = {
        measure: Figure(float(means[:, at].mean()), *bounds(drawn[:, at]))
        for at, measure in enumerate(MEANS)
    }
    measures[MEDIAN] = Figure(median_rank(ranks), *bounds(resampled_medians(ranks, groups)))
    return Direction(name, way, int(groups.max()) + 1, measures, tuple(outcomes))


def values_of(outcomes: Sequence[Outcome]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The value of each of MEANS, (queries, measures), and the rank, (queries,), of each query."""
    import numpy as np

    ranks = np.array([outcome.rank for outcome in outcomes], dtype=np.float64)
    found = [ranks <= cutoff for cutoff in CUTOFFS]
    shares = [(one.ndcg, one.r_precision, one.average_precision) for one in outcomes]
    return np.column_stack([*found, 1 / ranks, np.array(shares, dtype=np.float64)]), ranks


def recall_curve(direction: Direction, depth: int) -> NDArray[np.float64]:
    """Recall at each cutoff from 1 to a depth, (depth,)."""
    import numpy as np

    ranks = np.sort([outcome.rank for outcome in direction.outcomes])
    curve: NDArray[np.float64] = np.searchsorted(
        ranks, np.arange(1, depth + 1), side="right"
    ) / len(ranks)
    return curve
