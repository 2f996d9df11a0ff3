"""What a store takes and gives: plain data, whatever engine holds it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from mmsearch.media.file_state import Stat
from mmsearch.types import Kind, Modality, Span, TextPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VectorField = tuple[int, Modality]
"""(space id, modality): what vectors are filed under."""

PathKey = tuple[int, str, str]
"""(source id, folder, name): no two items have the same."""

MEDIA_COLUMNS = (
    "width",
    "height",
    "taken_at",
    "camera",
    "latitude",
    "longitude",
    "seconds",
    "pages",
)
"""What is known of the picture, sound or document in a file."""

# ---------------------------------------------------------------------- spaces

Modalities = frozenset[Modality]

NO_MODALITIES: Modalities = frozenset()

ALL_MODALITIES: Modalities = frozenset(get_args(Modality))

TEXT: Modalities = frozenset({"text"})

IMPORTED_FINGERPRINT = "given"
"""The fingerprint of a space whose vectors were imported without the weights that made them."""


@dataclass(frozen=True, slots=True)
class Space:
    """What the vectors of one encoder are filed under."""

    id: int
    name: str
    fingerprint: str
    dim: int
    modalities: Modalities
    """What its encoder can encode."""
    serves: Modalities
    """What it answers queries for: every item that should have such a vector has one."""
    backfills: Modalities
    """What stored items are being encoded for; it serves them once none lacks a vector."""

    @property
    def is_imported(self) -> bool:
        """Whether its vectors came without their encoder: nothing can be encoded for it."""
        return not self.modalities

    @property
    def encodes_for(self) -> Modalities:
        """What new files are encoded for."""
        return self.serves | self.backfills


# ---------------------------------------------------------------------- what is stored of a file


Serving = Sequence[tuple[Space, Sequence[Modality]]]
"""The spaces that serve, the preferred one first, and the modalities each has vectors of."""


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """The vectors of one item in one vector field.

    Attributes:
        matrix: (n, dim) float16.
        spans: The stretch that each is of; empty if they are of the whole item or of its texts.
        token_embeddings: (n_i, d) int8 of each, for reranking; empty: none were made.
        hubs: (n,) how much of a hub each is, by query modality; empty: not known yet.
    """

    matrix: NDArray[np.float16]
    spans: Sequence[Span | None] = ()
    token_embeddings: Sequence[NDArray[np.int8]] = ()
    hubs: Mapping[Modality, NDArray[np.float32]] = field(default_factory=dict)


DESCRIPTIVE_KEYS = frozenset({"title", "keywords", "description"})
"""Metadata that somebody wrote to say what an item shows: their words weigh as much as those of
captions."""

NUMERIC_KEYS = frozenset({"aperture", "iso", "focal_length", "exposure", "rating"})
"""Metadata that a file states as numbers. They are not indexed as words: "5" would be a word of
most photos."""

FACT_KEYS = DESCRIPTIVE_KEYS | NUMERIC_KEYS | {"lens"}
"""The metadata that are read from files."""


def metadata_key(key: str) -> str:
    """The user's key as it is stored: "Rating" as "rating", so that it overrides the file's."""
    lower = key.lower()
    return lower if lower in FACT_KEYS else key


def metadata_texts(own: Mapping[str, Any]) -> dict[str, str]:
    """The user's metadata of an item as they are stored; what is None is left out."""
    from mmsearch.media.tables import storable  # brings `media.text`, slow to import

    return {
        metadata_key(storable(key)): str(value).lower()
        if isinstance(value, bool)
        else storable(str(value))
        for key, value in own.items()
        if value is not None
    }


def fact_text(value: str | float) -> str:
    """A value of a file's metadata as it is stored: 800 for 800.0."""
    if isinstance(value, str):
        return value
    return str(int(value)) if value == int(value) else repr(value)


