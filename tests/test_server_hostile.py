"""What a server makes of malformed and hostile requests: no error of its own, nothing given away.

A thousand requests, of a table and made at random by a fixed seed; MMSEARCH_HOSTILE_REQUESTS is the
number of another run. They are sent as bytes, since no client would send most of them.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import string
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import paint

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import mmsearch
from mmsearch.collection import Collection
from mmsearch.encoders import runtime_of

REQUESTS = int(os.environ.get("MMSEARCH_HOSTILE_REQUESTS", "1000"))
EXAMPLES = 8
"""Requests of each form, right and wrong, to each operation of the OpenAPI document."""
SEED = 17
PATIENCE = 60.0
STATIC = Path(mmsearch.__file__).parent / "server" / "static"

SECRET = "the secret that lies beside the photos"
GROWTH = 64
"""MiB that a server may have grown by in the end: what is loaded when it is first used."""

REFUSED = {400, 401, 403, 404, 405, 408, 411, 413, 414, 415, 416, 417, 422, 429, 431}
ANSWERED = {200, 201, 202, 204, 206, 303, 304, 307}
UNAVAILABLE = {501, 503}
"""An extra that is not installed; busy."""


@dataclass
class Site:
    """A server, and what lies about it."""

    port: int
    pid: int
    photo: Path
    secret: Path
    ids: dict[str, int]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass
class Attack:
    """A request, and what its answer may be."""

    name: str
    sent: bytes
    allowed: set[int] = field(default_factory=lambda: ANSWERED | REFUSED | UNAVAILABLE)
    complete: bool = True
    """Otherwise the server may go on waiting for the rest."""
    check: Callable[[int, bytes, bytes], bool] = lambda _status, _head, _body: True
    """Whether an answer (status, head, body) is as it should be."""


@dataclass
class Answer:
    status: int
    head: bytes
    body: bytes


# ------------------------------------------------------------------ the server


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("hostile")
    secret = root / "secret.txt"
    secret.write_text(SECRET)
    folder = root / "photos"
    for name, colour in (("red", "red"), ("green", "green"), ("blue", "blue")):
        paint(folder / f"{name}.png", colour)
    (folder / "page.txt").write_text("<script>alert(1)</script> a page")
    (folder / "moved.txt").write_text("what is about to lead out of the folder")
    index = root / "index"
    with Collection(index, create=True, model="auto", how=runtime_of()) as library:
        library.add(folder)
        ids = {Path(item.path).name: item.id for item in library.items}
    (folder / "moved.txt").unlink()
    (folder / "moved.txt").symlink_to(secret)
    with serving(index, root) as (port, pid):
        yield Site(port, pid, folder / "red.png", secret, ids)


@contextmanager
def serving(index: Path, cache: Path) -> Iterator[tuple[int, int]]:
    """The port and process id of `mmsearch serve`, once it is ready."""
    with open(cache / "output", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mmsearch", "serve", "-i", f"{index}/", "--port", "0"],
            stderr=output,
            env={**os.environ, "MMSEARCH_CACHE": str(cache / "cache")},
        )
    try:
        give_up = time.monotonic() + PATIENCE
        while not (
            found := re.search(rb"http://127\.0\.0\.1:(\d+)", (cache / "output").read_bytes())
        ):
            assert time.monotonic() < give_up
            assert process.poll() is None, (cache / "output").read_text()
            time.sleep(0.05)
        yield int(found[1]), process.pid
    finally:
        process.terminate()
        process.wait(PATIENCE)
        said = (cache / "output").read_text()
    assert "Traceback" not in said, said[-3000:]
    assert " failed:" not in said, said[-3000:]
    assert SECRET not in said


def answer_to(site: Site, attack: Attack) -> Answer | None:
    """The answer; None if the server closed the connection without one, or waits for more."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as connection:
        with suppress(ConnectionError):  # refused before all was sent
            connection.sendall(attack.sent)
        connection.settimeout(PATIENCE if attack.complete else 0.1)
        received = b""
        try:
            while part := connection.recv(1 << 16):
                received += part
        except TimeoutError:
            assert not attack.complete, f"no answer to {attack.name}: {attack.sent[:300]!r}"
        except ConnectionError:
            pass
    if not received:
        return None
    head, _, body = received.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d{3})", head)
    assert found, received[:300]
    return Answer(int(found[1]), head, body)


