"""Indexing jobs of the server: real child processes that index real, small photos."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import slow_toy
from PIL import Image

fastapi = pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from mmsearch.collection import Collection  # noqa: E402
from mmsearch.collection.doctor import examine  # noqa: E402
from mmsearch.encoders import runtime_of  # noqa: E402
from mmsearch.encoders.registry import REGISTRY  # noqa: E402
from mmsearch.errors import IndexUnusable  # noqa: E402
from mmsearch.server import index_process  # noqa: E402
from mmsearch.server import jobs as jobs_module  # noqa: E402
from mmsearch.server.indexes import ServedIndexes  # noqa: E402
from mmsearch.server.jobs import Job, Jobs, router  # noqa: E402
from mmsearch.server.problems import add_problem_handlers  # noqa: E402
from mmsearch.storage.lock import FolderLock  # noqa: E402
from mmsearch.types import Report  # noqa: E402

PATIENCE = 300  # seconds until a test gives up: a busy machine leaves little to a low priority
WAITS_FOR_STREAMS = 10  # seconds that a server waits for streams that do not end by themselves


def application(folder: Path, *, watch: bool = False, writable: bool = True):
    """The jobs of a server alone, for one index."""
    indexes = ServedIndexes({"main": folder}, runtime_of())

    @asynccontextmanager
    async def lifespan(app) -> AsyncIterator[None]:
        if watch:
            await app.state.jobs.start_watching()
        yield
        await app.state.jobs.close()
        indexes.close()

    app = fastapi.FastAPI(lifespan=lifespan)
    app.state.indexes, app.state.writable = indexes, writable
    app.state.jobs = Jobs(indexes, watch=watch)
    app.include_router(router)
    add_problem_handlers(app)
    return app


class Server(uvicorn.Server):
    """A server in a thread of this process, on a port that the system chose."""

    def __init__(self, app) -> None:
        super().__init__(
            uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=WAITS_FOR_STREAMS)
        )
        self.app = app
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.run, args=([self.listener],))

    async def shutdown(self, sockets=None) -> None:
        self.app.state.jobs.stop()
        await super().shutdown(sockets)

    def end(self) -> None:
        self.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.listener.close()


@contextmanager
def serving(folder: Path, **how) -> Iterator[tuple[Server, httpx.Client]]:
    server = Server(application(folder, **how))
    server.thread.start()
    until(lambda: server.started)
    try:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            yield server, client
    finally:
        server.end()


def until(condition) -> None:
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.02)


def photos(folder: Path, count: int, seed: int = 0) -> Path:
    """Small photos, no two of them alike."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        name = folder / f"{seed}-{number:04}.png"
        Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC).save(name)
    return folder


def fill(index: Path, folder: Path) -> None:
    """Index a folder without a job."""
    with Collection(index, create=True) as library:
        library.add(folder)


def post(client, *paths, status: int = 202):
    answer = client.post("/jobs", json={"paths": [str(path) for path in paths]} if paths else {})
    assert answer.status_code == status, answer.text
    return answer.json()


def ended(client, job):
    """A job once it has ended."""
    give_up = time.monotonic() + PATIENCE
    while (job := client.get(f"/jobs/{job['id']}").json())["state"] == "running":
        assert time.monotonic() < give_up, job
        time.sleep(0.05)
    return job


def begun(client, job) -> None:
    """Wait until a job has stored something, but not all."""
    give_up = time.monotonic() + PATIENCE
    while not (seen := client.get(f"/jobs/{job['id']}").json())["done"]:
        assert seen["state"] == "running", seen
        assert time.monotonic() < give_up
        time.sleep(0.01)


def wrong(index: Path) -> list[str]:
    return [f"{one.check}: {one.what}" for one in examine(index) if one.state == "wrong"]


def items(index: Path) -> int:
    with Collection(index) as library:
        return len(library)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(OSError):  # a zombie whose parent is gone, where nobody reaps it
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return sys.platform != "linux"


def child_of(index: Path) -> int:
    """The process that writes to an index."""
    until(lambda: FolderLock(index).holder() is not None)
    holder = FolderLock(index).holder()
    assert holder is not None
    assert holder.pid != os.getpid()
    return holder.pid


