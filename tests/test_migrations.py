"""Indexes that older versions made: they open with everything in them."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from mmsearch.storage import FailureRecord, IndexRoot, ItemRecord, ItemVectors, Space
from mmsearch.storage.sql.schema import tables
from mmsearch.storage.sqlite import Catalog
from mmsearch.types import Span, TextPart

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if not BENCHMARKS.is_dir():
    pytest.skip("the benchmarks beside the tests", allow_module_level=True)
sys.path.append(str(BENCHMARKS))

old_schemas = pytest.importorskip("killing.old_schemas")


class Encoder:
    name = "toy"
    fingerprint = "f1"
    dim = 4
    modalities = frozenset({"image", "text"})


def fill(catalog: Catalog) -> Space:
    """Everything that a version could hold: the second of three items is a duplicate that is gone.

    The words of the first and the third were changed, and nobody has indexed them since.
    """
    catalog.spaces.serve_with([Encoder()])
    (space,) = catalog.spaces.all()
    source = catalog.sources.add("/photos", 7)
    tokens = [np.array([[1, 2], [3, 4]], np.int8)]
    for name, direction in (("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 2)):
        row = np.eye(4, dtype=np.float16)[direction : direction + 1]
        image = ItemVectors(row, token_embeddings=tokens, hubs={"text": np.float32([0.5])})
        vectors = {(space.id, "image"): image, (space.id, "text"): ItemVectors(row)}
        if name == "c.jpg":
            vectors[space.id, "audio"] = ItemVectors(row[:0])
        texts = [TextPart(f"a dog, {name}", "caption")]
        stat, media = (10, 20), {"width": 4, "height": 3, "readings": "ocr"}
        catalog.put(
            [
                ItemRecord(source, "may", name, "image", stat, name.encode(), media=media,
                           texts=texts, vectors=vectors)
            ],
            [FailureRecord(source, "may", "bad.jpg", "cut short", (1, 2), retry=False)],
        )  # fmt: skip
    catalog.words.refresh()
    catalog.index_roots.add([IndexRoot("/photos", folder=True, exclude=("*.png",))])
    catalog.query_banks.set(space, "1", b"bank")
    catalog.settings.set("incomplete", "yes")
    catalog.items.remove([2])
    catalog.metadata.set([(1, {"stars": 5}), (3, {"place": "Rome"})])
    catalog.tags.set({"blue": {1: 0.5}})
    return space


def contents(catalog: Catalog) -> dict[str, object]:
    (space,) = catalog.spaces.all()
    return {
        "items": list(catalog.items.all()),
        "complete": [item for page in catalog.items.complete(space) for item in page],
        "spaces": space,
        "hubs": catalog.hubs.of(space, "image", "text").tolist(),
        "tokens": {
            key: one.tolist()
            for key, one in catalog.token_embeddings.of(space, "image", [1, 2, 3]).items()
        },
        "lacks audio": catalog.vectors.missing(space, "audio", ["image"]),
        "bank": catalog.query_banks.get(space),
        "roots": catalog.index_roots.all(),
        "sources": (catalog.sources.all(), catalog.sources.device(1)),
        "failures": [(one.path, one.reason) for one in catalog.failures.all()],
        "known": catalog.files.known(1, "may"),
        "incomplete": catalog.settings.get("incomplete"),
        "state": catalog.state(),
        "deleted": catalog.changes.deleted_vectors(space, "image", 0)[0].tolist(),
    }


def test_an_index_of_version_6_opens_with_everything_in_it(tmp_path: Path):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        fill(catalog)
        before = contents(catalog)
    old_schemas.to_version_6(tmp_path / "catalog.db")
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        assert contents(catalog) == before
        assert catalog.words.due() == 2
        catalog.words.refresh()
        assert [id_ for id_, _ in catalog.words.search("rome dog", 5)] == [3, 1]


def test_metadata_of_an_older_catalog_are_the_users(tmp_path: Path):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        fill(catalog)
        catalog.metadata.set([(1, {"title": "Monet", "rating": 5})])
        catalog.words.refresh()
        with catalog.database.write() as connection:
            connection.exec_driver_sql("UPDATE metadata SET key = 'Rating' WHERE key = 'rating'")
        catalog.words.refresh()
    old_schemas.to_version_9(tmp_path / "catalog.db")
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        assert catalog.words.due() == 1  # a title counts as a text now
        told = {"rating": 1.0, "iso": 100.0}
        catalog.put(
            [ItemRecord(1, "may", "a.jpg", "image", (10, 20), b"a.jpg", id=1, duplicate_of=1,
                        facts=told)]
        )  # fmt: skip
        item = catalog.items.get([1])[1]
        assert item.metadata["meta"] == {"iso": "100", "rating": "5", "title": "Monet"}


def test_photos_of_an_older_catalog_count_as_changed_beside_themselves_once(tmp_path: Path):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        fill(catalog)
        catalog.files.set_change_times([(1, 30)])
        before = catalog.files.known(1, "may")
    old_schemas.to_version_9(tmp_path / "catalog.db")
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        after = catalog.files.known(1, "may")
    assert after["c.jpg"] == before["c.jpg"]  # without a change time its content would be read
    changed = before["a.jpg"]._replace(sidecar_size=-1, sidecar_mtime_ns=-1)
    assert after["a.jpg"] == changed


def test_what_an_older_version_could_not_read_is_tried_once_more(tmp_path: Path):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        fill(catalog)
        assert catalog.failures.known(1, "may") == {"bad.jpg": ((1, 2), None)}
    old_schemas.to_version_8(tmp_path / "catalog.db")
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        assert catalog.failures.known(1, "may") == {"bad.jpg": None}


def test_changes_are_numbered_on_so_that_segments_of_version_6_can_be_followed(tmp_path: Path):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        space = fill(catalog)
        _, last = catalog.changes.deleted_vectors(space, "image", 0)
        catalog.changes.forget(last)
    old_schemas.to_version_6(tmp_path / "catalog.db")
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        assert catalog.changes.last() >= last
        catalog.items.remove([1])
        deleted, _ = catalog.changes.deleted_vectors(space, "image", last)
        assert deleted.tolist() == [1]


@pytest.mark.parametrize("make", ["to_version_4", "to_version_3", "to_version_2", "to_version_1"])
def test_items_of_an_older_catalog_are_found_by_their_words(tmp_path: Path, make: str):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        space = fill(catalog)
        vectors = catalog.vectors.of(space, "text")[1].tolist()
    getattr(old_schemas, make)(tmp_path / "catalog.db")
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        assert catalog.words.due() == 2
        catalog.words.refresh()
        assert {id_ for id_, _ in catalog.words.search("dog", 5)} == {1, 3}
        (space,) = catalog.spaces.all()
        assert catalog.vectors.of(space, "text")[1].tolist() == vectors


def test_a_catalog_that_was_brought_up_logs_changes(tmp_path: Path):
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        fill(catalog)
    old_schemas.to_version_4(tmp_path / "catalog.db")
    with closing(sqlite3.connect(tmp_path / "catalog.db")) as raw:
        raw.execute("CREATE TRIGGER words_of_old AFTER INSERT ON texts BEGIN SELECT 1; END")
    with closing(Catalog(tmp_path / "catalog.db")) as catalog:
        catalog.words.refresh()
        with catalog.database.write() as connection:
            connection.exec_driver_sql("UPDATE texts SET text = 'a fox' WHERE item_id = 3")
        assert catalog.words.due() == 1
        catalog.words.refresh()
        assert [id_ for id_, _ in catalog.words.search("fox", 5)] == [3]
        with catalog.database.read() as connection:
            assert "words_of_old" not in connection.exec_driver_sql(NAMES).scalars().all()


NAMES = "SELECT name FROM sqlite_master WHERE type = 'trigger'"


FIRST_SCHEMA = """
PRAGMA application_id=1835889522;
PRAGMA user_version=1;
CREATE TABLE state (key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (key));
CREATE TABLE sources (id INTEGER NOT NULL, path TEXT NOT NULL, device BIGINT NOT NULL,
  PRIMARY KEY (id), UNIQUE (path));