def judged(site: Site, attack: Attack) -> str | None:
    """What is wrong with the answer to an attack; None: nothing."""
    answer = answer_to(site, attack)
    if answer is None:
        return None
    wrong = None
    if answer.status not in attack.allowed:
        wrong = f"status {answer.status}"
    elif SECRET.encode() in answer.body or b"root:x:0" in answer.body:
        wrong = "a file that is not ours to give"
    elif b"nosniff" not in answer.head and b"Invalid HTTP request" not in answer.body:
        wrong = "no nosniff"
    elif answer.status >= 400 and b"Traceback" in answer.body:
        wrong = "a traceback"
    elif not attack.check(answer.status, answer.head, answer.body):
        wrong = f"not as it should be: {answer.status} {answer.head[:500]!r}"
    if wrong is None:
        return None
    return f"{attack.name}: {wrong}\n  {attack.sent[:600]!r}\n  {answer.body[:600]!r}"


def memory(site: Site) -> float:
    """MiB of the server; 0 where the system does not say."""
    with suppress(OSError):
        status = Path(f"/proc/{site.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024
    return 0.0


# ------------------------------------------------------------------ requests


def request(
    site: Site,
    target: str | bytes,
    *,
    method: str = "GET",
    headers: dict[str, str | bytes] | None = None,
    body: bytes | None = None,
    kind: str = "application/json",
    host: str | bytes | None = None,
) -> bytes:
    """The bytes of a request, well formed but for what is given."""
    lines: list[bytes] = [method.encode() + b" " + _bytes(target) + b" HTTP/1.1"]
    lines.append(b"Host: " + _bytes(site.host if host is None else host))
    lines.append(b"Connection: close")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}".encode())
        lines.append(f"Content-Type: {kind}".encode())
    for name, value in (headers or {}).items():
        lines.append(name.encode("latin-1") + b": " + _bytes(value))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")


DOTS = [
    "..",
    "%2e%2e",
    "%2E.",
    ".%2e",
    "%252e%252e",
    "%c0%ae%c0%ae",
    "..%00",
    "%uff0e%uff0e",
    "....",
]
SLASHES = ["/", "%2f", "%5c", "\\", "%252f", "%c0%af", "//", "/./", "%2f%2f", ";/"]
PREFIXES = [
    "/static/",
    "/static",
    "/",
    "/api/v1/items/",
    "/api/v1/items/1/",
    "/api/v1/uploads/",
    "/api/v1/jobs/",
    "/api/v1/",
    "/static/%00/",
    "/static//",
]
BAD_IDS = [
    "0", "-1", "1e0", "0x1", "00", "99999", "9223372036854775807",
    "9223372036854775808", "18446744073709551617", "1" * 400, "NaN", "true", "null", "%D9%A1",
    "1%00", "%001", "1;2", "1%0d%0aX:1", "%ff", "%", "%zz", "*", "_", "'", "1'--", "{id}", "..",
    "%2e",
]  # fmt: skip
RANGES = [
    "bytes=0-", "bytes=-0", "bytes=-1", "bytes=5-2", "bytes=99999999999999999999-", "bytes=0-0",
    "bytes=0-99999999999999999999999", "bytes=a-b", "items=0-1", "bytes", "bytes=", "bytes= 0 - 1 ",
    "bytes=-", "bytes=--1", "bytes=1-1,", "bytes=" + ",".join(["0-"] * 3000), "bytes=0-0,-1",
    "bytes=" + ",".join(f"{n}-{n}" for n in range(2000)), "BYTES=0-1", "bytes=0-1;q=1",
    "bytes=\u0661-\u0662", "bytes=1_0-2_0", "bytes=+1-2", "bytes=0x0-0x1", "\x00", "bytes=0-\t5",
]  # fmt: skip
WORDS = [
    "", " ", "a dog", "\0", "a\0b", "\ud800", "\udcff", "\u202ered", "😀" * 50, "é" * 3000,
    "x" * 5000, "%", "' OR 1=1 --", '"', "*", "a AND", "NEAR(", "-", "text:red", "{}", "[]",
    "../../etc/passwd",
    "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/", "data:image/png;base64,AAAA",
    "data:,", "data:image/png;base64,%%%", "data:text/html,<script>", "\n\r\t", "\u2028", "NaN",
    "1e999",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308,
    float("nan"), float("inf"), float("-inf"), [], {}, [None], [[]], [{}], {"": None}, {"a": 1},
    [1, 2, 3], [-1], [2**70], ["image"], ["nothing"], {"$and": []}, {"$or": [{}]}, {"$not": 1},
    {"path": {"$regex": "(a+)+$"}}, {"size": {"$gt": "x"}}, {"taken_at": {"$lt": "0000-99-99"}},
    {"kind": {"$in": [None, 1, "image"]}}, {"meta": {"$exists": 3}}, {"$where": "1"}, *WORDS,
]  # fmt: skip
KEYS = """
    q k offset sort where facets index parts target weights like unlike min_confidence combine
    rerank diversity recall words hubs text image audio upload item weight threshold same paths
    items tag input model encoding_format dimensions size page at v points download nothing
""".split()  # noqa: SIM905
LENGTHS = [b"-1", b"+2", b"1e1", b"\xd9\xa1", b"9" * 30, b"9" * 5000, b""]
PARTS = ["text", "image", "audio", "upload", "item", "weight", "nothing"]


