"""`mmsearch serve` as a process: what it says, what it serves, and how it ends."""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from select import select
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

pytest.importorskip("fastapi")

from conftest import ToyEncoder

import mmsearch
from mmsearch.cli.app import app
from mmsearch.cli.serve import served_places
from mmsearch.storage.place import index_place, place_of

PATIENCE = 60  # seconds until a test gives up; none takes as long

BUSY = 2  # seconds that a machine which runs other tests may take longer

SERVER = """
import sys, time
import mmsearch.server.app as server
import mmsearch.server.run as run
from mmsearch.cli.app import main
from starlette.responses import StreamingResponse

made = server.create_app

def create_app(*arguments, **options):
    app = made(*arguments, **options)

    @app.get("/search")
    async def search():
        await app.state.searches.run(lambda: time.sleep(60))

    @app.get("/in-a-thread")
    def in_a_thread():
        time.sleep(60)

    @app.get("/stream")
    async def stream():
        async def endless():
            import asyncio
            while True:
                yield b"data"
                await asyncio.sleep(0.1)
        return StreamingResponse(endless())

    return app

server.create_app = create_app
run.SECONDS_FOR_HEADERS = 1.0
sys.argv = ["mmsearch", *sys.argv[1:]]
main()
"""
"""The command, with routes that take long."""


class Server:
    """A running `mmsearch serve`."""

    def __init__(self, *arguments: str) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(self.process.stderr)

    def wait_until(self, condition):
        for _ in range(PATIENCE * 50):
            if (found := condition()) or self.process.poll() is not None:
                break
            time.sleep(0.02)
        assert found, self.output
        return found

    @property
    def output(self) -> str:
        return "".join(list(self.said))

    @property
    def port(self) -> int:
        found = self.wait_until(lambda: re.search(r"http://127.0.0.1:(\d+)/", self.output))
        return int(found[1])

    def get(self, path: str) -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as line:
            line.request("GET", path)
            answer = line.getresponse()
            return answer.status, answer.read()

    def opened(self, path: str) -> socket.socket:
        """A connection with a request whose answer is not waited for."""
        line = socket.create_connection(("127.0.0.1", self.port))
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n\r\n".encode())
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self._reader.join()


