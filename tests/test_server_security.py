"""Who a server answers: hosts, origins, the token, and what every answer says to browsers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi")

from fastapi import WebSocket
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from mmsearch.encoders import runtime_of
from mmsearch.server.app import create_app
from mmsearch.server.indexes import ServedIndexes
from mmsearch.server.limits import Limits
from mmsearch.server.security import HEADERS, WRONG_TOKENS, Access

BASE = "http://127.0.0.1:7700"
TOKEN = "correct horse/battery=staple"
PAGE = "http://192.168.1.5:7700"
LAN = Access(7700, frozenset({"nas.lan", "192.168.1.5"}), loopback=False, token=TOKEN)
ADDRESSES = ["/", "/static/app.js", "/api/v1/jobs", "/healthz", "/metrics", "/login", "/nothing"]


def application(folder: Path, access: Access | None = None):
    indexes = ServedIndexes({"holiday": folder / "none"}, runtime_of())
    app = create_app(indexes, access=access, limits=Limits(body_bytes=1000))

    @app.get("/fails")
    def fails(q: str = "") -> None:
        raise ZeroDivisionError(q)

    @app.post("/change")
    def change() -> dict[str, bool]:
        return {"changed": True}

    @app.websocket("/socket")
    async def connect(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    return app


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    app = application(tmp_path_factory.mktemp("server"))
    with TestClient(app, base_url=BASE, follow_redirects=False) as client:
        yield client


@pytest.fixture
def lan(tmp_path: Path) -> Iterator[TestClient]:
    access = Access(LAN.port, LAN.hosts, loopback=False, token=TOKEN)
    app = application(tmp_path, access)
    with TestClient(app, base_url=PAGE, follow_redirects=False) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ---------------------------------------------------------------------- hosts and origins


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7700", "127.0.0.1.evil.example:7700"]
)
def test_a_request_for_another_host_is_refused_at_every_address(client, address, host):
    answer = client.get(address, headers={"Host": host})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert "serve" in answer.json()["detail"]


@pytest.mark.parametrize(
    "host",
    ["localhost:7700", "LocalHost:7700", "localhost.:7700", "[::1]:7700", "[0:0:0:0:0:0:0:1]:7700"],
)
def test_loopback_has_several_names(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "localhost",  # port 80
        "localhost:7701",
        "localhost:",
        "localhost:77000",
        "localhost:7700:7700",
        "localhost..:7700",
        "user@localhost:7700",
        "localhost:7700@evil.example",
        "localhost:7700/",
        "localhost\t:7700",
        "::1:7700",
        "[::1:7700",
        "[::1]7700",
        "[::2]:7700",
        "[localhost]:7700",
        "192.168.1.5:7700",
        "2130706433:7700",
        "localhost:٧٧٠٠".encode(),
        b"localhost\xff:7700",
    ],
)
def test_a_host_that_is_not_ours_to_the_letter_is_refused(client, host):
    assert client.get("/healthz", headers={"Host": host}).status_code == 403


async def _call(app, headers, path="/healthz"):
    """The status of a request in just these headers, which no client would send."""
    sent = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 7700),
    }

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"]


@pytest.mark.parametrize(
    "hosts", [[], ["localhost:7700", "localhost:7700"], ["localhost:7700", "x"]]
)
def test_no_host_and_several_are_refused(tmp_path, hosts):
    import anyio

    headers = [(b"host", host.encode()) for host in hosts]
    assert anyio.run(_call, application(tmp_path), headers) == 400


def test_an_absolute_address_is_refused(tmp_path):
    import anyio

    headers = [(b"host", b"localhost:7700")]
    for path in ("http://localhost:7700/healthz", "http://evil.example/healthz", "*", ""):
        assert anyio.run(_call, application(tmp_path), headers, path) == 400


@pytest.mark.parametrize(
    "origin", ["http://localhost:7700", "http://127.0.0.1:7700", "HTTP://[::1]:7700"]
)
def test_our_own_page_may_ask(client, origin):
    assert client.post("/change", headers={"Origin": origin}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://localhost:7700",
        "http://localhost",
        "http://localhost:3000",
        "http://localhost:7700.evil.example",
        "http://localhost:7700/",
        "http://evil.example@localhost:7700",
        "file://",
        "null",
        "",
        "localhost:7700",
    ],
)
@pytest.mark.parametrize("address", ["/", "/healthz", "/api/v1/jobs"])
def test_pages_of_other_sites_may_not(client, origin, address):
    answer = client.get(address, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_there_is_no_cors(client):
    answer = client.options(
        "/change",
        headers={"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"},
    )
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("site", ["cross-site", "same-site", "unheard-of"])
def test_what_browsers_send_for_other_sites_is_refused_also_without_an_origin(client, site):
    picture = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert client.get("/api/v1/jobs", headers=picture).status_code == 403
    form = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert client.post("/change", headers=form).status_code == 403
    assert client.get("/api/v1/jobs", headers=form).status_code == 403


def test_a_link_on_another_site_may_open_the_page(client):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/?q=dog", headers=link).status_code != 403


def test_a_form_of_ours_that_sends_no_referrer_is_ours(client):
    form = {"Origin": "null", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"}
    assert client.post("/change", headers=form).status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example:7700"}, {"Origin": "http://evil.example"}]
)
def test_web_sockets_are_checked_as_well(client, headers):
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(f"ws{BASE[4:]}/socket", headers=headers),
    ):
        pass
    with client.websocket_connect(f"ws{BASE[4:]}/socket"):
        pass


def test_an_address_is_no_name_that_could_be_bound_anew():
    everywhere = Access(7700, frozenset({"nas"}), any_address=True, loopback=False, token="t")
    assert everywhere.is_ours("10.1.2.3:7700")
    assert everywhere.is_ours("[fe80::1]:7700")
    assert everywhere.is_ours("NAS:7700")
    assert not everywhere.is_ours("evil.example:7700")


# ---------------------------------------------------------------------- the token


def test_loopback_alone_needs_no_token():
    assert Access.of("localhost", ("127.0.0.1", 1), None).token is None
    assert Access.of("::1", ("::1", 1), None).token is None
    assert Access.of("localhost", ("127.0.0.1", 1), "given").token == "given"
    # what the name says is of no account
    assert Access.of("localhost", ("192.168.1.5", 1), None).token
    for bound in ("0.0.0.0", "::", "192.168.1.5", "fe80::1%eth0"):
        one, other = (Access.of(bound, (bound, 1), None) for _ in range(2))
        assert not one.loopback
        assert one.token != other.token
        assert len(one.token) >= 32
        assert one.token not in repr(one)


@pytest.mark.parametrize("address", ["/static/app.js", "/api/v1/jobs", "/metrics", "/nothing"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        bearer(""),
        bearer("wrong"),
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": "mmsearch_token=wrong"},
        {"Cookie": f"other={quote(TOKEN, safe='')}"},
        {"Authorization": b"Bearer \xff\xfe"},
    ],
)
def test_without_the_token_nothing_is_told(lan, address, headers):
    answer = lan.get(address, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "/login" in answer.json()["detail"]
    assert TOKEN not in answer.text


def test_the_token_opens_as_bearer(lan):
    assert lan.get("/api/v1/jobs", headers=bearer(TOKEN)).status_code == 200
    assert lan.post("/change", headers={"authorization": f"bearer  {TOKEN}"}).status_code == 200


def test_the_token_in_the_address_is_none(lan):
    assert lan.get(f"/api/v1/jobs?token={TOKEN}").status_code == 401


def test_whether_it_lives_is_told_without_a_token(lan):
    assert lan.get("/healthz").status_code == 200
    assert lan.get("/static/login.css").headers["content-type"].startswith("text/css")
    assert lan.get("/readyz").status_code in (200, 503)


def test_the_login_form_sets_a_cookie_that_scripts_and_other_sites_do_not_get(lan):
    assert lan.get("/").headers["location"] == "/login"
    form = lan.get("/login")
    assert form.status_code == 200
    assert "<script" not in form.text
    answer = lan.post("/login", data={"token": TOKEN}, headers={"Origin": PAGE})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert {"httponly", "samesite=strict", "path=/"} <= set(cookie.split("; "))
    assert lan.get("/api/v1/jobs").status_code == 200  # the client sends the cookie


def test_a_wrong_token_gets_the_form_again(lan):
    answer = lan.post("/login", data={"token": "wrong"})
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert "set-cookie" not in answer.headers


def test_after_logging_in_the_search_is_shown_that_was_asked_for(lan):
    address = lan.get("/?q=a+dog&where=%7B%7D").headers["location"]
    form = lan.get(address)
    assert 'value="/?q=a+dog&amp;where=%7B%7D"' in form.text
    answer = lan.post("/login", data={"token": TOKEN, "next": "/?q=a+dog&where=%7B%7D"})
    assert answer.headers["location"] == "/?q=a+dog&where=%7B%7D"


@pytest.mark.parametrize(
    "wanted", ["http://evil.example/", "//evil.example", "/\\evil.example", "/login", '"><script>']
)
def test_logging_in_leads_to_no_other_site(lan, wanted):
    assert "evil" not in lan.get(f"/login?next={quote(wanted)}").text
    answer = lan.post("/login", data={"token": TOKEN, "next": wanted})
    assert answer.headers["location"] == "/"


def test_a_search_in_the_form_is_escaped(lan):
    form = lan.get("/login", params={"next": '/?q="><script>alert(1)</script>'})
    assert "<script" not in form.text
    answer = lan.post("/login", data={"token": TOKEN, "next": "/?q=\r\nSet-Cookie: a=b"})
    assert "\n" not in answer.headers["location"]
    assert "a=b" not in answer.headers["set-cookie"]


@pytest.mark.parametrize("body", [b"\xff\xfe", b"&".join(b"a=b" for _ in range(100))])
def test_a_form_that_cannot_be_read_is_a_problem(lan, body):
    assert lan.post("/login", content=body).status_code == 400


def test_with_a_cookie_changes_need_to_say_that_they_come_from_our_page(lan):
    lan.cookies.set("mmsearch_token", quote(TOKEN, safe=""))
    assert lan.get("/api/v1/jobs").status_code == 200
    assert lan.post("/change").status_code == 403
    assert lan.post("/change", headers={"Origin": "http://192.168.1.6"}).status_code == 403
    assert lan.post("/change", headers={"Origin": PAGE}).status_code == 200
    assert lan.post("/change", headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert lan.post("/change", headers={"Sec-Fetch-Site": "none"}).status_code == 403


def test_guessing_tokens_is_slow(lan):
    for number in range(WRONG_TOKENS):
        assert lan.post("/login", data={"token": f"guess {number}"}).status_code == 401
    form = lan.post("/login", data={"token": TOKEN})
    assert form.status_code == 429
    assert 1 <= int(form.headers["retry-after"]) <= 61
    assert "wait a minute" in form.text
    for headers in (bearer(TOKEN), bearer("guess"), {"Cookie": "mmsearch_token=guess"}):
        assert lan.get("/api/v1/jobs", headers=headers).status_code == 429
    assert lan.get("/login").status_code == 200


def test_an_old_cookie_does_not_lock_its_owner_out(lan):
    for _ in range(3 * WRONG_TOKENS):  # a page that was open before the server got another token
        assert lan.get("/api/v1/jobs", headers={"Cookie": "mmsearch_token=old"}).status_code == 401
    assert lan.post("/login", data={"token": TOKEN}).status_code == 303


def test_without_a_token_there_is_nothing_to_log_in_to(client):
    assert client.get("/login").headers["location"] == "/"
    assert client.post("/login", data={"token": "any"}).headers["location"] == "/"


def test_a_web_socket_needs_the_token(lan):
    with pytest.raises(WebSocketDisconnect), lan.websocket_connect(f"ws{PAGE[4:]}/socket"):
        pass
    with lan.websocket_connect(f"ws{PAGE[4:]}/socket", headers=bearer(TOKEN)):
        pass


# ---------------------------------------------------------------------- answers


@pytest.mark.parametrize("address", [*ADDRESSES, "/fails"])
def test_every_answer_tells_browsers_to_be_careful(client, address):
    for answer in (
        client.get(address),
        client.post(address),
        client.get(address, headers={"Host": "x"}),
    ):
        for name, value in HEADERS.items():
            if name != "Referrer-Policy":
                assert answer.headers[name] == value
        assert answer.headers["Referrer-Policy"] in ("no-referrer", "same-origin")
        assert answer.headers["Cache-Control"]
        assert "server" not in answer.headers
        policy = answer.headers["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/%2e%2e/app.py",
        "/static/..%5capp.py",
        "/static//etc/passwd",
        "/static/%00",
        "/static/a%00.js",
        "/static/%ff",
        f"/static/{'a' * 5000}",
        "/static/",
        "/static",
        "//etc/passwd",
        "/static/login.css/x",
    ],
)
def test_nothing_but_the_page_is_served_from_the_disk(client, path):
    answer = client.get(path)
    assert answer.status_code == 404, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_an_unexpected_error_is_told_without_its_inside_and_logged_without_queries(client, caplog):
    caplog.set_level(logging.DEBUG)
    answer = client.get("/fails?q=a+secret+query")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    assert "ZeroDivisionError" not in answer.text
    logged = "\n".join(
        one.getMessage() for one in caplog.records if one.name.startswith("mmsearch")
    )
    assert "ZeroDivisionError" in logged
    assert "in fails" in logged
    assert "secret" not in logged
