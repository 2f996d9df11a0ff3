"""Answers queries: plan → encode → rank → fuse → rerank → hits."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidQuery, UnsupportedModality
from mmsearch.search.example import Example, StoredParts
from mmsearch.search.feedback import rocchio
from mmsearch.search.hits import MIN_SPANNED_ITEMS, FusedList, fuse_lists, listed_hit
from mmsearch.search.planning import PlannedQuery, parts_of, plan, words_of
from mmsearch.search.query_vectors import QueryVector, checked_vectors, encode, query_vector
from mmsearch.search.ranking import DEPTH, rank
from mmsearch.search.settings import Settings, targets_of
from mmsearch.spaces.calibration import weak_from
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.types import Facets, Hit, Part, Query, Ranking, SearchPage, StoredItem
from mmsearch.vectors.hubness import EXTRA_DIMS
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


MAX_GOOD = 19_200
"""Good matches are looked for among so many of the best, at least."""


@dataclass(frozen=True, slots=True)
class _EncodedQuery:
    """A query's vectors, its words for the lexical search if any, and items to leave out."""

    vectors: Sequence[QueryVector]
    words: str | None = None
    excluded: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A stretch of the whole ranking of a query."""

    fused: FusedList
    ranking: Sequence[tuple[Any, float]]
    """(key, score) of what no earlier stretch has, best first."""


Chosen = list[tuple[_Stretch, Any, float]]
"""Of each hit that is to be shown, the stretch it is from, its key and its score."""


class Searcher:
    """Answers queries from an open index."""

    def __init__(self, index: OpenIndex) -> None:
        self._index = index
        self._serving = index.serving()
        self._modalities = {modality for _, stored in self._serving for modality in stored}

    def search(self, queries: Sequence[str | Query], settings: Settings) -> list[list[Hit]]:
        """The best hits for each query; all queries are encoded together."""
        return self._search(self._encode(queries, settings), settings)

    def page(self, query: str | Query | None, settings: Settings) -> SearchPage:
        """A page of the hits of a query, how many there could be, and where they become weak.

        Without a query, all items that pass the filter are hits, the newest first.
        """
        if query is None:
            return self._browse(settings)
        (encoded,) = self._encode([query], settings)
        return self._page(encoded, settings)

    def facets(self, query: str | Query | None, settings: Settings) -> Facets:
        """What the good matches of a query have in common; of all that pass if none is known."""
        encoded = None if query is None else self._encode([query], settings)[0]
        with self._snapshot(encoded):
            allowed = self._allowed(settings)
            if encoded is not None:
                stretches, weak = self._good_stretches(self._stretches(encoded, settings, allowed))
                if weak is not None:
                    allowed = IdSet.of({_item_of(key) for _, key, _ in _chosen(stretches)[:weak]})
            return self._index.store.filters.facets(allowed)

    def rank(self, queries: Sequence[str | Query], settings: Settings) -> list[Ranking]:
        """The best items for each query with their scores, without looking up hits."""
        settings = replace(settings, spans=False)
        encoded = self._encode(queries, settings)
        with self._snapshot(*encoded):
            return [
                [(item_id, score) for _, item_id, score in chosen]
                for chosen in self._best(encoded, settings)
            ]

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
        return self._search([self._encode_file(path, settings)], settings)[0]

    def similar_page(self, path: str, settings: Settings) -> SearchPage:
        """A page of what resembles a file, as `page` returns it."""
        return self._page(self._encode_file(path, settings), settings)

    # ------------------------------------------------------------------ plan and encode

    def _plan(self, query: str | Query, settings: Settings) -> list[PlannedQuery]:
        parts = parts_of(query)
        if any(isinstance(part.content, StoredItem) for part in parts):
            return self._plan_with_stored(parts, settings)
        modalities = [part.modality for part in parts]
        targets = targets_of(settings.target, self._modalities, modalities)
        try:
            return plan(query, targets, settings.combine, self._serving)
        except UnsupportedModality:
            # with vectors imported without their model, words can still be looked up
            imported = all(space.is_imported for space, _ in self._serving)
            if set(modalities) == {"text"} and _literal_words(query, settings) and imported:
                return []
            raise

    def _plan_with_stored(self, parts: Sequence[Part], settings: Settings) -> list[PlannedQuery]:
        stored = StoredParts(self._index, self._serving, parts)
        targets = targets_of(settings.target, self._modalities, stored.modalities)
        planned: list[PlannedQuery] = []
        for target in targets:
            query = stored.compared_with(target)
            planned += plan(query, [target], settings.combine, self._serving, stored.encodable)
        return planned

    def _encode(self, queries: Sequence[str | Query], settings: Settings) -> list[_EncodedQuery]:
        plans = [self._plan(query, settings) for query in queries]
        loading = self._load_indexes(chain.from_iterable(plans))
        try:
            vectors = encode(self._index, plans)
        finally:
            if loading is not None:
                loading.join()
        words = [_literal_words(query, settings) for query in queries]
        return list(map(_EncodedQuery, vectors, words))

    def _snapshot(self, *queries: _EncodedQuery | None) -> AbstractContextManager[None]:
        """A context in which all that is read for some queries is of one moment."""
        return self._index.snapshot(words=any(query and query.words for query in queries))

    def _encode_file(self, path: str, settings: Settings) -> _EncodedQuery:
        """A file as a query that leaves it out."""
        index = self._index
        example = Example(index, path, self._serving)
        targets = targets_of(settings.target, self._modalities, example.modalities[:1])
        plans = example.plan(targets)
        vectors = [query_vector(index, planned, example.vector(planned)) for planned in plans]
        itself = frozenset[int]() if example.item_id is None else frozenset({example.item_id})
        return _EncodedQuery(vectors, excluded=itself)

    # ------------------------------------------------------------------ rank, in stretches

    def _allowed(self, settings: Settings) -> IdSet | None:
        """The items that pass the filter; None allows all."""
        return self._index.store.filters.passing(settings.filter) if settings.filter else None

    def _stretches(
        self, query: _EncodedQuery, settings: Settings, allowed: IdSet | None
    ) -> Iterator[_Stretch]:
        """The whole ranking of a query: each stretch by lists four times as deep as the last.

        So an item's place does not depend on how far the ranking is read: pages fit together.
        """
        vectors = query.vectors
        if settings.like or settings.unlike:
            vectors = [self._with_feedback(vector, settings) for vector in vectors]
        if not settings.hubness:
            vectors = [vector.without_hubs() for vector in vectors]
        several = len(vectors) + (query.words is not None) > 1
        depth = max(settings.pool, DEPTH) if several or settings.by_date else settings.pool
        wanted = min(depth, max(settings.k, MIN_SPANNED_ITEMS)) if settings.spans else depth
        seen: set[Any] = set()
        copies: dict[int, Sequence[int]] = {}
        place = 0
        while True:
            lists = rank(
                self._index,
                vectors,
                settings,
                depth=depth,
                words=query.words,
                allowed=allowed,
                excluded=query.excluded,
            )
            fused = fuse_lists(self._index, lists, settings, query.words, wanted)
            copies.update(fused.copies)
            fused.copies = copies  # of earlier stretches, too: deeper lists have more of them
            complete = all(len(ranked.ranking) < depth for ranked in lists)
            new = [pair for pair in fused.ranking if pair[0] not in seen] if seen else fused.ranking
            new = new if complete else new[: wanted - place]
            yield _Stretch(fused, new)
            place += len(new)
            if complete or (place < wanted and not settings.collapses):
                return
            if settings.min_confidence and not new:
                return
            for key, _ in new:
                seen |= {key, *copies.get(key, ())}
            depth, wanted = depth * 4, wanted * 4

    def _good_stretches(self, stretches: Iterable[_Stretch]) -> tuple[list[_Stretch], int | None]:
        """The stretches down to where matches are weak, and that position; None: not known."""
        read: list[_Stretch] = []
        confidences: list[float | None] = []
        for stretch in stretches:
            keys = [key for key, _ in stretch.ranking]
            known = stretch.fused.confidences(keys)
            read.append(stretch)
            confidences += map(known.get, keys)
            weak = weak_from(confidences)
            if weak is None or weak < len(confidences):
                return read, weak
            if len(confidences) >= MAX_GOOD:
                return read, None
        return read, weak_from(confidences)

    # ------------------------------------------------------------------ choose, and look up

    def _search(self, encoded: Sequence[_EncodedQuery], settings: Settings) -> list[list[Hit]]:
        """The best hits for each query."""
        with self._snapshot(*encoded):
            best = self._best(encoded, settings)
            return [_hits(chosen, settings) for chosen in best]

    def _best(self, encoded: Sequence[_EncodedQuery], settings: Settings) -> Iterator[Chosen]:
        """What is to be shown of the ranking of each query."""
        allowed = self._allowed(settings)
        for query in encoded:
            stretches = self._stretches(query, settings, allowed)
            if settings.by_date:
                yield self._by_date(*self._good_stretches(stretches), settings)
            else:
                yield _chosen(stretches, settings.offset, settings.offset + settings.k)

    def _page(self, query: _EncodedQuery, settings: Settings) -> SearchPage:
        with self._snapshot(query):
            allowed = self._allowed(settings)
            rest = self._stretches(query, settings, allowed)
            read, weak = self._good_stretches(rest)
            if settings.by_date:
                chosen = self._by_date(read, weak, settings)
                return SearchPage(_hits(chosen, settings), self._total(read, query, allowed), None)
            last = settings.offset + settings.k
            chosen = _chosen(chain(read, rest), settings.offset, last)
            return SearchPage(_hits(chosen, settings), self._total(read, query, allowed), weak)

    def _browse(self, settings: Settings) -> SearchPage:
        store = self._index.store
        with store.snapshot():
            ids = store.filters.by_date(self._allowed(settings), oldest=settings.sort == "oldest")
            page = ids[settings.offset : settings.offset + settings.k].tolist()
            items = store.items.get(page)
        hits = [
            listed_hit(rank, items[item_id])
            for rank, item_id in enumerate(page, start=settings.offset + 1)
        ]
        return SearchPage(hits, len(ids), None)

    def _by_date(
        self, stretches: Sequence[_Stretch], weak: int | None, settings: Settings
    ) -> Chosen:
        """The good matches by date; if none is known, what was ranked."""
        good = _chosen(stretches)[:weak]
        ids = IdSet.of({_item_of(key) for _, key, _ in good})
        order = self._index.store.filters.by_date(ids, oldest=settings.sort == "oldest")
        place = {item_id: number for number, item_id in enumerate(order.tolist())}
        by_date = sorted(good, key=lambda one: place[_item_of(one[1])])
        return by_date[settings.offset : settings.offset + settings.k]

    def _total(
        self, stretches: Sequence[_Stretch], query: _EncodedQuery, allowed: IdSet | None
    ) -> int:
        """How many items could be hits: those that pass the filter, and that a ranking scores."""
        lists = stretches[-1].fused.lists
        found = IdSet.of(())
        for ranked in lists:
            if (of := ranked.query) is not None:
                found = found.union(self._index.vector_index(of.space, of.modality).items())
        if allowed is not None:
            found = allowed.intersection(found)
        others = {_item_of(key) for one in lists if one.query is None for key in one.ranks}
        if query.words and all(one.query is None for one in lists):  # which are as short as a page
            deep = self._index.store.words.search(query.words, MAX_GOOD, allowed)
            others |= {item_id for item_id, _ in deep}
        found = found.union(IdSet.of(others))
        return len(found) - int(found.contains(IdSet.of(query.excluded).ids).sum())

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

    def _load_indexes(self, plans: Iterable[PlannedQuery]) -> threading.Thread | None:
        """A thread that loads vector indexes while the model loads: each is half a cold query.

        None if all are in memory.
        """
        needed = {
            (planned.space.id, planned.modality): planned.space
            for planned in plans
            if not self._index.vector_indexes.has(planned.space, planned.modality)
        }
        if not needed:
            return None

        def load() -> None:
            with suppress(Exception):  # the search will raise the same error
                for (_, modality), space in needed.items():
                    self._index.vector_index(space, modality).warm_up()
                    self._index.query_banks.augmented_rows(space, modality)

        loading = threading.Thread(target=load)
        loading.start()
        return loading


def _chosen(stretches: Iterable[_Stretch], first: int = 0, last: int | None = None) -> Chosen:
    """What is in some stretches, or the part of it between two places."""
    chosen: Chosen = []
    place = 0
    for stretch in stretches:
        end = None if last is None else max(last - place, 0)
        part = stretch.ranking[max(first - place, 0) : end]
        chosen += [(stretch, key, score) for key, score in part]
        place += len(stretch.ranking)
        if last is not None and place >= last:
            break
    return chosen


def _hits(chosen: Chosen, settings: Settings) -> list[Hit]:
    """Hits, whose ranks count from the first of all."""
    rankings: dict[int, tuple[_Stretch, list[tuple[int, Any, float]]]] = {}
    for place, (stretch, key, score) in enumerate(chosen, start=settings.offset + 1):
        rankings.setdefault(id(stretch), (stretch, []))[1].append((place, key, score))
    hits = {key: hit for one, ranking in rankings.values() for key, hit in one.fused.hits(ranking)}
    there = [hits[key] for _, key, _ in chosen if key in hits]
    if len(there) == len(chosen):
        return there
    return [replace(hit, rank=rank) for rank, hit in enumerate(there, start=settings.offset + 1)]


def _item_of(key: Any) -> int:
    """The item of a key of a ranking."""
    item_id: int = key[0] if isinstance(key, tuple) else key
    return item_id


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