def children_of(pid: int) -> list[int]:
    if sys.platform != "linux":
        pytest.skip("children are found in /proc")
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def events(response) -> Iterator[tuple[str | None, dict]]:
    """The id and the job of each event of a stream."""
    event_id, name = None, None
    for line in response.iter_lines():
        key, _, value = line.partition(": ")
        if key == "id":
            event_id = value
        elif key == "event":
            name = value
        elif key == "data":
            assert name == "job"
            yield event_id, json.loads(value)


@pytest.fixture(scope="module", autouse=True)
def slow_toy_as_best() -> Iterator[None]:
    """New indexes get a model that costs child processes little, unless a test undoes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, "slow", slow_toy.FAMILY)
        patch.setattr(jobs_module, "command", command_with_slow_toy)
        yield


def command_with_slow_toy() -> list[str]:
    *python, code, _ = index_process.command()[:5]
    code = code.replace("from", "import slow_toy; slow_toy.register(); from", 1)
    return [*python, code, str(Path(__file__).parent), *sys.path]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture(scope="module")
def refusing(tmp_path_factory) -> Iterator[tuple[Path, httpx.Client]]:
    """A server of an index that does not exist, and is not to be created."""
    index = tmp_path_factory.mktemp("refusing") / "index"
    with serving(index) as (_, client):
        yield index, client


@pytest.fixture
def dozen(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos", 12)


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """As many photos as take some seconds, so that a job can be met in the midst."""
    return photos(tmp_path_factory.mktemp("photos") / "many", 100)


# ------------------------------------------------------------------ a job


def test_a_job_creates_the_index_and_reports_what_it_did(index, dozen, monkeypatch):
    monkeypatch.delitem(REGISTRY, "slow")  # the command as it is, with the built-in model
    monkeypatch.setattr(jobs_module, "command", index_process.command)
    (dozen / "broken.png").write_bytes(b"not a picture")
    with serving(index) as (_, client):
        started = post(client, dozen)
        assert started["state"] == "running"
        assert (started["index"], started["paths"]) == ("main", [str(dozen)])
        job = ended(client, started)
        assert (job["state"], job["error"]) == ("done", None)
        assert (job["done"], job["total"]) == (13, 13)
        assert (job["report"]["added"], job["report"]["skipped"]) == (12, 1)
        assert [one["path"] for one in job["report"]["failures"]] == [str(dozen / "broken.png")]
        assert job["report"]["limiting"] in {"scan", "read", "decode", "encode", "store"}
        assert client.get("/jobs").json() == [job]
    assert items(index) == 12


def test_without_paths_what_was_indexed_is_brought_up_to_date(index, dozen):
    fill(index, dozen)
    with serving(index) as (_, client):
        photos(dozen, 2, seed=1)
        job = ended(client, post(client))
        assert (job["paths"], job["report"]["added"], job["report"]["unchanged"]) == (None, 2, 12)


def test_the_open_index_finds_new_photos_while_a_job_runs(index, dozen, many):
    fill(index, dozen)
    with serving(index) as (server, client):
        library = server.app.state.indexes.get("main")
        before = {hit.id for hit in library.search("colours", k=1000)}
        job = post(client, many)
        begun(client, job)
        found = {hit.id for hit in library.search("colours", k=1000)}
        running = client.get(f"/jobs/{job['id']}").json()["state"]
        assert (len(before), running) == (12, "running")
        assert len(found) > 12
        client.delete(f"/jobs/{job['id']}")


def test_the_child_has_a_low_priority(index, many):
    if not hasattr(os, "getpriority"):
        pytest.skip("no niceness on this system")
    with serving(index) as (_, client):
        job = post(client, many)
        begun(client, job)
        assert os.getpriority(os.PRIO_PROCESS, child_of(index)) >= 10
        client.delete(f"/jobs/{job['id']}")


def test_the_last_jobs_are_remembered_when_they_have_ended(index, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs_module, "REMEMBERED", 1)
    (tmp_path / "empty").mkdir()
    with serving(index) as (_, client):
        ids = [ended(client, post(client, tmp_path / "empty"))["id"] for _ in range(3)]
        assert [job["id"] for job in client.get("/jobs").json()] == ids[:0:-1]
        answer = client.get(f"/jobs/{ids[0]}")
        assert (answer.status_code, answer.headers["content-type"]) == (
            404,
            "application/problem+json",
        )


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["photos"], "not an absolute path"),
        (["/no/such/folder"], "does not exist"),
        (["/a\0b"], "does not exist"),
        (["/\ud800"], "does not exist"),
        (["~nobody-of-this-name/x"], "not an absolute path"),
        ([__file__], "is a file"),
        ([], "at least 1"),
        ("/tmp", "list"),
        ([3], "string"),
        ([None], "string"),
    ],
    ids=repr,
)
def test_paths_that_are_no_folders_are_refused(refusing, paths, why):
    index, client = refusing
    body = json.dumps({"paths": paths})
    answer = client.post("/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == (422, 422)
    assert why in answer.json()["detail"]
    assert client.get("/jobs").json() == []
    assert not index.exists()


def test_a_misspelt_field_does_not_index_everything(index, dozen):
    fill(index, dozen)
    with serving(index) as (_, client):
        assert client.post("/jobs", json={"path": [str(dozen)]}).status_code == 422
        assert client.post("/jobs?indx=other", json={}).status_code == 422
        assert client.post("/jobs", content="{}").status_code == 415


def test_a_tilde_is_the_home_folder(index, dozen, monkeypatch):
    monkeypatch.setenv("HOME", str(dozen.parent))
    monkeypatch.setenv("USERPROFILE", str(dozen.parent))
    with serving(index) as (_, client):
        job = ended(client, post(client, "~/photos"))
        assert (job["paths"], job["report"]["added"]) == ([str(dozen)], 12)


def test_a_folder_whose_name_is_not_utf8_is_indexed(index, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        photos(folder, 2)
    except OSError:
        pytest.skip("there are no such names here")
    with serving(index) as (_, client):
        answer = client.post(
            "/jobs",
            content=json.dumps({"paths": [str(folder)]}),
            headers={"Content-Type": "application/json"},
        )
        assert ended(client, answer.json())["report"]["added"] == 2


def test_a_body_that_is_there_is_declared_as_json(index, dozen):
    fill(index, dozen)
    with serving(index) as (_, client):
        body = json.dumps({"paths": [str(dozen)]})
        answer = client.post("/jobs", content=body)
        assert (answer.status_code, answer.json()["status"]) == (415, 415)
        assert ended(client, client.post("/jobs").json())["state"] == "done"


def test_a_server_that_others_reach_starts_and_cancels_no_jobs(index, dozen):
    with serving(index, writable=False) as (_, client):
        assert "mmsearch index" in post(client, dozen, status=403)["detail"]
        assert client.delete("/jobs/1").status_code == 403
        assert client.get("/jobs").json() == []
    assert not index.exists()


def test_nothing_can_be_brought_up_to_date_before_something_was_indexed(refusing):
    assert "paths" in post(refusing[1], status=404)["detail"]


def test_an_index_that_is_not_served_is_named(refusing, dozen):
    answer = refusing[1].post("/jobs?index=other", json={"paths": [str(dozen)]})
    assert (answer.status_code, "'main'" in answer.json()["detail"]) == (404, True)


def test_a_second_job_is_refused_while_one_runs(index, many, dozen):
    with serving(index) as (_, client):
        job = post(client, many)
        detail = post(client, dozen, status=409)["detail"]
        assert job["id"] in detail
        assert str(many) in detail
        client.delete(f"/jobs/{job['id']}")
        ended(client, job)
        assert ended(client, post(client, dozen))["state"] == "done"


def test_a_job_fails_while_another_process_writes(index, dozen):
    fill(index, dozen)
    with serving(index) as (_, client):
        with FolderLock(index).writing("importing"):
            job = ended(client, post(client))
        assert (job["state"], job["report"]) == ("failed", None)
        assert f"pid {os.getpid()}" in job["error"]
        assert ended(client, post(client))["state"] == "done"


def test_a_job_that_cannot_write_any_more_has_failed(tmp_path, monkeypatch):
    said = []

    class Full:
        report = Report()

        def add(self, paths, progress):
            raise IndexUnusable("the disk is full")

    monkeypatch.setattr(index_process, "collection_for", lambda *_, **__: nullcontext(Full()))
    task = {"index": str(tmp_path), "paths": None, "watch": False, "how": asdict(runtime_of())}
    with pytest.raises(IndexUnusable):
        index_process._run(task, said.append)
    assert said == []  # the error follows; a report would say that it is done


# ------------------------------------------------------------------ cancelled, killed


def test_a_cancelled_job_keeps_what_it_had_stored_and_the_next_goes_on(index, many):
    with serving(index) as (_, client):
        job = post(client, many)
        begun(client, job)
        pid = child_of(index)
        answer = client.delete(f"/jobs/{job['id']}")
        assert (answer.status_code, answer.json()["id"]) == (202, job["id"])
        job = ended(client, job)
        assert (job["state"], job["error"], job["report"]["interrupted"]) == (
            "cancelled",
            None,
            True,
        )
        stored = items(index)
        assert 0 < stored < 100
        assert job["report"]["added"] == stored
        assert client.delete(f"/jobs/{job['id']}").json() == job  # once more does no harm
        until(lambda: not runs(pid))
        assert wrong(index) == []
        job = ended(client, post(client))
        assert (job["report"]["added"], job["report"]["unchanged"]) == (100 - stored, stored)


def test_a_job_that_is_cancelled_at_once_ends(index, many):
    with serving(index) as (_, client):
        job = post(client, many)
        client.delete(f"/jobs/{job['id']}")
        assert ended(client, job)["state"] == "cancelled"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_child_that_is_killed_loses_nothing_and_the_next_goes_on(index, many):
    with serving(index) as (_, client):
        job = post(client, many)
        begun(client, job)
        os.kill(child_of(index), signal.SIGKILL)
        job = ended(client, job)
        assert (job["state"], job["report"]) == ("failed", None)
        assert "signal 9" in job["error"]
        stored = items(index)
        assert 0 < job["done"] <= stored
        assert wrong(index) == []
        job = ended(client, post(client))
        assert (job["report"]["added"], job["report"]["unchanged"]) == (100 - stored, stored)


SERVER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import slow_toy
import test_server_jobs
from test_server_jobs import Server, application
slow_toy.register()
test_server_jobs.jobs_module.command = test_server_jobs.command_with_slow_toy
server = Server(application(Path({index!r}), watch={watch}))
print(server.url, flush=True)
server.run([server.listener])
"""


