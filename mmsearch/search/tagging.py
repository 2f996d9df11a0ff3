"""Gives the items of an index labels as tags, and remembers which."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmsearch.errors import InvalidOption, UnknownTarget
from mmsearch.search.labels import (
    BINS,
    MIN_CONFIDENCE,
    Labeller,
    checked_labels,
    frequency_odds,
    shifted,
)
from mmsearch.spaces.open_index import OpenIndex, Serving
from mmsearch.storage import Space, Store
from mmsearch.types import Modality, Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELLED: tuple[Modality, ...] = ("image", "audio")
"""The modalities that labels are compared with."""

SETTING = "labels"

IMPOSSIBLE = 0.005
"""Confidence below which no frequency of a label makes up for it."""


@dataclass(frozen=True, slots=True)
class TagLabel:
    """A label that items are tagged with."""

    label: str
    min_confidence: float
    modalities: tuple[Modality, ...]
    """What it is compared with: pictures, sounds."""
    odds: Mapping[str, float] = field(default_factory=dict)
    """By modality, how much more common it is in the index than usual: see `frequency_odds`."""


def tag_items(
    index: OpenIndex,
    labels: str | Sequence[str],
    *,
    min_confidence: float | None = None,
    target: str | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Tag every item with those of the labels that it shows; by label, how many items have it.

    A label that was given before is given anew; others stay. A video counts by its frame, a sound
    by its window, that shows the label best.

    Args:
        index: Whose items.
        labels: Labels to look for.
        min_confidence: From which an item is given a label; left out, MIN_CONFIDENCE.
        target: "image" only looks, "audio" only listens; None does both.
        progress: Called with (vectors compared, vectors in all).

    Raises:
        InvalidOption: there is no label, the confidence is not from 0 to 1, or the index has no
            vectors to compare with.
        UnknownTarget: the target is neither.
    """
    least = MIN_CONFIDENCE if min_confidence is None else min_confidence
    if not 0 <= least <= 1:
        raise InvalidOption(f"a confidence is from 0 to 1, not {least}")
    modalities = _targeted(target)
    wanted = [TagLabel(label, least, modalities) for label in checked_labels(labels)]
    if not label_spaces(index.serving(), modalities):
        what = "pictures or sounds" if target is None else f"vectors of {target}"
        raise InvalidOption(f"the index has no {what} that words can be compared with")
    store = index.store
    revision = store.state().revision
    counts, wanted = _tag(index, wanted, progress)
    kept = {one.label: one for one in remembered(store)} | {one.label: one for one in wanted}
    all_current = len(kept) == len(wanted) or _tagged_at(store) == revision
    _remember(store, list(kept.values()), revision if all_current else None)
    return counts


def tag_new(index: OpenIndex, progress: Progress | None = None) -> dict[str, int]:
    """Tag what has changed since with the remembered labels; by label, how many items have it.

    If nothing has changed, nothing is done and nothing returned. Otherwise all items are compared
    again, which costs a product of matrices and no decoding.
    """
    wanted = remembered(index.store)
    revision = index.store.state().revision
    if not wanted or _tagged_at(index.store) == revision:
        return {}
    counts, wanted = _tag(index, wanted, progress)
    _remember(index.store, wanted, revision)
    return counts


def forget_labels(store: Store, labels: str | Sequence[str] | None = None) -> int:
    """Remove tags from all items and stop giving them; all tags when None.

    Returns:
        How many items had one, counted once for each tag.
    """
    names = None if labels is None else checked_labels(labels)
    removed = store.tags.clear(names)
    kept = [] if names is None else [one for one in remembered(store) if one.label not in names]
    _remember(store, kept, _tagged_at(store))
    return removed


def remembered(store: Store) -> list[TagLabel]:
    """The labels that items are tagged with."""
    kept = json.loads(store.settings.get(SETTING) or "{}")
    return [
        TagLabel(one["label"], one["least"], tuple(one["facets"]), one["odds"])
        for one in kept.get("labels", ())
    ]


