"""Copying an index: between all kinds of stores, interrupted anywhere, with faults."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import milvus_server
import numpy as np
import pytest
from conftest import ToyEncoder
from memory_store import MemoryStore
from postgres_server import postgres_store, schema
from test_catalog import full_disk
from typer.testing import CliRunner

import mmsearch
from mmsearch.cli.app import app
from mmsearch.collection.copy import Copied, copy_store
from mmsearch.errors import IndexBusy, IndexNotFound, IndexUnusable, InvalidOption, StorageFailed
from mmsearch.storage import (
    FailureRecord,
    IndexRoot,
    ItemBatch,
    ItemRecord,
    ItemVectors,
    Store,
)
from mmsearch.storage.sqlite import Catalog
from mmsearch.storage.transfer import COLUMNS, COPYING
from mmsearch.types import Span, TextPart

ENCODER: Any = SimpleNamespace(
    name="toy", fingerprint="1", dim=4, modalities=frozenset({"image", "text", "audio"})
)

MEDIA = {
    "width": 40,
    "height": 30,
    "taken_at": "2020-05-01T10:00:00",
    "camera": "Canon",
    "latitude": 52.5,
    "longitude": 13.4,
    "seconds": 1.5,
    "pages": 2,
    "readings": "ocr",
}


@pytest.fixture(params=["sqlite", "memory"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store of each kind."""
    (tmp_path / "other").mkdir()
    made: Any = (
        Catalog(tmp_path / "other" / "catalog.db") if request.param == "sqlite" else MemoryStore()
    )
    yield made
    made.close()


