"""What a file is to stand for in the catalog."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmsearch.media.file_state import Stat
from mmsearch.types import Kind, Modality, Span, TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Place = tuple[int, str]
"""(space id, facet): where vectors are filed."""

DETAILS = ("width", "height", "taken_at", "camera", "latitude", "longitude", "seconds", "pages")
"""Columns of an item that tell what is in the file, as far as it says."""


class LenderGone(Exception):
    """An entry would borrow from an item that is gone, or has other content by now."""

    def __init__(self, item_id: int) -> None:
        super().__init__(item_id)
        self.item_id = item_id


@dataclass(frozen=True, slots=True)
class Rows:
    """The vectors of one facet of one item.

    Attributes:
        matrix: (n, dim) float16.
        spans: What stretch each is about; empty when they have none of their own.
        tokens: Of each its regions or words (n_i, d) int8, for reranking; empty: none were made.
        hubs: How much of a hub each is (n,), by what is asked with; empty: not known yet.
    """

    matrix: NDArray[np.float16]
    spans: Sequence[Span | None] = ()
    tokens: Sequence[NDArray[np.int8]] = ()
    hubs: Mapping[Modality, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it is to stand in the catalog.

    A place that `vectors` does not name keeps the rows of the item that it is `like`; when it is
    like none, its content is new and what was stored of an older one goes.
    """

    source_id: int
    folder: str
    name: str
    modality: Kind
    stat: Stat
    hash: bytes
    id: int | None = None  # the item to change; None makes a new one
    sidecar: Stat | None = None
    sidecar_name: str | None = None
    details: dict[str, Any] | None = None  # width, height, taken_at, …; None leaves them
    texts: Sequence[TextPart] | None = None  # None leaves them
    vectors: dict[Place, Rows] = field(default_factory=dict)
    like: int | None = None  # the item of the same content that lends what is not given

    @property
    def brings_vectors(self) -> bool:
        """Whether storing it changes what a search can find."""
        return self.id is None or bool(self.vectors) or self.like not in (None, self.id)

    @property
    def where(self) -> tuple[int, str, str]:
        """(source id, folder, name): no two items have the same."""
        return self.source_id, self.folder, self.name
