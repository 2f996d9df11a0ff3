"""What a score means: against the query's own background, and against queries that find nothing.

Two questions are asked of a score, and two things answer them.

*How far does it stand out among all items, for this query?* `Background` answers in deviations from
the mean, so that scores of different facets can be added up: cosines between texts are several
times those between a text and a picture.

*Is it a match at all?* `Reference` answers with the share of typical queries, asked of items that
have nothing to do with them, whose best score stays below. What is held against it is not the
cosine, but how far it is above what query and item have with everybody:

    cos(q, d) - ½·hub(d) - ½·expected(q)

where the hub is that of `hubness` and `expected` the same of the query: its mean cosine to the
typical items nearest to it. On Flickr8k dev this tells a query whose photo is there from one whose
photo was taken out better than the cosine does; how far a score stands out in the query's own
background, or the tail of that, tells it worse (`benchmarks/confidence.py`), since a query with
many good matches has them in its background.

Source: cross-domain similarity local scaling (CSLS), Conneau et al., ICLR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.types import Hit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float32]
    """Inner products of rows with one query, or with each of several."""

PRIOR = 20
"""Items that what is typical counts for in a background, beside those that are there."""

NEAREST = 5
"""Typical items that `expected` is the mean of; with 20 the confidence tells a little less."""

HALF = 0.5
"""What `expected` counts, as in CSLS: the query's half."""

NO_GOOD_MATCH = 0.5
"""Below this confidence a hit is the nearest there is, and not a match."""

LARGEST = 0.999
"""No confidence is above: a reference of some hundred queries says no more."""

FEWEST = 20
"""Items that say what is normal, where there is no reference."""

FLAT = 1e-6
"""Scores are rounded to this: what spreads less does not."""


def no_good_match(hits: Iterable[Hit]) -> bool:
    """Whether the hits are merely the nearest there are: none has a confidence of 0.5 or more.

    True without any hits. False where no confidence is known, as in an index of a few items.
    """
    hits = list(hits)
    known = [hit.confidence for hit in hits if hit.confidence is not None]
    return max(known) < NO_GOOD_MATCH if known else not hits