def traversal(site: Site, rng: random.Random) -> Attack:
    """The path of a file that is not served."""
    aim = rng.choice(
        [
            "etc/passwd",
            str(site.secret).lstrip("/"),
            "app.py",
            "index/catalog.db",
            "photos/red.png",
            "pyproject.toml",
        ]
    )
    up = "".join(rng.choice(DOTS) + rng.choice(SLASHES) for _ in range(rng.randint(1, 9)))
    target = rng.choice(PREFIXES) + rng.choice(["", "x/", "index.html/", "C:\\"]) + up + aim
    if rng.random() < 0.2:
        target = rng.choice(PREFIXES) + rng.choice(SLASHES) + str(site.secret)
    target = target.replace(" ", "%20") + rng.choice(["", "", "?", "%00", "%00.html", "/", "#"])

    def is_ours(status: int, head: bytes, body: bytes) -> bool:
        del head
        return status != 200 or body in _static_files()

    return Attack("traversal", request(site, target), check=is_ours)


def _static_files() -> set[bytes]:
    return {path.read_bytes() for path in STATIC.rglob("*") if path.is_file()}


def bad_id(site: Site, rng: random.Random) -> Attack:
    of = rng.choice(["", "/thumbnail", "/media", "/waveform", "/similar", "/x"])
    target = f"/api/v1/items/{rng.choice(BAD_IDS)}{of}"
    return Attack(
        "id",
        request(site, target, method=rng.choice(["GET", "GET", "HEAD", "DELETE"])),
        REFUSED | {307},
    )


def bad_range(site: Site, rng: random.Random) -> Attack:
    size = site.photo.stat().st_size

    def bounded(status: int, head: bytes, body: bytes) -> bool:
        del head
        return status not in {200, 206} or len(body) <= 2 * size + (1 << 16)

    headers = {"Range": rng.choice(RANGES)}
    if rng.random() < 0.3:
        headers["If-Range"] = rng.choice(['"x"', "*", "", "Mon, 99 Foo", 'W/"'])
    if rng.random() < 0.3:
        headers["If-None-Match"] = rng.choice(['"x', "*", ",,,", 'W/"x", ' * 500])
    target = f"/api/v1/items/{site.ids['red.png']}/media"
    return Attack("range", request(site, target, headers=headers), check=bounded)


def parameters(site: Site, rng: random.Random) -> Attack:
    """Parameters of the wrong type, size and encoding."""
    ids = [*map(str, site.ids.values()), "1"]
    path = rng.choice(
        [
            "search", "search", "facets", "status", "errors", "duplicates", "tags", "jobs",
            "indexes",
            *(f"items/{rng.choice(ids)}{of}" for of in ("", "/thumbnail", "/similar", "/waveform")),
        ]
    )  # fmt: skip
    pairs = []
    for _ in range(rng.choice([1, 1, 2, 3, 5, 1500 if rng.random() < 0.1 else 2])):
        value = rng.choice(VALUES)
        text = value if isinstance(value, str) else json.dumps(value)
        written = quote(text.encode("utf-8", "surrogatepass"), safe=rng.choice(["", "%&=+"]))
        pairs.append(f"{rng.choice(KEYS)}={written}")
    if rng.random() < 0.1:
        pairs.append(
            rng.choice(
                ["q=%ff%fe", "q=%", "q=%u0041", "&&&", "=", "where={", "where=" + "[" * 5000]
            )
        )
    target = re.sub(r"[\s\x00-\x20]", "+", f"/api/v1/{path}?{'&'.join(pairs)}")
    return Attack("parameters", request(site, target))


