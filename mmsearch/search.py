"""From queries to hits: encode → one ranking a facet → fuse → look the items up."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar, get_args

from mmsearch.catalog import Catalog, Space
from mmsearch.errors import UnknownTarget
from mmsearch.fusion import rrf
from mmsearch.queries import Ask, combined, encode_parts
from mmsearch.types import (
    Encoder,
    Hit,
    Item,
    Modality,
    Part,
    Ranking,
    Signal,
    Span,
    TextPart,
    VectorIndex,
)

if TYPE_CHECKING:
    from mmsearch.types import Vectors

DEPTH = 10
"""How many times k each facet's ranking goes down before fusion."""

LEADS = 10
"""Texts that lead over from one model's space to another's."""

Target = str | Sequence[str] | None
IndexOf = Callable[[Space, str], VectorIndex]

Key = TypeVar("Key", bound=Hashable)

Stretch = tuple[int, int]
"""(item id, position): one vector of an item, its 3rd window say."""


@dataclass(frozen=True, slots=True)
class Search:
    """One ranking to be made: what is searched, and for which unit vector (dim,)."""

    facet: Modality
    space: Space
    vector: Vectors
    weight: float = 1.0


def targets_of(
    target: Target, present: Iterable[Modality], asked: Iterable[Modality]
) -> list[Modality]:
    """The facets to search: those named, else pictures if there are any, else what there is.

    Who asks with sounds alone is given sounds first.

    Args:
        target: What the caller named.
        present: The facets that have vectors.
        asked: The modalities of the query's parts.

    Raises:
        UnknownTarget: there is no such facet.
    """
    known: tuple[Modality, ...] = get_args(Modality)
    if target is None:
        order: list[Modality] = ["image", "audio", "text"]
        if set(asked) == {"audio"}:
            order = ["audio", "image", "text"]
        there = set(present)
        return [facet for facet in order if facet in there][:1]
    named = [target] if not isinstance(target, Iterable) or isinstance(target, str) else target
    for facet in named:
        if facet not in known:
            shown = ", ".join(known)
            raise UnknownTarget(f"nothing can be searched in {facet!r}; there is: {shown}")
    return [facet for facet in known if facet in named]


def encode_asks(
    asks: Sequence[Sequence[Ask]],
    encoder_of: Callable[[Space], Encoder],
    index_of: IndexOf,
    catalog: Catalog,
) -> list[list[Search]]:
    """For each query, its rankings' vectors; each encoder encodes the parts of all together."""
    parts: dict[int, tuple[Space, dict[int, Part]]] = {}
    for ask in (ask for several in asks for ask in several):
        space = ask.via or ask.space
        parts.setdefault(space.id, (space, {}))[1].update({id(part): part for part in ask.parts})
    encoded: dict[tuple[int, int], Vectors] = {}
    for space_id, (space, some) in parts.items():
        vectors = encode_parts(encoder_of(space), list(some.values()))
        encoded |= {(space_id, key): row for key, row in zip(some, vectors, strict=True)}
    return [[_search(ask, encoded, index_of, catalog) for ask in several] for several in asks]


def _search(
    ask: Ask,
    encoded: Mapping[tuple[int, int], Vectors],
    index_of: IndexOf,
    catalog: Catalog,
) -> Search:
    import numpy as np

    space = ask.via or ask.space
    vectors = np.stack([encoded[space.id, id(part)] for part in ask.parts])
    alone = len(ask.parts) == 1
    vector = vectors[0] if alone else combined(vectors, [part.weight for part in ask.parts])
    if ask.via is not None:
        vector = _led_over(vector, ask.via, ask.space, index_of, catalog)
    return Search(ask.facet, ask.space, vector, ask.weight)


def _led_over(
    vector: Vectors, here: Space, there: Space, index_of: IndexOf, catalog: Catalog
) -> Vectors:
    """The mean, in one space, of the texts that are nearest to a vector of another."""
    ids = [item_id for item_id, _ in index_of(here, "text").search(vector, LEADS)]
    near = _stretches(catalog, Search("text", here, vector), ids)[:LEADS]
    owners, matrix, positions = catalog.vectors(there, "text", ids)
    rows = {
        key: row for row, key in enumerate(zip(owners.tolist(), positions.tolist(), strict=True))
    }
    shared = [(rows[key], max(score, 0.0) + 1e-3) for key, score in near if key in rows]
    return combined(matrix[[row for row, _ in shared]], [score for _, score in shared])


def rank(
    searches: Sequence[Search], index_of: IndexOf, k: int, without: int | None = None
) -> tuple[Ranking, list[Ranking]]:
    """The k best items for one query, and each search's own ranking.

    Args:
        searches: What to rank by.
        index_of: Gives a facet's index.
        k: How many items.
        without: An item to leave out.
    """
    depth = 1 + (k if len(searches) == 1 else max(k * DEPTH, 100))
    rankings = [
        [
            pair
            for pair in index_of(search.space, search.facet).search(search.vector, depth)
            if pair[0] != without
        ]
        for search in searches
    ]
    if len(rankings) == 1:
        return rankings[0][:k], rankings
    return rrf(rankings, [search.weight for search in searches])[:k], rankings


