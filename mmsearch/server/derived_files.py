"""Files derived from media, such as thumbnails: made once, and kept on disk within a limit."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

from anyio import to_thread

from mmsearch.errors import NoHomeFolder
from mmsearch.home import cache_folder
from mmsearch.server.limits import Workers
from mmsearch.server.problems import shutting_down

USED_AGAIN = 3600.0
"""Seconds; a use within an hour of the last one is not recorded."""
_CHECKSUM = 16
"""Bytes at the beginning of a derived file."""


def folder_of(name: str) -> Path | None:
    """The folder in the user's cache for one kind of file; None for a user without a home."""
    try:
        return cache_folder() / "server" / name
    except NoHomeFolder:
        return None


class FileCache:
    """Files by name, in a folder of the user's cache; the least recently used are removed.

    Args:
        folder: Made when needed, readable by this user alone; None keeps nothing.
        most_bytes: The limit of all files together.
        most_seconds: Files not used for longer are removed when others are added.
    """

    def __init__(
        self, folder: Path | None, *, most_bytes: int, most_seconds: float = math.inf
    ) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._most_seconds = most_seconds
        self._room = 0  # bytes that may be added before the folder has to be listed again
        self._lock = threading.Lock()

    def find(self, name: str) -> Path | None:
        """The path of a file, which is marked as used; None if it is not kept."""
        if (path := self._path(name)) is None:
            return None
        try:
            age = time.time() - path.stat().st_mtime
        except OSError:
            return None
        if age > USED_AGAIN:
            with suppress(OSError):  # a folder that is read-only still serves
                os.utime(path)
        return path

    def read(self, name: str) -> bytes | None:
        """The content of a file, which is marked as used; None if it is not kept."""
        path = self.find(name)
        try:
            return None if path is None else path.read_bytes()
        except OSError:
            return None

    def put(self, name: str, content: bytes) -> None:
        """Add a file, whole or not at all.

        Raises:
            OSError: the folder cannot be written.
        """
        if self._folder is None or (path := self._path(name)) is None:
            raise OSError(0, "this user has no cache folder: set MMSEARCH_CACHE")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix="new-", delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, path)
            except BaseException:
                file.close()
                with suppress(OSError):
                    os.unlink(file.name)
                raise
        self._make_room(len(content))

    def remove(self, name: str) -> None:
        """Delete a file, if it is kept."""
        if (path := self._path(name)) is not None:
            with suppress(OSError):
                path.unlink()

    def _path(self, name: str) -> Path | None:
        return None if self._folder is None else self._folder / name[:2] / name

    def _make_room(self, added: int) -> None:
        """Remove files beyond the limits, and a tenth more, so that this is seldom needed."""
        with self._lock:
            self._room -= added
            if self._room > 0:
                return
            assert self._folder is not None
            files = []
            for path in self._folder.glob("*/*"):
                with suppress(OSError):
                    status = path.stat()
                    files.append((status.st_mtime, status.st_size, path))
            files.sort()
            total = sum(size for _, size, _ in files)
            oldest = time.time() - self._most_seconds
            spare = self._most_bytes // 10
            for used, size, path in files:
                if used >= oldest and total + spare <= self._most_bytes:
                    break
                with suppress(OSError):
                    path.unlink()
                    total -= size
            self._room = max(spare, self._most_bytes - total)


HasLeft = Callable[[], Awaitable[bool]]
"""Whether a client has disconnected: `Request.is_disconnected`."""


class DerivedFiles:
    """Derived files by key: read from a cache, or made by workers.

    Requests for the same file at the same time share one making of it. A file that is damaged, or
    cannot be kept, is made again.

    Args:
        cache: Keeps them.
        workers: Make them.
        slow_workers: Make those that may take seconds, so that the others do not wait for them; by
            default `workers`.
    """

    def __init__(
        self, cache: FileCache, workers: Workers, slow_workers: Workers | None = None
    ) -> None:
        self._cache = cache
        self._workers = workers
        self._slow_workers = slow_workers or workers
        self._making: dict[str, tuple[asyncio.Task[bytes], list[HasLeft]]] = {}
        self._closing = threading.Event()

    async def get(
        self, key: str, make: Callable[[], bytes], has_left: HasLeft, *, slow: bool = False
    ) -> bytes:
        """The content of a derived file.

        Args:
            key: A hash, in hexadecimal, of all that the file depends on.
            make: Makes the content, in a thread.
            has_left: Once all its clients have left, a file that is not begun is not made.
            slow: Whether making it may take seconds.

        Raises:
            Problem: as `Workers.run`.
            Exception: whatever `make` raises.
        """
        if (kept := await to_thread.run_sync(self._kept, key)) is not None:
            return kept
        if key in self._making:
            task, clients = self._making[key]
            clients.append(has_left)
        else:
            clients = [has_left]

            async def all_have_left() -> bool:
                return all([await one() for one in clients])

            workers = self._slow_workers if slow else self._workers
            made = workers.run(partial(self._made, key, make), all_have_left)
            task = asyncio.create_task(made)
            task.add_done_callback(lambda _: self._making.pop(key))
            self._making[key] = task, clients
        return await asyncio.shield(task)  # a client that leaves does not end it for the others

    def close(self) -> None:
        """Start making nothing more. What takes long gives up, by `check_open`."""
        self._closing.set()
        self._workers.close()
        self._slow_workers.close()

    def check_open(self) -> None:
        """Raise a Problem (503) once the server is ending."""
        if self._closing.is_set():
            raise shutting_down()

    def _kept(self, key: str) -> bytes | None:
        found = self._cache.read(key) or b""
        checksum, content = found[:_CHECKSUM], found[_CHECKSUM:]
        return content if checksum == _checksum(content) else None

    def _made(self, key: str, make: Callable[[], bytes]) -> bytes:
        # a making whose clients had left may have ended meanwhile
        if (kept := self._kept(key)) is not None:
            return kept
        content = make()
        with suppress(OSError):
            self._cache.put(key, _checksum(content) + content)
        return content


def _checksum(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_CHECKSUM).digest()
