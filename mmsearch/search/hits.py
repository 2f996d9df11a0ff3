"""From ranked lists to hits: reranked, fused, looked up, each with its span and its signals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmsearch.search.fusion import DEFAULT, FUSIONS, RRF_K
from mmsearch.search.query_vectors import ScoredVector, VectorKey, score_vectors
from mmsearch.search.ranking import WORDS, RankedList, WordList
from mmsearch.search.rerank import diversify, group_copies, rerank_by_tokens
from mmsearch.search.settings import Settings
from mmsearch.spaces.calibration import NO_GOOD_MATCH
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage.lexical import best_text
from mmsearch.types import CAPTIONS, Hit, Item, Signal, Span, TextPart

MIN_SPANNED_ITEMS = 100
"""Items whose spans are ranked when each span is a hit of its own; more if k is higher."""

SpanKey = tuple[int, float, float]
"""(item id, start, end) of a span; -1 and -1 for a whole item."""

Match = tuple[Span | None, TextPart | None]
"""The span of an item that matched, and the text about it."""


@dataclass
class FusedList:
    """The ranked lists of a query, fused into one: what is to be hits, in their order."""

    index: OpenIndex
    lists: Sequence[RankedList]
    """The lists that were fused, after reranking if there was any."""
    method: str
    """How they were fused."""
    words: str | None
    """The words of the query that were looked up literally."""
    ranking: list[tuple[Any, float]]
    """(key, score), best first; a key is an item id, or an item id with a span."""
    copies: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """By item, the copies that are collapsed into it."""

    def confidences(self, keys: Iterable[Any]) -> dict[Any, float]:
        """By key, the evidence that it is not a match by chance; keys without any are left out.

        An item that contains every word of the query is a match, whatever its vectors say.
        """
        confidence = _confidences(self.lists, keys)
        word_lists = [ranked for ranked in self.lists if isinstance(ranked, WordList)]
        complete = {item_id for ranked in word_lists for item_id in ranked.complete_matches}
        for item_id in complete & confidence.keys():
            confidence[item_id] = max(confidence[item_id], NO_GOOD_MATCH)
        return confidence

    def hits(self, ranking: Sequence[tuple[int, Any, float]]) -> Iterator[tuple[Any, Hit]]:
        """Some of the ranking, (rank, key, score), as hits, each with its key."""
        ids = [item_id for _, item_id, _ in ranking]
        matched = _MatchedItems(self.index, self.lists, ids, self.words)
        cosines = {ranked.name: matched.cosines(ranked) for ranked in self.lists}
        matches = matched.matches()
        captions = matched.matching_captions()
        confidence = self.confidences(ids)
        copies = [copy for item_id in ids for copy in self.copies.get(item_id, ())]
        paths = {id_: item.path for id_, item in self.index.store.items.get(copies).items()}
        for rank, item_id, score in ranking:
            if (item := matched.items.get(item_id)) is None:  # deleted meanwhile
                continue
            span, text = matches.get(item_id, (None, None))
            text = text or (not span and captions.get(item_id)) or _text_about(item, span)
            signals = _signals(self.lists, item_id, self.method, cosines)
            hit = _hit(rank, item, score, confidence.get(item_id), (span, text), signals)
            duplicates = [paths[id_] for id_ in self.copies.get(item_id, ()) if id_ in paths]
            if duplicates:
                hit = replace(hit, metadata={**hit.metadata, "duplicates": duplicates})
            yield item_id, hit


@dataclass
class FusedSpans(FusedList):
    """The same, each matching span of the items by itself: windows, frames, pages, passages."""

    items: Mapping[int, Item] = field(default_factory=dict)
    matches: Mapping[SpanKey, Match] = field(default_factory=dict)
    cosines: Mapping[str, Mapping[Any, float]] = field(default_factory=dict)

    def confidences(self, keys: Iterable[Any]) -> dict[Any, float]:
        """By span, the evidence that it is not a match by chance."""
        return _confidences(self.lists, keys)

    def hits(self, ranking: Sequence[tuple[int, Any, float]]) -> Iterator[tuple[Any, Hit]]:
        """Some of the ranking, (rank, key, score), as hits, each with its key."""
        confidence = self.confidences([key for _, key, _ in ranking])
        for rank, key, score in ranking:
            signals = _signals(self.lists, key, self.method, self.cosines)
            item, match = self.items[key[0]], self.matches[key]
            yield key, _hit(rank, item, score, confidence.get(key), match, signals)


def fuse_lists(
    index: OpenIndex, lists: Sequence[RankedList], settings: Settings, words: str | None, most: int
) -> FusedList:
    """The best of one query: reranked, fused, diversified, copies collapsed.

    Args:
        index: That the lists were made from.
        lists: The ranked lists of the query.
        settings: Of the search.
        words: The words of the query that were looked up literally.
        most: Spans are ranked of so many items.
    """
    if settings.rerank == "fusion":
        lists = rerank_by_tokens(index, lists)
    ranking = _fuse(lists, settings)
    if settings.spans:
        ids = [item_id for item_id, _ in ranking[:most]]
        return _fused_spans(_MatchedItems(index, lists, ids, words), settings)
    if settings.rerank == "diverse":
        ranking = diversify(index, ranking, settings)
    method = _fusion_method(lists, settings)
    fused = FusedList(index, lists, method, words, ranking)
    if not settings.may_drop:
        return fused
    groups = group_copies(index, ranking, settings)
    fused.copies = {item_id: group[1:] for item_id, group in groups.items()}
    fused.ranking = _confident(fused, [pair for pair in ranking if pair[0] in groups], settings)
    return fused


def _confident(
    fused: FusedList, ranking: list[tuple[Any, float]], settings: Settings
) -> list[tuple[Any, float]]:
    """Those of a ranking that have the confidence that hits must have."""
    if not settings.min_confidence:
        return ranking
    confidence = fused.confidences([key for key, _ in ranking])
    return [pair for pair in ranking if confidence.get(pair[0], 0.0) >= settings.min_confidence]


def listed_hit(rank: int, item: Item) -> Hit:
    """An item as a hit of no query: without score, confidence and signals."""
    return _hit(rank, item, 0.0, None, (None, _text_about(item, None)), {})


def _fuse(lists: Sequence[RankedList], settings: Settings) -> list[tuple[Any, float]]:
    """Several ranked lists fused into one; a single list keeps its scores."""
    if len(lists) <= 1:
        return lists[0].ranking if lists else []
    method = _fusion_method(lists, settings)
    rankings = [ranked.ranking if method == "rrf" else ranked.standardised for ranked in lists]
    weights = [ranked.weight for ranked in lists]
    return FUSIONS[method](rankings, weights, [ranked.absent_score for ranked in lists])


def _fusion_method(lists: Sequence[RankedList], settings: Settings) -> str:
    """The fusion that is set, else the default.

    The default is reciprocal ranks if the parts of the query have lists of their own: a hit then
    resembles any of the parts, not all.
    """
    searched = [ranked.query.modality for ranked in lists if ranked.query is not None]
    return settings.fusion or ("rrf" if len(searched) > len(set(searched)) else DEFAULT)


def _confidences(lists: Sequence[RankedList], keys: Iterable[Any]) -> dict[Any, float]:
    """By key, its highest confidence in any list."""
    highest: dict[Any, float] = {}
    wanted = list(keys)
    compared = [
        # the reference is of scores before reranking
        (ranked.scores | ranked.first_stage_scores, ranked.background)
        for ranked in lists
        if ranked.query is not None and ranked.background is not None
    ]
    for scores, background in compared:
        known = [key for key in wanted if key in scores]
        confidences = background.confidences([scores[key] for key in known], len(compared))
        for key, confidence in zip(known, confidences or (), strict=False):
            highest[key] = max(highest.get(key, 0.0), confidence)
    return highest


# ---------------------------------------------------------------------- what matched in an item


@dataclass
class _MatchedItems:
    """The items that ranked lists found, with the exact scores of their vectors."""

    index: OpenIndex
    lists: Sequence[RankedList]
    ids: Sequence[int]
    words: str | None
    """The words of the query that were looked up literally."""

    def __post_init__(self) -> None:
        self.items: Mapping[int, Item] = self.index.store.items.get(self.ids)
        self.scored: dict[str, list[ScoredVector]] = {
            ranked.name: score_vectors(self.index, ranked.query, self.ids)
            for ranked in self.lists
            if ranked.query is not None
        }
        """By the name of a list, the items' vectors in it, best first."""

    def spans(self, ranked: RankedList) -> dict[VectorKey, Span | None]:
        """The span of each vector of these items in a list."""
        if ranked.query is None:
            return {}
        return self.index.store.vectors.spans(ranked.query.space, ranked.query.modality, self.ids)

    def cosines(self, ranked: RankedList) -> dict[int, float]:
        """The best plain cosine of each item in a list."""
        best: dict[int, float] = {}
        for vector in self.scored.get(ranked.name, ()):
            item_id = vector.key[0]
            best[item_id] = max(best.get(item_id, -1.0), vector.cosine)
        return best

    def matches(self) -> dict[int, Match]:
        """By item, what matched in the list that ranks it highest.

        Photos have no span, unless they are animations, or one of their texts matched.
        """
        best: dict[int, Match] = {}
        for ranked, ids in self._highest():
            in_text = ranked.query is not None and ranked.query.modality == "text"
            scored = self.scored.get(ranked.name, ())
            # most photos are no animations, and have one vector
            still = all(self.items[item_id].modality == "image" for item_id in ids) and not any(
                vector.key[1] for vector in scored
            )
            spans = {} if in_text or still else self.spans(ranked)
            for vector in scored:
                item_id, position = vector.key
                item = self.items.get(item_id)
                if item is None or item_id not in ids or item_id in best:
                    continue
                if in_text:
                    best[item_id] = _match(_text_at(item, position))
                else:
                    best[item_id] = spans.get(vector.key), None
            if ranked.name == WORDS:
                best |= {item_id: self.matching_text(self.items[item_id]) for item_id in ids}
        return best

    def matching_captions(self) -> dict[int, TextPart]:
        """The caption that matched best of each item that a list of texts ranks."""
        found: dict[int, TextPart] = {}
        for ranked in self.lists:
            if ranked.query is not None and ranked.query.modality == "text":
                for vector in self.scored.get(ranked.name, ()):
                    item_id, position = vector.key
                    item = self.items.get(item_id)
                    text = _text_at(item, position) if item is not None else None
                    if text is not None and text.origin in CAPTIONS:
                        found.setdefault(item_id, text)
        return found

    def _highest(self) -> list[tuple[RankedList, set[int]]]:
        """Each list with the items that it ranks highest of all; the first list if several do."""
        highest: dict[int, tuple[int, int]] = {}
        for number, ranked in enumerate(self.lists):
            for item_id in self.items:
                if (rank := ranked.ranks.get(item_id)) is not None:
                    highest[item_id] = min(highest.get(item_id, (rank, number)), (rank, number))
        ids: list[set[int]] = [set() for _ in self.lists]
        for item_id, (_, number) in highest.items():
            ids[number].add(item_id)
        return [pair for pair in zip(self.lists, ids, strict=True) if pair[1]]

    def matching_text(self, item: Item) -> Match:
        """The text of an item with the most query words, if any has one."""
        position = best_text(item, self.words) if self.words else None
        return _match(None if position is None else _text_at(item, position))


