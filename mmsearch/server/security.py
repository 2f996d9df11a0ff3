"""Access control: Host, Origin and the token; and the security headers of every answer.

A page of any site can send requests to a server on this machine and, by DNS rebinding, read the
answers. So the Host header must name this server, and requests from other sites are refused.
"""

from __future__ import annotations

import hashlib
import html
import ipaddress
import re
import secrets
import socket
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, quote, unquote

from fastapi import APIRouter, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmsearch.server.problems import Problem, problem_response

COOKIE = "mmsearch_token"

OPEN = frozenset({"/login", "/static/login.css", "/healthz", "/readyz"})
"""Paths that need no token."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; media-src 'self' blob:; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer, unless its route sets them."""

WRONG_TOKENS, WITHIN = 10, 60.0
"""After so many different wrong tokens within so many seconds, an address must wait."""

MOST_ADDRESSES = 1000
"""Addresses whose wrong tokens are remembered."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([0-9]{1,5}))?", re.ASCII)


@dataclass
class Access:
    """The addresses of a server, and who may use it.

    Attributes:
        port: The port it listens on.
        hosts: Its names and addresses, lower case, IPv6 without brackets.
        any_address: Whether any IP address is accepted as its host, as it listens on all of them.
            This does not help DNS rebinding, which needs a name.
        loopback: Whether only this machine can reach it.
        token: The secret of its clients; None: they need none.
    """

    port: int = 7700
    hosts: frozenset[str] = frozenset({"localhost", "127.0.0.1", "::1"})
    any_address: bool = False
    loopback: bool = True
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.wrong_tokens = WrongTokens()

    @classmethod
    def of(cls, host: str, bound: tuple[str, int], token: str | None) -> Access:
        """The access of a server that listens.

        Args:
            host: The value of --host.
            bound: The address and port that it listens on.
            token: None makes one, unless the server is on loopback.
        """
        address = ipaddress.ip_address(bound[0].partition("%")[0])
        names = {host.lower().strip("[]").rstrip("."), str(address)}
        if address.is_loopback:
            return cls(bound[1], cls.hosts | names, token=token)
        if address.is_unspecified:
            own = socket.gethostname().lower()
            names |= {*cls.hosts, own, f"{own}.local", socket.getfqdn().lower()}
        return cls(
            bound[1],
            frozenset(names),
            any_address=address.is_unspecified,
            loopback=False,
            token=token or secrets.token_urlsafe(24),
        )

    def address(self, host: str) -> str:
        """The address of the page.

        Args:
            host: The value of --host.
        """
        name = socket.gethostname() if self.any_address else host.strip("[]")
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}/"

    def is_ours(self, host: str) -> bool:
        """Whether a Host header names this server."""
        found = _HOST.fullmatch(host.lower())
        if found is None or int(found[2] or 80) != self.port:
            return False
        name = found[1].removesuffix(".")
        if name.startswith("["):
            name = name[1:-1]
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return self.any_address or str(address) in self.hosts

    def is_our_origin(self, origin: str) -> bool:
        """Whether an Origin header names this server."""
        scheme, separator, host = origin.partition("://")
        return bool(separator) and scheme.lower() == "http" and self.is_ours(host)

    def check_token(self, given: str, client: str) -> bool:
        """Whether a token is right; a wrong one is remembered.

        Raises:
            Problem: 429, the client has tried too many.
        """
        self.wrong_tokens.check(client)
        expected = (self.token or "").encode()
        if secrets.compare_digest(given.encode("utf-8", "surrogateescape"), expected):
            return True
        self.wrong_tokens.add(client, given)
        return False


class WrongTokens:
    """The wrong tokens that clients tried lately; a repeated one counts once."""

    def __init__(self) -> None:
        self._tried: OrderedDict[str, dict[bytes, float]] = OrderedDict()

    def check(self, client: str) -> None:
        """Check that a client may try another token.

        Raises:
            Problem: 429, it has tried too many.
        """
        now = time.monotonic()
        recent = sorted(
            t for t in self._tried.get(_network(client), {}).values() if t > now - WITHIN
        )
        if len(recent) >= WRONG_TOKENS:
            raise Problem(
                429,
                "too many wrong tokens from your address: wait a minute, then use the one that "
                "`mmsearch serve` was given, or printed when it started",
                retry_after=int(recent[-WRONG_TOKENS] + WITHIN - now) + 1,
            )

    def add(self, client: str, token: str) -> None:
        """Remember a wrong token, by its hash."""
        network, now = _network(client), time.monotonic()
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        tried = {
            one: when for one, when in self._tried.pop(network, {}).items() if when > now - WITHIN
        }
        tried.setdefault(digest, now)
        self._tried[network] = tried
        while len(self._tried) > MOST_ADDRESSES:
            self._tried.popitem(last=False)


def _network(client: str) -> str:
    """A client's address; for IPv6 its /64 network, whose addresses one client can all use."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False))


