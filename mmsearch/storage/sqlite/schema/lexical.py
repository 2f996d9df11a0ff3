"""The tables that words are searched in, and what keeps them in step with the catalog.

`words` has a row for each item, whose rowid is the item's id: its tokens, made by
`mmsearch.storage.lexical`. `followed` says up to which item they were made; a trigger files the id
of an item whose words have changed since under `unworded`, and `mmsearch.storage.sqlite.words`
writes its row again. Deleted items leave at once.
"""

from __future__ import annotations

from sqlalchemy import Connection

WEIGHTS = (1.0, 0.7, 0.4)
"""How much a word counts that stands in an item's texts, in its names, among the facts of it."""

_TABLES = (
    # the tokens come with spaces between and hold no other ASCII sign, so "ascii" only splits them
    "CREATE VIRTUAL TABLE words USING fts5(texts, names, facts, tokenize = 'ascii')",
    # how many items hold each word; counting takes 30 ns an item, so for common words it is kept
    "CREATE VIRTUAL TABLE words_counts USING fts5vocab(words, row)",
    "CREATE TABLE common_words (word TEXT PRIMARY KEY, items INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE unworded (item_id INTEGER PRIMARY KEY)",
)


def create_words(connection: Connection) -> None:
    """Make the tables; every item there is has its words still to be read."""
    for statement in (*_TABLES, "INSERT INTO unworded SELECT id FROM items"):
        connection.exec_driver_sql(statement)
