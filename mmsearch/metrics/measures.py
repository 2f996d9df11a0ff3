"""How good a ranking is, per query.

A ranking is a sequence of item ids, best first, each at most once. What is relevant to a query
is a collection of ids, or a mapping from id to gain; an id whose gain is zero or less is not
relevant. Every query needs at least one relevant item: one without says nothing about a ranking,
and a silent zero would only drag the mean down.

Where all scores are at hand, `ranks_from_scores` gives the same figures faster:
`Recall@K = mean(ranks <= K)`, `MRR = mean(1 / ranks)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmsearch.errors import MMSearchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

Relevant = Collection[Hashable] | Mapping[Any, float]
"""Relevant ids (each with gain 1), or the gain of each id."""

Metric = Callable[[Sequence[Hashable], Relevant], float]
"""Scores one query's ranking."""


def recall_at_k(ranking: Sequence[Hashable], relevant: Relevant, k: int) -> float:
    """1 if any relevant item is among the first k, else 0.

    This is Recall@K as papers on image–text retrieval report it, and what ir_measures calls
    `Success@k`. It is not set recall (`R@k` in ir_measures), the share of a query's relevant items
    that stand among the first k. The two agree where a query has one relevant item, such as a
    caption's photo; for a photo with five captions this one is the higher.

    Raises:
        MMSearchError: k is below 1, nothing is relevant, or an id stands twice.

    Source: Hodosh, Young & Hockenmaier, JAIR 2013.
    """
    _check_cutoff(k)
    return float(first_rank(ranking, relevant) <= k)


def reciprocal_rank(ranking: Sequence[Hashable], relevant: Relevant) -> float:
    """1 / rank of the first relevant item; 0 if there is none in the ranking.

    Its mean over queries is MRR.

    Raises:
        MMSearchError: nothing is relevant, or an id stands twice.

    Source: Voorhees, TREC-8 Question Answering Track Report, 1999.
    """
    return 1.0 / first_rank(ranking, relevant)


def ndcg(ranking: Sequence[Hashable], relevant: Relevant, k: int) -> float:
    """The discounted gain of the first k items, as a share of the best that k items could have.

    nDCG@k = DCG@k / DCG@k of the items in order of falling gain, with
    DCG@k = Σ gain(i) / log2(i + 1) over ranks i = 1 … k. Gains count as they are, as in
    trec_eval, not as 2^gain − 1.

    Raises:
        MMSearchError: k is below 1, nothing is relevant, or an id stands twice.

    Source: Järvelin & Kekäläinen, ACM TOIS 2002; discount from rank 1 on as in Burges et al.,
    ICML 2005.
    """
    _check_cutoff(k)
    _check_distinct(ranking)
    gains = _gains(relevant)
    best = sorted(gains.values(), reverse=True)
    return _dcg([gains.get(item, 0.0) for item in ranking[:k]]) / _dcg(best[:k])


def first_rank(ranking: Sequence[Hashable], relevant: Relevant) -> float:
    """The rank of the first relevant item, from 1; infinity if there is none in the ranking.

    Raises:
        MMSearchError: nothing is relevant, or an id stands twice.
    """
    _check_distinct(ranking)
    gains = _gains(relevant)
    return next((rank for rank, item in enumerate(ranking, 1) if item in gains), math.inf)


def median_rank(ranks: ArrayLike) -> float:
    """The median over queries of the first relevant item's rank (MedR); lower is better.

    Args:
        ranks: (n_queries,), from 1; infinity where nothing relevant was found.

    Raises:
        MMSearchError: there are no queries.
    """
    import numpy as np

    array = np.asarray(ranks, dtype=np.float64)
    if not array.size:
        raise MMSearchError("there are no queries to take a median rank of")
    return float(np.median(array))


def per_query(
    metric: Metric, rankings: Sequence[Sequence[Hashable]], relevant: Sequence[Relevant]
) -> NDArray[np.float64]:
    """The metric of each query, in order: what means and intervals are made of.

    Args:
        metric: Takes a ranking and what is relevant to it; fix a cutoff with
            `functools.partial(recall_at_k, k=10)`.
        rankings: One for each query.
        relevant: One for each query, in the same order.

    Returns:
        (n_queries,) float64.

    Raises:
        MMSearchError: there are no queries, the lengths differ, or a query cannot be scored; the
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

    Of equal scores the item with the lower index stands first, as in a search.

    Args:
        scores: (n_queries, n_items), higher is better; −inf takes an item out of the running.
        positives: For each query, the indices of the items that are right.

    Returns:
        (n_queries,) int64, each in 1 … n_items.

    Raises:
        MMSearchError: there are no queries, the shapes do not fit, a query has no positive or one
            outside 0 … n_items − 1, or a score is NaN.
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


def _dcg(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _gains(relevant: Relevant) -> dict[Hashable, float]:
    if isinstance(relevant, Mapping):
        gains = {item: float(gain) for item, gain in relevant.items() if gain > 0}
    else:
        gains = dict.fromkeys(relevant, 1.0)
    if not gains:
        raise MMSearchError("nothing is relevant, so no ranking can be right: leave it out")
    return gains


def _check_distinct(ranking: Sequence[Hashable]) -> None:
    if len(set(ranking)) != len(ranking):
        raise MMSearchError("an id stands twice in the ranking; keep its best rank only")


def _check_cutoff(k: int) -> None:
    if k < 1:
        raise MMSearchError(f"a cutoff must be 1 or more, not {k}")


def _check_paired(queries: int, judged: int, what: str) -> None:
    if queries != judged:
        raise MMSearchError(f"{queries} {what} do not pair with what is right for {judged} queries")
    if not queries:
        raise MMSearchError("there are no queries to measure")