def _match(text: TextPart | None) -> Match:
    return text.span if text else None, text


def _text_at(item: Item, position: int) -> TextPart | None:
    return item.texts[position] if position < len(item.texts) else None


def _text_about(item: Item, span: Span | None) -> TextPart | None:
    """The text of an item about a span of it, else about all of it."""
    if not item.texts:
        return None
    if span is not None:
        for text in item.texts:
            other = text.span
            if other is None or other.unit != span.unit:
                continue
            if other.start < span.end and other.end > span.start:
                return text
            if other.start == span.start:
                return text
    of_all = [text for text in item.texts if text.span is None or span is None]
    captions = [text for text in of_all if text.origin in CAPTIONS]
    return next(iter(captions or of_all), None)


# ---------------------------------------------------------------------- spans as hits


def _fused_spans(matched: _MatchedItems, settings: Settings) -> FusedSpans:
    """Each matching span of some items, ranked."""
    matches: dict[SpanKey, Match] = {}
    cosines: dict[str, dict[Any, float]] = {}
    lists = []
    for ranked in matched.lists:
        if ranked.name == WORDS:
            ranking = _words_by_span(matched, ranked, matches)
        else:
            ranking, cosines[ranked.name] = _by_span(matched, ranked, matches)
        lists.append(replace(ranked, ranking=ranking, extra_scores=[]))
    method = _fusion_method(lists, settings)
    fused = FusedSpans(
        matched.index,
        lists,
        method,
        matched.words,
        _fuse(lists, settings),
        items=matched.items,
        matches=matches,
        cosines=cosines,
    )
    fused.ranking = _confident(fused, fused.ranking, settings)
    return fused


