"""How good rankings are, per query, and how certain the mean over queries is.

    hits = per_query(partial(recall_at_k, k=10), rankings, relevant)
    bootstrap_interval(hits)                       # Recall@10 and its 95 % interval

A ranking is a sequence of item ids, best first, each at most once. What is relevant to a query
is a collection of ids, or a mapping from id to gain; an id whose gain is zero or less is not
relevant. Every query needs at least one relevant item: a query without one says nothing about a
ranking, and counting it as zero would only drag the mean down.

Where all scores are at hand, `ranks_from_scores` gives the same figures faster:
`Recall@K = mean(ranks <= K)`, `MRR = mean(1 / ranks)`.

Intervals come from bootstrap resampling. Queries that share relevant items are not independent:
five captions of one photo are not five draws. `groups_of` finds such groups, and a resample draws
whole groups. The same seed and groups give the same resamples, so differences between two systems
are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from typing import TYPE_CHECKING, Any

from mmsearch.errors import MMSearchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000

DRAWS_AT_ONCE = 1 << 20
"""Values a bootstrap draws at a time, unless one resample needs more: 16 MiB with counts."""

Relevant = Collection[Hashable] | Mapping[Any, float]
"""Relevant ids (each with gain 1), or the gain of each id."""

Metric = Callable[[Sequence[Hashable], Relevant], float]
"""Scores one query's ranking."""


def recall_at_k(ranking: Sequence[Hashable], relevant: Relevant, k: int) -> float:
    """1 if any relevant item is among the first k, else 0.

    This is Recall@K as papers on image–text retrieval report it, which ir_measures calls
    `Success@k`. It is not set recall (`R@k` in ir_measures), the share of a query's relevant items
    among the first k. The two agree where a query has one relevant item, as a caption has its
    photo; for a photo with five captions, this one is higher.

    Raises:
        MMSearchError: `k` is below 1, nothing is relevant, or an id occurs twice.

    Source: Hodosh, Young & Hockenmaier, JAIR 2013.
    """
    _check_cutoff(k)
    return float(first_rank(ranking, relevant) <= k)


def reciprocal_rank(ranking: Sequence[Hashable], relevant: Relevant) -> float:
    """1 / rank of the first relevant item; 0 if the ranking holds none.

    Its mean over queries is MRR.

    Raises:
        MMSearchError: Nothing is relevant, or an id occurs twice.

    Source: Voorhees, TREC-8 Question Answering Track Report, 1999.
    """
    return 1.0 / first_rank(ranking, relevant)


def ndcg(ranking: Sequence[Hashable], relevant: Relevant, k: int) -> float:
    """The discounted gain of the first k items, as a share of the highest possible.

    nDCG@k = DCG@k / DCG@k of the items in descending order of gain, with
    DCG@k = Σ gain(i) / log2(i + 1) over ranks i = 1 … k. Gains count as they are, as in
    trec_eval, not as 2^gain − 1.

    Raises:
        MMSearchError: `k` is below 1, nothing is relevant, or an id occurs twice.

    Source: Järvelin & Kekäläinen, ACM TOIS 2002; discount from rank 1 on as in Burges et al.,
    ICML 2005.
    """
    _check_cutoff(k)
    _check_distinct(ranking)
    gains = _gains(relevant)
    best = sorted(gains.values(), reverse=True)
    unit = best[0]  # so that sums of huge gains do not overflow
    found = _dcg([gains.get(item, 0.0) / unit for item in ranking[:k]])
    return found / _dcg([gain / unit for gain in best[:k]])


def r_precision(ranking: Sequence[Hashable], relevant: Relevant) -> float:
    """The share of relevant items among the first R, where R is how many are relevant.

    Unlike precision at a fixed cutoff, it can be 1 however many are relevant. If a ranking has
    fewer than R items, the missing ones count as not relevant, as in trec_eval. If one item is
    relevant, this is Recall@1.

    Raises:
        MMSearchError: Nothing is relevant, or an id occurs twice.

    Source: Musgrave, Belongie & Lim, A Metric Learning Reality Check, ECCV 2020; for image–text
    retrieval Chun et al., ECCV Caption, ECCV 2022.
    """
    return sum(_hits_at_r(ranking, relevant)) / len(_gains(relevant))


