"""From ranked lists to hits: reranked, fused, looked up, each with what explains it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmsearch.search.fusion import DEFAULT, FUSIONS, RRF_K
from mmsearch.search.matched_spans import Match, MatchedItems, text_at, text_of
from mmsearch.search.ranking import WORDS, RankedList, WordList
from mmsearch.search.rerank import compare_in_detail, diversify, group_copies
from mmsearch.search.settings import Settings
from mmsearch.spaces.calibration import NO_GOOD_MATCH
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.types import Hit, Item, Ranking, Signal, Span

MIN_SPANNED_ITEMS = 100
"""Items whose spans are ranked when each is a hit of its own; more if more hits are wanted."""

SpanKey = tuple[int, float, float]
"""(item id, start, end) of a span; -1 and -1 for a whole item."""


@dataclass(frozen=True, slots=True)
class FusedList:
    """The ranked lists made one.

    Attributes:
        lists: As they were fused: reranked, where that was wanted.
        ranking: The items, in the order of the hits.
        confidence: By item, the evidence that it is no match by chance.
        copies: By item, the copies that are collapsed into it.
    """

    lists: Sequence[RankedList]
    ranking: Ranking
    confidence: Mapping[int, float]
    copies: Mapping[int, Sequence[int]]


def fuse_lists(index: OpenIndex, lists: Sequence[RankedList], settings: Settings) -> FusedList:
    """The best items of one query: reranked, fused, diversified, copies collapsed."""
    if settings.rerank == "fusion":
        lists = compare_in_detail(index, lists)
    fused = fuse(lists, settings)
    if settings.spans:
        return FusedList(lists, fused[: max(settings.k, MIN_SPANNED_ITEMS)], {}, {})
    if settings.rerank == "diverse":
        fused = diversify(index, fused, settings)
    if not settings.drops:
        fused = fused[: settings.k]
    groups = group_copies(index, fused, settings)
    confidence = _confidences(lists, groups)
    # an item that holds every word of the query is what was asked for, whatever it looks like
    complete = {id_ for one in lists if isinstance(one, WordList) for id_ in one.complete_matches}
    for item_id in complete & confidence.keys():
        confidence[item_id] = max(confidence[item_id], NO_GOOD_MATCH)
    kept = [
        (item_id, score)
        for item_id, score in fused
        if item_id in groups and (confidence.get(item_id) or 0.0) >= settings.min_confidence
    ]
    copies = {item_id: group[1:] for item_id, group in groups.items()}
    return FusedList(lists, kept[: settings.k], confidence, copies)


def best_hits(
    index: OpenIndex, lists: Sequence[RankedList], settings: Settings, words: str | None = None
) -> list[Hit]:
    """The best hits of one query.

    Args:
        index: Where the items are stored.
        lists: The ranked lists; none find nothing.
        settings: How many hits, and in which order.
        words: What was looked up as it is written.
    """
    fused = fuse_lists(index, lists, settings)
    found = MatchedItems(index, fused.lists, [item_id for item_id, _ in fused.ranking], words)
    return _span_hits(found, settings) if settings.spans else _item_hits(found, fused, settings)


def fuse(lists: Sequence[RankedList], settings: Settings) -> list[tuple[Any, float]]:
    """Several ranked lists made one; a single one keeps its scores."""
    if len(lists) <= 1:
        return lists[0].ranking if lists else []
    method = fusion_method(lists, settings)
    rankings = [one.ranking if method == "rrf" else one.standardised for one in lists]
    return FUSIONS[method](
        rankings, [one.weight for one in lists], [one.absent_score for one in lists]
    )


def fusion_method(lists: Sequence[RankedList], settings: Settings) -> str:
    """The fusion that is set, else reciprocal ranks where parts of the query have lists of their
    own: a hit then resembles any of them, not all.
    """
    searched = [one.query.modality for one in lists if one.query is not None]
    return settings.fusion or ("rrf" if len(searched) > len(set(searched)) else DEFAULT)


def _confidences(lists: Sequence[RankedList], keys: Iterable[Any]) -> dict[Any, float]:
    """By key, the confidence by the list that is surest of it."""
    found: dict[Any, float] = {}
    compared = [
        (one.scores | one.first_scores, one.background)  # the reference was not reranked
        for one in lists
        if one.query is not None and one.background is not None
    ]
    for key in keys:
        for scores, background in compared:
            if key in scores:
                confidence = background.confidence(scores[key], len(compared))
                if confidence is not None:
                    found[key] = max(found.get(key, 0.0), confidence)
    return found


# ---------------------------------------------------------------------- an item a hit


def _item_hits(found: MatchedItems, fused: FusedList, settings: Settings) -> list[Hit]:
    cosines = {one.name: found.cosines(one) for one in found.lists}
    method = fusion_method(found.lists, settings)
    signals = _signals(found.lists, {key for key, _ in fused.ranking}, method, cosines)
    matches = found.matches()
    copies = [copy for item_id, _ in fused.ranking for copy in fused.copies.get(item_id, ())]
    paths = {id_: item.path for id_, item in found.index.store.items.get(copies).items()}
    hits: list[Hit] = []
    for item_id, score in fused.ranking:
        if (item := found.items.get(item_id)) is None:  # deleted meanwhile
            continue
        span, part = matches.get(item_id, (None, None))
        part = part or text_at(item, span)
        hit = _hit(len(hits) + 1, item, score, (span, part), signals[item_id])
        hit = replace(hit, confidence=fused.confidence.get(item_id))
        if own := [paths[id_] for id_ in fused.copies.get(item_id, ()) if id_ in paths]:
            hit = replace(hit, metadata={**hit.metadata, "duplicates": own})
        hits.append(hit)
    return hits


# ---------------------------------------------------------------------- a span a hit


def _span_hits(found: MatchedItems, settings: Settings) -> list[Hit]:
    """Each matching span as a hit: windows, frames, pages, passages."""
    matches: dict[SpanKey, Match] = {}
    cosines: dict[str, dict[Any, float]] = {}
    lists = []
    for one in found.lists:
        if one.name == WORDS:
            lists.append(_words_by_span(found, one, matches))
            continue
        ranking, cosines[one.name] = _by_span(found, one, matches)
        lists.append(replace(one, ranking=ranking, completed=[]))
    fused = fuse(lists, settings)
    confidence = _confidences(lists, [key for key, _ in fused])
    kept = [one for one in fused if (confidence.get(one[0]) or 0.0) >= settings.min_confidence]
    kept = kept[: settings.k]
    signals = _signals(lists, {key for key, _ in kept}, fusion_method(lists, settings), cosines)
    return [
        replace(
            _hit(rank, found.items[key[0]], score, matches[key], signals[key]),
            confidence=confidence.get(key),
        )
        for rank, (key, score) in enumerate(kept, start=1)
    ]


def _by_span(
    found: MatchedItems, ranked: RankedList, matches: dict[SpanKey, Match]
) -> tuple[list[tuple[Any, float]], dict[Any, float]]:
    """A list's spans with their scores, and with their plain cosines."""
    ranking: dict[SpanKey, float] = {}
    cosines: dict[Any, float] = {}
    spans = found.spans(ranked)
    in_text = ranked.query is not None and ranked.query.modality == "text"
    for one in found.scored[ranked.name]:
        item_id, position = one.key
        if (item := found.items.get(item_id)) is None:
            continue
        span = spans.get(one.key)
        key = _span_key(item_id, span)
        part = text_of(item, position) if in_text else text_at(item, span)
        if key not in matches or (in_text and key not in ranking):
            matches[key] = span, part
        ranking.setdefault(key, one.score)
        cosines.setdefault(key, one.cosine)
    return list(ranking.items()), cosines


