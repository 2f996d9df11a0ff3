"""What a catalog has besides the tables of every SQL database: words, followers, triggers."""

from __future__ import annotations

from sqlalchemy import Column, Connection, Integer, Table

from mmsearch.storage.records import MEDIA_COLUMNS
from mmsearch.storage.sql.schema import EVERY_ITEM, tables

followers = Table(
    "followers",
    tables,
    Column("id", Integer, primary_key=True),
    Column("words_item", Integer, nullable=False),
    Column("words_change", Integer, nullable=False),
    Column("columns_item", Integer, nullable=False),
    Column("columns_change", Integer, nullable=False),
)
"""One row: up to which item the words, and the columns for filters, know the items, and up to which
change they have applied. FAISS segments hold the same of themselves in their files."""

# ---------------------------------------------------------------------- words

_WORD_TABLES = (
    # The rowid is the item's id. `mmsearch.storage.lexical` makes the tokens; they come with
    # spaces between and hold no other ASCII sign, so "ascii" only splits them.
    "CREATE VIRTUAL TABLE words USING fts5(texts, names, facts, tokenize = 'ascii')",
    # how many items hold each word; counting takes 30 ns an item, so for common words it is kept
    "CREATE VIRTUAL TABLE words_counts USING fts5vocab(words, row)",
    "CREATE TABLE common_words (word TEXT PRIMARY KEY, items INTEGER NOT NULL) WITHOUT ROWID",
)

# ---------------------------------------------------------------------- triggers

_NAMED = ("source_id", "folder", "name", "taken_at", "camera")
"""Columns of items that are words of them; and the day of `mtime_ns`, without `taken_at`."""

_TESTED = ("source_id", "folder", "name", "kind", "size", "mtime_ns", *MEDIA_COLUMNS)
"""Columns of items that filters test."""

_DAY = 86_400_000_000_000  # nanoseconds

_RENAMED = " OR ".join(
    (
        *(f"OLD.{column} IS NOT NEW.{column}" for column in _NAMED),
        f"(NEW.taken_at IS NULL AND OLD.mtime_ns / {_DAY} <> NEW.mtime_ns / {_DAY})",
    )
)


_KNOWN = "<= (SELECT max(words_item, columns_item) FROM followers)"
"""Of an item's id: some follower knows the item. All that a new item costs is this comparison."""


_LOG = "INSERT OR REPLACE INTO changes (what, item_id)"

_TRIGGERS = (
    f"""
    CREATE TRIGGER items_update AFTER UPDATE OF {", ".join(_TESTED)} ON items
    WHEN NEW.id {_KNOWN} BEGIN
        {_LOG} VALUES (CASE WHEN {_RENAMED} THEN 'words' ELSE 'fields' END, NEW.id);
    END""",
    f"""
    CREATE TRIGGER items_delete AFTER DELETE ON items BEGIN
        DELETE FROM words WHERE rowid = OLD.id;
        DELETE FROM changes WHERE what = 'words' AND item_id = OLD.id AND vector_id IS NULL;
        {_LOG} SELECT 'fields', OLD.id WHERE OLD.id {_KNOWN};
    END""",  # noqa: S608 - constants
    f"""
    CREATE TRIGGER sources_move AFTER UPDATE OF path ON sources BEGIN
        {_LOG} VALUES ('fields', {EVERY_ITEM});
    END""",
    """
    CREATE TRIGGER vectors_delete AFTER DELETE ON vectors BEGIN
        INSERT INTO changes (what, item_id, vector_id, space_id, modality)
        VALUES ('vector', OLD.item_id, OLD.id, OLD.space_id, OLD.modality);
    END""",
    *(
        f"""
    CREATE TRIGGER {table}_{event.lower()} AFTER {event} ON {table}
    WHEN {row}.item_id {_KNOWN} BEGIN
        DELETE FROM changes WHERE what = 'words' AND item_id = {row}.item_id AND vector_id IS NULL;
        INSERT INTO changes (what, item_id) SELECT 'words', id FROM items WHERE id = {row}.item_id;
    END"""  # noqa: S608 - constants; an item that is being deleted is none any more; not OR REPLACE,
        # as the ON CONFLICT of an upsert holds for the statements of its triggers too
        for table in ("texts", "metadata", "tags")
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    ),
)


def create_words(connection: Connection) -> None:
    """Make the tables of the words."""
    for statement in _WORD_TABLES:
        connection.exec_driver_sql(statement)


def create_triggers(connection: Connection) -> None:
    """Make the triggers that log changes."""
    for statement in _TRIGGERS:
        connection.exec_driver_sql(statement)


def create_all(connection: Connection) -> None:
    """Make everything in an empty catalog."""
    tables.create_all(connection)
    create_words(connection)
    create_triggers(connection)
    connection.execute(
        followers.insert().values(words_item=0, words_change=0, columns_item=0, columns_change=0)
    )
