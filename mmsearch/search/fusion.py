"""Several rankings of the same things, made one.

Which fusion is the default, and the weights, were chosen on Flickr8k dev (`benchmarks/fusion.py`).
Where only half of the photos have captions, every method but `wsum` fills the first page with
captioned ones: they have two rankings to collect from.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)

Rankings = Sequence[Sequence[tuple[Key, float]]]

WEIGHTS: Mapping[str, float] = {"image": 1.0, "text": 1.0, "audio": 1.0, "words": 0.5}
"""Of each facet's ranking, and of that by words, for items that hold all that were asked for."""


RRF_K = 60.0
"""The smoothing of reciprocal ranks, as in their paper."""


def rrf(
    rankings: Rankings[Key], weights: Sequence[float] | None = None, k: float = RRF_K
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
    counts, scale = _scaled(weights, len(rankings))
    terms: defaultdict[Key, list[float]] = defaultdict(list)
    for ranking, weight in zip(rankings, counts, strict=True):
        for rank, (key, _) in enumerate(ranking, start=1):
            terms[key].append(weight / (k + rank))
    wanted = _wanted(rankings, counts)
    return [
        (key, share * scale)
        for key, share in _sorted({key: math.fsum(terms[key]) for key in wanted})
    ]


def wsum(
    rankings: Rankings[Key],
    weights: Sequence[float] | None = None,
    absent: Sequence[float | None] | None = None,
) -> list[tuple[Key, float]]:
    """Fuse rankings by the weighted mean of standardised scores, over those that know the key.

    score(d) = Σ w·s(d) / Σ w over the rankings that hold d. So a photo without a caption is judged
    by its picture, and one with a caption by both. A ranking with a score for what it leaves out
    (by words: those that hold none of them) adds w·s(d) / W to that, with W the largest weight of
    the others; one of negative weight does so by that of all the others together, of scores above 0
    alone: what is like it is pushed away, and what is not is not drawn near. What stands only in
    rankings of negative weight is left out. The order of the rankings makes no difference: sums are
    exact, and ties stand in order of key.

    Args:
        rankings: Keys with standardised scores, so that 0 is an item like any other.
        weights: Of each ranking; 1 if left out.
        absent: The score of what each ranking leaves out; None (or no `absent`) where that says
            nothing of it. What no ranking but such knows has a mean of 0.

    Source: linear combination, Vogt & Cottrell, Information Retrieval 1999; the mean instead of
    the sum is CombANZ, Fox & Shaw, TREC-2, 1994; of standardised scores, Montague & Aslam,
    CIKM 2001.
    """
    counts, _ = _scaled(weights, len(rankings))
    known: defaultdict[Key, list[tuple[float, float]]] = defaultdict(list)
    added: defaultdict[Key, list[float]] = defaultdict(list)
    rest = [None] * len(rankings) if absent is None else list(absent)
    inside = [w for w, left_out in zip(counts, rest, strict=True) if w > 0 and left_out is None]
    whole = math.fsum(inside or (weight for weight in counts if weight > 0)) or 1.0
    largest = max(inside, default=1.0)
    for ranking, weight, left_out in zip(rankings, counts, rest, strict=True):
        for key, score in ranking:
            if weight < 0:
                added[key].append(weight * max(score, 0.0) / whole)
            elif left_out is None:
                known[key].append((weight, score))
            else:  # what it leaves out has a score too: only the difference moves anything
                added[key].append(weight * (score - left_out) / largest)
    means = {key: _mean(pairs) for key, pairs in known.items()}
    wanted = _wanted(rankings, counts)
    return _sorted({key: math.fsum([means.get(key, 0.0), *added[key]]) for key in wanted})


def combmnz(
    rankings: Rankings[Key], weights: Sequence[float] | None = None
) -> list[tuple[Key, float]]:
    """Fuse rankings by the sum of scores times the number of rankings that vouch for the key.

    score(d) = |{r: s_r(d) > 0}| · Σ w·max(s(d), 0), over rankings of positive weight in the count.
    What stands only in rankings of negative weight is left out. The order of the rankings makes no
    difference: sums are exact, and ties stand in order of key.

    Args:
        rankings: Keys with standardised scores; one below 0 is no better than not to be there.
        weights: Of each ranking; 1 if left out.

    Source: Fox & Shaw, Combination of Multiple Searches, TREC-2, 1994.
    """
    counts, scale = _scaled(weights, len(rankings))
    terms: defaultdict[Key, list[float]] = defaultdict(list)
    vouching: defaultdict[Key, int] = defaultdict(int)
    for ranking, weight in zip(rankings, counts, strict=True):
        for key, score in ranking:
            terms[key].append(weight * max(score, 0.0))
            vouching[key] += weight > 0 and score > 0
    wanted = _wanted(rankings, counts)
    fused = {key: vouching[key] * math.fsum(terms[key]) for key in wanted}
    return [(key, score * scale) for key, score in _sorted(fused)]


def _by_rank(
    rankings: Rankings[Key],
    weights: Sequence[float] | None = None,
    absent: Sequence[float | None] | None = None,
) -> list[tuple[Key, float]]:
    del absent  # ranks say nothing of what is left out
    return rrf(rankings, weights)


def _vouched(
    rankings: Rankings[Key],
    weights: Sequence[float] | None = None,
    absent: Sequence[float | None] | None = None,
) -> list[tuple[Key, float]]:
    del absent
    return combmnz(rankings, weights)


FUSIONS: Mapping[str, Callable[..., list[tuple[Any, float]]]] = {
    "wsum": wsum,
    "combmnz": _vouched,
    "rrf": _by_rank,
}
"""By name, all with the arguments of `wsum`."""

DEFAULT = "wsum"


def _scaled(weights: Sequence[float] | None, rankings: int) -> tuple[list[float], float]:
    """The weights over the largest of them, and that: tiny weights rank as their multiples do."""
    counts = list(weights or [1.0] * rankings)
    scale = max(map(abs, counts), default=0.0) or 1.0
    return [weight / scale for weight in counts], scale


def _wanted(rankings: Rankings[Key], weights: Sequence[float]) -> set[Key]:
    """What a ranking of positive weight holds."""
    pairs = zip(rankings, weights, strict=True)
    return {key for ranking, weight in pairs if weight > 0 for key, _ in ranking}


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    """Of (weight, score) pairs; 0 where nothing weighs."""
    whole = math.fsum(weight for weight, _ in pairs)
    return math.fsum(weight * score for weight, score in pairs) / whole if whole else 0.0


def _sorted(scores: Mapping[Key, float]) -> list[tuple[Key, float]]:
    return sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
