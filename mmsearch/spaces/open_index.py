"""One index, open: everything that indexing and searching draw on."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

from mmsearch.errors import IndexUnusable, StorageFailed
from mmsearch.spaces.encoder_pool import EncoderPool
from mmsearch.spaces.index_cache import IndexCache, check_kind
from mmsearch.spaces.query_banks import QueryBanks
from mmsearch.storage import (
    Serving,
    Space,
    Store,
    VectorIndex,
    VectorIndexes,
    WriterLock,
    backups,
)
from mmsearch.storage.lock import FolderLock
from mmsearch.storage.place import IndexPlace
from mmsearch.types import Modality
from mmsearch.vectors.hubness import EXTRA_DIMS

if TYPE_CHECKING:
    from pathlib import Path

    from mmsearch.encoders import Encoder, Runtime

BACKUPS = "backups"
"""The setting that holds how many backups are kept, if not the default."""

MOMENTS = 64
"""States of the store whose serving spaces are remembered: each thread may see another one."""

CATCH_UP = 2_000
"""The most items that a search adds to the full-text index after an interrupted run."""


class OpenIndex:
    """The parts of an open index: store, encoders, query banks, vector indexes, lock.

    The folder of its place exists; it contains caches, and without a server backups and the lock.
    """

    def __init__(self, place: IndexPlace, store: Store, runtime: Runtime) -> None:
        self.place = place
        self.store = store
        self.runtime = runtime
        self.notices: list[str] = []
        """What the next report tells the user."""
        self.builds_vector_indexes = True
        """Whether a run that writes rebuilds the vector indexes, which only searches need."""
        self.encoders = EncoderPool(store, runtime)
        self.query_banks = QueryBanks(store)
        self._lock: WriterLock = store.writer_lock or FolderLock(place.folder)
        self.vector_indexes: VectorIndexes = store.vector_indexes or IndexCache(
            place.folder / "cache", store, self.query_banks, self._lock.may_write
        )
        self._serving: dict[Hashable, Serving] = {}

    def close(self) -> None:
        """Close the store; calling it twice does no harm."""
        self.store.close()
        self.vector_indexes.clear()

    # ------------------------------------------------------------------ reading

    def serving(self) -> Serving:
        """The spaces that serve, the preferred one first, and the modalities they serve."""
        store = self.store
        moment = store.moment()  # read first, so that a concurrent change is seen next time
        known = self._serving.get(moment)
        if known is None:
            known = [
                (space, [name for name in store.vectors.modalities(space) if name in space.serves])
                for space in store.spaces.all()
                if space.serves
            ]
            if len(self._serving) >= MOMENTS:
                self._serving = {}
            self._serving[moment] = known
        return known

    def preferred_space(self) -> Space | None:
        """The preferred space of those that serve."""
        return next((space for space, _ in self.serving()), None)

    def encoder(self, space: Space) -> Encoder:
        """The encoder of a space, loaded when first needed.

        Raises:
            IndexUnusable: its weights are not those that made the vectors.
            ModelUnavailable: it is not on this machine.
        """
        return self.encoders.encoder_of(space)

    def preferred_encoder(self) -> Encoder:
        """The encoder of the preferred space; of an empty index, the one it is to be built with.

        Raises:
            IndexUnusable, ModelUnavailable: as `encoder`; or the index has no model yet.
        """
        if space := self.preferred_space():
            return self.encoder(space)
        if not self.encoders.requested:
            raise IndexUnusable(f"{self.place} has no model yet: fill it with `mmsearch index`")
        return self.encoders.requested[-1]

    def vector_index(self, space: Space, modality: Modality) -> VectorIndex:
        """The index over the vectors of a modality in a space, as this thread sees the store."""
        return self.vector_indexes.index(space, modality)

    def check_kind(self, kind: str) -> None:
        """Check that `override_kind` can build this kind of vector index.

        Raises:
            InvalidOption: the kind does not exist, or the index is on a server, which has its own.
        """
        self.place.check_folder(
            "kinds of vector index are tried on",
            "its server builds its own; give a copy another kind (`mmsearch copy`, then `mmsearch "
            "index --kind`) and compare the two: mmsearch eval PAIRS --compare default index=COPY",
        )
        for dim in {space.dim for space, _ in self.serving()} or {256}:
            check_kind(kind, dim + EXTRA_DIMS)

    def override_kind(self, kind: str, folder: Path) -> None:
        """Make this object search with a kind of vector index other than the stored setting.

        Nothing stored changes; other objects and processes keep their vector indexes.

        Args:
            kind: As for `configure`.
            folder: An empty folder, in which the vector indexes are built.

        Raises:
            InvalidOption: as `check_kind`.
        """
        self.check_kind(kind)
        self.vector_indexes.clear()
        self.vector_indexes = IndexCache(
            folder, self.store, self.query_banks, lambda _: nullcontext(enter_result=False), kind
        )

    @contextmanager
    def snapshot(self, *, words: bool) -> Iterator[None]:
        """A context in which everything that this thread reads is a consistent snapshot.

        Args:
            words: Whether the full-text index is searched. If so, up to CATCH_UP items that an
                interrupted run did not add to it are added first, unless another process writes.
        """
        with self.store.snapshot():
            if not words or not self.store.words.due():
                yield
                return
        with self._lock.may_write("indexing words") as allowed, suppress(StorageFailed):
            if allowed:
                self.store.words.refresh(at_most=CATCH_UP)
        with self.store.snapshot():
            yield

    # ------------------------------------------------------------------ writing

    def configure(
        self,
        *,
        backups_kept: int | None,
        token_embeddings: bool | None,
        kind: str | None,
        recall: float | None,
    ) -> None:
        """Store settings; None leaves one as it was.

        They are the number of backups, whether token embeddings are kept for reranking, and the
        kind of vector index with its least recall.

        Raises:
            InvalidOption: there is no such kind, the recall is not a share, or the index is on a
                server, where no backups are kept.
        """
        if backups_kept is not None:
            self.place.check_folder(
                "backups are kept of", "leave out --backups, and have the server backed up"
            )
            self.store.settings.set(BACKUPS, str(backups_kept))
        self.vector_indexes.configure(kind, recall)
        self.encoders.keep_tokens(wanted=token_embeddings)

    def writing(self, what: str, *, wait: float = 0.0) -> AbstractContextManager[None]:
        """The right to write, for as long as a `with` lasts: see `WriterLock`."""
        return self._lock.writing(what, wait=wait)

    def rebuild_indexes(self, *, soon_again: bool = False) -> None:
        """Build the vector indexes that what was written has outgrown, see `VectorIndexes`."""
        if self.builds_vector_indexes:
            self.vector_indexes.rebuild(
                self.serving(), self.query_banks.searches, soon_again=soon_again
            )

    def keep_backup(self, *, changed: bool = True, now: bool = False) -> list[str]:
        """Back the store up if it has changed and that is due, or now; returns warnings."""
        folder = self.place.folder
        if not (folder / backups.CATALOG).exists():
            return []  # the store is not in this folder
        if not changed and backups.newest(folder) is not None:
            return []
        kept = self.store.settings.get(BACKUPS)
        try:
            backups.roll(folder, backups.KEPT if kept is None else int(kept), now=now)
        except StorageFailed as error:
            return [str(error)]
        return []
