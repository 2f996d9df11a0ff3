"""Several rankings of the same things, made one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def rrf(
    rankings: Sequence[Sequence[tuple[Key, float]]],
    weights: Sequence[float] | None = None,
    k: float = 60.0,
) -> list[tuple[Key, float]]:
    """Fuse rankings by reciprocal rank: score(d) = Σ w / (k + rank of d), ranks from 1.

    What stands only in rankings of negative weight is left out. The order of the rankings makes no
    difference: sums are exact, and ties stand in order of key.

    Args:
        rankings: Each best first; a key may be missing from some.
        weights: Of each ranking; 1 if left out.
        k: Smoothing; 60 as in the paper.

    Source: Cormack, Clarke & Büttcher, SIGIR 2009.
    """
    counts = list(weights or [1.0] * len(rankings))
    scale = max(map(abs, counts), default=0.0) or 1.0  # tiny weights rank as their multiples do
    terms: defaultdict[Key, list[float]] = defaultdict(list)
    wanted: set[Key] = set()
    for ranking, weight in zip(rankings, counts, strict=True):
        for rank, (key, _) in enumerate(ranking, start=1):
            terms[key].append(weight / scale / (k + rank))
        if weight > 0:
            wanted.update(key for key, _ in ranking)
    shares = {key: math.fsum(terms[key]) for key in wanted}
    best_first = sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    return [(key, share * scale) for key, share in best_first]
