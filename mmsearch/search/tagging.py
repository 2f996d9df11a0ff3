"""Tags the items of an index with zero-shot labels, and remembers the labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidOption, UnknownTarget
from mmsearch.search.labels import (
    BINS,
    MIN_CONFIDENCE,
    Labeller,
    checked_labels,
    frequency_odds,
    scale_odds,
)
from mmsearch.search.setting_formats import SHARE
from mmsearch.spaces.open_index import OpenIndex
from mmsearch.storage import Serving, Space, Store
from mmsearch.types import Modality, Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELLED: tuple[Modality, ...] = ("image", "audio")
"""The modalities that labels are compared with."""

SETTING = "labels"

HIGHEST = 0.9999
"""The highest score of a label: that of tags given by hand is above it."""

IMPOSSIBLE = 0.005
"""A confidence so low that no frequency of a label can raise it to MIN_CONFIDENCE."""


@dataclass(frozen=True, slots=True)
class TagLabel:
    """A label that items are tagged with."""

    label: str
    min_confidence: float
    modalities: tuple[Modality, ...]
    """The modalities that it is compared with."""
    odds: Mapping[str, float] = field(default_factory=dict)
    """By modality, the factor for its odds in this index: see `frequency_odds`."""


def tag_items(
    index: OpenIndex,
    labels: str | Sequence[str] | None,
    *,
    min_confidence: float | None = None,
    target: str | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Tag every item with the labels that fit it; by label, how many items have it.

    Items are tagged again with labels used before; their other tags stay. Of a video or sound, the
    frame or window that fits a label best counts. `Collection.tag` describes the arguments.
    """
    changes: dict[str, Any] = {}
    if min_confidence is not None:
        changes["min_confidence"] = SHARE.check("min_confidence", min_confidence)
    modalities = tuple(modality for modality in LABELLED if target in (None, modality))
    if not modalities:
        raise UnknownTarget(f"labels are given to {' and '.join(LABELLED)}, not to {target!r}")
    if target is not None:
        changes["modalities"] = modalities
    store = index.store
    if labels is None:
        given = tag_labels(store)
    else:
        given = [TagLabel(label, MIN_CONFIDENCE, LABELLED) for label in checked_labels(labels)]
    if not given:
        return {}
    tags = [replace(tag, **changes) for tag in given]
    if not label_spaces(index.serving(), modalities):
        missing = "pictures or sounds" if target is None else f"vectors of {target}"
        raise InvalidOption(f"the index has no {missing} that words can be compared with")
    revision = store.state().revision
    counts, tags = _tag(index, tags, progress)
    known = {tag.label: tag for tag in [*tag_labels(store), *tags]}
    all_current = len(known) == len(tags) or _tagged_at(store) == revision
    _remember(store, list(known.values()), revision if all_current else None)
    return counts


def tag_new(index: OpenIndex, progress: Progress | None = None) -> dict[str, int]:
    """Bring the tags up to date with the index; by label, how many items have it.

    Nothing is done, and the result is empty, if the index has not changed. Otherwise all items are
    compared again, which takes a product of matrices and no decoding.
    """
    tags = tag_labels(index.store)
    revision = index.store.state().revision
    if not tags or _tagged_at(index.store) == revision:
        return {}
    counts, tags = _tag(index, tags, progress)
    _remember(index.store, tags, revision)
    return counts


def forget_labels(store: Store, labels: str | Sequence[str] | None = None) -> int:
    """Remove labels from all items, and stop giving them; None removes all labels.

    Returns:
        How many tags were removed, over all items and labels.
    """
    names = None if labels is None else checked_labels(labels)
    removed = store.tags.clear(names)
    left = [] if names is None else [tag for tag in tag_labels(store) if tag.label not in names]
    _remember(store, left, _tagged_at(store))
    return removed


def tag_labels(store: Store) -> list[TagLabel]:
    """The labels that items are tagged with."""
    stored = json.loads(store.settings.get(SETTING) or "{}")
    return [
        TagLabel(entry["label"], entry["least"], tuple(entry["facets"]), entry["odds"])
        for entry in stored.get("labels", ())
    ]


