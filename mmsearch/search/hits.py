"""From rankings to hits: fused, reranked, looked up, each with what explains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmsearch.search.facets import WORDS, Facet
from mmsearch.search.fusion import DEFAULT, FUSIONS, RRF_K
from mmsearch.search.rank import Holdings
from mmsearch.search.rerank import diverse, grouped, rematched
from mmsearch.search.settings import Settings
from mmsearch.search.snippets import (
    Key,
    Shown,
    Where,
    best_stretches,
    said,
    text_at,
    text_of,
)
from mmsearch.spaces.calibration import NO_GOOD_MATCH
from mmsearch.types import Hit, Item, Ranking, Signal, Span

STRETCHED = 100
"""Items whose stretches are ranked when each is a hit of its own; more if more hits are asked."""


@dataclass(frozen=True, slots=True)
class Order:
    """What became of the facets' rankings.

    Attributes:
        facets: As they were fused.
        chosen: The items, in the order of the hits.
        sure: By item, how sure it is that it is no match by chance.
        groups: By item, itself and the copies that stand behind it.
    """

    facets: Sequence[Facet]
    chosen: Ranking
    sure: Mapping[int, float]
    groups: Mapping[int, Sequence[int]]


def ordered(holdings: Holdings, facets: Sequence[Facet], settings: Settings) -> Order:
    """The best items of one query: fused, reranked, without copies if these are not wanted."""
    if settings.rerank == "fusion":
        facets = rematched(holdings, facets)
    fused = fuse(facets, settings)
    if settings.spans:
        best = fused[: max(settings.k, STRETCHED)]
        return Order(facets, best, {}, {item_id: [item_id] for item_id, _ in best})
    if settings.rerank == "diverse":
        fused = diverse(holdings, fused, settings)
    if not settings.drops:
        fused = fused[: settings.k]
    groups = grouped(holdings, fused, settings)
    sure = _confidences(facets, groups)
    # what holds all words that were asked for is what was asked for, whatever it looks like
    for item_id in {key for facet in facets for key in facet.holding} & sure.keys():
        sure[item_id] = max(sure[item_id], NO_GOOD_MATCH)
    chosen = [
        (item_id, score)
        for item_id, score in fused
        if item_id in groups and (sure.get(item_id) or 0.0) >= settings.min_confidence
    ]
    return Order(facets, chosen[: settings.k], sure, groups)


def best_hits(
    holdings: Holdings, facets: Sequence[Facet], settings: Settings, words: str | None = None
) -> list[Hit]:
    """The best hits of one query.

    Args:
        holdings: What to draw on.
        facets: What each facet says; none find nothing.
        settings: How many hits, and how they are put in order.
        words: What was looked up as it is written.
    """
    order = ordered(holdings, facets, settings)
    shown = Shown(holdings, order.facets, [item_id for item_id, _ in order.chosen], words)
    if settings.spans:
        return _span_hits(shown, settings)
    return _item_hits(shown, order, fusion_of(facets, settings))


def fusion_of(facets: Sequence[Facet], settings: Settings) -> str:
    """What was asked for, else by rank where parts have rankings of their own: a hit is like any
    of them, not like all.
    """
    searched = [facet.search.facet for facet in facets if facet.search is not None]
    return settings.fusion or ("rrf" if len(searched) > len(set(searched)) else DEFAULT)


def fuse(facets: Sequence[Facet], settings: Settings) -> list[tuple[Any, float]]:
    """Several rankings made one; of a single one its own scores."""
    if len(facets) <= 1:
        return facets[0].ranking if facets else []
    fusion = fusion_of(facets, settings)
    rankings = [facet.ranking if fusion == "rrf" else facet.standardised for facet in facets]
    weights, absent = [facet.weight for facet in facets], [facet.absent for facet in facets]
    return FUSIONS[fusion](rankings, weights, absent)


def _confidences(facets: Sequence[Facet], keys: Iterable[Any]) -> dict[Any, float]:
    """By key, the evidence of the facet that is surest that it is no match by chance."""
    found: dict[Any, float] = {}
    compared = [
        (facet.scores | facet.first, facet.background)  # what is typical was not ranked anew
        for facet in facets
        if facet.search is not None and facet.background is not None
    ]
    for key in keys:
        for scores, background in compared:
            if key in scores:
                sure = background.confidence(scores[key], len(compared))
                if sure is not None:
                    found[key] = max(found.get(key, 0.0), sure)
    return found


# ---------------------------------------------------------------------- an item a hit


def _item_hits(shown: Shown, order: Order, fusion: str) -> list[Hit]:
    plain = {facet.name: shown.plain(facet) for facet in shown.facets}
    signals = _signals(shown.facets, {key for key, _ in order.chosen}, fusion, plain)
    where = best_stretches(shown)
    copies = [copy for item_id, _ in order.chosen for copy in order.groups[item_id][1:]]
    paths = {id_: item.path for id_, item in shown.holdings.store.items.get(copies).items()}
    found: list[Hit] = []
    for item_id, score in order.chosen:
        if (item := shown.items.get(item_id)) is None:  # it has just gone
            continue
        span, part = where.get(item_id, (None, None))
        part = part or text_at(item, span)
        hit = _hit(len(found) + 1, item, score, (span, part), signals[item_id])
        hit = replace(hit, confidence=order.sure.get(item_id))
        if behind := [paths[id_] for id_ in order.groups[item_id][1:] if id_ in paths]:
            hit = replace(hit, metadata={**hit.metadata, "duplicates": behind})
        found.append(hit)
    return found


# ---------------------------------------------------------------------- a stretch a hit


def _span_hits(shown: Shown, settings: Settings) -> list[Hit]:
    """Each stretch a hit: windows, frames, pages, passages."""
    where: dict[Key, Where] = {}
    plain: dict[str, dict[Any, float]] = {}
    facets = []
    for facet in shown.facets:
        if facet.name == WORDS:
            facets.append(_words_by_stretch(shown, facet, where))
            continue
        ranking, plain[facet.name] = _by_stretch(shown, facet, where)
        facets.append(replace(facet, ranking=ranking, below=[]))
    fused = fuse(facets, settings)
    sure = _confidences(facets, [key for key, _ in fused])
    chosen = [one for one in fused if (sure.get(one[0]) or 0.0) >= settings.min_confidence]
    fusion = fusion_of(facets, settings)
    signals = _signals(facets, {key for key, _ in chosen[: settings.k]}, fusion, plain)
    return [
        replace(
            _hit(rank, shown.items[key[0]], score, where[key], signals[key]),
            confidence=sure.get(key),
        )
        for rank, (key, score) in enumerate(chosen[: settings.k], start=1)
    ]


def _by_stretch(
    shown: Shown,
    facet: Facet,
    where: dict[Key, Where],
) -> tuple[list[tuple[Any, float]], dict[Any, float]]:
    """A facet's stretches with their scores, and with their plain cosines."""
    ranking: dict[Key, float] = {}
    plain: dict[Any, float] = {}
    spans = shown.spans_of(facet)
    in_text = facet.search is not None and facet.search.facet == "text"
    for (item_id, position), score, cosine in shown.near[facet.name]:
        if (item := shown.items.get(item_id)) is None:
            continue
        span = spans.get((item_id, position))
        key = _key(item_id, span)
        part = text_of(item, position) if in_text else text_at(item, span)
        if key not in where or (in_text and key not in ranking):
            where[key] = span, part
        ranking.setdefault(key, score)
        plain.setdefault(key, cosine)
    return list(ranking.items()), plain


