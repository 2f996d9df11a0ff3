"""How a catalog of an older version is brought up to the tables of this one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import Connection, text

from mmsearch.storage.sqlite.schema import create_triggers, create_words

_SPANS_AND_SEVERAL_SPACES = """
ALTER TABLE texts RENAME COLUMN start_line TO start;
ALTER TABLE texts RENAME COLUMN end_line TO 'end';
ALTER TABLE texts ADD COLUMN unit TEXT;
UPDATE texts SET unit = 'line' WHERE start IS NOT NULL;
ALTER TABLE vectors ADD COLUMN start FLOAT;
ALTER TABLE vectors ADD COLUMN 'end' FLOAT;
ALTER TABLE vectors ADD COLUMN unit TEXT;
ALTER TABLE items ADD COLUMN seconds FLOAT;
ALTER TABLE items ADD COLUMN pages INTEGER;
ALTER TABLE items ADD COLUMN readings TEXT NOT NULL DEFAULT '';
ALTER TABLE spaces ADD COLUMN modalities TEXT NOT NULL DEFAULT 'image text';
ALTER TABLE spaces ADD COLUMN keeps TEXT NOT NULL DEFAULT 'image text';
ALTER TABLE spaces ADD COLUMN fills TEXT NOT NULL DEFAULT '';
CREATE TABLE blanks (
    space_id INTEGER NOT NULL REFERENCES spaces (id) ON DELETE CASCADE,
    facet TEXT NOT NULL,
    item_id INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    PRIMARY KEY (space_id, facet, item_id)
);
CREATE INDEX blanks_by_item ON blanks (item_id);
CREATE TABLE asked (
    path TEXT NOT NULL PRIMARY KEY,
    folder INTEGER NOT NULL,
    exclude TEXT NOT NULL,
    include_hidden INTEGER NOT NULL
)
"""

_RANKING = """
ALTER TABLE vectors ADD COLUMN hub_text FLOAT;
ALTER TABLE vectors ADD COLUMN hub_image FLOAT;
CREATE TABLE details (
    space_id INTEGER NOT NULL REFERENCES spaces (id) ON DELETE CASCADE,
    facet TEXT NOT NULL,
    item_id INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    tokens BLOB NOT NULL,
    PRIMARY KEY (space_id, facet, item_id, position)
);
CREATE INDEX details_by_item ON details (item_id);
CREATE TABLE banks (
    space_id INTEGER NOT NULL PRIMARY KEY REFERENCES spaces (id) ON DELETE CASCADE,
    version TEXT NOT NULL,
    bank BLOB NOT NULL
);
CREATE TABLE attributes (
    item_id INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    text TEXT NOT NULL,
    number FLOAT,
    PRIMARY KEY (item_id, key)
);
CREATE TABLE tags (
    item_id INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    tag TEXT NOT NULL,
    score FLOAT NOT NULL,
    PRIMARY KEY (item_id, tag)
);
CREATE TABLE unworded (item_id INTEGER PRIMARY KEY);
INSERT INTO unworded SELECT id FROM items
"""

_FOLLOWED_CHANGES = """
DROP INDEX IF EXISTS vectors_by_item;
ALTER TABLE vectors RENAME TO vectors_before;
CREATE TABLE vectors (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    space_id INTEGER NOT NULL REFERENCES spaces (id) ON DELETE CASCADE,
    facet TEXT NOT NULL,
    item_id INTEGER NOT NULL REFERENCES items (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    start FLOAT,
    "end" FLOAT,
    unit TEXT,
    vector BLOB NOT NULL,
    hub_text FLOAT,
    hub_image FLOAT,
    UNIQUE (space_id, facet, item_id, position)
);
INSERT INTO vectors
    SELECT id, space_id, facet, item_id, position, start, "end", unit, vector, hub_text, hub_image
    FROM vectors_before;
DROP TABLE vectors_before;
CREATE INDEX vectors_by_item ON vectors (item_id);
CREATE TABLE gone (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    space_id INTEGER NOT NULL,
    facet TEXT NOT NULL,
    vector_id INTEGER NOT NULL
);
CREATE TABLE altered (seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, item_id INTEGER NOT NULL);
DROP INDEX IF EXISTS tags_by_tag;
CREATE INDEX tags_by_tag ON tags (tag, item_id)
"""

_FOLLOWED_BY_ID = """
CREATE TABLE followed (id INTEGER PRIMARY KEY, words INTEGER NOT NULL, columns INTEGER NOT NULL);
INSERT INTO followed (words, columns) SELECT coalesce(max(id), 0), 0 FROM items
"""

_ONE_INDEX_OF_METADATA = """
DROP INDEX IF EXISTS attributes_by_text;
DROP INDEX IF EXISTS attributes_by_number;
DROP INDEX IF EXISTS attributes_by_value
"""

# Renaming a table or a column changes the schema alone. Indexes cannot be renamed: those of
# `blanks` and `details` keep their names, as making one anew reads the whole table. Sequence
# numbers go on from those of `gone`, so that FAISS segments, which hold the last one that they
# have applied, can still be followed.
_ONE_CHANGE_LOG = """
ALTER TABLE state RENAME TO settings;
ALTER TABLE asked RENAME TO index_roots;
ALTER TABLE spaces RENAME COLUMN keeps TO serves;
ALTER TABLE spaces RENAME COLUMN fills TO backfills;
ALTER TABLE items RENAME COLUMN modality TO kind;
ALTER TABLE vectors RENAME COLUMN facet TO modality;
ALTER TABLE blanks RENAME TO absent_modalities;
ALTER TABLE absent_modalities RENAME COLUMN facet TO modality;
ALTER TABLE details RENAME TO token_embeddings;
ALTER TABLE token_embeddings RENAME COLUMN facet TO modality;
ALTER TABLE token_embeddings RENAME COLUMN tokens TO embeddings;
ALTER TABLE banks RENAME TO query_banks;
ALTER TABLE attributes RENAME TO metadata;
DROP INDEX IF EXISTS attributes_by_value;
DROP INDEX IF EXISTS metadata_by_value;
CREATE INDEX metadata_by_value ON metadata ("key", number, text, item_id);
CREATE TABLE changes (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    what TEXT NOT NULL,
    item_id INTEGER NOT NULL,
    vector_id INTEGER,
    space_id INTEGER,
    modality TEXT
);
CREATE UNIQUE INDEX changes_of_items ON changes (what, item_id) WHERE vector_id IS NULL;
INSERT INTO changes SELECT seq, 'vector', 0, vector_id, space_id, facet FROM gone;
DELETE FROM sqlite_sequence WHERE name = 'changes';
INSERT INTO sqlite_sequence (name, seq)
    SELECT 'changes', coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'gone'), 0);