def hits(
    catalog: Catalog, searches: Sequence[Search], fused: Ranking, rankings: Sequence[Ranking]
) -> list[Hit]:
    """Ranked items as hits, with where each matched; items that have just gone are left out."""
    ids = [item_id for item_id, _ in fused]
    items = catalog.items(ids)
    signals = _signals(searches, rankings, set(ids))
    best = _best_stretches(catalog, searches, rankings, items)
    found: list[Hit] = []
    for item_id, score in fused:
        if (item := items.get(item_id)) is not None:
            span, part = best.get(item_id, (None, None))
            part = part or _text_at(item, span)
            found.append(_hit(len(found) + 1, item, score, (span, part), signals[item_id]))
    return found


def span_hits(catalog: Catalog, searches: Sequence[Search], fused: Ranking, k: int) -> list[Hit]:
    """The k best stretches of ranked items, each a hit: windows, frames, pages, passages."""
    ids = [item_id for item_id, _ in fused]
    items = catalog.items(ids)
    spans: dict[tuple[int, float, float], tuple[Span | None, TextPart | None]] = {}
    rankings: list[list[tuple[tuple[int, float, float], float]]] = []
    for search in searches:
        where = catalog.spans(search.space, search.facet, ids)
        ranking: dict[tuple[int, float, float], float] = {}
        for (item_id, position), score in _stretches(catalog, search, ids):
            if (item := items.get(item_id)) is None:
                continue
            span = where.get((item_id, position))
            key = (item_id, span.start, span.end) if span else (item_id, -1.0, -1.0)
            part = _text(item, position) if search.facet == "text" else _text_at(item, span)
            if key not in spans or (search.facet == "text" and key not in ranking):
                spans[key] = span, part
            ranking.setdefault(key, score)
        rankings.append(list(ranking.items()))
    merged = (
        rankings[0] if len(rankings) == 1 else rrf(rankings, [search.weight for search in searches])
    )
    signals = _signals(searches, rankings, {key for key, _ in merged[:k]})
    return [
        _hit(place, items[key[0]], score, spans[key], signals[key])
        for place, (key, score) in enumerate(merged[:k], start=1)
    ]


def _signals(
    searches: Sequence[Search], rankings: Sequence[Sequence[tuple[Key, float]]], wanted: set[Key]
) -> dict[Key, dict[str, Signal]]:
    """By item and facet, rank and score; of several searches of a facet, "image 2" and so on."""
    found: dict[Key, dict[str, Signal]] = {key: {} for key in wanted}
    seen: dict[str, int] = {}
    for search, ranking in zip(searches, rankings, strict=True):
        seen[search.facet] = number = seen.get(search.facet, 0) + 1
        name = search.facet if number == 1 else f"{search.facet} {number}"
        for place, (key, score) in enumerate(ranking, start=1):
            if key in wanted:
                found[key][name] = Signal(place, min(score, 1.0))
    return found


def _stretches(catalog: Catalog, search: Search, ids: Sequence[int]) -> list[tuple[Stretch, float]]:
    """Each vector of some items with its score, best first."""
    owners, matrix, positions = catalog.vectors(search.space, search.facet, ids)
    scores = (matrix @ search.vector).round(6)
    keys = zip(owners.tolist(), positions.tolist(), strict=True)
    pairs = zip(keys, scores.tolist(), strict=True)
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def _best_stretches(
    catalog: Catalog,
    searches: Sequence[Search],
    rankings: Sequence[Ranking],
    items: Mapping[int, Item],
) -> dict[int, tuple[Span | None, TextPart | None]]:
    """For each item, the stretch that matched in the search that ranked it highest.

    Photos have none, unless one of their texts matched.
    """
    places: dict[int, tuple[int, int]] = {}
    for number, ranking in enumerate(rankings):
        for place, (item_id, _) in enumerate(ranking):
            if item_id in items:
                places[item_id] = min(places.get(item_id, (place, number)), (place, number))
    best: dict[int, tuple[Span | None, TextPart | None]] = {}
    for number, search in enumerate(searches):
        ids = [
            item_id
            for item_id, (_, by) in places.items()
            if by == number and (search.facet == "text" or items[item_id].modality != "image")
        ]
        if not ids:
            continue
        spans = {} if search.facet == "text" else catalog.spans(search.space, search.facet, ids)
        for (item_id, position), _ in _stretches(catalog, search, ids):
            if item_id not in best:
                part = _text(items[item_id], position) if search.facet == "text" else None
                span = part.span if part else spans.get((item_id, position))
                best[item_id] = span, part
    return best


def _text(item: Item, position: int) -> TextPart | None:
    return item.texts[position] if position < len(item.texts) else None


def _text_at(item: Item, span: Span | None) -> TextPart | None:
    """What an item's texts say of a stretch of it, else of all of it."""
    if span is not None:
        for part in item.texts:
            own = part.span
            if own and own.unit == span.unit and own.start < span.end and own.end > span.start:
                return part
            if own and own.unit == span.unit == "page" and own.start == span.start:
                return part
    whole = [part for part in item.texts if part.span is None or span is None]
    written = [part for part in whole if part.origin in ("sidecar", "caption")]
    return next(iter(written or whole), None)


def _hit(
    rank_: int,
    item: Item,
    score: float,
    where: tuple[Span | None, TextPart | None],
    signals: dict[str, Signal],
) -> Hit:
    span, part = where
    return Hit(
        rank=rank_,
        id=item.id,
        path=item.path,
        modality=item.modality,
        score=min(score, 1.0),  # float16 rows are up to 1e-3 longer than 1
        confidence=None,
        span=span,
        caption=part.text if part else None,
        metadata=item.metadata,
        signals=signals,
    )
