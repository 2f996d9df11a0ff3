from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from sqlalchemy.pool import Pool

from mmsearch.errors import IndexUnusable, StorageFailed
from mmsearch.filters import parse_where
from mmsearch.storage import DuplicateGone, ItemRecord, ItemVectors, Space
from mmsearch.storage.sqlite import Catalog, database, migrations
from mmsearch.types import Span, TextPart


class Encoder:
    name = "toy"
    fingerprint = "f1"
    dim = 4
    modalities = frozenset({"image", "text"})


@pytest.fixture
def catalog(tmp_path: Path):
    made = Catalog(tmp_path / "catalog.db")
    yield made
    made.close()


@pytest.fixture
def space(catalog: Catalog) -> Space:
    return catalog.spaces.add(Encoder())


def unit(*values: float) -> np.ndarray:
    row = np.array([values], dtype=np.float16)
    return row / np.linalg.norm(row)


def entry(source_id: int, name: str = "a.jpg", **changes) -> ItemRecord:
    given = {
        "source_id": source_id,
        "folder": "",
        "name": name,
        "kind": "image",
        "stat": (10, 20),
        "hash": name.encode("utf-8", "surrogateescape"),
        "vectors": {"image": unit(1, 0, 0, 0)},
    }
    made = {**given, **changes}
    made["vectors"] = {(1, facet): ItemVectors(rows) for facet, rows in made["vectors"].items()}
    return ItemRecord(**made)


def test_what_is_put_comes_back(catalog: Catalog, space: Space):
    source = catalog.sources.add("/photos")
    texts = [TextPart("a dog", "caption"), TextPart("one line", "passage", Span(3, 4, "line"))]
    details = {"width": 4, "height": 3, "camera": "Box", "latitude": 1.5, "longitude": -2.0}
    vectors = {"image": unit(1, 2, 3, 4), "text": np.concatenate([unit(0, 1, 0, 0)] * 2)}
    catalog.put([entry(source, texts=texts, media=details, vectors=vectors)])

    (item,) = catalog.items.all()
    assert item.path == "/photos/a.jpg"
    assert list(item.texts) == texts
    assert details.items() <= dict(item.metadata).items()
    ids, matrix, positions = catalog.vectors.of(space, "text")
    assert ids.tolist() == [item.id, item.id]
    assert positions.tolist() == [0, 1]
    assert matrix.tolist() == [[0, 1, 0, 0], [0, 1, 0, 0]]
    assert (catalog.vectors.of(space, "image")[1] == vectors["image"].astype(np.float32)).all()


@given(name=st.binary(min_size=1, max_size=20).filter(lambda b: b"/" not in b and b"\0" not in b))
def test_any_file_name_comes_back_byte_for_byte(tmp_path_factory, name: bytes):
    catalog = Catalog(tmp_path_factory.mktemp("c") / "catalog.db")
    catalog.spaces.add(Encoder())
    source = catalog.sources.add("/photos")
    text = name.decode("utf-8", "surrogateescape")
    catalog.put([entry(source, text)])
    assert list(catalog.files.known(source, "")) == [text]
    assert next(catalog.items.all()).path == f"/photos/{text}"
    catalog.close()


def test_a_batch_is_stored_whole_or_not_at_all(catalog: Catalog, space: Space):
    source = catalog.sources.add("/photos")
    wrong = entry(source, "b.jpg", kind=None)
    with pytest.raises(StorageFailed):
        catalog.put([entry(source), wrong])
    assert len(catalog) == 0


def test_a_full_disk_is_a_clear_error_and_keeps_what_was_stored(tmp_path: Path):
    catalog = Catalog(tmp_path / "catalog.db")
    catalog.spaces.add(Encoder())
    source = catalog.sources.add("/photos")
    catalog.put([entry(source)])
    with catalog.database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")
    long = [TextPart("x" * 100_000, "caption")]
    with pytest.raises(StorageFailed, match="full"):
        catalog.put([entry(source, "b.jpg", texts=long)])
    catalog.close()
    again = Catalog(tmp_path / "catalog.db")
    assert [item.path for item in again.items.all()] == ["/photos/a.jpg"]
    again.close()


