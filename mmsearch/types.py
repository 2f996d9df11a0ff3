"""The words everything else is written in: modalities, items, queries, hits."""

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
"""What a query part or a facet is made of."""

Kind = Literal["image", "text", "audio", "video", "document"]
"""What a file is: a video has frames and sound, a document pages of text that can be looked at."""

Ranking = list[tuple[int, float]]
"""(item id, score) pairs, best first; ties stand in order of id."""


Progress = Callable[[int, int | None], None]
"""Called with (things done, things in all); all is None until they have been counted."""

Unit = Literal["line", "second", "page"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an item: lines or pages, counted from 1 and both included, or seconds."""

    start: float
    end: float
    unit: Unit


Origin = Literal["passage", "sidecar", "caption", "page", "ocr", "speech"]
"""Where a text comes from: a text file, a text beside a photo, a captions file, a PDF's page,
the writing in a picture, the speech in a sound."""


@dataclass(frozen=True, slots=True)
class TextPart:
    """One text of an item: a passage of a text file, a caption, what is said in a sound."""

    text: str
    origin: Origin
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a person would call a result: a photo with its captions, a sound, a video."""

    id: int
    path: str
    """Absolute; names that are not UTF-8 hold surrogate escapes, as `os.fsdecode` makes them."""
    modality: Kind
    texts: tuple[TextPart, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """size (bytes), modified (ISO 8601, UTC) and, where known, width, height (pixels), taken_at
    (ISO 8601, the camera's local time), camera, latitude, longitude (degrees), seconds, pages;
    meta, what a metadata file says of it; tags, those that `mmsearch tag` gave, surest first."""


_WEIGHT = re.compile(r"([+-]?\d+(?:\.\d+)?):(?=.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a query: words, or the path of an example."""

    modality: Modality
    content: Any
    weight: float = 1.0
    """How much it counts; below 0 what is like it is pushed away, at 0 it is as if not there."""

    @classmethod
    def parse(cls, modality: Modality, written: str) -> Part:
        """A part as a command line has it, "2:golden retriever" with its weight before it."""
        found = _WEIGHT.match(written)
        if found is None:
            return cls(modality, written)
        return cls(modality, written[found.end() :], float(found[1]))


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for: parts that are added up, `Query.text("dog") - Query.text("snow")`."""

    parts: tuple[Part, ...]

    @classmethod
    def text(cls, words: str, weight: float = 1.0) -> Query:
        """Ask in words."""
        return cls((Part("text", words, weight),))

    @classmethod
    def image(cls, picture: str | Path | Image, weight: float = 1.0) -> Query:
        """Ask by example: an image file's path, or a PIL image."""
        return cls((Part("image", picture, weight),))

    @classmethod
    def audio(cls, sound: str | Path, weight: float = 1.0) -> Query:
        """Ask by example: a sound file's path."""
        return cls((Part("audio", sound, weight),))

    def __add__(self, other: Query) -> Query:
        return Query(self.parts + other.parts)

    def __sub__(self, other: Query) -> Query:
        return self + -other

    def __neg__(self) -> Query:
        return Query(tuple(replace(part, weight=-part.weight) for part in self.parts))


@dataclass(frozen=True, slots=True)
class Signal:
    """How one facet's ranking saw an item."""

    rank: int | None
    """From 1; None where it is too low to have been ranked."""
    score: float
    """The cosine, before anything is taken off or added; of "words" the BM25 score."""
    standardised: float | None = None
    """How far it stands out from what the query scores by chance, in deviations."""
    share: float = 1.0
    """Of the fused score, from 0 to 1; below 0 for what was pushed away."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result."""

    rank: int
    """From 1."""
    id: int
    path: str
    modality: Kind
    score: float
    """What the hits are in order of: when one facet was searched the cosine, less what is taken
    off hubs; else the fused score. Only scores of one query compare."""
    confidence: float | None
    """From 0 to 1: the evidence that this is no match by chance, whatever the query."""
    span: Span | None
    """The stretch that matched best: a text's lines, a PDF's pages, a sound's seconds."""
    caption: str | None
    """The text that matched, else the item's first."""
    metadata: Mapping[str, Any]
    signals: Mapping[str, Signal]
    """By facet, and "words" for the lexical ranking: what it says of this hit."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be used."""

    path: str
    reason: str
    seen_at: str
    """ISO 8601, UTC."""


TURNS = (("scan", "store"), ("read", "decode"), ("encode",))
"""Stages of indexing that take turns in the same threads: busy as long as all of them together."""


@dataclass(slots=True)
class Report:
    """What one run of indexing did; counts of files."""

    added: int = 0
    updated: int = 0
    renamed: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: int = 0
    """Could not be used, now or in an earlier run and unchanged since; `failures` says why."""
    filled: int = 0
    """Given their vectors of another model."""
    failures: list[Failure] = field(default_factory=list)
    """New in this run."""
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds that each stage was busy: scan, read, decode, encode, store. Of a stage that runs in
    several threads, those of one of them on average; so none is longer than the run."""

    @property
    def limiting(self) -> str | None:
        """The stage that the others wait for; None before any was busy."""
        if not self.stages:
            return None
        busiest = max(TURNS, key=lambda turn: sum(self.stages.get(stage, 0.0) for stage in turn))
        return max(busiest, key=lambda stage: self.stages.get(stage, 0.0))