def _by_span(
    matched: _MatchedItems, ranked: RankedList, matches: dict[SpanKey, Match]
) -> tuple[list[tuple[Any, float]], dict[Any, float]]:
    """A list's spans with their scores, and with their plain cosines."""
    ranking: dict[SpanKey, float] = {}
    cosines: dict[Any, float] = {}
    spans = matched.spans(ranked)
    in_text = ranked.query is not None and ranked.query.modality == "text"
    for vector in matched.scored[ranked.name]:
        item_id, position = vector.key
        if (item := matched.items.get(item_id)) is None:
            continue
        span = spans.get(vector.key)
        key = _span_key(item_id, span)
        if key not in matches or (in_text and key not in ranking):
            matches[key] = span, _text_at(item, position) if in_text else _text_about(item, span)
        ranking.setdefault(key, vector.score)
        cosines.setdefault(key, vector.cosine)
    return list(ranking.items()), cosines


def _words_by_span(
    matched: _MatchedItems, ranked: RankedList, matches: dict[SpanKey, Match]
) -> list[tuple[Any, float]]:
    """The lexical list by span: an item's score is given to its text with the most query words."""
    ranking = []
    for item_id, score in ranked.ranking:
        if (item := matched.items.get(item_id)) is not None:
            match = matched.matching_text(item)
            key = _span_key(item_id, match[0])
            matches.setdefault(key, match)
            ranking.append((key, score))
    return ranking