CREATE TABLE spaces (id INTEGER NOT NULL, name TEXT NOT NULL, fingerprint TEXT NOT NULL,
  dim INTEGER NOT NULL, PRIMARY KEY (id), UNIQUE (name, fingerprint));
CREATE TABLE items (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, source_id INTEGER NOT NULL,
  folder TEXT NOT NULL, name TEXT NOT NULL, modality TEXT NOT NULL, size BIGINT NOT NULL,
  mtime_ns BIGINT NOT NULL, sidecar_size BIGINT, sidecar_mtime_ns BIGINT, hash BLOB NOT NULL,
  width INTEGER, height INTEGER, taken_at TEXT, camera TEXT, latitude FLOAT, longitude FLOAT,
  UNIQUE (source_id, folder, name),
  FOREIGN KEY(source_id) REFERENCES sources (id) ON DELETE CASCADE);
CREATE TABLE texts (item_id INTEGER NOT NULL, position INTEGER NOT NULL, origin TEXT NOT NULL,
  text TEXT NOT NULL, start_line INTEGER, end_line INTEGER, PRIMARY KEY (item_id, position),
  FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE);
CREATE TABLE vectors (id INTEGER NOT NULL, space_id INTEGER NOT NULL, facet TEXT NOT NULL,
  item_id INTEGER NOT NULL, position INTEGER NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (id),
  UNIQUE (space_id, facet, item_id, position),
  FOREIGN KEY(space_id) REFERENCES spaces (id) ON DELETE CASCADE,
  FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE);