@pytest.fixture(params=["postgres", "milvus"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on each kind of server."""
    with ExitStack() as stack:
        if request.param == "postgres":
            yield stack.enter_context(postgres_store())
        else:
            server = request.getfixturevalue("milvus")
            yield stack.enter_context(milvus_server.store(server, tmp_path))


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Store]:
    """A folder's store with rows in every table."""
    (tmp_path / "full").mkdir()
    with closing(filled(Catalog(tmp_path / "full" / "catalog.db"))) as store:
        yield store


MANY = 1_200


def filled(store: Any, items: int = 5) -> Any:
    """A store, with rows in every table."""
    store.settings.set("reads ocr", "on")
    store.loader.next_numbers(7)
    source = store.sources.add("/photos\udce9", 7)
    store.sources.set_folder_devices(source, {"x": 8})
    store.index_roots.add([IndexRoot("/photos\udce9", True, ("*.tmp",))])
    store.spaces.serve_with([ENCODER])
    (space,) = store.spaces.all()
    if items < MANY:
        store.query_banks.set(space, "1", b"no bank that can be used")
    records = [record(source, space.id, number) for number in range(items)]
    store.put(
        records,
        [
            FailureRecord(source, "x", "bad\udcff.jpg", "cut short", (5, 6), False, 9),
            FailureRecord(source, "", "gone.jpg", "no such file", None, True),
        ],
    )
    ids = [found.id for one in records if (found := store.files.at(*one.path_key))]
    store.metadata.set((id_, {"stars": 5, "iso": "100"}) for id_ in ids)
    store.tags.set({"dog": dict.fromkeys(ids, 0.75)})
    store.tags.add("mine", ids[:1])
    imported = ItemBatch([store.sources.imported()], ["https://"], ["a.org"])
    with store.loader.loading() as put:
        put(imported, None)
    return store


def record(source: int, space: int, number: int) -> ItemRecord:
    rows = np.eye(4, dtype=np.float16)[[number % 4, 1]]
    hubs: Any = {"text": np.array([0.25, 0.1], np.float32)}
    tokens = [np.full((2, 3), number % 100, np.int8)] * 2
    vectors: Any = {
        (space, "image"): ItemVectors(rows, (None, Span(0, 1.5, "second")), tokens, hubs),
        (space, "text"): ItemVectors(rows[:1]),
        (space, "audio"): ItemVectors(rows[:0]),
    }
    return ItemRecord(
        *(source, "x", f"{number}\udce4.jpg", "image", (10, 2**60 + 1), bytes([number % 256])),
        sidecar=(3, 4),
        media=MEDIA if number else None,
        texts=[TextPart("a dog – ein Hund", "caption", Span(0, 5, "second"))],
        vectors=vectors,
        ctime_ns=12,
        facts={"iso": 400, "lens": "50 mm"},
    )


def rows(store: Store) -> dict[str, list[Any]]:
    """All rows of all tables, in order."""
    found = {}
    for table in COLUMNS:
        with store.transfer.reading():
            pages = list(store.transfer.pages(table, None, 500))
        assert store.transfer.count(table) == sum(map(len, pages))
        found[table] = sorted((row for page in pages for row in page), key=repr)
    return found


def copied(source: Store, destination: Store, **more: Any) -> Copied:
    report = Copied("SRC", "DST")
    copy_store(source, destination, report, **more)
    destination.settings.set(COPYING, "")
    return report


# ---------------------------------------------------------------------- what arrives


def test_every_row_of_every_table_arrives(full, other):
    report = copied(full, other)
    assert rows(other) == rows(full)
    assert report.rows == {table: len(found) for table, found in rows(full).items()}
    assert min(report.rows.values()) > 0


def test_a_round_trip_over_another_store_is_identical(full, other, tmp_path):
    copied(full, other)
    with closing(Catalog(tmp_path / "catalog.db")) as back:
        copied(other, back)
        assert rows(back) == rows(full)


def test_a_copied_store_finds_what_the_first_one_finds(full, other):
    copied(full, other)
    (space,) = other.spaces.all()
    for store in (full, other):
        store.words.refresh()
    found, expected = other.vectors.of(space, "image"), full.vectors.of(space, "image")
    assert [one.tolist() for one in found] == [one.tolist() for one in expected]
    assert list(other.items.all()) == list(full.items.all())
    assert [id_ for id_, _ in other.words.search("dog", 9)] == [
        id_ for id_, _ in full.words.search("dog", 9)
    ]


def test_a_copied_store_goes_on_with_new_ids_and_revisions(full, other):
    before = other.state()
    copied(full, other)
    assert other.state().store_id == before.store_id
    assert other.state().revision > before.revision
    source, space = other.sources.all()[0][0], other.spaces.all()[0]
    other.put([record(source, space.id, 99)])
    newest = max(item.id for item in full.items.all()) + 1
    assert [item.id for item in other.items.all()][-1] == newest


# ---------------------------------------------------------------------- servers


def test_a_round_trip_over_two_servers_is_identical(full, tmp_path, request):
    with ExitStack() as stack:
        server = request.getfixturevalue("milvus")
        first = stack.enter_context(milvus_server.store(server, tmp_path))
        second = stack.enter_context(postgres_store())
        back = stack.enter_context(closing(Catalog(tmp_path / "catalog.db")))
        for source, destination in pairwise((full, first, second, back)):
            report = copied(source, destination)
            assert rows(destination) == rows(full)
            assert report.rows == {table: len(found) for table, found in rows(full).items()}


def test_a_copy_from_and_to_a_server_survives_an_interruption_at_every_table(
    full, remote, tmp_path, monkeypatch
):
    monkeypatch.setattr("mmsearch.collection.copy.ROWS", 2)
    with closing(Catalog(tmp_path / "catalog.db")) as back:
        for source, destination in ((full, remote), (remote, back)):
            for table in COLUMNS:
                with monkeypatch.context() as patched:
                    broken = Interrupted(destination, table, KeyboardInterrupt(), after=True)
                    patched.setattr(destination.transfer, "put", broken.put)
                    with pytest.raises(KeyboardInterrupt):
                        copied(source, destination)
                assert destination.settings.get(COPYING)
            assert not copied(source, destination).restarted
            assert rows(destination) == rows(full)


def test_a_copy_to_a_server_begins_anew_if_the_source_has_changed(full, remote, monkeypatch):
    with monkeypatch.context() as patched:
        broken = Interrupted(remote, "absent_modalities", KeyboardInterrupt(), after=True)
        patched.setattr(remote.transfer, "put", broken.put)
        with pytest.raises(KeyboardInterrupt):
            copied(full, remote)
    full.items.remove([1])
    assert copied(full, remote).restarted
    assert rows(remote) == rows(full)


def test_a_server_goes_on_with_new_ids(full, remote):
    copied(full, remote)
    source, space = remote.sources.all()[0][0], remote.spaces.all()[0]
    remote.put([record(source, space.id, 99)])
    newest = max(item.id for item in full.items.all()) + 1
    assert [item.id for item in remote.items.all()][-1] == newest
    assert remote.loader.next_numbers(1)[0] == full.loader.next_numbers(1)[0]


def test_an_index_copied_from_address_to_address_answers_the_same(
    index, photos, tmp_path, monkeypatch, request
):
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    server = request.getfixturevalue("milvus")
    with mmsearch.open(index) as first:
        expected = [hit.path for hit in first.similar(photos / "red.png")]
    with schema() as (url, name):
        sql = f"{url}{'&' if '?' in url else '?'}schema={name}"
        places = [index, server.address("copied"), sql, tmp_path / "back"]
        for source, destination in pairwise(places):
            assert mmsearch.copy(source, destination).items == 3
            with mmsearch.open(destination) as there:
                assert [hit.path for hit in there.similar(photos / "red.png")] == expected
    assert contents(tmp_path / "back") == contents(index)


# ---------------------------------------------------------------------- interruptions


class Interrupted:
    """Breaks off before a page of a table is put, or after it."""

    def __init__(self, store: Store, table: str, error: BaseException, *, after: bool) -> None:
        self._put, self._table, self._error = store.transfer.put, table, error
        self._after = after
        self.tables: list[str] = []

    def put(self, table: str, page: Any, progress: str) -> None:
        self.tables.append(table)
        if table == self._table and not self._after:
            raise self._error
        self._put(table, page, progress)
        if table == self._table:
            raise self._error


BREAKS = [
    *itertools.product(["sqlite"], COLUMNS, [True]),
    *itertools.product(["sqlite"], ["sources", "vectors"], [False]),
    *itertools.product(["memory"], ["sources", "vectors", "token_embeddings"], [False, True]),
    ("milvus", "vectors", True),
]
"""Servers are interrupted at every table above."""


@pytest.mark.parametrize(("other", "table", "after"), BREAKS, indirect=["other"])
def test_a_copy_that_breaks_off_at_any_table_goes_on_there(full, other, table, after, monkeypatch):
    monkeypatch.setattr("mmsearch.collection.copy.ROWS", 2)
    with monkeypatch.context() as patched:
        broken = Interrupted(other, table, KeyboardInterrupt(), after=after)
        patched.setattr(other.transfer, "put", broken.put)
        with pytest.raises(KeyboardInterrupt):
            copied(full, other)
    assert other.settings.get(COPYING)
    counted = Interrupted(other, "", KeyboardInterrupt(), after=False)
    monkeypatch.setattr(other.transfer, "put", counted.put)
    report = copied(full, other)
    assert rows(other) == rows(full)
    assert not report.restarted
    earlier = list(COLUMNS)[: list(COLUMNS).index(table)]
    assert not set(counted.tables) & set(earlier)
    assert report.resumed >= sum(len(rows(full)[one]) for one in earlier)


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.tags.add("mine", [2]),
        lambda store: store.metadata.set([(1, {"stars": 4})]),
        lambda store: store.items.remove([1]),
        lambda store: store.settings.set("reads ocr", "off"),
    ],
    ids=["added", "changed", "removed", "a setting"],
)
def test_a_copy_begins_anew_if_the_source_has_changed_since_it_broke_off(
    full, other, change, monkeypatch
):
    with monkeypatch.context() as patched:
        broken = Interrupted(other, "vectors", KeyboardInterrupt(), after=True)
        patched.setattr(other.transfer, "put", broken.put)
        with pytest.raises(KeyboardInterrupt):
            copied(full, other)
    change(full)
    report = copied(full, other)
    assert report.restarted
    assert rows(other) == rows(full)
    for store in (full, other):
        store.words.refresh()
    assert len(other.words.search("dog", 9)) == len(full.words.search("dog", 9))