def test_the_revision_rises_when_vectors_change_and_only_then(catalog: Catalog, space: Space):
    source = catalog.sources.add("/photos")
    catalog.put([entry(source)])
    before = catalog.state().revision
    item_id = next(catalog.items.all()).id
    catalog.put([entry(source, id=item_id, stat=(10, 21), vectors={}, duplicate_of=item_id)])
    assert catalog.state().revision == before
    catalog.items.remove([item_id])
    assert catalog.state().revision == before + 1


def test_an_item_that_is_removed_takes_texts_and_vectors_along(catalog: Catalog, space: Space):
    source = catalog.sources.add("/photos")
    catalog.put([entry(source, texts=[TextPart("a", "caption")])])
    catalog.items.remove([item.id for item in catalog.items.all()])
    with sqlite3.connect(catalog.path) as raw:
        rows = [raw.execute(f"SELECT count(*) FROM {t}").fetchone() for t in ("texts", "vectors")]
    raw.close()
    assert rows == [(0,), (0,)]


def test_an_id_is_never_used_again(catalog: Catalog, space: Space):
    source = catalog.sources.add("/photos")
    catalog.put([entry(source)])
    first = next(catalog.items.all()).id
    catalog.items.remove([first])
    catalog.put([entry(source)])
    assert next(catalog.items.all()).id > first


def test_a_lender_with_other_content_is_refused_and_nothing_stored(catalog: Catalog, space: Space):
    source = catalog.sources.add("/photos")
    catalog.put([entry(source)])
    first = next(catalog.items.all()).id
    borrower = entry(source, "b.jpg", hash=b"other", vectors={}, duplicate_of=first)
    with pytest.raises(DuplicateGone):
        catalog.put([entry(source, "c.jpg"), borrower])
    assert len(catalog) == 1


def test_an_item_stored_again_at_its_place_keeps_its_id(catalog: Catalog, space: Space):
    source = catalog.sources.add("/photos")
    catalog.put([entry(source)])
    first = next(catalog.items.all()).id
    catalog.put([entry(source)])
    assert [item.id for item in catalog.items.all()] == [first]


def test_a_copy_borrows_the_vectors_of_its_twin(catalog: Catalog, space: Space):
    source = catalog.sources.add("/photos")
    catalog.put([entry(source, vectors={"image": unit(1, 2, 3, 4)})])
    first = next(catalog.items.all()).id
    catalog.put([entry(source, "b.jpg", hash=b"a.jpg", vectors={}, duplicate_of=first)])
    ids, matrix, _ = catalog.vectors.of(space, "image")
    assert len(ids) == 2
    assert (matrix[0] == matrix[1]).all()


def test_a_new_source_takes_in_those_inside_it(catalog: Catalog, space: Space):
    inner = catalog.sources.add("/photos/2020")
    catalog.put([entry(inner), entry(inner, "b.jpg", folder="may")])
    outer = catalog.sources.add("/photos")
    assert catalog.sources.all() == [(outer, "/photos")]
    paths = [item.path for item in catalog.items.all()]
    assert paths == ["/photos/2020/a.jpg", "/photos/2020/may/b.jpg"]


def test_a_source_whose_name_is_not_utf8_is_taken_in_too(catalog: Catalog, space: Space):
    inner = catalog.sources.add("/photos/caf\udce9")
    catalog.put([entry(inner), entry(inner, folder="may")])
    catalog.sources.add("/photos")
    paths = [item.path for item in catalog.items.all()]
    assert paths == ["/photos/caf\udce9/a.jpg", "/photos/caf\udce9/may/a.jpg"]


def test_a_source_is_added_once(catalog: Catalog):
    assert catalog.sources.add("/photos") == catalog.sources.add("/photos")
    assert catalog.sources.add("/photos/2020") == catalog.sources.add("/photos")


def test_a_neighbour_with_the_same_beginning_is_not_inside(catalog: Catalog):
    catalog.sources.add("/photos-old")
    catalog.sources.add("/photos")
    assert sorted(path for _, path in catalog.sources.all()) == ["/photos", "/photos-old"]
    assert catalog.sources.of("/photos-older/x") is None