CREATE TABLE followers (
    id INTEGER NOT NULL PRIMARY KEY,
    words_item INTEGER NOT NULL,
    words_change INTEGER NOT NULL,
    columns_item INTEGER NOT NULL,
    columns_change INTEGER NOT NULL
);
INSERT INTO followers (words_item, words_change, columns_item, columns_change)
    SELECT words, sqlite_sequence.seq, 0, 0 FROM followed, sqlite_sequence
    WHERE sqlite_sequence.name = 'changes';
INSERT INTO changes (what, item_id) SELECT 'words', item_id FROM unworded;
DROP TABLE gone;
DROP TABLE altered;
DROP TABLE unworded;
DROP TABLE followed;
DELETE FROM settings WHERE "key" = 'columns upto';
UPDATE settings SET "key" = 'changes forgotten' WHERE "key" = 'gone forgotten';
UPDATE settings SET "key" = 'incomplete' WHERE "key" = 'holes'
"""

_DEVICES_AND_CHANGE_TIMES = """
ALTER TABLE items ADD COLUMN ctime_ns BIGINT;
CREATE TABLE folder_devices (
    source_id INTEGER NOT NULL REFERENCES sources (id) ON DELETE CASCADE,
    folder TEXT NOT NULL,
    device BIGINT NOT NULL,
    PRIMARY KEY (source_id, folder)
)
"""

# This version may read what an older one could not: each failed file is tried once more.
_FAILURES_TRIED_AGAIN = """
ALTER TABLE failures ADD COLUMN ctime_ns BIGINT;
UPDATE failures SET retry = 1
"""

# The words of titles, keywords and descriptions are indexed anew, as words of texts. The sidecar
# columns of photos and videos are made outdated, so that the next run reads their metadata (facts)
# without decoding them.
_ORIGINS_OF_METADATA = """
ALTER TABLE metadata ADD COLUMN origin TEXT NOT NULL DEFAULT 'user';
ALTER TABLE metadata ADD COLUMN shadowed TEXT;
UPDATE OR IGNORE metadata SET "key" = lower("key") WHERE lower("key") IN (
    'aperture', 'iso', 'focal_length', 'exposure', 'lens',
    'rating', 'keywords', 'title', 'description'
);
INSERT OR REPLACE INTO changes (what, item_id)
    SELECT DISTINCT 'words', item_id FROM metadata
    WHERE lower("key") IN ('title', 'keywords', 'description')
    AND item_id <= (SELECT words_item FROM followers);
UPDATE items SET sidecar_size = -1, sidecar_mtime_ns = -1
    WHERE kind IN ('image', 'video') AND ctime_ns IS NOT NULL
"""


def _run(script: str, connection: Connection) -> None:
    made = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    for (name,) in made.all():  # the last migration makes those of this version
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    _execute(script, connection)


def _add_words(connection: Connection) -> None:
    _run(_RANKING, connection)
    create_words(connection)


def _log_changes(connection: Connection) -> None:
    _run(_ONE_CHANGE_LOG, connection)
    create_triggers(connection)


_NEW_WORDS = "*[\u00ad\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff\u2300-\u27bf\U0001f000-\U0001faff]*"
"""Texts with soft hyphens, which are part of a word now, or emoji, which are words."""

_FILE_WORDS_ANEW = """
INSERT OR REPLACE INTO changes (what, item_id)
SELECT 'words', id FROM items WHERE (
    name GLOB :new OR folder GLOB :new
    OR id IN (SELECT item_id FROM texts WHERE text GLOB :new)
    OR id IN (SELECT item_id FROM metadata WHERE text GLOB :new)
) AND id <= (SELECT words_item FROM followers)
"""


def _add_origins(connection: Connection) -> None:
    _run(_ORIGINS_OF_METADATA, connection)
    create_triggers(connection)


def _execute(script: str, connection: Connection) -> None:
    for statement in script.split(";\n"):
        connection.exec_driver_sql(statement)


def _add_devices(connection: Connection) -> None:
    _execute(_DEVICES_AND_CHANGE_TIMES, connection)
    connection.execute(text(_FILE_WORDS_ANEW), {"new": _NEW_WORDS})


MIGRATIONS: list[Callable[[Connection], None]] = [
    partial(_run, _SPANS_AND_SEVERAL_SPACES),
    _add_words,
    partial(_run, _FOLLOWED_CHANGES),
    partial(_run, _FOLLOWED_BY_ID),
    partial(_run, _ONE_INDEX_OF_METADATA),
    _log_changes,
    _add_devices,
    partial(_execute, _FAILURES_TRIED_AGAIN),
    _add_origins,
]
"""Number i brings a catalog of version i + 1 to version i + 2; never edited once released."""
