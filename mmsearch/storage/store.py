"""The `Store` protocol and its parts: what indexing writes and search reads, whatever the engine.

`mmsearch.storage.sqlite.Catalog` is the default implementation. Another one needs batched writes
and upserts, filters as predicate trees (`mmsearch.filters.Filter`), and reads by id, by page and by
revision. No method hands out a cursor: a stream is read page by page.

A vector is filed under a space and a modality. Its nearest neighbours come from the engine if that
can find them (`Store.vector_indexes`); else `mmsearch.spaces.index_cache` builds FAISS indexes of
the vectors and follows the store by their ascending ids and its log of deletions. Likewise, who may
write is decided by the engine (`Store.writer_lock`), or else by a lock in the index folder.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from mmsearch.media.file_state import Stat
from mmsearch.storage.records import (
    ALL_MODALITIES,
    CompleteItem,
    FailureRecord,
    IndexRoot,
    ItemBatch,
    ItemQuality,
    ItemRecord,
    ItemVectors,
    KnownFile,
    ListedItem,
    Modalities,
    NewVectors,
    PathKey,
    Serving,
    Space,
    StoredFile,
    StoreState,
    VectorField,
)
from mmsearch.storage.transfer import TransferStore
from mmsearch.types import Facets, Failure, Item, Kind, Modality, Progress, Ranking, Span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.encoders import Encoder
    from mmsearch.filters import Filter
    from mmsearch.types import Vectors
    from mmsearch.vectors.id_set import IdSet
    from mmsearch.vectors.index_choice import SampleQueries

PutBatch = Callable[[ItemBatch, Space | None], tuple[int, int]]
"""Writes a batch, with its vectors in a space; returns how many items are new, and how many were
there."""


SampleQueriesOf = Callable[[Space, Modality], "SampleQueries"]
"""Queries (n, dim + EXTRA_DIMS) of each modality, as searches give them to the index of a space and
modality: what its recall is measured with."""


class WriterLock(Protocol):
    """The right to write to a store."""

    def writing(self, what: str, *, wait: float = 0.0) -> AbstractContextManager[None]:
        """The right to write, as long as the context lasts; its thread may take it again.

        Args:
            what: What is being done, for those who find the index busy: "indexing".
            wait: Seconds to wait for another writer.

        Raises:
            IndexBusy: another process or thread is writing.
            StorageFailed: the store cannot be written.
        """

    def may_write(self, what: str) -> AbstractContextManager[bool]:
        """Whether there is the right to write, as long as the context lasts; never waits.

        For work that can as well be left undone: a search that would store what it has computed.
        """


class VectorIndex(Protocol):
    """Nearest neighbours among the vectors of one space and modality.

    Vectors here have `mmsearch.vectors.hubness.EXTRA_DIMS` more dimensions than the space: those of
    rows hold their hubs, those of queries the weight of these, so that one inner product corrects
    for hubness.
    """

    def __len__(self) -> int: ...

    def items(self) -> IdSet:
        """The items that have a vector."""

    def search(self, vector: Vectors, k: int, allowed: IdSet | None = None) -> Ranking:
        """The k items of the highest inner product with a vector (dim,); ties by id.

        An item may have several vectors: the best stands for it.

        Args:
            vector: The query.
            k: How many; fewer are found only if fewer are there and allowed.
            allowed: Items that may be found; None allows all.
        """

    def sample(self, n: int) -> Vectors:
        """At most n of the vectors (min(n, len), dim), spread evenly, always the same."""

    def mean(self) -> Vectors:
        """The mean (dim,) of a sample of the vectors."""

    def moments(self, vector: Vectors) -> tuple[int, float, float]:
        """(size of a sample, mean, mean of squares) of its inner products with a vector (dim,)."""

    def warm_up(self) -> None:
        """Read what every search needs."""


class VectorIndexes(Protocol):
    """The vector indexes of a store."""

    def index(self, space: Space, modality: Modality) -> VectorIndex:
        """The index of a modality's vectors, as of this thread's snapshot of the store."""

    def has(self, space: Space, modality: Modality) -> bool:
        """Whether an index can answer at once; if not, its `warm_up` is worth a thread."""

    def rebuild(
        self, serving: Serving, queries: SampleQueriesOf, *, soon_again: bool = False
    ) -> None:
        """Build the indexes that what was written has outgrown, at the end of an indexing run.

        Args:
            serving: The spaces and modalities that searches need.
            queries: What the recall of an index is measured with.
            soon_again: Another run is likely to follow soon: small changes wait for it.
        """

    def configure(self, kind: str | None, recall: float | None) -> None:
        """Store the kind of index to use and its least recall; None leaves it unchanged.

        Raises:
            InvalidOption: there is no such kind, or the recall is not a share.
        """

    def describe(self, serving: Serving) -> list[dict[str, Any]]:
        """The kind of index of each modality, its recall, and why: what `status` shows.

        Each has "model", "facet", "rows", "dim", "bytes", the kind that was "asked" for, and
        the fields of `mmsearch.vectors.index_choice.IndexChoice`.
        """

    def warnings(self, serving: Serving) -> list[str]:
        """The modalities whose index could not be of the kind that the user wants, and why."""

    def drop(self, space: Space) -> None:
        """Delete the indexes of a space."""

    def clear(self) -> None:
        """Release what is in memory."""


class ItemStore(Protocol):
    """Items: one a file, with its texts, metadata and tags."""

    def __len__(self) -> int: ...

    def counts(self) -> dict[str, int]:
        """How many items there are of each kind."""

    def get(self, ids: Sequence[int]) -> dict[int, Item]:
        """Items by id, with their texts; ids of deleted items are left out."""

    def all(self, page: int = 500) -> Iterator[Item]:
        """Every item in order of id."""

    def listed(self, ids: Any = None, limit: int | None = None) -> Iterator[ListedItem]:
        """Items in order of id: only these (sorted ids), at most so many.

        They are read a page at a time; each page is as the store then is.
        """

    def complete(self, space: Space | None, ids: Any = None) -> Iterator[list[CompleteItem]]:
        """Pages of items in order of id, with their vectors in a space (None: without vectors)."""

    def hashes(self, ids: Sequence[int]) -> dict[int, bytes]:
        """The BLAKE2b-128 of some items' files by id; imported items have none."""

    def same_content(self) -> list[list[int]]:
        """The ids of the items of each content that several items have."""

    def quality(self) -> dict[int, ItemQuality]:
        """Of each item, what decides which of several copies is worth keeping."""

    def remove(self, ids: Sequence[int]) -> None:
        """Delete items with their texts and vectors, all or none."""

    def remove_below(self, source_id: int, below: str) -> int:
        """Delete a file, or all at and below a folder; returns how many items and failures."""

    def remove_imported(self, path: str) -> int:
        """Delete the imported item of a path, or those below it; returns how many."""


