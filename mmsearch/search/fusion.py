"""Rank fusion: several rankings of the same keys become one.

Every fusion leaves out keys that only rankings of negative weight contain. The order of the
rankings makes no difference: sums are exact, and ties are in order of key.

The default and the weights were chosen on Flickr8k dev (`benchmarks/fusion.py`). Where only half of
the photos have captions, every method but `wsum` fills the first page with captioned photos, since
these collect points from two rankings.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)
"""Identifies what is ranked: an item, or a span of one."""

Rankings = Sequence[Sequence[tuple[Key, float]]]

WEIGHTS: Mapping[str, float] = {"image": 1.0, "text": 1.0, "audio": 1.0, "words": 0.5}
"""The weight of each modality's ranking, and of the lexical one ("words")."""

RRF_K = 60.0
"""The smoothing of reciprocal ranks, as in their paper."""


def rrf(
    rankings: Rankings[Key], weights: Sequence[float] | None = None, k: float = RRF_K
) -> list[tuple[Key, float]]:
    """Fuse rankings by reciprocal rank: score(d) = Σ w / (k + rank of d), ranks from 1.

    Args:
        rankings: Each best first; a key may be missing from some.
        weights: Of each ranking; 1 if left out.
        k: Smoothing; 60 as in the paper.

    Source: Cormack, Clarke & Büttcher, SIGIR 2009.
    """
    scaled, scale = _scale_weights(weights, len(rankings))
    terms: defaultdict[Key, list[float]] = defaultdict(list)
    for ranking, weight in zip(rankings, scaled, strict=True):
        for rank, (key, _) in enumerate(ranking, start=1):
            terms[key].append(weight / (k + rank))
    fused = {key: math.fsum(terms[key]) for key in _fused_keys(rankings, scaled)}
    return [(key, score * scale) for key, score in _sorted(fused)]


def wsum(
    rankings: Rankings[Key],
    weights: Sequence[float] | None = None,
    absent: Sequence[float | None] | None = None,
) -> list[tuple[Key, float]]:
    """Fuse rankings by the weighted mean of standardised scores, over those that score a key.

    score(d) = Σ w·s(d) / Σ w over the rankings that contain d. So a photo without a caption is
    judged by its picture, and one with a caption by both. Two kinds of rankings take no part in
    this mean but are added to it, which is 0 for keys in no other ranking:

    * One that has a score for the keys it does not contain (the lexical ranking: items without any
      of the words) adds w·(s(d) - absent) / W, where W is the largest weight of the rankings in the
      mean.
    * One of negative weight adds w·max(s(d), 0) / ΣW: it pushes similar keys away, but does not
      draw dissimilar ones near.

    Args:
        rankings: Keys with standardised scores, so that 0 is an average item.
        weights: Of each ranking; 1 if left out.
        absent: By ranking, the score of the keys it does not contain; None if that is unknown.

    Source: linear combination, Vogt & Cottrell, Information Retrieval 1999; the mean instead of
    the sum is CombANZ, Fox & Shaw, TREC-2, 1994; of standardised scores, Montague & Aslam,
    CIKM 2001.
    """
    scaled, _ = _scale_weights(weights, len(rankings))
    added: defaultdict[Key, list[float]] = defaultdict(list)
    floors = [None] * len(rankings) if absent is None else list(absent)
    weighted = list(zip(scaled, rankings, floors, strict=True))
    averaged = [(weight, one) for weight, one, floor in weighted if weight > 0 and floor is None]
    averaged_weights = [weight for weight, _ in averaged]
    total = math.fsum(averaged_weights or (weight for weight in scaled if weight > 0)) or 1.0
    largest = max(averaged_weights, default=1.0)
    for weight, ranking, floor in weighted:
        if weight < 0:
            for key, score in ranking:
                added[key].append(weight * max(score, 0.0) / total)
        elif floor is not None:
            for key, score in ranking:
                added[key].append(weight * (score - floor) / largest)
    fused = dict.fromkeys(_fused_keys(rankings, scaled), 0.0) | _means(averaged)
    fused |= {key: math.fsum([fused[key], *terms]) for key, terms in added.items() if key in fused}
    return _sorted(fused)


def combmnz(
    rankings: Rankings[Key], weights: Sequence[float] | None = None
) -> list[tuple[Key, float]]:
    """Fuse rankings by the sum of scores times the number of rankings that score the key above 0.

    score(d) = |{r: s_r(d) > 0}| · Σ w·max(s(d), 0), over rankings of positive weight in the count.

    Args:
        rankings: Keys with standardised scores; one below 0 counts as 0.
        weights: Of each ranking; 1 if left out.

    Source: Fox & Shaw, Combination of Multiple Searches, TREC-2, 1994.
    """
    scaled, scale = _scale_weights(weights, len(rankings))
    terms: defaultdict[Key, list[float]] = defaultdict(list)
    positive: defaultdict[Key, int] = defaultdict(int)
    for ranking, weight in zip(rankings, scaled, strict=True):
        for key, score in ranking:
            terms[key].append(weight * max(score, 0.0))
            positive[key] += weight > 0 and score > 0
    keys = _fused_keys(rankings, scaled)
    fused = {key: positive[key] * math.fsum(terms[key]) for key in keys}
    return [(key, score * scale) for key, score in _sorted(fused)]


FUSIONS: Mapping[str, Callable[..., list[tuple[Any, float]]]] = {
    "wsum": wsum,
    "combmnz": lambda rankings, weights=None, _absent=None: combmnz(rankings, weights),
    "rrf": lambda rankings, weights=None, _absent=None: rrf(rankings, weights),
}
"""By name, all with the arguments of `wsum`."""

DEFAULT = "wsum"


def _scale_weights(weights: Sequence[float] | None, rankings: int) -> tuple[list[float], float]:
    """The weights divided by the largest, and the largest; so tiny weights lose no precision."""
    given = list(weights or [1.0] * rankings)
    scale = max(map(abs, given), default=0.0) or 1.0
    return [weight / scale for weight in given], scale


def _fused_keys(rankings: Rankings[Key], weights: Sequence[float]) -> set[Key]:
    """The keys of the rankings of positive weight."""
    pairs = zip(rankings, weights, strict=True)
    return {key for ranking, weight in pairs if weight > 0 for key, _ in ranking}


def _means(rankings: Sequence[tuple[float, Sequence[tuple[Key, float]]]]) -> dict[Key, float]:
    """The mean score of each key, by (weight, ranking)."""
    filled = [(weight, ranking) for weight, ranking in rankings if ranking]
    if len(filled) == 1:
        return dict(filled[0][1])
    known: defaultdict[Key, list[tuple[float, float]]] = defaultdict(list)
    for weight, ranking in filled:
        for key, score in ranking:
            known[key].append((weight, score))
    return {key: _mean(pairs) for key, pairs in known.items()}


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    """The weighted mean of (weight, score) pairs, whose weights are above 0."""
    if len(pairs) > 2:
        total = math.fsum(weight for weight, _ in pairs)
        return math.fsum(weight * score for weight, score in pairs) / total
    weights = weighted = 0.0  # a sum of two is rounded once, in whatever order
    for weight, score in pairs:
        weights += weight
        weighted += weight * score
    return weighted / weights


def _sorted(scores: Mapping[Key, float]) -> list[tuple[Key, float]]:
    by_key = sorted(scores.items(), key=itemgetter(0))
    return sorted(by_key, key=itemgetter(1), reverse=True)  # equal ones stay in order of key