@dataclass(frozen=True, slots=True)
class ItemRecord:
    """A file as it is to be stored.

    An item that is a duplicate reuses the vectors of that stored item in every field that `vectors`
    does not name. If it is a duplicate of none, its content is new: vectors of an older content are
    deleted.
    """

    source_id: int
    folder: str
    name: str
    kind: Kind
    stat: Stat
    hash: bytes
    id: int | None = None  # the item to change; None makes a new one
    sidecar: Stat | None = None
    sidecar_name: str | None = None
    companions: Sequence[str] = ()  # the names of other files that belong to it
    media: dict[str, Any] | None = None  # MEDIA_COLUMNS and "readings"; None leaves them
    texts: Sequence[TextPart] | None = None  # None leaves them
    vectors: dict[VectorField, ItemVectors] = field(default_factory=dict)
    duplicate_of: int | None = None  # an item of the same content, itself if it has not changed
    ctime_ns: int | None = None  # when it last changed in any way; None: not known
    # the file's own metadata by key; None leaves those stored of it, or of its duplicate
    facts: Mapping[str, str | float] | None = None

    @property
    def changes_vectors(self) -> bool:
        """Whether storing it adds or deletes vectors of its item: those of former texts go."""
        is_same = self.id is not None and self.duplicate_of == self.id
        return not is_same or self.texts is not None or bool(self.vectors)

    @property
    def path_key(self) -> PathKey:
        """Where the file is: no two items have the same."""
        return self.source_id, self.folder, self.name


class DuplicateGone(Exception):
    """A record is a duplicate of an item that is gone, or has other content by now."""

    def __init__(self, item_id: int) -> None:
        super().__init__(item_id)
        self.item_id = item_id


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """A file that could not be used.

    Attributes:
        stat: What it was then; None if not even that could be read.
        retry: Whether its bytes are not at fault, so that each run tries it again.
        ctime_ns: The file's ctime then; None if it is not known.
    """

    source_id: int
    folder: str
    name: str
    reason: str
    stat: Stat | None
    retry: bool
    ctime_ns: int | None = None


# ---------------------------------------------------------------------- what a scan compares


class KnownFile(NamedTuple):
    """A stored file, as a scan compares it with the disk: 100,000 of them in a second."""

    name: str
    id: int
    size: int
    mtime_ns: int
    sidecar_size: int | None
    sidecar_mtime_ns: int | None
    ctime_ns: int | None
    hash: bytes
    read: str | None
    """What was read from it besides its pixels and samples: "ocr", "speech", with a space between.
    """

    @property
    def readings(self) -> frozenset[str]:
        """The same as a set."""
        return frozenset((self.read or "").split())


@dataclass(frozen=True, slots=True)
class StoredFile:
    """An item as its path finds it.

    Attributes:
        imported: Whether its vectors came without a file in an indexed folder.
    """

    id: int
    kind: Kind
    stat: Stat
    hash: bytes
    imported: bool = False
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class IndexRoot:
    """A path that the user gave to `index`, and how it is walked."""

    path: str
    folder: bool
    exclude: Sequence[str] = ()
    include_hidden: bool = False


# ---------------------------------------------------------------------- lists and exports


@dataclass(frozen=True, slots=True)
class ListedItem:
    """An item as a list shows it."""

    id: int
    path: str
    modality: Kind
    size: int
    """Bytes."""
    mtime_ns: int
    taken_at: str | None

    @property
    def date(self) -> str:
        """When it was taken, else last modified, ISO 8601; "" if neither is known."""
        if self.taken_at or not self.mtime_ns:
            return self.taken_at or ""
        moment = datetime.fromtimestamp(self.mtime_ns / 1e9, UTC)
        return moment.isoformat(timespec="seconds")


BY_HAND = 1.0
"""The score of a tag that the user gave to an item; labels are never that sure."""


