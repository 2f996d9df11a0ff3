"""What PostgreSQL says, as errors of mmsearch: what went wrong, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from mmsearch.errors import IndexUnusable, StorageFailed

KEPT = "what was stored before is kept"

_CURES: list[tuple[tuple[type[psycopg.Error], ...], str]] = [
    (
        (errors.DiskFull, errors.OutOfMemory, errors.InsufficientResources),
        f"{KEPT}: give the server more room, then run the command again",
    ),
    (
        (errors.ReadOnlySqlTransaction,),
        "this server only reads, as a standby does: give the address of the primary server",
    ),
    (
        (errors.InsufficientPrivilege,),
        (
            "have the owner of the schema GRANT you what is missing, or give the address with the "
            "owner's name"
        ),
    ),
    (
        (errors.UndefinedTable, errors.InvalidSchemaName, errors.UndefinedColumn),
        (
            "the index was deleted or altered by another program: open it again, or restore it "
            "from a dump"
        ),
    ),
    (
        (errors.ProgramLimitExceeded,),
        (
            f"{KEPT}; PostgreSQL does not take a path, a tag or a key of more than 2,600 bytes: "
            "shorten it"
        ),
    ),
    (
        (errors.DataCorrupted, errors.IndexCorrupted),
        "the database is damaged: restore it from a dump",
    ),
    (
        (errors.IntegrityError, errors.SerializationFailure, errors.DeadlockDetected),
        f"another process changed the index at the same time; {KEPT}: run the command again",
    ),
    (
        (errors.QueryCanceled, errors.LockNotAvailable),
        f"the server gave up waiting; {KEPT}: run the command again",
    ),
]


@contextmanager
def storage_errors(address: str) -> Iterator[None]:
    """What the server or the connection to it raises becomes StorageFailed, with what to do.

    Args:
        address: Of the index, without a password.

    Raises:
        StorageFailed: one was raised.
    """
    problem: StorageFailed | None = None
    try:
        yield
    except (DBAPIError, psycopg.Error, PoolTimeout) as error:
        problem = failed(address, error)
    if problem is not None:  # raised here: the driver's error holds the password
        raise problem


def failed(address: str, error: BaseException) -> StorageFailed:
    """The error for one of the driver's."""
    cause = getattr(error, "orig", None) or error
    for kinds, cure in _CURES:
        if isinstance(cause, kinds):
            return StorageFailed(
                f"the index at {address} could not be read or written: {said(cause)}; {cure}"
            )
    if getattr(error, "connection_invalidated", False) or isinstance(
        cause, (psycopg.OperationalError, psycopg.InterfaceError)
    ):
        return StorageFailed(
            f"the connection to {address} was lost: {said(cause)}; {KEPT}: see that the server "
            "runs, then run the command again"
        )
    return StorageFailed(
        f"the index at {address} could not be read or written: {said(cause)}; {KEPT}: see the "
        "server's log, then run the command again"
    )


def said(error: BaseException) -> str:
    """What the server or the driver says, in a line; it never says the password."""
    diagnosis = getattr(error, "diag", None)
    text = getattr(diagnosis, "message_primary", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


_REFUSALS = {
    "password authentication failed": "give the right password in $PGPASSWORD or ~/.pgpass",
    "no password supplied": "give the password in $PGPASSWORD or ~/.pgpass",
    "no pg_hba.conf entry": "the server lets nobody in from here: have an entry added to its "
    "pg_hba.conf, or try `?sslmode=require`",
    "does not exist": "name a database and a user that are there, or make it: `createdb NAME`",
    "too many clients": "wait until others have left, or raise max_connections",
    "too many connections": "wait until others have left, or raise max_connections",
    "starting up": "wait a moment, then try again",
    "shutting down": "wait until it runs again",
    "Connection refused": "see that the server runs, and listens on that host and port",
    "No such file or directory": "see that the server runs, and has its socket there",
    "timeout expired": "see that the server runs, and that no firewall is between",
    "could not translate host name": "see that the host is spelled right",
    "failed to resolve host": "see that the host is spelled right",
    "SSL": "see `?sslmode=` of the address, and the certificates",
}


def refused(address: str, error: BaseException) -> IndexUnusable:
    """The error for a server that cannot be reached, or lets nobody in."""
    text = said(getattr(error, "orig", None) or error)
    cure = next((cure for words, cure in _REFUSALS.items() if words in text), None)
    cure = cure or "see that the address is right and that the server runs"
    return IndexUnusable(f"{address} cannot be opened: {text}; {cure}")


def unreadable(address: str, error: BaseException) -> IndexUnusable:
    """The error for an address that libpq cannot read; what it says may quote the password."""
    known = said(error) if "query parameter" in str(error) else "it cannot be read as an address"
    return IndexUnusable(
        f"{address} cannot be opened: {known}; it should look like "
        "postgresql://user@host:5432/database?schema=photos, where %40 stands for an @ in a name"
    )