def average_precision_at_r(ranking: Sequence[Hashable], relevant: Relevant) -> float:
    """The precision at the rank of each relevant item among the first R, summed and divided by R.

    R is how many items are relevant: AP@R = (1 / R) Σ P(i) · rel(i) over ranks i = 1 … R, where
    rel(i) is 1 if the item at rank i is relevant, else 0, and P(i) is the share of relevant items
    among the first i. It is at most R-precision, and closer to it the higher relevant items rank
    among the first R. Its mean over queries is mAP@R.

    Raises:
        MMSearchError: Nothing is relevant, or an id occurs twice.

    Source: as of `r_precision`.
    """
    hits = _hits_at_r(ranking, relevant)
    precisions = (found / rank for rank, found in enumerate(accumulate(hits), 1))
    return math.fsum(compress(precisions, hits)) / len(_gains(relevant))


def first_rank(ranking: Sequence[Hashable], relevant: Relevant) -> float:
    """The rank of the first relevant item, from 1; infinity if the ranking holds none.

    Raises:
        MMSearchError: Nothing is relevant, or an id occurs twice.
    """
    _check_distinct(ranking)
    gains = _gains(relevant)
    return next((rank for rank, item in enumerate(ranking, 1) if item in gains), math.inf)


def median_rank(ranks: ArrayLike) -> float:
    """The median over queries of the first relevant item's rank (MedR); lower is better.

    Args:
        ranks: (n_queries,), from 1; infinity where nothing relevant was found.

    Raises:
        MMSearchError: There are no queries.
    """
    import numpy as np

    array = np.asarray(ranks, dtype=np.float64)
    if not array.size:
        raise MMSearchError("there are no queries to take a median rank of")
    return float(np.median(array))


def per_query(
    metric: Metric, rankings: Sequence[Sequence[Hashable]], relevant: Sequence[Relevant]
) -> NDArray[np.float64]:
    """The metric of each query, in order, for means and intervals.

    Args:
        metric: Takes a ranking and what is relevant; `functools.partial(recall_at_k, k=10)`
            fixes a cutoff.
        rankings: One per query.
        relevant: One per query, in the same order.

    Returns:
        (n_queries,) float64.

    Raises:
        MMSearchError: There are no queries, the lengths differ, or a query cannot be scored; the
            message names its position, from 0.
    """
    import numpy as np

    _check_paired(len(rankings), len(relevant), "rankings")
    values = np.empty(len(rankings), dtype=np.float64)
    for query, (ranking, wanted) in enumerate(zip(rankings, relevant, strict=True)):
        try:
            values[query] = metric(ranking, wanted)
        except MMSearchError as error:
            raise MMSearchError(f"query {query}: {error}") from error
    return values


def ranks_from_scores(scores: ArrayLike, positives: Sequence[Collection[int]]) -> NDArray[np.int64]:
    """The rank, from 1, of each query's best positive among all items.

    Among equal scores the item with the lower index comes first, as in a search.

    Args:
        scores: (n_queries, n_items), higher is better; −inf excludes an item.
        positives: For each query, the indices of the relevant items.

    Returns:
        (n_queries,) int64, each in 1 … n_items.

    Raises:
        MMSearchError: There are no queries, the shapes do not match, a query has no positive or
            one outside 0 … n_items − 1, or a score is NaN.
    """
    import numpy as np

    table = np.asarray(scores)
    if table.ndim != 2:
        raise MMSearchError(f"scores must be (n_queries, n_items), not of shape {table.shape}")
    _check_paired(len(table), len(positives), "rows of scores")
    ranks = np.empty(len(table), dtype=np.int64)
    for query, (row, wanted) in enumerate(zip(table, positives, strict=True)):
        right = np.unique(np.fromiter(wanted, dtype=np.int64, count=len(wanted)))
        if not right.size:
            raise MMSearchError(f"query {query} has no positive: leave it out")
        if right[0] < 0 or right[-1] >= row.size:
            raise MMSearchError(f"query {query} has a positive outside 0 … {row.size - 1}")
        if np.isnan(row).any():
            raise MMSearchError(f"query {query} has a score that is not a number")
        best = right[np.argmax(row[right])]
        ahead = np.count_nonzero(row > row[best])
        tied_before = np.count_nonzero(row[:best] == row[best])
        ranks[query] = 1 + ahead + tied_before
    return ranks