def _words_by_span(
    found: MatchedItems, ranked: RankedList, matches: dict[SpanKey, Match]
) -> RankedList:
    """The list by words, each item's score given to the text of it that holds most words."""
    ranking = []
    for item_id, score in ranked.ranking:
        if (item := found.items.get(item_id)) is not None:
            span, part = found.matching_text(item)
            key = _span_key(item_id, span)
            matches.setdefault(key, (span, part))
            ranking.append((key, score))
    return replace(ranked, ranking=ranking, completed=[])


def _span_key(item_id: int, span: Span | None) -> SpanKey:
    return (item_id, span.start, span.end) if span else (item_id, -1.0, -1.0)


# ---------------------------------------------------------------------- what explains a hit


def _signals(
    lists: Sequence[RankedList],
    keys: set[Any],
    method: str,
    cosines: Mapping[str, Mapping[Any, float]],
) -> dict[Any, dict[str, Signal]]:
    """By key and list: its rank, its score, its standardised score, its share of the whole."""
    found: dict[Any, dict[str, Signal]] = {key: {} for key in keys}
    for key in keys:
        terms = {one.name: _term(one, key, method) for one in lists if key in one.scores}
        total = sum(map(abs, terms.values()))
        for one in lists:
            if (score := one.scores.get(key)) is None:
                continue
            share = terms[one.name] / total if total else 0.0
            found[key][one.name] = Signal(
                one.ranks.get(key),
                cosines.get(one.name, {}).get(key, score),
                one.background.standardised(score) if one.background else None,
                round(share, 4) if len(lists) > 1 else 1.0,
            )
    return found


def _term(ranked: RankedList, key: Any, method: str) -> float:
    """What a list adds to a key's fused score, up to what is the same for all lists."""
    if method == "rrf":
        rank = ranked.ranks.get(key)
        return 0.0 if rank is None else ranked.weight / (RRF_K + rank)
    above = ranked.standard_score(key) - (ranked.absent_score or 0.0)
    return ranked.weight * (max(above, 0.0) if method == "combmnz" else above)


def _hit(rank: int, item: Item, score: float, match: Match, signals: dict[str, Signal]) -> Hit:
    span, part = match
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
