"""How a connection to a catalog is made."""

from __future__ import annotations

import os
import sqlite3
import uuid
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from mmsearch.errors import CatalogDamaged, IndexUnusable, MMSearchError
from mmsearch.storage.lock import WriterLock
from mmsearch.storage.sqlite.schema import migrations
from mmsearch.storage.sqlite.schema.changes import create_changes
from mmsearch.storage.sqlite.schema.lexical import create_words
from mmsearch.storage.sqlite.schema.tables import followed, state, tables
from mmsearch.storage.sqlite.schema.truncation import check_beginning, check_whole

APPLICATION_ID = 0x6D6D7372
"""SQLite's application_id of our files ("mmsr"), so that another database is not taken for one."""

TIMEOUT = 30
"""Seconds to wait for another process's transaction."""

MIGRATING = 600
"""Seconds to wait for another process that brings an older catalog up."""


def connect(path: Path) -> Engine:
    """An engine on the catalog at `path`, made if need be and brought up to this schema.

    Raises:
        CatalogDamaged: the file is cut short, or holds no database any more.
        IndexUnusable: it is no catalog, or was made by a newer mmsearch.
        IndexBusy: it is older than this mmsearch, and another process is writing to it.
    """
    check_beginning(path)
    writable = os.access(path.parent, os.W_OK)
    url = URL.create("sqlite", database=str(path)) if writable else _read_only(path)
    engine = create_engine(url, connect_args={"timeout": TIMEOUT})
    event.listen(engine, "connect", _set_up if writable else _set_up_reading)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            version = _version(connection, path)
            check_whole(connection, path)
        if version < _newest():
            _check_writable(path, writable=writable)
            with _alone(path, version), writing(engine) as connection:
                _bring_up(connection, path)
    except (DatabaseError, sqlite3.DatabaseError) as error:
        engine.dispose()
        raise _unusable(path, getattr(error, "orig", error)) from error
    except MMSearchError:
        engine.dispose()
        raise
    return engine


def _alone(path: Path, version: int) -> AbstractContextManager[None]:
    """Migrating takes as long as it takes: who comes second waits for it."""
    if version == 0:
        return nullcontext()
    return WriterLock(path.parent).writing("bringing it up to this version", wait=MIGRATING)


def _unusable(path: Path, said: BaseException | None) -> IndexUnusable:
    """What is to be said of what SQLite said."""
    code = getattr(said, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return CatalogDamaged(path, str(said))
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return IndexUnusable(f"{path} is in use by another process ({said}): try again")
    return IndexUnusable(f"{path} cannot be used: {said}; check the disk and who may read it")


def _check_writable(path: Path, *, writable: bool) -> None:
    if not writable:
        raise IndexUnusable(
            f"{path} was made by an older mmsearch: open it once where it can be written, or make "
            "its folder writable"
        )


def writing(engine: Engine) -> Any:
    """A transaction that takes the write lock at once, so that it never fails half-way for it."""
    return engine.execution_options(begin="BEGIN IMMEDIATE").begin()


def _read_only(path: Path) -> URL:
    query = {"uri": "true", "mode": "ro"} | ({} if _has_log(path) else {"immutable": "1"})
    return URL.create("sqlite", database=f"file:{quote(os.fsencode(path))}", query=query)


def _has_log(path: Path) -> bool:
    """A folder that cannot be written holds no lock and no new log, so SQLite must not make any."""
    log = path.with_name(f"{path.name}-wal")
    return log.exists() and log.stat().st_size > 0


def driver_of(path: Path, *, settled: bool = False) -> sqlite3.Connection:
    """A connection of the driver's own to a catalog that is there, for copying and checking it.

    Args:
        path: Of the catalog.
        settled: Nobody writes to it, and nothing may be made beside it.
    """
    how = "mode=rw"
    if settled or not os.access(path.parent, os.W_OK):
        how = "mode=ro" if _has_log(path) and not settled else "mode=ro&immutable=1"
    uri = f"file:{quote(os.fsencode(path))}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=TIMEOUT, isolation_level=None)


def _set_up_reading(driver: Any, _record: object) -> None:
    driver.isolation_level = None  # transactions begin where we say, reading ones too
    driver.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")


def _set_up(driver: Any, record: object) -> None:
    _set_up_reading(driver, record)
    # 16-KiB pages hold 15 vectors of 1 KiB; the size of an existing file stays as it is
    for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        driver.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _version(connection: Connection, path: Path) -> int:
    """The schema's version; 0 for a file that SQLite has only just made."""
    version = _pragma(connection, "user_version")
    if version == 0 and not _pragma(connection, "schema_version"):
        return 0
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise IndexUnusable(f"{path} is not an mmsearch catalog")
    if version > _newest():
        raise IndexUnusable(
            f"{path} was made by a newer mmsearch (schema {version}, this one reads up to "
            f"{_newest()}): upgrade with `pip install -U mmsearch`"
        )
    return version


def _newest() -> int:
    return 1 + len(migrations.MIGRATIONS)


def _bring_up(connection: Connection, path: Path) -> None:
    """Make the tables, or migrate old ones, in one transaction."""
    version = _version(connection, path)  # again: another process may have been first
    if version == 0:
        tables.create_all(connection)
        create_words(connection)
        create_changes(connection)
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        fresh = {"catalog_id": uuid.uuid4().hex[:12], "revision": "0"}
        connection.execute(followed.insert().values(words=0, columns=0))
        connection.execute(state.insert(), [{"key": k, "value": v} for k, v in fresh.items()])
    else:
        for migrate in migrations.MIGRATIONS[version - 1 :]:
            migrate(connection)
    connection.exec_driver_sql(f"PRAGMA user_version={_newest()}")