def test_removing_a_folder_spares_its_neighbours(catalog: Catalog, space: Space):
    source = catalog.sources.add("/p")
    folders = ["a", "a/b", "a.b", "a0", "ab"]
    catalog.put([entry(source, folder=folder) for folder in folders])
    assert catalog.items.remove_below(source, "a") == 2
    assert [item.path for item in catalog.items.all()] == [
        "/p/a.b/a.jpg",
        "/p/a0/a.jpg",
        "/p/ab/a.jpg",
    ]


def test_folders_lists_what_lies_below(catalog: Catalog, space: Space):
    source = catalog.sources.add("/p")
    catalog.put([entry(source, folder=folder) for folder in ("", "a", "a/b", "ab")])
    assert catalog.files.folders(source, "a") == {"a", "a/b"}
    assert catalog.files.folders(source, "") == {"", "a", "a/b", "ab"}


def test_another_database_is_refused(tmp_path: Path):
    path = tmp_path / "catalog.db"
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE t (x)")
    raw.close()
    with pytest.raises(IndexUnusable, match="not an mmsearch catalog"):
        Catalog(path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    path = tmp_path / "catalog.db"
    path.write_bytes(b"hello" * 1000)
    with pytest.raises(IndexUnusable, match="cannot be used"):
        Catalog(path)


def test_a_newer_catalog_is_refused_with_what_to_do(tmp_path: Path):
    path = tmp_path / "catalog.db"
    Catalog(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("PRAGMA user_version=99")
    raw.close()
    with pytest.raises(IndexUnusable, match="upgrade"):
        Catalog(path)


def test_an_older_catalog_is_migrated_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "catalog.db"
    Catalog(path).close()
    ran = []

    def migrate(connection) -> None:
        ran.append(1)
        connection.exec_driver_sql("ALTER TABLE items ADD COLUMN extra TEXT")

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, migrate])
    Catalog(path).close()
    Catalog(path).close()
    assert ran == [1]


def test_a_migration_that_fails_leaves_the_catalog_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "catalog.db"
    Catalog(path).close()

    def migrate(connection) -> None:
        connection.exec_driver_sql("ALTER TABLE items ADD COLUMN extra TEXT")
        connection.exec_driver_sql("SELECT nonsense")

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, migrate])
    with pytest.raises(IndexUnusable):
        Catalog(path)
    monkeypatch.undo()
    Catalog(path).close()
    with sqlite3.connect(path) as raw:
        assert (
            "extra"
            not in raw.execute("SELECT sql FROM sqlite_master WHERE name='items'").fetchone()[0]
        )
    raw.close()