def json_body(site: Site, rng: random.Random) -> Attack:
    """JSON of the wrong form, or none."""
    path = rng.choice(
        ["/api/v1/search"] * 3
        + ["/api/v1/facets", "/api/v1/tags", "/api/v1/jobs", "/v1/embeddings", "/login"]
    )
    content: Any = {rng.choice(KEYS): rng.choice(VALUES) for _ in range(rng.randint(0, 4))}
    if path.endswith("search") and rng.random() < 0.7:
        content["parts"] = [
            {rng.choice(PARTS): rng.choice(VALUES) for _ in range(rng.randint(0, 3))}
            for _ in range(rng.choice([1, 1, 2, 300 if rng.random() < 0.1 else 3]))
        ]
    if path.endswith("embeddings"):
        content["input"] = rng.choice([*VALUES, VALUES, ["a"] * 3000])
    if path.endswith("tags"):
        content |= {"items": rng.choice(VALUES), "tag": rng.choice(VALUES)}
    if path.endswith("jobs"):
        content["paths"] = rng.choice([value for value in VALUES if value is not None])
    if rng.random() < 0.1:
        content = rng.choice(VALUES) if not path.endswith("jobs") else []
    body = json.dumps(content).encode("ascii")
    kind = "application/json"
    if rng.random() < 0.2:
        body = rng.choice(
            [
                b"[" * 100_000,
                b'{"a":' * 50_000,
                b'{"k": ' + b"9" * 10_000 + b"}",
                b'{"q": "\xff\xfe"}',
                b"\x00",
                b"\xef\xbb\xbf{}" if not path.endswith("jobs") else b"\xef\xbb\xbf[]",
                body[:-1],
                body.decode().encode("utf-16"),
                rng.randbytes(300),
                b'{"q": "a", "q": 3, "q": null}',
            ]
        )
    if rng.random() < 0.1:
        kind = rng.choice(
            [
                "text/plain",
                "",
                "application/x-www-form-urlencoded",
                "multipart/form-data",
                "multipart/form-data; boundary=x",
                "application/json; charset=utf-7",
                "/",
            ]
        )
    method = rng.choice(["POST"] * 8 + ["PUT", "DELETE"])
    return Attack("json", request(site, path, method=method, body=body, kind=kind))


def forged(site: Site, rng: random.Random) -> Attack:
    """A request for another host, or of a page of another site."""
    target = rng.choice(["/", "/api/v1/search?q=red", "/api/v1/status", "/static/x", "/metrics",
                         f"/api/v1/items/{site.ids['red.png']}/media", "/nothing"])  # fmt: skip
    hosts: list[str | bytes] = [
        "evil.example", f"evil.example:{site.port}", f"127.0.0.1:{site.port + 1}", "127.0.0.1", "",
        f"{site.host}.evil.example", f"evil.example/{site.host}", f"a@{site.host}", "localhost",
        f"127.1:{site.port}", f"0.0.0.0:{site.port}", f"[::]:{site.port}", b"\xff", f"{site.host}/",
        f"2130706433:{site.port}", f"127.0.0.1\\@evil:{site.port}", f"localhost:{site.port}#",
    ]  # fmt: skip
    origins = [
        "", "null", "http://evil.example", f"https://{site.host}", f"http://{site.host}.evil.example",
        f"http://evil.example@{site.host}", "file://", f"http://127.0.0.1:{site.port + 1}", "*",
        f"http://{site.host}/", f"HTTP://{site.host}, http://evil.example", "moz-extension://x",
    ]  # fmt: skip
    method = rng.choice(["GET", "GET", "POST", "DELETE", "OPTIONS"])
    body = b"{}" if method == "POST" else None
    if rng.random() < 0.5:
        sent = request(site, target, method=method, host=rng.choice(hosts), body=body)
    else:
        headers = {"Origin": rng.choice(origins)}
        if rng.random() < 0.3:
            headers = {"Sec-Fetch-Site": rng.choice(["cross-site", "same-site", "x"])}
            target = target if target != "/" else "/metrics"
        sent = request(site, target, method=method, headers=headers, body=body)
    return Attack("forged", sent, {400, 403})


