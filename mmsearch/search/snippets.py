"""What is known of the items that are shown: which stretch of each matched, and what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmsearch.search.facets import WORDS, Facet
from mmsearch.search.rank import Holdings, Stretch, stretches
from mmsearch.storage.lexical import words_part
from mmsearch.types import Item, Span, TextPart

Key = tuple[int, float, float]
"""(item id, start, end) of a stretch; -1 and -1 for a whole item."""

Where = tuple[Span | None, TextPart | None]
"""What of an item matched: the stretch, and the text it is about."""


@dataclass
class Shown:
    """What is known of the items that are shown.

    Attributes:
        holdings: What to draw on.
        facets: What ranked them.
        ids: Which they are.
        words: What was looked up as it is written.
    """

    holdings: Holdings
    facets: Sequence[Facet]
    ids: Sequence[int]
    words: str | None

    def __post_init__(self) -> None:
        store = self.holdings.store
        self.items: Mapping[int, Item] = store.items.get(self.ids)
        self.near = {
            facet.name: stretches(store, facet.search, self.ids)
            for facet in self.facets
            if facet.search is not None
        }
        """By name of a facet, (stretch, score, cosine) of its vectors of these items."""

    def spans_of(self, facet: Facet) -> dict[Stretch, Span | None]:
        """Where in their files a facet's vectors of these items are."""
        if facet.search is None:
            return {}
        return self.holdings.store.vectors.spans(facet.search.space, facet.search.facet, self.ids)

    def plain(self, facet: Facet) -> dict[int, float]:
        """The best cosine of each item in a facet, before any hub is taken off."""
        best: dict[int, float] = {}
        for (item_id, _), _, cosine in self.near.get(facet.name, ()):
            best[item_id] = max(best.get(item_id, -1.0), cosine)
        return best


def best_stretches(shown: Shown) -> dict[int, Where]:
    """For each item, the stretch that matched in the facet that ranked it highest.

    Photos have none, unless one of their texts matched.
    """
    highest: dict[int, tuple[int, int]] = {}
    for number, facet in enumerate(shown.facets):
        for item_id in shown.items:
            if (rank := facet.ranks.get(item_id)) is not None:
                highest[item_id] = min(highest.get(item_id, (rank, number)), (rank, number))
    best: dict[int, Where] = {}
    for number, facet in enumerate(shown.facets):
        mine = {item_id for item_id, (_, by) in highest.items() if by == number}
        if not mine:
            continue
        in_text = facet.search is not None and facet.search.facet == "text"
        photos = all(shown.items[id_].modality == "image" for id_ in mine)
        spans = {} if in_text or photos else shown.spans_of(facet)
        for (item_id, position), _, _ in shown.near.get(facet.name, ()):
            item = shown.items.get(item_id)
            if item is None or item_id not in mine or item_id in best:
                continue
            if in_text:
                part = text_of(item, position)
                best[item_id] = part.span if part else None, part
            elif item.modality != "image":
                best[item_id] = spans.get((item_id, position)), None
        if facet.name == WORDS:
            best |= {id_: said(shown.items[id_], shown.words) for id_ in mine}
    return best


def said(item: Item, words: str | None) -> Where:
    """The text of an item that holds most of the words, if any does."""
    position = words_part(item, words) if words else None
    part = None if position is None else text_of(item, position)
    return part.span if part else None, part


def text_of(item: Item, position: int) -> TextPart | None:
    """An item's text at a position, if it has so many."""
    return item.texts[position] if position < len(item.texts) else None


def text_at(item: Item, span: Span | None) -> TextPart | None:
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
