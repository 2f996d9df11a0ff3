"""Several rankings of the same items, made one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmsearch.types import Ranking


def rrf(rankings: Sequence[Ranking], k: float = 60.0) -> Ranking:
    """Fuse rankings by reciprocal rank: score(d) = Σ 1 / (k + rank of d), ranks from 1.

    Args:
        rankings: Each best first; an item may be missing from some.
        k: Smoothing; 60 as in the paper.

    Source: Cormack, Clarke & Büttcher, SIGIR 2009.
    """
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (item_id, _) in enumerate(ranking, start=1):
            scores[item_id] += 1 / (k + rank)
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
