"""What a tuned reranker is worth on pairs that it has not seen, by the files that will be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoders.banks import FEWEST_PICTURES, MOST_PICTURES, typical_texts
from mmsearch.metrics import Interval, bootstrap_interval
from mmsearch.search.rerank_blend import rerank
from mmsearch.training.clip_features import Captioned, prepared
from mmsearch.vectors.hubness import hub_weight, hubs

if TYPE_CHECKING:
    from mmsearch.encoders.clip import ClipEncoder
    from mmsearch.encoders.clip_details import Details
    from mmsearch.types import Modality, Vectors

    Rows = Sequence[NDArray[np.int8]]

WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Of a match beside a cosine, to choose from; the lowest of equals is taken."""
LOOKED_AT = 100
"""Candidates of the first stage that are looked at again."""
AT_ONCE = 64


@dataclass(frozen=True)
class Figures:
    """Recall@1 in per cent on held-out pairs, and the weight that was chosen on them.

    What is gained is measured on one half of the photos with the weight that is best on the other,
    and the reverse, so that no pair is judged by a weight chosen on it.
    """

    photos: int
    captions: int
    weight: float
    before: Mapping[str, float]
    """By direction, of cosines corrected for hubs."""
    gain: Mapping[str, Interval]
    """By direction, and "mean" of both: 95 % paired bootstrap intervals over photos."""

    @property
    def helps(self) -> bool:
        """Whether more is found, for certain, and in no direction less."""
        return self.gain["mean"].low > 0 and all(one.mean >= 0 for one in self.gain.values())

    def table(self) -> str:
        """A line a direction."""
        lines = [f"R@1 on {self.photos} held-out photos with {self.captions} captions:"]
        for direction, gain in self.gain.items():
            before = self.before[direction]
            bounds = f"[{gain.low:+.1f}, {gain.high:+.1f}]"
            lines.append(f"  {direction:10} {before:5.1f} {gain.mean:+.1f} {bounds}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Candidates:
    """The first stage's best of each query, and what the second model says of them."""

    first: Sequence[NDArray[np.float32]]
    match: Sequence[NDArray[np.float32]]
    right: Sequence[NDArray[np.bool_]]
    photo: NDArray[np.int64]
    """(queries,) the photo that each query belongs to."""

    def hits(self, weight: float) -> NDArray[np.float64]:
        """(photos,) in per cent, how often a right one comes first."""
        found = [
            right[rerank(first, match, weight).argmax()] if len(right) else False
            for first, match, right in zip(self.first, self.match, self.right, strict=True)
        ]
        hit = 100 * np.bincount(self.photo, weights=np.asarray(found, np.float64))
        return hit / np.bincount(self.photo)


def figures_of(
    encoder: ClipEncoder, details: Details, held_out: Sequence[Captioned], seen: Sequence[Captioned]
) -> Figures:
    """Measure on held-out pairs.

    Args:
        encoder: The first stage.
        details: What was tuned.
        held_out: Pairs that nothing was learnt from.
        seen: Those that were: the first stage's corrections are made with their photos.
    """
    kept, photos, regions = _photos(encoder, held_out, details)
    captions = [text for row in kept for text in held_out[row].captions]
    owner = np.repeat(np.arange(len(kept)), [len(held_out[row].captions) for row in kept])
    texts, words = encoder.encode("text", captions), details.rows("text", captions)
    typical: dict[Modality, Vectors] = {"text": encoder.encode("text", typical_texts())}
    if len(seen) >= FEWEST_PICTURES:  # as in an index of so many
        typical["image"] = _photos(encoder, seen[:MOST_PICTURES])[1]
    own = np.arange(len(kept))
    asked = {
        "text→image": _candidates(
            details, "text", (texts, words, owner), (photos, regions, own), typical
        ),
        "image→text": _candidates(
            details, "image", (photos, regions, own), (texts, words, owner), typical
        ),
    }
    return chosen(asked, len(captions))


def chosen(asked: Mapping[str, Candidates], captions: int) -> Figures:
    """The weight that finds most, and what is gained by weights chosen on other photos."""
    before = {direction: one.hits(0.0) for direction, one in asked.items()}
    after = {
        direction: np.stack([one.hits(weight) for weight in WEIGHTS])
        for direction, one in asked.items()
    }
    before["mean"] = np.mean(list(before.values()), axis=0)
    after["mean"] = np.mean(list(after.values()), axis=0)
    photos = len(before["mean"])
    halves = np.arange(photos) % 2
    best = [int(after["mean"][:, halves != half].mean(1).argmax()) for half in (0, 1)]
    used = np.asarray(best)[halves]
    gain = {
        direction: bootstrap_interval(after[direction][used, np.arange(photos)] - before[direction])
        for direction in after
    }
    return Figures(
        photos,
        captions,
        WEIGHTS[int(after["mean"].mean(1).argmax())],
        {direction: float(one.mean()) for direction, one in before.items()},
        gain,
    )


def _photos(
    encoder: ClipEncoder, pairs: Sequence[Captioned], details: Details | None = None
) -> tuple[list[int], Vectors, Rows]:
    """Rows of the photos that can be read, their vectors, and regions if they are wanted."""
    kept: list[int] = []
    vectors: list[Vectors] = []
    regions: list[NDArray[np.int8]] = []
    some: list[NDArray[np.uint8]] = []

    def encode() -> None:
        if some:
            vectors.append(encoder.encode("image", some))
            regions.extend(details.rows("image", some) if details else ())
            some.clear()

    for row, pixels in prepared(encoder, pairs):
        kept.append(row)
        some.append(pixels)
        if len(some) == AT_ONCE:
            encode()
    encode()
    return kept, np.concatenate(vectors), regions


def _candidates(
    details: Details,
    asked: Modality,
    queries: tuple[Vectors, Rows, NDArray[np.int64]],
    items: tuple[Vectors, Rows, NDArray[np.int64]],
    typical: Mapping[Modality, Vectors],
) -> Candidates:
    """Vectors, rows and the photo of each query and each item, compared."""
    facet: Modality = "image" if asked == "text" else "text"
    scores = queries[0] @ items[0].T
    if asked in typical:
        scores -= hub_weight(asked, facet, shipped=False) * hubs(items[0], typical[asked])
    first, match, right = [], [], []
    for row, rows, photo in zip(scores, queries[1], queries[2], strict=True):
        best = np.argsort(-row, kind="stable")[:LOOKED_AT]
        first.append(row[best])
        match.append(details.match(asked, rows, [items[1][one] for one in best]))
        right.append(items[2][best] == photo)
    return Candidates(first, match, right, queries[2])
