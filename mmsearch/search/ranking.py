"""From query vectors to ranked lists, whose standardised scores can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mmsearch.errors import InvalidOption
from mmsearch.search.query_vectors import QueryVector, as_cosines
from mmsearch.search.settings import Settings
from mmsearch.spaces.calibration import Background, Moments
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage.lexical import query_terms
from mmsearch.types import Ranking
from mmsearch.vectors.id_set import IdSet

DEPTH = 300
"""Items in each list before fusion, at least, so that the first ones do not depend on k."""

MAX_DEVIATIONS_ALL, MAX_DEVIATIONS_SOME = 10.0, 12.0
"""The largest standardised scores of the lexical list, for items with all words and with some."""

MAX_CHECKED = 100
"""How many of the first items of the lexical list are checked for containing every word."""

WORDS = "words"
"""The name of the lexical list, among those of the modalities."""


@dataclass
class RankedList:
    """Items, or spans of items, ranked by one query vector."""

    name: str
    """The modality that was searched; "image 2" for a second list of the same."""
    ranking: list[tuple[Any, float]]
    """(key, score), best first, to some depth; a key is an item id, or an item id with a span."""
    weight: float = 1.0
    """The weight of the list in the fusion."""
    background: Background | None = None
    """The distribution of the query's scores by chance; None if nothing is stored."""
    query: QueryVector | None = None
    """None for the lexical list."""
    extra_scores: list[tuple[Any, float]] = field(default_factory=list)
    """(key, score) of keys that are missing in this ranking, but present in another list's."""
    first_stage_scores: dict[Any, float] = field(default_factory=dict)
    """Scores before reranking; empty without reranking."""

    @cached_property
    def ranks(self) -> dict[Any, int]:
        """The rank of each key of `ranking`, from 1."""
        return {key: rank for rank, (key, _) in enumerate(self.ranking, start=1)}

    @cached_property
    def scores(self) -> dict[Any, float]:
        """The score of each key."""
        return dict(self.ranking + self.extra_scores)

    @cached_property
    def standardised(self) -> list[tuple[Any, float]]:
        """All keys with their standardised scores."""
        pairs = self.ranking + self.extra_scores
        if self.background is None:
            return pairs
        above = self.background.all_standardised([score for _, score in pairs])
        return [(key, score) for (key, _), score in zip(pairs, above, strict=True)]

    def standard_score(self, key: Any) -> float:
        """How many standard deviations a key's score is above the query's scores by chance."""
        return self._standard_scores[key]

    @cached_property
    def _standard_scores(self) -> dict[Any, float]:
        return dict(self.standardised)

    @property
    def absent_score(self) -> float | None:
        """The standardised score of keys that are not in the list; None if that is unknown."""
        return None


@dataclass
class WordList(RankedList):
    """The lexical list: items ranked by BM25."""

    terms: int = 1
    """How many words were searched for."""
    complete_matches: frozenset[int] = frozenset()
    """The items that contain every word."""
    rarity: float = 0.0
    """The idf of the whole query, scaled: 1 if one item contains every word, 0 if all do."""

    @cached_property
    def standardised(self) -> list[tuple[Any, float]]:
        """All items with their standardised scores, bounded.

        If few items contain all n words, they are what the user means: the query may be a name.
        An item with some of the words counts only 1/2n, since a sentence is better found by its
        meaning. Both are bounded, because the deviation of a word that only one item contains
        depends on nothing but the number of items.
        """
        background, absent = self.background, self.absent_score
        pairs = self.ranking + self.extra_scores
        if background is None or absent is None:
            return pairs
        above = background.all_standardised([score for _, score in pairs])
        of_all, complete = absent + MAX_DEVIATIONS_ALL * self.rarity, self.complete_matches
        share = 1 / (2 * self.terms)
        return [
            (key, of_all + min(score, MAX_DEVIATIONS_ALL) / 10)
            if key in complete
            else (key, absent + min(score - absent, MAX_DEVIATIONS_SOME) * share)
            for (key, _), score in zip(pairs, above, strict=True)
        ]

    @cached_property
    def absent_score(self) -> float | None:
        """The standardised score of an item that contains none of the words."""
        return self.background.standardised(0.0) if self.background else None