def label_spaces(serving: Serving, modalities: Sequence[Modality]) -> list[tuple[Space, Modality]]:
    """For each modality, the preferred space that has vectors of it and encodes text."""
    found: dict[Modality, Space] = {}
    for space, stored in serving:
        for modality in modalities:
            if modality in stored and "text" in space.modalities:
                found.setdefault(modality, space)
    return [(space, modality) for modality, space in found.items()]


# ---------------------------------------------------------------------- parts of the above


def _targeted(target: str | None) -> tuple[Modality, ...]:
    if target is None:
        return LABELLED
    for modality in LABELLED:
        if target == modality:
            return (modality,)
    raise UnknownTarget(f"labels are given to {' and '.join(LABELLED)}, not to {target!r}")


def _tag(
    index: OpenIndex, wanted: Sequence[TagLabel], progress: Progress | None
) -> tuple[dict[str, int], list[TagLabel]]:
    """Tag items; by label how many have it, and the labels with their estimated odds."""
    vectors = index.store.vectors
    scores: dict[str, dict[int, float]] = {one.label: {} for one in wanted}
    odds: dict[str, dict[str, float]] = {one.label: {} for one in wanted}
    spaces = label_spaces(index.serving(), LABELLED)
    total = sum(vectors.count(space, modality) for space, modality in spaces)
    done = 0
    for space, modality in spaces:
        mine = [one for one in wanted if modality in one.modalities]
        if not mine:
            continue
        labeller = Labeller(index.encoder(space), modality, [one.label for one in mine])
        tally = _Tally(mine)
        for ids, matrix in vectors.pages(space, modality):
            tally.add(ids, labeller.confidence(matrix))
            done += len(ids)
            if progress is not None:
                progress(done, total)
        for one, factor, found in tally.results():
            odds[one.label][modality] = factor
            given = scores[one.label]
            for item_id, confidence in found:
                given[item_id] = max(given.get(item_id, 0.0), confidence)
    index.store.tags.set(scores)
    counts = {label: len(given) for label, given in scores.items()}
    return counts, [replace(one, odds=odds[one.label]) for one in wanted]


class _Tally:
    """The confidences of some labels over the items of one modality."""

    def __init__(self, wanted: Sequence[TagLabel]) -> None:
        import numpy as np

        self._wanted = wanted
        self._counts = np.zeros((len(wanted), BINS), np.int64)
        self._candidates: list[list[tuple[Any, Any]]] = [[] for _ in wanted]

    def add(self, ids: NDArray[np.int64], confidence: NDArray[np.float32]) -> None:
        """Add a page of vectors (n, labels); those of one item are side by side."""
        import numpy as np

        owners, starts = np.unique(ids, return_index=True)
        best = np.maximum.reduceat(confidence, starts, axis=0)
        for number, one in enumerate(self._wanted):
            column = best[:, number]
            bins = (column * BINS).astype(np.int64).clip(max=BINS - 1)
            self._counts[number] += np.bincount(bins, minlength=BINS)
            possible = column >= min(IMPOSSIBLE, one.min_confidence)
            self._candidates[number].append((owners[possible], column[possible]))

    def results(self) -> Iterator[tuple[TagLabel, float, list[tuple[int, float]]]]:
        """Each label, its odds, and the items that have it with their confidences."""
        for one, counts, candidates in zip(
            self._wanted, self._counts, self._candidates, strict=True
        ):
            odds = frequency_odds(counts)
            found: list[tuple[int, float]] = []
            for ids, column in candidates:
                confidence = shifted(column, odds)
                given = confidence >= one.min_confidence
                found += zip(ids[given].tolist(), confidence[given].round(4).tolist(), strict=True)
            yield one, odds, found


def _remember(store: Store, wanted: Sequence[TagLabel], revision: int | None) -> None:
    labels = [
        {"label": d["label"], "least": d["min_confidence"], "facets": d["modalities"]}
        | {"odds": d["odds"]}
        for d in map(asdict, wanted)
    ]
    kept = {"labels": labels, "revision": revision}
    store.settings.set(SETTING, json.dumps(kept, ensure_ascii=False))


def _tagged_at(store: Store) -> int | None:
    """The revision of the store that all labels were given at."""
    found: int | None = json.loads(store.settings.get(SETTING) or "{}").get("revision")
    return found
