"""One SQLite file: opening it, and transactions that read and write it."""

from __future__ import annotations

import os
import sqlite3
import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from operator import methodcaller
from pathlib import Path
from shutil import disk_usage
from typing import Any, NamedTuple
from urllib.parse import quote

from sqlalchemy import Connection, Engine, PoolProxiedConnection, Select, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, IntegrityError

from mmsearch.errors import CatalogDamaged, IndexUnusable, MMSearchError, StorageFailed
from mmsearch.storage.lock import FolderLock
from mmsearch.storage.sql.database import ThreadSnapshot, driver_of_connection
from mmsearch.storage.sql.schema import settings
from mmsearch.storage.sql.types import path_bytes
from mmsearch.storage.sqlite import migrations
from mmsearch.storage.sqlite.schema import create_all
from mmsearch.storage.sqlite.writer import SqliteWriter

APPLICATION_ID = 0x6D6D7372
"""SQLite's application_id of our files ("mmsr"), so that another database is not taken for one."""

TIMEOUT = 30
"""Seconds to wait for another process's transaction."""

CONNECTIONS = 32
"""How many are kept open; more are closed after use."""

MIGRATION_TIMEOUT = 600
"""Seconds to wait for another process that migrates an older catalog."""


class Database:
    """One SQLite file, opened, made or migrated as `Catalog` says.

    Reads are consistent; each write is one transaction.
    """

    def __init__(self, path: Path, initial: Mapping[str, str]) -> None:
        self.path = path
        self.engine = _engine(path, initial)
        self._file = _identity(path)
        self._immutable = _FileState.of(path) if _is_immutable(self.engine) else None
        self._open = True
        self._snapshot = ThreadSnapshot()

    def close(self) -> None:
        """Close the file; this object cannot be used afterwards."""
        self._open = False
        self.engine.dispose()

    def check_open(self) -> None:
        """Check that the file at `path` is the one that was opened.

        Raises:
            StorageFailed: this object has been closed.
            IndexUnusable: the file was replaced, as by restoring a backup: SQLite would go on
                writing to the old one, and what it writes would be lost.
        """
        if not self._open:
            raise StorageFailed("this index has been closed: open it again to use it")
        if _identity(self.path) != self._file:
            raise IndexUnusable(
                f"{self.path} was replaced or deleted after it was opened: open the index again"
            )
        if self._immutable is not None and not self.in_snapshot:
            self._reopen(self._immutable)

    def _reopen(self, opened: _FileState) -> None:
        """Open a catalog that was opened as immutable again, if it changed or can be written."""
        changed = opened != (now := _FileState.of(self.path))
        if not changed and not _may_be_written(self.path):
            return
        try:
            engine = _engine(self.path, {})
        except IndexUnusable:
            if changed:
                raise
            return
        self._immutable = now if _is_immutable(engine) else None
        self.engine, before = engine, self.engine
        before.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything this thread reads within the context is of one moment, whoever writes.

        Raises:
            RuntimeError: this thread writes within it; it could not see what it wrote.
        """
        if self.in_snapshot:
            yield
            return
        with self.read() as connection:
            driver_of_connection(connection).execute(READ_SOMETHING)  # BEGIN alone reads nothing
            with self._snapshot.reading(connection):
                yield

    @property
    def in_snapshot(self) -> bool:
        """Whether this thread is within a snapshot, where it may not write."""
        return self._snapshot.connection is not None

    @property
    def found(self) -> dict[Any, Any]:
        """What this thread's snapshot keeps of what it read; outside one, nothing is kept."""
        return self._snapshot.found

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes, committed at the end, rolled back on an exception."""
        self.check_open()
        if self.in_snapshot:
            raise RuntimeError("nothing may be written within a snapshot")
        with storage_errors(), _writing(self.engine) as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads, or this thread's snapshot."""
        if (snapshot := self._snapshot.connection) is not None:  # checked when it began
            with storage_errors():
                yield snapshot
            return
        self.check_open()
        with storage_errors(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def connection(self) -> Iterator[PoolProxiedConnection]:
        """A connection without a transaction: a statement alone needs none."""
        self.check_open()
        with storage_errors(), closing(self.engine.raw_connection()) as connection:
            yield connection

    def rows(self, statement: Select[Any]) -> list[Any]:
        """The rows of a statement."""
        with self.read() as connection:
            return list(connection.execute(statement).all())

    def scalars(self, statement: Select[Any]) -> list[Any]:
        """The first column of the rows of a statement."""
        return [row[0] for row in self.rows(statement)]

    def driver_rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """The driver's own rows, in a fifth of the time that SQLAlchemy takes for them."""
        bound = [path_bytes(one) if isinstance(one, str) else one for one in parameters]
        with self.connection() as connection:
            driver: Any = connection.driver_connection
            found: list[Any] = driver.execute(statement, bound).fetchall()
            return found

    def writer(self, connection: Connection) -> SqliteWriter:
        """Writes rows within a transaction."""
        return SqliteWriter(connection)

    def shrink(self) -> None:
        """Return the space of deleted rows to the disk."""
        with storage_errors(), closing(self.engine.raw_connection()) as connection:
            # the driver's own connection: neither statement may run in a transaction
            driver: Any = connection.driver_connection
            for statement in ("VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                driver.execute(statement)


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another of the same name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


class _FileState(NamedTuple):
    """By which it is noticed that a catalog was written to, though it was opened as immutable."""

    size: int
    mtime_ns: int
    logged: bool

    @classmethod
    def of(cls, path: Path) -> _FileState:
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, _log_of(path) is not None)


def _may_be_written(path: Path) -> bool:
    """Whether the folder of a catalog is writable and has the space that SQLite needs there."""
    return os.access(path.parent, os.W_OK) and disk_usage(path.parent).free >= ROOM


ROOM = 2**20
"""Bytes; more than SQLite needs beside a catalog to open it for writing."""


READ_SOMETHING = "SELECT 1 FROM sqlite_master LIMIT 1"
"""Begins a transaction's snapshot."""


# ---------------------------------------------------------------------- errors


@contextmanager
def storage_errors() -> Iterator[None]:
    """What the database raises becomes StorageFailed, with what to do."""
    try:
        yield
    except (IntegrityError, sqlite3.IntegrityError) as error:
        said = getattr(error, "orig", error)
        raise StorageFailed(
            f"another process changed the index at the same time ({said}); what was stored "
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
    "readonly": f"{_KEPT}make the index folder writable, or free some space on its disk, then run "
    "the command again",
    "locked": "another process is writing: wait for it, then run the command again",
    "malformed": f"it is damaged: {CatalogDamaged.CURE}",
    "not a database": f"it is damaged: {CatalogDamaged.CURE}",
}

# ---------------------------------------------------------------------- opening


def driver_of(path: Path, *, settled: bool = False) -> sqlite3.Connection:
    """A connection of the driver's own to an existing catalog, for copying and checking it.

    Args:
        path: The catalog.
        settled: Nobody writes to it, and nothing may be made beside it.
    """
    how = "mode=rw"
    if settled or not os.access(path.parent, os.W_OK):
        how = "mode=ro" if _log_of(path) and not settled else "mode=ro&immutable=1"
    uri = f"file:{quote(os.fsencode(path))}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=TIMEOUT, isolation_level=None)


def _engine(path: Path, initial: Mapping[str, str]) -> Engine:
    """An engine on the catalog at `path`, which is made or migrated if need be."""
    if path.is_file() and 0 < path.stat().st_size < SMALLEST_PAGE and not _log_of(path):
        raise CatalogDamaged(path, "it is cut short")  # SQLite would take it for a new one
    if not os.access(path.parent, os.W_OK):
        return _opened(path, initial, writable=False)
    try:
        return _opened(path, initial, writable=True)
    except _NoRoom:
        # SQLite has no space for the files that it makes beside a database; once the log is moved
        # into it, the database can be read as on a read-only disk
        if _log_of(path):
            _move_log(path)
        return _opened(path, initial, writable=False)


def _is_immutable(engine: Engine) -> bool:
    """Whether a catalog was opened as immutable: later changes of the file are not seen."""
    return "immutable" in engine.url.query


class _NoRoom(IndexUnusable):
    """SQLite has no space to write beside a catalog."""


def _move_log(path: Path) -> None:
    """Write what is in the log of a catalog into its file, and empty the log (a checkpoint).

    No process may have the catalog open. An exclusive connection keeps the index of the log in
    memory, since there may be no space for its file.

    Raises:
        IndexUnusable: there is no space for what the log adds.
    """
    try:
        with closing(sqlite3.connect(path, timeout=TIMEOUT, isolation_level=None)) as driver:
            driver.execute("PRAGMA locking_mode=EXCLUSIVE")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        if not _lacks_room(error) or disk_usage(path.parent).free >= ROOM:
            raise _unusable(path, error) from error
        log = _log_of(path)
        needed = (log.stat().st_size if log else 0) + ROOM
        raise IndexUnusable(
            f"{path} cannot be used: its disk is full. Nothing is lost: what was stored last is in "
            f"the file beside it, and can be read once {needed / 1e6:.0f} MB are free"
        ) from error


def _opened(path: Path, initial: Mapping[str, str], *, writable: bool) -> Engine:
    url = URL.create("sqlite", database=str(path)) if writable else _read_only(path)
    # A thread that holds a snapshot may need a second connection: if their number had a limit,
    # threads could wait for one another. The last one used is taken first, as what is cached until
    # the catalog changes is cached by connection (`View.moment`).
    engine = create_engine(
        url,
        connect_args={"timeout": TIMEOUT},
        pool_size=CONNECTIONS,
        max_overflow=-1,
        pool_use_lifo=True,
    )
    event.listen(engine, "connect", _set_up if writable else _set_up_reading)
    event.listen(engine, "begin", _begin)
    try:
        with engine.begin() as connection:
            version = _version(connection, path)
            _check_pages(connection, path)
        if version < _newest():
            if not writable:
                cure = "open it once where it can be written, or make its folder writable"
                if os.access(path.parent, os.W_OK):  # it would be writable if there were room
                    cure = f"free {ROOM / 1e6:.0f} MB on its disk, which is full, and open it again"
                why = "was made by an older mmsearch" if version else "is not a whole index yet"
                raise IndexUnusable(f"{path} {why}: {cure}")
            with _migration_lock(path, version), _writing(engine) as connection:
                _make_or_migrate(connection, path, initial)
    except (DatabaseError, sqlite3.DatabaseError) as error:
        engine.dispose()
        said = getattr(error, "orig", error)
        if writable and path.is_file() and path.stat().st_size and _lacks_room(said):
            raise _NoRoom(str(said)) from error
        raise _unusable(path, said) from error
    except MMSearchError:
        engine.dispose()
        raise
    return engine


def _lacks_room(said: BaseException | None) -> bool:
    code = getattr(said, "sqlite_errorcode", 0) & 0xFF
    return code in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}


