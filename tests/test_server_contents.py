"""What the server tells of its indexes: items, copies, tags, figures, failures."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from conftest import paint, tone
from server_world import indexed, problem, served
from starlette.testclient import TestClient
from typer.testing import CliRunner

import mmsearch
from mmsearch import __version__
from mmsearch.cli.app import app as commands
from mmsearch.encoders import runtime_of
from mmsearch.server.app import create_app
from mmsearch.server.indexes import ServedIndexes
from mmsearch.server.run import listen
from mmsearch.server.security import Access

API = "/api/v1"
COMMANDS = (Path(__file__).parent.parent / "docs" / "commands.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(toy, tmp_path: Path) -> Path:
    """Photos, one of them twice and one nearly so, a text, a sound, and a file of no use."""
    folder = tmp_path / "album"
    paint(folder / "red.png", "red")
    paint(folder / "green.png", "green")
    shutil.copy(folder / "red.png", folder / "again.png")
    paint(folder / "deep" / "red.jpg", "red")
    (folder / "red.txt").write_text("a red wall")
    (folder / "sea.txt").write_text("blue sea")
    (folder / "broken.jpg").write_bytes(b"no photo")
    tone(folder / "low.wav", "low")
    return folder


@pytest.fixture
def ids(folder: Path, tmp_path: Path) -> dict[str, int]:
    return indexed(tmp_path / "idx", folder)


@pytest.fixture
def client(ids, tmp_path: Path) -> Iterator[TestClient]:
    with served(tmp_path / "idx") as client:
        yield client


def printed(*words: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(CliRunner().invoke(commands, [*words, "--json"]).stdout)


def get(client: TestClient, path: str, **params: Any) -> Any:
    answer = client.get(f"{API}/{path}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_item_is_told_with_all_that_is_known_of_it(client, ids, folder, tmp_path):
    told = get(client, f"items/{ids['red.png']}")
    with mmsearch.open(tmp_path / "idx") as library:
        item = library.item(ids["red.png"])
    assert told.pop("available") is True
    assert told.pop("duplicates") == [{"id": ids["again.png"], "path": str(folder / "again.png")}]
    assert told == json.loads(json.dumps(asdict(item)))
    assert told["texts"] == [{"text": "a red wall", "origin": "sidecar", "span": None}]


def test_a_file_that_is_gone_or_changed_is_told_to_be_unavailable(client, ids, folder):
    (folder / "red.png").unlink()
    paint(folder / "green.png", "blue", (50, 50))
    assert get(client, f"items/{ids['red.png']}")["available"] is False
    assert get(client, f"items/{ids['green.png']}")["available"] is False
    assert get(client, f"items/{ids['sea.txt']}")["available"] is True


@pytest.mark.parametrize(
    ("item_id", "status"), [("999", 404), ("0", 422), ("x", 422), (2**63, 422)]
)
def test_an_item_that_is_not_there_is_a_problem(client, item_id, status):
    problem(client.get(f"{API}/items/{item_id}"), status)


def test_the_status_is_that_of_the_command_and_of_the_server(client, tmp_path):
    told = get(client, "status")
    assert told.pop("ready") is True
    assert told.pop("writable") is True
    assert told.pop("version") == __version__
    assert told == printed("status", "-i", str(tmp_path / "idx"))


def test_an_index_that_is_not_there_yet_has_the_status_of_an_empty_one(client, toy, tmp_path):
    with served(tmp_path / "none") as other:
        told = get(other, "status")
        assert set(told) == set(get(client, "status"))
        assert told["items"] == {}
        assert told["writable"] is True
        assert get(other, "indexes") == [{"name": "default", "items": 0, "default": True}]
        problem(other.get(f"{API}/search", params={"q": "red"}), 404)


def test_failures_are_those_of_the_command(client, folder, tmp_path):
    told = get(client, "errors")
    assert told == printed("errors", "-i", str(tmp_path / "idx"))
    assert [failure["path"] for failure in told] == [str(folder / "broken.jpg")]


@pytest.mark.parametrize(
    ("params", "flags"),
    [
        ({}, []),
        ({"same": "true"}, ["--same"]),
        ({"threshold": "0.999999"}, ["--threshold", "0.999999"]),
        ({"threshold": "0"}, ["--threshold", "0"]),
    ],
)
def test_copies_are_those_of_the_command(client, tmp_path, params, flags):
    told = get(client, "duplicates", **params)
    assert told == printed("duplicates", "-i", str(tmp_path / "idx"), *flags)
    assert told


@pytest.mark.parametrize("threshold", ["2", "nan", "1e400", "much"])
def test_a_threshold_that_makes_no_sense_is_a_problem(client, threshold):
    problem(client.get(f"{API}/duplicates", params={"threshold": threshold}), 422)


def test_several_indexes_are_served_each_by_its_name(client, ids, folder, tmp_path):
    paint(tmp_path / "other" / "blue.png", "blue")
    indexed(tmp_path / "idx2", tmp_path / "other")
    served_by_name = {"first": tmp_path / "idx", "second": tmp_path / "idx2"}
    indexes = ServedIndexes(served_by_name, runtime_of())
    indexes.ready = True
    with TestClient(create_app(indexes), base_url="http://127.0.0.1:7700") as both:
        assert get(both, "indexes") == [
            {"name": "first", "items": len(ids), "default": True},
            {"name": "second", "items": 1, "default": False},
        ]
        for path in ("status", "errors", "tags", "search", "facets", "items/1", "duplicates"):
            by_default = get(both, path)
            assert get(both, path, index="first") == by_default
            if path not in ("tags",):
                assert get(both, path, index="second") != by_default
            answer = both.get(f"{API}/{path}", params={"index": "third"})
            assert "'first', 'second'" in problem(answer, 404)


# ---------------------------------------------------------------------- tags


def tag(client: TestClient, method: str, body: Any) -> Any:
    return client.request(method, f"{API}/tags", json=body)


def test_tags_are_given_and_taken_by_hand_and_counted(client, ids, tmp_path):
    assert get(client, "tags") == []
    some = [ids["red.png"], ids["green.png"], ids["low.wav"]]
    assert tag(client, "POST", {"tag": "beach", "items": some}).json() == {"items": 3}
    assert tag(client, "POST", {"tag": "a wall", "items": some[:1]}).json() == {"items": 1}
    assert get(client, "tags") == [{"value": "beach", "count": 3}, {"value": "a wall", "count": 1}]
    found = get(client, "search", where=json.dumps({"tag": "beach"}), k=50)
    assert {hit["id"] for hit in found["hits"]} == set(some)
    assert tag(client, "DELETE", {"tag": "beach", "items": some[:2]}).json() == {"items": 2}
    assert get(client, "tags") == [{"value": "a wall", "count": 1}, {"value": "beach", "count": 1}]
    with mmsearch.open(tmp_path / "idx") as library:
        assert library.item(ids["low.wav"]).metadata["tags"] == ["beach"]


def test_items_that_are_gone_are_left_out_when_tagged(client, ids):
    given = tag(client, "POST", {"tag": "beach", "items": [ids["red.png"], 999]})
    assert given.json() == {"items": 1}


@pytest.mark.parametrize("method", ["POST", "DELETE"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "tag"),
        ({"tag": "beach"}, "items"),
        ({"tag": "", "items": [1]}, ""),
        ({"tag": 5, "items": [1]}, "tag"),
        ({"tag": "beach", "items": 1}, "items"),
        ({"tag": "beach", "items": ["1"]}, "items.0"),
        ({"tag": "beach", "items": [1.5]}, "items.0"),
        ({"tag": "beach", "items": [2**70]}, "id"),
        ({"tag": "beach", "item": [1]}, "did you mean 'items'?"),
        ({"tag": "x" * 100_000, "items": [1]}, ""),
    ],
)
def test_a_tag_that_makes_no_sense_is_a_problem(client, method, body, said):
    assert said in problem(tag(client, method, body), 422)


def test_tagging_while_another_process_writes_is_to_be_tried_again(
    client, ids, tmp_path, monkeypatch
):
    monkeypatch.setattr("mmsearch.collection.collection.TAGGING_WAIT", 0.01)
    with mmsearch.open(tmp_path / "idx") as library, library.writing("indexing"):
        answer = tag(client, "POST", {"tag": "beach", "items": [ids["red.png"]]})
        assert "indexing" in problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "path", ["indexes", "status", "errors", "duplicates", "tags", "items/1", "items/1/similar"]
)
def test_an_unknown_parameter_is_refused_with_the_near_ones(client, path):
    near = problem(client.get(f"{API}/{path}", params={"indx": "default"}), 422)
    assert "no parameter 'indx'" in near
    assert "did you mean 'index'?" in near or path == "indexes"


# ---------------------------------------------------------------------- docs/server.md

PAGE = (Path(__file__).parent.parent / "docs" / "server.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:7700"


@pytest.fixture
def address(ids, tmp_path: Path) -> Iterator[str]:
    """Where a server listens to other programs."""
    uvicorn = pytest.importorskip("uvicorn")
    listening = listen("127.0.0.1", 0)
    access = Access.of("127.0.0.1", listening.getsockname(), None)
    app = create_app(ServedIndexes({"default": tmp_path / "idx"}, runtime_of()), access=access)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not app.state.indexes.ready:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_examples_of_the_documentation_are_answered(address, ids, folder, tmp_path):
    shutil.copy(folder / "red.png", tmp_path / "photo.jpg")
    examples = re.findall(r"^    ((?:curl|echo) .*\n(?:      .*\n)*)", PAGE, re.MULTILINE)
    assert len(examples) > 12
    for example in examples:
        done = run(example.replace("curl ", "curl -f ", 1), address, tmp_path)
        assert done.returncode == 0, (example, done.stderr)
        assert "-o" in example.split() or json.loads(done.stdout) is not None, example
    for example, shown in re.findall(r"^    \$ (.*)\n    (.*)$", PAGE, re.MULTILINE):
        said = json.loads(run(example, address, tmp_path).stdout)
        assert said | {"title": ""} == json.loads(shown) | {"title": ""}  # Python renamed 422


def run(command: str, address: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = command.replace(ADDRESS, address).replace("curl ", "curl -sS ", 1)
    return subprocess.run(
        ["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False
    )


def test_every_address_is_documented(client):
    for path in get(client, "openapi.json")["paths"]:
        named = re.compile(re.escape(path) + r"(?![\w/{])")
        assert named.search(PAGE) or named.search(COMMANDS), path
