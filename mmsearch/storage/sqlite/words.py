"""The words of the items: kept in step with the catalog, and ranked by BM25."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select
from sqlalchemy import Table as SqlTable
from sqlalchemy import text as sql

from mmsearch.storage.lexical import Document, date_words, query_terms, split_terms
from mmsearch.storage.sqlite.bm25 import Matching
from mmsearch.storage.sqlite.database import Database, chunks
from mmsearch.storage.sqlite.schema import attributes, items, sources, tags, texts
from mmsearch.types import Progress, Ranking
from mmsearch.vectors.id_set import IdSet

BATCH = 4000
"""Items whose words are written in one transaction; each leaves a part to be merged later."""

PAGE = 200
"""Items whose texts are in memory at once."""

COUNTED_FROM = 1000
"""Words in more items than this have their count kept."""

GROWTH = 1.2
"""Counts are made anew when there are this many times as many items, or as few."""


class Words:
    """The full-text index over texts, names and facts of the items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self) -> int:
        """How many items have words that a search by words does not know yet."""
        with self._database.read() as connection:
            return _number(connection, _DUE)

    def refresh(self, at_most: int | None = None, progress: Progress | None = None) -> int:
        """Bring the words of changed items up to date; returns of how many it did.

        Args:
            at_most: Leave the rest for later, so that a search need not wait long.
            progress: Told how many are done, after each batch.
        """
        due = self.due()
        due = due if at_most is None else min(due, at_most)
        done = 0
        while done < due:
            with self._database.write() as connection:
                some = _refresh(connection, min(BATCH, due - done))
            done += some
            if progress is not None:
                progress(done, due)
            if not some:
                break  # another process has done them
        if done:
            with self._database.write() as connection:
                _count_words(connection)
        return done

    def search(self, query: str, k: int, allowed: IdSet | None = None) -> Ranking:
        """The k best items for a query's words, by BM25; fewer if fewer hold any of them.

        Args:
            query: Any text; only "quotes" have a meaning in it.
            k: How many items.
            allowed: Only these items (any when None).

        Items that hold every word come first where so many items hold the words that not all of
        them can be looked at; `mmsearch.storage.sqlite.bm25` says what is.
        """
        terms = query_terms(query)
        if not terms or k < 1 or (allowed is not None and not len(allowed)):
            return []
        with self._database.read() as connection:
            matching = Matching(connection, k, allowed)
            scores = matching.scores(terms)
            parts = split_terms(terms)
            if len(scores) < k and parts != terms:
                scores = matching.scores(parts) | scores
        best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))
        return best[:k]

    def holding(self, query: str, ids: Sequence[int]) -> set[int]:
        """Those of some items that hold every word of a query."""
        match = " AND ".join(term.match for term in query_terms(query))
        if not match:
            return set()
        found: set[int] = set()
        with self._database.read() as connection:
            for part in chunks(ids):
                rows = connection.execute(_HOLDING, {"match": match, "ids": list(part)})
                found.update(row[0] for row in rows)
        return found


_HOLDING = sql("SELECT rowid FROM words WHERE words MATCH :match AND rowid IN :ids").bindparams(
    bindparam("ids", expanding=True)
)

_CHANGED = "SELECT item_id FROM unworded ORDER BY item_id LIMIT ?"

_NEW = "SELECT id FROM items WHERE id > (SELECT words FROM followed) ORDER BY id LIMIT ?"

_DUE = """
    SELECT (SELECT count(*) FROM unworded)
         + (SELECT count(*) FROM items WHERE id > (SELECT words FROM followed))
"""


def _number(connection: Connection, statement: str) -> int:
    return int(connection.exec_driver_sql(statement).scalar_one())


def _refresh(connection: Connection, limit: int) -> int:
    changed = _ids(connection, _CHANGED, limit)
    new = _ids(connection, _NEW, limit - len(changed))
    ids = [*changed, *new]
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        rows = [
            (id_, document.texts, document.names, document.facts)
            for id_, document in _documents(connection, page)
        ]
        connection.exec_driver_sql(
            "INSERT OR REPLACE INTO words(rowid, texts, names, facts) VALUES (?, ?, ?, ?)", rows
        )
    if changed:
        connection.exec_driver_sql("DELETE FROM unworded WHERE item_id <= ?", (changed[-1],))
    if new:
        connection.exec_driver_sql("UPDATE followed SET words = ?", (new[-1],))
    return len(ids)


def _ids(connection: Connection, statement: str, limit: int) -> list[int]:
    return [row[0] for row in connection.exec_driver_sql(statement, (limit,))]


# Statements are made once, as in mmsearch.storage.sqlite.records.
_OF: Any = bindparam("ids", expanding=True)


def _column_of(table: SqlTable, *order: str) -> Any:
    chosen = select(table.c.item_id, table.c[order[-1]]).where(table.c.item_id.in_(_OF))
    return chosen.order_by(table.c.item_id, table.c[order[0]])


_TEXTS = _column_of(texts, "position", "text")

_FACTS = (_column_of(attributes, "key", "text"), _column_of(tags, "tag"))

_c = items.c

_ITEMS = (
    select(_c.id, sources.c.path, _c.folder, _c.name, _c.camera, _c.taken_at, _c.mtime_ns)
    .join(sources)
    .where(_c.id.in_(_OF))
)


def _documents(connection: Connection, ids: Sequence[int]) -> Iterator[tuple[int, Document]]:
    given = {"ids": ids}
    said: dict[int, list[str]] = defaultdict(list)
    for item_id, text in connection.execute(_TEXTS, given):
        said[item_id].append(text)
    facts: dict[int, list[str]] = defaultdict(list)
    for statement in _FACTS:
        for item_id, text in connection.execute(statement, given):
            facts[item_id].append(text)
    for id_, root, folder, name, camera, taken, mtime_ns in connection.execute(_ITEMS, given):
        names = [name, *_folders(root, folder)]
        known = [camera or "", date_words(taken or _day(mtime_ns)), *facts[id_]]
        yield id_, Document.of(said[id_], names, known)


def _folders(root: str, folder: str) -> list[str]:
    """The names of the folders a file is in, from the last of its source's on."""
    return [os.path.basename(root), *(name for name in folder.split(os.sep) if name)]


def _day(mtime_ns: int) -> str:
    """The day of a file's last change, in UTC, as it is shown."""
    with suppress(ValueError, OverflowError, OSError):  # a broken clock's
        if not mtime_ns:  # it has none, as what was imported
            return ""
        return datetime.fromtimestamp(mtime_ns / 1e9, UTC).date().isoformat()
    return ""


def _count_words(connection: Connection) -> None:
    """Keep how many items hold each common word, and, as the count of "", how many there are."""
    there = _number(connection, "SELECT count(*) FROM items")
    before = _number(connection, "SELECT coalesce(max(items), 0) FROM common_words WHERE word = ''")
    if there <= COUNTED_FROM or before / GROWTH <= there <= before * GROWTH:
        return
    connection.exec_driver_sql("DELETE FROM common_words")
    connection.exec_driver_sql("INSERT INTO common_words VALUES ('', ?)", (there,))
    connection.exec_driver_sql(
        "INSERT INTO common_words SELECT term, doc FROM words_counts WHERE doc > ?",
        (COUNTED_FROM,),
    )
