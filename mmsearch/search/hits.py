"""From rankings to hits: items and stretches looked up, each with what explains it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from mmsearch.catalog import Catalog
from mmsearch.fusion import rrf
from mmsearch.search.rank import IndexOf, Search, rank, stretches
from mmsearch.types import Hit, Item, Ranking, Signal, Span, TextPart

STRETCHED = 100
"""Items whose stretches are ranked when rankings are fused; more if more hits are asked for."""

Key = TypeVar("Key", bound=Hashable)


def best_hits(
    catalog: Catalog,
    searches: Sequence[Search],
    index_of: IndexOf,
    k: int,
    *,
    spans: bool = False,
    without: int | None = None,
) -> list[Hit]:
    """The k best hits for one query.

    Args:
        catalog: Where the items are looked up.
        searches: What to rank by; none find nothing.
        index_of: Gives a facet's index.
        k: How many.
        spans: Whether each stretch that matches is a hit, not an item's best alone.
        without: An item to leave out.
    """
    if not searches:
        return []
    deeper = spans and len(searches) > 1
    fused, rankings = rank(searches, index_of, max(k, STRETCHED) if deeper else k, without)
    if spans:
        return span_hits(catalog, searches, fused, k)
    return hits(catalog, searches, fused, rankings)


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
        for (item_id, position), score in stretches(catalog, search, ids):
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
                found[key][name] = Signal(place, score)
    return found


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
        for (item_id, position), _ in stretches(catalog, search, ids):
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
        score=score,
        confidence=None,
        span=span,
        caption=part.text if part else None,
        metadata=item.metadata,
        signals=signals,
    )
