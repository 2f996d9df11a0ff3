"""Forwards a port to a server; when it is closed, clients see a server that is down."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress


class Forwarder:
    """Forwards connections from a port on 127.0.0.1, while it is open.

    Args:
        connect: Opens a connection to the server.
    """

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self._listener: socket.socket | None = None
        self._ends: list[socket.socket] = []
        self.port = 0
        self.open()

    def open(self) -> None:
        """Listen, always on the same port."""
        self._listener = listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()

    def close(self) -> None:
        """Cut all connections, and accept none."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
            self._listener = None
        while self._ends:
            with suppress(OSError), self._ends.pop() as end:
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = self._connect()
                self._ends += [client, server]
                for ends in ((client, server), (server, client)):
                    threading.Thread(target=_copy, args=ends, daemon=True).start()


def _copy(source: socket.socket, to: socket.socket) -> None:
    with suppress(OSError):
        while some := source.recv(1 << 16):
            to.sendall(some)
    with suppress(OSError):
        to.shutdown(socket.SHUT_WR)
