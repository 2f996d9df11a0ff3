"""Calibration: how far a score stands out for its query, and whether it is a match at all.

*How far does it stand out among all items, for this query?* `Background` answers in standard
deviations from the mean, so that scores of different modalities can be added: cosines between
texts are several times those between a text and an image.

*Is it a match at all?* `Reference` answers with the share of the typical queries of a query bank,
searched among unrelated items, whose best score is lower. It compares not the cosine, but how far
the cosine exceeds what query and item have in common with everything:

    cos(q, d) - ½·hub(d) - ½·expected(q)

where hub(d) is that of `hubness`, and expected(q) its counterpart for the query: the mean cosine to
the bank's items nearest to it. On Flickr8k dev this separates queries whose photo is in the index
from those whose photo was removed better than the cosine does. Scores standardised by the query's
own background, or the tail of that, separate them less well (`benchmarks/confidence.py`), since the
background of a query with many good matches contains these.

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

PRIOR_ITEMS = 20
"""How many items a query bank counts as in a background."""

NEAREST = 5
"""The nearest items of the bank that `expected` averages; 20 separate matches slightly worse."""

EXPECTED_WEIGHT = 0.5
"""The weight of `expected`, as in CSLS: the query's half."""

NO_GOOD_MATCH = 0.5
"""A hit of lower confidence is shown as the nearest item, not as a match."""

MAX_CONFIDENCE = 0.999
"""The highest confidence that a reference of some hundred queries can support."""

MIN_ITEMS = 20
"""With fewer items than this and no reference, there is no confidence."""

MIN_SPREAD = 1e-6
"""Scores are rounded to this, so a smaller standard deviation counts as zero."""


def no_good_match(hits: Iterable[Hit]) -> bool:
    """Whether no hit is a likely match: none has a confidence of NO_GOOD_MATCH or more.

    True without any hits. False if no confidence is known, as in an index of a few items.
    """
    return weak_from([hit.confidence for hit in hits]) == 0


def weak_from(confidences: Sequence[float | None]) -> int | None:
    """The position, from 0, from which on no hit is a likely match; None if that is not known.

    Hits before it may be weak, too: the order of several rankings is not that of the confidence.

    Args:
        confidences: Of the hits, in their order; None where one is not known.
    """
    if confidences and all(confidence is None for confidence in confidences):
        return None
    for position in range(len(confidences), 0, -1):
        confidence = confidences[position - 1]
        if confidence is not None and confidence >= NO_GOOD_MATCH:
            return position
    return 0


