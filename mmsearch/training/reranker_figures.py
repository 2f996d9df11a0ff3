"""The gain of a tuned reranker on held-out pairs, measured through the files that searches use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mmsearch.encoders.query_bank import FEWEST_PICTURES, MOST_PICTURES, typical_texts
from mmsearch.metrics import Interval, bootstrap_interval
from mmsearch.search.rerank import rerank
from mmsearch.training.clip_features import CaptionedPhoto, prepared_batches
from mmsearch.training.dev_figures import candidates, without_hubs

if TYPE_CHECKING:
    from mmsearch.encoders.clip.encoder import ClipEncoder
    from mmsearch.encoders.clip.token_towers import TokenTowers
    from mmsearch.types import Modality, Vectors

    TokenRows = Sequence[NDArray[np.int8]]

WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
"""Candidates for the weight of a match next to a cosine; of equally good ones the lowest wins."""
BATCH = 64


@dataclass(frozen=True)
class TuneFigures:
    """Recall@1 in per cent on held-out pairs, and the weight chosen on them.

    The gain is measured on one half of the photos with the weight that is best on the other half,
    and vice versa, so that no pair is evaluated with a weight chosen on it.

    Attributes:
        before: By direction, of cosines corrected for hubs.
        gain: By direction, and "mean" of both: 95 % paired bootstrap intervals over photos.
    """

    photos: int
    captions: int
    weight: float
    before: Mapping[str, float]
    gain: Mapping[str, Interval]

    @property
    def helps(self) -> bool:
        """Whether the interval of the mean gain lies above zero, and no direction gets worse."""
        return self.gain["mean"].low > 0 and all(gain.mean >= 0 for gain in self.gain.values())

    def table(self) -> str:
        """A line per direction."""
        lines = [f"R@1 on {self.photos} held-out photos with {self.captions} captions:"]
        for direction, gain in self.gain.items():
            before = self.before[direction]
            bounds = f"[{gain.low:+.1f}, {gain.high:+.1f}]"
            lines.append(f"  {direction:10} {before:5.1f} {gain.mean:+.1f} {bounds}")
        return "\n".join(lines)


@dataclass(frozen=True)
class EncodedPairs:
    """Photos or captions, as queries or as items, and the row of each one's photo."""

    vectors: Vectors
    tokens: TokenRows
    photo: NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """The best items of the first stage for each query.

    Attributes:
        first: Their scores in the first stage, for each query.
        match: How well their token embeddings match.
        relevant: Whether they belong to the query's photo.
        photo: (queries,) the photo that each query belongs to.
    """

    first: Sequence[NDArray[np.float32]]
    match: Sequence[NDArray[np.float32]]
    relevant: Sequence[NDArray[np.bool_]]
    photo: NDArray[np.int64]

    def hits(self, weight: float) -> NDArray[np.float64]:
        """(photos,) how often a relevant candidate comes first, in per cent of its queries."""
        hits = [
            relevant[rerank(first, match, weight).argmax()] if len(relevant) else False
            for first, match, relevant in zip(self.first, self.match, self.relevant, strict=True)
        ]
        percent = 100 * np.bincount(self.photo, weights=np.asarray(hits, np.float64))
        return percent / np.bincount(self.photo)


def measure(
    encoder: ClipEncoder,
    towers: TokenTowers,
    held_out: Sequence[CaptionedPhoto],
    train: Sequence[CaptionedPhoto],
) -> TuneFigures:
    """The figures of held-out pairs; their hubs are measured by photos trained on."""
    rows, vectors, regions = _encode_photos(encoder, held_out, towers)
    captions = [text for row in rows for text in held_out[row].captions]
    owners = np.repeat(np.arange(len(rows)), [len(held_out[row].captions) for row in rows])
    photos = EncodedPairs(vectors, regions, np.arange(len(rows)))
    words = towers.embeddings("text", captions)
    texts = EncodedPairs(encoder.encode("text", captions), words, owners)
    typical: dict[Modality, Vectors] = {"text": encoder.encode("text", typical_texts())}
    if len(train) >= FEWEST_PICTURES:  # as in an index
        typical["image"] = _encode_photos(encoder, train[:MOST_PICTURES])[1]
    return choose_weight(
        {
            "text→image": _candidates(towers, "text", texts, photos, typical),
            "image→text": _candidates(towers, "image", photos, texts, typical),
        },
        len(captions),
    )


def choose_weight(candidates: Mapping[str, Candidates], captions: int) -> TuneFigures:
    """The weight with the most hits, and the gain of weights chosen on other photos."""
    before = {direction: best.hits(0.0) for direction, best in candidates.items()}
    after = {
        direction: np.stack([best.hits(weight) for weight in WEIGHTS])
        for direction, best in candidates.items()
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
    return TuneFigures(
        photos,
        captions,
        WEIGHTS[int(after["mean"].mean(1).argmax())],
        {direction: float(hits.mean()) for direction, hits in before.items()},
        gain,
    )


def _encode_photos(
    encoder: ClipEncoder, photos: Sequence[CaptionedPhoto], towers: TokenTowers | None = None
) -> tuple[list[int], Vectors, TokenRows]:
    """The rows of readable photos, their vectors, and with `towers` their region embeddings."""
    readable: list[int] = []
    vectors: list[Vectors] = []
    regions: list[NDArray[np.int8]] = []
    for rows, batch in prepared_batches(encoder, photos, BATCH):
        readable += rows
        vectors.append(encoder.encode("image", list(batch)))
        regions += towers.embeddings("image", list(batch)) if towers else ()
    return readable, np.concatenate(vectors), regions


def _candidates(
    towers: TokenTowers,
    query_modality: Modality,
    queries: EncodedPairs,
    items: EncodedPairs,
    typical: Mapping[Modality, Vectors],
) -> Candidates:
    """The best items for each query in the first stage, scored by both stages."""
    cosines = queries.vectors @ items.vectors.T
    scores = without_hubs(cosines, query_modality, items.vectors, typical, shipped=False)
    best, match = zip(
        *candidates(towers, query_modality, scores, queries.tokens, items.tokens), strict=True
    )
    first = [row[rows] for row, rows in zip(scores, best, strict=True)]
    relevant = [items.photo[rows] == own for own, rows in zip(queries.photo, best, strict=True)]
    return Candidates(first, match, relevant, queries.photo)
