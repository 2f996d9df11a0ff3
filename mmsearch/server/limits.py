"""Limits of requests: bytes, seconds, and how many run at once."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmsearch.server.problems import Problem, problem_response, shutting_down

Result = TypeVar("Result")

UPLOADS = "/api/v1/uploads"
"""The address whose body is a file."""

FIRST_BYTES = 10.0
"""Seconds in which the first bytes of a body must arrive."""

SLOWEST = 50_000
"""Bytes a second at which a body must arrive, on average."""

LOOK_EVERY = 0.25
"""Seconds between two checks of whether the client is still there and there is time left."""

DRAINED = 1.0
"""Seconds for which the rest of a refused body is read, so that the client reads the answer."""


def _cores() -> int:
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    body_bytes: int = 16 << 20
    """Of a JSON body; photos in it are base64."""
    body_values: int = 1 << 17
    """In JSON, counted by commas; tags are given to 100,000 items at a time. Reading more would
    keep all other requests waiting."""
    upload_bytes: int = 128 << 20
    all_bodies_bytes: int = 512 << 20
    """Of the bodies of all requests at a time, which are in memory."""
    megapixels: float = 100.0
    """Of an uploaded photo."""
    query_characters: int = 4096
    k: int = 1000
    """Hits of a page."""
    offset: int = 100_000
    """Hits before a page."""
    batch: int = 256
    """Inputs to encode in one request, and parts of a query."""
    seconds: float = 30.0
    """For a search, an encoding or a thumbnail, waiting included."""
    searches: int = field(default_factory=lambda: 2 * _cores())
    """Searches that run at once."""
    thumbnails: int = field(default_factory=lambda: max(1, _cores() // 2))
    """Thumbnails of photos made at once, and as many of pages and frames; the other processor cores
    are left to searches."""
    encodes: int = field(default_factory=_cores)
    """Requests of /v1/embeddings that run at once."""
    waiting: int = 100
    """Of each of these, how many more may wait."""

    def body(self, path: str) -> int:
        """The limit of a body, in bytes, at an address."""
        return self.upload_bytes if path == UPLOADS else self.body_bytes


class Workers:
    """Threads for one kind of work, with a bounded queue.

    Each kind has threads of its own, so that searches do not wait for thumbnails.

    Args:
        kind: Of work, for messages: "search".
        running: How many at once.
        waiting: How many may wait.
        seconds: How long each may take, waiting included.
        observe: Called with the kind and the seconds that one took.
    """

    def __init__(
        self,
        kind: str,
        *,
        running: int,
        waiting: int,
        seconds: float,
        observe: Callable[[str, float], None] = lambda _kind, _seconds: None,
    ) -> None:
        self._kind = kind
        self._most = running + waiting
        self._seconds = seconds
        self._observe = observe
        self._threads = ThreadPoolExecutor(running, thread_name_prefix=kind)
        self._count = 0
        self._lock = threading.Lock()

    async def run(
        self,
        function: Callable[[], Result],
        has_left: Callable[[], Awaitable[bool]] | None = None,
    ) -> Result:
        """The result of a function, run in one of the threads.

        A function that takes too long keeps its thread until it returns; its result is dropped.

        Args:
            function: The work.
            has_left: Whether the client has disconnected (`Request.is_disconnected`); then work
                that has not begun is dropped.

        Raises:
            Problem: 429, too many wait already; 503, it took too long, or the server is ending.
        """
        with self._lock:
            if self._count >= self._most:
                raise Problem(
                    429,
                    f"too many requests of this kind ({self._kind}) at once: ask again in a moment",
                    retry_after=1,
                )
            self._count += 1
        began = time.monotonic()
        try:
            future = self._threads.submit(function)
        except RuntimeError as error:  # closed
            self._done()
            raise shutting_down() from error
        future.add_done_callback(self._done)
        waited_for = asyncio.wrap_future(future)
        try:
            while not (await asyncio.wait({waited_for}, timeout=LOOK_EVERY))[0]:
                if time.monotonic() - began > self._seconds:
                    raise Problem(
                        503,
                        f"it took longer than {self._seconds:g} seconds ({self._kind}): ask for "
                        "less, or again when the machine has less to do",
                        retry_after=5,
                    )
                if has_left is not None and await has_left():
                    raise Problem(503, "the client has gone")
            return waited_for.result()
        except asyncio.CancelledError:
            if future.cancelled():  # by `close`
                raise shutting_down() from None
            raise
        finally:
            future.cancel()
            self._observe(self._kind, time.monotonic() - began)

    def _done(self, _: object = None) -> None:
        with self._lock:
            self._count -= 1

    def close(self) -> None:
        """Start nothing more, and do not wait for what runs."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Refused(Exception):
    """Ends the reading of a body."""


class BodyLimits:
    """Refuses bodies that are too large (413) or arrive too slowly (408), also chunked ones."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits
        self._in_memory = 0  # bytes, of all bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = self._limits.body(scope["path"])
        length = headers.get("content-length", "0")
        complete = length == "0" and "transfer-encoding" not in headers
        if not length.isascii() or not length.isdigit() or int(length[:20]) > most:
            await _refuse(_too_large(most), scope, receive, send)
            return
        is_json = scope["path"] != UPLOADS
        began, received, values = time.monotonic(), 0, 0
        refusal: Problem | None = None
        answered = False

        async def limited() -> Message:
            nonlocal complete, received, values, refusal
            if complete:  # the next message can only be http.disconnect
                return await receive()
            if refusal is not None:
                raise _Refused
            try:
                left = began + FIRST_BYTES + received / SLOWEST - time.monotonic()
                message = await asyncio.wait_for(receive(), max(left, 0.01))
            except TimeoutError:
                detail = "the body came too slowly: send it again over a better line"
                refusal = Problem(408, detail, _CLOSE)
                raise _Refused from None
            body = message.get("body", b"")
            received += len(body)
            self._in_memory += len(body)
            values += body.count(b",") if is_json else 0
            complete = not message.get("more_body", False)
            if (refusal := self._too_much(received, values, most)) is not None:
                raise _Refused
            return message

        async def guarded(message: Message) -> None:
            nonlocal answered
            if refusal is not None and not answered:
                return  # the application's answer to a body that was cut off
            answered = True
            if message["type"] == "http.response.start" and not complete:
                # the application did not read the rest of the body: it must not go on coming
                message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        try:
            with suppress(_Refused):
                await self._app(scope, limited, guarded)
        finally:
            self._in_memory -= received
        if refusal is not None and not answered:
            await _refuse(refusal, scope, receive, send)

    def _too_much(self, received: int, values: int, most: int) -> Problem | None:
        """Why a body is refused of which so much is here."""
        limits = self._limits
        if received > most:
            return _too_large(most)
        if values > limits.body_values:
            detail = f"the body holds more than {limits.body_values} values: send it in parts"
            return Problem(413, detail, _CLOSE)
        if self._in_memory > limits.all_bodies_bytes:
            detail = "too much is being sent at once: send it again in a moment"
            return Problem(503, detail, _CLOSE, retry_after=5)
        return None


_CLOSE = {"Connection": "close"}


def _too_large(most: int) -> Problem:
    return Problem(413, f"the body has more than {most} bytes, the most that is taken here", _CLOSE)


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, then read on for a moment: clients read the answer after they have sent all."""

    async def draining(message: Message) -> None:
        if message["type"] != "http.response.body":
            await send(message)
            return
        await send({**message, "more_body": True})
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(_drain(receive), DRAINED)
        await send({"type": "http.response.body", "body": b""})

    await problem_response(scope, problem)(scope, receive, draining)


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass
