"""A file in words: the texts of an index that fit it best, and the labels that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.errors import UnsupportedModality
from mmsearch.media.kinds import kind_of
from mmsearch.search.labels import best_labels, checked_labels, scale_odds
from mmsearch.search.query_vectors import encode_parts
from mmsearch.search.searcher import Searcher
from mmsearch.search.setting_formats import whole
from mmsearch.search.settings import Settings
from mmsearch.search.tagging import LABELLED, TagLabel, label_spaces, tag_labels
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import Space
from mmsearch.storage.resolver import current_item_at
from mmsearch.types import Hit, Modality, Part

if TYPE_CHECKING:
    from mmsearch.types import Vectors

OVERSAMPLING = 5
"""Hits searched per text to return, as several files often have the same text."""


@dataclass(frozen=True, slots=True)
class MatchingText:
    """A text of the index that fits a file."""

    text: str
    score: float
    confidence: float | None
    path: str
    """The file that has the text; the best of several."""


@dataclass(frozen=True, slots=True)
class Description:
    """A file in words."""

    path: str
    own: tuple[str, ...]
    """The texts that the index has of the file itself."""
    texts: tuple[MatchingText, ...]
    """The texts of other files that fit it, the best first, each once."""
    labels: tuple[tuple[str, float], ...]
    """The labels that fit it with their confidences, the highest first."""


def describe(
    index: OpenIndex, path: str, *, k: int = 5, labels: str | Sequence[str] | None = None
) -> Description:
    """A file described by up to k texts of the index, and up to k labels.

    Labels are chosen from `labels`; by default from those of `mmsearch tag` that reach their
    confidence, and from everyday words if the index has no text that fits.

    Raises:
        PathNotFound, UnreadableFile: the file does not exist, or cannot be used.
        InvalidOption: `k` is not a whole number from 1 on; a label is empty, or not text.
    """
    k = whole("k", k, least=1)
    choice = None if labels is None else checked_labels(labels)
    item_id = current_item_at(index.store, path)
    item = None if item_id is None else index.store.items.get([item_id]).get(item_id)
    try:
        hits = Searcher(index).similar(path, Settings(k=k * OVERSAMPLING, target="text"))
        texts = _distinct(hits, k)
    except UnsupportedModality:
        texts = ()  # no text of the index can be compared with it
    labeller = _FileLabeller(index, path, item_id)
    found = labeller.tags() if choice is None else labeller.best(choice, k)
    if not texts and choice is None:
        found += labeller.best(None, k)
    best = sorted(dict(reversed(found)).items(), key=lambda pair: (-pair[1], pair[0]))
    own_texts = tuple(dict.fromkeys(part.text for part in item.texts)) if item else ()
    return Description(path, own_texts, texts, tuple(best[:k]))


def _distinct(hits: Sequence[Hit], k: int) -> tuple[MatchingText, ...]:
    """The best k texts; those that differ only in spaces and case count as one."""
    found: dict[str, MatchingText] = {}
    for hit in hits:
        if hit.caption is not None:
            key = " ".join(hit.caption.split()).casefold()
            text = MatchingText(hit.caption, hit.score, hit.confidence, hit.path)
            found.setdefault(key, text)
    return tuple(found.values())[:k]


@dataclass(frozen=True, slots=True)
class _FileLabeller:
    """Labels one file."""

    index: OpenIndex
    path: str
    item_id: int | None

    def tags(self) -> list[tuple[str, float]]:
        """The labels of `mmsearch tag` that reach their confidence."""
        tags = {tag.label: tag for tag in tag_labels(self.index.store)}
        found = self.best(tags, len(tags)) if tags else []
        return [(label, sure) for label, sure in found if sure >= tags[label].min_confidence]

    def best(
        self, labels: Sequence[str] | Mapping[str, TagLabel] | None, k: int
    ) -> list[tuple[str, float]]:
        """The k best of some labels, else of everyday words.

        Those of `tag` are weighted by how common they are in the index.
        """
        tags = labels if isinstance(labels, Mapping) else {}
        choice = None if labels is None else list(labels)
        found: dict[str, float] = {}
        for space, modality in label_spaces(self.index.serving(), LABELLED):
            vectors = self._vectors(space, modality)
            if vectors is None or not len(vectors):
                continue
            encoder = self.index.encoder(space)
            for label, confidence in best_labels(vectors, encoder, modality, choice, k):
                odds = tags[label].odds.get(modality, 1.0) if label in tags else 1.0
                rounded = round(float(scale_odds(confidence, odds)), 4)
                found[label] = max(found.get(label, 0.0), rounded)
        return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))

    def _vectors(self, space: Space, modality: Modality) -> Vectors | None:
        """The stored vectors (n, dim) of the file, else its encoding."""
        if self.item_id is not None:
            return self.index.store.vectors.of(space, modality, [self.item_id])[1]
        if kind_of(self.path) == modality:
            return encode_parts(self.index.encoder(space), [Part(modality, self.path)])
        return None
