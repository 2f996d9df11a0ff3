"""What only a server can do to a store: end, be slow, be somebody else's, refuse."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import milvus_server
import numpy as np
import pytest

from mmsearch.errors import (
    IndexBusy,
    IndexNotFound,
    IndexUnusable,
    MissingExtra,
    StorageFailed,
)
from mmsearch.storage import ItemRecord, ItemVectors
from mmsearch.storage.milvus import open_store
from mmsearch.storage.milvus.layout import stored_text
from mmsearch.storage.stored_text import text_of
from mmsearch.types import TextPart

ENCODER: Any = SimpleNamespace(
    name="toy", fingerprint="1", dim=4, modalities=frozenset({"image", "text"})
)


@pytest.fixture
def store(milvus: milvus_server.MilvusServer, tmp_path: Path) -> Iterator[Any]:
    with milvus_server.store(milvus, tmp_path) as made:
        made.spaces.serve_with([ENCODER])
        yield made


@contextmanager
def opened(milvus: milvus_server.MilvusServer, store: Any, tmp_path: Path) -> Iterator[Any]:
    """The same index, as another process sees it."""
    name = store.database.prefix.removesuffix("_")
    other = open_store(milvus_server.place(milvus, tmp_path / "other", name), create=False)
    try:
        yield other
    finally:
        other.close()


def record(store: Any, name: str, *directions: int, **changed: Any) -> ItemRecord:
    source = store.sources.add("/photos")
    (space,) = store.spaces.all()
    matrix = np.eye(4, dtype=np.float16)[list(directions)]
    texts = [TextPart(f"text of {name} {directions}", "caption")]
    tokens = [np.full((2, 3), number, np.int8) for number in directions]
    vectors: Any = {
        (space.id, "image"): ItemVectors(matrix, (), tokens),
        (space.id, "text"): ItemVectors(matrix[:1]),
    }
    plain = ItemRecord(source, "x", name, "image", (10, 1_000), os.fsencode(name))
    return replace(plain, texts=texts, vectors=vectors, **changed)


def contents(store: Any, folder: str = "") -> dict[str, Any]:
    """Of each item in a folder by name: its texts, and its vectors' directions by modality."""
    (space,) = store.spaces.all()
    items = [one for one in store.items.all() if f"/{folder}/" in one.path or not folder]
    ids = [item.id for item in items]
    found: dict[int, Any] = {id_: {"image": [], "text": [], "tokens": []} for id_ in ids}
    for modality in ("image", "text"):
        for id_, vector, position in zip(*store.vectors.of(space, modality, ids), strict=True):
            assert position == len(found[id_][modality])
            found[id_][modality].append(int(vector.argmax()))
    for (id_, _), one in sorted(store.token_embeddings.of(space, "image", ids).items()):
        found[id_]["tokens"].append(int(one[0, 0]))
    key = os.path.basename if folder else str
    return {key(i.path): [i.texts[0].text, found[i.id]] for i in items}


def assert_consistent(store: Any, folder: str = "") -> None:
    """Check that items have their own vectors once, and no vector is of an item that is gone."""
    (space,) = store.spaces.all()
    for name, (text, vectors) in contents(store, folder).items():
        directions = vectors["image"]
        assert vectors["tokens"] == directions
        assert vectors["text"] == directions[:1]
        assert text.endswith(str(tuple(directions))), (name, text, vectors)
    if not folder:
        images = sum(len(vectors["image"]) for _, vectors in contents(store).values())
        assert store.vectors.counts() == {space.id: {"image": images, "text": len(store)}}


class Killed(Exception):
    """The process that wrote is gone."""


def dies_at(
    store: Any, number: int, die: Callable[[], None], patched: pytest.MonkeyPatch
) -> Callable[[], int]:
    """Let the writing end at its n-th call; returns what counts the calls."""
    client, calls = store.database.client, 0

    def counted(write: Any) -> Any:
        def call(name: str, what: Any, *more: Any) -> Any:
            nonlocal calls
            if not (isinstance(what, list) and what and what[0].get("id") == "lease"):
                calls += 1
                if calls == number:
                    die()
            return write(name, what, *more)

        return call

    for name in ("upsert", "delete"):
        patched.setattr(client, name, counted(getattr(client, name)))
    return lambda: calls