@contextmanager
def running(*arguments: str) -> Iterator[Server]:
    server = Server(*arguments)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMSEARCH_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MMSEARCH_INDEX", raising=False)
    monkeypatch.delenv("MMSEARCH_TOKEN", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Iterator[Server]:
    """A server that goes on, for tests that do it no harm."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMSEARCH_HOME", str(tmp_path_factory.mktemp("shared")))
        for name in ("MMSEARCH_INDEX", "MMSEARCH_TOKEN"):
            patch.delenv(name, raising=False)
        server = Server()
    try:
        yield server
    finally:
        server.close()


def refused(*arguments: str, code: int = 2) -> str:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stderr


# ---------------------------------------------------------------------- a real process


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_within_two_seconds_whatever_it_does(home, number):
    with running() as server:
        assert server.get("/healthz")[0] == 200
        assert server.get("/readyz")[0] == 200
        lines = [server.opened(path) for path in ("/stream", "/search", "/in-a-thread")]
        assert lines[0].recv(1000)
        time.sleep(0.3)  # until the searches run
        began = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 2 + BUSY
        for line in lines:
            line.close()
    assert "Traceback" not in server.output


def test_it_says_where_it_is_and_no_more(home):
    with running() as server:
        port = server.port
        assert f"serving default at http://127.0.0.1:{port}/" in server.output
        server.get("/?q=secret")
        server.get("/nothing?q=secret")
        server.process.terminate()
        server.process.wait(PATIENCE)
    assert "token" not in server.output
    assert "secret" not in server.output
    assert len(server.output.splitlines()) == 2


def test_answers_are_sent_without_delay(shared):
    with closing(http.client.HTTPConnection("127.0.0.1", shared.port)) as line:
        took = []
        for _ in range(20):
            began = time.monotonic()
            line.request("GET", "/healthz")
            line.getresponse().read()
            took.append(time.monotonic() - began)
    assert min(took) < 0.03  # Nagle's algorithm and delayed acknowledgements take 40 ms


def test_a_second_server_is_told_that_the_port_is_taken(home):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        message = refused("--port", str(taken.getsockname()[1]))
    assert "--port 0 takes a free one" in message


def test_headers_that_never_end_and_broken_requests_get_an_error(shared):
    for request in (
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ):
        with socket.create_connection(("127.0.0.1", shared.port), PATIENCE) as line:
            line.sendall(request)
            with suppress(ConnectionResetError):
                assert line.recv(1000).startswith(b"HTTP/1.1 400 ")
    assert shared.get("/healthz")[0] == 200


def test_a_connection_whose_request_does_not_come_is_closed(shared):
    idle, dripping, served = [
        socket.create_connection(("127.0.0.1", shared.port), PATIENCE) for _ in range(3)
    ]
    with idle, dripping, served:
        served.sendall(f"GET /search HTTP/1.1\r\nHost: 127.0.0.1:{shared.port}\r\n\r\n".encode())
        for letter in b"GET / HTTP/1.1\r\nHost: ":
            with suppress(ConnectionError):
                dripping.sendall(bytes([letter]))
            if select([dripping], [], [], 0.1)[0]:
                break
        assert idle.recv(1) == b""
        with suppress(ConnectionResetError):
            assert dripping.recv(1) == b""
        served.settimeout(0.1)  # its answer takes a minute, for which it may wait
        with pytest.raises(TimeoutError):
            served.recv(1)


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_watching_keeps_an_index_fresh_and_ends_with_the_server(home):
    pytest.importorskip("watchfiles")
    texts = home / "texts"
    texts.mkdir()
    (texts / "one.txt").write_text("a dog on a beach")
    mmsearch.index(texts, model="mini").close()
    with running("--watch") as server:
        assert server.get("/readyz")[0] == 200
        (texts / "two.txt").write_text("a cat on a roof")
        server.wait_until(lambda: b'items{index="default"} 2.0' in server.get("/metrics")[1])
        server.process.kill()
        server.process.wait(PATIENCE)
        index = index_place().folder
        limit = time.monotonic() + PATIENCE
        while not free(index):
            assert time.monotonic() < limit, "the watch goes on"
            time.sleep(0.1)


def free(index: Path) -> bool:
    """Whether no process has the catalog of an index open."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for opened in (process / "fd").iterdir():
                with suppress(OSError):
                    if process.name != str(os.getpid()) and opened.readlink().parent == index:
                        return False
    return True


# ---------------------------------------------------------------------- what it is given


@pytest.fixture
def served(toy: ToyEncoder, home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch):
    """What would be served, with one index, "holiday"; nothing is."""
    mmsearch.index(photos, into="holiday").close()
    found = SimpleNamespace()

    def run(application, listening) -> None:
        listening.close()
        found.state = application.state
        found.state.indexes.warm_up()

    monkeypatch.setattr("mmsearch.server.run.run", run)
    return found


def serve(*arguments: str):
    result = CliRunner().invoke(app, ["serve", "--port", "0", *arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def test_the_default_index_need_not_exist_and_a_named_one_has_to(served):
    serve()
    assert list(served.state.indexes.places) == ["default"]
    assert served.state.writable
    serve("-i", "holiday")
    assert served.state.indexes.default == "holiday"
    assert "mmsearch index" in refused("-i", "holiday", "-i", "none", code=3)


def test_indexes_are_served_by_their_names_each_once(home, monkeypatch):
    monkeypatch.chdir(home)
    assert served_places(["holiday", "./idx", "other/idx", "./idx", "./idx/"]) == {
        "holiday": place_of(home / "home" / "holiday"),
        "idx": place_of(home / "idx"),
        "idx-2": place_of(home / "other" / "idx"),
    }
    assert served_places(None) == {"default": place_of(home / "home" / "default")}
    monkeypatch.setenv("MMSEARCH_INDEX", "holiday")
    assert list(served_places([])) == ["holiday"]


def test_a_token_is_taken_from_the_option_or_else_the_environment(served, monkeypatch):
    serve()
    assert served.state.access.token is None
    monkeypatch.setenv("MMSEARCH_TOKEN", "from-the-environment")
    serve()
    assert served.state.access.token == "from-the-environment"
    serve("--token", "given")
    assert served.state.access.token == "given"
    monkeypatch.setenv("MMSEARCH_TOKEN", "")
    serve()
    assert served.state.access.token is None


@pytest.mark.parametrize("token", ["", " ", "two words", "kürbis", "a\nb"])
def test_a_token_that_cannot_be_sent_is_refused(home, token):
    assert "--token" in refused("--token", token)


def test_another_host_makes_a_token_and_prints_it(served, monkeypatch):
    bound = SimpleNamespace(getsockname=lambda: ("0.0.0.0", 7700), close=lambda: None)
    monkeypatch.setattr("mmsearch.server.run.listen", lambda host, port: bound)
    made = []

    def create(indexes, *, access, on_ready, **options):
        made.append(access)
        on_ready()
        return SimpleNamespace(state=SimpleNamespace(indexes=indexes))

    monkeypatch.setattr("mmsearch.server.app.create_app", create)
    said = serve("--host", "0.0.0.0").stderr
    assert made[0].token in said
    assert f"http://{socket.gethostname()}:7700/" in said
    for found in re.findall("from other machines: http://(.*):7700/", said):  # if it has a network
        assert ipaddress.ip_address(found)
    said = serve("--host", "0.0.0.0", "--token", "given").stderr
    assert "log in" in said
    assert "given" not in said.replace("was given", "")


def test_a_host_that_is_not_of_this_machine_is_refused(home):
    assert "this machine" in refused("--host", "192.0.2.1", "--port", "0")
    assert "this machine" in refused("--host", "", "--port", "0")
    assert "this machine" in refused("--host", "no.such.host.invalid", "--port", "0")


def test_opening_the_page_names_its_address(served, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or True)

    def create(indexes, *, on_ready, **options):
        on_ready()
        return SimpleNamespace(state=SimpleNamespace(indexes=indexes))

    monkeypatch.setattr("mmsearch.server.app.create_app", create)
    said = serve("--open", "-i", "holiday").stderr
    assert f"serving holiday at {opened[0]}" in said
    monkeypatch.setattr("webbrowser.open", lambda _: False)
    assert "yourself" in serve("--open").stderr


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [("uvicorn", [], "mmsearch[serve]"), ("watchfiles", ["--watch"], "mmsearch[watch]")],
)
def test_what_is_not_installed_is_named(home, monkeypatch, package, arguments, extra):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *more: None if name == package else find(name, *more),
    )
    assert extra in refused(*arguments)
