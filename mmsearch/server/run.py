"""Listening, serving, and ending within two seconds."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from mmsearch.errors import InvalidOption

SECONDS_FOR_REQUESTS = 1
"""In which running requests may end."""

SECONDS_TO_END = 1.8
"""After which the process exits in any case: a thread that searches cannot be interrupted."""

HEADER_BYTES = 1 << 16
"""The limit of a request's address and headers together."""

SECONDS_FOR_HEADERS = 10.0
"""After which a connection is closed whose request has not come, or not all of its headers."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Connections wait in its queue until the server runs.

    Args:
        host: A name or an address of this machine.
        port: 0 takes a free one.

    Raises:
        InvalidOption: the port is taken, or the host is not this machine.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise InvalidOption(
            f"--host {host}: no such host: give an address of this machine"
        ) from error
    # "localhost" has two addresses; every browser tries both
    family, _, _, _, (address, *_) = min(found, key=lambda one: one[0] != socket.AF_INET)
    address = str(address)
    try:
        listening = socket.create_server((address, port), family=family, backlog=512)
    except PermissionError as error:
        raise InvalidOption(
            f"--port {port} needs more rights: take one from 1024 on, or --port 0 for a free one"
        ) from error
    except OSError as error:
        if _is_local(family, address):
            raise InvalidOption(
                f"port {port} is taken, perhaps by another `mmsearch serve`: --port 0 takes a free "
                "one"
            ) from error
        raise InvalidOption(
            f"--host {host} is no address of this machine: 127.0.0.1 is for this machine alone, "
            "0.0.0.0 for all networks it is in"
        ) from error
    # asyncio sets it only on sockets created with a protocol; without it, the body of an answer
    # waits 40 ms for the client to acknowledge the head
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _is_local(family: int, address: str) -> bool:
    """Whether an address belongs to this machine."""
    try:
        socket.create_server((address, 0), family=family).close()
    except OSError:
        return False
    return True


class _Server(uvicorn.Server):
    """Ends in time, with exit code 0."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: object) -> None:
        del sig, frame  # not kept: uvicorn would raise the signal again at its end
        self.force_exit, self.should_exit = self.should_exit, True
        end = threading.Timer(SECONDS_TO_END, os._exit, (0,))
        end.daemon = True
        end.start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.stop()
        await super().shutdown(sockets)


class _Connection(H11Protocol):
    """Waits for a request only so long; uvicorn would wait for ever.

    As many connections as a process may have open could keep everybody out, without the token.
    """

    _given_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait_for_request(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._given_up is None:
            self._given_up = self.loop.call_later(SECONDS_FOR_HEADERS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._given_up is not None:
            self._given_up.cancel()
            self._given_up = None


def run(app: FastAPI, listening: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM.

    uvicorn logs nothing, as its lines contain addresses, and so queries. The application logs its
    errors itself.
    """
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        log_level="critical",
        lifespan="on",
        loop="asyncio",
        http=_Connection,
        ws="none",
        proxy_headers=False,  # with them, any client could claim another address
        server_header=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_graceful_shutdown=SECONDS_FOR_REQUESTS,
    )
    _Server(app, config).run([listening])