def test_a_source_that_changes_meanwhile_is_copied_as_of_one_moment(full, other, monkeypatch):
    before, changed = rows(full), []
    put = other.transfer.put

    def changing(table: str, page: Any, progress: str) -> None:
        put(table, page, progress)
        if table == "items" and not changed:
            changed.append(table)
            subprocess.run([sys.executable, "-c", _REMOVING], env=_environment(full), check=True)

    monkeypatch.setattr(other.transfer, "put", changing)
    copied(full, other)
    assert rows(other) == before != rows(full)


_REMOVING = (
    "import os, pathlib; from mmsearch.storage.sqlite import Catalog\n"
    "Catalog(pathlib.Path(os.environ['CATALOG'])).items.remove([1])"
)


def _environment(store: Any) -> dict[str, str]:
    return {**os.environ, "CATALOG": str(store.path)}


def test_rows_that_got_lost_on_the_way_are_noticed(full, other, monkeypatch):
    put = other.transfer.put
    with monkeypatch.context() as patched:
        patched.setattr(
            other.transfer,
            "put",
            lambda table, page, progress: put(table, page[table == "tags" :], progress),
        )
        with pytest.raises(StorageFailed, match="DST has not all of SRC: 5 of 6 tags; run the"):
            copied(full, other)
    assert copied(full, other).resumed == 0
    assert rows(other) == rows(full)


