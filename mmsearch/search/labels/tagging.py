"""Gives the items of an index labels, and remembers which were asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmsearch.encoders import Encoder
from mmsearch.errors import InvalidOption, UnknownTarget
from mmsearch.search.labels.everyday import EVERYDAY
from mmsearch.search.labels.scoring import (
    BINS,
    MIN_CONFIDENCE,
    Labeller,
    checked_labels,
    frequency_odds,
    shifted,
)
from mmsearch.storage import Space, Store
from mmsearch.types import Modality, Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.types import Vectors

FACETS: tuple[Modality, ...] = ("image", "audio")
"""What labels are compared with."""

SETTING = "labels"

Present = Sequence[tuple[Space, Sequence[Modality]]]
"""The spaces that answer, the preferred one first, and the facets each holds."""

EncoderOf = Callable[[Space], Encoder]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A label that items were to be given."""

    label: str
    least: float
    """The confidence from which on."""
    facets: tuple[Modality, ...]
    """By what: pictures, sounds."""
    odds: Mapping[str, float] = field(default_factory=dict)
    """By facet, how much more common it is in the index than labels are: see `frequency_odds`."""


def tag_items(
    store: Store,
    encoder_of: EncoderOf,
    present: Present,
    labels: str | Sequence[str],
    *,
    least: float = MIN_CONFIDENCE,
    facet: Modality | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Give every item those of the labels that it shows; by label, how many items have it.

    A label that was given before is given anew; others stay. A video counts by the frame, a sound
    by the stretch, that shows the label best.

    Args:
        store: Whose items.
        encoder_of: Loads a space's encoder.
        present: Which spaces hold what.
        labels: What is looked for.
        least: The confidence from which an item is given a label.
        facet: Only look at pictures, or only listen; None does both.
        progress: Called with (vectors looked at, vectors in all).

    Raises:
        InvalidOption: there is no label, or `least` is not from 0 to 1, or the index has nothing
            to look at.
    """
    if not 0 <= least <= 1:
        raise InvalidOption(f"a confidence is from 0 to 1, not {least}")
    facets = FACETS if facet is None else (facet,)
    wanted = [Wanted(label, least, facets) for label in checked_labels(labels)]
    if not places_of(present, facets):
        what = "pictures or sounds" if facet is None else f"vectors of {facet}"
        raise InvalidOption(f"the index has no {what} that words can be compared with")
    revision = store.state().revision
    counts, wanted = _tag(store, encoder_of, present, wanted, progress)
    kept = {one.label: one for one in remembered(store)} | {one.label: one for one in wanted}
    all_given = len(kept) == len(wanted) or _tagged_at(store) == revision
    _remember(store, list(kept.values()), revision if all_given else None)
    return counts


def facet_of(target: str | None) -> Modality | None:
    """What labels are to be compared with: "image", "audio", or both for None.

    Raises:
        UnknownTarget: it is neither.
    """
    for facet in FACETS:
        if target == facet:
            return facet
    if target is None:
        return None
    raise UnknownTarget(f"labels are given to {' and '.join(FACETS)}, not to {target!r}")


def tag_new(
    store: Store, encoder_of: EncoderOf, present: Present, progress: Progress | None = None
) -> dict[str, int]:
    """Give the labels asked for before to what has changed since; by label, how many have it.

    Nothing is done, and nothing returned, if nothing has changed. Else all items are looked at
    again, which costs a product of matrices and no decoding.
    """
    wanted = remembered(store)
    revision = store.state().revision
    if not wanted or _tagged_at(store) == revision:
        return {}
    counts, wanted = _tag(store, encoder_of, present, wanted, progress)
    _remember(store, wanted, revision)
    return counts


def remembered(store: Store) -> list[Wanted]:
    """The labels that were asked for, and not cleared since."""
    kept = json.loads(store.settings.get(SETTING) or "{}")
    return [
        Wanted(one["label"], one["least"], tuple(one["facets"]), one["odds"])
        for one in kept.get("labels", ())
    ]


def forget_labels(store: Store, labels: str | Sequence[str] | None = None) -> int:
    """Take labels off all items and give them no more; all labels when None.

    Returns:
        How many items had one, counted once for each of its labels.
    """
    names = None if labels is None else checked_labels(labels)
    gone = store.tags.clear(names)
    kept = [] if names is None else [o for o in remembered(store) if o.label not in names]
    _remember(store, kept, _tagged_at(store))
    return gone


def labels_of(
    vectors: Vectors, encoder: Encoder, facet: Modality, labels: Sequence[str] | None, k: int
) -> list[tuple[str, float]]:
    """The k labels that some vectors of one item show most surely, with their confidences.

    Args:
        vectors: (n, dim) unit rows: each label counts by the row that shows it best.
        encoder: Made them.
        facet: What they are of.
        labels: To choose from; everyday words if None.
        k: How many.
    """
    choice = list(EVERYDAY[facet]) if labels is None else checked_labels(labels)
    sure = Labeller(encoder, facet, choice).confidence(vectors).max(axis=0)
    best = sorted(zip(choice, sure.tolist(), strict=True), key=lambda pair: -pair[1])
    return best[:k]


def places_of(present: Present, facets: Sequence[Modality]) -> list[tuple[Space, Modality]]:
    """For each facet, the preferred space that holds it and reads words."""
    found: dict[Modality, Space] = {}
    for space, held in present:
        for facet in facets:
            if facet in held and "text" in space.modalities:
                found.setdefault(facet, space)
    return [(space, facet) for facet, space in found.items()]


# ---------------------------------------------------------------------- parts of the above


def _tag(
    store: Store,
    encoder_of: EncoderOf,
    present: Present,
    wanted: Sequence[Wanted],
    progress: Progress | None,
) -> tuple[dict[str, int], list[Wanted]]:
    """Gives the labels; by label how many items have it, and what its odds turned out to be."""
    scores: dict[str, dict[int, float]] = {one.label: {} for one in wanted}
    odds: dict[str, dict[str, float]] = {one.label: {} for one in wanted}
    places = places_of(present, FACETS)
    total = sum(store.vectors.count(space, facet) for space, facet in places)
    done = 0
    for space, facet in places:
        if mine := [one for one in wanted if facet in one.facets]:
            labeller = Labeller(encoder_of(space), facet, [one.label for one in mine])
            tally = _Tally(mine)
            for ids, matrix in store.vectors.pages(space, facet):
                tally.add(ids, labeller.confidence(matrix))
                done += len(ids)
                if progress is not None:
                    progress(done, total)
            for one, more, found in tally.results():
                odds[one.label][facet] = more
                given = scores[one.label]
                for item_id, sure in found:
                    given[item_id] = max(given.get(item_id, 0.0), sure)
    store.tags.set(scores)
    counts = {label: len(given) for label, given in scores.items()}
    return counts, [replace(one, odds=odds[one.label]) for one in wanted]


class _Tally:
    """What was seen of some labels, so far, in one facet."""

    NEVER = 0.005
    """Confidence below which no frequency makes a label sure."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        import numpy as np

        self._wanted = wanted
        self._counts = np.zeros((len(wanted), BINS), np.int64)
        self._kept: list[list[tuple[Any, Any]]] = [[] for _ in wanted]

    def add(self, ids: NDArray[np.int64], confidence: NDArray[np.float32]) -> None:
        """Take in some items' vectors (n, labels), those of one item side by side."""
        import numpy as np

        owners, starts = np.unique(ids, return_index=True)
        best = np.maximum.reduceat(confidence, starts, axis=0)
        for number, one in enumerate(self._wanted):
            column = best[:, number]
            places = (column * BINS).astype(np.int64).clip(max=BINS - 1)
            self._counts[number] += np.bincount(places, minlength=BINS)
            some = column >= min(self.NEVER, one.least)
            self._kept[number].append((owners[some], column[some]))

    def results(self) -> Iterator[tuple[Wanted, float, list[tuple[int, float]]]]:
        """Each label, its odds, and the items that have it with their confidences."""
        for one, counts, kept in zip(self._wanted, self._counts, self._kept, strict=True):
            odds = frequency_odds(counts)
            found: list[tuple[int, float]] = []
            for ids, column in kept:
                sure = shifted(column, odds)
                given = sure >= one.least
                found += zip(ids[given].tolist(), sure[given].round(4).tolist(), strict=True)
            yield one, odds, found


def _remember(store: Store, wanted: Sequence[Wanted], revision: int | None) -> None:
    kept = {"labels": [asdict(one) for one in wanted], "revision": revision}
    store.settings.set(SETTING, json.dumps(kept, ensure_ascii=False))


def _tagged_at(store: Store) -> int | None:
    """The revision of the store that all labels were given at."""
    found: int | None = json.loads(store.settings.get(SETTING) or "{}").get("revision")
    return found
