"""The store in a schema of a PostgreSQL database."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path

from sqlalchemy import text

from mmsearch.errors import IndexUnusable
from mmsearch.storage.place import IndexPlace
from mmsearch.storage.postgres.database import Database
from mmsearch.storage.postgres.filters import Filters
from mmsearch.storage.postgres.items import PostgresItems
from mmsearch.storage.postgres.loader import Loader
from mmsearch.storage.postgres.lock import AdvisoryLock
from mmsearch.storage.postgres.transfer import PostgresTransfer
from mmsearch.storage.postgres.vector_indexes import PgVectorIndexes
from mmsearch.storage.postgres.vectors import PostgresChanges, PostgresVectors
from mmsearch.storage.postgres.words import Words
from mmsearch.storage.sql.store import SqlStore


class PostgresStore(SqlStore):
    """The `mmsearch.storage.Store` in PostgreSQL; what its methods promise is said there.

    Any number of processes may write at once: each transaction waits for the one before it.

    Args:
        url: A libpq URL or connection string. It may hold a password; nothing shows it.
        name: The schema of the index.
        address: What messages call it.
        create: Make the index if there is none.
        initial: Settings that it is made with.
        folder: The local cache; None: nothing is cached on disk.

    Raises:
        IndexNotFound: there is none, and `create` is False.
        IndexUnusable: the server cannot be reached or lets nobody in, lacks pgvector or the right
            to make the index; or the index was made by a newer mmsearch.
    """

    def __init__(
        self,
        url: str,
        name: str,
        address: str,
        *,
        create: bool,
        initial: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.database = database = Database(
            url, name, address, create=create, initial=initial or {}
        )
        super().__init__(database)
        self.items = PostgresItems(database)
        self.vectors = PostgresVectors(database)
        self.changes = PostgresChanges(database)
        self.loader = Loader(database)
        self.writer_lock = AdvisoryLock(database)
        self.transfer = PostgresTransfer(database, self.writer_lock)
        self._store_id = self.state().store_id
        self.filters = Filters(database)
        self.words = Words(database)
        self.vector_indexes = PgVectorIndexes(database, self.settings, self.state, folder)

    def moment(self) -> Hashable:
        return self.database.moment()

    def size(self) -> int:
        return int(self.database.scalars(_SIZE)[0] or 0)

    def check_open(self) -> None:
        self.database.check_open()
        if not self.in_snapshot and self.settings.get("catalog_id") != self._store_id:
            raise IndexUnusable(
                f"the index at {self.database.address} was replaced after it was opened: open it "
                "again"
            )

    def close(self) -> None:
        self.database.close()


def open_store(
    place: IndexPlace, *, create: bool, initial: Mapping[str, str] | None = None
) -> PostgresStore:
    """The store at a place; what it raises is said at `PostgresStore`."""
    return PostgresStore(
        place.url, place.name, str(place), create=create, initial=initial, folder=place.folder
    )


_SIZE = text(
    "SELECT sum(pg_total_relation_size(pg_class.oid)) FROM pg_class "
    "JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE relkind = 'r' AND nspname = current_schema()"
)
