"""The endpoint /mcp of `mmsearch serve`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.types import Message, Receive, Scope, Send

from mmsearch.errors import MissingExtra
from mmsearch.server.services import Services

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager


class McpEndpoint:
    """An ASGI application that answers MCP requests while `run` runs.

    It imports the MCP SDK at the first request, as that takes half a second.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._wanted, self._running = asyncio.Event(), asyncio.Event()
        self._manager: StreamableHTTPSessionManager | None = None

    async def run(self) -> None:
        """Run the SDK's session manager, from the first request on until this is cancelled."""
        await self._wanted.wait()
        assert self._manager is not None
        async with self._manager.run():
            self._running.set()
            await asyncio.Event().wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if self._manager is None:
            made = await to_thread.run_sync(self._make)
            self._manager = self._manager or made  # another request may have been quicker
            self._wanted.set()
        await self._running.wait()
        if (whole := await _read(receive)) is not None:
            await self._manager.handle_request(scope, whole, send)

    def _make(self) -> StreamableHTTPSessionManager:
        try:
            from mmsearch.server.mcp import session_manager
        except ImportError as error:  # it is not installed, or too old
            raise MissingExtra("/mcp", "mcp") from error
        return session_manager(self._services)


async def _read(receive: Receive) -> Receive | None:
    """The body of a request, whole; None if the client goes before it is: the SDK logs a trace."""
    body = bytearray()  # `BodyLimits` ends one that is too large
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    parts: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

    async def again() -> Message:
        return parts.pop() if parts else await receive()

    return again