def malformed(site: Site, rng: random.Random) -> Attack:
    """What is no HTTP, or hardly."""
    good = request(site, "/api/v1/search?q=red")
    host = f"Host: {site.host}\r\nConnection: close\r\n".encode()
    post = b"POST /api/v1/search HTTP/1.1\r\n" + host
    sent = rng.choice(
        [
            good.replace(b"\r\n", b"\n"),
            good.replace(b"HTTP/1.1", b"HTTP/9.9"),
            good.replace(b"HTTP/1.1", b""),
            good.replace(b"GET", rng.choice([b"get", b"CONNECT", b"TRACE", b"G" * 3000, b"\0"])),
            good.replace(b"GET /", b"GET http://evil.example/"),
            good.replace(b"/api/v1/search?q=red", rng.choice([b"*", b"", b"\xff", b"?"])),
            good.replace(b"Host", b"Host\x00"),
            good.replace(b"Host: ", b"Host : "),
            good.replace(b"Host", b" Host"),
            good.replace(b"Connection", b"Host: evil.example\r\nConnection"),
            good.replace(b"\r\nC", rng.choice([b"\r\nX", b"\r\n\xe9", b"\r\n:"]) + b": \x01\r\nC"),
            good.replace(b"Connection", b"X: y\r\n" * 5000 + b"Connection"),
            good.replace(b"Connection", b"X: " + b"y" * 200_000 + b"\r\nConnection"),
            good.replace(b"Connection", b"Cookie: " + b"a=b; " * 8000 + b"\r\nConnection"),
            good.replace(b"q=red", b"q=" + b"a" * 100_000),
            good.replace(b"Connection: close", b"Upgrade: websocket\r\nConnection: Upgrade"),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            rng.randbytes(rng.randint(1, 2000)),
            good[: rng.randint(1, len(good) - 1)],
            post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{}",
            post + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            post + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
            post + b"Content-Length: %b\r\n\r\n{}" % rng.choice(LENGTHS),
            post + b"Content-Length: 1000\r\n\r\n{}",
            post + b"Content-Length: 2\r\nContent-Encoding: gzip\r\n\r\n{}",
            post + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
        ]
    )  # fmt: skip
    return Attack("malformed", sent, complete=False)


