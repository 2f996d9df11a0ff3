"""Downgrades: a catalog of this version, turned into one of an older version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

SCHEMA_1 = """
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
CREATE INDEX items_by_hash ON items (hash);
CREATE TABLE texts (item_id INTEGER NOT NULL, position INTEGER NOT NULL, origin TEXT NOT NULL,
  text TEXT NOT NULL, start_line INTEGER, end_line INTEGER, PRIMARY KEY (item_id, position),
  FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE);
CREATE TABLE vectors (id INTEGER NOT NULL, space_id INTEGER NOT NULL, facet TEXT NOT NULL,
  item_id INTEGER NOT NULL, position INTEGER NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (id),
  UNIQUE (space_id, facet, item_id, position),
  FOREIGN KEY(space_id) REFERENCES spaces (id) ON DELETE CASCADE,
  FOREIGN KEY(item_id) REFERENCES items (id) ON DELETE CASCADE);
CREATE INDEX vectors_by_item ON vectors (item_id);
CREATE TABLE failures (source_id INTEGER NOT NULL, folder TEXT NOT NULL, name TEXT NOT NULL,
  reason TEXT NOT NULL, seen_at TEXT NOT NULL, size BIGINT, mtime_ns BIGINT, retry INTEGER NOT NULL,
  PRIMARY KEY (source_id, folder, name),
  FOREIGN KEY(source_id) REFERENCES sources (id) ON DELETE CASCADE);
"""
"""The tables of version 1."""


DOWN_TO_9 = """
DELETE FROM metadata WHERE origin = 'file';
ALTER TABLE metadata DROP COLUMN origin;
ALTER TABLE metadata DROP COLUMN shadowed;
PRAGMA user_version=9;
"""

DOWN_TO_8 = """
ALTER TABLE failures DROP COLUMN ctime_ns;
PRAGMA user_version=8;
"""

DOWN_TO_7 = """
ALTER TABLE items DROP COLUMN ctime_ns;
DROP TABLE folder_devices;
PRAGMA user_version=7;
"""

DOWN_TO_6 = """
ALTER TABLE settings RENAME TO state;
ALTER TABLE index_roots RENAME TO asked;
ALTER TABLE spaces RENAME COLUMN serves TO keeps;
ALTER TABLE spaces RENAME COLUMN backfills TO fills;
ALTER TABLE items RENAME COLUMN kind TO modality;
ALTER TABLE vectors RENAME COLUMN modality TO facet;
ALTER TABLE absent_modalities RENAME COLUMN modality TO facet;
ALTER TABLE absent_modalities RENAME TO blanks;
DROP INDEX absent_modalities_by_item;
CREATE INDEX blanks_by_item ON blanks (item_id);
ALTER TABLE token_embeddings RENAME COLUMN embeddings TO tokens;
ALTER TABLE token_embeddings RENAME COLUMN modality TO facet;
ALTER TABLE token_embeddings RENAME TO details;
DROP INDEX token_embeddings_by_item;
CREATE INDEX details_by_item ON details (item_id);
ALTER TABLE query_banks RENAME TO banks;
ALTER TABLE metadata RENAME TO attributes;
DROP INDEX metadata_by_value;
CREATE INDEX attributes_by_value ON attributes ("key", number, text, item_id);
CREATE TABLE gone (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, space_id INTEGER NOT NULL,
  facet TEXT NOT NULL, vector_id INTEGER NOT NULL);
CREATE TABLE altered (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, item_id INTEGER NOT NULL);
CREATE TABLE unworded (item_id INTEGER PRIMARY KEY);
CREATE TABLE followed (id INTEGER NOT NULL, words INTEGER NOT NULL, columns INTEGER NOT NULL,
  PRIMARY KEY (id));
INSERT INTO gone SELECT seq, space_id, modality, vector_id FROM changes WHERE what = 'vector';
INSERT OR IGNORE INTO unworded SELECT item_id FROM changes, followers
  WHERE what = 'words' AND seq > words_change;
INSERT INTO followed (words, columns) SELECT words_item, 0 FROM followers;
UPDATE sqlite_sequence SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'changes')
  WHERE name = 'gone';
DROP TABLE changes;
DROP TABLE followers;
CREATE TRIGGER vectors_delete AFTER DELETE ON vectors BEGIN
  INSERT INTO gone (space_id, facet, vector_id) VALUES (OLD.space_id, OLD.facet, OLD.id); END;
CREATE TRIGGER texts_insert AFTER INSERT ON texts
  WHEN NEW.item_id <= (SELECT max(words, columns) FROM followed) BEGIN
  INSERT OR IGNORE INTO unworded SELECT id FROM items WHERE id = NEW.item_id; END;
