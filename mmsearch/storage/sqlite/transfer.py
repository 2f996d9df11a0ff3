"""How a copy writes a catalog."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection, update

from mmsearch.storage.lock import FolderLock
from mmsearch.storage.sql.transfer import Transfer
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.sqlite.loader import Loader
from mmsearch.storage.sqlite.schema import followers

_POSITIONS = [column.name for column in followers.columns if not column.primary_key]


class SqliteTransfer(Transfer):
    """Reads and writes a catalog's tables."""

    def __init__(self, database: Database, loader: Loader) -> None:
        super().__init__(database)
        self._folder = database.path.parent
        self._loader = loader

    @contextmanager
    def transactions(self) -> Iterator[Callable[[], AbstractContextManager[Connection]]]:
        lock = FolderLock(self._folder)
        with lock.writing("copying"), self._loader.transactions(sys.maxsize) as transaction:
            yield transaction

    def cleared(self, connection: Connection) -> None:
        connection.execute(update(followers).values(dict.fromkeys(_POSITIONS, 0)))

    def finished(self, connection: Connection) -> None:
        """Ids go on after the highest by themselves, and followers have seen no item yet."""
