"""`mmsearch serve`: the page and the HTTP API."""

from __future__ import annotations

import importlib.util
import os
import socket
import webbrowser
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from mmsearch.cli.console import say
from mmsearch.cli.options import ServedIndexes, option
from mmsearch.encoders import runtime_of
from mmsearch.errors import InvalidOption, MissingExtra
from mmsearch.storage.place import index_place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mmsearch.server.security import Access
    from mmsearch.storage.place import IndexPlace

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    *,
    index: ServedIndexes = None,
    host: Annotated[
        str,
        option(
            "--host",
            "The address to listen on; clients on other machines need a token. "
            "(default: 127.0.0.1)",
            "HOST",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        option("--port", "The port; 0 takes a free one. (default: 7700)", "N", min=0, max=65535),
    ] = 7700,
    open_page: Annotated[bool, option("--open", "Open the page in a browser.")] = False,
    token: Annotated[
        str | None,
        option(
            "--token",
            "The secret that clients must send. (default: $MMSEARCH_TOKEN; else none on loopback, "
            "and elsewhere one that is made and printed)",
            "T",
        ),
    ] = None,
    watch: Annotated[
        bool, option("--watch", "Keep the indexes up to date with the disk meanwhile.")
    ] = False,
) -> None:
    """Serve indexes over HTTP, to a browser and to other programs, until Ctrl-C.

    Only this machine can reach the server, unless another --host is given.
    """
    if not all(map(importlib.util.find_spec, PACKAGES)):
        raise MissingExtra("mmsearch serve", "serve")
    if watch and importlib.util.find_spec("watchfiles") is None:
        raise MissingExtra("--watch", "watch")
    token = _checked("--token", token) or _checked(
        "MMSEARCH_TOKEN", os.environ.get("MMSEARCH_TOKEN")
    )

    # before numpy is imported: threads that share a small product wait for each other, which slows
    # down several searches at once (`OPENBLAS_NUM_THREADS=2 python benchmarks/serve.py` shows it)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

    from mmsearch.server.app import create_app
    from mmsearch.server.indexes import ServedIndexes
    from mmsearch.server.run import listen, run
    from mmsearch.server.security import Access

    indexes = ServedIndexes(served_places(index), runtime_of())
    try:
        for name in indexes.places if index else ():  # the default index need not exist yet
            indexes.get(name)
        listening = listen(host, port)
        access = Access.of(host, listening.getsockname(), token)
        say("loading the models …")
        ready = _announce(access, host, list(indexes.places), made=token is None, show=open_page)
        run(create_app(indexes, access=access, watch=watch, on_ready=ready), listening)
    finally:
        indexes.close()


def _checked(where: str, token: str | None) -> str | None:
    """A token that can be sent in a header."""
    if token is None or (where == "MMSEARCH_TOKEN" and not token):
        return None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidOption(
            f"{where} may have letters, digits and signs of ASCII, no spaces: choose one that is "
            "hard to guess, or leave it out"
        )
    return token


def served_places(indexes: Sequence[str] | None) -> dict[str, IndexPlace]:
    """Where indexes live, each once, by the names under which they are served.

    That is the name of the index, or of its folder; to a name that is taken, a number is added.
    """
    named: dict[str, IndexPlace] = {}
    places = map(index_place, indexes) if indexes else [index_place()]
    for place in places:
        if any(place.address == other.address for other in named.values()):
            continue
        name = wanted = place.name or place.folder.name or "index"
        number = 1
        while name in named:
            number += 1
            name = f"{wanted}-{number}"
        named[name] = place
    return named


def _announce(
    access: Access, host: str, names: Sequence[str], *, made: bool, show: bool
) -> Callable[[], None]:
    """What says, once the server is ready, where it is."""
    address = access.address(host)

    def announce() -> None:
        say(f"serving {', '.join(names)} at {address} (Ctrl-C ends it)")
        if access.any_address and (found := _network_address()) is not None:
            say(f"from other machines: http://{found}:{access.port}/")
        if access.token is not None and made:
            say(f"log in with the token {access.token} (--token or $MMSEARCH_TOKEN sets another)")
        elif access.token is not None:
            say("log in with the token that was given")
        if show and not webbrowser.open(address):
            say(f"no browser could be opened: open {address} yourself")

    return announce


def _network_address() -> str | None:
    """The machine's IPv4 address in its network, if any; its name may mean nothing there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # of no machine (RFC 5737); sends nothing, picks a route
        return str(probe.getsockname()[0])
    return None