class FileStore(Protocol):
    """What a scan compares the disk with."""

    def known(self, source_id: int, folder: str, prefix: str = "") -> dict[str, KnownFile]:
        """The stored files that lie directly in a folder of a source, by name.

        Args:
            source_id: The source.
            folder: Below it.
            prefix: Only names that begin with it: "shard.tar::", the members of a corpus. Its
                last character is ASCII.
        """

    def set_change_times(self, rows: Sequence[tuple[int, int]]) -> None:
        """Store (item id, ctime_ns) of files of which that was not known."""

    def readings(self, item_id: int) -> frozenset[str]:
        """What was read from an item besides its pixels and samples: "ocr", "speech"."""

    def folders(self, source_id: int, below: str) -> set[str]:
        """The folders at and below a folder of a source that hold items or failures."""

    def duplicates_of(self, hash_: bytes, kind: Kind) -> list[tuple[int, str, str, int, str]]:
        """(item id, source path, folder, device, file path) of a few files of a content.

        The folder is the file's, below the source, if that was on another device; else "".
        """

    def at(self, source_id: int, folder: str, name: str) -> StoredFile | None:
        """The item of a file in a source."""

    def imported(self, path: str) -> StoredFile | None:
        """The imported item of a path or URL."""

    def of(self, item_id: int) -> tuple[str, str, StoredFile] | None:
        """(source path, path, item) of an item by its id; an imported one has no source, ""."""

    def all(self, page: int = 20_000) -> Iterator[tuple[int, str, str, str]]:
        """(id, source path, folder below it, name) of every item in order of id."""


class SourceStore(Protocol):
    """The indexed folders, none inside another."""

    def all(self) -> list[tuple[int, str]]:
        """(id, absolute path) of each."""

    def device(self, source_id: int) -> int:
        """The device (st_dev) that a source was on when it was last read."""

    def set_device(self, source_id: int, device: int) -> None:
        """Store the device that a source is on."""

    def folder_devices(self, source_id: int) -> dict[str, int]:
        """The folders below a source that were on another device than it, and that device."""

    def set_folder_devices(self, source_id: int, devices: Mapping[str, int | None]) -> None:
        """Store the devices of such folders; None: a folder is on that of its source again."""

    def of(self, path: str) -> tuple[int, str, str] | None:
        """(source id, source path, path below it) of the source that an absolute path lies in."""

    def add(self, root: str, device: int = 0) -> int:
        """The source that a folder is or lies in, made if need be; it takes in those inside it."""

    def imported(self) -> int:
        """The id of the source of imported items, made if need be."""


