"""The tables that words are searched in, and what keeps them in step with the catalog.

`words` has a row an item, whose rowid is the item's id: its tokens, as `mmsearch.lexical` makes
them. Whatever changes an item's words files its id under `unworded`, by triggers, so that no
writer has to think of it; its row is then made anew by `mmsearch.catalog.words`. What is deleted
is gone at once.
"""

from __future__ import annotations

from sqlalchemy import Connection

WEIGHTS = (1.0, 0.7, 0.4)
"""How much a word counts that stands in an item's texts, in its names, among the facts of it."""

_DAY = 86_400_000_000_000  # nanoseconds

_TABLES = (
    # the tokens come with spaces between and hold no other ASCII sign, so "ascii" only splits them
    "CREATE VIRTUAL TABLE words USING fts5(texts, names, facts, tokenize = 'ascii')",
    # how many items hold each word; counting takes 30 ns an item, so for common words it is kept
    "CREATE VIRTUAL TABLE words_counts USING fts5vocab(words, row)",
    "CREATE TABLE common_words (word TEXT PRIMARY KEY, items INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE unworded (item_id INTEGER PRIMARY KEY)",
)


def _due(item_id: str) -> str:
    # an item that is being deleted takes its texts with it, and must not be filed anew
    return f"INSERT OR IGNORE INTO unworded SELECT id FROM items WHERE id = {item_id}"  # noqa: S608


def _trigger(name: str, event: str, *does: str) -> str:
    return f"CREATE TRIGGER {name} AFTER {event} BEGIN {'; '.join(does)}; END"


_CHANGED = " OR ".join(
    f"OLD.{column} IS NOT NEW.{column}"
    for column in ("source_id", "folder", "name", "taken_at", "camera")
)
_REDATED = f"NEW.taken_at IS NULL AND OLD.mtime_ns / {_DAY} <> NEW.mtime_ns / {_DAY}"

_TRIGGERS = (
    _trigger("words_of_new_item", "INSERT ON items", _due("NEW.id")),
    _trigger(
        "words_of_item",
        "UPDATE OF source_id, folder, name, taken_at, camera, mtime_ns ON items "
        f"WHEN {_CHANGED} OR ({_REDATED})",
        _due("NEW.id"),
    ),
    _trigger(
        "words_of_gone_item",
        "DELETE ON items",
        "DELETE FROM words WHERE rowid = OLD.id",
        "DELETE FROM unworded WHERE item_id = OLD.id",
    ),
    *(
        _trigger(f"words_of_{what}_{table}", f"{event} ON {table}", _due(f"{row}.item_id"))
        for table in ("texts", "attributes", "tags")
        for what, event, row in (
            ("new", "INSERT", "NEW"),
            ("other", "UPDATE", "NEW"),
            ("gone", "DELETE", "OLD"),
        )
    ),
)


def create_words(connection: Connection) -> None:
    """Make the tables and triggers; every item there is has its words still to be read."""
    for statement in (*_TABLES, *_TRIGGERS, "INSERT INTO unworded SELECT id FROM items"):
        connection.exec_driver_sql(statement)