def label_spaces(serving: Serving, modalities: Sequence[Modality]) -> list[tuple[Space, Modality]]:
    """For each modality, the preferred space that has vectors of it and encodes text."""
    found: dict[Modality, Space] = {}
    for space, stored in serving:
        for modality in modalities:
            if modality in stored and "text" in space.modalities:
                found.setdefault(modality, space)
    return [(space, modality) for modality, space in found.items()]


def _tag(
    index: OpenIndex, tags: Sequence[TagLabel], progress: Progress | None
) -> tuple[dict[str, int], list[TagLabel]]:
    """Tag items; by label how many have it, and the labels with their estimated odds."""
    vectors = index.store.vectors
    scores: dict[str, dict[int, float]] = {tag.label: {} for tag in tags}
    odds: dict[str, dict[str, float]] = {tag.label: {} for tag in tags}
    spaces = label_spaces(index.serving(), LABELLED)
    total = sum(vectors.count(space, modality) for space, modality in spaces)
    done = 0
    for space, modality in spaces:
        compared = [tag for tag in tags if modality in tag.modalities]
        if not compared:
            continue
        labeller = Labeller(index.encoder(space), modality, [tag.label for tag in compared])
        tally = _Tally(compared)
        for ids, matrix in vectors.pages(space, modality):
            tally.add(ids, labeller.confidence(matrix))
            done += len(ids)
            if progress is not None:
                progress(done, total)
        for tag, factor, tagged in tally.results():
            odds[tag.label][modality] = factor
            items = scores[tag.label]
            for item_id, confidence in tagged:
                items[item_id] = max(items.get(item_id, 0.0), confidence)
    index.store.tags.set(scores)
    counts = {label: len(items) for label, items in scores.items()}
    return counts, [replace(tag, odds=odds[tag.label]) for tag in tags]


class _Tally:
    """The confidences of some labels over the items of one modality."""

    def __init__(self, tags: Sequence[TagLabel]) -> None:
        import numpy as np

        self._tags = tags
        self._counts = np.zeros((len(tags), BINS), np.int64)
        self._candidates: list[list[tuple[Any, Any]]] = [[] for _ in tags]

    def add(self, ids: NDArray[np.int64], confidence: NDArray[np.float32]) -> None:
        """Add the confidences (n, labels) of vectors; those of one item are side by side."""
        import numpy as np

        owners, starts = np.unique(ids, return_index=True)
        best = np.maximum.reduceat(confidence, starts, axis=0)
        for number, tag in enumerate(self._tags):
            column = best[:, number]
            bins = (column * BINS).astype(np.int64).clip(max=BINS - 1)
            self._counts[number] += np.bincount(bins, minlength=BINS)
            possible = column >= min(IMPOSSIBLE, tag.min_confidence)
            self._candidates[number].append((owners[possible], column[possible]))

    def results(self) -> Iterator[tuple[TagLabel, float, list[tuple[int, float]]]]:
        """Each label, its odds, and the items that have it with their confidences."""
        for tag, counts, candidates in zip(self._tags, self._counts, self._candidates, strict=True):
            odds = frequency_odds(counts)
            tagged: list[tuple[int, float]] = []
            for ids, column in candidates:
                confidence = scale_odds(column, odds)
                fits = confidence >= tag.min_confidence
                scores = confidence[fits].round(4).clip(max=HIGHEST)
                tagged += zip(ids[fits].tolist(), scores.tolist(), strict=True)
            yield tag, odds, tagged


def _remember(store: Store, tags: Sequence[TagLabel], revision: int | None) -> None:
    labels = [
        {
            "label": tag.label,
            "least": tag.min_confidence,
            "facets": tag.modalities,
            "odds": dict(tag.odds),
        }
        for tag in tags
    ]
    stored = {"labels": labels, "revision": revision}
    store.settings.set(SETTING, json.dumps(stored, ensure_ascii=False))


def _tagged_at(store: Store) -> int | None:
    """The revision of the store at which items were tagged with all labels."""
    revision: int | None = json.loads(store.settings.get(SETTING) or "{}").get("revision")
    return revision
