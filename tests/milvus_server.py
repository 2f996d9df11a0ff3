"""milvus-lite as a server: one a test session, started when it is first asked for."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from server_guard import ServerGuard

from mmsearch.storage.place import IndexPlace, index_place

START_WITHIN = 60.0


class MilvusServer:
    """A server on 127.0.0.1 with a folder of its own.

    Args:
        folder: Its data; a new folder, deleted in the end, if None.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._own = tempfile.mkdtemp(prefix="mmsearch-milvus-") if folder is None else ""
        self._folder = folder or Path(self._own)
        self._guard = ServerGuard(self._folder if self._own else None)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process = self._started()

    @property
    def url(self) -> str:
        """What a client connects to."""
        return f"http://127.0.0.1:{self.port}"

    def address(self, name: str) -> str:
        """The address of an index."""
        return f"milvus://127.0.0.1:{self.port}/{name}"

    def _started(self) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("milvus-lite")
        log = (self._folder / "server.log").open("ab")
        with log:
            process = subprocess.Popen(
                [
                    *(program, "server"),
                    *("--data-dir", self._folder / "data", "--host", "127.0.0.1"),
                    *("--port", str(self.port)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the test run
            )
        self._guard.watch(process.pid)
        until = time.monotonic() + START_WITHIN
        while time.monotonic() < until:
            if process.poll() is not None:
                break
            if self._answers():
                return process
            time.sleep(0.05)
        process.kill()
        process.wait()
        raise RuntimeError((self._folder / "server.log").read_text(errors="replace")[-2000:])

    def _answers(self) -> bool:
        """Whether it takes requests: its port is open before it does."""
        from pymilvus import MilvusClient

        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            with suppress(Exception):
                client = MilvusClient(uri=self.url, timeout=5, dedicated=True)
                client.get_server_version(timeout=5)
                client.close()
                return True
        return False

    @contextmanager
    def limited(self, what: int, value: int) -> Iterator[None]:
        """A context in which the process has a limit (`resource.RLIMIT_…`), such as a full disk."""
        import resource

        soft, hard = resource.prlimit(self._process.pid, what)
        resource.prlimit(self._process.pid, what, (value, hard))
        try:
            yield
        finally:
            resource.prlimit(self._process.pid, what, (soft, hard))

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        """Start it again if it has ended, with what it had stored, on the same port."""
        if self._process.poll() is None:
            return
        self._process = self._started()

    def stop(self) -> None:
        """End it, and delete its folder."""
        self.kill()  # SIGINT takes it ten seconds
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)
        self._guard.close()


def is_installed() -> bool:
    """Whether there is a server to start, and a client."""
    import importlib.util

    found = all(importlib.util.find_spec(name) for name in ("pymilvus", "milvus_lite"))
    return found and Path(sys.executable).with_name("milvus-lite").exists()


def place(server: MilvusServer, cache: Path, name: str) -> IndexPlace:
    """Where an index on the server is."""
    return replace(index_place(server.address(name)), folder=cache / "milvus-cache")


@contextmanager
def store(server: MilvusServer, cache: Path, name: str = "") -> Iterator[Any]:
    """A new store on the server, deleted in the end; this thread has the right to write to it."""
    from mmsearch.storage.milvus import open_store

    name = name or f"t{secrets.token_hex(4)}"
    made = open_store(place(server, cache, name), create=True)
    try:
        with made.writer_lock.writing("testing"):
            yield made
    finally:
        with suppress(Exception):  # the server is gone, say
            delete(made)
        made.close()


def delete(made: Any) -> None:
    """Delete the collections of a store."""
    client = made.database.client
    for alias in client.milvus.list_aliases().get("aliases", []):
        if alias.startswith(made.database.prefix):
            client.milvus.drop_alias(alias)
    for name in client.collections(made.database.prefix):
        client.drop(name)