def upload(site: Site, rng: random.Random) -> Attack:
    """What is no photo and no sound, or pretends to be one."""

    def png(width: int, height: int) -> bytes:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return (
                struct.pack(">I", len(data))
                + kind
                + data
                + struct.pack(">I", zlib.crc32(kind + data))
            )

        head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", head)
            + chunk(b"IDAT", zlib.compress(b""))
            + chunk(b"IEND", b"")
        )

    photo = site.photo.read_bytes()
    body = rng.choice(
        [
            b"",
            b"\0",
            rng.randbytes(2000),
            png(60_000, 60_000),
            png(2**31 - 1, 2**31 - 1),
            png(0, 0),
            photo[: rng.randint(1, len(photo) // 2)],
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>",
            b"<!doctype html><script>alert(1)</script>",
            b"PK\x03\x04" + rng.randbytes(100),
            b"RIFF\xff\xff\xff\xffWAVEfmt " + rng.randbytes(30),
            b"fLaC" + rng.randbytes(200),
            b"OggS" + rng.randbytes(200),
            b"ID3" + rng.randbytes(500),
            b"\xff\xd8\xff\xe0" + rng.randbytes(500),
            b"GIF89a" + rng.randbytes(100),
            b"\x00\x00\x00\x1cftypheic" + rng.randbytes(300),
            b"II*\x00" + rng.randbytes(300),
            b"RIFF\x10\x00\x00\x00WEBPVP8 " + rng.randbytes(50),
            b"P6 99999 99999 255\n",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        ]
    )  # fmt: skip
    kind = rng.choice(["image/png", "text/html", "image/svg+xml", "audio/wav", "", "x"])
    return Attack(
        "upload",
        request(site, "/api/v1/uploads", method="POST", body=body, kind=kind),
        REFUSED | UNAVAILABLE,
    )


def anything(site: Site, rng: random.Random) -> Attack:
    """A path of random characters, with any method."""
    letters = string.ascii_letters + string.digits + "/.%?&=;:@[]{}|\\^~\"'<>,+*!$()_-"
    path = "".join(rng.choice(letters) for _ in range(rng.randint(0, 60)))
    prefix = rng.choice(
        ["/", "/api/v1/", "/api/v1/items/", "/api/v1/jobs/", "/v1/", "/static/", "/mcp/"]
    )
    method = rng.choice(["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "X"])
    body = rng.randbytes(20) if method in {"POST", "PUT", "PATCH"} else None
    return Attack("anything", request(site, prefix + path, method=method, body=body))


ATTACKS = [
    traversal, traversal, bad_id, bad_range, parameters, parameters, parameters, json_body,
    json_body, json_body, forged, malformed, upload, anything,
]  # fmt: skip


# ------------------------------------------------------------------ the tests


def healthy(site: Site) -> None:
    """The server answers a plain search as ever."""
    answer = answer_to(site, Attack("search", request(site, "/api/v1/search?q=red&k=2")))
    assert answer is not None
    assert answer.status == 200
    assert len(json.loads(answer.body)["hits"]) == 2


def test_hostile_requests_are_refused_and_leave_the_server_as_it_was(site):
    rng = random.Random(SEED)
    healthy(site)
    warm_up, wrong = max(100, REQUESTS // 10), []
    before = 0.0
    for number in range(REQUESTS):
        if number == warm_up:
            before = memory(site)
        if (found := judged(site, rng.choice(ATTACKS)(site, rng))) is not None:
            wrong.append(found)
            assert len(wrong) < 10, "\n".join(wrong)
    assert not wrong, "\n".join(wrong)
    healthy(site)
    assert memory(site) - before < GROWTH


def test_an_item_that_became_a_link_out_of_its_folder_is_not_served(site):
    for of in ("media", "thumbnail"):
        target = f"/api/v1/items/{site.ids['moved.txt']}/{of}"
        found = judged(site, Attack("link", request(site, target), {403, 404}))
        assert found is None, found


@pytest.mark.parametrize("path", ["/api/v1/search", "/api/v1/uploads", "/login"])
@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_without_end_is_refused(site, path, chunked):
    before = memory(site)
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {site.host}\r\n"
        head += "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {10**15}\r\n"
        part = b" " * (1 << 18)
        if chunked:
            part = b"%x\r\n%b\r\n" % (len(part), part)
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        received = b""
        with suppress(ConnectionError):
            for _ in range(4000):  # a gigabyte
                connection.sendall(part)
        with suppress(ConnectionError):
            received = connection.recv(1 << 16)
    assert not received or re.match(rb"HTTP/1\.1 413 ", received), received[:200]
    healthy(site)
    assert memory(site) - before < GROWTH


# ------------------------------------------------------------------ the OpenAPI document

LEFT_OUT = {("GET", "/api/v1/jobs/{job_id}/events"), ("POST", "/api/v1/jobs")}
"""What a random request may not be sent to: one waits for a job, one could index the whole disk."""


def test_answers_to_requests_made_from_the_openapi_document_are_as_it_says(site):
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import checks

    schema = schemathesis.openapi.from_url(f"http://{site.host}/api/v1/openapi.json")
    examples = settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    asked = [
        checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    wrong = []
    for result in schema.get_all_operations():
        operation = result.ok()
        if (operation.method.upper(), operation.path) in LEFT_OUT:
            continue
        for mode in schemathesis.GenerationMode:

            @examples
            @given(case=operation.as_strategy(generation_mode=mode))
            def answers(case) -> None:
                case.call_and_validate(checks=asked)

            try:
                answers()
            except Unsatisfiable:  # no request to it can be wrong
                continue
            except (Exception, BaseExceptionGroup) as error:
                wrong.append(f"{operation.label}, {mode}: {error}")
    assert not wrong, "\n\n".join(wrong)