DELETE FROM state WHERE "key" = 'columns upto';
UPDATE state SET "key" = 'gone forgotten' WHERE "key" = 'changes forgotten';
UPDATE state SET "key" = 'holes' WHERE "key" = 'incomplete';
PRAGMA user_version=6;
"""

DOWN_TO_4 = """
DROP TRIGGER IF EXISTS texts_insert;
INSERT OR IGNORE INTO unworded SELECT id FROM items WHERE id > (SELECT words FROM followed);
DROP TABLE followed;
PRAGMA user_version=4;
"""


def to_version_9(catalog: Path) -> None:
    """Turn a catalog of this version into one of version 9: before files told of themselves."""
    with closing(sqlite3.connect(catalog)) as driver:
        driver.executescript(DOWN_TO_9)


def to_version_8(catalog: Path) -> None:
    """Turn a catalog of this version into one of version 8: before failures had change times."""
    to_version_9(catalog)
    with closing(sqlite3.connect(catalog)) as driver:
        driver.executescript(DOWN_TO_8)


def to_version_7(catalog: Path) -> None:
    """Turn a catalog of this version into one of version 7: before devices and change times."""
    to_version_8(catalog)
    with closing(sqlite3.connect(catalog)) as driver:
        driver.executescript(DOWN_TO_7)


def to_version_6(catalog: Path) -> None:
    """Turn a catalog of this version into one of version 6: before the one log of changes."""
    to_version_7(catalog)
    with closing(sqlite3.connect(catalog)) as driver:
        drop_triggers(driver)
        driver.executescript(DOWN_TO_6)


def to_version_4(catalog: Path) -> None:
    """Turn a catalog of this version into one of version 4: before new items were found by id."""
    to_version_6(catalog)
    with closing(sqlite3.connect(catalog)) as driver:
        driver.executescript(DOWN_TO_4)


def to_version_3(catalog: Path) -> None:
    """Turn a catalog of this version into one of version 3: before changes were logged."""
    to_version_4(catalog)
    with closing(sqlite3.connect(catalog)) as driver:
        driver.execute("PRAGMA foreign_keys=OFF")
        drop_triggers(driver)
        (sql,) = driver.execute("SELECT sql FROM sqlite_master WHERE name = 'vectors'").fetchone()
        driver.executescript(
            "DROP TABLE gone; DROP TABLE altered; DROP INDEX vectors_by_item;"
            f"{sql.replace('vectors', 'vectors_old', 1).replace('AUTOINCREMENT', '')};"
            "INSERT INTO vectors_old SELECT * FROM vectors; DROP TABLE vectors;"
            "ALTER TABLE vectors_old RENAME TO vectors;"
            "CREATE INDEX vectors_by_item ON vectors (item_id);"
            "DELETE FROM state WHERE key IN ('columns upto', 'hubs epoch', 'gone forgotten');"
            "PRAGMA user_version=3;"
        )


def to_version_2(catalog: Path) -> None:
    """Turn a catalog of this version into one of version 2: before words, metadata and tags."""
    to_version_3(catalog)
    with closing(sqlite3.connect(catalog)) as driver:
        for table in ("words_counts", "words", "common_words", "unworded"):
            driver.execute(f"DROP TABLE {table}")
        for table in ("details", "banks", "attributes", "tags"):
            driver.execute(f"DROP TABLE {table}")
        for column in ("hub_text", "hub_image"):
            driver.execute(f"ALTER TABLE vectors DROP COLUMN {column}")
        driver.execute("PRAGMA user_version=2")


def to_version_1(catalog: Path) -> None:
    """Turn a catalog of this version into one of version 1; what that did not have is lost."""
    to_version_6(catalog)
    old = catalog.with_name("old.db")
    with closing(sqlite3.connect(old)) as driver:
        driver.executescript(
            f"PRAGMA journal_mode=WAL; PRAGMA application_id=1835889522; {SCHEMA_1}"
        )
        driver.execute("ATTACH ? AS now", (str(catalog),))
        with driver:
            for table in ("state", "sources", "spaces", "items", "texts", "vectors", "failures"):
                names = [row[1] for row in driver.execute(f"PRAGMA main.table_info({table})")]
                known = [{"start_line": "start", "end_line": '"end"'}.get(n, n) for n in names]
                where = "WHERE key IN ('catalog_id', 'revision')" if table == "state" else ""
                driver.execute(
                    f"INSERT INTO main.{table} ({', '.join(names)}) "
                    f"SELECT {', '.join(known)} FROM now.{table} {where}"
                )
        driver.execute("PRAGMA user_version=1")
    for side in ("", "-wal", "-shm"):
        catalog.with_name(catalog.name + side).unlink(missing_ok=True)
    old.replace(catalog)


def drop_triggers(driver: sqlite3.Connection) -> None:
    """Drop all triggers of a catalog."""
    triggers = driver.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in triggers.fetchall():
        driver.execute(f"DROP TRIGGER {name}")