# ---------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Interval:
    """A mean over queries, and the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The mean of the values and its percentile bootstrap interval over queries.

    Queries are drawn with replacement, as many as there are; the bounds are the quantiles
    (1 ± confidence) / 2 of the resamples' means. The values must be independent: those of five
    captions of one photo are not, so average them by photo first. Differences between two systems
    on the same queries give a paired interval.

    Args:
        values: (n_queries,) finite; a single query gives an interval of zero width.
        confidence: Between 0 and 1.
        resamples: How many means are drawn.
        seed: The same seed gives the same interval.

    Raises:
        MMSearchError: There are no values, they are not finite or not one-dimensional, or an
            argument is out of range.

    Source: Efron, Annals of Statistics 1979; for retrieval Sakai, SIGIR 2006.
    """
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise MMSearchError(f"values must be (n_queries,), one or more, not {array.shape}")
    means = resampled_means(array, range(array.size), resamples=resamples, seed=seed)
    return Interval(float(array.mean()), *bounds(means, confidence=confidence))


def groups_of(relevant: Sequence[Collection[Hashable]]) -> NDArray[np.int64]:
    """The number of each query's group, from 0; queries that share a relevant item share a group.

    So do two queries that each share an item with a third.

    Args:
        relevant: What is relevant to each query; a query with nothing is a group of its own.
    """
    import numpy as np

    above = list(range(len(relevant)))  # union-find: each query points towards its group's first
    first_with: dict[Hashable, int] = {}

    def top(query: int) -> int:
        while above[query] != query:
            above[query] = above[above[query]]
            query = above[query]
        return query

    for query, items in enumerate(relevant):
        for item in items:
            one, other = sorted((top(first_with.setdefault(item, query)), top(query)))
            above[other] = one
    tops = [top(query) for query in range(len(relevant))]
    return np.unique(np.asarray(tops, dtype=np.int64), return_inverse=True)[1].astype(np.int64)