@dataclass(frozen=True, slots=True)
class CompleteItem:
    """An item with everything that is stored of it but its hash.

    Attributes:
        id: Its id.
        path: Absolute; names that are not UTF-8 have surrogate escapes.
        columns: size, mtime_ns and MEDIA_COLUMNS, None where not known.
        texts: (origin, text, start, end, unit) each.
        metadata: The user's, by key.
        facts: The file's own metadata by key, including values that the user has overridden.
        tags: Scores by tag.
        vectors: (modality, position, start, end, unit, float16 bytes) each.
    """

    id: int
    path: str
    kind: Kind
    columns: dict[str, Any]
    texts: list[tuple[Any, ...]] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    tags: dict[str, float] = field(default_factory=dict)
    vectors: list[tuple[Any, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class ItemQuality:
    """What decides which of several copies is worth keeping."""

    id: int
    kind: Kind
    size: int
    """Bytes."""
    mtime_ns: int
    pixels: int
    seconds: float
    hash: bytes

    @property
    def order(self) -> tuple[float, ...]:
        """Sorts the one to keep first: the largest picture, the longest sound, the oldest file."""
        return (-self.pixels, -self.seconds, self.mtime_ns, -self.size, self.id)


# ---------------------------------------------------------------------- what followers read


@dataclass(frozen=True, slots=True)
class StoreState:
    """How far a store has come: what indexes that follow it compare.

    Attributes:
        store_id: Names it.
        revision: Rises whenever a vector is added, changed or deleted.
        epoch: Differs once rows have changed in place.
        forgotten: Deletions of vectors up to this change are no longer listed.
    """

    store_id: str
    revision: int
    epoch: str
    forgotten: int


@dataclass(frozen=True, slots=True)
class NewVectors:
    """Some of the vectors that were added after a certain one.

    Attributes:
        vector_ids: (n,) ascending.
        ids: (n,) the item of each.
        rows: (n, dim) float16.
        hub_text: (n,) float32, how much of a hub each is to text queries; NaN where not known.
        hub_image: (n,) float32, the same to image queries.
    """

    vector_ids: NDArray[np.int64]
    ids: NDArray[np.int64]
    rows: NDArray[np.float16]
    hub_text: NDArray[np.float32]
    hub_image: NDArray[np.float32]


# ---------------------------------------------------------------------- bulk loading

RowColumns = list[Any]
"""Rows, column by column: the first column numbers the batch's item that each is of; a column that
is no list has the same value in every row."""


@dataclass(slots=True)
class ItemBatch:
    """Items to be written together, column by column; each comes once.

    Attributes:
        sources: The id of each item's source.
        folders: Where it lies in that.
        names: What it is called.
        kind: What new ones are, unless `columns` has "kind".
        columns: Of kind, size, mtime_ns, sidecar_size, sidecar_mtime_ns and MEDIA_COLUMNS, those
            that are known; None leaves what is there.
        texts: item, position, origin, text, start, end, unit; None leaves what is there.
        metadata: The user's: item, key, text, number; None leaves what is there.
        facts: The files' own metadata, likewise.
        tags: item, tag, score; None leaves what is there.
        vectors: By modality: item, position, start, end, unit, float16 bytes, hub_text, hub_image.
    """

    sources: list[int]
    folders: list[str]
    names: list[str]
    kind: Kind = "image"
    columns: dict[str, list[Any]] = field(default_factory=dict)
    texts: RowColumns | None = None
    metadata: RowColumns | None = None
    facts: RowColumns | None = None
    tags: RowColumns | None = None
    vectors: dict[Modality, RowColumns] = field(default_factory=dict)


IMPORTED_SOURCE = ""
"""The path of the source of imported items, which lie in no indexed folder: what is below it is a
whole path, or a URL."""


def bounds(prefix: str) -> tuple[str, str]:
    """(first, end) of a range of names, end excluded, that holds all that begin with a prefix.

    It may hold others, since it goes by the prefix up to its last letter or sign of ASCII: what
    comes after that is the same in every form that stores keep names in.
    """
    first = re.sub(r"[^ -}]+$", "", prefix)
    return first, first[:-1] + chr(ord(first[-1]) + 1) if first else "\U0010ffff"


def split_path(path: str) -> tuple[str, str]:
    """A path as (folder, name), such that `os.path.join` gives it back whatever it is.

    Unlike `os.path.split` it keeps what is no plain path: "https://a.org" is ("https://", "a.org").
    """
    head, slash, name = path.rpartition(os.sep)
    if slash and (not head or head.endswith(os.sep)):
        return head + slash, name
    return head, name
