"""What the stores in SQLite and PostgreSQL have in common."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from mmsearch.storage.records import FailureRecord, ItemRecord, PathKey, StoreState
from mmsearch.storage.sql.annotations import Metadata, Tags
from mmsearch.storage.sql.database import Database
from mmsearch.storage.sql.index_settings import Settings, next_revision
from mmsearch.storage.sql.indexed_files import Failures, Files, IndexRoots, Sources, put_failures
from mmsearch.storage.sql.items import Items
from mmsearch.storage.sql.spaces import QueryBanks, Spaces
from mmsearch.storage.sql.vectors import Hubs, TokenEmbeddings
from mmsearch.storage.sql.writer import put_records


class SqlStore:
    """The parts of a `mmsearch.storage.Store` that every SQL database runs in the same way.

    Args:
        database: The index's.
    """

    def __init__(self, database: Database) -> None:
        self._sql_database = database
        self.settings = Settings(database)
        self.sources = Sources(database)
        self.index_roots = IndexRoots(database)
        self.files = Files(database)
        self.failures = Failures(database)
        self.items = Items(database)
        self.metadata = Metadata(database)
        self.tags = Tags(database)
        self.spaces = Spaces(database)
        self.token_embeddings = TokenEmbeddings(database)
        self.hubs = Hubs(database)
        self.query_banks = QueryBanks(database)

    def __len__(self) -> int:
        return len(self.items)

    def put(
        self, records: Sequence[ItemRecord], failures: Sequence[FailureRecord] = ()
    ) -> dict[PathKey, bytes]:
        with self._sql_database.write() as connection:
            before, changed = put_records(self._sql_database.writer(connection), records)
            put_failures(connection, failures)
            if changed:
                next_revision(connection)
        return before

    def state(self) -> StoreState:
        return self.settings.state()

    def snapshot(self) -> AbstractContextManager[None]:
        return self._sql_database.snapshot()

    @property
    def in_snapshot(self) -> bool:
        return self._sql_database.in_snapshot