def resampled_means(
    values: ArrayLike, groups: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """The mean over queries of each resample, which draws groups with replacement.

    Args:
        values: (n_queries,) or (n_queries, n_measures), finite.
        groups: (n_queries,) the number of each query's group, as from `groups_of`.
        resamples: How many.
        seed: The same seed draws the same groups.

    Returns:
        (resamples,) or (resamples, n_measures).

    Raises:
        MMSearchError: There are no values, they are not finite, or do not match the groups.

    Source: Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8.
    """
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise MMSearchError("values must be finite; ranks of what was not found are not")
    sizes = _sizes(array, groups)
    sums = np.zeros((len(sizes), *array.shape[1:]))
    np.add.at(sums, np.asarray(groups), array)
    return np.concatenate(
        [
            ((counts @ sums).T / (counts @ sizes)).T
            for counts in _drawn(len(sizes), len(sizes), resamples, seed)
        ]
    )


def resampled_medians(
    ranks: ArrayLike, groups: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """The median over queries of each resample, (resamples,); drawn as in `resampled_means`.

    Args:
        ranks: (n_queries,); infinity where nothing was found.
        groups: (n_queries,) the number of each query's group.
        resamples: How many.
        seed: The same seed draws the same groups.

    Raises:
        MMSearchError: There are no ranks, or they do not match the groups.
    """
    import numpy as np

    array = np.asarray(ranks, dtype=np.float64)
    sizes = _sizes(array, groups)
    order = np.argsort(array, kind="stable")
    ordered, of_group = array[order], np.asarray(groups)[order]
    medians = []
    for counts in _drawn(len(sizes), array.size, resamples, seed):
        upto = counts[:, of_group].cumsum(axis=1)  # queries of each resample up to this rank
        total = upto[:, -1:]
        lower = (upto <= (total - 1) // 2).sum(axis=1)
        upper = (upto <= total // 2).sum(axis=1)
        medians.append((ordered[lower] + ordered[upper]) / 2)
    return np.concatenate(medians)


def bounds(resampled: NDArray[np.float64], *, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval: the quantiles (1 ± confidence) / 2 of a resampled figure.

    Args:
        resampled: (resamples,); may hold infinities.
        confidence: Between 0 and 1.

    Raises:
        MMSearchError: `confidence` is not between 0 and 1.
    """
    import numpy as np

    if not 0 < confidence < 1:
        raise MMSearchError(f"confidence must lie between 0 and 1, not at {confidence}")
    # infinities cannot be interpolated
    method = "linear" if np.isfinite(resampled).all() else "inverted_cdf"
    at = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(resampled, at, method=method)  # type: ignore[call-overload]
    return float(low), float(high)


def _sizes(values: NDArray[np.float64], groups: ArrayLike) -> NDArray[np.int64]:
    """How many queries each group has."""
    import numpy as np

    numbers = np.asarray(groups)
    if not len(values) or numbers.shape != values.shape[:1]:
        raise MMSearchError(f"{numbers.size} groups do not fit values of shape {values.shape}")
    sizes = np.bincount(numbers).astype(np.int64)
    if not sizes.all():
        raise MMSearchError("groups are numbered from 0 without a gap")
    return sizes


def _drawn(groups: int, width: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each group was drawn, in blocks of (some resamples, groups).

    Args:
        groups: How many there are; a resample draws as many.
        width: Values that the caller holds per resample; the draws do not depend on it.
        resamples: How many in all.
        seed: Of the draws.
    """
    import numpy as np

    if resamples < 1:
        raise MMSearchError(f"resamples must be 1 or more, not {resamples}")
    generator = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // max(groups, width))
    for start in range(0, resamples, step):
        drawn = generator.integers(groups, size=(min(step, resamples - start), groups))
        yield np.stack([np.bincount(row, minlength=groups) for row in drawn])


# ---------------------------------------------------------------------- parts


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _hits_at_r(ranking: Sequence[Hashable], relevant: Relevant) -> list[bool]:
    """Whether each of the first R items is relevant, where R is how many are."""
    _check_distinct(ranking)
    gains = _gains(relevant)
    return [item in gains for item in ranking[: len(gains)]]


def _gains(relevant: Relevant) -> dict[Hashable, float]:
    if isinstance(relevant, Mapping):
        gains = {item: float(gain) for item, gain in relevant.items() if gain > 0}
    else:
        gains = dict.fromkeys(relevant, 1.0)
    if not gains:
        raise MMSearchError("nothing is relevant, so no ranking can be right: leave the query out")
    return gains


def _check_distinct(ranking: Sequence[Hashable]) -> None:
    if len(set(ranking)) != len(ranking):
        raise MMSearchError("an id stands twice in the ranking; keep only its best rank")


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise MMSearchError(f"a cutoff must be 1 or more, not {k}")


def _check_paired(queries: int, judged: int, what: str) -> None:
    if queries != judged:
        raise MMSearchError(
            f"{queries} {what} do not pair with the relevant items of {judged} queries"
        )
    if not queries:
        raise MMSearchError("there are no queries to measure")