def test_encoders_are_to_answer_all_or_none(catalog: Catalog, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mmsearch.storage.sql.spaces.assigned", interrupted)
        with pytest.raises(KeyboardInterrupt):
            catalog.spaces.serve_with([Encoder()])
    assert catalog.spaces.all() == []
    catalog.spaces.serve_with([Encoder()])
    assert [space.serves for space in catalog.spaces.all()] == [{"image", "text"}]


@contextmanager
def full_disk(most: int = 0):
    """No file can grow beyond so many bytes."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_a_catalog_on_a_full_disk_is_read(tmp_path):
    path = tmp_path / "catalog.db"
    one_item(path)
    with full_disk(), closing(Catalog(path)) as catalog:
        assert [item.id for item in catalog.items.all()] == [1]
        with pytest.raises(StorageFailed, match="free some space"):
            catalog.items.remove([1])
    with closing(Catalog(path)) as catalog:
        catalog.items.remove([1])
        assert not len(catalog)


def test_an_older_catalog_on_a_full_disk_says_that_room_is_lacking(tmp_path):
    path = tmp_path / "catalog.db"
    one_item(path)
    with closing(sqlite3.connect(path)) as older:
        older.execute("PRAGMA user_version = 9")
        older.execute("ALTER TABLE metadata DROP COLUMN origin")
        older.execute("ALTER TABLE metadata DROP COLUMN shadowed")
        older.commit()
    with full_disk(), pytest.raises(IndexUnusable, match="free 1 MB on its disk, which is full"):
        Catalog(path)
    with closing(Catalog(path)) as catalog:
        assert len(catalog) == 1


def test_a_new_catalog_on_a_full_disk_says_that_room_is_lacking(tmp_path):
    path = tmp_path / "catalog.db"
    with full_disk(20_000), pytest.raises(IndexUnusable, match="not a whole index yet: free 1 MB"):
        Catalog(path)
    with closing(Catalog(path)) as catalog:
        assert not len(catalog)


def one_item(path: Path) -> None:
    with closing(Catalog(path)) as catalog:
        catalog.put([entry(catalog.sources.add("/photos"), vectors={})])


def test_what_was_opened_on_a_full_disk_follows_once_there_is_room(tmp_path):
    path = tmp_path / "catalog.db"
    one_item(path)
    with full_disk():
        catalog = Catalog(path)
        assert len(catalog) == 1
    with closing(catalog):
        with closing(Catalog(path)) as other:
            other.put([entry(1, "b.jpg", vectors={})])
        assert len(catalog) == 2
        catalog.items.remove([1])
        assert len(catalog) == 1


def test_a_catalog_that_may_not_be_written_follows_what_others_write(tmp_path, monkeypatch):
    path = tmp_path / "catalog.db"
    one_item(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        catalog = Catalog(path)
        assert len(catalog) == 1
    with closing(catalog):
        with closing(Catalog(path)) as other:
            other.put([entry(1, "b.jpg", vectors={})])
            monkeypatch.setattr(os, "access", lambda *_: False)
            assert len(catalog) == 2
        assert len(catalog) == 2


def test_what_is_in_the_log_alone_is_read_though_there_is_no_room_for_its_index(tmp_path):
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "catalog.db"
    one_item(tmp_path / "catalog.db")
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        catalog.put([entry(1, "b.jpg", vectors={})])
        for name in ("catalog.db", "catalog.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    (tmp_path / "copy" / "catalog.db-shm").mkdir()  # nothing can be stored there
    with closing(Catalog(copy)) as catalog:
        assert len(catalog) == 2


def test_a_log_that_finds_no_room_in_its_catalog_is_kept_and_told(tmp_path, monkeypatch):
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "catalog.db"
    one_item(tmp_path / "catalog.db")
    long = [TextPart("x" * 100_000, "caption")]
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        catalog.put([entry(1, "b.jpg", vectors={}, texts=long)])
        for name in ("catalog.db", "catalog.db-wal"):
            shutil.copy(tmp_path / name, tmp_path / "copy" / name)
    monkeypatch.setattr(database, "disk_usage", lambda _: SimpleNamespace(free=0))
    with full_disk(2**14), pytest.raises(IndexUnusable, match=r"its disk is full.* MB are free"):
        Catalog(copy)
    with closing(Catalog(copy)) as catalog:
        assert len(catalog) == 2


def test_a_lookup_by_ids_reads_those_rows_only(tmp_path: Path):
    statements: list[str] = []

    def trace(connection, _record):
        connection.set_trace_callback(statements.append)

    event.listen(Pool, "connect", trace)
    try:
        with closing(Catalog(tmp_path / "catalog.db")) as catalog:
            space = catalog.spaces.add(Encoder())
            vectors = {"image": unit(1, 2, 3, 4), "text": unit(0, 1, 0, 0)}
            texts = [TextPart("a dog", "caption")]
            catalog.put([entry(catalog.sources.add("/photos"), texts=texts, vectors=vectors)])
            (id_,) = catalog.filters.matching(parse_where(None)).tolist()
            catalog.tags.add("pet", [id_])
            catalog.metadata.set([(id_, {"licence": "mit"})])
            catalog.words.refresh()
            with catalog.snapshot():
                catalog.items.get([id_])
                catalog.items.hashes([id_])
                list(catalog.items.complete(space, [id_]))
                catalog.vectors.of(space, "image", [id_])
                catalog.vectors.count(space, "image", [id_])
                catalog.vectors.spans(space, "text", [id_])
                catalog.token_embeddings.of(space, "image", [id_])
                catalog.hubs.of(space, "image", "text", [id_])
            catalog.items.remove([id_])
    finally:
        event.remove(Pool, "connect", trace)
    by_ids = [found for found in statements if re.search(r"\bIN \(SELECT .*json_each\(", found)]
    assert len(by_ids) > 10
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as connection:
        for statement in by_ids:
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            scanned = [step for step in plan if re.match("SCAN (?!json_each|words)", step)]
            assert not scanned, statement