@contextmanager
def server_process(index: Path, *, watch: bool = False):
    script = SERVER.format(tests=str(Path(__file__).parent), index=str(index), watch=watch)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(base_url=url, timeout=PATIENCE, transport=transport) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_server_leaves_no_process_and_loses_nothing(index, many):
    with server_process(index) as (server, client):
        job = post(client, many)
        begun(client, job)
        pid = child_of(index)
        server.kill()
        server.wait()
        until(lambda: not runs(pid))
    stored = items(index)
    assert 0 < stored < 100
    assert wrong(index) == []
    with serving(index) as (_, client):
        report = ended(client, post(client))["report"]
        assert (report["added"], report["unchanged"]) == (100 - stored, stored)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_ends_the_server_its_streams_and_its_child(index, many):
    with server_process(index) as (server, client):
        job = post(client, many)
        begun(client, job)
        pid = child_of(index)
        with client.stream("GET", f"/jobs/{job['id']}/events") as response:
            seen = events(response)
            next(seen)
            began = time.monotonic()
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE)
            assert time.monotonic() - began < WAITS_FOR_STREAMS - 2
            assert not runs(pid)
            with suppress(httpx.RemoteProtocolError):
                assert all(told["state"] in {"running", "cancelled"} for _, told in seen)
    assert wrong(index) == []