CREATE TABLE failures (source_id INTEGER NOT NULL, folder TEXT NOT NULL, name TEXT NOT NULL,
  reason TEXT NOT NULL, seen_at TEXT NOT NULL, size BIGINT, mtime_ns BIGINT, retry INTEGER NOT NULL,
  PRIMARY KEY (source_id, folder, name),
  FOREIGN KEY(source_id) REFERENCES sources (id) ON DELETE CASCADE);
INSERT INTO state VALUES ('catalog_id', 'abc'), ('revision', '7');
INSERT INTO sources VALUES (1, '/notes', 5);
INSERT INTO spaces VALUES (1, 'mini', 'f0', 4);
INSERT INTO items (id, source_id, folder, name, modality, size, mtime_ns, hash)
  VALUES (3, 1, '', 'a.txt', 'text', 10, 20, x'00');
INSERT INTO texts VALUES (3, 0, 'passage', 'one', 1, 2), (3, 1, 'passage', 'two', 3, 9);
INSERT INTO vectors VALUES (1, 1, 'text', 3, 0, x'003c000000000000'),
  (2, 1, 'text', 3, 1, x'0000003c00000000');
"""


def test_an_index_of_the_first_version_is_brought_up_whole(tmp_path: Path):
    path = tmp_path / "catalog.db"
    with sqlite3.connect(path) as raw:
        raw.executescript(FIRST_SCHEMA)
    raw.close()
    catalog = Catalog(path)
    (item,) = catalog.items.all()
    assert item.texts == (
        TextPart("one", "passage", Span(1, 2, "line")),
        TextPart("two", "passage", Span(3, 9, "line")),
    )
    (space,) = catalog.spaces.all()
    assert (space.name, space.serves, space.backfills) == ("mini", {"image", "text"}, set())
    assert catalog.vectors.of(space, "text")[1].tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    state = catalog.state()
    assert (state.store_id, state.revision) == ("abc", 7)
    catalog.close()


def test_an_old_catalog_that_was_brought_up_has_the_columns_of_a_new_one(tmp_path: Path):
    with sqlite3.connect(tmp_path / "old.db") as raw:
        raw.executescript(FIRST_SCHEMA)
    raw.close()
    shapes = []
    for name in ("old.db", "new.db"):
        Catalog(tmp_path / name).close()
        with sqlite3.connect(tmp_path / name) as raw:
            shapes.append(
                {
                    table: {row[1] for row in raw.execute(f"PRAGMA table_info({table})")}
                    for table in tables.tables
                }
            )
        raw.close()
    assert shapes[0] == shapes[1]


def test_an_old_catalog_that_was_brought_up_has_the_indexes_and_triggers_of_a_new_one(
    tmp_path: Path,
):
    with sqlite3.connect(tmp_path / "old.db") as raw:
        raw.executescript(FIRST_SCHEMA)
    raw.close()
    made = []
    for name in ("old.db", "new.db"):
        Catalog(tmp_path / name).close()
        with sqlite3.connect(tmp_path / name) as raw:
            made.append(
                set(raw.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
            )
            made[-1] |= set(raw.execute("SELECT name, '' FROM sqlite_master WHERE type = 'index'"))
        raw.close()
    old, new = made
    lacking = {("items_by_hash", ""), ("vectors_by_item", "")}  # FIRST_SCHEMA has none
    renamed = {"token_embeddings_by_item": "details_by_item"}
    renamed["absent_modalities_by_item"] = "blanks_by_item"
    old = {(renamed.get(name, name), sql) for name, sql in old}
    new = {(renamed.get(name, name), sql) for name, sql in new}
    assert new - old <= lacking
    assert old <= new
