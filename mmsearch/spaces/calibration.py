"""What a score means: how far it stands out for its query, and whether it is a match.

Two questions can be asked of a score.

*How far does it stand out among all items, for this query?* `Background` answers in standard
deviations from the mean, so that scores of different modalities can be added: cosines between
texts are several times those between a text and an image.

*Is it a match at all?* `Reference` answers with the share of typical queries, searched among items
unrelated to them, whose best score is lower. What it compares is not the cosine, but how far it
exceeds what query and item have in common with everything:

    cos(q, d) - ½·hub(d) - ½·expected(q)

where hub is that of `hubness`, and `expected` the same for the query: its mean cosine to the
typical items nearest to it. On Flickr8k dev this separates queries whose photo is in the index from
those whose photo was removed better than the cosine does. How far a score stands out from the
query's own background, or the tail of that, separates them less well (`benchmarks/confidence.py`),
since the background of a query with many good matches contains them.

Source: cross-domain similarity local scaling (CSLS), Conneau et al., ICLR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Hit

    Scores = NDArray[np.float32]
    """Inner products of rows with one query, or with each of several."""

PRIOR = 20
"""How many items the typical items of a query bank count for in a background."""

NEAREST = 5
"""Typical items that `expected` is the mean of; with 20 the confidence separates a little less."""

HALF = 0.5
"""The weight of `expected`, as in CSLS: the query's half."""

NO_GOOD_MATCH = 0.5
"""A hit of lower confidence is presented as the nearest there is, not as a match."""

LARGEST = 0.999
"""The highest confidence: a reference of some hundred queries supports no more."""

FEWEST = 20
"""Without a reference, fewer items than this do not tell what is normal."""

FLAT = 1e-6
"""Scores are rounded to this, so a smaller spread is none."""


def no_good_match(hits: Iterable[Hit]) -> bool:
    """Whether the hits are merely the nearest there are: none has a confidence of 0.5 or more.

    True without any hits. False if no confidence is known, as in an index of a few items.
    """
    hits = list(hits)
    known = [hit.confidence for hit in hits if hit.confidence is not None]
    return max(known) < NO_GOOD_MATCH if known else not hits


