"""How good rankings are, per query, and how sure one may be of the mean.

hits = per_query(partial(recall_at_k, k=10), rankings, relevant)
bootstrap_interval(hits)                       # Recall@10 and its 95 % interval
"""

from mmsearch.metrics.intervals import (
    Interval,
    bootstrap_interval,
    bounds,
    groups_of,
    resampled_means,
    resampled_medians,
)
from mmsearch.metrics.measures import (
    Metric,
    Relevant,
    first_rank,
    median_rank,
    ndcg,
    per_query,
    ranks_from_scores,
    recall_at_k,
    reciprocal_rank,
)

__all__ = [
    "Interval",
    "Metric",
    "Relevant",
    "bootstrap_interval",
    "bounds",
    "first_rank",
    "groups_of",
    "median_rank",
    "ndcg",
    "per_query",
    "ranks_from_scores",
    "recall_at_k",
    "reciprocal_rank",
    "resampled_means",
    "resampled_medians",
]
