"""The catalog: what is known of each file, its texts and its vectors, in one SQLite file.

It is the truth; everything else in an index folder can be made again from it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from mmsearch.storage.sql.store import SqlStore
from mmsearch.storage.sqlite.change_log import SqliteChanges
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.filters import Filters
from mmsearch.storage.sqlite.loader import Loader
from mmsearch.storage.sqlite.relocation import Relocation
from mmsearch.storage.sqlite.transfer import SqliteTransfer
from mmsearch.storage.sqlite.vectors import SqliteVectors
from mmsearch.storage.sqlite.view import moment_of
from mmsearch.storage.sqlite.words import Words
from mmsearch.storage.store import VectorIndexes, WriterLock


class Catalog(SqlStore):
    """The `mmsearch.storage.Store` in one SQLite file; what its methods promise is said there.

    Args:
        path: The file, made if it is missing.
        initial: Settings that it is made with.

    Raises:
        CatalogDamaged: the file is cut short, or is no database any more.
        IndexUnusable: it is no catalog, or was made by a newer mmsearch.
        IndexBusy: it is older than this mmsearch, and another process is writing to it.
    """

    def __init__(self, path: Path, initial: Mapping[str, str] | None = None) -> None:
        self.path = path
        self.database = database = Database(path, initial or {})
        super().__init__(database)
        self.words = Words(database)
        self.filters = Filters(database, path.parent / "cache")
        self.vectors = SqliteVectors(database)
        self.changes = SqliteChanges(database)
        self.loader = Loader(database)
        self.transfer = SqliteTransfer(database, self.loader)
        self.relocation = Relocation(database)
        self.vector_indexes: VectorIndexes | None = None
        """SQLite finds no neighbours: `mmsearch.spaces.index_cache` does."""
        self.writer_lock: WriterLock | None = None
        """SQLite's own lock lasts as long as a transaction: the folder's lasts as long as a run."""

    def counts(self) -> dict[str, Any]:
        """How many there are: items by kind, vectors by space id and modality, failures."""
        return {
            "items": self.items.counts(),
            "vectors": self.vectors.counts(),
            "failures": len(self.failures),
        }

    def moment(self) -> Hashable:
        if self.database.in_snapshot:
            with self.filters.view() as view:
                return view.moment
        with self.database.connection() as connection:  # one statement needs no transaction
            return moment_of(connection)

    def shrink(self) -> None:
        """Return the space of deleted rows to the disk."""
        self.database.shrink()

    def size(self) -> int:
        files = (self.path.with_name(self.path.name + end) for end in ("", "-wal", "-shm"))
        return sum(file.stat().st_size for file in files if file.exists())

    def check_open(self) -> None:
        self.database.check_open()

    def close(self) -> None:
        self.database.close()