@dataclass(frozen=True, slots=True)
class Reference:
    """How high the best score of a typical query gets where nothing is what it asks for.

    Of one kind of search: a modality asked with, a facet, a space.
    """

    level: float
    """The mean over queries of their best score among e⁰ = 1 item, as the line below has it."""
    growth: float
    """What is added to the level when there are e (2.718…) times as many items."""
    spread: float
    """The standard deviation over queries."""
    with_typical: bool = True
    """Whether `expected` is taken off the scores."""

    @classmethod
    def of(cls, scores: Scores, typical: Scores | None = None) -> Reference:
        """Measured on typical queries, and items that are no matches of theirs but for chance.

        Args:
            scores: (queries, items), 100 or more of each.
            typical: (queries, t) of typical items that are not among the items; None where there
                are no others.
        """
        import numpy as np

        parts = [scores[:, : scores.shape[1] // part] for part in (1, 4, 16)]
        taken_off = 0.0 if typical is None else np.array([expected(row) for row in typical])
        best = np.stack([part.max(axis=1) - taken_off for part in parts])
        sizes = np.log([part.shape[1] for part in parts])
        growth, level = np.polyfit(sizes, best.mean(axis=1), 1)
        spread = float(best[0].std())
        return cls(float(level), max(float(growth), 0.0), spread, typical is not None)

    def share_below(self, score: float, items: int) -> float:
        """The share of such queries whose best score among so many items is lower, 0 to 1."""
        level = self.level + self.growth * math.log(max(items, 1))
        return _normal((score - level) / max(self.spread, FLAT))


@dataclass(frozen=True, slots=True)
class Moments:
    """What is to be known of the scores of a sample."""

    number: int
    mean: float
    square: float
    """The mean of their squares."""

    @classmethod
    def of(cls, scores: Scores) -> Moments:
        """Of scores (m,), one or more."""
        import numpy as np

        wide = np.asarray(scores, float)
        return cls(len(wide), float(wide.mean()), float((wide * wide).mean()))


@dataclass(frozen=True, slots=True)
class Background:
    """The scores that items have for one query, mostly of items it does not mean."""

    center: float
    spread: float
    items: int
    """How many could come out best."""
    reference: Reference | None = None
    expected: float = 0.0
    """What the reference takes off a score."""

    @classmethod
    def of(
        cls,
        scores: Scores | Moments,
        items: int,
        *,
        typical: Scores | None = None,
        reference: Reference | None = None,
    ) -> Background:
        """The background of one query in one facet.

        Args:
            scores: (m,) of a fixed sample of the facet's rows, or of all; or their moments.
            items: How many items may be found.
            typical: (t,) of typical items for the same query, where the space has a bank of them.
                They count as PRIOR items: hardly for a large index, and for three captions they
                say what three cannot.
            reference: For confidence; one that was measured with typical items needs `typical`.
        """
        center, spread = _moments(scores, typical)
        taken_off = 0.0
        if reference is not None and reference.with_typical and typical is not None:
            taken_off = expected(typical)
        return cls(center, spread, items, reference, taken_off)

    @classmethod
    def of_words(cls, scores: Sequence[float], items: int) -> Background:
        """The background of a ranking by words: the items that it leaves out have a score of 0.

        Args:
            scores: Of the items found.
            items: How many there are in all.
        """
        there = max(items, len(scores), 1)
        center = math.fsum(scores) / there
        squares = math.fsum(score * score for score in scores) / there
        return cls(center, math.sqrt(max(squares - center * center, 0.0)), there)

    def standardised(self, score: float) -> float:
        """How many spreads a score is above the center; 0 where all scores are the same."""
        return (score - self.center) / self.spread if self.spread > FLAT else 0.0

    def confidence(self, score: float, facets: int = 1) -> float | None:
        """How sure it is that a score is no match by chance, from 0 to LARGEST.

        With a reference, the share of typical queries without a match whose best score is lower.
        Without one, the probability that as many items as there are, normally distributed, all
        stay below: weaker, and None where fewer than FEWEST items say what is normal. It is
        evidence that this is a match, not the probability that it is the item meant: of two photos
        of the same dog both have it.

        Args:
            score: As the index gives it, so with the item's hub taken off.
            facets: In how many facets an item could come out best (Šidák's correction).
        """
        if self.reference is not None:
            share = self.reference.share_below(score - self.expected, self.items)
        elif self.items >= FEWEST:
            share = _normal(self.standardised(score)) ** self.items
        else:
            return None
        return min(float(share ** max(facets, 1)), LARGEST)


def expected(typical: Scores) -> float:
    """What is taken off a query's scores: half its mean score with the nearest typical items.

    Args:
        typical: (t,) its scores with typical items; 0 comes of none.
    """
    import numpy as np

    kept = min(NEAREST, len(typical))
    if not kept:
        return 0.0
    return HALF * float(np.partition(typical, len(typical) - kept)[-kept:].mean())


def _moments(scores: Scores | Moments, typical: Scores | None) -> tuple[float, float]:
    """Mean and standard deviation of both, the typical ones weighing PRIOR together."""
    parts = []
    if isinstance(scores, Moments):
        parts.append((scores, float(scores.number)))
    elif len(scores):
        parts.append((Moments.of(scores), float(len(scores))))
    if typical is not None and len(typical):
        parts.append((Moments.of(typical), float(PRIOR)))
    if not parts:
        return 0.0, 0.0
    total = sum(weight for _, weight in parts)
    center = sum(weight * part.mean for part, weight in parts) / total
    squares = sum(weight * part.square for part, weight in parts) / total
    return center, math.sqrt(max(squares - center * center, 0.0))


def _normal(deviations: float) -> float:
    """The share of a normal distribution that lies below."""
    return 0.5 * math.erfc(-deviations / math.sqrt(2))