def test_a_writer_that_is_killed_at_any_call_leaves_each_item_as_it_was_or_new(
    store: Any, monkeypatch: pytest.MonkeyPatch
):
    def die() -> None:
        raise Killed

    for number in range(1, 99, 3):  # each third: a call takes half a second here
        folder = f"x{number}"
        first = [record(store, f"{n}.jpg", at, folder=folder) for at, n in enumerate("abc")]
        store.put(first)
        a, b = (store.files.at(*one.path_key).id for one in first[:2])
        before, last = contents(store, folder), store.changes.last()
        batch = [  # a changed file, one that took the place of another, and a new one
            record(store, "a.jpg", 3, 2, id=a, hash=b"new", folder=folder),
            record(store, "c.jpg", 1, id=b, hash=b"b.jpg", folder=folder),
            record(store, "d.jpg", 0, folder=folder),
        ]
        with monkeypatch.context() as patched:
            calls = dies_at(store, number, die, patched)
            with suppress(Killed):
                store.put(batch)
        store.settings.set("x", "1")  # any write finishes what was begun
        assert_consistent(store, folder)
        after = contents(store, folder)
        if after != before:
            assert set(after) == {"a.jpg", "c.jpg", "d.jpg"}
            assert store.changes.last() > last
        if calls() < number:
            break
        store.put(batch if after == before else batch[:1])  # the next run does it again
        assert_consistent(store, folder)
        assert set(contents(store, folder)) == {"a.jpg", "c.jpg", "d.jpg"}
    assert number > 10
    assert_consistent(store)


@pytest.fixture
def mortal_server(milvus: milvus_server.MilvusServer) -> Iterator[milvus_server.MilvusServer]:
    """The server, which a test may kill."""
    yield milvus
    milvus.start()


def test_a_server_that_is_killed_in_a_batch_loses_that_batch_and_doubles_nothing(
    mortal_server: milvus_server.MilvusServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with milvus_server.store(mortal_server, tmp_path) as store:
        store.spaces.serve_with([ENCODER])
        for number in range(5):
            store.put([record(store, f"{number}-{n}.jpg", n % 4, 1) for n in range(20)])
        planned = [record(store, f"5-{n}.jpg", n % 4, 1) for n in range(20)]
        with monkeypatch.context() as patched:
            dies_at(store, 3, mortal_server.kill, patched)
            began = time.monotonic()
            with pytest.raises(StorageFailed, match="cannot be reached, or does not answer"):
                store.put(planned)
            assert time.monotonic() - began < 20
        mortal_server.start()
        assert len(store) == 100
        store.put(planned)
        assert len(store) == 120
        assert_consistent(store)


def test_a_full_disk_of_the_server_keeps_what_was_stored(
    store: Any, milvus: milvus_server.MilvusServer
):
    resource = pytest.importorskip("resource")
    batches = [
        [record(store, f"{batch}-{n}.jpg", n % 4, 1) for n in range(20)] for batch in range(9)
    ]
    store.put(batches[0])
    stored = [20]

    def put_all() -> None:
        for batch in batches[1:]:
            store.put(batch)
            stored.append(len(batch))

    with (
        milvus.limited(resource.RLIMIT_FSIZE, 30_000),  # it ends within a batch
        pytest.raises(StorageFailed, match="stored before is kept: give it more room"),
    ):
        put_all()
    assert len(store) == sum(stored) < 180
    assert_consistent(store)
    store.put(batches[len(stored)])
    assert len(store) == sum(stored) + 20
    assert_consistent(store)


def test_writers_that_come_at_once_write_one_after_the_other(
    milvus: milvus_server.MilvusServer, tmp_path: Path
):
    name, writing, most = f"atonce{os.getpid()}", [0], [0]

    def write(number: int) -> None:
        # a cache of its own, as on another machine: only the lease keeps them apart
        place = milvus_server.place(milvus, tmp_path / str(number), name)
        with closing(open_store(place, create=False)) as mine:
            for file in ("same.jpg", f"{number}.jpg"):
                with mine.writer_lock.writing("indexing", wait=60):
                    writing[0] += 1
                    most[0] = max(most[0], writing[0])
                    found = mine.files.at(mine.sources.add("/photos"), "x", file)
                    mine.put([record(mine, file, number, id=found and found.id)])
                    writing[0] -= 1

    place = milvus_server.place(milvus, tmp_path, name)
    with closing(open_store(place, create=True)) as store:
        store.spaces.serve_with([ENCODER])
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(write, range(3)))
        assert most == [1]
        assert sorted(contents(store, "x")) == ["0.jpg", "1.jpg", "2.jpg", "same.jpg"]
        assert_consistent(store)
        milvus_server.delete(store)


def test_two_processes_do_not_write_at_once(
    store: Any, milvus: milvus_server.MilvusServer, tmp_path: Path
):
    with opened(milvus, store, tmp_path) as other:
        with (
            pytest.raises(IndexBusy, match=f"pid {os.getpid()} on .*, testing since"),
            other.writer_lock.writing("indexing"),
        ):
            pass
        with other.writer_lock.may_write("searching") as may:
            assert not may
        assert other.writer_lock.holder().what == "testing"
        store.settings.set("x", "1")
        assert other.settings.get("x") == "1"


def test_a_writer_that_is_gone_makes_room_for_the_next_one(
    store: Any, milvus: milvus_server.MilvusServer, tmp_path: Path
):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lease = {**store.database.lease._mine, "holder": "another", "pid": gone.pid}
    store.database._put_now({"lease": json.dumps(lease)})
    with opened(milvus, store, tmp_path) as other, other.writer_lock.writing("indexing"):
        other.settings.set("x", "2")
    lease |= {"host": "elsewhere", "pid": 1}
    store.database._put_now({"lease": json.dumps(lease)})
    with opened(milvus, store, tmp_path) as other:
        with pytest.raises(IndexBusy, match="pid 1 on elsewhere"):
            other.writer_lock.writing("indexing").__enter__()
        store.database._put_now({"lease": json.dumps({**lease, "expires": time.time() - 1})})
        with other.writer_lock.writing("indexing"):
            assert other.writer_lock.is_held


