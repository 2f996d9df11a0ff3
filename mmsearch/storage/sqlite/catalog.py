"""The catalog: what is known of each file, its texts and its vectors, in one SQLite file.

It is the truth; everything else in an index folder can be made again from it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mmsearch.storage.records import FailureRecord, ItemRecord, StoreState
from mmsearch.storage.sqlite.annotations import Metadata, Tags
from mmsearch.storage.sqlite.change_log import Changes
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.filters import Filters
from mmsearch.storage.sqlite.index_settings import Settings, next_revision
from mmsearch.storage.sqlite.indexed_files import Failures, Files, IndexRoots, Sources, put_failures
from mmsearch.storage.sqlite.items import Items
from mmsearch.storage.sqlite.loader import Loader
from mmsearch.storage.sqlite.relocation import Relocation
from mmsearch.storage.sqlite.spaces import QueryBanks, Spaces
from mmsearch.storage.sqlite.vectors import Hubs, StoredVectors, TokenEmbeddings
from mmsearch.storage.sqlite.words import Words
from mmsearch.storage.sqlite.writer import put_records
from mmsearch.storage.store import VectorIndexes


class Catalog:
    """The `mmsearch.storage.Store` in one SQLite file; what its methods promise is said there.

    Args:
        path: The file, made if it is missing.

    Raises:
        CatalogDamaged: the file is cut short, or is no database any more.
        IndexUnusable: it is no catalog, or was made by a newer mmsearch.
        IndexBusy: it is older than this mmsearch, and another process is writing to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = database = Database(path)
        self.settings = Settings(database)
        self.sources = Sources(database)
        self.index_roots = IndexRoots(database)
        self.files = Files(database)
        self.failures = Failures(database)
        self.items = Items(database)
        self.metadata = Metadata(database)
        self.tags = Tags(database)
        self.words = Words(database)
        self.filters = Filters(database, path.parent / "cache")
        self.spaces = Spaces(database)
        self.vectors = StoredVectors(database)
        self.changes = Changes(database)
        self.token_embeddings = TokenEmbeddings(database)
        self.hubs = Hubs(database)
        self.query_banks = QueryBanks(database)
        self.loader = Loader(database, self.settings)
        self.relocation = Relocation(database)
        self.vector_indexes: VectorIndexes | None = None
        """SQLite finds no neighbours: `mmsearch.spaces.index_cache` does."""

    def __len__(self) -> int:
        return len(self.items)

    def counts(self) -> dict[str, Any]:
        """How many there are: items by kind, vectors by space id and modality, failures."""
        return {
            "items": self.items.counts(),
            "vectors": self.vectors.counts(),
            "failures": len(self.failures),
        }

    def put(self, records: Sequence[ItemRecord], failures: Sequence[FailureRecord] = ()) -> None:
        with self.database.write() as connection:
            put_records(connection, records)
            put_failures(connection, failures)
            if any(record.changes_vectors for record in records):
                next_revision(connection)

    def state(self) -> StoreState:
        return self.settings.state()

    def moment(self) -> Hashable:
        with self.filters.view() as view:
            return view.moment

    def snapshot(self) -> AbstractContextManager[None]:
        return self.database.snapshot()

    @property
    def in_snapshot(self) -> bool:
        return self.database.in_snapshot

    def shrink(self) -> None:
        """Return the space of deleted rows to the disk."""
        self.database.shrink()

    def close(self) -> None:
        self.database.close()
