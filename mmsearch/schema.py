"""The tables of the catalog, how a connection to it is made, and how an old one is brought up.

Core tables and no ORM, whose import would make each cold query slower.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    cast,
    create_engine,
    event,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError
from sqlalchemy.types import TypeDecorator

from mmsearch.errors import IndexUnusable

APPLICATION_ID = 0x6D6D7372
"""SQLite's application_id of our files ("mmsr"), so that another database is not taken for one."""


class PathText(TypeDecorator[str]):
    """A file name as text, byte for byte: names that are not UTF-8 come back as they went in.

    Python holds such names with surrogate escapes, which the driver refuses to bind as text; so
    the bytes are bound and SQLite is told that they are text.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> Any:
        """Bytes."""
        del dialect
        return None if value is None else value.encode("utf-8", "surrogateescape")

    def bind_expression(self, bindparam: Any) -> Any:
        """CAST(? AS TEXT)."""
        return cast(bindparam, Text)


def _span() -> list[Column[Any]]:
    """What stretch of the file a row is about; empty when it is about all of it."""
    return [Column("start", Float), Column("end", Float), Column("unit", Text)]


tables = MetaData()

state = Table(
    "state",
    tables,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
"""catalog_id: names this catalog in its caches. revision: counts changes of the vectors."""

sources = Table(
    "sources",
    tables,
    Column("id", Integer, primary_key=True),
    Column("path", PathText, nullable=False, unique=True),
    Column("device", BigInteger, nullable=False),  # st_dev: tells an empty mount point
)
"""The folders that were indexed, absolute; none lies inside another."""

spaces = Table(
    "spaces",
    tables,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("dim", Integer, nullable=False),
    Column("modalities", Text, nullable=False),  # of the encoder, with a space between
    Column("keeps", Text, nullable=False),  # facets it answers for: it has all there is of them
    Column("fills", Text, nullable=False),  # facets it is being given, to answer for them then
    UniqueConstraint("name", "fingerprint"),
)
"""What vectors are filed under: an encoder's name and the hash of its weights."""

items = Table(
    "items",
    tables,
    Column("id", Integer, primary_key=True),
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PathText, nullable=False),  # below the source, "" for the source itself
    Column("name", PathText, nullable=False),
    Column("modality", Text, nullable=False),
    Column("size", BigInteger, nullable=False),  # bytes
    Column("mtime_ns", BigInteger, nullable=False),
    Column("sidecar_size", BigInteger),
    Column("sidecar_mtime_ns", BigInteger),
    Column("hash", LargeBinary, nullable=False),  # BLAKE2b-128 of the file
    Column("width", Integer),  # pixels, upright
    Column("height", Integer),
    Column("taken_at", Text),  # ISO 8601, local time of the camera
    Column("camera", Text),
    Column("latitude", Float),  # degrees
    Column("longitude", Float),
    Column("seconds", Float),  # of sounds and videos
    Column("pages", Integer),
    Column("readings", Text, nullable=False, server_default=""),  # of "ocr speech": those done
    UniqueConstraint("source_id", "folder", "name"),
    Index("items_by_hash", "hash"),
    sqlite_autoincrement=True,  # an id is never used again, so an old cache cannot name a new item
)

texts = Table(
    "texts",
    tables,
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("origin", Text, nullable=False),  # as `mmsearch.types.Origin` has them
    Column("text", Text, nullable=False),
    *_span(),
    PrimaryKeyConstraint("item_id", "position"),
)
"""Passages, captions, words read or heard; each has one vector of the text facet."""

vectors = Table(
    "vectors",
    tables,
    Column("id", Integer, primary_key=True),
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("facet", Text, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),  # of the text, window, frame or page
    *_span(),  # not of the text facet: the text has it
    Column("vector", LargeBinary, nullable=False),  # float16, little endian, unit length
    UniqueConstraint("space_id", "facet", "item_id", "position"),
    Index("vectors_by_item", "item_id"),
)

blanks = Table(
    "blanks",
    tables,
    Column("space_id", ForeignKey("spaces.id", ondelete="CASCADE"), nullable=False),
    Column("facet", Text, nullable=False),
    Column("item_id", ForeignKey("items.id", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("space_id", "facet", "item_id"),
    Index("blanks_by_item", "item_id"),
)
"""Items that have nothing for a facet, a video without sound say: they lack no vector."""

asked = Table(
    "asked",
    tables,
    Column("path", PathText, primary_key=True),  # absolute
    Column("folder", Integer, nullable=False),  # 1: all that is in it; 0: this one file
    Column("exclude", Text, nullable=False),  # a JSON list of shell patterns
    Column("include_hidden", Integer, nullable=False),
)
"""The paths that were given to be indexed, and how: what `mmsearch index` alone looks at."""

failures = Table(
    "failures",
    tables,
    Column("source_id", ForeignKey("sources.id", ondelete="CASCADE"), nullable=False),
    Column("folder", PathText, nullable=False),
    Column("name", PathText, nullable=False),
    Column("reason", Text, nullable=False),
    Column("seen_at", Text, nullable=False),  # ISO 8601, UTC
    Column("size", BigInteger),  # the file's stat then: it is retried when this has changed
    Column("mtime_ns", BigInteger),
    Column("retry", Integer, nullable=False),  # 1: not the bytes' fault, try again each time
    PrimaryKeyConstraint("source_id", "folder", "name"),
)


def _add_spans_and_several_spaces(connection: Connection) -> None:
    """Version 2: stretches of sounds, videos and PDFs; several models side by side."""
    for change in (
        "texts RENAME COLUMN start_line TO start",
        "texts RENAME COLUMN end_line TO 'end'",
        "texts ADD COLUMN unit TEXT",
        "vectors ADD COLUMN start FLOAT",
        "vectors ADD COLUMN 'end' FLOAT",
        "vectors ADD COLUMN unit TEXT",
        "items ADD COLUMN seconds FLOAT",
        "items ADD COLUMN pages INTEGER",
        "items ADD COLUMN readings TEXT NOT NULL DEFAULT ''",
        "spaces ADD COLUMN modalities TEXT NOT NULL DEFAULT 'image text'",
        "spaces ADD COLUMN keeps TEXT NOT NULL DEFAULT 'image text'",
        "spaces ADD COLUMN fills TEXT NOT NULL DEFAULT ''",
    ):
        connection.exec_driver_sql(f"ALTER TABLE {change}")
    connection.exec_driver_sql("UPDATE texts SET unit = 'line' WHERE start IS NOT NULL")
    tables.create_all(connection, [blanks, asked])


MIGRATIONS: list[Callable[[Connection], None]] = [_add_spans_and_several_spaces]
"""Number i brings a catalog of version i + 1 to version i + 2; never edited once released."""


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
    return 1 + len(MIGRATIONS)


def _bring_up(connection: Connection, path: Path) -> None:
    """Make the tables, or migrate old ones, in one transaction."""
    version = _version(connection, path)  # again: another process may have been first
    if version == 0:
        tables.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        fresh = {"catalog_id": uuid.uuid4().hex[:12], "revision": "0"}
        connection.execute(state.insert(), [{"key": k, "value": v} for k, v in fresh.items()])
    else:
        for migrate in MIGRATIONS[version - 1 :]:
            migrate(connection)
    connection.exec_driver_sql(f"PRAGMA user_version={_newest()}")