@dataclass(frozen=True, slots=True)
class Reference:
    """How high the best scores of typical queries are when nothing matches them.

    Measured for one space, one modality of queries and one that is searched.
    """

    level: float
    """The mean over queries of the best score, extrapolated to a single item (e⁰)."""
    growth: float
    """How much the level rises for each factor e (2.718…) of items."""
    spread: float
    """The standard deviation over queries."""
    with_typical: bool = True
    """Whether `expected` is subtracted from the scores."""

    @classmethod
    def of(cls, scores: Scores, typical: Scores | None = None) -> Reference:
        """A reference measured with typical queries, and items that match them only by chance.

        Args:
            scores: (queries, items), 100 or more of each.
            typical: (queries, t) scores of typical items other than these; None if there are none.
        """
        import numpy as np

        parts = [scores[:, : scores.shape[1] // part] for part in (1, 4, 16)]
        subtracted = 0.0 if typical is None else np.array([expected(row) for row in typical])
        best = np.stack([part.max(axis=1) - subtracted for part in parts])
        sizes = np.log([part.shape[1] for part in parts])
        growth, level = np.polyfit(sizes, best.mean(axis=1), 1)
        spread = float(best[0].std())
        return cls(float(level), max(float(growth), 0.0), spread, typical is not None)

    def share_below(self, score: float, items: int) -> float:
        """The share, 0 to 1, of such queries whose best score among so many items is lower."""
        level = self.level + self.growth * math.log(max(items, 1))
        return _normal((score - level) / max(self.spread, FLAT))


@dataclass(frozen=True, slots=True)
class Moments:
    """The moments of the scores of a sample."""

    number: int
    mean: float
    square: float
    """The mean of their squares."""

    @classmethod
    def of(cls, scores: Scores) -> Moments:
        """The moments of scores (m,)."""
        import numpy as np

        if not len(scores):
            return cls(0, 0.0, 0.0)
        wide = np.asarray(scores, float)
        return cls(len(wide), float(wide.mean()), float((wide * wide).mean()))


@dataclass(frozen=True, slots=True)
class Background:
    """The distribution of a query's scores over items that mostly do not match it."""

    center: float
    spread: float
    items: int
    """How many items the best one was chosen from."""
    reference: Reference | None = None
    expected: float = 0.0
    """What is subtracted from a score before it is compared with the reference."""

    @classmethod
    def of(
        cls,
        scores: Scores | Moments,
        items: int,
        *,
        typical: Scores | None = None,
        reference: Reference | None = None,
    ) -> Background:
        """The background of one query in one modality.

        Args:
            scores: (m,) of a fixed sample of the modality's rows, or of all; or their moments.
            items: How many items may be found.
            typical: (t,) the scores of typical items with the same query, if the space has a bank.
                They count for PRIOR items, which hardly matters in a large index, and gives three
                captions the background that they cannot give themselves.
            reference: For confidence. One measured with typical items needs `typical`.
        """
        center, spread = _pooled(scores, typical)
        subtracted = 0.0
        if reference is not None and reference.with_typical and typical is not None:
            subtracted = expected(typical)
        return cls(center, spread, items, reference, subtracted)

    @classmethod
    def of_words(cls, scores: Sequence[float], items: int) -> Background:
        """The background of a ranking by words, in which the items left out score 0.

        Args:
            scores: Of the items found.
            items: How many there are in all.
        """
        number = max(items, len(scores), 1)
        center = math.fsum(scores) / number
        squares = math.fsum(score * score for score in scores) / number
        return cls(center, math.sqrt(max(squares - center * center, 0.0)), number)

    def standardised(self, score: float) -> float:
        """How many spreads a score is above the center; 0 if all scores are equal."""
        return (score - self.center) / self.spread if self.spread > FLAT else 0.0

    def confidence(self, score: float, modalities: int = 1) -> float | None:
        """The confidence, from 0 to LARGEST, that a score is not a match by chance.

        With a reference, it is the share of typical queries without a match whose best score is
        lower. Without one, it is the probability that as many items as there are, normally
        distributed, all score lower: weaker evidence, and None if there are fewer than FEWEST
        items. It says that this is a match, not that it is the item meant: two photos of the same
        dog both have a high confidence.

        Args:
            score: As the index returns it, so with the item's hub subtracted.
            modalities: In how many modalities an item could rank best (Šidák's correction).
        """
        if self.reference is not None:
            share = self.reference.share_below(score - self.expected, self.items)
        elif self.items >= FEWEST:
            share = _normal(self.standardised(score)) ** self.items
        else:
            return None
        return min(float(share ** max(modalities, 1)), LARGEST)


def expected(typical: Scores) -> float:
    """Half the mean of a query's scores with the typical items nearest to it.

    Args:
        typical: (t,) the scores of typical items; 0 is expected without any.
    """
    import numpy as np

    kept = min(NEAREST, len(typical))
    if not kept:
        return 0.0
    return HALF * float(np.partition(typical, len(typical) - kept)[-kept:].mean())


def _pooled(scores: Scores | Moments, typical: Scores | None) -> tuple[float, float]:
    """The mean and standard deviation of all scores; typical ones have a total weight of PRIOR."""
    parts = [scores if isinstance(scores, Moments) else Moments.of(scores)]
    if typical is not None and len(typical):
        parts.append(replace(Moments.of(typical), number=PRIOR))
    total = sum(part.number for part in parts)
    if not total:
        return 0.0, 0.0
    center = sum(part.number * part.mean for part in parts) / total
    squares = sum(part.number * part.square for part in parts) / total
    return center, math.sqrt(max(squares - center * center, 0.0))


def _normal(deviations: float) -> float:
    """The share of a normal distribution that lies below."""
    return 0.5 * math.erfc(-deviations / math.sqrt(2))
