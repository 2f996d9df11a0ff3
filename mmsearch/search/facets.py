"""One ranking a facet, each with what makes it comparable with the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mmsearch.search.rank import Holdings, Search, cosine_of
from mmsearch.search.settings import Settings
from mmsearch.spaces.calibration import Background, Moments
from mmsearch.storage.lexical import asked
from mmsearch.vectors.id_set import IdSet

DEPTH = 300
"""Items that each ranking goes down to before fusion: so far, the order does not depend on k."""

HELD_ALL, HELD_SOME = 10.0, 12.0
"""Deviations that words count at most, of items that hold all of them or some."""

HELD = 100
"""Of the ranking by words, the items of which it is asked whether they hold all of them."""

WORDS = "words"
"""The name of the lexical ranking, among those of the facets."""


@dataclass
class Facet:
    """What one facet says of a query.

    Attributes:
        name: The facet; of several searches in it, "image 2" and so on; WORDS for the lexical.
        ranking: Its items (or stretches), best first, to some depth.
        weight: What it counts in the fusion.
        background: What the query scores by chance; None where nothing is stored.
        search: What was searched for; none for WORDS.
        below: Scores of items that stand too low for `ranking` but in another facet's.
        first: Scores of items before they were ranked anew, where they were.
        terms: What of WORDS, how many words were asked for.
        holding: Those of its items that hold all of them.
        rarity: How few hold all: 1 if one does, 0 if all do.
    """

    name: str
    ranking: list[tuple[Any, float]]
    weight: float = 1.0
    background: Background | None = None
    search: Search | None = None
    below: list[tuple[Any, float]] = field(default_factory=list)
    first: dict[Any, float] = field(default_factory=dict)
    terms: int = 1
    holding: frozenset[int] = frozenset()
    rarity: float = 0.0

    @cached_property
    def ranks(self) -> dict[Any, int]:
        """The rank of each item in `ranking`, from 1."""
        return {item_id: rank for rank, (item_id, _) in enumerate(self.ranking, start=1)}

    @cached_property
    def scores(self) -> dict[Any, float]:
        """The score of each item, as the index gives it."""
        return dict(self.ranking + self.below)

    @cached_property
    def standardised(self) -> list[tuple[Any, float]]:
        """All items with how far their scores stand out."""
        return [(key, self.stands_out(key)) for key, _ in self.ranking + self.below]

    def stands_out(self, key: Any) -> float:
        """How far an item's score stands out.

        An item that holds all n words, as few do, is what was asked for, by its name say. One that
        holds some of them counts 1/2n: a sentence is found by what it says. Both within bounds, as
        the spread of a word that one item holds is but a matter of how many items there are.
        """
        score = self.scores[key]
        if self.background is None:
            return score
        found = self.background.standardised(score)
        if self.name != WORDS or self.absent is None:
            return found
        if key in self.holding:
            return self.absent + HELD_ALL * self.rarity + min(found, HELD_ALL) / 10
        return self.absent + min(found - self.absent, HELD_SOME) / (2 * self.terms)

    @property
    def absent(self) -> float | None:
        """The standardised score of what the facet leaves out, if that says something."""
        known = self.name == WORDS and self.background is not None
        return self.background.standardised(0.0) if known and self.background else None


def rankings(
    holdings: Holdings,
    searches: Sequence[Search],
    settings: Settings,
    *,
    words: str | None = None,
    allowed: IdSet | None = None,
    without: frozenset[int] = frozenset(),
    pool: int | None = None,
) -> list[Facet]:
    """What each facet says of a query.

    Args:
        holdings: What to draw on.
        searches: A ranking each.
        settings: How.
        words: What is also looked up as it is written.
        allowed: The only items that may be found.
        without: Items that may not.
        pool: How many candidates are ranked, if not as many as the settings ask for.
    """
    several = len(searches) + (words is not None) > 1
    pool = pool or settings.pool
    depth = max(pool, DEPTH) if several else pool
    seen: dict[str, int] = {}
    found = []
    for search in searches:
        seen[search.facet] = number = seen.get(search.facet, 0) + 1
        name = search.facet if number == 1 else f"{search.facet} {number}"
        facet = _nearest(holdings, search, depth + len(without), allowed)
        kept = [pair for pair in facet.ranking if pair[0] not in without][:depth]
        weight = search.weight * settings.weight_of(search.facet)
        found.append(replace(facet, name=name, ranking=kept, weight=weight))
    if words is not None:
        ranking = holdings.store.words.search(words, depth + len(without), allowed)
        kept = [pair for pair in ranking if pair[0] not in without][:depth]
        among = len(holdings.store.items) if allowed is None else len(allowed)
        background = Background.of_words([score for _, score in kept], among)
        heaviest = max((abs(search.weight) for search in searches), default=1.0)
        weight = heaviest * settings.weight_of(WORDS)
        holding = holdings.store.words.holding(words, [item_id for item_id, _ in kept[:HELD]])
        many = len(holding) if len(holding) < HELD else len(kept)
        found.append(
            Facet(
                WORDS,
                kept,
                weight,
                background,
                terms=max(len(asked(words)), 1),
                holding=frozenset(holding),
                rarity=max(math.log(max(among, 1) / max(many, 1)) / math.log(max(among, 2)), 0.0),
            )
        )
    if several:
        _complete(holdings, found, words)
    return found


def _nearest(holdings: Holdings, search: Search, depth: int, allowed: IdSet | None) -> Facet:
    index = holdings.index_of(search.space, search.facet)
    if not len(index):
        return Facet(search.facet, [])
    wide = search.wide
    ranking = [(item_id, cosine_of(score)) for item_id, score in index.search(wide, depth, allowed)]
    among = len(index) if allowed is None else min(len(index), len(allowed))
    typical = holdings.query_banks.augmented_rows(search.space, search.facet)
    background = Background.of(
        Moments(*index.moments(wide)),
        among,
        typical=None if typical is None else typical @ wide,
        reference=holdings.query_banks.reference(search.space, search.kind, search.facet),
    )
    return Facet(search.facet, ranking, background=background, search=search)


def _complete(holdings: Holdings, facets: Sequence[Facet], words: str | None) -> None:
    """Give each facet the scores of what the others rank, so that no sum lacks a term."""
    candidates = {item_id for facet in facets for item_id, _ in facet.ranking}
    for facet in facets:
        missing = IdSet.of(candidates - facet.ranks.keys())
        if not len(missing):
            continue
        if facet.search is None:
            if words is not None:
                facet.below = holdings.store.words.search(words, len(missing), missing)
            continue
        index = holdings.index_of(facet.search.space, facet.search.facet)
        scores = index.search(facet.search.wide, len(missing), missing)
        facet.below = [(item_id, cosine_of(score)) for item_id, score in scores]