def test_a_reader_sees_what_another_process_writes(
    store: Any, milvus: milvus_server.MilvusServer, tmp_path: Path
):
    with opened(milvus, store, tmp_path) as other:
        before = other.moment()
        assert other.moment() == before
        store.put([record(store, "a.jpg", 1)])
        assert other.moment() != before
        assert contents(other) == contents(store)
        with other.snapshot():
            settings = other.settings.get("x")
            store.settings.set("x", "3")
            assert other.settings.get("x") == settings
        assert other.settings.get("x") == "3"


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path):
    if not milvus_server.is_installed():
        pytest.skip("milvus-lite or pymilvus is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server: Any = SimpleNamespace(
        address=lambda name: f"milvus://127.0.0.1:{port}/{name}", url=f"http://127.0.0.1:{port}"
    )
    place = replace(milvus_server.place(server, tmp_path, "photos"), token="root:s3cret")
    with pytest.raises(StorageFailed, match="look whether Milvus runs there") as caught:
        open_store(place, create=True)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("why", "message"),
    [
        ("auth check failure: user root, key s3cret", "set \\$MILVUS_TOKEN to one that is right"),
        ("no space left on device", "give it more room .*no space left on device"),
        ("of no use", "look into the log of Milvus.*of no use"),
    ],
)
def test_what_a_server_refuses_is_said_without_the_token(
    why: str,
    message: str,
    milvus: milvus_server.MilvusServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    import pymilvus

    def refuse(*_: Any, **__: Any) -> None:
        raise pymilvus.MilvusException(code=1100, message=why)

    monkeypatch.setattr(pymilvus.MilvusClient, "get_server_version", refuse)
    place = replace(milvus_server.place(milvus, tmp_path, "photos"), token="root:s3cret")
    with pytest.raises(StorageFailed, match=message) as caught:
        open_store(place, create=True)
    assert "s3cret" not in str(caught.value)


def test_without_pymilvus_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    server: Any = SimpleNamespace(address=lambda name: f"milvus://localhost:1/{name}")
    with pytest.raises(MissingExtra, match=r"pip install .*'mmsearch\[milvus\]'"):
        open_store(milvus_server.place(server, tmp_path, "photos"), create=True)


def test_a_writer_that_was_stopped_until_another_one_took_over_writes_no_more(
    store: Any, milvus: milvus_server.MilvusServer, tmp_path: Path
):
    lease = store.database.lease
    lease._mine["expires"] = 0.0
    store.settings.set("x", "1")  # nobody took over meanwhile
    store.database._put_now({"lease": json.dumps({**lease._mine, "holder": "another"})})
    with pytest.raises(IndexBusy, match="another one may have taken over: run the command again"):
        store.settings.set("x", "2")
    assert store.settings.get("x") == "1"


def test_an_index_that_is_not_there_is_not_made_by_reading(
    milvus: milvus_server.MilvusServer, tmp_path: Path
):
    place = milvus_server.place(milvus, tmp_path, "nowhere")
    with pytest.raises(IndexNotFound, match="there is no index at milvus://"):
        open_store(place, create=False)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (99, "was made by a newer mmsearch: `pip install --upgrade mmsearch`"),
        (0, "made by an older mmsearch.*: with that version, `mmsearch copy .* DIR`"),
    ],
)
def test_an_index_of_another_version_is_left_alone(
    version: int, message: str, store: Any, milvus: milvus_server.MilvusServer, tmp_path: Path
):
    head = {**store.database.head(), "version": version}
    store.database._put_now({"head": json.dumps(head)})
    with (
        pytest.raises(IndexUnusable, match=message),
        opened(milvus, store, tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    "text", ["a dog", "é 犬", "caf\udce9", "a\nb\x7f", "\U0010ff41", "\udcff\U0010fe0a\udc80é"]
)
def test_any_name_is_stored_and_comes_back(text: str):
    stored = stored_text(text)
    assert text_of(stored) == text
    stored.encode()


def test_names_texts_and_documents_may_be_long_and_strange(store: Any):
    name = 'a\udce9 "b" \\ \n%_.jpg'
    texts = [TextPart("ein Hund – 犬 " * 20_000, "document"), TextPart("short", "caption")]
    store.put([replace(record(store, name, 1), texts=texts)])
    source = store.sources.all()[0][0]
    assert list(store.files.known(source, "x")) == [name]
    (item,) = store.items.all()
    assert item.texts == tuple(texts)
    assert store.items.remove_below(source, f"x/{name}") == 1
    for value in ("y" * 200_000, "é" * 70_000, "z"):
        store.settings.set("long", value)
        assert store.settings.get("long") == value
