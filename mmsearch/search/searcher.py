"""Answers queries: plan → encode → rank → fuse → rerank → hits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from mmsearch.errors import InvalidQuery, UnsupportedModality
from mmsearch.search.example import Example
from mmsearch.search.feedback import rocchio
from mmsearch.search.hits import best_hits, fuse_lists
from mmsearch.search.planning import PlannedQuery, parts_of, plan, words_of
from mmsearch.search.query_vectors import QueryVector, checked_vectors, encode, query_vector
from mmsearch.search.ranking import RankedList, rank
from mmsearch.search.settings import Settings, targets_of
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.types import Hit, Query, Ranking
from mmsearch.vectors.hubness import EXTRA_DIMS

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class _EncodedQuery:
    """A query's vectors, its words for the lexical search if any, and items to leave out."""

    vectors: Sequence[QueryVector]
    words: str | None = None
    excluded: frozenset[int] = frozenset()


class Searcher:
    """Answers queries from an open index."""

    def __init__(self, index: OpenIndex) -> None:
        self._index = index
        self._serving = index.serving()
        self._modalities = {modality for _, stored in self._serving for modality in stored}

    def search(self, queries: Sequence[str | Query], settings: Settings) -> list[list[Hit]]:
        """The best hits for each query; all queries are encoded together."""
        return self._search(self._encode(queries, settings), settings)

    def rank(self, queries: Sequence[str | Query], settings: Settings) -> list[Ranking]:
        """The best items for each query with their scores, without looking up hits."""
        settings = replace(settings, spans=False)
        encoded = self._encode(queries, settings)
        with self._index.store.snapshot():
            return self._best(
                encoded, settings, lambda _, lists: fuse_lists(self._index, lists, settings).ranking
            )

    def search_vectors(self, queries: ArrayLike, settings: Settings) -> list[list[Hit]]:
        """The best hits for vectors (n, dim) of the preferred encoder."""
        if not self._serving:
            return [[] for _ in checked_vectors(queries)]
        space, stored = self._serving[0]
        targets = [target for target in targets_of(settings.target, stored, ()) if target in stored]
        encoded = [
            _EncodedQuery([QueryVector(target, space, vector) for target in targets])
            for vector in checked_vectors(queries, space.dim)
        ]
        return self._search(encoded, settings)

    def similar(self, path: str, settings: Settings) -> list[Hit]:
        """The best hits that resemble a file, the file itself left out."""
        index = self._index
        example = Example(index, path, self._serving)
        targets = targets_of(settings.target, self._modalities, example.modalities[:1])
        plans = example.plan(targets)
        vectors = [query_vector(index, planned, example.vector(planned)) for planned in plans]
        itself = frozenset[int]() if example.item_id is None else frozenset({example.item_id})
        return self._search([_EncodedQuery(vectors, excluded=itself)], settings)[0]

    # ------------------------------------------------------------------ plan, encode, rank

    def _plan(self, query: str | Query, settings: Settings) -> list[PlannedQuery]:
        modalities = [part.modality for part in parts_of(query)]
        targets = targets_of(settings.target, self._modalities, modalities)
        try:
            return plan(query, targets, settings.combine, self._serving)
        except UnsupportedModality:
            # with vectors imported without their model, words can still be looked up
            imported = all(space.is_imported for space, _ in self._serving)
            if set(modalities) == {"text"} and _literal_words(query, settings) and imported:
                return []
            raise

    def _encode(self, queries: Sequence[str | Query], settings: Settings) -> list[_EncodedQuery]:
        plans = [self._plan(query, settings) for query in queries]
        loading = self._load_indexes(chain.from_iterable(plans))
        try:
            vectors = encode(self._index, plans)
        finally:
            loading.join()
        words = [_literal_words(query, settings) for query in queries]
        if any(words):
            self._index.catch_up_words()
        return list(map(_EncodedQuery, vectors, words))

    def _search(self, encoded: Sequence[_EncodedQuery], settings: Settings) -> list[list[Hit]]:
        """The best hits for each query."""
        with self._index.store.snapshot():
            return self._best(
                encoded,
                settings,
                lambda query, lists: best_hits(self._index, lists, settings, query.words),
            )

    def _best(
        self,
        encoded: Sequence[_EncodedQuery],
        settings: Settings,
        best_of: Callable[[_EncodedQuery, list[RankedList]], list[Answer]],
    ) -> list[list[Answer]]:
        """What is best in the lists of each query.

        The lists are made deeper while collapsing copies leaves fewer than k.
        """
        answers = []
        for query, lists in zip(encoded, self._rank(encoded, settings), strict=True):
            pool, best = settings.pool, best_of(query, lists)
            while len(best) < settings.k and settings.collapses:
                pool *= 4
                (deeper,) = self._rank([query], settings, pool)
                best = best_of(query, deeper)
                if all(len(ranked.ranking) < pool for ranked in deeper):
                    break
            answers.append(best)
        return answers

    def _rank(
        self, encoded: Sequence[_EncodedQuery], settings: Settings, pool: int | None = None
    ) -> Iterator[list[RankedList]]:
        """The ranked lists of each query."""
        allowed = self._index.store.filters.passing(settings.filter) if settings.filter else None
        for query in encoded:
            vectors = query.vectors
            if settings.like or settings.unlike:
                vectors = [self._with_feedback(vector, settings) for vector in vectors]
            if not settings.hubness:
                vectors = [vector.without_hubs() for vector in vectors]
            yield rank(
                self._index,
                vectors,
                settings,
                words=query.words,
                allowed=allowed,
                excluded=query.excluded,
                pool=pool,
            )

    def _with_feedback(self, query: QueryVector, settings: Settings) -> QueryVector:
        """A query vector moved towards the liked items and away from the unliked."""
        store, ids = self._index.store, [*settings.like, *settings.unlike]
        if missing := set(ids) - store.items.get(ids).keys():
            raise InvalidQuery(f"no item of the index has the id {min(missing)}")
        liked, unliked = (
            store.vectors.of(query.space, query.modality, item_ids)[1]
            for item_ids in (settings.like, settings.unlike)
        )
        if not len(liked) and not len(unliked):
            return query
        mean = self._index.vector_index(query.space, query.modality).mean()[:-EXTRA_DIMS]
        moved = rocchio(query.vector, liked, unliked, mean=mean)
        return replace(query, vector=moved, query_modality=None, part=None)

    def _load_indexes(self, plans: Iterable[PlannedQuery]) -> threading.Thread:
        """A thread that loads vector indexes while the model loads: each is half a cold query."""
        needed = {(planned.space.id, planned.modality): planned.space for planned in plans}

        def load() -> None:
            with suppress(Exception):  # the search will raise the same error
                for (_, modality), space in needed.items():
                    self._index.vector_index(space, modality).warm_up()
                    self._index.query_banks.augmented_rows(space, modality)

        loading = threading.Thread(target=load)
        loading.start()
        return loading


def _literal_words(query: str | Query, settings: Settings) -> str | None:
    """The words of a query that are looked up literally; None if none are."""
    parts = parts_of(query)
    targets = [settings.target] if isinstance(settings.target, str) else settings.target
    lexical = settings.lexical
    if lexical is None:
        only_text = all(part.modality == "text" for part in parts)
        lexical = only_text if targets is None else "text" in targets
    texts = [
        words_of(part.content) for part in parts if part.modality == "text" and part.weight > 0
    ]
    return " ".join(texts) if lexical and texts else None
