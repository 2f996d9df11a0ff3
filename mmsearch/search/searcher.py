"""Answers queries: plan → encode → rank → fuse → rerank → hits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidQuery, UnsupportedModality
from mmsearch.search.example import Example
from mmsearch.search.feedback import rocchio
from mmsearch.search.hits import best_hits, fuse_lists
from mmsearch.search.planning import PlannedQuery, parts_of, plan, words_of
from mmsearch.search.query_vectors import QueryVector, checked_vectors, encode, query_vector
from mmsearch.search.ranking import RankedList, rank
from mmsearch.search.settings import Settings, targets_of
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.types import Hit, Part, Query, Ranking
from mmsearch.vectors.hubness import EXTRA_DIMS

if TYPE_CHECKING:
    from mmsearch.types import Vectors


@dataclass(frozen=True, slots=True)
class _EncodedQuery:
    """A query's vectors, and what of it is also looked up as it is written."""

    vectors: Sequence[QueryVector]
    words: str | None


class Searcher:
    """Answers queries from an open index.

    Args:
        index: What is searched.
    """

    def __init__(self, index: OpenIndex) -> None:
        self._index = index
        serving = index.serving()
        self._spaces = [space for space, _ in serving]
        self._stored = {space.id: modalities for space, modalities in serving}
        self._modalities = {one for _, modalities in serving for one in modalities}

    def search(self, queries: Sequence[str | Query], settings: Settings) -> list[list[Hit]]:
        """The best hits for each query; all queries are encoded together."""
        encoded = self._encode(queries, settings)
        with self._index.store.snapshot():
            found = [
                best_hits(self._index, lists, settings, words)
                for lists, words in self._rank(encoded, settings)
            ]
            for number, hits in enumerate(found):
                if len(hits) < settings.k and settings.collapses:
                    found[number] = self._search_deeper(encoded[number], settings)
            return found

    def _search_deeper(self, encoded: _EncodedQuery, settings: Settings) -> list[Hit]:
        """The hits of a query whose copies took the place of others: ranked ever deeper."""
        pool = settings.pool
        while True:
            pool *= 4
            ((lists, words),) = self._rank([encoded], settings, pool)
            hits = best_hits(self._index, lists, settings, words)
            cut = any(len(one.ranking) >= pool for one in lists)
            if len(hits) >= settings.k or not cut:
                return hits

    def rank(self, queries: Sequence[str | Query], settings: Settings) -> list[Ranking]:
        """The items of the best hits for each query with their scores; nothing is looked up."""
        encoded = self._encode(queries, settings)
        with self._index.store.snapshot():
            return [
                list(fuse_lists(self._index, lists, settings).ranking)
                for lists, _ in self._rank(encoded, settings)
            ]

    def search_vectors(self, queries: Vectors, settings: Settings) -> list[list[Hit]]:
        """The best hits for unit vectors (n, dim) of the preferred encoder."""
        if not self._spaces:
            return [[] for _ in queries]
        space = self._spaces[0]
        stored = self._stored[space.id]
        targets = [one for one in targets_of(settings.target, stored, ()) if one in stored]
        checked = checked_vectors(queries, space.dim)
        encoded = [
            _EncodedQuery([QueryVector(target, space, vector) for target in targets], None)
            for vector in checked
        ]
        with self._index.store.snapshot():
            ranked = list(self._rank(encoded, settings))
            return [best_hits(self._index, lists, settings) for lists, _ in ranked]

    def similar(self, path: str, settings: Settings) -> list[Hit]:
        """The best hits that resemble a file, the file itself left out."""
        index = self._index
        example = Example(index, path, self._spaces)
        targets = targets_of(settings.target, self._modalities, example.modalities[:1])
        planned = example.plan(targets, self._spaces, self._stored)
        vectors = [query_vector(index, one, example.vector(one)) for one in planned]
        own = frozenset[int]() if example.item_id is None else frozenset({example.item_id})
        with index.store.snapshot():
            ((lists, _),) = self._rank([_EncodedQuery(vectors, None)], settings, excluded=own)
            return best_hits(index, lists, settings)

    # ------------------------------------------------------------------ steps of the above

    def _plan(self, query: str | Query, settings: Settings) -> list[PlannedQuery]:
        modalities = [part.modality for part in parts_of(query)]
        targets = targets_of(settings.target, self._modalities, modalities)
        try:
            return plan(query, targets, settings.combine, self._spaces, self._stored)
        except UnsupportedModality:
            # vectors imported without their model: the words can still be looked up
            imported = all(space.is_imported for space in self._spaces)
            if set(modalities) == {"text"} and _words(query, settings) and imported:
                return []
            raise

    def _encode(self, queries: Sequence[str | Query], settings: Settings) -> list[_EncodedQuery]:
        plans = [self._plan(query, settings) for query in queries]
        loading = self._load_indexes([one for several in plans for one in several])
        try:
            vectors = encode(self._index, plans)
        finally:
            loading.join()
        words = [_words(query, settings) for query in queries]
        if any(words):
            self._index.catch_up_words()
        return [_EncodedQuery(*one) for one in zip(vectors, words, strict=True)]

    def _rank(
        self,
        encoded: Sequence[_EncodedQuery],
        settings: Settings,
        pool: int | None = None,
        excluded: frozenset[int] = frozenset(),
    ) -> Iterator[tuple[list[RankedList], str | None]]:
        """The ranked lists of each query, and what of it was looked up as it is written."""
        allowed = self._index.store.filters.passing(settings.filter) if settings.filter else None
        for one in encoded:
            vectors = one.vectors
            if settings.like or settings.unlike:
                vectors = [self._with_feedback(vector, settings) for vector in vectors]
            if not settings.hubness:
                vectors = [vector.without_hubs() for vector in vectors]
            yield (
                rank(
                    self._index,
                    vectors,
                    settings,
                    words=one.words,
                    allowed=allowed,
                    excluded=excluded,
                    pool=pool,
                ),
                one.words,
            )

    def _with_feedback(self, query: QueryVector, settings: Settings) -> QueryVector:
        """A query vector moved towards the liked items and away from the others."""
        store, ids = self._index.store, [*settings.like, *settings.unlike]
        if missing := set(ids) - store.items.get(ids).keys():
            raise InvalidQuery(f"no item of the index has the id {min(missing)}")
        liked, unliked = (
            store.vectors.of(query.space, query.modality, some)[1]
            for some in (settings.like, settings.unlike)
        )
        if not len(liked) and not len(unliked):
            return query
        mean = self._index.vector_index(query.space, query.modality).mean()[:-EXTRA_DIMS]
        moved = rocchio(query.vector, liked, unliked, mean=mean)
        return replace(query, vector=moved, query_modality=None, part=None)

    def _load_indexes(self, planned: Sequence[PlannedQuery]) -> threading.Thread:
        """Loads vector indexes while the model is loaded: each is half of a cold query."""
        wanted = {(one.space.id, one.modality): one for one in planned}

        def load() -> None:
            with suppress(Exception):  # an error comes up again when they are needed
                for one in wanted.values():
                    self._index.vector_index(one.space, one.modality).warm_up()
                    self._index.query_banks.augmented_rows(one.space, one.modality)

        loading = threading.Thread(target=load)
        loading.start()
        return loading


def _words(query: str | Query, settings: Settings) -> str | None:
    """What of a query is looked up as it is written, if anything is."""
    parts = parts_of(query)
    named = [settings.target] if isinstance(settings.target, str) else settings.target
    wanted = settings.lexical
    if wanted is None:
        only_text = all(part.modality == "text" for part in parts)
        wanted = only_text if named is None else "text" in named
    texts = [words_of(part.content) for part in parts if _is_wanted_text(part)]
    return " ".join(texts) if wanted and texts else None


def _is_wanted_text(part: Part) -> bool:
    return part.modality == "text" and part.weight > 0
