"""Catalogs as older versions made them, of one that this version made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

FIRST = """
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


def make_first(catalog: Path) -> None:
    """Bring a catalog down to version 1: what that did not know of is lost."""
    old = catalog.with_name("old.db")
    with closing(sqlite3.connect(old)) as driver:
        driver.executescript(f"PRAGMA journal_mode=WAL; PRAGMA application_id=1835889522; {FIRST}")
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


def make_third(catalog: Path) -> None:
    """Bring a catalog down to version 3: before changes were filed."""
    with closing(sqlite3.connect(catalog)) as driver:
        driver.execute("PRAGMA foreign_keys=OFF")
        triggers = driver.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in triggers.fetchall():
            driver.execute(f"DROP TRIGGER {name}")
        (made,) = driver.execute("SELECT sql FROM sqlite_master WHERE name = 'vectors'").fetchone()
        driver.executescript(
            "INSERT OR IGNORE INTO unworded SELECT id FROM items "
            "WHERE id > (SELECT words FROM followed); DROP TABLE followed;"
            "DROP TABLE gone; DROP TABLE altered; DROP INDEX vectors_by_item;"
            f"{made.replace('vectors', 'vectors_old', 1).replace('AUTOINCREMENT', '')};"
            "INSERT INTO vectors_old SELECT * FROM vectors; DROP TABLE vectors;"
            "ALTER TABLE vectors_old RENAME TO vectors;"
            "CREATE INDEX vectors_by_item ON vectors (item_id);"
            "DELETE FROM state WHERE key IN ('columns upto', 'hubs epoch', 'gone forgotten');"
            "PRAGMA user_version=3;"
        )
