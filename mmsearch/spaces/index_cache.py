"""The FAISS indexes that searches use: each follows the store, and starts from files.

The files of a segment lie in a folder `cache/MODALITY-SPACE-CATALOG-REVISION-…` with the vectors of
a modality at one revision of the store. A segment is written whole or not at all, never changed,
and never the only copy. Vectors added since then are read from the store by their ascending ids,
and deleted ones from its log of changes. So an update costs O(change), and a segment is rebuilt
only once the delta has grown large.
"""

from __future__ import annotations

import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from mmsearch.errors import InvalidOption, StorageFailed
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.storage import SampleQueriesOf, Serving, Space, Store, StoreState
from mmsearch.storage.index_kind import check_recall, want_index, wanted_index
from mmsearch.types import Modality
from mmsearch.vectors import (
    AUTO,
    EXACT,
    NAMED,
    FaissIndex,
    Segment,
    SegmentDamaged,
    write_segment,
)
from mmsearch.vectors.hubness import EXTRA_DIMS, augmented
from mmsearch.vectors.segment import UPTO, read_about

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mmsearch.storage import NewVectors

MAX_DELTA = 20_000
"""A search rebuilds a segment whose delta exceeds this, and half the segment."""

SMALL_SEGMENT, MAX_DELTA_SHARE = 50_000, 0.1
"""An indexing run rebuilds a segment of up to 50,000 rows after any change, and a larger one once
the delta exceeds this share of it."""

MIN_DELTA = 1_000
"""Up to this many rows, a delta is kept by a run that another one is likely to follow soon."""

MAX_CHANGES = 100_000
"""The log of changes is cut when it has so many that every segment has applied."""

SNAPSHOTS = 2
"""Snapshots of an index kept in memory, as a thread may still be searching an older one."""

KIND_HINT = f"one of {', '.join(map(repr, NAMED))}, or a FAISS factory string such as 'HNSW32'"
"""What may be given as a kind of index, for messages."""

LAST_CHANGE = "gone"
"""The key, in a segment's ABOUT, of the last change of the store that the segment has applied."""

UNFINISHED = ".part"
"""The ending of a segment's folder while it is written or deleted."""

