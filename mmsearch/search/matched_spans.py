"""Which span of each hit matched, and the text that goes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmsearch.search.query_vectors import ScoredVector, VectorKey, score_vectors
from mmsearch.search.ranking import WORDS, RankedList
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage.lexical import best_text
from mmsearch.types import Item, Span, TextPart

Match = tuple[Span | None, TextPart | None]
"""The span of an item that matched, and the text about it."""


@dataclass
class MatchedItems:
    """Items to be shown, with the exact scores of their vectors.

    Attributes:
        index: Where they are stored.
        lists: The ranked lists that found them.
        ids: Which items.
        words: What was looked up as it is written.
    """

    index: OpenIndex
    lists: Sequence[RankedList]
    ids: Sequence[int]
    words: str | None

    def __post_init__(self) -> None:
        self.items: Mapping[int, Item] = self.index.store.items.get(self.ids)
        self.scored: dict[str, list[ScoredVector]] = {
            one.name: score_vectors(self.index, one.query, self.ids)
            for one in self.lists
            if one.query is not None
        }
        """By the name of a list, its vectors of these items, best first."""

    def spans(self, ranked: RankedList) -> dict[VectorKey, Span | None]:
        """The span of each vector of these items in a list."""
        if ranked.query is None:
            return {}
        return self.index.store.vectors.spans(ranked.query.space, ranked.query.modality, self.ids)

    def cosines(self, ranked: RankedList) -> dict[int, float]:
        """The best plain cosine of each item in a list."""
        best: dict[int, float] = {}
        for one in self.scored.get(ranked.name, ()):
            best[one.key[0]] = max(best.get(one.key[0], -1.0), one.cosine)
        return best

    def matches(self) -> dict[int, Match]:
        """For each item, what matched in the list that ranks it highest.

        Photos have no span, unless one of their texts matched.
        """
        best: dict[int, Match] = {}
        for ranked, mine in self._highest():
            in_text = ranked.query is not None and ranked.query.modality == "text"
            photos = all(self.items[id_].modality == "image" for id_ in mine)
            spans = {} if in_text or photos else self.spans(ranked)
            for one in self.scored.get(ranked.name, ()):
                item_id, position = one.key
                item = self.items.get(item_id)
                if item is None or item_id not in mine or item_id in best:
                    continue
                if in_text:
                    part = text_of(item, position)
                    best[item_id] = part.span if part else None, part
                elif item.modality != "image":
                    best[item_id] = spans.get(one.key), None
            if ranked.name == WORDS:
                best |= {id_: self.matching_text(self.items[id_]) for id_ in mine}
        return best

    def _highest(self) -> list[tuple[RankedList, set[int]]]:
        """Each list with the items that it, and no list before it, ranks highest."""
        highest: dict[int, tuple[int, int]] = {}
        for number, ranked in enumerate(self.lists):
            for item_id in self.items:
                if (rank := ranked.ranks.get(item_id)) is not None:
                    highest[item_id] = min(highest.get(item_id, (rank, number)), (rank, number))
        mine = [
            {id_ for id_, (_, by) in highest.items() if by == n} for n in range(len(self.lists))
        ]
        return [pair for pair in zip(self.lists, mine, strict=True) if pair[1]]

    def matching_text(self, item: Item) -> Match:
        """The text of an item that holds most of the words, if any does."""
        position = best_text(item, self.words) if self.words else None
        part = None if position is None else text_of(item, position)
        return part.span if part else None, part


def text_of(item: Item, position: int) -> TextPart | None:
    """An item's text at a position, if it has that many."""
    return item.texts[position] if position < len(item.texts) else None


def text_at(item: Item, span: Span | None) -> TextPart | None:
    """The text of an item about a span of it, else about all of it."""
    if span is not None:
        for part in item.texts:
            own = part.span
            if own and own.unit == span.unit and own.start < span.end and own.end > span.start:
                return part
            if own and own.unit == span.unit == "page" and own.start == span.start:
                return part
    whole = [part for part in item.texts if part.span is None or span is None]
    captions = [part for part in whole if part.origin in ("sidecar", "caption")]
    return next(iter(captions or whole), None)
