"""The words everything else is written in: modalities, items, queries, hits, two protocols."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    Vectors = NDArray[np.float32]
    """(n, dim) float32; every row has unit length."""

Modality = Literal["image", "text", "audio"]
"""What a file, a query part or a facet is made of."""

Ranking = list[tuple[int, float]]
"""(item id, score) pairs, best first; ties stand in order of id."""


Unit = Literal["line", "second", "page"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of an item: lines of a text, counted from 1 and both included."""

    start: float
    end: float
    unit: Unit


@dataclass(frozen=True, slots=True)
class TextPart:
    """One text of an item: a passage of a text file, or a caption of a photo."""

    text: str
    origin: Literal["passage", "sidecar", "caption"]
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One thing a person would call a result: a photo with its captions, a text file."""

    id: int
    path: str
    """Absolute; names that are not UTF-8 hold surrogate escapes, as `os.fsdecode` makes them."""
    modality: Modality
    texts: tuple[TextPart, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """size (bytes), modified (ISO 8601, UTC) and, where known, width, height (pixels), taken_at
    (ISO 8601, the camera's local time), camera, latitude, longitude (degrees)."""


@dataclass(frozen=True, slots=True)
class Query:
    """What is searched for; `Query.text(...)` and `Query.image(...)` make one."""

    modality: Modality
    content: Any

    @classmethod
    def text(cls, words: str) -> Query:
        """Ask in words."""
        return cls("text", words)

    @classmethod
    def image(cls, picture: str | Path | Image) -> Query:
        """Ask by example: an image file's path, or a PIL image."""
        return cls("image", picture)


@dataclass(frozen=True, slots=True)
class Signal:
    """How one facet's ranking saw an item."""

    rank: int
    score: float


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result."""

    rank: int
    """From 1."""
    id: int
    path: str
    modality: Modality
    score: float
    """Cosine in [-1, 1] when one facet was searched, else the fused score."""
    confidence: float | None
    """None until scores are calibrated."""
    span: Span | None
    """The passage that matched, when a part of a text file did."""
    caption: str | None
    """The text that matched, else the item's first."""
    metadata: Mapping[str, Any]
    signals: Mapping[str, Signal]
    """By facet: its own rank and cosine."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A file that could not be used."""

    path: str
    reason: str
    seen_at: str
    """ISO 8601, UTC."""


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
    failures: list[Failure] = field(default_factory=list)
    """New in this run."""
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False


class Encoder(Protocol):
    """Turns media into unit vectors of one space."""

    name: str
    """What `--model` takes, e.g. "mini"."""
    fingerprint: str
    """Hash of the weights: vectors of different fingerprints are never compared."""
    dim: int
    modalities: frozenset[Modality]
    image_size: int
    """Side in pixels of the picture the image tower sees; photos may be shrunk towards it."""

    def prepare(self, modality: Modality, thing: Any) -> Any:
        """One decoded thing, made ready for `encode` (resized, say); safe to call from threads."""
        ...

    def encode(self, modality: Modality, batch: Sequence[Any]) -> Vectors:
        """Vectors (len(batch), dim) of upright RGB PIL images, strings, or what `prepare` gave."""
        ...


class VectorIndex(Protocol):
    """Finds the stored vectors nearest to one vector, by inner product."""

    def __len__(self) -> int: ...

    def add(self, ids: Sequence[int], vectors: Vectors) -> None:
        """File vectors (n, dim) under ids (n,); an id may come several times."""
        ...

    def search(self, vector: Vectors, k: int) -> Ranking:
        """The k ids of the highest inner product with a vector (dim,); ties by id."""
        ...
