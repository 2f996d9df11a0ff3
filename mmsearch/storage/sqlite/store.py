"""How the catalog's file is read and written."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError, IntegrityError

from mmsearch.errors import CatalogDamaged, StorageFailed
from mmsearch.storage.sqlite.schema import connect, state, writing

MAX_PARAMETERS = 500
"""Ids in one IN list; SQLite's oldest bound is 999 variables."""


class Store:
    """One SQLite file: transactions that read and that write, and its settings."""

    def __init__(self, path: Path) -> None:
        self._engine = connect(path)
        self._open = True
        self._frozen = threading.local()  # of each thread, the connection of its snapshot
        self.path = path

    def close(self) -> None:
        """Let go of the file; it cannot be used any more."""
        self._open = False
        self._engine.dispose()

    def _check_open(self) -> None:
        if not self._open:
            raise StorageFailed("this index has been closed: open it again to use it")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Within it, all that this thread reads is as it was at one moment, whoever writes.

        Raises:
            RuntimeError: something is written within it by this thread, which could not see it.
        """
        if self._snapshot() is not None:
            yield
            return
        with self._read() as connection:
            connection.exec_driver_sql("SELECT 1 FROM state LIMIT 1")  # BEGIN alone reads nothing
            self._frozen.connection = connection
            try:
                yield
            finally:
                self._frozen.connection = None

    @property
    def in_snapshot(self) -> bool:
        """Whether this thread is within a snapshot, where it may not write."""
        return self._snapshot() is not None

    def _snapshot(self) -> Connection | None:
        return getattr(self._frozen, "connection", None)

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        self._check_open()
        if self._snapshot() is not None:
            raise RuntimeError("nothing may be written within a snapshot")
        with storage_errors(), writing(self._engine) as connection:
            yield connection

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        self._check_open()
        if (frozen := self._snapshot()) is not None:
            with storage_errors():
                yield frozen
            return
        with storage_errors(), self._engine.begin() as connection:
            yield connection

    def _rows(self, statement: Select[Any]) -> list[Any]:
        with self._read() as connection:
            return list(connection.execute(statement).all())

    def _scalars(self, statement: Select[Any]) -> list[Any]:
        return [row[0] for row in self._rows(statement)]

    def stamp(self) -> tuple[str, int]:
        """(catalog id, revision); the revision rises whenever a vector comes, changes or goes."""
        found = dict(self._rows(select(state.c.key, state.c.value)))
        return found["catalog_id"], int(found["revision"])

    def setting(self, key: str) -> str | None:
        """What was kept under a key, if anything was."""
        found: list[str] = self._scalars(select(state.c.value).where(state.c.key == key))
        return found[0] if found else None

    def set_setting(self, key: str, value: str) -> None:
        """Keep a text under a key."""
        with self._write() as connection:
            keep(connection, key, value)


def keep(connection: Connection, key: str, value: str) -> None:
    """Keep a text under a key, as a part of what is being written."""
    row = insert(state).values(key=key, value=value)
    kept = {"value": row.excluded.value}
    connection.execute(row.on_conflict_do_update(index_elements=["key"], set_=kept))


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
