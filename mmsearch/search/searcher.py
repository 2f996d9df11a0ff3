"""From queries to hits: encode → one ranking a facet → fuse → rerank → look the items up."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from mmsearch.errors import InvalidQuery, UnsupportedModality
from mmsearch.search.example import Example
from mmsearch.search.facets import Facet, rankings
from mmsearch.search.feedback import rocchio
from mmsearch.search.hits import best_hits, ordered
from mmsearch.search.queries import Ask, checked_vectors, parts_of, plan, words_of
from mmsearch.search.rank import Holdings, Search, encode_asks, search_of
from mmsearch.search.settings import Settings, targets_of
from mmsearch.storage import Space
from mmsearch.types import Hit, Modality, Part, Query, Ranking
from mmsearch.vectors.hubness import EXTRA_DIMS
from mmsearch.vectors.id_set import IdSet

if TYPE_CHECKING:
    from mmsearch.types import Vectors

Present = Sequence[tuple[Space, Sequence[Modality]]]
"""The spaces that answer, the preferred one first, and the facets that each has vectors of."""

Asked = tuple[Sequence[Search], str | None]
"""The rankings to be made for a query, and what is also looked up as it is written."""

NOBODY: frozenset[int] = frozenset()


class Searcher:
    """Answers queries from what an index holds.

    Args:
        holdings: What it holds.
        present: Which of its spaces answer for what.
    """

    def __init__(self, holdings: Holdings, present: Present) -> None:
        self._holdings = holdings
        self._spaces = [space for space, _ in present]
        self._present = {space.id: facets for space, facets in present}
        self._there = {facet for _, facets in present for facet in facets}

    def many(self, queries: Sequence[str | Query], settings: Settings) -> list[list[Hit]]:
        """The best hits for each query; all queries are encoded together."""
        queries = list(queries)
        asked = self._encoded(queries, settings)
        with self._holdings.store.snapshot():
            found = [
                best_hits(self._holdings, facets, settings, words)
                for facets, words in self._facets_of(asked, settings)
            ]
            for number, hits in enumerate(found):
                if len(hits) < settings.k and settings.collapses:
                    found[number] = self._more(asked[number], settings)
            return found

    def _more(self, asked: Asked, settings: Settings) -> list[Hit]:
        """The hits of one query of which copies took the place of others: ranked ever deeper."""
        pool = settings.pool
        while True:
            pool *= 4
            ((facets, words),) = self._facets_of([asked], settings, pool)
            hits = best_hits(self._holdings, facets, settings, words)
            cut = any(len(facet.ranking) >= pool for facet in facets)
            if len(hits) >= settings.k or not cut:
                return hits

    def ranked(self, queries: Sequence[str | Query], settings: Settings) -> list[Ranking]:
        """The items of the best hits for each query with their scores, nothing looked up."""
        asked = self._encoded(list(queries), settings)
        with self._holdings.store.snapshot():
            return [
                list(ordered(self._holdings, facets, settings).chosen)
                for facets, _ in self._facets_of(asked, settings)
            ]

    def _encoded(self, queries: Sequence[str | Query], settings: Settings) -> list[Asked]:
        """What is to be searched for each query, and what of it to look up as it is written."""
        asks = [self._asks(query, settings) for query in queries]
        reading = self._reading([ask for several in asks for ask in several])
        try:
            searches = encode_asks(asks, self._holdings)
        finally:
            reading.join()
        said = [_words(query, settings) for query in queries]
        if any(said):
            self._holdings.catch_up()
        return list(zip(searches, said, strict=True))

    def _facets_of(
        self, asked: Sequence[Asked], settings: Settings, pool: int | None = None
    ) -> Iterator[tuple[list[Facet], str | None]]:
        """What each facet says of each query, and what of it was looked up as it is written."""
        allowed = self._allowed(settings)
        for several, words in asked:
            yield self._facets(several, settings, allowed, words=words, pool=pool), words

    def vectors(self, queries: Vectors, settings: Settings) -> list[list[Hit]]:
        """The best hits for unit vectors (n, dim) of the preferred encoder's."""
        if not self._spaces:
            return [[] for _ in queries]
        space = self._spaces[0]
        there = self._present[space.id]
        facets = [one for one in targets_of(settings.target, there, ()) if one in there]
        checked = checked_vectors(queries, space.dim)
        with self._holdings.store.snapshot():
            allowed = self._allowed(settings)
            found = [
                self._facets([Search(facet, space, vector) for facet in facets], settings, allowed)
                for vector in checked
            ]
            return [best_hits(self._holdings, one, settings) for one in found]

    def like_file(self, path: str, settings: Settings) -> list[Hit]:
        """What is like a file, the file itself left out."""
        holdings = self._holdings
        example = Example(holdings.store, path, self._spaces)
        targets = targets_of(settings.target, self._there, example.facets[:1])
        asks = example.asks(targets, self._spaces, self._present)
        vectors = [example.vector(ask, holdings.encoder_of) for ask in asks]
        searches = [
            search_of(ask, vector, holdings) for ask, vector in zip(asks, vectors, strict=True)
        ]
        own = NOBODY if example.own is None else frozenset({example.own})
        with holdings.store.snapshot():
            found = self._facets(searches, settings, self._allowed(settings), without=own)
            return best_hits(holdings, found, settings)

    # ------------------------------------------------------------------ parts of the above

    def _asks(self, query: str | Query, settings: Settings) -> list[Ask]:
        asked = [part.modality for part in parts_of(query)]
        targets = targets_of(settings.target, self._there, asked)
        try:
            return plan(query, targets, settings.combine, self._spaces, self._present)
        except UnsupportedModality:
            # vectors that were imported without their model: the words can be looked up still
            if set(asked) == {"text"} and _words(query, settings) and self._are_given():
                return []
            raise

    def _are_given(self) -> bool:
        return all(space.is_imported for space in self._spaces)

    def _allowed(self, settings: Settings) -> IdSet | None:
        return self._holdings.passing(settings.filter) if settings.filter else None

    def _facets(
        self,
        searches: Sequence[Search],
        settings: Settings,
        allowed: IdSet | None,
        *,
        words: str | None = None,
        without: frozenset[int] = NOBODY,
        pool: int | None = None,
    ) -> list[Facet]:
        if settings.like or settings.unlike:
            searches = [self._moved(search, settings) for search in searches]
        if not settings.hubness:
            searches = [search.plain() for search in searches]
        return rankings(
            self._holdings,
            searches,
            settings,
            words=words,
            allowed=allowed,
            without=without,
            pool=pool,
        )

    def _moved(self, search: Search, settings: Settings) -> Search:
        """A search moved towards what was liked."""
        store, ids = self._holdings.store, [*settings.like, *settings.unlike]
        if missing := set(ids) - store.items.get(ids).keys():
            raise InvalidQuery(f"no item of the index has the id {min(missing)}")
        liked, unliked = (
            store.vectors.of(search.space, search.facet, some)[1]
            for some in (settings.like, settings.unlike)
        )
        if not len(liked) and not len(unliked):
            return search
        index = self._holdings.index_of(search.space, search.facet)
        mean = index.mean()[:-EXTRA_DIMS]
        moved = rocchio(search.vector, liked, unliked, mean=mean)
        return replace(search, vector=moved, kind=None, part=None)

    def _reading(self, asks: Sequence[Ask]) -> threading.Thread:
        """Reads indexes while the model is read: the two are half of a cold query."""
        wanted = {(ask.space.id, ask.facet): ask for ask in asks}

        def read() -> None:
            with suppress(Exception):  # what goes wrong comes up again when they are needed
                for ask in wanted.values():
                    self._holdings.index_of(ask.space, ask.facet).warm_up()
                    self._holdings.query_banks.augmented_rows(ask.space, ask.facet)

        reading = threading.Thread(target=read)
        reading.start()
        return reading


def _words(query: str | Query, settings: Settings) -> str | None:
    """What is to be looked up as it is written, if anything is."""
    parts = parts_of(query)
    named = [settings.target] if isinstance(settings.target, str) else settings.target
    wanted = settings.lexical
    if wanted is None:
        in_words = all(part.modality == "text" for part in parts)
        wanted = in_words if named is None else "text" in named
    said = [words_of(part.content) for part in parts if _is_said(part)]
    return " ".join(said) if wanted and said else None


def _is_said(part: Part) -> bool:
    return part.modality == "text" and part.weight > 0