def rank(
    index: OpenIndex,
    queries: Sequence[QueryVector],
    settings: Settings,
    *,
    depth: int,
    words: str | None = None,
    allowed: IdSet | None = None,
    excluded: frozenset[int] = frozenset(),
) -> list[RankedList]:
    """A ranked list for each query vector, and the lexical one if words are looked up literally.

    Each has up to `depth` candidates: allowed items (None allows all), except the excluded ones.
    """
    several = len(queries) + (words is not None) > 1
    numbers: dict[str, int] = {}
    lists: list[RankedList] = []
    for query in queries:
        numbers[query.modality] = number = numbers.get(query.modality, 0) + 1
        name = query.modality if number == 1 else f"{query.modality} {number}"
        nearest = _nearest(index, query, depth + len(excluded), allowed)
        ranking = _without(excluded, nearest.ranking)[:depth]
        weight = query.weight * settings.weight_of(query.modality)
        lists.append(replace(nearest, name=name, ranking=ranking, weight=weight))
    if words is not None:
        wanted = depth + len(excluded)
        matches = index.store.words.search(words, wanted, allowed)
        ranking = _without(excluded, matches)[:depth]
        heaviest = max((abs(query.weight) for query in queries), default=1.0)
        weight = heaviest * settings.weight_of(WORDS)
        lists.append(_word_list(index, words, ranking, weight, allowed))
        if allowed is None and len(matches) < wanted:
            words = None  # no other item has any of them
    if several and not any(ranked.weight > 0 for ranked in lists):
        raise InvalidOption("the rankings of this query all have weight 0: give one of them more")
    if several:
        _score_in_all_lists(index, lists, words)
    return lists


def _without(excluded: frozenset[int], ranking: Ranking) -> Ranking:
    return [pair for pair in ranking if pair[0] not in excluded] if excluded else ranking


def _nearest(index: OpenIndex, query: QueryVector, depth: int, allowed: IdSet | None) -> RankedList:
    neighbours = index.vector_index(query.space, query.modality)
    if not len(neighbours):
        return RankedList(query.modality, [])
    vector = query.augmented
    ranking = as_cosines(neighbours.search(vector, depth, allowed))
    candidates = len(neighbours) if allowed is None else min(len(neighbours), len(allowed))
    bank_rows = index.query_banks.augmented_rows(query.space, query.modality)
    background = Background.of(
        Moments(*neighbours.moments(vector)),
        candidates,
        bank=None if bank_rows is None else bank_rows @ vector,
        reference=index.query_banks.reference(query.space, query.query_modality, query.modality),
    )
    return RankedList(query.modality, ranking, background=background, query=query)


def _word_list(
    index: OpenIndex,
    words: str,
    ranking: list[tuple[Any, float]],
    weight: float,
    allowed: IdSet | None,
) -> WordList:
    items = len(index.store) if allowed is None else len(allowed)
    best = [item_id for item_id, _ in ranking[:MAX_CHECKED]]
    complete = index.store.words.holding(words, best)
    number = len(complete) if len(complete) < MAX_CHECKED else len(ranking)
    rarity = math.log(max(items, 1) / max(number, 1)) / math.log(max(items, 2))
    return WordList(
        WORDS,
        ranking,
        weight,
        Background.of_words([score for _, score in ranking], items),
        terms=max(len(query_terms(words)), 1),
        complete_matches=frozenset(complete),
        rarity=max(rarity, 0.0),
    )


def _score_in_all_lists(index: OpenIndex, lists: Sequence[RankedList], words: str | None) -> None:
    """Score each list's items in the other lists too, so that no fused sum lacks a term.

    Without `words`, the lexical list is complete.
    """
    candidates = {item_id for ranked in lists for item_id, _ in ranked.ranking}
    for ranked in lists:
        query = ranked.query
        if query is None and words is None:
            continue
        missing = IdSet.of(candidates - ranked.ranks.keys())
        if not len(missing):
            continue
        if query is not None:
            neighbours = index.vector_index(query.space, query.modality)
            found = neighbours.search(query.augmented, len(missing), missing)
            ranked.extra_scores = as_cosines(found)
        elif words is not None:
            ranked.extra_scores = index.store.words.search(words, len(missing), missing)
