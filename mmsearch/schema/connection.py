"""How a connection to a catalog is made."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from mmsearch.errors import IndexUnusable
from mmsearch.schema import migrations
from mmsearch.schema.lexical import create_words
from mmsearch.schema.tables import state, tables

APPLICATION_ID = 0x6D6D7372
"""SQLite's application_id of our files ("mmsr"), so that another database is not taken for one."""


def connect(path: Path) -> Engine:
    """An engine on the catalog at `path`, made if need be and brought up to this schema.

    Raises:
        IndexUnusable: the file is no catalog, or was made by a newer mmsearch.
    """
    writable = os.access(path.parent, os.W_OK)
    url = URL.create("sqlite", database=str(path)) if writable else _read_only(path)
    engine = create_engine(url, connect_args={"timeout": 30})
    event.listen(engine, "connect", _set_up if writable else _set_up_reading)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            version = _version(connection, path)
        if version < _newest():
            _check_writable(path, writable=writable)
            with writing(engine) as connection:
                _bring_up(connection, path)
    except DatabaseError as error:
        engine.dispose()
        raise IndexUnusable(
            f"{path} cannot be used: {error.orig}; if it is damaged, delete its folder and index "
            "again"
        ) from error
    except IndexUnusable:
        engine.dispose()
        raise
    return engine


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
    """A folder that cannot be written holds no lock and no new log, so SQLite must not make any."""
    log = path.with_name(f"{path.name}-wal")
    left = log.exists() and log.stat().st_size > 0
    query = {"uri": "true", "mode": "ro"} | ({} if left else {"immutable": "1"})
    return URL.create("sqlite", database=f"file:{quote(os.fsencode(path))}", query=query)


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
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        fresh = {"catalog_id": uuid.uuid4().hex[:12], "revision": "0"}
        connection.execute(state.insert(), [{"key": k, "value": v} for k, v in fresh.items()])
    else:
        for migrate in migrations.MIGRATIONS[version - 1 :]:
            migrate(connection)
    connection.exec_driver_sql(f"PRAGMA user_version={_newest()}")
