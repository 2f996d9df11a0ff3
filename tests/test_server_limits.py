"""What requests may take, the problem documents they get, figures, and the indexes behind."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import anyio
import pytest

pytest.importorskip("fastapi")

from conftest import ToyEncoder, paint
from fastapi import Body, FastAPI, Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient

import mmsearch
from mmsearch import errors
from mmsearch.encoders import runtime_of
from mmsearch.encoders.family import SingleModel
from mmsearch.encoders.registry import REGISTRY
from mmsearch.errors import IndexNotFound, IndexUnusable
from mmsearch.server import limits as server_limits
from mmsearch.server.app import create_app
from mmsearch.server.indexes import ServedIndexes
from mmsearch.server.limits import BodyLimits, Limits, Workers
from mmsearch.server.problems import Problem

JSON = {"Content-Type": "application/json"}
BASE = "http://127.0.0.1:7700"
LIMITS = Limits(body_bytes=1000, body_values=50, upload_bytes=5000)


def application(folder: Path) -> FastAPI:
    app = create_app(ServedIndexes({"holiday": folder / "none"}, runtime_of()), limits=LIMITS)

    @app.post("/json")
    def take(body: Annotated[dict[str, int], Body()]) -> int:
        return len(body)

    @app.post("/ignores")
    def ignores() -> str:
        return "ignored"

    return app


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(application(tmp_path), base_url=BASE) as client:
        yield client


def check_problem(answer, status: int, *words: str) -> dict:
    """The document, if it is a problem of this status and says what to do."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert document.keys() == {"type", "title", "status", "detail", "instance"}
    assert document["status"] == status
    for word in words:
        assert word in document["detail"]
    return document


# ---------------------------------------------------------------------- bodies


def test_a_body_up_to_the_limit_is_taken(client):
    body = json.dumps({"a": 1}).ljust(LIMITS.body_bytes)
    assert client.post("/json", headers=JSON, content=body).json() == 1
    check_problem(client.post("/json", headers=JSON, content=body + " "), 413, "1000 bytes")


def test_a_body_in_chunks_is_counted_as_it_comes(client):
    taken = []

    def endless():
        while True:
            taken.append(1)
            if len(taken) > 200:  # the rest is read for a moment, so that the answer is seen
                return
            yield b" " * 100

    check_problem(client.post("/json", headers=JSON, content=endless()), 413, "1000 bytes")


def test_an_upload_may_be_larger():
    async def count(scope, receive, send) -> None:
        total = sum([len(chunk) async for chunk in Request(scope, receive).stream()])
        await JSONResponse(total)(scope, receive, send)

    client = TestClient(BodyLimits(count, LIMITS), base_url=BASE)
    address = "/api/v1/uploads"
    assert client.post(address, content=b" " * LIMITS.upload_bytes).json() == LIMITS.upload_bytes
    check_problem(client.post(address, content=b" " * (LIMITS.upload_bytes + 1)), 413)
    check_problem(client.post(address, content=iter([b" " * 2000] * 3)), 413)
    check_problem(client.post(address + "/", content=b" " * LIMITS.upload_bytes), 413)


@pytest.mark.parametrize("length", ["1001", "9" * 50, "-1", "1e3", "", "1,1", "٣"])
def test_a_length_that_is_too_large_or_none_is_refused_before_anything_is_read(client, length):
    answer = client.post("/json", content=b"", headers={"Content-Length": length.encode()})
    check_problem(answer, 413)


def call(app: FastAPI, path: str, *messages, pause: float = 0.0) -> tuple[list[dict], float]:
    """What is sent to a client that sends the pieces of a body, then nothing, and for how long."""
    sent: list[dict] = []
    pieces = list(messages)

    async def receive():
        await asyncio.sleep(pause)
        if not pieces:
            await asyncio.sleep(3600)
        return {"type": "http.request", "body": pieces.pop(0), "more_body": True}

    async def send(message):
        sent.append(message)

    began = time.monotonic()
    anyio.run(app, scope_of(path), receive, send)
    return sent, time.monotonic() - began


