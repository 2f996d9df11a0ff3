"""One schema of a PostgreSQL database: connecting, and transactions that read and write it."""

from __future__ import annotations

import hashlib
import select as files
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import (
    Connection,
    Engine,
    Executable,
    create_engine,
    event,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, DisconnectionError

from mmsearch.errors import IndexNotFound, IndexUnusable, StorageFailed
from mmsearch.storage.postgres import schema
from mmsearch.storage.postgres.errors import refused, said, storage_errors, unreadable
from mmsearch.storage.postgres.writer import PostgresWriter
from mmsearch.storage.records import StoreState
from mmsearch.storage.sql.database import Prepared, ThreadSnapshot, driver_of_connection
from mmsearch.storage.sql.index_settings import STATE, state_of
from mmsearch.storage.sql.schema import settings

if TYPE_CHECKING:
    from psycopg.types import TypeInfo

CONNECTIONS = 16
"""How many are kept open; more are closed after use."""

_DEFAULTS: dict[str, Any] = {
    "application_name": "mmsearch",
    "connect_timeout": 10,
    # a server that was cut off is noticed within a minute
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}


_SESSION = (
    # no statement here is worth compiling, and one that is estimated wrongly is delayed
    "SET jit = off;"
    # the server notices a writer that was cut off, too, and lets the next one write
    "SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3"
)


class Database:
    """One schema of a database: the index, opened or made.

    Reads are consistent; each write is one transaction.

    Args:
        url: A libpq URL or connection string; it may hold a password, and is shown to nobody.
        name: The schema.
        address: What is shown in its place.
        create: Make the index if there is none.
        initial: Settings that it is made with.

    Raises:
        IndexNotFound: there is none, and `create` is False.
        IndexUnusable: the server cannot be reached or lets nobody in, lacks pgvector or the right
            to make the index; or the index was made by a newer mmsearch.
    """

    def __init__(
        self, url: str, name: str, address: str, *, create: bool, initial: Mapping[str, str]
    ) -> None:
        self.name = name
        self.address = address
        self._open = True
        self._snapshot = ThreadSnapshot()
        self._halfvec: TypeInfo | None = None
        try:
            given = conninfo_to_dict(url)
            self._conninfo = make_conninfo("", **(_DEFAULTS | given))
        except psycopg.Error as error:
            raise unreadable(address, error) from None
        # reads send BEGIN and COMMIT themselves, in fewer round trips
        self._reading: Engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            isolation_level="AUTOCOMMIT",
            pool_size=CONNECTIONS,
            max_overflow=-1,  # a thread that holds a snapshot may need a second connection
            pool_use_lifo=True,
        )
        event.listen(self._reading, "checkout", _check_alive)
        # set, as the server's default may be another
        self.engine = self._reading.execution_options(isolation_level="READ COMMITTED")
        try:
            self._prepare(initial if create else None)
        except BaseException:
            self.engine.dispose()
            raise

    # ------------------------------------------------------------------ connections

    def _connect(self) -> psycopg.Connection[Any]:
        connection = psycopg.connect(self._conninfo)
        with connection.cursor() as cursor:
            # where the types of pgvector are, beside the tables of the index
            cursor.execute(
                "SELECT nspname FROM pg_extension JOIN pg_namespace ns ON ns.oid = extnamespace "
                "WHERE extname = 'vector'"
            )
            found = cursor.fetchone()
            places = dict.fromkeys([self.name, *(found or ("public",))])
            path = sql.SQL(", ").join(map(sql.Identifier, places))
            cursor.execute(sql.SQL("SET search_path TO {}").format(path))
            cursor.execute(_SESSION)
        connection.commit()
        if found is not None:
            self._know_vectors(connection)
        return connection

    def _know_vectors(self, connection: psycopg.Connection[Any]) -> None:
        """Let a connection send vectors."""
        from pgvector.psycopg.halfvec import register_halfvec_info
        from psycopg.types import TypeInfo

        if self._halfvec is None:
            self._halfvec = TypeInfo.fetch(connection, "halfvec")
            connection.commit()
        if self._halfvec is not None:
            register_halfvec_info(connection, self._halfvec)

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of its own in autocommit, for locks of a session and CONCURRENTLY."""
        self.check_open()
        with storage_errors(self.address):
            connection = self._connect()
            connection.autocommit = True
            try:
                yield connection
            finally:
                connection.close()

    def close(self) -> None:
        """Close all connections; this object cannot be used afterwards."""
        self._open = False
        self.engine.dispose()

    def check_open(self) -> None:
        """Check that this object has not been closed.

        Raises:
            StorageFailed: it has.
        """
        if not self._open:
            raise StorageFailed("this index has been closed: open it again to use it")

    # ------------------------------------------------------------------ transactions

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything this thread reads within the context is of one moment, whoever writes.

        Raises:
            RuntimeError: this thread writes within it; it could not see what it wrote.
        """
        if self.in_snapshot:
            yield
            return
        # BEGIN alone reads nothing; both go in one round trip
        with self._transaction(f"{_BEGIN}; {_STATE}") as (connection, cursor):
            cursor.nextset()
            rows = cursor.fetchall()
            kept = {name: value for _, name, value in rows}
            with self._snapshot.reading(connection):
                if rows:
                    self.found.update({_MOMENT: rows[0][0], StoreState: state_of(kept)})
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
        """A transaction that writes, committed at the end, rolled back on an exception.

        It waits for the one before it: see `schema.mmsearch`.

        Raises:
            IndexUnusable: the index was closed.
            StorageFailed: the server refuses, or cannot be reached.
        """
        self.check_open()
        if self.in_snapshot:
            raise RuntimeError("nothing may be written within a snapshot")
        with storage_errors(self.address), self.engine.begin() as connection:
            connection.execute(_NEXT_MOMENT)
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that reads, or this thread's snapshot."""
        if (snapshot := self._snapshot.connection) is not None:
            with storage_errors(self.address):
                yield snapshot
            return
        with self._transaction(_BEGIN) as (connection, _):
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[tuple[Connection, psycopg.Cursor[Any]]]:
        """A read-only transaction, and the cursor of the statements that begin it."""
        self.check_open()
        with storage_errors(self.address), self._reading.connect() as connection:
            driver = driver_of_connection(connection)
            cursor = driver.execute(begin)
            try:
                yield connection, cursor
                driver.execute("COMMIT")
            except BaseException:  # the pool rolls it back, session settings included
                if not connection.invalidated:
                    connection.info.clear()
                raise

    def rows(self, statement: Executable) -> list[Any]:
        """The rows of a statement."""
        if self._snapshot.connection is not None:
            with self.read() as connection:
                return list(connection.execute(statement).all())
        self.check_open()
        # one statement needs no transaction
        with storage_errors(self.address), self._reading.connect() as connection:
            return list(connection.execute(statement).all())

    def scalars(self, statement: Executable) -> list[Any]:
        """The first column of the rows of a statement."""
        return [row[0] for row in self.rows(statement)]

    def driver_rows(self, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        """The rows of a statement for the driver, whose parameters are "?"."""
        with self.read() as connection:
            return self.writer(connection).rows(statement, parameters)

    def writer(self, connection: Connection) -> PostgresWriter:
        """Writes rows within a transaction."""
        return PostgresWriter(connection)

    def moment(self) -> int:
        """How many transactions have written."""
        if (known := self.found.get(_MOMENT)) is not None:
            return int(known)
        with self.read() as connection:
            return int(_MOMENT.of(connection)[0][0])

    def lock_key(self, what: str) -> int:
        """The key of an advisory lock of this index, in 64 bits."""
        digest = hashlib.blake2b(f"mmsearch\0{self.name}\0{what}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big", signed=True)

    # ------------------------------------------------------------------ making and migrating

    def _prepare(self, initial: Mapping[str, str] | None) -> None:
        """Make the index with these settings, if need be, or bring it up to this version."""
        version = self._version()
        if version is None:
            if initial is None:
                raise IndexNotFound(
                    f"there is no index at {self.address}: make one with `mmsearch index FOLDER "
                    f"-i '{self.address}'`"
                )
            self._make(initial)
        elif version > schema.newest():
            raise IndexUnusable(
                f"the index at {self.address} was made by a newer mmsearch (schema {version}, this "
                f"one reads up to {schema.newest()}): upgrade with `pip install -U mmsearch`"
            )
        elif version < schema.newest():
            self._migrate()

    def _version(self) -> int | None:
        """The version of the tables; None if there are none."""
        problem: IndexUnusable | None = None
        others: list[str] = []
        try:
            with self._reading.connect() as connection:
                if connection.execute(_IS_THERE, {"table": self._table("mmsearch")}).scalar():
                    return int(connection.execute(_VERSION).scalar_one())
                others = [
                    table.name
                    for table in (*schema.TABLES, *schema.own_tables.sorted_tables)
                    if connection.execute(_IS_THERE, {"table": self._table(table.name)}).scalar()
                ]
        except DBAPIError as error:
            problem = refused(self.address, error)
            if isinstance(error.orig, errors.InsufficientPrivilege):
                problem = IndexUnusable(
                    f"the index at {self.address} may not be read: {said(error.orig)}; have its "
                    f"owner GRANT you the use of the schema {self.name!r} and its tables"
                )
        if problem is not None:  # raised here: the driver's error holds the password
            raise problem
        if others:
            raise IndexUnusable(
                f"the schema {self.name!r} at {self.address} holds tables of something else "
                f"({', '.join(others)}): name another one, as ?schema=photos at the end of the "
                "address"
            )
        return None

    def _table(self, name: str) -> str:
        """A table of this schema as `to_regclass` takes it."""
        return ".".join('"{}"'.format(part.replace('"', '""')) for part in (self.name, name))

    def _make(self, initial: Mapping[str, str]) -> None:
        fresh = {"catalog_id": uuid.uuid4().hex[:12], "revision": "0", **initial}
        with self._making("be made") as connection:
            # a table is read first: to_regclass alone would not learn what was made meanwhile
            has_schema = connection.execute(_HAS_SCHEMA, {"name": self.name}).scalar()
            if connection.execute(_IS_THERE, {"table": self._table("mmsearch")}).scalar():
                return  # another process was first
            self._make_extension(connection)
            quoted = '"{}"'.format(self.name.replace('"', '""'))
            if not has_schema:
                connection.execute(text(f"CREATE SCHEMA {quoted}"))
            connection.execute(
                _SET_PATH, {"path": f"{quoted}, {self._place_of_vectors(connection)}"}
            )
            schema.create_all(connection)
            connection.execute(insert(schema.mmsearch).values(version=schema.newest(), moment=0))
            rows = [{"key": key, "value": value} for key, value in fresh.items()]
            connection.execute(insert(settings), rows)
        self.engine.dispose()  # connections made before do not know the types of pgvector

    def _make_extension(self, connection: Connection) -> None:
        if connection.execute(_PGVECTOR).scalar():
            return
        try:
            with connection.begin_nested():
                connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
        except DBAPIError as error:
            if isinstance(error.orig, errors.InsufficientPrivilege):
                raise IndexUnusable(
                    f"{self.address} has no pgvector yet, and this user may not add it: have a "
                    "superuser run `CREATE EXTENSION vector` in the database, then try again"
                ) from None
            raise IndexUnusable(
                f"the server of {self.address} lacks pgvector ({said(error.orig or error)}): "
                "install it there, as by `apt install postgresql-18-pgvector`, then try again"
            ) from None

    def _place_of_vectors(self, connection: Connection) -> str:
        found = connection.execute(_PGVECTOR).scalar_one()
        return '"{}"'.format(str(found).replace('"', '""'))

    def _migrate(self) -> None:
        with self._making("be brought up to this version") as connection:
            version = int(connection.execute(_VERSION_TO_WRITE).scalar_one())
            for migrate in schema.MIGRATIONS[version - 1 :]:
                migrate(connection)
            connection.execute(update(schema.mmsearch).values(version=schema.newest()))

    @contextmanager
    def _making(self, what: str) -> Iterator[Connection]:
        """A transaction that makes or migrates tables; one process at a time."""
        try:
            with self.engine.begin() as connection:
                connection.execute(_LOCK, {"key": self.lock_key("tables")})
                yield connection
        except DBAPIError as error:
            if isinstance(error.orig, errors.InsufficientPrivilege):
                raise IndexUnusable(
                    f"the index at {self.address} cannot {what}: {said(error.orig)}; have the "
                    "owner of the database run `GRANT CREATE ON DATABASE … TO …`, or make the "
                    f"schema {self.name!r} for you"
                ) from None
            with storage_errors(self.address):
                raise


_LOCK = text("SELECT pg_advisory_xact_lock(:key)")

_IS_THERE = text("SELECT to_regclass(:table) IS NOT NULL")

_HAS_SCHEMA = text("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = :name)")

_PGVECTOR = text(
    "SELECT nspname FROM pg_extension JOIN pg_namespace ns ON ns.oid = extnamespace "
    "WHERE extname = 'vector'"
)

_SET_PATH = text("SELECT set_config('search_path', :path, false)")

_MOMENT = Prepared(select(schema.mmsearch.c.moment))

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"

_STATE = (
    "SELECT moment, key, value FROM mmsearch, settings "  # noqa: S608 - constants
    f"WHERE key IN ({', '.join(map(repr, STATE))})"
)
"""Rows of the moment and one of the settings that make up the store's state."""

_VERSION = schema.mmsearch.select().with_only_columns(schema.mmsearch.c.version)

_VERSION_TO_WRITE = _VERSION.with_for_update()

_NEXT_MOMENT = update(schema.mmsearch).values(moment=schema.mmsearch.c.moment + 1)


def _check_alive(driver: Any, _record: object, _proxy: object) -> None:
    """Do not use a connection that the server has closed while it lay in the pool.

    An idle connection has hardly anything to say but that it has ended: so no round trip is needed.
    """
    poll = files.poll()  # not select(), which knows the first 1,024 files only
    poll.register(driver.pgconn.socket, files.POLLIN)
    if poll.poll(0):
        raise DisconnectionError
