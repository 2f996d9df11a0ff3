"""How sure one may be of a figure over queries: bootstrap resampling, of queries or groups of them.

Queries that share what is relevant to them stand or fall together: five captions of one photo are
not five independent draws. `groups_of` finds such groups, and a resample draws whole groups. Of
one seed and one grouping the resamples are the same, so differences between them are paired.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.errors import MMSearchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

RESAMPLES = 1000

DRAWS_AT_ONCE = 1 << 20
"""Values a bootstrap draws at a time, unless one resample needs more: 16 MiB with counts."""


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
    (1 ± confidence) / 2 of the resamples' means. Values must be independent of one another: five
    captions of one photo are not, so average them by photo first. Differences of two systems on
    the same queries give a paired interval.

    Args:
        values: (n_queries,) finite; one query gives an interval of no width.
        confidence: Between 0 and 1.
        resamples: How many means are drawn.
        seed: The same seed gives the same interval.

    Raises:
        MMSearchError: there are no values, they are not finite or not one-dimensional, or an
            argument is out of its range.

    Source: Efron, Annals of Statistics 1979; for retrieval Sakai, SIGIR 2006.
    """
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size:
        raise MMSearchError(f"values must be (n_queries,), one or more, not {array.shape}")
    means = resampled_means(array, range(array.size), resamples=resamples, seed=seed)
    return Interval(float(array.mean()), *bounds(means, confidence=confidence))


def groups_of(relevant: Sequence[Collection[Hashable]]) -> NDArray[np.int64]:
    """For each query the number of its group, from 0: those that share a relevant item have one.

    Two queries also belong together when a third shares an item with each.

    Args:
        relevant: What is relevant to each query; one with nothing is a group of its own.
    """
    import numpy as np

    above = list(range(len(relevant)))  # a forest: each query points towards its group's first
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
    """The means over queries of resamples, in each of which groups are drawn with replacement.

    Args:
        values: (n_queries,) or (n_queries, n_measures), finite.
        groups: (n_queries,) the number of each query's group, as `groups_of` gives them.
        resamples: How many.
        seed: The same seed draws the same groups.

    Returns:
        (resamples,) or (resamples, n_measures).

    Raises:
        MMSearchError: there are no values, they are not finite, or do not fit the groups.

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
    """The medians over queries of resamples, (resamples,); as `resampled_means` draws them.

    Args:
        ranks: (n_queries,), infinity where nothing was found.
        groups: (n_queries,) the number of each query's group.
        resamples: How many.
        seed: The same seed draws the same groups.

    Raises:
        MMSearchError: there are no ranks, or they do not fit the groups.
    """
    import numpy as np

    array = np.asarray(ranks, dtype=np.float64)
    sizes = _sizes(array, groups)
    order = np.argsort(array, kind="stable")
    ordered, of_group = array[order], np.asarray(groups)[order]
    medians = []
    for counts in _drawn(len(sizes), array.size, resamples, seed):
        upto = counts[:, of_group].cumsum(axis=1)  # of each resample, how many stand up to here
        total = upto[:, -1:]
        lower = (upto <= (total - 1) // 2).sum(axis=1)
        upper = (upto <= total // 2).sum(axis=1)
        medians.append((ordered[lower] + ordered[upper]) / 2)
    return np.concatenate(medians)


def bounds(resampled: NDArray[np.float64], *, confidence: float = 0.95) -> tuple[float, float]:
    """The percentile bootstrap interval: the quantiles (1 ± confidence) / 2 of a resampled figure.

    Args:
        resampled: (resamples,); infinities count as what they are.
        confidence: Between 0 and 1.

    Raises:
        MMSearchError: confidence is not between 0 and 1.
    """
    import numpy as np

    if not 0 < confidence < 1:
        raise MMSearchError(f"confidence must lie between 0 and 1, not at {confidence}")
    # between two infinities there is nothing to interpolate
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
    """How often each group was drawn, (some resamples, groups) at a time.

    Args:
        groups: How many there are, and are drawn each time.
        width: Values that the caller holds for each resample.
        resamples: How many in all.
        seed: Of the draws, which do not depend on `width`.
    """
    import numpy as np

    if resamples < 1:
        raise MMSearchError(f"resamples must be 1 or more, not {resamples}")
    generator = np.random.default_rng(seed)
    step = max(1, DRAWS_AT_ONCE // max(groups, width))
    for start in range(0, resamples, step):
        drawn = generator.integers(groups, size=(min(step, resamples - start), groups))
        yield np.stack([np.bincount(row, minlength=groups) for row in drawn])