# ---------------------------------------------------------------------- folders


@pytest.fixture
def index(toy: ToyEncoder, photos: Path, tmp_path: Path) -> Path:
    """An index of photos; nothing may be encoded from then on."""
    mmsearch.index(photos, into=tmp_path / "idx").close()
    toy.encode = None  # type: ignore[assignment, method-assign]
    return tmp_path / "idx"


def contents(folder: Path) -> dict[str, list[Any]]:
    with closing(Catalog(folder / "catalog.db")) as store:
        return rows(store)


def test_a_copied_index_answers_at_once_as_the_first_one(index, photos, tmp_path):
    red = photos / "red.png"
    with mmsearch.open(index) as first:
        report = first.copy(tmp_path / "new")
        expected = first.similar(red)
    assert contents(tmp_path / "new") == contents(index)
    with mmsearch.open(tmp_path / "new") as second:
        assert second.similar(red) == expected
        assert second.index.store.words.due() == 0
        assert (len(second), second.report) == (report.items, None)


def test_a_kind_of_vector_index_that_the_destination_lacks_is_not_copied(index, tmp_path):
    source, copied = tmp_path / "source", tmp_path / "copied"
    mmsearch.copy(index, source)
    with mmsearch.open(source) as lib:
        lib.store.settings.set("kind", "hnsw")  # as an index in PostgreSQL may have it
    report = mmsearch.copy(source, copied)
    assert any("hnsw" in warning for warning in report.warnings)
    with mmsearch.open(copied) as lib:
        assert lib.store.settings.get("kind") == "auto"


def test_a_destination_that_holds_an_index_is_refused(index, photos, tmp_path):
    mmsearch.copy(index, tmp_path / "new")
    before = contents(tmp_path / "new")
    with pytest.raises(InvalidOption, match="new holds an index already, of 3 items: copy to"):
        mmsearch.copy(index, tmp_path / "new")
    assert contents(tmp_path / "new") == before
    with pytest.raises(InvalidOption, match="are the same index"):
        mmsearch.copy(index, index)