def scope_of(path: str) -> dict:
    """The scope of a request with a body in chunks."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost:7700"), (b"transfer-encoding", b"chunked")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 7700),
    }


def test_json_of_too_many_values_is_refused_before_it_is_read(client):
    most = {f"{number}": 0 for number in range(LIMITS.body_values)}
    assert client.post("/json", json=most).json() == len(most)
    check_problem(client.post("/json", json={**most, "a": 0, "b": 0}), 413, "values")


def test_the_bodies_of_all_requests_have_a_limit_together(tmp_path):
    app = BodyLimits(application(tmp_path), Limits(all_bodies_bytes=10))
    for _ in range(2):  # one that was refused is not counted any more
        sent, _ = call(app, "/json", b" " * 6, b" " * 6)
        assert sent[0]["status"] == 503
        assert (b"retry-after", b"5") in sent[0]["headers"]


def test_a_client_that_breaks_off_its_body_is_no_error(tmp_path, caplog):
    messages = iter([{"type": "http.request", "body": b"{", "more_body": True}])
    sent = []

    async def receive():
        return next(messages, {"type": "http.disconnect"})

    async def send(message):
        sent.append(message)

    anyio.run(application(tmp_path), scope_of("/json"), receive, send)
    assert not caplog.records


def test_a_body_that_does_not_come_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(server_limits, "FIRST_BYTES", 0.1)
    monkeypatch.setattr(server_limits, "DRAINED", 0.1)
    for path in ("/json", "/login"):
        sent, took = call(application(tmp_path), path, b"{")
        assert sent[0]["status"] == 408
        assert (b"connection", b"close") in sent[0]["headers"]
        assert took < 2


def test_a_body_that_drips_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(server_limits, "FIRST_BYTES", 0.2)
    monkeypatch.setattr(server_limits, "DRAINED", 0.1)
    sent, took = call(application(tmp_path), "/login", *[b" "] * 1000, pause=0.05)
    assert sent[0]["status"] == 408
    assert took < 2


def test_a_body_that_nobody_reads_ends_the_connection(tmp_path):
    sent, _ = call(application(tmp_path), "/ignores", b" ")
    assert sent[0]["status"] == 200
    assert (b"connection", b"close") in sent[0]["headers"]


# ---------------------------------------------------------------------- at once, and for how long


def workers(**changes) -> Workers:
    return Workers("search", **{"running": 2, "waiting": 1, "seconds": 5.0, **changes})


def test_so_many_run_so_many_wait_and_more_are_refused():
    go = threading.Event()
    running = []

    def work() -> int:
        running.append(1)
        assert go.wait(10)
        return 7

    async def ask() -> None:
        pool = workers()
        asked = [asyncio.create_task(pool.run(work)) for _ in range(3)]
        await asyncio.sleep(0.1)
        assert len(running) == 2
        with pytest.raises(Problem) as refused:
            await pool.run(work)
        assert refused.value.status == 429
        assert int(refused.value.headers["Retry-After"]) >= 1
        go.set()
        assert await asyncio.gather(*asked) == [7, 7, 7]
        assert await pool.run(work) == 7

    asyncio.run(ask())


def test_what_takes_too_long_is_given_up_and_what_waited_for_it_is_not_begun():
    go = threading.Event()
    begun = []

    def work() -> None:
        begun.append(1)
        go.wait(10)

    async def ask() -> None:
        pool = workers(running=1, seconds=0.1)
        given_up = await asyncio.gather(pool.run(work), pool.run(work), return_exceptions=True)
        assert [one.status for one in given_up] == [503, 503]
        assert all("Retry-After" in one.headers for one in given_up)
        go.set()
        await asyncio.sleep(0.1)
        assert len(begun) == 1
        assert await pool.run(lambda: 7) == 7

    asyncio.run(ask())


def test_what_nobody_waits_for_any_more_is_not_begun(monkeypatch):
    monkeypatch.setattr(server_limits, "LOOK_EVERY", 0.02)
    go = threading.Event()
    begun = []

    async def has_left() -> bool:
        return True

    async def ask() -> None:
        pool = workers(running=1)
        first = asyncio.create_task(pool.run(lambda: go.wait(10)))
        await asyncio.sleep(0)
        with pytest.raises(Problem):
            await pool.run(lambda: begun.append(1), has_left)
        go.set()
        await first
        await pool.run(lambda: None)
        assert not begun

    asyncio.run(ask())


def test_errors_of_the_work_are_its_own():
    def work() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        asyncio.run(workers().run(work))


def test_a_pool_that_is_closed_says_that_the_server_ends():
    go = threading.Event()

    async def ask() -> None:
        pool = workers(running=1)
        asked = [asyncio.create_task(pool.run(lambda: go.wait(10))) for _ in range(2)]
        await asyncio.sleep(0.05)
        pool.close()
        for refused in (asked[1], pool.run(lambda: None)):
            with pytest.raises(Problem) as problem:
                await refused
            assert problem.value.status == 503
        go.set()
        assert await asked[0]

    asyncio.run(ask())


# ---------------------------------------------------------------------- problems


def test_unknown_addresses_and_methods_say_where_the_api_is_described(client):
    check_problem(client.get("/api/v1/nothing"), 404, "/api/v1/openapi.json")
    answer = client.put("/json", content=b"{}")
    check_problem(answer, 405, "PUT", "POST", "/api/v1/openapi.json")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/a%20b", "/%ff", "/%00", "/ü", "/" + "a" * 3000, "/%ed%a0%80"])
def test_an_address_of_any_bytes_stands_in_its_problem_as_one(client, path):
    instance = check_problem(client.get(path), 404)["instance"]
    assert instance.isascii()
    assert " " not in instance


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 900, 400),
        (b'{"a": 1e999}', 422),
        (b"[]", 422),
        (b'{"a": "\\ud800"}', 422),
        (b'{"a": NaN}', 422),
    ],
)
def test_a_body_that_cannot_be_used_is_a_problem(client, body, status):
    check_problem(client.post("/json", headers=JSON, content=body), status)


def test_every_error_of_the_library_has_a_status(tmp_path):
    app = application(tmp_path)
    raised: list[Exception] = []

    @app.get("/raises")
    def raises() -> None:
        raise raised.pop()

    expected = {
        errors.InvalidQuery: 422,
        errors.UnknownTarget: 422,
        errors.InvalidFilter: 422,
        errors.InvalidOption: 422,
        errors.NoHomeFolder: 503,
        errors.UnknownModel: 422,
        errors.ModelUnavailable: 503,
        errors.MissingExtra: 501,
        errors.LanguageModelFailed: 422,
        errors.UnsupportedModality: 422,
        errors.ModelDamaged: 503,
        errors.UnreadableFile: 422,
        errors.TooLarge: 413,
        errors.PathNotFound: 404,
        errors.InvalidCaptions: 422,
        errors.InvalidMetadata: 422,
        errors.IndexBusy: 503,
        errors.IndexUnusable: 503,
        errors.IndexNotFound: 404,
        errors.CatalogDamaged: 503,
        errors.StorageFailed: 503,
        errors.MMSearchError: 422,
    }
    known = {one for one in vars(errors).values() if isinstance(one, type)}
    assert known == expected.keys()
    with TestClient(app, base_url=BASE) as client:
        for family, status in expected.items():
            two = family in (errors.MissingExtra, errors.CatalogDamaged)
            raised.append(family("what", "cure") if two else family("do this instead"))
            answer = client.get("/raises")
            check_problem(answer, status)
            assert ("retry-after" in answer.headers) == (status == 503)


def test_the_document_of_the_api_describes_everything(tmp_path):
    indexes = ServedIndexes({"holiday": tmp_path / "none"}, runtime_of())
    with TestClient(create_app(indexes), base_url=BASE) as client:
        document = client.get("/api/v1/openapi.json").json()
    assert document["components"]["schemas"]["Problem"]["required"]
    ids = []
    for path, operations in document["paths"].items():
        for operation in operations.values():
            ids.append(operation["operationId"])
            for kind in ("4XX", "5XX"):
                content = operation["responses"][kind]["content"]
                assert list(content) == ["application/problem+json"], path
            assert "422" not in operation["responses"]
            for parameter in operation.get("parameters", ()):
                assert parameter["description"], (path, parameter["name"])
    assert len(ids) == len(set(ids))


# ---------------------------------------------------------------------- readiness and figures


def wait_until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen")


def test_no_operation_takes_an_unknown_parameter(tmp_path):
    indexes = ServedIndexes({"holiday": tmp_path / "none"}, runtime_of())
    with TestClient(create_app(indexes), base_url=BASE) as client:
        for path, operations in client.get("/api/v1/openapi.json").json()["paths"].items():
            for method in operations:
                address = re.sub(r"{\w+}", "1", path)
                answer = client.request(method, address, params={"sixe": "9"})
                check_problem(answer, 422, "no parameter 'sixe'")


def test_searches_wait_for_the_models_and_the_rest_does_not(tmp_path, monkeypatch):
    loaded = threading.Event()
    monkeypatch.setattr(ServedIndexes, "warm_up", lambda _: loaded.wait(10))
    with TestClient(application(tmp_path), base_url=BASE) as client:
        try:
            assert client.get("/healthz").status_code == 200
            for path in ("/readyz", "/api/v1/search"):
                answer = client.get(path)
                check_problem(answer, 503, "loaded")
                assert int(answer.headers["retry-after"]) >= 1
        finally:
            loaded.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)
        check_problem(client.get("/api/v1/search"), 404, "no index")


def test_probes_of_a_server_that_hangs_leave_no_threads_behind(tmp_path, monkeypatch):
    back = threading.Event()
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path))
    monkeypatch.setattr(ServedIndexes, "warm_up", lambda served: setattr(served, "ready", True))
    monkeypatch.setattr(ServedIndexes, "exists", lambda *_: back.wait(10))
    monkeypatch.setattr("mmsearch.server.metrics.READY_WITHIN", 0.01)
    app = create_app(ServedIndexes({"far": "postgresql://localhost/photos"}, runtime_of()))
    with TestClient(app, base_url=BASE) as client:
        try:
            wait_until(lambda: "does not answer" in client.get("/readyz").text)
            before = threading.active_count()
            for _ in range(30):
                check_problem(client.get("/readyz"), 503, "does not answer")
            assert threading.active_count() < before + 10
        finally:
            back.set()
        wait_until(lambda: client.get("/readyz").status_code == 200)


def test_figures_name_routes_and_never_queries(client):
    client.get("/api/v1/jobs?q=secret")
    client.get("/api/v1/jobs/secret")
    client.get("/secret")
    client.request("SECRET", "/")
    text = client.get("/metrics").text
    assert 'mmsearch_requests_total{method="GET",route="/api/v1/jobs",status="422"} 1.0' in text
    assert 'method="GET",route="/api/v1/jobs/{job_id}",status="404"' in text
    assert 'method="GET",route="unknown",status="404"' in text
    assert 'mmsearch_items{index="holiday"} 0.0' in text
    assert "secret" not in text.lower()


def test_each_server_has_figures_of_its_own(tmp_path):
    for _ in range(2):
        with TestClient(application(tmp_path), base_url=BASE) as client:
            client.get("/healthz")
            assert 'route="/healthz",status="200"} 1.0' in client.get("/metrics").text


def test_work_is_timed(tmp_path):
    app = application(tmp_path)

    @app.get("/search")
    async def search(request: Request) -> int:
        return await request.app.state.searches.run(lambda: 7)

    app.state.indexes.ready = True
    with TestClient(app, base_url=BASE) as client:
        client.get("/search")
        assert 'mmsearch_work_seconds_count{work="search"} 1.0' in client.get("/metrics").text


# ---------------------------------------------------------------------- indexes


@pytest.fixture
def served(toy: ToyEncoder, photos: Path, tmp_path: Path) -> Iterator[ServedIndexes]:
    for name in ("one", "two"):
        mmsearch.index(photos, into=tmp_path / name).close()
    folders = {name: tmp_path / name for name in ("one", "two", "none")}
    indexes = ServedIndexes(folders, runtime_of())
    yield indexes
    indexes.close()


def test_an_index_is_opened_once(served):
    assert served.get() is served.get("one")
    assert served.get("two") is not served.get("one")
    assert served.sizes() == {"one": 3, "two": 3, "none": 0}


def test_an_unknown_index_names_those_that_are_served(served):
    with pytest.raises(IndexNotFound, match="'one', 'two'"):
        served.get("three")
    with pytest.raises(IndexNotFound, match="mmsearch index"):
        served.get("none")


def test_an_index_that_is_made_later_is_served(served, photos):
    mmsearch.index(photos, into=served.place("none")).close()
    assert len(served.get("none").search("red")) == 3


def test_an_index_that_was_replaced_is_opened_again(served, photos, tmp_path):
    assert len(served.get("one").search("red")) == 3
    paint(photos / "white.png", "white")
    mmsearch.index(photos, into=tmp_path / "new").close()
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(IndexNotFound):
        served.get("one")
    (tmp_path / "new").rename(tmp_path / "one")
    assert len(served.get("one").search("red")) == 4


def test_a_damaged_index_says_so_and_the_others_answer(served, tmp_path):
    (tmp_path / "two" / "catalog.db").write_bytes(b"no catalog" * 1000)
    with pytest.raises(IndexUnusable):
        served.get("two")
    served.warm_up()
    assert served.ready
    assert served.get("one").search("red")
    assert served.sizes() == {"one": 3, "none": 0}


def test_indexes_share_their_models(served, monkeypatch):
    loaded = []
    monkeypatch.setitem(
        REGISTRY, "toy", SingleModel("toy", lambda: loaded.append(1) or ToyEncoder())
    )
    served.warm_up()
    for name in ("one", "two"):
        assert served.get(name).search("red")[0].path.endswith("red.png")
    assert len(loaded) == 1


def test_an_index_of_another_model_loads_it_while_the_first_one_answers(
    served, photos, tmp_path, monkeypatch
):
    mmsearch.index(photos, into=tmp_path / "other", model="second").close()
    indexes = ServedIndexes({"one": tmp_path / "one", "other": tmp_path / "other"}, runtime_of())
    assert indexes.get("one").search("red")
    loading, go = threading.Event(), threading.Event()

    def load():
        from conftest import SecondToy

        loading.set()
        assert go.wait(10)
        return SecondToy()

    monkeypatch.setitem(REGISTRY, "second", SingleModel("second", load))
    found = []
    search = threading.Thread(target=lambda: found.extend(indexes.get("other").search("red")))
    search.start()
    try:
        assert loading.wait(10)
        assert indexes.get("one").search("red")
        assert not found
    finally:
        go.set()
        search.join()
    assert found
    indexes.close()