def _words_by_stretch(
    shown: Shown,
    facet: Facet,
    where: dict[Key, Where],
) -> Facet:
    """The lexical ranking, each item's score given to the text of it that holds most words."""
    ranking = []
    for item_id, score in facet.ranking:
        if (item := shown.items.get(item_id)) is not None:
            span, part = said(item, shown.words)
            key = _key(item_id, span)
            where.setdefault(key, (span, part))
            ranking.append((key, score))
    return replace(facet, ranking=ranking, below=[])


def _key(item_id: int, span: Span | None) -> Key:
    return (item_id, span.start, span.end) if span else (item_id, -1.0, -1.0)


# ---------------------------------------------------------------------- parts of both


def _signals(
    facets: Sequence[Facet], wanted: set[Any], fusion: str, plain: Mapping[str, Mapping[Any, float]]
) -> dict[Any, dict[str, Signal]]:
    """By key and facet: its rank, its score, how far that stands out, its share of the whole."""
    found: dict[Any, dict[str, Signal]] = {key: {} for key in wanted}
    for key in wanted:
        terms = {facet.name: _term(facet, key, fusion) for facet in facets if key in facet.scores}
        total = sum(map(abs, terms.values()))
        for facet in facets:
            if (score := facet.scores.get(key)) is None:
                continue
            share = terms[facet.name] / total if total else 0.0
            found[key][facet.name] = Signal(
                facet.ranks.get(key),
                plain.get(facet.name, {}).get(key, score),
                facet.background.standardised(score) if facet.background else None,
                round(share, 4) if len(facets) > 1 else 1.0,
            )
    return found


def _term(facet: Facet, key: Any, fusion: str) -> float:
    """What a facet adds to a key's fused score, but for what is the same for all facets."""
    if fusion == "rrf":
        rank = facet.ranks.get(key)
        return 0.0 if rank is None else facet.weight / (RRF_K + rank)
    above = facet.stands_out(key) - (facet.absent or 0.0)
    return facet.weight * (max(above, 0.0) if fusion == "combmnz" else above)


def _hit(
    rank: int,
    item: Item,
    score: float,
    where: Where,
    signals: dict[str, Signal],
) -> Hit:
    span, part = where
    return Hit(
        rank=rank,
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
