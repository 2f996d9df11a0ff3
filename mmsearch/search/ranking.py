"""From query vectors to ranked lists: one a modality, each comparable with the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from mmsearch.search.query_vectors import QueryVector, as_cosine
from mmsearch.search.settings import Settings
from mmsearch.spaces.calibration import Background, Moments
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage.lexical import query_terms
from mmsearch.vectors.id_set import IdSet

DEPTH = 300
"""Items in each list before fusion, at least: up to here the order does not depend on k."""

MAX_DEVIATIONS_ALL, MAX_DEVIATIONS_SOME = 10.0, 12.0
"""Deviations that a match of words counts at most, for items with all of them or with some."""

CHECKED_FOR_ALL = 100
"""Of the list by words, the items that are checked for holding every word."""

WORDS = "words"
"""The name of the list by words, among those of the modalities."""


@dataclass
class RankedList:
    """Items, or spans of items, ranked by one query vector.

    Attributes:
        name: The modality that was searched; "image 2" for a second list of the same.
        ranking: (key, score) pairs, best first, to some depth; a key is an item id, or an item id
            with a span.
        weight: The weight of the list in the fusion.
        background: The scores the query has by chance; None where nothing is stored.
        query: What was searched for; None for words.
        completed: Scores of keys that are below `ranking` but in another list's.
        first_scores: Scores before reranking, where there was one.
    """

    name: str
    ranking: list[tuple[Any, float]]
    weight: float = 1.0
    background: Background | None = None
    query: QueryVector | None = None
    completed: list[tuple[Any, float]] = field(default_factory=list)
    first_scores: dict[Any, float] = field(default_factory=dict)

    @cached_property
    def ranks(self) -> dict[Any, int]:
        """The rank of each key of `ranking`, from 1."""
        return {key: rank for rank, (key, _) in enumerate(self.ranking, start=1)}

    @cached_property
    def scores(self) -> dict[Any, float]:
        """The score of each key."""
        return dict(self.ranking + self.completed)

    @cached_property
    def standardised(self) -> list[tuple[Any, float]]:
        """All keys with their standardised scores."""
        return [(key, self.standard_score(key)) for key, _ in self.ranking + self.completed]

    def standard_score(self, key: Any) -> float:
        """How many deviations a key's score is above what the query scores by chance."""
        score = self.scores[key]
        return score if self.background is None else self.background.standardised(score)

    @property
    def absent_score(self) -> float | None:
        """The standardised score of keys that are not in the list; None if that is unknown."""
        return None


@dataclass
class WordList(RankedList):
    """Items ranked by the words of the query as they are written.

    Attributes:
        terms: How many words were searched for.
        complete_matches: The items that hold every word.
        rarity: How few items hold every word: 1 if one does, 0 if all do.
    """

    terms: int = 1
    complete_matches: frozenset[int] = frozenset()
    rarity: float = 0.0

    def standard_score(self, key: Any) -> float:
        """The standardised score of an item, bounded.

        An item that holds all n words, as few do, is what was asked for, by its name say. One that
        holds some of them counts 1/2n: a sentence is found by what it means. Both are bounded, as
        the deviation of a word that a single item holds depends on the number of items alone.
        """
        found = super().standard_score(key)
        absent = self.absent_score
        if absent is None:
            return found
        if key in self.complete_matches:
            bounded = min(found, MAX_DEVIATIONS_ALL)
            return absent + MAX_DEVIATIONS_ALL * self.rarity + bounded / 10
        return absent + min(found - absent, MAX_DEVIATIONS_SOME) / (2 * self.terms)

    @property
    def absent_score(self) -> float | None:
        """The standardised score of an item that holds none of the words."""
        return self.background.standardised(0.0) if self.background else None


def rank(
    index: OpenIndex,
    queries: Sequence[QueryVector],
    settings: Settings,
    *,
    words: str | None = None,
    allowed: IdSet | None = None,
    excluded: frozenset[int] = frozenset(),
    pool: int | None = None,
) -> list[RankedList]:
    """A ranked list for each query vector, and one by words.

    Args:
        index: What is searched.
        queries: A list each.
        settings: How.
        words: Text that is also looked up as it is written.
        allowed: The only items that may be found; any if None.
        excluded: Items that may not be found.
        pool: How many candidates are ranked, unless as many as the settings say.
    """
    several = len(queries) + (words is not None) > 1
    pool = pool or settings.pool
    depth = max(pool, DEPTH) if several else pool
    seen: dict[str, int] = {}
    lists: list[RankedList] = []
    for query in queries:
        seen[query.modality] = number = seen.get(query.modality, 0) + 1
        name = query.modality if number == 1 else f"{query.modality} {number}"
        found = _nearest(index, query, depth + len(excluded), allowed)
        kept = [pair for pair in found.ranking if pair[0] not in excluded][:depth]
        weight = query.weight * settings.weight_of(query.modality)
        lists.append(replace(found, name=name, ranking=kept, weight=weight))
    if words is not None:
        found_words = index.store.words.search(words, depth + len(excluded), allowed)
        kept = [pair for pair in found_words if pair[0] not in excluded][:depth]
        heaviest = max((abs(query.weight) for query in queries), default=1.0)
        weight = heaviest * settings.weight_of(WORDS)
        lists.append(_by_words(index, words, kept, weight, allowed))
    if several:
        _complete(index, lists, words)
    return lists


def _nearest(index: OpenIndex, query: QueryVector, depth: int, allowed: IdSet | None) -> RankedList:
    neighbours = index.vector_index(query.space, query.modality)
    if not len(neighbours):
        return RankedList(query.modality, [])
    vector = query.augmented
    ranking = [(id_, as_cosine(score)) for id_, score in neighbours.search(vector, depth, allowed)]
    candidates = len(neighbours) if allowed is None else min(len(neighbours), len(allowed))
    typical = index.query_banks.augmented_rows(query.space, query.modality)
    background = Background.of(
        Moments(*neighbours.moments(vector)),
        candidates,
        typical=None if typical is None else typical @ vector,
        reference=index.query_banks.reference(query.space, query.query_modality, query.modality),
    )
    return RankedList(query.modality, ranking, background=background, query=query)


def _by_words(
    index: OpenIndex,
    words: str,
    ranking: list[tuple[Any, float]],
    weight: float,
    allowed: IdSet | None,
) -> WordList:
    items = len(index.store) if allowed is None else len(allowed)
    best = [item_id for item_id, _ in ranking[:CHECKED_FOR_ALL]]
    complete = index.store.words.holding(words, best)
    holding = len(complete) if len(complete) < CHECKED_FOR_ALL else len(ranking)
    rarity = math.log(max(items, 1) / max(holding, 1)) / math.log(max(items, 2))
    return WordList(
        WORDS,
        ranking,
        weight,
        Background.of_words([score for _, score in ranking], items),
        terms=max(len(query_terms(words)), 1),
        complete_matches=frozenset(complete),
        rarity=max(rarity, 0.0),
    )


def _complete(index: OpenIndex, lists: Sequence[RankedList], words: str | None) -> None:
    """Give each list the scores of what the others rank, so that no fused sum lacks a term."""
    candidates = {item_id for one in lists for item_id, _ in one.ranking}
    for one in lists:
        missing = IdSet.of(candidates - one.ranks.keys())
        if not len(missing):
            continue
        if one.query is None:
            if words is not None:
                one.completed = index.store.words.search(words, len(missing), missing)
            continue
        neighbours = index.vector_index(one.query.space, one.query.modality)
        scores = neighbours.search(one.query.augmented, len(missing), missing)
        one.completed = [(item_id, as_cosine(score)) for item_id, score in scores]
