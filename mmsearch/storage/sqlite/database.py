"""One SQLite file: transactions that read and transactions that write."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select
from sqlalchemy.exc import DatabaseError, IntegrityError

from mmsearch.errors import CatalogDamaged, StorageFailed
from mmsearch.storage.sqlite.schema import connect, writing

MAX_PARAMETERS = 500
"""Ids in one IN list; SQLite's oldest bound is 999 variables."""


class Database:
    """One SQLite file. Reads are consistent; each write is one transaction.

    Args:
        path: The file, made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = connect(path)
        self._open = True
        self._thread = threading.local()  # holds this thread's snapshot connection

    def close(self) -> None:
        """Close the file; this object cannot be used afterwards."""
        self._open = False
        self.engine.dispose()

    def check_open(self) -> None:
        """Raise StorageFailed once it has been closed."""
        if not self._open:
            raise StorageFailed("this index has been closed: open it again to use it")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything this thread reads within it is the state of one moment, whoever writes.

        Raises:
            RuntimeError: this thread writes within it; it could not see what it wrote.
        """
        if self._snapshot() is not None:
            yield
            return
        with self.read() as connection:
            connection.exec_driver_sql("SELECT 1 FROM state LIMIT 1")  # BEGIN alone reads nothing
            self._thread.snapshot = connection
            try:
                yield
            finally:
                self._thread.snapshot = None

    @property
    def in_snapshot(self) -> bool:
        """Whether this thread is within a snapshot, where it may not write."""
        return self._snapshot() is not None

    def _snapshot(self) -> Connection | None:
        return getattr(self._thread, "snapshot", None)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes, committed at the end, rolled back on an exception."""
        self.check_open()
        if self._snapshot() is not None:
            raise RuntimeError("nothing may be written within a snapshot")
        with storage_errors(), writing(self.engine) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads, or this thread's snapshot."""
        self.check_open()
        if (snapshot := self._snapshot()) is not None:
            with storage_errors():
                yield snapshot
            return
        with storage_errors(), self.engine.begin() as connection:
            yield connection

    def rows(self, statement: Select[Any]) -> list[Any]:
        """The rows of a statement."""
        with self.read() as connection:
            return list(connection.execute(statement).all())

    def scalars(self, statement: Select[Any]) -> list[Any]:
        """The first column of the rows of a statement."""
        return [row[0] for row in self.rows(statement)]

    def driver_rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """The driver's own rows: a fifth of the time that SQLAlchemy takes for the same."""
        self.check_open()
        with storage_errors(), closing(self.engine.raw_connection()) as connection:
            driver: Any = connection.driver_connection
            found: list[Any] = driver.execute(statement, parameters).fetchall()
            return found

    def shrink(self) -> None:
        """Return the space of deleted rows to the disk."""
        with storage_errors(), closing(self.engine.raw_connection()) as connection:
            # the driver's own connection: neither statement may run in a transaction
            driver: Any = connection.driver_connection
            for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                driver.execute(statement)


@contextmanager
def storage_errors() -> Iterator[None]:
    """What the database raises becomes StorageFailed, with what to do."""
    try:
        yield
    except IntegrityError as error:
        raise StorageFailed(
            f"another process changed the index at the same time ({error.orig}); what was stored "
            "before is kept: run the command again"
        ) from error
    except (DatabaseError, sqlite3.Error) as error:
        said = getattr(error, "orig", error)
        cure = next((cure for word, cure in _CURES.items() if word in str(said)), _CHECK)
        raise StorageFailed(f"the catalog could not be read or written: {said}; {cure}") from error


_KEPT = "what was stored before is kept: "

_CHECK = f"{_KEPT}check the disk, then run the command again"

_CURES = {
    "full": f"{_KEPT}free some space, then run the command again",
    "readonly": f"{_KEPT}make the index folder writable, then run the command again",
    "locked": "another process is writing: wait for it, then run the command again",
    "malformed": f"it is damaged: {CatalogDamaged.CURE}",
    "not a database": f"it is damaged: {CatalogDamaged.CURE}",
}


def chunks(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Values in parts that one IN list can take."""
    for start in range(0, len(values), MAX_PARAMETERS):
        yield values[start : start + MAX_PARAMETERS]