class IndexRootStore(Protocol):
    """The paths that the user gave to `index`."""

    def all(self) -> list[IndexRoot]:
        """All of them, by path."""

    def add(self, given: Sequence[IndexRoot]) -> None:
        """Add paths; a folder replaces the paths inside it."""

    def remove(self, path: str) -> None:
        """Forget a path and those below it."""


class FailureStore(Protocol):
    """Files that could not be used, and why."""

    def __len__(self) -> int: ...

    def known(self, source_id: int, folder: str) -> dict[str, tuple[Stat, int | None] | None]:
        """The failures in a folder by name: the file's stat and, if known, its ctime_ns then.

        None for a file that each run tries again.
        """

    def folders(self, source_id: int) -> set[str]:
        """The folders of a source in which some file could not be used."""

    def add(self, records: Sequence[FailureRecord]) -> None:
        """Store failures, each in place of an earlier one of the same file."""

    def remove(self, source_id: int, folder: str, names: Iterable[str]) -> None:
        """Delete the failures of some files of a folder."""

    def all(self) -> list[Failure]:
        """All of them, by path."""


class MetadataStore(Protocol):
    """The user's own metadata of the items.

    An item also has its file's own metadata (`ItemRecord.facts`). Under the same key the user's
    value overrides the file's wherever metadata are shown, searched or filtered; once it is
    removed, the file's takes effect again.
    """

    def set(self, rows: Iterable[tuple[int, Mapping[str, Any]]]) -> None:
        """Replace the user's metadata of some items, all or none; None is as if not there.

        An item that is gone is left out.
        """


class TagStore(Protocol):
    """The tags of the items, each with a score in [0, 1]."""

    def set(
        self, found: Mapping[str, Mapping[int, float]], among: Iterable[int] | None = None
    ) -> None:
        """Replace tags by the scores of the items that have them, among some items or all.

        Tags given by hand stay. Items that are gone are left out. All or none.
        """

    def add(self, tag: str, ids: Sequence[int]) -> int:
        """Give a tag by hand; returns how many of the items are there, and have it now."""

    def remove(self, tag: str, ids: Sequence[int]) -> int:
        """Take a tag off some items; returns how many of them had it."""

    def clear(self, names: Iterable[str] | None = None) -> int:
        """Delete some tags, or all; returns of how many items each, in all."""


class WordStore(Protocol):
    """The full-text index over texts, names and facts of the items."""

    def due(self) -> int:
        """How many items have changed since the index was last brought up to date."""

    def refresh(self, at_most: int | None = None, progress: Progress | None = None) -> int:
        """Bring the index up to date for at most so many items; returns how many it were.

        Args:
            at_most: Leave the rest for later, so that a search need not wait long.
            progress: Called with (items done, items in all) after each batch.
        """

    def search(self, query: str, k: int, allowed: IdSet | None = None) -> Ranking:
        """The k best items for a query's words, by BM25; fewer if fewer hold any of them.

        Any text is a query; only "quotes" have a meaning in it.
        """

    def holding(self, query: str, ids: Sequence[int]) -> set[int]:
        """Those of some items that hold every word of a query."""


class FilterStore(Protocol):
    """Which items pass a filter, in which order, and what they have in common."""

    def matching(self, filter_: Filter, most: int | None = None) -> NDArray[np.int64]:
        """The ids (n,) of the items that pass, sorted; at most so many.

        Raises:
            InvalidFilter: it names a key that no item has, or is too long.
        """

    def passing(self, filter_: Filter) -> IdSet:
        """All of them, as a search needs them, as quickly as possible.

        Raises:
            InvalidFilter: it names a key that no item has, or is too long.
        """

    def by_date(self, ids: IdSet | None = None, *, oldest: bool = False) -> NDArray[np.int64]:
        """The ids (n,) of some items or all by date, the newest first, or the oldest.

        The date is when an item was taken, else when it was modified. Items of the same date are in
        order of id; those without one come last.
        """

    def facets(self, ids: IdSet | None = None) -> Facets:
        """How many of some items, or of all, have each kind, date, folder, camera and tag."""


