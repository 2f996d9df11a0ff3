"""The data types of all layers: modalities, items, queries, hits, reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Vectors = NDArray[np.float32]
    """(n, dim) float32; every row has unit length."""

Modality = Literal["image", "text", "audio"]
"""What a query part, or a stored vector, is made of."""

Kind = Literal["image", "text", "audio", "video", "document"]
"""What a file is: a video has frames and sound, a document has pages of text and pictures."""

Ranking = list[tuple[int, float]]
"""(item id, score) pairs, best first; ties in order of id."""

Progress = Callable[[int, int | None], None]
"""Called with (number done, number in all); the latter is None until they have been counted."""

Unit = Literal["line", "second", "page", "slide", "section"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an item: lines, pages, slides or sections, counted from 1 and inclusive, or
    seconds. A section is the text below a heading; 0 is what comes before the first.
    """

    start: float
    end: float
    unit: Unit


Origin = Literal["passage", "sidecar", "caption", "page", "ocr", "speech"]
"""Where a text comes from: a text file, a text file beside a photo, a captions file, a page of a
PDF, writing in a picture, speech in a sound."""

CAPTIONS = frozenset[Origin]({"sidecar", "caption"})
"""The origins of texts that describe an item, as opposed to those that are read from it."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """One text of an item: a passage of a text file, a caption, a transcript."""

    text: str
    origin: Origin
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One indexed file: a photo with its captions, a sound, a video."""

    id: int
    path: str
    """Absolute; names that are not UTF-8 hold surrogate escapes, as `os.fsdecode` makes them."""
    modality: Kind
    texts: tuple[TextPart, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """size (bytes), modified (ISO 8601, UTC) and, where known, width, height (pixels), taken_at
    (ISO 8601, the camera's local time), camera, latitude, longitude (degrees), seconds, pages;
    meta, the user's metadata and the file's own (docs/commands.md lists its keys);
    tags, given by hand or by `mmsearch tag`, the surest first."""


_WEIGHT = re.compile(r"([+-]?\d+(?:\.\d+)?):(?=.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a query: words, the path of an example, or a `StoredItem`."""

    modality: Modality
    """Of a stored item, the search chooses it."""
    content: Any
    weight: float = 1.0
    """Its weight in the query; negative pushes similar items away, 0 leaves the part out."""

    @classmethod
    def parse(cls, modality: Modality, written: str) -> Part:
        """A part as written on a command line: "golden retriever", or "2:golden retriever"."""
        found = _WEIGHT.match(written)
        if found is None:
            return cls(modality, written)
        return cls(modality, written[found.end() :], float(found[1]))


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item of the index as the content of a query part: its stored vectors stand for it."""

    id: int


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for: a weighted sum of parts, `Query.text("dog") - Query.text("snow")`."""

    parts: tuple[Part, ...]

    @classmethod
    def text(cls, words: str, weight: float = 1.0) -> Query:
        """A query in words."""
        return cls((Part("text", words, weight),))

    @classmethod
    def image(cls, picture: str | Path | bytes | Image, weight: float = 1.0) -> Query:
        """A query by example: the path of an image file, its bytes, or a PIL image."""
        return cls((Part("image", picture, weight),))

    @classmethod
    def audio(cls, sound: str | Path | bytes, weight: float = 1.0) -> Query:
        """A query by example: the path of a sound file, or its bytes."""
        return cls((Part("audio", sound, weight),))

    @classmethod
    def item(cls, item_id: int, weight: float = 1.0) -> Query:
        """A query by an item of the index, by its stored vectors: nothing is decoded.

        It is compared by the modality that is searched if it has vectors of that, else by what it
        is: a photo by its picture.
        """
        return cls((Part("image", StoredItem(item_id), weight),))

    def __add__(self, other: object) -> Query:
        return Query(self.parts + other.parts) if isinstance(other, Query) else NotImplemented

    def __sub__(self, other: object) -> Query:
        return self + -other if isinstance(other, Query) else NotImplemented

    def __neg__(self) -> Query:
        return Query(tuple(replace(part, weight=-part.weight) for part in self.parts))


@dataclass(frozen=True, slots=True)
class Signal:
    """An item's rank and score in one ranking."""

    rank: int | None
    """From 1; None if the item is below the depth of the ranking."""
    score: float
    """The plain cosine, before hubs are subtracted; for "words" the BM25 score."""
    standardised: float | None = None
    """How many standard deviations the score is above what the query scores by chance."""
    share: float = 1.0
    """Its share of the fused score, from 0 to 1; negative if it pushes the item away."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result."""

    rank: int
    """From 1."""
    id: int
    path: str
    modality: Kind
    score: float
    """The order of the hits. If one modality was searched, the cosine less the hub correction; else
    the fused score. Scores of different queries do not compare."""
    confidence: float | None
    """From 0 to 1: the evidence that this is not a match by chance; compares across queries."""
    span: Span | None
    """The span that matched best: lines of a text, sections or slides of a document, pages of a
    PDF, seconds of a sound, video or animation."""
    caption: str | None
    """The text that matched, else the first text of the item."""
    metadata: Mapping[str, Any]
    signals: Mapping[str, Signal]
    """The hit's signal in each ranking, by modality; "words" is the lexical ranking."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `mmsearch query --json` and the HTTP API write them."""
        span = self.span
        return {
            "rank": self.rank,
            "id": self.id,
            "path": self.path,
            "modality": self.modality,
            "score": self.score,
            "confidence": self.confidence,
            "span": span and {"start": span.start, "end": span.end, "unit": span.unit},
            "caption": self.caption,
            "metadata": dict(self.metadata),
            "signals": {
                name: {
                    "rank": signal.rank,
                    "score": signal.score,
                    "standardised": signal.standardised,
                    "share": signal.share,
                }
                for name, signal in self.signals.items()
            },
        }


@dataclass(frozen=True, slots=True)
class SearchPage:
    """One page of the hits of a query."""

    hits: list[Hit]
    """Their ranks count from the first hit of all."""
    total: int
    """How many items could be hits: they pass the filter, and a ranking scores them. Of those that
    only the lexical ranking scores, it counts the best few hundred."""
    weak_from: int | None
    """The position, from 0 and counted from the first hit of all, from which on hits are no good
    matches; 0: there is no good match. None: not known, or sorted by date."""


@dataclass(frozen=True, slots=True)
class FacetCount:
    """How many items have a value."""

    value: str
    count: int


@dataclass(frozen=True, slots=True)
class Facets:
    """How many items have each value: the most frequent first; years and months in their order."""

    kind: list[FacetCount]
    year: list[FacetCount]
    """Of when an item was taken, else modified: "2019"."""
    month: list[FacetCount]
    """The same: "2019-07"."""
    folder: list[FacetCount]
    """Absolute, as a filter on `folder` takes it."""
    camera: list[FacetCount]
    tag: list[FacetCount]
    counted: int
    """How many items were counted."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be used."""

    path: str
    reason: str
    seen_at: str
    """ISO 8601, UTC."""


TURNS = (("scan", "store"), ("read", "decode"), ("encode",))
"""Groups of indexing stages that share threads, so that their busy times add up."""


@dataclass(slots=True)
class Report:
    """What one run of indexing did, in counts of files."""

    added: int = 0
    updated: int = 0
    renamed: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: int = 0
    """Could not be used, in this run or an earlier one and unchanged since; `failures` says why."""
    filled: int = 0
    """Backfilled: encoded for another model."""
    failures: list[Failure] = field(default_factory=list)
    """New in this run."""
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    lost: list[str] = field(default_factory=list)
    """Paths of files that workers on other machines took with them (`on`); the next run finds them
    as they were."""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage was busy: scan, read, decode, encode, store. Of a stage that runs in
    several threads, the mean over threads, so that none exceeds the run."""

    @property
    def limiting(self) -> str | None:
        """The bottleneck stage, which the others wait for; None before any was busy."""
        if not self.stages:
            return None
        busiest = max(TURNS, key=lambda turn: sum(self.stages.get(stage, 0.0) for stage in turn))
        return max(busiest, key=lambda stage: self.stages.get(stage, 0.0))
