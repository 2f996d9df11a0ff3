"""A file in words: the texts of an index that fit it best, and the labels that it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmsearch.errors import UnsupportedModality
from mmsearch.media.kinds import kind_of
from mmsearch.search.labels.scoring import shifted
from mmsearch.search.labels.tagging import (
    FACETS,
    EncoderOf,
    Present,
    Wanted,
    labels_of,
    places_of,
    remembered,
)
from mmsearch.search.query_vectors import encode_parts
from mmsearch.storage import Space, Store
from mmsearch.types import Hit, Modality, Part

if TYPE_CHECKING:
    from mmsearch.types import Vectors

WIDER = 5
"""Hits that are asked for each text wanted: several files often have the same text."""

Near = Callable[[int], list[Hit]]
"""The best hits among the index's texts for the file, so many of them."""


@dataclass(frozen=True, slots=True)
class Said:
    """A text of the index that fits a file."""

    text: str
    score: float
    confidence: float | None
    path: str
    """The file whose text it is; the best of several."""


@dataclass(frozen=True, slots=True)
class Description:
    """A file in words."""

    path: str
    own: tuple[str, ...]
    """The texts that the index holds of the file itself."""
    texts: tuple[Said, ...]
    """Those of others that fit it, the best first, each once."""
    labels: tuple[tuple[str, float], ...]
    """Labels that it shows, the surest first, with their confidences."""


def describe(  # noqa: PLR0913 - the file, what is known of it, and what is wanted
    store: Store,
    encoder_of: EncoderOf,
    present: Present,
    path: str,
    own: int | None,
    near: Near,
    *,
    k: int = 5,
    labels: Sequence[str] | None = None,
) -> Description:
    """What a file shows, in words that the index or its user has, else in everyday words.

    Args:
        store: What is indexed.
        encoder_of: Loads a space's encoder.
        present: Which spaces hold what.
        path: The file.
        own: Its item id, if it is indexed.
        near: Searches the index's texts for it.
        k: How many texts, and how many labels.
        labels: To choose from. Left out, those that `mmsearch tag` was asked for, as far as the
            file shows them; and everyday words if the index has no text that fits.

    Raises:
        UnreadableFile: the file is damaged.
        InvalidOption: a label is empty.
    """
    item = None if own is None else store.items.get([own]).get(own)
    try:
        texts = _once(near(k * WIDER), k)
    except UnsupportedModality:
        texts = ()  # no text of the index can be compared with it
    found = _shown(store, encoder_of, present, _Seen(path, own), labels, k)
    if not texts and labels is None:
        found += _best(store, encoder_of, present, _Seen(path, own), None, k)
    surest = sorted(dict(reversed(found)).items(), key=lambda pair: (-pair[1], pair[0]))
    written = tuple(dict.fromkeys(part.text for part in item.texts)) if item else ()
    return Description(path, written, texts, tuple(surest[:k]))


@dataclass(frozen=True, slots=True)
class _Seen:
    path: str
    own: int | None


def _once(hits: Sequence[Hit], k: int) -> tuple[Said, ...]:
    """The best k texts; of those that differ in spaces and case alone, one."""
    found: dict[str, Said] = {}
    for hit in hits:
        if hit.caption is not None:
            key = " ".join(hit.caption.split()).casefold()
            found.setdefault(key, Said(hit.caption, hit.score, hit.confidence, hit.path))
    return tuple(found.values())[:k]


def _shown(
    store: Store,
    encoder_of: EncoderOf,
    present: Present,
    seen: _Seen,
    labels: Sequence[str] | None,
    k: int,
) -> list[tuple[str, float]]:
    """The labels given, however sure; else those remembered that the file is sure to show."""
    if labels is not None:
        return _best(store, encoder_of, present, seen, labels, k)
    wanted = {one.label: one for one in remembered(store)}
    if not wanted:
        return []
    found = _best(store, encoder_of, present, seen, wanted, len(wanted))
    return [(label, sure) for label, sure in found if sure >= wanted[label].least]


def _best(
    store: Store,
    encoder_of: EncoderOf,
    present: Present,
    seen: _Seen,
    labels: Sequence[str] | Mapping[str, Wanted] | None,
    k: int,
) -> list[tuple[str, float]]:
    """The k surest labels; of those remembered, as common as they are in the index."""
    known = labels if isinstance(labels, Mapping) else {}
    choice = None if labels is None else list(labels)
    found: dict[str, float] = {}
    for space, facet in places_of(present, FACETS):
        vectors = _vectors(store, encoder_of, (space, facet), seen)
        if vectors is not None and len(vectors):
            for label, sure in labels_of(vectors, encoder_of(space), facet, choice, k):
                odds = known[label].odds.get(facet, 1.0) if label in known else 1.0
                found[label] = max(found.get(label, 0.0), round(float(shifted(sure, odds)), 4))
    return sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))


def _vectors(
    store: Store, encoder_of: EncoderOf, place: tuple[Space, Modality], seen: _Seen
) -> Vectors | None:
    """What is stored of the file (n, dim), else what it is encoded as."""
    space, facet = place
    if seen.own is not None:
        return store.vectors.of(space, facet, [seen.own])[1]
    if kind_of(seen.path) == facet:
        return encode_parts(encoder_of(space), [Part(facet, seen.path)])
    return None
