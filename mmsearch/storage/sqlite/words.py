"""The full-text index of the items: brought up to date, and searched by BM25."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from mmsearch.storage.lexical import query_terms
from mmsearch.storage.lexical.bm25 import ranking
from mmsearch.storage.lexical.languages import PREFIXES
from mmsearch.storage.sql.database import driver_of_connection
from mmsearch.storage.sql.documents import documents, is_outdated, put_tokenizer
from mmsearch.storage.sql.index_settings import put_setting
from mmsearch.storage.sql.schema import WORDS
from mmsearch.storage.sqlite.bm25 import LANGUAGE_PREFIXES, SqliteMatching
from mmsearch.storage.sqlite.change_log import LAST_CHANGE, drop_applied
from mmsearch.storage.sqlite.database import Database
from mmsearch.storage.store import WordStore
from mmsearch.types import Progress, Ranking
from mmsearch.vectors.id_set import IdSet

BATCH = 4000
"""Items that are indexed in one transaction; each leaves a segment for FTS5 to merge."""

PAGE = 200
"""Items whose texts are in memory at once."""

COUNTED_FROM = 1000
"""The counts of words in more items than this are stored."""

GROWTH = 1.2
"""Words are counted again once the number of items has grown or shrunk by this factor."""


class Words(WordStore):
    """The full-text index over texts, names and facts of the items."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self) -> int:
        with self._database.read() as connection:
            due = _ITEMS if is_outdated(connection) else _DUE
            return int(driver_of_connection(connection).execute(due).fetchone()[0])

    def refresh(self, at_most: int | None = None, progress: Progress | None = None) -> int:
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
        if done or self._has_changes_to_drop():
            with self._database.write() as connection:
                _refresh(connection, 0)
                drop_applied(connection)
                _count_words(connection)
        return done

    def _has_changes_to_drop(self) -> bool:
        with self._database.read() as connection:
            last = connection.exec_driver_sql(LAST_CHANGE).scalar_one()
            return bool(connection.exec_driver_sql(_POSITION).one().words_change < last)

    def search(self, query: str, k: int, allowed: IdSet | None = None) -> Ranking:
        terms = query_terms(query)
        if not terms or k < 1 or (allowed is not None and not len(allowed)):
            return []
        with self._database.read() as connection:
            matching = SqliteMatching(connection, k, allowed, self._database.found)
            return ranking(matching.scores, terms, k)

    def holding(self, query: str, ids: Sequence[int]) -> set[int]:
        terms = query_terms(query)
        if not terms or not len(ids):
            return set()
        with self._database.read() as connection:
            matching = SqliteMatching(connection, len(ids), None, self._database.found)
            return matching.holding(terms, sorted(ids))


_POSITION = "SELECT words_item, words_change FROM followers"

_CHANGED = f"""
    SELECT seq, item_id FROM changes
    WHERE seq > ? AND what = '{WORDS}' AND item_id <= ? ORDER BY seq LIMIT ?
"""  # noqa: S608 - a constant

_NEW = "SELECT id FROM items WHERE id > ? ORDER BY id LIMIT ?"

_SETTING = "SELECT value FROM settings WHERE key = ?"

_ITEMS = "SELECT count(*) FROM items"

_DUE = f"""
    SELECT (SELECT count(*) FROM changes WHERE seq > words_change AND what = '{WORDS}'
            AND item_id <= words_item)
         + (SELECT count(*) FROM items WHERE id > words_item)
    FROM followers
"""  # noqa: S608 - constants


def _refresh(connection: Connection, limit: int) -> int:
    """Index at most so many changed and new items; returns how many they were."""
    run = connection.exec_driver_sql
    if is_outdated(connection):
        run("UPDATE followers SET words_item = 0")
        put_tokenizer(connection)
    last, seq = run(_POSITION).one()
    changed = run(_CHANGED, (seq, last, limit + 1)).all()
    seq = changed[limit - 1].seq if len(changed) > limit > 0 else seq
    if len(changed) <= limit:
        seq = run(LAST_CHANGE).scalar_one()
    changed = changed[:limit]
    new = [row.id for row in run(_NEW, (last, limit - len(changed)))]
    ids = [*(row.item_id for row in changed), *new]
    prefixes = set("".join(run(_SETTING, (LANGUAGE_PREFIXES,)).scalars()))
    for start in range(0, len(ids), PAGE):
        rows = [
            (id_, document.texts, document.names, document.facts)
            for id_, document in documents(connection, ids[start : start + PAGE])
        ]
        insert = "INSERT OR REPLACE INTO words(rowid, texts, names, facts) VALUES (?, ?, ?, ?)"
        if rows:
            run(insert, rows)
        new_prefixes = {
            prefix
            for prefix in PREFIXES - prefixes
            if any(prefix in field for _, *fields in rows for field in fields)
        }
        if new_prefixes:
            prefixes |= new_prefixes
            put_setting(connection, LANGUAGE_PREFIXES, "".join(sorted(prefixes)))
    moved = (max([last, *new]), seq)
    run("UPDATE followers SET words_item = ?, words_change = ?", moved)
    return len(ids)


def _count_words(connection: Connection) -> None:
    """Store how many items hold each common word, and, as the count of "", how many there are."""
    run = connection.exec_driver_sql
    there = run(_ITEMS).scalar_one()
    kept = "SELECT coalesce(max(items), 0) FROM common_words WHERE word = ''"
    before = run(kept).scalar_one()
    if there <= COUNTED_FROM or before / GROWTH <= there <= before * GROWTH:
        return
    run("DELETE FROM common_words")
    run("INSERT INTO common_words VALUES ('', ?)", (there,))
    run(
        "INSERT INTO common_words SELECT term, doc FROM words_counts WHERE doc > ?",
        (COUNTED_FROM,),
    )