class SpaceStore(Protocol):
    """The spaces, and the modalities that each serves."""

    def all(self) -> list[Space]:
        """All of them: those that serve images first, then sounds, then the others."""

    def add(self, encoder: Encoder) -> Space:
        """The space of an encoder, made if it is new; it serves nothing yet."""

    def add_imported(self, name: str, dim: int, modalities: Iterable[Modality]) -> Space:
        """The space of vectors whose encoder is not here, made if need be; it serves modalities.

        It has no modalities of its own: nothing can be encoded for it.
        """

    def adopt(self, encoder: Encoder) -> None:
        """Let an encoder serve vectors that were imported without it, under its name."""

    def serve_with(self, encoders: Sequence[Encoder], only: Modalities = ALL_MODALITIES) -> None:
        """Have encoders serve the modalities they can encode; where two can, the later one.

        At once if the store is empty, else once their spaces are backfilled. All or none: later
        runs would encode nothing for a space that was made and is to serve nothing.

        Args:
            encoders: In order.
            only: Limits what they take over; other modalities stay with the spaces that serve them.
        """

    def switch_to(self, space: Space) -> None:
        """Let a backfilled space serve in place of the one that did."""

    def cancel_backfill(self, space: Space) -> None:
        """Backfill a space no further."""

    def set_modalities(self, space: Space, modalities: Iterable[Modality]) -> None:
        """Store what a newer version of a space's encoder can encode."""

    def drop(self, space: Space) -> None:
        """Delete a space and all vectors in it."""