ABANDONED = 3600
"""Seconds after which an unfinished segment counts as abandoned."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """An index as of one state of the store; it is not changed any more."""

    index: FaissIndex
    state: StoreState
    last_vector: int
    """The highest id of a vector that was added."""
    last_change: int
    """The last change that was applied."""

    def can_follow(self, state: StoreState) -> bool:
        """Whether the store still lists every change between this and a later state."""
        same = (self.state.store_id, self.state.epoch) == (state.store_id, state.epoch)
        return same and self.last_change >= state.forgotten


class IndexCache:
    """The FAISS indexes of a store, in memory and in files.

    Args:
        folder: Of the segments; made when there is one to store.
        store: The source of the vectors.
        query_banks: Of hubs, and of the queries that a search measures recall with.
        may_write: A context that tells whether the store may be written.
        kind: The kind of the indexes, instead of the stored setting; None: as it says.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        query_banks: QueryBanks,
        may_write: Callable[[str], AbstractContextManager[bool]],
        kind: str | None = None,
    ) -> None:
        self._folder = folder
        self._kind = kind
        self._store = store
        self._query_banks = query_banks
        self._may_write = may_write
        self._snapshots: dict[tuple[int, Modality], list[_Snapshot]] = {}  # the newest first
        self._lock = threading.RLock()

    def index(self, space: Space, modality: Modality) -> FaissIndex:
        """The index of a modality's vectors, as of this thread's snapshot of the store."""
        state = self._store.state()
        snapshot = self._newest(space, modality, state)
        if snapshot is None or snapshot.state != state:
            with self._lock:  # one thread updates it while the others wait
                snapshot = self._updated(space, modality, state)
        return snapshot.index

    def has(self, space: Space, modality: Modality) -> bool:
        """Whether the index of a modality's vectors is in memory, of whatever state."""
        return (space.id, modality) in self._snapshots

    def rebuild(
        self, serving: Serving, queries: SampleQueriesOf, *, soon_again: bool = False
    ) -> None:
        """Rebuild segments whose delta has grown, at the end of an indexing run.

        If another run is likely to follow soon, small segments wait for it.
        """
        for space, modalities in serving:
            for modality in modalities:
                index = self.index(space, modality)
                rows = len(index.segment)
                limit = rows * MAX_DELTA_SHARE if rows > SMALL_SEGMENT or soon_again else 0
                if index.delta_size > (max(limit, MIN_DELTA) if soon_again else limit):
                    with self._lock:
                        self._rebuilt(space, modality, queries)
        last = self._last_common_change()
        if last is not None and last > self._store.state().forgotten + MAX_CHANGES:
            self._store.changes.forget(last)

    def configure(self, kind: str | None, recall: float | None) -> None:
        """Store the kind of index to use and its least recall; None leaves it unchanged.

        Raises:
            InvalidOption: FAISS knows no such kind, or the recall is not a share.
        """
        check_recall(recall)
        if kind is not None:
            for dim in {space.dim for space in self._store.spaces.all()} or {256}:
                check_kind(kind, dim + EXTRA_DIMS)
        want_index(self._store.settings, kind, recall)
        if kind is not None or recall is not None:
            self.clear()

    def describe(self, serving: Serving) -> list[dict[str, Any]]:
        """The kind of index of each modality, and why; only those that have a segment."""
        state, (kind, _) = self._store.state(), self._wanted_kind()
        found = []
        for space, modalities in serving:
            for modality in modalities:
                for folder, about in self._segments(space, modality, state):
                    with suppress(FileNotFoundError):  # another process may be deleting it
                        size = sum(file.stat().st_size for file in folder.iterdir())
                        shown = {name: about[name] for name in ("rows", "dim", "revision")}
                        shown |= {**about["choice"], "bytes": size, "asked": kind}
                        found.append({"model": space.name, "facet": modality, **shown})
                        break
        return found

    def warnings(self, serving: Serving) -> list[str]:
        """The modalities whose index could not be of the kind that the user wants, and why."""
        kind, _ = self._wanted_kind()
        return [
            f"{one['facet']}: {one['why']}; every vector is compared meanwhile"
            for one in self.describe(serving)
            if kind not in (AUTO, EXACT) and one["kind"] == EXACT and one["rows"]
        ]

    def drop(self, space: Space) -> None:
        """Delete the segments of a space."""
        for modality in get_args(Modality):
            for folder in segment_folders(self._folder, space.id, modality):
                _delete(folder)
        self.clear()

    def clear(self) -> None:
        """Release the indexes in memory."""
        self._snapshots = {}

    def _wanted_kind(self) -> tuple[str, float]:
        """The kind of index to build, and the least recall it must have."""
        kind, recall = wanted_index(self._store.settings)
        return self._kind or kind, recall

    # ------------------------------------------------------------------ following the store

    def _newest(self, space: Space, modality: Modality, state: StoreState) -> _Snapshot | None:
        """The newest snapshot in memory that is not ahead of a state of the store."""
        for snapshot in self._snapshots.get((space.id, modality), ()):
            known = snapshot.state
            if known.store_id == state.store_id and known.revision <= state.revision:
                return snapshot
        return None

    def _updated(self, space: Space, modality: Modality, state: StoreState) -> _Snapshot:
        """The snapshot of a state, from memory, a stored segment, or the store."""
        found = self._newest(space, modality, state)
        if found is None or not found.can_follow(state):
            found = self._read(space, modality, state)
        elif found.state != state:
            found = self._followed(found, space, modality, state)
        if found is None or found.index.delta_size > max(MAX_DELTA, len(found.index.segment) // 2):
            return self._rebuilt(space, modality, self._query_banks.searches)
        self._keep(found, space, modality)
        return found

    def _keep(self, snapshot: _Snapshot, space: Space, modality: Modality) -> None:
        """Keep a snapshot in memory, as one of the newest."""
        others = [
            other
            for other in self._snapshots.get((space.id, modality), ())
            if other is not snapshot and other.state.store_id == snapshot.state.store_id
        ]
        newest = sorted([snapshot, *others], key=lambda one: one.state.revision, reverse=True)
        self._snapshots[space.id, modality] = newest[:SNAPSHOTS]

    def _followed(
        self, snapshot: _Snapshot, space: Space, modality: Modality, state: StoreState
    ) -> _Snapshot:
        """A snapshot with what was added and deleted since."""
        import numpy as np

        with self._store.snapshot():
            revision = self._store.state().revision
            new = list(self._store.vectors.new(space, modality, snapshot.last_vector))
            deleted, last_change = self._store.changes.deleted_vectors(
                space, modality, snapshot.last_change
            )
        index, last_vector = snapshot.index.copy(), snapshot.last_vector
        if new:
            vector_ids = np.concatenate([some.vector_ids for some in new])
            ids = np.concatenate([some.ids for some in new])
            index.add(ids, np.concatenate([_augmented(some) for some in new]), vector_ids)
            last_vector = int(vector_ids[-1])
        if len(deleted):
            index.delete(deleted)
        return _Snapshot(index, replace(state, revision=revision), last_vector, last_change)

    # ------------------------------------------------------------------ segments

    def _segments(
        self, space: Space, modality: Modality, state: StoreState
    ) -> Iterator[tuple[Path, dict[str, Any]]]:
        """The stored segments that can be brought up to a state, and their ABOUT; newest first."""
        wanted = (
            state.store_id,
            state.epoch,
            *self._wanted_kind(),
            space.dim + EXTRA_DIMS,
        )
        for folder in segment_folders(self._folder, space.id, modality):
            about: dict[str, Any] = {}
            with suppress(SegmentDamaged):  # all of it is in the store
                about = read_about(folder)
            if (
                tuple(map(about.get, ("catalog", "epoch", "kind", "recall", "dim"))) == wanted
                and about.get(LAST_CHANGE, -1) >= state.forgotten
                and about.get("revision", state.revision + 1) <= state.revision
            ):
                yield folder, about

    def _read(self, space: Space, modality: Modality, state: StoreState) -> _Snapshot | None:
        """The snapshot of a state, from the newest segment that can follow; None without one."""
        for folder, about in self._segments(space, modality, state):
            with suppress(SegmentDamaged):
                index = FaissIndex(Segment.open(folder))
                found = _Snapshot(index, state, int(about[UPTO]), int(about[LAST_CHANGE]))
                return self._followed(found, space, modality, state)
        return None

    def _rebuilt(self, space: Space, modality: Modality, queries: SampleQueriesOf) -> _Snapshot:
        """A snapshot built from the store, and stored as a segment if the disk takes it."""
        if not self._store.in_snapshot:
            with self._may_write("making an index") as may, suppress(StorageFailed):
                if may:  # indexes of older versions lack hubs
                    self._query_banks.compute_missing_hubs(space, modality)
        with self._store.snapshot():
            state = self._store.state()
            try:
                segment = self._stored(space, modality, state, queries)
            except OSError:  # full or read-only: only the next search is slower for it
                segment = self._built(None, space, modality, state, queries)
        about = segment.about
        found = _Snapshot(FaissIndex(segment), state, about[UPTO], about[LAST_CHANGE])
        self._keep(found, space, modality)
        return found

    def _stored(
        self, space: Space, modality: Modality, state: StoreState, queries: SampleQueriesOf
    ) -> Segment:
        """A new segment in a folder of its own, which replaces older ones."""
        unique = uuid.uuid4().hex[:6]
        name = f"{modality}-{space.id}-{state.store_id}-{state.revision}-{unique}"
        unfinished = self._folder / f"{name}{UNFINISHED}"
        unfinished.mkdir(parents=True)
        try:
            self._built(unfinished, space, modality, state, queries)
            segment = Segment.open(unfinished.rename(self._folder / name))
        except SegmentDamaged as error:
            raise OSError(str(error)) from error
        finally:
            if unfinished.exists():
                _delete(unfinished)
        for other in self._folder.glob(f"{modality}-{space.id}-*"):  # those of older versions, too
            # another process may be writing a new .part
            if other != segment.folder and not (other.suffix == UNFINISHED and _is_new(other)):
                _delete(other)
        return segment

    def _built(
        self,
        folder: Path | None,
        space: Space,
        modality: Modality,
        state: StoreState,
        queries: SampleQueriesOf,
    ) -> Segment:
        """A segment of all vectors there are, written to a folder or kept in memory."""
        kind, recall = self._wanted_kind()
        about = {
            "catalog": state.store_id,
            "revision": state.revision,
            "epoch": state.epoch,
            LAST_CHANGE: self._store.changes.last(),
            "kind": kind,
        }
        batches = (
            (_augmented(some), some.ids, some.vector_ids)
            for some in self._store.vectors.new(space, modality)
        )
        dim, sample = space.dim + EXTRA_DIMS, lambda: queries(space, modality)
        return write_segment(folder, dim, batches, about, sample, kind=kind, recall=recall)

    def _last_common_change(self) -> int | None:
        """The last change that every stored segment has applied; None without a segment."""
        known = []
        for folder in self._folder.glob("*-*-*-*") if self._folder.is_dir() else ():
            with suppress(SegmentDamaged):
                known.append(int(read_about(folder)[LAST_CHANGE]))
        return min(known, default=None)


def segment_folders(folder: Path, space_id: int, modality: str) -> Iterator[Path]:
    """The folders of a modality's segments, the newest revision first."""
    found = [
        path
        for path in folder.glob(f"{modality}-{space_id}-*-*-*")
        if path.suffix != UNFINISHED and path.is_dir()
    ]
    yield from sorted(found, key=revision_of, reverse=True)


def revision_of(segment_folder: Path) -> int:
    """The revision in a segment folder's name; 0 if the name has none."""
    field = segment_folder.name.split("-")[3]
    return int(field) if field.isdigit() else 0


def _augmented(vectors: NewVectors) -> NDArray[np.float16]:
    """Vectors with their hubs; unknown hubs are the mean of those in the same batch."""
    import numpy as np

    no_vectors = np.zeros((len(vectors.rows), 0), np.float32)  # those stay float16
    hubs = augmented(no_vectors, vectors.hub_text, vectors.hub_image)
    return np.concatenate([vectors.rows, hubs.astype(np.float16)], axis=1)


def check_kind(kind: str, dim: int) -> None:
    """Check that a kind of index exists and works for vectors of `dim` dimensions.

    Raises:
        InvalidOption: it does not; the message lists the kinds.
    """
    if kind in NAMED:
        return
    import faiss

    try:
        faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise InvalidOption(
            f"{kind!r} is not a kind of index for vectors of {dim} dimensions: give {KIND_HINT}"
        ) from error


def _delete(path: Path) -> None:
    """Delete a segment or a file, as far as other processes have not opened it."""
    if path.is_dir():
        if path.suffix != UNFINISHED:  # an interruption must not leave half a segment
            with suppress(OSError):
                path = path.rename(f"{path}{UNFINISHED}")
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _is_new(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime < ABANDONED
    return False