def _unusable(path: Path, said: BaseException | None) -> IndexUnusable:
    """The error for a message of SQLite's."""
    code = getattr(said, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return CatalogDamaged(path, str(said))
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return IndexUnusable(f"{path} is in use by another process ({said}): try again")
    return IndexUnusable(f"{path} cannot be used: {said}; check the disk and who may read it")


def _read_only(path: Path) -> URL:
    """A folder that cannot be written has no place for locks, so SQLite must not make any."""
    query = {"uri": "true", "mode": "ro"} | ({} if _log_of(path) else {"immutable": "1"})
    return URL.create("sqlite", database=f"file:{quote(os.fsencode(path))}", query=query)


def _set_up_reading(driver: Any, _record: object) -> None:
    driver.isolation_level = None  # transactions begin where we say, reading ones too
    # in C: a search decodes about a hundred texts
    driver.text_factory = methodcaller("decode", "utf-8", "surrogateescape")


def _set_up(driver: Any, record: object) -> None:
    _set_up_reading(driver, record)
    tables, application = (
        driver.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("schema_version", "application_id")
    )
    if tables and application != APPLICATION_ID:
        return  # another program's database, which opening must not turn to WAL
    # 16-KiB pages hold 15 vectors of 1 KiB; the size of an existing file stays as it is
    for pragma in ("page_size=16384", "journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON"):
        driver.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    begin = connection.get_execution_options().get("begin", "BEGIN")
    driver_of_connection(connection).execute(begin)


def _writing(engine: Engine) -> Any:
    """A transaction that takes the write lock at once, so that it never fails half-way for it."""
    return engine.execution_options(begin="BEGIN IMMEDIATE").begin()


def _pragma(connection: Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


# ---------------------------------------------------------------------- versions


def _newest() -> int:
    return 1 + len(migrations.MIGRATIONS)


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


def _migration_lock(path: Path, version: int) -> AbstractContextManager[None]:
    """A migration takes as long as it takes: another process waits for it."""
    if version == 0:
        return nullcontext()
    what = "bringing it up to this version"
    return FolderLock(path.parent).writing(what, wait=MIGRATION_TIMEOUT)


def _make_or_migrate(connection: Connection, path: Path, initial: Mapping[str, str]) -> None:
    """Make the tables, or migrate old ones, in one transaction."""
    version = _version(connection, path)  # again: another process may have been first
    if version == 0:
        create_all(connection)
        connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
        fresh = {"catalog_id": uuid.uuid4().hex[:12], "revision": "0", **initial}
        connection.execute(settings.insert(), [{"key": k, "value": v} for k, v in fresh.items()])
    else:
        for migrate in migrations.MIGRATIONS[version - 1 :]:
            migrate(connection)
    connection.exec_driver_sql(f"PRAGMA user_version={_newest()}")


# ---------------------------------------------------------------------- whether the file is whole

# What is wrong inside of it shows when it is read; `PRAGMA quick_check` reads all of it.
# Source of the layout: https://www.sqlite.org/fileformat2.html, sections 1.3 and 4.

SMALLEST_PAGE = 512
"""Bytes."""

LOG_HEADER, FRAME_HEADER = 32, 24
"""Bytes at the beginning of a write-ahead log, and before each page in it."""

LOCK_BYTE = 1 << 30
"""The page that has it holds nothing, and need not be there."""


def _check_pages(connection: Connection, path: Path) -> None:
    """Check, by lengths alone, that each page of the catalog is in its file or in its log.

    Args:
        connection: In a transaction, so that nobody empties the log meanwhile.
        path: The catalog.

    Raises:
        CatalogDamaged: pages are missing.
    """
    pages = _pragma(connection, "page_count")
    size = _pragma(connection, "page_size")
    there = path.stat().st_size // size
    if there >= pages:
        return
    missing = set(range(there + 1, pages + 1)) - {LOCK_BYTE // size + 1}
    missing -= _logged_pages(_log_of(path), size)
    if missing:
        why = f"it is cut short, {len(missing)} of its {pages} pages are missing"
        raise CatalogDamaged(path, why)


def _log_of(path: Path) -> Path | None:
    """The write-ahead log of a catalog, if it holds any page."""
    log = path.with_name(f"{path.name}-wal")
    return log if log.is_file() and log.stat().st_size > LOG_HEADER else None


def _logged_pages(log: Path | None, size: int) -> set[int]:
    """The numbers of the pages that a write-ahead log holds."""
    if log is None:
        return set()
    found = set()
    with log.open("rb") as file:
        salts = file.read(LOG_HEADER)[16:24]
        # frames of an earlier use of the log have other salts and hold nothing that counts
        while len(header := file.read(FRAME_HEADER)) == FRAME_HEADER and header[8:16] == salts:
            found.add(struct.unpack(">I", header[:4])[0])
            file.seek(size, 1)
    return found