def test_a_folder_that_vanishes_ends_the_job_and_not_the_server(index, many, tmp_path):
    folder = shutil.copytree(many, tmp_path / "many")
    with serving(index) as (_, client):
        job = post(client, folder)
        begun(client, job)
        shutil.rmtree(folder)
        job = ended(client, job)
        assert job["state"] in {"done", "failed"}
        assert job["state"] == "done" or job["error"]
        assert wrong(index) == []
        assert ended(client, post(client))["state"] == "done"


# ------------------------------------------------------------------ events


def test_a_stream_tells_each_change_until_the_job_ends(index, many):
    with serving(index) as (_, client):
        job = post(client, many)
        began = time.monotonic()
        with client.stream("GET", f"/jobs/{job['id']}/events") as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store"
            seen = list(events(response))
        seconds = time.monotonic() - began
        assert len(seen) <= 4 * seconds + 2
        done = [told["done"] for _, told in seen]
        assert len(set(done)) > 1
        assert done == sorted(done)
        assert [told["state"] for _, told in seen[:-1]] == ["running"] * (len(seen) - 1)
        assert seen[-1] == ("ended", ended(client, job))
        assert all(name is None for name, _ in seen[:-1])


def test_a_browser_that_connects_again_after_the_end_is_told_to_stop(index, dozen):
    with serving(index) as (_, client):
        job = ended(client, post(client, dozen))
        address = f"/jobs/{job['id']}/events"
        with client.stream("GET", address) as response:
            assert list(events(response)) == [("ended", job)]
        assert client.get(address, headers={"Last-Event-ID": "ended"}).status_code == 204
        assert client.get("/jobs/1/events").status_code == 404