@dataclass(frozen=True, slots=True)
class Reference:
    """How high the best scores of typical queries are when nothing matches them.

    Measured for a space, a query modality and a searched modality.
    """

    level: float
    """The mean over queries of the best score, extrapolated to a single item (e⁰)."""
    growth: float
    """How much the level rises for each factor e (2.718…) of items."""
    spread: float
    """The standard deviation over queries."""
    with_bank: bool = True
    """Whether `expected` is subtracted from the scores."""

    @classmethod
    def of(cls, scores: Scores, bank: Scores | None = None) -> Reference:
        """A reference measured with typical queries, and items that match them only by chance.

        Args:
            scores: (queries, items), 100 or more of each.
            bank: (queries, m) the scores of the query bank's items, which are not among the others;
                None without a bank.
        """
        import numpy as np

        sizes = [scores.shape[1] // divisor for divisor in (1, 4, 16)]
        subtracted = 0.0 if bank is None else np.array([expected(row) for row in bank])
        best = np.stack([scores[:, :size].max(axis=1) - subtracted for size in sizes])
        growth, level = np.polyfit(np.log(sizes), best.mean(axis=1), 1)
        spread = float(best[0].std())
        return cls(float(level), max(float(growth), 0.0), spread, bank is not None)

    def shares_below(self, scores: Sequence[float], items: int) -> list[float]:
        """The share, 0 to 1, of such queries whose best among `items` items is below each score."""
        level = self.level + self.growth * math.log(max(items, 1))
        spread = max(self.spread, MIN_SPREAD)
        return _normal([(score - level) / spread for score in scores])


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
        values = np.asarray(scores, float)
        return cls(len(values), float(values.mean()), float((values * values).mean()))


@dataclass(frozen=True, slots=True)
class Background:
    """The distribution of a query's scores over items that mostly do not match it."""

    center: float
    spread: float
    items: int
    """How many items were searched."""
    reference: Reference | None = None
    expected: float = 0.0
    """What is subtracted from a score before it is compared with the reference."""

    @classmethod
    def of(
        cls,
        scores: Scores | Moments,
        items: int,
        *,
        bank: Scores | None = None,
        reference: Reference | None = None,
    ) -> Background:
        """The background of one query in one modality.

        Args:
            scores: (m,) of a fixed sample of the modality's rows, or of all; or their moments.
            items: How many items may be found.
            bank: (m,) the query's scores with the items of the query bank, if the space has one.
                They count as PRIOR_ITEMS items, which hardly matters in a large index, but an
                index of three captions has no background without them.
            reference: For confidence. One measured with a bank needs `bank`.
        """
        center, spread = _pooled(scores, bank)
        subtracted = 0.0
        if reference is not None and reference.with_bank and bank is not None:
            subtracted = expected(bank)
        return cls(center, spread, items, reference, subtracted)

    @classmethod
    def of_words(cls, scores: Sequence[float], items: int) -> Background:
        """The background of a lexical ranking of some items; those without a score have 0."""
        number = max(items, len(scores), 1)
        center = math.fsum(scores) / number
        squares = math.fsum(score * score for score in scores) / number
        return cls(center, math.sqrt(max(squares - center * center, 0.0)), number)

    def standardised(self, score: float) -> float:
        """How many standard deviations a score is above the mean; 0 if all scores are equal."""
        return (score - self.center) / self.spread if self.spread > MIN_SPREAD else 0.0

    def all_standardised(self, scores: Iterable[float]) -> list[float]:
        """`standardised` of each score."""
        center, spread = self.center, self.spread
        return [(score - center) / spread if spread > MIN_SPREAD else 0.0 for score in scores]

    def confidence(self, score: float, modalities: int = 1) -> float | None:
        """`confidences` of a single score."""
        found = self.confidences([score], modalities)
        return None if found is None else found[0]

    def confidences(self, scores: Sequence[float], modalities: int = 1) -> list[float] | None:
        """The confidence, from 0 to MAX_CONFIDENCE, that each score is not a match by chance.

        With a reference, it is the share of typical queries without a match whose best score is
        lower. Without one, it is the probability that all items score lower if their scores are
        normally distributed; this is weaker evidence, and None with fewer than MIN_ITEMS items. A
        match need not be the very item that the user means: two photos of the same dog both have a
        high confidence.

        Args:
            scores: As the index returns them, with the items' hubs subtracted.
            modalities: The number of modalities that an item could rank best in (Šidák's
                correction).
        """
        if self.reference is not None:
            shares = self.reference.shares_below(
                [score - self.expected for score in scores], self.items
            )
        elif self.items >= MIN_ITEMS:
            shares = [share**self.items for share in _normal(self.all_standardised(scores))]
        else:
            return None
        power = max(modalities, 1)
        return [min(share**power, MAX_CONFIDENCE) for share in shares]


def expected(bank: Scores) -> float:
    """Half the mean of the highest of a query's scores (m,) with a query bank; 0 without any."""
    import numpy as np

    nearest = min(NEAREST, len(bank))
    if not nearest:
        return 0.0
    return EXPECTED_WEIGHT * float(np.partition(bank, len(bank) - nearest)[-nearest:].mean())


def _pooled(scores: Scores | Moments, bank: Scores | None) -> tuple[float, float]:
    """The mean and standard deviation of all scores; the bank counts as PRIOR_ITEMS of them."""
    samples = [scores if isinstance(scores, Moments) else Moments.of(scores)]
    if bank is not None and len(bank):
        samples.append(replace(Moments.of(bank), number=PRIOR_ITEMS))
    total = sum(sample.number for sample in samples)
    if not total:
        return 0.0, 0.0
    center = sum(sample.number * sample.mean for sample in samples) / total
    squares = sum(sample.number * sample.square for sample in samples) / total
    return center, math.sqrt(max(squares - center * center, 0.0))


def _normal(deviations: Sequence[float]) -> list[float]:
    """The standard normal distribution function of each deviation."""
    erfc, root = math.erfc, math.sqrt(2)
    return [0.5 * erfc(-deviation / root) for deviation in deviations]