def test_an_index_that_is_not_there_is_no_source_and_leaves_no_destination(tmp_path):
    with pytest.raises(IndexNotFound, match="there is no index at"):
        mmsearch.copy(tmp_path / "none", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def half(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a copy of the index that was interrupted."""
    with monkeypatch.context() as patched, closing(Catalog(index / "catalog.db")) as store:

        def interrupted(done: int, total: int | None) -> None:
            if done > sum(map(store.transfer.count, list(COLUMNS)[:8])):
                raise KeyboardInterrupt

        patched.setattr("mmsearch.collection.copy.ROWS", 2)
        with pytest.raises(KeyboardInterrupt):
            mmsearch.copy(index, tmp_path / "half", progress=interrupted)
    return tmp_path / "half"


def test_a_half_copied_index_cannot_be_used_and_the_error_says_how_to_finish_it(
    half, index, monkeypatch, tmp_path
):
    cure = rf"holds a part of a copy of {index}: finish it with `mmsearch copy {index} {half}`, or"
    with pytest.raises(IndexUnusable, match=cure):
        mmsearch.open(half)
    with pytest.raises(IndexUnusable, match=cure):
        mmsearch.Collection(half, create=True)
    with pytest.raises(IndexUnusable, match=cure):
        mmsearch.copy(half, tmp_path / "third")
    monkeypatch.setattr("mmsearch.collection.copy.ROWS", 2)
    assert mmsearch.copy(index, half).resumed > 0
    assert contents(half) == contents(index)
    mmsearch.open(half).close()


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "milvus"])
def test_a_copy_that_ends_before_its_first_row_leaves_no_empty_index_behind(
    kind, index, tmp_path, monkeypatch, request
):
    monkeypatch.setenv("MMSEARCH_CACHE", str(tmp_path / "cache"))
    with ExitStack() as stack:
        if kind == "postgres":
            url, name = stack.enter_context(schema())
            made: Any = f"{url}{'&' if '?' in url else '?'}schema={name}"
        else:
            made = tmp_path / "new"
            if kind == "milvus":
                made = request.getfixturevalue("milvus").address(f"begun{os.getpid()}")
        patched = stack.enter_context(monkeypatch.context())
        patched.setattr("mmsearch.collection.copy.copy_store", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            mmsearch.copy(index, made)
        patched.undo()
        with pytest.raises(IndexUnusable, match="finish it with `mmsearch copy"):
            mmsearch.open(made)
        report = mmsearch.copy(index, made)
        assert (report.items, report.restarted) == (3, False)
        with mmsearch.open(made) as there:
            assert len(there) == 3


def test_a_half_copied_index_takes_no_copy_of_another_one(half, index, photos, tmp_path):
    with closing(Catalog(tmp_path / "catalog.db")) as store:
        filled(store)
    with pytest.raises(InvalidOption, match=rf"holds a part of a copy of {index}, not of"):
        mmsearch.copy(tmp_path, half)


def test_two_copies_at_once_do_not_mix(index, half, monkeypatch):
    calls = []

    def second(done: int, total: int | None) -> None:
        if not calls:
            calls.append(done)
            with pytest.raises(IndexBusy, match="copying since"):
                mmsearch.copy(index, half)

    monkeypatch.setattr("mmsearch.collection.copy.ROWS", 2)
    mmsearch.copy(index, half, progress=second)
    assert contents(half) == contents(index)
    assert calls


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Store]:
    """A folder's store of a few MB."""
    (tmp_path / "full").mkdir()
    with closing(filled(Catalog(tmp_path / "full" / "catalog.db"), MANY)) as store:
        yield store


def test_a_full_disk_loses_nothing_of_a_copy(large, tmp_path):
    with full_disk(2**20), pytest.raises(IndexUnusable, match=r"what was stored before is kept"):
        mmsearch.copy(tmp_path / "full", tmp_path / "new")
    mmsearch.copy(tmp_path / "full", tmp_path / "new")
    assert contents(tmp_path / "new") == rows(large)


def test_a_copy_that_is_killed_goes_on(large, tmp_path):
    script = (
        "import pathlib, time, mmsearch, mmsearch.collection.copy as copy\n"
        "copy.ROWS = 100\n"
        "def half(done, total):\n"
        "    if done > total // 2:\n"
        "        print('half', flush=True)\n"
        "        time.sleep(60)\n"
        "mmsearch.copy(pathlib.Path('full'), pathlib.Path('new'), progress=half)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "half\n"
        process.send_signal(signal.SIGKILL)
    mmsearch.copy(tmp_path / "full", tmp_path / "new")
    assert contents(tmp_path / "new") == rows(large)


def test_the_command_prints_counts_and_refuses_what_is_there(index, tmp_path):
    run = CliRunner().invoke
    done = run(app, ["copy", str(index), str(tmp_path / "new"), "-q"])
    assert done.exit_code == 0, done.stderr
    assert "items\t3\n" in done.stdout
    assert "copied items: 3, vectors: 3, to" in done.stderr
    again = run(app, ["copy", str(index), str(tmp_path / "new")])
    assert (again.exit_code, again.stdout) == (2, "")
    assert "holds an index already" in again.stderr


def test_the_command_goes_on_after_an_interruption(index, half, monkeypatch):
    monkeypatch.setattr("mmsearch.collection.copy.ROWS", 2)
    run = CliRunner().invoke
    with monkeypatch.context() as patched:
        patched.setattr(
            "mmsearch.storage.sqlite.transfer.Transfer.put",
            lambda *_: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        done = run(app, ["copy", str(index), str(half)])
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr == "mmsearch: interrupted; the same command copies the rest\n"
    done = run(app, ["copy", str(index), str(half)])
    assert done.exit_code == 0, done.stderr
    assert "rows had been copied before" in done.stderr