def test_several_read_the_events_of_one_job_and_one_that_leaves_ends_no_other(index, many):
    with serving(index) as (_, client):
        job = post(client, many)
        address = f"/jobs/{job['id']}/events"
        last: list[dict] = []

        def read() -> None:
            with httpx.stream("GET", f"{client.base_url}{address}", timeout=PATIENCE) as response:
                last.append(list(events(response))[-1][1])

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        with client.stream("GET", address) as response:
            next(events(response))
        for reader in readers:
            reader.join(PATIENCE)
        assert last == [ended(client, job)] * 3


def test_a_stream_without_news_says_that_it_lives(index, monkeypatch):
    monkeypatch.setattr(jobs_module, "HEARTBEAT_EVERY", 0.5)
    with serving(index) as (server, client):
        server.app.state.jobs._jobs["idle"] = Job("idle", "main", None)
        with client.stream("GET", "/jobs/idle/events") as response:
            lines = response.iter_lines()
            assert next(lines) == "event: job"
            assert next(line for line in lines if line.startswith(":")) == ": no news"


# ------------------------------------------------------------------ watching


def test_a_watched_index_finds_what_is_added_after_the_job(index, dozen):
    pytest.importorskip("watchfiles")
    with serving(index, watch=True) as (server, client):
        assert client.get("/jobs").json() == []  # there is no index yet
        job = ended(client, post(client, dozen))
        assert (job["state"], job["report"]["added"]) == ("done", 12)
        library = server.app.state.indexes.get("main")
        photos(dozen, 1, seed=1)
        until(lambda: len(library) == 13)
        photos(dozen.parent / "more", 3, seed=2)
        job = ended(client, post(client, dozen.parent / "more"))  # takes the place of the watch
        assert job["report"]["added"] == 3
        for number, folder in enumerate((dozen, dozen.parent / "more"), start=3):
            photos(folder, 1, seed=number)
        until(lambda: len(library) == 18)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_server_that_watches_begins_with_a_job_and_leaves_no_process(index, dozen):
    pytest.importorskip("watchfiles")
    fill(index, dozen)
    photos(dozen, 2, seed=1)
    with server_process(index, watch=True) as (server, client):
        until(lambda: client.get("/jobs").json())
        (job,) = client.get("/jobs").json()
        assert ended(client, job)["report"]["added"] == 2
        children = children_of(server.pid)
        assert len(children) == 1
        server.kill()
        server.wait()
        until(lambda: not any(map(runs, children)))