class VectorStore(Protocol):
    """The vectors of the items, by space and modality, and what changed of them."""

    def counts(self) -> dict[int, dict[str, int]]:
        """How many vectors there are, by space id and modality."""

    def count(
        self, space: Space, modality: Modality | None = None, ids: Iterable[int] | None = None
    ) -> int:
        """How many vectors a space has, of one modality or all, of some items or all."""

    def modalities(self, space: Space) -> list[Modality]:
        """The modalities that have vectors in a space, sorted."""

    def of(
        self, space: Space, modality: Modality, ids: Sequence[int] | None = None
    ) -> tuple[NDArray[np.int64], Vectors, NDArray[np.int64]]:
        """Item ids (n,), vectors (n, dim) float32 and positions (n,) of some items or all.

        In order of (item id, position).
        """

    def pages(
        self, space: Space, modality: Modality, rows: int = 8192
    ) -> Iterator[tuple[NDArray[np.int64], Vectors]]:
        """Item ids (n,) and vectors (n, dim) float32, about `rows` at a time, in order of item id.

        All vectors of an item are in one page.
        """

    def sample(self, space: Space, modality: Modality, number: int) -> Vectors:
        """At most `number` vectors (n, dim) float32, of items spread over all ids."""

    def spans(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> dict[tuple[int, int], Span | None]:
        """By (item id, position), the stretch of the file that each vector of some items is of."""

    def missing(
        self,
        space: Space,
        modality: Modality,
        kinds: Iterable[Kind],
        *,
        token_embeddings: bool = False,
    ) -> list[tuple[int, str, bytes]]:
        """(item id, path, hash) of the items of some kinds that lack a vector.

        For "text": the items of any kind that have texts. Imported items, which cannot be read
        again, lack only the vectors of texts. With `token_embeddings`, those that lack these.
        """

    def any_missing(self, space: Space, modality: Modality, kinds: Iterable[Kind]) -> bool:
        """Whether some item, imported or not, lacks a vector."""

    def missing_of_imported(self, space: Space, modality: Modality, kinds: Iterable[Kind]) -> int:
        """How many imported items lack a vector."""

    def backfill(
        self,
        vectors: Mapping[tuple[int, bytes], Mapping[VectorField, ItemVectors]],
        texts: Mapping[int, Sequence[str]] | None = None,
    ) -> None:
        """Store vectors of items that are stored already, all or none.

        Args:
            vectors: By (item id, hash); an item whose content has changed meanwhile is left out.
            texts: By item id, the texts that were encoded; an item that has others now is left out.
        """

    def new(self, space: Space, modality: Modality, after: int = 0) -> Iterator[NewVectors]:
        """The vectors whose id is above `after`, in order of it, some at a time."""


class ChangeStore(Protocol):
    """The log of deletions, by which vector indexes follow the store."""

    def last(self) -> int:
        """The number of the last change."""

    def deleted_vectors(
        self, space: Space, modality: Modality, after: int
    ) -> tuple[NDArray[np.int64], int]:
        """The ids (n,) of vectors that were deleted after a change, and the last change."""

    def forget(self, upto: int) -> None:
        """Drop deletions of vectors up to a change: every index has applied them."""


class TokenEmbeddingStore(Protocol):
    """Token embeddings: small vectors of a text's words or a picture's regions, for reranking."""

    def of(
        self, space: Space, modality: Modality, ids: Sequence[int]
    ) -> dict[tuple[int, int], NDArray[np.int8]]:
        """By (item id, position), the token embeddings (n, d) of some items' vectors."""

    def clear(self, space: Space) -> None:
        """Delete all of a space."""


class HubStore(Protocol):
    """The hubs of vectors: mean cosines to the nearest typical queries of each modality."""

    def of(
        self,
        space: Space,
        modality: Modality,
        query_modality: Modality,
        ids: Sequence[int] | None = None,
    ) -> NDArray[np.float32]:
        """The hub (n,) of each vector, in the order of `vectors.of`; NaN where not known."""

    def missing(
        self, space: Space, modality: Modality, query_modality: Modality, most: int
    ) -> tuple[list[int], Vectors]:
        """Ids (n,) and vectors (n, dim) of at most `most` vectors whose hub is not known."""

    def set(
        self, query_modality: Modality, vector_ids: Sequence[int], hubs: NDArray[np.float32]
    ) -> None:
        """Store the hubs (n,) of vectors, by the ids that `missing` gave."""


class QueryBankStore(Protocol):
    """The query banks that were made for the spaces of this index."""

    def get(self, space: Space) -> bytes | None:
        """The stored query bank of a space."""

    def set(self, space: Space, version: str, bank: bytes) -> None:
        """Store the query bank of a space."""


class SettingStore(Protocol):
    """The settings and the progress of an index, as texts by key."""

    def get(self, key: str) -> str | None:
        """The text of a key, if any."""

    def set(self, key: str, value: str) -> None:
        """Store the text of a key."""


class LoaderStore(Protocol):
    """Writes many items at once."""

    def loading(self, total: int | None = None) -> AbstractContextManager[PutBatch]:
        """A context that gives a function which writes a batch, all or none.

        Args:
            total: How many rows are coming, if that is known.
        """

    def next_numbers(self, number: int) -> range:
        """Numbers that were never returned before, to name items without a path."""


class Store(Protocol):
    """One index's store. Reads are consistent; each write is one transaction."""

    def __len__(self) -> int:
        """How many items there are."""

    @property
    def items(self) -> ItemStore: ...
    @property
    def files(self) -> FileStore: ...
    @property
    def sources(self) -> SourceStore: ...
    @property
    def index_roots(self) -> IndexRootStore: ...
    @property
    def failures(self) -> FailureStore: ...
    @property
    def metadata(self) -> MetadataStore: ...
    @property
    def tags(self) -> TagStore: ...
    @property
    def words(self) -> WordStore: ...
    @property
    def filters(self) -> FilterStore: ...
    @property
    def spaces(self) -> SpaceStore: ...
    @property
    def vectors(self) -> VectorStore: ...
    @property
    def changes(self) -> ChangeStore: ...
    @property
    def token_embeddings(self) -> TokenEmbeddingStore: ...
    @property
    def hubs(self) -> HubStore: ...
    @property
    def query_banks(self) -> QueryBankStore: ...
    @property
    def settings(self) -> SettingStore: ...
    @property
    def loader(self) -> LoaderStore: ...
    @property
    def transfer(self) -> TransferStore: ...
    @property
    def vector_indexes(self) -> VectorIndexes | None:
        """The engine's own nearest-neighbour search; None if it has none."""

    @property
    def writer_lock(self) -> WriterLock | None:
        """The engine's own way to decide who may write; None: a lock in the index folder does."""

    def put(
        self, records: Sequence[ItemRecord], failures: Sequence[FailureRecord] = ()
    ) -> dict[PathKey, bytes]:
        """Store files, all or none; a file that is stored loses its earlier failure.

        Returns:
            For records without an id whose path has an item after all, because another process
            stored it meanwhile: the hash of that item's content, by path key.

        Raises:
            DuplicateGone: the duplicate of a record is gone, or has other content by now.
        """

    def state(self) -> StoreState:
        """The state of the store, which indexes that follow it compare with theirs."""

    def moment(self) -> Hashable:
        """Equal for two calls if the store cannot have changed between; cheaper than any read."""

    def size(self) -> int | None:
        """How many bytes it takes where it is stored, indexes included; None if nobody knows."""

    def check_open(self) -> None:
        """Check that it is still the store that was opened; as cheap as `moment`.

        Raises:
            IndexUnusable: it was closed, or deleted or replaced since: it has to be opened again.
        """

    def close(self) -> None:
        """Close the store; calling it twice does no harm."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Everything this thread reads within the context is of one moment.

        Raises:
            RuntimeError: this thread writes within it; it could not see what it wrote.
        """

    @property
    def in_snapshot(self) -> bool:
        """Whether this thread is within a snapshot, where it may not write."""