def _span_key(item_id: int, span: Span | None) -> SpanKey:
    return (item_id, span.start, span.end) if span else (item_id, -1.0, -1.0)


# ---------------------------------------------------------------------- what explains a hit


def _signals(
    lists: Sequence[RankedList],
    key: Any,
    method: str,
    cosines: Mapping[str, Mapping[Any, float]],
) -> dict[str, Signal]:
    """By list, the signal of an item or span."""
    found = [
        (ranked, score, _term(ranked, key, method))
        for ranked in lists
        if (score := ranked.scores.get(key)) is not None
    ]
    total = sum(abs(term) for _, _, term in found)
    signals: dict[str, Signal] = {}
    for ranked, score, term in found:
        share = term / total if total else 0.0
        signals[ranked.name] = Signal(
            ranked.ranks.get(key),
            cosines.get(ranked.name, {}).get(key, score),
            ranked.background.standardised(score) if ranked.background else None,
            round(share, 4) if len(lists) > 1 else 1.0,
        )
    return signals


def _term(ranked: RankedList, key: Any, method: str) -> float:
    """What a list adds to a key's fused score, up to a factor that all lists share."""
    if method == "rrf":
        rank = ranked.ranks.get(key)
        return 0.0 if rank is None else ranked.weight / (RRF_K + rank)
    above = ranked.standard_score(key) - (ranked.absent_score or 0.0)
    return ranked.weight * (max(above, 0.0) if method == "combmnz" else above)


def _hit(
    rank: int,
    item: Item,
    score: float,
    confidence: float | None,
    match: Match,
    signals: dict[str, Signal],
) -> Hit:
    span, text = match
    return Hit(
        rank=rank,
        id=item.id,
        path=item.path,
        modality=item.modality,
        score=score,
        confidence=confidence,
        span=span,
        caption=text.text if text else None,
        metadata=item.metadata,
        signals=signals,
    )