class Security:
    """Refuses requests for other hosts, from other sites, or without the token."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-cache" if "etag" in headers else "no-store")
            await send(message)

        try:
            refusal = self._refusal(HTTPConnection(scope))
        except Problem as problem:
            refusal = problem_response(scope, problem)
        if refusal is None:
            await self._app(scope, receive, with_headers)
        elif scope["type"] == "http":
            await refusal(scope, receive, with_headers)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, request: HTTPConnection) -> Response | None:
        """The redirection to the login form, if the page is opened without the token.

        Raises:
            Problem: the request is refused.
        """
        scope, headers = request.scope, request.headers
        state_changing = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if not scope["path"].startswith("/"):
            raise Problem(400, "ask for a path of this server, which begins with /")
        self._check_site(headers, state_changing=state_changing, page=_is_page(scope))
        if self._access.token is None or scope["path"] in OPEN:
            return None
        client = (scope.get("client") or ("", 0))[0]
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        by_header = scheme.lower() == "bearer"
        given = bearer.strip() if by_header else unquote(request.cookies.get(COOKIE, ""))
        if given and self._access.check_token(given, client):
            if state_changing and not by_header and not _says_same_origin(headers):
                raise Problem(
                    403,
                    "this changes something, and does not say which page it comes from: send the "
                    "header Origin, or the token as `Authorization: Bearer TOKEN`",
                )
            return None
        if scope["type"] == "http" and scope["path"] == "/" and not state_changing:
            wanted = f"/?{scope['query_string'].decode('latin-1')}".removesuffix("?")
            address = "/login" if wanted == "/" else f"/login?next={quote(wanted, safe='')}"
            return RedirectResponse(address, HTTPStatus.SEE_OTHER)
        raise Problem(
            401,
            "this server demands its token: log in at /login, or send `Authorization: Bearer "
            "TOKEN`; `mmsearch serve` was given it, or printed it when it started",
            {"WWW-Authenticate": "Bearer"},
        )

    def _check_site(self, headers: Headers, *, state_changing: bool, page: bool) -> None:
        """Check that a request is for this server, and not from a page of another site."""
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            raise Problem(400, "a request needs one Host header")
        if not self._access.is_ours(hosts[0]):
            raise Problem(
                403,
                "the Host header names no host of this server: use the address that `mmsearch "
                "serve` printed, or start it with --host and the name that you use",
            )
        site = headers.get("sec-fetch-site", "none").lower()
        for origin in headers.getlist("origin"):
            # forms of pages with the policy no-referrer have the origin "null"
            hidden = origin == "null" and site == "same-origin"
            if not hidden and not self._access.is_our_origin(origin):
                raise Problem(403, "pages of other sites may not ask this server (Origin header)")
        if site in {"same-origin", "none"}:
            return
        # a link on another site may open the page, and nothing else
        navigates = headers.get("sec-fetch-mode") == "navigate"
        if not (page and navigates and not state_changing):
            raise Problem(403, "pages of other sites may not ask this server (Sec-Fetch-Site)")


def _is_page(scope: Scope) -> bool:
    return scope["path"] in {"/", "/login"}


def _says_same_origin(headers: Headers) -> bool:
    """Whether a request says that our page sent it; an Origin header was checked before."""
    return "origin" in headers or headers.get("sec-fetch-site", "").lower() == "same-origin"


# ---------------------------------------------------------------------- logging in

router = APIRouter(include_in_schema=False)

FORM = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="stylesheet" href="/static/login.css">
<title>Log in – mmsearch</title>
<main>
<h1>mmsearch</h1>
{message}
<form method="post" action="/login">
<input name="user" value="mmsearch" autocomplete="username" aria-label="User" hidden>
<label>Token <input name="token" type="password" required autofocus
 autocomplete="current-password" aria-describedby="hint"></label>
<input type="hidden" name="next" value="{next}">
<button>Log in</button>
<p id="hint">The command <code>mmsearch serve</code> was given it, or printed it at its start.</p>
</form>
</main>
"""


def _form(wanted: str, message: str = "", status: int = 200) -> HTMLResponse:
    said = f'<p role="alert">{html.escape(message)}</p>' if message else ""
    # with no-referrer, browsers without Sec-Fetch-Site would send the origin "null"
    headers = {"Referrer-Policy": "same-origin"}
    return HTMLResponse(FORM.format(message=said, next=html.escape(_page(wanted))), status, headers)


def _page(wanted: str) -> str:
    """The address to go to after the login, if it is the page: others could be other sites."""
    return wanted if wanted.startswith("/?") else "/"


@router.get("/login")
async def login_form(request: Request) -> Response:
    """The form that asks for the token."""
    if request.app.state.access.token is None:
        return RedirectResponse("/", HTTPStatus.SEE_OTHER)
    return _form(request.query_params.get("next", "/"))


@router.post("/login")
async def login(request: Request) -> Response:
    """Sets the cookie, if the token is right."""
    access: Access = request.app.state.access
    try:
        sent = (await request.body()).decode("ascii")
        fields = dict(parse_qsl(sent, keep_blank_values=True, max_num_fields=10))
    except ValueError as error:
        raise Problem(400, "the form could not be read: log in at /login") from error
    wanted = _page(fields.get("next", "/"))
    if access.token is not None:
        client = request.client.host if request.client else ""
        try:
            right = access.check_token(fields.get("token", "").strip(), client)
        except Problem as problem:
            refused = _form(wanted, problem.detail, problem.status)
            refused.headers.update(problem.headers)
            return refused
        if not right:
            return _form(wanted, "That is not the token.", HTTPStatus.UNAUTHORIZED)
    answer = RedirectResponse(_ascii(wanted), HTTPStatus.SEE_OTHER)
    if access.token is not None:
        answer.set_cookie(
            COOKIE, quote(access.token, safe=""), path="/", httponly=True, samesite="strict"
        )
    return answer


def _ascii(address: str) -> str:
    return quote(address, safe="/?&=%+!*'(),;:@$-._~")
