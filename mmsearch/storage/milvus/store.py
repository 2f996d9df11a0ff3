"""The `mmsearch.storage.Store` in Milvus; what its methods promise is said there.

What Milvus cannot keep of that, and what stands in its place, is said in
`mmsearch.storage.milvus.database`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from mmsearch.storage.milvus.annotations import Metadata, Tags
from mmsearch.storage.milvus.client import Client
from mmsearch.storage.milvus.database import SETTING, Database
from mmsearch.storage.milvus.files import Failures, Files, IndexRoots, Sources
from mmsearch.storage.milvus.filters import Filters
from mmsearch.storage.milvus.items import Items
from mmsearch.storage.milvus.lease import Lease
from mmsearch.storage.milvus.recovery import recover
from mmsearch.storage.milvus.spaces import QueryBanks, Spaces
from mmsearch.storage.milvus.transfer import Transfer
from mmsearch.storage.milvus.vector_indexes import MilvusIndexes
from mmsearch.storage.milvus.vectors import Changes, Hubs, StoredVectors, TokenEmbeddings
from mmsearch.storage.milvus.words import Words
from mmsearch.storage.milvus.writer import put_batch, put_records
from mmsearch.storage.records import (
    FailureRecord,
    ItemBatch,
    ItemRecord,
    PathKey,
    Space,
    StoreState,
)
from mmsearch.storage.store import LoaderStore, PutBatch, SettingStore

if TYPE_CHECKING:
    from mmsearch.storage.place import IndexPlace

_NUMBERED = "numbered items"
"""The setting that holds the next number for items that came without a name."""


class MilvusStore:
    """A store in Milvus.

    Args:
        client: The connection.
        place: Where the index is; its cache folder exists.
    """

    def __init__(self, client: Client, place: IndexPlace) -> None:
        self.database = database = Database(client, place, recover)
        self.settings = Settings(database)
        self.sources = Sources(database)
        self.index_roots = IndexRoots(database)
        self.files = Files(database, self.sources)
        self.failures = Failures(database, self.sources)
        self.items = Items(database, self.sources)
        self.metadata = Metadata(database)
        self.tags = Tags(database)
        self.spaces = Spaces(database)
        self.vectors = StoredVectors(database, self.sources)
        self.changes = Changes(database)
        self.token_embeddings = TokenEmbeddings(database)
        self.hubs = Hubs(database)
        self.query_banks = QueryBanks(database)
        self.loader = Loader(database, self.settings)
        self.transfer = Transfer(database)
        self.words = Words(database, self.sources)
        self.filters = Filters(database, self.sources)
        self.vector_indexes = MilvusIndexes(database, self.settings, place.folder / "cache")

    def __len__(self) -> int:
        return len(self.items)

    @property
    def writer_lock(self) -> Lease:
        """The right to write, which one process has at a time."""
        return self.database.lease

    def put(
        self, records: Sequence[ItemRecord], failures: Sequence[FailureRecord] = ()
    ) -> dict[PathKey, bytes]:
        changes = any(record.changes_vectors for record in records)
        with self.database.write(vectors=changes) as write:
            return put_records(write, records, failures)

    def state(self) -> StoreState:
        head = self.database.head()
        return StoreState(head["store_id"], head["revision"], str(head["epoch"]), head["forgotten"])

    def moment(self) -> Hashable:
        return self.database.moment()

    def snapshot(self) -> AbstractContextManager[None]:
        return self.database.snapshot()

    @property
    def in_snapshot(self) -> bool:
        return self.database.in_snapshot

    def size(self) -> int | None:
        return None  # Milvus does not say

    def check_open(self) -> None:
        self.database.check_open()

    def close(self) -> None:
        self.database.close()


class Settings(SettingStore):
    """The settings and the progress of an index."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> str | None:
        return self._database.document(f"{SETTING}{key}")

    def set(self, key: str, value: str) -> None:
        with self._database.write() as write:
            write.put_document(f"{SETTING}{key}", value)


class Loader(LoaderStore):
    """Writes many items at once."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    @contextmanager
    def loading(self, total: int | None = None) -> Iterator[PutBatch]:
        del total  # Milvus writes many as it writes few

        def put(batch: ItemBatch, space: Space | None) -> tuple[int, int]:
            with self._database.write(vectors=True) as write:
                return put_batch(write, batch, space)

        yield put

    def next_numbers(self, number: int) -> range:
        with self._database.write():
            first = int(self._settings.get(_NUMBERED) or 0)
            self._settings.set(_NUMBERED, str(first + number))
        return range(first, first + number)
